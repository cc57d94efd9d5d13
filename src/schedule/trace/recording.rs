//! A trace as something that can be simulated.

use super::replay::{entries, header};
use super::{Header, Line, Setup, Told, TraceError};
use crate::frame::Nanos;
use std::collections::BTreeMap;

/// A stream as it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedStream {
    /// Its id.
    pub name: String,
    /// Its priority.
    pub priority: i32,
    /// Whether it was taken.
    pub admitted: bool,
    /// Captured to deadline.
    pub deadline: Option<Nanos>,
    /// Frames that may wait in front of a stage.
    pub capacity: usize,
    /// The stages it passes, one list for each branch.
    pub branches: Vec<Vec<usize>>,
    /// When its frames were captured and when they were ready, from the start of the recording.
    pub arrivals: Vec<(Nanos, Nanos)>,
}

/// A trace as something that can be simulated: what arrived, and what batches really took.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Its first line.
    pub header: Header,
    /// The planner.
    pub setup: Setup,
    /// The streams, in the order in which they were opened.
    pub streams: Vec<RecordedStream>,
    /// By site: when batches started, and how many times as long as by the model they took.
    pub spans: Vec<Vec<(Nanos, f64)>>,
    /// Mean preprocess of a frame, by site.
    pub prepare: Vec<Nanos>,
    /// Mean time from a stage to the sinks, over those behind which nothing else plans.
    pub tail: Nanos,
    /// How long it is.
    pub length: Nanos,
}

impl Recording {
    /// Reads a trace with one planner.
    ///
    /// # Errors
    /// What cannot be read, a hole, or more than one planner.
    pub fn read(mut lines: impl Iterator<Item = String>) -> Result<Self, TraceError> {
        let header = header(&mut lines)?;
        let mut entries = entries(lines);
        let setup = match entries.next().transpose()? {
            Some((_, Line::Told { told: Told::Made(setup), .. })) => *setup,
            _ => {
                return Err(TraceError::Form { line: 2, what: "no planner is made here: nothing was recorded".into() });
            }
        };
        let mut reading = Reading::new(setup);
        for entry in entries {
            let (line, entry) = entry?;
            match entry {
                Line::Lost { lost } => return Err(TraceError::Hole { line, lost }),
                Line::Told { told: Told::Made(_), .. } => {
                    let what = "a second planner: policies are compared on one device, and without a reload".into();
                    return Err(TraceError::Form { line, what });
                }
                Line::Told { told, .. } => reading.take(told),
            }
        }
        let Reading { setup, streams, spans, prepare, tail, last, first } = reading;
        let mean = |(sum, n): (Nanos, u64)| sum / n.max(1);
        Ok(Self {
            header,
            streams: streams.into_values().map(|s| s.1).collect(),
            spans,
            prepare: prepare.into_iter().map(mean).collect(),
            tail: mean(tail),
            length: last.saturating_sub(first.unwrap_or(last)) + 1,
            setup,
        })
    }
}

struct Reading {
    setup: Setup,
    /// By index: the place in the order of opening, and the stream. Keyed by that place.
    streams: BTreeMap<usize, (u32, RecordedStream)>,
    spans: Vec<Vec<(Nanos, f64)>>,
    prepare: Vec<(Nanos, u64)>,
    tail: (Nanos, u64),
    first: Option<Nanos>,
    last: Nanos,
}

impl Reading {
    fn new(setup: Setup) -> Self {
        Self {
            streams: BTreeMap::new(),
            spans: vec![Vec::new(); setup.sites.len()],
            prepare: vec![(0, 0); setup.sites.len()],
            setup,
            tail: (0, 0),
            first: None,
            last: 0,
        }
    }

    fn stream(&mut self, index: u32) -> Option<&mut RecordedStream> {
        self.streams.values_mut().rev().find(|s| s.0 == index).map(|s| &mut s.1)
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Open { name, lane } => {
                if self.stream(lane.stream).is_none() {
                    let place = self.streams.len();
                    let stream = RecordedStream {
                        name,
                        priority: lane.priority,
                        admitted: true,
                        deadline: lane.deadline,
                        capacity: lane.capacity,
                        branches: Vec::new(),
                        arrivals: Vec::new(),
                    };
                    self.streams.insert(place, (lane.stream, stream));
                }
            }
            Told::Arrive { stream, site, captured, ready, rung, .. } => {
                let first = *self.first.get_or_insert(captured);
                self.last = self.last.max(ready);
                let Some(stream) = self.stream(stream) else { return };
                let known = stream.branches.iter().flatten().any(|&s| s == site);
                match (rung, known) {
                    (None, false) => stream.branches.push(vec![site]),
                    // Behind which of the branches it comes is not written down; there is mostly one.
                    (Some(_), false) => {
                        if let Some(branch) = stream.branches.first_mut() {
                            branch.push(site);
                        }
                    }
                    _ => {}
                }
                if stream.branches.first().and_then(|b| b.first()) == Some(&site) {
                    stream.arrivals.push((captured.saturating_sub(first), ready.saturating_sub(first)));
                }
            }
            Told::Ran(site, variant, places, started, span) => {
                let variant = self.setup.sites.get(site).and_then(|s| s.variants.get(variant));
                // What runs is a batch of a warmed size.
                let model = variant.map_or(0, |v| v.cost.alpha() + v.cost.beta() * v.warmed(places) as Nanos);
                if let (Some(spans), Some(first)) = (self.spans.get_mut(site), self.first)
                    && model > 0
                {
                    spans.push((started.saturating_sub(first), span as f64 / model as f64));
                }
            }
            Told::Prepared(site, _, span) => {
                if let Some(sum) = self.prepare.get_mut(site) {
                    (sum.0, sum.1) = (sum.0 + span, sum.1 + 1);
                }
            }
            Told::Delivered(_, _, _, tail, _) => (self.tail.0, self.tail.1) = (self.tail.0 + tail, self.tail.1 + 1),
            Told::Admit(stream, admitted) => {
                if let Some(stream) = self.stream(stream) {
                    stream.admitted = admitted;
                }
            }
            Told::Opens(rung, loaded) => {
                for (site, variant, measured) in loaded {
                    let known = self.setup.sites.get_mut(site).and_then(|s| s.variants.get_mut(variant));
                    known.into_iter().for_each(|v| *v = measured.clone());
                }
                self.setup.shut.retain(|&r| r != rung);
            }
            Told::Made(_)
            | Told::GivesUp(_)
            | Told::Ceiling(..)
            | Told::End(..)
            | Told::CameThrough(..)
            | Told::Abandon(_)
            | Told::Plan(_) => {}
        }
    }
}

//! What a planner was told and what it decided: written down while a pipeline runs, and told again later, when the same
//! decisions must come out.
//!
//! A trace is a text of JSON lines. The first is a [`Header`]; each other is one thing that one of the process's planners
//! was told ([`Told`]), with what it answered. Times are whole nanoseconds and fractions are written as the bits they
//! consist of, so that everything comes back exactly as it was. [`Taped`] writes it, [`replay`] tells it again, and
//! [`Recording`] makes streams and batches of it that other policies can be tried on.

use super::{Bypass, Chosen, Lane, Next, Plan, Planner, Policy, Site, Waiting, Why};
use crate::frame::{Frame, Nanos, ShedReason};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Version of the form.
pub const VERSION: u32 = 1;

/// What frames are called in a trace.
pub trait Item {
    /// Its stream's index and its number there.
    fn id(&self) -> (u32, u64);
}

impl Item for Frame {
    fn id(&self) -> (u32, u64) {
        (self.stream().index, self.ticket.seq)
    }
}

impl Item for (u32, u64) {
    fn id(&self) -> (u32, u64) {
        *self
    }
}

/// Fractions as their bits.
pub(super) mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(v: &f64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(v.to_bits())
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        u64::deserialize(d).map(f64::from_bits)
    }
}

/// The first line of a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the form: [`VERSION`].
    pub framegate_trace: u32,
    /// framegate's version: another one may decide otherwise.
    pub version: String,
    /// The pipeline's name.
    pub pipeline: String,
}

impl Header {
    /// That of a trace of this pipeline, written now.
    pub fn new(pipeline: &str) -> Self {
        Self { framegate_trace: VERSION, version: env!("CARGO_PKG_VERSION").into(), pipeline: pipeline.into() }
    }
}

/// What a planner is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The device that it plans for.
    pub device: String,
    /// Batches that run at once.
    pub slots: usize,
    /// How it schedules.
    pub policy: Policy,
    /// Its stages' ids, in the order of `sites`.
    pub stages: Vec<String>,
    /// The rungs' names, best first.
    pub rungs: Vec<String>,
    /// Its stages, with what they cost.
    pub sites: Vec<Site>,
}

impl Setup {
    /// The planner.
    pub fn planner<T>(&self) -> Planner<T> {
        Planner::new(self.sites.clone(), self.slots).with_policy(self.policy)
    }
}

/// A frame of a batch: stream, number, rung, rescued, places.
pub type Ran = (u32, u64, usize, bool, usize);
/// A frame that went past its stage: site, stream, number, rung, why.
pub type Went = (usize, u32, u64, usize, Why);

fn one() -> usize {
    1
}

fn is_one(places: &usize) -> bool {
    *places == 1
}

/// One thing that a planner was told, with what it answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It was made.
    Made(Box<Setup>),
    /// A stream may come to a stage.
    Open {
        /// The stream's id.
        name: String,
        /// What the planner was told.
        lane: Lane,
    },
    /// A stream is taken, or refused.
    Admit(u32, bool),
    /// A stream's ceiling was set.
    Ceiling(u32, usize),
    /// A stream has ended at a stage: stream, site.
    End(u32, usize),
    /// A frame arrived.
    Arrive {
        /// Its stream.
        stream: u32,
        /// The stage.
        site: usize,
        /// When.
        now: Nanos,
        /// Its number.
        seq: u64,
        /// When it was captured.
        captured: Nanos,
        /// When it could have started.
        ready: Nanos,
        /// When it has to be delivered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Nanos>,
        /// The rung that an earlier stage gave it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rung: Option<usize>,
        /// Places that it takes.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        places: usize,
        /// The number of the frame that did not fit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        out: Option<u64>,
    },
    /// A batch took: site, variant, places, started, span.
    Ran(usize, usize, usize, Nanos, Nanos),
    /// The preprocess of a frame took: site, variant, span.
    Prepared(usize, usize, Nanos),
    /// A frame was delivered: site, stream, at, tail, late.
    Delivered(usize, u32, Nanos, Nanos, Nanos),
    /// A frame that had also come through this site was delivered: site, at, tail.
    CameThrough(usize, Nanos, Nanos),
    /// Everything that waited was given up: so many frames.
    Abandon(usize),
    /// It was asked what to do next.
    Plan(Box<Decision>),
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When it was asked.
    pub now: Nanos,
    /// When the next slot is free.
    pub free_at: Nanos,
    /// What to do.
    pub next: Next,
    /// Frames that go past their stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass: Vec<Went>,
    /// The batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<Ran>,
    /// Frames that go past their stage behind the batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follow: Vec<Went>,
    /// Given up: stream, number, reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shed: Vec<(u32, u64, String)>,
}

impl Decision {
    fn of<T: Item>(now: Nanos, free_at: Nanos, next: Next, plan: &Plan<T>) -> Self {
        let ran = |c: &Chosen<T>| {
            let (stream, seq) = c.item.id();
            (stream, seq, c.rung, c.rescued, c.places)
        };
        let went = |b: &Bypass<T>| {
            let (stream, seq) = b.item.id();
            (b.site, stream, seq, b.rung, b.why)
        };
        let shed = |(item, reason): &(T, ShedReason)| {
            let (stream, seq) = item.id();
            (stream, seq, reason.name().to_owned())
        };
        Self {
            now,
            free_at,
            next,
            pass: plan.pass.iter().map(went).collect(),
            run: plan.run.iter().map(ran).collect(),
            follow: plan.follow.iter().map(went).collect(),
            shed: plan.shed.iter().map(shed).collect(),
        }
    }
}

/// A line behind the header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// What a planner was told.
    Told {
        /// The planner's number in the process.
        planner: u32,
        /// What it was told.
        told: Told,
    },
    /// So many lines were lost here: the writer did not keep up.
    Lost {
        /// How many.
        lost: u64,
    },
}

/// Takes what a planner is told.
pub type Tape = Box<dyn FnMut(Told) + Send>;

/// A planner that can be listened to. Without a tape it costs nothing: no copy, no allocation.
pub struct Taped<T> {
    planner: Planner<T>,
    tape: Option<Tape>,
}

impl<T> std::ops::Deref for Taped<T> {
    type Target = Planner<T>;

    fn deref(&self) -> &Planner<T> {
        &self.planner
    }
}

impl<T: Item> Taped<T> {
    /// Makes the planner, and puts it on tape where there is one.
    pub fn new(setup: Setup, mut tape: Option<Tape>) -> Self {
        let planner = setup.planner();
        if let Some(tape) = &mut tape {
            tape(Told::Made(Box::new(setup)));
        }
        Self { planner, tape }
    }

    fn tell(&mut self, told: impl FnOnce() -> Told) {
        if let Some(tape) = &mut self.tape {
            tape(told());
        }
    }

    /// [`Planner::open`], of a stream with this id.
    pub fn open(&mut self, name: &str, lane: Lane) {
        self.tell(|| Told::Open { name: name.to_owned(), lane });
        self.planner.open(lane);
    }

    /// [`Planner::admit`].
    pub fn admit(&mut self, stream: u32, admitted: bool) {
        self.tell(|| Told::Admit(stream, admitted));
        self.planner.admit(stream, admitted);
    }

    /// [`Planner::set_ceiling`].
    pub fn set_ceiling(&mut self, stream: u32, rung: usize) {
        self.tell(|| Told::Ceiling(stream, rung));
        self.planner.set_ceiling(stream, rung);
    }

    /// [`Planner::end`].
    pub fn end(&mut self, stream: u32, site: usize) {
        self.tell(|| Told::End(stream, site));
        self.planner.end(stream, site);
    }

    /// [`Planner::arrive`].
    pub fn arrive(&mut self, stream: u32, site: usize, now: Nanos, waiting: Waiting, item: T) -> Option<T> {
        let out = self.planner.arrive(stream, site, now, waiting, item);
        self.tell(|| Told::Arrive {
            stream,
            site,
            now,
            seq: waiting.seq,
            captured: waiting.captured,
            ready: waiting.ready,
            deadline: waiting.deadline,
            rung: waiting.rung,
            places: waiting.places,
            out: out.as_ref().map(|item| item.id().1),
        });
        out
    }

    /// [`Planner::ran`].
    pub fn ran(&mut self, site: usize, variant: usize, places: usize, started: Nanos, span: Nanos) {
        self.tell(|| Told::Ran(site, variant, places, started, span));
        self.planner.ran(site, variant, places, started, span);
    }

    /// [`Planner::prepared`].
    pub fn prepared(&mut self, site: usize, variant: usize, span: Nanos) {
        self.tell(|| Told::Prepared(site, variant, span));
        self.planner.prepared(site, variant, span);
    }

    /// [`Planner::delivered`].
    pub fn delivered(&mut self, site: usize, stream: u32, at: Nanos, tail: Nanos, late: Nanos) {
        self.tell(|| Told::Delivered(site, stream, at, tail, late));
        self.planner.delivered(site, stream, at, tail, late);
    }

    /// [`Planner::came_through`].
    pub fn came_through(&mut self, site: usize, at: Nanos, tail: Nanos) {
        self.tell(|| Told::CameThrough(site, at, tail));
        self.planner.came_through(site, at, tail);
    }

    /// [`Planner::abandon`].
    pub fn abandon(&mut self) -> Vec<T> {
        let gone = self.planner.abandon();
        self.tell(|| Told::Abandon(gone.len()));
        gone
    }

    /// [`Planner::plan`].
    pub fn plan(&mut self, now: Nanos, free_at: Nanos, plan: &mut Plan<T>) -> Next {
        let next = self.planner.plan(now, free_at, plan);
        self.tell(|| Told::Plan(Box::new(Decision::of(now, free_at, next, plan))));
        next
    }
}

/// Why a trace could not be told again, and where.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TraceError {
    /// It is no trace, or not one that this version reads.
    #[error("line {line}: {what}")]
    Form {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Lines are missing: what follows cannot be compared.
    #[error("line {line}: {lost} lines are missing here: the disk did not keep up while the trace was written")]
    Hole {
        /// The line, from 1.
        line: usize,
        /// How many.
        lost: u64,
    },
    /// The planner decides otherwise now.
    #[error("line {line}: the decision differs\n  recorded {recorded}\n  now      {now}")]
    Differs {
        /// The line, from 1.
        line: usize,
        /// What the trace says.
        recorded: String,
        /// What comes out now.
        now: String,
    },
}

/// What was told again without a difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Lines, the header included.
    pub lines: usize,
    /// Planners.
    pub planners: usize,
    /// Frames that arrived.
    pub arrivals: u64,
    /// Questions answered.
    pub decisions: u64,
}

/// Reads a trace's first line.
fn header(lines: &mut impl Iterator<Item = String>) -> Result<Header, TraceError> {
    let form = |what: String| TraceError::Form { line: 1, what };
    let first = lines.next().ok_or_else(|| form("the file is empty: this is no trace".into()))?;
    let header: Header = serde_json::from_str(&first)
        .map_err(|_| form("this is no trace: it does not begin with {\"framegate_trace\":1,…}".into()))?;
    if header.framegate_trace != VERSION {
        let what = format!("a trace of form {}; this version reads form {VERSION}", header.framegate_trace);
        return Err(form(what));
    }
    Ok(header)
}

/// Reads the lines behind the first, with their numbers. Blank ones are left out.
fn entries(lines: impl Iterator<Item = String>) -> impl Iterator<Item = Result<(usize, Line), TraceError>> {
    (2..).zip(lines).filter(|(_, text)| !text.trim().is_empty()).map(|(line, text)| {
        let read = serde_json::from_str(&text);
        read.map(|entry| (line, entry)).map_err(|e| TraceError::Form { line, what: format!("cannot be read: {e}") })
    })
}

fn shown(value: &impl Serialize) -> String {
    // What has been read from JSON can be written as it.
    serde_json::to_string(value).unwrap_or_default()
}

/// Tells a trace again, and compares every decision with the recorded one.
///
/// # Errors
/// The first line that cannot be read, at which lines are missing, or that differs.
pub fn replay(mut lines: impl Iterator<Item = String>) -> Result<Replayed, TraceError> {
    header(&mut lines)?;
    let mut planners: BTreeMap<u32, Planner<(u32, u64)>> = BTreeMap::new();
    let mut done = Replayed { lines: 1, ..Replayed::default() };
    let mut plan = Plan::default();
    for entry in entries(lines) {
        let (line, entry) = entry?;
        done.lines += 1;
        let (number, told) = match entry {
            Line::Told { planner, told } => (planner, told),
            Line::Lost { lost } => return Err(TraceError::Hole { line, lost }),
        };
        if let Told::Made(setup) = told {
            planners.insert(number, setup.planner());
            done.planners += 1;
            continue;
        }
        let Some(planner) = planners.get_mut(&number) else {
            return Err(TraceError::Form { line, what: format!("planner {number} has not been made") });
        };
        let differs = |recorded: &dyn fmt::Display, now: &dyn fmt::Display| TraceError::Differs {
            line,
            recorded: recorded.to_string(),
            now: now.to_string(),
        };
        match told {
            Told::Made(_) => {}
            Told::Open { lane, .. } => planner.open(lane),
            Told::Admit(stream, admitted) => planner.admit(stream, admitted),
            Told::Ceiling(stream, rung) => planner.set_ceiling(stream, rung),
            Told::End(stream, site) => planner.end(stream, site),
            Told::Arrive { stream, site, now, seq, captured, ready, deadline, rung, places, out } => {
                done.arrivals += 1;
                let waiting = Waiting { seq, captured, ready, deadline, rung, places };
                let gone = planner.arrive(stream, site, now, waiting, (stream, seq)).map(|(_, seq)| seq);
                if gone != out {
                    let frame = |seq: Option<u64>| {
                        seq.map_or("no frame gives way".to_owned(), |s| {
                            format!("frame {s} of stream {stream} gives way")
                        })
                    };
                    return Err(differs(&frame(out), &frame(gone)));
                }
            }
            Told::Ran(site, variant, places, started, span) => planner.ran(site, variant, places, started, span),
            Told::Prepared(site, variant, span) => planner.prepared(site, variant, span),
            Told::Delivered(site, stream, at, tail, late) => planner.delivered(site, stream, at, tail, late),
            Told::CameThrough(site, at, tail) => planner.came_through(site, at, tail),
            Told::Abandon(frames) => {
                let gone = planner.abandon().len();
                if gone != frames {
                    return Err(differs(&format!("{frames} frames given up"), &format!("{gone} frames given up")));
                }
            }
            Told::Plan(recorded) => {
                done.decisions += 1;
                plan.clear();
                let next = planner.plan(recorded.now, recorded.free_at, &mut plan);
                let now = Decision::of(recorded.now, recorded.free_at, next, &plan);
                if now != *recorded {
                    return Err(differs(&shown(&recorded), &shown(&now)));
                }
            }
        }
    }
    Ok(done)
}

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
        let mut reading = Reading::new(&setup);
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
        let Reading { streams, spans, prepare, tail, last, first, .. } = reading;
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

struct Reading<'s> {
    setup: &'s Setup,
    /// By index: the place in the order of opening, and the stream. Keyed by that place.
    streams: BTreeMap<usize, (u32, RecordedStream)>,
    spans: Vec<Vec<(Nanos, f64)>>,
    prepare: Vec<(Nanos, u64)>,
    tail: (Nanos, u64),
    first: Option<Nanos>,
    last: Nanos,
}

impl<'s> Reading<'s> {
    fn new(setup: &'s Setup) -> Self {
        Self {
            setup,
            streams: BTreeMap::new(),
            spans: vec![Vec::new(); setup.sites.len()],
            prepare: vec![(0, 0); setup.sites.len()],
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
            Told::Made(_)
            | Told::Ceiling(..)
            | Told::End(..)
            | Told::CameThrough(..)
            | Told::Abandon(_)
            | Told::Plan(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::MILLI;
    use crate::schedule::{Cost, RungPlan, Variant};
    use parking_lot::Mutex;
    use std::sync::Arc;

    fn setup() -> Setup {
        let variant = |each| Variant { cost: Cost::of(MILLI / 3, each), batch_sizes: vec![1, 2, 4] };
        let mut site = Site::plain(Cost::of(0, 1), vec![1]);
        site.variants = vec![variant(4_700_001), variant(2_300_003)];
        site.variants[0].cost.prepare.observe(310_007);
        site.tail.observe(700_011);
        site.rungs = vec![RungPlan { variant: Some(0), every: 1 }, RungPlan { variant: Some(1), every: 2 }];
        let text = |s: &str| s.to_owned();
        Setup {
            device: text("cpu"),
            slots: 1,
            policy: Policy::Framegate,
            stages: vec![text("detect")],
            rungs: vec![text("full"), text("lean")],
            sites: vec![site],
        }
    }

    /// A taped planner in an overloaded small world: as many lines as there are in half a minute.
    fn record() -> Vec<String> {
        let told = Arc::new(Mutex::new(vec![serde_json::to_string(&Header::new("p")).unwrap()]));
        let into = told.clone();
        let tape: Tape = Box::new(move |told| {
            into.lock().push(serde_json::to_string(&Line::Told { planner: 0, told }).unwrap());
        });
        let mut planner = Taped::<(u32, u64)>::new(setup(), Some(tape));
        let mut rng = fastrand::Rng::with_seed(7);
        for stream in 0..9 {
            let lane = Lane {
                stream,
                site: 0,
                priority: 0,
                deadline: Some(33 * MILLI),
                by_count: false,
                capacity: 4,
                entry: true,
            };
            planner.open(&format!("cam{stream}"), lane);
        }
        planner.admit(8, false);
        planner.set_ceiling(7, 1);
        let (mut plan, mut busy_until, mut running) = (Plan::default(), 0, None::<(usize, usize, Nanos, u64)>);
        for step in 0..20_000u64 {
            let now = 5_000_000_000 + step * MILLI / 2;
            if step % 66 < 9 {
                let (stream, seq) = ((step % 66) as u32, step / 66);
                let waiting =
                    Waiting { seq, captured: now, ready: now, deadline: Some(now + 33 * MILLI), rung: None, places: 1 };
                planner.arrive(stream, 0, now, waiting, (stream, seq));
            }
            if now >= busy_until {
                if let Some((variant, places, started, stream)) = running.take() {
                    planner.ran(0, variant, places, started, now - started);
                    planner.prepared(0, variant, 300_000 + rng.u64(0..50_000));
                    planner.delivered(0, stream as u32, now, 600_000 + rng.u64(0..90_000), rng.u64(0..2) * step % 3);
                }
                let next = planner.plan(now, now, &mut plan);
                if let Next::Run { variant, .. } = next {
                    running = Some((variant, plan.run.len(), now, u64::from(plan.run[0].item.0)));
                    busy_until = now + 4 * MILLI * plan.run.len() as u64 + rng.u64(0..MILLI);
                }
                plan.clear();
            }
        }
        planner.end(0, 0);
        planner.abandon();
        drop(planner);
        Arc::try_unwrap(told).unwrap().into_inner()
    }

    #[test]
    fn a_trace_comes_back_decision_for_decision() {
        let lines = record();
        let done = replay(lines.iter().cloned()).unwrap();
        assert_eq!((done.lines, done.planners), (lines.len(), 1));
        assert!(done.decisions > 1000 && done.arrivals > 2000, "{done:?}");
        assert!(lines.iter().any(|l| l.contains("\"shed\"")), "an overload sheds");
    }

    #[test]
    fn costs_come_back_bit_for_bit() {
        let before = setup();
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Setup>(&text).unwrap(), before);
    }

    #[test]
    fn the_first_difference_is_named_by_its_line() {
        let mut lines = record();
        let at = lines.iter().rposition(|l| l.contains("\"run\":[[")).unwrap();
        let changed = lines[at].replacen(",false,", ",true,", 1);
        assert_ne!(changed, lines[at]);
        lines[at] = changed;
        let error = replay(lines.into_iter()).unwrap_err();
        assert!(matches!(error, TraceError::Differs { line, .. } if line == at + 1), "{error}");
    }

    #[test]
    fn a_hole_is_said_and_so_is_what_is_no_trace() {
        let mut lines = record();
        lines.insert(10, "{\"lost\":3}".into());
        assert_eq!(replay(lines.clone().into_iter()), Err(TraceError::Hole { line: 11, lost: 3 }));
        assert!(Recording::read(lines.into_iter()).is_err());
        for (text, part) in [
            (vec![], "empty"),
            (vec!["hello"], "no trace"),
            (vec!["{\"framegate_trace\":9,\"version\":\"x\",\"pipeline\":\"p\"}"], "form 9"),
            (vec!["{\"framegate_trace\":1,\"version\":\"x\",\"pipeline\":\"p\"}", "{"], "line 2"),
            (
                vec![
                    "{\"framegate_trace\":1,\"version\":\"x\",\"pipeline\":\"p\"}",
                    "{\"planner\":1,\"told\":{\"abandon\":0}}",
                ],
                "has not been made",
            ),
        ] {
            let error = replay(text.into_iter().map(str::to_owned)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_recording_has_what_arrived_and_what_batches_took() {
        let recording = Recording::read(record().into_iter()).unwrap();
        assert_eq!(recording.streams.len(), 9);
        assert!(recording.streams.iter().all(|s| s.branches == [[0]] && s.arrivals.len() > 250));
        assert_eq!(recording.streams[3].arrivals[0].0, 3 * MILLI / 2);
        assert!(recording.spans[0].len() > 100 && recording.spans[0].iter().all(|s| (0.1..10.0).contains(&s.1)));
        assert!((300_000..350_000).contains(&recording.prepare[0]) && (600_000..700_000).contains(&recording.tail));
    }
}

//! A trace, told to a planner again.

use super::{Decision, Header, Line, Told, VERSION};
use crate::schedule::{Plan, Planner, Waiting};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

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
pub(super) fn header(lines: &mut impl Iterator<Item = String>) -> Result<Header, TraceError> {
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
pub(super) fn entries(lines: impl Iterator<Item = String>) -> impl Iterator<Item = Result<(usize, Line), TraceError>> {
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
            Told::Opens(rung, loaded) => planner.opens(rung, &loaded),
            Told::GivesUp(rung) => planner.gives_up(rung),
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

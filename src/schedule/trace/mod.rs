//! What a planner was told and what it decided: written down while a pipeline runs, and told again later, when the same
//! decisions must come out.
//!
//! A trace is a text of JSON lines. The first is a [`Header`]; each other is one thing that one of the process's planners
//! was told ([`Told`]), with what it answered. Times are whole nanoseconds and fractions are written as the bits they
//! consist of, so that everything comes back exactly as it was. [`Taped`] writes it, [`replay`] tells it again, and
//! [`Recording`] makes streams and batches of it that other policies can be tried on.

mod recording;
mod replay;
mod tape;

pub use recording::{RecordedStream, Recording};
pub use replay::{Replayed, TraceError, replay};
pub use tape::{Tape, Taped};

use super::{Bypass, Chosen, Lane, Next, Plan, Planner, Policy, Site, Variant, Why};
use crate::frame::{Frame, Nanos, ShedReason};
use serde::{Deserialize, Serialize};

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
    /// Rungs that are not loaded yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shut: Vec<usize>,
}

impl Setup {
    /// The planner.
    pub fn planner<T>(&self) -> Planner<T> {
        Planner::new(self.sites.clone(), self.slots).with_policy(self.policy).with_shut(&self.shut)
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
    /// A rung was loaded: with these ways of running sites (site, variant, measured).
    Opens(usize, Vec<(usize, usize, Variant)>),
    /// A rung cannot be loaded.
    GivesUp(usize),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::MILLI;
    use crate::schedule::{Cost, RungPlan, Waiting};
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
            shut: Vec::new(),
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

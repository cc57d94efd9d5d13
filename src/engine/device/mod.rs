//! A device and the stages that run on it: one dispatcher that plans and prepares, an executor for each slot of the
//! device, and for each stage a finisher. Preprocess of the next batch, inference of this one and postprocess of the one
//! before overlap.

mod batches;
mod dispatcher;
mod executor;
mod finisher;
mod later;

pub use dispatcher::{Dispatcher, Post};
pub use executor::{Crew, Threads};
pub use finisher::Finisher;
pub use later::{Later, Link, Opener, serves};

use crate::frame::{FailReason, Frame, Nanos, clock, clock::SECOND};
use crate::schedule::{Cost, RungPlan, Site, Variant};
use crate::stage::{Batch, BatchStage, Execute, StageError};
use crate::telemetry::Pulse;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A piece of work that takes longer than this hangs.
pub const HANG: Nanos = 10 * SECOND;

/// A stage as a device runs it: its variants, and which of them each rung takes.
#[derive(Clone)]
pub struct Ways {
    /// The ways of running it.
    pub variants: Vec<Arc<dyn BatchStage>>,
    /// In step with `variants`: those that are loaded when their rung is needed.
    pub later: Vec<Option<Arc<Later>>>,
    /// What it does at each rung.
    pub rungs: Vec<RungPlan>,
}

impl Ways {
    /// The device's name.
    pub fn device(&self) -> &str {
        self.variants.first().map_or("cpu", |v| v.device())
    }

    /// Whether the stage runs on crops of frames, not on frames.
    pub fn on_crops(&self) -> bool {
        self.variants.iter().any(|v| v.crops().is_some())
    }

    /// Whether this way of running the stage is loaded.
    pub fn is_loaded(&self, variant: usize) -> bool {
        self.later.get(variant).is_none_or(|l| l.as_ref().is_none_or(|l| l.is_loaded()))
    }

    /// Places of a batch that a frame could fill here.
    pub fn places(&self, frame: &Frame) -> usize {
        self.variants.iter().map(|v| v.crops().map_or(1, |c| c.count(frame))).max().unwrap_or(1)
    }
}

/// Which way of running which stage of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The stage.
    pub site: usize,
    /// The way of running it.
    pub variant: usize,
}

/// A frame in a batch, and the places that it has there.
pub struct Seat {
    /// The frame.
    pub frame: Frame,
    /// Its places.
    pub places: Range<usize>,
}

/// A batch's memory and the list of its frames, reused.
pub type Memory = (Batch, Vec<Seat>);

/// A batch on its way from the dispatcher to an executor.
pub struct Job {
    /// What runs.
    pub route: Route,
    /// Batches of a stage are finished in this order.
    pub number: u64,
    /// The batch.
    pub batch: Batch,
    /// Its frames.
    pub seats: Vec<Seat>,
    /// Places filled. A probe has no frames and runs one place, only to be measured.
    pub places: usize,
    /// When it was ready to run.
    pub prepared_at: Nanos,
    /// How long it should take.
    pub expected: Nanos,
}

/// What reaches a stage's finisher.
#[expect(clippy::large_enum_variant, reason = "a frame in a box would be an allocation for each frame")]
pub enum Done {
    /// A batch, from an executor.
    Batch {
        /// The batch.
        job: Job,
        /// When it started.
        started: Nanos,
        /// When it ended.
        ended: Nanos,
        /// Why it has no outputs, if it has none.
        failed: Option<FailReason>,
    },
    /// A frame that goes on without the device.
    Passed {
        /// Its place among the batches.
        number: u64,
        /// The frame.
        frame: Frame,
    },
    /// A batch that hung and will never come.
    Lost {
        /// Its place among the batches.
        number: u64,
    },
    /// Every frame of this stream is in a batch before this one; from the dispatcher.
    StreamEnded {
        /// Its place among the batches.
        number: u64,
        /// The stream's index.
        stream: u32,
    },
}

impl Done {
    fn number(&self) -> u64 {
        match self {
            Self::Batch { job, .. } => job.number,
            Self::Passed { number, .. } | Self::Lost { number } | Self::StreamEnded { number, .. } => *number,
        }
    }
}

/// What the dispatcher is told.
pub enum Event {
    /// It has taken a batch up.
    Started {
        /// The batch.
        route: Route,
        /// Its number.
        number: u64,
        /// When.
        at: Nanos,
        /// Its heartbeat: to give it up by, if it hangs.
        pulse: Pulse,
    },
    /// It is done with a batch.
    Ended {
        /// The batch.
        route: Route,
        /// Its number.
        number: u64,
        /// Places run.
        places: usize,
        /// When it had started.
        started: Nanos,
        /// Time it took; `None` if it failed.
        span: Option<Nanos>,
    },
    /// A rung that was shut is open, with these ways of running the device's stages.
    Opened {
        /// The rung.
        rung: usize,
        /// What was loaded for it.
        ways: Vec<(Route, Variant, Vec<Memory>)>,
    },
    /// A rung cannot be opened.
    Lost {
        /// The rung.
        rung: usize,
    },
}

/// How a frame that left a stage of a device was delivered.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// The stage, as an index into the device's.
    pub site: usize,
    /// The stream's index.
    pub stream: u32,
    /// When.
    pub at: Nanos,
    /// How long after it had left the stage, without what later stages on crops took: they take what is left.
    pub tail: Nanos,
    /// Late by so much; 0 is on time. `None` where the device has another stage behind this one, which tells it.
    pub late: Option<Nanos>,
}

/// Which of a few runs says what a batch costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typical {
    /// The one in the middle, on a machine that does nothing else.
    Median,
    /// The quickest, on one that is at work: others only make it longer.
    Quickest,
}

/// Measures what batches cost on a freshly opened executor, by a few runs of each size.
///
/// # Errors
/// The device fails on an empty batch.
pub fn calibrate(
    stage: &dyn BatchStage,
    executor: &mut dyn Execute,
    batch: &mut Batch,
    patience: Duration,
    typical: Typical,
) -> Result<Vec<(usize, Nanos)>, StageError> {
    // Many sizes lie on one line: some of them tell it.
    let all = stage.batch_sizes();
    let told = |&(i, s): &(usize, &usize)| s.is_power_of_two() || i + 1 == all.len();
    let sizes: Vec<usize> = all.iter().enumerate().filter(told).map(|(_, &s)| s).collect();
    let budget = patience.as_nanos() as Nanos / sizes.len().max(1) as Nanos;
    let mut points = Vec::new();
    for size in sizes {
        let (begun, mut spans) = (clock::now(), Vec::new());
        while spans.len() < 3 || (spans.len() < 15 && clock::now() - begun < budget / 4) {
            let start = clock::now();
            executor.execute(batch, size)?;
            spans.push(clock::now() - start);
            if clock::now() - begun > budget {
                break;
            }
        }
        spans.sort_unstable();
        let at = if typical == Typical::Median { spans.len() / 2 } else { 0 };
        points.push((size, spans[at]));
    }
    Ok(points)
}

/// One slot's sessions of a stage, by variant; `None` where it is not loaded.
pub type Sessions = Vec<Option<Box<dyn Execute>>>;

/// A stage on its device, opened and warm.
pub struct Opened {
    /// What the planner is told of it.
    pub site: Site,
    /// Sessions: for each slot one of each variant that is loaded.
    pub sessions: Vec<Sessions>,
    /// Memory of batches, for each variant.
    pub memory: Vec<Vec<Memory>>,
}

/// Opens a stage's variants for a device of `slots` slots and measures them, all within about `patience`. Those that are
/// loaded later stay shut.
///
/// # Errors
/// A variant cannot be used.
pub fn open(ways: &Ways, slots: usize, patience: Duration) -> Result<Opened, StageError> {
    let mut sessions: Vec<Sessions> = (0..slots).map(|_| Vec::new()).collect();
    let (mut memory, mut variants) = (Vec::new(), Vec::new());
    let share = patience / ways.variants.len().max(1) as u32;
    for (n, stage) in ways.variants.iter().enumerate() {
        if !ways.is_loaded(n) {
            sessions.iter_mut().for_each(|slot| slot.push(None));
            variants.push(Variant::unloaded());
            memory.push(Vec::new());
            continue;
        }
        let way = open_way(&**stage, slots, share, Typical::Median)?;
        sessions.iter_mut().zip(way.sessions).for_each(|(slot, session)| slot.push(Some(session)));
        variants.push(way.variant);
        memory.push(way.memory);
    }
    let crops = ways.on_crops().then_some(1);
    let site = Site { variants, rungs: ways.rungs.clone(), tail: Default::default(), crops };
    Ok(Opened { site, sessions, memory })
}

/// One way of running a stage, opened and warm.
struct OpenedWay {
    variant: Variant,
    /// One for each slot.
    sessions: Vec<Box<dyn Execute>>,
    memory: Vec<Memory>,
}

/// Memory of batches that one way of running a stage gets: one for each slot, one prepared ahead, one being finished.
pub fn batches(slots: usize) -> usize {
    slots + 2
}

fn open_way(
    stage: &dyn BatchStage,
    slots: usize,
    patience: Duration,
    typical: Typical,
) -> Result<OpenedWay, StageError> {
    let mut sessions = (0..slots).map(|_| stage.open()).collect::<Result<Vec<_>, _>>()?;
    let mut memory: Vec<Memory> = (0..batches(slots)).map(|_| (stage.buffers(), Vec::new())).collect();
    let cost = match (sessions.first_mut(), memory.first_mut()) {
        (Some(executor), Some((batch, _))) => Cost::fit(&calibrate(stage, &mut **executor, batch, patience, typical)?),
        _ => Cost::fit(&[]),
    };
    Ok(OpenedWay { variant: Variant { cost, batch_sizes: stage.batch_sizes().to_vec() }, sessions, memory })
}

/// What shares a planner: all that runs on the processor's cores, and each GPU whatever drives it.
pub fn shares(device: &str) -> &str {
    match device {
        "openvino" => "cpu",
        gpu => gpu.strip_prefix("tensorrt:").or(gpu.strip_prefix("cuda:")).unwrap_or(gpu),
    }
}

/// Frames of one stream that may wait in front of a stage: what can still be on time, and a full batch.
pub fn waits(site: &Site, deadline: Option<Nanos>, fps: f64) -> usize {
    let largest = site.variants.iter().map(Variant::largest).max().unwrap_or(1);
    match deadline {
        Some(d) => ((d as f64 * fps / 1e9).ceil() as usize + 2).max(3),
        None => largest,
    }
}

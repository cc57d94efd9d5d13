//! The scheduler: pure and deterministic. No threads, no clocks, no I/O: time comes in as an argument, so the same
//! code runs in production, in tests and in simulation.
//!
//! [`Planner`] decides for one device what to run next, at which rung, what to give up and how long to wait; [`Cost`] and
//! [`Slowdown`] predict how long things take; the ladder sets each stream's ceiling; [`capacity`] says how many streams fit;
//! [`sim`] runs all of it under virtual time; [`trace`] writes down what a planner was told, and tells it again.

pub mod admission;
mod cost;
mod ladder;
mod planner;
mod policy;
pub mod sim;
#[cfg(test)]
mod tests;
pub mod trace;

pub use admission::capacity;
pub use cost::{Cost, Estimate, Slowdown};
pub use planner::Planner;
pub use policy::Policy;

use crate::frame::{Nanos, ShedReason};
use serde::{Deserialize, Serialize};

/// What the planner knows of a waiting frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its number in its stream.
    pub seq: u64,
    /// When its first byte arrived.
    pub captured: Nanos,
    /// When it could have started here.
    pub ready: Nanos,
    /// When it has to be delivered; `None` for offline work.
    pub deadline: Option<Nanos>,
    /// The rung that an earlier stage gave it; `None` for a frame that has not begun.
    pub rung: Option<usize>,
    /// Places of a batch that it takes: 1, or on a stage on crops as many as it has of them; 0: nothing to do here.
    pub places: usize,
}

/// What the planner knows of a stream in front of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The stream's index.
    pub stream: u32,
    /// The stage: an index into the planner's sites.
    pub site: usize,
    /// Larger is more important: one more step doubles the stream's share under overload.
    pub priority: i32,
    /// From captured to deadline; `None` for offline work.
    pub deadline: Option<Nanos>,
    /// Offline: batches are full and of this stream alone, so that two runs form the same ones.
    pub by_count: bool,
    /// Frames that may wait here; the oldest makes room.
    pub capacity: usize,
    /// Frames come here before any other device: their rung is chosen here, and the stream's ladder is this planner's.
    pub entry: bool,
}

/// One way of running a stage: a model, an input size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// What it costs.
    pub cost: Cost,
    /// Batch sizes that the device is warm for, ascending, the first is 1. None: it is not loaded yet, and costs nothing
    /// that is known.
    pub batch_sizes: Vec<usize>,
}

impl Variant {
    /// One that is loaded when its rung opens.
    pub fn unloaded() -> Self {
        Self { cost: Cost::of(0, 0), batch_sizes: Vec::new() }
    }

    fn is_loaded(&self) -> bool {
        !self.batch_sizes.is_empty()
    }

    /// The largest warmed batch.
    pub fn largest(&self) -> usize {
        self.batch_sizes.last().copied().unwrap_or(1).max(1)
    }

    /// The warmed size that takes `frames`.
    pub fn warmed(&self, frames: usize) -> usize {
        self.batch_sizes.iter().copied().find(|&s| s >= frames).unwrap_or(frames)
    }

    /// The largest warmed size that `frames` fill, at least 1.
    fn floor(&self, frames: usize) -> usize {
        self.batch_sizes.iter().copied().take_while(|&s| s <= frames).last().unwrap_or(1).max(1)
    }
}

/// What a stage does at one rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungPlan {
    /// The variant it runs; `None` where the stage is switched off.
    pub variant: Option<usize>,
    /// One frame in so many is inferred, the others are carried by a tracker; at least 1.
    pub every: u32,
}

/// A stage on a device, as the planner knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// The ways of running it.
    pub variants: Vec<Variant>,
    /// What it does at each rung, best first.
    pub rungs: Vec<RungPlan>,
    /// From leaving the stage to the sinks' queues.
    pub tail: Estimate,
    /// A stage on crops, of which a frame has about so many; `None` for one that takes frames whole. A frame whose time
    /// does not allow all of its crops goes on with those that fit, or with none: it is not shed for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crops: Option<usize>,
}

impl Site {
    /// A stage with one way of running it, and one rung.
    pub fn plain(cost: Cost, batch_sizes: Vec<usize>) -> Self {
        Self {
            variants: vec![Variant { cost, batch_sizes }],
            rungs: vec![RungPlan { variant: Some(0), every: 1 }],
            tail: Estimate::default(),
            crops: None,
        }
    }
}

/// What to do until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Run what is in [`Plan::run`].
    Run {
        /// The stage.
        site: usize,
        /// The way of running it.
        variant: usize,
    },
    /// Run a batch of one without a frame, only to measure: everything is being shed, and nothing is learnt from that.
    Probe {
        /// The stage.
        site: usize,
        /// The way of running it.
        variant: usize,
    },
    /// Look again at this time, or when something arrives.
    WaitUntil(Nanos),
    /// Nothing to do until something arrives.
    Idle,
}

/// A frame of a batch, and how it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen<T> {
    /// The frame.
    pub item: T,
    /// The rung that it runs at.
    pub rung: usize,
    /// A rung below its stream's ceiling saves it.
    pub rescued: bool,
    /// Places of the batch that it gets; on a stage on crops maybe fewer than it could fill.
    pub places: usize,
}

/// Why a frame goes past a stage without using its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its rung switches the stage off.
    Off,
    /// Its rung leaves it to a tracker.
    Carried,
    /// A stage on crops has none of it.
    Empty,
    /// A stage on crops would make it late.
    Skipped,
}

/// A frame that goes past a stage without using its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bypass<T> {
    /// The stage.
    pub site: usize,
    /// The frame.
    pub item: T,
    /// Its rung.
    pub rung: usize,
    /// Why.
    pub why: Why,
}

/// A decision's frames. Kept by the caller and reused, so that planning allocates nothing.
#[derive(Debug)]
pub struct Plan<T> {
    /// Frames that go past their stage before the batch.
    pub pass: Vec<Bypass<T>>,
    /// The next batch, in the order of its places.
    pub run: Vec<Chosen<T>>,
    /// As `pass`, but they follow frames of the batch.
    pub follow: Vec<Bypass<T>>,
    /// Given up, with the reason.
    pub shed: Vec<(T, ShedReason)>,
}

impl<T> Default for Plan<T> {
    fn default() -> Self {
        Self { pass: Vec::new(), run: Vec::new(), follow: Vec::new(), shed: Vec::new() }
    }
}

impl<T> Plan<T> {
    /// Room for so many frames of each kind.
    pub fn with_capacity(frames: usize) -> Self {
        Self {
            pass: Vec::with_capacity(frames),
            run: Vec::with_capacity(frames),
            follow: Vec::with_capacity(frames),
            shed: Vec::with_capacity(frames),
        }
    }

    /// Forgets the last decision.
    pub fn clear(&mut self) {
        self.pass.clear();
        self.run.clear();
        self.follow.clear();
        self.shed.clear();
    }
}

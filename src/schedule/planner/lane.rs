//! What a planner keeps of streams and of what waits of them.

use super::super::ladder::{Climber, Demand, Ladder};
use super::super::{Lane, Waiting};
use crate::frame::{Nanos, clock::SECOND};
use std::collections::VecDeque;

/// A stream's period is measured over at least so many frames.
const COUNTED: u32 = 8;

/// What waits of one stream in front of one stage.
pub(super) struct LaneState<T> {
    pub(super) lane: Lane,
    /// Index of the stream among the planner's.
    pub(super) stream: usize,
    pub(super) queue: VecDeque<(Waiting, T)>,
    /// Taken by the choice under way.
    pub(super) taken: usize,
    /// Left out of the choice under way: its next frame would run in another way than the batch.
    pub(super) passed_over: bool,
    /// No more frames will come: what waits may run as a partial batch.
    pub(super) ended: bool,
    /// Not even alone on an idle device, at the lowest rung, could a frame be on time.
    pub(super) infeasible: bool,
    /// When its last frame arrived, and the usual time between two.
    pub(super) arrived: Nanos,
    pub(super) period: Nanos,
    /// Frames that arrived since.
    pub(super) counted: (u32, Nanos),
    /// How long after its capture the last frame came here.
    pub(super) lag: Nanos,
    /// Number of the last frame that was inferred here.
    pub(super) inferred: Option<u64>,
    /// On a stage on crops: of twenty frames one has more of them than this.
    pub(super) usual: f64,
}

impl<T> LaneState<T> {
    pub(super) fn arrives(&mut self, now: Nanos) {
        let gap = now.saturating_sub(self.arrived);
        let (frames, since) = self.counted;
        if self.arrived == 0 || gap >= SECOND {
            // A pause is no period: it says nothing about when the next frame comes.
            self.counted = (0, now);
        } else if self.period == 0 {
            (self.period, self.counted) = (gap, (1, since));
        } else if frames + 1 >= COUNTED && now >= since + SECOND / 4 {
            // Counted over a while, since frames that were held up come in bursts.
            let mean = (now - since) / Nanos::from(frames + 1);
            (self.period, self.counted) = ((self.period + mean) / 2, (0, now));
        } else {
            self.counted = (frames + 1, since);
        }
        self.arrived = now;
    }

    /// A frame with so many crops came: a tracked 95th percentile (after Robbins and Monro, 1951).
    pub(super) fn counts(&mut self, crops: usize) {
        let step = if crops as f64 > self.usual { 0.95 } else { -0.05 };
        self.usual = (self.usual + 0.5 * step).max(0.0);
    }
}

/// What all lanes of one stream share.
pub(super) struct StreamState {
    pub(super) index: u32,
    pub(super) priority: i32,
    /// Frames served lately, decaying, less for important streams: the least served go first under overload.
    pub(super) served: f64,
    /// Beyond the device's capacity: every frame is shed.
    pub(super) refused: bool,
    /// Its rungs are chosen here.
    pub(super) entry: bool,
    pub(super) ladder: Ladder,
    pub(super) demand: Demand,
}

/// The index of a stream that has no lane left: its place is free.
pub(super) const GONE: u32 = u32::MAX;

impl Climber for StreamState {
    fn ladder(&mut self) -> &mut Ladder {
        &mut self.ladder
    }
    fn seen(&self) -> &Ladder {
        &self.ladder
    }
    fn demand(&self) -> &Demand {
        &self.demand
    }
    fn priority(&self) -> i32 {
        self.priority
    }
    fn climbs(&self) -> bool {
        self.entry
    }
}

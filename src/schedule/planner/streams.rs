//! Streams come, change and go.

use super::super::Lane;
use super::super::ladder::{Demand, Ladder};
use super::Planner;
use super::lane::{GONE, LaneState, StreamState};
use std::collections::VecDeque;

impl<T> Planner<T> {
    /// Whether a stream is open at this site, or has frames left there.
    pub fn is_open(&self, stream: u32, site: usize) -> bool {
        !self.lanes_of(stream, site).is_empty()
    }

    /// Whether a stream is open at any site, or has frames left.
    pub fn is_known(&self, stream: u32) -> bool {
        self.streams.iter().any(|s| s.index == stream)
    }

    /// A stream's frames may come to a site from now on.
    pub fn open(&mut self, lane: Lane) {
        let stream = match self.streams.iter().position(|s| s.index == lane.stream) {
            Some(i) => i,
            None => {
                // A newcomer starts level with the least served, not with a claim on all the past.
                let there = self.streams.iter().filter(|s| s.index != GONE);
                let served = there.map(|s| s.served).fold(f64::INFINITY, f64::min);
                let new = StreamState {
                    index: lane.stream,
                    priority: lane.priority,
                    served: if served.is_finite() { served } else { 0.0 },
                    refused: false,
                    entry: false,
                    ladder: Ladder::new(),
                    demand: Demand::default(),
                };
                match self.streams.iter().position(|s| s.index == GONE) {
                    Some(free) => {
                        self.streams[free] = new;
                        free
                    }
                    None => {
                        self.streams.push(new);
                        self.streams.len() - 1
                    }
                }
            }
        };
        self.streams[stream].entry |= lane.entry;
        let lane = Lane { capacity: self.policy.waits(lane.capacity), ..lane };
        let place = self.places(lane.stream, lane.site).end;
        let state = LaneState {
            queue: VecDeque::with_capacity(lane.capacity.min(64) + 1),
            stream,
            taken: 0,
            passed_over: false,
            ended: false,
            infeasible: false,
            arrived: 0,
            period: 0,
            counted: (0, 0),
            lag: 0,
            inferred: None,
            usual: self.sites.get(lane.site).and_then(|s| s.crops).unwrap_or(1) as f64,
            lane,
        };
        // In the order of streams and sites, so that they are found quickly.
        self.lanes.insert(place, state);
        self.patience = None;
        self.order.reserve(self.lanes.len());
        self.judge();
    }

    /// Whether a stream's frames are taken. Those of a stream beyond the device's capacity are shed as `admission`.
    pub fn admit(&mut self, stream: u32, admitted: bool) {
        if let Some(s) = self.streams.iter_mut().find(|s| s.index == stream) {
            s.refused = !admitted;
        }
    }

    /// A stream's ceiling: the best rung that its frames run on. 0 is the best there is.
    pub fn ceiling(&self, stream: u32) -> usize {
        self.streams.iter().find(|s| s.index == stream).map_or(0, |s| s.ladder.rung())
    }

    /// Moves of a stream's ceiling so far, down and up.
    pub fn moves(&self, stream: u32) -> (u64, u64) {
        self.streams.iter().find(|s| s.index == stream).map_or((0, 0), |s| s.ladder.moves())
    }

    /// Sets a stream's ceiling, such as the one it starts with.
    pub fn set_ceiling(&mut self, stream: u32, rung: usize) {
        let lowest = self.rungs.lowest();
        if let Some(s) = self.streams.iter_mut().find(|s| s.index == stream) {
            s.ladder.start_at(rung.min(lowest));
        }
    }

    /// A stream has ended at a site: what waits of it there still runs, then it is forgotten.
    pub fn end(&mut self, stream: u32, site: usize) {
        let places = self.places(stream, site);
        self.lanes[places].iter_mut().for_each(|l| l.ended = true);
    }

    /// The places of a stream's lanes at a site: one that is open, and others that have ended and still wait.
    pub(super) fn places(&self, stream: u32, site: usize) -> std::ops::Range<usize> {
        let key = |l: &LaneState<T>| (l.lane.stream, l.lane.site);
        let first = self.lanes.partition_point(|l| key(l) < (stream, site));
        first..first + self.lanes[first..].partition_point(|l| key(l) == (stream, site))
    }

    pub(super) fn lanes_of(&self, stream: u32, site: usize) -> &[LaneState<T>] {
        &self.lanes[self.places(stream, site)]
    }

    pub(super) fn lane_mut(&mut self, stream: u32, site: usize) -> Option<&mut LaneState<T>> {
        let places = self.places(stream, site);
        self.lanes[places].iter_mut().find(|l| !l.ended)
    }

    /// Whether a stream may add one more frame to a site without pushing one out.
    pub fn has_room(&self, stream: u32, site: usize) -> bool {
        self.lanes_of(stream, site).iter().find(|l| !l.ended).is_some_and(|l| l.queue.len() < l.lane.capacity)
    }

    /// Lets go of lanes that have ended, and of streams that have no other.
    pub(super) fn forget(&mut self) {
        let before = self.lanes.len();
        self.lanes.retain(|l| !(l.ended && l.queue.is_empty()));
        if self.lanes.len() < before {
            self.patience = None;
            for (i, stream) in self.streams.iter_mut().enumerate() {
                if !self.lanes.iter().any(|l| l.stream == i) {
                    (stream.index, stream.demand) = (GONE, Demand::default());
                }
            }
        }
    }
}

//! When the device had better wait for a stream that has been served too little.

use super::Planner;
use super::lane::LaneState;
use crate::frame::{Nanos, clock::MILLI};

/// A stream that has been served so many frames fewer than another, lately, is worth waiting a moment for.
const BEHIND: f64 = 0.5;
/// The device waits no longer than this for a stream that has been served less.
const HOLD: Nanos = 2 * MILLI;
/// A stream that has been served so many times less than another is waited for until its next frame comes.
const STARVES: f64 = 2.0;
/// That is done once in so many of its frames.
const PATIENCE: Nanos = 3;

impl<T> Planner<T> {
    /// Under overload, whether the device had better wait a moment for a stream that has been served far less than the
    /// one whose turn it would be, and whose next frame is due. Streams that run in step would else be decided by who
    /// happens to come first each time, and always the same.
    pub(super) fn holds_back(&mut self, now: Nanos, start: Nanos) -> Option<Nanos> {
        if !self.overloaded {
            return None;
        }
        if let Some((lane, until)) = self.patience.take()
            && now < until
            && self.lanes.get(lane).is_some_and(|l| l.queue.is_empty() && !l.ended)
        {
            self.patience = Some((lane, until));
            return Some(until);
        }
        let lane = &self.lanes[self.best_lane()?];
        let w = self.next_of(lane)?;
        let way = self.way(lane, w, start)?;
        let deadline = w.deadline?;
        let site = &self.sites[lane.lane.site];
        let cost = &site.variants[way.variant].cost;
        let path = self.alone[lane.lane.site][way.variant].within(deadline.saturating_sub(w.ready));
        let latest = now + deadline.checked_sub(start + path)?.min(HOLD);
        let alone = self.slowdown.expected(cost, 1);
        let served = self.streams[lane.stream].served;
        let absent = |l: &&LaneState<T>| {
            l.queue.is_empty() && l.period > 0 && !l.infeasible && !l.ended && !self.streams[l.stream].refused
        };
        let moment = self
            .lanes
            .iter()
            .filter(absent)
            .filter(|l| self.streams[l.stream].served + BEHIND < served)
            .map(|l| (l.arrived + l.period, l.arrived + l.period + l.period / 16))
            // Due within the hold, or overdue by less than its usual jitter.
            .filter(|&(due, given_up)| due <= latest && now < given_up)
            .map(|(_, given_up)| given_up.min(latest))
            .max()
            .filter(|&until| until > now);
        if moment.is_some() || now < self.patient_at {
            return moment;
        }
        // A stream whose frames always come while the device is busy would never be served: now and then, if its next
        // frame could be on time but not behind another one, it is waited for, whoever has to give way.
        let (i, starved) = self
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, l)| absent(l) && now < l.arrived + l.period)
            .filter(|(_, l)| STARVES * self.streams[l.stream].served + BEHIND < served)
            .min_by(|a, b| self.streams[a.1.stream].served.total_cmp(&self.streams[b.1.stream].served))?;
        let quickest = self.sites[starved.lane.site].quickest()?;
        let allowed = starved.lane.deadline?.checked_sub(starved.lag)?;
        let slack = allowed.checked_sub(self.alone[starved.lane.site][quickest].within(allowed))?;
        let due = starved.arrived + starved.period;
        if start + alone <= due + slack {
            return None;
        }
        let until = (due + starved.period / 16).min(start + alone + HOLD);
        self.patient_at = until + PATIENCE * starved.period;
        self.patience = Some((i, until));
        Some(until)
    }
}

//! How waiting frames would run, and which of them need not or cannot.

use super::super::cost::Path;
use super::super::{Bypass, Plan, Site, Variant, Waiting, Why};
use super::Planner;
use super::lane::LaneState;
use crate::frame::{Nanos, ShedReason};

/// How a frame would run: at which rung, as which variant of its stage, saved by a lower rung than its ceiling or not,
/// and in how many places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Way {
    pub(super) rung: usize,
    pub(super) variant: usize,
    pub(super) rescued: bool,
    pub(super) places: usize,
}

impl<T> Planner<T> {
    /// The best way in which a waiting frame of a lane can still be on time in a batch of one that starts at
    /// `start`, from its ceiling down.
    pub(super) fn way(&self, lane: &LaneState<T>, w: &Waiting, start: Nanos) -> Option<Way> {
        let site = &self.sites[lane.lane.site];
        let ceiling = self.streams[lane.stream].ladder.rung();
        let (first, last) = match w.rung {
            Some(fixed) => (fixed, fixed),
            None => (ceiling, if lane.lane.by_count { ceiling } else { self.rungs.lowest() }),
        };
        for rung in first..=last {
            let Some(variant) = site.rungs.get(rung).and_then(|r| r.variant) else { continue };
            if !self.rungs.is_open(rung) || !site.variants[variant].is_loaded() {
                continue;
            }
            let places = self.affords(lane.lane.site, variant, w, start);
            if places > 0 {
                return Some(Way { rung, variant, rescued: rung > first, places });
            }
        }
        None
    }

    /// In how many of the places that it could fill a frame alone can still be on time; 0: in none.
    fn affords(&self, site: usize, variant: usize, w: &Waiting, start: Nanos) -> usize {
        let alone = &self.alone[site][variant];
        let site = &self.sites[site];
        let most = w.places.min(site.variants[variant].largest());
        if !self.policy.tests_start() {
            return most;
        }
        if site.crops.is_none() {
            return if alone.fits(start, w) { most } else { 0 };
        }
        let fits = |n: usize| self.path(site, variant, (n, site.variants[variant].warmed(n))).surely_fits(start, w);
        (1..=most).rev().find(|&n| fits(n)).unwrap_or(0)
    }

    pub(super) fn path(&self, site: &Site, variant: usize, batch: (usize, usize)) -> Path {
        self.slowdown.path(&site.variants[variant].cost, &site.tail, batch, self.margin as Nanos)
    }

    /// What lies before a frame alone is asked of every lane, and is the same throughout a decision.
    pub(super) fn look_ahead(&mut self) {
        for (site, paths) in self.sites.iter().zip(&mut self.alone) {
            paths.clear();
            let margin = self.margin as Nanos;
            paths.extend(site.variants.iter().map(|v| self.slowdown.path(&v.cost, &site.tail, (1, 1), margin)));
        }
    }

    /// Whether the stage has nothing to do for this frame at its rung, and why: it is switched off there, has no crops
    /// of the frame, or the frame is one that a tracker carries. With the rung.
    pub(super) fn bypasses(&self, lane: &LaneState<T>, w: &Waiting) -> Option<(usize, Why)> {
        let site = &self.sites[lane.lane.site];
        let rung = w.rung.unwrap_or_else(|| self.streams[lane.stream].ladder.rung());
        let plan = site.rungs.get(rung)?;
        let every = u64::from(plan.every.max(1));
        // Streams take turns: with every third frame inferred, each frame time infers a third of the streams.
        let turn = (w.seq + u64::from(lane.lane.stream)).is_multiple_of(every);
        let overdue = lane.inferred.is_none_or(|last| w.seq.saturating_sub(last) >= every);
        match plan.variant {
            None => Some((rung, Why::Off)),
            Some(_) if w.places == 0 => Some((rung, Why::Empty)),
            Some(_) => (!(turn || overdue)).then_some((rung, Why::Carried)),
        }
    }

    /// The rung at which a frame goes on without the crops that it has no time for, where its stage is one on crops.
    pub(super) fn skips(&self, lane: &LaneState<T>, w: &Waiting) -> Option<usize> {
        self.sites[lane.lane.site].crops?;
        Some(w.rung.unwrap_or_else(|| self.streams[lane.stream].ladder.rung()))
    }

    /// Whether a frame had come too late for its deadline already, so that no device, however idle, could have saved it.
    fn came_late(&self, site: usize, w: &Waiting) -> bool {
        let s = &self.sites[site];
        let quickest = s.quickest().map_or(0, |v| s.variants[v].cost.base(1) as Nanos);
        w.deadline.is_some_and(|d| w.ready + quickest + s.tail.mean() > d)
    }

    /// Sheds what cannot be delivered in time even if it started next and alone, and what must not run at all. Lets go
    /// on what needs no device, where none of its stream waits before it.
    pub(super) fn clear_heads(&mut self, now: Nanos, start: Nanos, plan: &mut Plan<T>) {
        for i in 0..self.lanes.len() {
            let lane = &self.lanes[i];
            if lane.queue.is_empty() {
                continue;
            }
            let verdict = match (lane.infeasible, self.streams[lane.stream].refused) {
                (true, _) => Some(ShedReason::Infeasible),
                (_, true) => Some(ShedReason::Admission),
                _ => None,
            };
            if let Some(reason) = verdict {
                self.unmeasured[lane.lane.site] |= reason == ShedReason::Infeasible;
                plan.shed.extend(self.lanes[i].queue.drain(..).map(|(_, item)| (item, reason)));
                continue;
            }
            while let Some((w, _)) = self.lanes[i].queue.front() {
                let (w, lane) = (*w, &self.lanes[i]);
                let (stream, site) = (lane.stream, lane.lane.site);
                let bypasses = match self.bypasses(lane, &w) {
                    None if self.way(lane, &w, start).is_some() => break,
                    None => self.skips(lane, &w).map(|rung| (rung, Why::Skipped)),
                    some => some,
                };
                let in_time = w.deadline.is_none_or(|d| now + self.sites[site].tail.mean() <= d);
                let late = self.came_late(site, &w);
                let Some((_, item)) = self.lanes[i].queue.pop_front() else { break };
                match bypasses.filter(|_| in_time) {
                    Some((rung, why)) => {
                        self.unmeasured[site] |= why == Why::Skipped;
                        plan.pass.push(Bypass { site, item, rung, why });
                    }
                    // What a source hands over too late says nothing about the device, and no rung would help.
                    None if late => {
                        self.unmeasured[site] = true;
                        plan.shed.push((item, ShedReason::Stale));
                    }
                    None => {
                        self.unmeasured[site] = true;
                        plan.shed.push((item, ShedReason::Deadline));
                        self.missed(now, Some(stream), true);
                    }
                }
            }
        }
    }

    /// Lets frames go on that need no device and stood behind those of the batch.
    pub(super) fn pass_on(&mut self, out: &mut Vec<Bypass<T>>) {
        for i in 0..self.lanes.len() {
            while let Some((rung, why)) =
                self.lanes[i].queue.front().and_then(|(w, _)| self.bypasses(&self.lanes[i], w))
            {
                let site = self.lanes[i].lane.site;
                if let Some((_, item)) = self.lanes[i].queue.pop_front() {
                    out.push(Bypass { site, item, rung, why });
                }
            }
        }
    }
}

impl Site {
    pub(super) fn loaded(&self) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(|v| v.is_loaded())
    }

    pub(super) fn quickest(&self) -> Option<usize> {
        (0..self.variants.len())
            .filter(|&v| self.variants[v].is_loaded())
            .min_by(|&a, &b| self.variants[a].cost.base(1).total_cmp(&self.variants[b].cost.base(1)))
    }
}

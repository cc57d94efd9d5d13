//! How waiting frames would run, and which of them need not or cannot.

use super::super::cost::Path;
use super::super::{Chosen, Plan, Site, Variant, Waiting};
use super::Planner;
use super::lane::LaneState;
use crate::frame::{Nanos, ShedReason};

/// How a frame would run: at which rung, as which variant of its stage, saved by a lower rung than its ceiling or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Way {
    pub(super) rung: usize,
    pub(super) variant: usize,
    pub(super) rescued: bool,
}

impl<T> Planner<T> {
    /// The best way in which a waiting frame of a lane can still be on time in a batch of one that starts at
    /// `start`, from its ceiling down.
    pub(super) fn way(&self, lane: &LaneState<T>, w: &Waiting, start: Nanos) -> Option<Way> {
        let site = &self.sites[lane.lane.site];
        let ceiling = self.streams[lane.stream].ladder.rung();
        let (first, last) = match w.rung {
            Some(fixed) => (fixed, fixed),
            None => (ceiling, if lane.lane.by_count { ceiling } else { self.rungs - 1 }),
        };
        for rung in first..=last {
            let Some(variant) = site.rungs.get(rung).and_then(|r| r.variant) else { continue };
            if !self.policy.tests_start() || self.alone[lane.lane.site][variant].fits(start, w) {
                return Some(Way { rung, variant, rescued: rung > first });
            }
        }
        None
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

    /// Whether the stage has nothing to do for this frame at its rung: it is switched off there, or the frame is one
    /// that a tracker carries.
    pub(super) fn carried(&self, lane: &LaneState<T>, w: &Waiting) -> Option<usize> {
        let site = &self.sites[lane.lane.site];
        let rung = w.rung.unwrap_or_else(|| self.streams[lane.stream].ladder.rung());
        let plan = site.rungs.get(rung)?;
        let every = u64::from(plan.every.max(1));
        // Streams take turns: with every third frame inferred, each frame time infers a third of the streams.
        let turn = (w.seq + u64::from(lane.lane.stream)).is_multiple_of(every);
        let overdue = lane.inferred.is_none_or(|last| w.seq.saturating_sub(last) >= every);
        (plan.variant.is_none() || !(turn || overdue)).then_some(rung)
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
                plan.shed.extend(self.lanes[i].queue.drain(..).map(|(_, item)| (item, reason)));
                continue;
            }
            while let Some((w, _)) = self.lanes[i].queue.front() {
                let (w, lane) = (*w, &self.lanes[i]);
                let (stream, site) = (lane.stream, lane.lane.site);
                let carried = self.carried(lane, &w);
                let hopeless = match carried {
                    Some(_) => w.deadline.is_some_and(|d| now + self.sites[site].tail.mean() > d),
                    None => self.way(lane, &w, start).is_none(),
                };
                if !hopeless && carried.is_none() {
                    break;
                }
                let Some((_, item)) = self.lanes[i].queue.pop_front() else { break };
                match carried {
                    Some(rung) if !hopeless => plan.pass.push((site, Chosen { item, rung, rescued: false })),
                    _ => {
                        plan.shed.push((item, ShedReason::Deadline));
                        self.missed(now, Some(stream), true);
                    }
                }
            }
        }
    }

    /// Lets frames go on that need no device and stood behind those of the batch.
    pub(super) fn pass_on(&mut self, out: &mut Vec<(usize, Chosen<T>)>) {
        for i in 0..self.lanes.len() {
            while let Some(rung) = self.lanes[i].queue.front().and_then(|(w, _)| self.carried(&self.lanes[i], w)) {
                let site = self.lanes[i].lane.site;
                if let Some((_, item)) = self.lanes[i].queue.pop_front() {
                    out.push((site, Chosen { item, rung, rescued: false }));
                }
            }
        }
    }
}

impl Site {
    pub(super) fn variants_of(&self, rungs: std::ops::Range<usize>) -> impl Iterator<Item = &Variant> {
        rungs.filter_map(|r| self.rungs.get(r)?.variant).filter_map(|v| self.variants.get(v))
    }

    pub(super) fn quickest(&self) -> Option<usize> {
        (0..self.variants.len())
            .min_by(|&a, &b| self.variants[a].cost.base(1).total_cmp(&self.variants[b].cost.base(1)))
    }
}

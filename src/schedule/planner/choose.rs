//! Which frames make the next batch.

use super::super::{Bypass, Chosen, Next, Plan, Policy, Waiting, Why};
use super::Planner;
use super::lane::LaneState;
use super::way::Way;
use crate::frame::{Nanos, ShedReason};

/// A stream that was served less than this share of what the others were, lately, is not passed over for a larger batch.
const LAGS: f64 = 0.91;
/// A larger batch must give so many times the frames per second of a smaller one.
const PAYS: f64 = 1.02;
/// The same under overload, where every frame counts and latency no longer does.
const PAYS_CROWDED: f64 = 1.002;

impl<T> Planner<T> {
    /// The frame of a lane that the choice under way would take next.
    pub(super) fn next_of<'l>(&self, lane: &'l LaneState<T>) -> Option<&'l Waiting> {
        if self.overloaded {
            return (lane.taken == 0).then(|| self.newest(lane)).flatten().map(|i| &lane.queue[i].0);
        }
        let (w, _) = lane.queue.get(lane.taken)?;
        // Behind a frame that is taken now, one that needs no device has to wait until that one is under way.
        (lane.taken == 0 || self.bypasses(lane, w).is_none()).then_some(w)
    }

    /// Under overload the newest frame that needs the device has the most time left; what waits before it gives way.
    pub(super) fn newest(&self, lane: &LaneState<T>) -> Option<usize> {
        lane.queue.iter().rposition(|(w, _)| self.bypasses(lane, w).is_none())
    }

    /// The lane whose frame goes next, leaving out what the choice under way has taken already. Frames that have begun
    /// go before those that have not.
    pub(super) fn best_lane(&self) -> Option<usize> {
        let mut best: Option<(usize, (bool, f64, Nanos, i64))> = None;
        for (i, lane) in self.lanes.iter().enumerate() {
            if lane.lane.by_count || lane.passed_over {
                continue;
            }
            let Some(w) = self.next_of(lane) else { continue };
            let stream = &self.streams[lane.stream];
            let served = if self.overloaded { stream.served } else { 0.0 };
            let due = if self.policy.by_deadline() { w.deadline.unwrap_or(Nanos::MAX) } else { w.ready };
            let key = (w.rung.is_none(), served, due, -i64::from(stream.priority));
            if best.as_ref().is_none_or(|(_, b)| {
                key.0.cmp(&b.0).then(key.1.total_cmp(&b.1)).then(key.2.cmp(&b.2)).then(key.3.cmp(&b.3)).is_lt()
            }) {
                best = Some((i, key));
            }
        }
        best.map(|(i, _)| i)
    }

    /// Takes the batch that gives the most frames per second with every member on time.
    pub(super) fn choose(&mut self, start: Nanos, plan: &mut Plan<T>) -> Option<Next> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        // Crops are of frames that have begun and are served as they come, in overload too.
        let crops = self.best_lane().is_some_and(|i| self.sites[self.lanes[i].lane.site].crops.is_some());
        let batch =
            if self.overloaded && !crops { self.gather(start, &mut order) } else { self.line_up(start, &mut order) };
        for &(i, way, _) in &order {
            self.take(i, way, start, plan);
        }
        self.order = order;
        for lane in &mut self.lanes {
            (lane.taken, lane.passed_over) = (0, false);
        }
        let (site, variant) = batch?;
        (!plan.run.is_empty()).then_some(Next::Run { site, variant })
    }

    /// Below the knee: earliest deadline first, as many as pay and can be on time together.
    pub(super) fn line_up(&mut self, start: Nanos, order: &mut Vec<(usize, Way, Waiting)>) -> Option<(usize, usize)> {
        let greedy = self.policy != Policy::Framegate;
        let mut batch: Option<(usize, usize)> = None;
        let (mut best, mut best_rate, mut tightest) = (0, 0.0, None::<Waiting>);
        let mut places = 0;
        while let Some(i) = self.best_lane() {
            let lane = &self.lanes[i];
            let Some(&w) = self.next_of(lane) else { break };
            let site = &self.sites[lane.lane.site];
            // Mixed rungs never share a batch, and neither do stages.
            let way = match self.way(lane, &w, start) {
                Some(way) if batch.is_none_or(|b| b == (lane.lane.site, way.variant)) => way,
                _ => {
                    self.lanes[i].passed_over = true;
                    continue;
                }
            };
            let variant = &site.variants[way.variant];
            let frames = order.len() + 1;
            places += way.places;
            if frames > 1 && places > variant.largest() {
                break;
            }
            let size = variant.warmed(places);
            if tightest.is_none_or(|t| w.deadline.unwrap_or(Nanos::MAX) < t.deadline.unwrap_or(Nanos::MAX)) {
                tightest = Some(w);
            }
            if frames > 1
                && self.policy.tests_start()
                && !tightest.is_none_or(|t| self.path(site, way.variant, (places, size)).fits(start, &t))
            {
                break;
            }
            // A larger batch must give more frames per second, not only more frames. b\* is no limit: a larger batch
            // starves some of those that arrive behind it, but a smaller one leaves more work to meet them.
            let rate = places as f64 / self.slowdown.bounded(&variant.cost, size).max(1) as f64;
            if best == 0 || rate > best_rate * PAYS || greedy {
                (best, best_rate) = (frames, rate);
            }
            batch = Some((lane.lane.site, way.variant));
            self.lanes[i].taken += 1;
            order.push((i, way, w));
        }
        // Where those left behind would come too late after this batch, but fit into it, they go with it.
        if let (Some((site, variant)), Some(&(_, _, next))) = (batch, order.get(best)) {
            let site = &self.sites[site];
            let places = |order: &[(usize, Way, Waiting)]| order.iter().map(|o| o.1.places).sum::<usize>();
            let (now, left) = (places(&order[..best]), places(&order[best..]));
            let v = &site.variants[variant];
            let then = start + self.slowdown.expected(&v.cost, v.warmed(now));
            if !self.path(site, variant, (left, v.warmed(left))).fits(then, &next) {
                best = order.len();
            }
        }
        order.truncate(best);
        batch
    }

    /// Under overload: the largest batch for which there are enough frames that still fit with it, and of those that
    /// fit the least served. Not all can be served, so frames with little time left do not make a batch small; and
    /// b\* is no limit, since those behind are too many anyway.
    pub(super) fn gather(&mut self, start: Nanos, order: &mut Vec<(usize, Way, Waiting)>) -> Option<(usize, usize)> {
        let first = loop {
            let i = self.best_lane()?;
            let lane = &self.lanes[i];
            if let Some(way) = self.next_of(lane).and_then(|w| self.way(lane, w, start)) {
                break (lane.lane.site, way.variant);
            }
            self.lanes[i].passed_over = true;
        };
        for (i, lane) in self.lanes.iter().enumerate().filter(|(_, l)| !l.lane.by_count && l.lane.site == first.0) {
            let Some(w) = self.next_of(lane) else { continue };
            let Some(way) = self.way(lane, w, start) else { continue };
            if way.variant == first.1 {
                order.push((i, way, *w));
            }
        }
        let (site, lanes) = (&self.sites[first.0], &self.lanes);
        let variant = &site.variants[first.1];
        let due = |w: &Waiting| w.deadline.unwrap_or(Nanos::MAX);
        order.sort_unstable_by_key(|(i, _, w)| std::cmp::Reverse((due(w), *i)));
        let served = |i: usize| self.streams[lanes[i].stream].served;
        let mean = order.iter().map(|o| served(o.0)).sum::<f64>() / order.len().max(1) as f64;
        let least = order.iter().min_by(|a, b| served(a.0).total_cmp(&served(b.0))).map(|o| (o.0, o.2));
        let starved = least.filter(|&(i, _)| served(i) < LAGS * mean).map(|(_, w)| w);
        let (mut best, mut fit, mut best_rate) = (1, order.len(), 0.0);
        for frames in 1..=order.len().min(variant.largest()) {
            let size = variant.warmed(frames);
            let path = self.path(site, first.1, (frames, size));
            let fits = |w: &Waiting| path.fits(start, w);
            if !fits(&order[frames - 1].2) || (frames > 1 && starved.is_some_and(|w| !fits(&w))) {
                break;
            }
            let rate = frames as f64 / self.slowdown.bounded(&variant.cost, size).max(1) as f64;
            if frames == 1 || rate > best_rate * PAYS_CROWDED {
                best_rate = rate;
                best = frames;
                fit = order.partition_point(|(_, _, w)| fits(w));
            }
        }
        order.truncate(fit.max(best));
        order.sort_unstable_by(|(i, _, a), (j, _, b)| {
            served(*i).total_cmp(&served(*j)).then(due(a).cmp(&due(b))).then(i.cmp(j))
        });
        order.truncate(best);
        Some(first)
    }

    /// Takes one frame of a lane into the batch. Under overload those that waited before it give way.
    pub(super) fn take(&mut self, i: usize, way: Way, start: Nanos, plan: &mut Plan<T>) {
        let before = if self.overloaded { self.newest(&self.lanes[i]).unwrap_or(0) } else { 0 };
        let (index, site) = (self.lanes[i].stream, self.lanes[i].lane.site);
        for _ in 0..before {
            let lane = &self.lanes[i];
            let bypasses = lane.queue.front().and_then(|(w, _)| match self.bypasses(lane, w) {
                None => self.skips(lane, w).map(|rung| (rung, Why::Skipped)),
                some => some,
            });
            let Some((_, item)) = self.lanes[i].queue.pop_front() else { break };
            match bypasses {
                Some((rung, why)) => plan.pass.push(Bypass { site, item, rung, why }),
                None => {
                    plan.shed.push((item, ShedReason::Overload));
                    self.missed(start, Some(index), true);
                }
            }
        }
        let lane = &mut self.lanes[i];
        let stream = &mut self.streams[lane.stream];
        if let Some((w, item)) = lane.queue.pop_front() {
            stream.served += 0.5f64.powi(stream.priority.clamp(-20, 20));
            if let Some(deadline) = w.deadline {
                let allowed = deadline.saturating_sub(w.captured).max(1);
                self.device.waited(start.saturating_sub(w.ready) as f64 / allowed as f64);
            }
            lane.inferred = Some(w.seq);
            plan.run.push(Chosen { item, rung: way.rung, rescued: way.rescued, places: way.places });
        }
    }

    /// Takes a full batch of one offline stream, or what is left of one that has ended, the streams in turn.
    pub(super) fn choose_by_count(&mut self, plan: &mut Plan<T>) -> Option<Next> {
        for k in 0..self.lanes.len() {
            let i = (self.next_by_count + k) % self.lanes.len();
            let lane = &self.lanes[i];
            if !lane.lane.by_count {
                continue;
            }
            let Some(way) = lane.queue.front().and_then(|(w, _)| self.way(lane, w, 0)) else { continue };
            let full = self.sites[lane.lane.site].variants[way.variant].largest();
            // A frame that needs no device or runs at another rung ends the batch before it: streams keep their order.
            let joins = |w: &Waiting| w.rung.is_none_or(|r| r == way.rung) && self.bypasses(lane, w).is_none();
            let (mut n, mut places) = (0, 0);
            for (w, _) in lane.queue.iter().take_while(|(w, _)| joins(w)) {
                let more = w.places.min(full);
                if places + more > full {
                    break;
                }
                (n, places) = (n + 1, places + more);
            }
            let site = lane.lane.site;
            if n > 0 && (places == full || n < lane.queue.len() || lane.ended) {
                let lane = &mut self.lanes[i];
                for (w, item) in lane.queue.drain(..n) {
                    lane.inferred = Some(w.seq);
                    let places = w.places.min(full);
                    plan.run.push(Chosen { item, rung: way.rung, rescued: false, places });
                }
                self.next_by_count = i + 1;
                return Some(Next::Run { site, variant: way.variant });
            }
        }
        None
    }
}

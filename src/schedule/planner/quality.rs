//! What the ladder is told of the streams and the device.

use super::super::Policy;
use super::super::ladder::{self, Usage};
use super::Planner;
use crate::frame::{Nanos, clock::MILLI};

/// The ladder looks this often.
const LADDER_EVERY: Nanos = 50 * MILLI;

impl<T> Planner<T> {
    /// Lets the ladder look at every stream.
    pub(super) fn climb(&mut self, now: Nanos) {
        let due = now >= self.climbed_at + LADDER_EVERY && now >= self.calm_until;
        if self.rungs.count() < 2 || self.policy != Policy::Framegate || !due {
            return;
        }
        self.climbed_at = now;
        self.weigh();
        ladder::look(now, &mut self.streams, &mut self.rungs, &mut self.device);
    }

    /// What each stream asks of the device at each rung.
    pub(super) fn weigh(&mut self) {
        let device = &mut self.device;
        device.slots = self.slots as f64;
        device.variants.clear();
        for v in self.sites.iter().flat_map(|s| &s.variants) {
            let alpha = self.slowdown.fixed(&v.cost) as f64;
            let each = self.slowdown.expected(&v.cost, 1) as f64 - alpha;
            device.variants.push(Usage::new((alpha, each), v.largest()));
        }
        for (i, stream) in self.streams.iter_mut().enumerate() {
            stream.demand.clear(self.rungs.count());
            // A stage behind another sees fewer frames once that one sheds, but would see all of them.
            let lanes = || self.lanes.iter().filter(|l| l.stream == i && !l.ended && !l.lane.by_count);
            let Some(period) = lanes().map(|l| l.period).filter(|&p| p > 0).min() else { continue };
            for lane in lanes() {
                let before: usize = self.sites[..lane.lane.site].iter().map(|s| s.variants.len()).sum();
                let site = &self.sites[lane.lane.site];
                let deadline = lane.lane.deadline.unwrap_or(Nanos::MAX / 4);
                let allowed = deadline.saturating_sub(lane.lag);
                let half = deadline.saturating_sub(site.tail.mean()).max(1) as f64 / 2.0;
                for (rung, plan) in site.rungs.iter().enumerate() {
                    let Some((i, v)) = plan.variant.and_then(|i| Some((i, site.variants.get(i)?))) else { continue };
                    let alone = self.slowdown.path(&v.cost, &site.tail, (1, 1), 0);
                    // A frame is never shed for crops that do not fit.
                    let (places, fits) = match site.crops {
                        Some(_) => (lane.usual.min(v.largest() as f64), true),
                        None => (1.0, alone.cautious() <= allowed),
                    };
                    let rate = places / period as f64 / f64::from(plan.every.max(1));
                    stream.demand.add(rung, before + i, rate, fits);
                    let usage = &mut device.variants[before + i];
                    usage.half = usage.half.min(half);
                }
            }
        }
    }
}

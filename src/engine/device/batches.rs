//! How long batches really took, for the report: by how much longer than the model says, how much that varies, and for
//! how long it stays.

use super::Route;
use crate::frame::Nanos;
use crate::schedule::Planner;
use crate::telemetry::Drift;

/// For each way of running each stage.
#[derive(Default)]
pub struct Batches(Vec<Measured>);

/// What came of one way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Took {
    /// Times as long as by the model, on average.
    pub factor: f64,
    /// Deviation as a share of a batch's span.
    pub spread: f64,
    /// The part of it that stays for a while; `None` where too few batches ran.
    pub drift: Option<Drift>,
}

struct Measured {
    route: Route,
    /// What came before the report's own window counts only where nothing came in it.
    settled: bool,
    first: Nanos,
    last: Nanos,
    factors: f64,
    /// Of the factors' logarithms: sum, sum of squares, and sums of the products with those one and [`FAR`] before.
    logs: [f64; 4],
    count: u64,
    recent: [f64; FAR],
}

/// Batches between two that are compared.
const FAR: usize = 8;
/// Fewer batches say nothing about what stays.
const FEWEST: u64 = 64;

impl Batches {
    /// A batch that started at `started` took `span`. Latencies count from `window` on.
    pub fn note<T>(
        &mut self,
        planner: &Planner<T>,
        route: Route,
        places: usize,
        (started, span): (Nanos, Nanos),
        window: Nanos,
    ) {
        let variant = planner.sites().get(route.site).and_then(|s| s.variants.get(route.variant));
        let model = variant.map_or(0, |v| v.cost.alpha() + v.cost.beta() * v.warmed(places) as Nanos);
        if model == 0 || span == 0 {
            return;
        }
        let at = match self.0.iter().position(|m| m.route == route) {
            Some(at) => at,
            None => {
                self.0.push(Measured::new(route, false));
                self.0.len() - 1
            }
        };
        let m = &mut self.0[at];
        if !m.settled && started >= window {
            *m = Measured::new(route, true);
        }
        m.observe(started, span as f64 / model as f64);
    }

    /// What came of one way; `None` where nothing ran.
    pub fn took(&self, route: Route) -> Option<Took> {
        self.0.iter().find(|m| m.route == route).map(Measured::took)
    }
}

impl Measured {
    fn new(route: Route, settled: bool) -> Self {
        Self { route, settled, first: 0, last: 0, factors: 0.0, logs: [0.0; 4], count: 0, recent: [0.0; FAR] }
    }

    fn observe(&mut self, started: Nanos, factor: f64) {
        let x = factor.ln();
        let n = self.count as usize;
        if n == 0 {
            self.first = started;
        }
        self.last = started;
        let [sum, squares, near, far] = &mut self.logs;
        *sum += x;
        *squares += x * x;
        if n >= 1 {
            *near += x * self.recent[(n - 1) % FAR];
        }
        if n >= FAR {
            *far += x * self.recent[n % FAR];
        }
        self.recent[n % FAR] = x;
        self.factors += factor;
        self.count += 1;
    }

    fn took(&self) -> Took {
        let n = self.count.max(1) as f64;
        let mean = self.logs[0] / n;
        let variance = (self.logs[1] / n - mean * mean).max(0.0);
        Took { factor: self.factors / n, spread: variance.sqrt(), drift: self.drift(mean, variance) }
    }

    /// The autocovariances one and [`FAR`] batches apart are those of a first-order autoregressive process with white
    /// noise on top: its share of the variance, and for how long it stays.
    fn drift(&self, mean: f64, variance: f64) -> Option<Drift> {
        if self.count < FEWEST || variance <= 0.0 {
            return None;
        }
        let apart = |sum: f64, by: usize| (sum / (self.count - by as u64) as f64 - mean * mean) / variance;
        let (near, far) = (apart(self.logs[2], 1), apart(self.logs[3], FAR));
        if near <= 0.0 {
            return Some(Drift { share: 0.0, lasts_ms: 0.0 });
        }
        let kept = if far > 0.0 && far < near { (far / near).powf(1.0 / (FAR - 1) as f64) } else { near };
        let kept = kept.clamp(near, 0.999);
        let gap = (self.last - self.first) as f64 / (self.count - 1) as f64 / 1e6;
        Some(Drift { share: (near / kept).min(1.0), lasts_ms: -gap / kept.ln() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::MILLI;

    #[test]
    fn what_stays_is_told_from_what_does_not() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut normal = move || (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        let route = Route { site: 0, variant: 0 };
        let (mut m, mut plain) = (Measured::new(route, true), Measured::new(route, true));
        let (kept, mut slow) = (0.9f64, 0.0);
        for n in 0..50_000 {
            slow = kept * slow + (1.0 - kept * kept).sqrt() * normal();
            let x = 0.06 * (0.8f64.sqrt() * slow + 0.2f64.sqrt() * normal());
            m.observe(n * 10 * MILLI, 1.2 * x.exp());
            plain.observe(n * 10 * MILLI, (0.06 * normal()).exp());
        }
        let took = m.took();
        assert!((took.factor - 1.2).abs() < 0.01 && (took.spread - 0.06).abs() < 0.002, "{took:?}");
        let drift = took.drift.expect("enough");
        // e-folding of 0.9 a batch is 9.5 batches.
        assert!((drift.share - 0.8).abs() < 0.05 && (drift.lasts_ms - 95.0).abs() < 10.0, "{drift:?}");
        assert!(plain.took().drift.expect("enough").share < 0.05, "{:?}", plain.took());
    }
}

//! How long work will take: a linear model of batches, corrected while running.

use crate::frame::Nanos;

/// A running mean with its deviation: exponentially weighted, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    mean: f64,
    variance: f64,
    seen: u32,
}

/// Weight of one new measurement, once enough have been seen.
const GAIN: f64 = 0.08;

impl Estimate {
    /// Takes a measurement in. A single outlier moves the mean by at most three deviations' worth; a real step is
    /// believed as soon as it repeats, because every outlier widens the deviation and lets the next one further in.
    pub fn observe(&mut self, span: Nanos) {
        let x = span as f64;
        if self.seen == 0 {
            *self = Self { mean: x, variance: (x * 0.1).powi(2), seen: 1 };
            return;
        }
        self.seen = self.seen.saturating_add(1);
        let gain = GAIN.max(1.0 / self.seen as f64);
        let bound = 3.0 * self.variance.sqrt().max(self.mean * 0.1).max(20_000.0);
        let step = (x - self.mean).clamp(-bound, bound);
        self.mean += gain * step;
        self.variance = (1.0 - gain) * (self.variance + gain * step * step);
    }

    /// The mean.
    pub fn mean(&self) -> Nanos {
        self.mean.max(0.0) as Nanos
    }

    /// Mean plus `k` deviations.
    pub fn upper(&self, k: f64) -> Nanos {
        (self.mean + k * self.variance.sqrt()).max(0.0) as Nanos
    }

    fn variance(&self) -> f64 {
        self.variance
    }

    /// Forgets a part of the deviation, when nothing has been measured for a while.
    pub fn relax(&mut self) {
        self.variance *= 0.5;
    }
}

/// What a frame still costs from its start on a device to the sinks' queues.
///
/// A batch of b takes `ξ·(α + β·b) + k·σ`: α and β from a calibration, the slowdown ξ with its deviation σ from what
/// batches really took (after ALERT, USENIX ATC 2020). Around it stand the preprocess of each frame, and the tail behind
/// the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    alpha: f64,
    beta: f64,
    slowdown: f64,
    slowdown_variance: f64,
    /// Pixels to tensor, one frame.
    pub prepare: Estimate,
    /// From the end of the batch to the sinks' queues.
    pub tail: Estimate,
}

/// Deviations added to a mean, so that about one estimate in a hundred is exceeded.
const K: f64 = 2.3;

impl Cost {
    /// A model through measured (batch size, span) points, by least squares; α and β are never negative.
    pub fn fit(points: &[(usize, Nanos)]) -> Self {
        let n = points.len().max(1) as f64;
        let mx = points.iter().map(|p| p.0 as f64).sum::<f64>() / n;
        let my = points.iter().map(|p| p.1 as f64).sum::<f64>() / n;
        let sxx: f64 = points.iter().map(|p| (p.0 as f64 - mx).powi(2)).sum();
        let sxy: f64 = points.iter().map(|p| (p.0 as f64 - mx) * (p.1 as f64 - my)).sum();
        let per_frame = if mx > 0.0 { my / mx } else { 0.0 };
        let (alpha, beta) = if sxx > 0.0 {
            let beta = (sxy / sxx).max(0.0);
            let alpha = my - beta * mx;
            // Noise can push the line below zero at b = 0: then all of the cost is per frame.
            if alpha < 0.0 { (0.0, per_frame) } else { (alpha, beta) }
        } else {
            (0.0, per_frame)
        };
        Self {
            alpha,
            beta,
            slowdown: 1.0,
            slowdown_variance: 0.0025,
            prepare: Estimate::default(),
            tail: Estimate::default(),
        }
    }

    /// Fixed cost of a batch, as calibrated.
    pub fn alpha(&self) -> Nanos {
        self.alpha as Nanos
    }
    /// Cost of one more frame in a batch, as calibrated.
    pub fn beta(&self) -> Nanos {
        self.beta as Nanos
    }
    /// ξ: how much slower the device is than when it was calibrated.
    pub fn slowdown(&self) -> f64 {
        self.slowdown
    }

    fn base(&self, b: usize) -> f64 {
        self.alpha + self.beta * b as f64
    }

    /// The batch's expected span.
    pub fn expected(&self, b: usize) -> Nanos {
        (self.slowdown * self.base(b)) as Nanos
    }

    /// The batch's span with its safety margin.
    pub fn bounded(&self, b: usize) -> Nanos {
        ((self.slowdown + K * self.slowdown_variance.sqrt()) * self.base(b)) as Nanos
    }

    /// Everything from now on for `frames` frames that start with their preprocess now and run as a batch of `size`
    /// (the warmed size at or above their number): what is expected, and for safety the deviations of all parts
    /// together and `margin`.
    ///
    /// Safety takes at most half of what the expectation leaves of `allowance` (captured to deadline): in bad times an
    /// idle device still serves a fresh frame, where more caution would shed every frame and learn nothing.
    pub fn path(&self, frames: usize, size: usize, margin: Nanos, allowance: Nanos) -> Nanos {
        let expected = self.prepare.mean() * frames as Nanos + self.expected(size) + self.tail.mean();
        let variance = self.prepare.variance() * frames as f64
            + self.slowdown_variance * self.base(size).powi(2)
            + self.tail.variance();
        let safety = (K * variance.sqrt()) as Nanos + margin;
        expected + safety.min(allowance.saturating_sub(expected) / 2)
    }

    /// The device took `span` for a batch of `b`. One outlier counts as at most twice what was expected; a step change
    /// is followed within about ten batches.
    pub fn observe(&mut self, b: usize, span: Nanos) {
        let base = self.base(b);
        if base <= 0.0 {
            return;
        }
        let x = (span as f64 / base).clamp(self.slowdown * 0.25, self.slowdown * 2.0 + 0.5);
        let step = x - self.slowdown;
        // Slower is believed faster than quicker is: a wrong guess in that direction only costs throughput.
        let gain = if step > 0.0 { 0.15 } else { GAIN };
        self.slowdown = (self.slowdown + gain * step).clamp(0.01, 10_000.0);
        self.slowdown_variance = (1.0 - GAIN) * (self.slowdown_variance + GAIN * step * step);
    }

    /// Nothing has been measured for a while: deviations shrink, so that a wrong estimate heals.
    pub fn relax(&mut self) {
        self.slowdown_variance *= 0.5;
        self.tail.relax();
        self.prepare.relax();
    }

    /// b\* = ⌊((D − tail)/2 − α)/β⌋, at least 1: a larger batch starves the frames that arrive behind it.
    pub fn largest_batch(&self, deadline: Nanos) -> usize {
        let half = deadline.saturating_sub(self.tail.mean()) as f64 / 2.0;
        let per_frame = self.slowdown * self.beta + self.prepare.mean() as f64;
        if per_frame < 1.0 {
            return usize::MAX;
        }
        ((half - self.slowdown * self.alpha) / per_frame).floor().max(1.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::MILLI;

    #[test]
    fn a_fit_finds_alpha_and_beta() {
        let c = Cost::fit(&[(1, 5_200_000), (2, 6_400_000), (4, 8_800_000), (8, 13_600_000)]);
        assert!((c.alpha() as i64 - 4_000_000).abs() < 1000, "{c:?}");
        assert!((c.beta() as i64 - 1_200_000).abs() < 1000, "{c:?}");
    }

    #[test]
    fn one_point_is_all_per_frame() {
        let c = Cost::fit(&[(1, 6_000_000)]);
        assert_eq!((c.alpha(), c.beta()), (0, 6_000_000));
    }

    #[test]
    fn a_step_change_is_followed_and_an_outlier_is_not() {
        let mut c = Cost::fit(&[(1, 10 * MILLI)]);
        for _ in 0..50 {
            c.observe(1, 10 * MILLI);
        }
        c.observe(1, 400 * MILLI);
        assert!(c.expected(1) < 14 * MILLI, "one outlier: {}", c.expected(1));
        for _ in 0..20 {
            c.observe(1, 20 * MILLI);
        }
        assert!(c.expected(1) > 18 * MILLI, "a step: {}", c.expected(1));
    }

    #[test]
    fn the_batch_cap_is_the_formulas() {
        let c = Cost::fit(&[(1, 5_200_000), (8, 13_600_000)]);
        // ((33 − 0)/2 − 4)/1.2 = 10.4
        assert_eq!(c.largest_batch(33 * MILLI), 10);
    }
}

//! How long work will take: a linear model of batches, corrected while running.

use super::Waiting;
use super::trace::bits;
use crate::frame::Nanos;
use serde::{Deserialize, Serialize};

/// A running mean with its deviation: exponentially weighted, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    #[serde(with = "bits")]
    mean: f64,
    #[serde(with = "bits")]
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

    pub(super) fn variance(&self) -> f64 {
        self.variance
    }

    /// Forgets a part of the deviation, when nothing has been measured for a while.
    pub fn relax(&mut self) {
        self.variance *= 0.5;
    }

    /// Forgets a part of all that was measured, where only a lower estimate lets anything be measured again.
    pub(super) fn fade(&mut self) {
        self.mean *= 0.7;
        self.variance *= 0.5;
    }
}

/// What one way of running a stage costs: α + β·b for a batch of b, as calibrated on an otherwise idle device, and the
/// preprocess of a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    #[serde(with = "bits")]
    alpha: f64,
    #[serde(with = "bits")]
    beta: f64,
    /// By how much this one is off when the device's slowdown is taken out; learnt slowly.
    #[serde(with = "bits")]
    bias: f64,
    /// Pixels to tensor, one frame.
    pub prepare: Estimate,
}

/// Deviations added to a mean, so that about one estimate in a hundred is exceeded.
pub(super) const K: f64 = 2.3;
/// Weight of one batch in what is learnt of its own bias.
const BIAS_GAIN: f64 = 0.01;
/// The same of one that says little of its device.
const BIAS_GAIN_TINY: f64 = 0.1;

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
        Self::of(alpha as Nanos, beta as Nanos)
    }

    /// A model with these costs, nanoseconds: a batch's fixed part, and each frame's.
    pub fn of(alpha: Nanos, beta: Nanos) -> Self {
        Self { alpha: alpha as f64, beta: beta as f64, bias: 1.0, prepare: Estimate::default() }
    }

    /// Fixed cost of a batch, as calibrated.
    pub fn alpha(&self) -> Nanos {
        self.alpha as Nanos
    }
    /// Cost of one more frame in a batch, as calibrated.
    pub fn beta(&self) -> Nanos {
        self.beta as Nanos
    }

    /// A batch's span on a device that is as fast as when it was calibrated, nanoseconds.
    pub(super) fn base(&self, b: usize) -> f64 {
        self.bias * (self.alpha + self.beta * b as f64)
    }

    fn per_frame(&self) -> f64 {
        self.bias * self.beta
    }
}

/// ξ: how many times slower a device is than when it was calibrated, with its deviation (after ALERT, USENIX ATC 2020).
/// One for each device: what slows one model down slows all of them down.
#[derive(Debug, Clone, PartialEq)]
pub struct Slowdown {
    mean: f64,
    variance: f64,
    /// Consecutive surprises in one direction: slower counts up, faster counts down.
    streak: i32,
}

impl Default for Slowdown {
    fn default() -> Self {
        Self { mean: 1.0, variance: 0.0025, streak: 0 }
    }
}

/// A batch that costs as much as this or more tells all about its device, nanoseconds; a smaller one its share.
const TELLING: f64 = 1e6;

/// What lies before a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Path {
    expected: Nanos,
    safety: Nanos,
}

impl Path {
    /// How long that is to be taken for, where `allowance` is what a frame has had until its deadline since it was ready.
    ///
    /// Safety takes at most half of what the expectation leaves of it: in bad times an idle device still serves a fresh
    /// frame, where more caution would shed every frame and learn nothing.
    pub(super) fn within(self, allowance: Nanos) -> Nanos {
        self.expected + self.safety.min(allowance.saturating_sub(self.expected) / 2)
    }

    /// With all caution.
    pub(super) fn cautious(self) -> Nanos {
        self.expected + self.safety
    }

    /// Whether a frame that starts then meets its deadline.
    pub(super) fn fits(self, start: Nanos, w: &Waiting) -> bool {
        w.deadline.is_none_or(|d| start + self.within(d.saturating_sub(w.ready)) <= d)
    }

    /// The same for what a frame can do without: with all caution that half of its whole time allows.
    pub(super) fn surely_fits(self, start: Nanos, w: &Waiting) -> bool {
        w.deadline.is_none_or(|d| start + self.within(d.saturating_sub(w.captured)) <= d)
    }
}

/// So many surprises in a row are a step change.
const STEP: i32 = 3;

impl Slowdown {
    /// ξ.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The deviation of ξ.
    pub fn deviation(&self) -> f64 {
        self.variance.sqrt()
    }

    /// The device took `span` for a batch of `b` that costs `cost`. One outlier counts as at most twice what was
    /// expected; three surprises in a row are a step change, which is followed within a few batches.
    pub fn observe(&mut self, cost: &mut Cost, b: usize, span: Nanos) {
        let base = cost.base(b);
        if base <= 0.0 {
            return;
        }
        let x = (span as f64 / base).clamp(self.mean * 0.25, self.mean * 2.0 + 0.5);
        let step = x - self.mean;
        // A batch of microseconds takes many times as long as calibrated whenever a cache is cold: that says something of
        // itself and little of the device.
        let weight = (base / TELLING).min(1.0);
        let surprise = step.abs() > 1.5 * self.deviation().max(0.05 * self.mean);
        // A step that is being followed has widened the deviation: it is followed until it is passed, not until it
        // surprises no more.
        let following = self.streak.abs() >= STEP && (step > 0.0) == (self.streak > 0);
        if weight < 0.5 {
            // Says nothing about steps.
        } else if surprise || following {
            self.streak = if step > 0.0 { self.streak.max(0) + 1 } else { self.streak.min(0) - 1 };
        } else {
            self.streak = 0;
        }
        let gain = weight
            * match (self.streak.abs() >= STEP, step > 0.0) {
                (true, _) => 0.4,
                // Slower is believed faster than quicker is: a wrong guess in that direction only costs throughput.
                (false, true) => 0.15,
                (false, false) => GAIN,
            };
        self.mean = (self.mean + gain * step).clamp(0.01, 10_000.0);
        let spread = weight * GAIN;
        self.variance = (1.0 - spread) * (self.variance + spread * step * step);
        let own = span as f64 / (base * self.mean);
        let (most, gain) = if weight < 0.5 { (50.0, BIAS_GAIN_TINY) } else { (2.0, BIAS_GAIN) };
        cost.bias = (cost.bias * (1.0 + gain * (own.clamp(0.5, 2.0) - 1.0))).clamp(1.0 / most, most);
    }

    /// Nothing has been measured for a while: the deviation shrinks, so that a wrong estimate heals.
    pub fn relax(&mut self) {
        self.variance *= 0.5;
    }

    /// A batch's expected span.
    pub fn expected(&self, cost: &Cost, b: usize) -> Nanos {
        (self.mean * cost.base(b)) as Nanos
    }

    /// The expected fixed part of a batch.
    pub(super) fn fixed(&self, cost: &Cost) -> Nanos {
        (self.mean * cost.bias * cost.alpha) as Nanos
    }

    /// A batch's span with its safety margin.
    pub fn bounded(&self, cost: &Cost, b: usize) -> Nanos {
        ((self.mean + K * self.deviation()) * cost.base(b)) as Nanos
    }

    /// Everything from now on for `frames` frames that start with their preprocess now and run as a batch of `size`
    /// (the warmed size at or above their number), with `tail` behind the device: what is expected, and for safety the
    /// deviations of all parts together and `margin`.
    pub(super) fn path(&self, cost: &Cost, tail: &Estimate, batch: (usize, usize), margin: Nanos) -> Path {
        let (frames, size) = batch;
        let variance =
            cost.prepare.variance() * frames as f64 + self.variance * cost.base(size).powi(2) + tail.variance();
        Path {
            expected: cost.prepare.mean() * frames as Nanos + self.expected(cost, size) + tail.mean(),
            safety: (K * variance.sqrt()) as Nanos + margin,
        }
    }

    /// b\* = ⌊((D − tail)/2 − α)/β⌋, at least 1: a larger batch starves the frames that arrive behind it.
    pub fn largest_batch(&self, cost: &Cost, tail: &Estimate, deadline: Nanos) -> usize {
        let half = deadline.saturating_sub(tail.mean()) as f64 / 2.0;
        let per_frame = self.mean * cost.per_frame() + cost.prepare.mean() as f64;
        if per_frame < 1.0 {
            return usize::MAX;
        }
        ((half - self.mean * cost.bias * cost.alpha) / per_frame).floor().max(1.0) as usize
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
    fn a_step_change_is_followed_within_half_a_second_and_an_outlier_is_not() {
        let (mut c, mut xi) = (Cost::fit(&[(1, 10 * MILLI)]), Slowdown::default());
        for _ in 0..50 {
            xi.observe(&mut c, 1, 10 * MILLI);
        }
        xi.observe(&mut c, 1, 400 * MILLI);
        assert!(xi.expected(&c, 1) < 14 * MILLI, "one outlier: {}", xi.expected(&c, 1));
        // Half a second at 30 batches a second, up and down again.
        for (span, low, high) in [(20 * MILLI, 18 * MILLI, 22 * MILLI), (10 * MILLI, 9 * MILLI, 11 * MILLI)] {
            for _ in 0..15 {
                xi.observe(&mut c, 1, span);
            }
            let e = xi.expected(&c, 1);
            assert!(e > low && e < high, "a step to {span}: {e}");
        }
    }

    #[test]
    fn one_models_own_bias_is_kept_apart_from_the_devices_slowdown() {
        let (mut a, mut b) = (Cost::of(0, 10 * MILLI), Cost::of(0, 5 * MILLI));
        let mut xi = Slowdown::default();
        // b was calibrated 20 % too low; the device is twice as slow as it was.
        for _ in 0..2000 {
            xi.observe(&mut a, 1, 20 * MILLI);
            xi.observe(&mut b, 1, 12 * MILLI);
        }
        let (a, b) = (xi.expected(&a, 1) as f64 / 20e6, xi.expected(&b, 1) as f64 / 12e6);
        assert!((a - 1.0).abs() < 0.05 && (b - 1.0).abs() < 0.05, "{a} {b}");
    }

    #[test]
    fn a_tiny_model_beside_a_large_one_does_not_make_the_device_look_slow() {
        // 20 µs as calibrated in a loop, 200 µs where its caches are cold.
        let (mut large, mut tiny) = (Cost::of(0, 5 * MILLI), Cost::of(0, MILLI / 50));
        let mut xi = Slowdown::default();
        for _ in 0..1000 {
            xi.observe(&mut large, 1, 5 * MILLI);
            xi.observe(&mut tiny, 1, MILLI / 5);
            assert!(xi.mean() < 1.15, "{}", xi.mean());
        }
        let learnt = xi.expected(&tiny, 1);
        assert!(learnt > MILLI / 10, "its own cost is learnt: {learnt}");
    }

    #[test]
    fn the_batch_cap_is_the_formulas() {
        let c = Cost::fit(&[(1, 5_200_000), (8, 13_600_000)]);
        // ((33 − 0)/2 − 4)/1.2 = 10.4
        assert_eq!(Slowdown::default().largest_batch(&c, &Estimate::default(), 33 * MILLI), 10);
    }
}

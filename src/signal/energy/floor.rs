//! The noise floor: what the power is while nobody sends.

use super::super::{Complex32, decibels};

/// Samples of a mean that the floor learns from, in averaging lengths, and how many of these the first floor needs.
const MEAN: usize = 16;
const FIRST: u32 = 16;
/// Share of a new mean in the floor.
const SHARE: f64 = 0.05;

/// A noise floor that follows a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    value: Option<f64>,
    least: f64,
    /// A mean that is lower than the floor over this says that the floor was none.
    below: f64,
    /// Samples of a mean, and those of the current one.
    length: usize,
    sum: f64,
    count: usize,
    /// Means while the floor is not known, and the lowest of them.
    means: u32,
    lowest: f64,
}

impl Floor {
    /// A floor, known or not; `off` is the lower threshold in dB, `smooth` the averaging length of the detector.
    pub(super) fn new(value: Option<f64>, least: f64, off: f32, smooth: usize) -> Self {
        let below = 10f64.powf(f64::from(off) / 10.0);
        Self { value, least, below, length: smooth * MEAN, sum: 0.0, count: 0, means: 0, lowest: f64::INFINITY }
    }

    /// The floor as a power, once it is known.
    pub(super) fn value(&self) -> Option<f64> {
        self.value
    }

    /// A burst begins: the current mean is not of noise.
    pub(super) fn interrupt(&mut self) {
        (self.sum, self.count) = (0.0, 0);
    }

    /// What was learned does not hold any more; unless it was given, it is learned anew.
    pub(super) fn forget(&mut self, given: bool) {
        let value = self.value.filter(|_| given);
        *self = Self { value, sum: 0.0, count: 0, means: 0, lowest: f64::INFINITY, ..*self };
    }

    /// Follows the power of a sample outside bursts.
    #[inline]
    pub(super) fn learn(&mut self, power: f32) {
        self.sum += f64::from(power);
        self.count += 1;
        if self.count == self.length {
            let mean = (self.sum / self.count as f64).max(self.least);
            self.interrupt();
            self.follow(mean);
        }
    }

    fn follow(&mut self, mean: f64) {
        match self.value {
            None => {
                self.lowest = self.lowest.min(mean);
                self.means += 1;
                if self.means >= FIRST {
                    self.value = Some(self.lowest);
                }
            }
            // Far below: what was learned was no noise.
            Some(v) if mean * self.below < v => self.value = Some(mean),
            Some(v) => self.value = Some(v + SHARE * (mean - v)),
        }
    }
}

/// The noise floor of a whole recording in dBFS: the mean power of its quietest tenth, in stretches of 256 samples.
/// `None` for less than one stretch.
pub fn estimate_floor(samples: &[Complex32]) -> Option<f32> {
    let mut means: Vec<f64> = samples
        .chunks_exact(256)
        .map(|c| c.iter().map(|x| f64::from(x.norm_sqr())).filter(|p| p.is_finite()).sum::<f64>() / 256.0)
        .collect();
    means.sort_by(f64::total_cmp);
    let quiet = means.get(..means.len().div_ceil(10)).filter(|q| !q.is_empty())?;
    Some(decibels((quiet.iter().sum::<f64>() / quiet.len() as f64) as f32))
}

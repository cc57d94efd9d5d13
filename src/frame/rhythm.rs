//! The beat of a stream: how far apart its frames are captured, when, and how evenly.

use super::Nanos;

/// A stream's frames on a straight line over their numbers, by least squares (updated as Welford does, 1962).
#[derive(Debug, Clone, Copy, Default)]
pub struct Rhythm {
    first: Nanos,
    last: Nanos,
    frames: u64,
    mean_number: f64,
    mean_time: f64,
    numbers: f64,
    products: f64,
    times: f64,
}

/// A regular beat.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beat {
    /// Between two frames, nanoseconds.
    pub period: f64,
    /// When a frame is captured, on average, [clock](super::clock) nanoseconds; others are periods away.
    pub at: f64,
    /// Deviation of captures from the beat, nanoseconds.
    pub deviation: f64,
}

/// Fewer frames are no beat.
const FEWEST: u64 = 8;
/// A pause of so many periods ends a beat and begins another.
const BREAK: f64 = 2.5;

impl Rhythm {
    /// A frame was captured at `at`.
    pub fn beats(&mut self, at: Nanos) {
        if self.frames >= FEWEST && at.saturating_sub(self.last) as f64 > BREAK * self.period() {
            *self = Self::default();
        }
        if self.frames == 0 {
            self.first = at;
        }
        self.last = at;
        let (number, time) = (self.frames as f64, at.saturating_sub(self.first) as f64);
        self.frames += 1;
        let (dn, dt) = (number - self.mean_number, time - self.mean_time);
        self.mean_number += dn / self.frames as f64;
        self.mean_time += dt / self.frames as f64;
        self.numbers += dn * (number - self.mean_number);
        self.products += dn * (time - self.mean_time);
        self.times += dt * (time - self.mean_time);
    }

    fn period(&self) -> f64 {
        if self.numbers > 0.0 { self.products / self.numbers } else { 0.0 }
    }

    /// The beat since the last break; `None` while there were too few frames.
    pub fn beat(&self) -> Option<Beat> {
        let period = self.period();
        let enough = self.frames >= FEWEST && period > 0.0;
        enough.then(|| Beat {
            period,
            at: self.first as f64 + self.mean_time - period * self.mean_number,
            deviation: ((self.times - period * self.products).max(0.0) / self.frames as f64).sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::{MILLI, SECOND};

    #[test]
    fn period_phase_and_jitter_are_found() {
        let mut rhythm = Rhythm::default();
        let mut rng = fastrand::Rng::with_seed(1);
        for n in 0..3000 {
            rhythm.beats(7 * SECOND + n * 33_333_333 + rng.u64(0..4 * MILLI));
        }
        let beat = rhythm.beat().expect("a beat");
        assert!((beat.period - 33_333_333.0).abs() < 200.0, "{beat:?}");
        // Captures are late by 2 ms on average, and evenly spread over 4.
        assert!((beat.at - 7.002e9).abs() < 0.1e6, "{beat:?}");
        assert!((beat.deviation - 4e6 / 12f64.sqrt()).abs() < 0.05e6, "{beat:?}");
    }

    #[test]
    fn a_pause_begins_another_beat() {
        let mut rhythm = Rhythm::default();
        (0..100).for_each(|n| rhythm.beats(n * 10 * MILLI));
        assert_eq!(rhythm.beat().map(|b| (b.period.round(), b.at.round())), Some((10e6, 0.0)));
        let again = 5 * SECOND + 3 * MILLI;
        (0..4).for_each(|n| rhythm.beats(again + n * 10 * MILLI));
        assert_eq!(rhythm.beat(), None);
        (4..50).for_each(|n| rhythm.beats(again + n * 10 * MILLI));
        let beat = rhythm.beat().expect("a beat");
        assert!((beat.at - again as f64).abs() < 1.0 && beat.deviation < 1.0, "{beat:?}");
    }
}

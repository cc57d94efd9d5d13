//! A numerically controlled oscillator: shifts a stream in frequency without a jump in phase, ever.

use super::{Complex32, SignalError, checked_rate, lanes};
use std::f64::consts::TAU;

/// Samples between two exact phases.
const STRIDE: usize = 256;

/// Multiplies a stream by a rotating phasor.
///
/// The phase is counted in 2⁻⁶⁴ turns, so that it neither drifts nor loses precision in a stream of months. Within a
/// stride the phasor is one exact value times a table, which vectorises and does not depend on how the stream is cut.
#[derive(Debug, Clone)]
pub struct Nco {
    /// Phase of the current stride's first sample, and the step of one sample, in 2⁻⁶⁴ turns.
    phase: u64,
    step: u64,
    table: Vec<Complex32>,
    base: Complex32,
    /// Samples of the current stride that are done.
    done: usize,
    hz_of_step: f64,
}

impl Nco {
    /// An oscillator that moves what is at `offset` Hz to `0`, that is, shifts by minus `offset`.
    ///
    /// # Errors
    /// Where the rate makes no sense, or `offset` is not within half of it.
    pub fn new(sample_rate: f64, offset: f64) -> Result<Self, SignalError> {
        let rate = checked_rate(sample_rate)?;
        if !(-rate / 2.0..=rate / 2.0).contains(&offset) {
            return Err(SignalError::new("the offset in Hz", offset, format!("within ±{}", rate / 2.0)));
        }
        // 2⁶⁴ is exact in f64, and a negative step wraps around as it should.
        let step = (-offset / rate * 2f64.powi(64)) as i128 as u64;
        let table = (0..STRIDE as u64).map(|k| phasor(step.wrapping_mul(k))).collect();
        Ok(Self { phase: 0, step, table, base: Complex32::new(1.0, 0.0), done: 0, hz_of_step: rate / 2f64.powi(64) })
    }

    /// The shift as it really is, in Hz; within 2⁻⁵³ of what was asked.
    pub fn shift(&self) -> f64 {
        self.step as i64 as f64 * self.hz_of_step
    }

    /// Appends the shifted samples to `out`.
    pub fn push(&mut self, samples: &[Complex32], out: &mut Vec<Complex32>) {
        let mut at = out.len();
        out.resize(at + samples.len(), Complex32::default());
        let mut rest = samples;
        while !rest.is_empty() {
            let n = (STRIDE - self.done).min(rest.len());
            let (now, later) = rest.split_at(n);
            lanes::rotate(now, &self.table[self.done..], self.base, &mut out[at..at + n]);
            self.done += n;
            at += n;
            rest = later;
            if self.done == STRIDE {
                self.done = 0;
                self.phase = self.phase.wrapping_add(self.step.wrapping_mul(STRIDE as u64));
                self.base = phasor(self.phase);
            }
        }
    }
}

/// The phasor of a phase in 2⁻⁶⁴ turns.
fn phasor(phase: u64) -> Complex32 {
    let (sin, cos) = (phase as i64 as f64 / 2f64.powi(64) * TAU).sin_cos();
    Complex32::new(cos as f32, sin as f32)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cut, noise, sizes, tone};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tone_is_moved_to_the_centre_and_stays_there() {
        for turns in [0.123_456_789, -0.4999, 0.5, -0.5, 0.0] {
            let mut nco = Nco::new(1e6, turns * 1e6).expect("valid");
            let mut out = Vec::new();
            nco.push(&tone(100_000, turns, 1.0), &mut out);
            assert!(out.iter().all(|x| (x - 1.0).norm() < 3e-6), "{turns}");
            assert!((nco.shift() + turns * 1e6).abs() < 1e-6 || turns.abs() == 0.5);
        }
    }

    #[test]
    fn offsets_beyond_half_the_rate_are_refused() {
        for (rate, offset) in [(1e6, 5.1e5), (1e6, f64::NAN), (0.0, 0.0), (f64::INFINITY, 0.0), (-1.0, 0.0)] {
            assert!(Nco::new(rate, offset).is_err());
        }
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(offset in -0.5f64..0.5, sizes in sizes()) {
            let samples = noise(3000, 1.0, 7);
            let nco = Nco::new(1.0, offset).expect("valid");
            let (mut whole, mut parts) = (Vec::new(), Vec::new());
            nco.clone().push(&samples, &mut whole);
            let mut nco = nco;
            for piece in cut(&samples, &sizes) {
                nco.push(piece, &mut parts);
            }
            prop_assert_eq!(whole, parts);
        }
    }
}

//! Finite impulse response filters: design by the Kaiser window, and filtering with decimation.
//!
//! The design formulas are those of J. F. Kaiser, "Nonrecursive digital filter design using the I0-sinh window
//! function", Proc. IEEE Int. Symp. Circuits and Systems, 1974.

use super::blocks::Overlap;
use super::window::{Shape, Window};
use super::{Complex32, SignalError, lanes};
use std::f64::consts::PI;

/// The longest filter.
pub const MAX_TAPS: usize = 1 << 16;

/// The Kaiser window's shape for a stop-band attenuation in dB.
pub fn kaiser_beta(attenuation: f64) -> f64 {
    if attenuation > 50.0 {
        0.1102 * (attenuation - 8.7)
    } else if attenuation > 21.0 {
        0.5842 * (attenuation - 21.0).powf(0.4) + 0.07886 * (attenuation - 21.0)
    } else {
        0.0
    }
}

/// Taps of a low-pass with gain 1 at the centre, odd in number and symmetric. `pass` and `stop` are the edges of pass
/// and stop band over the sample rate, `attenuation` is that of the stop band in dB.
///
/// # Errors
/// Where the edges do not rise within 0 to 0.5, the attenuation is not 10 to 200 dB, or more than [`MAX_TAPS`] would be
/// needed.
pub fn low_pass(pass: f64, stop: f64, attenuation: f64) -> Result<Vec<f64>, SignalError> {
    if !(pass >= 0.0 && pass < stop && stop <= 0.5) {
        let given = format!("{pass} to {stop}");
        return Err(SignalError::new("a filter's transition, over the sample rate,", given, "rising within 0 to 0.5"));
    }
    if !(10.0..=200.0).contains(&attenuation) {
        return Err(SignalError::new("a filter's attenuation in dB", attenuation, "10 to 200"));
    }
    let order = ((attenuation - 7.95).max(1.0) / (2.285 * 2.0 * PI * (stop - pass))).ceil();
    if order >= MAX_TAPS as f64 {
        return Err(SignalError::new("a filter's length", order, format!("under {MAX_TAPS}; widen its transition")));
    }
    let taps = (order as usize + 1) | 1;
    windowed_sinc(taps, (pass + stop) / 2.0, attenuation)
}

/// A sinc of a cut-off over the sample rate (−6 dB), under a Kaiser window; the sum of the taps is 1.
pub(super) fn windowed_sinc(taps: usize, cutoff: f64, attenuation: f64) -> Result<Vec<f64>, SignalError> {
    let mut values = Window::Kaiser { beta: kaiser_beta(attenuation) }.values(taps, Shape::Symmetric)?;
    let middle = (taps - 1) as f64 / 2.0;
    for (i, v) in values.iter_mut().enumerate() {
        let x = 2.0 * cutoff * (i as f64 - middle);
        *v *= if x.abs() < 1e-12 { 1.0 } else { (PI * x).sin() / (PI * x) };
    }
    let sum: f64 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= sum);
    Ok(values)
}

/// Filters a stream with real taps and keeps every `decimation`-th result.
///
/// Result `m` is Σ taps\[k\] · x\[m · decimation − k\], with zeros before the stream: the first result belongs to the
/// first sample, and a symmetric filter delays by half its length. NaN in the stream is in the results that it reaches,
/// and in no other.
#[derive(Debug, Clone)]
pub struct Decimator {
    overlap: Overlap<Complex32>,
    /// The taps in the order of time, each twice.
    taps: Vec<f32>,
}

impl Decimator {
    /// A filter at the start of a stream.
    ///
    /// # Errors
    /// Where there is no tap or a tap that is not finite, there are more than [`MAX_TAPS`], or the decimation is 0.
    pub fn new(taps: &[f64], decimation: usize) -> Result<Self, SignalError> {
        if taps.is_empty() || taps.len() > MAX_TAPS || taps.iter().any(|t| !t.is_finite()) {
            return Err(SignalError::new(
                "a filter",
                format!("{} taps", taps.len()),
                format!("1 to {MAX_TAPS} finite ones"),
            ));
        }
        if !(1..=1 << 24).contains(&decimation) {
            return Err(SignalError::new("the decimation", decimation, "1 to 16777216"));
        }
        let mut overlap = Overlap::new(taps.len(), decimation);
        // One short of a block: the first sample completes it.
        overlap.push(&vec![Complex32::default(); taps.len() - 1], |_, _| {});
        Ok(Self { overlap, taps: lanes::twice(taps.iter().rev().copied()) })
    }

    /// Samples in for each sample out.
    pub fn decimation(&self) -> usize {
        self.overlap.hop()
    }

    /// Delay of a symmetric filter, in samples of its input.
    pub fn delay(&self) -> f64 {
        (self.overlap.size() - 1) as f64 / 2.0
    }

    /// Appends the results to `out`.
    pub fn push(&mut self, samples: &[Complex32], out: &mut Vec<Complex32>) {
        let Self { overlap, taps } = self;
        overlap.push(samples, |_, block| out.push(lanes::dot(lanes::parts(block), taps)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cut, noise, sizes};
    use super::*;
    use proptest::prelude::*;

    /// Gain in dB at a frequency over the sample rate.
    fn gain(taps: &[f64], turns: f64) -> f64 {
        let (mut re, mut im) = (0.0, 0.0);
        for (i, t) in taps.iter().enumerate() {
            let phase = 2.0 * PI * turns * i as f64;
            re += t * phase.cos();
            im += t * phase.sin();
        }
        10.0 * (re * re + im * im).log10()
    }

    #[test]
    fn designs_hold_what_they_promise() {
        for (pass, stop, attenuation) in [(0.05, 0.1, 60.0), (0.0, 0.5, 30.0), (0.2, 0.22, 90.0), (0.001, 0.004, 70.0)]
        {
            let taps = low_pass(pass, stop, attenuation).expect("valid");
            for i in 0..=50 {
                let share = f64::from(i) / 50.0;
                assert!(gain(&taps, pass * share).abs() < 0.35, "{pass} {stop} {share}");
                assert!(gain(&taps, stop + (0.5 - stop) * share) < 1.0 - attenuation, "{pass} {stop} {share}");
            }
        }
    }

    #[test]
    fn designs_that_cannot_be_are_refused() {
        for (pass, stop, attenuation) in
            [(0.1, 0.1, 60.0), (0.1, 0.6, 60.0), (f64::NAN, 0.2, 60.0), (0.1, 0.2, 500.0), (0.1, 0.1 + 1e-9, 60.0)]
        {
            assert!(low_pass(pass, stop, attenuation).is_err());
        }
        assert!(Decimator::new(&[], 1).is_err());
        assert!(Decimator::new(&[f64::NAN], 1).is_err());
        assert!(Decimator::new(&[1.0], 0).is_err());
    }

    proptest! {
        #[test]
        fn filtering_is_the_convolution_and_cuts_make_no_difference(n in 0usize..400, count in 1usize..50, decimation in 1usize..70, sizes in sizes()) {
            let samples = noise(n, 1.0, 3);
            let taps: Vec<f64> = noise(count, 1.0, 5).iter().map(|c| f64::from(c.re)).collect();
            let filter = Decimator::new(&taps, decimation).expect("valid");
            let (mut whole, mut parts) = (Vec::new(), Vec::new());
            filter.clone().push(&samples, &mut whole);
            let mut filter = filter;
            for piece in cut(&samples, &sizes) {
                filter.push(piece, &mut parts);
            }
            prop_assert_eq!(&whole, &parts);
            prop_assert_eq!(whole.len(), n.div_ceil(decimation));
            for (m, y) in whole.iter().enumerate() {
                let at = m * decimation;
                let plain: Complex32 = (0..count.min(at + 1)).map(|k| samples[at - k] * taps[k] as f32).sum();
                prop_assert!((plain - y).norm() < 1e-4);
            }
        }
    }
}

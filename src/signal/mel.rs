//! Mel filter banks: triangles over the bins of a spectrum.
//!
//! Two formulas are in use: HTK's 2595·log10(1 + f/700) (S. Young et al., "The HTK Book"), and that of M. Slaney's
//! Auditory Toolbox (1998), linear up to 1 kHz and logarithmic above.

use super::SignalError;
use serde::{Deserialize, Serialize};

/// How Hz become mel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Formula {
    /// Linear below 1 kHz, logarithmic above; the default of most audio libraries.
    #[default]
    Slaney,
    /// Logarithmic throughout.
    Htk,
}

/// Where Slaney's scale turns logarithmic, in Hz and in mel, and its step from there on.
const KNEE_HZ: f64 = 1000.0;
const KNEE_MEL: f64 = 15.0;
const HZ_PER_MEL: f64 = 200.0 / 3.0;
/// 27 mel for a factor of 6.4.
fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

impl Formula {
    /// Hz to mel.
    pub fn mel(self, hz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
            Self::Slaney if hz < KNEE_HZ => hz / HZ_PER_MEL,
            Self::Slaney => KNEE_MEL + (hz / KNEE_HZ).ln() / log_step(),
        }
    }

    /// Mel to Hz.
    pub fn hz(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel < KNEE_MEL => mel * HZ_PER_MEL,
            Self::Slaney => KNEE_HZ * ((mel - KNEE_MEL) * log_step()).exp(),
        }
    }
}

/// Settings of a filter bank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MelConfig {
    /// Bands, 1 to 4096.
    pub bands: usize,
    /// Hz to mel.
    pub formula: Formula,
    /// Whether every triangle has the same area (2 over its width in Hz, as Slaney's have) rather than height 1.
    pub equal_area: bool,
    /// Lower edge of the lowest triangle in Hz.
    pub low: f64,
    /// Upper edge of the highest triangle in Hz; half the sample rate where absent.
    pub high: Option<f64>,
}

/// A filter bank for the spectra of real samples.
#[derive(Debug, Clone)]
pub struct MelBank {
    /// First bin and weights of every band.
    bands: Vec<(usize, Vec<f32>)>,
}

impl MelBank {
    /// Triangles over the `size / 2 + 1` bins of a transform of `size` real samples.
    ///
    /// # Errors
    /// Where the number of bands or the edges make no sense.
    pub fn new(config: &MelConfig, sample_rate: f64, size: usize) -> Result<Self, SignalError> {
        if !(1..=4096).contains(&config.bands) {
            return Err(SignalError::new("the number of mel bands", config.bands, "1 to 4096"));
        }
        let high = config.high.unwrap_or(sample_rate / 2.0);
        if !(config.low >= 0.0 && config.low < high && high <= sample_rate / 2.0) {
            let given = format!("{} to {high} Hz", config.low);
            let must = format!("rising, within 0 and half the sample rate, {}", sample_rate / 2.0);
            return Err(SignalError::new("the range of the mel bands", given, must));
        }
        let formula = config.formula;
        let (from, to) = (formula.mel(config.low), formula.mel(high));
        let step = (to - from) / (config.bands + 1) as f64;
        let edge = |i: usize| formula.hz(from + step * i as f64);
        let bins = size / 2 + 1;
        let bands = (0..config.bands)
            .map(|band| {
                let (left, peak, right) = (edge(band), edge(band + 1), edge(band + 2));
                let height = if config.equal_area { 2.0 / (right - left) } else { 1.0 };
                let weight = |bin: usize| {
                    let hz = bin as f64 * sample_rate / size as f64;
                    let rising = (hz - left) / (peak - left);
                    let falling = (right - hz) / (right - peak);
                    height * rising.min(falling).max(0.0)
                };
                // The first bin above the left edge, give or take what rounding does to it.
                let edge = ((left * size as f64 / sample_rate) as usize).min(bins);
                let first = (edge..bins.min(edge + 3)).find(|&b| weight(b) > 0.0).unwrap_or(0);
                let weights = (first..bins).map(weight).take_while(|&w| w > 0.0).map(|w| w as f32).collect();
                (first, weights)
            })
            .collect();
        Ok(Self { bands })
    }

    /// How many bands there are.
    pub fn len(&self) -> usize {
        self.bands.len()
    }

    /// Whether there are none; never so.
    pub fn is_empty(&self) -> bool {
        self.bands.is_empty()
    }

    /// Bands that lie between two bins and are always zero: too many bands for the transform's size.
    pub fn empty_bands(&self) -> usize {
        self.bands.iter().filter(|(_, w)| w.is_empty()).count()
    }

    /// Writes every band's sum of weighted bins, lowest first.
    pub fn apply(&self, spectrum: &[f32], out: &mut [f32]) {
        for (o, (first, weights)) in out.iter_mut().zip(&self.bands) {
            *o = spectrum.get(*first..).unwrap_or_default().iter().zip(weights).map(|(x, w)| x * w).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_and_their_inverses_agree() {
        for formula in [Formula::Slaney, Formula::Htk] {
            for hz in [0.0, 60.0, 999.9, 1000.0, 4000.0, 11025.0] {
                assert!((formula.hz(formula.mel(hz)) - hz).abs() < 1e-9, "{formula:?} {hz}");
            }
        }
        assert!((Formula::Htk.mel(1000.0) - 999.985_5).abs() < 1e-3);
        assert!((Formula::Slaney.mel(6400.0) - 42.0).abs() < 1e-9);
    }

    #[test]
    fn triangles_of_height_one_add_up_to_one_between_the_outer_peaks() {
        let config = MelConfig { bands: 40, formula: Formula::Htk, equal_area: false, low: 0.0, high: None };
        let bank = MelBank::new(&config, 16000.0, 2048).expect("valid");
        assert_eq!((bank.len(), bank.empty_bands()), (40, 0));
        let mut total = vec![0f32; 1025];
        for (first, weights) in &bank.bands {
            weights.iter().enumerate().for_each(|(i, w)| total[first + i] += w);
        }
        let last_peak = 700.0 * (10f64.powf(Formula::Htk.mel(8000.0) * 40.0 / 41.0 / 2595.0) - 1.0);
        let inner = 12..(last_peak / 16000.0 * 2048.0) as usize;
        assert!(total[inner].iter().all(|t| (t - 1.0).abs() < 1e-5));
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        let config = MelConfig { bands: 40, formula: Formula::Htk, equal_area: true, low: 0.0, high: None };
        for bad in [
            MelConfig { bands: 0, ..config },
            MelConfig { bands: usize::MAX, ..config },
            MelConfig { low: f64::NAN, ..config },
            MelConfig { low: 9000.0, ..config },
            MelConfig { high: Some(9000.0), ..config },
        ] {
            assert!(MelBank::new(&bad, 16000.0, 512).is_err(), "{bad:?}");
        }
    }
}

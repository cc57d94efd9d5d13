//! Window functions and their gains.
//!
//! The cosine sums are those of F. J. Harris, "On the use of windows for harmonic analysis with the discrete Fourier
//! transform", Proc. IEEE 66, 1978; the flat-top coefficients are those of G. D'Antona and A. Ferrero (2006), which
//! SciPy uses too.

use super::{SignalError, checked_length};
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// A window function.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// All ones: the narrowest peak, and leakage everywhere.
    Rectangular,
    /// The usual choice.
    #[default]
    Hann,
    /// Lower first side lobe than Hann, slower decay.
    Hamming,
    /// Side lobes under −58 dB.
    Blackman,
    /// Side lobes under −92 dB (four terms).
    BlackmanHarris,
    /// Amplitudes right within 0.01 dB between bins too; a wide peak.
    FlatTop,
    /// Width against side lobes as wanted.
    Kaiser {
        /// Shape, 0 (rectangular) to 100; 8.6 is near Blackman-Harris.
        beta: f64,
    },
}

/// How a window closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// For spectra: the first value of the next period would follow.
    Periodic,
    /// For filters: first and last value are equal.
    Symmetric,
}

impl Window {
    /// Its `n` values, each between about −0.0001 (flat-top) and 1.
    ///
    /// # Errors
    /// Where `n` is not 1 to [`super::MAX_LENGTH`], or `beta` is out of its range.
    pub fn values(self, n: usize, shape: Shape) -> Result<Vec<f64>, SignalError> {
        checked_length("the window's length", n, 1)?;
        if let Self::Kaiser { beta } = self
            && !(0.0..=100.0).contains(&beta)
        {
            return Err(SignalError::new("the Kaiser window's beta", beta, "0 to 100"));
        }
        // A symmetric window of one value is 1, as there is no period to be in.
        let period = match shape {
            Shape::Periodic => n,
            Shape::Symmetric => n - 1,
        };
        if n == 1 {
            return Ok(vec![1.0]);
        }
        Ok((0..n).map(|i| self.at(i as f64 / period as f64)).collect())
    }

    /// Its value at a share of the period, 0 to 1.
    fn at(self, x: f64) -> f64 {
        match self {
            Self::Rectangular => 1.0,
            Self::Hann => cosines(x, &[0.5, 0.5]),
            Self::Hamming => cosines(x, &[0.54, 0.46]),
            Self::Blackman => cosines(x, &[0.42, 0.5, 0.08]),
            Self::BlackmanHarris => cosines(x, &[0.35875, 0.48829, 0.14128, 0.01168]),
            Self::FlatTop => cosines(x, &[0.21557895, 0.41663158, 0.277263158, 0.083578947, 0.006947368]),
            Self::Kaiser { beta } => {
                let r = 2.0 * x - 1.0;
                bessel_i0(beta * (1.0 - r * r).max(0.0).sqrt()) / bessel_i0(beta)
            }
        }
    }
}

/// The sum of cosines with alternating signs.
fn cosines(x: f64, terms: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (k, a) in terms.iter().enumerate() {
        let sign = if k % 2 == 0 { 1.0 } else { -1.0 };
        sum += sign * a * (TAU * k as f64 * x).cos();
    }
    sum
}

/// The modified Bessel function of the first kind, order zero, by its power series (Abramowitz and Stegun, 9.6.12).
pub fn bessel_i0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..500 {
        term *= quarter / f64::from(k * k);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

/// The mean of a window's values: what it leaves of a tone's amplitude.
pub fn coherent_gain(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Equivalent noise bandwidth in bins: how much wider than one bin a rectangular filter of the same noise power is.
pub fn noise_bandwidth(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|v| v * v).sum();
    values.len() as f64 * squares / (sum * sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Window; 7] = [
        Window::Rectangular,
        Window::Hann,
        Window::Hamming,
        Window::Blackman,
        Window::BlackmanHarris,
        Window::FlatTop,
        Window::Kaiser { beta: 8.6 },
    ];

    #[test]
    fn symmetric_windows_are_symmetric_and_periodic_ones_are_their_beginning() {
        for window in ALL {
            for n in [2, 3, 8, 33] {
                let whole = window.values(n + 1, Shape::Symmetric).expect("valid");
                for i in 0..=n {
                    assert!((whole[i] - whole[n - i]).abs() < 1e-12, "{window:?} {n} {i}");
                }
                let periodic = window.values(n, Shape::Periodic).expect("valid");
                assert!(periodic.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-12), "{window:?} {n}");
            }
        }
    }

    #[test]
    fn gains_are_those_of_the_literature() {
        // Coherent gain and noise bandwidth from Harris, table 1.
        for (window, gain, bins) in [
            (Window::Rectangular, 1.0, 1.0),
            (Window::Hann, 0.5, 1.5),
            (Window::Hamming, 0.54, 1.36),
            (Window::Blackman, 0.42, 1.73),
            (Window::BlackmanHarris, 0.36, 2.0),
            (Window::FlatTop, 0.2156, 3.77),
        ] {
            let v = window.values(4096, Shape::Periodic).expect("valid");
            assert!((coherent_gain(&v) - gain).abs() < 0.005, "{window:?} {}", coherent_gain(&v));
            assert!((noise_bandwidth(&v) - bins).abs() < 0.01, "{window:?} {}", noise_bandwidth(&v));
        }
    }

    #[test]
    fn the_bessel_function_is_right() {
        for (x, y) in
            [(0.0, 1.0), (1.0, 1.266_065_877_752_008), (5.0, 27.239_871_823_604_44), (50.0, 2.932_553_783_849_336e20)]
        {
            assert!((bessel_i0(x) / y - 1.0).abs() < 1e-12, "{x}: {}", bessel_i0(x));
        }
    }

    #[test]
    fn what_is_no_window_is_refused() {
        assert!(Window::Hann.values(0, Shape::Periodic).is_err());
        assert!(Window::Hann.values(usize::MAX, Shape::Periodic).is_err());
        for beta in [f64::NAN, -1.0, 1e9] {
            assert!(Window::Kaiser { beta }.values(8, Shape::Periodic).is_err());
        }
        assert_eq!(Window::Hann.values(1, Shape::Symmetric), Ok(vec![1.0]));
    }
}

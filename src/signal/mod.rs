//! Radio and sensor samples: formats, recordings, spectra, channels, bursts, audio, Mode S.
//!
//! A pure room: no threads, no clocks, no input or output beyond recordings ([`sigmf`]) and worlds ([`world`]). Samples are [`Complex32`] with
//! full scale 1.0; real streams have an imaginary part of zero. Frequencies are in Hz, relative to the centre of the
//! stream unless a name says otherwise; positions and lengths are counted in samples from the start of the stream.
//!
//! Everything that takes a stream takes it in blocks of any size and gives exactly the same results, bit by bit, as if
//! it had been one block. Nothing here allocates per block in the steady state, and nothing panics on what a stream can
//! hold: settings that make no sense are a [`SignalError`] when a thing is built, and each file says what becomes of NaN
//! and infinity.
//!
//! | file | what |
//! |---|---|
//! | [`samples`] | raw bytes to samples and back, every SigMF type |
//! | [`sigmf`] | recordings with their metadata: reading, writing |
//! | [`window`] | window functions and their gains |
//! | [`blocks`] | a stream cut into overlapping blocks |
//! | [`spectrum`] | averaged power spectra in dBFS |
//! | [`spectrogram`], [`mel`], [`tile`] | time-frequency columns, mel bands, fixed layouts for networks |
//! | [`nco`], [`fir`], [`channelize`] | shift, filter and decimate; filter banks |
//! | [`energy`] | bursts above a tracked noise floor |
//! | [`demod`] | AM, FM, SSB to audio |
//! | [`mode_s`] | Mode S and ADS-B frames |
//! | [`world`] | stations, hills and a transmitter: the world that the locator is trained in |

pub mod blocks;
pub mod channelize;
pub mod demod;
pub mod energy;
pub mod fir;
mod lanes;
pub mod mel;
pub mod mode_s;
pub mod nco;
pub mod samples;
pub mod sigmf;
pub mod spectrogram;
pub mod spectrum;
pub mod tile;
pub mod window;
pub mod world;

pub use num_complex::Complex32;

/// The lowest level that is told, in dBFS: what digital silence reads.
pub const SILENCE_DBFS: f32 = -200.0;

/// The largest transform, filter or window, in samples; what is beyond it is taken for a mistake.
pub const MAX_LENGTH: usize = 1 << 22;

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {value}; it must be {must}")]
pub struct SignalError {
    /// The setting.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// What it can be.
    pub must: String,
}

impl SignalError {
    fn new(what: &'static str, value: impl ToString, must: impl Into<String>) -> Self {
        Self { what, value: value.to_string(), must: must.into() }
    }
}

/// A power ratio in decibels, not below [`SILENCE_DBFS`]; NaN reads as silence.
pub fn decibels(power: f32) -> f32 {
    (10.0 * power.log10()).max(SILENCE_DBFS)
}

/// A sample rate in Hz that can be computed with.
fn checked_rate(rate: f64) -> Result<f64, SignalError> {
    if rate.is_finite() && (1e-3..=1e12).contains(&rate) {
        return Ok(rate);
    }
    Err(SignalError::new("the sample rate", rate, "from 0.001 to 1e12 samples a second"))
}

/// A length in samples that fits memory.
fn checked_length(what: &'static str, n: usize, least: usize) -> Result<usize, SignalError> {
    if (least..=MAX_LENGTH).contains(&n) {
        return Ok(n);
    }
    Err(SignalError::new(what, n, format!("{least} to {MAX_LENGTH}")))
}

#[cfg(test)]
pub(crate) mod testing {
    //! Signals that the tests share.

    use super::Complex32;

    /// Pseudo-random numbers, −1 to 1 (a 64-bit linear congruential generator, Knuth's constants).
    pub struct Noise(pub u64);

    impl Noise {
        /// The next number.
        pub fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        }

        /// A complex sample of both parts.
        pub fn sample(&mut self, amplitude: f32) -> Complex32 {
            Complex32::new(self.next() * amplitude, self.next() * amplitude)
        }
    }

    /// Noise of an amplitude.
    pub fn noise(n: usize, amplitude: f32, seed: u64) -> Vec<Complex32> {
        let mut noise = Noise(seed);
        (0..n).map(|_| noise.sample(amplitude)).collect()
    }

    /// A complex tone; `turns` is its frequency over the sample rate.
    pub fn tone(n: usize, turns: f64, amplitude: f32) -> Vec<Complex32> {
        (0..n)
            .map(|i| {
                let phase = (turns * i as f64).fract() * std::f64::consts::TAU;
                Complex32::new(phase.cos() as f32, phase.sin() as f32) * amplitude
            })
            .collect()
    }

    /// Cuts a slice at sizes that are used in turn (zero too).
    pub fn cut<'a, T>(mut rest: &'a [T], sizes: &'a [usize]) -> impl Iterator<Item = &'a [T]> {
        let mut turn = sizes.iter().cycle();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let n = turn.next().map_or(rest.len(), |&n| n).min(rest.len());
            let (head, tail) = rest.split_at(n);
            rest = tail;
            Some(head)
        })
    }

    /// Sizes of blocks with at least one that is not zero.
    pub fn sizes() -> impl proptest::strategy::Strategy<Value = Vec<usize>> {
        use proptest::prelude::*;
        prop::collection::vec(prop_oneof![0usize..4, 1usize..70, 200usize..3000], 1..8)
            .prop_filter("progress", |v| v.iter().any(|&n| n > 0))
    }
}

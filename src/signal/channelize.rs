//! Channels out of a wide stream: one by shifting, filtering and decimating, or many at once by a polyphase filter bank.
//!
//! The bank is the weighted overlap-add form of R. E. Crochiere and L. R. Rabiner, "Multirate Digital Signal
//! Processing", 1983, chapter 7: one filter and one transform serve all channels.

use super::blocks::Overlap;
use super::fir::{Decimator, MAX_TAPS, low_pass, windowed_sinc};
use super::nco::Nco;
use super::{Complex32, SignalError, checked_rate, lanes};
use rustfft::{Fft, FftPlanner};
use std::sync::Arc;

/// Settings of a [`Tuner`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TunerConfig {
    /// Samples a second of the input.
    pub sample_rate: f64,
    /// The channel's centre in Hz from that of the input.
    pub offset: f64,
    /// Samples in for each sample out, at least 1.
    pub decimation: usize,
    /// The channel's width in Hz, which is passed flat; at most the output's rate. Default: 0.8 of it.
    pub bandwidth: Option<f64>,
    /// How far down the output's aliases are in dB, 10 to 200.
    pub attenuation: f64,
}

/// Takes one channel out of a stream. With a decimation of 1 it filters too, where a bandwidth is given.
#[derive(Debug, Clone)]
pub struct Tuner {
    nco: Option<Nco>,
    filter: Option<Decimator>,
    shifted: Vec<Complex32>,
    rate: f64,
}

impl Tuner {
    /// A tuner at the start of a stream.
    ///
    /// # Errors
    /// Where a setting is out of its range, or the filter would be too long.
    pub fn new(config: &TunerConfig) -> Result<Self, SignalError> {
        let rate = checked_rate(config.sample_rate)?;
        if !(1..=1 << 24).contains(&config.decimation) {
            return Err(SignalError::new("the decimation", config.decimation, "1 to 16777216"));
        }
        let out = rate / config.decimation as f64;
        let bandwidth = config.bandwidth.unwrap_or(0.8 * out);
        if !(bandwidth > 0.0 && bandwidth <= out) {
            return Err(SignalError::new("the bandwidth in Hz", bandwidth, format!("above 0, at most {out}")));
        }
        // At the full rate there is nothing to keep out, unless a narrower channel is asked for.
        let narrow = config.bandwidth.is_some_and(|b| b <= 0.99 * out);
        let filter = if config.decimation == 1 && !narrow {
            None
        } else {
            // What is passed lies within the output's rate; where it fills it, the edge is as steep as it can be.
            let pass = (bandwidth / 2.0).min(out * 0.47);
            Some(Decimator::new(&low_pass(pass / rate, out / 2.0 / rate, config.attenuation)?, config.decimation)?)
        };
        let nco = Nco::new(rate, config.offset)?;
        Ok(Self { nco: (config.offset != 0.0).then_some(nco), filter, shifted: Vec::new(), rate: out })
    }

    /// Samples a second of the output.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Delay of the output in samples of the input.
    pub fn delay(&self) -> f64 {
        self.filter.as_ref().map_or(0.0, Decimator::delay)
    }

    /// Appends the channel's samples to `out`.
    pub fn push(&mut self, samples: &[Complex32], out: &mut Vec<Complex32>) {
        match (&mut self.nco, &mut self.filter) {
            (None, None) => out.extend_from_slice(samples),
            (None, Some(filter)) => filter.push(samples, out),
            (Some(nco), None) => nco.push(samples, out),
            (Some(nco), Some(filter)) => {
                // In pieces, so that what is shifted stays in the cache.
                for piece in samples.chunks(4096) {
                    self.shifted.clear();
                    nco.push(piece, &mut self.shifted);
                    filter.push(&self.shifted, out);
                }
            }
        }
    }
}

/// How fast the channels of a bank come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// At their spacing. What lies between two channels is attenuated by 6 dB in both and folds over their edges.
    Critical,
    /// At twice their spacing: every channel is free of aliases, with its edges. The number of channels must be even.
    Double,
}

/// Settings of a [`FilterBank`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BankConfig {
    /// Samples a second of the input.
    pub sample_rate: f64,
    /// Channels, 2 to 65536, spaced by the sample rate over their number.
    pub channels: usize,
    /// The channels' rate.
    pub sampling: Sampling,
    /// Taps of the filter for each channel, 2 to 64; 16 give 80 dB with edges that are a tenth of the spacing wide.
    pub taps: usize,
    /// How far down other channels are in dB, 10 to 200.
    pub attenuation: f64,
}

/// Splits a stream into equally spaced channels that cover it.
///
/// Channel `k` is what `x[n] · exp(−j2πkn/M)`, filtered and decimated, would be: its centre is at `k` times the spacing,
/// with the upper half of the numbers for negative frequencies, as in a transform.
pub struct FilterBank {
    overlap: Overlap<Complex32>,
    fold: Fold,
    rate: f64,
    spacing: f64,
}

struct Fold {
    /// The filter in the order of time, every tap twice.
    taps: Vec<f32>,
    fft: Arc<dyn Fft<f32>>,
    folded: Vec<Complex32>,
    rotated: Vec<Complex32>,
    scratch: Vec<Complex32>,
    hop: usize,
    /// How far the block's phases are from the stream's, in samples, and the number of the next block.
    turn: usize,
    next: u64,
}

impl FilterBank {
    /// Designs the filter and takes all memory that will be needed.
    ///
    /// # Errors
    /// Where a setting is out of its range or two do not go together.
    pub fn new(config: &BankConfig) -> Result<Self, SignalError> {
        let rate = checked_rate(config.sample_rate)?;
        let channels = config.channels;
        if !(2..=65536).contains(&channels) {
            return Err(SignalError::new("the number of channels", channels, "2 to 65536"));
        }
        if !(2..=64).contains(&config.taps) || config.taps * channels > MAX_TAPS * 16 {
            return Err(SignalError::new("the taps for each channel", config.taps, "2 to 64, and 2²⁰ in all"));
        }
        if !(10.0..=200.0).contains(&config.attenuation) {
            return Err(SignalError::new("the attenuation in dB", config.attenuation, "10 to 200"));
        }
        let (hop, cutoff) = match config.sampling {
            Sampling::Critical => (channels, 0.5),
            Sampling::Double if channels.is_multiple_of(2) => (channels / 2, 0.75),
            Sampling::Double => {
                return Err(SignalError::new("the number of channels", channels, "even for twice the spacing's rate"));
            }
        };
        let length = config.taps * channels;
        let taps = windowed_sinc(length, cutoff / channels as f64, config.attenuation)?;
        let fft = FftPlanner::new().plan_fft_forward(channels);
        let mut overlap = Overlap::new(length, hop);
        overlap.push(&vec![Complex32::default(); length - 1], |_, _| {});
        Ok(Self {
            overlap,
            fold: Fold {
                taps: lanes::twice(taps.into_iter().rev()),
                folded: vec![Complex32::default(); channels],
                rotated: vec![Complex32::default(); channels],
                scratch: vec![Complex32::default(); fft.get_inplace_scratch_len()],
                fft,
                hop,
                turn: 1,
                next: 0,
            },
            rate: rate / hop as f64,
            spacing: rate / channels as f64,
        })
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.fold.folded.len()
    }

    /// Samples a second of every channel.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Delay of the channels in samples of the input.
    pub fn delay(&self) -> f64 {
        (self.overlap.size() - 1) as f64 / 2.0
    }

    /// Centre of a channel in Hz, from that of the input.
    pub fn frequency(&self, channel: usize) -> f64 {
        let n = self.channels();
        let k = channel as f64 - if channel >= n.div_ceil(2) { n as f64 } else { 0.0 };
        k * self.spacing
    }

    /// Takes samples in and hands out one sample of every channel, by channel, with its number in the channels' stream.
    pub fn push(&mut self, samples: &[Complex32], mut out: impl FnMut(u64, &[Complex32])) {
        let Self { overlap, fold, .. } = self;
        overlap.push(samples, |_, block| {
            let number = fold.next;
            out(number, fold.block(block));
        });
    }
}

impl Fold {
    fn block(&mut self, block: &[Complex32]) -> &[Complex32] {
        let channels = self.folded.len();
        // Σ over the filter's length at a distance of `channels`: all that a transform of that size can tell apart.
        let folded = lanes::parts_mut(&mut self.folded);
        let rows = lanes::parts(block).chunks_exact(channels * 2).zip(self.taps.chunks_exact(channels * 2));
        for (i, (x, taps)) in rows.enumerate() {
            if i == 0 {
                lanes::weigh(x, taps, folded);
            } else {
                lanes::weigh_add(x, taps, folded);
            }
        }
        // A turn of the input is a phase of exp(−j2πk·turn/M) on channel k: that which block and stream differ by.
        let (late, early) = self.folded.split_at(channels - self.turn);
        self.rotated[..self.turn].copy_from_slice(early);
        self.rotated[self.turn..].copy_from_slice(late);
        self.turn = (self.turn + self.hop) % channels;
        self.next += 1;
        self.fft.process_with_scratch(&mut self.rotated, &mut self.scratch);
        &self.rotated
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cut, noise, sizes, tone};
    use super::*;
    use proptest::prelude::*;

    fn level(samples: &[Complex32]) -> f32 {
        10.0 * (samples.iter().map(Complex32::norm_sqr).sum::<f32>() / samples.len() as f32).log10()
    }

    #[test]
    fn a_tuner_passes_its_channel_and_nothing_else() {
        let config = TunerConfig {
            sample_rate: 2.4e6,
            offset: 600e3,
            decimation: 10,
            bandwidth: Some(160e3),
            attenuation: 70.0,
        };
        for (hz, passed) in
            [(600e3, true), (675e3, true), (525e3, true), (725e3, false), (0.0, false), (-600e3, false), (840e3, false)]
        {
            let mut tuner = Tuner::new(&config).expect("valid");
            assert_eq!(tuner.rate(), 240e3);
            let mut out = Vec::new();
            tuner.push(&tone(48_000, hz / 2.4e6, 1.0), &mut out);
            assert_eq!(out.len(), 4800);
            let level = level(&out[200..]);
            assert!(if passed { level.abs() < 0.1 } else { level < -68.0 }, "{hz}: {level}");
        }
    }

    #[test]
    fn a_bank_equals_tuning_every_channel_by_itself() {
        let samples = noise(3000, 1.0, 11);
        for (channels, sampling) in
            [(8, Sampling::Critical), (8, Sampling::Double), (6, Sampling::Double), (5, Sampling::Critical)]
        {
            let config = BankConfig { sample_rate: 1e6, channels, sampling, taps: 12, attenuation: 70.0 };
            let mut bank = FilterBank::new(&config).expect("valid");
            let mut out: Vec<Vec<Complex32>> = vec![Vec::new(); channels];
            bank.push(&samples, |_, y| y.iter().zip(&mut out).for_each(|(y, o)| o.push(*y)));
            let (hop, cutoff) = if sampling == Sampling::Critical { (channels, 0.5) } else { (channels / 2, 0.75) };
            let taps = windowed_sinc(12 * channels, cutoff / channels as f64, 70.0).expect("valid");
            for (k, ours) in out.iter().enumerate() {
                let mut nco = Nco::new(1e6, bank.frequency(k)).expect("valid");
                let (mut shifted, mut plain) = (Vec::new(), Vec::new());
                nco.push(&samples, &mut shifted);
                Decimator::new(&taps, hop).expect("valid").push(&shifted, &mut plain);
                assert_eq!(plain.len(), ours.len());
                assert!(plain.iter().zip(ours).all(|(a, b)| (a - b).norm() < 2e-5), "{channels} {sampling:?} {k}");
            }
        }
    }

    #[test]
    fn a_tone_is_in_its_channel_only() {
        let config =
            BankConfig { sample_rate: 1.6e6, channels: 16, sampling: Sampling::Double, taps: 16, attenuation: 80.0 };
        let mut bank = FilterBank::new(&config).expect("valid");
        let mut out: Vec<Vec<Complex32>> = vec![Vec::new(); 16];
        bank.push(&tone(64_000, -305e3 / 1.6e6, 1.0), |_, y| y.iter().zip(&mut out).for_each(|(y, o)| o.push(*y)));
        assert_eq!(bank.rate(), 200e3);
        for (k, y) in out.iter().enumerate() {
            let level = level(&y[100..]);
            if bank.frequency(k) == -300e3 {
                assert!(level.abs() < 0.1, "{level}");
            } else {
                assert!(level < -70.0, "channel {k}: {level}");
            }
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let good =
            BankConfig { sample_rate: 1e6, channels: 7, sampling: Sampling::Critical, taps: 8, attenuation: 60.0 };
        assert!(FilterBank::new(&good).is_ok());
        for bad in [
            BankConfig { sampling: Sampling::Double, ..good },
            BankConfig { channels: 0, ..good },
            BankConfig { channels: usize::MAX, ..good },
            BankConfig { taps: 0, ..good },
            BankConfig { attenuation: f64::NAN, ..good },
            BankConfig { sample_rate: f64::NAN, ..good },
        ] {
            assert!(FilterBank::new(&bad).is_err(), "{bad:?}");
        }
        let good = TunerConfig { sample_rate: 1e6, offset: 0.0, decimation: 4, bandwidth: None, attenuation: 60.0 };
        assert!(Tuner::new(&good).is_ok());
        for bad in [
            TunerConfig { decimation: 0, ..good },
            TunerConfig { decimation: usize::MAX, ..good },
            TunerConfig { bandwidth: Some(3e5), ..good },
            TunerConfig { offset: 6e5, ..good },
        ] {
            assert!(Tuner::new(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(sizes in sizes(), double in any::<bool>(), offset in -0.5f64..0.5) {
            let samples = noise(4000, 1.0, 1);
            let sampling = if double { Sampling::Double } else { Sampling::Critical };
            let config = BankConfig { sample_rate: 1.0, channels: 12, sampling, taps: 8, attenuation: 60.0 };
            let tuner = TunerConfig { sample_rate: 1.0, offset, decimation: 7, bandwidth: None, attenuation: 60.0 };
            let run = |sizes: &[usize]| {
                let mut bank = FilterBank::new(&config).expect("valid");
                let mut tuner = Tuner::new(&tuner).expect("valid");
                let (mut channels, mut tuned) = (Vec::new(), Vec::new());
                for piece in cut(&samples, sizes) {
                    bank.push(piece, |n, y| channels.push((n, y.to_vec())));
                    tuner.push(piece, &mut tuned);
                }
                (channels, tuned)
            };
            prop_assert_eq!(run(&sizes), run(&[4000]));
        }
    }
}

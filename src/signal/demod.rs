//! AM, FM and SSB to audio.
//!
//! The channel at the stream's centre is filtered and decimated, demodulated, and filtered and decimated again to the
//! audio rate. SSB is by D. K. Weaver's method ("A third method of generation and detection of single-sideband
//! signals", Proc. IRE 44, 1956). Samples that are not finite are taken as silence.

use super::channelize::{Tuner, TunerConfig};
use super::fir::{Decimator, low_pass};
use super::nco::Nco;
use super::{Complex32, SignalError, checked_rate};
use std::f64::consts::PI;

/// The kind of modulation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Modulation {
    /// Amplitude: the envelope without its mean. A carrier of 1 with full modulation gives audio of ±1.
    Am {
        /// The highest audio frequency in Hz.
        audio: f64,
    },
    /// Frequency. The deviation given is ±1 in the audio.
    Fm {
        /// Deviation of full audio in Hz (75 kHz for broadcast, 2.5 or 5 kHz for speech).
        deviation: f64,
        /// The highest audio frequency in Hz.
        audio: f64,
        /// Time constant of the de-emphasis in s (50e-6 in Europe, 75e-6 in America); 0 for none.
        deemphasis: f64,
    },
    /// The upper side band: audio frequencies are those above the centre.
    Usb {
        /// The lowest audio frequency in Hz.
        low: f64,
        /// The highest audio frequency in Hz.
        audio: f64,
    },
    /// The lower side band: audio frequencies are those below the centre.
    Lsb {
        /// The lowest audio frequency in Hz.
        low: f64,
        /// The highest audio frequency in Hz.
        audio: f64,
    },
}

/// Settings of a [`Demodulator`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DemodConfig {
    /// Samples a second of the stream: a whole multiple of the audio's.
    pub sample_rate: f64,
    /// Samples a second of the audio.
    pub audio_rate: f64,
    /// What is demodulated.
    pub modulation: Modulation,
}

/// Attenuation of the filters in dB.
const ATTENUATION: f64 = 70.0;
/// Time constant of the tracked AM carrier in s: 8 Hz.
const CARRIER: f64 = 0.02;

/// Makes audio of a stream.
#[derive(Debug, Clone)]
pub struct Demodulator {
    channel: Tuner,
    kind: Kind,
    audio: Option<Decimator>,
    /// Samples in for each sample behind the channel's filter.
    first: usize,
    clean: Vec<Complex32>,
    narrow: Vec<Complex32>,
    detected: Vec<Complex32>,
    filtered: Vec<Complex32>,
}

#[derive(Debug, Clone)]
enum Kind {
    Am { carrier: Option<f64>, share: f64 },
    Fm { last: Complex32, scale: f32, held: f64, share: f64 },
    Side { edge: Decimator, back: Nco, kept: Vec<Complex32> },
}

impl Demodulator {
    /// A demodulator at the start of a stream.
    ///
    /// # Errors
    /// Where a setting is out of its range, or the stream's rate is no whole multiple of the audio's.
    pub fn new(config: &DemodConfig) -> Result<Self, SignalError> {
        let rate = checked_rate(config.sample_rate)?;
        let audio_rate = checked_rate(config.audio_rate)?;
        let ratio = (rate / audio_rate).round();
        if !((1.0..=1e6).contains(&ratio) && (rate / audio_rate - ratio).abs() < 1e-6 * ratio) {
            let must =
                format!("a whole multiple of the audio rate of {audio_rate}, such as {}", audio_rate * ratio.max(1.0));
            return Err(SignalError::new("the sample rate", rate, must));
        }
        let ratio = ratio as usize;
        let (low, audio) = match config.modulation {
            Modulation::Am { audio } | Modulation::Fm { audio, .. } => (0.0, audio),
            Modulation::Usb { low, audio } | Modulation::Lsb { low, audio } => (low, audio),
        };
        if !(audio > 0.0 && audio <= 0.48 * audio_rate) {
            let must = format!("above 0, at most {}: 0.48 of the audio rate", 0.48 * audio_rate);
            return Err(SignalError::new("the highest audio frequency in Hz", audio, must));
        }
        if !(low >= 0.0 && low < audio) {
            return Err(SignalError::new("the lowest audio frequency in Hz", low, format!("0 or more, under {audio}")));
        }
        // The channel's width, its centre, and how many times more than its width its rate must be.
        let (width, centre) = match config.modulation {
            Modulation::Am { .. } => (2.0 * audio, 0.0),
            Modulation::Fm { deviation, deemphasis, .. } => {
                if !(deviation > 0.0 && deviation.is_finite()) {
                    return Err(SignalError::new("the deviation in Hz", deviation, "above 0"));
                }
                if !(0.0..=1.0).contains(&deemphasis) {
                    return Err(SignalError::new("the de-emphasis in s", deemphasis, "0 to 1"));
                }
                // Carson's rule.
                (2.0 * (deviation + audio), 0.0)
            }
            Modulation::Usb { .. } => (audio - low, (audio + low) / 2.0),
            Modulation::Lsb { .. } => (audio - low, -(audio + low) / 2.0),
        };
        if width > rate {
            return Err(SignalError::new(
                "the sample rate",
                rate,
                format!("at least the channel's width of {width} Hz"),
            ));
        }
        // SSB is made at the audio rate at once; the others are demodulated at the lowest rate that holds the channel
        // with room for the filter's edge.
        let side = matches!(config.modulation, Modulation::Usb { .. } | Modulation::Lsb { .. });
        let first = if side {
            ratio
        } else {
            (1..=ratio).rev().find(|d| ratio.is_multiple_of(*d) && rate / *d as f64 >= 1.25 * width).unwrap_or(1)
        };
        let narrow = rate / first as f64;
        let channel = Tuner::new(&TunerConfig {
            sample_rate: rate,
            offset: centre,
            decimation: first,
            bandwidth: Some(width.min(narrow)),
            attenuation: ATTENUATION,
        })?;
        let kind = match config.modulation {
            Modulation::Am { .. } => Kind::Am { carrier: None, share: 1.0 - (-1.0 / (CARRIER * narrow)).exp() },
            Modulation::Fm { deviation, deemphasis, .. } => Kind::Fm {
                last: Complex32::default(),
                scale: (narrow / (2.0 * PI * deviation)) as f32,
                held: 0.0,
                share: if deemphasis > 0.0 { 1.0 - (-1.0 / (deemphasis * narrow)).exp() } else { 1.0 },
            },
            // Back up by the centre, that is, an offset of minus it.
            Modulation::Usb { .. } | Modulation::Lsb { .. } => {
                // The other side band begins twice the lowest frequency beside this one.
                let half = width / 2.0;
                let edge = (2.0 * low).max(0.04 * audio).min(narrow / 2.0 - half);
                let taps = low_pass(half / narrow, (half + edge) / narrow, ATTENUATION)?;
                Kind::Side { edge: Decimator::new(&taps, 1)?, back: Nco::new(narrow, -centre)?, kept: Vec::new() }
            }
        };
        let second = ratio / first;
        let audio = if side {
            None
        } else {
            let stop = (audio_rate / 2.0).min(narrow / 2.0);
            Some(Decimator::new(&low_pass(audio / narrow, stop.max(audio * 1.02) / narrow, ATTENUATION)?, second)?)
        };
        Ok(Self {
            channel,
            kind,
            audio,
            first,
            clean: Vec::new(),
            narrow: Vec::new(),
            detected: Vec::new(),
            filtered: Vec::new(),
        })
    }

    /// By how much the audio is behind, in samples of the input: by its filters. De-emphasis, which delays every
    /// frequency by another time, is not part of it.
    pub fn delay(&self) -> f64 {
        let detected = match &self.kind {
            Kind::Am { .. } => 0.0,
            // The frequency is that between two samples.
            Kind::Fm { .. } => 0.5,
            Kind::Side { edge, .. } => edge.delay(),
        };
        let behind = detected + self.audio.as_ref().map_or(0.0, Decimator::delay);
        self.channel.delay() + self.first as f64 * behind
    }

    /// Appends audio to `out`: a sample for each input whose number is a multiple of the ratio of the rates.
    pub fn push(&mut self, samples: &[Complex32], out: &mut Vec<f32>) {
        for piece in samples.chunks(4096) {
            self.clean.clear();
            // Anything that a filter could not get rid of again; beyond 1e9 of full scale is no signal either.
            let fine = |v: f32| if v.abs() < 1e9 { v } else { 0.0 };
            self.clean.extend(piece.iter().map(|x| Complex32::new(fine(x.re), fine(x.im))));
            self.narrow.clear();
            self.channel.push(&self.clean, &mut self.narrow);
            self.detected.clear();
            self.kind.detect(&self.narrow, &mut self.detected);
            self.filtered.clear();
            match &mut self.audio {
                Some(filter) => {
                    filter.push(&self.detected, &mut self.filtered);
                    out.extend(self.filtered.iter().map(|x| x.re));
                }
                None => out.extend(self.detected.iter().map(|x| x.re)),
            }
        }
    }
}

impl Kind {
    fn detect(&mut self, samples: &[Complex32], out: &mut Vec<Complex32>) {
        match self {
            Self::Am { carrier, share } => out.extend(samples.iter().map(|x| {
                let envelope = f64::from(x.norm());
                let mean = carrier.map_or(envelope, |c| c + *share * (envelope - c));
                *carrier = Some(mean);
                Complex32::new((envelope - mean) as f32, 0.0)
            })),
            Self::Fm { last, scale, held, share } => out.extend(samples.iter().map(|x| {
                let turn = x * last.conj();
                *last = *x;
                let hz = f64::from(turn.im.atan2(turn.re) * *scale);
                *held += *share * (hz - *held);
                Complex32::new(*held as f32, 0.0)
            })),
            Self::Side { edge, back, kept } => {
                kept.clear();
                edge.push(samples, kept);
                back.push(kept, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cut, noise, sizes, tone};
    use super::*;
    use proptest::prelude::*;

    /// Amplitude of a tone in the second half of some audio.
    fn amplitude(audio: &[f32], turns: f64) -> f64 {
        let half = &audio[audio.len() / 2..];
        let mut sum = num_complex::Complex64::default();
        for (i, &a) in half.iter().enumerate() {
            sum += f64::from(a) * num_complex::Complex64::cis(-2.0 * PI * turns * i as f64);
        }
        2.0 * sum.norm() / half.len() as f64
    }

    fn run(config: &DemodConfig, samples: &[Complex32]) -> Vec<f32> {
        let mut audio = Vec::new();
        Demodulator::new(config).expect("valid").push(samples, &mut audio);
        audio
    }

    #[test]
    fn am_gives_the_modulation_without_its_carrier() {
        let n = 240_000;
        let samples: Vec<Complex32> = tone(n, 300.0 / 240e3, 0.5)
            .iter()
            .enumerate()
            .map(|(i, c)| c * (1.0 + 0.6 * (2.0 * PI * 1000.0 * i as f64 / 240e3).sin() as f32))
            .collect();
        let config = DemodConfig { sample_rate: 240e3, audio_rate: 48e3, modulation: Modulation::Am { audio: 5e3 } };
        let audio = run(&config, &samples);
        assert_eq!(audio.len(), n / 5);
        assert!((amplitude(&audio, 1000.0 / 48e3) - 0.3).abs() < 0.003);
        let mean = audio[n / 10..].iter().sum::<f32>() / (n / 10) as f32;
        assert!(mean.abs() < 1e-3, "{mean}");
    }

    #[test]
    fn fm_gives_the_deviation_and_the_emphasis_is_undone() {
        let fm = |hz: f64| {
            let mut phase = 0.0f64;
            (0..480_000)
                .map(|i| {
                    phase += 2.0 * PI * 37.5e3 * (2.0 * PI * hz * f64::from(i) / 480e3).cos() / 480e3;
                    Complex32::new(phase.cos() as f32, phase.sin() as f32)
                })
                .collect::<Vec<_>>()
        };
        for (hz, deemphasis) in [(400.0, 0.0), (5000.0, 0.0), (400.0, 50e-6), (5000.0, 50e-6)] {
            let modulation = Modulation::Fm { deviation: 75e3, audio: 15e3, deemphasis };
            let audio = run(&DemodConfig { sample_rate: 480e3, audio_rate: 48e3, modulation }, &fm(hz));
            let expected = 0.5 / (1.0 + (2.0 * PI * hz * deemphasis).powi(2)).sqrt();
            let got = amplitude(&audio, hz / 48e3);
            assert!((got - expected).abs() < 0.02 * expected, "{hz} {deemphasis}: {got} {expected}");
        }
    }

    #[test]
    fn side_bands_are_told_apart() {
        for upper in [true, false] {
            let modulation = if upper {
                Modulation::Usb { low: 300.0, audio: 2700.0 }
            } else {
                Modulation::Lsb { low: 300.0, audio: 2700.0 }
            };
            let config = DemodConfig { sample_rate: 96e3, audio_rate: 12e3, modulation };
            let sign = if upper { 1.0 } else { -1.0 };
            let wanted = run(&config, &tone(96_000, sign * 1200.0 / 96e3, 0.5));
            let other = run(&config, &tone(96_000, -sign * 1200.0 / 96e3, 0.5));
            assert!((amplitude(&wanted, 0.1) - 0.5).abs() < 0.01);
            assert!(other[other.len() / 2..].iter().all(|a| a.abs() < 1e-3));
        }
    }

    #[test]
    fn the_delay_is_what_it_is_said_to_be() {
        let (rate, at, n) = (192e3, 40_000.0, 80_000);
        // A pulse of 5 ms: of level, of frequency, of a tone.
        let pulse = |i: usize| (-((i as f64 - at) / (0.0025 * rate)).powi(2)).exp();
        let mut phase = 0.0f64;
        let mut turned = |hz: f64| {
            phase += 2.0 * PI * hz / rate;
            Complex32::new(phase.cos() as f32, phase.sin() as f32)
        };
        let fm: Vec<Complex32> = (0..n).map(|i| turned(2000.0 * pulse(i))).collect();
        let side: Vec<Complex32> = (0..n).map(|i| turned(1500.0) * pulse(i) as f32).collect();
        for (modulation, samples) in [
            (Modulation::Fm { deviation: 5e3, audio: 3e3, deemphasis: 0.0 }, &fm),
            (Modulation::Usb { low: 300.0, audio: 2.7e3 }, &side),
        ] {
            let config = DemodConfig { sample_rate: rate, audio_rate: 48e3, modulation };
            let audio = run(&config, samples);
            let power = |a: &f32| f64::from(*a).powi(2);
            // A filter that fills turns the phase about: the first samples click.
            let sum: f64 = audio.iter().skip(500).map(power).sum();
            let middle: f64 =
                audio.iter().enumerate().skip(500).map(|(i, a)| 4.0 * i as f64 * power(a)).sum::<f64>() / sum;
            let delay = Demodulator::new(&config).expect("valid").delay();
            assert!(delay > 20.0 && (middle - at - delay).abs() < 4.0, "{modulation:?}: {} {delay}", middle - at);
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_and_bad_samples_are_survived() {
        let am = Modulation::Am { audio: 5e3 };
        let good = DemodConfig { sample_rate: 240e3, audio_rate: 48e3, modulation: am };
        for bad in [
            DemodConfig { sample_rate: 250e3, ..good },
            DemodConfig { sample_rate: f64::NAN, ..good },
            DemodConfig { audio_rate: 0.0, ..good },
            DemodConfig { audio_rate: 8e3, ..good },
            DemodConfig { sample_rate: 24e3, ..good },
            DemodConfig { modulation: Modulation::Am { audio: -1.0 }, ..good },
            DemodConfig { modulation: Modulation::Fm { deviation: f64::NAN, audio: 5e3, deemphasis: 0.0 }, ..good },
            DemodConfig { modulation: Modulation::Fm { deviation: 1e9, audio: 5e3, deemphasis: 0.0 }, ..good },
            DemodConfig { modulation: Modulation::Usb { low: 3e3, audio: 2e3 }, ..good },
        ] {
            assert!(Demodulator::new(&bad).is_err(), "{bad:?}");
        }
        let mut demodulator = Demodulator::new(&good).expect("valid");
        let mut audio = Vec::new();
        demodulator.push(&[Complex32::new(f32::NAN, f32::INFINITY), Complex32::new(f32::MAX, 0.0)], &mut audio);
        demodulator.push(&noise(100_000, 0.1, 1), &mut audio);
        assert!(audio.iter().all(|a| a.is_finite()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn cuts_make_no_difference(sizes in sizes(), kind in 0..4) {
            let modulation = match kind {
                0 => Modulation::Am { audio: 4e3 },
                1 => Modulation::Fm { deviation: 5e3, audio: 3e3, deemphasis: 50e-6 },
                2 => Modulation::Usb { low: 200.0, audio: 3e3 },
                _ => Modulation::Lsb { low: 0.0, audio: 3e3 },
            };
            let config = DemodConfig { sample_rate: 48e3, audio_rate: 12e3, modulation };
            let samples = noise(5000, 1.0, 2);
            let mut demodulator = Demodulator::new(&config).expect("valid");
            let mut audio = Vec::new();
            for piece in cut(&samples, &sizes) {
                demodulator.push(piece, &mut audio);
            }
            prop_assert_eq!(audio, run(&config, &samples));
        }
    }
}

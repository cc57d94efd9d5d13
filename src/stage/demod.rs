//! `demod`: makes audio of a radio channel.

use super::{BuildContext, Built, Stage, StageConfig, StageError, duration};
use crate::frame::{Frame, Gap, Payload, SampleBlock, SampleTime};
use crate::issue::Issue;
use crate::signal::demod::{self, Demodulator, Modulation};
use crate::signal::{Complex32, SignalError, decibels};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

/// Keys of `kind = "demod"`. It takes streams of samples whose centre is the channel's: shift and narrow a wide one
/// first.
///
/// Stages and sinks behind it get audio in place of the samples: real, ±1 for full modulation, at the audio's rate. A
/// block's frequency stays that of the channel. Behind a gap the audio begins anew, and the gap is told in audio samples.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DemodConfig {
    /// `am`, `fm` (speech), `wfm` (broadcast), `usb` or `lsb`.
    pub mode: Mode,
    /// The channel's width, Hz. Default: 10000 for `am`, 16000 for `fm`, 180000 for `wfm`, 2400 for `usb` and `lsb`. The
    /// highest audio frequency follows from it: half of it for `am`, half of it less the deviation for `fm` and `wfm`,
    /// `low` plus it for `usb` and `lsb`; it is at most 0.48 of the audio's rate.
    #[serde(default)]
    pub bandwidth: Option<f64>,
    /// Audio samples a second. It becomes the nearest rate that the stream's is a whole multiple of. Default 48000.
    #[serde(default = "audio_rate")]
    pub audio_rate: f64,
    /// The deviation that is full audio, Hz; `fm` and `wfm` only. Default: of half the bandwidth 5/8 for `fm`, 5/6 for
    /// `wfm`, which is 5000 and 75000 with the default bandwidths.
    #[serde(default)]
    pub deviation: Option<f64>,
    /// Time constant of the de-emphasis, up to `1s`: `50us` in Europe, `75us` in America; `fm` and `wfm` only. Default:
    /// `50us` for `wfm`, `0s`, which is none, for `fm`.
    #[serde(default, deserialize_with = "some_duration")]
    #[schemars(with = "Option<String>")]
    pub deemphasis: Option<Duration>,
    /// The lowest audio frequency, Hz; `usb` and `lsb` only. Default 300.
    #[serde(default)]
    pub low: Option<f64>,
}

/// How the channel is modulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Amplitude.
    Am,
    /// Frequency, as for speech.
    Fm,
    /// Frequency, as for broadcast.
    Wfm,
    /// The upper side band.
    Usb,
    /// The lower side band.
    Lsb,
}

fn audio_rate() -> f64 {
    48_000.0
}

fn some_duration<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d).map(Some)
}

/// What its results stand under.
const KEY: &str = "audio";

impl DemodConfig {
    fn modulation(&self) -> Modulation {
        let width = |usual: f64| self.bandwidth.unwrap_or(usual);
        let fm = |usual: f64, share: f64, emphasis: f64| {
            let half = width(usual) / 2.0;
            let deviation = self.deviation.unwrap_or(share * half);
            let deemphasis = self.deemphasis.map_or(emphasis, |d| d.as_secs_f64());
            Modulation::Fm { deviation, audio: half - deviation, deemphasis }
        };
        let low = self.low.unwrap_or(300.0);
        match self.mode {
            Mode::Am => Modulation::Am { audio: width(10e3) / 2.0 },
            Mode::Fm => fm(16e3, 5.0 / 8.0, 0.0),
            Mode::Wfm => fm(180e3, 5.0 / 6.0, 50e-6),
            Mode::Usb => Modulation::Usb { low, audio: low + width(2400.0) },
            Mode::Lsb => Modulation::Lsb { low, audio: low + width(2400.0) },
        }
    }

    /// Samples in for each sample of audio.
    fn ratio(&self, rate: f64) -> u64 {
        (rate / self.audio_rate).round().max(1.0) as u64
    }

    fn demodulator(&self, rate: f64) -> Result<Demodulator, SignalError> {
        Demodulator::new(&demod::DemodConfig {
            sample_rate: rate,
            audio_rate: rate / self.ratio(rate) as f64,
            modulation: self.modulation(),
        })
    }
}

impl StageConfig for DemodConfig {
    fn check(&self, _: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        let mut foreign = |key: &str, given: bool, modes: &[Mode], means: &str| {
            if given && !modes.contains(&self.mode) {
                issues.push(Issue::error(key, format!("has a meaning with {means} only")));
            }
        };
        foreign("deviation", self.deviation.is_some(), &[Mode::Fm, Mode::Wfm], "`fm` and `wfm`");
        foreign("deemphasis", self.deemphasis.is_some(), &[Mode::Fm, Mode::Wfm], "`fm` and `wfm`");
        foreign("low", self.low.is_some(), &[Mode::Usb, Mode::Lsb], "`usb` and `lsb`");
        if !(100.0..=1e6).contains(&self.audio_rate) {
            issues.push(Issue::error("audio_rate", "is from 100 to 1000000 samples a second"));
        } else {
            // What is wrong at a rate with room for any channel is wrong at all.
            let width = self.bandwidth.filter(|b| b.is_finite()).unwrap_or(180e3);
            let rate = self.audio_rate * (2.0 * width / self.audio_rate).clamp(1.0, 1e4).ceil();
            issues.extend(self.demodulator(rate).err().map(|e| Issue::error("", e.to_string())));
        }
        issues
    }

    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        let config = self.clone();
        Ok(Built::Stage(Box::new(move || {
            Ok(Box::new(Demod { config: config.clone(), streams: HashMap::new(), audio: Vec::new() }) as Box<dyn Stage>)
        })))
    }
}

/// The stage at work.
struct Demod {
    config: DemodConfig,
    streams: HashMap<u32, Radio>,
    audio: Vec<f32>,
}

/// One stream's radio. Sample `k` of its audio belongs to sample `k` times the ratio of the stream, also behind a gap, so
/// that audio of streams that are counted alike is too.
struct Radio {
    rate: f64,
    ratio: u64,
    /// As it is at the start of a stream.
    new: Demodulator,
    demodulator: Demodulator,
    /// Position of the first sample that was or will be heard, and of the one that comes next; `None` before the first.
    begin: u64,
    next: Option<u64>,
}

impl Radio {
    fn new(config: &DemodConfig, rate: f64) -> Result<Self, SignalError> {
        let new = config.demodulator(rate)?;
        Ok(Self { rate, ratio: config.ratio(rate), demodulator: new.clone(), new, begin: 0, next: None })
    }

    /// The audio of a block; `audio` is cleared first.
    fn hear(&mut self, block: &SampleBlock, audio: &mut Vec<f32>) -> SampleBlock {
        audio.clear();
        let position = block.position.div_ceil(self.ratio);
        if self.next != Some(block.position) || block.gap.is_some() {
            self.demodulator = self.new.clone();
            self.begin = position * self.ratio;
        }
        let skip = self.begin.saturating_sub(block.position).min(block.samples.len() as u64);
        self.demodulator.push(&block.samples[skip as usize..], audio);
        let gap = block.gap.map(|gap| {
            let samples = match self.next {
                _ if gap.samples == 0 => 0,
                Some(next) => position.saturating_sub(next.div_ceil(self.ratio)),
                None => gap.samples / self.ratio,
            };
            Gap { samples, cause: gap.cause }
        });
        let ahead = (position * self.ratio) as f64 - block.position as f64 - self.demodulator.delay();
        let time = block.time.map(|time| SampleTime {
            ns: time.ns.saturating_add((ahead / self.rate * 1e9).round() as i64),
            accuracy: time.accuracy,
        });
        self.next = Some(block.end());
        SampleBlock {
            samples: audio.iter().map(|&a| Complex32::new(a, 0.0)).collect(),
            rate: self.rate / self.ratio as f64,
            frequency: block.frequency,
            position,
            last: block.last,
            gap,
            time,
        }
    }
}

impl Stage for Demod {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let block = frame.payload.samples().ok_or_else(|| StageError::new("the frame has no samples"))?;
        let index = frame.stream().index;
        // Samples of another rate are another stream.
        if self.streams.get(&index).is_some_and(|r| r.rate != block.rate) {
            self.streams.remove(&index);
        }
        let radio = match self.streams.entry(index) {
            Entry::Occupied(radio) => radio.into_mut(),
            Entry::Vacant(free) => {
                free.insert(Radio::new(&self.config, block.rate).map_err(|e| StageError::new(e.to_string()))?)
            }
        };
        let audio = radio.hear(block, &mut self.audio);
        let power = self.audio.iter().map(|a| a * a).sum::<f32>() / self.audio.len().max(1) as f32;
        let level = (f64::from(decibels(power)) * 100.0).round() / 100.0;
        frame.annotations.extra.insert(KEY.into(), json!({ "rate": audio.rate, "level": level }));
        frame.payload = Payload::Samples(Arc::new(audio));
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use super::super::from_toml;
    use super::*;
    use crate::frame::{Arrival, GapCause, Stream};
    use crate::signal::testing::{cut, sizes};
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    const RATE: f64 = 240e3;

    fn stage(text: &str) -> Box<dyn Stage> {
        match from_toml("demod", text).and_then(|c| c.build(&BuildContext::default())) {
            Ok(Built::Stage(make)) => make().expect("made"),
            _ => panic!("a stage"),
        }
    }

    fn block(samples: &[Complex32], position: u64, gap: Option<Gap>) -> SampleBlock {
        let ns = 1_000_000_000 + (position as f64 / RATE * 1e9).round() as i64;
        let time = Some(SampleTime { ns, accuracy: Duration::from_millis(1) });
        SampleBlock {
            samples: samples.to_vec(),
            rate: RATE,
            frequency: Some(145.5e6),
            position,
            last: false,
            gap,
            time,
        }
    }

    fn process(stage: &mut dyn Stage, stream: &Arc<Stream>, block: SampleBlock) -> Result<SampleBlock, StageError> {
        let payload = Payload::Samples(Arc::new(block));
        let mut frame = Frame::new(stream.capture(0), None, Arrival::default(), payload);
        stage.process(&mut frame)?;
        Ok(SampleBlock::clone(frame.payload.samples().expect("samples")))
    }

    fn stream(index: u32) -> Arc<Stream> {
        Arc::new(Stream::new("radio", index, None, 0, true))
    }

    /// A tone of 1 kHz at half the deviation of 5 kHz.
    fn fm(n: usize) -> Vec<Complex32> {
        let mut phase = 0.0f64;
        (0..n)
            .map(|i| {
                phase += TAU * 2500.0 * (TAU * 1000.0 * (i as f64 - 0.5) / RATE).sin() / RATE;
                Complex32::new(phase.cos() as f32, phase.sin() as f32)
            })
            .collect()
    }

    /// How far audio is from the tone at its positions, delayed by so many seconds.
    fn off(audio: &SampleBlock, delay: f64) -> f64 {
        let at = |i: usize| (audio.position + i as u64) as f64 / audio.rate - delay;
        let off = |(i, s): (usize, &Complex32)| (f64::from(s.re) - 0.5 * (TAU * 1000.0 * at(i)).sin()).abs();
        audio.samples.iter().enumerate().skip(200).map(off).fold(0.0, f64::max)
    }

    #[test]
    fn a_tone_comes_out_as_that_tone_and_goes_on_behind_a_gap() {
        let (samples, radio) = (fm(72_000), stream(0));
        let mut stage = stage("mode = \"fm\"");
        let first = process(&mut *stage, &radio, block(&samples[..24_001], 0, None)).expect("audio");
        assert_eq!((first.rate, first.frequency, first.position, first.gap), (48e3, Some(145.5e6), 0, None));
        assert_eq!((first.samples.len(), first.last), (4801, false));
        // What time says is the audio's own: the tone is where it was.
        let delay = 1.0 - first.time.expect("a time").ns as f64 / 1e9;
        assert!(delay > 1e-4 && off(&first, delay) < 0.01, "{delay} {}", off(&first, delay));
        assert!(first.samples.iter().all(|s| s.im == 0.0));
        // 12 002 samples are missing: the next multiple of five is two behind.
        let gap = Gap { samples: 12_002, cause: GapCause::Overrun };
        let mut behind = block(&samples[36_003..], 36_003, Some(gap));
        behind.last = true;
        let second = process(&mut *stage, &radio, behind).expect("audio");
        assert_eq!((second.position, second.samples.len(), second.last), (7201, 7199, true));
        assert_eq!(second.gap, Some(Gap { samples: 2400, cause: GapCause::Overrun }));
        assert!(off(&second, delay) < 0.01, "{}", off(&second, delay));
        let time = second.time.expect("a time").ns as f64 / 1e9;
        assert!((time - (1.0 + 7201.0 / 48e3 - delay)).abs() < 3e-9);
        // Without word of a gap a jump is one all the same; an unknown length stays unknown.
        let third = process(&mut *stage, &radio, block(&samples[..10_000], 100_000, None)).expect("audio");
        assert_eq!((third.position, third.samples.len(), third.gap), (20_000, 2000, None));
        assert_eq!(third.samples[300..], first.samples[300..2000]);
        let gap = Some(Gap { samples: 0, cause: GapCause::Reconnect });
        assert_eq!(process(&mut *stage, &radio, block(&samples[..9], 110_000, gap)).expect("audio").gap, gap);
    }

    #[test]
    fn streams_are_apart_and_a_new_rate_is_a_new_stream() {
        let samples = fm(20_000);
        let mut stage = stage("mode = \"fm\"\naudio_rate = 44100");
        let (a, b) = (stream(0), stream(1));
        let one = process(&mut *stage, &a, block(&samples, 0, None)).expect("audio");
        assert_eq!(one.rate, 48e3, "the nearest that fits");
        assert_eq!(process(&mut *stage, &b, block(&samples, 0, None)).expect("audio"), one);
        let other = SampleBlock { rate: 50e3, ..block(&samples, 20_000, None) };
        let other = process(&mut *stage, &a, other).expect("audio");
        assert_eq!((other.rate, other.position, other.samples.len()), (50e3, 20_000, 20_000));
        assert!(process(&mut *stage, &a, SampleBlock { rate: 8e3, ..block(&samples, 0, None) }).is_err());
        stage.forget(0);
        assert_eq!(process(&mut *stage, &a, block(&samples, 0, None)).expect("audio"), one);
        let mut empty = Frame::new(a.capture(0), None, Arrival::default(), Payload::Empty);
        assert!(stage.process(&mut empty).is_err_and(|e| e.0.contains("no samples")));
    }

    #[test]
    fn settings_that_make_no_sense_are_told_by_key() {
        let keys = |text: &str| -> Vec<String> {
            let config = from_toml("demod", text).expect("read");
            config.check(&BuildContext::default()).into_iter().map(|i| i.key).collect()
        };
        for mode in ["am", "fm", "wfm", "usb", "lsb"] {
            assert!(keys(&format!("mode = \"{mode}\"")).is_empty(), "{mode}");
        }
        assert!(keys("mode = \"fm\"\nbandwidth = 12500\naudio_rate = 8000\ndeemphasis = \"750us\"").is_empty());
        assert_eq!(keys("mode = \"am\"\ndeviation = 5000\nlow = 300\ndeemphasis = \"0s\"").len(), 3);
        assert_eq!(keys("mode = \"usb\"\naudio_rate = 0"), ["audio_rate"]);
        for bad in [
            "mode = \"am\"\nbandwidth = nan",
            "mode = \"am\"\nbandwidth = -1",
            "mode = \"am\"\naudio_rate = 8000",
            "mode = \"fm\"\nbandwidth = 10000\ndeviation = 6000",
            "mode = \"wfm\"\nbandwidth = 1e300",
            "mode = \"usb\"\nlow = -5",
        ] {
            assert_eq!(keys(bad).len(), 1, "{bad}");
        }
        assert!(from_toml("demod", "").is_err() && from_toml("demod", "mode = \"pm\"").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn cuts_make_no_difference_and_gaps_are_whole(sizes in sizes(), start in 0u64..100, lost in 1u64..3000) {
            let (samples, radio) = (fm(6000), stream(0));
            let mut stage = stage("mode = \"usb\"");
            // The same samples twice, with something missing between.
            let mut heard = [Vec::new(), Vec::new()];
            let mut position = start;
            for (n, heard) in heard.iter_mut().enumerate() {
                let mut gap = (n == 1).then_some(Gap { samples: lost, cause: GapCause::Lost });
                for piece in cut(&samples, &sizes) {
                    let audio = process(&mut *stage, &radio, block(piece, position, gap)).expect("audio");
                    prop_assert_eq!(audio.gap.map(|g| g.cause), gap.take().map(|g| g.cause));
                    heard.push(audio);
                    position += piece.len() as u64;
                }
                position += lost;
            }
            let whole = process(&mut *self::stage("mode = \"usb\""), &radio, block(&samples, start, None)).expect("audio");
            let mut end = start.div_ceil(5);
            let mut first = Vec::new();
            for audio in &heard[0] {
                prop_assert_eq!((audio.position, audio.gap), (end, None));
                first.extend_from_slice(&audio.samples);
                end = audio.end();
            }
            prop_assert_eq!(first, whole.samples);
            let gap = heard[1][0].gap.map_or(0, |g| g.samples);
            prop_assert_eq!(heard[1][0].position, end + gap);
            prop_assert_eq!(heard[1][0].position, (start + 6000 + lost).div_ceil(5));
        }
    }
}

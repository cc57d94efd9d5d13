//! `channelize`: takes a channel out of a stream of samples, or splits all of it into channels.

use super::{BuildContext, Built, HandsOver, Stage, StageConfig, StageError};
use crate::frame::exchange::{Giver, Handed};
use crate::frame::{Frame, Gap, Payload, SampleBlock, SampleTime};
use crate::issue::Issue;
use crate::signal::SignalError;
use crate::signal::channelize::{BankConfig, FilterBank, Sampling, Tuner, TunerConfig};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Keys of `kind = "channelize"`. Without `channels` it shifts, filters and decimates: the stages behind see one channel
/// in place of the stream. With `channels` a filter bank splits the stream into channels that cover it; each becomes a
/// stream of its own where a source `channel://ID/N` takes it, and frames go on as they are.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelizeConfig {
    /// The channel's centre in Hz, from that of the stream. Default 0.
    pub offset: Option<f64>,
    /// The channel's centre in Hz where the stream says its own, in place of `offset`.
    pub frequency: Option<f64>,
    /// Samples in for each sample out. Default 1.
    pub decimation: Option<usize>,
    /// The channel's width in Hz, which is passed flat; at most the rate that comes out. Default 0.8 of that.
    pub bandwidth: Option<f64>,
    /// How far down other channels are, dB, 10 to 200. Default 70.
    pub attenuation: f64,
    /// So many channels, 2 to 65536, spaced by the stream's rate over their number. Channel 0 is the centre; the upper
    /// half of the numbers lies below it.
    pub channels: Option<usize>,
    /// With `channels`: `double`, twice their spacing (free of aliases; an even number of channels), or `critical`, their
    /// spacing (what lies between two channels folds). Default `double`.
    pub sampling: Option<SamplingKey>,
    /// With `channels`: taps of the filter for each channel, 2 to 64. Default 16.
    pub taps: Option<usize>,
}

/// How fast the channels of a bank come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SamplingKey {
    /// At their spacing.
    Critical,
    /// At twice their spacing.
    Double,
}

impl Default for ChannelizeConfig {
    fn default() -> Self {
        Self {
            offset: None,
            frequency: None,
            decimation: None,
            bandwidth: None,
            attenuation: 70.0,
            channels: None,
            sampling: None,
            taps: None,
        }
    }
}

/// The name of the place where a bank hands a channel over.
pub fn place(stage: &str, channel: usize) -> String {
    format!("{stage}/{channel}")
}

impl ChannelizeConfig {
    fn tuner(&self, rate: f64, centre: Option<f64>) -> Result<(Tuner, f64), StageError> {
        let offset = match (self.offset, self.frequency, centre) {
            (Some(offset), ..) => offset,
            (None, None, _) => 0.0,
            (None, Some(frequency), Some(centre)) => frequency - centre,
            (None, Some(_), None) => {
                let message = "the stream does not say its centre frequency: give `offset` in place of `frequency`";
                return Err(StageError::new(message));
            }
        };
        let decimation = self.decimation.unwrap_or(1);
        let config = TunerConfig {
            sample_rate: rate,
            offset,
            decimation,
            bandwidth: self.bandwidth,
            attenuation: self.attenuation,
        };
        Ok((Tuner::new(&config).map_err(|e| StageError::new(e.to_string()))?, offset))
    }

    fn bank(&self, rate: f64, channels: usize) -> Result<FilterBank, SignalError> {
        FilterBank::new(&BankConfig {
            sample_rate: rate,
            channels,
            sampling: match self.sampling {
                Some(SamplingKey::Critical) => Sampling::Critical,
                Some(SamplingKey::Double) | None => Sampling::Double,
            },
            taps: self.taps.unwrap_or(16),
            attenuation: self.attenuation,
        })
    }
}

impl StageConfig for ChannelizeConfig {
    fn check(&self, _: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        let mut only = |key: &str, set: bool, with: bool| {
            if set && self.channels.is_some() != with {
                let (has, other) = if with { ("with", "") } else { ("without", ", which splits the whole stream") };
                issues.push(Issue::error(key, format!("`{key}` goes {has} `channels`{other}")));
            }
        };
        only("offset", self.offset.is_some(), false);
        only("frequency", self.frequency.is_some(), false);
        only("decimation", self.decimation.is_some(), false);
        only("bandwidth", self.bandwidth.is_some(), false);
        only("sampling", self.sampling.is_some(), true);
        only("taps", self.taps.is_some(), true);
        if self.offset.is_some() && self.frequency.is_some() {
            issues
                .push(Issue::error("frequency", "`offset` and `frequency` say the same thing; one of them is enough"));
        }
        // What is wrong at one rate is wrong at any with room for the channel.
        let rate = 1e6f64
            .max(4.0 * self.offset.unwrap_or(0.0).abs())
            .max(self.bandwidth.filter(|b| b.is_finite()).unwrap_or(0.0) * 1.01 * self.decimation.unwrap_or(1) as f64);
        let wrong = match self.channels {
            Some(channels) => self.bank(rate, channels).err().map(|e| e.to_string()),
            None => self.tuner(rate, self.frequency).err().map(|e| e.to_string()),
        };
        issues.extend(wrong.map(|message| Issue::error("", message)));
        issues
    }

    fn hands_over(&self) -> Option<HandsOver> {
        self.channels.map(HandsOver::Channels)
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        let config = self.clone();
        let Some(channels) = self.channels else {
            return Ok(Built::Stage(Box::new(move || {
                Ok(Box::new(Tune { config: config.clone(), streams: HashMap::new() }) as Box<dyn Stage>)
            })));
        };
        // Nobody waits for the other channels, and nothing is kept for them.
        let wanted = (0..channels).map(|n| (n, place(&context.id, n))).filter(|(_, p)| context.exchange.expected(p));
        let givers: Arc<[(usize, Giver)]> =
            wanted.map(|(n, place)| (n, context.exchange.place(&place).give(!context.live))).collect();
        Ok(Built::Stage(Box::new(move || {
            let (config, givers) = (config.clone(), givers.clone());
            Ok(Box::new(Split { config, channels, givers, streams: HashMap::new() }) as Box<dyn Stage>)
        })))
    }
}

/// Where a stream of fewer samples lies in the one that it is made of.
#[derive(Debug, Clone, Copy)]
struct Course {
    rate: f64,
    /// Samples in for each sample out, and how many samples in what comes out is late.
    step: f64,
    delay: f64,
    /// Position of the first sample in, and of the first one out.
    origin: u64,
    base: u64,
    /// Position of the next sample in, and how many have come out.
    next: u64,
    made: u64,
}

impl Course {
    /// One that begins with this block, behind `before` samples out.
    fn new(block: &SampleBlock, step: f64, delay: f64, before: u64) -> Self {
        let base = ((block.position as f64 / step) as u64).max(before);
        Self { rate: block.rate, step, delay, origin: block.position, base, next: block.position, made: 0 }
    }

    fn follows(&self, block: &SampleBlock) -> bool {
        self.next == block.position && self.rate == block.rate
    }

    /// Position behind the last sample out.
    fn end(&self) -> u64 {
        self.base + self.made
    }

    /// The block that these samples are, which `block` gave.
    fn block(&mut self, block: &SampleBlock, samples: Vec<crate::signal::Complex32>, offset: f64) -> SampleBlock {
        let position = self.end();
        // The first sample out belongs to this one in, counted from the block's first.
        let at = self.origin as f64 + self.made as f64 * self.step - self.delay - block.position as f64;
        let ns = (at / block.rate * 1e9) as i64;
        self.made += samples.len() as u64;
        self.next = block.end();
        SampleBlock {
            rate: block.rate / self.step,
            frequency: block.frequency.map(|f| f + offset),
            position,
            last: block.last,
            gap: block.gap.map(|g| Gap { samples: (g.samples as f64 / self.step).round() as u64, ..g }),
            time: block.time.map(|t| SampleTime { ns: t.ns + ns, ..t }),
            samples,
        }
    }
}

fn samples_of(frame: &Frame) -> Result<&Arc<SampleBlock>, StageError> {
    frame.payload.samples().ok_or_else(|| StageError::new("the frame has no samples"))
}

/// One channel in place of the stream.
struct Tune {
    config: ChannelizeConfig,
    streams: HashMap<u32, Tuned>,
}

struct Tuned {
    tuner: Tuner,
    offset: f64,
    /// Centre frequency of the stream that it was made for.
    centre: Option<f64>,
    course: Course,
}

impl Stage for Tune {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let block = samples_of(frame)?.clone();
        let index = frame.stream().index;
        let known = self.streams.get(&index);
        // Nothing goes across a gap, and a receiver that is tuned anew has the channel elsewhere.
        let goes_on = known.is_some_and(|t| t.course.follows(&block) && t.centre == block.frequency);
        if !goes_on {
            let before = known.map_or(0, |t| t.course.end());
            let (tuner, offset) = self.config.tuner(block.rate, block.frequency)?;
            let step = block.rate / tuner.rate();
            let course = Course::new(&block, step, tuner.delay(), before);
            self.streams.insert(index, Tuned { tuner, offset, centre: block.frequency, course });
        }
        let Some(Tuned { tuner, offset, course, .. }) = self.streams.get_mut(&index) else { return Ok(()) };
        let mut samples = Vec::with_capacity((block.samples.len() as f64 / course.step) as usize + 1);
        tuner.push(&block.samples, &mut samples);
        frame.payload = Payload::Samples(Arc::new(course.block(&block, samples, *offset)));
        if block.last {
            self.streams.remove(&index);
        }
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }
}

/// All channels, each handed over where somebody takes it.
struct Split {
    config: ChannelizeConfig,
    channels: usize,
    givers: Arc<[(usize, Giver)]>,
    streams: HashMap<u32, Banked>,
}

struct Banked {
    bank: FilterBank,
    course: Course,
}

impl Stage for Split {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let block = samples_of(frame)?.clone();
        let index = frame.stream().index;
        let known = self.streams.get(&index);
        if !known.is_some_and(|b| b.course.follows(&block)) {
            let before = known.map_or(0, |b| b.course.end());
            let bank = self.config.bank(block.rate, self.channels).map_err(|e| StageError::new(e.to_string()))?;
            let course = Course::new(&block, block.rate / bank.rate(), bank.delay(), before);
            self.streams.insert(index, Banked { bank, course });
        }
        let Some(Banked { bank, course }) = self.streams.get_mut(&index) else { return Ok(()) };
        let room = (block.samples.len() as f64 / course.step) as usize + 1;
        let mut out = vec![Vec::with_capacity(room); self.givers.len()];
        let givers = &self.givers;
        bank.push(&block.samples, |_, channels| {
            for ((channel, _), samples) in givers.iter().zip(&mut out) {
                samples.push(channels[*channel]);
            }
        });
        let before = *course;
        for ((channel, giver), samples) in givers.iter().zip(out) {
            // Every channel has the same course.
            *course = before;
            let made = course.block(&block, samples, bank.frequency(*channel));
            giver.hand(Handed { payload: Payload::Samples(Arc::new(made)), ..Handed::from(&*frame) });
        }
        course.next = block.end();
        if block.last {
            self.streams.remove(&index);
        }
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
        self.givers.iter().for_each(|(_, giver)| giver.ended(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::exchange::Taken;
    use crate::frame::{Arrival, GapCause, Stream};
    use crate::signal::Complex32;
    use std::f64::consts::TAU;
    use std::time::Duration;

    const RATE: f64 = 48_000.0;

    fn tone(hz: f64, position: u64, length: usize) -> Vec<Complex32> {
        let sample = |n: u64| Complex32::from_polar(1.0, (TAU * hz * n as f64 / RATE).rem_euclid(TAU) as f32);
        (position..position + length as u64).map(sample).collect()
    }

    fn block(hz: f64, position: u64, length: usize) -> SampleBlock {
        SampleBlock {
            samples: tone(hz, position, length),
            rate: RATE,
            frequency: Some(100e6),
            position,
            last: false,
            gap: None,
            time: Some(SampleTime { ns: (position as f64 / RATE * 1e9) as i64, accuracy: Duration::from_micros(1) }),
        }
    }

    fn frame(block: SampleBlock) -> Frame {
        let stream = Arc::new(Stream::new("s", 0, None, 0, true));
        Frame::new(stream.capture(0), None, Arrival::default(), Payload::Samples(Arc::new(block)))
    }

    fn stage(config: &ChannelizeConfig, context: &BuildContext) -> Box<dyn Stage> {
        assert!(config.check(context).is_empty(), "{:?}", config.check(context));
        match config.build(context).expect("built") {
            Built::Stage(make) => make().expect("made"),
            Built::Batch(_) => panic!("it runs on no device"),
        }
    }

    fn level(samples: &[Complex32]) -> f32 {
        10.0 * (samples.iter().map(Complex32::norm_sqr).sum::<f32>() / samples.len() as f32).log10()
    }

    fn tuned(config: &ChannelizeConfig, blocks: Vec<SampleBlock>) -> Vec<Arc<SampleBlock>> {
        let mut stage = stage(config, &BuildContext::default());
        let run = |b| {
            let mut frame = frame(b);
            stage.process(&mut frame).expect("tuned");
            frame.payload.samples().expect("samples").clone()
        };
        blocks.into_iter().map(run).collect()
    }

    #[test]
    fn a_channel_takes_the_streams_place_and_knows_where_it_is() {
        let config = ChannelizeConfig { frequency: Some(100.006e6), decimation: Some(4), ..Default::default() };
        let out = tuned(&config, (0..10).map(|n| block(6500.0, n * 1001, 1001)).collect());
        let mut at = 0;
        for (n, b) in out.iter().enumerate() {
            assert_eq!((b.rate, b.frequency, b.position), (12_000.0, Some(100.006e6), at));
            let first = at as f64 * 4.0 / RATE * 1e9;
            let late = first - b.time.expect("timed").ns as f64;
            assert!((0.0..2e6).contains(&late), "{late} ns");
            assert!(n < 2 || level(&b.samples).abs() < 0.1);
            at = b.end();
        }
        assert_eq!(at, 10_010 / 4 + 1);
        // Half a kilohertz above the channel's centre.
        let (a, b) = (out[5].samples[0], out[5].samples[1]);
        assert!(((b * a.conj()).arg() - (TAU * 500.0 / 12_000.0) as f32).abs() < 1e-3);
    }

    #[test]
    fn nothing_goes_across_a_gap_and_positions_keep_it() {
        let config = ChannelizeConfig { decimation: Some(4), ..Default::default() };
        let gap = Some(Gap { samples: 4000, cause: GapCause::Lost });
        let out = tuned(&config, vec![block(100.0, 0, 4000), SampleBlock { gap, ..block(100.0, 8000, 4000) }]);
        assert_eq!((out[0].position, out[0].end(), out[1].position), (0, 1000, 2000));
        assert_eq!(out[1].gap, Some(Gap { samples: 1000, cause: GapCause::Lost }));
        // The filter begins anew, with zeros.
        assert!(out[1].samples[0].norm() < 0.1 * out[1].samples[500].norm());
    }

    #[test]
    fn every_channel_that_is_taken_becomes_a_stream() {
        let context = BuildContext { id: "bank".into(), ..Default::default() };
        for channel in [0, 1, 7] {
            context.exchange.expect(&place("bank", channel));
        }
        let takers = [0, 1, 7].map(|n| context.exchange.place(&place("bank", n)).take());
        let mut stage = stage(&ChannelizeConfig { channels: Some(8), ..Default::default() }, &context);
        // Channels lie 6 kHz apart: this tone is in the last one, below the centre.
        for n in 0..8 {
            let mut whole = frame(block(-6200.0, n * 4800, 4800));
            stage.process(&mut whole).expect("split");
            assert_eq!(whole.payload.samples().expect("samples").samples.len(), 4800, "it goes on as it was");
        }
        for (taker, (frequency, loud)) in takers.iter().zip([(100e6, false), (100.006e6, false), (99.994e6, true)]) {
            let mut at = 0;
            while let Taken::One(handed) = taker.next(Duration::ZERO) {
                let b = handed.payload.samples().expect("samples").clone();
                assert_eq!((b.rate, b.frequency, b.position), (12_000.0, Some(frequency), at));
                at = b.end();
                if at > 2400 {
                    let level = level(&b.samples);
                    assert!(if loud { level.abs() < 0.1 } else { level < -60.0 }, "{frequency} Hz: {level}");
                }
            }
            assert_eq!(at, 8 * 1200);
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_told() {
        let issues = |c: ChannelizeConfig| c.check(&BuildContext::default());
        for bad in [
            ChannelizeConfig { channels: Some(7), ..Default::default() },
            ChannelizeConfig { channels: Some(1), ..Default::default() },
            ChannelizeConfig { channels: Some(8), decimation: Some(4), ..Default::default() },
            ChannelizeConfig { taps: Some(8), ..Default::default() },
            ChannelizeConfig { decimation: Some(0), ..Default::default() },
            ChannelizeConfig { attenuation: 5.0, decimation: Some(4), ..Default::default() },
            ChannelizeConfig { offset: Some(1e3), frequency: Some(1e6), ..Default::default() },
            ChannelizeConfig { bandwidth: Some(-1.0), ..Default::default() },
        ] {
            assert_eq!(issues(bad.clone()).len(), 1, "{bad:?}");
        }
        let fm =
            ChannelizeConfig { offset: Some(-3e6), decimation: Some(10), bandwidth: Some(2e5), ..Default::default() };
        assert!(issues(fm).is_empty());
        assert!(
            issues(ChannelizeConfig { channels: Some(7), sampling: Some(SamplingKey::Critical), ..Default::default() })
                .is_empty()
        );
        let config = ChannelizeConfig { frequency: Some(1e6), ..Default::default() };
        let mut frame = frame(SampleBlock { frequency: None, ..block(0.0, 0, 10) });
        let e = stage(&config, &BuildContext::default()).process(&mut frame).expect_err("no centre");
        assert!(e.to_string().contains("does not say its centre frequency"));
    }
}

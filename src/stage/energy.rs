//! `energy`: finds bursts in streams of samples, above a noise floor that it tracks.

use super::listen::{Listener, Listeners};
use super::{BuildContext, Built, Stage, StageConfig, StageError, duration};
use crate::frame::Frame;
use crate::issue::Issue;
use crate::signal::energy::{self, Burst, Detector};
use crate::signal::{Complex32, SignalError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Keys of `kind = "energy"`. It takes streams of samples of any rate.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnergyConfig {
    /// How far above the noise floor a burst begins, dB. Default 10.
    pub on: f32,
    /// How far above the noise floor a burst is still on, dB; above 0, at most `on`. Default 6.
    pub off: f32,
    /// Samples that the power is averaged over, 1 to 65536. Short bursts need few, weak ones many. Default 16.
    pub smooth: usize,
    /// How long a burst may be quiet without ending. Default `2ms`.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "String")]
    pub hang: Duration,
    /// A burst of this length is ended, and the noise floor is learned anew: a level that stays is no burst. Default
    /// `10s`.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "String")]
    pub longest: Duration,
    /// Bursts of fewer samples are passed over. Default 32.
    pub shortest: u64,
    /// The noise floor to begin with, dBFS. Default: it is learned first, and a burst that is on from the first sample
    /// is missed.
    pub floor: Option<f32>,
}

impl Default for EnergyConfig {
    fn default() -> Self {
        let usual = energy::EnergyConfig::new(1.0);
        Self {
            on: usual.on,
            off: usual.off,
            smooth: usual.smooth,
            hang: Duration::from_millis(2),
            longest: Duration::from_secs(10),
            shortest: usual.shortest,
            floor: None,
        }
    }
}

/// What its results stand under.
pub const KEY: &str = "bursts";

impl EnergyConfig {
    /// The settings for samples of this rate.
    fn at(&self, rate: f64) -> energy::EnergyConfig {
        let samples = |span: Duration| ((span.as_secs_f64() * rate) as u64).max(1);
        energy::EnergyConfig {
            on: self.on,
            off: self.off,
            smooth: self.smooth,
            hang: samples(self.hang),
            longest: samples(self.longest).max(self.shortest),
            shortest: self.shortest,
            floor: self.floor,
            ..energy::EnergyConfig::new(rate)
        }
    }

    fn detector(&self, rate: f64) -> Result<Bursts, SignalError> {
        Ok(Bursts(Detector::new(&self.at(rate))?))
    }
}

impl StageConfig for EnergyConfig {
    fn check(&self, _: &BuildContext) -> Vec<Issue> {
        // What is wrong at one rate is wrong at any.
        self.detector(1e6).err().map(|e| Issue::error("", e.to_string())).into_iter().collect()
    }

    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        let config = self.clone();
        Ok(Built::Stage(Box::new(move || {
            Ok(Box::new(Energy { config: config.clone(), detectors: Listeners::default() }) as Box<dyn Stage>)
        })))
    }
}

/// The stage at work.
struct Energy {
    config: EnergyConfig,
    detectors: Listeners<Bursts>,
}

struct Bursts(Detector);

impl Listener for Bursts {
    type Heard = Burst;

    fn push(&mut self, samples: &[Complex32], heard: &mut Vec<Burst>) {
        self.0.push(samples, |b| heard.push(*b));
    }

    fn finish(&mut self, heard: &mut Vec<Burst>) {
        self.0.finish(|b| heard.push(*b));
    }

    fn shift(heard: &mut Burst, by: u64) {
        heard.start += by;
    }
}

/// A burst in a result.
#[derive(Serialize)]
struct Heard {
    /// When it began, seconds in the stream, and how many it lasted.
    time: f64,
    seconds: f64,
    /// Its centre, Hz, where the stream's is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency: Option<f64>,
    #[serde(flatten)]
    burst: Burst,
}

impl Stage for Energy {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let config = &self.config;
        let bursts = self.detectors.hear(frame, |rate| config.detector(rate))?;
        let block = frame.payload.samples();
        let (rate, centre) = block.map_or((1.0, None), |b| (b.rate, b.frequency));
        let heard = bursts.into_iter().map(|burst| Heard {
            time: burst.start as f64 / rate,
            seconds: burst.length as f64 / rate,
            frequency: centre.map(|c| c + burst.centre),
            burst,
        });
        let value = serde_json::to_value(heard.collect::<Vec<_>>()).map_err(|e| StageError::new(e.to_string()))?;
        frame.annotations.extra.insert(KEY.into(), value);
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.detectors.forget(stream);
    }
}

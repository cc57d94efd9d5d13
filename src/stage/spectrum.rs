//! `spectrum`: averaged power spectra of streams of samples.

use super::listen::{Listener, Listeners};
use super::{BuildContext, Built, Stage, StageConfig, StageError};
use crate::frame::Frame;
use crate::issue::Issue;
use crate::signal::spectrum::{self, Averaging, Spectrum};
use crate::signal::window::Window;
use crate::signal::{Complex32, SILENCE_DBFS, SignalError};
use serde::{Deserialize, Serialize};

/// Keys of `kind = "spectrum"`. It takes streams of samples of any rate.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpectrumConfig {
    /// Samples of a transform, 2 to 4194304; powers of two are the fastest. Default 2048.
    pub size: usize,
    /// Samples from one transform's start to the next one's, 1 to `size`. Default: `size`, without overlap.
    pub hop: Option<usize>,
    /// The window: `rectangular`, `hann`, `hamming`, `blackman`, `blackman-harris`, `flat-top`, or
    /// `{ kaiser = { beta = 8.6 } }`. Default `hann`.
    pub window: Window,
    /// Transforms that make one spectrum, at least 1. Default 64.
    pub average: u32,
    /// How they make it. Default `mean`.
    pub averaging: Kind,
    /// With `averaging = "exponential"`: the share that a new transform has, above 0 to 1. Default 0.1.
    pub share: f32,
    /// What the levels are. Default `dbfs`.
    pub unit: Unit,
    /// Whether results carry the level of every bin. Default true.
    pub levels: bool,
    /// How many peaks results carry, the strongest first. Default 0.
    pub peaks: usize,
}

/// How transforms make a spectrum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Their mean power.
    #[default]
    Mean,
    /// A running mean that forgets.
    Exponential,
    /// The highest power of each bin.
    Peak,
}

/// What levels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, schemars::JsonSchema)]
pub enum Unit {
    /// Decibels of power: a tone of full scale reads 0.
    #[default]
    #[serde(rename = "dbfs")]
    Dbfs,
    /// Decibels of power density: power of full scale spread over 1 Hz reads 0.
    #[serde(rename = "dbfs/hz")]
    DbfsPerHz,
}

impl Default for SpectrumConfig {
    fn default() -> Self {
        Self {
            size: 2048,
            hop: None,
            window: Window::default(),
            average: 64,
            averaging: Kind::default(),
            share: 0.1,
            unit: Unit::default(),
            levels: true,
            peaks: 0,
        }
    }
}

/// What its results stand under.
const KEY: &str = "spectrum";

impl SpectrumConfig {
    fn spectra(&self, rate: f64) -> Result<Spectra, SignalError> {
        let blocks = self.average;
        let averaging = match self.averaging {
            Kind::Mean => Averaging::Linear { blocks },
            Kind::Exponential => Averaging::Exponential { share: self.share, blocks },
            Kind::Peak => Averaging::Peak { blocks },
        };
        let config = spectrum::SpectrumConfig {
            sample_rate: rate,
            size: self.size,
            hop: self.hop.unwrap_or(self.size),
            window: self.window,
            averaging,
        };
        let unit = (self.levels || self.peaks > 0).then_some(self.unit);
        Ok(Spectra { spectrum: Spectrum::new(&config)?, unit })
    }
}

impl StageConfig for SpectrumConfig {
    fn check(&self, _: &BuildContext) -> Vec<Issue> {
        // What is wrong at one rate is wrong at any.
        self.spectra(1e6).err().map(|e| Issue::error("", e.to_string())).into_iter().collect()
    }

    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        let config = self.clone();
        Ok(Built::Stage(Box::new(move || {
            Ok(Box::new(Stages { config: config.clone(), streams: Listeners::default() }) as Box<dyn Stage>)
        })))
    }
}

/// The stage at work.
struct Stages {
    config: SpectrumConfig,
    streams: Listeners<Spectra>,
}

struct Spectra {
    spectrum: Spectrum,
    /// What levels are; `None` where nobody asks for them.
    unit: Option<Unit>,
}

/// A finished spectrum.
struct Made {
    start: u64,
    samples: u64,
    transforms: u32,
    levels: Vec<f32>,
}

impl Spectra {
    fn keep(unit: Option<Unit>, offset: f32, frame: &spectrum::Frame<'_>, heard: &mut Vec<Made>) {
        let mut levels = Vec::new();
        if unit.is_some() {
            levels.reserve_exact(frame.power.len());
            frame.dbfs(&mut levels);
        }
        if unit == Some(Unit::DbfsPerHz) {
            levels.iter_mut().filter(|v| **v > SILENCE_DBFS).for_each(|v| *v += offset);
        }
        heard.push(Made { start: frame.start, samples: frame.samples, transforms: frame.blocks, levels });
    }
}

impl Listener for Spectra {
    type Heard = Made;

    fn push(&mut self, samples: &[Complex32], heard: &mut Vec<Made>) {
        let (unit, offset) = (self.unit, self.spectrum.density_offset());
        self.spectrum.push(samples, |f| Self::keep(unit, offset, f, heard));
    }

    fn finish(&mut self, heard: &mut Vec<Made>) {
        let (unit, offset) = (self.unit, self.spectrum.density_offset());
        self.spectrum.finish(|f| Self::keep(unit, offset, f, heard));
    }

    fn shift(heard: &mut Made, by: u64) {
        heard.start += by;
    }
}

/// What a frame's samples became.
#[derive(Serialize)]
struct Told {
    /// Samples a second: the width of the spectrum in Hz.
    rate: f64,
    /// Its centre in Hz, where the stream's is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency: Option<f64>,
    size: usize,
    unit: Unit,
    spectra: Vec<ToldSpectrum>,
}

#[derive(Serialize)]
struct ToldSpectrum {
    /// Position of its first sample in the stream, and its place in time, seconds in the stream.
    start: u64,
    time: f64,
    seconds: f64,
    transforms: u32,
    /// Lowest frequency first.
    #[serde(skip_serializing_if = "Option::is_none")]
    levels: Option<Vec<f64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peaks: Vec<Peak>,
}

/// A bin that is higher than its neighbours.
#[derive(Serialize)]
struct Peak {
    /// Hz from the stream's centre.
    offset: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency: Option<f64>,
    level: f64,
}

/// To hundredths of a decibel.
fn rounded(level: f32) -> f64 {
    (f64::from(level) * 100.0).round() / 100.0
}

/// The `n` highest bins that are higher than the bins beside them, the highest first.
fn highest(levels: &[f32], n: usize) -> Vec<usize> {
    let at = |i: usize| levels.get(i).copied().unwrap_or(f32::NEG_INFINITY);
    let mut tops: Vec<usize> = (0..levels.len())
        .filter(|&i| at(i) > SILENCE_DBFS && at(i) > at(i + 1) && i.checked_sub(1).is_none_or(|left| at(i) >= at(left)))
        .collect();
    tops.sort_by(|&a, &b| at(b).total_cmp(&at(a)).then(a.cmp(&b)));
    tops.truncate(n);
    tops
}

impl Stage for Stages {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let config = &self.config;
        let made = self.streams.hear(frame, |rate| config.spectra(rate))?;
        let Some(block) = frame.payload.samples() else { return Ok(()) };
        let (rate, frequency, size) = (block.rate, block.frequency, config.size);
        let bin = |i: usize| (i as f64 - (size / 2) as f64) * rate / size as f64;
        let spectra = made
            .into_iter()
            .map(|m| ToldSpectrum {
                start: m.start,
                time: m.start as f64 / rate,
                seconds: m.samples as f64 / rate,
                transforms: m.transforms,
                peaks: highest(&m.levels, config.peaks)
                    .into_iter()
                    .map(|i| Peak {
                        offset: bin(i),
                        frequency: frequency.map(|f| f + bin(i)),
                        level: rounded(m.levels[i]),
                    })
                    .collect(),
                levels: config.levels.then(|| m.levels.iter().map(|&l| rounded(l)).collect()),
            })
            .collect();
        let told = Told { rate, frequency, size, unit: config.unit, spectra };
        let value = serde_json::to_value(told).map_err(|e| StageError::new(e.to_string()))?;
        frame.annotations.extra.insert(KEY.into(), value);
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.streams.forget(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_the_highest_tops_and_flat_silence_has_none() {
        let levels = [-10.0, -20.0, -5.0, -5.0, -30.0, -1.0];
        assert_eq!(highest(&levels, 10), [5, 3, 0]);
        assert_eq!(highest(&levels, 1), [5]);
        assert!(highest(&[SILENCE_DBFS; 4], 3).is_empty() && highest(&[], 3).is_empty());
    }
}

//! `spectrogram`: pictures of sound and radio, as networks take them: bands × columns of levels over a sliding window.

use super::listen::{Listener, Listeners};
use super::{BuildContext, Built, Stage, StageConfig, StageError};
use crate::frame::{Feature, Frame, Nanos, RawTensor, SampleBlock, clock};
use crate::issue::Issue;
use crate::signal::mel::{Formula, MelConfig};
use crate::signal::spectrogram::{self, Bands, Padding, Quantity, Spectrogram};
use crate::signal::tile::{Level, Normalise, TileConfig, Tiler};
use crate::signal::window::Window;
use crate::signal::{Complex32, SignalError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Keys of `kind = "spectrogram"`. It takes streams of samples of any rate. The defaults give the 128 mel bands × 431
/// columns that audio libraries make of ten seconds at 22 050 samples a second.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpectrogramConfig {
    /// Whether samples are real, as audio is: the imaginary parts are passed over. Default true.
    pub real: bool,
    /// Samples of a transform, 2 to 4194304. Default 2048.
    pub size: usize,
    /// Samples from one column to the next, 1 to `size`. Default 512.
    pub hop: usize,
    /// The window: `rectangular`, `hann`, `hamming`, `blackman`, `blackman-harris`, `flat-top`, or
    /// `{ kaiser = { beta = 8.6 } }`. Default `hann`.
    pub window: Window,
    /// What is before the first and behind the last sample of the stream: `none`, or half a transform of `zero`s or of
    /// `reflect`ed samples, with columns centred on multiples of the hop. Default `zero`.
    pub padding: Padding,
    /// `power` or `magnitude`. Default `power`.
    pub quantity: Quantity,
    /// Divide by the window's sum, so that a tone of full scale reads 1. Default false: the raw transform.
    pub full_scale: bool,
    /// How bands lie over the bins: `mel` (real samples only), `linear` (each the mean of equally many bins), or `all`
    /// bins as they are. Default `mel`.
    pub scale: Scale,
    /// Bands of `mel` and `linear`. Default 128.
    pub bands: usize,
    /// The mel formula: `slaney` or `htk`. Default `slaney`.
    pub formula: Formula,
    /// Mel triangles of equal area rather than equal height. Default true.
    pub equal_area: bool,
    /// Lowest frequency of the mel bands, Hz. Default 0.
    pub low: f64,
    /// Highest frequency of the mel bands, Hz. Default: half the sample rate.
    pub high: Option<f64>,
    /// Columns of a picture. Default 431.
    pub columns: usize,
    /// Columns from one picture's first to the next one's, 1 to `columns`. Default: `columns`, without overlap.
    pub step: Option<usize>,
    /// How values are expressed: `linear`, `log` (natural) or `db`. Default `db`.
    pub level: LevelKind,
    /// Least value, above 0; what is lower counts as this. Default 1e-10.
    pub least: f32,
    /// With `level = "db"`: the value that reads 0 dB; 0 for the picture's highest. Default 1.
    pub reference: f32,
    /// With `level = "db"`: everything lower than this many decibels under the picture's highest is raised to that.
    /// Default: nothing is.
    pub range: Option<f32>,
    /// `none`, `per-frequency` (every band to mean 0 and standard deviation 1), `z-score` (the same over the whole
    /// picture), `min-max` (0 to 1). Default `none`.
    pub normalise: Normalise,
    /// Begin the first picture at a multiple of the step by the wall clock, so that the pictures of several receivers
    /// cover the same time. Default false.
    pub align: bool,
    /// Attach the values to results too, as `tensors`. Default false: only the stages behind see them.
    pub attach: bool,
}

/// How bands lie over the bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Triangles, equally spaced in mel.
    #[default]
    Mel,
    /// Means of neighbouring bins.
    Linear,
    /// Every bin.
    All,
}

/// How values are expressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LevelKind {
    /// As they are.
    Linear,
    /// Natural logarithm.
    Log,
    /// Decibels.
    #[default]
    Db,
}

impl Default for SpectrogramConfig {
    fn default() -> Self {
        Self {
            real: true,
            size: 2048,
            hop: 512,
            window: Window::default(),
            padding: Padding::Zero,
            quantity: Quantity::default(),
            full_scale: false,
            scale: Scale::default(),
            bands: 128,
            formula: Formula::default(),
            equal_area: true,
            low: 0.0,
            high: None,
            columns: 431,
            step: None,
            level: LevelKind::default(),
            least: 1e-10,
            reference: 1.0,
            range: None,
            normalise: Normalise::default(),
            align: false,
            attach: false,
        }
    }
}

/// What its results stand under.
const KEY: &str = "spectrogram";

impl SpectrogramConfig {
    fn pictures(&self, rate: f64) -> Result<Pictures, SignalError> {
        let bands = match self.scale {
            Scale::All => Bands::All,
            Scale::Linear => Bands::Pooled(self.bands),
            Scale::Mel => Bands::Mel(MelConfig {
                bands: self.bands,
                formula: self.formula,
                equal_area: self.equal_area,
                low: self.low,
                high: self.high,
            }),
        };
        let spectrogram = Spectrogram::new(&spectrogram::SpectrogramConfig {
            sample_rate: rate,
            real: self.real,
            size: self.size,
            hop: self.hop,
            window: self.window,
            padding: self.padding,
            quantity: self.quantity,
            full_scale: self.full_scale,
            bands,
        })?;
        let level = match self.level {
            LevelKind::Linear => Level::Linear,
            LevelKind::Log => Level::Log { least: self.least },
            LevelKind::Db => Level::Decibel {
                reference: (self.reference != 0.0).then_some(self.reference),
                least: self.least,
                range: self.range,
                factor: if self.quantity == Quantity::Power { 10.0 } else { 20.0 },
            },
        };
        let step = self.step.unwrap_or(self.columns);
        let tiler = Tiler::new(&TileConfig {
            bands: spectrogram.bands(),
            columns: self.columns,
            step,
            level,
            normalise: self.normalise,
        })?;
        let pad = if self.padding == Padding::None { 0 } else { self.size as u64 / 2 };
        Ok(Pictures {
            span: Span { size: self.size as u64, hop: self.hop as u64, pad, columns: self.columns as u64 },
            step: step as u64 * self.hop as u64,
            rate,
            align: self.align,
            skip: 0,
            skipped: 0,
            pushed: 0,
            spectrogram,
            tiler,
        })
    }
}

impl StageConfig for SpectrogramConfig {
    fn check(&self, _: &BuildContext) -> Vec<Issue> {
        // What is wrong at one rate is wrong at any that has room for the bands.
        let rate = self.high.map_or(1e6, |high| (2.0 * high).max(1.0));
        self.pictures(rate).err().map(|e| Issue::error("", e.to_string())).into_iter().collect()
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        let (config, id) = (self.clone(), context.id.clone());
        Ok(Built::Stage(Box::new(move || {
            let (config, id) = (config.clone(), id.clone());
            Ok(Box::new(Stages { id, config, streams: Listeners::default() }) as Box<dyn Stage>)
        })))
    }
}

/// The stage at work.
struct Stages {
    id: Arc<str>,
    config: SpectrogramConfig,
    streams: Listeners<Pictures>,
}

/// Where pictures lie in their stream, in samples.
#[derive(Debug, Clone, Copy)]
struct Span {
    size: u64,
    hop: u64,
    pad: u64,
    columns: u64,
}

impl Span {
    /// First sample of the picture that begins with this column, and the one behind its last.
    fn of(self, first: u64) -> [u64; 2] {
        let start = (first * self.hop).saturating_sub(self.pad);
        [start, (first + self.columns - 1) * self.hop + self.size - self.pad]
    }
}

struct Pictures {
    span: Span,
    /// Samples from one picture to the next.
    step: u64,
    rate: f64,
    align: bool,
    /// Samples that are still passed over, and those that were, so that the first picture begins where it should.
    skip: u64,
    skipped: u64,
    pushed: u64,
    spectrogram: Spectrogram,
    tiler: Tiler,
}

/// A finished picture.
struct Made {
    samples: [u64; 2],
    columns: usize,
    values: Arc<[f32]>,
}

impl Pictures {
    /// Samples from `start_ns` (since 1970) to the next multiple of the step.
    fn to_next(&self, start_ns: i128) -> u64 {
        let step_ns = self.step as f64 / self.rate * 1e9;
        let over = (start_ns as f64 / step_ns).fract() * step_ns;
        let samples = ((step_ns - over) / 1e9 * self.rate).round() as u64;
        samples % self.step.max(1)
    }
}

impl Listener for Pictures {
    type Heard = Made;

    fn begin(&mut self, block: &SampleBlock, at: Nanos) {
        (self.skip, self.skipped, self.pushed) = (0, 0, 0);
        if self.align {
            let start = match block.time {
                Some(time) => i128::from(time.ns),
                None => {
                    let end = clock::wall(at).duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
                    end - (block.samples.len() as f64 / block.rate * 1e9) as i128
                }
            };
            self.skip = self.to_next(start);
        }
    }

    fn push(&mut self, samples: &[Complex32], heard: &mut Vec<Made>) {
        let over = self.skip.min(samples.len() as u64);
        self.skip -= over;
        self.skipped += over;
        let samples = &samples[over as usize..];
        self.pushed += samples.len() as u64;
        let Self { spectrogram, tiler, span, skipped, .. } = self;
        spectrogram.push(samples, |_, column| {
            tiler.push(column, |tile| {
                let samples = span.of(tile.first).map(|s| s + *skipped);
                heard.push(Made { samples, columns: tile.real, values: tile.values.into() });
            });
        });
    }

    fn finish(&mut self, heard: &mut Vec<Made>) {
        let end = self.skipped + self.pushed;
        let Self { spectrogram, tiler, span, skipped, .. } = self;
        let mut made = |tile: &crate::signal::tile::Tile<'_>| {
            let [start, last] = span.of(tile.first).map(|s| s + *skipped);
            heard.push(Made { samples: [start, last.min(end)], columns: tile.real, values: tile.values.into() });
        };
        spectrogram.finish(|_, column| tiler.push(column, &mut made));
        tiler.finish(&mut made);
    }

    fn shift(heard: &mut Made, by: u64) {
        heard.samples = heard.samples.map(|s| s + by);
    }
}

/// A picture in a result.
#[derive(Serialize)]
struct Told {
    /// Position of its first sample in the stream, and its place in time, seconds in the stream.
    start: u64,
    time: f64,
    seconds: f64,
    bands: usize,
    columns: usize,
    /// Columns that are real, where the stream ended or broke off before all of them were.
    #[serde(skip_serializing_if = "Option::is_none")]
    real_columns: Option<usize>,
}

impl Stage for Stages {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let config = &self.config;
        let made = self.streams.hear(frame, |rate| config.pictures(rate))?;
        let rate = frame.payload.samples().map_or(1.0, |b| b.rate);
        let columns = config.columns;
        let told: Vec<Told> = made
            .iter()
            .map(|m| Told {
                start: m.samples[0],
                time: m.samples[0] as f64 / rate,
                seconds: (m.samples[1] - m.samples[0]) as f64 / rate,
                bands: m.values.len() / columns,
                columns,
                real_columns: (m.columns < columns).then_some(m.columns),
            })
            .collect();
        let value = serde_json::to_value(told).map_err(|e| StageError::new(e.to_string()))?;
        frame.annotations.extra.insert(KEY.into(), value);
        if config.attach && !made.is_empty() {
            let tensor = |m: &Made| RawTensor {
                name: KEY.into(),
                shape: vec![m.values.len() / columns, columns],
                data: m.values.clone(),
            };
            frame.annotations.tensors.insert(self.id.clone(), made.iter().map(tensor).collect());
        }
        let feature =
            |m: Made| Feature { shape: [m.values.len() / columns, columns], data: m.values, samples: m.samples };
        // What is not whole is for results only: nobody can tell it from silence.
        let whole = made.into_iter().filter(|m| m.columns == columns).map(feature).collect();
        frame.annotations.features.insert(self.id.clone(), whole);
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.streams.forget(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SpectrogramConfig {
        SpectrogramConfig {
            size: 8,
            hop: 4,
            bands: 2,
            columns: 3,
            scale: Scale::Linear,
            real: false,
            ..Default::default()
        }
    }

    #[test]
    fn pictures_know_their_samples_with_and_without_padding() {
        for (padding, first, second) in [(Padding::Zero, [0, 12], [8, 24]), (Padding::None, [0, 16], [12, 28])] {
            let mut pictures = SpectrogramConfig { padding, ..config() }.pictures(1e3).expect("valid");
            let mut heard = Vec::new();
            pictures.push(&[Complex32::new(1.0, 0.0); 30], &mut heard);
            assert_eq!((heard[0].samples, heard[1].samples), (first, second), "{padding:?}");
            assert!(heard[1].samples[1] <= 30);
        }
    }

    #[test]
    fn aligned_pictures_begin_at_a_multiple_of_the_step() {
        let mut pictures = SpectrogramConfig { align: true, ..config() }.pictures(1e3).expect("valid");
        // A step is 12 ms.
        for (start_ms, skip) in [(24_000, 0), (24_001, 11), (24_011, 1)] {
            assert_eq!(pictures.to_next(i128::from(start_ms) * 1_000_000), skip);
        }
        pictures.skip = 5;
        let mut heard = Vec::new();
        for sample in [Complex32::new(1.0, 0.0); 30] {
            pictures.push(&[sample], &mut heard);
        }
        assert_eq!(heard[0].samples, [5, 17]);
    }

    #[test]
    fn settings_that_make_no_sense_are_told() {
        let context = BuildContext::default();
        for bad in [
            SpectrogramConfig { hop: 0, ..config() },
            SpectrogramConfig { step: Some(4), ..config() },
            SpectrogramConfig { bands: 3, ..config() },
            SpectrogramConfig { scale: Scale::Mel, ..config() },
            SpectrogramConfig { least: 0.0, ..config() },
        ] {
            assert_eq!(bad.check(&context).len(), 1, "{bad:?}");
        }
        assert!(config().check(&context).is_empty());
        assert!(SpectrogramConfig::default().check(&context).is_empty());
    }
}

//! Spectrograms: one column of levels per hop, linear or mel bands.
//!
//! Columns have the values that librosa and SciPy compute for a whole clip (raw transform, periodic window, padding at
//! both ends where centred), but come while the stream runs. Layouts for networks are made of them in [`super::tile`].

use super::blocks::Overlap;
use super::lanes;
use super::mel::{MelBank, MelConfig};
use super::window::{Shape, Window};
use super::{Complex32, SignalError, checked_length, checked_rate};
use realfft::{RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftPlanner};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is before the first and behind the last sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// Nothing: the first column starts with the first sample, and samples that do not fill a column are left out.
    #[default]
    None,
    /// Half a transform of zeros: columns are centred on multiples of the hop.
    Zero,
    /// Half a transform of the samples, mirrored at the first and the last one. A stream shorter than half a transform
    /// and one sample has no columns.
    Reflect,
}

/// What a bin's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantity {
    /// |X|².
    #[default]
    Power,
    /// |X|.
    Magnitude,
}

/// Which bands a column has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bands {
    /// Every bin.
    All,
    /// This many bands, each the mean of equally many neighbouring bins.
    Pooled(usize),
    /// Mel bands (real samples only).
    Mel(MelConfig),
}

/// Settings of a [`Spectrogram`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpectrogramConfig {
    /// Samples a second.
    pub sample_rate: f64,
    /// Whether samples are real: `size / 2 + 1` bins from 0 Hz up. Else `size` bins, lowest frequency first.
    pub real: bool,
    /// Samples of a transform, 2 to [`super::MAX_LENGTH`].
    pub size: usize,
    /// Samples from one column to the next, 1 to `size`.
    pub hop: usize,
    /// The window.
    pub window: Window,
    /// What is beyond the ends.
    pub padding: Padding,
    /// Power or magnitude.
    pub quantity: Quantity,
    /// Whether the transform is divided by the window's sum, so that a full-scale complex tone reads 1; else it is raw.
    pub full_scale: bool,
    /// The bands.
    pub bands: Bands,
}

/// Makes columns of a stream.
pub struct Spectrogram {
    overlap: Overlap<Complex32>,
    padding: Padding,
    /// Half a transform.
    pad: usize,
    /// The stream's first samples, until mirroring them is possible; `None` once the stream runs.
    lead: Option<Vec<Complex32>>,
    /// The stream's last `pad + 1` samples, for mirroring.
    tail: Vec<Complex32>,
    columns: Columns,
    next: u64,
}

enum Plan {
    Real { fft: Arc<dyn RealToComplex<f32>>, input: Vec<f32> },
    Complex { fft: Arc<dyn Fft<f32>> },
}

enum Pool {
    All,
    Mean(usize),
    Mel(MelBank),
}

struct Columns {
    plan: Plan,
    window: Vec<f32>,
    spectrum: Vec<Complex32>,
    scratch: Vec<Complex32>,
    quantity: Quantity,
    bins: Vec<f32>,
    pool: Pool,
    bands: Vec<f32>,
}

impl Spectrogram {
    /// Plans the transform and takes all memory that will be needed.
    ///
    /// # Errors
    /// Where a setting is out of its range or two do not go together.
    pub fn new(config: &SpectrogramConfig) -> Result<Self, SignalError> {
        let rate = checked_rate(config.sample_rate)?;
        let size = checked_length("the transform's size", config.size, 2)?;
        if !(1..=size).contains(&config.hop) {
            return Err(SignalError::new("the hop", config.hop, format!("1 to the transform's size of {size}")));
        }
        let values = config.window.values(size, Shape::Periodic)?;
        let scale = if config.full_scale { 1.0 / values.iter().sum::<f64>() } else { 1.0 };
        let values = values.into_iter().map(|w| w * scale);
        let (plan, window, scratch, bins) = if config.real {
            let fft = RealFftPlanner::<f32>::new().plan_fft_forward(size);
            let scratch = fft.make_scratch_vec();
            (Plan::Real { fft, input: vec![0.0; size] }, values.map(|w| w as f32).collect(), scratch, size / 2 + 1)
        } else {
            let fft = FftPlanner::new().plan_fft_forward(size);
            let scratch = vec![Complex32::default(); fft.get_inplace_scratch_len()];
            (Plan::Complex { fft }, lanes::twice(values), scratch, size)
        };
        let (pool, bands) = match &config.bands {
            Bands::All => (Pool::All, bins),
            Bands::Pooled(bands) => {
                // The bin at half the sample rate has no equals among real bins and is left out.
                let usable = if config.real { size / 2 } else { size };
                if *bands == 0 || !usable.is_multiple_of(*bands) {
                    return Err(SignalError::new("the number of bands", bands, format!("a divisor of {usable} bins")));
                }
                (Pool::Mean(usable / bands), *bands)
            }
            Bands::Mel(mel) if config.real => (Pool::Mel(MelBank::new(mel, rate, size)?), mel.bands),
            Bands::Mel(_) => {
                return Err(SignalError::new("mel bands", "set for complex samples", "for real samples, or linear"));
            }
        };
        let mut spectrogram = Self {
            overlap: Overlap::new(size, config.hop),
            padding: config.padding,
            pad: size / 2,
            lead: None,
            tail: Vec::new(),
            columns: Columns {
                plan,
                window,
                spectrum: vec![Complex32::default(); bins],
                scratch,
                quantity: config.quantity,
                bins: vec![0.0; bins],
                pool,
                bands: vec![0.0; bands],
            },
            next: 0,
        };
        spectrogram.begin();
        Ok(spectrogram)
    }

    /// Values of a column.
    pub fn bands(&self) -> usize {
        self.columns.bands.len()
    }

    /// Columns of a clip of this many samples, once it was pushed and finished.
    pub fn columns_of(&self, samples: u64) -> u64 {
        let pad = match self.padding {
            Padding::None => 0,
            Padding::Zero if samples == 0 => 0,
            Padding::Zero => self.pad as u64,
            Padding::Reflect if samples <= self.pad as u64 => return 0,
            Padding::Reflect => self.pad as u64,
        };
        (samples + 2 * pad).checked_sub(self.overlap.size() as u64).map_or(0, |n| n / self.overlap.hop() as u64 + 1)
    }

    /// Takes samples in and hands every finished column out with its number; the imaginary parts of real samples are
    /// passed over.
    pub fn push(&mut self, samples: &[Complex32], mut column: impl FnMut(u64, &[f32])) {
        if samples.is_empty() {
            return;
        }
        self.keep_tail(samples);
        let Some(mut lead) = self.lead.take() else { return self.feed(samples, &mut column) };
        lead.extend_from_slice(samples);
        match self.padding {
            Padding::Reflect if lead.len() <= self.pad => {
                self.lead = Some(lead);
                return;
            }
            Padding::Reflect => {
                let mirrored: Vec<_> = lead[1..=self.pad].iter().rev().copied().collect();
                self.feed(&mirrored, &mut column);
            }
            Padding::Zero => {
                let zeros = vec![Complex32::default(); self.pad];
                self.feed(&zeros, &mut column);
            }
            Padding::None => {}
        }
        self.feed(&lead, &mut column);
    }

    /// Ends the clip: pads where columns are centred, hands the last ones out and begins anew with column 0.
    pub fn finish(&mut self, mut column: impl FnMut(u64, &[f32])) {
        if self.lead.is_none() {
            let end: Vec<_> = match self.padding {
                Padding::None => Vec::new(),
                Padding::Zero => vec![Complex32::default(); self.pad],
                Padding::Reflect => self.tail.iter().rev().skip(1).copied().collect(),
            };
            self.feed(&end, &mut column);
        }
        self.begin();
    }

    fn begin(&mut self) {
        self.overlap.reset();
        self.tail.clear();
        self.lead = Some(Vec::new());
        self.next = 0;
    }

    fn keep_tail(&mut self, samples: &[Complex32]) {
        if self.padding != Padding::Reflect {
            return;
        }
        let keep = self.pad + 1;
        let fresh = &samples[samples.len().saturating_sub(keep)..];
        let surplus = (self.tail.len() + fresh.len()).saturating_sub(keep);
        self.tail.drain(..surplus);
        self.tail.extend_from_slice(fresh);
    }

    fn feed(&mut self, samples: &[Complex32], column: &mut impl FnMut(u64, &[f32])) {
        let Self { overlap, columns, next, .. } = self;
        overlap.push(samples, |_, block| {
            column(*next, columns.compute(block));
            *next += 1;
        });
    }
}

impl Columns {
    fn compute(&mut self, block: &[Complex32]) -> &[f32] {
        match &mut self.plan {
            Plan::Real { fft, input } => {
                for ((i, x), w) in input.iter_mut().zip(block).zip(&self.window) {
                    *i = x.re * w;
                }
                // Fails on lengths that do not fit only, and these are the plan's own.
                let done = fft.process_with_scratch(input, &mut self.spectrum, &mut self.scratch);
                debug_assert!(done.is_ok());
                lanes::power(&self.spectrum, &mut self.bins);
            }
            Plan::Complex { fft } => {
                lanes::weigh(lanes::parts(block), &self.window, lanes::parts_mut(&mut self.spectrum));
                fft.process_with_scratch(&mut self.spectrum, &mut self.scratch);
                let (upper, lower) = self.spectrum.split_at(self.spectrum.len().div_ceil(2));
                let (below, above) = self.bins.split_at_mut(lower.len());
                lanes::power(lower, below);
                lanes::power(upper, above);
            }
        }
        if self.quantity == Quantity::Magnitude {
            self.bins.iter_mut().for_each(|b| *b = b.sqrt());
        }
        match &self.pool {
            Pool::All => return &self.bins,
            Pool::Mean(width) => {
                for (band, bins) in self.bands.iter_mut().zip(self.bins.chunks_exact(*width)) {
                    *band = bins.iter().sum::<f32>() / *width as f32;
                }
            }
            Pool::Mel(bank) => bank.apply(&self.bins, &mut self.bands),
        }
        &self.bands
    }
}

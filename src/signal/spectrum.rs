//! Power spectra: windowed transforms with overlap, averaged.
//!
//! Levels are in dBFS: a complex tone of full scale on a bin reads 0 dBFS, whatever the window. Bins are ordered by
//! frequency, the lowest first; the centre is at `size / 2`. A frame with samples that are not finite gives bins that
//! are not, and reads as silence in decibels; the exponential and the peak average leave such blocks out.

use super::blocks::Overlap;
use super::lanes;
use super::window::{Shape, Window, noise_bandwidth};
use super::{Complex32, SILENCE_DBFS, SignalError, checked_length, checked_rate};
use rustfft::{Fft, FftPlanner};
use std::sync::Arc;

/// How blocks become frames. Every kind gives a frame every `blocks` blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Averaging {
    /// The mean of the blocks since the last frame; with 1 block none at all.
    Linear {
        /// Blocks to a frame.
        blocks: u32,
    },
    /// A running mean that forgets, over the whole stream.
    Exponential {
        /// Share that a new block has, above 0 to 1.
        share: f32,
        /// Blocks to a frame.
        blocks: u32,
    },
    /// The highest of the blocks since the last frame, bin by bin.
    Peak {
        /// Blocks to a frame.
        blocks: u32,
    },
}

impl Averaging {
    fn blocks(self) -> u32 {
        match self {
            Self::Linear { blocks } | Self::Exponential { blocks, .. } | Self::Peak { blocks } => blocks,
        }
    }
}

/// Settings of a [`Spectrum`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpectrumConfig {
    /// Samples a second.
    pub sample_rate: f64,
    /// Samples of a transform, 2 to [`super::MAX_LENGTH`]; powers of two are the fastest.
    pub size: usize,
    /// Samples from one transform's start to the next one's, 1 to `size`.
    pub hop: usize,
    /// The window.
    pub window: Window,
    /// The averaging.
    pub averaging: Averaging,
}

/// A finished spectrum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame<'a> {
    /// Position of the first sample.
    pub start: u64,
    /// Samples from the first block's first to the last block's last one; what a filled-up last block lacks is not
    /// counted.
    pub samples: u64,
    /// Blocks since the last frame.
    pub blocks: u32,
    /// Power of each bin, 1.0 at full scale, lowest frequency first.
    pub power: &'a [f32],
}

impl Frame<'_> {
    /// Its levels in dBFS.
    pub fn dbfs(&self, out: &mut Vec<f32>) {
        out.clear();
        out.extend(self.power.iter().map(|&p| super::decibels(p)));
    }
}

/// Makes spectra of a stream.
pub struct Spectrum {
    overlap: Overlap<Complex32>,
    transform: Transform,
    hz_of_bin: f64,
    noise_hz: f64,
}

/// Samples that are transformed in one call: enough to spread its cost, few enough to stay in the first cache.
const BATCH: usize = 1024;

struct Transform {
    fft: Arc<dyn Fft<f32>>,
    /// The window over its sum, every value twice.
    window: Vec<f32>,
    buffer: Vec<Complex32>,
    scratch: Vec<Complex32>,
    /// Windowed blocks that wait in the buffer.
    waiting: usize,
    averaging: Averaging,
    /// Blocks in `power` since the last frame.
    blocks: u32,
    started: bool,
    start: u64,
    /// End of the stream's part of the newest block.
    end: u64,
    /// Start of the oldest waiting block.
    oldest: u64,
    hop: u64,
    power: Vec<f32>,
}

impl Spectrum {
    /// Plans the transform and takes all memory that will be needed.
    ///
    /// # Errors
    /// Where a setting is out of its range.
    pub fn new(config: &SpectrumConfig) -> Result<Self, SignalError> {
        let rate = checked_rate(config.sample_rate)?;
        let size = checked_length("the transform's size", config.size, 2)?;
        if !(1..=size).contains(&config.hop) {
            return Err(SignalError::new("the hop", config.hop, format!("1 to the transform's size of {size}")));
        }
        if config.averaging.blocks() == 0 {
            return Err(SignalError::new("the blocks of an average", 0, "at least 1"));
        }
        if let Averaging::Exponential { share, .. } = config.averaging
            && !(share > 0.0 && share <= 1.0)
        {
            return Err(SignalError::new("the share of a new block", share, "above 0, at most 1"));
        }
        let window = config.window.values(size, Shape::Periodic)?;
        let sum: f64 = window.iter().sum();
        let noise_bins = noise_bandwidth(&window);
        let fft = FftPlanner::new().plan_fft_forward(size);
        let batch = (BATCH / size).max(1) * size;
        Ok(Self {
            overlap: Overlap::new(size, config.hop),
            transform: Transform {
                window: lanes::twice(window.iter().map(|w| w / sum)),
                buffer: vec![Complex32::default(); batch],
                scratch: vec![Complex32::default(); fft.get_inplace_scratch_len()],
                fft,
                waiting: 0,
                averaging: config.averaging,
                blocks: 0,
                started: false,
                start: 0,
                end: 0,
                oldest: 0,
                hop: config.hop as u64,
                power: vec![0.0; size],
            },
            hz_of_bin: rate / size as f64,
            noise_hz: rate / size as f64 * noise_bins,
        })
    }

    /// Takes samples in and hands every finished spectrum out.
    pub fn push(&mut self, samples: &[Complex32], mut frame: impl FnMut(&Frame<'_>)) {
        let Self { overlap, transform, .. } = self;
        overlap.push(samples, |start, block| transform.block(start, block, block.len(), &mut frame));
        transform.run(&mut frame);
    }

    /// Ends the stream: samples that were in no block yet make a last one, filled up with zeros, and an average that has
    /// begun is handed out. Then everything begins anew at position 0.
    pub fn finish(&mut self, mut frame: impl FnMut(&Frame<'_>)) {
        let Self { overlap, transform, .. } = self;
        overlap.finish(Complex32::default(), |start, block, real| transform.block(start, block, real, &mut frame));
        transform.run(&mut frame);
        if transform.blocks > 0 {
            transform.emit(&mut frame);
        }
        transform.started = false;
    }

    /// Samples at the end of what was pushed that are in no frame's block yet.
    pub fn pending(&self) -> usize {
        self.overlap.uncovered()
    }

    /// Frequency of a bin's centre in Hz, relative to the stream's centre.
    pub fn frequency(&self, bin: usize) -> f64 {
        (bin as f64 - (self.overlap.size() / 2) as f64) * self.hz_of_bin
    }

    /// What to add to dBFS to get dBFS/Hz: minus the decibels of the window's noise bandwidth in Hz.
    pub fn density_offset(&self) -> f32 {
        (-10.0 * self.noise_hz.log10()) as f32
    }

    /// Levels of a frame in dBFS/Hz: the power density of what is noise-like, 0 for full-scale power in 1 Hz.
    pub fn density(&self, frame: &Frame<'_>, out: &mut Vec<f32>) {
        frame.dbfs(out);
        let offset = self.density_offset();
        // Silence stays silence.
        out.iter_mut().filter(|v| **v > SILENCE_DBFS).for_each(|v| *v += offset);
    }
}

impl Transform {
    /// Windows a block into the batch, of which `real` samples are from the stream.
    fn block(&mut self, start: u64, block: &[Complex32], real: usize, frame: &mut impl FnMut(&Frame<'_>)) {
        let size = self.power.len();
        if self.waiting == 0 {
            self.oldest = start;
        }
        let at = self.waiting * size;
        lanes::weigh(lanes::parts(block), &self.window, lanes::parts_mut(&mut self.buffer[at..at + size]));
        self.waiting += 1;
        self.end = start + real as u64;
        if at + size == self.buffer.len() {
            self.run(frame);
        }
    }

    /// Transforms what waits and adds it up.
    fn run(&mut self, frame: &mut impl FnMut(&Frame<'_>)) {
        let size = self.power.len();
        let waiting = std::mem::take(&mut self.waiting);
        if waiting == 0 {
            return;
        }
        self.fft.process_with_scratch(&mut self.buffer[..waiting * size], &mut self.scratch);
        let newest_end = self.end;
        for i in 0..waiting {
            let start = self.oldest + i as u64 * self.hop;
            if self.blocks == 0 {
                self.start = start;
            }
            self.add(i * size);
            // Only the newest block can be one that was filled up.
            self.end = if i + 1 == waiting { newest_end } else { start + size as u64 };
            if self.blocks == self.averaging.blocks() {
                self.emit(frame);
            }
        }
    }

    /// Adds one transform to the average, in the order of frequencies.
    fn add(&mut self, at: usize) {
        let size = self.power.len();
        let (upper, lower) = self.buffer[at..at + size].split_at(size.div_ceil(2));
        let (below, above) = self.power.split_at_mut(lower.len());
        let fresh = self.blocks == 0;
        for (bins, power) in [(lower, below), (upper, above)] {
            match self.averaging {
                Averaging::Exponential { share, .. } => {
                    lanes::power_towards(bins, if self.started { share } else { 1.0 }, power);
                }
                Averaging::Linear { .. } if fresh => lanes::power(bins, power),
                Averaging::Linear { .. } => lanes::power_add(bins, power),
                Averaging::Peak { .. } => {
                    if fresh {
                        power.fill(0.0);
                    }
                    lanes::power_max(bins, power);
                }
            }
        }
        self.started = true;
        self.blocks += 1;
    }

    fn emit(&mut self, frame: &mut impl FnMut(&Frame<'_>)) {
        let blocks = std::mem::take(&mut self.blocks);
        if let (Averaging::Linear { .. }, true) = (self.averaging, blocks > 1) {
            let scale = 1.0 / blocks as f32;
            self.power.iter_mut().for_each(|p| *p *= scale);
        }
        frame(&Frame { start: self.start, samples: self.end - self.start, blocks, power: &self.power });
    }
}

#[cfg(test)]
mod tests;

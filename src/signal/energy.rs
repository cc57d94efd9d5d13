//! Finds bursts: stretches of a stream that stand out from the noise.
//!
//! The power, averaged over a few samples, is compared with a noise floor that follows the stream while no burst is on.
//! A burst begins where it passes one threshold and ends where it stays under a lower one for the hang time, so that the
//! zeros of on-off keying do not cut a message. Edges are then found sample by sample.

mod floor;

pub use floor::estimate_floor;

use super::spectrum::{Averaging, Spectrum, SpectrumConfig};
use super::window::Window;
use super::{Complex32, SILENCE_DBFS, SignalError, checked_length, checked_rate, decibels};
use floor::Floor;
use serde::Serialize;

/// Settings of a [`Detector`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnergyConfig {
    /// Samples a second.
    pub sample_rate: f64,
    /// Samples that the power is averaged over, 1 to 65536. Short bursts need few, weak ones many.
    pub smooth: usize,
    /// How far above the noise floor a burst begins, in dB.
    pub on: f32,
    /// How far above the noise floor a burst is still on, in dB; above 0, at most `on`.
    pub off: f32,
    /// Samples that a burst may be quiet for without ending.
    pub hang: u64,
    /// Bursts shorter than this many samples are passed over.
    pub shortest: u64,
    /// A burst of this many samples is ended, and the noise floor is learned anew: a level that stays is no burst.
    pub longest: u64,
    /// The noise floor to begin with in dBFS. Without it, the first 16 means are learned from, and a burst that is on
    /// from the first sample is missed; see [`estimate_floor`] for recordings.
    pub floor: Option<f32>,
    /// Whether the floor follows the stream; else it stays as given.
    pub track: bool,
    /// The lowest floor in dBFS, for streams with digital silence.
    pub least_floor: f32,
    /// Samples of the transform for centre and bandwidth, 16 to 65536.
    pub bins: usize,
}

impl EnergyConfig {
    /// Settings that suit most receivers.
    pub fn new(sample_rate: f64) -> Self {
        Self {
            sample_rate,
            smooth: 16,
            on: 10.0,
            off: 6.0,
            hang: (sample_rate * 2e-3).clamp(1.0, 1e12) as u64,
            shortest: 32,
            longest: (sample_rate * 10.0).clamp(1.0, 1e15) as u64,
            floor: None,
            track: true,
            least_floor: -90.0,
            bins: 256,
        }
    }
}

/// A burst.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Burst {
    /// Position of its first sample.
    pub start: u64,
    /// Samples from its first to its last one.
    pub length: u64,
    /// Its centre of gravity in Hz, from the stream's centre.
    pub centre: f64,
    /// Width in Hz that holds 99 % of its power.
    pub bandwidth: f64,
    /// Its mean power over that of the noise, in dB, where it was on.
    pub snr: f32,
    /// Its mean power in dBFS where it was on, noise included.
    pub level: f32,
    /// Its highest averaged power in dBFS.
    pub peak: f32,
    /// The noise floor under it in dBFS.
    pub floor: f32,
    /// Whether it was ended by the stream's end or for being too long.
    pub cut: bool,
}

/// A sample belongs to the burst from this share of the burst's power on (−12 dB).
const EDGE: f64 = 1.0 / 16.0;

/// Finds bursts in a stream.
pub struct Detector {
    config: EnergyConfig,
    on: f64,
    off: f64,
    least_floor: f64,
    /// Position of the next sample.
    at: u64,
    /// The last `smooth` powers, where the oldest is, and their sum.
    ring: Vec<f32>,
    oldest: usize,
    sum: f64,
    floor: Floor,
    burst: Option<Open>,
    spectrum: Spectrum,
    /// Summed power of the burst's bins, without noise.
    bins: Vec<f64>,
    blocks: u32,
}

/// A burst that is on.
#[derive(Debug, Clone, Copy)]
struct Open {
    start: u64,
    /// Last sample that was surely part of it.
    last: u64,
    /// Power and number of samples while it was on.
    power: f64,
    active: u64,
    peak: f64,
    /// The mean power when the last sample was part of it.
    floor: f64,
}

impl Detector {
    /// A detector at the start of a stream.
    ///
    /// # Errors
    /// Where a setting is out of its range.
    pub fn new(config: &EnergyConfig) -> Result<Self, SignalError> {
        checked_rate(config.sample_rate)?;
        if !(1..=65536).contains(&config.smooth) {
            return Err(SignalError::new("the samples to average over", config.smooth, "1 to 65536"));
        }
        if !(config.off > 0.0 && config.off <= config.on && config.on <= 100.0) {
            let given = format!("{} and {} dB", config.on, config.off);
            return Err(SignalError::new(
                "the thresholds",
                given,
                "above 0, at most 100, the second not above the first",
            ));
        }
        if config.longest < config.shortest.max(1) {
            return Err(SignalError::new("the longest burst", config.longest, "at least the shortest, and 1"));
        }
        let level = |what, v: f32| {
            let fine = (-300.0..=100.0).contains(&v);
            if fine { Ok(10f64.powf(f64::from(v) / 10.0)) } else { Err(SignalError::new(what, v, "-300 to 100 dBFS")) }
        };
        let least_floor = level("the least floor", config.least_floor)?;
        let value = config.floor.map(|f| level("the floor", f)).transpose()?.map(|f| f.max(least_floor));
        if value.is_none() && !config.track {
            return Err(SignalError::new("the floor", "absent", "given where it does not follow the stream"));
        }
        checked_length("the bins", config.bins, 16)?;
        let spectrum = Spectrum::new(&SpectrumConfig {
            sample_rate: config.sample_rate,
            size: config.bins.min(65536),
            hop: config.bins.min(65536),
            window: Window::Hann,
            averaging: Averaging::Linear { blocks: 1 },
        })?;
        Ok(Self {
            config: *config,
            on: 10f64.powf(f64::from(config.on) / 10.0),
            off: 10f64.powf(f64::from(config.off) / 10.0),
            least_floor,
            at: 0,
            ring: vec![0.0; config.smooth],
            oldest: 0,
            sum: 0.0,
            floor: Floor::new(value, least_floor, config.off, config.smooth),
            burst: None,
            spectrum,
            bins: vec![0.0; config.bins.min(65536)],
            blocks: 0,
        })
    }

    /// The noise floor in dBFS, once it is known.
    pub fn floor(&self) -> Option<f32> {
        self.floor.value().map(|f| decibels(f as f32))
    }

    /// Whether a burst is on that has the least length already.
    pub fn is_on(&self) -> bool {
        self.burst.is_some_and(|b| b.last - b.start + 1 >= self.config.shortest)
    }

    /// Takes samples in and hands out every burst that ended. What is not finite counts as silence.
    pub fn push(&mut self, samples: &[Complex32], mut burst: impl FnMut(&Burst)) {
        let mut rest = samples;
        while !rest.is_empty() {
            // Samples of one state at a time, so that those of a burst go to its spectrum in one piece.
            let on = self.burst.is_some();
            let mut n = 0;
            let mut ended = None;
            for x in rest {
                n += 1;
                ended = self.step(x);
                if self.burst.is_some() != on {
                    break;
                }
            }
            let (now, later) = rest.split_at(n);
            rest = later;
            if on {
                self.look(now);
            }
            if let Some((open, cut)) = ended {
                self.close(open, cut, &mut burst);
            }
        }
    }

    /// Ends the stream: a burst that is on is handed out. The floor is kept; positions begin anew.
    pub fn finish(&mut self, mut burst: impl FnMut(&Burst)) {
        if let Some(open) = self.burst.take() {
            self.close(open, true, &mut burst);
        }
        self.at = 0;
        self.ring.fill(0.0);
        (self.oldest, self.sum) = (0, 0.0);
    }

    /// Takes one sample in; returns a burst that ended with it, and whether that was by force.
    fn step(&mut self, x: &Complex32) -> Option<(Open, bool)> {
        let power = x.re * x.re + x.im * x.im;
        let power = if power < 1e30 { power } else { 0.0 };
        let here = self.at;
        self.at += 1;
        self.sum += f64::from(power) - f64::from(self.ring[self.oldest]);
        self.ring[self.oldest] = power;
        self.oldest += 1;
        if self.oldest == self.ring.len() {
            self.oldest = 0;
            // Anew once a round, so that rounding does not add up.
            self.sum = self.ring.iter().map(|&p| f64::from(p)).sum();
        }
        let mean = self.sum / self.ring.len() as f64;
        let Some(mut open) = self.burst else {
            let threshold = self.floor.value().map(|f| f * self.on);
            if threshold.is_some_and(|t| mean > t) {
                self.open(here, mean);
            } else if self.config.track {
                self.floor.learn(power);
            }
            return None;
        };
        if mean > open.floor * self.off {
            let power = f64::from(power);
            let typical = open.power / open.active as f64;
            open.power += power;
            open.active += 1;
            open.peak = open.peak.max(mean);
            if power > (open.floor * self.off).max(typical * EDGE) {
                open.last = here;
            }
        }
        let too_long = here - open.start + 1 >= self.config.longest;
        if too_long || here - open.last > self.config.hang {
            self.burst = None;
            if too_long {
                self.floor.forget(!self.config.track);
            }
            return Some((open, too_long));
        }
        self.burst = Some(open);
        None
    }

    /// A burst begins: its first sample is the first in the ring that is near the highest there.
    fn open(&mut self, here: u64, mean: f64) {
        let floor = self.floor.value().unwrap_or(self.least_floor);
        let in_time = || self.ring[self.oldest..].iter().chain(&self.ring[..self.oldest]).map(|&p| f64::from(p));
        let highest = in_time().fold(0.0, f64::max);
        let threshold = (floor * self.off).max(highest * EDGE);
        let n = self.ring.len();
        let first = in_time().position(|p| p >= threshold).unwrap_or(n - 1);
        let back = ((n - 1 - first) as u64).min(here);
        let active = back + 1;
        let power = in_time().skip(n - active as usize).sum();
        let last = in_time().enumerate().filter(|(_, p)| *p >= threshold).last();
        let last = last.map_or(here, |(i, _)| here - (n - 1 - i) as u64);
        self.burst = Some(Open { start: here - back, last, power, active, peak: mean, floor });
        // Means that a burst has begun in are not of noise.
        self.floor.interrupt();
        self.bins.fill(0.0);
        self.blocks = 0;
    }

    /// Adds samples of a burst to its spectrum.
    fn look(&mut self, samples: &[Complex32]) {
        let Self { spectrum, bins, blocks, .. } = self;
        spectrum.push(samples, |frame| add(frame.power, bins, blocks));
    }

    /// Measures a burst that is over.
    fn close(&mut self, open: Open, cut: bool, burst: &mut impl FnMut(&Burst)) {
        let Self { spectrum, bins, blocks, .. } = self;
        // A block that is not full smears; it counts only where there is no other.
        spectrum.finish(|frame| {
            if *blocks == 0 {
                add(frame.power, bins, blocks);
            }
        });
        let length = open.last - open.start + 1;
        if length < self.config.shortest {
            return;
        }
        let (centre, bandwidth) = self.shape(open.floor);
        let level = open.power / open.active as f64;
        let snr = (level - open.floor).max(0.0) / open.floor;
        let found = Burst {
            start: open.start,
            length,
            centre,
            bandwidth,
            snr: if snr > 0.0 { decibels(snr as f32) } else { SILENCE_DBFS },
            level: decibels(level as f32),
            peak: decibels(open.peak as f32),
            floor: decibels(open.floor as f32),
            cut,
        };
        burst(&found);
    }

    /// Centre and 99 % bandwidth in Hz of what stands out from the noise.
    fn shape(&self, floor: f64) -> (f64, f64) {
        let n = self.bins.len() as f64;
        // A Hann window shows a noise of power 1 as 1.5 / n in every bin.
        let noise = 1.5 * floor / n * f64::from(self.blocks);
        let highest = self.bins.iter().copied().fold(0.0, f64::max);
        // Single bins of noise vary; what is far under the peak is not told from it.
        let least = (4.0 * noise).max(highest * 1e-5);
        let power = |i: usize| if self.bins[i] > least { self.bins[i] - noise } else { 0.0 };
        let total: f64 = (0..self.bins.len()).map(power).sum();
        if total <= 0.0 {
            return (0.0, 0.0);
        }
        let mean = (0..self.bins.len()).map(|i| i as f64 * power(i)).sum::<f64>() / total;
        let (mut below, mut low, mut high) = (0.0, None, 0);
        for i in 0..self.bins.len() {
            below += power(i);
            if low.is_none() && below >= 0.005 * total {
                low = Some(i);
            }
            if below <= 0.995 * total {
                high = i + 1;
            }
        }
        let low = low.unwrap_or(0);
        let bins = (high.max(low) - low + 1) as f64;
        let hz = self.config.sample_rate / n;
        ((mean - (self.bins.len() / 2) as f64) * hz, (bins * hz).min(self.config.sample_rate))
    }
}

fn add(power: &[f32], bins: &mut [f64], blocks: &mut u32) {
    for (sum, &p) in bins.iter_mut().zip(power) {
        *sum += if p.is_finite() { f64::from(p) } else { 0.0 };
    }
    *blocks += 1;
}

#[cfg(test)]
mod tests;

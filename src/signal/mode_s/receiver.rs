//! Finds frames in samples.
//!
//! A frame begins with four pulses of 0.5 µs, at 0, 1, 3.5 and 4.5 µs. Where these seem to be, the bits are read with
//! [`super::slicer`], at several fractions of a sample, and checked.

use super::super::{Complex32, SignalError, checked_rate, decibels, lanes};
use super::frame::{Checked, Known, Raw, Repair, check};
use super::message::Message;
use super::slicer::{LONG, Slicer, coverage};
use serde::Serialize;
use std::ops::Range;

/// Settings of a [`Receiver`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReceiverConfig {
    /// Samples a second, 2e6 to 20e6; 2e6 and 2.4e6 are usual.
    pub sample_rate: f64,
    /// Which frames may be repaired.
    pub repair: Repair,
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Received {
    /// Position of its preamble's start in the stream, in samples and fractions.
    pub start: f64,
    /// Its bits, after repair.
    pub raw: Raw,
    /// The bit that was repaired.
    pub repaired: Option<u8>,
    /// Power of its pulses in dBFS.
    pub level: f32,
    /// What it says.
    #[serde(flatten)]
    pub message: Message,
}

/// Length of the preamble in microseconds.
const PREAMBLE: f64 = 8.0;
/// Starts of the preamble's pulses.
const PULSES: [f64; 4] = [0.0, 1.0, 3.5, 4.5];
/// Stretches of the preamble that are quiet, at a distance from the pulses.
const QUIETS: [[f64; 2]; 2] = [[1.75, 3.25], [5.25, 7.75]];
/// How much louder than the quiet moments pulses are, in amplitude: at first sight, and when looked at closely.
const GLANCE: f32 = 1.8;
const LOUDER: f32 = 1.8;
/// The most fractions of a sample that are tried.
const PHASES: usize = 5;
/// Aircraft are remembered for a minute.
const MEMORY: f64 = 60.0;

/// Finds Mode S frames in a stream of samples centred on 1090 MHz. A sample that is not finite counts as silence.
pub struct Receiver {
    repair: Repair,
    known: Known,
    /// Magnitudes from `base` on: the position before the first sample at the start.
    magnitudes: Vec<f32>,
    base: i64,
    /// Where in `magnitudes` the search goes on.
    at: usize,
    /// Samples that a frame's true start may be behind the first that looks like one.
    margin: usize,
    /// Magnitudes that a candidate needs from its start on.
    reach: usize,
    pulses: [usize; 4],
    quiets: [Range<usize>; 2],
    phases: Vec<Phase>,
    per_microsecond: f64,
    counters: [u64; 2],
}

/// What a start at some fraction of a sample looks like.
struct Phase {
    offset: f64,
    pulses: [Pulse; 4],
    slicer: Slicer,
}

/// How a preamble fits.
#[derive(Debug, Clone, Copy)]
struct Fit {
    /// Amplitude of the pulses.
    amplitude: f32,
    /// How much of the samples the pulses explain.
    score: f32,
}

/// The fit with the highest score.
fn best_of(fits: &[Option<Fit>]) -> Option<usize> {
    let scored = fits.iter().enumerate().filter_map(|(i, f)| f.map(|f| (i, f.score)));
    scored.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}

/// The first sample that half a microsecond touches, and how much of each sample from there on it covers.
struct Pulse {
    first: usize,
    covered: Vec<f32>,
    sum: f32,
    squares: f32,
}

impl Pulse {
    fn new(from: f64, to: f64) -> Self {
        let first = from.floor() as usize;
        let covered: Vec<f32> = (first..to.ceil() as usize).map(|i| coverage(i, from, to)).collect();
        let squares = covered.iter().map(|c| c * c).sum();
        Self { first, sum: covered.iter().sum(), squares, covered }
    }

    /// The amplitude that explains the samples best, where it is quiet around the pulse.
    #[inline]
    fn amplitude(&self, m: &[f32], quiet: f32) -> f32 {
        let seen = m[self.first..].iter().zip(&self.covered).map(|(m, c)| m * c).sum::<f32>();
        quiet + (seen - quiet * self.sum) / self.squares
    }
}

/// A candidate that turned out to be a frame.
struct Found {
    checked: Checked,
    offset: f64,
    amplitude: f32,
    score: f32,
}

impl Found {
    /// Whether this is rather the frame than one that starts before: certain where that is not, or the same and a
    /// better fit.
    fn beats(&self, other: &Self) -> bool {
        match (self.checked.is_certain(), other.checked.is_certain()) {
            (true, true) => self.checked.raw == other.checked.raw && self.score > other.score,
            (certain, _) => certain,
        }
    }
}

impl Receiver {
    /// A receiver at the start of a stream.
    ///
    /// # Errors
    /// Where the rate is not 2e6 to 20e6.
    pub fn new(config: &ReceiverConfig) -> Result<Self, SignalError> {
        let rate = checked_rate(config.sample_rate)?;
        if !(2e6..=20e6).contains(&rate) {
            return Err(SignalError::new("the sample rate for Mode S", rate, "2e6 to 20e6"));
        }
        let r = rate / 1e6;
        let margin = (r / 2.0).ceil() as usize + 1;
        let count = (10.0 / r).ceil().clamp(1.0, PHASES as f64) as usize;
        let phases: Vec<Phase> = (0..count)
            .map(|p| {
                // Around the second sample of what is looked at: fractions can be negative.
                let offset = 1.0 + (p as f64 - (count - 1) as f64 / 2.0) / count as f64;
                let pulse = |t: f64| Pulse::new(offset + t * r, offset + (t + 0.5) * r);
                Phase { offset, pulses: PULSES.map(pulse), slicer: Slicer::new(offset + PREAMBLE * r, r) }
            })
            .collect();
        Ok(Self {
            repair: config.repair,
            known: Known::new((MEMORY * rate) as u64),
            magnitudes: vec![0.0],
            base: -1,
            at: 0,
            margin,
            // Two samples more for fractions and rounding.
            reach: ((PREAMBLE + LONG as f64) * r).ceil() as usize + margin + 2,
            pulses: PULSES.map(|t| 1 + ((t + 0.25) * r) as usize),
            quiets: QUIETS.map(|[from, to]| 1 + (from * r).ceil() as usize..1 + (to * r).floor() as usize),
            phases,
            per_microsecond: r,
            counters: [0; 2],
        })
    }

    /// Candidates so far that were looked at closely, and frames that were found.
    pub fn counters(&self) -> [u64; 2] {
        self.counters
    }

    /// Takes samples in and hands every frame out. Frames come up to 120 µs after their start.
    pub fn push(&mut self, samples: &[Complex32], mut frame: impl FnMut(Received)) {
        for piece in samples.chunks(16384) {
            let n = self.magnitudes.len();
            self.magnitudes.resize(n + piece.len(), 0.0);
            lanes::magnitude(piece, &mut self.magnitudes[n..]);
            self.magnitudes[n..].iter_mut().filter(|m| !m.is_finite()).for_each(|m| *m = 0.0);
            self.search(&mut frame);
            // What lies behind is not needed any more.
            let done = self.at.min(self.magnitudes.len());
            self.magnitudes.drain(..done);
            self.base += done as i64;
            self.at -= done;
        }
    }

    /// Ends the stream: frames near its end are handed out too. Then positions begin anew; aircraft are remembered.
    pub fn finish(&mut self, mut frame: impl FnMut(Received)) {
        self.magnitudes.resize(self.magnitudes.len() + self.reach, 0.0);
        self.search(&mut frame);
        self.magnitudes.clear();
        self.magnitudes.push(0.0);
        // Times of aircraft are positions; a new stream must not take them for ones to come.
        self.known = Known::new((MEMORY * self.per_microsecond * 1e6) as u64);
        (self.base, self.at) = (-1, 0);
    }

    fn search(&mut self, frame: &mut impl FnMut(Received)) {
        while self.at + self.reach <= self.magnitudes.len() {
            let m = &self.magnitudes[self.at..];
            if !self.glance(m) {
                self.at += 1;
                continue;
            }
            let mut at = self.at;
            let Some(mut found) = self.candidate(at) else {
                self.at += 1;
                continue;
            };
            // The next samples may be the better start of the same frame.
            while at + 1 < self.at + self.margin && self.glance(&self.magnitudes[at + 1..]) {
                match self.candidate(at + 1) {
                    Some(next) if next.beats(&found) => (found, at) = (next, at + 1),
                    _ => break,
                }
            }
            self.counters[1] += 1;
            let length = PREAMBLE + (found.checked.raw.bytes().len() * 8) as f64;
            self.at = at + (length * self.per_microsecond) as usize;
            frame(Received {
                start: (self.base + at as i64) as f64 + found.offset,
                raw: found.checked.raw,
                repaired: found.checked.repaired,
                level: decibels(found.amplitude * found.amplitude),
                message: found.checked.message,
            });
        }
    }

    /// Whether a preamble may start at the second sample of these.
    #[inline]
    fn glance(&self, m: &[f32]) -> bool {
        let pulses = self.pulses.map(|i| m[i]);
        let quiet = self.quiet(m);
        let weakest = pulses[0].min(pulses[1]).min(pulses[2].min(pulses[3]));
        weakest > quiet && pulses.iter().sum::<f32>() > quiet * (PULSES.len() as f32 * GLANCE)
    }

    /// The mean of the quiet moments.
    #[inline]
    fn quiet(&self, m: &[f32]) -> f32 {
        let (sum, n) =
            self.quiets.iter().fold((0.0, 0), |(s, n), r| (s + m[r.clone()].iter().sum::<f32>(), n + r.len()));
        sum / n as f32
    }

    /// Tries a start at all fractions of a sample: the first frame that is certain, or the first that is not.
    fn candidate(&mut self, at: usize) -> Option<Found> {
        let quiet = self.quiet(&self.magnitudes[at..]);
        let Self { phases, known, magnitudes, repair, counters, .. } = self;
        let m = &magnitudes[at..];
        let now = (self.base + at as i64).max(0) as u64;
        let mut uncertain = None;
        // The best fit first: its start is the truest.
        let mut fits = [None; PHASES];
        fits.iter_mut().zip(phases.iter()).for_each(|(fit, phase)| *fit = phase.preamble(m, quiet));
        while let Some(best) = best_of(&fits) {
            let (phase, Some(Fit { amplitude, score })) = (&phases[best], fits[best].take()) else { break };
            counters[0] += 1;
            let Some((raw, suspects)) = phase.slicer.slice(m, quiet, amplitude, !known.is_empty()) else { continue };
            let Some(checked) = check(raw, known, now, *repair, &suspects) else { continue };
            let found = Found { checked, offset: phase.offset, amplitude, score };
            if found.checked.is_certain() {
                return Some(found);
            }
            uncertain = uncertain.or(Some(found));
        }
        uncertain
    }
}

impl Phase {
    /// How the preamble fits, where the pulses stand out from the quiet moments, all of them.
    fn preamble(&self, m: &[f32], quiet: f32) -> Option<Fit> {
        let pulses = self.pulses.each_ref().map(|w| w.amplitude(m, quiet));
        let mean = pulses.iter().sum::<f32>() / PULSES.len() as f32;
        let weakest = pulses.iter().copied().fold(f32::INFINITY, f32::min);
        let score = self.pulses.iter().zip(pulses).map(|(w, a)| (a - quiet) * w.squares.sqrt()).sum();
        (mean > quiet * LOUDER && weakest > quiet && weakest > 0.4 * mean).then_some(Fit { amplitude: mean, score })
    }
}

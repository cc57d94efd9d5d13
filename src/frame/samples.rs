//! Samples of a radio or sensor stream.

use num_complex::Complex32;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::time::Duration;

/// A block of samples: what a frame of a radio or sensor stream carries.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleBlock {
    /// The samples, full scale 1.0; of real streams the imaginary part is zero.
    pub samples: Vec<Complex32>,
    /// Samples a second.
    pub rate: f64,
    /// Centre frequency in Hz, where the source knows it.
    pub frequency: Option<f64>,
    /// Position of the first sample in its stream, in samples. Where it is not the end of the block before, samples are
    /// missing between them.
    pub position: u64,
    /// Nothing comes behind it.
    pub last: bool,
    /// What is missing right before its first sample; `None` where it follows the block before.
    pub gap: Option<Gap>,
    /// When its first sample was taken, by the receiver's own clock; `None` where only the host's clock is known.
    pub time: Option<SampleTime>,
}

/// Samples that are missing before a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How many; 0 where nobody knows.
    pub samples: u64,
    /// Why.
    pub cause: GapCause,
}

/// Why samples are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// The receiver, or what lies between it and here, could not put them anywhere.
    Overrun,
    /// They were sent and did not arrive: their numbers jump.
    Lost,
    /// The connection was made anew. How many are missing is then known by the host's clock only.
    Reconnect,
}

impl GapCause {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Overrun, Self::Lost, Self::Reconnect];

    /// Its name in results and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overrun => "overrun",
            Self::Lost => "lost",
            Self::Reconnect => "reconnect",
        }
    }
}

/// A time by a receiver's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleTime {
    /// Nanoseconds since 1970, UTC.
    pub ns: i64,
    /// How far it may be off, as the operator or the receiver states it.
    pub accuracy: Duration,
}

/// How fast a receiver's sample clock runs by the host's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockReading {
    /// Samples a second that arrive, over those that are stated, less 1, in parts per million.
    pub drift_ppm: f64,
    /// How far that may be off (95 % of such readings are nearer), parts per million.
    pub uncertainty_ppm: f64,
    /// Stream time that it was measured over, seconds.
    pub seconds: f64,
}

/// What a result says of its frame's samples.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleNote {
    /// Samples a second.
    pub rate: f64,
    /// Centre frequency in Hz.
    pub frequency: Option<f64>,
    /// Position of the block's first sample.
    pub position: u64,
    /// Samples in the block.
    pub count: usize,
    /// What is missing right before them.
    pub gap: Option<Gap>,
    /// When the first one was taken, by the receiver's clock.
    pub time: Option<SampleTime>,
    /// How fast the sample clock runs.
    pub clock: Option<ClockReading>,
}

impl Serialize for Gap {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(Some(2))?;
        m.serialize_entry("samples", &self.samples)?;
        m.serialize_entry("cause", self.cause.name())?;
        m.end()
    }
}

impl Serialize for SampleTime {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(Some(2))?;
        // Beyond the year 9999 there is no text for it.
        let text = jiff::Timestamp::from_nanosecond(self.ns.into()).ok().map(|t| format!("{t:.9}"));
        m.serialize_entry("at", &text)?;
        m.serialize_entry("accuracy_ms", &(self.accuracy.as_secs_f64() * 1e3))?;
        m.end()
    }
}

impl Serialize for ClockReading {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let rounded = |v: f64| (v * 1e3).round() / 1e3 + 0.0;
        let mut m = s.serialize_map(Some(3))?;
        m.serialize_entry("drift_ppm", &rounded(self.drift_ppm))?;
        m.serialize_entry("uncertainty_ppm", &rounded(self.uncertainty_ppm))?;
        m.serialize_entry("seconds", &rounded(self.seconds))?;
        m.end()
    }
}

impl Serialize for SampleNote {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(None)?;
        m.serialize_entry("rate", &self.rate)?;
        if let Some(frequency) = self.frequency {
            m.serialize_entry("frequency", &frequency)?;
        }
        m.serialize_entry("position", &self.position)?;
        m.serialize_entry("count", &self.count)?;
        if let Some(gap) = &self.gap {
            m.serialize_entry("gap", gap)?;
        }
        if let Some(time) = &self.time {
            m.serialize_entry("time", time)?;
        }
        if let Some(clock) = &self.clock {
            m.serialize_entry("clock", clock)?;
        }
        m.end()
    }
}

impl SampleBlock {
    /// What results say of it, in a stream whose clock reads so.
    pub fn note(&self, clock: Option<ClockReading>) -> SampleNote {
        SampleNote {
            rate: self.rate,
            frequency: self.frequency,
            position: self.position,
            count: self.samples.len(),
            gap: self.gap,
            time: self.time,
            clock,
        }
    }

    /// Position behind its last sample.
    pub fn end(&self) -> u64 {
        self.position + self.samples.len() as u64
    }
}

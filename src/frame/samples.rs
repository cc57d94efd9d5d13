//! Samples of a radio or sensor stream.

use num_complex::Complex32;
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
    /// The connection was made anew.
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

impl SampleBlock {
    /// Position behind its last sample.
    pub fn end(&self) -> u64 {
        self.position + self.samples.len() as u64
    }
}

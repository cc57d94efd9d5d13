//! Samples of a radio or sensor stream.

use num_complex::Complex32;

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
}

impl SampleBlock {
    /// Position behind its last sample.
    pub fn end(&self) -> u64 {
        self.position + self.samples.len() as u64
    }
}

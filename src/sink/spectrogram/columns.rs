//! Power over time and frequency in a bounded number of columns, however long the stream is.

use crate::frame::SampleBlock;
use crate::signal::SignalError;
use crate::signal::spectrum::{Averaging, Frame, Spectrum, SpectrumConfig};
use crate::signal::window::Window;

/// Transforms overlap, so that a short burst shows in one of them with its whole power.
const OVERLAP: usize = 4;

/// One column: the sum of spectra.
#[derive(Clone, Default)]
pub(super) struct Column {
    sum: Vec<f32>,
    count: u32,
}

impl Column {
    /// Mean power of the bins, lowest frequency first; `None` where the stream has no samples.
    pub fn power(&self) -> Option<impl Iterator<Item = f32> + '_> {
        let count = self.count as f32;
        (self.count > 0).then(|| self.sum.iter().map(move |s| s / count))
    }

    fn add(&mut self, power: &[f32], count: u32) {
        if self.sum.is_empty() {
            self.sum = power.to_vec();
        } else {
            self.sum.iter_mut().zip(power).for_each(|(s, p)| *s += p);
        }
        self.count += count;
    }
}

/// The columns of a stream.
pub(super) struct Columns {
    spectrum: Spectrum,
    bins: usize,
    grid: Grid,
    /// Position of the first sample behind the last gap, and of the next one.
    run: u64,
    next: u64,
}

/// Where spectra go.
struct Grid {
    columns: Vec<Column>,
    most: usize,
    /// Position of the first sample, and samples in a column.
    origin: u64,
    per: u64,
}

impl Grid {
    fn add(&mut self, position: u64, power: &[f32]) {
        // One sample that is no number spoils its transform and nothing else.
        if power.iter().any(|p| !p.is_finite()) {
            return;
        }
        let at = position.saturating_sub(self.origin);
        while at / self.per >= self.most as u64 {
            self.halve();
        }
        let column = (at / self.per) as usize;
        if self.columns.len() <= column {
            self.columns.resize_with(column + 1, Column::default);
        }
        self.columns[column].add(power, 1);
    }

    fn halve(&mut self) {
        let before = std::mem::take(&mut self.columns);
        self.columns = before
            .chunks(2)
            .map(|pair| {
                let mut sum = pair[0].clone();
                if let Some(second) = pair.get(1).filter(|c| c.count > 0) {
                    sum.add(&second.sum, second.count);
                }
                sum
            })
            .collect();
        self.per *= 2;
    }
}

impl Columns {
    /// Columns of `bins` levels, at most `most` of them, from this position on.
    pub fn new(rate: f64, bins: usize, most: usize, origin: u64) -> Result<Self, SignalError> {
        let hop = bins / OVERLAP;
        let spectrum = Spectrum::new(&SpectrumConfig {
            sample_rate: rate,
            size: bins,
            hop,
            window: Window::default(),
            averaging: Averaging::Linear { blocks: 1 },
        })?;
        let grid = Grid { columns: Vec::new(), most, origin, per: hop as u64 };
        Ok(Self { spectrum, bins, grid, run: origin, next: origin })
    }

    /// Takes the next block in.
    pub fn push(&mut self, block: &SampleBlock) {
        if block.position != self.next {
            self.finish();
            self.run = block.position;
        }
        let (grid, middle) = (&mut self.grid, self.run + self.bins as u64 / 2);
        self.spectrum.push(&block.samples, |f: &Frame<'_>| grid.add(middle + f.start, f.power));
        self.next = block.end();
    }

    /// Takes in what is left over at a gap or at the end.
    pub fn finish(&mut self) {
        let (grid, run) = (&mut self.grid, self.run);
        // Its middle is that of the samples which are there.
        self.spectrum.finish(|f| grid.add(run + f.start + f.samples / 2, f.power));
        self.run = self.next;
    }

    /// Position of the first sample.
    pub fn origin(&self) -> u64 {
        self.grid.origin
    }

    /// Position behind the last sample.
    pub fn end(&self) -> u64 {
        self.next
    }

    /// Levels in a column.
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// Samples in a column.
    pub fn per(&self) -> u64 {
        self.grid.per
    }

    /// The columns, from the first sample on.
    pub fn all(&self) -> &[Column] {
        &self.grid.columns
    }
}

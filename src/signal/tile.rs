//! Columns put together to matrices of a fixed shape, in decibels or not, normalised or not: what a network takes.

use super::{SignalError, checked_length};
use serde::{Deserialize, Serialize};

/// How values are expressed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Level {
    /// As they are.
    Linear,
    /// ln(max(value, least)).
    Log {
        /// The least value, above 0.
        least: f32,
    },
    /// Decibels of max(value, least) over the reference.
    Decibel {
        /// The reference value; `None` for the tile's highest.
        reference: Option<f32>,
        /// The least value, above 0.
        least: f32,
        /// Where set, everything lower than this many decibels under the tile's highest is raised to that.
        range: Option<f32>,
        /// 10 for values that are powers, 20 for magnitudes.
        factor: f32,
    },
}

/// What a tile is normalised over. A row or tile without any spread becomes zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// Nothing.
    #[default]
    None,
    /// Every band to mean 0 and standard deviation 1.
    PerFrequency,
    /// The whole tile to 0 to 1.
    MinMax,
    /// The whole tile to mean 0 and standard deviation 1.
    ZScore,
}

/// Settings of a [`Tiler`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TileConfig {
    /// Values of a column, as [`super::spectrogram::Spectrogram::bands`] says.
    pub bands: usize,
    /// Columns of a tile.
    pub columns: usize,
    /// Columns from one tile's first to the next one's, 1 to `columns`.
    pub step: usize,
    /// How values are expressed.
    pub level: Level,
    /// What is done then.
    pub normalise: Normalise,
}

/// A matrix of bands × columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tile<'a> {
    /// Number of its first column in the stream.
    pub first: u64,
    /// Columns that are real; those behind were filled up with zeros before anything was computed.
    pub real: usize,
    /// Its values, row by row: all columns of the lowest band first. Length bands · columns.
    pub values: &'a [f32],
}

/// Puts columns together.
pub struct Tiler {
    config: TileConfig,
    /// Columns that were not dropped yet, one after the other.
    held: Vec<f32>,
    first: u64,
    /// Real columns at the start of `held` that were in a tile already.
    used: usize,
    out: Vec<f32>,
}

impl Tiler {
    /// Takes all memory that will be needed.
    ///
    /// # Errors
    /// Where a setting is out of its range.
    pub fn new(config: &TileConfig) -> Result<Self, SignalError> {
        checked_length("the bands of a tile", config.bands, 1)?;
        checked_length("the columns of a tile", config.columns, 1)?;
        checked_length("bands times columns", config.bands.saturating_mul(config.columns), 1)?;
        if !(1..=config.columns).contains(&config.step) {
            let must = format!("1 to the tile's columns, {}", config.columns);
            return Err(SignalError::new("the step", config.step, must));
        }
        let positive = |what, v: f32| {
            if v > 0.0 && v.is_finite() { Ok(()) } else { Err(SignalError::new(what, v, "above 0 and finite")) }
        };
        match config.level {
            Level::Linear => {}
            Level::Log { least } => positive("the least value", least)?,
            Level::Decibel { reference, least, range, factor } => {
                positive("the least value", least)?;
                positive("the factor", factor)?;
                reference.map_or(Ok(()), |r| positive("the reference", r))?;
                if let Some(range) = range.filter(|r| !(*r >= 0.0 && r.is_finite())) {
                    return Err(SignalError::new("the range in decibels", range, "0 or more and finite"));
                }
            }
        }
        let size = config.bands * config.columns;
        Ok(Self { config: *config, held: Vec::with_capacity(size), first: 0, used: 0, out: vec![0.0; size] })
    }

    /// Takes a column and hands a tile out where it is full. What is missing of a column counts as zero, as does what is
    /// not finite.
    pub fn push(&mut self, column: &[f32], tile: impl FnOnce(&Tile<'_>)) {
        let bands = self.config.bands;
        let values = column.iter().copied().chain(std::iter::repeat(0.0)).take(bands);
        self.held.extend(values.map(|v| if v.is_finite() { v } else { 0.0 }));
        if self.held.len() == bands * self.config.columns {
            self.emit(self.config.columns, tile);
            self.held.drain(..bands * self.config.step);
            self.first += self.config.step as u64;
            self.used = self.config.columns - self.config.step;
        }
    }

    /// Ends the stream: columns that were in no tile yet make a last one, filled up with zeros. Then everything begins
    /// anew.
    pub fn finish(&mut self, tile: impl FnOnce(&Tile<'_>)) {
        let real = self.held.len() / self.config.bands;
        if real > self.used {
            self.held.resize(self.config.bands * self.config.columns, 0.0);
            self.emit(real, tile);
        }
        self.held.clear();
        (self.first, self.used) = (0, 0);
    }

    fn emit(&mut self, real: usize, tile: impl FnOnce(&Tile<'_>)) {
        let (bands, columns) = (self.config.bands, self.config.columns);
        for (band, row) in self.out.chunks_exact_mut(columns).enumerate() {
            for (o, column) in row.iter_mut().zip(self.held.chunks_exact(bands)) {
                *o = column[band];
            }
        }
        express(self.config.level, &mut self.out);
        match self.config.normalise {
            Normalise::None => {}
            Normalise::PerFrequency => self.out.chunks_exact_mut(columns).for_each(standardise),
            Normalise::ZScore => standardise(&mut self.out),
            Normalise::MinMax => {
                let low = self.out.iter().copied().fold(f32::INFINITY, f32::min);
                let high = self.out.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
                self.out.iter_mut().for_each(|v| *v = (*v - low) * scale);
            }
        }
        tile(&Tile { first: self.first, real, values: &self.out });
    }
}

fn express(level: Level, values: &mut [f32]) {
    match level {
        Level::Linear => {}
        Level::Log { least } => values.iter_mut().for_each(|v| *v = v.max(least).ln()),
        Level::Decibel { reference, least, range, factor } => {
            let highest = values.iter().copied().fold(0.0, f32::max);
            let reference = f64::from(reference.unwrap_or(highest).max(least)).log10();
            let decibels = |v: f32| f64::from(factor) * (f64::from(v.max(least)).log10() - reference);
            let lowest = range.map_or(f64::NEG_INFINITY, |r| decibels(highest) - f64::from(r));
            values.iter_mut().for_each(|v| *v = decibels(*v).max(lowest) as f32);
        }
    }
}

/// To mean 0 and standard deviation 1 (of the values themselves, not of a larger population).
fn standardise(values: &mut [f32]) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let scale = if variance > 0.0 { 1.0 / variance.sqrt() } else { 0.0 };
    values.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * scale) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(columns: usize, step: usize, level: Level, normalise: Normalise) -> TileConfig {
        TileConfig { bands: 2, columns, step, level, normalise }
    }

    fn tiles(config: &TileConfig, columns: &[[f32; 2]]) -> Vec<(u64, usize, Vec<f32>)> {
        let mut tiler = Tiler::new(config).expect("valid");
        let mut tiles = Vec::new();
        for column in columns {
            tiler.push(column, |t| tiles.push((t.first, t.real, t.values.to_vec())));
        }
        tiler.finish(|t| tiles.push((t.first, t.real, t.values.to_vec())));
        tiles
    }

    #[test]
    fn every_column_is_in_a_tile_and_rows_are_bands() {
        let columns: Vec<[f32; 2]> = (0..7).map(|i| [i as f32, 10.0 + i as f32]).collect();
        let plain = config(3, 2, Level::Linear, Normalise::None);
        let tiles = tiles(&plain, &columns);
        assert_eq!(tiles.len(), 3);
        assert_eq!(tiles[0], (0, 3, vec![0.0, 1.0, 2.0, 10.0, 11.0, 12.0]));
        assert_eq!(tiles[2], (4, 3, vec![4.0, 5.0, 6.0, 14.0, 15.0, 16.0]));
        let last = self::tiles(&plain, &columns[..6]);
        assert_eq!(last[2], (4, 2, vec![4.0, 5.0, 0.0, 14.0, 15.0, 0.0]));
    }

    #[test]
    fn levels_and_normalisation_are_as_they_say() {
        let columns = [[1.0, 100.0], [10.0, f32::NAN]];
        let level = Level::Decibel { reference: None, least: 1e-10, range: Some(80.0), factor: 10.0 };
        let decibels = &tiles(&config(2, 2, level, Normalise::None), &columns)[0].2;
        assert_eq!(decibels, &[-20.0, -10.0, 0.0, -80.0]);
        let unit = &tiles(&config(2, 2, level, Normalise::MinMax), &columns)[0].2;
        assert_eq!(unit, &[0.75, 0.875, 1.0, 0.0]);
        let rows = &tiles(&config(2, 2, level, Normalise::PerFrequency), &columns)[0].2;
        assert_eq!(rows, &[-1.0, 1.0, 1.0, -1.0]);
        let flat = &tiles(&config(2, 2, level, Normalise::ZScore), &[[1.0, 1.0]; 2])[0].2;
        assert_eq!(flat, &[0.0; 4]);
    }

    #[test]
    fn shapes_that_make_no_sense_are_refused() {
        let good = config(3, 2, Level::Linear, Normalise::None);
        for bad in [
            TileConfig { bands: 0, ..good },
            TileConfig { columns: 0, ..good },
            TileConfig { step: 4, ..good },
            TileConfig { bands: usize::MAX, columns: usize::MAX, step: 1, ..good },
            TileConfig { level: Level::Log { least: 0.0 }, ..good },
            TileConfig { level: Level::Log { least: f32::NAN }, ..good },
        ] {
            assert!(Tiler::new(&bad).is_err(), "{bad:?}");
        }
    }
}

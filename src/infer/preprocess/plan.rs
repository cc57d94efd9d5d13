//! What can be worked out before a pixel is read: where the picture lands in the input, which samples every output
//! pixel mixes, and the affine map from samples to the tensor's channels.

use super::{ChannelOrder, Fit, InputSpec, Region};
use crate::frame::{Colorimetry, Matrix, Picture, PixelFormat, Range, Siting};
use crate::infer::tensor::Geometry;

/// Destination pixels are handled in blocks of this many; tables are padded to a multiple.
pub(super) const BLOCK: usize = 16;

/// Everything a plan depends on besides the input specification, which is constant for a preprocessor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Key {
    width: u32,
    height: u32,
    format: PixelFormat,
    color: Colorimetry,
    pixel_aspect: (u32, u32),
    turns: u8,
    mirrored: bool,
    region: Option<Region>,
}

impl Key {
    pub(super) fn of(picture: &Picture, region: Option<Region>) -> Self {
        Self {
            width: picture.width,
            height: picture.height,
            format: picture.format,
            color: picture.color,
            pixel_aspect: picture.pixel_aspect,
            turns: picture.orientation.quarter_turns % 4,
            mirrored: picture.orientation.mirrored,
            region,
        }
    }
}

/// The two samples that one output row mixes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub(super) first: usize,
    pub(super) second: usize,
    /// Weight of the second.
    pub(super) weight: f32,
}

/// For every output column, in order, the two neighbouring samples of a line that it mixes.
///
/// The fields are private because the vector code reads lines without bounds checks on the strength of what
/// [`Taps::build`] establishes: `index[i] + 1 <= len`, `base` of a block is its smallest index, and `index`,
/// `weight` hold `padded()` items.
#[derive(Debug, Default)]
pub(super) struct Taps {
    lo: usize,
    len: usize,
    index: Vec<i32>,
    weight: Vec<f32>,
    base: Vec<i32>,
    span: usize,
}

impl Taps {
    /// First sample of the line that is read.
    pub(super) fn lo(&self) -> usize {
        self.lo
    }

    /// How many samples of the line are read.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Output columns, rounded up to whole blocks.
    pub(super) fn padded(&self) -> usize {
        self.index.len()
    }

    /// First sample of each output column, counted from `lo`.
    pub(super) fn index(&self) -> &[i32] {
        &self.index
    }

    /// Weight of the sample behind the first.
    pub(super) fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// Smallest index of each block of lanes.
    pub(super) fn base(&self) -> &[i32] {
        &self.base
    }

    /// Most samples that one block of lanes spans, the second of the last pair included.
    pub(super) fn span(&self) -> usize {
        self.span
    }

    fn reserve(&mut self, columns: usize, lanes: usize) {
        let n = columns.next_multiple_of(BLOCK);
        self.index.reserve(n.saturating_sub(self.index.len()));
        self.weight.reserve(n.saturating_sub(self.weight.len()));
        self.base.reserve((n / lanes).saturating_sub(self.base.len()));
    }

    /// Fills the table in place, so that a plan that is built again allocates nothing.
    fn build(&mut self, axis: &Axis, out: std::ops::Range<usize>, samples: usize, sub: Option<Siting>, lanes: usize) {
        self.index.clear();
        self.weight.clear();
        self.base.clear();
        for i in out {
            let t = axis.tap(i, samples, sub);
            self.index.push(t.first as i32);
            self.weight.push(t.weight);
        }
        let (lo, hi) = match (self.index.iter().min(), self.index.iter().max()) {
            (Some(&lo), Some(&hi)) => (lo, hi),
            _ => (0, 0),
        };
        self.lo = lo as usize;
        self.len = ((hi as usize + 2).min(samples) - lo as usize).max(1);
        self.index.iter_mut().for_each(|i| *i -= lo);
        let padded = self.index.len().next_multiple_of(BLOCK);
        let last = (self.index.last().copied().unwrap_or(0), self.weight.last().copied().unwrap_or(0.0));
        self.index.resize(padded, last.0);
        self.weight.resize(padded, last.1);
        self.span = 0;
        for block in self.index.chunks(lanes) {
            let base = block.iter().copied().min().unwrap_or(0);
            let end = block.iter().copied().max().unwrap_or(0);
            self.base.push(base);
            self.span = self.span.max((end - base) as usize + 2);
        }
    }
}

/// How output positions of one axis become positions in the picture as stored.
struct Axis {
    /// Output position of the region's start.
    left: i64,
    /// Viewed pixels per output pixel.
    step: f64,
    /// Viewed position of the region's start.
    start: f64,
    /// Length of the stored axis, in viewed pixels.
    view: f64,
    /// Length of the stored axis, in samples.
    stored: f64,
    /// The axis runs backwards.
    flipped: bool,
}

impl Axis {
    /// The samples that output pixel `i` mixes, in a plane of `samples` samples that is halved where `sub` says how.
    fn tap(&self, i: usize, samples: usize, sub: Option<Siting>) -> Tap {
        let viewed = (i as i64 - self.left) as f64 * self.step + 0.5 * self.step + self.start;
        let along = if self.flipped { self.view - viewed } else { viewed };
        let s = along * self.stored / self.view;
        let position = match sub {
            None => s - 0.5,
            // The sample's centre lies between two luma samples, at 2j + 1.
            Some(Siting::Centered) => s / 2.0 - 0.5,
            // The sample's centre is that of the first of its luma samples, at 2j + 0.5.
            Some(Siting::Cosited) => s / 2.0 - 0.25,
        };
        let last = samples - 1;
        let position = position.clamp(0.0, last as f64);
        let first = position as usize;
        Tap { first, second: (first + 1).min(last), weight: (position - first as f64) as f32 }
    }
}

/// From the samples of a pixel to one channel of the tensor: `clamp(Σ mix · sample + add, 0, 255) · gain + shift`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Channel {
    pub(super) mix: [f32; 3],
    pub(super) add: f32,
    pub(super) gain: f32,
    pub(super) shift: f32,
}

/// The tables for one kind of picture and one region.
#[derive(Debug, Default)]
pub(super) struct Plan {
    key: Option<Key>,
    geometry: Option<Geometry>,
    /// Output columns that the picture covers.
    pub(super) columns: std::ops::Range<usize>,
    /// Output rows that the picture covers.
    pub(super) rows: std::ops::Range<usize>,
    /// A row of the output runs along a column of the picture as stored.
    pub(super) transposed: bool,
    /// Along an output row: luma (or the only grid), chroma.
    pub(super) along: [Taps; 2],
    /// For each output row from `rows.start`: luma (or the only grid), chroma.
    pub(super) across: [Vec<Tap>; 2],
    /// Samples of a pixel that are mixed into a channel: 1 or 3.
    pub(super) inputs: usize,
    /// The second and third sample lie on the chroma grid.
    pub(super) chroma: bool,
    /// One for each channel of the tensor.
    pub(super) channels: [Channel; 3],
}

impl Plan {
    pub(super) fn is_for(&self, key: &Key) -> bool {
        self.key.as_ref() == Some(key)
    }

    /// Works everything out anew, reusing the tables' memory.
    pub(super) fn build(&mut self, key: Key, spec: &InputSpec, lanes: usize) -> Geometry {
        self.key = None;
        // The most that any region or picture can need, so that none after the first allocates.
        self.along.iter_mut().for_each(|t| t.reserve(spec.width, lanes));
        self.across.iter_mut().for_each(|t| t.reserve(spec.height.saturating_sub(t.len())));
        let picture = (key.width, key.height);
        let upright = view_width(key.width, key.pixel_aspect);
        let transposed = key.turns % 2 == 1;
        let (vw, vh) = if transposed { (key.height, upright) } else { (upright, key.height) };
        let [x1, y1, x2, y2] = key.region.unwrap_or([0.0, 0.0, vw as f32, vh as f32]).map(f64::from);
        let size = [x2 - x1, y2 - y1];
        let (origin, scaled) = place(spec, size);
        let scale = [scaled[0] as f64 / size[0], scaled[1] as f64 / size[1]];

        // Mirroring comes first, then clockwise turns: this is the way back.
        let (flip_x, flip_y) = match key.turns {
            0 => (key.mirrored, false),
            1 => (key.mirrored, true),
            2 => (!key.mirrored, true),
            _ => (!key.mirrored, false),
        };
        let stored_x = (upright as f64, picture.0 as f64, flip_x);
        let stored_y = (key.height as f64, picture.1 as f64, flip_y);
        let (along, across) = if transposed { (stored_y, stored_x) } else { (stored_x, stored_y) };
        let axis = |i: usize, start: f64, (view, stored, flipped): (f64, f64, bool)| Axis {
            left: origin[i],
            step: 1.0 / scale[i],
            start,
            view,
            stored,
            flipped,
        };
        let along = axis(0, x1, along);
        let across = axis(1, y1, across);

        self.columns = covered(origin[0], scaled[0], spec.width);
        self.rows = covered(origin[1], scaled[1], spec.height);
        self.transposed = transposed;
        let (sub_x, sub_y) = subsampling(key.format);
        for (i, chroma) in [false, true].into_iter().enumerate() {
            let x = grid(key.width, chroma && sub_x, key.color.siting_x);
            let y = grid(key.height, chroma && sub_y, key.color.siting_y);
            let (a, b) = if transposed { (y, x) } else { (x, y) };
            self.along[i].build(&along, self.columns.clone(), a.0, a.1, lanes);
            self.across[i].clear();
            self.across[i].extend(self.rows.clone().map(|row| across.tap(row, b.0, b.1)));
        }

        self.chroma = !matches!(
            key.format,
            PixelFormat::Gray8 | PixelFormat::Rgb | PixelFormat::Bgr | PixelFormat::Rgbx | PixelFormat::Bgrx
        );
        (self.inputs, self.channels) = channels(key.format, key.color, spec);
        let geometry = Geometry {
            scale: [scale[0] as f32, scale[1] as f32],
            offset: [(origin[0] as f64 - x1 * scale[0]) as f32, (origin[1] as f64 - y1 * scale[1]) as f32],
            picture: [vw as f32, vh as f32],
        };
        self.geometry = Some(geometry);
        self.key = Some(key);
        geometry
    }

    /// How the picture and the tensor relate; `None` before the first build.
    pub(super) fn geometry(&self) -> Option<Geometry> {
        self.geometry
    }
}

/// Width in square pixels, as [`Picture::view_size`] counts it before turning.
fn view_width(width: u32, (n, d): (u32, u32)) -> u32 {
    if n == d || d == 0 { width } else { (width as u64 * n as u64 / d as u64) as u32 }
}

/// Samples of a plane along an axis, and how they sit where the axis is halved.
fn grid(pixels: u32, halved: bool, siting: Siting) -> (usize, Option<Siting>) {
    if halved { (pixels.div_ceil(2) as usize, Some(siting)) } else { (pixels as usize, None) }
}

/// Whether chroma has half the columns and half the rows.
pub(super) fn subsampling(format: PixelFormat) -> (bool, bool) {
    use PixelFormat::*;
    match format {
        I420 | Nv12 | I420_10 | P010 => (true, true),
        Y42b | I422_10 => (true, false),
        Y444 | Y444_10 | Gray8 | Rgb | Bgr | Rgbx | Bgrx => (false, false),
    }
}

fn covered(origin: i64, scaled: i64, size: usize) -> std::ops::Range<usize> {
    let start = origin.clamp(0, size as i64);
    let end = (origin + scaled).clamp(start, size as i64);
    start as usize..end as usize
}

/// Where a region of this size lands: origin and size in whole output pixels.
///
/// Letterbox follows the tools it comes from: top-left rounds the scaled size down (YOLOX), centred rounds it to the
/// nearest and gives the odd pixel of padding to the right and bottom (Ultralytics). Crop rounds the longer side down
/// and the centre to the nearest (torchvision).
fn place(spec: &InputSpec, size: [f64; 2]) -> ([i64; 2], [i64; 2]) {
    let input = [spec.width as f64, spec.height as f64];
    let ratio = [input[0] / size[0], input[1] / size[1]];
    match spec.fit {
        Fit::Stretch => ([0, 0], [spec.width as i64, spec.height as i64]),
        Fit::Letterbox { centered, never_enlarge, .. } => {
            let mut r = ratio[0].min(ratio[1]);
            if never_enlarge {
                r = r.min(1.0);
            }
            let scaled = [0, 1].map(|i| {
                // 416/427 times 427 is 415.99…94: the true value is whole.
                let v = if centered { (size[i] * r).round_ties_even() } else { (size[i] * r + 1e-6).floor() };
                v.clamp(1.0, input[i]) as i64
            });
            let origin = if centered { [0, 1].map(|i| (input[i] as i64 - scaled[i]) / 2) } else { [0, 0] };
            (origin, scaled)
        }
        Fit::Crop => {
            let r = ratio[0].max(ratio[1]);
            // A sliver of a region would make the longer side astronomically long; beyond this the centre is one pixel anyway.
            let scaled = [0, 1].map(|i| (size[i] * r + 1e-6).floor().clamp(input[i], 1e12) as i64);
            let origin = [0, 1].map(|i| -(((scaled[i] - input[i] as i64) as f64 / 2.0).round_ties_even() as i64));
            (origin, scaled)
        }
    }
}

/// The map from a pixel's samples to the tensor's channels, and how many samples a pixel has.
///
/// Matrices: ITU-R BT.601-7, BT.709-6 and BT.2020-2 (non-constant luminance) by their luma coefficients; ranges by
/// the same texts and, for full range, ITU-T T.871 (8 bits) and H.273 (10 bits). Luma of RGB is BT.601's.
fn channels(format: PixelFormat, color: Colorimetry, spec: &InputSpec) -> (usize, [Channel; 3]) {
    use PixelFormat::*;
    let count = spec.channels.count();
    let mut out = [Channel::default(); 3];
    let depth: u32 = match format {
        I420_10 | I422_10 | Y444_10 | P010 => 10,
        _ => 8,
    };
    let unit = f64::from(1u32 << (depth - 8));
    let (black, luma, chroma) = match color.range {
        Range::Limited => (16.0 * unit, 255.0 / (219.0 * unit), 255.0 / (224.0 * unit)),
        Range::Full => {
            let full = 255.0 / f64::from((1u32 << depth) - 1);
            (0.0, full, full)
        }
    };
    // Red, green, blue by samples, with the constant last.
    let grey = ([luma, 0.0, 0.0], -black * luma);
    let (inputs, rows): (usize, [([f64; 3], f64); 3]) = match format {
        Rgb | Bgr | Rgbx | Bgrx => {
            if spec.channels == ChannelOrder::Gray {
                (3, [([0.299, 0.587, 0.114], 0.0); 3])
            } else {
                (3, [([1.0, 0.0, 0.0], 0.0), ([0.0, 1.0, 0.0], 0.0), ([0.0, 0.0, 1.0], 0.0)])
            }
        }
        Gray8 => (1, [grey; 3]),
        _ if spec.channels == ChannelOrder::Gray => (1, [grey; 3]),
        _ => {
            let (kr, kb) = match color.matrix {
                Matrix::Bt601 => (0.299, 0.114),
                Matrix::Bt709 => (0.2126, 0.0722),
                Matrix::Bt2020 => (0.2627, 0.0593),
            };
            let kg = 1.0 - kr - kb;
            let middle = 128.0 * unit;
            let row = |cb: f64, cr: f64| {
                let (cb, cr) = (cb * chroma, cr * chroma);
                ([luma, cb, cr], -black * luma - middle * (cb + cr))
            };
            (
                3,
                [
                    row(0.0, 2.0 * (1.0 - kr)),
                    row(-2.0 * kb * (1.0 - kb) / kg, -2.0 * kr * (1.0 - kr) / kg),
                    row(2.0 * (1.0 - kb), 0.0),
                ],
            )
        }
    };
    for (i, channel) in out.iter_mut().enumerate().take(count) {
        let (mix, add) = rows[if spec.channels == ChannelOrder::Bgr { 2 - i } else { i }];
        *channel = Channel {
            mix: mix.map(|v| v as f32),
            add: add as f32,
            gain: spec.scale[i],
            shift: (-f64::from(spec.mean[i]) * f64::from(spec.scale[i])) as f32,
        };
    }
    (inputs, out)
}

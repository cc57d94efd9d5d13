//! A decoded picture: planes of pixels that somebody else owns, and what is needed to read them right.

use super::{Joined, SampleBlock};
use std::fmt;
use std::sync::Arc;

/// Where the bytes of a picture live. A mapped decoder buffer, or memory of our own.
pub trait PixelBuffer: Send + Sync {
    /// All bytes of plane `i`, from its first pixel on, at least `stride * (rows - 1) + row bytes` long.
    fn plane(&self, i: usize) -> &[u8];
}

/// Layout of the samples. `16` formats hold little-endian 16-bit words with the value in the low bits (`I420_10` …)
/// or in the high bits (`P010`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Planar Y, U, V; 4:2:0.
    I420,
    /// Planar Y, interleaved UV; 4:2:0.
    Nv12,
    /// Planar Y, U, V; 4:2:2.
    Y42b,
    /// Planar Y, U, V; 4:4:4.
    Y444,
    /// Planar Y, U, V; 4:2:0; 10 bits in the low bits of little-endian words.
    I420_10,
    /// Planar Y, U, V; 4:2:2; 10 bits in the low bits of little-endian words.
    I422_10,
    /// Planar Y, U, V; 4:4:4; 10 bits in the low bits of little-endian words.
    Y444_10,
    /// Planar Y, interleaved UV; 4:2:0; 10 bits in the high bits of little-endian words.
    P010,
    /// One plane of luma; 8 bits.
    Gray8,
    /// Interleaved R, G, B; 8 bits.
    Rgb,
    /// Interleaved B, G, R; 8 bits.
    Bgr,
    /// Interleaved R, G, B and a byte to ignore.
    Rgbx,
    /// Interleaved B, G, R and a byte to ignore.
    Bgrx,
}

/// The YCbCr matrix of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Matrix {
    /// ITU-R BT.601.
    Bt601,
    /// ITU-R BT.709.
    Bt709,
    /// ITU-R BT.2020, non-constant luminance.
    Bt2020,
}

/// The range of the stream's code values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Range {
    /// 0–255 (full swing).
    Full,
    /// 16–235 luma, 16–240 chroma.
    Limited,
}

/// Where a chroma sample lies within the luma samples that share it, per axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Siting {
    /// On the first of the luma samples (MPEG-2's horizontal axis).
    Cosited,
    /// Midway between the luma samples (JPEG, MPEG-1).
    Centered,
}

/// How code values become colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Colorimetry {
    /// YCbCr matrix. Ignored by RGB and grey formats.
    pub matrix: Matrix,
    /// Range of the code values.
    pub range: Range,
    /// Horizontal chroma siting.
    pub siting_x: Siting,
    /// Vertical chroma siting.
    pub siting_y: Siting,
}

/// How the picture has to be turned for viewing, clockwise, after a mirroring if any (EXIF and MP4 display matrix).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Orientation {
    /// Clockwise quarter turns, 0 to 3.
    pub quarter_turns: u8,
    /// Mirror left to right before turning.
    pub mirrored: bool,
}

/// A decoded picture.
pub struct Picture {
    /// Columns of pixels, as stored.
    pub width: u32,
    /// Rows of pixels, as stored.
    pub height: u32,
    /// Layout of the samples.
    pub format: PixelFormat,
    /// Bytes from one row to the next, per plane.
    pub strides: [usize; 3],
    /// How code values become colour.
    pub color: Colorimetry,
    /// Width to height of one pixel, as stored; (1, 1) for square pixels.
    pub pixel_aspect: (u32, u32),
    /// How to turn it for viewing.
    pub orientation: Orientation,
    /// The bytes.
    pub buffer: Box<dyn PixelBuffer>,
}

impl Picture {
    /// A grey picture of this width and height, in I420.
    pub fn grey(width: usize, height: usize) -> Self {
        let (w, h) = (width.div_ceil(2), height.div_ceil(2));
        let planes = vec![vec![126; width * height], vec![128; w * h], vec![128; w * h]];
        Self::hd((width as u32, height as u32), PixelFormat::I420, [width, w, w], planes)
    }

    /// A picture in memory of its own, with the colours of HD video (BT.709, limited range), square pixels, upright.
    pub fn hd(size: (u32, u32), format: PixelFormat, strides: [usize; 3], planes: Vec<Vec<u8>>) -> Self {
        Self {
            width: size.0,
            height: size.1,
            format,
            strides,
            color: Colorimetry {
                matrix: Matrix::Bt709,
                range: Range::Limited,
                siting_x: Siting::Cosited,
                siting_y: Siting::Centered,
            },
            pixel_aspect: (1, 1),
            orientation: Orientation::default(),
            buffer: Box::new(OwnedPlanes(planes)),
        }
    }

    /// Number of planes.
    pub fn planes(&self) -> usize {
        use PixelFormat::*;
        match self.format {
            I420 | Y42b | Y444 | I420_10 | I422_10 | Y444_10 => 3,
            Nv12 | P010 => 2,
            Gray8 | Rgb | Bgr | Rgbx | Bgrx => 1,
        }
    }

    /// Size as viewed, in square pixels of the stored height's scale: (width, height) after pixel aspect and rotation.
    pub fn view_size(&self) -> (u32, u32) {
        let (n, d) = self.pixel_aspect;
        let w = if n == d || d == 0 { self.width } else { (self.width as u64 * n as u64 / d as u64) as u32 };
        if self.orientation.quarter_turns % 2 == 1 { (self.height, w) } else { (w, self.height) }
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture {}x{} {:?} {:?}", self.width, self.height, self.format, self.color)
    }
}

/// Planes in memory of our own: for tests, for converted pictures, and where a decoder's pool is short.
pub struct OwnedPlanes(pub Vec<Vec<u8>>);

impl PixelBuffer for OwnedPlanes {
    fn plane(&self, i: usize) -> &[u8] {
        self.0.get(i).map_or(&[], Vec::as_slice)
    }
}

/// What a frame carries. Cloning shares the data.
#[derive(Debug, Clone)]
pub enum Payload {
    /// A picture.
    Picture(Arc<Picture>),
    /// A block of samples.
    Samples(Arc<SampleBlock>),
    /// What several streams have of the same time.
    Joined(Arc<Joined>),
    /// Nothing: the payload was let go because nobody behind needs it.
    Empty,
}

impl Payload {
    /// The picture, if it is one.
    pub fn picture(&self) -> Option<&Arc<Picture>> {
        match self {
            Self::Picture(p) => Some(p),
            Self::Samples(_) | Self::Joined(_) | Self::Empty => None,
        }
    }

    /// The samples, if it is a block of them.
    pub fn samples(&self) -> Option<&Arc<SampleBlock>> {
        match self {
            Self::Samples(s) => Some(s),
            Self::Picture(_) | Self::Joined(_) | Self::Empty => None,
        }
    }

    /// What several streams have, if it is that.
    pub fn joined(&self) -> Option<&Arc<Joined>> {
        match self {
            Self::Joined(j) => Some(j),
            Self::Picture(_) | Self::Samples(_) | Self::Empty => None,
        }
    }
}

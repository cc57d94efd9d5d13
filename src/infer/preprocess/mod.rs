//! The fused pixel pass: decoder planes to a model's normalised tensor, in one go.
//!
//! Its arithmetic is fixed, so that it can be checked: half-pixel-centre bilinear on each plane by itself (no antialiasing, edge
//! samples repeat), chroma where the picture's [`Colorimetry`](crate::frame::Colorimetry) says it sits, then the YCbCr matrix to code values
//! 0–255, clamp, `(value - mean) * scale`. Nothing is rounded in between; a `u8` tensor is rounded once, at the end, and an `f16` one as it
//! is stored. 10-bit samples keep their precision.
//!
//! * Grey from YCbCr is luma, expanded by its range and clamped; grey from RGB is BT.601 luma. A grey picture gives every channel
//!   the same value. RGB formats are taken as full range whatever the picture's colorimetry says.
//! * The region, the fit and the [`Geometry`] all speak of the picture as *viewed* ([`Picture::view_size`]): mirrored, turned, with
//!   square pixels.

mod plan;
mod rows;
mod simd;

pub use simd::SimdLevel;

use super::tensor::{DType, Geometry};
use crate::frame::{Picture, PixelFormat};
use plan::{Key, Plan, subsampling};
use rows::{Scratch, Source};

/// Order of the tensor's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Channel planes.
    Nchw,
    /// Interleaved channels.
    Nhwc,
}

/// Order and number of the tensor's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel of luma.
    Gray,
}

impl ChannelOrder {
    /// How many channels.
    pub fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// How the picture is fitted into the model's input. The scaled size is in whole pixels, as it is with the tools that models are
/// trained with; the scale that results on each axis stands in [`Geometry`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// Same scale on both axes, whole picture visible, the rest filled with `pad`. The scaled size is rounded to the nearest
    /// where centred (an odd pixel of padding goes right and below) and down where not.
    Letterbox {
        /// Picture in the middle rather than in the top left corner.
        centered: bool,
        /// Value of the padding, per tensor channel (in the tensor's order): a code value 0–255, normalised like a pixel.
        pad: [f32; 3],
        /// Never make the picture larger than it is.
        never_enlarge: bool,
    },
    /// Each axis scaled by itself.
    Stretch,
    /// Same scale on both axes, centre part that fills the input. The longer side is rounded down.
    Crop,
}

/// What a model wants its picture input to be.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Axes.
    pub layout: Layout,
    /// Channels.
    pub channels: ChannelOrder,
    /// Element type.
    pub dtype: DType,
    /// How to fit the picture.
    pub fit: Fit,
    /// Subtracted from code values 0–255, per tensor channel (in the tensor's order).
    pub mean: [f32; 3],
    /// Multiplied with what is left, per tensor channel.
    pub scale: [f32; 3],
}

impl InputSpec {
    /// Bytes of one picture's part of the tensor.
    pub fn bytes(&self) -> usize {
        self.channels.count() * self.height * self.width * self.dtype.bytes()
    }
}

/// A part of the picture as viewed: x1, y1, x2, y2 in pixels; may reach beyond the picture (edge pixels repeat).
pub type Region = [f32; 4];

/// Why a picture cannot be turned into a tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PixelError {
    /// A plane holds fewer bytes than its size and stride need.
    #[error("plane {plane} of a {width}x{height} {format} picture has {have} bytes, needs {need}")]
    ShortPlane {
        /// Which plane.
        plane: usize,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Pixel format.
        format: String,
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A plane's rows overlap.
    #[error("plane {plane} of a {width}x{height} {format} picture has a stride of {have} bytes, a row has {need}")]
    ShortStride {
        /// Which plane.
        plane: usize,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Pixel format.
        format: String,
        /// Bytes from row to row.
        have: usize,
        /// Bytes of a row.
        need: usize,
    },
    /// The destination is of another size than the input.
    #[error("the tensor slot has {have} bytes, the input needs {need}")]
    WrongSlot {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Nothing to read.
    #[error("the picture or the region is empty")]
    Empty,
    /// A side beyond [`MAX_SIDE`].
    #[error("a {width}x{height} picture is larger than {MAX_SIDE} pixels on a side")]
    TooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A corner of the region is not a number, or infinite.
    #[error("the region {0:?} is not finite")]
    BadRegion(Region),
}

/// Longest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 1 << 20;

/// Whole pictures of this many different kinds (size, format, colour, orientation) keep their tables at the same time.
const KEPT_PLANS: usize = 8;

/// The fused pass for one input specification. Holds its tables and scratch rows, so make one for each thread.
///
/// A kind of picture seen before allocates nothing; nor does another region of a picture no larger than one seen before.
pub struct Preprocessor {
    spec: InputSpec,
    level: SimdLevel,
    /// For whole pictures, most recently used last.
    plans: Vec<Plan>,
    /// For regions, which are rarely the same twice.
    region: Plan,
    scratch: Scratch,
}

impl Preprocessor {
    /// A pass for this input, with the widest vectors that the machine has.
    pub fn new(spec: InputSpec) -> Self {
        Self::with_level(spec, SimdLevel::detect())
    }

    /// A pass for this input at a chosen vector width; where the machine lacks it, with the widest it has.
    pub fn with_level(spec: InputSpec, level: SimdLevel) -> Self {
        let level = level.min(SimdLevel::detect());
        Self {
            spec,
            level,
            plans: Vec::with_capacity(KEPT_PLANS),
            region: Plan::default(),
            scratch: Scratch::default(),
        }
    }

    /// The input it makes.
    pub fn spec(&self) -> &InputSpec {
        &self.spec
    }

    /// The vector width it uses.
    pub fn level(&self) -> SimdLevel {
        self.level
    }

    /// Reads the picture (or a region of it) into `out`, one picture's part of the tensor, and says how they relate.
    ///
    /// `out` holds `channels * height * width` elements in native byte order, laid out as the specification says; any alignment
    /// does. All of it is written, padding included.
    ///
    /// # Errors
    /// [`PixelError`], before anything is written.
    pub fn run(&mut self, picture: &Picture, region: Option<Region>, out: &mut [u8]) -> Result<Geometry, PixelError> {
        let source = check(picture, region, &self.spec, out.len())?;
        let Self { spec, level, plans, region: region_plan, scratch } = self;
        let key = Key::of(picture, region);
        let plan = if region.is_some() { region_plan } else { recall(plans, &key) };
        let geometry = match plan.geometry() {
            Some(geometry) if plan.is_for(&key) => geometry,
            _ => plan.build(key, spec, level.lanes()),
        };
        scratch.fit(picture.width.max(picture.height), spec.width, plan.transposed);
        simd::run(*level, spec, plan, &source, scratch, out);
        Ok(geometry)
    }
}

/// The plan for this kind of picture, or the one that was not used for longest.
fn recall<'a>(plans: &'a mut Vec<Plan>, key: &Key) -> &'a mut Plan {
    match plans.iter().position(|p| p.is_for(key)) {
        Some(i) => plans[i..].rotate_left(1),
        None if plans.len() < KEPT_PLANS => plans.push(Plan::default()),
        None => plans.rotate_left(1),
    }
    let last = plans.len() - 1;
    &mut plans[last]
}

/// Everything that can be wrong, found before a byte is written.
fn check<'a>(
    picture: &'a Picture,
    region: Option<Region>,
    spec: &InputSpec,
    have: usize,
) -> Result<Source<'a>, PixelError> {
    let (width, height) = (picture.width, picture.height);
    let (view_width, view_height) = picture.view_size();
    if spec.width == 0 || spec.height == 0 || width == 0 || height == 0 || view_width == 0 || view_height == 0 {
        return Err(PixelError::Empty);
    }
    if width.max(height) > MAX_SIDE {
        return Err(PixelError::TooLarge { width, height });
    }
    if let Some(r) = region {
        if r.iter().any(|v| !v.is_finite()) {
            return Err(PixelError::BadRegion(r));
        }
        if r[2] <= r[0] || r[3] <= r[1] {
            return Err(PixelError::Empty);
        }
    }
    let need = spec.bytes();
    if have != need {
        return Err(PixelError::WrongSlot { have, need });
    }
    let mut planes: [&[u8]; 3] = [&[]; 3];
    for (plane, bytes) in planes.iter_mut().enumerate().take(picture.planes()) {
        *bytes = picture.buffer.plane(plane);
        let (row, rows) = plane_size(picture, plane);
        let stride = picture.strides[plane];
        if stride < row && rows > 1 {
            let format = format!("{:?}", picture.format);
            return Err(PixelError::ShortStride { plane, width, height, format, have: stride, need: row });
        }
        let need = stride.saturating_mul(rows - 1).saturating_add(row);
        if bytes.len() < need {
            let format = format!("{:?}", picture.format);
            return Err(PixelError::ShortPlane { plane, width, height, format, have: bytes.len(), need });
        }
    }
    Ok(Source { format: picture.format, planes, strides: picture.strides })
}

/// Bytes of a row, and rows, of a plane.
fn plane_size(picture: &Picture, plane: usize) -> (usize, usize) {
    use PixelFormat::*;
    let (half_x, half_y) = subsampling(picture.format);
    let side = |pixels: u32, half: bool| if half && plane > 0 { pixels.div_ceil(2) } else { pixels } as usize;
    let pixel = match picture.format {
        I420 | Y42b | Y444 | Gray8 => 1,
        I420_10 | I422_10 | Y444_10 => 2,
        Nv12 => 1 + plane,
        P010 => 2 + 2 * plane,
        Rgb | Bgr => 3,
        Rgbx | Bgrx => 4,
    };
    (side(picture.width, half_x) * pixel, side(picture.height, half_y))
}

//! The fused pixel pass: decoder planes to a model's normalised tensor, in one go.

use super::tensor::{DType, Geometry};
use crate::frame::Picture;

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

/// How the picture is fitted into the model's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// Same scale on both axes, whole picture visible, the rest filled with `pad` (code values 0–255, before
    /// normalisation).
    Letterbox {
        /// Picture in the middle rather than in the top left corner.
        centered: bool,
        /// Value of the padding.
        pad: [f32; 3],
        /// Never make the picture larger than it is.
        never_enlarge: bool,
    },
    /// Each axis scaled by itself.
    Stretch,
    /// Same scale on both axes, centre part that fills the input.
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

/// A part of the picture as viewed: x1, y1, x2, y2 in pixels; may reach beyond the picture (edge pixels repeat).
pub type Region = [f32; 4];

/// Why a picture cannot be turned into a tensor.
#[derive(Debug, thiserror::Error)]
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
}

/// The fused pass for one input specification. Holds its scratch rows, so make one for each thread.
pub struct Preprocessor {
    spec: InputSpec,
}

impl Preprocessor {
    /// A pass for this input.
    pub fn new(spec: InputSpec) -> Self {
        Self { spec }
    }

    /// The input it makes.
    pub fn spec(&self) -> &InputSpec {
        &self.spec
    }

    /// Reads the picture (or a region of it) into `out`, one picture's part of the tensor, and says how they relate.
    ///
    /// # Errors
    /// [`PixelError`], before anything is written.
    pub fn run(
        &mut self,
        _picture: &Picture,
        _region: Option<Region>,
        _out: &mut [u8],
    ) -> Result<Geometry, PixelError> {
        Err(PixelError::Empty)
    }
}

//! Still pictures for tests.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use super::stage::JPEG;
use framegate::frame::{OwnedPlanes, Picture, PixelFormat};
use opencv::core::{MatTraitConst, MatTraitConstManual};
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use std::path::Path;

/// Decodes a picture with its full chroma.
pub fn still(path: &Path) -> Picture {
    let mat = imread(path.to_str().unwrap(), IMREAD_COLOR).unwrap();
    let (width, height) = (mat.cols() as u32, mat.rows() as u32);
    assert!(width > 0 && height > 0, "{} is no picture", path.display());
    Picture {
        width,
        height,
        format: PixelFormat::Bgr,
        strides: [width as usize * 3, 0, 0],
        color: JPEG,
        pixel_aspect: (1, 1),
        orientation: Default::default(),
        buffer: Box::new(OwnedPlanes(vec![mat.data_bytes().unwrap().to_vec()])),
    }
}

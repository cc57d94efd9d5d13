//! Still pictures: decoded by OpenCV, because GStreamer's JPEG decoders either halve the chroma of 4:4:4 pictures or
//! cannot read 4:4:0 ones.

use std::path::Path;

/// Whether a file starts as a picture that can be decoded.
pub fn readable(path: &Path) -> bool {
    path.to_str().is_some_and(|p| opencv::imgcodecs::have_image_reader(p).unwrap_or(false))
}

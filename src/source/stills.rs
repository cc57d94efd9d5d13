//! Still pictures: decoded by OpenCV, because GStreamer's JPEG decoders either halve the chroma of 4:4:4 pictures or
//! cannot read 4:4:0 ones.

use super::{Flow, Intake, Pace, Source, SourceConfig, SourceError};
use crate::frame::{
    Arrival, Colorimetry, FailReason, Frame, Matrix, Nanos, Orientation, Outcome, OwnedPlanes, Payload, Picture,
    PixelFormat, Range, Signal, Siting, clock,
};
use opencv::core::{MatTraitConst, MatTraitConstManual, Vector};
use opencv::imgcodecs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Whether a file starts as a picture that can be decoded.
pub fn readable(path: &Path) -> bool {
    path.to_str().is_some_and(|p| imgcodecs::have_image_reader(p).unwrap_or(false))
}

/// Reads and decodes a picture as BGR, turned upright where its EXIF data says how.
///
/// # Errors
/// What is wrong with the file.
pub fn decode(path: &Path) -> Result<Picture, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let bad = |why: String| format!("{} cannot be decoded: {why}", path.display());
    let mat =
        imgcodecs::imdecode(&Vector::<u8>::from_slice(&bytes), imgcodecs::IMREAD_COLOR).map_err(|e| bad(e.message))?;
    let (width, height) = (mat.cols() as usize, mat.rows() as usize);
    if width == 0 || height == 0 {
        return Err(bad("not a picture, or damaged".to_owned()));
    }
    let data = mat.data_bytes().map_err(|e| bad(e.message))?.to_vec();
    Ok(Picture {
        width: width as u32,
        height: height as u32,
        format: PixelFormat::Bgr,
        strides: [width * 3, 0, 0],
        color: Colorimetry {
            matrix: Matrix::Bt601,
            range: Range::Full,
            siting_x: Siting::Centered,
            siting_y: Siting::Centered,
        },
        pixel_aspect: (1, 1),
        orientation: Orientation::default(),
        buffer: Box::new(OwnedPlanes(vec![data])),
    })
}

/// Still pictures, one frame each, in name order.
pub struct Stills {
    /// The source's id.
    pub id: String,
    /// The pictures.
    pub files: Vec<PathBuf>,
    /// How fast to release them.
    pub pace: Pace,
    /// Pictures per second, at live pace and for the PTS.
    pub fps: f64,
    /// The source's keys.
    pub config: SourceConfig,
}

impl Source for Stills {
    fn run(self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError> {
        intake.signal(Signal::Connecting);
        let interval = (clock::SECOND as f64 / self.fps) as Nanos;
        let start = clock::now();
        let mut n = 0;
        loop {
            for path in &self.files {
                if intake.is_stopping() {
                    return Ok(());
                }
                if self.pace == Pace::Live {
                    let due = start + n * interval;
                    while let Some(left) = due.checked_sub(clock::now()).filter(|l| *l > 0) {
                        if intake.wait(Duration::from_nanos(left)) == Flow::Stop {
                            return Ok(());
                        }
                    }
                }
                if self.show(&intake, path, n * interval)? == Flow::Stop {
                    return Ok(());
                }
                n += 1;
            }
            if !self.config.repeat {
                intake.signal(Signal::Ended);
                return Ok(());
            }
        }
    }
}

impl Stills {
    fn show(&self, intake: &Intake, path: &Path, pts: Nanos) -> Result<Flow, SourceError> {
        let now = clock::now();
        let ticket = intake.capture(now);
        let mut picture = decode(path).map_err(|message| {
            ticket.mark(Outcome::Failed(FailReason::Decode));
            intake.signal(Signal::Broken(message.clone()));
            SourceError { id: self.id.clone(), message }
        })?;
        picture.orientation.quarter_turns = (self.config.rotate / 90 % 4) as u8;
        intake.signal(Signal::Up);
        let arrival = Arrival { complete: now, decoded: clock::now() };
        Ok(intake.submit(Frame::new(ticket, Some(pts), arrival, Payload::Picture(Arc::new(picture)))))
    }
}

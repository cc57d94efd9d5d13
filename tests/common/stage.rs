//! Drives a device stage without the engine.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use framegate::frame::{
    Arrival, Colorimetry, Detection, Frame, Matrix, OwnedPlanes, Payload, Picture, PixelFormat, Range, Siting, Stream,
};
use framegate::stage::{BatchStage, BuildContext, Built, StageConfig, from_toml};
use std::path::PathBuf;
use std::sync::Arc;

/// A context for a stage `id` that looks for files in `search`.
pub fn context(id: &str, search: Vec<PathBuf>, live: bool) -> BuildContext {
    BuildContext { id: id.into(), search, live, threads: 2, ..Default::default() }
}

/// A stage's configuration from TOML text.
pub fn config(kind: &str, text: &str) -> Box<dyn StageConfig> {
    from_toml(kind, text).unwrap_or_else(|e| panic!("{kind}: {e}"))
}

/// A device stage from TOML text.
pub fn device_stage(kind: &str, text: &str, context: &BuildContext) -> Arc<dyn BatchStage> {
    match config(kind, text).build(context).unwrap_or_else(|e| panic!("{kind}: {e}")) {
        Built::Batch(stage) => stage,
        Built::Stage(_) => panic!("{kind} is no device stage"),
    }
}

/// Colours as JPEG stores them.
pub const JPEG: Colorimetry =
    Colorimetry { matrix: Matrix::Bt601, range: Range::Full, siting_x: Siting::Centered, siting_y: Siting::Centered };

/// A picture of one brightness.
pub fn grey(width: u32, height: u32, value: u8) -> Picture {
    Picture {
        width,
        height,
        format: PixelFormat::Gray8,
        strides: [width as usize, 0, 0],
        color: JPEG,
        pixel_aspect: (1, 1),
        orientation: Default::default(),
        buffer: Box::new(OwnedPlanes(vec![vec![value; (width * height) as usize]])),
    }
}

/// A frame with this picture.
pub fn frame(picture: Arc<Picture>) -> Frame {
    let stream = Arc::new(Stream::new("test", 0, None, 0, true));
    Frame::new(stream.capture(1), None, Arrival::default(), Payload::Picture(picture))
}

/// Runs one frame through a device stage.
pub fn run_one(
    stage: &Arc<dyn BatchStage>,
    slot: &mut dyn framegate::stage::Execute,
    batch: &mut framegate::stage::Batch,
    frame: &mut Frame,
) {
    let places = stage.crops().map_or(1, |c| c.count(frame));
    if places > 0 {
        stage.prepare(frame, batch, 0..places).unwrap();
        slot.execute(batch, places).unwrap();
        stage.finish(batch, 0..places, frame).unwrap();
    }
}

/// The frame's detections.
pub fn detections(frame: Frame) -> Vec<Detection> {
    frame.annotations.detections.unwrap_or_default()
}

//! Records for tests of sinks, without an engine.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use framegate::frame::{
    Annotations, Colorimetry, Detection, Matrix, Nanos, Orientation, OwnedPlanes, Payload, Picture, PixelFormat, Range,
    Record, Siting, Stream, clock,
};
use std::sync::Arc;

/// A stream without a deadline.
pub fn stream(id: &str) -> Arc<Stream> {
    Arc::new(Stream::new(id, 0, None, 0, true))
}

/// A record of one detection, 17.3 ms after its capture now, without a picture.
pub fn record(stream: &Arc<Stream>, seq: u64) -> Record {
    let captured = clock::now();
    let mut person = Detection::new("person".into(), 0, 0.91, [412.0, 80.5, 498.2, 300.1]);
    person.track = Some(7);
    Record {
        pipeline: "entrance".into(),
        stream: stream.clone(),
        seq,
        pts: Some(seq * 33_333_333),
        captured,
        camera_time_us: None,
        delivered: captured + 17_300_000,
        on_time: true,
        rung: "full".into(),
        rescued: false,
        inferred: true,
        size: Some((1280, 720)),
        samples: None,
        annotations: Annotations { detections: Some(vec![person]), ..Annotations::default() },
        payload: Payload::Empty,
    }
}

/// The same with a picture of `width` x `height` whose luma rises with `seq`, at stream time `pts`.
pub fn picture_record(stream: &Arc<Stream>, seq: u64, pts: Nanos, (width, height): (u32, u32)) -> Record {
    let mut r = record(stream, seq);
    r.pts = Some(pts);
    r.size = Some((width, height));
    r.payload = Payload::Picture(Arc::new(picture(width, height, 16 + (seq * 2 % 200) as u8)));
    r
}

/// An even picture of 4:2:0 without colour.
pub fn picture(width: u32, height: u32, luma: u8) -> Picture {
    let (w, h) = (width as usize, height as usize);
    let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
    Picture {
        width,
        height,
        format: PixelFormat::I420,
        strides: [w, cw, cw],
        color: Colorimetry {
            matrix: Matrix::Bt601,
            range: Range::Limited,
            siting_x: Siting::Cosited,
            siting_y: Siting::Centered,
        },
        pixel_aspect: (1, 1),
        orientation: Orientation::default(),
        buffer: Box::new(OwnedPlanes(vec![vec![luma; w * h], vec![128; cw * ch], vec![128; cw * ch]])),
    }
}

/// A record of a joined stream: located by these stations, captured `age` ago.
pub fn located(
    stream: &Arc<Stream>,
    seq: u64,
    age: Nanos,
    stations: &[&str],
    frequency: f64,
    confidence: f64,
) -> Record {
    let mut r = record(stream, seq);
    r.captured -= age;
    r.delivered -= age;
    let location = serde_json::json!({
        "lat": 52.5, "lon": 13.4, "confidence": confidence, "frequency": frequency, "stations": stations, "absent": {}
    });
    r.annotations.extra.insert("location".into(), location);
    r.annotations.extra.insert("stations".into(), serde_json::json!({ "present": stations, "absent": {} }));
    r
}

//! Records of sample streams for tests of sinks.

use crate::frame::{Annotations, Payload, Record, SampleBlock, Stream, clock};
use crate::signal::Complex32;
use serde_json::{Value, json};
use std::sync::Arc;

/// Samples a second.
pub const RATE: f64 = 1000.0;

/// A block of samples each of which tells its position.
pub fn block(position: u64, count: u64) -> SampleBlock {
    let samples = (position..position + count).map(|n| Complex32::new(n as f32, -(n as f32))).collect();
    SampleBlock { samples, rate: RATE, frequency: Some(100e6), position, last: false, gap: None, time: None }
}

/// A record of a block in which these bursts (start and length) were heard.
pub fn record(stream: &Arc<Stream>, seq: u64, block: SampleBlock, bursts: &[(u64, u64)]) -> Arc<Record> {
    let mut annotations = Annotations::default();
    let bursts: Vec<Value> = bursts
        .iter()
        .map(|(start, length)| json!({"start": start, "length": length, "centre": 50.0, "bandwidth": 20.0, "snr": 17.123}))
        .collect();
    annotations.extra.insert("bursts".into(), bursts.into());
    Arc::new(Record {
        pipeline: "radio".into(),
        stream: stream.clone(),
        seq,
        pts: None,
        captured: clock::now(),
        camera_time_us: None,
        delivered: 0,
        on_time: true,
        rung: "full".into(),
        rescued: false,
        inferred: false,
        size: None,
        samples: None,
        annotations,
        payload: Payload::Samples(Arc::new(block)),
    })
}

/// A stream.
pub fn stream() -> Arc<Stream> {
    Arc::new(Stream::new("rx", 0, None, 0, true))
}

//! What the program says about itself: metrics, health, the run report.

use crate::frame::{Nanos, Stream};
use std::sync::Arc;

/// Where a delivered frame's time went. The parts add up to its latency.
#[derive(Debug, Clone, Copy, Default)]
pub struct Breakdown {
    /// First to last byte at the host.
    pub arrival: Nanos,
    /// Jitter buffer, depayloading and decoding.
    pub depay_decode: Nanos,
    /// In rings and queues.
    pub wait: Nanos,
    /// Pixels to tensor.
    pub prepare: Nanos,
    /// Inference.
    pub execute: Nanos,
    /// Outputs to annotations.
    pub finish: Nanos,
    /// Everything else.
    pub rest: Nanos,
}

/// Keeps all measurements of a process. Handles are made once and used on hot paths without locks or look-ups.
pub struct Telemetry;

/// Measurements of one stream.
pub struct StreamMeter;
/// Measurements of one stage.
pub struct StageMeter;
/// Measurements of one ring.
pub struct RingMeter;
/// Measurements of one sink.
pub struct SinkMeter;

impl Telemetry {
    /// Measures a stream from now on (its ledger is read whenever metrics or a report are asked for).
    pub fn stream(&self, _stream: &Arc<Stream>) -> Arc<StreamMeter> {
        Arc::new(StreamMeter)
    }
    /// Measures a stage on a device (`"cpu"` for stages without one).
    pub fn stage(&self, _id: &Arc<str>, _device: &str) -> Arc<StageMeter> {
        Arc::new(StageMeter)
    }
    /// Measures a ring.
    pub fn ring(&self, _name: &str) -> Arc<RingMeter> {
        Arc::new(RingMeter)
    }
    /// Measures a sink.
    pub fn sink(&self, _id: &Arc<str>) -> Arc<SinkMeter> {
        Arc::new(SinkMeter)
    }
    /// A device's slowdown factor.
    pub fn slowdown(&self, _device: &str, _xi: f64) {}
    /// READY: the warm-up of the report counts from here.
    pub fn ready(&self) {}
}

impl StreamMeter {
    /// A frame captured at `captured` was delivered: latency is the sum of the breakdown. `overhead` is latency less
    /// every piece of named work (arrival, decode, prepare, execute, finish, rest) and less queueing for a busy device.
    pub fn delivered(&self, _captured: Nanos, _parts: &Breakdown, _overhead: Nanos, _rung: usize) {}
    /// The stream's ceiling moved to this rung.
    pub fn rung(&self, _rung: usize) {}
}
impl StageMeter {
    /// A frame was worked on for `work` after waiting for `wait`.
    pub fn frame(&self, _work: Nanos, _wait: Nanos) {}
    /// A batch of `n` frames ran for `work`.
    pub fn batch(&self, _n: usize, _work: Nanos) {}
}
impl RingMeter {
    /// The ring holds `frames`, the oldest of them for `age`.
    pub fn set(&self, _frames: usize, _age: Nanos) {}
}
impl SinkMeter {
    /// Records waiting.
    pub fn pending(&self, _n: usize) {}
    /// A record was lost: queue full, or the sink failed on it.
    pub fn error(&self) {}
}

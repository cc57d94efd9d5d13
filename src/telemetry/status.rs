//! The streams as they are now: for `/readyz`, the API and the status page.

use super::{FrameCounts, StreamMeter, Telemetry, in_use};
use crate::frame::{Signal, clock};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a source says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// Not connected yet.
    Connecting,
    /// Frames arrive.
    Up,
    /// No frames arrive; the source is trying to recover.
    Down,
    /// The stream ended by itself.
    Ended,
    /// The source gave up for good.
    Broken,
}

/// Latencies of the last five to ten seconds, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyStatus {
    /// Median; absent where nothing was delivered.
    pub p50: Option<f64>,
    /// 95 of 100 frames were faster.
    pub p95: Option<f64>,
    /// 99 of 100 frames were faster.
    pub p99: Option<f64>,
}

/// One stream as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamStatus {
    /// Its id.
    pub id: String,
    /// What its source says.
    pub state: StreamState,
    /// Why it is down or broken.
    pub reason: Option<String>,
    /// `/readyz` waits for it.
    pub required: bool,
    /// Larger is more important.
    pub priority: i32,
    /// Captured to deadline, milliseconds.
    pub deadline_ms: Option<f64>,
    /// Its frames since the start of the process.
    pub frames: FrameCounts,
    /// Shed frames by reason; reasons that never occurred are left out.
    pub shed_reasons: BTreeMap<&'static str, u64>,
    /// Failed frames by reason.
    pub fail_reasons: BTreeMap<&'static str, u64>,
    /// Frames whose result was inferred from their own picture.
    pub inferred: u64,
    /// Frames saved by a lower rung.
    pub rescued: u64,
    /// Its recent latencies.
    pub latency_ms: LatencyStatus,
    /// Its ceiling on the ladder, 0 is best.
    pub rung: usize,
    /// The ceiling's name, where the ladder is known.
    pub rung_name: Option<String>,
    /// Times its source was connected again.
    pub reconnects: u64,
}

impl Telemetry {
    /// The streams there are, by id.
    pub fn streams(&self) -> Vec<StreamStatus> {
        let rungs = self.notes.lock().rungs.clone();
        self.streams_in_use().iter().map(|m| status(m, &rungs)).collect()
    }

    /// Why the pipeline is not ready; empty when it is. A stream that came to its end has delivered all it had.
    pub fn not_ready(&self) -> Vec<String> {
        let mut why = Vec::new();
        if !self.is_ready() {
            why.push("the pipeline is starting".to_owned());
        }
        for meter in self.streams_in_use() {
            let stream = meter.stream();
            if !stream.required {
                continue;
            }
            let id = &stream.id;
            match stream.signal() {
                Signal::Up | Signal::Ended => {}
                Signal::Connecting => why.push(format!("source `{id}` has not delivered yet")),
                Signal::Down(reason) => why.push(format!("source `{id}` does not deliver: {reason}")),
                Signal::Broken(reason) => why.push(format!("source `{id}` was given up: {reason}")),
            }
        }
        why
    }

    pub(super) fn streams_in_use(&self) -> Vec<Arc<StreamMeter>> {
        self.meters.lock().streams.values().filter(|m| in_use(m)).cloned().collect()
    }
}

fn status(meter: &StreamMeter, rungs: &[Arc<str>]) -> StreamStatus {
    let stream = meter.stream();
    let counts = meter.counts();
    let (state, reason) = match stream.signal() {
        Signal::Connecting => (StreamState::Connecting, None),
        Signal::Up => (StreamState::Up, None),
        Signal::Down(why) => (StreamState::Down, Some(why)),
        Signal::Ended => (StreamState::Ended, None),
        Signal::Broken(why) => (StreamState::Broken, Some(why)),
    };
    let recent = meter.recent_ms(&[0.5, 0.95, 0.99]);
    let (rung, _) = meter.ceiling();
    StreamStatus {
        id: stream.id.to_string(),
        state,
        reason,
        required: stream.required,
        priority: stream.priority,
        deadline_ms: stream.deadline.map(clock::millis),
        frames: FrameCounts::from(&counts),
        shed_reasons: super::report::shed_reasons(&counts),
        fail_reasons: super::report::fail_reasons(&counts),
        inferred: counts.inferred,
        rescued: counts.rescued,
        latency_ms: LatencyStatus { p50: recent[0], p95: recent[1], p99: recent[2] },
        rung,
        rung_name: rungs.get(rung).map(ToString::to_string),
        reconnects: counts.reconnects,
    }
}

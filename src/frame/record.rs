//! A finished frame's record: what sinks get, and its JSON form.

use super::{Annotations, Nanos, Payload, Stream, clock};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use std::sync::Arc;

/// What became of a delivered frame. Immutable; shared by all sinks.
#[derive(Debug)]
pub struct Record {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The frame's stream.
    pub stream: Arc<Stream>,
    /// The frame's number within its stream.
    pub seq: u64,
    /// Stream time of the picture.
    pub pts: Option<Nanos>,
    /// When its first byte reached this host.
    pub captured: Nanos,
    /// Wall-clock time by the camera itself, where RTCP sender reports or the driver tell it; microseconds since 1970.
    pub camera_time_us: Option<i64>,
    /// When the record was sealed.
    pub delivered: Nanos,
    /// Sealed before the deadline (always true without one).
    pub on_time: bool,
    /// The rung that made the result.
    pub rung: Arc<str>,
    /// A lower rung than the stream's ceiling saved the frame.
    pub rescued: bool,
    /// Inferred from the frame's own picture, not carried by the tracker.
    pub inferred: bool,
    /// Width and height of the source picture as viewed.
    pub size: Option<(u32, u32)>,
    /// What stages wrote.
    pub annotations: Annotations,
    /// The pixels, kept only where a sink asked for them.
    pub payload: Payload,
}

impl Record {
    /// Captured to delivered.
    pub fn latency(&self) -> Nanos {
        self.delivered.saturating_sub(self.captured)
    }

    /// Appends the contract's JSON object, without a line end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        // Writing to memory cannot fail, and every map key is a string.
        let _ = serde_json::to_writer(out, self);
    }
}

/// A number with at most `DIGITS` decimals, so that lines stay short and reproducible.
struct Rounded<const DIGITS: i32>(f64);

impl<const DIGITS: i32> Serialize for Rounded<DIGITS> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let k = 10f64.powi(DIGITS);
        s.serialize_f64((self.0 * k).round() / k)
    }
}

struct Points<'a>(&'a [[f32; 2]]);
impl Serialize for Points<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut q = s.serialize_seq(Some(self.0.len()))?;
        for p in self.0 {
            q.serialize_element(&p.map(|v| Rounded::<2>(v as f64)))?;
        }
        q.end()
    }
}

impl Serialize for super::Detection {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(None)?;
        m.serialize_entry("label", &*self.label)?;
        m.serialize_entry("class", &self.class)?;
        m.serialize_entry("score", &Rounded::<4>(self.score as f64))?;
        m.serialize_entry("box", &self.bbox.map(|v| Rounded::<2>(v as f64)))?;
        if let Some(t) = self.track {
            m.serialize_entry("track", &t)?;
        }
        if !self.landmarks.is_empty() {
            m.serialize_entry("landmarks", &Points(&self.landmarks))?;
        }
        if !self.attributes.is_empty() {
            m.serialize_entry("attributes", &self.attributes)?;
        }
        if let Some(e) = &self.embedding {
            m.serialize_entry("embedding", &**e)?;
        }
        if !self.skipped.is_empty() {
            m.serialize_entry("skipped", &self.skipped.iter().map(|s| &**s).collect::<Vec<_>>())?;
        }
        m.end()
    }
}

impl Serialize for super::Attribute {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(Some(3))?;
        m.serialize_entry("stage", &*self.stage)?;
        m.serialize_entry("label", &*self.label)?;
        m.serialize_entry("score", &Rounded::<4>(self.score as f64))?;
        m.end()
    }
}

impl Serialize for super::RawTensor {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(Some(3))?;
        m.serialize_entry("name", &*self.name)?;
        m.serialize_entry("shape", &self.shape)?;
        m.serialize_entry("data", &*self.data)?;
        m.end()
    }
}

/// Wall-clock time as RFC 3339 in UTC with microseconds.
fn rfc3339(us: i64) -> String {
    match jiff::Timestamp::from_microsecond(us) {
        Ok(t) => format!("{t:.6}"),
        Err(_) => String::new(),
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(None)?;
        m.serialize_entry("v", &1)?;
        m.serialize_entry("pipeline", &*self.pipeline)?;
        m.serialize_entry("stream", &*self.stream.id)?;
        m.serialize_entry("seq", &self.seq)?;
        m.serialize_entry("pts_ns", &self.pts)?;
        let wall = clock::wall(self.captured).duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        m.serialize_entry("captured_at", &rfc3339(wall.as_micros() as i64))?;
        if let Some(us) = self.camera_time_us {
            m.serialize_entry("camera_time", &rfc3339(us))?;
        }
        m.serialize_entry("latency_ms", &Rounded::<3>(clock::millis(self.latency())))?;
        m.serialize_entry("on_time", &self.on_time)?;
        m.serialize_entry("rung", &*self.rung)?;
        m.serialize_entry("rescued", &self.rescued)?;
        m.serialize_entry("inferred", &self.inferred)?;
        if let Some((w, h)) = self.size {
            m.serialize_entry("size", &[w, h])?;
        }
        if let Some(d) = &self.annotations.detections {
            m.serialize_entry("detections", d)?;
        }
        if !self.annotations.tensors.is_empty() {
            let by_stage: std::collections::BTreeMap<&str, _> =
                self.annotations.tensors.iter().map(|(k, v)| (&**k, v)).collect();
            m.serialize_entry("tensors", &by_stage)?;
        }
        for (key, value) in &self.annotations.extra {
            m.serialize_entry(&**key, value)?;
        }
        m.end()
    }
}

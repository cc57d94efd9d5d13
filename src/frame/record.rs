//! A finished frame's record: what sinks get, and its JSON form.

use super::{Annotations, Nanos, Payload, SampleNote, Stream, clock};
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
    /// What its samples were, of a radio or sensor stream.
    pub samples: Option<SampleNote>,
    /// What stages wrote.
    pub annotations: Annotations,
    /// Pixels or samples, kept only where a sink asked for them.
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

/// Keys that a record writes itself: no stage may write under them.
const RESULT_KEYS: [&str; 16] = [
    "v",
    "pipeline",
    "stream",
    "seq",
    "pts_ns",
    "captured_at",
    "camera_time",
    "latency_ms",
    "on_time",
    "rung",
    "rescued",
    "inferred",
    "size",
    "samples",
    "detections",
    "tensors",
];

/// A number with at least one and at most `DIGITS` decimals, so that lines stay short and reproducible.
/// What is not finite becomes `null`, as JSON has no word for it.
struct Rounded<const DIGITS: i32>(f64);

impl<const DIGITS: i32> Serialize for Rounded<DIGITS> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let k = 10f64.powi(DIGITS);
        // Adding zero turns -0.0 into 0.0.
        s.serialize_f64((self.0 * k).round() / k + 0.0)
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

/// Wall-clock time as RFC 3339 in UTC with microseconds; `None` beyond the year 9999.
fn rfc3339(us: i64) -> Option<String> {
    jiff::Timestamp::from_microsecond(us).ok().map(|t| format!("{t:.6}"))
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
        if let Some(time) = self.camera_time_us.and_then(rfc3339) {
            m.serialize_entry("camera_time", &time)?;
        }
        m.serialize_entry("latency_ms", &Rounded::<3>(clock::millis(self.latency())))?;
        m.serialize_entry("on_time", &self.on_time)?;
        m.serialize_entry("rung", &*self.rung)?;
        m.serialize_entry("rescued", &self.rescued)?;
        m.serialize_entry("inferred", &self.inferred)?;
        if let Some((w, h)) = self.size {
            m.serialize_entry("size", &[w, h])?;
        }
        if let Some(samples) = &self.samples {
            m.serialize_entry("samples", samples)?;
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
            // A stage may be called like one of the keys above; JSON readers take either of two equal keys.
            match RESULT_KEYS.contains(&&**key) {
                true => m.serialize_entry(&format!("{key}_"), value)?,
                false => m.serialize_entry(&**key, value)?,
            }
        }
        m.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Attribute, ClockReading, Detection, Gap, GapCause, RawTensor, SampleBlock, SampleTime};
    use num_complex::Complex32;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn record() -> Record {
        Record {
            pipeline: "entrance".into(),
            stream: Arc::new(Stream::new("cam0", 0, None, 0, true)),
            seq: 123,
            pts: Some(4_100_000_000),
            captured: 5_000_000_000,
            camera_time_us: None,
            delivered: 5_017_300_000,
            on_time: true,
            rung: "full".into(),
            rescued: false,
            inferred: true,
            size: Some((1280, 720)),
            samples: None,
            annotations: Annotations::default(),
            payload: Payload::Empty,
        }
    }

    fn text(record: &Record) -> String {
        let mut out = Vec::new();
        record.write_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn read(record: &Record) -> Value {
        serde_json::from_str(&text(record)).unwrap()
    }

    #[test]
    fn a_record_is_the_contracts_object_with_its_keys_in_order() {
        let mut r = record();
        let mut d = Detection::new("person".into(), 0, 0.91, [412.0, 80.5, 498.2, 300.1]);
        d.track = Some(7);
        r.annotations.detections = Some(vec![d]);
        let at = rfc3339(clock::wall(r.captured).duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64);
        assert_eq!(
            text(&r),
            format!(
                concat!(
                    r#"{{"v":1,"pipeline":"entrance","stream":"cam0","seq":123,"pts_ns":4100000000,"captured_at":"{}","#,
                    r#""latency_ms":17.3,"on_time":true,"rung":"full","rescued":false,"inferred":true,"size":[1280,720],"#,
                    r#""detections":[{{"label":"person","class":0,"score":0.91,"box":[412.0,80.5,498.2,300.1],"track":7}}]}}"#
                ),
                at.unwrap()
            )
        );
    }

    #[test]
    fn times_are_utc_with_microseconds() {
        assert_eq!(rfc3339(1_767_268_800_000_000).as_deref(), Some("2026-01-01T12:00:00.000000Z"));
        let mut r = record();
        r.camera_time_us = Some(1_767_268_800_123_456);
        assert_eq!(read(&r)["camera_time"], "2026-01-01T12:00:00.123456Z");
        let captured_at = read(&r)["captured_at"].as_str().unwrap().to_owned();
        assert_eq!(captured_at.len(), "2026-01-01T12:00:00.000000Z".len());
        // A camera may say anything.
        r.camera_time_us = Some(i64::MAX);
        assert!(read(&r).get("camera_time").is_none());
    }

    #[test]
    fn what_is_unknown_is_null_or_left_out() {
        let mut r = record();
        r.pts = None;
        r.size = None;
        let v = read(&r);
        assert_eq!(v["pts_ns"], Value::Null);
        assert!(v.get("size").is_none() && v.get("detections").is_none() && v.get("tensors").is_none());
        r.annotations.detections = Some(Vec::new());
        assert_eq!(read(&r)["detections"], json!([]));
    }

    #[test]
    fn samples_are_told_with_what_is_missing_before_them() {
        let mut r = record();
        r.size = None;
        let gap = Some(Gap { samples: 7, cause: GapCause::Lost });
        let time = Some(SampleTime { ns: 1_767_268_800_000_000_001, accuracy: Duration::from_millis(2) });
        let block = SampleBlock {
            samples: vec![Complex32::default(); 3],
            rate: 2.4e6,
            frequency: Some(100e6),
            position: 9,
            last: false,
            gap,
            time,
        };
        r.samples = Some(block.note(Some(ClockReading { drift_ppm: -1.23456, uncertainty_ppm: 0.5, seconds: 60.0 })));
        assert_eq!(
            read(&r)["samples"],
            json!({
                "rate": 2.4e6, "frequency": 100e6, "position": 9, "count": 3, "gap": {"samples": 7, "cause": "lost"},
                "time": {"at": "2026-01-01T12:00:00.000000001Z", "accuracy_ms": 2.0},
                "clock": {"drift_ppm": -1.235, "uncertainty_ppm": 0.5, "seconds": 60.0}
            })
        );
        r.samples = Some(SampleBlock { gap: None, time: None, frequency: None, ..block }.note(None));
        assert_eq!(read(&r)["samples"], json!({"rate": 2.4e6, "position": 9, "count": 3}));
    }

    #[test]
    fn numbers_that_are_not_finite_become_null() {
        let mut r = record();
        let boxed = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
        r.annotations.detections = Some(vec![Detection::new("a".into(), 1, f32::NAN, boxed)]);
        let raw = RawTensor { name: "out".into(), shape: vec![2], data: Arc::from([f32::NAN, 0.25]) };
        r.annotations.tensors.insert("model".into(), vec![raw]);
        let v = read(&r);
        assert_eq!(v["detections"][0]["score"], Value::Null);
        assert_eq!(v["detections"][0]["box"][0], Value::Null);
        assert_eq!(v["detections"][0]["box"][2], Value::Null);
        assert!(v["detections"][0]["box"][3].is_f64());
        assert_eq!(v["tensors"]["model"][0], json!({"name": "out", "shape": [2], "data": [null, 0.25]}));
    }

    #[test]
    fn boxes_have_one_or_two_decimals() {
        let mut r = record();
        let boxed = [0.0, -0.001, -3.456, 1279.0];
        r.annotations.detections = Some(vec![Detection::new("a".into(), 1, 1.0, boxed)]);
        assert!(text(&r).contains(r#""score":1.0,"box":[0.0,0.0,-3.46,1279.0]"#), "{}", text(&r));
    }

    #[test]
    fn names_are_escaped_and_stay_on_one_line() {
        let nasty = "a\"b\\c\nd\u{7}é漢\u{2028}";
        let mut r = record();
        r.rung = nasty.into();
        r.stream = Arc::new(Stream::new(nasty, 0, None, 0, true));
        r.annotations.detections = Some(vec![Detection::new(nasty.into(), 1, 0.5, [0.0; 4])]);
        let line = text(&r);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let v = read(&r);
        assert_eq!(v["rung"], nasty);
        assert_eq!(v["stream"], nasty);
        assert_eq!(v["detections"][0]["label"], nasty);
    }

    #[test]
    fn everything_stages_write_is_there() {
        let mut r = record();
        let mut d = Detection::new("person".into(), 0, 0.123_456, [0.0; 4]);
        d.landmarks = vec![[1.0, 2.346]];
        d.attributes = vec![Attribute { stage: "hat".into(), label: "red".into(), score: 0.5 }];
        d.embedding = Some(Arc::from([0.5, -0.25]));
        d.skipped = vec!["reid".into()];
        r.annotations.detections = Some(vec![d]);
        r.annotations.extra.insert("zones".into(), json!({"door": 2}));
        let v = read(&r);
        assert_eq!(
            v["detections"][0],
            json!({
                "label": "person", "class": 0, "score": 0.1235, "box": [0.0, 0.0, 0.0, 0.0], "landmarks": [[1.0, 2.35]],
                "attributes": [{"stage": "hat", "label": "red", "score": 0.5}], "embedding": [0.5, -0.25],
                "skipped": ["reid"]
            })
        );
        assert_eq!(v["zones"], json!({"door": 2}));
    }

    #[test]
    fn no_stage_can_take_a_key_of_the_contract() {
        let mut r = record();
        for key in RESULT_KEYS {
            r.annotations.extra.insert(key.into(), json!("stage"));
        }
        r.annotations.detections = Some(Vec::new());
        let line = text(&r);
        for key in RESULT_KEYS {
            assert!(line.matches(&format!("\"{key}\":")).count() <= 1, "{key} in {line}");
            assert!(line.contains(&format!("\"{key}_\":\"stage\"")), "{key}_ in {line}");
        }
        assert_eq!(read(&r)["seq"], 123);
    }
}

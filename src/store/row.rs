//! A record as the store keeps it.

use crate::frame::{Nanos, Record, clock};
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// One result: what queries filter by, and the whole record.
#[derive(Debug, Clone)]
pub struct Row {
    /// The run of the program that made it: numbers of frames begin again with each.
    pub run: i64,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The stream's id.
    pub stream: Arc<str>,
    /// The frame's number in its stream.
    pub seq: i64,
    /// When it was captured, microseconds since 1970.
    pub time: i64,
    /// When its record was sealed, microseconds since 1970.
    pub delivered: i64,
    /// Sealed before its deadline.
    pub on_time: bool,
    /// The rung that made it.
    pub rung: Arc<str>,
    /// Hertz, where it is located.
    pub frequency: Option<f64>,
    /// 0 to 1, where it is located.
    pub confidence: Option<f64>,
    /// Latitude and longitude in degrees, where it is located.
    pub position: Option<(f64, f64)>,
    /// Stations that it was made of, each once.
    pub stations: Vec<String>,
    /// The record as JSON.
    pub record: String,
    /// When it was captured by the process's clock.
    pub captured: Nanos,
}

impl Row {
    /// Reads a record.
    pub fn new(record: &Record) -> Self {
        let mut json = Vec::with_capacity(1024);
        record.write_json(&mut json);
        let extra = &record.annotations.extra;
        let (location, joined) = (extra.get("location"), extra.get("stations"));
        let number = |key: &str| location.and_then(|l| l.get(key)).and_then(Value::as_f64);
        let mut stations = Vec::new();
        let lists = [location.and_then(|l| l.get("stations")), joined.and_then(|s| s.get("present"))];
        for name in lists.into_iter().flatten().filter_map(Value::as_array).flatten().filter_map(Value::as_str) {
            let name = text(name);
            if !stations.contains(&name) {
                stations.push(name);
            }
        }
        Self {
            run: run(),
            pipeline: text(&record.pipeline).into(),
            stream: text(&record.stream.id).into(),
            seq: i64::try_from(record.seq).unwrap_or(i64::MAX),
            time: micros(clock::wall(record.captured)),
            delivered: micros(clock::wall(record.delivered)),
            on_time: record.on_time,
            rung: text(&record.rung).into(),
            frequency: number("frequency"),
            confidence: number("confidence"),
            position: number("lat").zip(number("lon")),
            stations,
            // JSON writers give UTF-8.
            record: String::from_utf8(json).unwrap_or_default(),
            captured: record.captured,
        }
    }
}

/// Databases end texts at a zero.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Microseconds since 1970.
pub(super) fn micros(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(d) => i64::try_from(d.as_micros()).unwrap_or(i64::MAX),
        Err(e) => i64::try_from(e.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

/// A number of this run of the program: later runs have larger ones, and no two the same.
fn run() -> i64 {
    static RUN: OnceLock<i64> = OnceLock::new();
    *RUN.get_or_init(|| (micros(SystemTime::now()) << 12) | i64::from(fastrand::u16(..) & 0xfff))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::frame::{Annotations, Payload, Stream};
    use serde_json::json;

    /// A located record of a stream, captured `age` ago.
    pub fn record(stream: &str, seq: u64, age: Nanos, stations: &[&str], frequency: f64, confidence: f64) -> Record {
        let captured = clock::now().saturating_sub(age);
        let mut annotations = Annotations::default();
        annotations.extra.insert(
            "location".into(),
            json!({ "lat": 52.5, "lon": 13.4, "confidence": confidence, "frequency": frequency, "stations": stations,
                    "absent": {} }),
        );
        annotations.extra.insert("stations".into(), json!({ "present": stations, "absent": {} }));
        Record {
            pipeline: "field".into(),
            stream: Arc::new(Stream::new(stream, 0, None, 0, true)),
            seq,
            pts: None,
            captured,
            camera_time_us: None,
            delivered: captured + 5 * clock::MILLI,
            on_time: true,
            rung: "full".into(),
            rescued: false,
            inferred: true,
            size: None,
            samples: None,
            annotations,
            payload: Payload::Empty,
        }
    }

    #[test]
    fn what_queries_filter_by_is_taken_from_the_record() {
        let row = Row::new(&record("air", 7, 0, &["n\0rth", "south"], 1.09e9, 0.75));
        assert_eq!(row.stations, ["n\u{fffd}rth", "south"]);
        assert_eq!((row.frequency, row.confidence, row.position), (Some(1.09e9), Some(0.75), Some((52.5, 13.4))));
        assert_eq!(row.delivered - row.time, 5000);
        let read: Value = serde_json::from_str(&row.record).unwrap();
        assert_eq!((&read["seq"], &read["location"]["frequency"]), (&json!(7), &json!(1.09e9)));
    }

    #[test]
    fn a_record_without_a_location_has_none_of_it() {
        let mut plain = record("cam0", 1, 0, &[], 0.0, 0.0);
        plain.annotations = Annotations::default();
        let row = Row::new(&plain);
        assert_eq!((row.frequency, row.confidence, row.position), (None, None, None));
        assert!(row.stations.is_empty());
        assert_eq!(row.run, Row::new(&plain).run);
    }
}

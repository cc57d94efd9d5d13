//! What stages heard in blocks of samples, read from results: for sinks that cut samples or draw them.

use crate::frame::{Nanos, Record, SampleBlock, clock};
use crate::stage::{adsb, energy};
use serde_json::Value;
use std::time::UNIX_EPOCH;

/// Which stage heard it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ear {
    /// `energy`: a burst.
    Energy,
    /// `adsb`: a message.
    Adsb,
}

/// Something that was heard in a stretch of samples.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Heard {
    /// Who heard it.
    pub ear: Ear,
    /// Position in the stream of its first sample.
    pub start: u64,
    /// Its length in samples, at least 1.
    pub length: u64,
    /// Its edges in Hz from the stream's centre, where it has any.
    pub edges: Option<[f64; 2]>,
    /// What it is.
    pub label: String,
    /// More about it.
    pub comment: Option<String>,
    /// Power over the noise's, dB.
    pub snr: Option<f64>,
}

impl Heard {
    /// Position behind its last sample.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    fn read(ear: Ear, value: &Value, rate: f64) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_f64);
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let start = number("start").filter(|s| *s >= 0.0)? as u64;
        let about = match ear {
            Ear::Energy => {
                let (centre, width) = (number("centre"), number("bandwidth"));
                Self {
                    ear,
                    start,
                    length: value.get("length").and_then(Value::as_u64)?,
                    edges: centre.zip(width).map(|(c, w)| [c - w / 2.0, c + w / 2.0]),
                    label: text("label").unwrap_or("burst").to_owned(),
                    comment: None,
                    snr: number("snr"),
                }
            }
            Ear::Adsb => {
                // A preamble of 8 µs, then a bit every microsecond: four to a digit.
                let raw = text("raw")?;
                let seconds = (8 + 4 * raw.len()) as f64 * 1e-6;
                Self {
                    ear,
                    start,
                    length: (seconds * rate).ceil() as u64,
                    edges: None,
                    label: text("icao").unwrap_or("Mode S").to_owned(),
                    comment: Some(raw.to_owned()),
                    snr: None,
                }
            }
        };
        Some(Self { length: about.length.max(1), ..about })
    }
}

/// What a record of samples at `rate` says was heard, in the order in which it does.
pub(super) fn heard(record: &Record, rate: f64) -> impl Iterator<Item = Heard> + '_ {
    let list = |key: &str| record.annotations.extra.get(key).and_then(Value::as_array).into_iter().flatten();
    let bursts = list(energy::KEY).map(|v| (Ear::Energy, v));
    let messages = list(adsb::KEY).map(|v| (Ear::Adsb, v));
    bursts.chain(messages).filter_map(move |(ear, value)| Heard::read(ear, value, rate))
}

/// When the sample at a position of a block was taken, nanoseconds since 1970: by the receiver's clock where it has one,
/// else by the arrival of the block's last sample at `captured`.
pub(super) fn taken_at(block: &SampleBlock, captured: Nanos, position: u64) -> i64 {
    let samples = |n: u64| (n as f64 / block.rate * 1e9) as i64;
    match block.time {
        Some(time) => time.ns.saturating_add(samples(position - block.position)),
        None => {
            let arrived = clock::wall(captured).duration_since(UNIX_EPOCH).unwrap_or_default();
            (arrived.as_nanos() as i64).saturating_sub(samples(block.end() - position))
        }
    }
}

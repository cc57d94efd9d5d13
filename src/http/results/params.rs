//! The parameters of `/api/v1/results`: one table that the reader of addresses and the OpenAPI description share.

use crate::store::{Fields, Filter, MOST, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Results on a page where the address does not say.
const DEFAULT_LIMIT: usize = 50;
/// The longest value of a parameter, bytes.
const LONGEST: usize = 4096;

/// What is wrong with a parameter.
#[derive(Debug, PartialEq)]
pub(in crate::http) struct Wrong {
    parameter: String,
    why: String,
}

impl Wrong {
    pub(super) fn new(parameter: impl Into<String>, why: impl Into<String>) -> Self {
        Self { parameter: parameter.into(), why: why.into() }
    }
}

/// The answer to an address that cannot be understood.
pub(super) fn refused(wrong: &Wrong) -> Response {
    let body = json!({ "error": format!("`{}` {}", wrong.parameter, wrong.why), "parameter": wrong.parameter });
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// A parameter.
pub(in crate::http) struct Parameter {
    pub(in crate::http) name: &'static str,
    pub(in crate::http) about: &'static str,
    /// Its JSON Schema.
    pub(in crate::http) schema: fn() -> Value,
    read: fn(&mut Question, &str) -> Result<(), String>,
}

/// What an address asks for.
#[derive(Debug)]
pub(super) struct Question {
    /// The sink whose store is asked; the first where there is none.
    pub(super) store: Option<String>,
    pub(super) query: Query,
    cursor: Option<String>,
}

fn plain(value: &str) -> Result<String, String> {
    match value {
        "" => Err("is empty".to_owned()),
        // The second stands where bytes were no text.
        v if v.chars().any(|c| c.is_control() || c == '\u{fffd}') => Err("is no plain text".to_owned()),
        v => Ok(v.to_owned()),
    }
}

fn number(value: &str) -> Result<f64, String> {
    value.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(|| "is no number".to_owned())
}

fn hertz(value: &str) -> Result<f64, String> {
    number(value).ok().filter(|v| *v >= 0.0).ok_or_else(|| "is no frequency: hertz, 0 or more".to_owned())
}

/// A time: RFC 3339, or microseconds since 1970.
fn time(value: &str) -> Result<i64, String> {
    let wrong = || "is no time: write it like 2026-01-01T12:00:00Z, or as microseconds since 1970".to_owned();
    if value.bytes().all(|b| b.is_ascii_digit()) || value.starts_with('-') {
        return value.parse().map_err(|_| wrong());
    }
    // In an address a plus that was not escaped is a space.
    let value = value.replace(' ', "+");
    value.parse::<jiff::Timestamp>().map(|t| t.as_microsecond()).map_err(|_| wrong())
}

/// Every parameter there is.
pub(in crate::http) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "limit",
        about: "Results on a page.",
        schema: || json!({ "type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT_LIMIT }),
        read: |q, v| {
            let limit = v.parse().ok().filter(|n| (1..=MOST).contains(n));
            q.query.limit = limit.ok_or_else(|| format!("is no whole number from 1 to {MOST}"))?;
            Ok(())
        },
    },
    Parameter {
        name: "cursor",
        about: "Where to go on: `next` of the page before, with the same filters and order.",
        schema: || json!({ "type": "string" }),
        read: |q, v| {
            q.cursor = Some(v.to_owned());
            Ok(())
        },
    },
    Parameter {
        name: "order",
        about: "By the time of capture: the newest first, or the oldest.",
        schema: || json!({ "type": "string", "enum": ["newest", "oldest"], "default": "newest" }),
        read: |q, v| {
            q.query.newest = match v {
                "newest" => true,
                "oldest" => false,
                _ => return Err("is neither `newest` nor `oldest`".to_owned()),
            };
            Ok(())
        },
    },
    Parameter {
        name: "fields",
        about: "Keys of each result that are wanted, dotted for those inside others: `seq,location.lat`. Default: all.",
        schema: || json!({ "type": "string" }),
        read: |q, v| {
            q.query.fields = Some(Fields::read(&plain(v)?)?);
            Ok(())
        },
    },
    Parameter {
        name: "stream",
        about: "Of this stream only.",
        schema: || json!({ "type": "string", "minLength": 1 }),
        read: |q, v| {
            q.query.filter.stream = Some(plain(v)?);
            Ok(())
        },
    },
    Parameter {
        name: "from",
        about: "Captured then or later: RFC 3339, or microseconds since 1970.",
        schema: || json!({ "type": "string" }),
        read: |q, v| {
            q.query.filter.from = Some(time(v)?);
            Ok(())
        },
    },
    Parameter {
        name: "to",
        about: "Captured before: RFC 3339, or microseconds since 1970.",
        schema: || json!({ "type": "string" }),
        read: |q, v| {
            q.query.filter.to = Some(time(v)?);
            Ok(())
        },
    },
    Parameter {
        name: "station",
        about: "Made of this station's signal, among others.",
        schema: || json!({ "type": "string", "minLength": 1 }),
        read: |q, v| {
            q.query.filter.station = Some(plain(v)?);
            Ok(())
        },
    },
    Parameter {
        name: "min_frequency",
        about: "Located at this frequency or higher, hertz.",
        schema: || json!({ "type": "number", "minimum": 0 }),
        read: |q, v| {
            q.query.filter.min_frequency = Some(hertz(v)?);
            Ok(())
        },
    },
    Parameter {
        name: "max_frequency",
        about: "Located at this frequency or lower, hertz.",
        schema: || json!({ "type": "number", "minimum": 0 }),
        read: |q, v| {
            q.query.filter.max_frequency = Some(hertz(v)?);
            Ok(())
        },
    },
    Parameter {
        name: "min_confidence",
        about: "Located with this confidence or more.",
        schema: || json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        read: |q, v| {
            let share = number(v)?;
            let inside = (0.0..=1.0).contains(&share);
            q.query.filter.min_confidence = Some(inside.then_some(share).ok_or("is no number from 0 to 1")?);
            Ok(())
        },
    },
    Parameter {
        name: "store",
        about: "The id of the sink whose store is asked. Default: the first of kind `store` in the pipeline file.",
        schema: || json!({ "type": "string" }),
        read: |q, v| {
            q.store = Some(plain(v)?);
            Ok(())
        },
    },
];

impl Question {
    /// Reads the part of an address behind the question mark.
    pub(super) fn read(text: &str) -> Result<Self, Wrong> {
        let query = Query { filter: Filter::default(), newest: true, after: None, limit: DEFAULT_LIMIT, fields: None };
        let mut question = Self { store: None, query, cursor: None };
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let Some(parameter) = PARAMETERS.iter().find(|p| p.name == name) else {
                let names: Vec<_> = PARAMETERS.iter().map(|p| p.name).collect();
                let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                return Err(Wrong::new(shown, format!("is unknown; there is {}", names.join(", "))));
            };
            if seen.contains(&parameter.name) {
                return Err(Wrong::new(parameter.name, "is given twice"));
            }
            seen.push(parameter.name);
            if value.len() > LONGEST {
                return Err(Wrong::new(parameter.name, format!("is longer than {LONGEST} bytes")));
            }
            (parameter.read)(&mut question, &value).map_err(|why| Wrong::new(parameter.name, why))?;
        }
        let f = &question.query.filter;
        if f.from.zip(f.to).is_some_and(|(from, to)| from >= to) {
            return Err(Wrong::new("to", "is not after `from`"));
        }
        if f.min_frequency.zip(f.max_frequency).is_some_and(|(min, max)| min > max) {
            return Err(Wrong::new("max_frequency", "is less than `min_frequency`"));
        }
        if let Some(cursor) = question.cursor.take() {
            question.query.resume(&cursor).map_err(|why| Wrong::new("cursor", why))?;
        }
        Ok(question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(text: &str) -> String {
        Question::read(text).unwrap_err().parameter
    }

    #[test]
    fn times_are_written_in_two_ways() {
        let at = |text: &str| Question::read(text).unwrap().query.filter.from;
        assert_eq!(at("from=2026-01-01T12:00:00Z"), Some(1_767_268_800_000_000));
        assert_eq!(at("from=2026-01-01T13:00:00.5%2B01:00"), Some(1_767_268_800_500_000));
        assert_eq!(at("from=2026-01-01T13:00:00+01:00"), Some(1_767_268_800_000_000));
        assert_eq!(at("from=1767268800000000"), Some(1_767_268_800_000_000));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, name) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=-1", "limit"),
            ("limit=5&limit=6", "limit"),
            ("lmit=5", "lmit"),
            ("=5", ""),
            ("from=99999999999999999999", "from"),
            ("from=2026-13-01T00:00:00Z", "from"),
            ("from=2026-01-01T00:00:00Z&to=2025-01-01T00:00:00Z", "to"),
            ("min_frequency=-0.5", "min_frequency"),
            ("min_frequency=inf", "min_frequency"),
            ("min_frequency=5&max_frequency=4", "max_frequency"),
            ("min_confidence=2", "min_confidence"),
            ("stream=%00", "stream"),
            ("stream=%ff", "stream"),
            ("cursor=..%2f..", "cursor"),
            ("fields=", "fields"),
            ("store=", "store"),
        ] {
            assert_eq!(parameter(text), name, "{text}");
        }
        assert_eq!(parameter(&format!("stream={}", "x".repeat(5000))), "stream");
    }
}

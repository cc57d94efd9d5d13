//! Sizes, spans of time and secrets as people write them in the pipeline file.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A span of time: `"250ms"`, `"10min"`, `"1h 30m"`. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes: `4096`, `"64MiB"`, `"2GB"`. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A text that does not show in logs.
#[derive(Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Span {
    fn read(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(d) if d.is_zero() => Err("a span of time must be longer than zero".to_owned()),
            Ok(d) => Ok(Self(d)),
            Err(e) => Err(format!("`{text}` is no span of time ({e}); write it like \"250ms\", \"10min\" or \"1h\"")),
        }
    }
}

impl Bytes {
    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size; write it like \"64MiB\", \"2GB\" or 4096");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000 * 1000,
            "gb" => 1000 * 1000 * 1000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            _ => return Err(wrong()),
        };
        let bytes = number * factor as f64;
        if (1.0..=9e18).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a size such as \"64MiB\" or 4096")]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(d)? {
            Written::Number(0) => Err(D::Error::custom("a size must be larger than zero")),
            Written::Number(n) => Ok(Self(n)),
            Written::Text(t) => Self::read(&t).map_err(D::Error::custom),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.0)
    }
}

impl schemars::JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "A span of time: \"250ms\", \"10min\", \"1h 30m\"." })
    }
}

impl schemars::JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "integer"], "minimum": 1,
            "description": "A number of bytes: 4096, \"64MiB\", \"2GB\"."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_decimal_and_binary_units() {
        let read = |t| Bytes::read(t).map(|b| b.0);
        assert_eq!(read("64MiB"), Ok(64 << 20));
        assert_eq!(read("2 GB"), Ok(2_000_000_000));
        assert_eq!(read("1.5kib"), Ok(1536));
        assert_eq!(read("17"), Ok(17));
        for bad in ["", "MiB", "0", "0.1", "-1", "5 apples", "1e3"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_read_and_zero_is_refused() {
        assert_eq!(Span::read("10min"), Ok(Span(Duration::from_secs(600))));
        assert!(Span::read("0s").is_err());
        assert!(Span::read("soon").is_err_and(|e| e.contains("soon")));
    }
}

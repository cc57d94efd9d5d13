//! A pipeline as JSON for the API: what runs, without secrets.

use super::secrets::{is_secret_name, redact};
use super::{Admission, Pipeline};
use serde_json::{Value, json};
use std::time::Duration;

/// Milliseconds, or `null` for none.
fn milliseconds(time: Option<Duration>) -> Value {
    time.map_or(Value::Null, |t| json!(t.as_secs_f64() * 1000.0))
}

/// A component's keys as the file sets them, without secrets.
fn settings(table: &toml::Table) -> Value {
    table
        .iter()
        .map(|(key, value)| {
            let value = match value {
                toml::Value::String(_) if is_secret_name(key) => json!("***"),
                value => plain(value),
            };
            (key.clone(), value)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn plain(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => json!(redact(text)),
        toml::Value::Integer(n) => json!(n),
        toml::Value::Float(x) => json!(x),
        toml::Value::Boolean(b) => json!(b),
        toml::Value::Datetime(d) => json!(d.to_string()),
        toml::Value::Array(items) => items.iter().map(plain).collect(),
        toml::Value::Table(table) => settings(table),
    }
}

impl Pipeline {
    /// The pipeline as it runs, for the API: every id, kind and setting, without secrets.
    pub fn to_json(&self) -> Value {
        let admission = match self.admission {
            Admission::Refuse => "refuse",
            Admission::Degrade => "degrade",
            Admission::Off => "off",
        };
        json!({
            "name": &*self.name,
            "file": self.path,
            "sha256": self.sha256,
            "fps": self.fps,
            "deadline_ms": milliseconds(self.deadline),
            "admission": admission,
            "sources": self.sources.iter().map(|s| json!({
                "id": &*s.id,
                "uri": s.config.uri.as_deref().map(redact),
                "launch": s.config.launch.as_deref().map(redact),
                "priority": s.config.priority,
                "required": s.config.required,
                "deadline_ms": milliseconds(s.deadline),
            })).collect::<Vec<_>>(),
            "stages": self.stages.iter().map(|s| json!({
                "id": &*s.id, "kind": s.kind, "from": ids(&s.from), "workers": s.workers,
                "settings": settings(&s.settings),
            })).collect::<Vec<_>>(),
            "sinks": self.sinks.iter().map(|s| json!({
                "id": &*s.id, "kind": s.kind, "from": ids(&s.from), "queue": s.queue,
                "settings": settings(&s.settings),
            })).collect::<Vec<_>>(),
            "rungs": self.rungs.iter().map(|r| json!({
                "name": &*r.name,
                "lazy": r.lazy,
                "stages": r.overrides.iter().map(|(id, t)| (id.to_string(), settings(t)))
                    .collect::<serde_json::Map<_, _>>(),
            })).collect::<Vec<_>>(),
        })
    }
}

fn ids(ids: &[std::sync::Arc<str>]) -> Vec<&str> {
    ids.iter().map(|id| &**id).collect()
}

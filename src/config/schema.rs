//! The pipeline file's own tables as types, and the JSON Schema of the whole file.
//!
//! Components' keys are their own types; here are the tables that belong to the file, and the keys that all stages or
//! all sinks share.

use super::cost::CostTable;
use super::{Admission, LoadTable};
use crate::schedule::Policy;
use crate::sink::units::{Bytes, Secret, Span};
use crate::source::SourceConfig;
use crate::{sink, stage};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// `[pipeline]`: what holds for all streams.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PipelineTable {
    /// The pipeline's name in results and reports. Default: the file's name without its ending.
    pub(super) name: Option<String>,
    /// Frames per second and stream to plan for; no limiter. Default 30.
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub(super) fps: Option<f64>,
    /// Time from captured to delivered, for example "33ms"; "none" for offline work. Default "33ms".
    pub(super) deadline: Option<Deadline>,
    /// What to do with streams beyond the machine's capacity. Default "refuse".
    #[serde(default)]
    pub(super) admission: Admission,
    /// Who decides what runs: "framegate", or, to compare with, "fifo", "drop-oldest", "drop-newest" or "edf".
    /// Default "framegate".
    #[serde(default)]
    pub(super) policy: Policy,
}

/// `[http]`: metrics, health and control.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpTable {
    /// Address and port, or "off". Default "127.0.0.1:9633".
    pub(super) listen: Option<Listen>,
}

/// `[cache]`: what was made of an input before, so that it need not be made again. Answers of the API are kept in it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CacheTable {
    /// Bytes that it takes in memory. Default `"64MiB"`.
    pub(super) memory: Option<Bytes>,
    /// A folder behind it, relative to the working directory; made where there is none. Default: none.
    pub(super) path: Option<PathBuf>,
    /// Bytes that it takes in the folder. Default `"1GiB"`.
    pub(super) disk: Option<Bytes>,
    /// What is older is not used any more. Default: no limit.
    pub(super) age: Option<Span>,
    /// A Redis server behind it: `"redis://[USER:PASSWORD@]HOST[:6379][/DB]"`. While it is away the cache works without.
    /// Default: none.
    pub(super) redis: Option<Secret>,
}

/// `[threads]`: where and how the data plane's threads run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ThreadsTable {
    /// Real-time priority (SCHED_FIFO), 1 to 99. Default: the normal scheduler.
    #[schemars(range(min = 1, max = 99))]
    pub(super) realtime: Option<u8>,
    /// Cores they may use. Default: all.
    #[serde(default)]
    pub(super) cpus: Vec<usize>,
}

/// Keys of `[source.ID]` beside the source's own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceCommon {
    /// This stream's deadline in place of the pipeline's; "none" for offline work.
    pub(super) deadline: Option<Deadline>,
}

/// Keys of `[stage.ID]` that every kind has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StageCommon {
    /// What the stage does.
    #[schemars(with = "String")]
    pub(super) kind: Spanned<String>,
    /// Source or stage ids it takes frames from. Default: the first stage takes all sources, a later one the stage
    /// before it in the file.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub(super) from: Option<Vec<Spanned<String>>>,
    /// Threads that share its streams, 1 to 64. Default 1.
    #[schemars(range(min = 1, max = 64))]
    pub(super) workers: Option<usize>,
    /// Cores of its threads. Default: those of `[threads]`.
    #[serde(default)]
    pub(super) cpus: Vec<usize>,
}

/// Keys of `[sink.ID]` that every kind has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SinkCommon {
    /// Where results go.
    #[schemars(with = "String")]
    pub(super) kind: Spanned<String>,
    /// Stage or source ids whose frames it gets. Default: every stage that no other stage takes frames from.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub(super) from: Option<Vec<Spanned<String>>>,
    /// Records its queue holds, 1 to 1000000. Default 256.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) queue: Option<usize>,
}

/// Keys of `[[rung]]` beside the stages'.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RungCommon {
    /// Its name in results.
    pub(super) name: String,
    /// Whether what only this rung runs is loaded when it is needed first, not at start. Default false.
    #[serde(default)]
    pub(super) lazy: bool,
}

/// The names of these keys.
pub(super) const RUNG_KEYS: [&str; 2] = ["name", "lazy"];

/// Keys of `[source.ID]` that are read here.
pub(super) const SOURCE_KEYS: [&str; 1] = ["deadline"];
/// Keys of `[stage.ID]` that are read here.
pub(super) const STAGE_KEYS: [&str; 4] = ["kind", "from", "workers", "cpus"];
/// Keys of `[sink.ID]` that are read here.
pub(super) const SINK_KEYS: [&str; 3] = ["kind", "from", "queue"];

/// A deadline, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Deadline(pub(super) Option<Duration>);

impl TryFrom<String> for Deadline {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        match humantime::parse_duration(&text) {
            Ok(Duration::ZERO) => Err("a deadline of nothing: give a time, for example \"33ms\", or \"none\"".into()),
            Ok(time) if time > Duration::from_secs(3600) => {
                Err(format!("\"{text}\" is longer than an hour: write \"none\" for work without a deadline"))
            }
            Ok(time) => Ok(Self(Some(time))),
            Err(_) => Err(format!("\"{text}\" is no duration: write for example \"33ms\", \"1s 500ms\" or \"none\"")),
        }
    }
}

impl JsonSchema for Deadline {
    fn schema_name() -> Cow<'static, str> {
        "Deadline".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration such as \"33ms\" or \"1s 500ms\", or \"none\".",
            "type": "string",
            "pattern": "^(none|\\s*([0-9]+\\s*[a-zA-Zµ]+\\s*)+)$",
        })
    }
}

/// Where to listen, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Listen(pub(super) Option<SocketAddr>);

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        super::parse_listen(&text).map(Self)
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> Cow<'static, str> {
        "Listen".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "Address and port, such as \"127.0.0.1:9633\", or \"off\".", "type": "string" })
    }
}

/// The keys of a component kind: those that must be there, and all.
pub(super) struct Keys {
    /// Without these its table cannot be read.
    pub(super) required: Vec<String>,
    /// Every key.
    pub(super) all: Vec<String>,
    /// The `path` that holds where the table gives none.
    pub(super) default_path: Option<String>,
}

/// What a component's schema says about its keys.
pub(super) fn keys(schema: fn(&mut SchemaGenerator) -> Schema) -> Keys {
    let mut generator = generator();
    let object = resolve(schema(&mut generator), &generator);
    let required = object.get("required").and_then(Value::as_array);
    let properties = object.get("properties").and_then(Value::as_object);
    let path = properties.and_then(|p| p.get("path")).and_then(|p| p.get("default"));
    Keys {
        required: required.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        all: properties.map(|p| p.keys().cloned().collect()).unwrap_or_default(),
        default_path: path.and_then(Value::as_str).map(str::to_owned),
    }
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

/// A schema's own object, where it is a reference.
fn resolve(schema: Schema, generator: &SchemaGenerator) -> Map<String, Value> {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next());
    let value = match name.and_then(|n| generator.definitions().get(n)) {
        Some(definition) => definition.clone(),
        None => schema.to_value(),
    };
    value.as_object().cloned().unwrap_or_default()
}

/// The JSON Schema of a pipeline file: for editors, and for programs that write pipeline files.
pub fn json_schema() -> Value {
    let mut g = generator();
    let pipeline = g.subschema_for::<PipelineTable>();
    let http = g.subschema_for::<HttpTable>();
    let (threads, cache) = (g.subschema_for::<ThreadsTable>(), g.subschema_for::<CacheTable>());
    let (cost, simulate) = (g.subschema_for::<CostTable>(), g.subschema_for::<LoadTable>());
    let source = with_common::<SourceCommon>(&mut g, |g| g.subschema_for::<SourceConfig>(), None);
    let stages: Vec<Value> = stage::KINDS
        .iter()
        .map(|kind| with_common::<StageCommon>(&mut g, kind.schema, Some((kind.name, kind.about))))
        .collect();
    let sinks: Vec<Value> = sink::KINDS
        .iter()
        .map(|kind| with_common::<SinkCommon>(&mut g, kind.schema, Some((kind.name, kind.about))))
        .collect();
    let id = json!({ "pattern": "^[A-Za-z0-9_-]{1,64}$" });
    let mut definitions = g.take_definitions(true);
    // Only the merged objects are of use; the bare ones would confuse a reader.
    drop_unused(&mut definitions, &[&json!([pipeline, http, cache, threads, source, stages, sinks, cost, simulate])]);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "framegate pipeline",
        "type": "object",
        "additionalProperties": false,
        "required": ["source"],
        "properties": {
            "pipeline": pipeline,
            "http": http,
            "cache": cache,
            "threads": threads,
            "source": {
                "description": "Streams by id.", "type": "object", "minProperties": 1,
                "propertyNames": id, "additionalProperties": source,
            },
            "stage": {
                "description": "Stages by id, in the order in which frames pass them.", "type": "object",
                "propertyNames": id, "additionalProperties": { "oneOf": stages },
            },
            "sink": {
                "description": "Sinks by id.", "type": "object",
                "propertyNames": id, "additionalProperties": { "oneOf": sinks },
            },
            "rung": {
                "description": "Quality levels, best first; each inherits the one above.", "type": "array",
                "items": {
                    "type": "object", "required": ["name"],
                    "properties": {
                        "name": { "description": "Its name in results.", "type": "string" },
                        "lazy": {
                            "description": "Whether what only this rung runs is loaded when it is needed first, not at start. Default false.",
                            "type": "boolean",
                        },
                    },
                    "additionalProperties": {
                        "description": "A stage's id and the keys that differ on this rung.", "type": "object",
                    },
                },
            },
            "cost": {
                "description": "What stages and decoders cost on this machine, for `framegate simulate`.", "type": "array",
                "items": cost,
            },
            "simulate": simulate,
        },
        "$defs": definitions,
    })
}

/// A component's schema with the common keys added.
fn with_common<C: JsonSchema>(
    g: &mut SchemaGenerator,
    own: fn(&mut SchemaGenerator) -> Schema,
    kind: Option<(&str, &str)>,
) -> Value {
    let schema = own(g);
    let mut object = resolve(schema, g);
    let common = g.subschema_for::<C>();
    let common = resolve(common, g);
    let mut properties = take_object(&mut object, "properties");
    properties.extend(common.get("properties").and_then(Value::as_object).cloned().unwrap_or_default());
    let mut required = object.remove("required").and_then(|r| r.as_array().cloned()).unwrap_or_default();
    required.extend(common.get("required").and_then(Value::as_array).cloned().unwrap_or_default());
    if let Some((name, about)) = kind {
        properties.insert("kind".into(), json!({ "const": name, "description": about }));
        object.insert("title".into(), json!(name));
        object.insert("description".into(), json!(about));
    }
    object.insert("type".into(), json!("object"));
    object.insert("additionalProperties".into(), json!(false));
    object.insert("properties".into(), Value::Object(properties));
    if !required.is_empty() {
        object.insert("required".into(), Value::Array(required));
    }
    Value::Object(object)
}

fn take_object(object: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    object.remove(key).and_then(|v| v.as_object().cloned()).unwrap_or_default()
}

/// Keeps the definitions that `roots` lead to.
fn drop_unused(definitions: &mut Map<String, Value>, roots: &[&Value]) {
    let mut wanted: Vec<String> = Vec::new();
    let mut queue: Vec<Value> = roots.iter().map(|v| (*v).clone()).collect();
    while let Some(value) = queue.pop() {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next())
                    && !wanted.iter().any(|w| w == name)
                {
                    wanted.push(name.to_owned());
                    queue.extend(definitions.get(name).cloned());
                }
                queue.extend(map.into_iter().map(|(_, v)| v));
            }
            Value::Array(items) => queue.extend(items),
            _ => {}
        }
    }
    definitions.retain(|name, _| wanted.iter().any(|w| w == name));
}

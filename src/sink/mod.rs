//! Sinks: where results go.
//!
//! The engine gives every sink a thread and a bounded queue of its own, so a sink that stalls never stalls a stream.
//! Each kind has one file here with its typed configuration, and one line in [`KINDS`].

mod heard;
mod jsonl;
mod mqtt;
pub mod overlay;
mod sigmf;
mod spectrogram;
mod store;
mod template;
#[cfg(test)]
mod testing;
pub(crate) mod units;
mod video;
mod waterfall;
mod wav;

use crate::frame::{Nanos, Record};
use crate::issue::{Issue, Severity};
use crate::stage::BuildContext;
use crate::store::Archive;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Why a sink cannot be opened or did not take a record.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SinkError(pub String);

/// Takes finished frames' records. Runs on its own thread: it may block, the engine counts what it loses.
pub trait Sink: Send {
    /// Takes one record.
    ///
    /// # Errors
    /// The record was not taken and will not be; the sink stays usable.
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError>;

    /// Brings everything taken so far to where it belongs; called when the queue is empty for a while, and at the end.
    ///
    /// # Errors
    /// What could not be written.
    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Called about twice a second while nothing comes: for what has to happen by the clock. Must be cheap when there
    /// is nothing to do.
    fn idle(&mut self) {}

    /// Called once, before the first record: whom a sink that stores tells how long after its capture each record was
    /// stored.
    fn on_stored(&mut self, _told: Arc<dyn Fn(Nanos) + Send + Sync>) {}

    /// The reading end of a sink that stores.
    fn archive(&self) -> Option<Arc<Archive>> {
        None
    }
}

/// A sink's typed configuration.
pub trait SinkConfig: Debug + Send + Sync {
    /// What is wrong with it that the types cannot say. Starts nothing.
    fn check(&self, _context: &BuildContext) -> Vec<Issue> {
        Vec::new()
    }

    /// Whether it needs the pixels or samples, not only the result.
    fn wants_payload(&self) -> bool {
        false
    }

    /// Opens the sink.
    ///
    /// # Errors
    /// What cannot be used and will not recover. A broker that is away is not an error: the sink reconnects.
    fn open(&self, context: &BuildContext) -> Result<Box<dyn Sink>, SinkError>;
}

/// The first error of a configuration, where a sink is opened without having been checked.
fn refuse(config: &dyn SinkConfig, context: &BuildContext) -> Result<(), SinkError> {
    match config.check(context).into_iter().find(|i| i.severity == Severity::Error) {
        Some(issue) => Err(SinkError(format!("{} {}", issue.key, issue.message))),
        None => Ok(()),
    }
}

/// A kind of sink: one line of the registry.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The name in `kind = "…"`.
    pub name: &'static str,
    /// One sentence for help texts and the schema.
    pub about: &'static str,
    /// The JSON Schema of its keys.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    /// Reads its keys (without the common ones: `kind`, `from`, `queue`). Errors carry the place in the file.
    pub parse: fn(ValueDeserializer<'_>) -> Result<Box<dyn SinkConfig>, toml::de::Error>,
}

/// The kinds there are.
pub const KINDS: &[Kind] = &[
    kind::<jsonl::JsonlConfig>("jsonl", "Writes results as lines of JSON to standard output or files."),
    kind::<mqtt::MqttConfig>("mqtt", "Publishes results as messages to an MQTT broker."),
    kind::<sigmf::SigmfConfig>(
        "sigmf",
        "Records stretches of sample streams as SigMF, begun by what stages hear in them.",
    ),
    kind::<spectrogram::SpectrogramConfig>(
        "spectrogram",
        "Paints sample streams as pictures, with what was heard drawn in.",
    ),
    kind::<store::StoreConfig>("store", "Keeps results in a database, for queries and the API."),
    kind::<video::VideoConfig>("video", "Records streams with the results drawn in, to Matroska or MP4."),
    kind::<waterfall::WaterfallConfig>(
        "waterfall",
        "Shows sample streams live in a browser, with what was heard drawn in.",
    ),
    kind::<wav::WavConfig>("wav", "Writes streams of samples, audio above all, to WAV files."),
];

/// Makes a registry line from a configuration type.
pub const fn kind<C>(name: &'static str, about: &'static str) -> Kind
where
    C: SinkConfig + DeserializeOwned + schemars::JsonSchema + 'static,
{
    Kind { name, about, schema: |g| g.subschema_for::<C>(), parse: |table| Ok(Box::new(C::deserialize(table)?)) }
}

/// Reads a sink's configuration from TOML text: for tests and tools, without an engine.
///
/// # Errors
/// An unknown kind, or what is wrong with the text.
pub fn from_toml(name: &str, text: &str) -> Result<Box<dyn SinkConfig>, SinkError> {
    let kind = KINDS.iter().find(|k| k.name == name).ok_or_else(|| SinkError(format!("no sink kind `{name}`")))?;
    let table = DeTable::parse(text).map_err(|e| SinkError(e.to_string()))?;
    let table = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    (kind.parse)(ValueDeserializer::from(table)).map_err(|e| SinkError(e.to_string()))
}

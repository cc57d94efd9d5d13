//! The pipeline file as the rest of the program sees it.

use crate::sink::SinkConfig;
use crate::stage::StageConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A pipeline file that has been read and checked.
#[derive(Debug)]
pub struct Pipeline {
    /// Its name.
    pub name: Arc<str>,
    /// The file it was read from.
    pub path: PathBuf,
    /// SHA-256 of the file as read, in hexadecimal.
    pub sha256: String,
    /// Folders in which relative paths are looked for, in order.
    pub search: Vec<PathBuf>,
    /// Frames per second and stream to plan for.
    pub fps: f64,
    /// Captured to delivered; `None` for offline work.
    pub deadline: Option<Duration>,
    /// What to do with streams beyond the capacity.
    pub admission: Admission,
    /// Where metrics and health are served, `None` for nowhere.
    pub http: Option<std::net::SocketAddr>,
    /// Real-time priority of the data plane's threads (SCHED_FIFO, 1 to 99), `None` for the normal scheduler.
    pub realtime: Option<u8>,
    /// Cores of the data plane's threads, empty for all.
    pub cpus: Vec<usize>,
    /// Its sources, in the file's order.
    pub sources: Vec<SourceEntry>,
    /// Its stages, in an order in which each comes after those it takes frames from.
    pub stages: Vec<StageEntry>,
    /// Its sinks, in the file's order.
    pub sinks: Vec<SinkEntry>,
    /// Its rungs, best first; at least one.
    pub rungs: Vec<Rung>,
}

/// What to do with streams beyond the machine's capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// Refuse them, with the number that fits.
    #[default]
    Refuse,
    /// Let lower-priority ones give way.
    Degrade,
    /// Check nothing.
    Off,
}

/// One `[source.ID]`.
#[derive(Debug)]
pub struct SourceEntry {
    /// The stream's id.
    pub id: Arc<str>,
    /// Captured to delivered; the pipeline's, or the source's own. `None` for offline work.
    pub deadline: Option<Duration>,
    /// Its other keys.
    pub config: crate::source::SourceConfig,
}

/// One `[stage.ID]`.
#[derive(Debug)]
pub struct StageEntry {
    /// The stage's id.
    pub id: Arc<str>,
    /// Source or stage ids it takes frames from; never empty.
    pub from: Vec<Arc<str>>,
    /// Its kind.
    pub kind: &'static str,
    /// Workers that share its streams.
    pub workers: usize,
    /// Cores of its threads, empty for the pipeline's.
    pub cpus: Vec<usize>,
    /// Its own keys.
    pub config: Box<dyn StageConfig>,
}

/// One `[sink.ID]`.
#[derive(Debug)]
pub struct SinkEntry {
    /// The sink's id.
    pub id: Arc<str>,
    /// Stage or source ids whose frames it gets; never empty. Left out in the file: every stage no other stage takes
    /// frames from (or the sources where there is no stage).
    pub from: Vec<Arc<str>>,
    /// Its kind.
    pub kind: &'static str,
    /// Records its queue holds.
    pub queue: usize,
    /// Its own keys.
    pub config: Box<dyn SinkConfig>,
}

/// One `[[rung]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rung {
    /// Its name in results.
    pub name: Arc<str>,
    /// What it changes: stage id to the keys that differ from the stage's table, all rungs above included.
    pub overrides: Vec<(Arc<str>, toml::Table)>,
}

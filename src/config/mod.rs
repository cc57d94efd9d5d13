//! The pipeline file: how it is read, checked and explained.
//!
//! [`load`] turns a file into a [`Pipeline`], or into [`Diagnostics`] that name every error at once. A file passes
//! through here in this order:
//!
//! 1. `document`: TOML text to a tree with places; environment variables and `--set` flags are applied to it.
//! 2. `assemble`: the tree's tables to types (`section` finds every error of a table, `schema` has the types).
//! 3. `graph` and `rungs`: who takes frames from whom; the quality levels. `cost`: what simulations are told. `advice`:
//!    warnings.
//! 4. `findings` to `diagnostics`: lines, columns, carets; `secrets` never show.

mod advice;
mod assemble;
mod cost;
mod describe;
mod diagnostics;
mod document;
mod findings;
mod graph;
mod joins;
mod rungs;
mod schema;
mod secrets;
mod section;

pub use cost::{Costs, DecodeCost, Gap, Lasts, LoadTable, OutlierTable, SlowTable, Spans, StageCost, Time};
pub use diagnostics::{Diagnostic, Diagnostics, Style};
pub use schema::json_schema;
pub use secrets::{is_secret_name, redact};

use crate::schedule::Policy;
use crate::sink::SinkConfig;
use crate::stage::StageConfig;
use findings::{Findings, Place};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Frames per second to plan for where the file does not say.
const DEFAULT_FPS: f64 = 30.0;
/// The deadline where the file does not say.
const DEFAULT_DEADLINE: Duration = Duration::from_millis(33);
/// Where to listen where the file does not say.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9633);
/// Largest pipeline file, bytes: anything larger is no pipeline file.
const MAX_BYTES: u64 = 1 << 20;

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
    /// Who decides what runs.
    pub policy: Policy,
    /// Where metrics and health are served, `None` for nowhere.
    pub http: Option<SocketAddr>,
    /// What was made before is kept here.
    pub cache: crate::cache::Settings,
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
    /// What its stages and decoders were measured to cost; for simulations.
    pub costs: Costs,
    /// The load of simulations.
    pub load: LoadTable,
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
    /// The other ways in which rungs run it, each different from its own keys.
    pub variants: Vec<Arc<dyn StageConfig>>,
    /// What it does at each rung. Empty: the same at all of them.
    pub rungs: Vec<AtRung>,
    /// Its own keys as the file sets them: what a reload compares. May hold secrets: show it through [`redact`].
    pub settings: toml::Table,
}

impl StageEntry {
    /// What it does at a rung.
    pub fn at(&self, rung: usize) -> AtRung {
        self.rungs.get(rung).copied().unwrap_or_default()
    }

    /// A way of running it: 0 for its own keys, `n` for the `n`th of its variants, counted from 1.
    pub fn way(&self, variant: usize) -> &dyn StageConfig {
        variant.checked_sub(1).and_then(|n| self.variants.get(n)).map_or(&*self.config, |c| &**c)
    }
}

/// What a stage does at one rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtRung {
    /// The way it runs; `None` where it is switched off.
    pub variant: Option<usize>,
    /// One frame in so many is worked on; a tracker carries the others.
    pub every: u32,
}

impl Default for AtRung {
    fn default() -> Self {
        Self { variant: Some(0), every: 1 }
    }
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
    /// Its own keys as the file sets them: what a reload compares. May hold secrets: show it through [`redact`].
    pub settings: toml::Table,
}

/// One `[[rung]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rung {
    /// Its name in results.
    pub name: Arc<str>,
    /// What only lazy rungs run is loaded when the ladder needs it first, not at start.
    pub lazy: bool,
    /// What it changes: stage id to the keys that differ from the stage's table, all rungs above included.
    pub overrides: Vec<(Arc<str>, toml::Table)>,
}

/// Reads and checks a pipeline file. `overrides` are keys and values of `--set` flags. With the pipeline come its
/// warnings.
///
/// # Errors
/// Every error and warning in the file, the flags and the components' settings. Nothing is started.
pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<(Pipeline, Diagnostics), Diagnostics> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let mut findings = Findings::new(path.display().to_string(), "");
        let help = (error.kind() == std::io::ErrorKind::NotFound)
            .then(|| format!("the working directory is {}", std::env::current_dir().unwrap_or_default().display()));
        findings.error(Place::default(), format!("cannot read the pipeline file: {error}")).help_if(help);
        return Err(findings.finish());
    }
    read_bytes(path, &bytes, overrides, &|name| std::env::var(name).ok())
}

/// [`load`] of a file's content, with environment variables from anywhere. The path is for messages and for finding
/// relative paths.
///
/// # Errors
/// As [`load`].
pub fn read_bytes(
    path: &Path,
    bytes: &[u8],
    overrides: &[(String, String)],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Pipeline, Diagnostics), Diagnostics> {
    let text = String::from_utf8_lossy(bytes);
    let flags: Vec<String> = overrides.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut findings = Findings::new(path.display().to_string(), &text);
    if bytes.len() as u64 > MAX_BYTES {
        findings.error(Place::default(), "larger than 1 MiB: this is no pipeline file");
        return Err(findings.finish());
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        let at = error.valid_up_to();
        findings.syntax(at..at + 1, "not UTF-8 text from here on").help("save the file as UTF-8");
        return Err(findings.finish());
    }
    let mut document = document::parse(&text, &mut findings);
    for flag in &flags {
        let start = findings.add_text("--set", flag);
        document::set(&mut document, flag, start, &mut findings);
    }
    document::expand(&mut document, env, &mut findings);
    let file = assemble::File {
        path: path.to_owned(),
        sha256: Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect(),
        search: search_folders(path),
    };
    let pipeline = assemble::assemble(document, file, &mut findings);
    let failed = findings.any_error();
    let diagnostics = findings.finish();
    match pipeline {
        Some(pipeline) if !failed => Ok((pipeline, diagnostics)),
        _ => Err(diagnostics),
    }
}

/// Folders in which a pipeline file's relative paths are looked for: its own, the one above (so that
/// `pipelines/x.toml` finds `models/…`), the working directory, where packages put things.
pub fn search_folders(path: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let own = absolute.parent();
    // Where the program is installed: PREFIX/bin beside PREFIX/share.
    let prefix = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_owned()));
    let candidates = [
        own.map(Path::to_owned),
        own.and_then(Path::parent).map(Path::to_owned),
        std::env::current_dir().ok(),
        prefix.as_deref().map(|p| p.join("share/framegate")),
        prefix.as_deref().map(|p| p.join("share")),
        Some("/usr/share/framegate".into()),
        Some("/usr/lib/framegate".into()),
    ];
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in candidates.into_iter().flatten() {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Reads an address to listen on: `None` for "off".
///
/// # Errors
/// What it should look like.
pub fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let localhost = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    localhost
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map(Some)
        .map_err(|_| format!("\"{text}\" is no address to listen on: write for example \"127.0.0.1:9633\", or \"off\""))
}

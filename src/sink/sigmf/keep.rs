//! Which recordings are kept.

use super::super::SinkError;
use super::super::units::{Bytes, Span};
use crate::issue::Issue;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The metadata's key that names the sink which made a recording.
pub(super) const SINK: &str = "framegate:sink";

/// Which recordings are kept: those within all limits that are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The newest so many, at least 1. Default: no limit.
    #[serde(default)]
    count: Option<usize>,
    /// The newest that have this size together: `"10GiB"`; the newest one in any case. Default: no limit.
    #[serde(default)]
    size: Option<Bytes>,
    /// Those that were finished within this time: `"7d"`. Default: no limit.
    #[serde(default)]
    age: Option<Span>,
}

impl Keep {
    pub(super) fn check(&self) -> Option<Issue> {
        if self.count == Some(0) {
            return Some(Issue::error("keep.count", "must be at least 1"));
        }
        let none = self.count.is_none() && self.size.is_none() && self.age.is_none();
        none.then(|| {
            Issue::error("keep", "neither `count` nor `size` nor `age` says what is kept")
                .help("keep = { size = \"10GiB\" }")
        })
    }
}

/// A finished recording.
struct Kept {
    /// What its two files have in common.
    path: PathBuf,
    bytes: u64,
    at: SystemTime,
}

impl Kept {
    fn files(path: &Path) -> [PathBuf; 2] {
        ["meta", "data"].map(|ending| {
            let mut file = path.as_os_str().to_owned();
            file.push(".sigmf-");
            file.push(ending);
            file.into()
        })
    }

    fn look(path: PathBuf) -> Option<Self> {
        let [meta, data] = Self::files(&path).map(std::fs::metadata);
        let (meta, data) = (meta.ok()?, data.ok()?);
        Some(Self { path, bytes: meta.len() + data.len(), at: meta.modified().ok()? })
    }
}

/// Deletes recordings that are not to be kept: only such as this sink has made, in this run or an earlier one.
pub(super) struct Keeper {
    keep: Keep,
    /// The oldest first.
    kept: VecDeque<Kept>,
}

impl Keeper {
    /// Looks for what earlier runs left in the folder.
    pub fn new(keep: Keep, sink: &str, folder: &Path) -> Self {
        let ours = |meta: &Path| {
            let text = std::fs::read_to_string(meta).ok()?;
            let value: serde_json::Value = serde_json::from_str(&text).ok()?;
            (value["global"][SINK] == *sink).then(|| Kept::look(meta.with_extension("")))?
        };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        let meta = entries.filter(|p| p.extension().is_some_and(|e| e == "sigmf-meta"));
        let mut kept: Vec<Kept> = meta.filter_map(|p| ours(&p)).collect();
        kept.sort_by(|a, b| (a.at, &a.path).cmp(&(b.at, &b.path)));
        Self { keep, kept: kept.into() }
    }

    /// A recording is finished: deletes what it makes too many or too old.
    pub fn finished(&mut self, path: PathBuf) -> Result<(), SinkError> {
        self.kept.extend(Kept::look(path));
        let now = SystemTime::now();
        let mut bytes: u64 = self.kept.iter().map(|k| k.bytes).sum();
        while self.kept.len() > 1 {
            let Some(oldest) = self.kept.front() else { break };
            let too_many = self.keep.count.is_some_and(|n| self.kept.len() > n);
            let too_large = self.keep.size.is_some_and(|s| bytes > s.0);
            let too_old = self.keep.age.is_some_and(|a| now.duration_since(oldest.at).is_ok_and(|age| age > a.0));
            if !(too_many || too_large || too_old) {
                break;
            }
            // The metadata first: samples without it are no recording any more, and nobody takes them for one.
            for file in Kept::files(&oldest.path) {
                match std::fs::remove_file(&file) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(SinkError(format!("{}: cannot be deleted: {e}", file.display())));
                    }
                    _ => {}
                }
            }
            bytes = bytes.saturating_sub(oldest.bytes);
            self.kept.pop_front();
        }
        Ok(())
    }
}

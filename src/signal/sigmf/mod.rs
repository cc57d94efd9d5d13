//! SigMF recordings: a data file of samples and a JSON file that says what they are.
//!
//! After the Signal Metadata Format specification 1.2 (sigmf.org). [`Recording::open`] reads and checks metadata,
//! [`Reader`] streams samples with the capture segment they belong to, [`Writer`] makes recordings. Keys that are not
//! known, of extensions too, are kept and written again.

mod metadata;
mod reader;
mod writer;

pub use metadata::{Annotation, Capture, Global, Metadata};
pub use reader::{Block, Reader, Recording};
pub use writer::Writer;

use std::path::{Path, PathBuf};

/// What is wrong with a recording.
#[derive(Debug, thiserror::Error)]
pub enum SigmfError {
    /// A file could not be read or written.
    #[error("{}: {what}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The metadata file is not JSON.
    #[error("{}: this is not JSON: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A key is missing, of another type, or has a value that makes no sense.
    #[error("{}: {key}: {what}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// The key's path, such as `captures[1].core:sample_start`.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// Metadata and data file do not belong together.
    #[error("{}: {what}", file.display())]
    Data {
        /// The data file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl SigmfError {
    fn io(file: &Path, what: &'static str, source: std::io::Error) -> Self {
        Self::Io { file: file.into(), what, source }
    }

    fn key(file: &Path, key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Key { file: file.into(), key: key.into(), what: what.into() }
    }

    fn data(file: &Path, what: impl Into<String>) -> Self {
        Self::Data { file: file.into(), what: what.into() }
    }
}

/// The two files of a recording: `path` is either of them, or what both have in common.
fn files(path: &Path) -> (PathBuf, PathBuf) {
    let base = match path.extension().and_then(|e| e.to_str()) {
        Some("sigmf-meta" | "sigmf-data" | "sigmf") => path.with_extension(""),
        _ => path.to_path_buf(),
    };
    let with = |ending: &str| {
        let mut name = base.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    (with(".sigmf-meta"), with(".sigmf-data"))
}

#[cfg(test)]
mod tests;

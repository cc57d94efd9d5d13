//! `jsonl`: one JSON object a line, to standard output or to files.

mod file;

use super::template::{Template, check_folder, not_in_file_names};
use super::units::{Bytes, Span};
use super::{Sink, SinkConfig, SinkError};
use crate::frame::Record;
use crate::issue::Issue;
use crate::stage::BuildContext;
use file::LineFile;
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// `kind = "jsonl"`: writes every result as one line of JSON.
///
/// A line is written with a single call as soon as the result is there, so readers never see half a line of a running
/// process. A line that a crash cut short is ended before the next one is appended.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// Where to write: `-` for standard output (the default), or a file's path, relative to the working directory.
    /// `{pipeline}` and `{stream}` are filled in: with `{stream}` every stream has a file of its own. Missing folders
    /// are made; existing files are appended to.
    #[serde(default = "standard_output")]
    path: String,
    /// When a file is set aside under its name plus the time, and a new one begun. Default: never.
    #[serde(default)]
    rotate: Option<Rotate>,
}

/// When a file is set aside: at the first of the limits given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Largest size of a file, in bytes: `"64MiB"`. Default: no limit.
    #[serde(default)]
    size: Option<Bytes>,
    /// Time that a file covers, aligned to the clock in UTC: `"1h"` begins a new file on the hour. Default: no limit.
    #[serde(default)]
    every: Option<Span>,
    /// Number of files set aside that are kept beside the current one; older ones are deleted. Default: all.
    #[serde(default)]
    keep: Option<usize>,
}

fn standard_output() -> String {
    "-".to_owned()
}

const NAMES: &[&str] = &["pipeline", "stream"];

impl SinkConfig for JsonlConfig {
    fn check(&self, _context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        if self.path == "-" {
            if self.rotate.is_some() {
                issues.push(
                    Issue::error("rotate", "standard output cannot be rotated")
                        .help("name a file in `path`, or remove `rotate`"),
                );
            }
            return issues;
        }
        if self.path.is_empty() || self.path.ends_with('/') {
            issues.push(Issue::error("path", "names no file").help("name a file, or \"-\" for standard output"));
            return issues;
        }
        match Template::read(&self.path, NAMES) {
            Err(e) => issues.push(Issue::error("path", e)),
            Ok(t) => {
                issues.extend(check_folder("path", &t));
                if std::path::Path::new(&self.path).is_dir() {
                    issues.push(Issue::error("path", format!("`{}` is a folder", self.path)).help("name a file in it"));
                }
            }
        }
        if let Some(r) = self.rotate
            && r.size.is_none()
            && r.every.is_none()
        {
            issues.push(
                Issue::error("rotate", "neither `size` nor `every` says when to rotate")
                    .help("rotate = { size = \"64MiB\" }"),
            );
        }
        issues
    }

    fn open(&self, _context: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        let place = if self.path == "-" {
            let fd = std::io::stdout().as_fd().try_clone_to_owned();
            Place::Stream(Lines::new(File::from(fd.map_err(|e| SinkError(format!("standard output: {e}")))?)))
        } else {
            let template = Template::read(&self.path, NAMES).map_err(SinkError)?;
            Place::Files { template, rotate: self.rotate, open: HashMap::new() }
        };
        Ok(Box::new(JsonlSink { place, line: Vec::new() }))
    }
}

struct JsonlSink {
    place: Place,
    line: Vec<u8>,
}

enum Place {
    Stream(Lines),
    Files { template: Template, rotate: Option<Rotate>, open: HashMap<(Arc<str>, Arc<str>), LineFile> },
}

impl Sink for JsonlSink {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        self.line.clear();
        record.write_json(&mut self.line);
        self.line.push(b'\n');
        match &mut self.place {
            Place::Stream(out) => out.write(&self.line),
            Place::Files { template, rotate, open } => {
                let key = (record.pipeline.clone(), record.stream.id.clone());
                // Streams that share a path share its file.
                let key = if template.has("stream") { key } else { (key.0, Arc::from("")) };
                let file = open.entry(key).or_insert_with(|| {
                    let path = template.fill(not_in_file_names, |name| match name {
                        "pipeline" => record.pipeline.to_string(),
                        _ => record.stream.id.to_string(),
                    });
                    LineFile::new(PathBuf::from(path), *rotate)
                });
                file.write(&self.line, SystemTime::now())
            }
        }
    }
}

/// Lines to a stream that somebody reads: a pipe, a terminal, a file the shell opened.
struct Lines {
    out: File,
    gone: bool,
}

impl Lines {
    fn new(out: File) -> Self {
        Self { out, gone: false }
    }

    fn write(&mut self, line: &[u8]) -> Result<(), SinkError> {
        if self.gone {
            return Err(SinkError("the reader of standard output is gone".to_owned()));
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Whoever started the process made the pipe non-blocking: wait for room here instead.
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let mut fds = [rustix::event::PollFd::new(&self.out, rustix::event::PollFlags::OUT)];
                    let _ = rustix::event::poll(&mut fds, None);
                }
                Err(e) => {
                    self.gone = e.kind() == ErrorKind::BrokenPipe;
                    return Err(SinkError(format!("standard output: {e}")));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::fd::OwnedFd;

    #[test]
    fn a_reader_that_leaves_is_an_error_and_not_a_signal() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut lines = Lines::new(File::from(OwnedFd::from(writer)));
        lines.write(b"{\"a\":1}\n").unwrap();
        let mut reader = BufReader::new(reader);
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        assert_eq!(first, "{\"a\":1}\n");
        drop(reader);
        assert!(lines.write(b"{}\n").is_err_and(|e| e.0.contains("Broken pipe")));
        assert!(lines.write(b"{}\n").is_err_and(|e| e.0.contains("gone")));
    }

    #[test]
    fn a_non_blocking_pipe_gets_whole_lines() {
        let (reader, writer) = std::io::pipe().unwrap();
        let out = File::from(OwnedFd::from(writer));
        let flags = rustix::fs::fcntl_getfl(&out).unwrap();
        rustix::fs::fcntl_setfl(&out, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        let line = [vec![b'x'; 200_000], vec![b'\n']].concat();
        let expected = line.clone();
        let writing = std::thread::spawn(move || Lines::new(out).write(&line));
        let mut got = Vec::new();
        BufReader::new(reader).read_until(b'\n', &mut got).unwrap();
        assert!(writing.join().unwrap().is_ok());
        assert!(got == expected);
    }
}

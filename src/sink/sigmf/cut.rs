//! One recording: a stretch of a stream on its way to two files.

use super::super::SinkError;
use super::super::heard::{Ear, Heard, taken_at};
use super::super::template::{Template, file_time, not_in_file_names};
use super::keep::Keeper;
use crate::frame::{Nanos, Record, SampleBlock};
use crate::signal::samples::Format;
use crate::signal::sigmf::{Annotation, Capture, SigmfError, Writer};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

/// So many recordings may be on their way to the disk at once.
const MOST_FINISHING: usize = 4;
/// What a recording has at most: a band full of bursts must not fill the memory with notes.
const MOST_NOTES: usize = 100_000;

impl From<SigmfError> for SinkError {
    fn from(e: SigmfError) -> Self {
        Self(e.to_string())
    }
}

/// Where recordings go, and what they have in common.
pub(super) struct Files {
    /// The sink's id.
    pub sink: Arc<str>,
    pub folder: PathBuf,
    pub name: Template,
    pub format: Format,
    pub keeper: Option<Keeper>,
    /// Recordings that are being brought to the disk: the stream does not wait for that.
    pub finishing: VecDeque<(PathBuf, JoinHandle<Result<(), SigmfError>>)>,
}

impl Files {
    /// Finishes a recording, without waiting for the disk.
    pub fn finish(&mut self, cut: Cut) -> Result<(), SinkError> {
        let (path, writer) = cut.annotated();
        let thread = std::thread::Builder::new().name("sigmf".into()).spawn(move || writer.finish());
        let thread = thread.map_err(|e| SinkError(format!("the system gives no more threads: {e}")))?;
        self.finishing.push_back((path, thread));
        self.finished(MOST_FINISHING)
    }

    /// Finishes a recording at the end, when there is no time to wait for the disk.
    pub fn finish_last(&mut self, cut: Cut) -> Result<(), SinkError> {
        let (path, writer) = cut.annotated();
        writer.finish_at_once()?;
        self.keep(path)
    }

    /// Takes note of recordings that are on the disk; waits while more than `most` are not.
    pub fn finished(&mut self, most: usize) -> Result<(), SinkError> {
        while self.finishing.len() > most || self.finishing.front().is_some_and(|(_, thread)| thread.is_finished()) {
            let Some((path, thread)) = self.finishing.pop_front() else { break };
            match thread.join() {
                Ok(result) => result?,
                Err(_) => return Err(SinkError(format!("{}: was not finished", path.display()))),
            }
            self.keep(path)?;
        }
        Ok(())
    }

    fn keep(&mut self, path: PathBuf) -> Result<(), SinkError> {
        tracing::info!(path = %path.display(), "recorded");
        self.keeper.as_mut().map_or(Ok(()), |keeper| keeper.finished(path))
    }

    /// The first name that is free: of finished recordings and of those that are being written.
    fn free(&self, name: &str) -> PathBuf {
        let taken = |base: &Path| {
            ["sigmf-meta", "sigmf-data", "sigmf-meta.part", "sigmf-data.part"].iter().any(|ending| {
                let mut path = base.as_os_str().to_owned();
                path.push(".");
                path.push(ending);
                Path::new(&path).exists()
            })
        };
        let mut path = self.folder.join(name);
        let mut n = 2u64;
        while taken(&path) {
            path = self.folder.join(format!("{name}-{n}"));
            n += 1;
        }
        path
    }
}

/// A block that is held, and when its last sample reached this host.
#[derive(Clone)]
pub(super) struct Held {
    pub block: Arc<SampleBlock>,
    pub captured: Nanos,
}

/// Samples without a gap between them.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Position in the stream, and in the file, of the first one.
    stream: u64,
    file: u64,
    count: u64,
}

/// A recording that is being written.
pub(super) struct Cut {
    writer: Writer,
    path: PathBuf,
    /// Position of its first sample, and of the first one that is too many.
    pub from: u64,
    pub limit: u64,
    /// Position of the next sample that it takes.
    pub next: u64,
    frequency: Option<f64>,
    runs: Vec<Run>,
    notes: Vec<Heard>,
    left_out: u64,
}

impl Cut {
    /// Begins a recording at a sample of `first`.
    pub fn begin(files: &Files, record: &Record, first: &Held, from: u64, limit: u64) -> Result<Self, SinkError> {
        let at = UNIX_EPOCH + Duration::from_nanos(taken_at(&first.block, first.captured, from).max(0) as u64);
        let name = files.name.fill(not_in_file_names, |name| match name {
            "pipeline" => record.pipeline.to_string(),
            "stream" => record.stream.id.to_string(),
            _ => file_time(at, true),
        });
        std::fs::create_dir_all(&files.folder).map_err(|e| SinkError(format!("{}: {e}", files.folder.display())))?;
        let path = files.free(&name);
        let mut writer = Writer::create(&path, files.format, first.block.rate)?;
        writer.global().other.extend(about(files, record));
        tracing::info!(stream = &*record.stream.id, path = %path.display(), "recording");
        let (frequency, runs, notes) = (None, Vec::new(), Vec::new());
        Ok(Self { writer, path, from, limit, next: from, frequency, runs, notes, left_out: 0 })
    }

    /// Writes what this block has of the positions from `next` up to `until`.
    pub fn write(&mut self, held: &Held, until: u64) -> Result<(), SinkError> {
        let block = &held.block;
        let start = self.next.max(block.position);
        let end = until.min(self.limit).min(block.end());
        if start >= end {
            return Ok(());
        }
        let jump = start - self.next;
        // How many are missing may be unknown; that some are is not.
        let gap = block.gap.filter(|_| start == block.position);
        let first = self.runs.is_empty();
        if first || jump > 0 || gap.is_some() || self.frequency != block.frequency {
            let mut other = Map::new();
            if !first && (jump > 0 || gap.is_some()) {
                let cause = gap.map_or("dropped", |g| g.cause.name());
                let samples = if jump > 0 { json!(jump) } else { Value::Null };
                other.insert("framegate:gap".into(), json!({ "samples": samples, "cause": cause }));
            }
            if let Some(time) = block.time {
                other.insert("framegate:time_accuracy_s".into(), json!(time.accuracy.as_secs_f64()));
            }
            let at = jiff::Timestamp::from_nanosecond(taken_at(block, held.captured, start).into()).ok();
            let datetime = at.map(|t| format!("{t:.9}"));
            self.writer.capture(Capture { frequency: block.frequency, datetime, other, ..Capture::default() });
            self.frequency = block.frequency;
            self.runs.push(Run { stream: start, file: self.writer.frames(), count: 0 });
        }
        let range = (start - block.position) as usize..(end - block.position) as usize;
        self.writer.write(&block.samples[range])?;
        if let Some(run) = self.runs.last_mut() {
            run.count += end - start;
        }
        self.next = end;
        Ok(())
    }

    /// Notes something that was heard, if it lies in the recording.
    pub fn note(&mut self, heard: &Heard) {
        if heard.end() <= self.from || heard.start >= self.limit {
            return;
        }
        match self.notes.len() < MOST_NOTES {
            true => self.notes.push(heard.clone()),
            false => self.left_out += 1,
        }
    }

    /// Gives up what cannot be written any more.
    pub fn abandon(self) {
        self.writer.abandon();
    }

    /// Writes the annotations down: nothing comes to them any more.
    fn annotated(mut self) -> (PathBuf, Writer) {
        for heard in &self.notes {
            if let Some((start, count)) = place(&self.runs, heard) {
                self.writer.annotate(annotation(heard, start, count, self.frequency));
            }
        }
        if self.left_out > 0 {
            self.writer.global().other.insert("framegate:annotations_left_out".into(), json!(self.left_out));
        }
        (self.path, self.writer)
    }
}

/// Keys for the metadata's global object.
fn about(files: &Files, record: &Record) -> Map<String, Value> {
    let version = env!("CARGO_PKG_VERSION");
    let mut map = Map::new();
    map.insert("core:recorder".into(), json!(format!("framegate {version}")));
    let extension = json!([{ "name": "framegate", "version": version, "optional": true }]);
    map.insert("core:extensions".into(), extension);
    map.insert("framegate:pipeline".into(), json!(&*record.pipeline));
    map.insert("framegate:stream".into(), json!(&*record.stream.id));
    map.insert(super::keep::SINK.into(), json!(&*files.sink));
    map
}

/// Where something that was heard lies in the file: its first sample there, and how many.
fn place(runs: &[Run], heard: &Heard) -> Option<(u64, u64)> {
    let inside = |run: &Run| {
        let start = heard.start.max(run.stream);
        let end = heard.end().min(run.stream + run.count);
        (start < end).then(|| (start - run.stream + run.file, end - run.stream + run.file))
    };
    // Runs follow each other in the file.
    let (start, mut end) = runs.iter().find_map(inside)?;
    for (_, e) in runs.iter().filter_map(inside) {
        end = e;
    }
    Some((start, end - start))
}

fn annotation(heard: &Heard, start: u64, count: u64, frequency: Option<f64>) -> Annotation {
    let mut other = Map::new();
    if let Some(snr) = heard.snr {
        other.insert("framegate:snr_db".into(), json!((snr * 100.0).round() / 100.0));
    }
    let generator = match heard.ear {
        Ear::Energy => "framegate energy",
        Ear::Adsb => "framegate adsb",
    };
    let [lower, upper] = match heard.edges {
        Some(edges) => edges.map(|e| Some(frequency.unwrap_or(0.0) + e)),
        None => [None; 2],
    };
    Annotation {
        start,
        count: Some(count),
        lower,
        upper,
        label: Some(heard.label.clone()),
        comment: heard.comment.clone(),
        generator: Some(generator.to_owned()),
        other,
    }
}

//! `spectrogram`: pictures of streams of samples, time from left to right, with what was heard drawn in.

mod columns;
mod paint;

use super::heard::{Heard, heard, taken_at};
use super::template::{Template, check_folder, file_time, free_name, make_parent, not_in_file_names};
use super::units::Span;
use super::{Sink, SinkConfig, SinkError};
use crate::frame::{Record, SampleBlock};
use crate::issue::Issue;
use crate::stage::BuildContext;
use columns::Columns;
use paint::{Sheet, paint};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `kind = "spectrogram"`: a picture (PNG) of every sample stream, time from left to right, frequency from bottom to top,
/// with bursts and messages drawn in.
///
/// A picture is written when its stream ends or has been silent for ten seconds, at the end of the run, when rate or
/// centre frequency change, and after `length`. Of a long stream the columns are averaged, so that it always fits.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpectrogramConfig {
    /// Path of a picture, `.png`, relative to the working directory. `{pipeline}`, `{stream}` and `{start}` (time of the
    /// first sample, UTC) are filled in; a number is added to a name that is taken. Missing folders are made.
    path: String,
    /// Width of the plot in pixels, 200 to 8192. Default 1600.
    #[serde(default = "usual_width")]
    width: u32,
    /// Samples of a transform, a power of two from 64 to 8192. Default 512. The plot is as many pixels high, from 256 to
    /// 1024.
    #[serde(default = "usual_bins")]
    bins: usize,
    /// Lowest and highest level of the colours, dBFS: `[-90, -20]`. Default: from the noise to the strongest.
    #[serde(default)]
    levels: Option<[f32; 2]>,
    /// Stream time of a picture: a new one begins behind it. Default: no limit.
    #[serde(default)]
    length: Option<Span>,
    /// Draw what was heard. Default true.
    #[serde(default = "yes")]
    labels: bool,
}

fn usual_width() -> u32 {
    1600
}
fn usual_bins() -> usize {
    512
}
fn yes() -> bool {
    true
}

const NAMES: &[&str] = &["pipeline", "stream", "start"];
/// A stream that is silent for so long has its picture written.
const SILENCE: Duration = Duration::from_secs(10);
/// More is not drawn: nobody could tell it apart.
const MOST_HEARD: usize = 10_000;

impl SinkConfig for SpectrogramConfig {
    fn check(&self, _: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        match Template::read(&self.path, NAMES) {
            Err(e) => issues.push(Issue::error("path", e)),
            Ok(t) => {
                issues.extend(check_folder("path", &t));
                if !t.has("stream") {
                    issues.push(
                        Issue::warning(
                            "path",
                            "has no `{stream}`: pictures of several streams are told apart by a number only",
                        )
                        .help("path = \"{stream}-{start}.png\""),
                    );
                }
            }
        }
        if Path::new(&self.path).extension().is_none_or(|e| e != "png") {
            issues.push(Issue::error("path", "is no picture's name").help("end it in .png"));
        }
        if !(200..=8192).contains(&self.width) {
            issues.push(Issue::error("width", "must lie between 200 and 8192"));
        }
        if !(64..=8192).contains(&self.bins) || !self.bins.is_power_of_two() {
            issues.push(Issue::error("bins", "must be a power of two from 64 to 8192"));
        }
        if self.levels.is_some_and(|[low, high]| !(low.is_finite() && high.is_finite() && high - low >= 1.0)) {
            issues.push(Issue::error("levels", "must be the lowest and a higher level").help("levels = [-90, -20]"));
        }
        issues
    }

    fn wants_payload(&self) -> bool {
        true
    }

    fn open(&self, context: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        super::refuse(self, context)?;
        let path = Template::read(&self.path, NAMES).map_err(SinkError)?;
        Ok(Box::new(SpectrogramSink { config: self.clone(), path, streams: HashMap::new() }))
    }
}

struct SpectrogramSink {
    config: SpectrogramConfig,
    path: Template,
    streams: HashMap<Arc<str>, Picture>,
}

/// A picture in the making.
struct Picture {
    pipeline: Arc<str>,
    stream: Arc<str>,
    /// The stream's number, and that of its newest frame.
    index: u32,
    seq: u64,
    rate: f64,
    frequency: Option<f64>,
    /// When the first sample was taken, nanoseconds since 1970.
    start: i64,
    columns: Columns,
    heard: Vec<Heard>,
    last: Instant,
    ended: bool,
}

impl Picture {
    fn begin(config: &SpectrogramConfig, record: &Record, block: &SampleBlock) -> Result<Self, SinkError> {
        let columns = Columns::new(block.rate, config.bins, config.width as usize, block.position);
        Ok(Self {
            pipeline: record.pipeline.clone(),
            stream: record.stream.id.clone(),
            index: record.stream.index,
            seq: record.seq,
            rate: block.rate,
            frequency: block.frequency,
            start: taken_at(block, record.captured, block.position),
            columns: columns.map_err(|e| SinkError(e.to_string()))?,
            heard: Vec::new(),
            last: Instant::now(),
            ended: false,
        })
    }

    /// Whether a record belongs to it; if not, to the next one.
    fn goes_on(&self, record: &Record, block: &SampleBlock, longest: Option<Duration>) -> bool {
        let same = self.index == record.stream.index && self.rate == block.rate && self.frequency == block.frequency;
        let next = self.columns.end();
        let long = longest.is_some_and(|l| (next - self.columns.origin()) as f64 >= l.as_secs_f64() * self.rate);
        same && (record.seq <= self.seq || (!self.ended && block.position >= next && !long))
    }

    fn take(&mut self, record: &Record, block: &SampleBlock, labels: bool) {
        self.last = Instant::now();
        // A frame may come on several branches of the graph.
        if block.position >= self.columns.end() {
            self.seq = record.seq;
            self.ended = block.last;
            self.columns.push(block);
        }
        if labels {
            for heard in heard(record, self.rate) {
                if self.heard.len() < MOST_HEARD && !self.heard.iter().rev().take(64).any(|h| *h == heard) {
                    self.heard.push(heard);
                }
            }
        }
    }
}

/// Paints a picture and writes it, under a temporary name until it is whole.
fn write(mut picture: Picture, config: &SpectrogramConfig, path: &Template) -> Result<(), SinkError> {
    picture.columns.finish();
    let at = std::time::UNIX_EPOCH + Duration::from_nanos(picture.start.max(0) as u64);
    let path = path.fill(not_in_file_names, |name| match name {
        "pipeline" => picture.pipeline.to_string(),
        "stream" => picture.stream.to_string(),
        _ => file_time(at, false),
    });
    let path = free_name(PathBuf::from(path));
    let sheet = Sheet {
        title: &picture.stream,
        at,
        rate: picture.rate,
        frequency: picture.frequency,
        columns: &picture.columns,
        heard: &picture.heard,
        width: config.width,
        levels: config.levels,
    };
    let png = paint(&sheet)?;
    let failed = |e: std::io::Error| SinkError(format!("{}: {e}", path.display()));
    make_parent(&path).map_err(failed)?;
    let part = path.with_extension("png.part");
    std::fs::write(&part, png).map_err(failed)?;
    std::fs::rename(&part, &path).map_err(failed)?;
    tracing::info!(stream = &*picture.stream, path = %path.display(), "painted");
    Ok(())
}

impl SpectrogramSink {
    /// Writes the pictures of streams that have ended or gone silent.
    fn write_finished(&mut self) -> Result<(), SinkError> {
        let done = self.streams.extract_if(|_, p| p.ended || p.last.elapsed() >= SILENCE);
        let done: Vec<_> = done.map(|(_, p)| p).collect();
        done.into_iter().map(|p| write(p, &self.config, &self.path)).fold(Ok(()), Result::and)
    }
}

impl Sink for SpectrogramSink {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        let block = record.payload.samples().ok_or_else(|| SinkError("the record carries no samples".to_owned()))?;
        let longest = self.config.length.map(|s| s.0);
        let mut known = self.streams.remove(&record.stream.id);
        let mut result = Ok(());
        if let Some(old) = known.take_if(|p| !p.goes_on(record, block, longest)) {
            result = write(old, &self.config, &self.path);
        }
        let mut picture = match known {
            Some(picture) => picture,
            None => Picture::begin(&self.config, record, block)?,
        };
        picture.take(record, block, self.config.labels);
        self.streams.insert(record.stream.id.clone(), picture);
        result
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.write_finished()
    }

    fn idle(&mut self) {
        if let Err(e) = self.write_finished() {
            tracing::warn!(error = %e, "spectrogram not written");
        }
    }
}

impl Drop for SpectrogramSink {
    fn drop(&mut self) {
        for (stream, picture) in self.streams.drain() {
            if let Err(e) = write(picture, &self.config, &self.path) {
                tracing::warn!(stream = &*stream, error = %e, "spectrogram not written");
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! `video`: recordings with the results drawn in.

mod recording;
mod timeline;

use super::overlay::{Canvas, draw};
use super::template::{Template, check_folder, file_time, free_name, make_parent, not_in_file_names};
use super::units::Span;
use super::{Sink, SinkConfig, SinkError};
use crate::frame::{Record, clock};
use crate::issue::Issue;
use crate::stage::BuildContext;
use gstreamer as gst;
use opencv::core::{Mat, MatTraitConst, MatTraitConstManual};
use opencv::imgproc;
use recording::{Container, Encoding, Recording};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use timeline::{Place, Timeline};

/// `kind = "video"`: records every stream to files of its own, H.264 in Matroska or MP4.
///
/// The frames keep the distances of their stream times. A new file begins when the picture's size changes, after
/// `segment`, and after a gap of a minute. A file is finished at the end, or when its stream has been silent for ten
/// seconds. One that a crash cut short can be played up to its last second: Matroska by its nature,
/// MP4 because it is written in fragments until it is finished.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VideoConfig {
    /// Path of a file, `.mkv` or `.mp4`, relative to the working directory. `{pipeline}`, `{stream}` and `{start}` (time
    /// of the first frame, UTC) are filled in; a number is added to a name that is taken. Missing folders are made.
    path: String,
    /// Largest number of frames per second that is recorded. Default: all.
    #[serde(default)]
    fps: Option<f64>,
    /// Quality at whatever bit rate it needs, 1 to 100. Default 70, unless `bitrate` is given.
    #[serde(default)]
    quality: Option<u8>,
    /// Bit rate to keep, in kbit/s, in place of `quality`; at the frame rate that the pipeline plans for.
    #[serde(default)]
    bitrate: Option<u32>,
    /// Length of a file: `"10min"`. Default: no limit.
    #[serde(default)]
    segment: Option<Span>,
    /// Draw boxes, labels and the bar with latency and rung. Default true.
    #[serde(default = "yes")]
    overlay: bool,
    /// The GStreamer element that encodes. Default `"auto"`: the first that works of `nvh264enc`, `vah264enc`,
    /// `x264enc`, `openh264enc`.
    #[serde(default = "auto")]
    encoder: String,
}

fn yes() -> bool {
    true
}
fn auto() -> String {
    "auto".to_owned()
}

const NAMES: &[&str] = &["pipeline", "stream", "start"];
const DEFAULT_QUALITY: u8 = 70;
/// A stream that is silent for so long has its file finished.
const SILENCE: Duration = Duration::from_secs(10);
/// Time between two attempts to begin a file after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Time that all files together have to be finished at the end.
const LAST_WORDS: Duration = Duration::from_millis(1500);

impl VideoConfig {
    fn encoding(&self, fps: f64) -> Encoding {
        Encoding {
            element: (self.encoder != "auto").then(|| self.encoder.clone()),
            quality: self.quality.unwrap_or(DEFAULT_QUALITY),
            bitrate_kbit: self.bitrate,
            fps: self.fps.map_or(fps, |limit| limit.min(fps)),
        }
    }
}

impl SinkConfig for VideoConfig {
    fn check(&self, context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        match Template::read(&self.path, NAMES) {
            Err(e) => issues.push(Issue::error("path", e)),
            Ok(t) => {
                issues.extend(check_folder("path", &t));
                if !t.has("stream") {
                    issues.push(
                        Issue::warning(
                            "path",
                            "has no `{stream}`: files of several streams are told apart by a number only",
                        )
                        .help("path = \"recordings/{stream}-{start}.mkv\""),
                    );
                }
            }
        }
        let container = Container::of(Path::new(&self.path));
        if let Err(e) = &container {
            issues.push(Issue::error("path", e.0.clone()).help("end it in .mkv or .mp4"));
        }
        if self.fps.is_some_and(|fps| !(fps > 0.0 && fps <= 1000.0)) {
            issues.push(Issue::error("fps", "must lie above 0 and not above 1000"));
        }
        if self.quality.is_some_and(|q| !(1..=100).contains(&q)) {
            issues.push(Issue::error("quality", "must lie between 1 and 100"));
        }
        if self.bitrate.is_some_and(|b| !(10..=1_000_000).contains(&b)) {
            issues.push(Issue::error("bitrate", "must lie between 10 and 1000000 kbit/s"));
        }
        if self.quality.is_some() && self.bitrate.is_some() {
            issues.push(Issue::error("bitrate", "and `quality` exclude each other").help("remove one of them"));
        }
        if let Err(e) = gst::init() {
            issues.push(Issue::error("", format!("GStreamer does not start: {e}")));
            return issues;
        }
        if let Err(e) = self.encoding(context.fps).find() {
            issues.push(
                Issue::error("encoder", e.0).help("install gstreamer1.0-plugins-ugly (x264enc) or -bad (openh264enc)"),
            );
        }
        if let Ok(container) = container {
            for element in ["appsrc", "videoconvert", "h264parse", container.muxer(), "filesink"] {
                if gst::ElementFactory::find(element).is_none() {
                    issues.push(
                        Issue::error("path", format!("the GStreamer element `{element}` is missing"))
                            .help("install gstreamer1.0-plugins-{base,good,bad}; `framegate doctor` says more"),
                    );
                }
            }
        }
        issues
    }

    fn wants_payload(&self) -> bool {
        true
    }

    fn open(&self, context: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        super::refuse(self, context)?;
        Ok(Box::new(VideoSink {
            path: Template::read(&self.path, NAMES).map_err(SinkError)?,
            encoding: self.encoding(context.fps),
            segment: self.segment.map(|s| s.0),
            interval: self.fps.map(|fps| Duration::from_secs_f64(1.0 / fps)),
            overlay: self.overlay,
            canvas: Canvas::default(),
            streams: HashMap::new(),
        }))
    }
}

struct VideoSink {
    path: Template,
    encoding: Encoding,
    segment: Option<Duration>,
    /// Least distance of two recorded frames.
    interval: Option<Duration>,
    overlay: bool,
    canvas: Canvas,
    streams: HashMap<Arc<str>, Track>,
}

/// One stream's recording.
#[derive(Default)]
struct Track {
    timeline: Timeline,
    /// The file, and the size of its pictures.
    open: Option<(Recording, (u32, u32))>,
    /// When the next frame is due, where their rate is limited.
    due: Duration,
    last: Option<Instant>,
    /// The last attempt failed, for this reason; when it is tried again.
    failed: Option<(Instant, String)>,
}

impl VideoSink {
    fn begin(&self, record: &Record, size: (u32, u32)) -> Result<Recording, SinkError> {
        let path = self.path.fill(not_in_file_names, |name| match name {
            "pipeline" => record.pipeline.to_string(),
            "stream" => record.stream.id.to_string(),
            _ => file_time(clock::wall(record.captured), false),
        });
        let path = free_name(PathBuf::from(path));
        make_parent(&path).map_err(|e| SinkError(format!("{}: {e}", path.display())))?;
        let recording = Recording::begin(&path, size, &self.encoding)?;
        tracing::info!(stream = &*record.stream.id, path = %path.display(), encoder = recording.encoder(), "recording");
        Ok(recording)
    }

    /// Finishes the files of streams that have gone silent, and forgets the streams.
    fn finish_silent(&mut self) {
        self.streams.retain(|stream, track| {
            if track.last.is_none_or(|at| at.elapsed() < SILENCE) {
                return true;
            }
            if let Some((recording, _)) = track.open.take()
                && let Err(e) = recording.finish(Instant::now() + LAST_WORDS)
            {
                tracing::warn!(stream = &**stream, error = %e, "recording not finished");
            }
            false
        });
    }

    fn record(&mut self, track: &mut Track, record: &Record) -> Result<(), SinkError> {
        let picture = record.payload.picture().ok_or_else(|| SinkError("the record carries no picture".to_owned()))?;
        // 4:2:0 needs even sizes, and encoders need a few pixels.
        let (w, h) = picture.view_size();
        let size = ((w & !1).max(16), (h & !1).max(16));
        let place = track.timeline.place(record.pts, record.captured);
        let over = self.segment.is_some_and(|s| track.timeline.position() >= s);
        if place == Place::NewFile || over || track.open.as_ref().is_some_and(|(_, s)| *s != size) {
            if let Some((recording, _)) = track.open.take() {
                recording.finish(Instant::now() + LAST_WORDS)?;
            }
            track.timeline.restart();
            track.due = Duration::ZERO;
        }
        let at = track.timeline.position();
        if let Some(interval) = self.interval {
            // A hair's breadth early is on time: stream times are rounded.
            if at + Duration::from_millis(1) < track.due {
                return Ok(());
            }
            track.due = if at > track.due + interval { at + interval } else { track.due + interval };
        }
        let mut mat = self.canvas.read(picture, size)?;
        if self.overlay {
            draw(&mut mat, record)?;
        }
        let recording = match &mut track.open {
            Some((recording, _)) => recording,
            none => {
                // What comes before the file's first frame is not part of it.
                track.timeline.restart();
                track.due = self.interval.unwrap_or_default();
                &mut none.insert((self.begin(record, size)?, size)).0
            }
        };
        recording.push(planar(&mat)?, track.timeline.position(), track.timeline.usual())
    }
}

impl Sink for VideoSink {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        self.finish_silent();
        let mut track = self.streams.remove(&record.stream.id).unwrap_or_default();
        track.last = Some(Instant::now());
        let result = match &track.failed {
            Some((retry, why)) if Instant::now() < *retry => Err(SinkError(why.clone())),
            _ => {
                let result = self.record(&mut track, record);
                track.failed = result.as_ref().err().map(|e| (Instant::now() + RETRY, e.0.clone()));
                if result.is_err() {
                    // What is in the file stays there; the next frame that can be recorded begins another.
                    track.open = None;
                }
                result
            }
        };
        self.streams.insert(record.stream.id.clone(), track);
        result
    }

    // No `flush`: every picture is on its way to the disk already, and the files stay open, for a pause is no end.

    fn idle(&mut self) {
        self.finish_silent();
    }
}

impl Drop for VideoSink {
    fn drop(&mut self) {
        let by = Instant::now() + LAST_WORDS;
        let mut open: Vec<_> = self.streams.drain().filter_map(|(id, t)| Some((id, t.open?.0))).collect();
        // All encoders drain at once.
        for (_, recording) in &mut open {
            recording.end();
        }
        for (stream, recording) in open {
            if let Err(e) = recording.finish(by) {
                tracing::warn!(stream = &*stream, error = %e, "recording not finished; it can be played up to its last second");
            }
        }
    }
}

/// B, G, R to planar 4:2:0 (BT.601, limited range), without gaps between rows.
fn planar(mat: &Mat) -> Result<Vec<u8>, SinkError> {
    let mut out = Mat::default();
    imgproc::cvt_color(mat, &mut out, imgproc::COLOR_BGR2YUV_I420, 0)?;
    if !out.is_continuous() {
        return Err(SinkError("the converted picture has gaps".to_owned()));
    }
    Ok(out.data_bytes()?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::Severity;

    fn issues(text: &str) -> Vec<(String, Severity)> {
        let context = BuildContext { id: "rec".into(), ..Default::default() };
        let config: VideoConfig = toml::from_str(text).unwrap();
        config.check(&context).into_iter().map(|i| (i.key, i.severity)).collect()
    }

    #[test]
    fn what_cannot_work_is_said_by_key() {
        let error = |key: &str| (key.to_owned(), Severity::Error);
        assert_eq!(issues("path = \"{stream}-{start}.mkv\""), []);
        assert_eq!(issues("path = \"{stream}.avi\""), [error("path")]);
        assert_eq!(issues("path = \"{cam}.mp4\""), [error("path")]);
        assert_eq!(issues("path = \"a.mp4\""), [("path".to_owned(), Severity::Warning)]);
        assert_eq!(issues("path = \"{stream}.mp4\"\nfps = 0.0\nquality = 0"), [error("fps"), error("quality")]);
        assert_eq!(issues("path = \"{stream}.mp4\"\nbitrate = 500\nquality = 9"), [error("bitrate")]);
        assert_eq!(issues("path = \"{stream}.mp4\"\nencoder = \"no264enc\""), [error("encoder")]);
    }
}

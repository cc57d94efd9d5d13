//! `wav`: streams of samples as WAV files, audio above all.

use super::template::{Template, check_folder, file_time, free_name, make_parent, not_in_file_names};
use super::units::Span;
use super::{Sink, SinkConfig, SinkError};
use crate::frame::{Record, SampleBlock, clock};
use crate::issue::Issue;
use crate::signal::Complex32;
use crate::stage::BuildContext;
use hound::{SampleFormat, WavSpec, WavWriter};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `kind = "wav"`: writes every stream of samples to WAV files of its own, behind a stage of kind `demod` as audio.
///
/// Real samples become one channel, complex ones two: in phase left, quadrature right. What is missing is filled with
/// silence, so that the file keeps its time. A new file begins where the rate changes, where the stream turns out to be
/// complex, behind a gap longer than `fill`, after `segment`, and before 4 GiB, which is all that WAV can count. A file is
/// finished at the end, or when its stream has been silent for ten seconds. One that a crash cut short can be played up
/// to its last second.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WavConfig {
    /// Path of a file, `.wav`, relative to the working directory. `{pipeline}`, `{stream}` and `{start}` (time of the first
    /// block, UTC) are filled in; a number is added to a name that is taken. Missing folders are made.
    path: String,
    /// `s16`, or `f32`, which twice the space holds what is beyond full scale too. Default `s16`.
    #[serde(default)]
    format: Form,
    /// Whether samples are complex. Default: seen by the samples; then a stream that begins with silence begins a second
    /// file with its first sample that is not real.
    #[serde(default)]
    iq: Option<bool>,
    /// Longest gap that is filled with silence. Default `10s`.
    #[serde(default = "fill")]
    fill: Span,
    /// Length of a file: `"10min"`. Default: no limit.
    #[serde(default)]
    segment: Option<Span>,
}

/// How a sample is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// Integers of 16 bits; what is beyond full scale is clipped, and counted in the log.
    #[default]
    S16,
    /// Floats of 32 bits.
    F32,
}

fn fill() -> Span {
    Span(Duration::from_secs(10))
}

const NAMES: &[&str] = &["pipeline", "stream", "start"];
/// A stream that is silent for so long has its file finished.
const SILENCE: Duration = Duration::from_secs(10);
/// Time between two attempts to begin a file after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How often the header of a file that is being written is brought up to date.
const UPDATE: Duration = Duration::from_secs(1);
/// The most bytes of samples in a file: the format counts in 32 bits, header included.
const MOST: u64 = u32::MAX as u64 - 4096;

impl SinkConfig for WavConfig {
    fn check(&self, _context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        match Template::read(&self.path, NAMES) {
            Err(e) => issues.push(Issue::error("path", e)),
            Ok(t) => {
                issues.extend(check_folder("path", &t));
                if !t.has("stream") {
                    let message = "has no `{stream}`: files of several streams are told apart by a number only";
                    issues.push(Issue::warning("path", message).help("path = \"audio/{stream}-{start}.wav\""));
                }
            }
        }
        if !Path::new(&self.path).extension().is_some_and(|e| e.eq_ignore_ascii_case("wav")) {
            issues.push(Issue::error("path", format!("`{}` names no WAV file", self.path)).help("end it in .wav"));
        }
        issues
    }

    fn wants_payload(&self) -> bool {
        true
    }

    fn open(&self, context: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        super::refuse(self, context)?;
        Ok(Box::new(WavSink {
            path: Template::read(&self.path, NAMES).map_err(SinkError)?,
            config: self.clone(),
            streams: HashMap::new(),
        }))
    }
}

struct WavSink {
    path: Template,
    config: WavConfig,
    streams: HashMap<Arc<str>, Track>,
}

/// One stream's recording.
#[derive(Default)]
struct Track {
    take: Option<Take>,
    /// It has had a sample that is not real.
    complex: bool,
    /// Number of the frame that came last, and when.
    last: Option<(u64, Instant)>,
    /// The last attempt failed, for this reason; when it is tried again.
    failed: Option<(Instant, String)>,
}

/// An open file.
struct Take {
    writer: WavWriter<BufWriter<File>>,
    path: PathBuf,
    form: Form,
    rate: f64,
    complex: bool,
    /// Position in the stream behind what is written.
    next: u64,
    /// Samples that it holds, silence included.
    length: u64,
    gaps: u64,
    silence: u64,
    clipped: u64,
    updated: Instant,
}

impl Take {
    /// Bytes of so many samples.
    fn bytes(&self, samples: u64) -> u64 {
        samples * if self.complex { 2 } else { 1 } * if self.form == Form::S16 { 2 } else { 4 }
    }

    /// Samples that are missing before a block that belongs into this file; `None` where it does not.
    fn gap_before(&self, block: &SampleBlock, complex: bool, config: &WavConfig) -> Option<u64> {
        let gap = block.position.checked_sub(self.next)?;
        let seconds = |samples: u64| samples as f64 / self.rate;
        let fits = self.rate == block.rate
            && self.complex == complex
            && seconds(gap) <= config.fill.0.as_secs_f64()
            && config.segment.is_none_or(|s| seconds(self.length + gap) < s.0.as_secs_f64())
            && self.bytes(self.length + gap + block.samples.len() as u64) <= MOST;
        fits.then_some(gap)
    }

    fn number(&mut self, value: f32) -> hound::Result<()> {
        match self.form {
            // `as` saturates, and makes NaN silent.
            Form::S16 => {
                let scaled = (value * 32768.0).round();
                self.clipped += u64::from(!(-32768.0..=32767.0).contains(&scaled));
                self.writer.write_sample(scaled as i16)
            }
            Form::F32 => self.writer.write_sample(value),
        }
    }

    fn sample(&mut self, sample: Complex32) -> hound::Result<()> {
        self.length += 1;
        self.number(sample.re)?;
        if self.complex { self.number(sample.im) } else { Ok(()) }
    }

    fn write(&mut self, gap: u64, block: &SampleBlock) -> hound::Result<()> {
        self.gaps += u64::from(gap > 0);
        self.silence += gap;
        for _ in 0..gap {
            self.sample(Complex32::default())?;
        }
        for &sample in &block.samples {
            self.sample(sample)?;
        }
        self.next = block.end();
        if self.updated.elapsed() >= UPDATE {
            self.update()?;
        }
        Ok(())
    }

    /// Brings the header up to date, and what is written to the disk's cache.
    fn update(&mut self) -> hound::Result<()> {
        self.updated = Instant::now();
        self.writer.flush()
    }

    fn finish(self, stream: &str) -> Result<(), SinkError> {
        let Self { writer, path, rate, length, gaps, silence, clipped, .. } = self;
        writer.finalize().map_err(|e| failure(&path, &e))?;
        let (seconds, silence) = (length as f64 / rate, silence as f64 / rate);
        tracing::info!(stream, path = %path.display(), seconds, gaps, silence, clipped, "audio file finished");
        Ok(())
    }
}

fn failure(path: &Path, error: &hound::Error) -> SinkError {
    SinkError(format!("{}: {error}", path.display()))
}

impl WavSink {
    fn begin(&self, record: &Record, block: &SampleBlock, complex: bool) -> Result<Take, SinkError> {
        let rate = block.rate.round();
        if !(1.0..=f64::from(u32::MAX)).contains(&rate) {
            return Err(SinkError(format!("WAV has no sample rate of {}", block.rate)));
        }
        let path = self.path.fill(not_in_file_names, |name| match name {
            "pipeline" => record.pipeline.to_string(),
            "stream" => record.stream.id.to_string(),
            _ => file_time(clock::wall(record.captured), false),
        });
        let path = free_name(PathBuf::from(path));
        make_parent(&path).map_err(|e| SinkError(format!("{}: {e}", path.display())))?;
        let (bits_per_sample, sample_format) = match self.config.format {
            Form::S16 => (16, SampleFormat::Int),
            Form::F32 => (32, SampleFormat::Float),
        };
        let channels = if complex { 2 } else { 1 };
        let spec = WavSpec { channels, sample_rate: rate as u32, bits_per_sample, sample_format };
        let writer = WavWriter::create(&path, spec).map_err(|e| failure(&path, &e))?;
        tracing::info!(stream = &*record.stream.id, path = %path.display(), rate, channels, "audio file begun");
        Ok(Take {
            writer,
            path,
            form: self.config.format,
            rate: block.rate,
            complex,
            next: block.position,
            length: 0,
            gaps: 0,
            silence: 0,
            clipped: 0,
            updated: Instant::now(),
        })
    }

    fn record(&self, track: &mut Track, record: &Record) -> Result<(), SinkError> {
        let block = record.payload.samples().ok_or_else(|| SinkError("the record carries no samples".to_owned()))?;
        track.complex |= self.config.iq.unwrap_or_else(|| block.samples.iter().any(|s| s.im != 0.0));
        let stream = &*record.stream.id;
        let gap = track.take.as_ref().and_then(|t| t.gap_before(block, track.complex, &self.config));
        if gap.is_none()
            && let Some(take) = track.take.take()
        {
            take.finish(stream)?;
        }
        let take = match &mut track.take {
            Some(take) => take,
            none => none.insert(self.begin(record, block, track.complex)?),
        };
        take.write(gap.unwrap_or(0), block).map_err(|e| failure(&take.path, &e))?;
        if block.last
            && let Some(take) = track.take.take()
        {
            take.finish(stream)?;
        }
        Ok(())
    }

    /// Finishes the files of streams that have gone silent, and forgets the streams.
    fn finish_silent(&mut self) {
        self.streams.retain(|stream, track| {
            if track.last.is_none_or(|(_, at)| at.elapsed() < SILENCE) {
                return true;
            }
            finish(stream, track);
            false
        });
    }
}

/// Finishes a stream's file when nobody is there to be told of an error.
fn finish(stream: &str, track: &mut Track) {
    if let Some(take) = track.take.take()
        && let Err(e) = take.finish(stream)
    {
        tracing::warn!(stream, error = %e, "audio file not finished; it can be played up to its last second");
    }
}

impl Sink for WavSink {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        self.finish_silent();
        let mut track = self.streams.remove(&record.stream.id).unwrap_or_default();
        // A frame that comes by two ways is written once.
        let again = track.last.is_some_and(|(seq, _)| seq == record.seq);
        track.last = Some((record.seq, Instant::now()));
        let result = match &track.failed {
            _ if again => Ok(()),
            Some((retry, why)) if Instant::now() < *retry => Err(SinkError(why.clone())),
            _ => {
                let result = self.record(&mut track, record);
                track.failed = result.as_ref().err().map(|e| (Instant::now() + RETRY, e.0.clone()));
                if result.is_err() {
                    // What is in the file stays there; the next block that can be written begins another.
                    track.take = None;
                }
                result
            }
        };
        self.streams.insert(record.stream.id.clone(), track);
        result
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        let takes = self.streams.values_mut().filter_map(|t| t.take.as_mut());
        takes.map(|t| t.update().map_err(|e| failure(&t.path, &e))).fold(Ok(()), Result::and)
    }

    fn idle(&mut self) {
        self.finish_silent();
    }
}

impl Drop for WavSink {
    fn drop(&mut self) {
        for (stream, mut track) in self.streams.drain() {
            finish(&stream, &mut track);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Annotations, Payload, Stream};
    use crate::issue::Severity;

    fn record(stream: &Arc<Stream>, block: SampleBlock) -> Arc<Record> {
        let seq = stream.capture(0).seq;
        Arc::new(Record {
            pipeline: "p".into(),
            stream: stream.clone(),
            seq,
            pts: None,
            captured: 0,
            camera_time_us: None,
            delivered: 1,
            on_time: true,
            rung: "full".into(),
            rescued: false,
            inferred: false,
            size: None,
            samples: None,
            annotations: Annotations::default(),
            payload: Payload::Samples(Arc::new(block)),
        })
    }

    fn stream(id: &str) -> Arc<Stream> {
        Arc::new(Stream::new(id, 0, None, 0, true))
    }

    /// A block that counts: sample `k` of the stream is `k + 1` of 32 768.
    fn block(position: u64, count: u64) -> SampleBlock {
        let sample = |k: u64| Complex32::new((k + 1) as f32 / 32768.0, 0.0);
        let samples = (position..position + count).map(sample).collect();
        SampleBlock { samples, rate: 8000.0, frequency: None, position, last: false, gap: None, time: None }
    }

    fn open(folder: &Path, more: &str) -> Box<dyn Sink> {
        let text = format!("path = \"{}/new/{{stream}}.wav\"\n{more}", folder.display());
        super::super::from_toml("wav", &text).and_then(|c| c.open(&BuildContext::default())).expect("opens")
    }

    fn read(folder: &Path, name: &str) -> (WavSpec, Vec<i16>) {
        let mut reader = hound::WavReader::open(folder.join("new").join(name)).expect("a file");
        (reader.spec(), reader.samples().collect::<Result<_, _>>().expect("samples"))
    }

    fn count(folder: &Path) -> usize {
        std::fs::read_dir(folder.join("new")).expect("a folder").count()
    }

    #[test]
    fn every_sample_is_in_the_file_at_its_place_and_gaps_are_silent() {
        let dir = tempfile::tempdir().expect("folder");
        let (radio, other) = (stream("radio"), stream("../other"));
        let mut sink = open(dir.path(), "fill = \"1s\"");
        for b in [block(100, 50), block(150, 50), block(230, 10)] {
            let record = record(&radio, b);
            sink.deliver(&record).expect("written");
            // The same frame by another way.
            sink.deliver(&record).expect("passed over");
        }
        sink.deliver(&record(&other, block(0, 5))).expect("written");
        // More than a second, and then back: another file each.
        for b in [block(8241, 5), block(3, 5)] {
            sink.deliver(&record(&radio, b)).expect("written");
        }
        drop(sink);
        let (spec, samples) = read(dir.path(), "radio.wav");
        assert_eq!((spec.channels, spec.sample_rate, spec.bits_per_sample), (1, 8000, 16));
        let expected: Vec<i16> = (100..240).map(|k| if (200..230).contains(&k) { 0 } else { k + 1 }).collect();
        assert_eq!(samples, expected);
        assert_eq!(read(dir.path(), "radio-2.wav").1, [8242, 8243, 8244, 8245, 8246]);
        assert_eq!(read(dir.path(), "radio-3.wav").1, [4, 5, 6, 7, 8]);
        assert_eq!(read(dir.path(), ".._other.wav").1, [1, 2, 3, 4, 5]);
        assert_eq!(count(dir.path()), 4);
    }

    #[test]
    fn complex_samples_are_two_channels_and_floats_hold_everything() {
        let dir = tempfile::tempdir().expect("folder");
        let radio = stream("iq");
        let mut sink = open(dir.path(), "format = \"f32\"");
        sink.deliver(&record(&radio, block(0, 2))).expect("written");
        let samples = vec![Complex32::new(1.5, -0.25), Complex32::new(-3.0, 0.0)];
        sink.deliver(&record(&radio, SampleBlock { samples, ..block(2, 0) })).expect("written");
        sink.deliver(&record(&radio, SampleBlock { last: true, ..block(4, 1) })).expect("written");
        // It is finished although the sink is still there.
        let mut reader = hound::WavReader::open(dir.path().join("new/iq-2.wav")).expect("a file");
        let spec = reader.spec();
        assert_eq!((spec.channels, spec.sample_format, reader.duration()), (2, SampleFormat::Float, 3));
        let numbers: Vec<f32> = reader.samples().collect::<Result<_, _>>().expect("samples");
        assert_eq!(numbers, [1.5, -0.25, -3.0, 0.0, 5.0 / 32768.0, 0.0]);
        sink.deliver(&record(&radio, SampleBlock { rate: 0.25, ..block(5, 1) })).expect_err("no such rate");
        drop(sink);
        let mut sink = open(dir.path(), "iq = true");
        sink.deliver(&record(&radio, block(0, 2))).expect("written");
        drop(sink);
        assert_eq!(read(dir.path(), "iq-3.wav").1, [1, 0, 2, 0]);
    }

    #[test]
    fn what_is_beyond_full_scale_is_clipped_and_nan_is_silent() {
        let dir = tempfile::tempdir().expect("folder");
        let mut sink = open(dir.path(), "");
        let samples = [1.0, -1.0, 2.0, f32::NEG_INFINITY, f32::NAN].map(|v| Complex32::new(v, 0.0)).to_vec();
        sink.deliver(&record(&stream("loud"), SampleBlock { samples, ..block(0, 0) })).expect("written");
        drop(sink);
        assert_eq!(read(dir.path(), "loud.wav").1, [32767, -32768, 32767, -32768, 0]);
    }

    #[test]
    fn a_file_that_is_never_finished_can_be_read_up_to_the_last_flush() {
        let dir = tempfile::tempdir().expect("folder");
        let radio = stream("radio");
        let mut sink = open(dir.path(), "segment = \"100ms\"");
        sink.deliver(&record(&radio, block(0, 700))).expect("written");
        sink.flush().expect("flushed");
        // As a crash leaves it: nobody finishes this copy.
        std::fs::copy(dir.path().join("new/radio.wav"), dir.path().join("new/crashed.wav")).expect("copied");
        assert_eq!(read(dir.path(), "crashed.wav").1, (1..=700).collect::<Vec<i16>>());
        // The first block at or behind the segment's end begins another file.
        sink.deliver(&record(&radio, block(700, 100))).expect("written");
        sink.deliver(&record(&radio, block(800, 3))).expect("written");
        drop(sink);
        assert_eq!(read(dir.path(), "radio.wav").1.len(), 800);
        assert_eq!(read(dir.path(), "radio-2.wav").1, [801, 802, 803]);
    }

    #[test]
    fn what_cannot_work_is_said_by_key_and_pictures_are_refused() {
        let issues = |text: &str| -> Vec<(String, Severity)> {
            let config: WavConfig = toml::from_str(text).expect("read");
            config.check(&BuildContext::default()).into_iter().map(|i| (i.key, i.severity)).collect()
        };
        let error = || ("path".to_owned(), Severity::Error);
        assert_eq!(issues("path = \"{stream}.wav\""), []);
        assert_eq!(issues("path = \"a.wav\""), [("path".to_owned(), Severity::Warning)]);
        assert_eq!(issues("path = \"{stream}.mp3\""), [error()]);
        assert_eq!(issues("path = \"{cam}.wav\""), [error()]);
        let dir = tempfile::tempdir().expect("folder");
        let mut sink = open(dir.path(), "");
        let mut wrong = Arc::into_inner(record(&stream("camera"), block(0, 1))).expect("ours alone");
        wrong.payload = Payload::Empty;
        assert!(sink.deliver(&Arc::new(wrong)).is_err_and(|e| e.0.contains("no samples")));
        assert!(!dir.path().join("new").exists());
    }
}

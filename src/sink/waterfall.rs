//! `waterfall`: spectra of sample streams for those who look at them in a browser, at a bounded rate.

use super::heard::{Ear, Heard, heard, taken_at};
use super::{Sink, SinkConfig, SinkError};
use crate::frame::{Record, SampleBlock};
use crate::issue::Issue;
use crate::signal::decibels;
use crate::signal::spectrum::{Averaging, Spectrum, SpectrumConfig};
use crate::signal::window::Window;
use crate::stage::BuildContext;
use crate::views::{Views, Waterfall};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `kind = "waterfall"`: shows streams of samples in a browser, at `/waterfall` of the HTTP address, with bursts and
/// messages drawn in.
///
/// Spectra are computed only while somebody looks. Who is too slow for all lines loses some, and holds nothing up.
#[derive(Debug, Clone, Copy, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaterfallConfig {
    /// Lines a second, above 0 to 60. Each is the mean of the samples in its time. Default 10.
    #[serde(default = "usual_fps")]
    fps: f64,
    /// Levels in a line: a power of two from 64 to 4096. Default 512.
    #[serde(default = "usual_bins")]
    bins: usize,
}

fn usual_fps() -> f64 {
    10.0
}
fn usual_bins() -> usize {
    512
}

/// A stream that is silent for so long is forgotten.
const SILENCE: Duration = Duration::from_secs(10);
/// What a line tells at most of what was heard since the one before.
const MOST_HEARD: usize = 64;

impl SinkConfig for WaterfallConfig {
    fn check(&self, _: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        if !(self.fps > 0.0 && self.fps <= 60.0) {
            issues.push(Issue::error("fps", "must lie above 0 and not above 60"));
        }
        if !(64..=4096).contains(&self.bins) || !self.bins.is_power_of_two() {
            issues.push(Issue::error("bins", "must be a power of two from 64 to 4096"));
        }
        issues
    }

    fn wants_payload(&self) -> bool {
        true
    }

    fn open(&self, context: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        if let Some(issue) = self.check(context).into_iter().next() {
            return Err(SinkError(format!("{} {}", issue.key, issue.message)));
        }
        Ok(Box::new(WaterfallSink { config: *self, views: context.views.clone(), streams: HashMap::new() }))
    }
}

struct WaterfallSink {
    config: WaterfallConfig,
    views: Arc<Views>,
    streams: HashMap<Arc<str>, Shown>,
}

/// What is shown of a stream.
struct Shown {
    waterfall: Arc<Waterfall>,
    last: Instant,
    /// When the next line may be shown.
    due: Instant,
    /// While somebody looks.
    at_work: Option<AtWork>,
}

struct AtWork {
    /// The stream's number, and that of its newest frame.
    stream: u32,
    seq: Option<u64>,
    spectrum: Spectrum,
    rate: f64,
    /// Position of the spectrum's first sample, and of the sample that it expects.
    run: u64,
    next: u64,
    heard: Vec<Heard>,
}

/// A line as the browser gets it. Times are seconds in the stream, frequencies Hz from the centre.
#[derive(Serialize)]
struct Line {
    time: f64,
    seconds: f64,
    /// When its first sample was taken, milliseconds since 1970.
    at_ms: i64,
    rate: f64,
    frequency: Option<f64>,
    /// dBFS, lowest frequency first.
    levels: Vec<i16>,
    heard: Vec<Told>,
}

/// Something that was heard since the line before.
#[derive(Serialize)]
struct Told {
    time: f64,
    seconds: f64,
    edges: Option<[f64; 2]>,
    label: String,
    snr: Option<f64>,
    message: bool,
}

impl Told {
    fn new(heard: Heard, rate: f64) -> Self {
        Self {
            time: heard.start as f64 / rate,
            seconds: heard.length as f64 / rate,
            edges: heard.edges,
            label: heard.label,
            snr: heard.snr,
            message: heard.ear == Ear::Adsb,
        }
    }
}

impl AtWork {
    fn new(config: &WaterfallConfig, stream: u32, block: &SampleBlock) -> Result<Self, SinkError> {
        let blocks = (block.rate / config.fps / config.bins as f64).round().clamp(1.0, 1e9) as u32;
        let spectrum = Spectrum::new(&SpectrumConfig {
            sample_rate: block.rate,
            size: config.bins,
            hop: config.bins,
            window: Window::default(),
            averaging: Averaging::Linear { blocks },
        });
        let spectrum = spectrum.map_err(|e| SinkError(e.to_string()))?;
        Ok(Self {
            stream,
            seq: None,
            spectrum,
            rate: block.rate,
            run: block.position,
            next: block.position,
            heard: Vec::new(),
        })
    }

    /// Takes a block in and gives the lines that are finished.
    fn take(&mut self, record: &Record, block: &SampleBlock) -> Vec<Line> {
        for heard in heard(record, self.rate) {
            // The same frame may come on several branches of the graph.
            if self.heard.len() < MOST_HEARD && !self.heard.contains(&heard) {
                self.heard.push(heard);
            }
        }
        let mut lines = Vec::new();
        if self.seq.is_some_and(|s| record.seq <= s) {
            return lines;
        }
        self.seq = Some(record.seq);
        if block.position != self.next {
            // No line reaches across a gap; the few samples before it are not shown.
            self.spectrum.finish(|_| {});
            self.run = block.position;
        }
        let (run, rate) = (self.run, self.rate);
        self.spectrum.push(&block.samples, |f| {
            let position = run + f.start;
            lines.push(Line {
                time: position as f64 / rate,
                seconds: f.samples as f64 / rate,
                at_ms: taken_at(block, record.captured, block.position) / 1_000_000
                    - ((block.position as f64 - position as f64) / rate * 1e3) as i64,
                rate,
                frequency: block.frequency,
                levels: f.power.iter().map(|p| decibels(*p).round() as i16).collect(),
                heard: Vec::new(),
            });
        });
        self.next = block.end();
        lines
    }
}

impl Sink for WaterfallSink {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        let block = record.payload.samples().ok_or_else(|| SinkError("the record carries no samples".to_owned()))?;
        let now = Instant::now();
        let shown = self.streams.entry(record.stream.id.clone()).or_insert_with(|| Shown {
            waterfall: self.views.waterfall(&record.stream.id),
            last: now,
            due: now,
            at_work: None,
        });
        shown.last = now;
        if !shown.waterfall.is_watched() {
            shown.at_work = None;
            return Ok(());
        }
        let at_work = match shown.at_work.take().filter(|w| w.stream == record.stream.index && w.rate == block.rate) {
            Some(at_work) => at_work,
            None => AtWork::new(&self.config, record.stream.index, block)?,
        };
        let at_work = shown.at_work.insert(at_work);
        let interval = Duration::from_secs_f64(1.0 / self.config.fps);
        for mut line in at_work.take(record, block) {
            // What is read faster than it was received has more lines than are shown.
            if now < shown.due {
                continue;
            }
            shown.due = if now > shown.due + interval { now } else { shown.due + interval };
            line.heard = at_work.heard.drain(..).map(|h| Told::new(h, line.rate)).collect();
            let text = serde_json::to_string(&line).map_err(|e| SinkError(e.to_string()))?;
            shown.waterfall.show(text.into());
        }
        Ok(())
    }

    fn idle(&mut self) {
        self.streams.retain(|_, shown| shown.last.elapsed() < SILENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{RATE, block, record, stream};
    use super::*;
    use crate::signal::testing::tone;
    use serde_json::Value;

    fn open(views: &Arc<Views>, text: &str) -> Box<dyn Sink> {
        let config: WaterfallConfig = toml::from_str(text).unwrap();
        config.open(&BuildContext { views: views.clone(), ..BuildContext::default() }).unwrap()
    }

    #[test]
    fn lines_come_while_somebody_looks_with_what_was_heard() {
        let views = Arc::<Views>::default();
        let mut sink = open(&views, "bins = 64\nfps = 60");
        let rx = stream();
        let mut seq = 0;
        let mut deliver = |sink: &mut dyn Sink, bursts: &[(u64, u64)]| {
            let mut b = block(seq * 64, 64);
            b.samples = tone(64, 0.25, 1.0);
            sink.deliver(&record(&rx, seq, b, bursts)).unwrap();
            seq += 1;
        };
        deliver(&mut *sink, &[(7, 20)]);
        assert_eq!(views.waterfalls(), [Arc::from("rx")]);
        let mut lines = views.watch("rx").unwrap();
        deliver(&mut *sink, &[(30, 50)]);
        let line: Value = serde_json::from_str(&lines.try_recv().unwrap()).unwrap();
        assert_eq!((&line["rate"], &line["frequency"]), (&RATE.into(), &100e6.into()));
        assert_eq!((line["time"].as_f64(), line["seconds"].as_f64()), (Some(0.064), Some(0.064)));
        let levels = line["levels"].as_array().unwrap();
        assert_eq!((levels.len(), &levels[48], levels[10].as_i64().unwrap() < -60), (64, &0.into(), true));
        assert_eq!(line["heard"].as_array().unwrap().len(), 1);
        let heard = &line["heard"][0];
        assert_eq!(
            (&heard["time"], &heard["label"], &heard["message"]),
            (&0.03.into(), &"burst".into(), &false.into())
        );
        assert_eq!(heard["edges"], serde_json::json!([40.0, 60.0]));
        // Nobody looks any more: nothing is computed, and who comes then sees what is new.
        drop(lines);
        deliver(&mut *sink, &[]);
        let mut lines = views.watch("rx").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        deliver(&mut *sink, &[]);
        let line: Value = serde_json::from_str(&lines.try_recv().unwrap()).unwrap();
        assert_eq!(line["time"].as_f64(), Some(0.192));
        drop(sink);
        assert!(views.waterfalls().is_empty());
    }

    #[test]
    fn however_fast_samples_come_lines_keep_their_rate() {
        let views = Arc::<Views>::default();
        let mut sink = open(&views, "bins = 64\nfps = 0.001");
        let rx = stream();
        sink.deliver(&record(&rx, 0, block(0, 64), &[])).unwrap();
        let mut lines = views.watch("rx").unwrap();
        // Enough samples for twenty lines, in no time.
        for seq in 1..=20 {
            sink.deliver(&record(&rx, seq, block(64 + (seq - 1) * 1_000_000, 1_000_000), &[])).unwrap();
        }
        assert!(lines.try_recv().is_ok());
        assert!(lines.try_recv().is_err());
    }

    #[test]
    fn what_cannot_work_is_said_by_key() {
        for (text, key) in [("fps = 0", "fps"), ("fps = 61", "fps"), ("bins = 100", "bins"), ("bins = 8192", "bins")] {
            let config: WaterfallConfig = toml::from_str(text).unwrap();
            let issues = config.check(&BuildContext::default());
            assert!(issues.len() == 1 && issues[0].key == key, "{text}: {issues:?}");
        }
    }
}

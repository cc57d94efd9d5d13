//! The run report: what a run did, in the contract's JSON.

use super::meters::{StageTimes, StreamMeter};
use super::{Breakdown, NEVER, Telemetry, meters, process};
use crate::frame::clock::{SECOND, now};
use crate::frame::{Beat, ClockReading, Counts, FailReason, GapCause, Nanos, ShedReason, clock};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

/// A report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report to {path}: {source}")]
pub struct ReportError {
    path: String,
    source: std::io::Error,
}

fn rounded<S: Serializer>(v: &f64, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64((v * 1e3).round() / 1e3)
}

fn share<S: Serializer>(v: &f64, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64((v * 1e5).round() / 1e5)
}

fn to_nanos<S: Serializer>(ms: &f64, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64((ms * 1e6).round() / 1e6)
}

fn rounded_maybe<S: Serializer>(v: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
    match v {
        Some(v) => rounded(v, s),
        None => s.serialize_none(),
    }
}

fn rounded_map<S: Serializer, K: Serialize + Ord>(map: &BTreeMap<K, f64>, s: S) -> Result<S::Ok, S::Error> {
    // Shares want more digits than milliseconds.
    s.collect_map(map.iter().map(|(k, v)| (k, (v * 1e4).round() / 1e4)))
}

/// What a run did. Times that were never measured are `null`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this form: 1.
    pub schema: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// From READY to the end, seconds.
    #[serde(serialize_with = "rounded")]
    pub seconds: f64,
    /// Latencies leave out frames captured less than this after READY, seconds.
    pub warmup_s: f64,
    /// framegate's version.
    pub version: &'static str,
    /// What it ran on.
    pub machine: Machine,
    /// What it ran.
    pub inputs: Inputs,
    /// By stream id.
    pub streams: BTreeMap<String, StreamReport>,
    /// By stage id.
    pub stages: BTreeMap<String, StageReport>,
    /// By sink id.
    pub sinks: BTreeMap<String, SinkReport>,
    /// Copies of pixels beside the preprocess, for each captured frame.
    #[serde(serialize_with = "rounded_maybe")]
    pub copies_per_frame: Option<f64>,
    /// What the process used.
    pub process: ProcessUse,
    /// Only in the report of a simulation: what was simulated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<Simulated>,
}

/// What was simulated.
#[derive(Debug, Clone, Serialize)]
pub struct Simulated {
    /// Who decided.
    pub policy: &'static str,
    /// All that was random followed from it.
    pub seed: u64,
    /// Streams' rate, as a multiple of their own.
    #[serde(serialize_with = "rounded")]
    pub rate: f64,
    /// Where the costs are known from.
    pub costs: Vec<String>,
    /// What disturbed the streams and the device, in words.
    pub load: String,
    /// What could not be known or was not simulated, in words.
    pub notes: Vec<String>,
    /// How many of such streams fit at each rung, best first: name and number.
    pub capacity: Vec<(String, usize)>,
    /// The largest number of streams that are all on time, where several numbers were tried.
    pub knee: Option<usize>,
    /// Every run: one for each policy and number of streams.
    pub runs: Vec<SimulatedRun>,
}

/// One run of a simulation, over all its streams.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SimulatedRun {
    /// Who decided.
    pub policy: &'static str,
    /// Streams.
    pub streams: usize,
    /// Frames captured a second.
    #[serde(serialize_with = "rounded")]
    pub captured_fps: f64,
    /// Frames on time a second.
    #[serde(serialize_with = "rounded")]
    pub goodput_fps: f64,
    /// Share of the captured frames that were on time, 0 to 1.
    #[serde(serialize_with = "share")]
    pub on_time: f64,
    /// Share that was late.
    #[serde(serialize_with = "share")]
    pub late: f64,
    /// Share that was on time with a result from its own picture.
    #[serde(serialize_with = "share")]
    pub inferred: f64,
    /// Latency of all delivered frames behind the warm-up.
    pub latency_ms: Quantiles,
    /// On-time frames of the worst-served stream over the mean of all.
    #[serde(serialize_with = "share")]
    pub worst_over_mean: f64,
    /// Share of the time that the device was busy; of all devices together, where there are several.
    #[serde(serialize_with = "share")]
    pub busy: f64,
    /// The same for each of several devices.
    #[serde(serialize_with = "rounded_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub devices_busy: BTreeMap<String, f64>,
    /// Share of delivered frames by rung.
    #[serde(serialize_with = "rounded_map")]
    pub rung_share: BTreeMap<String, f64>,
    /// Moves of all ceilings.
    pub rung_changes: u64,
}

/// What a run ran on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Cores it may use.
    pub cpus: usize,
    /// GPUs' names, comma-separated; `null` without one.
    pub gpu: Option<String>,
}

/// What a run ran.
#[derive(Debug, Clone, Serialize)]
pub struct Inputs {
    /// SHA-256 of the pipeline file.
    pub pipeline_sha256: Option<String>,
    /// SHA-256 of each model's file.
    pub models: BTreeMap<String, String>,
    /// Version of each library.
    pub libraries: BTreeMap<String, String>,
}

/// One stream's part of a report.
#[derive(Debug, Clone, Serialize)]
pub struct StreamReport {
    /// Captured to deadline, milliseconds; `null` for offline work.
    #[serde(serialize_with = "rounded_maybe")]
    pub deadline_ms: Option<f64>,
    /// Every frame, from the first one captured.
    pub frames: FrameCounts,
    /// Shed frames by reason; reasons that never occurred are left out.
    pub shed_reasons: BTreeMap<&'static str, u64>,
    /// Failed frames by reason; reasons that never occurred are left out.
    pub fail_reasons: BTreeMap<&'static str, u64>,
    /// Frames per second of the run.
    pub fps: Rates,
    /// Captured to delivered, of every delivered frame behind the warm-up.
    pub latency_ms: Quantiles,
    /// Latency less every piece of named work and queueing for a busy device.
    pub overhead_ms: Overhead,
    /// Mean of each part of the latency; they add up to the mean latency.
    #[serde(serialize_with = "rounded_map")]
    pub breakdown_ms: BTreeMap<&'static str, f64>,
    /// From a frame's first byte to its picture: mean and relative deviation. What `simulate --costs` takes.
    pub decode_ms: Spread,
    /// When its frames are captured; `null` for fewer than a handful. What `simulate --costs` takes.
    pub rhythm: Option<RhythmReport>,
    /// Share of delivered frames by the rung that made them.
    #[serde(serialize_with = "rounded_map")]
    pub rung_share: BTreeMap<String, f64>,
    /// Frames saved by a lower rung than the ceiling.
    pub rescued: u64,
    /// Moves of the ceiling.
    pub rung_changes: u64,
    /// Times the source was connected again.
    pub reconnects: u64,
    /// What was received of a stream of samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<SamplesReport>,
    /// Latencies behind the warm-up: upper edge in milliseconds, and frames. For plots.
    #[serde(skip)]
    pub distribution: Vec<(f64, u64)>,
}

/// What was received of a stream of samples, from the first one on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SamplesReport {
    /// Samples that came into frames.
    pub received: u64,
    /// Samples that are missing, by cause; causes that never occurred are left out.
    pub lost: BTreeMap<&'static str, u64>,
    /// Places where some are missing, by cause.
    pub gaps: BTreeMap<&'static str, u64>,
    /// How fast the receiver's sample clock runs by the host's; `null` where it was not measured.
    pub clock: Option<ClockReading>,
}

impl SamplesReport {
    fn of(counts: &Counts, clock: Option<ClockReading>) -> Option<Self> {
        let by_cause = |counts: [u64; 3]| {
            GapCause::ALL.iter().map(|c| c.name()).zip(counts).filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>()
        };
        let (lost, gaps) = (by_cause(counts.lost), by_cause(counts.gaps));
        (counts.samples > 0).then_some(Self { received: counts.samples, lost, gaps, clock })
    }
}

/// How a stream's frames ended. The outcomes and `in_flight` add up to `captured`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FrameCounts {
    /// First byte reached this host.
    pub captured: u64,
    /// Delivered before the deadline.
    pub on_time: u64,
    /// Delivered after it.
    pub late: u64,
    /// Given up before work was spent.
    pub shed: u64,
    /// Pushed out of a full ring.
    pub evicted: u64,
    /// Errors, panics, and frames no decoder returned.
    pub failed: u64,
    /// Not yet ended.
    pub in_flight: u64,
}

impl From<&Counts> for FrameCounts {
    fn from(c: &Counts) -> Self {
        Self {
            captured: c.captured,
            on_time: c.on_time,
            late: c.late,
            shed: c.shed_total(),
            evicted: c.evicted,
            failed: c.failed_total(),
            in_flight: c.in_flight(),
        }
    }
}

/// The beat of a stream's captures, all of them milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RhythmReport {
    /// Between two frames.
    #[serde(serialize_with = "to_nanos")]
    pub period_ms: f64,
    /// When a frame is captured, from the process's start on, less whole periods. Streams differ by it.
    #[serde(serialize_with = "to_nanos")]
    pub phase_ms: f64,
    /// Deviation of captures from the beat.
    #[serde(serialize_with = "to_nanos")]
    pub deviation_ms: f64,
}

impl RhythmReport {
    fn of(beat: &Beat, origin: Nanos) -> Self {
        let ms = clock::MILLI as f64;
        Self {
            period_ms: beat.period / ms,
            phase_ms: (beat.at - origin as f64).rem_euclid(beat.period) / ms,
            deviation_ms: beat.deviation / ms,
        }
    }
}

/// Frames per second since READY.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rates {
    /// Captured.
    #[serde(serialize_with = "rounded")]
    pub captured: f64,
    /// Delivered, on time or late.
    #[serde(serialize_with = "rounded")]
    pub delivered: f64,
    /// Delivered and inferred from their own picture.
    #[serde(serialize_with = "rounded")]
    pub inferred: f64,
}

/// Quantiles of a stream's latency, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Quantiles {
    #[serde(serialize_with = "rounded_maybe")]
    pub p50: Option<f64>,
    #[serde(serialize_with = "rounded_maybe")]
    pub p90: Option<f64>,
    #[serde(serialize_with = "rounded_maybe")]
    pub p95: Option<f64>,
    #[serde(serialize_with = "rounded_maybe")]
    pub p99: Option<f64>,
    #[serde(serialize_with = "rounded_maybe")]
    pub max: Option<f64>,
    #[serde(serialize_with = "rounded_maybe")]
    pub mean: Option<f64>,
}

/// A time that varies, milliseconds; `null` where nothing was measured.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Spread {
    /// Its mean.
    #[serde(serialize_with = "rounded_maybe")]
    pub mean: Option<f64>,
    /// Its deviation, as a share of the mean.
    #[serde(serialize_with = "rounded_maybe")]
    pub spread: Option<f64>,
}

/// What one way of running a stage cost during the run. What `simulate --costs` takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageCost {
    /// The rungs that run the stage in this way.
    pub rungs: Vec<String>,
    /// Batch sizes there are.
    pub batch_sizes: Vec<usize>,
    /// A batch's fixed part.
    #[serde(serialize_with = "rounded")]
    pub alpha_ms: f64,
    /// Each frame's part of a batch.
    #[serde(serialize_with = "rounded")]
    pub beta_ms: f64,
    /// Pixels to tensor, one frame.
    #[serde(serialize_with = "rounded")]
    pub prepare_ms: f64,
    /// From leaving the stage to the sinks' queues.
    #[serde(serialize_with = "rounded")]
    pub tail_ms: f64,
    /// Deviation of batches, as a share of their span; `null` where none was run.
    #[serde(serialize_with = "rounded_maybe")]
    pub spread: Option<f64>,
    /// The part of that deviation which stays for a while; `null` where too few batches were run.
    pub drift: Option<Drift>,
    /// On a stage on crops: of twenty frames one had more of them than this; batches are of crops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crops: Option<usize>,
}

/// What slows batches down rarely hits one alone: a part of their deviation stays from batch to batch and fades.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Drift {
    /// Its share of the variance, 0 to 1.
    #[serde(serialize_with = "rounded")]
    pub share: f64,
    /// Time in which it fades to 1/e.
    #[serde(serialize_with = "rounded")]
    pub lasts_ms: f64,
}

/// Quantiles of times, milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs)]
pub struct Times {
    #[serde(serialize_with = "rounded_maybe")]
    pub p50: Option<f64>,
    #[serde(serialize_with = "rounded_maybe")]
    pub p99: Option<f64>,
}

/// Quantiles of the engine's own share of the latency, milliseconds.
pub type Overhead = Times;
/// Quantiles of whole batches' inference, milliseconds.
pub type BatchTimes = Times;

/// One stage's part of a report.
#[derive(Debug, Clone, Serialize)]
pub struct StageReport {
    /// Frames worked on.
    pub frames: u64,
    /// Batches run; 0 for stages that take frames one at a time.
    pub batches: u64,
    /// Work on a frame.
    pub work_ms: Times,
    /// What a frame waited for the stage.
    pub wait_ms: Times,
    /// Inference of a whole batch.
    pub execute_ms: BatchTimes,
    /// Frames in a batch, on average.
    #[serde(serialize_with = "rounded_maybe")]
    pub batch_mean: Option<f64>,
    /// What it ran on.
    pub device: String,
    /// Batches that its device runs at once; `null` for stages that take frames one at a time.
    pub slots: Option<usize>,
    /// What it cost, for each way of running it; empty for stages that take frames one at a time.
    pub cost: Vec<StageCost>,
}

/// One sink's part of a report.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SinkReport {
    /// Records lost: the queue was full, or the sink failed on them.
    pub errors: u64,
}

/// What the process used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ProcessUse {
    /// Processor time since READY, all threads.
    #[serde(serialize_with = "rounded")]
    pub cpu_seconds: f64,
    /// Processor time of starting up: reading models, measuring, warming up.
    #[serde(serialize_with = "rounded")]
    pub start_cpu_seconds: f64,
    /// The most resident memory there was, MiB.
    #[serde(serialize_with = "rounded")]
    pub rss_peak_mib: f64,
}

pub(super) fn shed_reasons(c: &Counts) -> BTreeMap<&'static str, u64> {
    ShedReason::ALL.iter().map(|r| r.name()).zip(c.shed).filter(|(_, n)| *n > 0).collect()
}

pub(super) fn fail_reasons(c: &Counts) -> BTreeMap<&'static str, u64> {
    FailReason::ALL.iter().map(|r| r.name()).zip(c.failed).filter(|(_, n)| *n > 0).collect()
}

fn times(t: &meters::Times) -> Times {
    Times { p50: t.quantile_ms(0.5), p99: t.quantile_ms(0.99) }
}

impl Telemetry {
    /// The report of the run so far.
    pub fn report(&self) -> Report {
        self.report_at(now())
    }

    /// The report of the run up to this time: for runs under a virtual clock.
    pub fn report_at(&self, at: Nanos) -> Report {
        let (ready, ended) = (self.window.ready.load(Relaxed), self.window.ended.load(Relaxed));
        let end = if ended == NEVER { at } else { ended };
        let start = if ready == NEVER { self.started } else { ready };
        let seconds = end.saturating_sub(start) as f64 / SECOND as f64;
        let (streams, stages, sinks) = {
            let meters = self.meters.lock();
            (meters.streams.clone(), meters.stages.clone(), meters.sinks.clone())
        };
        let (mut copies, mut captured) = (0, 0);
        let streams = streams
            .into_iter()
            .map(|(id, meter)| {
                let counts = meter.counts();
                copies += counts.copies;
                captured += counts.captured;
                (id.to_string(), stream(&meter, &counts, seconds, self.started))
            })
            .collect();
        let usage = process::usage();
        let at_ready = if ready == NEVER { usage.cpu } else { *self.cpu_at_ready.lock() };
        let notes = self.notes.lock();
        Report {
            schema: 1,
            pipeline: self.name.to_string(),
            seconds,
            warmup_s: self.window.warmup.load(Relaxed) as f64 / SECOND as f64,
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine { cpus: process::cpus(), gpu: (!notes.gpus.is_empty()).then(|| notes.gpus.join(", ")) },
            inputs: Inputs {
                pipeline_sha256: notes.pipeline_sha256.clone(),
                models: notes.models.clone(),
                libraries: notes.libraries.clone(),
            },
            streams,
            stages: stages.into_iter().map(|(id, m)| (id.to_string(), m.times(stage))).collect(),
            sinks: sinks.into_iter().map(|(id, m)| (id.to_string(), SinkReport { errors: m.errors() })).collect(),
            copies_per_frame: (captured > 0).then(|| copies as f64 / captured as f64),
            process: ProcessUse {
                cpu_seconds: usage.cpu.saturating_sub(at_ready).as_secs_f64(),
                start_cpu_seconds: at_ready.as_secs_f64(),
                rss_peak_mib: usage.rss_peak as f64 / (1 << 20) as f64,
            },
            simulated: None,
        }
    }
}

fn stream(meter: &StreamMeter, counts: &Counts, seconds: f64, origin: Nanos) -> StreamReport {
    let at_ready = meter.counts_at_ready();
    let rate = |now: u64, before: u64| if seconds > 0.0 { (now.saturating_sub(before)) as f64 / seconds } else { 0.0 };
    let mut report = StreamReport {
        deadline_ms: meter.stream().deadline.map(clock::millis),
        frames: FrameCounts::from(counts),
        shed_reasons: shed_reasons(counts),
        fail_reasons: fail_reasons(counts),
        fps: Rates {
            captured: rate(counts.captured, at_ready.captured),
            delivered: rate(counts.delivered(), at_ready.delivered()),
            inferred: rate(counts.inferred, at_ready.inferred),
        },
        latency_ms: Quantiles::default(),
        overhead_ms: Overhead::default(),
        breakdown_ms: BTreeMap::new(),
        decode_ms: Spread::default(),
        rhythm: meter.stream().beat().map(|b| RhythmReport::of(&b, origin)),
        rung_share: BTreeMap::new(),
        rescued: counts.rescued,
        rung_changes: meter.ceiling().1,
        reconnects: counts.reconnects,
        samples: SamplesReport::of(counts, meter.stream().sample_clock()),
        distribution: Vec::new(),
    };
    meter.times(|t| {
        let frames = t.latency.hdr.len();
        let mean = |sum: u64| sum as f64 / frames as f64 / clock::MILLI as f64;
        report.latency_ms = Quantiles {
            p50: t.latency.quantile_ms(0.5),
            p90: t.latency.quantile_ms(0.9),
            p95: t.latency.quantile_ms(0.95),
            p99: t.latency.quantile_ms(0.99),
            max: t.latency.max_ms(),
            mean: (frames > 0).then(|| mean(t.parts.iter().sum())),
        };
        report.overhead_ms = times(&t.overhead);
        if frames > 0 {
            report.breakdown_ms = Breakdown::NAMES.into_iter().zip(t.parts.map(mean)).collect();
            let decode = mean(t.parts[0] + t.parts[1]);
            let variance = t.decode_squares / frames as f64 - decode * decode;
            let spread = (decode > 0.0).then(|| variance.max(0.0).sqrt() / decode);
            report.decode_ms = Spread { mean: Some(decode), spread };
        }
        let delivered: u64 = t.rungs.iter().map(|(_, n)| n).sum();
        report.rung_share = t
            .rungs
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| (name.to_string(), *n as f64 / delivered as f64))
            .collect();
        report.distribution = t
            .latency
            .hdr
            .iter_recorded()
            .map(|v| (v.value_iterated_to() as f64 / 1e3, v.count_since_last_iteration()))
            .collect();
    });
    report
}

fn stage(t: &StageTimes) -> StageReport {
    StageReport {
        frames: t.frames,
        batches: t.batches,
        work_ms: times(&t.work),
        wait_ms: times(&t.wait),
        execute_ms: times(&t.execute),
        batch_mean: (t.batches > 0).then(|| t.batched as f64 / t.batches as f64),
        device: t.device.clone(),
        slots: t.costs.as_ref().map(|c| c.0),
        cost: t.costs.as_ref().map(|c| c.1.clone()).unwrap_or_default(),
    }
}

impl Report {
    /// The contract's JSON, indented, with a line end.
    pub fn to_json(&self) -> String {
        // Every key is a string and every number finite, so this cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The same as a page with plots that needs nothing else.
    pub fn to_html(&self) -> String {
        super::html::page(self)
    }

    /// Writes the report: a page where the name ends in `.html`, else JSON. A reader sees it whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let page = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("html") || e.eq_ignore_ascii_case("htm"));
        let text = if page { self.to_html() } else { self.to_json() };
        let failed = |source| ReportError { path: path.display().to_string(), source };
        // A device or a pipe (`/dev/stdout`) cannot be replaced, only written to.
        if path.metadata().is_ok_and(|m| !m.is_file()) {
            return std::fs::write(path, text).map_err(failed);
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path)).map_err(failed)
    }
}

//! Every metric that the program exports, and how they become text.
//!
//! Names, types and labels are a contract with people's dashboards: they change only with a new version number.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::collections::BTreeMap;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

/// One metric: its name, and what readers need to know about it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name, with unit and `_total` as Prometheus wants them.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// Its help text.
    pub help: &'static str,
    unit: Option<Unit>,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $id:ident: $kind:ident $name:literal [$($label:literal),*] $unit:expr, $help:literal;)*) => {
        $(
            $(#[$doc])*
            #[doc = $help]
            pub const $id: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help, unit: $unit };
        )*
        /// All of them, in the order of their declaration. (`process_*` come from `metrics-process`.)
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

const COUNT: Option<Unit> = Some(Unit::Count);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

metrics! {
    BUILD_INFO: Gauge "framegate_build_info" ["version"] None, "Always 1; the label tells the version.";
    FRAMES_CAPTURED: Counter "framegate_frames_captured_total" ["stream"] COUNT,
        "Frames whose first byte reached this host.";
    FRAMES: Counter "framegate_frames_total" ["stream", "outcome"] COUNT,
        "Frames that ended, by outcome: on_time, late, shed, evicted, failed.";
    FRAMES_SHED: Counter "framegate_frames_shed_total" ["stream", "reason"] COUNT,
        "Frames given up before work was spent on them, by reason.";
    FRAMES_FAILED: Counter "framegate_frames_failed_total" ["stream", "reason"] COUNT, "Frames failed, by reason.";
    FRAMES_INFERRED: Counter "framegate_frames_inferred_total" ["stream"] COUNT,
        "Frames delivered whose result was inferred from their own picture.";
    FRAMES_RESCUED: Counter "framegate_frames_rescued_total" ["stream"] COUNT,
        "Frames saved by a lower rung than their stream's ceiling.";
    FRAMES_COPIED: Counter "framegate_frame_copies_total" ["stream"] COUNT,
        "Copies of frames' pixels, beside the preprocess.";
    FRAMES_IN_FLIGHT: Gauge "framegate_frames_in_flight" ["stream"] COUNT, "Frames captured and not yet ended.";
    FRAME_LATENCY: Histogram "framegate_frame_latency_seconds" ["stream"] SECONDS,
        "Captured to delivered, with a bucket edge at the stream's deadline.";
    FRAME_DEADLINE: Gauge "framegate_frame_deadline_seconds" ["stream"] SECONDS,
        "Time that a frame has from captured to delivered; streams without a deadline have no value.";
    STAGE_WORK: Histogram "framegate_stage_work_seconds" ["stage"] SECONDS, "Time a stage worked on a frame.";
    STAGE_WAIT: Histogram "framegate_stage_wait_seconds" ["stage"] SECONDS, "Time a frame waited for a stage.";
    STAGE_PANICS: Counter "framegate_stage_panics_total" ["stage"] COUNT, "Panics caught; the stage was rebuilt.";
    STAGE_HANGS: Counter "framegate_stage_hangs_total" ["stage"] COUNT,
        "Calls that hung and were abandoned with their thread.";
    BATCH_FRAMES: Histogram "framegate_batch_frames" ["stage"] COUNT, "Frames in a batch.";
    RUNG: Gauge "framegate_rung" ["stream"] None, "The stream's ceiling on the ladder, 0 is best.";
    RUNG_CHANGES: Counter "framegate_rung_changes_total" ["stream", "direction"] COUNT,
        "Moves of the stream's ceiling: down is to a lower quality.";
    RING_FRAMES: Gauge "framegate_ring_frames" ["ring"] COUNT, "Frames in the ring.";
    RING_SECONDS: Gauge "framegate_ring_seconds" ["ring"] SECONDS, "Age of the oldest frame in the ring.";
    SOURCE_UP: Gauge "framegate_source_up" ["stream"] None, "1 while frames arrive.";
    SOURCE_RECONNECTS: Counter "framegate_source_reconnects_total" ["stream"] COUNT,
        "Times the source was connected again.";
    SAMPLES_RECEIVED: Counter "framegate_samples_received_total" ["stream"] COUNT,
        "Samples of a radio or sensor stream that came into frames.";
    SAMPLES_LOST: Counter "framegate_samples_lost_total" ["stream", "cause"] COUNT,
        "Samples that are missing, by cause: overrun, lost, reconnect.";
    SAMPLE_GAPS: Counter "framegate_sample_gaps_total" ["stream", "cause"] COUNT,
        "Places where samples are missing, by cause: overrun, lost, reconnect.";
    SAMPLE_CLOCK_DRIFT: Gauge "framegate_sample_clock_drift_ppm" ["stream"] None,
        "How much faster the receiver's sample clock runs than stated, by the host's clock, parts per million.";
    SAMPLE_CLOCK_UNCERTAINTY: Gauge "framegate_sample_clock_uncertainty_ppm" ["stream"] None,
        "How far the measured drift may be off (95 %), parts per million.";
    SINK_PENDING: Gauge "framegate_sink_pending" ["sink"] COUNT, "Records waiting in the sink's queue.";
    SINK_ERRORS: Counter "framegate_sink_errors_total" ["sink"] COUNT,
        "Records lost: the queue was full, or the sink failed on them.";
    STORE_LATENCY: Histogram "framegate_store_latency_seconds" ["sink"] SECONDS,
        "Captured to stored: the result's transaction was done.";
    CACHE_HITS: Counter "framegate_cache_hits_total" ["layer"] COUNT, "Look-ups that the cache's layer answered.";
    CACHE_MISSES: Counter "framegate_cache_misses_total" ["layer"] COUNT, "Look-ups that it did not.";
    CACHE_BYTES: Gauge "framegate_cache_bytes" ["layer"] Some(Unit::Bytes), "What the cache's layer holds.";
    CACHE_DROPPED: Counter "framegate_cache_dropped_total" ["reason"] COUNT,
        "Values the cache gave up or did not take, by reason: full, old, corrupt, busy, failed.";
    DEVICE_SLOWDOWN: Gauge "framegate_device_slowdown" ["device"] None,
        "How many times slower the device is than it was measured at start.";
    CAPACITY: Gauge "framegate_capacity_streams" ["rung"] COUNT,
        "Streams that this machine can serve at the rung, by the costs measured at start.";
    THREADS_STUCK: Gauge "framegate_threads_stuck" [] COUNT,
        "Threads that hold a piece of work for longer than it may take.";
    MEMORY_LIMIT: Gauge "framegate_memory_limit_bytes" [] Some(Unit::Bytes),
        "Memory that the process may use: the least of its control groups' limits and the machine's memory.";
    RELOADS: Counter "framegate_reloads_total" ["result"] COUNT, "Reloads of the pipeline file: done, refused.";
    GPU_UTILIZATION: Gauge "framegate_gpu_utilization_ratio" ["gpu"] None, "Share of time the GPU was busy.";
    GPU_MEMORY_USED: Gauge "framegate_gpu_memory_used_bytes" ["gpu"] Some(Unit::Bytes), "Memory in use.";
    GPU_MEMORY_TOTAL: Gauge "framegate_gpu_memory_total_bytes" ["gpu"] Some(Unit::Bytes), "Memory there is.";
    GPU_TEMPERATURE: Gauge "framegate_gpu_temperature_celsius" ["gpu"] None, "Temperature of the chip.";
    GPU_POWER: Gauge "framegate_gpu_power_watts" ["gpu"] None, "Power drawn.";
    GPU_CLOCK_SM: Gauge "framegate_gpu_clock_sm_hertz" ["gpu"] None, "Clock of the multiprocessors.";
    GPU_CLOCK_MEMORY: Gauge "framegate_gpu_clock_memory_hertz" ["gpu"] None, "Clock of the memory.";
    GPU_ENCODER: Gauge "framegate_gpu_encoder_utilization_ratio" ["gpu"] None, "Share of the video encoder in use.";
    GPU_DECODER: Gauge "framegate_gpu_decoder_utilization_ratio" ["gpu"] None, "Share of the video decoder in use.";
}

/// Bucket edges of [`FRAME_LATENCY`] in seconds, to which each stream's own deadline is added, and of
/// [`STORE_LATENCY`].
pub const LATENCY_BUCKETS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.033, 0.04, 0.05, 0.066, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0,
    10.0,
];
/// Bucket edges of [`STAGE_WORK`] and [`STAGE_WAIT`] in seconds.
pub const STAGE_BUCKETS: &[f64] = &[
    0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1,
    0.2, 0.5, 1.0, 5.0,
];
/// Bucket edges of [`BATCH_FRAMES`].
pub const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

static METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, None);

/// The metrics of one component (a stream, a stage, …), which share a label and disappear together.
///
/// The exporter has one list of buckets for a metric, and streams differ in their deadlines; so each component has a
/// recorder of its own, and [`merge`] makes one page of their texts.
pub(super) struct Group {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Group {
    /// A group whose metrics all carry `label`; `latency_edge` (seconds) is added to the buckets of
    /// [`FRAME_LATENCY`].
    pub(super) fn new(label: Option<(&str, &str)>, latency_edge: Option<f64>) -> Self {
        let mut latency = LATENCY_BUCKETS.to_vec();
        latency.extend(latency_edge.filter(|e| e.is_finite() && *e > 0.0));
        latency.sort_by(f64::total_cmp);
        latency.dedup();
        let mut builder = PrometheusBuilder::new();
        if let Some((key, value)) = label {
            builder = builder.add_global_label(key, value);
        }
        for (metric, buckets) in [
            (&FRAME_LATENCY, &*latency),
            (&STAGE_WORK, STAGE_BUCKETS),
            (&STAGE_WAIT, STAGE_BUCKETS),
            (&STORE_LATENCY, LATENCY_BUCKETS),
            (&BATCH_FRAMES, BATCH_BUCKETS),
        ] {
            // Only an empty list is refused, and none of these is.
            if let Ok(b) = PrometheusBuilder::set_buckets_for_metric(
                std::mem::take(&mut builder),
                Matcher::Full(metric.name.to_owned()),
                buckets,
            ) {
                builder = b;
            }
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self { recorder, handle }
    }

    fn key(metric: &Metric, labels: &[(&'static str, &str)]) -> Key {
        debug_assert!(labels.iter().all(|(k, _)| metric.labels.contains(k)), "{}", metric.name);
        Key::from_parts(metric.name, labels.iter().map(|(k, v)| Label::new(*k, (*v).to_owned())).collect::<Vec<_>>())
    }

    pub(super) fn counter(&self, metric: &Metric, labels: &[(&'static str, &str)]) -> Counter {
        let help = SharedString::const_str(metric.help);
        self.recorder.describe_counter(KeyName::from_const_str(metric.name), metric.unit, help);
        self.recorder.register_counter(&Self::key(metric, labels), &METADATA)
    }

    pub(super) fn gauge(&self, metric: &Metric, labels: &[(&'static str, &str)]) -> Gauge {
        let help = SharedString::const_str(metric.help);
        self.recorder.describe_gauge(KeyName::from_const_str(metric.name), metric.unit, help);
        self.recorder.register_gauge(&Self::key(metric, labels), &METADATA)
    }

    pub(super) fn histogram(&self, metric: &Metric) -> Histogram {
        let help = SharedString::const_str(metric.help);
        self.recorder.describe_histogram(KeyName::from_const_str(metric.name), metric.unit, help);
        self.recorder.register_histogram(&Self::key(metric, &[]), &METADATA)
    }

    /// Runs `f` with this group as the recorder of the `metrics` macros on this thread.
    pub(super) fn with<T>(&self, f: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.recorder, f)
    }

    /// Sorts what was recorded into buckets; without it, observations pile up until the next scrape.
    pub(super) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    pub(super) fn render(&self) -> String {
        self.handle.render()
    }
}

/// Makes one page of several: each metric's lines together under one header, as the format demands, sorted by name.
pub(super) fn merge(pages: &[String]) -> String {
    struct Family<'a> {
        header: Vec<&'a str>,
        samples: Vec<&'a str>,
    }
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for page in pages {
        let mut current = "";
        for line in page.lines().filter(|l| !l.is_empty()) {
            if let Some(rest) = line.strip_prefix("# ") {
                current = rest.split(' ').nth(1).unwrap_or("");
                let family = families.entry(current).or_insert(Family { header: Vec::new(), samples: Vec::new() });
                if !family.header.contains(&line) {
                    family.header.push(line);
                }
            } else if let Some(family) = families.get_mut(current) {
                family.samples.push(line);
            }
        }
    }
    let mut out = String::with_capacity(pages.iter().map(String::len).sum());
    for family in families.into_values() {
        for line in family.header.iter().chain(&family.samples) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_prometheus_rules() {
        for (i, m) in ALL.iter().enumerate() {
            assert!(m.name.starts_with("framegate_"), "{}", m.name);
            assert_eq!(m.name.ends_with("_total"), m.kind == Kind::Counter, "{}", m.name);
            assert!(!m.help.is_empty() && m.help.ends_with('.'), "{}", m.name);
            assert!(ALL[..i].iter().all(|other| other.name != m.name), "{}", m.name);
        }
    }

    #[test]
    fn pages_merge_into_one_family_each() {
        let (a, b) = (Group::new(Some(("stream", "a")), None), Group::new(Some(("stream", "b")), Some(0.017)));
        for (group, n) in [(&a, 3), (&b, 4)] {
            group.counter(&FRAMES_CAPTURED, &[]).absolute(n);
            group.histogram(&FRAME_LATENCY).record(0.016);
        }
        let text = merge(&[a.render(), b.render()]);
        assert_eq!(text.matches("# TYPE framegate_frames_captured_total counter").count(), 1, "{text}");
        assert_eq!(text.matches("# HELP framegate_frame_latency_seconds ").count(), 1, "{text}");
        assert!(text.contains("framegate_frames_captured_total{stream=\"a\"} 3\n"), "{text}");
        assert!(text.contains("framegate_frames_captured_total{stream=\"b\"} 4\n"), "{text}");
        assert!(text.contains("framegate_frame_latency_seconds_bucket{stream=\"b\",le=\"0.017\"} 1\n"), "{text}");
        assert!(!text.contains("{stream=\"a\",le=\"0.017\"}"), "{text}");
    }
}

//! What the program says about itself: metrics, health, the run report.
//!
//! Frames are counted by their streams' ledgers and nowhere else; everything here reads those when somebody asks.
//! Times are measured through handles ([`StreamMeter`], [`StageMeter`], [`RingMeter`], [`SinkMeter`]).
//!
//! The series of a stream, stage, ring or sink are exported as long as the engine holds its handle, and disappear
//! with it. Counters of a stream go on where they were when a reload replaces the stream by another of the same id.
//! The run report tells every stream there has been.

mod gpu;
mod health;
mod html;
mod meters;
pub mod metrics;
pub mod notify;
pub mod process;
mod recorder;
mod report;
mod status;
mod sweep;
mod tracer;

pub use health::{Health, Pulse, Stuck};
pub use meters::{RingMeter, SinkMeter, StageMeter, StreamMeter};
pub use recorder::{Recorded, Recorder};
pub use report::{
    BatchTimes, Drift, FrameCounts, Inputs, Machine, Overhead, ProcessUse, Quantiles, Rates, Report, ReportError,
    RhythmReport, SamplesReport, Simulated, SimulatedRun, SinkReport, Spread, StageCost, StageReport, StreamReport,
    Times,
};
pub use status::{LatencyStatus, StreamState, StreamStatus};
pub use tracer::{Traced, Tracer};

use self::gpu::Gpus;
use self::metrics::Group;
use crate::cache::{Cache, Layer, Reason};
use crate::frame::clock::{SECOND, now};
use crate::frame::journey::Witness;
use crate::frame::{Nanos, Stream};
use crate::schedule::trace::Tape;
use crate::views::Views;
use ::metrics::{Counter, Gauge};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Where a delivered frame's time went. The parts add up to its latency.
#[derive(Debug, Clone, Copy, Default)]
pub struct Breakdown {
    /// First to last byte at the host.
    pub arrival: Nanos,
    /// Jitter buffer, depayloading and decoding.
    pub depay_decode: Nanos,
    /// In rings and queues.
    pub wait: Nanos,
    /// Pixels to tensor.
    pub prepare: Nanos,
    /// Inference.
    pub execute: Nanos,
    /// Outputs to annotations.
    pub finish: Nanos,
    /// Everything else.
    pub rest: Nanos,
}

impl Breakdown {
    /// Names of the parts, in the order of the report.
    pub const NAMES: [&str; 7] = ["arrival", "depay_decode", "wait", "prepare", "execute", "finish", "rest"];

    /// The parts, in the order of [`NAMES`](Self::NAMES).
    pub fn parts(&self) -> [Nanos; 7] {
        [self.arrival, self.depay_decode, self.wait, self.prepare, self.execute, self.finish, self.rest]
    }

    /// Captured to delivered.
    pub fn total(&self) -> Nanos {
        self.parts().iter().sum()
    }
}

/// When the run was ready, and from when on latencies are part of the report.
#[derive(Debug)]
pub(crate) struct Window {
    ready: AtomicU64,
    warmup: AtomicU64,
    ended: AtomicU64,
}

/// Not yet.
const NEVER: Nanos = Nanos::MAX;

impl Window {
    fn measured_from(&self) -> Nanos {
        self.ready.load(Relaxed).saturating_add(self.warmup.load(Relaxed))
    }
}

#[derive(Default)]
struct Notes {
    pipeline_sha256: Option<String>,
    models: BTreeMap<String, String>,
    libraries: BTreeMap<String, String>,
    gpus: Vec<String>,
    rungs: Vec<Arc<str>>,
}

#[derive(Default)]
struct Meters {
    streams: BTreeMap<Arc<str>, Arc<StreamMeter>>,
    stages: BTreeMap<Arc<str>, Arc<StageMeter>>,
    rings: BTreeMap<String, Arc<RingMeter>>,
    sinks: BTreeMap<Arc<str>, Arc<SinkMeter>>,
}

/// A gauge whose label is only known while running.
struct Labelled {
    metric: &'static str,
    value: String,
    gauge: Gauge,
    reading: f64,
}

/// The engine holds the handle too, not only this list.
fn in_use<T>(meter: &Arc<T>) -> bool {
    Arc::strong_count(meter) > 1
}

/// Keeps all measurements of a process. Handles are made once and used on hot paths without locks or look-ups.
pub struct Telemetry {
    name: Arc<str>,
    started: Nanos,
    window: Arc<Window>,
    cpu_at_ready: Mutex<Duration>,
    notes: Mutex<Notes>,
    meters: Mutex<Meters>,
    base: Group,
    process: metrics_process::Collector,
    labelled: Mutex<Vec<Labelled>>,
    reloads: [Counter; 2],
    stuck: Gauge,
    recorder: Mutex<Option<Arc<Recorder>>>,
    tracer: Mutex<Option<Arc<Tracer>>>,
    cache: Mutex<Option<Arc<Cache>>>,
    views: Arc<Views>,
    stop: Arc<(Mutex<bool>, Condvar)>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("pipeline", &self.name).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Telemetry of a pipeline of this name. Starts no thread: see [`start_sampler`](Self::start_sampler).
    pub fn new(pipeline: impl Into<Arc<str>>) -> Arc<Self> {
        let base = Group::new(None, None);
        base.gauge(&metrics::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        let process = metrics_process::Collector::default();
        base.with(|| process.describe());
        Arc::new(Self {
            name: pipeline.into(),
            started: now(),
            window: Arc::new(Window {
                ready: AtomicU64::new(NEVER),
                warmup: AtomicU64::new(SECOND),
                ended: AtomicU64::new(NEVER),
            }),
            cpu_at_ready: Mutex::new(Duration::ZERO),
            notes: Mutex::default(),
            meters: Mutex::default(),
            labelled: Mutex::default(),
            reloads: ["done", "refused"].map(|r| base.counter(&metrics::RELOADS, &[("result", r)])),
            stuck: base.gauge(&metrics::THREADS_STUCK, &[]),
            recorder: Mutex::default(),
            tracer: Mutex::default(),
            cache: Mutex::default(),
            process,
            base,
            views: Arc::default(),
            stop: Arc::default(),
        })
    }

    /// The pipeline's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What people watch and ask for.
    pub fn views(&self) -> &Arc<Views> {
        &self.views
    }

    /// Measures a stream from now on (its ledger is read whenever metrics or a report are asked for). Another stream
    /// of an id that is known goes on with the same handle.
    pub fn stream(&self, stream: &Arc<Stream>) -> Arc<StreamMeter> {
        let rungs = self.notes.lock().rungs.clone();
        let mut meters = self.meters.lock();
        if let Some(meter) = meters.streams.get(&stream.id) {
            meter.succeed(stream);
            return meter.clone();
        }
        let meter = Arc::new(StreamMeter::new(stream, &self.window, &rungs));
        meters.streams.insert(stream.id.clone(), meter.clone());
        meter
    }

    /// Measures a stage on a device (`"cpu"` for stages without one).
    pub fn stage(&self, id: &Arc<str>, device: &str) -> Arc<StageMeter> {
        let mut meters = self.meters.lock();
        let meter = meters.stages.entry(id.clone()).or_insert_with(|| Arc::new(StageMeter::new(id, device)));
        meter.set_device(device);
        meter.clone()
    }

    /// Measures a ring.
    pub fn ring(&self, name: &str) -> Arc<RingMeter> {
        let mut meters = self.meters.lock();
        // Rings come and go with streams, and nobody asks for those that are gone.
        meters.rings.retain(|_, m| in_use(m));
        meters.rings.entry(name.to_owned()).or_insert_with(|| Arc::new(RingMeter::new(name))).clone()
    }

    /// Measures a sink.
    pub fn sink(&self, id: &Arc<str>) -> Arc<SinkMeter> {
        self.meters.lock().sinks.entry(id.clone()).or_insert_with(|| Arc::new(SinkMeter::new(id))).clone()
    }

    /// A device's slowdown factor.
    pub fn slowdown(&self, device: &str, xi: f64) {
        self.labelled(&metrics::DEVICE_SLOWDOWN, "device", device, xi);
    }

    /// How many streams the machine can serve at a rung.
    pub fn capacity(&self, rung: &str, streams: usize) {
        self.labelled(&metrics::CAPACITY, "rung", rung, streams as f64);
    }

    fn labelled(&self, metric: &'static metrics::Metric, label: &'static str, value: &str, reading: f64) {
        let mut labelled = self.labelled.lock();
        match labelled.iter_mut().find(|l| l.metric == metric.name && l.value == value) {
            Some(known) => {
                known.gauge.set(reading);
                known.reading = reading;
            }
            None => {
                let gauge = self.base.gauge(metric, &[(label, value)]);
                gauge.set(reading);
                labelled.push(Labelled { metric: metric.name, value: value.to_owned(), gauge, reading });
            }
        }
    }

    /// The cache whose counts are exported.
    pub fn cache(&self, cache: Arc<Cache>) {
        *self.cache.lock() = Some(cache);
    }

    fn count_cache(&self) {
        let cache = self.cache.lock();
        let Some(counts) = cache.as_ref().map(|c| c.counts()) else { return };
        for layer in Layer::ALL {
            let label = [("layer", layer.name())];
            self.base.counter(&metrics::CACHE_HITS, &label).absolute(counts.hits(layer));
            self.base.counter(&metrics::CACHE_MISSES, &label).absolute(counts.misses(layer));
            // How much a Redis server holds it knows itself.
            if layer != Layer::Redis {
                self.base.gauge(&metrics::CACHE_BYTES, &label).set(counts.bytes(layer) as f64);
            }
        }
        for reason in Reason::ALL {
            self.base.counter(&metrics::CACHE_DROPPED, &[("reason", reason.name())]).absolute(counts.drops(reason));
        }
    }

    /// Some frames of every stream that begins from now on are traced.
    pub fn trace(&self, tracer: Arc<Tracer>) {
        *self.tracer.lock() = Some(tracer);
    }

    /// Who watches the frames of a new stream, where they are traced.
    pub fn witness(&self) -> Option<Arc<dyn Witness>> {
        self.tracer.lock().as_ref().map(|t| t.witness())
    }

    /// What a trace shows beside the frames: how many wait in each ring, and how slow each device is.
    fn counters(&self, mut each: impl FnMut(&'static str, &str, f64)) {
        for (name, ring) in self.meters.lock().rings.iter().filter(|(_, m)| in_use(m)) {
            each("ring", name, ring.depth() as f64);
        }
        for l in self.labelled.lock().iter().filter(|l| l.metric == metrics::DEVICE_SLOWDOWN.name) {
            each("slowdown", &l.value, l.reading);
        }
    }

    /// What planners are told is recorded from now on.
    pub fn record(&self, recorder: Arc<Recorder>) {
        *self.recorder.lock() = Some(recorder);
    }

    /// A tape for a new planner, where planners are recorded.
    pub fn tape(&self) -> Option<Tape> {
        self.recorder.lock().as_ref().map(|r| r.tape())
    }

    /// A reload of the pipeline file was done, or refused.
    pub fn reloaded(&self, done: bool) {
        self.reloads[usize::from(!done)].increment(1);
    }

    /// The pipeline's rungs, best first: known before the first stream, and again after a reload.
    pub fn set_rungs(&self, names: &[Arc<str>]) {
        self.notes.lock().rungs = names.to_vec();
        for meter in self.meters.lock().streams.values() {
            meter.set_rungs(names);
        }
    }

    /// Frames captured less than this after READY are not in the report's latencies. Default one second.
    pub fn set_warmup(&self, warmup: Duration) {
        self.window.warmup.store(warmup.as_nanos() as Nanos, Relaxed);
    }

    /// The pipeline file's SHA-256, for the report.
    pub fn note_pipeline(&self, sha256: &str) {
        self.notes.lock().pipeline_sha256 = Some(sha256.to_owned());
    }

    /// A model in use and its file's SHA-256, for the report.
    pub fn note_model(&self, name: &str, sha256: &str) {
        self.notes.lock().models.insert(name.to_owned(), sha256.to_owned());
    }

    /// A library in use and its version, for the report.
    pub fn note_library(&self, name: &str, version: &str) {
        self.notes.lock().libraries.insert(name.to_owned(), version.to_owned());
    }

    /// READY: the warm-up of the report counts from here.
    pub fn ready(&self) {
        self.ready_at(now());
    }

    /// READY at this time: for runs under a virtual clock.
    pub fn ready_at(&self, at: Nanos) {
        *self.cpu_at_ready.lock() = process::cpu_time();
        for meter in self.meters.lock().streams.values() {
            meter.mark_ready();
        }
        self.window.ready.store(at, Relaxed);
    }

    /// The run ends here and only drains from now on: what rates are per.
    pub fn ended_at(&self, at: Nanos) {
        self.window.ended.store(at, Relaxed);
    }

    /// Frames captured from then on count in the report's latencies.
    pub(crate) fn measured_from(&self) -> Nanos {
        self.window.measured_from()
    }

    /// Whether READY was said.
    pub fn is_ready(&self) -> bool {
        self.window.ready.load(Relaxed) != NEVER
    }

    /// So many threads are stuck now.
    pub fn stuck(&self, threads: usize) {
        self.stuck.set(threads as f64);
    }

    /// Everything in Prometheus's text format.
    pub fn metrics(&self) -> String {
        let (streams, stages, rings, sinks) = {
            let mut meters = self.meters.lock();
            meters.rings.retain(|_, m| in_use(m));
            let streams: Vec<_> = meters.streams.values().filter(|m| in_use(m)).cloned().collect();
            let stages: Vec<_> = meters.stages.values().filter(|m| in_use(m)).cloned().collect();
            let rings: Vec<_> = meters.rings.values().cloned().collect();
            let sinks: Vec<_> = meters.sinks.values().filter(|m| in_use(m)).cloned().collect();
            (streams, stages, rings, sinks)
        };
        self.base.with(|| self.process.collect());
        if let Some(limit) = process::memory_limit() {
            self.base.gauge(&metrics::MEMORY_LIMIT, &[]).set(limit as f64);
        }
        self.count_cache();
        let mut pages = vec![self.base.render()];
        pages.extend(streams.iter().map(|m| m.render()));
        pages.extend(stages.iter().map(|m| m.render()));
        pages.extend(rings.iter().map(|m| m.render()));
        pages.extend(sinks.iter().map(|m| m.render()));
        metrics::merge(&pages)
    }

    /// Starts the thread that once a second reads the GPUs and sorts observations into buckets. It ends with the
    /// telemetry.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start_sampler(self: &Arc<Self>) -> std::io::Result<()> {
        let (telemetry, stop) = (Arc::downgrade(self), self.stop.clone());
        std::thread::Builder::new().name("telemetry".into()).spawn(move || {
            // Niceness is the thread's own on Linux. A thread that may not be nice is no harm.
            let _ = rustix::process::nice(10);
            let mut gpus = Gpus::open();
            if let (Some(gpus), Some(t)) = (&gpus, telemetry.upgrade()) {
                t.notes.lock().gpus = gpus.names().to_vec();
            }
            for second in 0u64.. {
                let Some(t) = telemetry.upgrade() else { return };
                t.sample(gpus.as_mut(), second);
                drop(t);
                let mut stopped = stop.0.lock();
                if !*stopped {
                    stop.1.wait_for(&mut stopped, Duration::from_secs(1));
                }
                if *stopped {
                    return;
                }
            }
        })?;
        Ok(())
    }

    fn sample(&self, gpus: Option<&mut Gpus>, second: u64) {
        if let Some(gpus) = gpus {
            gpus.sample(&self.base);
        }
        let (streams, stages, sinks): (Vec<_>, Vec<_>, Vec<_>) = {
            let meters = self.meters.lock();
            let (streams, stages) = (meters.streams.values().cloned(), meters.stages.values().cloned());
            (streams.collect(), stages.collect(), meters.sinks.values().cloned().collect())
        };
        for meter in streams {
            meter.upkeep();
            if second % 5 == 4 {
                meter.rotate();
            }
        }
        for meter in stages {
            meter.upkeep();
        }
        for meter in sinks {
            meter.upkeep();
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
    }
}

#[cfg(test)]
mod tests;

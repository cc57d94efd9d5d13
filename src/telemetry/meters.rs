//! The handles that threads measure with: one mutex each, shared with nobody but the scrape; no allocation and no
//! look-up where frames pass.

use super::metrics::{self as names, Group};
use super::{Breakdown, StageCost, Window};
use crate::frame::clock::SECOND;
use crate::frame::{Counts, FailReason, GapCause, Nanos, ShedReason, Signal, Stream, clock};
use hdrhistogram::Histogram as Hdr;
use metrics::{Counter, Gauge, Histogram};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Observations that wait for the exporter; more than a second's worth of any camera.
const PENDING: usize = 1024;
/// Largest time that histograms tell apart, microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// Times in microseconds, to `digits` significant digits.
fn hdr(digits: u8) -> Hdr<u32> {
    // The bounds are constants that the library accepts; there is no other way for this to fail.
    Hdr::new_with_bounds(1, LONGEST_US, digits).unwrap_or_else(|e| unreachable!("histogram bounds: {e}"))
}

fn micros(t: Nanos) -> u64 {
    t.saturating_add(500) / 1_000
}

fn seconds(t: Nanos) -> f64 {
    t as f64 / SECOND as f64
}

/// A distribution of times, with its exact extremes kept beside the buckets.
pub(super) struct Times {
    pub(super) hdr: Hdr<u32>,
    max: Nanos,
}

impl Times {
    fn new() -> Self {
        Self { hdr: hdr(3), max: 0 }
    }

    fn record(&mut self, t: Nanos) {
        self.hdr.saturating_record(micros(t));
        self.max = self.max.max(t);
    }

    /// A quantile in milliseconds; `None` where nothing was recorded.
    pub(super) fn quantile_ms(&self, q: f64) -> Option<f64> {
        // A bucket's upper edge may lie above everything recorded.
        (!self.hdr.is_empty()).then(|| (self.hdr.value_at_quantile(q) as f64 / 1e3).min(clock::millis(self.max)))
    }

    pub(super) fn max_ms(&self) -> Option<f64> {
        (!self.hdr.is_empty()).then(|| clock::millis(self.max))
    }
}

/// Measurements of one stream. Those of its frames' outcomes are its ledger's, which is read when somebody asks.
pub struct StreamMeter {
    window: Arc<Window>,
    hot: Mutex<StreamTimes>,
    ceiling: AtomicUsize,
    moved_down: AtomicU64,
    moved_up: AtomicU64,
    ledgers: Mutex<Ledgers>,
    exported: Mutex<StreamSeries>,
}

/// What is known about a stream's times.
pub(super) struct StreamTimes {
    pub(super) latency: Times,
    pub(super) overhead: Times,
    /// Sums over the frames in `latency`, nanoseconds, in the order of [`Breakdown::parts`].
    pub(super) parts: [u64; 7],
    /// Sum of the squares of arrival and decoding, square milliseconds.
    pub(super) decode_squares: f64,
    /// The last seconds' latencies, newest first.
    recent: [Hdr<u32>; 2],
    /// Delivered frames by rung name.
    pub(super) rungs: Vec<(Arc<str>, u64)>,
    /// Place in `rungs` of each rung there is now.
    places: Vec<usize>,
    pending: Vec<f64>,
}

/// All streams that had this id, one after the other: a reload may replace a stream by another of the same name.
struct Ledgers {
    now: Arc<Stream>,
    before: Vec<Arc<Stream>>,
    ended: Counts,
    at_ready: Counts,
}

struct StreamSeries {
    deadline: Option<Nanos>,
    group: Group,
    latency: Histogram,
    captured: Counter,
    outcomes: [Counter; 5],
    shed: [Counter; 5],
    failed: [Counter; 6],
    inferred: Counter,
    rescued: Counter,
    copies: Counter,
    reconnects: Counter,
    changes: [Counter; 2],
    in_flight: Gauge,
    rung: Gauge,
    up: Gauge,
    samples: Option<SampleSeries>,
    scratch: Vec<f64>,
}

/// Series that only streams of samples have.
struct SampleSeries {
    received: Counter,
    lost: [Counter; 3],
    gaps: [Counter; 3],
    /// Drift and its uncertainty, once it has been measured.
    clock: Option<[Gauge; 2]>,
}

impl SampleSeries {
    fn new(group: &Group) -> Self {
        let each = |metric: &names::Metric| GapCause::ALL.map(|c| group.counter(metric, &[("cause", c.name())]));
        Self {
            received: group.counter(&names::SAMPLES_RECEIVED, &[]),
            lost: each(&names::SAMPLES_LOST),
            gaps: each(&names::SAMPLE_GAPS),
            clock: None,
        }
    }

    fn set(&mut self, group: &Group, stream: &Stream, c: &Counts) {
        self.received.absolute(c.samples);
        self.lost.iter().zip(c.lost).for_each(|(counter, n)| counter.absolute(n));
        self.gaps.iter().zip(c.gaps).for_each(|(counter, n)| counter.absolute(n));
        let Some(reading) = stream.sample_clock() else { return };
        let metrics = [&names::SAMPLE_CLOCK_DRIFT, &names::SAMPLE_CLOCK_UNCERTAINTY];
        let [drift, uncertainty] = self.clock.get_or_insert_with(|| metrics.map(|m| group.gauge(m, &[])));
        drift.set(reading.drift_ppm);
        uncertainty.set(reading.uncertainty_ppm);
    }
}

impl StreamSeries {
    fn new(stream: &Stream) -> Self {
        let group = Group::new(Some(("stream", &stream.id)), stream.deadline.map(seconds));
        let outcome = |o| group.counter(&names::FRAMES, &[("outcome", o)]);
        let change = |d| group.counter(&names::RUNG_CHANGES, &[("direction", d)]);
        if let Some(deadline) = stream.deadline {
            group.gauge(&names::FRAME_DEADLINE, &[]).set(seconds(deadline));
        }
        Self {
            deadline: stream.deadline,
            latency: group.histogram(&names::FRAME_LATENCY),
            captured: group.counter(&names::FRAMES_CAPTURED, &[]),
            outcomes: ["on_time", "late", "shed", "evicted", "failed"].map(outcome),
            shed: ShedReason::ALL.map(|r| group.counter(&names::FRAMES_SHED, &[("reason", r.name())])),
            failed: FailReason::ALL.map(|r| group.counter(&names::FRAMES_FAILED, &[("reason", r.name())])),
            inferred: group.counter(&names::FRAMES_INFERRED, &[]),
            rescued: group.counter(&names::FRAMES_RESCUED, &[]),
            copies: group.counter(&names::FRAMES_COPIED, &[]),
            reconnects: group.counter(&names::SOURCE_RECONNECTS, &[]),
            changes: ["down", "up"].map(change),
            in_flight: group.gauge(&names::FRAMES_IN_FLIGHT, &[]),
            rung: group.gauge(&names::RUNG, &[]),
            up: group.gauge(&names::SOURCE_UP, &[]),
            samples: None,
            scratch: Vec::with_capacity(PENDING),
            group,
        }
    }
}

fn add(sum: &mut Counts, more: &Counts) {
    sum.captured += more.captured;
    sum.on_time += more.on_time;
    sum.late += more.late;
    sum.evicted += more.evicted;
    sum.inferred += more.inferred;
    sum.rescued += more.rescued;
    sum.copies += more.copies;
    sum.reconnects += more.reconnects;
    sum.samples += more.samples;
    sum.lost.iter_mut().zip(&more.lost).for_each(|(a, b)| *a += b);
    sum.gaps.iter_mut().zip(&more.gaps).for_each(|(a, b)| *a += b);
    sum.shed.iter_mut().zip(&more.shed).for_each(|(a, b)| *a += b);
    sum.failed.iter_mut().zip(&more.failed).for_each(|(a, b)| *a += b);
}

impl StreamMeter {
    pub(super) fn new(stream: &Arc<Stream>, window: &Arc<Window>, rungs: &[Arc<str>]) -> Self {
        let meter = Self {
            window: window.clone(),
            hot: Mutex::new(StreamTimes {
                latency: Times::new(),
                overhead: Times::new(),
                parts: [0; 7],
                decode_squares: 0.0,
                recent: [hdr(2), hdr(2)],
                rungs: Vec::new(),
                places: Vec::new(),
                pending: Vec::with_capacity(PENDING),
            }),
            ceiling: AtomicUsize::new(0),
            moved_down: AtomicU64::new(0),
            moved_up: AtomicU64::new(0),
            ledgers: Mutex::new(Ledgers {
                now: stream.clone(),
                before: Vec::new(),
                ended: Counts::default(),
                at_ready: Counts::default(),
            }),
            exported: Mutex::new(StreamSeries::new(stream)),
        };
        meter.set_rungs(rungs);
        meter
    }

    /// A frame captured at `captured` was delivered: latency is the sum of the breakdown. `overhead` is latency less
    /// every piece of named work (arrival, decode, prepare, execute, finish, rest) and less queueing for a busy device.
    pub fn delivered(&self, captured: Nanos, parts: &Breakdown, overhead: Nanos, rung: usize) {
        let latency = parts.total();
        let mut hot = self.hot.lock();
        hot.recent[0].saturating_record(micros(latency));
        if let Some(&place) = hot.places.get(rung) {
            hot.rungs[place].1 += 1;
        }
        if captured >= self.window.measured_from() {
            hot.latency.record(latency);
            hot.overhead.record(overhead);
            hot.decode_squares += clock::millis(parts.arrival + parts.depay_decode).powi(2);
            hot.parts.iter_mut().zip(parts.parts()).for_each(|(sum, part)| *sum += part);
        }
        hot.pending.push(seconds(latency));
        if hot.pending.len() >= PENDING {
            drop(hot);
            self.flush(&mut self.exported.lock());
        }
    }

    /// The stream's ceiling starts on this rung, which is no move.
    pub fn starts_on(&self, rung: usize) {
        self.ceiling.store(rung, Relaxed);
    }

    /// The stream's ceiling moved to this rung.
    pub fn rung(&self, rung: usize) {
        let before = self.ceiling.swap(rung, Relaxed);
        if rung > before {
            self.moved_down.fetch_add(1, Relaxed);
        } else if rung < before {
            self.moved_up.fetch_add(1, Relaxed);
        }
    }

    /// The stream as it is now.
    pub(super) fn stream(&self) -> Arc<Stream> {
        self.ledgers.lock().now.clone()
    }

    /// Goes on with another stream of the same id.
    pub(super) fn succeed(&self, stream: &Arc<Stream>) {
        let mut ledgers = self.ledgers.lock();
        if Arc::ptr_eq(&ledgers.now, stream) {
            return;
        }
        let before = std::mem::replace(&mut ledgers.now, stream.clone());
        ledgers.before.push(before);
        drop(ledgers);
        let mut exported = self.exported.lock();
        if exported.deadline != stream.deadline {
            // Other bucket edges make another histogram; to Prometheus it looks like a restart.
            self.flush(&mut exported);
            *exported = StreamSeries::new(stream);
        }
    }

    pub(super) fn set_rungs(&self, rungs: &[Arc<str>]) {
        let mut hot = self.hot.lock();
        let hot = &mut *hot;
        hot.places.clear();
        for name in rungs {
            let known = hot.rungs.iter().position(|(n, _)| n == name);
            hot.places.push(known.unwrap_or(hot.rungs.len()));
            if known.is_none() {
                hot.rungs.push((name.clone(), 0));
            }
        }
    }

    /// Counts of all streams that had this id.
    pub(super) fn counts(&self) -> Counts {
        let mut ledgers = self.ledgers.lock();
        let ledgers = &mut *ledgers;
        // A stream whose frames have all ended and that nobody else knows will not count any more.
        ledgers.before.retain(|s| {
            let over = Arc::strong_count(s) == 1 && s.ledger.counts().in_flight() == 0;
            if over {
                add(&mut ledgers.ended, &s.ledger.counts());
            }
            !over
        });
        let mut sum = ledgers.ended.clone();
        for stream in ledgers.before.iter().chain([&ledgers.now]) {
            add(&mut sum, &stream.ledger.counts());
        }
        sum
    }

    /// Remembers the counts of now as those of READY.
    pub(super) fn mark_ready(&self) {
        let counts = self.counts();
        self.ledgers.lock().at_ready = counts;
    }

    pub(super) fn counts_at_ready(&self) -> Counts {
        self.ledgers.lock().at_ready.clone()
    }

    /// The rung of the ceiling, and how often it moved.
    pub(super) fn ceiling(&self) -> (usize, u64) {
        (self.ceiling.load(Relaxed), self.moved_down.load(Relaxed) + self.moved_up.load(Relaxed))
    }

    pub(super) fn times<T>(&self, read: impl FnOnce(&StreamTimes) -> T) -> T {
        read(&self.hot.lock())
    }

    /// Quantiles of the last seconds' latencies, milliseconds; `None` where nothing was delivered.
    pub(super) fn recent_ms(&self, quantiles: &[f64]) -> Vec<Option<f64>> {
        let mut all = hdr(2);
        {
            let hot = self.hot.lock();
            for h in &hot.recent {
                // Same bounds, so nothing is out of range.
                let _ = all.add(h);
            }
        }
        quantiles.iter().map(|&q| (!all.is_empty()).then(|| all.value_at_quantile(q) as f64 / 1e3)).collect()
    }

    /// Lets the older half of the recent latencies go.
    pub(super) fn rotate(&self) {
        let mut hot = self.hot.lock();
        hot.recent.swap(0, 1);
        hot.recent[0].reset();
    }

    fn flush(&self, series: &mut StreamSeries) {
        std::mem::swap(&mut self.hot.lock().pending, &mut series.scratch);
        for &s in &series.scratch {
            series.latency.record(s);
        }
        series.scratch.clear();
        series.group.upkeep();
    }

    pub(super) fn upkeep(&self) {
        self.flush(&mut self.exported.lock());
    }

    pub(super) fn render(&self) -> String {
        let c = self.counts();
        let stream = self.stream();
        let up = stream.signal() == Signal::Up;
        let mut series = self.exported.lock();
        self.flush(&mut series);
        let s = &mut *series;
        if c.samples > 0 {
            s.samples.get_or_insert_with(|| SampleSeries::new(&s.group)).set(&s.group, &stream, &c);
        }
        s.captured.absolute(c.captured);
        let outcomes = [c.on_time, c.late, c.shed_total(), c.evicted, c.failed_total()];
        s.outcomes.iter().zip(outcomes).for_each(|(counter, n)| counter.absolute(n));
        s.shed.iter().zip(c.shed).for_each(|(counter, n)| counter.absolute(n));
        s.failed.iter().zip(c.failed).for_each(|(counter, n)| counter.absolute(n));
        s.inferred.absolute(c.inferred);
        s.rescued.absolute(c.rescued);
        s.copies.absolute(c.copies);
        s.reconnects.absolute(c.reconnects);
        s.changes[0].absolute(self.moved_down.load(Relaxed));
        s.changes[1].absolute(self.moved_up.load(Relaxed));
        s.in_flight.set(c.in_flight() as f64);
        s.rung.set(self.ceiling.load(Relaxed) as f64);
        s.up.set(f64::from(u8::from(up)));
        s.group.render()
    }
}

/// Measurements of one stage.
pub struct StageMeter {
    hot: Mutex<StageTimes>,
    exported: Mutex<StageSeries>,
    panics: Counter,
    hangs: Counter,
}

pub(super) struct StageTimes {
    pub(super) device: String,
    pub(super) work: Times,
    pub(super) wait: Times,
    pub(super) execute: Times,
    pub(super) frames: u64,
    pub(super) batches: u64,
    pub(super) batched: u64,
    /// Slots of its device, and what its ways of running cost.
    pub(super) costs: Option<(usize, Vec<StageCost>)>,
    pending: StagePending,
}

struct StagePending {
    work: Vec<f64>,
    wait: Vec<f64>,
    batch: Vec<f64>,
}

impl StagePending {
    fn new() -> Self {
        Self {
            work: Vec::with_capacity(PENDING),
            wait: Vec::with_capacity(PENDING),
            batch: Vec::with_capacity(PENDING),
        }
    }
}

struct StageSeries {
    group: Group,
    work: Histogram,
    wait: Histogram,
    batch: Histogram,
    scratch: StagePending,
}

impl StageMeter {
    pub(super) fn new(id: &str, device: &str) -> Self {
        let group = Group::new(Some(("stage", id)), None);
        Self {
            hot: Mutex::new(StageTimes {
                device: device.to_owned(),
                work: Times::new(),
                wait: Times::new(),
                execute: Times::new(),
                frames: 0,
                batches: 0,
                batched: 0,
                costs: None,
                pending: StagePending::new(),
            }),
            panics: group.counter(&names::STAGE_PANICS, &[]),
            hangs: group.counter(&names::STAGE_HANGS, &[]),
            exported: Mutex::new(StageSeries {
                work: group.histogram(&names::STAGE_WORK),
                wait: group.histogram(&names::STAGE_WAIT),
                batch: group.histogram(&names::BATCH_FRAMES),
                group,
                scratch: StagePending::new(),
            }),
        }
    }

    /// A frame was worked on for `work` after waiting for `wait`.
    pub fn frame(&self, work: Nanos, wait: Nanos) {
        let mut hot = self.hot.lock();
        hot.frames += 1;
        hot.work.record(work);
        hot.wait.record(wait);
        hot.pending.work.push(seconds(work));
        hot.pending.wait.push(seconds(wait));
        if hot.pending.work.len() >= PENDING {
            drop(hot);
            self.upkeep();
        }
    }

    /// A batch of `n` frames ran for `work`.
    pub fn batch(&self, n: usize, work: Nanos) {
        let mut hot = self.hot.lock();
        hot.batches += 1;
        hot.batched += n as u64;
        hot.execute.record(work);
        hot.pending.batch.push(n as f64);
        if hot.pending.batch.len() >= PENDING {
            drop(hot);
            self.upkeep();
        }
    }

    /// What its ways of running cost so far, on a device of so many slots: for the report.
    pub fn costs(&self, slots: usize, costs: Vec<StageCost>) {
        self.hot.lock().costs = Some((slots, costs));
    }

    /// A panic was caught, and the stage is rebuilt.
    pub fn panicked(&self) {
        self.panics.increment(1);
    }

    /// A call hung and was abandoned with its thread.
    pub fn hung(&self) {
        self.hangs.increment(1);
    }

    pub(super) fn set_device(&self, device: &str) {
        device.clone_into(&mut self.hot.lock().device);
    }

    pub(super) fn times<T>(&self, read: impl FnOnce(&StageTimes) -> T) -> T {
        read(&self.hot.lock())
    }

    pub(super) fn upkeep(&self) {
        let mut series = self.exported.lock();
        let s = &mut *series;
        std::mem::swap(&mut self.hot.lock().pending, &mut s.scratch);
        for (histogram, values) in
            [(&s.work, &mut s.scratch.work), (&s.wait, &mut s.scratch.wait), (&s.batch, &mut s.scratch.batch)]
        {
            for v in values.drain(..) {
                histogram.record(v);
            }
        }
        s.group.upkeep();
    }

    pub(super) fn render(&self) -> String {
        self.upkeep();
        self.exported.lock().group.render()
    }
}

/// Measurements of one ring.
pub struct RingMeter {
    group: Group,
    depth: AtomicUsize,
    frames: Gauge,
    age: Gauge,
}

impl RingMeter {
    pub(super) fn new(name: &str) -> Self {
        let group = Group::new(Some(("ring", name)), None);
        let depth = AtomicUsize::new(0);
        Self {
            frames: group.gauge(&names::RING_FRAMES, &[]),
            age: group.gauge(&names::RING_SECONDS, &[]),
            depth,
            group,
        }
    }

    /// The ring holds `frames`, the oldest of them for `age`.
    pub fn set(&self, frames: usize, age: Nanos) {
        self.depth.store(frames, Relaxed);
        self.frames.set(frames as f64);
        self.age.set(seconds(age));
    }

    /// Frames in the ring when it was last looked at.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Relaxed)
    }

    pub(super) fn render(&self) -> String {
        self.group.render()
    }
}

/// Measurements of one sink.
pub struct SinkMeter {
    group: Group,
    pending: Gauge,
    errors: Counter,
    lost: AtomicU64,
    /// Only sinks that store have it.
    stored: OnceLock<Histogram>,
}

impl SinkMeter {
    pub(super) fn new(id: &str) -> Self {
        let group = Group::new(Some(("sink", id)), None);
        Self {
            pending: group.gauge(&names::SINK_PENDING, &[]),
            errors: group.counter(&names::SINK_ERRORS, &[]),
            lost: AtomicU64::new(0),
            stored: OnceLock::new(),
            group,
        }
    }

    /// A record was stored so long after its frame was captured.
    pub fn stored(&self, after: Nanos) {
        let histogram = self.stored.get_or_init(|| self.group.histogram(&names::STORE_LATENCY));
        histogram.record(after as f64 / SECOND as f64);
    }

    pub(super) fn upkeep(&self) {
        self.group.upkeep();
    }

    /// Records waiting.
    pub fn pending(&self, n: usize) {
        self.pending.set(n as f64);
    }

    /// A record was lost: queue full, or the sink failed on it.
    pub fn error(&self) {
        self.lost.fetch_add(1, Relaxed);
        self.errors.increment(1);
    }

    /// Records lost so far.
    pub fn errors(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    pub(super) fn render(&self) -> String {
        self.group.render()
    }
}

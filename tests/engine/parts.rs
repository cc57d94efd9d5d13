//! Stages, sinks and pipelines of the tests' own.

use crossbeam_channel::{Receiver, Sender, unbounded};
use framegate::config::{Admission, Pipeline, Rung, SinkEntry, SourceEntry, StageEntry};
use framegate::engine::{Engine, State};
use framegate::frame::{Detection, Frame, Record};
use framegate::schedule::Policy;
use framegate::sink::{Sink, SinkConfig, SinkError};
use framegate::source::SourceConfig;
use framegate::stage::{Batch, BatchStage, BuildContext, Built, Execute, Stage, StageConfig, StageError};
use framegate::telemetry::{Health, StreamReport, Telemetry};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Process = dyn Fn(&mut Frame) -> Result<(), StageError> + Send + Sync;

/// A stage made of a function.
#[derive(Clone)]
struct Plain(Arc<Process>);

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

impl Stage for Plain {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        (self.0)(frame)
    }
}

impl StageConfig for Plain {
    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        let stage = self.clone();
        Ok(Built::Stage(Box::new(move || Ok(Box::new(stage.clone()) as Box<dyn Stage>))))
    }
}

pub fn plain(f: impl Fn(&mut Frame) -> Result<(), StageError> + Send + Sync + 'static) -> Box<dyn StageConfig> {
    Box::new(Plain(Arc::new(f)))
}

/// A device that takes a fixed time for each frame, and says what batches it ran.
#[derive(Clone, Debug)]
pub struct Device {
    sizes: Vec<usize>,
    per_frame: Duration,
    slots: usize,
    batches: Sender<usize>,
}

struct Places(Vec<(Arc<str>, u64)>);

impl BatchStage for Device {
    fn batch_sizes(&self) -> &[usize] {
        &self.sizes
    }
    fn device(&self) -> &str {
        "test"
    }
    fn slots(&self) -> usize {
        self.slots
    }
    fn open(&self) -> Result<Box<dyn Execute>, StageError> {
        Ok(Box::new(self.clone()))
    }
    fn buffers(&self) -> Batch {
        Box::new(Places(vec![("".into(), 0); 16]))
    }
    fn prepare(&self, frame: &Frame, batch: &mut Batch, at: Range<usize>) -> Result<(), StageError> {
        let places = batch.downcast_mut::<Places>().expect("our batch");
        places.0[at.start] = (frame.stream().id.clone(), frame.ticket.seq);
        Ok(())
    }
    fn finish(&self, batch: &Batch, at: Range<usize>, frame: &mut Frame) -> Result<(), StageError> {
        let place = &batch.downcast_ref::<Places>().expect("our batch").0[at.start];
        assert_eq!(*place, (frame.stream().id.clone(), frame.ticket.seq), "outputs belong to the frame");
        frame.annotations.detections = Some(vec![Detection::new("thing".into(), 0, 1.0, [0.0, 0.0, 1.0, 1.0])]);
        Ok(())
    }
}

impl Execute for Device {
    fn execute(&mut self, _: &mut Batch, n: usize) -> Result<(), StageError> {
        let end = Instant::now() + self.per_frame * n as u32;
        while Instant::now() < end {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
        let _ = self.batches.send(n);
        Ok(())
    }
}

impl StageConfig for Device {
    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        Ok(Built::Batch(Arc::new(self.clone())))
    }
}

pub fn device(sizes: &[usize], per_frame: Duration, slots: usize) -> (Box<dyn StageConfig>, Receiver<usize>) {
    let (tx, rx) = unbounded();
    (Box::new(Device { sizes: sizes.to_vec(), per_frame, slots, batches: tx }), rx)
}

/// A sink that hands records to the test.
#[derive(Clone, Debug)]
pub struct Collect(pub Sender<Arc<Record>>);

impl Sink for Collect {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        self.0.send(record.clone()).map_err(|e| SinkError(e.to_string()))
    }
}

impl SinkConfig for Collect {
    fn open(&self, _: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(self.clone()))
    }
}

/// A sink that takes its first record and never returns until the test lets go.
#[derive(Clone, Debug)]
pub struct Stalled(pub Receiver<()>);

impl Sink for Stalled {
    fn deliver(&mut self, _: &Arc<Record>) -> Result<(), SinkError> {
        let _ = self.0.recv();
        Ok(())
    }
}

impl SinkConfig for Stalled {
    fn open(&self, _: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(self.clone()))
    }
}

pub fn source(id: &str, launch: String, deadline: Option<Duration>) -> SourceEntry {
    let text = format!("launch = {launch:?}\npace = {:?}", if deadline.is_some() { "live" } else { "fast" });
    let config: SourceConfig = toml::from_str(&text).expect("a source");
    SourceEntry { id: id.into(), deadline, config }
}

/// `n` grey pictures as fast as they are taken.
pub fn offline(id: &str, n: usize) -> SourceEntry {
    source(
        id,
        format!("videotestsrc num-buffers={n} ! video/x-raw,format=GRAY8,width=32,height=32,framerate=30/1"),
        None,
    )
}

/// Grey pictures at 30 frames per second.
pub fn live(id: &str) -> SourceEntry {
    source(
        id,
        "videotestsrc is-live=true ! video/x-raw,format=GRAY8,width=32,height=32,framerate=30/1".into(),
        Some(Duration::from_millis(33)),
    )
}

pub fn stage(id: &str, from: &[&str], config: Box<dyn StageConfig>) -> StageEntry {
    let from = from.iter().map(|&f| f.into()).collect();
    StageEntry {
        id: id.into(),
        from,
        kind: "test",
        workers: 1,
        cpus: Vec::new(),
        config,
        variants: Vec::new(),
        rungs: Vec::new(),
        settings: toml::Table::new(),
    }
}

pub fn sink(from: &[&str], config: impl SinkConfig + 'static) -> SinkEntry {
    let from = from.iter().map(|&f| f.into()).collect();
    SinkEntry {
        id: "out".into(),
        from,
        kind: "test",
        queue: 64,
        config: Box::new(config),
        settings: toml::Table::new(),
    }
}

pub fn pipeline(sources: Vec<SourceEntry>, stages: Vec<StageEntry>, sinks: Vec<SinkEntry>) -> Pipeline {
    Pipeline {
        name: "test".into(),
        path: "test.toml".into(),
        sha256: String::new(),
        search: Vec::new(),
        fps: 30.0,
        deadline: None,
        admission: Admission::Off,
        policy: Policy::Framegate,
        costs: Default::default(),
        load: Default::default(),
        http: None,
        cache: framegate::cache::Settings::default(),
        realtime: None,
        cpus: Vec::new(),
        sources,
        stages,
        sinks,
        rungs: vec![Rung { name: "full".into(), lazy: false, overrides: Vec::new() }],
    }
}

pub struct Running {
    pub engine: Engine,
    pub telemetry: Arc<Telemetry>,
}

pub fn start(pipeline: Pipeline) -> Running {
    let telemetry = Telemetry::new("test");
    let engine = Engine::start(pipeline, telemetry.clone(), Arc::new(Health::default())).expect("engine");
    Running { engine, telemetry }
}

impl Running {
    /// Ticks until `done` says so, or fails after half a minute.
    pub fn until(&mut self, mut done: impl FnMut(&Telemetry) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done(&self.telemetry) {
            self.engine.tick().expect("running");
            assert!(Instant::now() < end, "did not happen within 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn finish(mut self) -> Arc<Telemetry> {
        let end = Instant::now() + Duration::from_secs(30);
        while self.engine.tick().expect("running") == State::Running {
            assert!(Instant::now() < end, "did not end within 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(self.engine.stop(Duration::from_secs(5)), "everything ended");
        self.telemetry
    }
}

pub fn counts(telemetry: &Telemetry, stream: &str) -> StreamReport {
    telemetry.report().streams.get(stream).cloned().expect("stream")
}

pub fn failed(status: &StreamReport, reason: &str) -> u64 {
    status.fail_reasons.get(reason).copied().unwrap_or(0)
}

pub fn shed(status: &StreamReport, reason: &str) -> u64 {
    status.shed_reasons.get(reason).copied().unwrap_or(0)
}

pub fn delivered(status: &StreamReport) -> u64 {
    status.frames.on_time + status.frames.late
}

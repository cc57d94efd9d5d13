//! The engine with stages and sinks of the test's own: every captured frame ends in exactly one outcome, whatever
//! happens on the way.

use crossbeam_channel::{Receiver, Sender, unbounded};
use framegate::config::{Admission, Pipeline, Rung, SinkEntry, SourceEntry, StageEntry};
use framegate::engine::{Engine, EngineError, State};
use framegate::frame::{Detection, Frame, Record};
use framegate::sink::{Sink, SinkConfig, SinkError};
use framegate::source::SourceConfig;
use framegate::stage::{Batch, BatchStage, Budget, BuildContext, Built, Execute, Stage, StageConfig, StageError};
use framegate::telemetry::{Health, StreamReport, Telemetry};
use std::fmt;
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
    fn process(&mut self, frame: &mut Frame, _: Budget) -> Result<(), StageError> {
        (self.0)(frame)
    }
}

impl StageConfig for Plain {
    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        let stage = self.clone();
        Ok(Built::Stage(Box::new(move || Ok(Box::new(stage.clone()) as Box<dyn Stage>))))
    }
}

fn plain(f: impl Fn(&mut Frame) -> Result<(), StageError> + Send + Sync + 'static) -> Box<dyn StageConfig> {
    Box::new(Plain(Arc::new(f)))
}

/// A device that takes a fixed time for each frame, and says what batches it ran.
#[derive(Clone, Debug)]
struct Device {
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
    fn prepare(&self, frame: &Frame, batch: &mut Batch, index: usize) -> Result<(), StageError> {
        let places = batch.downcast_mut::<Places>().expect("our batch");
        places.0[index] = (frame.stream().id.clone(), frame.ticket.seq);
        Ok(())
    }
    fn finish(&self, batch: &Batch, index: usize, frame: &mut Frame) -> Result<(), StageError> {
        let place = &batch.downcast_ref::<Places>().expect("our batch").0[index];
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

fn device(sizes: &[usize], per_frame: Duration, slots: usize) -> (Box<dyn StageConfig>, Receiver<usize>) {
    let (tx, rx) = unbounded();
    (Box::new(Device { sizes: sizes.to_vec(), per_frame, slots, batches: tx }), rx)
}

/// A sink that hands records to the test.
#[derive(Clone, Debug)]
struct Collect(Sender<Arc<Record>>);

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
struct Stalled(Receiver<()>);

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

fn source(id: &str, launch: String, deadline: Option<Duration>) -> SourceEntry {
    let text = format!("launch = {launch:?}\npace = {:?}", if deadline.is_some() { "live" } else { "fast" });
    let config: SourceConfig = toml::from_str(&text).expect("a source");
    SourceEntry { id: id.into(), deadline, config }
}

/// `n` grey pictures as fast as they are taken.
fn offline(id: &str, n: usize) -> SourceEntry {
    source(
        id,
        format!("videotestsrc num-buffers={n} ! video/x-raw,format=GRAY8,width=32,height=32,framerate=30/1"),
        None,
    )
}

/// Grey pictures at 30 frames per second.
fn live(id: &str) -> SourceEntry {
    source(
        id,
        "videotestsrc is-live=true ! video/x-raw,format=GRAY8,width=32,height=32,framerate=30/1".into(),
        Some(Duration::from_millis(33)),
    )
}

fn stage(id: &str, from: &[&str], config: Box<dyn StageConfig>) -> StageEntry {
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

fn sink(from: &[&str], config: impl SinkConfig + 'static) -> SinkEntry {
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

fn pipeline(sources: Vec<SourceEntry>, stages: Vec<StageEntry>, sinks: Vec<SinkEntry>) -> Pipeline {
    Pipeline {
        name: "test".into(),
        path: "test.toml".into(),
        sha256: String::new(),
        search: Vec::new(),
        fps: 30.0,
        deadline: None,
        admission: Admission::Off,
        http: None,
        realtime: None,
        cpus: Vec::new(),
        sources,
        stages,
        sinks,
        rungs: vec![Rung { name: "full".into(), overrides: Vec::new() }],
    }
}

struct Running {
    engine: Engine,
    telemetry: Arc<Telemetry>,
}

fn start(pipeline: Pipeline) -> Running {
    let telemetry = Telemetry::new("test");
    let engine = Engine::start(pipeline, telemetry.clone(), Arc::new(Health::default())).expect("engine");
    Running { engine, telemetry }
}

impl Running {
    /// Ticks until `done` says so, or fails after half a minute.
    fn until(&mut self, mut done: impl FnMut(&Telemetry) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done(&self.telemetry) {
            self.engine.tick().expect("running");
            assert!(Instant::now() < end, "did not happen within 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn finish(mut self) -> Arc<Telemetry> {
        let end = Instant::now() + Duration::from_secs(30);
        while self.engine.tick().expect("running") == State::Running {
            assert!(Instant::now() < end, "did not end within 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(self.engine.stop(Duration::from_secs(5)), "everything ended");
        self.telemetry
    }
}

fn counts(telemetry: &Telemetry, stream: &str) -> StreamReport {
    telemetry.report().streams.get(stream).cloned().expect("stream")
}

fn failed(status: &StreamReport, reason: &str) -> u64 {
    status.fail_reasons.get(reason).copied().unwrap_or(0)
}

fn shed(status: &StreamReport, reason: &str) -> u64 {
    status.shed_reasons.get(reason).copied().unwrap_or(0)
}

fn delivered(status: &StreamReport) -> u64 {
    status.frames.on_time + status.frames.late
}

#[test]
fn an_offline_run_delivers_every_frame_in_order_and_forms_batches_by_count() {
    for slots in [1, 3] {
        let (config, batches) = device(&[1, 2, 4], Duration::from_micros(200), slots);
        let (tx, records) = unbounded();
        let p = pipeline(
            vec![offline("a", 101), offline("b", 50)],
            vec![stage("detect", &["a", "b"], config), stage("after", &["detect"], plain(|_| Ok(())))],
            vec![sink(&["after"], Collect(tx))],
        );
        let calibration = 15 * 3;
        let telemetry = start(p).finish();
        for (id, n) in [("a", 101), ("b", 50)] {
            let c = counts(&telemetry, id);
            assert_eq!((c.frames.captured, c.frames.on_time, c.frames.in_flight), (n, n, 0), "{id}: {c:?}");
        }
        let mut next = std::collections::HashMap::new();
        for r in records.try_iter() {
            let seq = next.entry(r.stream.id.clone()).or_insert(0);
            assert_eq!(r.seq, *seq, "in order");
            assert!(r.inferred && r.on_time);
            *seq += 1;
        }
        assert_eq!(next.values().sum::<u64>(), 151);
        let sizes: Vec<_> = batches.try_iter().collect();
        let full = sizes.iter().filter(|&&n| n == 4).count();
        assert!(full >= 25 + 12 && full <= 25 + 12 + calibration, "full batches: {full}");
    }
}

#[test]
fn an_overloaded_device_serves_every_stream_and_accounts_for_every_frame() {
    let (config, _batches) = device(&[1], Duration::from_millis(16), 1);
    let (tx, records) = unbounded();
    let ids = ["a", "b", "c", "d"];
    let p = pipeline(ids.map(live).into(), vec![stage("detect", &ids, config)], vec![sink(&["detect"], Collect(tx))]);
    let mut run = start(p);
    run.until(|t| ids.iter().all(|id| counts(t, id).frames.captured >= 90));
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    for id in ids {
        let c = counts(&telemetry, id);
        assert_eq!(c.frames.in_flight, 0, "{id}: {c:?}");
        assert_eq!(c.frames.failed, failed(&c, "stopped"), "only those that were under way at the stop: {c:?}");
        assert!(delivered(&c) > 20, "{id} is served: {c:?}");
        assert!(c.frames.shed > 10, "{id} gives way: {c:?}");
    }
    assert!(records.len() > 80);
}

#[test]
fn a_model_that_can_never_fit_sheds_every_frame_as_infeasible() {
    let (config, _batches) = device(&[1], Duration::from_millis(60), 1);
    let (tx, records) = unbounded();
    let p = pipeline(vec![live("a")], vec![stage("detect", &["a"], config)], vec![sink(&["detect"], Collect(tx))]);
    let mut run = start(p);
    run.until(|t| counts(t, "a").frames.captured >= 45);
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    let c = counts(&telemetry, "a");
    assert_eq!(shed(&c, "infeasible") + failed(&c, "stopped"), c.frames.captured, "{c:?}");
    assert_eq!(records.len(), 0);
}

#[test]
fn branches_of_a_frame_join_again_and_have_one_outcome() {
    let label = |name: &'static str| {
        plain(move |f: &mut Frame| {
            // One branch loses every tenth frame.
            if name == "right" && f.ticket.seq % 10 == 3 {
                return Err(StageError::new("lost on the right"));
            }
            let d = Detection::new(name.into(), 0, 1.0, [0.0; 4]);
            f.annotations.detections.get_or_insert_default().push(d);
            Ok(())
        })
    };
    let (tx, records) = unbounded();
    let p = pipeline(
        vec![offline("a", 100)],
        vec![
            stage("left", &["a"], label("left")),
            stage("right", &["a"], label("right")),
            stage("join", &["left", "right"], plain(|_| Ok(()))),
        ],
        vec![sink(&["join"], Collect(tx))],
    );
    let telemetry = start(p).finish();
    let c = counts(&telemetry, "a");
    assert_eq!(
        (c.frames.captured, c.frames.on_time, failed(&c, "stage"), c.frames.in_flight),
        (100, 90, 10, 0),
        "{c:?}"
    );
    let records: Vec<_> = records.try_iter().collect();
    assert_eq!(records.len(), 90);
    for r in records {
        let mut labels: Vec<_> = r.annotations.detections.iter().flatten().map(|d| d.label.to_string()).collect();
        labels.sort();
        assert_eq!(labels, ["left", "right"], "frame {}", r.seq);
    }
}

#[test]
fn a_panic_fails_its_frame_only_and_the_stage_is_built_anew() {
    let (tx, records) = unbounded();
    let p = pipeline(
        vec![offline("a", 60)],
        vec![stage(
            "shaky",
            &["a"],
            plain(|f| {
                assert!(f.ticket.seq % 25 != 7, "told to");
                Ok(())
            }),
        )],
        vec![sink(&["shaky"], Collect(tx))],
    );
    let telemetry = start(p).finish();
    let c = counts(&telemetry, "a");
    assert_eq!((c.frames.captured, c.frames.on_time, failed(&c, "panic")), (60, 57, 3), "{c:?}");
    assert_eq!(records.len(), 57);
}

#[test]
fn a_stage_that_panics_again_and_again_stops_the_process() {
    let p = pipeline(vec![offline("a", 60)], vec![stage("broken", &["a"], plain(|_| panic!("always")))], Vec::new());
    let mut run = start(p);
    let end = Instant::now() + Duration::from_secs(30);
    let error = loop {
        match run.engine.tick() {
            Err(e) => break e,
            Ok(_) => assert!(Instant::now() < end, "must give up"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(matches!(&error, EngineError::Failed(m) if m.contains("broken") && m.contains("always")), "{error}");
    run.engine.stop(Duration::from_secs(2));
    let c = counts(&run.telemetry, "a");
    assert_eq!(c.frames.in_flight, 0, "{c:?}");
}

#[test]
fn a_stalled_sink_stalls_neither_the_stream_nor_the_stop() {
    let (hold, stalled) = unbounded::<()>();
    let mut out = sink(&["pass"], Stalled(stalled));
    out.queue = 4;
    let p = pipeline(vec![live("a")], vec![stage("pass", &["a"], plain(|_| Ok(())))], vec![out]);
    let mut run = start(p);
    run.until(|t| delivered(&counts(t, "a")) >= 30);
    let Running { engine, telemetry } = run;
    let begun = Instant::now();
    engine.stop(Duration::from_secs(2));
    assert!(begun.elapsed() < Duration::from_millis(2500));
    let c = counts(&telemetry, "a");
    assert_eq!(c.frames.in_flight, 0, "{c:?}");
    assert!(telemetry.metrics().contains("framegate_sink_errors_total{sink=\"out\"}"), "losses are counted");
    drop(hold);
}

#[test]
fn a_reload_loses_no_frame_of_a_source_that_has_not_changed() {
    let (tx, records) = unbounded();
    let make = |n: usize| {
        let (config, _) = device(&[1], Duration::from_millis(1 + n as u64), 1);
        pipeline(
            vec![live("a")],
            vec![stage("detect", &["a"], config), stage("pass", &["detect"], plain(|_| Ok(())))],
            vec![sink(&["pass"], Collect(tx.clone()))],
        )
    };
    let mut run = start(make(0));
    for n in 1..6u64 {
        run.until(|t| delivered(&counts(t, "a")) >= 8 * n);
        run.engine.reload(make(n as usize)).expect("reload");
    }
    run.until(|t| delivered(&counts(t, "a")) >= 60);
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    let c = counts(&telemetry, "a");
    assert_eq!((c.frames.in_flight, c.frames.evicted), (0, 0), "{c:?}");
    assert_eq!(c.frames.failed, failed(&c, "stopped"));
    let seqs: std::collections::BTreeSet<u64> = records.try_iter().map(|r| r.seq).collect();
    assert_eq!(seqs.len() as u64, delivered(&c), "no frame twice");
}

#[test]
fn a_missing_file_is_an_unusable_source() {
    let config: SourceConfig = toml::from_str("uri = \"file:///does/not/exist.mp4\"").expect("a source");
    let entry = SourceEntry { id: "a".into(), deadline: None, config };
    let p = pipeline(vec![entry], vec![stage("pass", &["a"], plain(|_| Ok(())))], Vec::new());
    let mut run = start(p);
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match run.engine.tick() {
            Err(EngineError::Unusable(m)) => break assert!(m.contains("exist.mp4"), "{m}"),
            Err(e) => panic!("{e}"),
            Ok(_) => assert!(Instant::now() < end),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

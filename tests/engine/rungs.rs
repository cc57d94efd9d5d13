//! Rungs, admission and hung calls on the running engine.

use super::parts::{
    Collect, Running, counts, delivered, failed, live, offline, pipeline, plain, shed, sink, stage, start,
};
use crossbeam_channel::{Sender, unbounded};
use framegate::config::{Admission, AtRung, Rung, StageEntry};
use framegate::frame::{Detection, Frame, Record};
use framegate::stage::{Batch, BatchStage, BuildContext, Built, Execute, StageConfig, StageError};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A device that takes this long for each frame and writes its name on it. From its call number `hangs_at` on, as often
/// as `hangs` says, it does not return until the test ends.
#[derive(Clone, Debug)]
struct Way {
    name: &'static str,
    takes: Duration,
    calls: Arc<AtomicU32>,
    hangs: Range<u32>,
    release: Option<crossbeam_channel::Receiver<()>>,
}

fn way(name: &'static str, takes: Duration) -> Way {
    Way { name, takes, calls: Arc::default(), hangs: 0..0, release: None }
}

impl BatchStage for Way {
    fn batch_sizes(&self) -> &[usize] {
        &[1]
    }
    fn device(&self) -> &str {
        "test"
    }
    fn slots(&self) -> usize {
        1
    }
    fn open(&self) -> Result<Box<dyn Execute>, StageError> {
        Ok(Box::new(self.clone()))
    }
    fn buffers(&self) -> Batch {
        Box::new(())
    }
    fn prepare(&self, _: &Frame, _: &mut Batch, _: Range<usize>) -> Result<(), StageError> {
        Ok(())
    }
    fn finish(&self, _: &Batch, _: Range<usize>, frame: &mut Frame) -> Result<(), StageError> {
        let found = Detection::new(self.name.into(), 0, 1.0, [0.0; 4]);
        frame.annotations.detections.get_or_insert_default().push(found);
        Ok(())
    }
}

impl Execute for Way {
    fn execute(&mut self, _: &mut Batch, _: usize) -> Result<(), StageError> {
        if self.hangs.contains(&self.calls.fetch_add(1, Relaxed))
            && let Some(release) = &self.release
        {
            let _ = release.recv();
        }
        let end = Instant::now() + self.takes;
        while Instant::now() < end {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

impl StageConfig for Way {
    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        Ok(Built::Batch(Arc::new(self.clone())))
    }
}

/// A stage that runs these ways, one for each rung, every so many frames.
fn laddered(id: &str, from: &[&str], ways: Vec<Way>, rungs: &[(Option<usize>, u32)]) -> StageEntry {
    let mut ways = ways.into_iter();
    let mut entry = stage(id, from, Box::new(ways.next().expect("a way")));
    entry.variants = ways.map(|w| Arc::new(w) as Arc<dyn StageConfig>).collect();
    entry.rungs = rungs.iter().map(|&(variant, every)| AtRung { variant, every }).collect();
    entry
}

fn rungs(names: &[&str]) -> Vec<Rung> {
    names.iter().map(|&n| Rung { name: n.into(), lazy: false, overrides: Vec::new() }).collect()
}

fn labels(r: &Record) -> Vec<&str> {
    r.annotations.detections.iter().flatten().map(|d| &*d.label).collect()
}

#[test]
fn quality_gives_way_under_overload_and_every_result_names_its_rung() {
    let (tx, records) = unbounded();
    // Two streams of 30 frames a second: the best way serves 40 of the 60, the lean one has time to spare.
    let detect = laddered(
        "detect",
        &["a", "b"],
        vec![way("best", Duration::from_millis(25)), way("lean", Duration::from_millis(5))],
        &[(Some(0), 1), (Some(1), 1)],
    );
    let mut p = pipeline(vec![live("a"), live("b")], vec![detect], vec![sink(&["detect"], Collect(tx))]);
    p.rungs = rungs(&["full", "lean"]);
    let mut run = start(p);
    run.until(|t| ["a", "b"].iter().any(|s| counts(t, s).rung_share.get("lean").is_some_and(|&share| share > 0.5)));
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    // Frames that only the lean way saves are rescued one by one, or their stream's ceiling has moved.
    let saved: u64 = ["a", "b"].map(|s| counts(&telemetry, s)).iter().map(|c| c.rung_changes + c.rescued).sum();
    assert!(saved >= 1);
    for r in records.try_iter() {
        assert_eq!(labels(&r), [if &*r.rung == "full" { "best" } else { "lean" }], "{} {}", r.stream.id, r.seq);
    }
    for s in ["a", "b"] {
        let c = counts(&telemetry, s);
        assert_eq!(c.frames.in_flight, 0, "{c:?}");
    }
}

/// A way that says when it is built, or cannot be.
#[derive(Debug)]
struct Counted(Result<Way, &'static str>, Arc<AtomicU32>);

impl StageConfig for Counted {
    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        self.1.fetch_add(1, Relaxed);
        match &self.0 {
            Ok(way) => Ok(Built::Batch(Arc::new(way.clone()))),
            Err(why) => Err(StageError::new(*why)),
        }
    }
}

/// Two streams of 30 frames a second on a detector that does 40, with a lazy rung below.
fn lazy(lean: Result<Way, &'static str>) -> (Running, crossbeam_channel::Receiver<Arc<Record>>, Arc<AtomicU32>) {
    let (tx, records) = unbounded();
    let built = Arc::<AtomicU32>::default();
    let mut detect =
        laddered("detect", &["a", "b"], vec![way("best", Duration::from_millis(25))], &[(Some(0), 1), (Some(1), 1)]);
    detect.variants.push(Arc::new(Counted(lean, built.clone())));
    let mut p = pipeline(vec![live("a"), live("b")], vec![detect], vec![sink(&["detect"], Collect(tx))]);
    p.rungs = rungs(&["full", "lean"]);
    p.rungs[1].lazy = true;
    let run = start(p);
    assert_eq!(built.load(Relaxed), 0, "nothing is loaded before it is needed");
    (run, records, built)
}

#[test]
fn a_lazy_rung_is_loaded_once_the_ladder_needs_it() {
    let (mut run, records, built) = lazy(Ok(way("lean", Duration::from_millis(5))));
    run.until(|t| ["a", "b"].iter().any(|s| counts(t, s).rung_share.get("lean").is_some_and(|&share| share > 0.5)));
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    assert_eq!(built.load(Relaxed), 1);
    for r in records.try_iter() {
        assert_eq!(labels(&r), [if &*r.rung == "full" { "best" } else { "lean" }], "{} {}", r.stream.id, r.seq);
    }
    for s in ["a", "b"] {
        let c = counts(&telemetry, s);
        assert_eq!((c.frames.in_flight, c.frames.failed), (0, 0), "{c:?}");
    }
    let text = telemetry.metrics();
    assert!(text.contains("framegate_capacity_streams{rung=\"lean\"}"), "{text}");
}

#[test]
fn a_lazy_rung_that_cannot_be_loaded_is_tried_once_and_the_others_go_on() {
    let (mut run, records, built) = lazy(Err("the file is gone"));
    run.until(|_| built.load(Relaxed) == 1);
    let shed = |t: &_| counts(t, "a").frames.shed + counts(t, "b").frames.shed;
    let before = shed(&run.telemetry);
    run.until(|t| shed(t) > before + 30);
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    assert_eq!(built.load(Relaxed), 1);
    assert!(records.try_iter().all(|r| labels(&r) == ["best"]));
    assert_eq!(["a", "b"].map(|s| counts(&telemetry, s).frames.in_flight), [0, 0]);
}

#[test]
fn with_every_third_frame_inferred_all_are_delivered_in_order() {
    let (tx, records) = unbounded();
    let detect = laddered("detect", &["a"], vec![way("found", Duration::ZERO)], &[(Some(0), 3)]);
    let p = pipeline(
        vec![offline("a", 90)],
        vec![detect, stage("after", &["detect"], plain(|_| Ok(())))],
        vec![sink(&["after"], Collect(tx))],
    );
    let telemetry = start(p).finish();
    let c = counts(&telemetry, "a");
    assert_eq!((c.frames.captured, c.frames.on_time, c.frames.in_flight), (90, 90, 0), "{c:?}");
    let records: Vec<_> = records.try_iter().collect();
    assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), (0..90).collect::<Vec<_>>());
    for r in &records {
        assert_eq!((r.inferred, labels(r).len()), (r.seq % 3 == 0, usize::from(r.seq % 3 == 0)), "{}", r.seq);
    }
}

#[test]
fn a_stage_that_is_switched_off_lets_frames_pass_and_the_others_work() {
    let (tx, records) = unbounded();
    let p = pipeline(
        vec![offline("a", 30)],
        vec![
            laddered("off", &["a"], vec![way("off", Duration::ZERO)], &[(None, 1)]),
            laddered("on", &["off"], vec![way("on", Duration::ZERO)], &[(Some(0), 1)]),
        ],
        vec![sink(&["on"], Collect(tx))],
    );
    let telemetry = start(p).finish();
    assert_eq!(counts(&telemetry, "a").frames.on_time, 30);
    for r in records.try_iter() {
        assert_eq!((labels(&r), r.inferred), (vec!["on"], true));
    }
}

#[test]
fn stages_on_one_device_share_it_and_a_frame_that_has_begun_is_finished_first() {
    let (tx, records) = unbounded();
    // Both together take 24 ms of the 33 for each frame: two frames at once could not be served.
    let p = pipeline(
        vec![live("a")],
        vec![
            laddered("first", &["a"], vec![way("first", Duration::from_millis(12))], &[]),
            laddered("second", &["first"], vec![way("second", Duration::from_millis(12))], &[]),
        ],
        vec![sink(&["second"], Collect(tx))],
    );
    let mut run = start(p);
    run.until(|t| delivered(&counts(t, "a")) >= 45);
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    let c = counts(&telemetry, "a");
    assert_eq!(c.frames.in_flight, 0, "{c:?}");
    for r in records.try_iter() {
        assert_eq!(labels(&r), ["first", "second"]);
    }
}

#[test]
fn a_stream_beyond_the_capacity_is_refused_by_priority_and_its_frames_are_counted() {
    let (tx, records) = unbounded();
    let detect = laddered("detect", &["a", "b", "c"], vec![way("found", Duration::from_millis(12))], &[]);
    let mut p = pipeline(vec![live("a"), live("b"), live("c")], vec![detect], vec![sink(&["detect"], Collect(tx))]);
    p.deadline = Some(Duration::from_millis(33));
    p.admission = Admission::Refuse;
    p.sources[2].config.priority = 1;
    let mut run = start(p);
    run.until(|t| counts(t, "b").frames.captured >= 30 && delivered(&counts(t, "c")) >= 20);
    let metrics = run.telemetry.metrics();
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    // Two streams of 30 fit a device that serves 80 a second: the important one and the first.
    assert!(metrics.contains("framegate_capacity_streams{rung=\"full\"} 2"), "{metrics}");
    let (a, b, c) = (counts(&telemetry, "a"), counts(&telemetry, "b"), counts(&telemetry, "c"));
    assert_eq!(shed(&b, "admission") + failed(&b, "stopped"), b.frames.captured, "{b:?}");
    for s in [&a, &c] {
        assert_eq!(shed(s, "admission"), 0, "{s:?}");
        assert!(delivered(s) > 10, "{s:?}");
    }
    assert!(records.try_iter().all(|r| &*r.stream.id != "b"));
}

#[test]
fn where_quality_may_give_way_streams_start_on_the_rung_that_fits() {
    let (tx, records) = unbounded();
    let detect = laddered(
        "detect",
        &["a", "b", "c"],
        vec![way("best", Duration::from_millis(20)), way("lean", Duration::from_millis(4))],
        &[(Some(0), 1), (Some(1), 1)],
    );
    let mut p = pipeline(vec![live("a"), live("b"), live("c")], vec![detect], vec![sink(&["detect"], Collect(tx))]);
    p.deadline = Some(Duration::from_millis(33));
    p.admission = Admission::Degrade;
    p.rungs = rungs(&["full", "lean"]);
    let mut run = start(p);
    run.until(|t| ["a", "b", "c"].iter().all(|s| delivered(&counts(t, s)) >= 10));
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    let first: Vec<_> = records.try_iter().take(3).collect();
    assert!(first.iter().all(|r| &*r.rung == "lean"));
    assert!(["a", "b", "c"].iter().all(|s| shed(&counts(&telemetry, s), "admission") == 0));
}

fn hanging(hangs: Range<u32>) -> (Way, Sender<()>) {
    let (release, held) = unbounded();
    // The calibration makes at most 15 calls.
    (Way { hangs: hangs.start + 15..hangs.end + 15, release: Some(held), ..way("found", Duration::ZERO) }, release)
}

#[test]
fn a_call_that_hangs_is_abandoned_with_its_thread_and_replaced() {
    let (tx, records) = unbounded();
    let (stuck, release) = hanging(10..11);
    let detect = laddered("detect", &["a"], vec![stuck], &[]);
    let p = pipeline(vec![offline("a", 60)], vec![detect], vec![sink(&["detect"], Collect(tx))]);
    let mut run = start(p);
    run.until(|t| failed(&counts(t, "a"), "hang") >= 1);
    assert!(run.telemetry.metrics().contains("framegate_stage_hangs_total{stage=\"detect\"} 1"));
    let telemetry = run.finish();
    let c = counts(&telemetry, "a");
    assert_eq!((c.frames.captured, c.frames.on_time, failed(&c, "hang")), (60, 59, 1), "{c:?}");
    assert_eq!(c.frames.in_flight, 0, "{c:?}");
    assert_eq!(records.len(), 59);
    drop(release);
}

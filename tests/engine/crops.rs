//! A stage on crops beside a detector on one device: frames take as many places as they have crops, and are not held up
//! where there is no time for all of them.

use super::parts::{Collect, Running, counts, delivered, live, offline, pipeline, plain, sink, stage, start};
use crossbeam_channel::unbounded;
use framegate::frame::{Detection, Frame};
use framegate::stage::{Batch, BatchStage, BuildContext, Built, Execute, OnCrops, StageConfig, StageError};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Says of each crop which frame it is of, and takes so long for each.
#[derive(Clone, Debug)]
struct Looks {
    per_crop: Duration,
    sizes: Vec<usize>,
}

/// Who has each place: stream, frame, crop.
type Places = Vec<(Arc<str>, u64, usize)>;

impl BatchStage for Looks {
    fn batch_sizes(&self) -> &[usize] {
        &self.sizes
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
        Box::new(vec![(Arc::<str>::from(""), 0u64, 0usize); 8] as Places)
    }
    fn crops(&self) -> Option<&dyn OnCrops> {
        Some(self)
    }
    fn prepare(&self, frame: &Frame, batch: &mut Batch, places: Range<usize>) -> Result<(), StageError> {
        let all = batch.downcast_mut::<Places>().expect("our batch");
        for (crop, place) in all[places].iter_mut().enumerate() {
            *place = (frame.stream().id.clone(), frame.ticket.seq, crop);
        }
        Ok(())
    }
    fn finish(&self, batch: &Batch, places: Range<usize>, frame: &mut Frame) -> Result<(), StageError> {
        let all = batch.downcast_ref::<Places>().expect("our batch");
        for (crop, place) in all[places].iter().enumerate() {
            assert_eq!(*place, (frame.stream().id.clone(), frame.ticket.seq, crop), "crops belong to their frame");
            frame.annotations.detections.as_mut().expect("detections")[crop].embedding = Some([1.0].into());
        }
        Ok(())
    }
}

impl OnCrops for Looks {
    fn count(&self, frame: &Frame) -> usize {
        frame.annotations.detections.as_ref().map_or(0, Vec::len).min(8)
    }
    fn skip(&self, frame: &mut Frame) {
        frame.annotations.detections.iter_mut().flatten().for_each(|d| d.skipped.push("looks".into()));
    }
}

impl Execute for Looks {
    fn execute(&mut self, _: &mut Batch, n: usize) -> Result<(), StageError> {
        let end = Instant::now() + self.per_crop * n as u32;
        while Instant::now() < end {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

impl StageConfig for Looks {
    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        Ok(Built::Batch(Arc::new(self.clone())))
    }
}

fn looks(per_crop: Duration) -> Box<dyn StageConfig> {
    Box::new(Looks { per_crop, sizes: vec![1, 2, 4, 8] })
}

/// Finds as many things in a frame as the function of its number says.
fn finds(things: fn(u64) -> u64) -> Box<dyn StageConfig> {
    plain(move |frame| {
        let one = |i| Detection::new("thing".into(), 0, 1.0 - i as f32 / 100.0, [i as f32, 0.0, i as f32 + 1.0, 1.0]);
        frame.annotations.detections = Some((0..things(frame.ticket.seq)).map(one).collect());
        Ok(())
    })
}

#[test]
fn every_frame_gets_a_place_for_each_of_its_crops_and_keeps_its_order() {
    let (tx, records) = unbounded();
    let stages =
        vec![stage("finds", &["a", "b"], finds(|seq| seq % 4)), stage("looks", &["finds"], looks(Duration::ZERO))];
    let p = pipeline(vec![offline("a", 60), offline("b", 60)], stages, vec![sink(&["looks"], Collect(tx))]);
    let telemetry = start(p).finish();
    let mut next = [0, 0];
    for r in records.try_iter() {
        let at = usize::from(&*r.stream.id == "b");
        assert_eq!(r.seq, next[at], "in order");
        next[at] += 1;
        let found = r.annotations.detections.as_ref().expect("detections");
        assert_eq!(found.len() as u64, r.seq % 4);
        assert!(found.iter().all(|d| d.embedding.is_some() && d.skipped.is_empty()), "{} {found:?}", r.seq);
    }
    assert_eq!(next, [60, 60]);
    let stage = &telemetry.report().stages["looks"];
    // Frames without crops need no device.
    assert_eq!(stage.frames, 90, "{stage:?}");
}

#[test]
fn crops_that_there_is_no_time_for_are_left_out_and_their_frames_go_on() {
    let (tx, records) = unbounded();
    // Eight crops take 80 ms where a frame has 33.
    let stages =
        vec![stage("finds", &["a"], finds(|_| 8)), stage("looks", &["finds"], looks(Duration::from_millis(10)))];
    let p = pipeline(vec![live("a")], stages, vec![sink(&["looks"], Collect(tx))]);
    let mut run = start(p);
    run.until(|t| delivered(&counts(t, "a")) > 60);
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    let c = counts(&telemetry, "a");
    assert_eq!(c.frames.in_flight, 0, "{c:?}");
    assert!(c.frames.on_time >= 50, "no frame is given up for its crops: {c:?}");
    let (mut looked, mut left_out) = (0, 0);
    for r in records.try_iter() {
        let found = r.annotations.detections.as_ref().expect("detections");
        assert_eq!(found.len(), 8);
        let some = found.iter().filter(|d| d.embedding.is_some()).count();
        assert!(some < 8, "all eight cannot be done");
        (looked, left_out) = (looked + some, left_out + 8 - some);
    }
    assert!(looked > 0 && left_out > 0, "as many as fit: {looked} and {left_out}");
}

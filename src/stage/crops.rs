//! What `classify` and `embed` share: a second model on the crops of a frame's detections, best scores first. The planner
//! decides how many of them the frame's time allows.

use super::detect::{check_model, check_resources, find_model, peek};
use super::tensor::picture_input;
use super::{Batch, BatchStage, BuildContext, Execute, OnCrops, StageError};
use crate::frame::{Detection, Frame};
use crate::infer::card::Named;
use crate::infer::model::ModelInfo;
use crate::infer::picture::{PictureBatch, PictureModel, Resources, open_named};
use crate::infer::preprocess::Region;
use crate::infer::session::Slot;
use crate::issue::Issue;
use parking_lot::Mutex;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Which crops a stage takes.
#[derive(Debug, Clone)]
pub struct Which {
    /// Labels of the detections to look at; `None` for all.
    pub classes: Option<Vec<String>>,
    /// Shortest side of a box, pixels of the picture.
    pub min_size: f32,
    /// Share of its width and height by which a box is grown on each side.
    pub expand: f32,
    /// Most crops of one frame.
    pub max_crops: usize,
}

impl Which {
    /// What is wrong with it.
    pub fn check(&self, issues: &mut Vec<Issue>) {
        if !(self.min_size >= 0.0 && self.min_size.is_finite()) {
            issues.push(Issue::error("min_size", "min_size must not be negative"));
        }
        if !(-0.4..=4.0).contains(&self.expand) {
            issues.push(Issue::error("expand", "expand must lie between -0.4 and 4"));
        }
        if self.max_crops == 0 || self.max_crops > 1000 {
            issues.push(Issue::error("max_crops", "max_crops must lie between 1 and 1000"));
        }
        if self.classes.as_ref().is_some_and(Vec::is_empty) {
            let help = "leave it out to look at all detections";
            issues.push(Issue::error("classes", "classes is empty, so nothing would be looked at").help(help));
        }
    }

    fn wants(&self, d: &Detection) -> bool {
        let side = (d.bbox[2] - d.bbox[0]).min(d.bbox[3] - d.bbox[1]);
        let listed = |names: &Vec<String>| names.iter().any(|n| **n == *d.label);
        // A minimum of NaN and a number is the number.
        let sound = d.bbox.iter().all(|v| v.is_finite());
        sound && side > 0.0 && side >= self.min_size && self.classes.as_ref().is_none_or(listed)
    }

    /// Places in the frame's list of detections that are looked at, best scores first.
    fn order(&self, detections: &[Detection], order: &mut Vec<usize>) {
        order.clear();
        order.extend((0..detections.len()).filter(|&i| self.wants(&detections[i])));
        order.sort_by(|&a, &b| detections[b].score.total_cmp(&detections[a].score).then(a.cmp(&b)));
        order.truncate(self.max_crops);
    }

    fn region(&self, b: [f32; 4]) -> Region {
        let (dx, dy) = ((b[2] - b[0]) * self.expand, (b[3] - b[1]) * self.expand);
        [b[0] - dx, b[1] - dy, b[2] + dx, b[3] + dy]
    }
}

/// What a stage does with the model's first output for a crop.
pub trait Note: Send + Sync {
    /// Notes it on the crop's detection.
    fn note(&self, detection: &mut Detection, out: &[f32]);
}

/// Crops that one session takes at once, at most: more of them run one after the other.
const SESSION: usize = 8;

/// A second model on the crops of a frame's detections.
pub struct CropStage<N> {
    id: Arc<str>,
    which: Which,
    model: Arc<PictureModel>,
    device: String,
    slots: usize,
    threads: usize,
    sizes: Vec<usize>,
    note: N,
    scratch: Mutex<Vec<Scratch>>,
}

/// What one frame needs, kept for the next.
#[derive(Default)]
struct Scratch {
    order: Vec<usize>,
    converted: Vec<f32>,
}

/// Memory of a batch: as many sessions' worth as have been needed so far.
#[derive(Default)]
struct Chunks(Vec<PictureBatch>);

impl Chunks {
    fn reserve(&mut self, model: &PictureModel, chunks: usize) -> Result<(), StageError> {
        while self.0.len() < chunks {
            self.0.push(model.batch()?);
        }
        Ok(())
    }
}

fn foreign() -> StageError {
    StageError::new("the batch belongs to another stage")
}

/// The numbers of crops that differ in cost: a session takes them in batches of `of`, the last one of which is as large
/// as the next of its warmed sizes. Ascending, up to `most`.
fn sizes(of: &[usize], most: usize) -> Vec<usize> {
    let full = of.last().copied().unwrap_or(1).max(1);
    let mut sizes = Vec::new();
    while sizes.last().is_none_or(|&s| s < most) {
        let before = sizes.last().copied().unwrap_or(0);
        sizes.extend(of.iter().map(|s| before + s).filter(|&s| s < before + full));
        sizes.push(before + full);
    }
    // No frame has more.
    let needed = sizes.iter().position(|&s| s >= most).map_or(sizes.len(), |p| p + 1);
    sizes.truncate(needed);
    sizes
}

impl<N: Note> CropStage<N> {
    /// Opens the model; `make` is told what it says of itself.
    ///
    /// # Errors
    /// Anything that keeps it from running.
    pub fn open(
        path: &Path,
        resources: Resources,
        which: Which,
        context: &BuildContext,
        make: impl FnOnce(&Named, &ModelInfo) -> Result<N, StageError>,
    ) -> Result<Self, StageError> {
        let named = find_model(path, context)?;
        let (planned, on) = resources.plan(context.live, context.threads);
        let (opened, info) = open_named(&named, on)?;
        let slots = resources.slots_on(opened.device, planned);
        let input = picture_input(&named, &info, None)?;
        let note = make(&named, &info)?;
        let model = PictureModel::new(named, on, opened, input, which.max_crops.min(SESSION))?;
        Ok(Self {
            id: context.id.clone(),
            device: model.device().to_string(),
            sizes: sizes(model.batches(), which.max_crops),
            which,
            model: Arc::new(model),
            slots,
            threads: on.threads,
            note,
            scratch: Mutex::new(Vec::new()),
        })
    }

    /// Crops that one session takes at once.
    fn chunk(&self) -> usize {
        self.model.batches().last().copied().unwrap_or(1).max(1)
    }

    fn with_scratch<T>(&self, f: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = self.scratch.lock().pop().unwrap_or_default();
        let done = f(&mut scratch);
        self.scratch.lock().push(scratch);
        done
    }
}

impl<N: Note> BatchStage for CropStage<N> {
    fn batch_sizes(&self) -> &[usize] {
        &self.sizes
    }

    fn device(&self) -> &str {
        &self.device
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn open(&self) -> Result<Box<dyn Execute>, StageError> {
        Ok(Box::new(CropSlot { slot: self.model.slot()?, model: self.model.clone(), chunk: self.chunk() }))
    }

    fn buffers(&self) -> Batch {
        Box::new(Chunks::default())
    }

    fn crops(&self) -> Option<&dyn OnCrops> {
        Some(self)
    }

    fn prepare(&self, frame: &Frame, batch: &mut Batch, places: Range<usize>) -> Result<(), StageError> {
        let chunks = batch.downcast_mut::<Chunks>().ok_or_else(foreign)?;
        let picture = frame.payload.picture().ok_or_else(|| StageError::new("the frame has no picture"))?;
        let detections = frame.annotations.detections.as_deref().unwrap_or_default();
        let chunk = self.chunk();
        chunks.reserve(&self.model, places.end.div_ceil(chunk))?;
        self.with_scratch(|scratch| {
            self.which.order(detections, &mut scratch.order);
            for (place, &i) in places.zip(&scratch.order) {
                let region = self.which.region(detections[i].bbox);
                self.model.prepare(picture, Some(region), &mut chunks.0[place / chunk], place % chunk)?;
            }
            Ok(())
        })
    }

    fn finish(&self, batch: &Batch, places: Range<usize>, frame: &mut Frame) -> Result<(), StageError> {
        let chunks = batch.downcast_ref::<Chunks>().ok_or_else(foreign)?;
        let Some(detections) = frame.annotations.detections.as_mut() else { return Ok(()) };
        let chunk = self.chunk();
        self.with_scratch(|Scratch { order, converted }| {
            self.which.order(detections, order);
            let run = places.len().min(order.len());
            for (place, &i) in places.zip(&order[..run]) {
                let of = chunks.0.get(place / chunk).ok_or_else(foreign)?;
                let out = of.buffers.output(0, place % chunk)?;
                self.note.note(&mut detections[i], out.values(converted));
            }
            for &i in &order[run..] {
                detections[i].skipped.push(self.id.clone());
            }
            Ok(())
        })
    }
}

impl<N: Note> OnCrops for CropStage<N> {
    fn count(&self, frame: &Frame) -> usize {
        let detections = frame.annotations.detections.as_deref().unwrap_or_default();
        detections.iter().filter(|d| self.which.wants(d)).count().min(self.which.max_crops)
    }

    fn skip(&self, frame: &mut Frame) {
        let Some(detections) = frame.annotations.detections.as_mut() else { return };
        self.with_scratch(|scratch| {
            self.which.order(detections, &mut scratch.order);
            for &i in &scratch.order {
                detections[i].skipped.push(self.id.clone());
            }
        });
    }
}

/// One slot that runs batches of crops.
struct CropSlot {
    slot: Slot,
    model: Arc<PictureModel>,
    chunk: usize,
}

impl Execute for CropSlot {
    fn execute(&mut self, batch: &mut Batch, n: usize) -> Result<(), StageError> {
        let chunks = batch.downcast_mut::<Chunks>().ok_or_else(foreign)?;
        chunks.reserve(&self.model, n.div_ceil(self.chunk))?;
        for (i, chunk) in chunks.0.iter_mut().enumerate().take(n.div_ceil(self.chunk)) {
            chunk.run(&mut self.slot, self.chunk.min(n - i * self.chunk))?;
        }
        Ok(())
    }
}

/// What is wrong with a stage on crops that can be said without starting anything heavy.
pub fn check(
    model: &Path,
    resources: &Resources,
    which: &Which,
    context: &BuildContext,
) -> (Vec<Issue>, Option<(Named, ModelInfo)>) {
    let mut issues = Vec::new();
    check_resources(resources, &mut issues);
    which.check(&mut issues);
    let Some(named) = check_model(model, context, &mut issues) else { return (issues, None) };
    let Some(info) = peek(&named, &mut issues) else { return (issues, None) };
    match picture_input(&named, &info, None) {
        Ok(_) => (issues, Some((named, info))),
        Err(e) => {
            issues.push(Issue::error("model", e.to_string()));
            (issues, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_detections_are_looked_at() {
        let w = Which { classes: Some(vec!["person".into()]), min_size: 10.0, expand: 0.1, max_crops: 1 };
        let d = |label: &str, side: f32| Detection::new(label.into(), 0, 0.5, [0.0, 0.0, side, 100.0]);
        assert!(w.wants(&d("person", 10.0)) && !w.wants(&d("person", 9.0)) && !w.wants(&d("car", 50.0)));
        assert!(!w.wants(&d("person", f32::NAN)));
        assert_eq!(w.region([10.0, 0.0, 20.0, 100.0]), [9.0, -10.0, 21.0, 110.0]);
    }

    #[test]
    fn the_best_scores_come_first_and_no_more_than_the_most() {
        let w = Which { classes: None, min_size: 0.0, expand: 0.0, max_crops: 3 };
        let all: Vec<Detection> = [0.3, 0.9, 0.5, 0.9]
            .iter()
            .map(|&s| Detection::new("person".into(), 0, s, [0.0, 0.0, 20.0, 40.0]))
            .collect();
        let mut order = vec![7];
        w.order(&all, &mut order);
        assert_eq!(order, [1, 3, 2]);
    }

    #[test]
    fn sizes_are_those_that_differ_in_cost() {
        assert_eq!(sizes(&[1, 2, 4, 8], 16), [1, 2, 4, 8, 9, 10, 12, 16]);
        assert_eq!(sizes(&[1, 2, 4], 3), [1, 2, 4]);
        assert_eq!(sizes(&[1, 2, 4, 8], 11), [1, 2, 4, 8, 9, 10, 12]);
        assert_eq!(sizes(&[1], 4), [1, 2, 3, 4]);
    }
}

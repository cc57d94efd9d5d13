//! What `classify` and `embed` share: a second model on the crops of a frame's detections, as many as the frame's
//! time allows, best scores first.

use super::detect::{check_model, check_resources, find_model, peek};
use super::tensor::picture_input;
use super::{Budget, BuildContext, StageError};
use crate::frame::{Detection, Frame, Nanos, Picture, clock};
use crate::infer::card::Named;
use crate::infer::model::ModelInfo;
use crate::infer::picture::{PictureBatch, PictureModel, Resources, open_named};
use crate::infer::preprocess::Region;
use crate::infer::session::Slot;
use crate::issue::Issue;
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

    fn region(&self, b: [f32; 4]) -> Region {
        let (dx, dy) = ((b[2] - b[0]) * self.expand, (b[3] - b[1]) * self.expand);
        [b[0] - dx, b[1] - dy, b[2] + dx, b[3] + dy]
    }
}

/// Runs a model on regions of a picture.
pub trait Crops: Send {
    /// Most regions of one run.
    fn most(&self) -> usize;

    /// Runs the model on these regions, at most [`Crops::most`], and gives each one's first output.
    ///
    /// # Errors
    /// The model or the picture cannot be used.
    fn run(
        &mut self,
        picture: &Picture,
        regions: &[Region],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), StageError>;
}

/// A model with a session of its own.
pub struct CropModel {
    model: PictureModel,
    slot: Slot,
    batch: PictureBatch,
    converted: Vec<f32>,
}

impl CropModel {
    /// Opens a model for crops. One worker has one session: live work gives it all threads, offline work one.
    ///
    /// # Errors
    /// Anything that keeps it from running.
    pub fn open(
        path: &Path,
        resources: Resources,
        most: usize,
        context: &BuildContext,
    ) -> Result<(Self, Named, ModelInfo), StageError> {
        let named = find_model(path, context)?;
        let (_, on) = Resources { slots: None, ..resources }.plan(context.live, context.threads);
        let (opened, info) = open_named(&named, on)?;
        let input = picture_input(&named, &info, None)?;
        let model = PictureModel::new(named.clone(), on, opened, input, most.min(8))?;
        let slot = model.slot()?;
        let batch = model.batch()?;
        Ok((Self { model, slot, batch, converted: Vec::new() }, named, info))
    }
}

impl Crops for CropModel {
    fn most(&self) -> usize {
        self.model.batches().last().copied().unwrap_or(1)
    }

    fn run(
        &mut self,
        picture: &Picture,
        regions: &[Region],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), StageError> {
        for (i, region) in regions.iter().enumerate() {
            self.model.prepare(picture, Some(*region), &mut self.batch, i)?;
        }
        self.batch.run(&mut self.slot, regions.len())?;
        for i in 0..regions.len() {
            let out = self.batch.buffers.output(0, i)?;
            each(i, out.values(&mut self.converted));
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

/// Costs of one run on b crops, α + β·b, learned while running: least squares over the recent past, and how far off
/// the predictions were.
#[derive(Debug, Clone)]
pub struct Cost {
    /// Decaying sums of 1, b, t, b², b·t.
    sums: [f64; 5],
    /// Decaying mean of what a run took beyond its prediction, ns.
    over: f64,
    last_run: Option<Nanos>,
}

/// Weight that the past keeps at each new run.
const MEMORY: f64 = 0.95;
/// Predictions are made this many mean errors longer.
const CAUTION: f64 = 2.0;
/// Without a run for this long, one crop goes through regardless, so that a wrong estimate heals.
const PROBE_AFTER: Nanos = clock::SECOND / 2;

impl Default for Cost {
    fn default() -> Self {
        Self { sums: [0.0; 5], over: 0.0, last_run: None }
    }
}

impl Cost {
    /// A run on `b` crops ended at `now` and took `took`.
    pub fn measured(&mut self, now: Nanos, b: usize, took: Nanos) {
        let (b, t) = (b as f64, took as f64);
        let error = t - self.mean(b).unwrap_or(t);
        // Twice as quick to grow wary as to calm down.
        let weight = if error.abs() > self.over { 0.2 } else { 0.1 };
        self.over += weight * (error.abs() - self.over);
        for (sum, new) in self.sums.iter_mut().zip([1.0, b, t, b * b, b * t]) {
            *sum = *sum * MEMORY + new;
        }
        self.last_run = Some(now);
    }

    /// The expected time of a run on `b` crops, ns.
    fn mean(&self, b: f64) -> Option<f64> {
        let [n, sb, st, sbb, sbt] = self.sums;
        if n == 0.0 {
            return None;
        }
        let variance = sbb / n - (sb / n) * (sb / n);
        if variance > 1e-3 {
            let beta = ((sbt / n - sb / n * st / n) / variance).max(0.0);
            let alpha = (st / n - beta * sb / n).max(0.0);
            return Some(alpha + beta * b);
        }
        // All runs had the same size. Larger ones are taken to cost in proportion, smaller ones no less.
        Some(st / n * (b * n / sb).max(1.0))
    }

    /// The time to allow for a run on `b` crops, ns; `None` before the first run.
    pub fn predicted(&self, b: usize) -> Option<Nanos> {
        self.mean(b as f64).map(|m| (m + CAUTION * self.over) as Nanos)
    }

    /// How many of `wanted` crops a run may take that starts at `now` and must end by `leave_by`.
    pub fn affordable(&mut self, now: Nanos, leave_by: Option<Nanos>, wanted: usize) -> usize {
        let Some(left) = leave_by.map(|l| l.saturating_sub(now)) else { return wanted };
        // Larger runs never cost less, so the first that fits is the largest.
        let fits = |b: usize| self.predicted(b).is_none_or(|p| p <= left);
        if left > 0
            && let Some(b) = (1..=wanted).rev().find(|&b| fits(b))
        {
            return b;
        }
        // A frame that is late already cannot be made later in a way that matters, but one run of a crop cannot
        // save it either: only frames with time left are used to measure again.
        let stale = self.last_run.is_none_or(|l| now.saturating_sub(l) >= PROBE_AFTER);
        if left > 0 && stale && wanted > 0 {
            self.over *= 0.5;
            return 1;
        }
        0
    }
}

/// Crops of one frame, best scores first, in runs as large as time allows.
pub struct CropStage<C> {
    id: Arc<str>,
    which: Which,
    crops: C,
    cost: Cost,
    now: Box<dyn Fn() -> Nanos + Send>,
    order: Vec<usize>,
    regions: Vec<Region>,
}

impl<C: Crops> CropStage<C> {
    /// A stage that reads the monotonic clock.
    pub fn new(id: Arc<str>, which: Which, crops: C) -> Self {
        Self::with_clock(id, which, crops, Box::new(clock::now))
    }

    /// A stage that reads another clock.
    pub fn with_clock(id: Arc<str>, which: Which, crops: C, now: Box<dyn Fn() -> Nanos + Send>) -> Self {
        Self { id, which, crops, cost: Cost::default(), now, order: Vec::new(), regions: Vec::new() }
    }

    /// Runs the model on the frame's crops and lets `write` note each result on its detection. Crops that the budget
    /// does not allow are marked as skipped.
    ///
    /// # Errors
    /// The frame has no picture, or the model fails.
    pub fn process(
        &mut self,
        frame: &mut Frame,
        budget: Budget,
        mut write: impl FnMut(&mut Detection, &[f32]),
    ) -> Result<(), StageError> {
        let Some(detections) = frame.annotations.detections.as_mut() else { return Ok(()) };
        self.order.clear();
        self.order.extend((0..detections.len()).filter(|&i| self.which.wants(&detections[i])));
        if self.order.is_empty() {
            return Ok(());
        }
        let picture = frame.payload.picture().ok_or_else(|| StageError::new("the frame has no picture"))?;
        self.order.sort_by(|&a, &b| detections[b].score.total_cmp(&detections[a].score).then(a.cmp(&b)));
        self.order.truncate(self.which.max_crops);
        let mut done = 0;
        while done < self.order.len() {
            let start = (self.now)();
            let wanted = (self.order.len() - done).min(self.crops.most());
            let b = self.cost.affordable(start, budget.leave_by, wanted);
            if b == 0 {
                break;
            }
            let batch = &self.order[done..done + b];
            self.regions.clear();
            self.regions.extend(batch.iter().map(|&i| self.which.region(detections[i].bbox)));
            self.crops.run(picture, &self.regions, &mut |i, out| write(&mut detections[batch[i]], out))?;
            let end = (self.now)();
            self.cost.measured(end, b, end.saturating_sub(start));
            done += b;
        }
        for &i in &self.order[done..] {
            detections[i].skipped.push(self.id.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::frame::clock::MILLI;
    use crate::frame::{Arrival, Colorimetry, Matrix, OwnedPlanes, Payload, PixelFormat, Range, Siting, Stream};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// A model that takes `each` per crop of virtual time and answers with the crop's left edge.
    pub struct Fake {
        pub clock: Arc<AtomicU64>,
        pub each: Nanos,
        pub fixed: Nanos,
        pub most: usize,
        pub sizes: Arc<parking_lot::Mutex<Vec<usize>>>,
    }

    impl Crops for Fake {
        fn most(&self) -> usize {
            self.most
        }
        fn run(
            &mut self,
            _: &Picture,
            regions: &[Region],
            each: &mut dyn FnMut(usize, &[f32]),
        ) -> Result<(), StageError> {
            self.clock.fetch_add(self.fixed + self.each * regions.len() as u64, Relaxed);
            self.sizes.lock().push(regions.len());
            for (i, r) in regions.iter().enumerate() {
                each(i, &[3.0 * r[0], 4.0 * r[0]]);
            }
            Ok(())
        }
    }

    pub fn frame(scores: &[f32]) -> Frame {
        let color = Colorimetry {
            matrix: Matrix::Bt601,
            range: Range::Full,
            siting_x: Siting::Centered,
            siting_y: Siting::Centered,
        };
        let picture = Picture {
            width: 64,
            height: 64,
            format: PixelFormat::Gray8,
            strides: [64, 0, 0],
            color,
            pixel_aspect: (1, 1),
            orientation: Default::default(),
            buffer: Box::new(OwnedPlanes(vec![vec![0; 64 * 64]])),
        };
        let stream = Arc::new(Stream::new("cam0", 0, None, 0, true));
        let mut f = Frame::new(stream.capture(0), None, Arrival::default(), Payload::Picture(Arc::new(picture)));
        let detection = |(i, &s): (usize, &f32)| {
            let x = 1.0 + i as f32;
            Detection::new("person".into(), 0, s, [x, 0.0, x + 20.0, 40.0])
        };
        f.annotations.detections = Some(scores.iter().enumerate().map(detection).collect());
        f
    }

    pub fn which() -> Which {
        Which { classes: None, min_size: 0.0, expand: 0.0, max_crops: 32 }
    }

    fn stage(
        fixed: Nanos,
        each: Nanos,
        most: usize,
    ) -> (CropStage<Fake>, Arc<AtomicU64>, Arc<parking_lot::Mutex<Vec<usize>>>) {
        let clock = Arc::new(AtomicU64::new(1000 * MILLI));
        let sizes = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let fake = Fake { clock: clock.clone(), each, fixed, most, sizes: sizes.clone() };
        let read = clock.clone();
        (CropStage::with_clock("reid".into(), which(), fake, Box::new(move || read.load(Relaxed))), clock, sizes)
    }

    fn skipped(f: &Frame) -> Vec<usize> {
        let all = f.annotations.detections.as_ref().unwrap();
        (0..all.len()).filter(|&i| all[i].skipped.iter().any(|s| &**s == "reid")).collect()
    }

    #[test]
    fn crops_beyond_the_budget_are_skipped_worst_scores_first_and_marked() {
        let (mut stage, clock, _) = stage(0, 5 * MILLI, 1);
        for _ in 0..5 {
            stage.process(&mut frame(&[0.9]), Budget { leave_by: None }, |_, _| {}).unwrap();
        }
        let mut f = frame(&[0.3, 0.9, 0.5, 0.8]);
        let start = clock.load(Relaxed);
        let budget = Budget { leave_by: Some(start + 11 * MILLI) };
        let mut written = Vec::new();
        stage.process(&mut f, budget, |d, _| written.push(d.score)).unwrap();
        assert_eq!(written, [0.9, 0.8]);
        assert_eq!(skipped(&f), [0, 2]);
        assert!(clock.load(Relaxed) <= start + 11 * MILLI);
    }

    #[test]
    fn without_a_deadline_everything_runs_in_full_batches() {
        let (mut stage, _, sizes) = stage(2 * MILLI, MILLI, 4);
        let mut f = frame(&[0.5; 10]);
        stage.process(&mut f, Budget { leave_by: None }, |_, _| {}).unwrap();
        assert_eq!(*sizes.lock(), [4, 4, 2]);
        assert!(skipped(&f).is_empty());
    }

    #[test]
    fn the_cost_of_a_batch_is_learned_with_its_fixed_part() {
        let mut cost = Cost::default();
        for i in 0..40u64 {
            let b = 1 + (i % 4) as usize;
            cost.measured(i, b, 3 * MILLI + 2 * MILLI * b as u64);
        }
        for b in [1usize, 4, 8] {
            let want = 3.0 + 2.0 * b as f64;
            assert!((cost.predicted(b).unwrap() as f64 / MILLI as f64 - want).abs() < 0.5, "{b}");
        }
        assert_eq!(cost.affordable(0, Some(12 * MILLI), 8), 4);
        assert_eq!(cost.affordable(0, Some(5 * MILLI / 2), 8), 0);
    }

    #[test]
    fn a_wrong_estimate_heals() {
        let (mut stage, clock, _) = stage(0, MILLI, 1);
        // Something once held the machine up.
        stage.cost.measured(clock.load(Relaxed), 1, 200 * MILLI);
        let mut ran = 0;
        for _ in 0..600 {
            clock.fetch_add(33 * MILLI, Relaxed);
            let budget = Budget { leave_by: Some(clock.load(Relaxed) + 10 * MILLI) };
            stage.process(&mut frame(&[0.5, 0.6]), budget, |_, _| ran += 1).unwrap();
        }
        let mut f = frame(&[0.5, 0.6]);
        let budget = Budget { leave_by: Some(clock.load(Relaxed) + 10 * MILLI) };
        stage.process(&mut f, budget, |_, _| {}).unwrap();
        assert!(skipped(&f).is_empty(), "still skipping after {ran} crops");
    }

    #[test]
    fn a_frame_that_is_late_already_gets_no_crops() {
        let (mut stage, clock, sizes) = stage(0, MILLI, 4);
        let mut f = frame(&[0.5, 0.6]);
        let budget = Budget { leave_by: Some(clock.load(Relaxed) - 1) };
        stage.process(&mut f, budget, |_, _| {}).unwrap();
        assert_eq!(skipped(&f), [0, 1]);
        assert!(sizes.lock().is_empty());
    }

    #[test]
    fn only_the_wanted_detections_are_looked_at() {
        let w = Which { classes: Some(vec!["person".into()]), min_size: 10.0, expand: 0.1, max_crops: 1 };
        let d = |label: &str, side: f32| Detection::new(label.into(), 0, 0.5, [0.0, 0.0, side, 100.0]);
        assert!(w.wants(&d("person", 10.0)) && !w.wants(&d("person", 9.0)) && !w.wants(&d("car", 50.0)));
        assert!(!w.wants(&d("person", f32::NAN)));
        assert_eq!(w.region([10.0, 0.0, 20.0, 100.0]), [9.0, -10.0, 21.0, 110.0]);
    }
}

//! `detect`: finds things in pictures with a neural network.

use super::{Batch, BatchStage, BuildContext, Built, Execute, PictureUse, StageConfig, StageError};
use crate::frame::{Detection, Frame, Picture};
use crate::infer::InferError;
use crate::infer::card::{Labels, Named};
use crate::infer::decode::{DecodeCard, Found, View, looks_decoded};
use crate::infer::detector::{self, Detector};
use crate::infer::device::{Device, Precision};
use crate::infer::model::ModelInfo;
use crate::infer::nms::Nms;
use crate::infer::picture::{PictureBatch, PictureModel, Resources, open_named};
use crate::infer::preprocess::Region;
use crate::infer::session::Slot;
use crate::issue::Issue;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Finds things in pictures: boxes with class, score and, where the model has them, named points.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectConfig {
    /// A model card (.toml), or an ONNX file, whose card is used if it lies beside it.
    pub model: PathBuf,
    /// Where it runs: auto, cpu, openvino, cuda:N, tensorrt:N. Default auto.
    #[serde(default)]
    pub device: Device,
    /// Arithmetic: fp32 or, with device openvino on CPUs that have it (AMX, AVX512-BF16), bf16. Default fp32.
    #[serde(default)]
    pub precision: Precision,
    /// Least score of a detection, 0 to 1. Default: the card's, else 0.35.
    pub threshold: Option<f32>,
    /// Overlap (intersection over union) above which the weaker of two boxes of a class is dropped, 0 to 1.
    /// Default: the card's, else 0.45.
    pub iou: Option<f32>,
    /// Boxes of different classes drop each other too. Default false.
    #[serde(default)]
    pub agnostic: bool,
    /// How many frames one inference takes.
    #[serde(default)]
    pub batch: BatchKeys,
    /// Input size in pixels, for models that take several: one number, or [width, height]. Default: the model's.
    pub input: Option<InputSize>,
    /// Names of the classes to report. Default: all.
    pub classes: Option<Vec<String>>,
    /// Names of the model's classes: a list, or a text file with one name a line. Default: the card's or the model's.
    pub labels: Option<Labels>,
    /// Most detections for each frame, those with the best scores. Default 300.
    pub max_detections: Option<usize>,
    /// Only this part of the picture: left, top, right, bottom as shares of its width and height, 0 to 1.
    /// Default: all of it.
    pub region: Option<[f32; 4]>,
    /// Threads of one session. Default: all cores for live work, one for offline work.
    pub threads: Option<usize>,
    /// Sessions that run at once. Default: one for live work, one for each core for offline work.
    pub slots: Option<usize>,
}

/// `batch = { … }`.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchKeys {
    /// Most frames of one inference, 1 to 64. Default 8 on a GPU and 1 on the CPU, where a batch takes about as long as
    /// its frames one by one, and more memory. Models with a fixed batch take one.
    pub max: Option<usize>,
}

impl BatchKeys {
    /// Most frames of one inference on this device.
    pub fn most_on(self, device: Device) -> usize {
        let default = match device {
            Device::Cuda(_) | Device::TensorRt(_) => 8,
            _ => 1,
        };
        self.max.unwrap_or(default)
    }

    pub(super) fn check(self, issues: &mut Vec<Issue>) {
        if self.max.is_some_and(|max| max == 0 || max > MAX_BATCH) {
            issues.push(Issue::error("batch.max", format!("batch.max must lie between 1 and {MAX_BATCH}")));
        }
    }
}

/// A square, or width and height; pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum InputSize {
    /// Width and height.
    Square(usize),
    /// Width, height.
    Sides([usize; 2]),
}

impl InputSize {
    /// Width and height.
    pub fn size(self) -> (usize, usize) {
        match self {
            Self::Square(s) => (s, s),
            Self::Sides([w, h]) => (w, h),
        }
    }
}

/// Largest batch that can be asked for.
const MAX_BATCH: usize = 64;
/// Models up to this size are looked into by `check`; it takes milliseconds.
const CHECKED_BYTES: u64 = 64 << 20;

impl DetectConfig {
    fn resources(&self) -> Resources {
        Resources { device: self.device, precision: self.precision, threads: self.threads, slots: self.slots }
    }

    /// Least score of a detection.
    fn least(&self, named: &Named) -> f32 {
        self.threshold.or(named.card.threshold).unwrap_or(detector::THRESHOLD)
    }

    fn labels(&self, context: &BuildContext) -> Result<Option<Vec<Arc<str>>>, InferError> {
        detector::labels(self.labels.as_ref(), |p| context.find(p))
    }

    /// Class numbers that `classes` names; the names that are no class.
    fn allowed(&self, detector: &Detector) -> Result<Option<Vec<bool>>, Vec<String>> {
        let Some(names) = &self.classes else { return Ok(None) };
        let mut allowed = vec![false; detector.labels.len()];
        let mut unknown = Vec::new();
        for name in names {
            match detector.labels.iter().position(|l| **l == **name) {
                Some(i) => allowed[i] = true,
                None => unknown.push(name.clone()),
            }
        }
        if unknown.is_empty() { Ok(Some(allowed)) } else { Err(unknown) }
    }
}

/// What is wrong with keys that every stage with a model has.
pub(super) fn check_resources(r: &Resources, issues: &mut Vec<Issue>) {
    for (key, value) in [("threads", r.threads), ("slots", r.slots)] {
        if value.is_some_and(|v| v == 0 || v > 256) {
            issues.push(Issue::error(key, format!("{key} must lie between 1 and 256")));
        }
    }
    if r.precision == Precision::Bf16 && r.device != Device::OpenVino {
        let help = "set device = \"openvino\"";
        issues.push(Issue::error("precision", "bf16 is there with device \"openvino\" only").help(help));
    }
}

/// What is wrong with a number that must lie between 0 and 1.
pub(super) fn check_unit(key: &str, value: Option<f32>, issues: &mut Vec<Issue>) {
    if value.is_some_and(|v| !(0.0..=1.0).contains(&v)) {
        issues.push(Issue::error(key, format!("{key} must lie between 0 and 1")));
    }
}

/// What is wrong with a part of the picture, given as shares of its size.
pub(super) fn check_region(region: Option<[f32; 4]>, issues: &mut Vec<Issue>) {
    if let Some([x1, y1, x2, y2]) = region
        && !(0.0 <= x1 && x1 < x2 && x2 <= 1.0 && 0.0 <= y1 && y1 < y2 && y2 <= 1.0)
    {
        let message = "region must be left, top, right, bottom between 0 and 1, left before right, top before bottom";
        issues.push(Issue::error("region", message));
    }
}

/// A part of the picture, given as shares of its size, in pixels.
pub(super) fn region_of(picture: &Picture, [x1, y1, x2, y2]: [f32; 4]) -> Region {
    let (w, h) = picture.view_size();
    let (w, h) = (w as f32, h as f32);
    [x1 * w, y1 * h, x2 * w, y2 * h]
}

/// Finds a stage's model and reads its card; what is wrong becomes an issue at `model`.
pub(super) fn check_model(model: &std::path::Path, context: &BuildContext, issues: &mut Vec<Issue>) -> Option<Named> {
    match find_model(model, context) {
        Ok(named) => Some(named),
        Err(e) => {
            let issue = Issue::error("model", e.to_string());
            issues.push(if matches!(e, InferError::Model { .. }) { issue.absent() } else { issue });
            None
        }
    }
}

/// What a model says of itself, where looking takes milliseconds and ONNX Runtime is there; `check` never needs it.
pub(super) fn peek(named: &Named, issues: &mut Vec<Issue>) -> Option<ModelInfo> {
    if std::fs::metadata(&named.file).map_or(true, |m| m.len() > CHECKED_BYTES) {
        return None;
    }
    if let Err(e) = named.verify() {
        issues.push(Issue::error("model", e.to_string()));
        return None;
    }
    match ModelInfo::read(&named.file) {
        Ok(info) => Some(info),
        // `doctor` and `run` say where to get the library; the file is not at fault.
        Err(InferError::Library(_)) => None,
        Err(e) => {
            issues.push(Issue::error("model", e.to_string()));
            None
        }
    }
}

/// A stage's model for the run report: its name and SHA-256. Nothing where it cannot be read; building says why.
pub(super) fn model_in_report(model: &std::path::Path, context: &BuildContext) -> Vec<(String, String)> {
    let named = find_model(model, context);
    named.and_then(|n| Ok((n.name.to_string(), n.verify()?))).into_iter().collect()
}

/// Finds a stage's model and reads its card.
pub(super) fn find_model(model: &std::path::Path, context: &BuildContext) -> Result<Named, InferError> {
    match context.find(model) {
        Some(path) => Named::read(&path),
        None => {
            // A card may lie where the model itself is missing, and it knows where to get it.
            if let Some(card) = context.find(&model.with_extension("toml")) {
                return Named::read(&card);
            }
            let folders: Vec<_> = context.search.iter().map(|d| d.display().to_string()).collect();
            let why = format!("no such file in {}", folders.join(", "));
            Err(InferError::Model { path: model.to_owned(), why })
        }
    }
}

impl StageConfig for DetectConfig {
    fn check(&self, context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        check_resources(&self.resources(), &mut issues);
        check_unit("threshold", self.threshold, &mut issues);
        check_unit("iou", self.iou, &mut issues);
        check_region(self.region, &mut issues);
        self.batch.check(&mut issues);
        if self.max_detections == Some(0) {
            issues.push(Issue::error("max_detections", "max_detections must be at least 1"));
        }
        if self.classes.as_ref().is_some_and(Vec::is_empty) {
            let help = "leave it out to report all classes";
            issues.push(Issue::error("classes", "classes is empty, so nothing would be reported").help(help));
        }
        let labels = match self.labels(context) {
            Ok(l) => l,
            Err(e) => {
                issues.push(Issue::error("labels", e.to_string()));
                None
            }
        };
        let Some(named) = check_model(&self.model, context, &mut issues) else { return issues };
        let Some(info) = peek(&named, &mut issues) else { return issues };
        match Detector::new(&named, &info, self.input.map(InputSize::size), labels) {
            Ok(d) => {
                if let Err(unknown) = self.allowed(&d) {
                    for name in unknown {
                        issues.push(unknown_class(&name, &d.labels));
                    }
                }
                if d.input.info.dim(0) == Some(1) && self.batch.max.is_some_and(|max| max > 1) {
                    let message = "the model's batch is fixed at 1, so every inference takes one frame";
                    issues.push(Issue::warning("batch.max", message));
                }
            }
            Err(e) => {
                let key = if self.input.is_some() && e.to_string().contains("input = ") { "input" } else { "model" };
                issues.push(Issue::error(key, e.to_string()));
            }
        }
        issues
    }

    fn models(&self, context: &BuildContext) -> Vec<(String, String)> {
        model_in_report(&self.model, context)
    }

    fn picture_use(&self, context: &BuildContext) -> Result<Option<PictureUse>, StageError> {
        let named = find_model(&self.model, context)?;
        let info = ModelInfo::read(&named.file)?;
        let detector = Detector::new(&named, &info, self.input.map(InputSize::size), self.labels(context)?)?;
        Ok(Some(PictureUse { input: detector.input, threshold: Some(self.least(&named)) }))
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        Ok(Built::Batch(Arc::new(Detect::new(self, context)?)))
    }
}

/// The issue for a name in `classes` that the model does not have.
pub(super) fn unknown_class(name: &str, labels: &[Arc<str>]) -> Issue {
    let near = labels
        .iter()
        .map(|l| (strsim::damerau_levenshtein(l, name), l))
        .filter(|(d, _)| *d <= 1 + name.chars().count() / 3)
        .min_by_key(|(d, _)| *d);
    let issue = Issue::error("classes", format!("the model has no class `{name}`"));
    match near {
        Some((_, l)) => issue.help(format!("did you mean `{l}`?")),
        None => {
            let some: Vec<_> = labels.iter().take(12).map(|l| &**l).collect();
            let more = if labels.len() > some.len() { ", …" } else { "" };
            issue.help(format!("its classes are {}{more}", some.join(", ")))
        }
    }
}

/// The stage at work.
pub struct Detect {
    model: Arc<PictureModel>,
    detector: Detector,
    device: String,
    region: Option<[f32; 4]>,
    slots: usize,
    threads: usize,
    threshold: f32,
    iou: f32,
    agnostic: bool,
    most: usize,
    allowed: Option<Vec<bool>>,
    scratch: Mutex<Vec<Scratch>>,
}

/// What one decoding needs, kept for the next.
#[derive(Default)]
struct Scratch {
    found: Found,
    nms: Nms,
    converted: Vec<Vec<f32>>,
}

impl Detect {
    /// Loads the model and opens its first session.
    ///
    /// # Errors
    /// Anything that keeps it from running.
    pub fn new(config: &DetectConfig, context: &BuildContext) -> Result<Self, StageError> {
        let named = find_model(&config.model, context)?;
        let resources = config.resources();
        let (planned, on) = resources.plan(context.live, context.threads);
        let (opened, info) = open_named(&named, on)?;
        let slots = resources.slots_on(opened.device, planned);
        let mut detector = Detector::new(&named, &info, config.input.map(InputSize::size), config.labels(context)?)?;
        let allowed = config
            .allowed(&detector)
            .map_err(|unknown| StageError::new(format!("the model has no class `{}`", unknown.join("`, `"))))?;
        let threshold = config.least(&named);
        let iou = config.iou.or(named.card.iou).unwrap_or(detector::IOU);
        let most = config.batch.most_on(opened.device);
        let model = PictureModel::new(named, on, opened, detector.input.clone(), most)?;
        if let DecodeCard::Yolox { strides, decoded: None, output } = &detector.decode {
            // Raw and decoded exports have the same shapes; what a run gives tells them apart.
            let size = (detector.input.spec.width, detector.input.spec.height);
            let finest = strides.as_ref().and_then(|s| s.first().copied()).unwrap_or(8);
            let at = output.as_ref().and_then(|n| info.outputs.iter().position(|o| *o.name == **n)).unwrap_or(0);
            let decoded = model.probe(|buffers| {
                let out = buffers.output(at, 0)?;
                let mut scratch = Vec::new();
                let data = out.values(&mut scratch);
                Ok(looks_decoded(&View { name: out.name, shape: out.shape, data }, size, finest))
            })?;
            let decode = DecodeCard::Yolox { strides: strides.clone(), decoded: Some(decoded), output: output.clone() };
            detector.decoder = decode.build(&info.outputs, size)?;
            detector.decode = decode;
        }
        Ok(Self {
            device: model.device().to_string(),
            model: Arc::new(model),
            detector,
            region: config.region,
            slots,
            threads: on.threads,
            threshold,
            iou,
            agnostic: config.agnostic,
            most: config.max_detections.unwrap_or(300),
            allowed,
            scratch: Mutex::new(Vec::new()),
        })
    }

    /// Decodes what the batch's last run gave at place `index`.
    fn detections(
        &self,
        batch: &PictureBatch,
        index: usize,
        scratch: &mut Scratch,
    ) -> Result<Vec<Detection>, InferError> {
        let place = batch.places.get(index).copied().flatten();
        let place = place.ok_or_else(|| InferError::Run(format!("place {index} of the batch is empty")))?;
        let Scratch { found, nms, converted } = scratch;
        let outputs = batch.buffers.outputs();
        converted.resize_with(outputs, Vec::new);
        let mut views = Vec::with_capacity(outputs);
        for (o, space) in converted.iter_mut().enumerate() {
            let out = batch.buffers.output(o, index)?;
            let (name, shape): (&str, &[i64]) = (out.name, out.shape);
            views.push(View { name, shape, data: out.values(space) });
        }
        found.clear();
        self.detector.decoder.decode(&views, place.size, self.threshold, found)?;
        if let Some(allowed) = &self.allowed {
            found.boxes.retain(|b| allowed.get(b.class as usize).copied().unwrap_or(false));
        }
        // Boxes that are final already only need their order.
        let limit = if self.detector.decoder.overlapping() { self.iou } else { f32::INFINITY };
        nms.run(&mut found.boxes, limit, self.agnostic, self.most);
        let points = self.detector.decoder.points();
        let detection = |b: &crate::infer::decode::Candidate| {
            let mut d =
                Detection::new(self.detector.label(b.class), b.class, b.score, place.geometry.to_picture(b.bbox));
            let first = b.points as usize;
            if let Some(all) = found.points.get(first..first + points) {
                d.landmarks.extend(all.iter().map(|&[x, y]| {
                    let [x, y, ..] = place.geometry.to_picture([x, y, x, y]);
                    [x, y]
                }));
            }
            d
        };
        Ok(found.boxes.iter().map(detection).collect())
    }
}

impl BatchStage for Detect {
    fn batch_sizes(&self) -> &[usize] {
        self.model.batches()
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
        Ok(Box::new(PictureSlot(self.model.slot()?)))
    }

    fn buffers(&self) -> Batch {
        buffers(&self.model)
    }

    fn prepare(&self, frame: &Frame, batch: &mut Batch, places: Range<usize>) -> Result<(), StageError> {
        let picture = frame.payload.picture().ok_or_else(|| StageError::new("the frame has no picture"))?;
        let region = self.region.map(|r| region_of(picture, r));
        Ok(self.model.prepare(picture, region, picture_batch_mut(batch)?, places.start)?)
    }

    fn finish(&self, batch: &Batch, places: Range<usize>, frame: &mut Frame) -> Result<(), StageError> {
        let mut scratch = self.scratch.lock().pop().unwrap_or_default();
        let result = self.detections(picture_batch(batch)?, places.start, &mut scratch);
        self.scratch.lock().push(scratch);
        let new = result?;
        match &mut frame.annotations.detections {
            // Another detector was here before.
            Some(all) => all.extend(new),
            none => *none = Some(new),
        }
        frame.inferred = true;
        Ok(())
    }
}

/// Memory for one batch; where it cannot be had, the first frame that needs it fails with the reason.
pub(super) fn buffers(model: &PictureModel) -> Batch {
    Box::new(model.batch())
}

/// What is in a batch that was made as `Result<T, InferError>`.
pub(super) fn memory<T: 'static>(batch: &Batch) -> Result<&T, StageError> {
    match batch.downcast_ref::<Result<T, InferError>>() {
        Some(Ok(b)) => Ok(b),
        Some(Err(e)) => Err(StageError::new(e.to_string())),
        None => Err(StageError::new("the batch belongs to another stage")),
    }
}

/// The same, to be filled.
pub(super) fn memory_mut<T: 'static>(batch: &mut Batch) -> Result<&mut T, StageError> {
    match batch.downcast_mut::<Result<T, InferError>>() {
        Some(Ok(b)) => Ok(b),
        Some(Err(e)) => Err(StageError::new(e.to_string())),
        None => Err(StageError::new("the batch belongs to another stage")),
    }
}

pub(super) fn picture_batch(batch: &Batch) -> Result<&PictureBatch, StageError> {
    memory(batch)
}

pub(super) fn picture_batch_mut(batch: &mut Batch) -> Result<&mut PictureBatch, StageError> {
    memory_mut(batch)
}

/// One slot that runs batches of pictures.
pub(super) struct PictureSlot(pub Slot);

impl Execute for PictureSlot {
    fn execute(&mut self, batch: &mut Batch, n: usize) -> Result<(), StageError> {
        Ok(picture_batch_mut(batch)?.run(&mut self.0, n)?)
    }
}

//! `tensor`: runs any model on the picture, or on a region of it, and attaches its raw outputs.

use super::detect::{
    BatchKeys, InputSize, PictureSlot, buffers, check_model, check_region, check_resources, find_model,
    model_in_report, peek, picture_batch, picture_batch_mut, region_of,
};
use super::{Batch, BatchStage, BuildContext, Built, Execute, PictureUse, StageConfig, StageError};
use crate::frame::{Frame, RawTensor};
use crate::infer::InferError;
use crate::infer::card::{FitCard, InputCard, Named};
use crate::infer::device::{Device, Precision};
use crate::infer::input::{PictureInput, Wish};
use crate::infer::model::ModelInfo;
use crate::infer::picture::{PictureModel, Resources, open_named};
use crate::issue::Issue;
use schemars::JsonSchema;
use serde::Deserialize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Runs any ONNX model with one picture input and attaches its outputs as they are, under the stage's id.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorConfig {
    /// A model card (.toml), or an ONNX file, whose card is used if it lies beside it.
    pub model: PathBuf,
    /// Where it runs: auto, cpu, openvino, cuda:N, tensorrt:N. Default auto.
    #[serde(default)]
    pub device: Device,
    /// Arithmetic: fp32 or, with device openvino on CPUs that have it (AMX, AVX512-BF16), bf16. Default fp32.
    #[serde(default)]
    pub precision: Precision,
    /// The part of the picture to look at: left, top, right, bottom, each 0 to 1 of the picture. Default: all of it.
    pub region: Option<[f32; 4]>,
    /// Names of the outputs to attach. Default: all.
    pub outputs: Option<Vec<String>>,
    /// How many frames one inference takes.
    #[serde(default)]
    pub batch: BatchKeys,
    /// Input size in pixels, for models that take several: one number, or [width, height]. Default: the model's.
    pub input: Option<InputSize>,
    /// Threads of one session. Default: all cores for live work, one for offline work.
    pub threads: Option<usize>,
    /// Sessions that run at once. Default: one for live work, one for each core for offline work.
    pub slots: Option<usize>,
}

impl TensorConfig {
    fn resources(&self) -> Resources {
        Resources { device: self.device, precision: self.precision, threads: self.threads, slots: self.slots }
    }

    fn input(&self, named: &Named, info: &ModelInfo) -> Result<PictureInput, InferError> {
        let size = self.input.map(InputSize::size);
        picture_input(named, info, size)
    }

    fn kept(&self, info: &ModelInfo) -> Result<Vec<usize>, Vec<String>> {
        let Some(names) = &self.outputs else { return Ok((0..info.outputs.len()).collect()) };
        let find = |n: &String| info.outputs.iter().position(|o| *o.name == **n).ok_or_else(|| n.clone());
        let (good, bad): (Vec<_>, Vec<_>) = names.iter().map(find).partition(Result::is_ok);
        if bad.is_empty() {
            Ok(good.into_iter().flatten().collect())
        } else {
            Err(bad.into_iter().filter_map(Result::err).collect())
        }
    }
}

/// The picture input of a model that is not a detector: stretched where the card does not say, code values as they are.
pub(super) fn picture_input(
    named: &Named,
    info: &ModelInfo,
    size: Option<(usize, usize)>,
) -> Result<PictureInput, InferError> {
    let card: &InputCard = &named.card.input;
    PictureInput::new(info, &Wish { card, size, fit: FitCard::Stretch }).map_err(|e| match e {
        InferError::Output(why) => InferError::Model { path: named.file.clone(), why },
        other => other,
    })
}

impl StageConfig for TensorConfig {
    fn check(&self, context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        check_resources(&self.resources(), &mut issues);
        check_region(self.region, &mut issues);
        self.batch.check(&mut issues);
        let Some(named) = check_model(&self.model, context, &mut issues) else { return issues };
        let Some(info) = peek(&named, &mut issues) else { return issues };
        if let Err(e) = self.input(&named, &info) {
            issues.push(Issue::error(if self.input.is_some() { "input" } else { "model" }, e.to_string()));
        }
        if let Err(unknown) = self.kept(&info) {
            let have = info.outputs.iter().map(|o| format!("`{}`", o.name)).collect::<Vec<_>>().join(", ");
            for name in unknown {
                let issue = Issue::error("outputs", format!("the model has no output `{name}`"));
                issues.push(issue.help(format!("its outputs are {have}")));
            }
        }
        issues
    }

    fn models(&self, context: &BuildContext) -> Vec<(String, String)> {
        model_in_report(&self.model, context)
    }

    fn picture_use(&self, context: &BuildContext) -> Result<Option<PictureUse>, StageError> {
        let named = find_model(&self.model, context)?;
        let input = self.input(&named, &ModelInfo::read(&named.file)?)?;
        Ok(Some(PictureUse { input, threshold: None }))
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        let named = find_model(&self.model, context)?;
        let resources = self.resources();
        let (planned, on) = resources.plan(context.live, context.threads);
        let (opened, info) = open_named(&named, on)?;
        let slots = resources.slots_on(opened.device, planned);
        let input = self.input(&named, &info)?;
        let kept = self
            .kept(&info)
            .map_err(|unknown| StageError::new(format!("the model has no output `{}`", unknown.join("`, `"))))?;
        let most = self.batch.most_on(opened.device);
        let model = PictureModel::new(named, on, opened, input, most)?;
        Ok(Built::Batch(Arc::new(TensorStage {
            id: context.id.clone(),
            device: model.device().to_string(),
            model,
            slots,
            threads: on.threads,
            region: self.region,
            kept,
        })))
    }
}

/// The stage at work.
struct TensorStage {
    id: Arc<str>,
    model: PictureModel,
    device: String,
    slots: usize,
    threads: usize,
    region: Option<[f32; 4]>,
    kept: Vec<usize>,
}

impl BatchStage for TensorStage {
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
        let batch = picture_batch(batch)?;
        let mut tensors = Vec::with_capacity(self.kept.len());
        let mut scratch = Vec::new();
        for &o in &self.kept {
            let out = batch.buffers.output(o, places.start)?;
            tensors.push(RawTensor {
                name: out.name.clone(),
                shape: out.shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect(),
                data: out.values(&mut scratch).into(),
            });
        }
        frame.annotations.tensors.insert(self.id.clone(), tensors);
        frame.inferred = true;
        Ok(())
    }
}

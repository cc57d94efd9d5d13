//! `classify`: a second model gives labels to the crops of detections.

use super::crops::{self, CropStage, Note, Which};
use super::{BuildContext, Built, StageConfig, StageError};
use crate::frame::{Attribute, Detection};
use crate::infer::card::{Labels, Named};
use crate::infer::detector::{self, numbered};
use crate::infer::device::{Device, Precision};
use crate::infer::model::ModelInfo;
use crate::infer::picture::Resources;
use crate::infer::recognise::python_names;
use crate::issue::Issue;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Gives labels to the crops of detections. Crops that would make the frame late are left out and marked.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyConfig {
    /// A model card (.toml), or an ONNX file, whose card is used if it lies beside it.
    pub model: PathBuf,
    /// Where it runs: auto, cpu, openvino, cuda:N, tensorrt:N. Default auto.
    #[serde(default)]
    pub device: Device,
    /// Arithmetic: fp32 or, with device openvino on CPUs that have it (AMX, AVX512-BF16), bf16. Default fp32.
    #[serde(default)]
    pub precision: Precision,
    /// Labels of the detections to look at. Default: all.
    pub classes: Option<Vec<String>>,
    /// Shortest side of a box to look at, pixels of the picture. Default 0.
    #[serde(default)]
    pub min_size: f32,
    /// Share of its width and height by which a box is grown on each side. Default 0.
    #[serde(default)]
    pub expand: f32,
    /// Most crops of one frame, those with the best scores. Default 16.
    pub max_crops: Option<usize>,
    /// Least probability of a label, 0 to 1. Default: the card's, else 0.5.
    pub threshold: Option<f32>,
    /// Most labels for each crop. Default 1.
    pub top_k: Option<usize>,
    /// Names of the model's classes: a list, or a text file with one name a line. Default: the card's or the model's.
    pub labels: Option<Labels>,
    /// From the model's numbers to probabilities: softmax, sigmoid or none. Default: none where the numbers are
    /// probabilities already, else softmax.
    pub activation: Option<Activation>,
    /// Threads of the session. Default: all cores for live work, one for offline work.
    pub threads: Option<usize>,
}

/// From numbers to probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// All classes share 1.
    Softmax,
    /// Each class by itself.
    Sigmoid,
    /// They are probabilities.
    None,
}

impl ClassifyConfig {
    fn resources(&self) -> Resources {
        Resources { device: self.device, precision: self.precision, threads: self.threads, slots: None }
    }

    fn which(&self) -> Which {
        Which {
            classes: self.classes.clone(),
            min_size: self.min_size,
            expand: self.expand,
            max_crops: self.max_crops.unwrap_or(16),
        }
    }

    fn names(&self, named: &Named, info: &ModelInfo, context: &BuildContext) -> Result<Vec<Arc<str>>, StageError> {
        let told = match detector::labels(self.labels.as_ref(), |p| context.find(p))? {
            Some(names) => Some(names),
            None => match &named.card.labels {
                Some(l) => Some(l.names(named.card_file.as_deref())?),
                None => None,
            },
        };
        let last = info.outputs.first().and_then(|o| o.shape.last()).and_then(|d| d.fixed());
        if let (Some(names), Some(classes)) = (&told, last)
            && names.len() != classes
        {
            let (file, n) = (named.file.display(), names.len());
            return Err(StageError::new(format!("{file}: it has {classes} classes, but {n} labels")));
        }
        let known = info.metadata.get("names").and_then(|n| python_names(n));
        Ok(told.or(known).unwrap_or_else(|| (0..last.unwrap_or(0)).map(numbered).collect()))
    }
}

impl StageConfig for ClassifyConfig {
    fn check(&self, context: &BuildContext) -> Vec<Issue> {
        let (mut issues, model) = crops::check(&self.model, &self.resources(), &self.which(), context);
        super::detect::check_unit("threshold", self.threshold, &mut issues);
        if self.top_k == Some(0) {
            issues.push(Issue::error("top_k", "top_k must be at least 1"));
        }
        if let Some((named, info)) = model
            && let Err(e) = self.names(&named, &info, context)
        {
            issues.push(Issue::error(if self.labels.is_some() { "labels" } else { "model" }, e.to_string()));
        }
        issues
    }

    fn models(&self, context: &BuildContext) -> Vec<(String, String)> {
        super::detect::model_in_report(&self.model, context)
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        let stage = CropStage::open(&self.model, self.resources(), self.which(), context, |named, info| {
            Ok(Classify {
                id: context.id.clone(),
                labels: self.names(named, info, context)?,
                threshold: self.threshold.or(named.card.threshold).unwrap_or(0.5),
                top_k: self.top_k.unwrap_or(1),
                activation: self.activation,
                ranked: Mutex::new(Vec::new()),
            })
        })?;
        Ok(Built::Batch(Arc::new(stage)))
    }
}

/// What it does with a crop's output.
struct Classify {
    id: Arc<str>,
    labels: Vec<Arc<str>>,
    threshold: f32,
    top_k: usize,
    activation: Option<Activation>,
    /// One finisher at a time writes here, so that it is free.
    ranked: Mutex<Vec<(f32, usize)>>,
}

/// Probabilities with their classes, best first.
fn rank(out: &[f32], activation: Option<Activation>, ranked: &mut Vec<(f32, usize)>) {
    let sum: f32 = out.iter().sum();
    let unit = out.iter().all(|v| (0.0..=1.0).contains(v)) && (sum - 1.0).abs() < 0.01;
    let activation = activation.unwrap_or(if unit { Activation::None } else { Activation::Softmax });
    ranked.clear();
    // What is not a number is no probability.
    ranked.extend(out.iter().enumerate().filter(|(_, v)| !v.is_nan()).map(|(i, &v)| (v, i)));
    match activation {
        Activation::None => {}
        Activation::Sigmoid => ranked.iter_mut().for_each(|(v, _)| *v = 1.0 / (1.0 + (-*v).exp())),
        Activation::Softmax => {
            let top = ranked.iter().map(|r| r.0).fold(f32::NEG_INFINITY, f32::max);
            ranked.iter_mut().for_each(|(v, _)| *v = (*v - top).exp());
            let sum: f32 = ranked.iter().map(|r| r.0).sum();
            ranked.iter_mut().for_each(|(v, _)| *v /= sum);
        }
    }
    ranked.retain(|(v, _)| v.is_finite());
    ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
}

impl Note for Classify {
    fn note(&self, detection: &mut Detection, out: &[f32]) {
        let mut ranked = self.ranked.lock();
        rank(out, self.activation, &mut ranked);
        for &(score, class) in ranked.iter().take(self.top_k).filter(|(s, _)| *s >= self.threshold) {
            let label = self.labels.get(class).cloned().unwrap_or_else(|| numbered(class));
            detection.attributes.push(Attribute { stage: self.id.clone(), label, score: score.min(1.0) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_and_probabilities_are_told_apart() {
        let mut ranked = Vec::new();
        rank(&[0.2, 0.7, 0.1], None, &mut ranked);
        assert_eq!(ranked[0], (0.7, 1));
        rank(&[0.0, 3f32.ln()], None, &mut ranked);
        assert!((ranked[0].0 - 0.75).abs() < 1e-6 && ranked[0].1 == 1);
        rank(&[0.0, -1.0, f32::NAN], Some(Activation::Sigmoid), &mut ranked);
        assert_eq!((ranked.len(), ranked[0]), (2, (0.5, 0)));
        rank(&[], None, &mut ranked);
        assert!(ranked.is_empty());
        rank(&[f32::INFINITY, 1.0], None, &mut ranked);
        assert!(ranked.iter().all(|(v, _)| v.is_finite()));
    }

    #[test]
    fn labels_at_or_above_the_threshold_are_written() {
        let stage = Classify {
            id: "colour".into(),
            labels: vec!["red".into(), "blue".into(), "green".into()],
            threshold: 0.25,
            top_k: 2,
            activation: None,
            ranked: Mutex::default(),
        };
        let mut d = Detection::new("car".into(), 2, 0.9, [0.0, 0.0, 20.0, 40.0]);
        stage.note(&mut d, &[0.1, 0.6, 0.3]);
        let written: Vec<_> = d.attributes.iter().map(|a| (&*a.stage, &*a.label, a.score)).collect();
        assert_eq!(written, [("colour", "blue", 0.6), ("colour", "green", 0.3)]);
    }
}

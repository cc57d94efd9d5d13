//! `embed`: a second model turns the crops of detections into vectors that tell individuals apart.

use super::crops::{self, CropStage, Note, Which};
use super::{BuildContext, Built, StageConfig, StageError};
use crate::frame::Detection;
use crate::infer::device::{Device, Precision};
use crate::infer::picture::Resources;
use crate::issue::Issue;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Turns the crops of detections into re-identification vectors of unit length. Crops that would make the frame late
/// are left out and marked.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedConfig {
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
    /// Most crops of one frame, those with the best scores. Default 32.
    pub max_crops: Option<usize>,
    /// Threads of the session. Default: all cores for live work, one for offline work.
    pub threads: Option<usize>,
}

impl EmbedConfig {
    fn resources(&self) -> Resources {
        Resources { device: self.device, precision: self.precision, threads: self.threads, slots: None }
    }

    fn which(&self) -> Which {
        Which {
            classes: self.classes.clone(),
            min_size: self.min_size,
            expand: self.expand,
            max_crops: self.max_crops.unwrap_or(32),
        }
    }
}

impl StageConfig for EmbedConfig {
    fn check(&self, context: &BuildContext) -> Vec<Issue> {
        crops::check(&self.model, &self.resources(), &self.which(), context).0
    }

    fn models(&self, context: &BuildContext) -> Vec<(String, String)> {
        super::detect::model_in_report(&self.model, context)
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        let stage = CropStage::open(&self.model, self.resources(), self.which(), context, |_, _| Ok(Embed))?;
        Ok(Built::Batch(Arc::new(stage)))
    }
}

/// What it does with a crop's output.
struct Embed;

/// The vector at unit length; `None` where it has no direction.
fn unit(out: &[f32]) -> Option<Arc<[f32]>> {
    let length = out.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
    (length.is_finite() && length > 1e-12).then(|| out.iter().map(|v| (*v as f64 / length) as f32).collect())
}

impl Note for Embed {
    fn note(&self, detection: &mut Detection, out: &[f32]) {
        detection.embedding = unit(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_unit_length_or_are_left_out() {
        assert_eq!(&*unit(&[3.0, 4.0]).unwrap(), &[0.6, 0.8]);
        assert!(unit(&[0.0; 4]).is_none() && unit(&[f32::NAN]).is_none() && unit(&[f32::INFINITY]).is_none());
        assert!(unit(&[1e30, 1e30]).is_some());
    }
}

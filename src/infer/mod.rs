//! Inference: from pixels to a model's tensors, through an ONNX Runtime session, and out again.
//!
//! A [`card`] says what a model wants and what its outputs mean, or [`recognise`] finds out from the model's inputs
//! and outputs; [`runtime`] loads ONNX Runtime and chooses the device; [`session`] runs batches in memory that is
//! made once; [`decode`] turns outputs into boxes, and [`nms`] keeps the best of those that overlap.

pub mod card;
pub mod decode;
pub mod detector;
pub mod device;
pub mod input;
mod library;
pub mod model;
pub mod nms;
pub mod picture;
pub mod preprocess;
pub mod recognise;
pub mod runtime;
pub mod session;
pub mod sessions;
pub mod tensor;

use std::path::PathBuf;

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// ONNX Runtime was not found, or what was found cannot be used.
    #[error(
        "ONNX Runtime cannot be loaded; run `scripts/setup`, or set ORT_DYLIB_PATH to libonnxruntime.so (1.24 or newer). Tried:\n{0}"
    )]
    Library(String),
    /// The device that the pipeline asks for is not there.
    #[error("device `{device}` cannot be used: {why}")]
    Device {
        /// As written in the pipeline file.
        device: String,
        /// What the provider said.
        why: String,
    },
    /// ONNX Runtime cannot load the model.
    #[error("{}: {why}", path.display())]
    Model {
        /// The model file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A model card is wrong.
    #[error("{0}")]
    Card(String),
    /// Running the model failed.
    #[error("inference failed: {0}")]
    Run(String),
    /// An output cannot be what the decoder needs.
    #[error("{0}")]
    Output(String),
}

impl From<InferError> for crate::stage::StageError {
    fn from(e: InferError) -> Self {
        Self::new(e.to_string())
    }
}

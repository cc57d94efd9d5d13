//! Inference: from pixels to a model's tensors, through an ONNX Runtime session, and out again.

pub mod preprocess;
pub mod tensor;

//! A model file: what goes in and what comes out, and sessions that run it.

use super::device::{Device, Precision, provider};
use super::{InferError, runtime};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, ValueType};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// One axis of a tensor in a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Always this many.
    Fixed(usize),
    /// Decided when the model runs; the name may be empty.
    Dynamic(Box<str>),
}

impl Dim {
    /// The number, where the model fixes it.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Self::Fixed(n) => Some(*n),
            Self::Dynamic(_) => None,
        }
    }
}

/// An input or an output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Its name in the model.
    pub name: Arc<str>,
    /// Type of its elements.
    pub element: TensorElementType,
    /// Its axes, the batch included.
    pub shape: Vec<Dim>,
}

impl TensorInfo {
    /// The shape where every axis is fixed.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(Dim::fixed).collect()
    }
    /// The fixed size of axis `i`.
    pub fn dim(&self, i: usize) -> Option<usize> {
        self.shape.get(i).and_then(Dim::fixed)
    }
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}[", self.name, self.element)?;
        for (i, d) in self.shape.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            match d {
                Dim::Fixed(n) => write!(f, "{comma}{n}")?,
                Dim::Dynamic(s) if s.is_empty() => write!(f, "{comma}?")?,
                Dim::Dynamic(s) => write!(f, "{comma}{s}")?,
            }
        }
        f.write_str("]")
    }
}

/// What a model file says of itself.
#[derive(Debug, Clone, Default)]
pub struct ModelInfo {
    /// Inputs in the model's order.
    pub inputs: Vec<TensorInfo>,
    /// Outputs in the model's order.
    pub outputs: Vec<TensorInfo>,
    /// Custom metadata (Ultralytics exports keep names, image size and stride there).
    pub metadata: BTreeMap<String, String>,
}

impl ModelInfo {
    /// Reads a model's inputs, outputs and metadata, without preparing it to run.
    ///
    /// # Errors
    /// The library is missing, or the file is not a model it can read.
    pub fn read(path: &Path) -> Result<Self, InferError> {
        let fail = |e: &dyn fmt::Display| InferError::Model { path: path.to_owned(), why: e.to_string() };
        let environment = &runtime::runtime()?.environment;
        let session = Session::builder(environment)
            .map_err(|e| fail(&e))?
            .with_optimization_level(GraphOptimizationLevel::Disable)
            .map_err(|e| fail(&e))?
            .with_intra_threads(1)
            .map_err(|e| fail(&e))?
            .commit_from_file(path)
            .map_err(|e| fail(&e))?;
        Self::of(&session).map_err(|e| fail(&e))
    }

    fn of(session: &Session) -> Result<Self, String> {
        let info = |o: &Outlet| match o.dtype() {
            ValueType::Tensor { ty, shape, dimension_symbols } => {
                let dims = shape.iter().enumerate().map(|(i, &d)| match usize::try_from(d) {
                    Ok(n) => Dim::Fixed(n),
                    Err(_) => Dim::Dynamic(dimension_symbols.get(i).map(|s| s.as_str()).unwrap_or("").into()),
                });
                Ok(TensorInfo { name: o.name().into(), element: *ty, shape: dims.collect() })
            }
            other => Err(format!("`{}` is {other}; only tensors can be used", o.name())),
        };
        let mut metadata = BTreeMap::new();
        if let Ok(m) = session.metadata() {
            for key in m.custom_keys().unwrap_or_default() {
                if let Some(value) = m.custom(&key) {
                    metadata.insert(key, value);
                }
            }
        }
        Ok(Self {
            inputs: session.inputs().iter().map(info).collect::<Result<_, _>>()?,
            outputs: session.outputs().iter().map(info).collect::<Result<_, _>>()?,
            metadata,
        })
    }

    /// Inputs and outputs as a list to read, for error messages.
    pub fn list(&self) -> String {
        let lines =
            |what: &str, all: &[TensorInfo]| all.iter().map(|t| format!("\n  {what} {t}")).collect::<Vec<_>>().concat();
        format!("{}{}", lines("input ", &self.inputs), lines("output", &self.outputs))
    }
}

/// How a session is to run.
#[derive(Debug, Clone, Copy)]
pub struct RunOn {
    /// The device to use.
    pub device: Device,
    /// Threads of one session.
    pub threads: usize,
    /// Arithmetic.
    pub precision: Precision,
}

/// A session on a device.
pub struct Opened {
    /// The session.
    pub(super) session: Session,
    /// What the model says of itself.
    pub info: ModelInfo,
    /// The device it really runs on; never [`Device::Auto`].
    pub device: Device,
}

/// Opens a session. `auto` takes the first device that works, and the log says why the others did not.
///
/// # Errors
/// The library is missing, the model cannot be read, or the device that was asked for cannot be used.
pub fn open(path: &Path, on: RunOn) -> Result<Opened, InferError> {
    let mut passed_over = Vec::new();
    for device in on.device.candidates() {
        match open_on(path, RunOn { device, ..on }) {
            Ok(opened) => {
                if on.device == Device::Auto {
                    let not = if passed_over.is_empty() { "none".to_owned() } else { passed_over.join("; ") };
                    tracing::info!(model = %path.display(), %device, passed_over = %not, "device chosen");
                }
                return Ok(opened);
            }
            // Where even the plain CPU cannot open it, the model is at fault, not the device.
            Err(e) if on.device != Device::Auto || device == Device::Cpu => return Err(e),
            Err(InferError::Device { why, .. }) => passed_over.push(format!("{device}: {why}")),
            Err(e @ InferError::Library(_)) => return Err(e),
            Err(e) => passed_over.push(format!("{device}: {e}")),
        }
    }
    Err(InferError::Device { device: on.device.to_string(), why: passed_over.join("; ") })
}

fn open_on(path: &Path, on: RunOn) -> Result<Opened, InferError> {
    let environment = &runtime::runtime()?.environment;
    let model_at_fault = |e: &dyn fmt::Display| InferError::Model { path: path.to_owned(), why: e.to_string() };
    let device_at_fault =
        |e: &dyn fmt::Display| InferError::Device { device: on.device.to_string(), why: e.to_string() };
    let provider = provider(on.device, on.threads, on.precision)?;
    let on_openvino = on.device == Device::OpenVino;
    let mut builder = Session::builder(environment)
        .map_err(|e| device_at_fault(&e))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|e| device_at_fault(&e))?
        // OpenVINO brings its own threads; these would only run what it leaves over.
        .with_intra_threads(if on_openvino { 1 } else { on.threads.max(1) })
        .map_err(|e| device_at_fault(&e))?
        .with_inter_threads(1)
        .map_err(|e| device_at_fault(&e))?
        // Spinning threads take the cores that decoders need, and a live stream lets them spin most of the time.
        .with_intra_op_spinning(false)
        .map_err(|e| device_at_fault(&e))?
        .with_inter_op_spinning(false)
        .map_err(|e| device_at_fault(&e))?;
    if let Some(provider) = provider {
        builder = builder.with_execution_providers([provider]).map_err(|e| device_at_fault(&e))?;
    }
    let session = builder.commit_from_file(path).map_err(|e| model_at_fault(&e))?;
    let info = ModelInfo::of(&session).map_err(|e| model_at_fault(&e))?;
    Ok(Opened { session, info, device: on.device })
}

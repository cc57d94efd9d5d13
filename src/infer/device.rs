//! Devices: which execution provider runs a model, and how it is told to.

use super::InferError;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The first that works of TensorRT, CUDA, OpenVINO, CPU.
    #[default]
    Auto,
    /// ONNX Runtime's own kernels on the CPU.
    Cpu,
    /// CUDA on the GPU of this number.
    Cuda(u32),
    /// TensorRT on the GPU of this number.
    TensorRt(u32),
    /// OpenVINO on the CPU.
    OpenVino,
}

impl Device {
    /// What to try for this choice, in order.
    pub fn candidates(self) -> Vec<Device> {
        match self {
            Self::Auto => vec![Self::TensorRt(0), Self::Cuda(0), Self::OpenVino, Self::Cpu],
            chosen => vec![chosen],
        }
    }

    /// The precisions there are on it, the model's own first.
    pub fn precisions(self) -> &'static [Precision] {
        match self {
            Self::OpenVino => &[Precision::Fp32, Precision::Bf16],
            Self::Auto | Self::Cpu | Self::Cuda(_) | Self::TensorRt(_) => &[Precision::Fp32],
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::TensorRt(n) => write!(f, "tensorrt:{n}"),
            Self::OpenVino => f.write_str("openvino"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (name, number) = match s.split_once(':') {
            Some((name, n)) => (name, Some(n)),
            None => (s, None),
        };
        let gpu = || match number {
            None => Ok(0),
            Some(n) => n.parse::<u32>().map_err(|_| format!("`{n}` in `{s}` is not the number of a GPU")),
        };
        match (name, number) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("openvino", None) => Ok(Self::OpenVino),
            ("cuda", _) => gpu().map(Self::Cuda),
            ("tensorrt", _) => gpu().map(Self::TensorRt),
            _ => Err(format!("`{s}` is not a device: use auto, cpu, openvino, cuda:N or tensorrt:N")),
        }
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Device {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(auto|cpu|openvino|(cuda|tensorrt)(:[0-9]+)?)$",
            "description": "auto tries TensorRT, CUDA, OpenVINO, CPU in that order"
        })
    }
}

/// Arithmetic inside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As the model says.
    #[default]
    Fp32,
    /// Multiplications in bfloat16 where the device has them (OpenVINO on CPUs with AMX or AVX512-BF16). Faster, and not the same: on
    /// real pictures one or two in a hundred boxes with a score over 0.4 move or change their score by more than 0.05
    /// (FastestDet: five in a hundred). Measure your model before you use it.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        })
    }
}

/// The provider of a device, or why this library cannot have it. `None`: ONNX Runtime's own CPU kernels.
pub(super) fn provider(
    device: Device,
    threads: usize,
    precision: Precision,
) -> Result<Option<ExecutionProviderDispatch>, InferError> {
    let missing = |why: String| InferError::Device { device: device.to_string(), why };
    fn there<E: ExecutionProvider>(name: &str) -> Result<(), String> {
        match E::is_available() {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("the ONNX Runtime library has no {name} provider")),
            Err(e) => Err(e.to_string()),
        }
    }
    if !device.precisions().contains(&precision) {
        return Err(missing(format!("precision \"{precision}\" is there with device \"openvino\" only")));
    }
    Ok(match device {
        Device::Auto | Device::Cpu => None,
        Device::Cuda(n) => {
            there::<ep::CUDA>("CUDA").map_err(missing)?;
            Some(ep::CUDA::default().with_device_id(n as i32).build().error_on_failure())
        }
        Device::TensorRt(n) => {
            there::<ep::TensorRT>("TensorRT").map_err(missing)?;
            Some(ep::TensorRT::default().with_device_id(n as i32).build().error_on_failure())
        }
        Device::OpenVino => {
            there::<ep::OpenVINO>("OpenVINO").map_err(missing)?;
            let hint = match precision {
                Precision::Fp32 => "f32",
                Precision::Bf16 => "bf16",
            };
            // Pinning makes several one-thread sessions share one core.
            let config = serde_json::json!({"CPU": {
                "INFERENCE_PRECISION_HINT": hint,
                "ENABLE_CPU_PINNING": "NO",
                "INFERENCE_NUM_THREADS": threads.to_string(),
                "NUM_STREAMS": "1",
            }});
            let provider = ep::OpenVINO::default()
                .with_device_type("CPU")
                .with_arbitrary_config("load_config", config.to_string());
            Some(provider.build().error_on_failure())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_that_a_device_lacks_is_refused_before_anything_is_loaded() {
        for device in [Device::Cpu, Device::Cuda(0), Device::TensorRt(0)] {
            assert!(!device.precisions().contains(&Precision::Bf16));
            let refused = provider(device, 1, Precision::Bf16).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("\"bf16\" is there with device \"openvino\" only"), "{refused}");
        }
        assert_eq!(Device::OpenVino.precisions(), [Precision::Fp32, Precision::Bf16]);
    }

    #[test]
    fn device_names_round_trip() {
        for d in [Device::Auto, Device::Cpu, Device::OpenVino, Device::Cuda(3), Device::TensorRt(0)] {
            assert_eq!(d.to_string().parse::<Device>().unwrap(), d);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        assert!("cuda:x".parse::<Device>().unwrap_err().contains("not the number"));
        assert!("gpu".parse::<Device>().unwrap_err().contains("tensorrt:N"));
        assert!("cpu:0".parse::<Device>().is_err());
    }
}

//! Readings of NVIDIA GPUs through NVML. Where there is no driver, there is nothing to read and nothing to say.

use super::metrics::{self, Group};
use ::metrics::Gauge;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};

struct Gauges {
    utilization: Gauge,
    memory_used: Gauge,
    memory_total: Gauge,
    temperature: Gauge,
    power: Gauge,
    clock_sm: Gauge,
    clock_memory: Gauge,
    encoder: Gauge,
    decoder: Gauge,
}

/// The machine's GPUs.
pub(super) struct Gpus {
    nvml: Nvml,
    names: Vec<String>,
    gauges: Vec<Option<Gauges>>,
}

impl Gpus {
    /// Opens the driver; `None` where there is none, or no GPU.
    pub(super) fn open() -> Option<Self> {
        let nvml = Nvml::init().inspect_err(|error| tracing::debug!(%error, "no NVIDIA driver")).ok()?;
        let names: Vec<String> = (0..nvml.device_count().ok()?)
            .map(|i| nvml.device_by_index(i).and_then(|d| d.name()).unwrap_or_else(|_| format!("gpu {i}")))
            .collect();
        let gauges = names.iter().map(|_| None).collect();
        (!names.is_empty()).then_some(Self { nvml, names, gauges })
    }

    /// The GPUs' names, by index.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads all GPUs into `group`. What a GPU does not tell is not a number: it must not look cold and idle.
    pub(super) fn sample(&mut self, group: &Group) {
        for (index, slot) in self.gauges.iter_mut().enumerate() {
            let Ok(device) = self.nvml.device_by_index(index as u32) else { continue };
            let g = slot.get_or_insert_with(|| {
                let gpu = index.to_string();
                let gauge = |m| group.gauge(m, &[("gpu", &gpu)]);
                Gauges {
                    utilization: gauge(&metrics::GPU_UTILIZATION),
                    memory_used: gauge(&metrics::GPU_MEMORY_USED),
                    memory_total: gauge(&metrics::GPU_MEMORY_TOTAL),
                    temperature: gauge(&metrics::GPU_TEMPERATURE),
                    power: gauge(&metrics::GPU_POWER),
                    clock_sm: gauge(&metrics::GPU_CLOCK_SM),
                    clock_memory: gauge(&metrics::GPU_CLOCK_MEMORY),
                    encoder: gauge(&metrics::GPU_ENCODER),
                    decoder: gauge(&metrics::GPU_DECODER),
                }
            });
            g.utilization.set(device.utilization_rates().map_or(f64::NAN, |u| f64::from(u.gpu) / 100.0));
            let memory = device.memory_info();
            g.memory_used.set(memory.as_ref().map_or(f64::NAN, |m| m.used as f64));
            g.memory_total.set(memory.as_ref().map_or(f64::NAN, |m| m.total as f64));
            g.temperature.set(device.temperature(TemperatureSensor::Gpu).map_or(f64::NAN, f64::from));
            g.power.set(device.power_usage().map_or(f64::NAN, |mw| f64::from(mw) / 1e3));
            g.clock_sm.set(device.clock_info(Clock::SM).map_or(f64::NAN, |mhz| f64::from(mhz) * 1e6));
            g.clock_memory.set(device.clock_info(Clock::Memory).map_or(f64::NAN, |mhz| f64::from(mhz) * 1e6));
            g.encoder.set(device.encoder_utilization().map_or(f64::NAN, |u| f64::from(u.utilization) / 100.0));
            g.decoder.set(device.decoder_utilization().map_or(f64::NAN, |u| f64::from(u.utilization) / 100.0));
        }
    }
}

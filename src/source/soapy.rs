//! `soapy://`: receivers that SoapySDR drives. The library is loaded when it is needed; without it nothing else is lacking.

mod library;
#[cfg(test)]
mod tests;

use super::Intake;
use super::feed::Inlet;
use super::live::Trouble;
use super::network::{Gain, Link, TURN, aside};
use crate::frame::{GapCause, Nanos, clock};
use library::{Device, Library, Read};
use std::path::PathBuf;
use zerocopy::IntoBytes;

/// How far a receiver's rate may be from the one that is asked for, as a part of it.
const WRONG_RATE: f64 = 1e-4;
/// The most samples that are read at once.
const MOST: usize = 1 << 16;

/// The version of SoapySDR at this machine.
///
/// # Errors
/// Why it cannot be used.
pub fn version() -> Result<String, String> {
    Library::load(None).map(Library::version)
}

/// A receiver, and how it is set.
#[derive(Debug, Clone, PartialEq)]
pub struct Radio {
    /// Which device, as SoapySDR describes it: `driver=rtlsdr,serial=1`.
    pub device: String,
    /// Which of its channels, counted from 0.
    pub channel: usize,
    /// Samples a second.
    pub rate: f64,
    /// Centre frequency, Hz.
    pub frequency: f64,
    /// Amplification.
    pub gain: Gain,
    /// Antenna, by its name; `None` for the device's own choice.
    pub antenna: Option<String>,
    /// Correction of its crystal, parts per million.
    pub ppm: i32,
    /// Where the library is; `None` for where it usually is.
    pub library: Option<PathBuf>,
}

impl Radio {
    /// Opens and starts the receiver; `None` when the pipeline stops meanwhile.
    ///
    /// # Errors
    /// The library is not there, which lasts; or what it says, which may pass.
    pub fn connect(&self, intake: &Intake) -> Result<Option<Receiver>, Trouble> {
        let library = Library::load(self.library.as_deref()).map_err(Trouble::Lasting)?;
        let radio = self.clone();
        let opened = aside(intake, move || radio.open(library));
        opened.map_err(|e| Trouble::Passing(format!("{}: {e}", self.device)))
    }

    fn open(&self, library: &'static Library) -> Result<Receiver, String> {
        let mut device = Device::open(library, &self.device)?;
        let rate = device.set_rate(self.channel, self.rate)?;
        if rate > 0.0 && (rate / self.rate - 1.0).abs() > WRONG_RATE {
            return Err(format!(
                "it gives {rate} samples a second, not {}: `sample_rate` must be one that it has",
                self.rate
            ));
        }
        if let Some(antenna) = &self.antenna {
            device.set_antenna(self.channel, antenna)?;
        }
        if self.ppm != 0 {
            device.set_correction(self.channel, self.ppm.into())?;
        }
        device.set_frequency(self.channel, self.frequency)?;
        device.set_gain(
            self.channel,
            match self.gain {
                Gain::Auto => None,
                Gain::Db(db) => Some(db),
            },
        )?;
        let most = device.start(self.channel)?.min(MOST);
        tracing::info!(device = self.device, library = library.version(), rate, "receiver set");
        Ok(Receiver { device, buffer: vec![[0.0; 2]; most], gauge: Gauge::new(self.rate) })
    }
}

/// A receiver at work.
pub struct Receiver {
    device: Device,
    buffer: Vec<[f32; 2]>,
    gauge: Gauge,
}

impl Link for Receiver {
    fn receive(&mut self, inlet: &mut Inlet) -> Result<(), String> {
        match self.device.read(&mut self.buffer, TURN)? {
            Read::Samples(count, time) => {
                let at = clock::now();
                inlet.missing(self.gauge.samples(count as u64, time, at), GapCause::Overrun);
                inlet.push(self.buffer[..count].as_bytes(), at);
            }
            Read::Overflow => self.gauge.overflow(),
            Read::Nothing => {}
        }
        Ok(())
    }
}

/// Finds out how many samples an overflow cost. Pure: time comes in as an argument.
#[derive(Debug)]
struct Gauge {
    rate: f64,
    /// When the next sample is due by the device's clock, nanoseconds.
    due: Option<f64>,
    /// When samples came last.
    last: Option<Nanos>,
    overflow: bool,
}

impl Gauge {
    fn new(rate: f64) -> Self {
        Self { rate, due: None, last: None, overflow: false }
    }

    /// Samples were lost before the next ones.
    fn overflow(&mut self) {
        self.overflow = true;
    }

    /// Samples came at `at`; the first was taken at `time` by the device's clock. Says how many are missing before them:
    /// by that clock, or where it is not told, by the host's, and then one at least.
    fn samples(&mut self, count: u64, time: Option<i64>, at: Nanos) -> u64 {
        let samples = |ns: f64| (ns / 1e9 * self.rate).round();
        let lost = match (std::mem::take(&mut self.overflow), time.zip(self.due), self.last) {
            (true, Some((time, due)), _) => samples(time as f64 - due).max(1.0) as u64,
            (true, None, Some(last)) => (samples(at.saturating_sub(last) as f64) - count as f64).max(1.0) as u64,
            // What is lost before the first sample is not part of the stream.
            _ => 0,
        };
        self.due = time.map(|time| time as f64 + count as f64 / self.rate * 1e9);
        self.last = Some(at);
        lost
    }
}

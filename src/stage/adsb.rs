//! `adsb`: reads Mode S and ADS-B, what aircraft say on 1090 MHz.

use super::listen::{Listener, Listeners};
use super::{BuildContext, Built, Stage, StageConfig, StageError};
use crate::frame::Frame;
use crate::signal::Complex32;
use crate::signal::mode_s::cpr::{Place, Positions};
use crate::signal::mode_s::{Body, Extended, Received, Receiver, ReceiverConfig, Repair};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Keys of `kind = "adsb"`. It takes streams of samples, 2 to 20 million a second, centred on 1090 MHz.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdsbConfig {
    /// Which frames with one wrong bit are repaired. Default `known`.
    pub repair: Repairs,
}

/// Which frames with one wrong bit are repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Repairs {
    /// None.
    Off,
    /// Extended squitters of aircraft from which a right frame came within the last minute.
    #[default]
    Known,
    /// Extended squitters of all aircraft.
    Any,
}

/// What its results stand under.
pub const KEY: &str = "adsb";

impl StageConfig for AdsbConfig {
    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        let repair = match self.repair {
            Repairs::Off => Repair::Off,
            Repairs::Known => Repair::Known,
            Repairs::Any => Repair::Any,
        };
        Ok(Built::Stage(Box::new(move || {
            Ok(Box::new(Adsb { repair, receivers: Listeners::default(), positions: HashMap::new() }) as Box<dyn Stage>)
        })))
    }
}

/// The stage at work.
struct Adsb {
    repair: Repair,
    receivers: Listeners<Receiver>,
    /// By stream.
    positions: HashMap<u32, Positions>,
}

/// A frame in a result.
#[derive(Serialize)]
struct Heard {
    /// Time in the stream, seconds.
    time: f64,
    #[serde(flatten)]
    received: Received,
    /// Where the aircraft is, once two frames have told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
}

impl Listener for Receiver {
    type Heard = Received;

    fn push(&mut self, samples: &[Complex32], heard: &mut Vec<Received>) {
        Receiver::push(self, samples, |f| heard.push(f));
    }

    fn finish(&mut self, heard: &mut Vec<Received>) {
        Receiver::finish(self, |f| heard.push(f));
    }

    fn shift(heard: &mut Received, by: u64) {
        heard.start += by as f64;
    }
}

impl Stage for Adsb {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let repair = self.repair;
        let received =
            self.receivers.hear(frame, |rate| Receiver::new(&ReceiverConfig { sample_rate: rate, repair }))?;
        let rate = frame.payload.samples().map_or(1.0, |b| b.rate);
        let positions = self.positions.entry(frame.stream().index).or_default();
        let mut place = |received: &Received, time: f64| match &received.message.body {
            Body::Extended { what: Extended::Airborne { cpr, .. } | Extended::Surface { cpr, .. }, .. } => {
                positions.update(received.message.icao, *cpr, time)
            }
            _ => None,
        };
        let heard = received.into_iter().map(|received| {
            let time = received.start / rate;
            Heard { time, place: place(&received, time), received }
        });
        let value = serde_json::to_value(heard.collect::<Vec<_>>()).map_err(|e| StageError::new(e.to_string()))?;
        frame.annotations.extra.insert(KEY.into(), value);
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.receivers.forget(stream);
        self.positions.remove(&stream);
    }
}

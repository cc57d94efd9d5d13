//! `adsb`: reads Mode S and ADS-B, what aircraft say on 1090 MHz.

use super::{BuildContext, Built, Stage, StageConfig, StageError};
use crate::frame::Frame;
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

/// What its results stand under.
const KEY: &str = "adsb";

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

impl StageConfig for AdsbConfig {
    fn build(&self, _: &BuildContext) -> Result<Built, StageError> {
        let repair = match self.repair {
            Repairs::Off => Repair::Off,
            Repairs::Known => Repair::Known,
            Repairs::Any => Repair::Any,
        };
        Ok(Built::Stage(Box::new(move || Ok(Box::new(Adsb { repair, streams: HashMap::new() }) as Box<dyn Stage>))))
    }
}

/// One stream's receiver.
struct Listener {
    receiver: Receiver,
    rate: f64,
    /// Position in the stream of the receiver's first sample, and of the next one that it expects.
    origin: u64,
    next: u64,
    positions: Positions,
}

/// The stage at work.
struct Adsb {
    repair: Repair,
    streams: HashMap<u32, Listener>,
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

impl Stage for Adsb {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let block = frame.payload.samples().ok_or_else(|| StageError::new("the frame has no samples"))?.clone();
        let config = ReceiverConfig { sample_rate: block.rate, repair: self.repair };
        let mut heard = Vec::new();
        let index = frame.stream().index;
        // Samples of another rate are another stream.
        if self.streams.get(&index).is_some_and(|l| l.rate != block.rate) {
            self.streams.remove(&index);
        }
        let listener = match self.streams.entry(index) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => free.insert(Listener {
                receiver: Receiver::new(&config).map_err(|e| StageError::new(e.to_string()))?,
                rate: block.rate,
                origin: block.position,
                next: block.position,
                positions: Positions::default(),
            }),
        };
        let Listener { receiver, rate, origin, next, positions } = listener;
        if *next != block.position {
            // Samples are missing: no frame lies across the gap.
            receiver.finish(|f| heard.push(f));
            heard.iter_mut().for_each(|f| f.start += *origin as f64);
            *origin = block.position;
        }
        let before = heard.len();
        receiver.push(&block.samples, |f| heard.push(f));
        if block.last {
            receiver.finish(|f| heard.push(f));
        }
        heard[before..].iter_mut().for_each(|f| f.start += *origin as f64);
        *next = block.end();
        let heard: Vec<Heard> = heard
            .into_iter()
            .map(|received| {
                let time = received.start / *rate;
                let icao = received.message.icao;
                let place = match &received.message.body {
                    Body::Extended { what: Extended::Airborne { cpr, .. } | Extended::Surface { cpr, .. }, .. } => {
                        positions.update(icao, *cpr, time)
                    }
                    _ => None,
                };
                Heard { time, received, place }
            })
            .collect();
        let value = serde_json::to_value(&heard).map_err(|e| StageError::new(e.to_string()))?;
        frame.annotations.extra.insert(KEY.into(), value);
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }
}

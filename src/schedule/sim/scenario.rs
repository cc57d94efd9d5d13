//! What is simulated: devices, what runs on them, and how reality differs from what planners are told.

use super::feed::{Feed, Span};
use crate::frame::Nanos;
use crate::frame::clock::SECOND;
use crate::schedule::{Policy, Site};

/// How far real spans are from what the devices' models say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    /// Deviation of a batch's span, as a share of it: spans are spread log-normally around the model's.
    pub spread: f64,
    /// The part of that deviation which stays from batch to batch on a device: its share of the variance, and the time
    /// in which it fades to 1/e.
    pub drift: (f64, Nanos),
    /// Share of batches that are hit by something else on the machine, and how much longer they take.
    pub outliers: (f64, Nanos),
    /// Times when everything on every device takes so many times as long. Where spans overlap their factors multiply.
    pub slowdowns: Vec<(Span, f64)>,
    /// From the end of a batch to the sinks' queues.
    pub tail: Nanos,
    /// Times when the process stands still: all that is due meanwhile comes at once at the end. Ascending.
    pub frozen: Vec<Span>,
    /// How many times as long as by the model recorded batches took, by site: when they started, and the factor,
    /// ascending. A batch takes as many times as long as the one recorded last before it; nothing else above then
    /// applies.
    pub recorded: Vec<Vec<(Nanos, f64)>>,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Device {
    /// The stages that run on it, as indices into the scenario's.
    pub sites: Vec<usize>,
    /// Batches that run at once, at least 1.
    pub slots: usize,
    /// Times when it takes so many times as long, beside those that hold for every device.
    pub slowdowns: Vec<(Span, f64)>,
}

impl Device {
    /// A device that runs these stages.
    pub fn new(sites: impl IntoIterator<Item = usize>, slots: usize) -> Self {
        Self { sites: sites.into_iter().collect(), slots, slowdowns: Vec::new() }
    }
}

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The streams.
    pub feeds: Vec<Feed>,
    /// The stages: what planners are told of them, and what they really cost but for [`Truth`].
    pub sites: Vec<Site>,
    /// Which device runs which of them. Every stage that a stream passes is on one.
    pub devices: Vec<Device>,
    /// How reality differs from the model.
    pub truth: Truth,
    /// Who decides.
    pub policy: Policy,
    /// Streams that are not admitted, by index.
    pub refused: Vec<usize>,
    /// The rung that every stream starts on.
    pub rung: usize,
    /// How long frames are captured.
    pub length: Nanos,
    /// Latencies leave out frames captured earlier.
    pub warmup: Nanos,
    /// All that is random follows from it.
    pub seed: u64,
}

impl Scenario {
    /// `feeds` through one device with one slot, undisturbed.
    pub fn new(feeds: Vec<Feed>, sites: Vec<Site>, length: Nanos, seed: u64) -> Self {
        let devices = vec![Device::new(0..sites.len(), 1)];
        Self {
            feeds,
            sites,
            devices,
            truth: Truth::default(),
            policy: Policy::Framegate,
            refused: Vec::new(),
            rung: 0,
            length,
            warmup: SECOND.min(length / 4),
            seed,
        }
    }
}

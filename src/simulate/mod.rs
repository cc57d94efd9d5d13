//! `framegate simulate`: a pipeline under virtual time. The planner is the one that runs in production; streams, decoders
//! and devices are drawn from what they were measured to cost.
//!
//! * `costs`: what things cost, from the command line, a report, the pipeline file, or measured now.
//! * this module: a [`Model`] of a pipeline, which makes scenarios for [`schedule::sim`](crate::schedule::sim).
//! * `ways`: which stages a stream's frames pass, over which devices.
//! * `answer`: runs them: one run, a sweep, how many streams fit.
//! * `report`: the run report of a simulation. `text`: what is printed.

mod answer;
mod costs;
mod report;
mod text;
mod ways;

pub use answer::{Capacity, Summary, capacity, knee, load, run, sweep};
pub use costs::{Arrives, CostError, CostFlag, Costs, RecordedCosts, Told};
pub use report::{Run, report};
pub use text::{disturbances, print_runs, print_sweep, verdict};

use crate::config::{Admission, Lasts, LoadTable, Pipeline, Time};
use crate::engine::measure::{self, MeasuredStage};
use crate::frame::Nanos;
use crate::frame::clock::SECOND;
use crate::schedule::sim::{Device, Feed, Scenario, Span, Truth};
use crate::schedule::trace::{RecordedStream, Recording};
use crate::schedule::{Policy, Site, admission};
use std::sync::Arc;
use std::time::Duration;

/// Lateness of frames where nobody has said.
const JITTER: Duration = Duration::from_millis(2);
/// Deviation of batches where nobody has said.
const SPREAD: f64 = 0.05;
/// How long is simulated where nobody has said.
const LENGTH: Duration = Duration::from_secs(30);

/// A pipeline as it is simulated.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its name.
    pub name: Arc<str>,
    /// SHA-256 of its file.
    pub sha256: Option<String>,
    /// The stages on devices.
    pub stages: Vec<Arc<str>>,
    /// The rungs, best first.
    pub rungs: Vec<Arc<str>>,
    /// What is known of the stages.
    pub sites: Vec<Site>,
    /// The devices, and which stages run on each.
    pub devices: Vec<DeviceModel>,
    /// The pipeline's streams; more of them are these in turn.
    pub streams: Vec<StreamModel>,
    /// How many of them the pipeline has.
    pub admission: Admission,
    /// How batches really take.
    pub truth: Truth,
    /// Streams that were refused, where it is a recording.
    pub refused: Vec<usize>,
    /// What disturbs.
    pub load: LoadTable,
    /// How long it is, where it is a recording.
    pub length: Option<Nanos>,
    /// What could not be known or is not simulated, in words.
    pub notes: Vec<String>,
}

/// A device as it is simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceModel {
    /// Its name.
    pub name: String,
    /// Its stages, as indices into the model's, and its slots.
    pub device: Device,
}

/// A stream as it is simulated.
#[derive(Debug, Clone)]
pub struct StreamModel {
    /// Its id.
    pub id: Arc<str>,
    /// An undisturbed one.
    pub feed: Feed,
}

/// What to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Streams: the pipeline's own, in turn.
    pub streams: usize,
    /// Their rate, as a multiple of their own.
    pub rate: f64,
    /// Who decides.
    pub policy: Policy,
    /// All that is random follows from it.
    pub seed: u64,
    /// How long frames are captured.
    pub length: Nanos,
    /// Pauses, stalls, slowdowns and outliers happen.
    pub disturbed: bool,
    /// The only rung there is.
    pub held: Option<usize>,
    /// Streams beyond the capacity are treated as the file says; else all are taken.
    pub admission: bool,
}

impl Model {
    /// The model of a pipeline.
    ///
    /// # Errors
    /// There is nothing to simulate.
    pub fn new(pipeline: &Pipeline, costs: &Costs) -> Result<Self, CostError> {
        let mut notes = Vec::new();
        let devices: Vec<DeviceModel> =
            measure::devices(&costs.stages).into_iter().map(|stages| device(&costs.stages, stages)).collect();
        let measured = || costs.stages.iter().flat_map(|s| &s.ways);
        let tail = measured().map(|w| w.finish).max().unwrap_or(0);
        let spread = costs.spread.share.or(pipeline.load.spread).unwrap_or(SPREAD);
        let mut streams = Vec::new();
        for (source, arrives) in pipeline.sources.iter().zip(&costs.sources) {
            let id = source.id.clone();
            let Some(deadline) = source.deadline else {
                notes.push(format!("{id} has no deadline and is left out"));
                continue;
            };
            let (branches, forks) = ways::ways(pipeline, costs, &devices, &id);
            if branches.is_empty() {
                notes.push(format!("{id} passes no stage on a device and is left out"));
                continue;
            }
            let fps = arrives.fps.or(source.config.fps).unwrap_or(pipeline.fps).clamp(0.01, 1000.0);
            let deadline = deadline.as_nanos() as Nanos;
            let mut feed = Feed::steady(fps, deadline);
            // As many as the engine lets wait.
            feed.capacity = ((deadline as f64 * pipeline.fps / 1e9).ceil() as usize + 2).max(3);
            feed.decode = arrives.decode.unwrap_or(0);
            feed.decode_spread = arrives.spread;
            feed.priority = source.config.priority;
            feed.jitter = nanos(JITTER);
            if let Some(beat) = arrives.beat {
                // A frame of the simulation is only ever late: half of the jitter before the beat is its time.
                feed.period = beat.period.max(1);
                feed.phase = Some((beat.phase + beat.period).saturating_sub(beat.jitter / 2) % feed.period);
                feed.jitter = beat.jitter;
            }
            if let Some(jitter) = pipeline.load.jitter {
                feed.jitter = nanos(jitter.0);
            }
            (feed.branches, feed.forks) = (branches, forks);
            streams.push(StreamModel { id, feed });
        }
        if streams.is_empty() {
            let what = "no source has both a deadline and a stage on a device: nothing has to be on time here";
            return Err(CostError::Wrong(what.into()));
        }
        let unknown: Vec<&str> = pipeline
            .sources
            .iter()
            .zip(&costs.sources)
            .filter(|(s, c)| c.decode.is_none() && streams.iter().any(|m| m.id == s.id))
            .map(|(s, _)| &*s.id)
            .collect();
        if !unknown.is_empty() {
            let of = unknown.join(", ");
            notes.push(format!(
                "decoding {of} counts as 0 ms: nobody has said what it takes ([[cost]] source, or --costs)"
            ));
        }
        Ok(Self {
            name: pipeline.name.clone(),
            sha256: Some(pipeline.sha256.clone()),
            stages: costs.stages.iter().map(|s| s.id.clone()).collect(),
            rungs: pipeline.rungs.iter().map(|r| r.name.clone()).collect(),
            sites: costs.stages.iter().map(MeasuredStage::site).collect(),
            devices,
            streams,
            admission: pipeline.admission,
            truth: Truth { spread, drift: costs.spread.drift, tail, ..Truth::default() },
            refused: Vec::new(),
            load: pipeline.load.clone(),
            length: None,
            notes,
        })
    }

    /// The model of what was recorded: the same arrivals, and batches that take as long as those did.
    pub fn recorded(recording: &Recording) -> Self {
        let setup = &recording.setup;
        let mut sites = setup.sites.clone();
        for (site, &prepare) in sites.iter_mut().zip(&recording.prepare) {
            for variant in &mut site.variants {
                variant.cost.prepare = Default::default();
                variant.cost.prepare.observe(prepare);
            }
        }
        let device = Device::new(0..sites.len(), setup.slots);
        let streams = || recording.streams.iter().filter(|s| !s.branches.is_empty());
        let stream = |s: &RecordedStream| {
            let mut feed = Feed::steady(30.0, s.deadline.unwrap_or(SECOND));
            feed.deadline = s.deadline;
            feed.priority = s.priority;
            feed.capacity = s.capacity;
            feed.branches.clone_from(&s.branches);
            feed.recorded = Some(s.arrivals.clone().into());
            StreamModel { id: s.name.as_str().into(), feed }
        };
        Self {
            name: recording.header.pipeline.as_str().into(),
            sha256: None,
            stages: setup.stages.iter().map(|s| s.as_str().into()).collect(),
            rungs: setup.rungs.iter().map(|s| s.as_str().into()).collect(),
            devices: vec![DeviceModel { name: setup.device.clone(), device }],
            sites,
            streams: streams().map(stream).collect(),
            admission: Admission::Off,
            truth: Truth { tail: recording.tail, recorded: recording.spans.clone(), ..Truth::default() },
            refused: streams().enumerate().filter(|(_, s)| !s.admitted).map(|(i, _)| i).collect(),
            load: LoadTable::default(),
            length: Some(recording.length),
            notes: Vec::new(),
        }
    }

    /// The plain question: the pipeline's own streams at their own rate, with all that disturbs.
    pub fn ask(&self, policy: Policy) -> Ask {
        let length = self.load.length.map_or(LENGTH, |t| t.0).as_nanos() as Nanos;
        Ask {
            streams: self.streams.len(),
            rate: 1.0,
            policy,
            seed: self.load.seed.unwrap_or(1),
            length: self.length.unwrap_or(length),
            disturbed: true,
            held: None,
            admission: true,
        }
    }

    /// The names of `n` streams: the pipeline's, and more like them.
    pub fn names(&self, n: usize) -> Vec<String> {
        let own = self.streams.len().max(1);
        let name = |i: usize| {
            let id = self.streams.get(i % own).map_or("", |s| &*s.id);
            if i < own { id.to_owned() } else { format!("{id}-{}", i / own + 1) }
        };
        (0..n).map(name).collect()
    }

    /// How many of streams like the file's the machine serves at each rung, as the engine reckons when it starts.
    fn served(&self, rung: usize) -> usize {
        let Some(deadline) = self.streams.iter().filter_map(|s| s.feed.deadline).min() else { return 0 };
        let mut feed = Feed { deadline: Some(deadline), forks: Vec::new(), ..self.streams[0].feed.clone() };
        (feed.decode, feed.decode_spread) = (0, 0.0);
        let of = |DeviceModel { device, .. }: &DeviceModel| {
            let sites: Vec<Site> = device.sites.iter().map(|&s| self.sites[s].clone()).collect();
            feed.branches = vec![(0..sites.len()).collect()];
            admission::capacity(&sites, device.slots, &feed, rung)
        };
        self.devices.iter().map(of).min().unwrap_or(0)
    }

    /// The scenario of a question.
    pub fn scenario(&self, ask: &Ask) -> Scenario {
        let mut feeds = Vec::new();
        for i in 0..ask.streams {
            let mut feed = self.streams[i % self.streams.len()].feed.clone();
            feed.period = ((feed.period as f64 / ask.rate) as Nanos).max(1);
            // When others come, and at other rates, nobody knows.
            feed.phase = feed.phase.filter(|_| i < self.streams.len() && ask.rate == 1.0);
            feed.burst = self.load.burst.unwrap_or(1).max(1);
            if let Some(priorities) = self.load.priorities.as_ref().filter(|p| !p.is_empty()) {
                feed.priority = priorities[i % priorities.len()];
            }
            if ask.disturbed {
                let seed = |salt: u64| ask.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((i as u64 + 1) << 8) ^ salt;
                let gaps = |gap: &Option<crate::config::Gap>, default: [u64; 2], salt: u64| match gap {
                    Some(gap) => spans(gap.every, gap.lasts, default, ask.length, seed(salt)),
                    None => Vec::new(),
                };
                feed.pauses = gaps(&self.load.pause, [400, 500], 1);
                feed.stalls = gaps(&self.load.stall, [2000, 4000], 2);
            }
            feeds.push(feed);
        }
        let mut sites = self.sites.clone();
        if let Some(rung) = ask.held {
            for site in &mut sites {
                site.rungs = site.rungs.get(rung).copied().into_iter().collect();
            }
        }
        let mut scenario = Scenario::new(feeds, sites, ask.length, ask.seed);
        scenario.devices = self.devices.iter().map(|d| d.device.clone()).collect();
        scenario.policy = ask.policy;
        scenario.truth = self.truth.clone();
        scenario.refused.clone_from(&self.refused);
        if ask.disturbed {
            if let Some(slow) = &self.load.slowdown {
                let every = slow.every.unwrap_or(Time(Duration::from_secs(10)));
                for (n, device) in scenario.devices.iter_mut().enumerate() {
                    // Each device at times of its own.
                    let seed = ask.seed ^ 0x510e_527f ^ ((n as u64) << 32);
                    let when = spans(every, slow.lasts, [2000, 4000], ask.length, seed);
                    device.slowdowns = when.into_iter().map(|s| (s, slow.factor)).collect();
                }
            }
            if let Some(outlier) = &self.load.outlier {
                scenario.truth.outliers = (outlier.share, outlier.by.0.as_nanos() as Nanos);
            }
        }
        if ask.admission {
            self.admit(&mut scenario);
        }
        scenario
    }

    /// Takes, refuses or lowers streams as the engine does at start.
    fn admit(&self, scenario: &mut Scenario) {
        let best = if self.admission == Admission::Off { 0 } else { self.served(0) };
        // Where not even one stream fits, its frames are shed as infeasible.
        if best == 0 || best >= scenario.feeds.len() {
            return;
        }
        match self.admission {
            Admission::Off => {}
            Admission::Degrade => {
                let lowest = self.rungs.len().max(1) - 1;
                let fits = (1..=lowest).find(|&rung| self.served(rung) >= scenario.feeds.len());
                scenario.rung = fits.unwrap_or(lowest);
            }
            Admission::Refuse => {
                let priorities: Vec<i32> = scenario.feeds.iter().map(|f| f.priority).collect();
                let admitted = admission::admitted(&priorities, best);
                scenario.refused = (0..admitted.len()).filter(|&i| !admitted[i]).collect();
            }
        }
    }
}

fn nanos(span: Duration) -> Nanos {
    span.as_nanos() as Nanos
}

/// Something that happens about `every` so often.
fn spans(every: Time, lasts: Option<Lasts>, default: [u64; 2], length: Nanos, seed: u64) -> Vec<Span> {
    let (shortest, longest) = lasts.map_or(default.map(Duration::from_millis).into(), Lasts::range);
    let (shortest, longest) = (shortest.as_nanos() as Nanos, longest.as_nanos() as Nanos);
    let every = (every.0.as_nanos() as Nanos).max(1);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut at = rng.u64(0..every);
    let mut out = Vec::new();
    while at < length {
        let to = at + rng.u64(shortest..=longest.max(shortest));
        out.push(Span { from: at, to });
        at = to + rng.u64(every / 2..=every + every / 2);
    }
    out
}

/// A device that runs these stages, by their places among all.
fn device(stages: &[MeasuredStage], places: Vec<usize>) -> DeviceModel {
    let ways = || places.iter().flat_map(|&n| &stages[n].ways);
    let name = ways().next().map_or("cpu", |w| &w.device).to_owned();
    let slots = ways().map(|w| w.slots).max().unwrap_or(1);
    DeviceModel { name, device: Device::new(places, slots) }
}

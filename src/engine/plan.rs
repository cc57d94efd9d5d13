//! What a pipeline becomes before any thread runs: its stages built, and the devices with what runs on each.

use super::EngineError;
use super::device::{self, Later, Opened, Ways};
use super::threads::Placement;
use super::worker::Factory;
use crate::cache::Cache;
use crate::config::{AtRung, Pipeline, StageEntry};
use crate::frame::Nanos;
use crate::frame::exchange::Exchange;
use crate::schedule::RungPlan;
use crate::schedule::sim::Feed;
use crate::stage::{BatchStage, BuildContext, Built, StageError};
use std::sync::Arc;
use std::time::Duration;

/// All calibration of one device together takes about this long.
const CALIBRATION: Duration = Duration::from_millis(2500);

/// What all components of a pipeline share. It stays over a reload.
#[derive(Clone, Default)]
pub struct Commons {
    /// Where its streams meet.
    pub exchange: Arc<Exchange>,
    /// What was made before.
    pub cache: Arc<Cache>,
}

/// What a component of this pipeline may know when it is built.
pub(super) fn context(pipeline: &Pipeline, commons: &Commons, id: &Arc<str>) -> BuildContext {
    BuildContext {
        id: id.clone(),
        search: pipeline.search.clone(),
        fps: pipeline.fps,
        live: pipeline.sources.iter().any(|s| s.deadline.is_some()),
        threads: if pipeline.cpus.is_empty() {
            std::thread::available_parallelism().map_or(1, usize::from)
        } else {
            pipeline.cpus.len()
        },
        exchange: commons.exchange.clone(),
        cache: commons.cache.clone(),
        ..BuildContext::default()
    }
}

/// A node to be.
pub(super) struct Planned {
    pub(super) id: Arc<str>,
    pub(super) from: Vec<Arc<str>>,
    pub(super) placement: Placement,
    pub(super) plan: Plan,
}

pub(super) enum Plan {
    Worker { factories: Vec<Arc<Factory>>, rungs: Vec<AtRung>, workers: usize },
    Device { ways: Ways },
}

/// A device of the pipeline and the stages on it: indices into the nodes to be.
pub(super) struct DevicePlan {
    pub(super) key: String,
    pub(super) slots: usize,
    pub(super) nodes: Vec<usize>,
}

/// A stage on its device, ready to start.
pub(super) struct DeviceStage {
    pub(super) node: usize,
    pub(super) opened: Opened,
}

pub(super) fn placement(pipeline: &Pipeline, entry: &StageEntry) -> Placement {
    let cpus = if entry.cpus.is_empty() { pipeline.cpus.clone() } else { entry.cpus.clone() };
    Placement { cpus, realtime: pipeline.realtime }
}

/// Builds the ways of running a stage that its rungs ask for.
pub(super) fn plan(pipeline: &Pipeline, commons: &Commons, entry: &StageEntry) -> Result<Plan, EngineError> {
    let context = context(pipeline, commons, &entry.id);
    let at: Vec<AtRung> = (0..pipeline.rungs.len().max(1)).map(|rung| entry.at(rung)).collect();
    // Only the ways that some rung takes, numbered anew.
    let mut used: Vec<usize> = at.iter().filter_map(|a| a.variant).collect();
    used.sort_unstable();
    used.dedup();
    let at: Vec<AtRung> = at
        .into_iter()
        .map(|a| AtRung { variant: a.variant.and_then(|v| used.iter().position(|&u| u == v)), every: a.every })
        .collect();
    // What only lazy rungs run.
    let waits = |n: usize| {
        let lazy = |rung: usize| pipeline.rungs.get(rung).is_some_and(|r| r.lazy);
        (0..at.len()).filter(|&r| at[r].variant == Some(n)).all(lazy)
    };
    let (mut factories, mut variants) = (Vec::new(), Vec::<Arc<dyn BatchStage>>::new());
    let mut laters = Vec::new();
    for (n, way) in used.into_iter().enumerate() {
        // The stage's best way says what it runs on.
        let later = way.checked_sub(1).and_then(|v| entry.variants.get(v)).filter(|_| waits(n));
        if let (Some(like), Some(config)) = (variants.first(), later) {
            let (config, context) = (config.clone(), context.clone());
            let later = Arc::new(Later::new(like.clone(), Box::new(move || config.build(&context))));
            laters.push(Some(later.clone()));
            variants.push(later);
            continue;
        }
        match entry.way(way).build(&context).map_err(|e| unusable(&entry.id, &e))? {
            Built::Stage(factory) => factories.push(Arc::<Factory>::from(factory)),
            Built::Batch(stage) => {
                laters.push(None);
                variants.push(stage);
            }
        }
    }
    if variants.is_empty() {
        return Ok(Plan::Worker { factories, rungs: at, workers: entry.workers.max(1) });
    }
    let rungs = at.iter().map(|a| RungPlan { variant: a.variant, every: a.every }).collect();
    Ok(Plan::Device { ways: Ways { variants, later: laters, rungs } })
}

/// The devices and what runs on each.
pub(super) fn devices(planned: &[Planned]) -> Result<Vec<DevicePlan>, EngineError> {
    let mut devices: Vec<DevicePlan> = Vec::new();
    for (n, p) in planned.iter().enumerate() {
        let Plan::Device { ways } = &p.plan else { continue };
        let Some(first) = ways.variants.first() else { continue };
        let key = device::shares(first.device());
        if let Some(other) = ways.variants.iter().find(|v| device::shares(v.device()) != key) {
            return Err(EngineError::Unusable(format!(
                "stage `{}`: its rungs run on different devices ({} and {}); give it a `device` that takes all of them",
                p.id,
                first.device(),
                other.device()
            )));
        }
        match devices.iter_mut().find(|d| d.key == key) {
            Some(device) => device.nodes.push(n),
            None => devices.push(DevicePlan { key: key.to_owned(), slots: 1, nodes: vec![n] }),
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for device in &mut devices {
        let stages = || {
            device.nodes.iter().filter_map(|&n| match &planned[n].plan {
                Plan::Device { ways } => ways.variants.first(),
                Plan::Worker { .. } => None,
            })
        };
        let asked = stages().map(|s| s.slots()).max().unwrap_or(1).max(1);
        // Stages that leave cores idle may run beside each other.
        let beside = match device.key.as_str() {
            "cpu" => (cores / stages().map(|s| s.threads()).max().unwrap_or(1).max(1)).min(device.nodes.len()),
            _ => 1,
        };
        device.slots = asked.max(beside);
    }
    Ok(devices)
}

/// Opens and measures what runs on a device.
pub(super) fn open_device(device: &DevicePlan, planned: &[Planned]) -> Result<Vec<DeviceStage>, EngineError> {
    let mut out = Vec::new();
    for &node in &device.nodes {
        let Planned { id, plan: Plan::Device { ways }, .. } = &planned[node] else { continue };
        let patience = CALIBRATION / device.nodes.len() as u32;
        let opened = device::open(ways, device.slots, patience).map_err(|e| unusable(id, &e))?;
        for (n, (stage, variant)) in ways.variants.iter().zip(&opened.site.variants).enumerate() {
            if !ways.is_loaded(n) {
                continue;
            }
            tracing::info!(
                stage = &**id,
                device = stage.device(),
                slots = device.slots,
                batch_sizes = ?stage.batch_sizes(),
                "ready: a batch of b takes {:.2} ms + b · {:.2} ms",
                crate::frame::clock::millis(variant.cost.alpha()),
                crate::frame::clock::millis(variant.cost.beta()),
            );
        }
        out.push(DeviceStage { node, opened });
    }
    Ok(out)
}

/// For each node whether no device stage lies before it.
pub(super) fn entries(planned: &[Planned]) -> Vec<bool> {
    // Stages come after those they take frames from.
    let mut behind: Vec<&str> = Vec::new();
    let mut entries = Vec::new();
    for p in planned {
        let entry = !p.from.iter().any(|f| behind.contains(&&**f));
        if !entry || matches!(p.plan, Plan::Device { .. }) {
            behind.push(&p.id);
        }
        entries.push(entry);
    }
    entries
}

/// A stream like those of the pipeline; `None` where no frame has a deadline.
pub(super) fn feed(pipeline: &Pipeline) -> Option<Feed> {
    let deadline = pipeline.sources.iter().filter_map(|s| s.deadline).min()?;
    Some(Feed::steady(pipeline.fps, deadline.as_nanos() as Nanos))
}

/// How many streams all devices together can serve at each rung; `None` for those that are not loaded yet.
pub(super) fn capacity(pipeline: &Pipeline, devices: &[DevicePlan], opened: &[Vec<DeviceStage>]) -> Vec<Option<usize>> {
    let Some(feed) = feed(pipeline).filter(|_| !devices.is_empty()) else { return Vec::new() };
    let lazy = |rung: usize| pipeline.rungs.get(rung).is_some_and(|r| r.lazy);
    let at = |rung: usize| {
        let of = |(device, stages): (&DevicePlan, &Vec<DeviceStage>)| {
            let sites: Vec<_> = stages.iter().map(|s| s.opened.site.clone()).collect();
            device::serves(&sites, device.slots, &feed, rung)
        };
        devices.iter().zip(opened).map(of).min().unwrap_or(0)
    };
    (0..pipeline.rungs.len().max(1)).map(|rung| (!lazy(rung)).then(|| at(rung))).collect()
}

pub(super) fn unusable(id: &str, error: &StageError) -> EngineError {
    EngineError::Unusable(format!("stage `{id}`: {error}"))
}

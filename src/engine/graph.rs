//! The graph of one pipeline: its nodes' threads, its sinks' threads, and the rings between them.

use super::device::{self, Dispatcher, Executor, Finisher};
use super::inbox::{Inbox, InboxHandle, RingSpec};
use super::outlet::{Outlet, Shared, SinkPort, Tail};
use super::supervisor::Supervisor;
use super::threads::{self, Placement};
use super::worker::{Factory, Worker};
use super::{EngineError, sinks};
use crate::config::{Pipeline, StageEntry};
use crate::frame::{Frame, Nanos, Stream};
use crate::ring::{self, Sender, WhenFull};
use crate::schedule::{Cost, Planner};
use crate::stage::{BatchStage, Budget, BuildContext, Built, Stage, StageError};
use crate::telemetry::{Health, RingMeter, StreamMeter, Telemetry};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// How much of a live stream a ring holds: a burst after a camera's pause, not more.
const RING_SPAN: Duration = Duration::from_millis(200);
/// Frames that a ring holds at most.
const RING_ITEMS: usize = 16;
/// Frames that a ring holds at least.
const RING_MIN: usize = 4;

/// A built node, not yet running.
struct Node {
    id: Arc<str>,
    from: Vec<Arc<str>>,
    /// One for each worker, in step with `outlets`.
    inboxes: Vec<Arc<InboxHandle>>,
    outlets: Vec<Arc<Outlet>>,
    /// Frames of one stream that the node itself holds.
    holds: usize,
    /// An offline ring holds at least a batch.
    batch: usize,
}

/// A running graph.
pub struct Graph {
    nodes: Vec<Node>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    telemetry: Arc<Telemetry>,
    fps: f64,
}

/// What a graph is built with.
pub struct Parts<'a> {
    /// The pipeline file.
    pub pipeline: &'a Pipeline,
    /// Sinks that are open.
    pub sinks: &'a sinks::Sinks,
    /// The process's measurements.
    pub telemetry: &'a Arc<Telemetry>,
    /// Watches the threads.
    pub health: &'a Arc<Health>,
    /// Who hears of what goes wrong.
    pub supervisor: &'a Arc<Supervisor>,
}

/// A node for frames that no stage takes: straight from the source to its sinks.
struct Relay;

impl Stage for Relay {
    fn process(&mut self, _: &mut Frame, _: Budget) -> Result<(), StageError> {
        Ok(())
    }
}

/// Ends a relay's name; no id in a pipeline file can.
const RELAY: &str = ":relay";

fn relay_of(source: &str) -> String {
    format!("{source}{RELAY}")
}

/// What a component of this pipeline may know when it is built.
pub fn context(pipeline: &Pipeline, id: &Arc<str>) -> BuildContext {
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
    }
}

/// A node to be: its id, what it takes frames from, where its threads run, what it is.
type Planned = (Arc<str>, Vec<Arc<str>>, Placement, Plan);

enum Plan {
    Worker { factory: Arc<Factory>, workers: usize },
    Device { stage: Arc<dyn BatchStage> },
}

impl Graph {
    /// Builds every stage (models are loaded and warmed up here) and starts their threads. No stream flows yet.
    ///
    /// # Errors
    /// What cannot be built.
    pub fn start(parts: &Parts) -> Result<Self, EngineError> {
        let pipeline = parts.pipeline;
        let mut plans: Vec<Planned> = Vec::new();
        for entry in &pipeline.stages {
            plans.push((entry.id.clone(), entry.from.clone(), placement(pipeline, entry), plan(pipeline, entry)?));
        }
        for source in &pipeline.sources {
            let taken = pipeline.stages.iter().any(|s| s.from.contains(&source.id));
            let sunk = pipeline.sinks.iter().any(|s| s.from.contains(&source.id));
            if sunk || !taken {
                let factory: Arc<Factory> = Arc::new(|| Ok(Box::new(Relay) as Box<dyn Stage>));
                let placement = Placement { cpus: pipeline.cpus.clone(), realtime: pipeline.realtime };
                let id = relay_of(&source.id).into();
                plans.push((id, vec![source.id.clone()], placement, Plan::Worker { factory, workers: 1 }));
            }
        }

        // Every part that can fail comes first, so that a reload that fails leaves no thread behind.
        let mut ready = Vec::new();
        for (id, _, _, plan) in &plans {
            ready.push(match plan {
                Plan::Worker { factory, workers } => {
                    let stages: Result<Vec<_>, _> = (0..*workers).map(|_| factory()).collect();
                    Ready::Worker(stages.map_err(|e| unusable(id, &e))?)
                }
                Plan::Device { stage } => open_device(id, stage)?,
            });
        }

        let mut delivered = Vec::new();
        let mut tails = Vec::new();
        for (_, _, _, plan) in &plans {
            let (tx, rx) = crossbeam_channel::bounded(1024);
            let is_device = matches!(plan, Plan::Device { .. });
            tails.push(Tail::new(is_device.then_some(tx)));
            delivered.push(is_device.then_some(rx));
        }
        let shared = Arc::new(Shared {
            pipeline: pipeline.name.clone(),
            rungs: pipeline.rungs.iter().map(|r| r.name.clone()).collect(),
            tails,
            aborting: AtomicBool::new(false),
        });
        let mut graph = Self {
            nodes: Vec::new(),
            shared,
            threads: Vec::new(),
            telemetry: parts.telemetry.clone(),
            fps: pipeline.fps,
        };
        let taken: Vec<Arc<str>> = plans.iter().flat_map(|p| p.1.clone()).collect();
        for (((number, (id, from, placement, plan)), ready), delivered) in
            plans.into_iter().enumerate().zip(ready).zip(delivered)
        {
            let ports = parts.sinks.ports_from(id.strip_suffix(RELAY).unwrap_or(&id));
            let seals = !taken.contains(&id) || !ports.is_empty();
            let site = Site { number: number as u16, id, from, placement, seals, ports };
            match (plan, ready) {
                (Plan::Worker { factory, .. }, Ready::Worker(stages)) => {
                    graph.start_workers(parts, site, &factory, stages)?;
                }
                (Plan::Device { stage }, Ready::Device { executors, memory, cost }) => {
                    let Some(delivered) = delivered else { continue };
                    graph.start_device(parts, site, &stage, executors, memory, cost, delivered)?;
                }
                _ => {}
            }
        }
        Ok(graph)
    }

    fn start_workers(
        &mut self,
        parts: &Parts,
        site: Site,
        factory: &Arc<Factory>,
        stages: Vec<Box<dyn Stage>>,
    ) -> Result<(), EngineError> {
        let meter = parts.telemetry.stage(&site.id, "cpu");
        let (mut inboxes, mut outlets) = (Vec::new(), Vec::new());
        for (n, stage) in stages.into_iter().enumerate() {
            let (inbox, handle) = Inbox::new();
            let outlet = self.outlet(&site);
            let name = if n == 0 { site.id.to_string() } else { format!("{}/{n}", site.id) };
            let worker = Worker {
                id: site.id.clone(),
                node: site.number,
                stage,
                factory: factory.clone(),
                inbox,
                outlet: outlet.clone(),
                shared: self.shared.clone(),
                meter: meter.clone(),
                pulse: parts.health.pulse(name.as_str()),
                supervisor: parts.supervisor.clone(),
            };
            self.threads.push(threads::spawn(&name, &site.placement, move || worker.run()).map_err(no_thread)?);
            inboxes.push(handle);
            outlets.push(outlet);
        }
        self.nodes.push(Node { id: site.id, from: site.from, inboxes, outlets, holds: 1, batch: 1 });
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn start_device(
        &mut self,
        parts: &Parts,
        site: Site,
        stage: &Arc<dyn BatchStage>,
        executors: Vec<Box<dyn crate::stage::Execute>>,
        memory: Vec<crate::stage::Batch>,
        cost: Cost,
        delivered: crossbeam_channel::Receiver<Nanos>,
    ) -> Result<(), EngineError> {
        let deadline = parts.pipeline.sources.iter().filter_map(|s| s.deadline).max();
        let limits = device::limits(&**stage, deadline.map(|d| d.as_nanos() as Nanos), parts.pipeline.fps);
        let (in_flight, batch) = (memory.len(), stage.batch_sizes().last().copied().unwrap_or(1));
        let holds = limits.per_stream + in_flight * batch.min(8);
        let (inbox, handle) = Inbox::new();
        let outlet = self.outlet(&site);
        let (jobs_tx, jobs_rx) = crossbeam_channel::bounded(in_flight);
        let (events_tx, events_rx) = crossbeam_channel::unbounded();
        let (done_tx, done_rx) = crossbeam_channel::unbounded();
        let (spare_tx, spare_rx) = crossbeam_channel::bounded(in_flight);
        for batch in memory {
            // The channel holds exactly this many.
            let _ = spare_tx.send((batch, Vec::new()));
        }
        let pulse = |role: &str| parts.health.pulse(format!("{}:{role}", site.id).as_str());
        let dispatcher = Dispatcher {
            id: site.id.clone(),
            node: site.number,
            stage: stage.clone(),
            inbox,
            shared: self.shared.clone(),
            planner: Planner::new(limits, cost),
            jobs: jobs_tx,
            done: done_tx.clone(),
            events: events_rx,
            spare: spare_rx,
            delivered,
            telemetry: parts.telemetry.clone(),
            pulse: pulse("plan"),
            supervisor: parts.supervisor.clone(),
            ending: Vec::new(),
        };
        let finisher = Finisher {
            id: site.id.clone(),
            stage: stage.clone(),
            done: done_rx,
            spare: spare_tx,
            bell: handle.bell().clone(),
            outlet: outlet.clone(),
            meter: parts.telemetry.stage(&site.id, stage.device()),
            pulse: pulse("finish"),
            supervisor: parts.supervisor.clone(),
        };
        let mut spawn = |role: &str, body: Box<dyn FnOnce() + Send>| -> Result<(), EngineError> {
            let name = format!("{}:{role}", site.id);
            self.threads.push(threads::spawn(&name, &site.placement, body).map_err(no_thread)?);
            Ok(())
        };
        for execute in executors {
            let executor = Executor {
                id: site.id.clone(),
                stage: stage.clone(),
                execute,
                jobs: jobs_rx.clone(),
                events: events_tx.clone(),
                bell: handle.bell().clone(),
                done: done_tx.clone(),
                meter: parts.telemetry.stage(&site.id, stage.device()),
                pulse: pulse("run"),
                supervisor: parts.supervisor.clone(),
            };
            spawn("run", Box::new(move || executor.run()))?;
        }
        spawn("finish", Box::new(move || finisher.run()))?;
        spawn("plan", Box::new(move || dispatcher.run()))?;
        self.nodes.push(Node {
            id: site.id,
            from: site.from,
            inboxes: vec![handle],
            outlets: vec![outlet],
            holds,
            batch,
        });
        Ok(())
    }

    fn outlet(&self, site: &Site) -> Arc<Outlet> {
        Arc::new(Outlet::new(self.shared.clone(), site.number, site.seals, site.ports.clone()))
    }

    /// Lets a stream flow: opens its rings through the whole graph and gives back those that its source fills, with the
    /// number of frames that the graph may hold of it at once.
    pub fn open(&self, stream: &Arc<Stream>, fast: bool, meter: &Arc<StreamMeter>) -> (Vec<Sender<Frame>>, usize) {
        let mut senders: HashMap<&Arc<str>, Sender<Frame>> = HashMap::new();
        let (mut entry, mut held) = (Vec::new(), 0);
        // Which nodes the stream reaches, and over how many edges.
        let mut edges: HashMap<&Arc<str>, usize> = HashMap::new();
        for node in &self.nodes {
            let n = node.from.iter().filter(|f| **f == stream.id || edges.get(f).is_some_and(|&n| n > 0)).count();
            edges.insert(&node.id, n);
        }
        for node in self.nodes.iter().rev() {
            let copies = edges.get(&node.id).copied().unwrap_or(0);
            if copies == 0 {
                continue;
            }
            let worker = stream.index as usize % node.inboxes.len();
            let next = self
                .nodes
                .iter()
                .filter(|n| n.from.contains(&node.id))
                .filter_map(|n| senders.get(&n.id).cloned())
                .collect();
            node.outlets[worker].open(stream.index, meter.clone(), next);
            let capacity = if fast {
                node.batch.max(RING_MIN)
            } else {
                ring::capacity(RING_SPAN, RING_ITEMS, self.fps).max(RING_MIN)
            };
            let when_full = if fast { WhenFull::Block } else { WhenFull::EvictOldest };
            let spec = RingSpec { capacity: capacity * copies, when_full, by_count: fast, copies };
            held += spec.capacity + node.holds;
            let ring: Arc<RingMeter> = self.telemetry.ring(&format!("{}/{}", node.id, stream.id));
            let sender = node.inboxes[worker].open(stream, &spec, ring);
            if node.from.contains(&stream.id) {
                entry.push(sender.clone());
            }
            senders.insert(&node.id, sender);
        }
        (entry, held)
    }

    /// No more streams will be opened: every node ends when the frames it has are done.
    pub fn close(&mut self) {
        for node in &mut self.nodes {
            // A node's own thread keeps its outlet; ours has to go so that the rings behind it end after the last frame.
            node.outlets.clear();
            node.inboxes.iter().for_each(|i| i.close());
        }
    }

    /// Whatever still waits is given up.
    pub fn abort(&self) {
        self.shared.aborting.store(true, Relaxed);
        self.nodes.iter().flat_map(|n| &n.inboxes).for_each(|i| i.abort());
    }

    /// Whether all threads have ended.
    pub fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

/// Where a node stands.
struct Site {
    number: u16,
    id: Arc<str>,
    from: Vec<Arc<str>>,
    placement: Placement,
    seals: bool,
    ports: Vec<SinkPort>,
}

/// What a node runs with, opened and warm.
enum Ready {
    Worker(Vec<Box<dyn Stage>>),
    Device { executors: Vec<Box<dyn crate::stage::Execute>>, memory: Vec<crate::stage::Batch>, cost: Cost },
}

fn placement(pipeline: &Pipeline, entry: &StageEntry) -> Placement {
    let cpus = if entry.cpus.is_empty() { pipeline.cpus.clone() } else { entry.cpus.clone() };
    Placement { cpus, realtime: pipeline.realtime }
}

fn plan(pipeline: &Pipeline, entry: &StageEntry) -> Result<Plan, EngineError> {
    match entry.config.build(&context(pipeline, &entry.id)).map_err(|e| unusable(&entry.id, &e))? {
        Built::Stage(factory) => Ok(Plan::Worker { factory: factory.into(), workers: entry.workers.max(1) }),
        Built::Batch(stage) => Ok(Plan::Device { stage }),
    }
}

fn open_device(id: &Arc<str>, stage: &Arc<dyn BatchStage>) -> Result<Ready, EngineError> {
    let mut executors = Vec::new();
    for _ in 0..stage.slots().max(1) {
        executors.push(stage.open().map_err(|e| unusable(id, &e))?);
    }
    let mut memory: Vec<_> = (0..device::batches_in_flight(&**stage)).map(|_| stage.buffers()).collect();
    let cost = match (executors.first_mut(), memory.first_mut()) {
        (Some(executor), Some(batch)) => {
            device::calibrate(&**stage, &mut **executor, batch).map_err(|e| unusable(id, &e))?
        }
        _ => Cost::fit(&[]),
    };
    tracing::info!(
        stage = &**id,
        device = stage.device(),
        slots = executors.len(),
        batch_sizes = ?stage.batch_sizes(),
        "ready: a batch of b takes {:.2} ms + b · {:.2} ms",
        crate::frame::clock::millis(cost.alpha()),
        crate::frame::clock::millis(cost.beta()),
    );
    Ok(Ready::Device { executors, memory, cost })
}

fn unusable(id: &str, error: &StageError) -> EngineError {
    EngineError::Unusable(format!("stage `{id}`: {error}"))
}

fn no_thread(error: std::io::Error) -> EngineError {
    EngineError::Failed(format!("the system gives no more threads: {error}"))
}

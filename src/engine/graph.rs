//! The graph of one pipeline: its nodes' threads, its sinks' threads, and the rings between them.

use super::device::{self, Crew, Delivery, Dispatcher, Finisher, Link, Opened, Opener, Post, Sessions, Threads, Ways};
use super::inbox::{Inbox, InboxHandle, RingSpec, Terms};
use super::outlet::{OnDevice, Outlet, Shared, SinkPort};
use super::plan::{self, Commons, DevicePlan, Plan, Planned};
use super::supervisor::Supervisor;
use super::threads::{self, Placement};
use super::worker::{Factory, Worker};
use super::{EngineError, sinks};
use crate::config::{AtRung, Pipeline};
use crate::frame::{Frame, Nanos, Stream};
use crate::ring::{self, Bell, Sender, WhenFull};
use crate::schedule::trace::{Setup, Taped};
use crate::stage::{Stage, StageError};
use crate::telemetry::{Health, Pulse, RingMeter, StreamMeter, Telemetry};
use crossbeam_channel::Receiver;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How much of a live stream a ring holds: a burst after a camera's pause, not more.
const RING_SPAN: Duration = Duration::from_millis(200);
/// Frames that a ring holds at most.
const RING_ITEMS: usize = 16;
/// Frames that a ring holds at least.
const RING_MIN: usize = 4;

/// A built node, not yet running.
struct Node {
    number: u16,
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
    threads: Threads,
    telemetry: Arc<Telemetry>,
    fps: f64,
    capacity: Vec<Option<usize>>,
    opener: Arc<Opener>,
}

/// What a graph is built with.
pub struct Parts<'a> {
    /// The pipeline file.
    pub pipeline: &'a Pipeline,
    /// What its components share.
    pub commons: &'a Commons,
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
    fn process(&mut self, _: &mut Frame) -> Result<(), StageError> {
        Ok(())
    }
}

/// Ends a relay's name; no id in a pipeline file can.
const RELAY: &str = ":relay";

fn relay_of(source: &str) -> String {
    format!("{source}{RELAY}")
}

impl Graph {
    /// Builds every stage (models are loaded and warmed up here) and starts their threads. No stream flows yet.
    ///
    /// # Errors
    /// What cannot be built.
    pub fn start(parts: &Parts) -> Result<Self, EngineError> {
        let pipeline = parts.pipeline;
        let mut planned: Vec<Planned> = Vec::new();
        for entry in &pipeline.stages {
            planned.push(Planned {
                id: entry.id.clone(),
                from: entry.from.clone(),
                placement: plan::placement(pipeline, entry),
                plan: plan::plan(pipeline, parts.commons, entry)?,
            });
        }
        for source in &pipeline.sources {
            let taken = pipeline.stages.iter().any(|s| s.from.contains(&source.id));
            let sunk = pipeline.sinks.iter().any(|s| s.from.contains(&source.id));
            if sunk || !taken {
                let factory: Arc<Factory> = Arc::new(|| Ok(Box::new(Relay) as Box<dyn Stage>));
                planned.push(Planned {
                    id: relay_of(&source.id).into(),
                    from: vec![source.id.clone()],
                    placement: Placement { cpus: pipeline.cpus.clone(), realtime: pipeline.realtime },
                    plan: Plan::Worker { factories: vec![factory], rungs: Vec::new(), workers: 1 },
                });
            }
        }

        // Every part that can fail comes first, so that a reload that fails leaves no thread behind.
        let mut instances = Vec::new();
        for p in &planned {
            let mut made = Vec::new();
            if let Plan::Worker { factories, workers, .. } = &p.plan {
                for _ in 0..*workers {
                    let stages: Result<Vec<_>, _> = factories.iter().map(|f| f()).collect();
                    made.push(stages.map_err(|e| plan::unusable(&p.id, &e))?);
                }
            }
            instances.push(made);
        }
        let devices = plan::devices(&planned)?;
        let mut opened = Vec::new();
        for device in &devices {
            opened.push(plan::open_device(device, &planned)?);
        }

        let mut on_devices = Vec::new();
        let mut deliveries = Vec::new();
        let channels: Vec<_> = devices.iter().map(|_| crossbeam_channel::bounded(1024)).collect();
        for (n, p) in planned.iter().enumerate() {
            let crops = matches!(&p.plan, Plan::Device { ways } if ways.on_crops());
            on_devices.push(devices.iter().zip(&channels).enumerate().find_map(|(device, (d, (tx, _)))| {
                let site = d.nodes.iter().position(|&node| node == n)?;
                Some(OnDevice { device, site, crops, delivered: tx.clone() })
            }));
        }
        deliveries.extend(channels.into_iter().map(|(_, rx)| rx));
        let shared = Arc::new(Shared {
            pipeline: pipeline.name.clone(),
            rungs: pipeline.rungs.iter().map(|r| r.name.clone()).collect(),
            devices: on_devices,
            aborting: AtomicBool::new(false),
        });
        let entries = plan::entries(&planned);
        let capacity = plan::capacity(pipeline, &devices, &opened);
        let threads = Threads::default();
        let opener = Arc::new(Opener::new(
            shared.rungs.clone(),
            plan::feed(pipeline),
            Placement { cpus: pipeline.cpus.clone(), realtime: None },
            parts.telemetry.clone(),
            threads.clone(),
        ));
        let mut graph = Self {
            nodes: Vec::new(),
            shared,
            threads,
            telemetry: parts.telemetry.clone(),
            fps: pipeline.fps,
            capacity,
            opener,
        };
        let taken: Vec<Arc<str>> = planned.iter().flat_map(|p| p.from.clone()).collect();
        let mut sites: Vec<Option<Site>> = planned
            .iter()
            .enumerate()
            .map(|(number, p)| {
                let ports = parts.sinks.ports_from(p.id.strip_suffix(RELAY).unwrap_or(&p.id));
                Some(Site {
                    number: number as u16,
                    id: p.id.clone(),
                    from: p.from.clone(),
                    placement: p.placement.clone(),
                    seals: !taken.contains(&p.id) || !ports.is_empty(),
                    ports,
                    entry: entries[number],
                })
            })
            .collect();
        let mut ways: Vec<Option<Ways>> = Vec::new();
        for (n, (p, stages)) in planned.into_iter().zip(instances).enumerate() {
            match p.plan {
                Plan::Worker { factories, rungs, .. } => {
                    ways.push(None);
                    if let Some(site) = sites[n].take() {
                        graph.start_workers(parts, site, &factories, &rungs, stages)?;
                    }
                }
                Plan::Device { ways: w } => ways.push(Some(w)),
            }
        }
        for ((device, stages), delivered) in devices.into_iter().zip(opened).zip(deliveries) {
            let stages = stages
                .into_iter()
                .filter_map(|s| Some((sites[s.node].take()?, ways[s.node].take()?, s.opened)))
                .collect();
            graph.start_device(parts, &device, stages, delivered)?;
        }
        graph.nodes.sort_by_key(|n| n.number);
        Ok(graph)
    }

    fn start_workers(
        &mut self,
        parts: &Parts,
        site: Site,
        factories: &[Arc<Factory>],
        rungs: &[AtRung],
        instances: Vec<Vec<Box<dyn Stage>>>,
    ) -> Result<(), EngineError> {
        let meter = parts.telemetry.stage(&site.id, "cpu");
        let (mut inboxes, mut outlets) = (Vec::new(), Vec::new());
        for (n, stages) in instances.into_iter().enumerate() {
            let (bell, heard) = Bell::new();
            let (inbox, handle) = Inbox::new(bell);
            let outlet = self.outlet(&site);
            let name = if n == 0 { site.id.to_string() } else { format!("{}/{n}", site.id) };
            let worker = Worker {
                id: site.id.clone(),
                stages,
                factories: factories.to_vec(),
                rungs: rungs.to_vec(),
                inbox,
                heard,
                outlet: outlet.clone(),
                meter: meter.clone(),
                pulse: parts.health.pulse(name.as_str()),
                supervisor: parts.supervisor.clone(),
            };
            self.spawn(&name, &site.placement, move || worker.run())?;
            inboxes.push(handle);
            outlets.push(outlet);
        }
        self.nodes.push(site.node(inboxes, outlets, 1, 1));
        Ok(())
    }

    fn spawn(
        &self,
        name: &str,
        placement: &Placement,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), EngineError> {
        let thread = threads::spawn(name, placement, body).map_err(no_thread)?;
        self.threads.lock().push((thread, None));
        Ok(())
    }

    fn start_device(
        &mut self,
        parts: &Parts,
        device: &DevicePlan,
        stages: Vec<(Site, Ways, Opened)>,
        delivered: Receiver<Delivery>,
    ) -> Result<(), EngineError> {
        let slots = device.slots;
        let deadline = parts.pipeline.sources.iter().filter_map(|s| s.deadline).max().map(|d| d.as_nanos() as Nanos);
        let (bell, heard) = Bell::new();
        // One for each slot and one prepared ahead.
        let (jobs_tx, jobs_rx) = crossbeam_channel::bounded(slots + 2);
        let (events_tx, events_rx) = crossbeam_channel::unbounded();
        let name: Arc<str> = match &stages[..] {
            [(site, _, _)] => site.id.clone(),
            [(_, ways, _), ..] => ways.device().into(),
            [] => device.key.as_str().into(),
        };
        let placement = stages.first().map(|(site, _, _)| site.placement.clone()).unwrap_or_default();
        let (mut posts, mut planned, mut finishers) = (Vec::new(), Vec::new(), Vec::new());
        let mut sessions: Vec<Vec<Sessions>> = (0..slots).map(|_| Vec::new()).collect();
        let (mut ids, mut all_ways, mut done, mut meters) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (site, ways, opened) in stages {
            let (inbox, handle) = Inbox::new(bell.clone());
            let outlet = self.outlet(&site);
            let (done_tx, done_rx) = crossbeam_channel::unbounded();
            let batches = device::batches(slots) * ways.variants.len();
            let (spare_tx, spare_rx) = crossbeam_channel::bounded(batches + slots);
            let meter = parts.telemetry.stage(&site.id, ways.device());
            let waits =
                (device::waits(&opened.site, deadline, parts.pipeline.fps), device::waits(&opened.site, None, 0.0));
            let batch = waits.1;
            for (slot, session) in sessions.iter_mut().zip(opened.sessions) {
                slot.push(session);
            }
            finishers.push(Finisher {
                id: site.id.clone(),
                ways: ways.clone(),
                done: done_rx,
                spare: spare_tx,
                bell: bell.clone(),
                outlet: outlet.clone(),
                meter: meter.clone(),
                pulse: parts.health.pulse(format!("{}:finish", site.id).as_str()),
                supervisor: parts.supervisor.clone(),
            });
            ids.push(site.id.clone());
            all_ways.push(ways.clone());
            done.push(done_tx.clone());
            meters.push(meter.clone());
            posts.push(Post {
                id: site.id.clone(),
                ways,
                inbox,
                done: done_tx,
                meter,
                spare: spare_rx,
                memory: opened.memory,
                entry: site.entry,
                waits,
                number: 0,
                ending: Vec::new(),
            });
            planned.push(opened.site);
            let holds = waits.0 + (slots + 2) * batch.min(8);
            self.nodes.push(site.node(vec![handle], vec![outlet], holds, batch));
        }
        let crew = Arc::new(Crew {
            name: name.clone(),
            ids,
            ways: all_ways,
            jobs: jobs_rx,
            events: events_tx,
            bell,
            done,
            meters,
            health: parts.health.clone(),
            supervisor: parts.supervisor.clone(),
            placement: placement.clone(),
            threads: self.threads.clone(),
            late: Default::default(),
        });
        for session in sessions {
            crew.start(session).map_err(no_thread)?;
        }
        for finisher in finishers {
            self.spawn(&format!("{}:finish", finisher.id), &placement, move || finisher.run())?;
        }
        let setup = Setup {
            device: device.key.clone(),
            slots,
            policy: parts.pipeline.policy,
            stages: posts.iter().map(|p| p.id.to_string()).collect(),
            rungs: self.shared.rungs.iter().map(ToString::to_string).collect(),
            shut: (0..parts.pipeline.rungs.len()).filter(|&r| parts.pipeline.rungs[r].lazy).collect(),
            sites: planned,
        };
        self.opener.links(Link {
            crew: Arc::downgrade(&crew),
            slots,
            ids: crew.ids.clone(),
            ways: crew.ways.clone(),
            sites: setup.sites.clone(),
        });
        let dispatcher = Dispatcher {
            posts,
            heard,
            planner: Taped::new(setup, parts.telemetry.tape()),
            slots,
            jobs: jobs_tx,
            events: events_rx,
            delivered,
            crew,
            telemetry: parts.telemetry.clone(),
            pulse: parts.health.pulse(format!("{name}:plan").as_str()),
            supervisor: parts.supervisor.clone(),
            opener: self.opener.clone(),
            rungs: self.shared.rungs.clone(),
            state: Default::default(),
        };
        self.spawn(&format!("{name}:plan"), &placement, move || dispatcher.run())
    }

    fn outlet(&self, site: &Site) -> Arc<Outlet> {
        Arc::new(Outlet::new(self.shared.clone(), site.number, site.seals, site.ports.clone()))
    }

    /// Lets a stream flow: opens its rings through the whole graph and gives back those that its source fills, with the
    /// number of frames that the graph may hold of it at once.
    pub fn open(
        &self,
        stream: &Arc<Stream>,
        fast: bool,
        meter: &Arc<StreamMeter>,
        terms: Terms,
    ) -> (Vec<Sender<Frame>>, usize) {
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
            let spec = RingSpec { capacity: capacity * copies, when_full, by_count: fast, copies, terms };
            held += spec.capacity + node.holds;
            let ring: Arc<RingMeter> = self.telemetry.ring(&format!("{}/{}", node.id, stream.id));
            let sender = node.inboxes[worker].open(stream, &spec, ring, meter.clone());
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

    /// Whether all threads have ended, but for those that hang and were given up.
    pub fn is_done(&self) -> bool {
        self.threads.lock().iter().all(|(t, pulse)| t.is_finished() || pulse.as_ref().is_some_and(Pulse::is_abandoned))
    }

    /// How many streams the devices can serve at each rung, best first; `None` for rungs that are not loaded yet. Empty
    /// where no frame has a deadline or no stage runs on a device.
    pub fn capacity(&self) -> &[Option<usize>] {
        &self.capacity
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
    /// No device stage lies before it.
    entry: bool,
}

impl Site {
    fn node(self, inboxes: Vec<Arc<InboxHandle>>, outlets: Vec<Arc<Outlet>>, holds: usize, batch: usize) -> Node {
        Node { number: self.number, id: self.id, from: self.from, inboxes, outlets, holds, batch }
    }
}

fn no_thread(error: std::io::Error) -> EngineError {
    EngineError::Failed(format!("the system gives no more threads: {error}"))
}

//! The engine: builds the graph of a pipeline, owns its threads, runs it, reloads it and stops it.
//!
//! ```text
//! source ─ring─▶ dispatcher ─▶ executor ─▶ finisher ─ring─▶ worker ─▶ … ─queue─▶ sink
//!                (plan, prepare)  (run)    (decode)         (track, filter)
//! ```
//!
//! Lock order, where more than one is held: an intake's rings, then an outlet's lanes, then an inbox's list.

mod device;
mod graph;
mod inbox;
pub mod measure;
mod outlet;
mod plan;
mod sinks;
mod streams;
mod supervisor;
mod threads;
mod worker;

use crate::cache::Cache;
use crate::config::{Admission, Pipeline, SourceEntry};
use crate::frame::exchange::Exchange;
use crate::frame::{Nanos, Signal, Stream};
use crate::schedule::admission;
use crate::source::Intake;
use crate::store::Archives;
use crate::telemetry::{Health, StreamMeter, Telemetry};
use graph::{Graph, Parts};
use inbox::Terms;
use plan::Commons;
use sinks::Sinks;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use supervisor::Supervisor;

/// Why the engine cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A source or a model cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What the engine is doing.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// Frames flow, or may flow.
    Running,
    /// Every source has ended and all their frames are done.
    Finished,
}

/// A running pipeline.
pub struct Engine {
    pipeline: Pipeline,
    commons: Commons,
    telemetry: Arc<Telemetry>,
    health: Arc<Health>,
    supervisor: Arc<Supervisor>,
    graph: Graph,
    sinks: Sinks,
    sources: Vec<streams::Running>,
    /// Graphs, sources and sinks of before a reload, which end by themselves.
    leaving: Vec<Leaving>,
    next_index: u32,
    draining: bool,
    /// Sources that could not be used, with the reason.
    broken: Vec<String>,
}

struct Leaving {
    graph: Graph,
    sources: Vec<streams::Running>,
}

impl Engine {
    /// Builds and starts a pipeline: models are loaded and warm, sinks open and sources running when this returns.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn start(pipeline: Pipeline, telemetry: Arc<Telemetry>, health: Arc<Health>) -> Result<Self, EngineError> {
        let supervisor = Arc::new(Supervisor::default());
        describe(&pipeline, &telemetry);
        let cache = Cache::open(&pipeline.cache).map_err(|e| EngineError::Failed(format!("[cache]: {e}")))?;
        let commons = Commons { cache: Arc::new(cache), ..Commons::default() };
        telemetry.cache(commons.cache.clone());
        expect(&pipeline, &commons.exchange);
        let sinks = Sinks::open(&pipeline, &commons, &telemetry, None)?;
        let parts = Parts {
            pipeline: &pipeline,
            commons: &commons,
            sinks: &sinks,
            telemetry: &telemetry,
            health: &health,
            supervisor: &supervisor,
        };
        let graph = Graph::start(&parts)?;
        let mut engine = Self {
            commons,
            telemetry,
            health,
            supervisor,
            graph,
            sinks,
            sources: Vec::new(),
            leaving: Vec::new(),
            next_index: 0,
            draining: false,
            broken: Vec::new(),
            pipeline,
        };
        if (0..engine.pipeline.sources.len()).all(|i| streams::is_fast(&engine.pipeline, &engine.pipeline.sources[i])) {
            // Offline there is no camera to settle down, and a short file may be over within a second.
            engine.telemetry.set_warmup(Duration::ZERO);
        }
        // The report's warm-up counts from here: everything that takes frames is ready.
        engine.telemetry.ready();
        let terms = engine.terms();
        for (i, terms) in terms.into_iter().enumerate() {
            let stream = engine.new_stream(i);
            engine.start_source(i, stream, terms)?;
        }
        Ok(engine)
    }

    /// On which terms each source of the file is taken, by what the devices can serve.
    fn terms(&self) -> Vec<Terms> {
        let pipeline = &self.pipeline;
        let capacity = self.graph.capacity();
        let names: Vec<&str> = pipeline.rungs.iter().map(|r| &*r.name).collect();
        for (name, n) in names.iter().zip(capacity) {
            match *n {
                Some(n) => {
                    self.telemetry.capacity(name, n);
                    tracing::info!(rung = name, streams = n, fps = pipeline.fps, "capacity");
                }
                None => tracing::info!(rung = name, "lazy: loaded and measured when it is needed"),
            }
        }
        let mut terms = vec![Terms { admitted: true, rung: 0 }; pipeline.sources.len()];
        let live: Vec<usize> = (0..terms.len()).filter(|&i| pipeline.sources[i].deadline.is_some()).collect();
        // Where not even one stream fits, that is said of each stream, and its frames are shed as infeasible.
        let Some(best) = capacity.first().copied().flatten().filter(|&n| n > 0) else { return terms };
        match pipeline.admission {
            Admission::Off => {}
            Admission::Degrade => {
                // Of the rungs that are loaded.
                let fits = capacity.iter().position(|n| n.is_some_and(|n| n >= live.len()));
                let rung = fits.or(capacity.iter().rposition(Option::is_some)).unwrap_or(0);
                if rung > 0 {
                    let (streams, name) = (live.len(), names[rung]);
                    tracing::warn!(streams, best, rung = name, "more streams than fit at the best quality");
                }
                live.iter().for_each(|&i| terms[i].rung = rung);
            }
            Admission::Refuse => {
                let priorities: Vec<i32> = live.iter().map(|&i| pipeline.sources[i].config.priority).collect();
                for (&i, admitted) in live.iter().zip(admission::admitted(&priorities, best)) {
                    terms[i].admitted = admitted;
                    if !admitted {
                        tracing::error!(
                            stream = &*pipeline.sources[i].id,
                            "refused: this machine serves {best} of the {} streams; its frames are shed (`admission`). \
                             `admission = \"degrade\"` lets quality give way instead, \"off\" checks nothing",
                            live.len()
                        );
                    }
                }
            }
        }
        terms
    }

    fn new_stream(&mut self, i: usize) -> Arc<Stream> {
        let entry = &self.pipeline.sources[i];
        let stream = Arc::new(Stream::new(
            entry.id.clone(),
            self.next_index,
            entry.deadline.map(|d| d.as_nanos() as Nanos),
            entry.config.priority,
            entry.config.required,
        ));
        self.next_index += 1;
        if let Some(witness) = self.telemetry.witness() {
            stream.watch(witness);
        }
        stream
    }

    fn start_source(&mut self, i: usize, stream: Arc<Stream>, terms: Terms) -> Result<(), EngineError> {
        let entry = &self.pipeline.sources[i];
        let fast = streams::is_fast(&self.pipeline, entry);
        let meter: Arc<StreamMeter> = self.telemetry.stream(&stream);
        let (rings, held) = self.graph.open(&stream, fast, &meter, terms);
        let intake = Arc::new(Intake::new(stream.clone(), rings, held));
        match streams::Running::start(&self.pipeline, &self.commons.exchange, entry, intake, meter) {
            Ok(running) => self.sources.push(running),
            Err(reason) => {
                stream.set_signal(Signal::Broken(reason.clone()));
                tracing::error!(stream = &*stream.id, reason, "source given up");
                self.broken.push(reason);
            }
        }
        Ok(())
    }

    /// The pipeline as it runs.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The reading ends of its stores, by the ids of their sinks, in the file's order.
    pub fn archives(&self) -> Archives {
        self.sinks.archives()
    }

    /// Looks after everything; to be called a few times a second.
    ///
    /// # Errors
    /// What makes going on pointless: a stage that fails again and again, or no source that can be used.
    pub fn tick(&mut self) -> Result<State, EngineError> {
        if let Some(reason) = self.supervisor.fatal() {
            return Err(EngineError::Failed(reason));
        }
        self.leaving.retain(|l| !(l.graph.is_done() && l.sources.iter().all(streams::Running::is_done)));
        if !self.sources.iter().all(streams::Running::is_done) {
            return Ok(State::Running);
        }
        if !self.draining {
            self.draining = true;
            self.graph.close();
        }
        if !self.graph.is_done() {
            return Ok(State::Running);
        }
        let mut broken = std::mem::take(&mut self.broken);
        for source in &self.sources {
            if let Signal::Broken(reason) = source.stream.signal() {
                broken.push(format!("source `{}`: {reason}", source.stream.id));
            }
        }
        match broken.into_iter().next() {
            Some(reason) => Err(EngineError::Unusable(reason)),
            None => Ok(State::Finished),
        }
    }

    /// Runs another version of the file: builds what is new beside the old, then moves the sources that have not changed
    /// over to it, between two of their frames. On any error everything stays as it is.
    ///
    /// # Errors
    /// What of the new file cannot be used; the old pipeline goes on.
    pub fn reload(&mut self, pipeline: Pipeline) -> Result<(), EngineError> {
        if pipeline.cache != self.pipeline.cache {
            tracing::warn!("[cache] is only read at start: restart for another cache");
        }
        expect(&pipeline, &self.commons.exchange);
        let sinks = Sinks::open(&pipeline, &self.commons, &self.telemetry, Some(&self.sinks))?;
        let parts = Parts {
            pipeline: &pipeline,
            commons: &self.commons,
            sinks: &sinks,
            telemetry: &self.telemetry,
            health: &self.health,
            supervisor: &self.supervisor,
        };
        let graph = Graph::start(&parts)?;
        describe(&pipeline, &self.telemetry);
        let mut old_graph = std::mem::replace(&mut self.graph, graph);
        self.sinks = sinks;
        self.pipeline = pipeline;
        let mut before: HashMap<Arc<str>, streams::Running> =
            std::mem::take(&mut self.sources).into_iter().map(|s| (s.stream.id.clone(), s)).collect();
        for (i, terms) in self.terms().into_iter().enumerate() {
            let entry: &SourceEntry = &self.pipeline.sources[i];
            match before.remove(&entry.id) {
                Some(running) if running.settings == streams::settings(entry) => {
                    let (rings, _) = self.graph.open(&running.stream, running.fast, &running.meter, terms);
                    running.intake.redirect(rings);
                    self.sources.push(running);
                }
                other => {
                    let stream = self.new_stream(i);
                    if let Some(old) = other {
                        // The numbers go on where they were, so that no two results carry the same.
                        stream.continue_from(old.stream.next_seq());
                        old.intake.stop();
                        before.insert(old.stream.id.clone(), old);
                    }
                    self.start_source(i, stream, terms)?;
                }
            }
        }
        for removed in before.values() {
            removed.intake.stop();
        }
        old_graph.close();
        self.leaving.push(Leaving { graph: old_graph, sources: before.into_values().collect() });
        Ok(())
    }

    /// Stops the sources, lets what is under way finish, flushes the sinks; all within `grace`. What has not ended by
    /// then is abandoned. Says whether everything ended.
    pub fn stop(mut self, grace: Duration) -> bool {
        let begun = Instant::now();
        self.supervisor.stopping();
        for source in self.sources.iter().chain(self.leaving.iter().flat_map(|l| &l.sources)) {
            source.intake.stop();
            source.intake.close();
        }
        self.graph.close();
        let left = |share: f64| grace.mul_f64(share).saturating_sub(begun.elapsed());
        let graphs_done = |e: &Self| e.graph.is_done() && e.leaving.iter().all(|l| l.graph.is_done());
        // Most of the time is for finishing, some for giving the rest up, the last part for the sinks.
        if !until(left(0.5), || graphs_done(&self)) {
            tracing::warn!("giving up what still waits");
            self.graph.abort();
            self.leaving.iter().for_each(|l| l.graph.abort());
        }
        let mut clean = until(left(0.75), || graphs_done(&self));
        clean &= until(left(0.8), || self.sources.iter().all(streams::Running::is_done));
        let Self { graph, sinks, leaving, sources, .. } = self;
        drop((graph, leaving, sources));
        let sinks: Vec<Arc<JoinHandle<()>>> = sinks.close();
        clean &= until(left(0.97), || sinks.iter().all(|t| t.is_finished()));
        if !clean {
            tracing::warn!("not everything ended in time; what is left is abandoned");
        }
        clean
    }
}

/// Notes for metrics and report which pipeline runs.
/// Sources that take from stages are told of before any stage gives.
fn expect(pipeline: &Pipeline, exchange: &Exchange) {
    pipeline.sources.iter().filter_map(|s| s.config.meets()).for_each(|place| exchange.expect(place));
}

fn describe(pipeline: &Pipeline, telemetry: &Telemetry) {
    telemetry.set_rungs(&pipeline.rungs.iter().map(|r| r.name.clone()).collect::<Vec<_>>());
    telemetry.note_pipeline(&pipeline.sha256);
    for stage in &pipeline.stages {
        let context = plan::context(pipeline, &Commons::default(), &stage.id);
        for (name, sha256) in (0..=stage.variants.len()).flat_map(|way| stage.way(way).models(&context)) {
            telemetry.note_model(&name, &sha256);
        }
    }
}

/// Looks until `done`, `patience` at most. The threads that end have no common event to wait for.
fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

//! A node that runs batches on a device: the dispatcher that plans and prepares, an executor for each slot of the
//! device, and the finisher. Preprocess of the next batch, inference of this one and postprocess of the one before
//! overlap.

use super::inbox::{Change, Inbox};
use super::outlet::{Outlet, Shared};
use super::supervisor::{Supervisor, panic_message};
use crate::frame::{FailReason, Frame, Nanos, Outcome, Stream, clock, clock::SECOND};
use crate::ring::Bell;
use crate::schedule::{Cost, Lane, Limits, Next, Plan, Planner, Waiting};
use crate::stage::{Batch, BatchStage, Execute, StageError};
use crate::telemetry::{Pulse, StageMeter, Telemetry};
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// A piece of work that takes longer than this hangs.
pub const HANG: Nanos = 10 * SECOND;

/// A batch on its way from the dispatcher to an executor.
pub struct Job {
    /// Batches are finished in this order.
    number: u64,
    batch: Batch,
    frames: Vec<Frame>,
    /// A probe has no frames and runs one place, only to be measured.
    places: usize,
    prepared_at: Nanos,
    expected: Nanos,
}

/// What reaches the finisher.
pub enum Done {
    /// A batch, from an executor.
    Batch {
        /// The batch.
        job: Job,
        /// When it started.
        started: Nanos,
        /// When it ended.
        ended: Nanos,
        /// Why it has no outputs, if it has none.
        failed: Option<FailReason>,
    },
    /// Every frame of this stream is in a batch before this one; from the dispatcher.
    StreamEnded {
        /// Its place among the batches.
        number: u64,
        /// The stream's index.
        stream: u32,
    },
}

impl Done {
    fn number(&self) -> u64 {
        match self {
            Self::Batch { job, .. } => job.number,
            Self::StreamEnded { number, .. } => *number,
        }
    }
}

/// What an executor tells the dispatcher.
pub enum Event {
    /// It has taken a batch up and expects to be done then.
    Started {
        /// The batch's number.
        number: u64,
        /// Expected end.
        until: Nanos,
    },
    /// It is done with a batch.
    Ended {
        /// The batch's number.
        number: u64,
        /// Places run.
        places: usize,
        /// Time it took; `None` if it failed.
        span: Option<Nanos>,
    },
}

/// Measures what batches cost on a freshly opened executor: the median of a few runs for each size.
///
/// # Errors
/// The device fails on an empty batch.
pub fn calibrate(stage: &dyn BatchStage, executor: &mut dyn Execute, batch: &mut Batch) -> Result<Cost, StageError> {
    let budget = Duration::from_millis(2500).as_nanos() as Nanos / stage.batch_sizes().len().max(1) as Nanos;
    let mut points = Vec::new();
    for &size in stage.batch_sizes() {
        let (begun, mut spans) = (clock::now(), Vec::new());
        while spans.len() < 3 || (spans.len() < 15 && clock::now() - begun < budget / 4) {
            let start = clock::now();
            executor.execute(batch, size)?;
            spans.push(clock::now() - start);
            if clock::now() - begun > budget {
                break;
            }
        }
        spans.sort_unstable();
        points.push((size, spans[spans.len() / 2]));
    }
    Ok(Cost::fit(&points))
}

/// The thread that decides.
pub struct Dispatcher {
    /// The stage's id.
    pub id: Arc<str>,
    /// Its number in the graph.
    pub node: u16,
    /// The stage.
    pub stage: Arc<dyn BatchStage>,
    /// What it reads.
    pub inbox: Inbox,
    /// What the graph's nodes share.
    pub shared: Arc<Shared>,
    /// Decides.
    pub planner: Planner<Frame>,
    /// To the executors.
    pub jobs: Sender<Job>,
    /// To the finisher: the ends of streams.
    pub done: Sender<Done>,
    /// From the executors.
    pub events: Receiver<Event>,
    /// Memory of batches that are done.
    pub spare: Receiver<(Batch, Vec<Frame>)>,
    /// How late this stage's frames were delivered.
    pub delivered: Receiver<Nanos>,
    /// The process's measurements.
    pub telemetry: Arc<Telemetry>,
    /// Its heartbeat.
    pub pulse: Pulse,
    /// Who hears of errors.
    pub supervisor: Arc<Supervisor>,
    /// Streams whose end the finisher has not been told yet.
    pub ending: Vec<u32>,
}

/// What the planner may keep waiting of one stream: what can still be on time, and a full batch.
pub fn limits(stage: &dyn BatchStage, deadline: Option<Nanos>, fps: f64) -> Limits {
    let largest = stage.batch_sizes().last().copied().unwrap_or(1);
    let in_time = deadline.map_or(largest, |d| (d as f64 * fps / 1e9).ceil() as usize + 2);
    Limits {
        batch_sizes: stage.batch_sizes().to_vec(),
        per_stream: in_time.max(if deadline.is_none() { largest } else { 3 }),
    }
}

/// Batches between the dispatcher and the finisher at most: one for each slot, one prepared ahead, one being finished.
pub fn batches_in_flight(stage: &dyn BatchStage) -> usize {
    stage.slots().max(1) + 2
}

impl Dispatcher {
    /// Runs until no more frames can come and all are done.
    pub fn run(mut self) {
        let slots = self.stage.slots().max(1);
        let mut plan = Plan::default();
        let mut spare: Vec<(Batch, Vec<Frame>)> = Vec::new();
        let mut running: VecDeque<(u64, Nanos)> = VecDeque::new();
        let (mut number, mut in_flight, mut wake) = (0u64, 0usize, None::<Nanos>);
        loop {
            let patience = wake.map_or(200 * SECOND / 1000, |t| t.saturating_sub(clock::now()));
            self.inbox.wait(Duration::from_nanos(patience));
            wake = None;
            self.pulse.begin(clock::now(), HANG);
            while let Ok(event) = self.events.try_recv() {
                match event {
                    Event::Started { number, until } => {
                        if let Some(batch) = running.iter_mut().find(|r| r.0 == number) {
                            batch.1 = until;
                        }
                    }
                    Event::Ended { number, places, span } => {
                        in_flight -= 1;
                        running.retain(|r| r.0 != number);
                        if let Some(span) = span {
                            self.planner.cost_mut().observe(places, span);
                            self.planner.judge_again();
                            self.telemetry.slowdown(self.stage.device(), self.planner.cost().slowdown());
                        }
                    }
                }
            }
            while let Ok(late) = self.delivered.try_recv() {
                self.planner.delivered(late);
            }
            spare.extend(self.spare.try_iter());
            self.planner.cost_mut().tail = self.shared.tails[usize::from(self.node)].estimate();
            self.take_in();
            while in_flight <= slots {
                let Some((batch, frames)) = spare.pop() else { break };
                let now = clock::now();
                let free_at = if in_flight < slots { now } else { running.iter().map(|r| r.1).min().unwrap_or(now) };
                let next = self.planner.plan(now, free_at, &mut plan);
                for (frame, reason) in plan.shed.drain(..) {
                    frame.ticket.mark(Outcome::Shed(reason));
                }
                let job = match next {
                    Next::Run => self.prepare(number, batch, frames, &mut plan, now, free_at),
                    Next::Probe => Ok(Job { number, batch, frames, places: 1, prepared_at: now, expected: 0 }),
                    Next::WaitUntil(at) => {
                        wake = Some(at);
                        Err((batch, frames))
                    }
                    Next::Idle => Err((batch, frames)),
                };
                match job {
                    Ok(job) => {
                        in_flight += 1;
                        running.push_back((number, now.max(free_at) + job.expected));
                        number += 1;
                        if self.jobs.send(job).is_err() {
                            // The executors have given up, and have said why.
                            return;
                        }
                    }
                    Err(memory) => {
                        spare.push(memory);
                        // A batch whose frames all failed to prepare leaves others waiting: look again at once.
                        if next != Next::Run {
                            break;
                        }
                    }
                }
                // Room was made: what the rings hold may come in.
                self.take_in();
            }
            let planner = &self.planner;
            for stream in self.ending.extract_if(.., |s| !planner.is_open(*s)) {
                // The finisher outlives the dispatcher.
                let _ = self.done.send(Done::StreamEnded { number, stream });
                number += 1;
            }
            self.pulse.end();
            if self.ending.is_empty() && in_flight == 0 && self.planner.waiting() == 0 && self.inbox.is_done() {
                return;
            }
        }
    }

    /// Moves frames from the rings to the planner.
    fn take_in(&mut self) {
        self.inbox.refresh();
        loop {
            while let Some(change) = self.inbox.change() {
                match change {
                    Change::Opened { stream, by_count } => {
                        self.planner.open(Lane {
                            stream: stream.index,
                            priority: stream.priority,
                            deadline: stream.deadline,
                            by_count,
                        });
                        self.judge(&stream);
                    }
                    Change::Ended(stream) => self.end(stream.index),
                }
            }
            let planner = &self.planner;
            // A frame with a deadline always comes in and may push out an older one; offline frames wait for room.
            let wanted = |s: &Stream| s.deadline.is_some() || planner.has_room(s.index);
            let Some(frame) = self.inbox.next(wanted) else { break };
            if self.inbox.is_aborting() {
                frame.ticket.mark(Outcome::Failed(FailReason::Stopped));
                continue;
            }
            let waiting = Waiting { captured: frame.ticket.captured, deadline: frame.ticket.deadline() };
            if let Some(out) = self.planner.arrive(frame.stream().index, clock::now(), waiting, frame) {
                out.ticket.mark(Outcome::Evicted);
            }
        }
        if self.inbox.is_aborting() {
            for frame in self.planner.abandon() {
                frame.ticket.mark(Outcome::Failed(FailReason::Stopped));
            }
        }
    }

    fn end(&mut self, stream: u32) {
        self.planner.end(stream);
        self.ending.push(stream);
    }

    /// Says at once, and by how much, where a stream can never be on time.
    fn judge(&mut self, stream: &Stream) {
        self.planner.judge();
        if let Some(over) = stream.deadline.and_then(|d| self.planner.excess(d).map(|over| (d, over))) {
            let (deadline, over) = (clock::millis(over.0), clock::millis(over.1));
            tracing::warn!(
                stage = &*self.id,
                stream = &*stream.id,
                "infeasible: a frame takes {:.1} ms even alone on an idle device, {over:.1} ms more than its deadline of \
                 {deadline:.1} ms; every frame of the stream is shed until that changes",
                deadline + over,
            );
        }
    }

    /// Reads the planned frames into the batch. Gives the memory back where none of them could be read.
    fn prepare(
        &mut self,
        number: u64,
        mut batch: Batch,
        mut frames: Vec<Frame>,
        plan: &mut Plan<Frame>,
        now: Nanos,
        free_at: Nanos,
    ) -> Result<Job, (Batch, Vec<Frame>)> {
        let begun = clock::now();
        let mut before = begun;
        for mut frame in plan.run.drain(..) {
            let index = frames.len();
            let stage = &self.stage;
            let result = catch_unwind(AssertUnwindSafe(|| stage.prepare(&frame, &mut batch, index)));
            let after = clock::now();
            match result {
                Ok(Ok(())) => {
                    self.planner.cost_mut().prepare.observe(after - before);
                    // Waiting for a busy device is not the engine's doing.
                    let since = frame.passed.nodes().last().map_or(frame.arrival.decoded, |n| n.1);
                    frame.work.queued += free_at.min(now).saturating_sub(since).min(now.saturating_sub(since));
                    frames.push(frame);
                }
                Ok(Err(error)) => {
                    self.supervisor.frame_failed(&self.id, &frame, &error);
                    frame.ticket.mark(Outcome::Failed(FailReason::Stage));
                }
                Err(panic) => {
                    let error =
                        StageError::new(format!("panicked while reading the frame: {}", panic_message(&*panic)));
                    self.supervisor.frame_failed(&self.id, &frame, &error);
                    frame.ticket.mark(Outcome::Failed(FailReason::Panic));
                }
            }
            before = after;
        }
        if frames.is_empty() {
            return Err((batch, frames));
        }
        let prepared_at = clock::now();
        for frame in &mut frames {
            frame.work.prepare += prepared_at - begun;
        }
        let places = frames.len();
        Ok(Job { number, batch, frames, places, prepared_at, expected: self.planner.cost().expected(places) })
    }
}

/// One slot of the device.
pub struct Executor {
    /// The stage's id.
    pub id: Arc<str>,
    /// The stage.
    pub stage: Arc<dyn BatchStage>,
    /// Its session.
    pub execute: Box<dyn Execute>,
    /// From the dispatcher.
    pub jobs: Receiver<Job>,
    /// To the dispatcher.
    pub events: Sender<Event>,
    /// The dispatcher's bell.
    pub bell: Bell,
    /// To the finisher.
    pub done: Sender<Done>,
    /// The stage's measurements.
    pub meter: Arc<StageMeter>,
    /// Its heartbeat.
    pub pulse: Pulse,
    /// Who hears of errors and panics.
    pub supervisor: Arc<Supervisor>,
}

impl Executor {
    /// Runs until the dispatcher has left.
    pub fn run(mut self) {
        while let Ok(mut job) = self.jobs.recv() {
            let (number, places) = (job.number, job.places);
            let started = clock::now();
            // The dispatcher may have left already at the end; the batch is still run.
            let _ = self.events.send(Event::Started { number, until: started + job.expected });
            self.bell.ring();
            self.pulse.begin(started, HANG);
            let result = catch_unwind(AssertUnwindSafe(|| self.execute.execute(&mut job.batch, places)));
            let ended = clock::now();
            self.pulse.end();
            let failed = match &result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => {
                    if let Some(frame) = job.frames.first() {
                        self.supervisor.frame_failed(&self.id, frame, error);
                    }
                    Some(FailReason::Stage)
                }
                Err(_) => Some(FailReason::Panic),
            };
            let span = failed.is_none().then_some(ended - started);
            let sent = self.done.send(Done::Batch { job, started, ended, failed });
            let _ = self.events.send(Event::Ended { number, places, span });
            self.bell.ring();
            if sent.is_err() {
                return;
            }
            if let Err(panic) = result {
                self.meter.panicked();
                let stage = &self.stage;
                match self.supervisor.after_panic(&self.id, &*panic, || stage.open()) {
                    Some(execute) => self.execute = execute,
                    None => return,
                }
            }
        }
    }
}

/// Turns outputs into annotations, in the order of the batches, and passes the frames on.
pub struct Finisher {
    /// The stage's id.
    pub id: Arc<str>,
    /// The stage.
    pub stage: Arc<dyn BatchStage>,
    /// From the executors.
    pub done: Receiver<Done>,
    /// Back to the dispatcher.
    pub spare: Sender<(Batch, Vec<Frame>)>,
    /// The dispatcher's bell.
    pub bell: Bell,
    /// Where the frames go.
    pub outlet: Arc<Outlet>,
    /// Its measurements.
    pub meter: Arc<StageMeter>,
    /// Its heartbeat.
    pub pulse: Pulse,
    /// Who hears of errors.
    pub supervisor: Arc<Supervisor>,
}

impl Finisher {
    /// Runs until the executors have left.
    pub fn run(self) {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        while let Ok(done) = self.done.recv() {
            waiting.insert(done.number(), done);
            while let Some(done) = waiting.remove(&next) {
                next += 1;
                self.finish(done);
            }
        }
        // An executor that gave up leaves a gap in the numbers; what came after it is still finished.
        for done in waiting.into_values() {
            self.finish(done);
        }
    }

    fn finish(&self, done: Done) {
        let (job, started, ended, failed) = match done {
            Done::Batch { job, started, ended, failed } => (job, started, ended, failed),
            Done::StreamEnded { stream, .. } => return self.outlet.end(stream),
        };
        let Job { batch, mut frames, places, prepared_at, .. } = job;
        self.pulse.begin(clock::now(), HANG);
        if !frames.is_empty() && failed.is_none() {
            self.meter.batch(places, ended - started);
        }
        for (index, mut frame) in frames.drain(..).enumerate() {
            if let Some(reason) = failed {
                frame.ticket.mark(Outcome::Failed(reason));
                continue;
            }
            let begun = clock::now();
            let result = catch_unwind(AssertUnwindSafe(|| self.stage.finish(&batch, index, &mut frame)));
            let now = clock::now();
            match result {
                Ok(Ok(())) => {
                    let since = frame.passed.nodes().last().map_or(frame.arrival.decoded, |n| n.1);
                    frame.work.execute += ended - started;
                    frame.work.finish += now - begun;
                    frame.work.queued += started.saturating_sub(prepared_at);
                    frame.inferred = true;
                    let work = frame.work.prepare + (ended - started) + (now - begun);
                    self.meter.frame(work, now.saturating_sub(since).saturating_sub(work));
                    self.outlet.pass(frame);
                }
                Ok(Err(error)) => {
                    self.supervisor.frame_failed(&self.id, &frame, &error);
                    frame.ticket.mark(Outcome::Failed(FailReason::Stage));
                }
                Err(panic) => {
                    let error = StageError::new(format!("panicked on the outputs: {}", panic_message(&*panic)));
                    self.supervisor.frame_failed(&self.id, &frame, &error);
                    frame.ticket.mark(Outcome::Failed(FailReason::Panic));
                }
            }
        }
        self.pulse.end();
        // The dispatcher may have left already at the end.
        let _ = self.spare.send((batch, frames));
        self.bell.ring();
    }
}

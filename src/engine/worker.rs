//! A node that annotates frames one at a time: the thread of a plain stage.

use super::device::HANG;
use super::inbox::{Change, Inbox};
use super::outlet::Outlet;
use super::supervisor::Supervisor;
use crate::config::AtRung;
use crate::frame::journey::Act;
use crate::frame::{FailReason, Frame, Outcome, clock};
use crate::ring;
use crate::stage::{Stage, StageError};
use crate::telemetry::{Pulse, StageMeter};
use crossbeam_channel::Receiver;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Makes an instance of the stage: once for each worker, and anew after a panic.
pub type Factory = dyn Fn() -> Result<Box<dyn Stage>, StageError> + Send + Sync;

/// A plain stage's worker.
pub struct Worker {
    /// The stage's id.
    pub id: Arc<str>,
    /// The ways of running the stage.
    pub stages: Vec<Box<dyn Stage>>,
    /// Make them anew.
    pub factories: Vec<Arc<Factory>>,
    /// What it does at each rung; empty: the same at all of them.
    pub rungs: Vec<AtRung>,
    /// What it reads.
    pub inbox: Inbox,
    /// Rung when there is something to read.
    pub heard: Receiver<()>,
    /// Where its frames go.
    pub outlet: Arc<Outlet>,
    /// Its measurements.
    pub meter: Arc<StageMeter>,
    /// Its heartbeat.
    pub pulse: Pulse,
    /// Who hears of panics.
    pub supervisor: Arc<Supervisor>,
}

impl Worker {
    /// Runs until no more frames can come.
    pub fn run(mut self) {
        while !self.inbox.is_done() {
            ring::listen(&self.heard, Duration::from_millis(200));
            self.inbox.refresh();
            loop {
                let frame = self.inbox.next(|_| true);
                while let Some(change) = self.inbox.change() {
                    if let Change::Ended(stream) = change {
                        self.stages.iter_mut().for_each(|s| s.forget(stream.index));
                        self.outlet.end(stream.index);
                    }
                }
                let Some(frame) = frame else { break };
                if self.inbox.is_aborting() {
                    frame.ticket.mark(Outcome::Failed(FailReason::Stopped));
                } else {
                    self.work(frame);
                }
            }
        }
    }

    /// The way of running the stage for this frame; `None` where its rung leaves it out.
    fn way(&self, frame: &Frame) -> Option<usize> {
        let at = self.rungs.get(frame.rung.unwrap_or(0)).copied().unwrap_or_default();
        // Streams take turns, as they do on devices.
        let turn = frame.ticket.seq + u64::from(frame.stream().index);
        at.variant.filter(|_| turn.is_multiple_of(u64::from(at.every.max(1))))
    }

    fn work(&mut self, mut frame: Frame) {
        let Some(way) = self.way(&frame) else { return self.outlet.pass(frame) };
        let start = clock::now();
        let arrived = frame.passed.nodes().last().map_or(frame.arrival.decoded, |n| n.1);
        self.pulse.begin(start, HANG);
        let result = catch_unwind(AssertUnwindSafe(|| self.stages[way].process(&mut frame)));
        let end = clock::now();
        self.pulse.end();
        self.meter.frame(end - start, start.saturating_sub(arrived));
        frame.work.rest += end - start;
        if let Some(journey) = frame.ticket.journey() {
            journey.leg(Act::Stage { stage: self.id.clone() }, start, end);
        }
        match result {
            Ok(Ok(())) => self.outlet.pass(frame),
            Ok(Err(error)) => {
                self.supervisor.frame_failed(&self.id, &frame, &error);
                frame.ticket.mark(Outcome::Failed(FailReason::Stage));
            }
            Err(panic) => {
                self.meter.panicked();
                frame.ticket.mark(Outcome::Failed(FailReason::Panic));
                drop(frame);
                let factory = &self.factories[way];
                if let Some(stage) = self.supervisor.after_panic(&self.id, &*panic, || factory()) {
                    self.stages[way] = stage;
                }
            }
        }
    }
}

//! A node that annotates frames one at a time: the thread of a plain stage.

use super::device::HANG;
use super::inbox::{Change, Inbox};
use super::outlet::{Outlet, Shared};
use super::supervisor::Supervisor;
use crate::frame::{FailReason, Frame, Outcome, clock};
use crate::stage::{Budget, Stage, StageError};
use crate::telemetry::{Pulse, StageMeter};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Makes an instance of the stage: once for each worker, and anew after a panic.
pub type Factory = dyn Fn() -> Result<Box<dyn Stage>, StageError> + Send + Sync;

/// A plain stage's worker.
pub struct Worker {
    /// The stage's id.
    pub id: Arc<str>,
    /// Its number in the graph.
    pub node: u16,
    /// The stage.
    pub stage: Box<dyn Stage>,
    /// Makes it anew.
    pub factory: Arc<Factory>,
    /// What it reads.
    pub inbox: Inbox,
    /// Where its frames go.
    pub outlet: Arc<Outlet>,
    /// What the graph's nodes share.
    pub shared: Arc<Shared>,
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
            self.inbox.wait(Duration::from_millis(200));
            self.inbox.refresh();
            loop {
                let frame = self.inbox.next(|_| true);
                while let Some(change) = self.inbox.change() {
                    if let Change::Ended(stream) = change {
                        self.stage.forget(stream.index);
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

    fn work(&mut self, mut frame: Frame) {
        let start = clock::now();
        let arrived = frame.passed.nodes().last().map_or(frame.arrival.decoded, |n| n.1);
        let tail = self.shared.tails[usize::from(self.node)].estimate().upper(2.3);
        let budget = Budget { leave_by: frame.ticket.deadline().map(|d| d.saturating_sub(tail)) };
        self.pulse.begin(start, HANG);
        let result = catch_unwind(AssertUnwindSafe(|| self.stage.process(&mut frame, budget)));
        let end = clock::now();
        self.pulse.end();
        self.meter.frame(end - start, start.saturating_sub(arrived));
        frame.work.rest += end - start;
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
                let factory = &self.factory;
                if let Some(stage) = self.supervisor.after_panic(&self.id, &*panic, || factory()) {
                    self.stage = stage;
                }
            }
        }
    }
}

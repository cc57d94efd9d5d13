//! Turns a stage's outputs into annotations.

use super::super::outlet::Outlet;
use super::super::supervisor::{Supervisor, panic_message};
use super::{Done, HANG, Job, Memory, Route, Seat, Ways};
use crate::frame::journey::Act;
use crate::frame::{FailReason, Outcome, clock};
use crate::ring::Bell;
use crate::stage::StageError;
use crate::telemetry::{Pulse, StageMeter};
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Turns outputs into annotations, in the order of the batches, and passes the frames on.
pub struct Finisher {
    /// The stage's id.
    pub id: Arc<str>,
    /// The stage.
    pub ways: Ways,
    /// From the executors.
    pub done: Receiver<Done>,
    /// Back to the dispatcher.
    pub spare: Sender<(Route, Memory)>,
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
    /// Runs until the executors and the dispatcher have left.
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
            Done::Passed { frame, .. } => return self.outlet.pass(frame),
            Done::Lost { .. } => return,
            Done::StreamEnded { stream, .. } => return self.outlet.end(stream),
        };
        let Job { route, batch, mut seats, places, prepared_at, .. } = job;
        let stage = &self.ways.variants[route.variant];
        self.pulse.begin(clock::now(), HANG);
        if !seats.is_empty() && failed.is_none() {
            self.meter.batch(places, ended - started);
        }
        for Seat { mut frame, places } in seats.drain(..) {
            if let Some(reason) = failed {
                frame.ticket.mark(Outcome::Failed(reason));
                continue;
            }
            let begun = clock::now();
            let result = catch_unwind(AssertUnwindSafe(|| stage.finish(&batch, places, &mut frame)));
            let now = clock::now();
            if let Some(journey) = frame.ticket.journey() {
                journey.leg(Act::Execute { stage: self.id.clone() }, started, ended);
                journey.leg(Act::Finish { stage: self.id.clone() }, begun, now);
            }
            match result {
                Ok(Ok(())) => {
                    let since = frame.passed.nodes().last().map_or(frame.arrival.decoded, |n| n.1);
                    frame.work.execute += ended - started;
                    frame.work.finish += now - begun;
                    frame.work.queued += started.saturating_sub(prepared_at);
                    // One stage's own result does not make up for another's that was left to a tracker.
                    frame.inferred = !frame.carried;
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
        let _ = self.spare.send((route, (batch, seats)));
        self.bell.ring();
    }
}

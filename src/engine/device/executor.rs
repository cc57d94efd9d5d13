//! The slots of a device: each a thread with a session of every stage's every variant. One that hangs in a call is
//! abandoned with its thread and replaced.

use super::super::supervisor::Supervisor;
use super::super::threads::{self, Placement};
use super::{Done, Event, HANG, Job, Route, Sessions, Ways};
use crate::frame::{FailReason, clock};
use crate::ring::Bell;
use crate::stage::{BatchStage, Execute, StageError};
use crate::telemetry::{Health, Pulse, StageMeter};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// What all slots of a device share, and what it takes to make another one.
pub struct Crew {
    /// The device's name, for threads and messages.
    pub name: Arc<str>,
    /// The stages' ids.
    pub ids: Vec<Arc<str>>,
    /// The stages.
    pub ways: Vec<Ways>,
    /// From the dispatcher.
    pub jobs: Receiver<Job>,
    /// To the dispatcher.
    pub events: Sender<Event>,
    /// The dispatcher's bell.
    pub bell: Bell,
    /// To the stages' finishers.
    pub done: Vec<Sender<Done>>,
    /// The stages' measurements.
    pub meters: Vec<Arc<StageMeter>>,
    /// Watches the threads.
    pub health: Arc<Health>,
    /// Who hears of errors and panics.
    pub supervisor: Arc<Supervisor>,
    /// Where the threads run.
    pub placement: Placement,
    /// The graph's threads: a replacement joins them.
    pub threads: Threads,
    /// Sessions that were opened while the device ran, for whichever slot has none yet.
    pub late: Mutex<Vec<(Route, Box<dyn Execute>)>>,
}

/// The threads of a graph, and the heartbeats of those that may be abandoned.
pub type Threads = Arc<Mutex<Vec<(JoinHandle<()>, Option<Pulse>)>>>;

impl Crew {
    /// Tells the dispatcher.
    pub fn hears(&self, event: Event) {
        // The dispatcher may have left already at the end.
        let _ = self.events.send(event);
        self.bell.ring();
    }

    /// Starts a slot with these sessions, for each stage one of each variant that is loaded.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn start(self: &Arc<Self>, sessions: Vec<Sessions>) -> std::io::Result<()> {
        let name = format!("{}:run", self.name);
        let pulse = self.health.pulse(name.as_str());
        let executor = Executor { crew: Arc::downgrade(self), jobs: self.jobs.clone(), sessions, pulse: pulse.clone() };
        let thread = threads::spawn(&name, &self.placement, move || executor.run())?;
        self.threads.lock().push((thread, Some(pulse)));
        Ok(())
    }

    /// Replaces a slot that hangs: opens new sessions on a thread of their own, since that may take long.
    pub fn replace(self: &Arc<Self>) {
        let crew = self.clone();
        let spawned = threads::spawn(&format!("{}:open", self.name), &self.placement, move || {
            let opened = |ways: &Ways| {
                let one = |(n, v): (usize, &Arc<dyn BatchStage>)| ways.is_loaded(n).then(|| v.open()).transpose();
                ways.variants.iter().enumerate().map(one).collect::<Result<Sessions, StageError>>()
            };
            let sessions =
                catch_unwind(AssertUnwindSafe(|| crew.ways.iter().map(opened).collect::<Result<Vec<_>, _>>()));
            let started = match sessions {
                Ok(Ok(sessions)) => crew.start(sessions).map_err(|e| e.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("panicked while opening".to_owned()),
            };
            if let Err(error) = started {
                crew.supervisor.give_up(format!("device `{}` hung and cannot be opened anew: {error}", crew.name));
            }
        });
        if let Err(error) = spawned {
            self.supervisor.give_up(format!("device `{}` hung and gets no new thread: {error}", self.name));
        }
    }
}

/// One slot.
struct Executor {
    /// Not held while a call runs: one that never returns must not keep the others' channels open.
    crew: Weak<Crew>,
    jobs: Receiver<Job>,
    sessions: Vec<Sessions>,
    pulse: Pulse,
}

impl Executor {
    /// Runs until the dispatcher has left.
    fn run(mut self) {
        while let Ok(mut job) = self.jobs.recv() {
            let (route, number, places) = (job.route, job.number, job.places);
            let Route { site, variant } = route;
            let started = clock::now();
            self.pulse.begin(started, HANG);
            if let Some(crew) = self.crew.upgrade() {
                // Where the dispatcher has left already, at the end, the batch is still run.
                crew.hears(Event::Started { route, number, at: started, pulse: self.pulse.clone() });
                let session = &mut self.sessions[site][variant];
                if session.is_none() {
                    let mut late = crew.late.lock();
                    *session = late.iter().position(|l| l.0 == route).map(|at| late.swap_remove(at).1);
                }
            }
            let session = &mut self.sessions[site][variant];
            let mut begun = started;
            let result = catch_unwind(AssertUnwindSafe(|| {
                let execute = session.as_mut().ok_or_else(|| StageError::new("this slot has no session for it"))?;
                if job.seats.is_empty() {
                    // A probe comes after a pause, and after a pause the first call takes up to twice as long as any
                    // that follows: what frames would wait for is the second.
                    execute.execute(&mut job.batch, places)?;
                    begun = clock::now();
                }
                execute.execute(&mut job.batch, places)
            }));
            let (started, ended) = (begun, clock::now());
            self.pulse.end();
            // Once abandoned, the frames were counted when the call was given up, and somebody else has this slot.
            let Some(crew) = self.crew.upgrade().filter(|_| !self.pulse.is_abandoned()) else { return };
            let id = &crew.ids[site];
            let failed = match &result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => {
                    if let Some(seat) = job.seats.first() {
                        crew.supervisor.frame_failed(id, &seat.frame, error);
                    }
                    Some(FailReason::Stage)
                }
                Err(_) => Some(FailReason::Panic),
            };
            let span = failed.is_none().then_some(ended - started);
            let sent = crew.done[site].send(Done::Batch { job, started, ended, failed });
            crew.hears(Event::Ended { route, number, places, started, span });
            if sent.is_err() {
                return;
            }
            if let Err(panic) = result {
                crew.meters[site].panicked();
                let stage = &crew.ways[site].variants[variant];
                match crew.supervisor.after_panic(id, &*panic, || stage.open()) {
                    Some(execute) => self.sessions[site][variant] = Some(execute),
                    None => return,
                }
            }
        }
    }
}

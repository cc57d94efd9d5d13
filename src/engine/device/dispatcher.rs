//! The thread that decides what a device does next, and reads frames into batches.

use super::super::inbox::{Change, Inbox, Terms};
use super::super::supervisor::{Supervisor, panic_message};
use super::batches::Batches;
use super::{Crew, Delivery, Done, Event, HANG, Job, Memory, Opener, Route, Seat, Ways};
use crate::frame::journey::{Act, BatchNote};
use crate::frame::{FailReason, Frame, Nanos, Outcome, Stream, Ticket, clock, clock::SECOND};
use crate::schedule::trace::Taped;
use crate::schedule::{Bypass, Lane, Next, Plan, Variant, Waiting, Why};
use crate::stage::StageError;
use crate::telemetry::{Pulse, StageCost, StageMeter, StreamMeter, Telemetry};
use crossbeam_channel::{Receiver, Sender};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// After so many hangs within [`HANG_WINDOW`] the process stops: it is better started anew.
const HANGS_MAX: usize = 3;
/// Hangs older than this are forgotten.
const HANG_WINDOW: Nanos = 600 * SECOND;
/// The dispatcher looks at least this often.
const TICK: Nanos = SECOND / 5;

/// One stage in front of the dispatcher.
pub struct Post {
    /// The stage's id.
    pub id: Arc<str>,
    /// The stage.
    pub ways: Ways,
    /// What it reads.
    pub inbox: Inbox,
    /// To its finisher.
    pub done: Sender<Done>,
    /// Its measurements.
    pub meter: Arc<StageMeter>,
    /// Memory of batches that are done, from its finisher.
    pub spare: Receiver<(Route, Memory)>,
    /// Memory at hand, for each variant.
    pub memory: Vec<Vec<Memory>>,
    /// Frames that come here have passed no device yet: their rung is chosen here.
    pub entry: bool,
    /// Frames of one stream with a deadline, and of one without, that may wait.
    pub waits: (usize, usize),
    /// The next batch's place in the order of finishing.
    pub number: u64,
    /// Streams whose end the finisher has not been told yet.
    pub ending: Vec<u32>,
}

/// A batch that an executor has, or will have.
struct Running {
    route: Route,
    number: u64,
    expected: Nanos,
    /// When it should be done.
    until: Nanos,
    /// When it was taken up, and by whom.
    taken: Option<(Nanos, Pulse)>,
    /// To count its frames, should it hang.
    tickets: Vec<Weak<Ticket>>,
}

/// A stream whose rung is chosen here.
struct Watched {
    stream: Arc<Stream>,
    meter: Arc<StreamMeter>,
    moves: u64,
}

/// The thread that decides.
pub struct Dispatcher {
    /// The stages on the device.
    pub posts: Vec<Post>,
    /// Rung by the inboxes, the executors and the finishers.
    pub heard: Receiver<()>,
    /// Decides.
    pub planner: Taped<Frame>,
    /// Batches that run at once.
    pub slots: usize,
    /// To the executors.
    pub jobs: Sender<Job>,
    /// From the executors.
    pub events: Receiver<Event>,
    /// How this device's frames were delivered.
    pub delivered: Receiver<Delivery>,
    /// The executors.
    pub crew: Arc<Crew>,
    /// The process's measurements.
    pub telemetry: Arc<Telemetry>,
    /// Its heartbeat.
    pub pulse: Pulse,
    /// Who hears of errors.
    pub supervisor: Arc<Supervisor>,
    /// Opens rungs that are not loaded yet.
    pub opener: Arc<Opener>,
    /// Names of the rungs, best first.
    pub rungs: Vec<Arc<str>>,
    /// What changes while it runs.
    pub state: State,
}

/// What changes while a dispatcher runs.
#[derive(Default)]
pub struct State {
    running: Vec<Running>,
    /// Lists of tickets, reused.
    tickets: Vec<Vec<Weak<Ticket>>>,
    watched: Vec<Watched>,
    hangs: Vec<Nanos>,
    measured: Batches,
}

impl Dispatcher {
    /// Runs until no more frames can come and all are done.
    pub fn run(mut self) {
        self.decide();
        self.tell_costs();
    }

    fn decide(&mut self) {
        let mut plan = Plan::default();
        let mut wake = None::<Nanos>;
        loop {
            let patience = wake.map_or(TICK, |t| t.saturating_sub(clock::now()).min(TICK));
            crate::ring::listen(&self.heard, Duration::from_nanos(patience));
            self.pulse.begin(clock::now(), HANG);
            self.hear();
            self.give_up_hung(clock::now());
            self.take_in();
            wake = None;
            while self.state.running.len() <= self.slots && self.has_memory() {
                let now = clock::now();
                let free_at = self.free_at(now);
                let next = self.planner.plan(now, free_at, &mut plan);
                match self.carry_out(next, &mut plan, now, free_at) {
                    Ok(true) => {}
                    // A batch whose frames all failed to prepare leaves others waiting: look again at once.
                    Ok(false) if matches!(next, Next::Run { .. }) => {}
                    Ok(false) => {
                        if let Next::WaitUntil(at) = next {
                            wake = Some(at);
                        }
                        break;
                    }
                    // The executors have given up, and have said why.
                    Err(Gone) => return,
                }
                // Room was made: what the rings hold may come in.
                self.take_in();
            }
            self.tell_rungs();
            self.tell_ends();
            if let Some(rung) = self.planner.wanted() {
                self.opener.request(rung);
            }
            self.pulse.end();
            let idle = self.state.running.is_empty() && self.planner.waiting() == 0;
            if idle && self.posts.iter().all(|p| p.ending.is_empty() && p.inbox.is_done()) {
                return;
            }
        }
    }

    /// What executors, finishers and outlets have to say.
    fn hear(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Started { route, number, at, pulse } => {
                    if let Some(r) = self.state.running.iter_mut().find(|r| r.route == route && r.number == number) {
                        r.until = at + r.expected;
                        r.taken = Some((at, pulse));
                    }
                }
                Event::Ended { route, number, places, started, span } => {
                    self.done_with(|r| r.route == route && r.number == number);
                    if let Some(span) = span {
                        self.planner.ran(route.site, route.variant, places, started, span);
                        let window = self.telemetry.measured_from();
                        self.state.measured.note(&self.planner, route, places, (started, span), window);
                        let stage = &self.posts[route.site].ways.variants[route.variant];
                        self.telemetry.slowdown(stage.device(), self.planner.slowdown().mean());
                    }
                }
                Event::Opened { rung, ways } => {
                    let mut loaded = Vec::with_capacity(ways.len());
                    for (Route { site, variant }, measured, memory) in ways {
                        self.posts[site].memory[variant].extend(memory);
                        loaded.push((site, variant, measured));
                    }
                    self.planner.opens(rung, loaded);
                }
                Event::Lost { rung } => self.planner.gives_up(rung),
            }
        }
        while let Ok(d) = self.delivered.try_recv() {
            match d.late {
                Some(late) => self.planner.delivered(d.site, d.stream, d.at, d.tail, late),
                None => self.planner.came_through(d.site, d.at, d.tail),
            }
        }
        for post in &mut self.posts {
            for (route, memory) in post.spare.try_iter() {
                post.memory[route.variant].push(memory);
            }
        }
    }

    /// Forgets a batch; its list of tickets is used again.
    fn done_with(&mut self, which: impl Fn(&Running) -> bool) -> Option<Running> {
        let at = self.state.running.iter().position(which)?;
        let mut done = self.state.running.remove(at);
        let mut tickets = std::mem::take(&mut done.tickets);
        tickets.clear();
        self.state.tickets.push(tickets);
        Some(done)
    }

    /// Gives up calls that hang: their frames have failed, their thread is replaced.
    fn give_up_hung(&mut self, now: Nanos) {
        while let Some(at) = self.state.running.iter().position(|r| {
            // The executor's own heartbeat allows as much; a call that returns at the last moment is let be.
            r.taken.as_ref().is_some_and(|(taken, _)| now > taken + HANG + SECOND / 10)
        }) {
            let hung = self.state.running.remove(at);
            let Route { site, variant } = hung.route;
            if let Some((_, pulse)) = &hung.taken {
                pulse.abandon();
            }
            for ticket in hung.tickets.iter().filter_map(Weak::upgrade) {
                ticket.settle(Outcome::Failed(FailReason::Hang));
            }
            let post = &mut self.posts[site];
            post.meter.hung();
            post.memory[variant].push((post.ways.variants[variant].buffers(), Vec::new()));
            // The finisher outlives the dispatcher.
            let _ = post.done.send(Done::Lost { number: hung.number });
            self.state.hangs.retain(|&t| t + HANG_WINDOW > now);
            self.state.hangs.push(now);
            let count = self.state.hangs.len();
            let id = &*self.posts[site].id;
            tracing::error!(stage = id, count, "a call hung for 10 s: it is abandoned with its thread");
            if count >= HANGS_MAX {
                self.supervisor.give_up(format!("stage `{id}` hung {count} times within ten minutes"));
            } else {
                self.crew.replace();
            }
        }
    }

    fn has_memory(&self) -> bool {
        let loaded = |site: usize, v: usize| !self.planner.sites()[site].variants[v].batch_sizes.is_empty();
        let has = |(site, p): (usize, &Post)| (0..p.memory.len()).all(|v| !p.memory[v].is_empty() || !loaded(site, v));
        self.posts.iter().enumerate().all(has)
    }

    /// When the next slot is free.
    fn free_at(&self, now: Nanos) -> Nanos {
        if self.state.running.len() < self.slots {
            return now;
        }
        self.state.running.iter().map(|r| r.until).min().unwrap_or(now)
    }

    /// Does what the planner decided. Says whether a batch is on its way.
    fn carry_out(&mut self, next: Next, plan: &mut Plan<Frame>, now: Nanos, free_at: Nanos) -> Result<bool, Gone> {
        for (frame, reason) in plan.shed.drain(..) {
            frame.ticket.mark(Outcome::Shed(reason));
        }
        for bypass in plan.pass.drain(..) {
            self.pass(bypass);
        }
        let job = match next {
            Next::Run { site, variant } => self.prepare(Route { site, variant }, plan, now, free_at),
            Next::Probe { site, variant } => self.probe(Route { site, variant }, now),
            Next::WaitUntil(_) | Next::Idle => None,
        };
        let sent = match job {
            Some(job) => {
                self.jobs.send(job).map_err(|_| Gone)?;
                true
            }
            None => false,
        };
        for bypass in plan.follow.drain(..) {
            self.pass(bypass);
        }
        Ok(sent)
    }

    /// Lets a frame go on without the device.
    fn pass(&mut self, bypass: Bypass<Frame>) {
        let Bypass { site, item: mut frame, rung, why } = bypass;
        let post = &mut self.posts[site];
        frame.rung = Some(rung);
        let variant = post.ways.rungs.get(rung).and_then(|r| r.variant);
        let crops = variant.and_then(|v| post.ways.variants[v].crops());
        match (why, crops) {
            // Crops are of detections, whoever made them.
            (Why::Carried, None) => (frame.carried, frame.inferred) = (true, false),
            (Why::Skipped | Why::Carried, Some(crops)) => crops.skip(&mut frame),
            (Why::Off | Why::Empty | Why::Skipped, _) => {}
        }
        let number = post.number;
        post.number += 1;
        // The finisher outlives the dispatcher.
        let _ = post.done.send(Done::Passed { number, frame });
    }

    /// A batch of no frames, to measure.
    fn probe(&mut self, route: Route, now: Nanos) -> Option<Job> {
        let post = &mut self.posts[route.site];
        let (batch, seats) = post.memory[route.variant].pop()?;
        let job = Job { route, number: post.number, batch, seats, places: 1, prepared_at: now, expected: 0 };
        post.number += 1;
        self.starts(&job, now, Vec::new());
        Some(job)
    }

    fn starts(&mut self, job: &Job, at: Nanos, tickets: Vec<Weak<Ticket>>) {
        self.state.running.push(Running {
            route: job.route,
            number: job.number,
            expected: job.expected,
            until: at + job.expected,
            taken: None,
            tickets,
        });
    }

    /// Reads the planned frames into a batch; none where none of them could be read.
    fn prepare(&mut self, route: Route, plan: &mut Plan<Frame>, now: Nanos, free_at: Nanos) -> Option<Job> {
        let post = &mut self.posts[route.site];
        let (mut batch, mut seats) = post.memory[route.variant].pop()?;
        let stage = &post.ways.variants[route.variant];
        let begun = clock::now();
        let mut before = begun;
        for chosen in plan.run.drain(..) {
            let mut frame = chosen.item;
            frame.rung = Some(chosen.rung);
            frame.rescued |= chosen.rescued;
            let first = seats.last().map_or(0, |s: &Seat| s.places.end);
            let places = first..first + chosen.places;
            let result = catch_unwind(AssertUnwindSafe(|| stage.prepare(&frame, &mut batch, places.clone())));
            let after = clock::now();
            match result {
                Ok(Ok(())) => {
                    let each = (after - before) / chosen.places.max(1) as Nanos;
                    self.planner.prepared(route.site, route.variant, each);
                    // Waiting for a busy device is not the engine's doing.
                    let since = frame.passed.nodes().last().map_or(frame.arrival.decoded, |n| n.1);
                    frame.work.queued += free_at.min(now).saturating_sub(since).min(now.saturating_sub(since));
                    seats.push(Seat { frame, places });
                }
                Ok(Err(error)) => {
                    self.supervisor.frame_failed(&post.id, &frame, &error);
                    frame.ticket.mark(Outcome::Failed(FailReason::Stage));
                }
                Err(panic) => {
                    let error =
                        StageError::new(format!("panicked while reading the frame: {}", panic_message(&*panic)));
                    self.supervisor.frame_failed(&post.id, &frame, &error);
                    frame.ticket.mark(Outcome::Failed(FailReason::Panic));
                }
            }
            before = after;
        }
        let Some(places) = seats.last().map(|s| s.places.end) else {
            post.memory[route.variant].push((batch, seats));
            return None;
        };
        let prepared_at = clock::now();
        let mut tickets = self.state.tickets.pop().unwrap_or_default();
        let (frames, number) = (seats.len(), post.number);
        for Seat { frame, .. } in &mut seats {
            frame.work.prepare += prepared_at - begun;
            if let Some(journey) = frame.ticket.journey() {
                let rung = self.rungs.get(frame.rung.unwrap_or(0)).cloned().unwrap_or_else(|| "full".into());
                let (crew, device) = (self.crew.name.clone(), stage.device().into());
                let batch = BatchNote { crew, device, frames, rung };
                journey.leg(Act::Prepare { stage: post.id.clone(), batch }, begun, prepared_at);
            }
            tickets.push(Arc::downgrade(&frame.ticket));
        }
        post.number += 1;
        let expected = self.planner.expected(route.site, route.variant, places);
        let job = Job { route, number, batch, seats, places, prepared_at, expected };
        self.starts(&job, now.max(free_at), tickets);
        Some(job)
    }

    /// Moves frames from the rings to the planner.
    fn take_in(&mut self) {
        for site in 0..self.posts.len() {
            self.posts[site].inbox.refresh();
            loop {
                while let Some(change) = self.posts[site].inbox.change() {
                    match change {
                        Change::Opened { stream, by_count, meter, terms } => {
                            self.open(site, &stream, by_count, meter, terms);
                        }
                        Change::Ended(stream) => {
                            self.planner.end(stream.index, site);
                            self.posts[site].ending.push(stream.index);
                        }
                    }
                }
                let planner = &self.planner;
                // A frame with a deadline always comes in and may push out an older one; offline frames wait for room.
                let wanted = |s: &Stream| s.deadline.is_some() || planner.has_room(s.index, site);
                let post = &mut self.posts[site];
                let Some(frame) = post.inbox.next(wanted) else { break };
                if post.inbox.is_aborting() {
                    frame.ticket.mark(Outcome::Failed(FailReason::Stopped));
                    continue;
                }
                let ticket = &frame.ticket;
                let waiting = Waiting {
                    seq: ticket.seq,
                    captured: ticket.captured,
                    ready: frame.passed.nodes().last().map_or(frame.arrival.decoded, |n| n.1),
                    deadline: ticket.deadline(),
                    rung: if post.entry { None } else { Some(frame.rung.unwrap_or(0)) },
                    places: post.ways.places(&frame),
                };
                let stream = ticket.stream.index;
                if let Some(out) = self.planner.arrive(stream, site, clock::now(), waiting, frame) {
                    out.ticket.mark(Outcome::Evicted);
                }
            }
        }
        if self.posts.iter().any(|p| p.inbox.is_aborting()) {
            for frame in self.planner.abandon() {
                frame.ticket.mark(Outcome::Failed(FailReason::Stopped));
            }
        }
    }

    fn open(&mut self, site: usize, stream: &Arc<Stream>, by_count: bool, meter: Arc<StreamMeter>, terms: Terms) {
        let post = &self.posts[site];
        let entry = post.entry;
        let lane = Lane {
            stream: stream.index,
            site,
            priority: stream.priority,
            deadline: stream.deadline,
            by_count,
            capacity: if stream.deadline.is_some() { post.waits.0 } else { post.waits.1 },
            entry,
        };
        self.planner.open(&stream.id, lane);
        self.planner.admit(stream.index, terms.admitted);
        if entry && !self.state.watched.iter().any(|w| w.stream.index == stream.index) {
            self.planner.set_ceiling(stream.index, terms.rung);
            meter.starts_on(terms.rung);
            self.state.watched.push(Watched { stream: stream.clone(), meter, moves: 0 });
        }
        // Said at once, and by how much, where a stream can never be on time.
        if let Some((deadline, over)) = stream.deadline.and_then(|d| Some((d, self.planner.excess(site, d)?))) {
            let (deadline, over) = (clock::millis(deadline), clock::millis(over));
            tracing::warn!(
                stage = &*post.id,
                stream = &*stream.id,
                "infeasible: a frame takes {:.1} ms even alone on an idle device, {over:.1} ms more than its deadline of \
                 {deadline:.1} ms; every frame of the stream is shed until that changes",
                deadline + over,
            );
        }
    }

    /// Tells the report what the stages cost.
    fn tell_costs(&self) {
        for (site, (post, planned)) in self.posts.iter().zip(self.planner.sites()).enumerate() {
            let cost = |variant: usize, v: &Variant| {
                // Where nothing ran, as calibrated.
                let took = self.state.measured.took(Route { site, variant });
                let factor = took.map_or(1.0, |t| t.factor);
                let runs = |r: usize| planned.rungs.get(r).is_some_and(|p| p.variant == Some(variant));
                let rungs = self.rungs.iter().enumerate().filter(|&(r, _)| runs(r));
                StageCost {
                    rungs: rungs.map(|(_, name)| name.to_string()).collect(),
                    batch_sizes: v.batch_sizes.clone(),
                    alpha_ms: clock::millis(v.cost.alpha()) * factor,
                    beta_ms: clock::millis(v.cost.beta()) * factor,
                    prepare_ms: clock::millis(v.cost.prepare.mean()),
                    tail_ms: clock::millis(planned.tail.mean()),
                    spread: took.map(|t| t.spread),
                    drift: took.and_then(|t| t.drift),
                    crops: planned.crops,
                }
            };
            post.meter.costs(self.slots, planned.variants.iter().enumerate().map(|(n, v)| cost(n, v)).collect());
        }
    }

    /// Tells the metrics where the streams' ceilings are.
    fn tell_rungs(&mut self) {
        let (planner, names) = (&self.planner, &self.rungs);
        self.state.watched.retain_mut(|w| {
            if !planner.is_known(w.stream.index) {
                return false;
            }
            let (down, up) = planner.moves(w.stream.index);
            if down + up != w.moves {
                w.moves = down + up;
                let rung = planner.ceiling(w.stream.index);
                let name = names.get(rung).map_or("", |n| &**n);
                tracing::info!(stream = &*w.stream.id, rung = name, "quality changed");
                w.meter.rung(rung);
            }
            true
        });
    }

    /// Tells the finishers which streams have ended.
    fn tell_ends(&mut self) {
        for (site, post) in self.posts.iter_mut().enumerate() {
            let planner = &self.planner;
            for stream in post.ending.extract_if(.., |s| !planner.is_open(*s, site)) {
                // The finisher outlives the dispatcher.
                let _ = post.done.send(Done::StreamEnded { number: post.number, stream });
                post.number += 1;
            }
        }
    }
}

/// Nobody takes batches any more.
struct Gone;

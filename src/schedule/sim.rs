//! A device, its streams and its planner under virtual time: what `framegate simulate` runs, what admission asks, and
//! what the scheduler is proven with. The planner here is the one that runs in production.

use super::{Bypass, Lane, Next, Plan, Planner, Policy, Site, Waiting};
use crate::frame::clock::{MILLI, SECOND};
use crate::frame::{Nanos, Outcome, ShedReason};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

/// One stream's frames and what they pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// Time between two frames.
    pub period: Nanos,
    /// When the first frame is captured; `None`: at random within a period.
    pub phase: Option<Nanos>,
    /// Captures are late by up to this, evenly spread.
    pub jitter: Nanos,
    /// So many frames arrive together, with the last of them; at least 1.
    pub burst: u32,
    /// From captured to ready for the first stage: arrival and decoding.
    pub decode: Nanos,
    /// Its deviation, as a share of it.
    pub decode_spread: f64,
    /// Captured to deadline.
    pub deadline: Option<Nanos>,
    /// Larger is more important.
    pub priority: i32,
    /// Frames that may wait in front of a stage.
    pub capacity: usize,
    /// Times when nothing arrives; what was captured meanwhile comes in one burst at the end. Ascending.
    pub pauses: Vec<Span>,
    /// Times when the stream is gone: its frames are never captured.
    pub stalls: Vec<Span>,
    /// What arrives, where that has been recorded: when frames were captured and when they were ready, ascending. Takes
    /// the place of all that is said about arrivals above.
    pub recorded: Option<Arc<[(Nanos, Nanos)]>>,
    /// When the stream is there. Frames outside are never captured.
    pub present: Span,
    /// The stages it passes, one list of sites for each branch.
    pub branches: Vec<Vec<usize>>,
}

impl Feed {
    /// A steady stream through one stage, there from the start.
    pub fn steady(fps: f64, deadline: Nanos) -> Self {
        let period = (SECOND as f64 / fps) as Nanos;
        Self {
            period,
            phase: None,
            jitter: 0,
            burst: 1,
            decode: 0,
            decode_spread: 0.0,
            deadline: Some(deadline),
            priority: 0,
            capacity: (deadline / period.max(1)) as usize + 3,
            pauses: Vec::new(),
            stalls: Vec::new(),
            recorded: None,
            present: Span { from: 0, to: Nanos::MAX },
            branches: vec![vec![0]],
        }
    }
}

/// From a time on, and up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first nanosecond.
    pub from: Nanos,
    /// The first nanosecond after it.
    pub to: Nanos,
}

impl Span {
    fn holds(self, at: Nanos) -> bool {
        at >= self.from && at < self.to
    }
}

/// How far a device's real spans are from what its model says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    /// Deviation of a batch's span, as a share of it: spans are spread log-normally around the model's.
    pub spread: f64,
    /// Share of batches that are hit by something else on the machine, and how much longer they take.
    pub outliers: (f64, Nanos),
    /// Times when everything takes so many times as long. Where spans overlap their factors multiply.
    pub slowdowns: Vec<(Span, f64)>,
    /// From the end of a batch to the sinks' queues.
    pub tail: Nanos,
    /// Times when the process stands still: all that is due meanwhile comes at once at the end. Ascending.
    pub frozen: Vec<Span>,
    /// How many times as long as by the model recorded batches took, by site: when they started, and the factor,
    /// ascending. A batch takes as many times as long as the one recorded last before it; nothing else above then
    /// applies.
    pub recorded: Vec<Vec<(Nanos, f64)>>,
}

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The streams.
    pub feeds: Vec<Feed>,
    /// The device's stages: what the planner is told of them, and what they really cost but for [`Truth`].
    pub sites: Vec<Site>,
    /// Batches that run at once.
    pub slots: usize,
    /// How reality differs from the model.
    pub truth: Truth,
    /// Who decides.
    pub policy: Policy,
    /// Streams that are not admitted, by index.
    pub refused: Vec<usize>,
    /// The rung that every stream starts on.
    pub rung: usize,
    /// How long frames are captured.
    pub length: Nanos,
    /// Latencies leave out frames captured earlier.
    pub warmup: Nanos,
    /// All that is random follows from it.
    pub seed: u64,
}

impl Scenario {
    /// `feeds` through one device, undisturbed.
    pub fn new(feeds: Vec<Feed>, sites: Vec<Site>, length: Nanos, seed: u64) -> Self {
        Self {
            feeds,
            sites,
            slots: 1,
            truth: Truth::default(),
            policy: Policy::Framegate,
            refused: Vec::new(),
            rung: 0,
            length,
            warmup: SECOND.min(length / 4),
            seed,
        }
    }
}

/// What became of one stream.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Frames captured.
    pub captured: u64,
    /// Delivered before the deadline.
    pub on_time: u64,
    /// Delivered after it.
    pub late: u64,
    /// Shed, by [`ShedReason`].
    pub shed: [u64; 5],
    /// Pushed out of a full queue.
    pub evicted: u64,
    /// Delivered with a result of their own picture.
    pub inferred: u64,
    /// Saved by a rung below their ceiling.
    pub rescued: u64,
    /// Of the frames captured behind the warm-up: how many there were, and how many were on time.
    pub settled: (u64, u64),
    /// Delivered, by rung.
    pub rungs: Vec<u64>,
    /// Moves of the ceiling, down and up.
    pub moves: (u64, u64),
    /// Latencies of delivered frames behind the warm-up, nanoseconds, in the order of delivery.
    pub latencies: Vec<Nanos>,
    /// Sums over the delivered frames behind the warm-up: decode, prepare, execute, tail, nanoseconds. What else they
    /// spent was waiting.
    pub parts: [f64; 4],
}

impl Tally {
    /// Frames that ended.
    pub fn ended(&self) -> u64 {
        self.on_time + self.late + self.shed.iter().sum::<u64>() + self.evicted
    }
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    /// By stream.
    pub streams: Vec<Tally>,
    /// Batches run, and the frames in them, by site.
    pub batches: Vec<(u64, u64)>,
    /// How long batches took, by site, in the order in which they ended.
    pub spans: Vec<Vec<Nanos>>,
    /// How long frames waited for each site: from ready to the start of their batch, without their preprocess.
    pub waits: Vec<Vec<Nanos>>,
    /// Share of the time that slots were busy.
    pub busy: f64,
    /// Decisions taken.
    pub decisions: u64,
    /// Frames that were started although what was expected of their batch and of the rest of their way said that they
    /// would be late; always 0 with a start test.
    pub known_late: u64,
    /// When each stream's ceiling moved: time, stream, rung.
    pub climbs: Vec<(Nanos, usize, usize)>,
    /// Frames that came out late: when they were captured.
    pub late_at: Vec<Nanos>,
}

impl Outcomes {
    /// Frames on time over all streams.
    pub fn on_time(&self) -> u64 {
        self.streams.iter().map(|s| s.on_time).sum()
    }

    /// Share of captured frames that were on time, 0 to 1.
    pub fn on_time_share(&self) -> f64 {
        self.on_time() as f64 / self.streams.iter().map(|s| s.captured).sum::<u64>().max(1) as f64
    }

    /// On-time frames of the worst-served stream over the mean of all.
    pub fn fairness(&self) -> f64 {
        let worst = self.streams.iter().map(|s| s.on_time).min().unwrap_or(0);
        worst as f64 * self.streams.len() as f64 / self.on_time().max(1) as f64
    }
}

/// A frame under way.
#[derive(Debug, Clone, Copy)]
struct Flight {
    feed: u32,
    seq: u64,
    captured: Nanos,
    deadline: Option<Nanos>,
    decode: Nanos,
    /// When it came to the site where it is, and what its preprocess there took.
    ready: Nanos,
    preparing: Nanos,
    prepare: Nanos,
    execute: Nanos,
    /// Time in stages on crops: they take what the rest of the way leaves.
    crops: Nanos,
    /// Branches that have not ended yet.
    open: u32,
    rung: Option<usize>,
    rescued: bool,
    inferred: bool,
    /// The worst that happened to it so far.
    outcome: Option<Outcome>,
    delivered: Nanos,
}

/// A frame on one of its branches: its place among the flights, the branch, the step on it.
type Token = (u32, u16, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A slot is done with its batch.
    Ended(usize),
    /// A frame reaches the end of its way: place, branch, last site, when it left that one.
    Delivered(u32, u16, usize, Nanos),
    /// A frame is ready for a step of a branch.
    Ready(u32, u16, u16),
    /// A stream captures its next frame.
    Captured(usize),
    /// The planner asked to be asked again.
    Wake,
}

struct Slot {
    busy: bool,
    site: usize,
    variant: usize,
    started: Nanos,
    ends: Nanos,
    expected: Nanos,
    /// The warmed size that runs.
    places: usize,
    tokens: Vec<Token>,
}

/// A batch that is prepared and waits for a slot.
struct Prepared {
    site: usize,
    variant: usize,
    ready: Nanos,
    places: usize,
    tokens: Vec<Token>,
}

struct World<'s> {
    scenario: &'s Scenario,
    rng: fastrand::Rng,
    planner: Planner<Token>,
    flights: Vec<Flight>,
    /// When frames left the sites before their last one: branch, site, time, and what they had spent on crops by then.
    /// By place among the flights.
    trails: Vec<Vec<(u16, usize, Nanos, Nanos)>>,
    free: Vec<u32>,
    events: BinaryHeap<Reverse<(Nanos, Event)>>,
    /// The next frame's number and nominal time, by stream.
    next: Vec<(u64, Nanos)>,
    /// When each stream's last frame was ready: decoding keeps the order.
    decoded: Vec<Nanos>,
    slots: Vec<Slot>,
    prepared: Option<Prepared>,
    /// What has left the planner and not its site, by feed and site, where frames can overtake each other: who is done
    /// waits for those before it. Empty where none can.
    under_way: Vec<VecDeque<(Token, bool)>>,
    /// The dispatcher prepares one batch after the other.
    dispatcher_free: Nanos,
    /// Before this time the planner has nothing new to say: all slots are busy, and there is room for who arrives.
    quiet_until: Nanos,
    woken: Nanos,
    plan: Plan<Token>,
    out: Outcomes,
    ceilings: Vec<usize>,
    busy: Nanos,
}

/// Runs a scenario. The same scenario gives the same outcomes, to the last bit.
pub fn run(scenario: &Scenario) -> Outcomes {
    let mut world = World::new(scenario);
    let frozen = &scenario.truth.frozen;
    let awake = |at: Nanos| frozen.iter().find(|s| s.holds(at)).map_or(at, |s| s.to);
    while let Some(Reverse((at, event))) = world.events.pop() {
        let now = awake(at);
        world.happens(now, event);
        while world.events.peek().is_some_and(|Reverse((t, _))| awake(*t) == now) {
            if let Some(Reverse((_, event))) = world.events.pop() {
                world.happens(now, event);
            }
        }
        world.decide(now);
    }
    world.finish()
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario) -> Self {
        let mut planner = Planner::new(scenario.sites.clone(), scenario.slots).with_policy(scenario.policy);
        let mut rng = fastrand::Rng::with_seed(scenario.seed);
        let (mut events, mut next) = (BinaryHeap::new(), Vec::new());
        for (i, feed) in scenario.feeds.iter().enumerate() {
            let mut sites: Vec<usize> = feed.branches.iter().flatten().copied().collect();
            sites.sort_unstable();
            sites.dedup();
            for site in sites {
                planner.open(Lane {
                    stream: i as u32,
                    site,
                    priority: feed.priority,
                    deadline: feed.deadline,
                    by_count: false,
                    capacity: feed.capacity,
                    entry: feed.branches.iter().any(|b| b.first() == Some(&site)),
                });
            }
            planner.set_ceiling(i as u32, scenario.rung);
            planner.admit(i as u32, !scenario.refused.contains(&i));
            let phase = feed.phase.unwrap_or_else(|| rng.u64(0..feed.period.max(1)));
            next.push((0, phase));
            let first = match &feed.recorded {
                Some(recorded) => recorded.first().map(|r| r.0),
                None => Some(arrival(feed, 0, phase, &mut rng)),
            };
            events.extend(first.map(|at| Reverse((at, Event::Captured(i)))));
        }
        let carries = |s: &Site| s.rungs.iter().any(|r| r.variant.is_none() || r.every > 1);
        let overtakes = scenario.slots > 1 || scenario.sites.iter().any(carries);
        let slot = || Slot {
            busy: false,
            site: 0,
            variant: 0,
            started: 0,
            ends: 0,
            expected: 0,
            places: 0,
            tokens: Vec::new(),
        };
        Self {
            rng,
            planner,
            flights: Vec::new(),
            trails: Vec::new(),
            free: Vec::new(),
            events,
            next,
            decoded: vec![0; scenario.feeds.len()],
            slots: (0..scenario.slots.max(1)).map(|_| slot()).collect(),
            prepared: None,
            under_way: if overtakes {
                vec![VecDeque::new(); scenario.feeds.len() * scenario.sites.len()]
            } else {
                Vec::new()
            },
            dispatcher_free: 0,
            quiet_until: 0,
            woken: 0,
            plan: Plan::default(),
            out: Outcomes {
                streams: vec![Tally::default(); scenario.feeds.len()],
                batches: vec![(0, 0); scenario.sites.len()],
                spans: vec![Vec::new(); scenario.sites.len()],
                waits: vec![Vec::new(); scenario.sites.len()],
                ..Outcomes::default()
            },
            ceilings: vec![scenario.rung; scenario.feeds.len()],
            busy: 0,
            scenario,
        }
    }

    fn happens(&mut self, now: Nanos, event: Event) {
        match event {
            Event::Captured(feed) => self.captured(now, feed),
            Event::Ready(flight, branch, step) => self.ready(now, (flight, branch, step)),
            Event::Ended(slot) => self.ended(now, slot),
            Event::Delivered(flight, branch, site, left) => self.delivered(now, flight, branch, site, left),
            Event::Wake => {}
        }
    }

    fn captured(&mut self, now: Nanos, index: usize) {
        let feed = &self.scenario.feeds[index];
        let (seq, nominal) = self.next[index];
        let there = match &feed.recorded {
            Some(_) => true,
            None => feed.present.holds(nominal) && !feed.stalls.iter().any(|s| s.holds(nominal)),
        };
        if there {
            let ready = match &feed.recorded {
                Some(recorded) => recorded.get(seq as usize).map_or(now, |r| r.1),
                None => now + spread(feed.decode as f64, feed.decode_spread, &mut self.rng) as Nanos,
            };
            let ready = ready.max(self.decoded[index]);
            self.decoded[index] = ready;
            let flight = Flight {
                feed: index as u32,
                seq,
                captured: now,
                deadline: feed.deadline.map(|d| now + d),
                decode: ready - now,
                ready,
                preparing: 0,
                prepare: 0,
                execute: 0,
                crops: 0,
                open: feed.branches.len() as u32,
                rung: None,
                rescued: false,
                inferred: false,
                outcome: None,
                delivered: 0,
            };
            let at = match self.free.pop() {
                Some(at) => {
                    self.flights[at as usize] = flight;
                    at
                }
                None => {
                    self.flights.push(flight);
                    self.flights.len() as u32 - 1
                }
            };
            let tally = &mut self.out.streams[index];
            tally.captured += 1;
            tally.settled.0 += u64::from(now >= self.scenario.warmup);
            for branch in 0..feed.branches.len() as u16 {
                self.events.push(Reverse((ready, Event::Ready(at, branch, 0))));
            }
        }
        let seq = seq + u64::from(there);
        if let Some(recorded) = &feed.recorded {
            self.next[index] = (seq, nominal);
            let at = recorded.get(seq as usize).map(|r| Reverse((r.0.max(now), Event::Captured(index))));
            self.events.extend(at);
            return;
        }
        let following = nominal + feed.period;
        if following < self.scenario.length.min(feed.present.to) {
            self.next[index] = (seq, following);
            let at = arrival(feed, seq, following, &mut self.rng).max(now);
            self.events.push(Reverse((at, Event::Captured(index))));
        }
    }

    fn ready(&mut self, now: Nanos, token: Token) {
        let f = self.flights[token.0 as usize];
        if f.outcome.is_some_and(|o| !matches!(o, Outcome::OnTime | Outcome::Late)) {
            // Another branch has given it up; this one need not begin.
            self.lose(token, Outcome::Shed(ShedReason::Deadline));
            return;
        }
        let site = self.scenario.feeds[f.feed as usize].branches[usize::from(token.1)][usize::from(token.2)];
        self.flights[token.0 as usize].ready = now;
        let rung = if token.2 == 0 { None } else { f.rung };
        let places = self.scenario.sites[site].crops.unwrap_or(1);
        let waiting = Waiting { seq: f.seq, captured: f.captured, ready: now, deadline: f.deadline, rung, places };
        if let Some(out) = self.planner.arrive(f.feed, site, now, waiting, token) {
            self.lose(out, Outcome::Evicted);
        }
        if now < self.quiet_until && !self.planner.has_room(f.feed, site) {
            self.quiet_until = 0;
        }
    }

    /// A branch of a frame ended without a delivery.
    fn lose(&mut self, (at, _, _): Token, outcome: Outcome) {
        self.flights[at as usize].outcome = Some(outcome);
        self.close(at);
    }

    fn close(&mut self, at: u32) {
        let f = &mut self.flights[at as usize];
        f.open -= 1;
        if f.open > 0 {
            return;
        }
        let f = *f;
        if let Some(trail) = self.trails.get_mut(at as usize) {
            trail.clear();
        }
        let tally = &mut self.out.streams[f.feed as usize];
        match f.outcome {
            Some(Outcome::Shed(reason)) => tally.shed[reason as usize] += 1,
            Some(Outcome::Evicted) => tally.evicted += 1,
            _ => {
                if f.deadline.is_some_and(|d| f.delivered > d) {
                    tally.late += 1;
                    self.out.late_at.push(f.captured);
                } else {
                    tally.on_time += 1;
                    tally.settled.1 += u64::from(f.captured >= self.scenario.warmup);
                }
                tally.inferred += u64::from(f.inferred);
                tally.rescued += u64::from(f.rescued);
                let rung = f.rung.unwrap_or(0);
                if tally.rungs.len() <= rung {
                    tally.rungs.resize(rung + 1, 0);
                }
                tally.rungs[rung] += 1;
                if f.captured >= self.scenario.warmup {
                    tally.latencies.push(f.delivered - f.captured);
                    let parts = [f.decode, f.prepare, f.execute, self.scenario.truth.tail];
                    for (sum, part) in tally.parts.iter_mut().zip(parts) {
                        *sum += part as f64;
                    }
                }
            }
        }
        self.free.push(at);
    }

    fn ended(&mut self, now: Nanos, index: usize) {
        let slot = &mut self.slots[index];
        slot.busy = false;
        self.quiet_until = 0;
        let (site, variant, started, places) = (slot.site, slot.variant, slot.started, slot.places);
        let tokens = std::mem::take(&mut slot.tokens);
        self.busy += now - started;
        self.out.spans[site].push(now - started);
        self.planner.ran(site, variant, places, started, now - started);
        for &token in &tokens {
            let f = &mut self.flights[token.0 as usize];
            f.inferred = true;
            f.execute += now - started;
            self.done(now, token, site);
        }
        self.slots[index].tokens = tokens;
        self.slots[index].tokens.clear();
        self.start(now);
    }

    fn lane(&mut self, (at, _, _): Token, site: usize) -> Option<&mut VecDeque<(Token, bool)>> {
        let feed = self.flights[at as usize].feed as usize;
        self.under_way.get_mut(feed * self.scenario.sites.len() + site)
    }

    /// A frame is done at a site, and leaves it as soon as those before it have.
    fn done(&mut self, now: Nanos, token: Token, site: usize) {
        let Some(lane) = self.lane(token, site) else { return self.goes_on(now, token, site) };
        if let Some(own) = lane.iter_mut().find(|(t, _)| *t == token) {
            own.1 = true;
        }
        let next_done = |lane: &mut VecDeque<(Token, bool)>| match lane.front() {
            Some((_, true)) => lane.pop_front(),
            _ => None,
        };
        while let Some((token, _)) = self.lane(token, site).and_then(next_done) {
            self.goes_on(now, token, site);
        }
    }

    /// A frame has left a site: on to the next one of its branch, or to the sinks.
    fn goes_on(&mut self, now: Nanos, (at, branch, step): Token, site: usize) {
        let f = &mut self.flights[at as usize];
        if self.scenario.sites[site].crops.is_some() {
            f.crops += now - f.ready;
        }
        let crops = f.crops;
        let feed = &self.scenario.feeds[self.flights[at as usize].feed as usize];
        if usize::from(step) + 1 < feed.branches[usize::from(branch)].len() {
            if self.trails.len() <= at as usize {
                self.trails.resize(at as usize + 1, Vec::new());
            }
            self.trails[at as usize].push((branch, site, now, crops));
            self.events.push(Reverse((now, Event::Ready(at, branch, step + 1))));
        } else {
            let event = Event::Delivered(at, branch, site, now);
            self.events.push(Reverse((now + self.scenario.truth.tail, event)));
        }
    }

    fn delivered(&mut self, now: Nanos, at: u32, branch: u16, site: usize, left: Nanos) {
        let f = &mut self.flights[at as usize];
        f.delivered = f.delivered.max(now);
        let (feed, late, crops) = (f.feed, f.deadline.map_or(0, |d| now.saturating_sub(d)), f.crops);
        self.planner.delivered(site, feed, now, now - left, late);
        let trail = self.trails.get(at as usize).into_iter().flatten();
        for &(_, site, left, before) in trail.filter(|t| t.0 == branch) {
            self.planner.came_through(site, now, (now - left).saturating_sub(crops - before));
        }
        self.close(at);
    }

    /// Starts the prepared batch where a slot is free.
    fn start(&mut self, now: Nanos) {
        let Some(batch) = &self.prepared else { return };
        if batch.ready > now {
            return;
        }
        let Some(index) = self.slots.iter().position(|s| !s.busy) else { return };
        let Some(batch) = self.prepared.take() else { return };
        let v = &self.scenario.sites[batch.site].variants[batch.variant];
        let places = batch.places;
        let model = v.cost.alpha() as f64 + v.cost.beta() as f64 * places as f64;
        let span = self.really(now, batch.site, model);
        for &(at, _, _) in &batch.tokens {
            let f = &self.flights[at as usize];
            self.out.waits[batch.site].push(now.saturating_sub(f.ready + f.preparing));
        }
        let slot = &mut self.slots[index];
        (slot.busy, slot.site, slot.variant, slot.started) = (true, batch.site, batch.variant, now);
        slot.ends = now + span;
        slot.places = places;
        slot.expected = now + self.planner.expected(batch.site, batch.variant, places);
        let counts = &mut self.out.batches[batch.site];
        counts.0 += u64::from(!batch.tokens.is_empty());
        counts.1 += batch.tokens.len() as u64;
        slot.tokens = batch.tokens;
        self.events.push(Reverse((now + span, Event::Ended(index))));
    }

    /// What a batch that starts now really takes.
    fn really(&mut self, now: Nanos, site: usize, model: f64) -> Nanos {
        let truth = &self.scenario.truth;
        if let Some(recorded) = truth.recorded.get(site).filter(|r| !r.is_empty()) {
            let before = recorded.partition_point(|r| r.0 <= now);
            return (model * recorded[before.saturating_sub(1)].1).max(1.0) as Nanos;
        }
        let mut span = model;
        for (when, factor) in &truth.slowdowns {
            if when.holds(now) {
                span *= factor;
            }
        }
        span = spread(span, truth.spread, &mut self.rng);
        if truth.outliers.0 > 0.0 && self.rng.f64() < truth.outliers.0 {
            span += truth.outliers.1 as f64;
        }
        span.max(1.0) as Nanos
    }

    /// Asks the planner while it has something for the device, as the dispatcher does.
    fn decide(&mut self, now: Nanos) {
        if now < self.quiet_until {
            return;
        }
        self.start(now);
        while self.prepared.is_none() && now >= self.dispatcher_free {
            let busy = self.slots.iter().filter(|s| s.busy).count();
            let free_at =
                if busy < self.slots.len() { now } else { self.slots.iter().map(|s| s.expected).min().unwrap_or(now) };
            let mut plan = std::mem::take(&mut self.plan);
            let next = self.planner.plan(now, free_at, &mut plan);
            self.out.decisions += 1;
            self.note_climbs(now);
            for (token, reason) in plan.shed.drain(..) {
                self.lose(token, Outcome::Shed(reason));
            }
            if !self.under_way.is_empty() {
                let run = plan.run.iter().filter_map(|c| match next {
                    Next::Run { site, .. } => Some((site, c.item)),
                    _ => None,
                });
                let of = |b: &Bypass<Token>| (b.site, b.item);
                for (site, item) in plan.pass.iter().map(of).chain(run).chain(plan.follow.iter().map(of)) {
                    self.lane(item, site).into_iter().for_each(|l| l.push_back((item, false)));
                }
            }
            for passed in plan.pass.drain(..).chain(plan.follow.drain(..)) {
                self.choose(passed.item, passed.rung, false);
                self.done(now, passed.item, passed.site);
            }
            let go = match next {
                Next::Run { site, variant } => Some((site, variant)),
                Next::Probe { site, variant } => Some((site, variant)),
                Next::WaitUntil(at) => {
                    self.wake(at.max(now + 1));
                    // Frames that need no device go on at once, so there every arrival counts.
                    if busy == self.slots.len() && self.under_way.is_empty() {
                        self.quiet_until = at.min(now + SECOND / 4);
                    }
                    None
                }
                Next::Idle => None,
            };
            if let Some((site, variant)) = go {
                let each = self.scenario.sites[site].variants[variant].cost.prepare.mean();
                let filled = plan.run.iter().map(|c| c.places).sum::<usize>();
                let span = each * filled as Nanos;
                let tokens: Vec<Token> = plan.run.iter().map(|c| c.item).collect();
                let places = self.scenario.sites[site].variants[variant].warmed(filled.max(1));
                let tail = self.planner.sites()[site].tail.mean();
                let expected = now.max(free_at) + span + self.planner.expected(site, variant, places) + tail;
                for chosen in plan.run.drain(..) {
                    self.choose(chosen.item, chosen.rung, chosen.rescued);
                    let f = &mut self.flights[chosen.item.0 as usize];
                    f.prepare += span;
                    self.out.known_late += u64::from(f.deadline.is_some_and(|d| expected > d));
                    f.preparing = span;
                    if each > 0 {
                        self.planner.prepared(site, variant, each);
                    }
                }
                self.dispatcher_free = now + span;
                self.prepared = Some(Prepared { site, variant, ready: now + span, places, tokens });
                self.wake(now + span);
                self.start(now);
            }
            self.plan = plan;
            if go.is_none() {
                break;
            }
        }
        // A planner that is never asked takes its process for frozen, and dispatchers ask several times a second.
        if self.events.peek().is_some_and(|Reverse((at, _))| *at > now + SECOND / 2) {
            self.wake(now + SECOND / 2);
        }
        // While something is shed, nothing else may happen for a long time, and a probe is due.
        if self.events.is_empty() && self.planner.waiting() > 0 {
            self.wake(now + MILLI);
        }
    }

    fn wake(&mut self, at: Nanos) {
        if at != self.woken {
            self.woken = at;
            self.events.push(Reverse((at, Event::Wake)));
        }
    }

    fn choose(&mut self, (flight, _, _): Token, rung: usize, rescued: bool) {
        let f = &mut self.flights[flight as usize];
        f.rung = Some(f.rung.map_or(rung, |r| r.max(rung)));
        f.rescued |= rescued;
    }

    fn note_climbs(&mut self, now: Nanos) {
        if self.scenario.sites.iter().all(|s| s.rungs.len() < 2) {
            return;
        }
        for (i, was) in self.ceilings.iter_mut().enumerate() {
            let rung = self.planner.ceiling(i as u32);
            if rung != *was {
                *was = rung;
                self.out.climbs.push((now, i, rung));
            }
        }
    }

    fn finish(mut self) -> Outcomes {
        for (i, tally) in self.out.streams.iter_mut().enumerate() {
            tally.moves = self.planner.moves(i as u32);
        }
        self.out.busy = self.busy as f64 / (self.scenario.length.max(1) * self.slots.len() as u64) as f64;
        self.out
    }
}

/// A span around `mean`, log-normally spread by this share of it.
fn spread(mean: f64, share: f64, rng: &mut fastrand::Rng) -> f64 {
    if share <= 0.0 {
        return mean;
    }
    // Box and Muller, 1958. Without the correction the mean would lie above the model's.
    let (u, v) = (1.0 - rng.f64(), rng.f64());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    mean * (share * normal - share.powi(2) / 2.0).exp()
}

/// When the frame of number `seq` that is due at `nominal` arrives.
fn arrival(feed: &Feed, seq: u64, nominal: Nanos, rng: &mut fastrand::Rng) -> Nanos {
    let late = if feed.jitter > 0 { rng.u64(0..=feed.jitter) } else { 0 };
    let burst = u64::from(feed.burst.max(1));
    // With the last frame of its burst.
    let at = nominal + late + (burst - 1 - seq % burst) * feed.period;
    feed.pauses.iter().find(|p| p.holds(at)).map_or(at, |p| p.to)
}

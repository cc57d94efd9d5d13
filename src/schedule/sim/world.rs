//! Frames on their way: captured, from stage to stage and from device to device, delivered or given up, and counted.

use super::device::Running;
use super::feed::{Route, arrival};
use super::{Outcomes, Scenario, Tally, spread};
use crate::frame::clock::{MILLI, SECOND};
use crate::frame::{Nanos, Outcome, ShedReason};
use crate::schedule::{Lane, Planner, Site, Waiting};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A frame under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    feed: u32,
    seq: u64,
    captured: Nanos,
    pub(super) deadline: Option<Nanos>,
    decode: Nanos,
    /// When it came to the site where it is, and what its preprocess there took.
    pub(super) ready: Nanos,
    pub(super) preparing: Nanos,
    pub(super) prepare: Nanos,
    pub(super) execute: Nanos,
    /// Branches that have not ended yet.
    open: u32,
    pub(super) rung: Option<usize>,
    pub(super) rescued: bool,
    pub(super) inferred: bool,
    /// The worst that happened to it so far.
    outcome: Option<Outcome>,
    delivered: Nanos,
    /// Steps that it has made, and branches that will not go on; kept where branches begin behind others.
    made: u64,
    dead: u64,
}

/// A frame on one of its branches: its place among the flights, the branch, the step on it.
pub(super) type Token = (u32, u16, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A slot of a device is done with its batch.
    Ended(u16, u16),
    /// A frame reaches the end of its way: place, branch.
    Delivered(u32, u16),
    /// A frame is ready for a step of a branch.
    Ready(u32, u16, u16),
    /// A stream captures its next frame.
    Captured(usize),
    /// A planner asked to be asked again.
    Wake,
}

/// A frame left a site.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// The step, as its bit.
    step: u64,
    site: usize,
    at: Nanos,
    /// What it spent there, if on crops: they take what the rest of the way leaves.
    crops: Nanos,
}

pub(super) struct World<'s> {
    pub(super) scenario: &'s Scenario,
    pub(super) rng: fastrand::Rng,
    pub(super) devices: Vec<Running<'s>>,
    /// The device of each site, and its number there.
    places: Vec<(usize, usize)>,
    /// The ways of the streams.
    routes: Vec<Route>,
    pub(super) flights: Vec<Flight>,
    /// The sites that frames have left before their last one. By place among the flights.
    trails: Vec<Vec<Left>>,
    free: Vec<u32>,
    events: BinaryHeap<Reverse<(Nanos, Event)>>,
    /// The next frame's number and nominal time, by stream.
    next: Vec<(u64, Nanos)>,
    /// When each stream's last frame was ready: decoding keeps the order.
    decoded: Vec<Nanos>,
    /// What has left a planner and not its site, by feed and site, where frames can overtake each other: who is done
    /// waits for those before it. Empty where none can.
    pub(super) under_way: Vec<VecDeque<(Token, bool)>>,
    woken: Nanos,
    /// There are rungs to climb.
    pub(super) climbs: bool,
    pub(super) out: Outcomes,
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
        let mut places = vec![(usize::MAX, 0); scenario.sites.len()];
        let mut devices = Vec::new();
        for (d, device) in scenario.devices.iter().enumerate() {
            for (local, &site) in device.sites.iter().enumerate() {
                places[site] = (d, local);
            }
            let sites = device.sites.iter().map(|&s| scenario.sites[s].clone()).collect();
            devices.push(Running::new(device, Planner::new(sites, device.slots).with_policy(scenario.policy)));
        }
        let mut rng = fastrand::Rng::with_seed(scenario.seed);
        let (mut events, mut next) = (BinaryHeap::new(), Vec::new());
        let routes: Vec<Route> = scenario.feeds.iter().map(Route::new).collect();
        for (i, (feed, route)) in scenario.feeds.iter().zip(&routes).enumerate() {
            let stream = i as u32;
            let mut sites: Vec<usize> = feed.branches.iter().flatten().copied().collect();
            sites.sort_unstable();
            sites.dedup();
            let first = |(b, branch): (usize, &Vec<usize>)| branch.first().copied().filter(|_| route.is_root(b as u16));
            let entries: Vec<usize> = feed.branches.iter().enumerate().filter_map(first).collect();
            devices.iter_mut().for_each(|d| d.ceilings.push(None));
            for site in sites {
                let (device, local) = places[site];
                let entry = entries.contains(&site);
                devices[device].planner.open(Lane {
                    stream,
                    site: local,
                    priority: feed.priority,
                    deadline: feed.deadline,
                    by_count: false,
                    capacity: feed.capacity,
                    entry,
                });
                if entry {
                    devices[device].ceilings[i] = Some(scenario.rung);
                }
            }
            for device in &mut devices {
                // The rung is chosen where a frame begins; devices behind take it from the frame.
                if device.ceilings[i].is_some() {
                    device.planner.set_ceiling(stream, scenario.rung);
                }
                device.planner.admit(stream, !scenario.refused.contains(&i));
            }
            let phase = feed.phase.unwrap_or_else(|| rng.u64(0..feed.period.max(1)));
            next.push((0, phase));
            let first = match &feed.recorded {
                Some(recorded) => recorded.first().map(|r| r.0),
                None => Some(arrival(feed, 0, phase, &mut rng)),
            };
            events.extend(first.map(|at| Reverse((at, Event::Captured(i)))));
        }
        let carries = |s: &Site| s.rungs.iter().any(|r| r.variant.is_none() || r.every > 1);
        let overtakes = scenario.devices.iter().any(|d| d.slots > 1) || scenario.sites.iter().any(carries);
        let lanes = if overtakes { scenario.feeds.len() * scenario.sites.len() } else { 0 };
        Self {
            rng,
            devices,
            places,
            routes,
            flights: Vec::new(),
            trails: Vec::new(),
            free: Vec::new(),
            events,
            next,
            decoded: vec![0; scenario.feeds.len()],
            under_way: vec![VecDeque::new(); lanes],
            woken: 0,
            climbs: scenario.sites.iter().any(|s| s.rungs.len() > 1),
            out: Outcomes {
                streams: vec![Tally::default(); scenario.feeds.len()],
                batches: vec![(0, 0); scenario.sites.len()],
                spans: vec![Vec::new(); scenario.sites.len()],
                waits: vec![Vec::new(); scenario.sites.len()],
                ..Outcomes::default()
            },
            scenario,
        }
    }

    pub(super) fn happens_at(&mut self, at: Nanos, event: Event) {
        self.events.push(Reverse((at, event)));
    }

    fn happens(&mut self, now: Nanos, event: Event) {
        match event {
            Event::Captured(feed) => self.captured(now, feed),
            Event::Ready(flight, branch, step) => self.ready(now, (flight, branch, step)),
            Event::Ended(device, slot) => self.ended(now, usize::from(device), usize::from(slot)),
            Event::Delivered(flight, branch) => self.delivered(now, flight, branch),
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
                None => now + spread(feed.decode as f64, feed.decode_spread, (0.0, 0.0), &mut self.rng) as Nanos,
            };
            let ready = ready.max(self.decoded[index]);
            self.decoded[index] = ready;
            let at = self.takes_off(Flight {
                feed: index as u32,
                seq,
                captured: now,
                deadline: feed.deadline.map(|d| now + d),
                decode: ready - now,
                ready,
                preparing: 0,
                prepare: 0,
                execute: 0,
                open: feed.branches.len() as u32,
                rung: None,
                rescued: false,
                inferred: false,
                outcome: None,
                delivered: 0,
                made: 0,
                dead: 0,
            });
            let tally = &mut self.out.streams[index];
            tally.captured += 1;
            tally.settled.0 += u64::from(now >= self.scenario.warmup);
            for branch in 0..feed.branches.len() as u16 {
                if self.routes[index].is_root(branch) {
                    self.happens_at(ready, Event::Ready(at, branch, 0));
                }
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
            self.happens_at(at, Event::Captured(index));
        }
    }

    /// A place for a frame, used again.
    fn takes_off(&mut self, flight: Flight) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.flights[at as usize] = flight;
                at
            }
            None => {
                self.flights.push(flight);
                self.flights.len() as u32 - 1
            }
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
        let begins = token.2 == 0 && self.routes[f.feed as usize].is_root(token.1);
        // What has passed a stage has a rung, as in the engine, if only by default.
        let rung = if begins { None } else { f.rung };
        let places = self.scenario.sites[site].crops.unwrap_or(1);
        let waiting = Waiting { seq: f.seq, captured: f.captured, ready: now, deadline: f.deadline, rung, places };
        let (device, local) = self.places[site];
        let d = &mut self.devices[device];
        let out = d.planner.arrive(f.feed, local, now, waiting, token);
        if now < d.quiet_until && !d.planner.has_room(f.feed, local) {
            d.quiet_until = 0;
        }
        if let Some(out) = out {
            self.lose(out, Outcome::Evicted);
        }
    }

    /// A branch of a frame ended without a delivery, and so do those that wait for it.
    pub(super) fn lose(&mut self, (at, branch, _): Token, outcome: Outcome) {
        let f = &mut self.flights[at as usize];
        f.outcome = Some(outcome);
        let route = &self.routes[f.feed as usize];
        if !route.forks().is_empty() {
            f.dead |= 1_u64.checked_shl(u32::from(branch)).unwrap_or(0);
            for &(fork, behind) in route.forks() {
                let bit = 1_u64.checked_shl(u32::from(fork)).unwrap_or(0);
                if f.dead & bit == 0 && route.waits_for(behind & !f.made, f.dead) {
                    f.dead |= bit;
                    f.open -= 1;
                }
            }
        }
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

    pub(super) fn lane(&mut self, (at, _, _): Token, site: usize) -> Option<&mut VecDeque<(Token, bool)>> {
        let feed = self.flights[at as usize].feed as usize;
        self.under_way.get_mut(feed * self.scenario.sites.len() + site)
    }

    /// A frame is done at a site, and leaves it as soon as those before it have.
    pub(super) fn done(&mut self, now: Nanos, token: Token, site: usize) {
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

    /// A frame has left a site: on to the next one of its branch, to branches that begin here, or to the sinks.
    fn goes_on(&mut self, now: Nanos, (at, branch, step): Token, site: usize) {
        let f = &mut self.flights[at as usize];
        let (feed, route) = (&self.scenario.feeds[f.feed as usize], &self.routes[f.feed as usize]);
        let further = usize::from(step) + 1 < feed.branches[usize::from(branch)].len();
        let bit = route.step(usize::from(branch), usize::from(step));
        let mut forks = false;
        if !route.forks().is_empty() {
            f.made |= bit;
            for &(fork, behind) in route.forks().iter().filter(|f| f.1 & bit != 0) {
                forks = true;
                if f.made & behind == behind {
                    self.events.push(Reverse((now, Event::Ready(at, fork, 0))));
                }
            }
        }
        let crops = self.scenario.sites[site].crops.map_or(0, |_| now - f.ready);
        if self.trails.len() <= at as usize {
            self.trails.resize(at as usize + 1, Vec::new());
        }
        self.trails[at as usize].push(Left { step: bit, site, at: now, crops });
        if !further && !forks {
            self.happens_at(now + self.scenario.truth.tail, Event::Delivered(at, branch));
        } else if further {
            self.happens_at(now, Event::Ready(at, branch, step + 1));
        } else {
            self.close(at);
        }
    }

    fn delivered(&mut self, now: Nanos, at: u32, branch: u16) {
        let f = &mut self.flights[at as usize];
        f.delivered = f.delivered.max(now);
        let (feed, late) = (f.feed, f.deadline.map_or(0, |d| now.saturating_sub(d)));
        let upstream = self.routes[feed as usize].upstream(branch);
        let trail = self.trails.get(at as usize).map_or(&[][..], Vec::as_slice);
        let mut crops = 0;
        for (i, way) in trail.iter().enumerate().rev().filter(|(_, w)| w.step & upstream != 0) {
            let (device, local) = self.places[way.site];
            let behind = |w: &Left| w.step & upstream != 0 && self.places[w.site].0 == device;
            let planner = &mut self.devices[device].planner;
            let tail = (now - way.at).saturating_sub(crops);
            // Every device hears once how the frame was delivered, at the last of its stages on the way.
            if trail[i + 1..].iter().any(behind) {
                planner.came_through(local, now, tail);
            } else {
                planner.delivered(local, feed, now, tail, late);
            }
            crops += way.crops;
        }
        self.close(at);
    }

    /// Asks the planners of all devices.
    fn decide(&mut self, now: Nanos) {
        let mut asked = false;
        for device in 0..self.devices.len() {
            asked |= self.dispatch(now, device);
        }
        if !asked {
            return;
        }
        // A planner that is never asked takes its process for frozen, and dispatchers ask several times a second.
        if self.events.peek().is_some_and(|Reverse((at, _))| *at > now + SECOND / 2) {
            self.wake(now + SECOND / 2);
        }
        // While something is shed, nothing else may happen for a long time, and a probe is due.
        if self.events.is_empty() && self.devices.iter().any(|d| d.planner.waiting() > 0) {
            self.wake(now + MILLI);
        }
    }

    pub(super) fn wake(&mut self, at: Nanos) {
        if at != self.woken {
            self.woken = at;
            self.happens_at(at, Event::Wake);
        }
    }

    fn finish(mut self) -> Outcomes {
        for (i, tally) in self.out.streams.iter_mut().enumerate() {
            for device in self.devices.iter().filter(|d| d.ceilings[i].is_some()) {
                let (down, up) = device.planner.moves(i as u32);
                tally.moves = (tally.moves.0 + down, tally.moves.1 + up);
            }
        }
        let share = |(busy, all): (Nanos, Nanos)| busy as f64 / all.max(1) as f64;
        let loads = || self.devices.iter().map(|d| d.load(self.scenario.length));
        self.out.busy = share(loads().fold((0, 0), |(b, a), (busy, all)| (b + busy, a + all)));
        self.out.loads = loads().map(share).collect();
        self.out
    }
}

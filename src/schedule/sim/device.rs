//! One device of the world: its planner, the dispatcher that asks it and prepares batches, and the slots that run them.

use super::scenario::{Device, Truth};
use super::world::{Event, Token, World};
use super::{normal, spread};
use crate::frame::clock::SECOND;
use crate::frame::{Nanos, Outcome};
use crate::schedule::{Bypass, Next, Plan, Planner};

pub(super) struct Slot {
    busy: bool,
    site: usize,
    variant: usize,
    started: Nanos,
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

/// A device as it runs. Its planner numbers the stages by themselves: `sites` are the world's.
pub(super) struct Running<'s> {
    told: &'s Device,
    pub(super) planner: Planner<Token>,
    slots: Vec<Slot>,
    prepared: Option<Prepared>,
    /// The dispatcher prepares one batch after the other.
    dispatcher_free: Nanos,
    /// Before this time the planner has nothing new to say: all slots are busy, and there is room for who arrives.
    pub(super) quiet_until: Nanos,
    plan: Plan<Token>,
    /// By stream: whether its ladder is this planner's, and where its ceiling was last.
    pub(super) ceilings: Vec<Option<usize>>,
    busy: Nanos,
    /// What stays of the batches' deviation, and since when: a standard normal variable.
    drift: (f64, Nanos),
}

impl<'s> Running<'s> {
    pub(super) fn new(told: &'s Device, planner: Planner<Token>) -> Self {
        let slot = || Slot { busy: false, site: 0, variant: 0, started: 0, expected: 0, places: 0, tokens: Vec::new() };
        Self {
            told,
            planner,
            slots: (0..told.slots.max(1)).map(|_| slot()).collect(),
            prepared: None,
            dispatcher_free: 0,
            quiet_until: 0,
            plan: Plan::default(),
            ceilings: Vec::new(),
            busy: 0,
            drift: (0.0, 0),
        }
    }

    /// How far the device has drifted at `now`, and what share of the variance that is: a first-order autoregressive
    /// process.
    fn drifts(&mut self, now: Nanos, truth: &Truth, rng: &mut fastrand::Rng) -> (f64, f64) {
        let (share, lasts) = truth.drift;
        if share <= 0.0 || lasts == 0 || truth.spread <= 0.0 {
            return (0.0, 0.0);
        }
        let (value, since) = self.drift;
        let kept = (-((now - since) as f64) / lasts as f64).exp();
        self.drift = (kept * value + (1.0 - kept * kept).sqrt() * normal(rng), now);
        (share.min(1.0), self.drift.0)
    }

    /// Time that slots were busy, and what there was.
    pub(super) fn load(&self, length: Nanos) -> (Nanos, Nanos) {
        (self.busy, length.max(1) * self.slots.len() as u64)
    }
}

impl World<'_> {
    /// A slot of a device is done with its batch.
    pub(super) fn ended(&mut self, now: Nanos, device: usize, index: usize) {
        let d = &mut self.devices[device];
        let slot = &mut d.slots[index];
        slot.busy = false;
        d.quiet_until = 0;
        let (local, variant, started, places) = (slot.site, slot.variant, slot.started, slot.places);
        let tokens = std::mem::take(&mut slot.tokens);
        d.busy += now - started;
        let site = d.told.sites[local];
        self.out.spans[site].push(now - started);
        d.planner.ran(local, variant, places, started, now - started);
        for &token in &tokens {
            let f = &mut self.flights[token.0 as usize];
            f.inferred = true;
            f.execute += now - started;
            self.done(now, token, site);
        }
        let slot = &mut self.devices[device].slots[index];
        slot.tokens = tokens;
        slot.tokens.clear();
        self.start(now, device);
    }

    /// Starts the prepared batch where a slot is free.
    fn start(&mut self, now: Nanos, device: usize) {
        let d = &mut self.devices[device];
        let Some(batch) = d.prepared.take_if(|b| b.ready <= now) else { return };
        let Some(index) = d.slots.iter().position(|s| !s.busy) else {
            d.prepared = Some(batch);
            return;
        };
        let site = d.told.sites[batch.site];
        let v = &self.scenario.sites[site].variants[batch.variant];
        let places = batch.places;
        let model = v.cost.alpha() as f64 + v.cost.beta() as f64 * places as f64;
        let span = self.really(now, device, site, model);
        for &(at, _, _) in &batch.tokens {
            let f = &self.flights[at as usize];
            self.out.waits[site].push(now.saturating_sub(f.ready + f.preparing));
        }
        let d = &mut self.devices[device];
        let slot = &mut d.slots[index];
        (slot.busy, slot.site, slot.variant, slot.started) = (true, batch.site, batch.variant, now);
        slot.places = places;
        slot.expected = now + d.planner.expected(batch.site, batch.variant, places);
        let counts = &mut self.out.batches[site];
        counts.0 += u64::from(!batch.tokens.is_empty());
        counts.1 += batch.tokens.len() as u64;
        slot.tokens = batch.tokens;
        self.happens_at(now + span, Event::Ended(device as u16, index as u16));
    }

    /// What a batch that starts now really takes.
    fn really(&mut self, now: Nanos, device: usize, site: usize, model: f64) -> Nanos {
        let truth = &self.scenario.truth;
        if let Some(recorded) = truth.recorded.get(site).filter(|r| !r.is_empty()) {
            let before = recorded.partition_point(|r| r.0 <= now);
            return (model * recorded[before.saturating_sub(1)].1).max(1.0) as Nanos;
        }
        let mut span = model;
        for (when, factor) in truth.slowdowns.iter().chain(&self.devices[device].told.slowdowns) {
            if when.holds(now) {
                span *= factor;
            }
        }
        let drifts = self.devices[device].drifts(now, truth, &mut self.rng);
        span = spread(span, truth.spread, drifts, &mut self.rng);
        if truth.outliers.0 > 0.0 && self.rng.f64() < truth.outliers.0 {
            span += truth.outliers.1 as f64;
        }
        span.max(1.0) as Nanos
    }

    /// Asks a device's planner while it has something for the device, as the dispatcher does. Says whether it was asked.
    pub(super) fn dispatch(&mut self, now: Nanos, device: usize) -> bool {
        if now < self.devices[device].quiet_until {
            return false;
        }
        self.start(now, device);
        loop {
            let d = &mut self.devices[device];
            if d.prepared.is_some() || now < d.dispatcher_free {
                return true;
            }
            let busy = d.slots.iter().filter(|s| s.busy).count();
            let free_at =
                if busy < d.slots.len() { now } else { d.slots.iter().map(|s| s.expected).min().unwrap_or(now) };
            let mut plan = std::mem::take(&mut d.plan);
            let next = d.planner.plan(now, free_at, &mut plan);
            self.out.decisions += 1;
            self.note_climbs(now, device);
            self.let_go(now, device, next, &mut plan);
            let run = match next {
                Next::Run { site, variant } | Next::Probe { site, variant } => Some((site, variant)),
                Next::WaitUntil(at) => {
                    self.wake(at.max(now + 1));
                    // Frames that need no device go on at once, so there every arrival counts.
                    let d = &mut self.devices[device];
                    if busy == d.slots.len() && self.under_way.is_empty() {
                        d.quiet_until = at.min(now + SECOND / 4);
                    }
                    None
                }
                Next::Idle => None,
            };
            if let Some(route) = run {
                self.prepare(now, device, route, free_at, &mut plan);
            }
            self.devices[device].plan = plan;
            if run.is_none() {
                return true;
            }
        }
    }

    /// Does what a decision says of frames that are not in the batch.
    fn let_go(&mut self, now: Nanos, device: usize, next: Next, plan: &mut Plan<Token>) {
        for (token, reason) in plan.shed.drain(..) {
            self.lose(token, Outcome::Shed(reason));
        }
        let sites = &self.devices[device].told.sites;
        if !self.under_way.is_empty() {
            let run = plan.run.iter().filter_map(|c| match next {
                Next::Run { site, .. } => Some((site, c.item)),
                _ => None,
            });
            let of = |b: &Bypass<Token>| (b.site, b.item);
            for (site, item) in plan.pass.iter().map(of).chain(run).chain(plan.follow.iter().map(of)) {
                self.lane(item, sites[site]).into_iter().for_each(|l| l.push_back((item, false)));
            }
        }
        for passed in plan.pass.drain(..).chain(plan.follow.drain(..)) {
            let site = self.devices[device].told.sites[passed.site];
            self.choose(passed.item, passed.rung, false);
            self.done(now, passed.item, site);
        }
    }

    /// Reads a decision's frames into a batch.
    fn prepare(
        &mut self,
        now: Nanos,
        device: usize,
        (local, variant): (usize, usize),
        free_at: Nanos,
        plan: &mut Plan<Token>,
    ) {
        let d = &mut self.devices[device];
        let site = d.told.sites[local];
        let v = &self.scenario.sites[site].variants[variant];
        let each = v.cost.prepare.mean();
        let filled = plan.run.iter().map(|c| c.places).sum::<usize>();
        let span = each * filled as Nanos;
        let tokens: Vec<Token> = plan.run.iter().map(|c| c.item).collect();
        let places = v.warmed(filled.max(1));
        let tail = d.planner.sites()[local].tail.mean();
        let expected = now.max(free_at) + span + d.planner.expected(local, variant, places) + tail;
        for chosen in plan.run.drain(..) {
            self.choose(chosen.item, chosen.rung, chosen.rescued);
            let f = &mut self.flights[chosen.item.0 as usize];
            f.prepare += span;
            self.out.known_late += u64::from(f.deadline.is_some_and(|d| expected > d));
            f.preparing = span;
            if each > 0 {
                self.devices[device].planner.prepared(local, variant, each);
            }
        }
        let d = &mut self.devices[device];
        d.dispatcher_free = now + span;
        d.prepared = Some(Prepared { site: local, variant, ready: now + span, places, tokens });
        self.wake(now + span);
        self.start(now, device);
    }

    fn choose(&mut self, (flight, _, _): Token, rung: usize, rescued: bool) {
        let f = &mut self.flights[flight as usize];
        f.rung = Some(f.rung.map_or(rung, |r| r.max(rung)));
        f.rescued |= rescued;
    }

    fn note_climbs(&mut self, now: Nanos, device: usize) {
        if !self.climbs {
            return;
        }
        let d = &mut self.devices[device];
        for (i, was) in d.ceilings.iter_mut().enumerate() {
            let Some(was) = was else { continue };
            let rung = d.planner.ceiling(i as u32);
            if rung != *was {
                *was = rung;
                self.out.climbs.push((now, i, rung));
            }
        }
    }
}

//! The ladder: each stream's ceiling, the best rung that its frames run on. Down quickly when frames miss or queues
//! stand, up slowly and only if it fits, and ever more slowly where it did not last.

use crate::frame::Nanos;
use crate::frame::clock::{MILLI, SECOND};
use std::cmp::Reverse;

/// A stream is in trouble when this share of its frames misses.
const MISSES: f64 = 0.01;
/// The same where the device is busy for less than [`BUSY`]: then misses come from elsewhere, and a lower rung helps
/// only where they are many.
const MISSES_IDLE: f64 = 0.05;
/// Weight of one frame in a stream's share of misses: three misses close together pass [`MISSES`], a single one does not.
const MISS_GAIN: f64 = 0.004;
/// The same for whether it may go up again: about the last second counts.
const LATELY_GAIN: f64 = 0.03;
/// A queue stands when every frame of a whole interval waited longer than the target (after CoDel, RFC 8289).
const INTERVAL: Nanos = SECOND / 2;
/// The target, as a share of the deadline.
const TARGET: f64 = 0.25;
/// After a step down, so long nothing is concluded: what is under way was planned before it.
const SETTLE: Nanos = 100 * MILLI;
/// Below this share of its time a device has room enough for any pattern of arrivals.
const BUSY: f64 = 0.7;
/// Going down stops where the device would be busy for less than this share of the time, and going up must leave it so.
const ROOM: f64 = 0.95;
/// A stream stays at least this long where it is before it goes up.
const HOLD: Nanos = 3 * SECOND / 2;
/// The longest hold-down.
const HOLD_MAX: Nanos = 60 * SECOND;
/// A step down within this time after a step up, or within twice the hold-down, means that the step up did not last.
const LASTING: Nanos = 10 * SECOND;
/// One of so many streams goes up in one look, and at least one.
const UP_AT_ONCE: usize = 32;

/// One stream's ceiling.
#[derive(Debug, Clone)]
pub(super) struct Ladder {
    rung: usize,
    misses: f64,
    lately: f64,
    changed_at: Nanos,
    raised_at: Option<Nanos>,
    hold: Nanos,
    down: u64,
    up: u64,
}

impl Ladder {
    pub(super) fn new() -> Self {
        Self { rung: 0, misses: 0.0, lately: 0.0, changed_at: 0, raised_at: None, hold: HOLD, down: 0, up: 0 }
    }

    /// Starts on this rung.
    pub(super) fn start_at(&mut self, rung: usize) {
        self.rung = rung;
    }

    pub(super) fn rung(&self) -> usize {
        self.rung
    }

    /// Steps down and up so far.
    pub(super) fn moves(&self) -> (u64, u64) {
        (self.down, self.up)
    }

    /// A frame of the stream was delivered on time, or missed its deadline.
    pub(super) fn outcome(&mut self, missed: bool) {
        let missed = f64::from(u8::from(missed));
        self.misses += MISS_GAIN * (missed - self.misses);
        self.lately += LATELY_GAIN * (missed - self.lately);
    }

    /// Trouble came: if that was soon after a step up, the next one waits twice as long.
    fn judge(&mut self, now: Nanos) {
        if let Some(raised) = self.raised_at.take() {
            let lasted = now.saturating_sub(raised) >= LASTING.max(2 * self.hold);
            self.hold = if lasted { HOLD } else { (2 * self.hold).min(HOLD_MAX) };
        }
    }

    fn lower(&mut self, now: Nanos, to: usize) {
        self.judge(now);
        self.changed_at = now;
        self.rung = to;
        self.down += 1;
    }

    fn raise(&mut self, now: Nanos, to: usize) {
        self.raised_at = Some(now);
        self.changed_at = now;
        self.rung = to;
        self.up += 1;
        self.misses = 0.0;
    }
}

/// The rungs, and which of them can be used: one whose models are not loaded yet is shut.
#[derive(Debug, Clone)]
pub(super) struct Rungs {
    states: Vec<State>,
    wanted: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Shut,
    /// Shut for good.
    Lost,
}

impl Rungs {
    /// So many open ones.
    pub(super) fn open(count: usize) -> Self {
        Self { states: vec![State::Open; count], wanted: None }
    }

    pub(super) fn count(&self) -> usize {
        self.states.len()
    }

    pub(super) fn is_open(&self, rung: usize) -> bool {
        self.states.get(rung) == Some(&State::Open)
    }

    fn set(&mut self, rung: usize, state: State) {
        if let Some(s) = self.states.get_mut(rung) {
            *s = state;
        }
        self.wanted = self.wanted.filter(|&w| w != rung);
    }

    pub(super) fn shut(&mut self, rung: usize) {
        self.set(rung, State::Shut);
    }

    pub(super) fn opens(&mut self, rung: usize) {
        self.set(rung, State::Open);
    }

    pub(super) fn gives_up(&mut self, rung: usize) {
        self.set(rung, State::Lost);
    }

    /// A shut one that a stream would have gone down to.
    pub(super) fn wanted(&self) -> Option<usize> {
        self.wanted
    }

    /// The lowest open one.
    pub(super) fn lowest(&self) -> usize {
        self.states.iter().rposition(|s| *s == State::Open).unwrap_or(0)
    }

    /// The next open one below.
    fn below(&self, rung: usize) -> Option<usize> {
        (rung + 1..self.count()).find(|&r| self.is_open(r))
    }

    /// The next open one above.
    fn above(&self, rung: usize) -> Option<usize> {
        (0..rung).rev().find(|&r| self.is_open(r))
    }

    /// A stream on this rung is in trouble: the next rung below would help, if it were open.
    fn wants_below(&mut self, rung: usize) {
        let next = (rung + 1..self.count()).find(|&r| self.states[r] != State::Lost);
        if let Some(next) = next.filter(|&r| self.states[r] == State::Shut) {
            self.wanted = Some(next);
        }
    }
}

/// What one stream asks of the device at each rung.
#[derive(Debug, Clone, Default)]
pub(super) struct Demand {
    /// Whether a frame alone fits its deadline, by rung.
    fits: Vec<bool>,
    /// At this rung, frames per nanosecond of this variant.
    uses: Vec<(usize, usize, f64)>,
}

impl Demand {
    pub(super) fn clear(&mut self, rungs: usize) {
        self.fits.clear();
        self.fits.resize(rungs, true);
        self.uses.clear();
    }

    /// One more stage takes `rate` frames per nanosecond at this rung, as this of the device's variants.
    pub(super) fn add(&mut self, rung: usize, variant: usize, rate: f64, fits: bool) {
        self.uses.push((rung, variant, rate));
        if let Some(f) = self.fits.get_mut(rung) {
            *f &= fits;
        }
    }

    fn fits(&self, rung: usize) -> bool {
        self.fits.get(rung).copied().unwrap_or(true)
    }
}

/// How much of a device one variant takes.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    /// Fixed cost of a batch, and each frame's, nanoseconds.
    pub(super) cost: (f64, f64),
    /// Frames in a batch at most.
    pub(super) largest: usize,
    /// Half of the tightest deadline, nanoseconds: batches further apart than this come too late for some.
    pub(super) half: f64,
    rate: f64,
}

impl Usage {
    pub(super) fn new(cost: (f64, f64), largest: usize) -> Self {
        Self { cost, largest, half: f64::INFINITY, rate: 0.0 }
    }

    /// A batch at least every half deadline, unless not even so many frames come. For a single variant a share of 1 is
    /// the closed formula, N = b\*·T/C(b\*).
    fn share(&self) -> f64 {
        let batches = self.rate.min((1.0 / self.half).max(self.rate / self.largest as f64));
        self.cost.0 * batches + self.cost.1 * self.rate
    }
}

/// The device as the ladder sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Device {
    /// Every variant of every stage.
    pub(super) variants: Vec<Usage>,
    /// Batches that run at once.
    pub(super) slots: f64,
    /// The shortest wait since the interval began as a share of its deadline, and how many frames waited.
    least: f64,
    waits: u32,
    since: Nanos,
    standing: bool,
    /// Looks in a row that found it busy: a single batch that took long makes it look so for a moment.
    crowded: u32,
}

impl Device {
    /// A frame waited for this share of its deadline.
    pub(super) fn waited(&mut self, share: f64) {
        self.least = if self.waits == 0 { share } else { self.least.min(share) };
        self.waits += 1;
    }

    /// Closes the interval, if it is over.
    fn close(&mut self, now: Nanos) {
        if now >= self.since + INTERVAL {
            self.standing = self.waits >= 3 && self.least > TARGET;
            (self.waits, self.since) = (0, now);
        }
    }

    /// Share of its time that the device is busy with what it is asked to do.
    fn busy(&self) -> f64 {
        self.variants.iter().map(Usage::share).sum::<f64>() / self.slots
    }

    /// Adds what a stream asks for at a rung, or takes it away.
    fn shift(&mut self, demand: &Demand, rung: usize, sign: f64) {
        for &(_, variant, rate) in demand.uses.iter().filter(|u| u.0 == rung) {
            if let Some(v) = self.variants.get_mut(variant) {
                v.rate = (v.rate + sign * rate).max(0.0);
            }
        }
    }

    fn moves(&mut self, demand: &Demand, from: usize, to: usize) {
        self.shift(demand, from, -1.0);
        self.shift(demand, to, 1.0);
    }
}

/// One stream as the ladder sees it.
pub(super) trait Climber {
    /// Its ceiling.
    fn ladder(&mut self) -> &mut Ladder;
    /// Its ceiling, to read.
    fn seen(&self) -> &Ladder;
    /// What it asks of the device.
    fn demand(&self) -> &Demand;
    /// Larger is more important.
    fn priority(&self) -> i32;
    /// Whether its ceiling is this device's to move.
    fn climbs(&self) -> bool;
}

/// Looks at all streams of a device and moves their ceilings.
pub(super) fn look<C: Climber>(now: Nanos, streams: &mut [C], rungs: &mut Rungs, device: &mut Device) {
    device.close(now);
    device.variants.iter_mut().for_each(|v| v.rate = 0.0);
    for s in streams.iter_mut() {
        device.shift(s.demand(), s.seen().rung, 1.0);
        if s.seen().changed_at == 0 {
            // The rung that a stream starts on is held like any other.
            s.ladder().changed_at = now;
        }
    }
    if !fall(now, streams, rungs, device) {
        rise(now, streams, rungs, device);
    }
}

/// Lowers ceilings where there is trouble, until what is left fits. Whether any was lowered.
fn fall<C: Climber>(now: Nanos, streams: &mut [C], rungs: &mut Rungs, device: &mut Device) -> bool {
    device.crowded = if device.busy() > BUSY { device.crowded + 1 } else { 0 };
    if streams.iter().any(|s| now < s.seen().changed_at + SETTLE && s.seen().raised_at.is_none() && s.seen().down > 0) {
        streams.iter_mut().for_each(|s| s.ladder().misses = 0.0);
        return false;
    }
    let busy = device.crowded > 1;
    let standing = device.standing && busy;
    let in_trouble = |s: &C| s.climbs() && (standing || s.seen().misses > if busy { MISSES } else { MISSES_IDLE });
    if !streams.iter().any(in_trouble) {
        return false;
    }
    for s in streams.iter().filter(|s| s.climbs() && (busy || in_trouble(s))) {
        rungs.wants_below(s.seen().rung);
    }
    let mut fell = false;
    while !fell || device.busy() > ROOM {
        // Those of least priority give way first, of those the ones whose quality is best, of those the ones in
        // trouble. Where the device has room, what is wrong is the stream's own.
        let victim = streams
            .iter_mut()
            .filter(|s| s.climbs() && rungs.below(s.seen().rung).is_some() && (busy || in_trouble(s)))
            .min_by_key(|s| (s.priority(), s.seen().rung, !in_trouble(s)));
        let Some(victim) = victim else { break };
        let rung = victim.seen().rung;
        let Some(below) = rungs.below(rung) else { break };
        device.moves(victim.demand(), rung, below);
        victim.ladder().lower(now, below);
        fell = true;
    }
    if fell {
        for s in streams.iter_mut() {
            s.ladder().misses = 0.0;
            // Where the device is what is short, all that went up lately was too much.
            if busy {
                s.ladder().judge(now);
            }
        }
        device.standing = false;
    }
    fell
}

/// Raises ceilings where there is room: the most important first, and of those the ones that have fallen deepest.
fn rise<C: Climber>(now: Nanos, streams: &mut [C], rungs: &Rungs, device: &mut Device) {
    let ready = |s: &C| {
        let l = s.seen();
        let fits = rungs.above(l.rung).is_some_and(|above| s.demand().fits(above));
        s.climbs() && now >= l.changed_at + l.hold && l.lately < MISSES && fits
    };
    if device.standing || !streams.iter().any(ready) {
        return;
    }
    // A variant that only some streams use costs batches of its own: there may be room for all where there is none
    // for one more.
    let shift_all = |streams: &[C], device: &mut Device, sign: f64| {
        for s in streams.iter().filter(|s| ready(s)) {
            let rung = s.seen().rung;
            device.shift(s.demand(), rung, -sign);
            device.shift(s.demand(), rungs.above(rung).unwrap_or(rung), sign);
        }
    };
    shift_all(streams, device, 1.0);
    let all_fit = device.busy() <= ROOM;
    shift_all(streams, device, -1.0);
    for _ in 0..=streams.len() / UP_AT_ONCE {
        let next =
            streams.iter_mut().filter(|s| ready(s)).min_by_key(|s| (-i64::from(s.priority()), Reverse(s.seen().rung)));
        let Some(climber) = next else { return };
        let rung = climber.seen().rung;
        let Some(above) = rungs.above(rung) else { return };
        device.moves(climber.demand(), rung, above);
        if device.busy() > ROOM && !all_fit {
            return;
        }
        climber.ladder().raise(now, above);
    }
}

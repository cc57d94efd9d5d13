//! The ladder: each stream's ceiling, the best rung that its frames run on. Down quickly when frames miss or queues
//! stand, up slowly and only if it fits, and ever more slowly where it did not last.

use crate::frame::Nanos;
use crate::frame::clock::{MILLI, SECOND};

/// A stream goes down when this share of its frames misses.
const MISSES: f64 = 0.01;
/// Weight of one frame in a stream's share of misses: three misses close together pass [`MISSES`], a single one does not.
const MISS_GAIN: f64 = 0.004;
/// A queue stands when every frame of a whole interval waited longer than the target (after CoDel, RFC 8289).
const INTERVAL: Nanos = SECOND / 2;
/// The target, as a share of the deadline.
const TARGET: u64 = 4;
/// After a step down, so long nothing is concluded: what is under way was planned before it.
const SETTLE: Nanos = 100 * MILLI;
/// Going down stops where the device would be busy for less than this share of the time.
const ENOUGH: f64 = 0.9;
/// Going up must leave the device busy for less than this share of the time.
const ROOM: f64 = 0.96;
/// A stream stays at least this long where it is before it goes up.
const HOLD: Nanos = 3 * SECOND / 2;
/// The longest hold-down.
const HOLD_MAX: Nanos = 60 * SECOND;
/// A step down within this time after a step up, or within twice the hold-down, means that the step up did not last.
const LASTING: Nanos = 10 * SECOND;

/// One stream's ceiling.
#[derive(Debug, Clone)]
pub(super) struct Ladder {
    rung: usize,
    misses: f64,
    /// The least wait since the interval began, and how many waited.
    least: Nanos,
    waits: u32,
    since: Nanos,
    standing: bool,
    changed_at: Nanos,
    raised_at: Option<Nanos>,
    hold: Nanos,
    down: u64,
    up: u64,
}

impl Ladder {
    pub(super) fn new() -> Self {
        Self {
            rung: 0,
            misses: 0.0,
            least: Nanos::MAX,
            waits: 0,
            since: 0,
            standing: false,
            changed_at: 0,
            raised_at: None,
            hold: HOLD,
            down: 0,
            up: 0,
        }
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
        self.misses += MISS_GAIN * (f64::from(u8::from(missed)) - self.misses);
    }

    /// A frame waited so long for the device.
    pub(super) fn waited(&mut self, wait: Nanos) {
        self.least = self.least.min(wait);
        self.waits += 1;
    }

    /// Closes the interval, if it is over.
    fn close(&mut self, now: Nanos, target: Nanos) {
        if now >= self.since + INTERVAL {
            self.standing = self.waits >= 3 && self.least > target;
            (self.least, self.waits, self.since) = (Nanos::MAX, 0, now);
        }
    }

    fn lower(&mut self, now: Nanos) {
        let lasted = |raised| now - raised >= LASTING.max(2 * self.hold);
        self.hold = match self.raised_at {
            Some(raised) if !lasted(raised) => (2 * self.hold).min(HOLD_MAX),
            _ => HOLD,
        };
        self.raised_at = None;
        self.changed_at = now;
        self.rung += 1;
        self.down += 1;
    }

    fn raise(&mut self, now: Nanos) {
        self.raised_at = Some(now);
        self.changed_at = now;
        self.rung -= 1;
        self.up += 1;
        self.misses = 0.0;
    }
}

/// What one stream asks of the device at each rung.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    /// Share of the device's time, and whether a frame alone fits its deadline.
    rungs: Vec<(f64, bool)>,
    /// From captured to deadline.
    deadline: Nanos,
}

impl Load {
    pub(super) fn clear(&mut self, rungs: usize, deadline: Nanos) {
        self.rungs.clear();
        self.rungs.resize(rungs, (0.0, true));
        self.deadline = deadline;
    }

    /// One more stage takes so much at this rung.
    pub(super) fn add(&mut self, rung: usize, share: f64, fits: bool) {
        if let Some(r) = self.rungs.get_mut(rung) {
            r.0 += share;
            r.1 &= fits;
        }
    }

    fn share(&self, rung: usize) -> f64 {
        self.rungs.get(rung).map_or(0.0, |r| r.0)
    }

    fn fits(&self, rung: usize) -> bool {
        self.rungs.get(rung).is_none_or(|r| r.1)
    }
}

/// One stream as the ladder sees it.
pub(super) trait Climber {
    /// Its ceiling.
    fn ladder(&mut self) -> &mut Ladder;
    /// Its ceiling, to read.
    fn seen(&self) -> &Ladder;
    /// What it asks of the device.
    fn load(&self) -> &Load;
    /// Larger is more important.
    fn priority(&self) -> i32;
    /// Whether its ceiling is this device's to move.
    fn climbs(&self) -> bool;
}

/// Looks at all streams of a device and moves their ceilings.
pub(super) fn look<C: Climber>(now: Nanos, streams: &mut [C], rungs: usize) {
    let lowest = rungs - 1;
    for s in streams.iter_mut() {
        let target = s.load().deadline / TARGET;
        s.ladder().close(now, target);
    }
    let busy = |streams: &[C]| streams.iter().map(|s| s.load().share(s.seen().rung)).sum::<f64>();
    let settled = streams.iter().all(|s| now >= s.seen().changed_at + SETTLE || s.seen().raised_at.is_some());
    let in_trouble = |s: &C| s.climbs() && (s.seen().misses > MISSES || s.seen().standing);
    let mut fell = false;
    if settled && streams.iter().any(in_trouble) {
        loop {
            let crowded = busy(streams) > ENOUGH;
            if fell && !crowded {
                break;
            }
            // Where the device has room, what is wrong is the stream's own; else those of least priority give way
            // first, and those whose quality is still best.
            let victim = streams
                .iter_mut()
                .filter(|s| s.climbs() && s.seen().rung < lowest && (crowded || in_trouble(s)))
                .min_by_key(|s| (s.priority(), s.seen().rung));
            let Some(victim) = victim else { break };
            victim.ladder().lower(now);
            fell = true;
        }
        for s in streams.iter_mut() {
            let ladder = s.ladder();
            (ladder.misses, ladder.standing) = (0.0, false);
        }
    }
    if fell {
        return;
    }
    // The most important first, and of those the one that has fallen deepest; one at a time.
    let total = busy(streams);
    let climber = streams
        .iter_mut()
        .filter(|s| {
            let l = s.seen();
            let better = l.rung.saturating_sub(1);
            s.climbs()
                && l.rung > 0
                && now >= l.changed_at + l.hold
                && l.misses < MISSES / 2.0
                && !l.standing
                && s.load().fits(better)
                && total - s.load().share(l.rung) + s.load().share(better) <= ROOM
        })
        .min_by_key(|s| (-i64::from(s.priority()), lowest - s.seen().rung));
    if let Some(s) = climber {
        s.ladder().raise(now);
    }
}

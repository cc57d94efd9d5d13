//! The planner of one device stage.

use super::cost::Cost;
use crate::frame::{
    Nanos, ShedReason,
    clock::{MILLI, SECOND},
};
use std::collections::VecDeque;

/// What the planner knows of a waiting frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// When its first byte arrived.
    pub captured: Nanos,
    /// When it has to be delivered; `None` for offline work.
    pub deadline: Option<Nanos>,
}

/// What the planner knows of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// The stream's index.
    pub stream: u32,
    /// Larger is more important: one more step doubles the stream's share under overload.
    pub priority: i32,
    /// From captured to deadline; `None` for offline work.
    pub deadline: Option<Nanos>,
    /// Offline: batches are full and of this stream alone, so that two runs form the same ones.
    pub by_count: bool,
}

/// What the planner must keep to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Batch sizes that the device is warm for, ascending, the first is 1.
    pub batch_sizes: Vec<usize>,
    /// Frames of one stream that may wait here; the oldest makes room.
    pub per_stream: usize,
}

impl Limits {
    fn largest(&self) -> usize {
        self.batch_sizes.last().copied().unwrap_or(1).max(1)
    }

    /// The warmed size that takes `frames`.
    fn warmed(&self, frames: usize) -> usize {
        self.batch_sizes.iter().copied().find(|&s| s >= frames).unwrap_or(frames)
    }
}

/// What to do until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Run what is in [`Plan::run`].
    Run,
    /// Run a batch of one without a frame, only to measure: everything is being shed, and nothing is learnt from that.
    Probe,
    /// Look again at this time, or when something arrives.
    WaitUntil(Nanos),
    /// Nothing to do until something arrives.
    Idle,
}

/// A decision's frames. Kept by the caller and reused, so that planning allocates nothing.
#[derive(Debug)]
pub struct Plan<T> {
    /// The next batch, in the order of its places.
    pub run: Vec<T>,
    /// Given up, with the reason.
    pub shed: Vec<(T, ShedReason)>,
}

impl<T> Default for Plan<T> {
    fn default() -> Self {
        Self { run: Vec::new(), shed: Vec::new() }
    }
}

struct LaneState<T> {
    lane: Lane,
    queue: VecDeque<(Waiting, T)>,
    /// Frames served lately, decaying, less for important streams: the least served go first under overload.
    served: f64,
    /// Taken by the choice under way.
    taken: usize,
    /// No more frames will come: what waits may run as a partial batch.
    ended: bool,
    /// Not even alone on an idle device could a frame be on time.
    infeasible: bool,
    /// When its last frame arrived, and the usual time between two.
    arrived: Nanos,
    period: Nanos,
}

impl<T> LaneState<T> {
    fn arrives(&mut self, now: Nanos) {
        let gap = now.saturating_sub(self.arrived);
        // A pause is no period: it says nothing about when the next frame comes.
        if self.arrived != 0 && gap < SECOND {
            self.period = if self.period == 0 { gap } else { (7 * self.period + gap) / 8 };
        }
        self.arrived = now;
    }
}

/// Decides for one device stage. Generic over what a frame is, so that simulations and tests need no pixels.
pub struct Planner<T> {
    limits: Limits,
    cost: Cost,
    lanes: Vec<LaneState<T>>,
    /// Share of recent frames that were shed or late, 0 to 1.
    misses: f64,
    /// Time kept free before the deadline beyond the cost model's, learnt from frames that came out late all the same.
    margin: f64,
    decayed_at: Nanos,
    last_run: Nanos,
    shed_since_run: bool,
    next_by_count: usize,
    order: Vec<usize>,
}

/// Above this share of misses the device counts as overloaded.
const OVERLOAD: f64 = 0.05;
/// Weight of one frame in the share of misses.
const MISS_GAIN: f64 = 0.02;
/// After so long without a batch, while frames are shed, a probe is due.
const PROBE_EVERY: Nanos = SECOND / 2;
/// A stream that has been served so many frames fewer than another, lately, is worth waiting a moment for.
const BEHIND: f64 = 1.0;
/// The device waits no longer than this for a stream that has been served less.
const HOLD: Nanos = 2 * MILLI;
/// The learnt margin never exceeds this.
const MARGIN_MAX: f64 = 8.0 * MILLI as f64;

impl<T> Planner<T> {
    /// A planner with nothing waiting.
    pub fn new(limits: Limits, cost: Cost) -> Self {
        Self {
            limits,
            cost,
            lanes: Vec::new(),
            misses: 0.0,
            margin: 0.0,
            decayed_at: 0,
            last_run: 0,
            shed_since_run: false,
            next_by_count: 0,
            order: Vec::new(),
        }
    }

    /// The cost model.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }
    /// The cost model, to tell it measurements.
    pub fn cost_mut(&mut self) -> &mut Cost {
        &mut self.cost
    }

    /// By how much a frame with this deadline misses it, alone on an idle device; `None` if it fits.
    pub fn excess(&self, deadline: Nanos) -> Option<Nanos> {
        let need = self.cost.prepare.mean() + self.cost.expected(1) + self.cost.tail.mean();
        need.checked_sub(deadline).filter(|&e| e > 0)
    }

    /// Decides for every stream whether its frames can ever be on time. Frames of those that cannot are shed as
    /// infeasible without another look.
    pub fn judge(&mut self) {
        for i in 0..self.lanes.len() {
            let excess = self.lanes[i].lane.deadline.and_then(|d| self.excess(d));
            self.lanes[i].infeasible = excess.is_some();
        }
    }

    /// Takes back a verdict that a new measurement proves wrong. Work that merely turned slow is no verdict: the start
    /// test sheds its frames one by one.
    pub fn judge_again(&mut self) {
        if self.lanes.iter().any(|l| l.infeasible) {
            self.judge();
        }
    }

    /// Whether a stream is open, or has frames left.
    pub fn is_open(&self, stream: u32) -> bool {
        self.lanes.iter().any(|l| l.lane.stream == stream)
    }

    /// A stream's frames may come from now on.
    pub fn open(&mut self, lane: Lane) {
        // A newcomer starts level with the least served, not with a claim on all the past.
        let served = self.lanes.iter().map(|l| l.served).fold(f64::INFINITY, f64::min);
        self.lanes.push(LaneState {
            lane,
            queue: VecDeque::with_capacity(self.limits.per_stream + 1),
            served: if served.is_finite() { served } else { 0.0 },
            taken: 0,
            ended: false,
            infeasible: false,
            arrived: 0,
            period: 0,
        });
    }

    /// A stream has ended: what waits of it still runs, then it is forgotten.
    pub fn end(&mut self, stream: u32) {
        for lane in self.lanes.iter_mut().filter(|l| l.lane.stream == stream) {
            lane.ended = true;
        }
    }

    /// Whether a stream may add one more frame without pushing one out.
    pub fn has_room(&self, stream: u32) -> bool {
        self.lanes
            .iter()
            .find(|l| l.lane.stream == stream && !l.ended)
            .is_some_and(|l| l.queue.len() < self.limits.per_stream)
    }

    /// A frame of an open stream arrived at `now`. Gives back what does not fit: the stream's oldest frame if its queue was full,
    /// the frame itself if the stream is not open.
    pub fn arrive(&mut self, stream: u32, now: Nanos, waiting: Waiting, item: T) -> Option<T> {
        let per_stream = self.limits.per_stream;
        let Some(lane) = self.lanes.iter_mut().find(|l| l.lane.stream == stream && !l.ended) else { return Some(item) };
        lane.arrives(now);
        lane.queue.push_back((waiting, item));
        if lane.queue.len() > per_stream { lane.queue.pop_front().map(|(_, item)| item) } else { None }
    }

    /// Gives up everything that waits.
    pub fn abandon(&mut self) -> Vec<T> {
        self.lanes.iter_mut().flat_map(|l| l.queue.drain(..).map(|(_, item)| item)).collect()
    }

    /// Frames waiting.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|l| l.queue.len()).sum()
    }

    /// A frame of this stage was delivered, late by `late` (0: on time).
    pub fn delivered(&mut self, late: Nanos) {
        self.miss(late > 0);
        if late > 0 {
            self.margin = (self.margin + 0.5 * late as f64 + 0.5 * MILLI as f64).min(MARGIN_MAX);
        } else {
            self.margin *= 0.996;
        }
    }

    fn miss(&mut self, missed: bool) {
        self.misses += MISS_GAIN * (f64::from(u8::from(missed)) - self.misses);
    }

    /// Whether more arrives than the device can serve in time.
    pub fn is_overloaded(&self) -> bool {
        self.misses > OVERLOAD
    }

    /// What to do next, asked at `now`, for a device that will be free at `free_at`. Fills `plan`, which must be empty.
    pub fn plan(&mut self, now: Nanos, free_at: Nanos, plan: &mut Plan<T>) -> Next {
        self.decay(now);
        let start = now.max(free_at);
        for lane in self.lanes.iter_mut().filter(|l| l.infeasible) {
            plan.shed.extend(lane.queue.drain(..).map(|(_, item)| (item, ShedReason::Infeasible)));
        }
        self.shed_hopeless(start, plan);
        self.shed_since_run |= !plan.shed.is_empty();
        self.lanes.retain(|l| !(l.ended && l.queue.is_empty()));
        if self.waiting() == 0 {
            if self.shed_since_run && now >= self.last_run + PROBE_EVERY {
                self.ran(now);
                self.cost.relax();
                self.margin *= 0.5;
                return Next::Probe;
            }
            return Next::Idle;
        }
        // The next batch is chosen as late as its preprocess allows: whoever arrives until then can still join.
        let lead = self.cost.prepare.upper(2.0).max(MILLI / 5) * self.limits.largest().min(self.waiting()) as Nanos;
        if now + lead < free_at {
            return Next::WaitUntil(free_at - lead);
        }
        if let Some(until) = self.holds_back(now, start) {
            return Next::WaitUntil(until);
        }
        self.choose(start, plan);
        if plan.run.is_empty() {
            self.choose_by_count(plan);
        }
        if plan.run.is_empty() {
            return Next::Idle;
        }
        self.ran(start);
        Next::Run
    }

    fn ran(&mut self, at: Nanos) {
        self.last_run = at;
        self.shed_since_run = false;
    }

    // Half-life of 0.7 s, in steps of at least 50 ms: exact enough, and cheap with many streams.
    fn decay(&mut self, now: Nanos) {
        let span = now.saturating_sub(self.decayed_at);
        if span >= 50 * MILLI {
            let factor = (-(span as f64) / SECOND as f64).exp();
            for lane in &mut self.lanes {
                lane.served *= factor;
            }
            self.decayed_at = now;
        }
    }

    /// Sheds every frame that could not be on time even if it started next and alone.
    fn shed_hopeless(&mut self, start: Nanos, plan: &mut Plan<T>) {
        let (cost, margin) = (&self.cost, self.margin as Nanos);
        let hopeless = |w: &Waiting| w.deadline.is_some_and(|d| start + cost.path(1, 1, margin, d - w.captured) > d);
        let before = plan.shed.len();
        for lane in &mut self.lanes {
            while lane.queue.front().is_some_and(|(w, _)| hopeless(w)) {
                if let Some((_, item)) = lane.queue.pop_front() {
                    plan.shed.push((item, ShedReason::Deadline));
                }
            }
        }
        for _ in before..plan.shed.len() {
            self.miss(true);
        }
    }

    /// Under overload, whether the device had better wait a moment for a stream that has been served far less than the
    /// one whose turn it would be, and whose next frame is due. Streams that run in step would else be decided by who
    /// happens to come first each time, and always the same.
    fn holds_back(&self, now: Nanos, start: Nanos) -> Option<Nanos> {
        if !self.is_overloaded() {
            return None;
        }
        let lane = &self.lanes[self.best_lane(true)?];
        let (w, _) = lane.queue.back()?;
        let deadline = w.deadline?;
        let spare = deadline.checked_sub(start + self.cost.path(1, 1, self.margin as Nanos, deadline - w.captured))?;
        let latest = now + spare.min(HOLD);
        self.lanes
            .iter()
            .filter(|l| l.queue.is_empty() && l.period > 0 && !l.infeasible && l.served + BEHIND < lane.served)
            .map(|l| (l.arrived + l.period, l.arrived + l.period + l.period / 16))
            // Due within the hold, or overdue by less than its usual jitter.
            .filter(|&(due, given_up)| due <= latest && now < given_up)
            .map(|(_, given_up)| given_up.min(latest))
            .max()
            .filter(|&until| until > now)
    }

    /// The lane whose frame goes next, leaving out what the choice under way has taken already.
    fn best_lane(&self, overloaded: bool) -> Option<usize> {
        let open = self.lanes.iter().enumerate().filter(|(_, l)| {
            !l.lane.by_count && l.taken < if overloaded { l.queue.len().min(1) } else { l.queue.len() }
        });
        let deadline = |l: &LaneState<T>| {
            let at = if overloaded { l.queue.back() } else { l.queue.get(l.taken) };
            at.and_then(|(w, _)| w.deadline).unwrap_or(Nanos::MAX)
        };
        if overloaded {
            open.min_by(|(_, a), (_, b)| a.served.total_cmp(&b.served).then(deadline(a).cmp(&deadline(b))))
        } else {
            open.min_by_key(|(_, l)| (deadline(l), -i64::from(l.lane.priority)))
        }
        .map(|(i, _)| i)
    }

    /// Takes the batch that gives the most frames per second with every member on time.
    fn choose(&mut self, start: Nanos, plan: &mut Plan<T>) {
        let overloaded = self.is_overloaded();
        self.order.clear();
        let (mut best, mut best_rate, mut tightest) = (0, 0.0, Nanos::MAX);
        while self.order.len() < self.limits.largest() {
            let Some(i) = self.best_lane(overloaded) else { break };
            let lane = &mut self.lanes[i];
            let next = if overloaded { lane.queue.back() } else { lane.queue.get(lane.taken) };
            let Some(&(w, _)) = next else { break };
            let frames = self.order.len() + 1;
            let size = self.limits.warmed(frames);
            tightest = tightest.min(w.deadline.unwrap_or(Nanos::MAX));
            if frames > 1 {
                let allowance = w.deadline.map_or(Nanos::MAX / 2, |d| d - w.captured);
                let on_time = start + self.cost.path(frames, size, self.margin as Nanos, allowance) <= tightest;
                let starves = frames > self.cost.largest_batch(allowance);
                if !on_time || starves {
                    break;
                }
            }
            lane.taken += 1;
            self.order.push(i);
            // A larger batch must give more frames per second, not only more frames.
            let rate = frames as f64 / self.cost.bounded(size).max(1) as f64;
            if best == 0 || rate > best_rate * 1.02 {
                (best, best_rate) = (frames, rate);
            }
        }
        let mut gave_way = 0;
        for &i in &self.order[..best] {
            let lane = &mut self.lanes[i];
            lane.served += 0.5f64.powi(lane.lane.priority.clamp(-20, 20));
            if overloaded {
                // The newest has the most time left; what waited before it gives way to it.
                while lane.queue.len() > 1 {
                    if let Some((_, item)) = lane.queue.pop_front() {
                        plan.shed.push((item, ShedReason::Overload));
                        gave_way += 1;
                    }
                }
            }
            if let Some((_, item)) = lane.queue.pop_front() {
                plan.run.push(item);
            }
        }
        for lane in &mut self.lanes {
            lane.taken = 0;
        }
        for _ in 0..gave_way {
            self.miss(true);
        }
    }

    /// Takes a full batch of one offline stream, or what is left of one that has ended, the streams in turn.
    fn choose_by_count(&mut self, plan: &mut Plan<T>) {
        let full = self.limits.largest();
        for k in 0..self.lanes.len() {
            let i = (self.next_by_count + k) % self.lanes.len();
            let lane = &mut self.lanes[i];
            if lane.lane.by_count && (lane.queue.len() >= full || (lane.ended && !lane.queue.is_empty())) {
                let n = lane.queue.len().min(full);
                plan.run.extend(lane.queue.drain(..n).map(|(_, item)| item));
                self.next_by_count = i + 1;
                return;
            }
        }
    }
}

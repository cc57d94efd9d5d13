//! The planner of one device.

use super::cost::{Cost, Path, Slowdown};
use super::ladder::{self, Climber, Demand, Device, Ladder, Usage};
use super::{Chosen, Lane, Next, Plan, Policy, Site, Variant, Waiting};
use crate::frame::{
    Nanos, ShedReason,
    clock::{MILLI, SECOND},
};
use std::collections::VecDeque;

/// What waits of one stream in front of one stage.
struct LaneState<T> {
    lane: Lane,
    /// Index of the stream among the planner's.
    stream: usize,
    queue: VecDeque<(Waiting, T)>,
    /// Taken by the choice under way.
    taken: usize,
    /// Left out of the choice under way: its next frame would run in another way than the batch.
    passed_over: bool,
    /// No more frames will come: what waits may run as a partial batch.
    ended: bool,
    /// Not even alone on an idle device, at the lowest rung, could a frame be on time.
    infeasible: bool,
    /// When its last frame arrived, and the usual time between two.
    arrived: Nanos,
    period: Nanos,
    /// Frames that arrived since.
    counted: (u32, Nanos),
    /// How long after its capture the last frame came here.
    lag: Nanos,
    /// Number of the last frame that was inferred here.
    inferred: Option<u64>,
}

impl<T> LaneState<T> {
    fn arrives(&mut self, now: Nanos) {
        let gap = now.saturating_sub(self.arrived);
        let (frames, since) = self.counted;
        if self.arrived == 0 || gap >= SECOND {
            // A pause is no period: it says nothing about when the next frame comes.
            self.counted = (0, now);
        } else if self.period == 0 {
            (self.period, self.counted) = (gap, (1, since));
        } else if frames + 1 >= COUNTED && now >= since + SECOND / 4 {
            // Counted over a while, since frames that were held up come in bursts.
            let mean = (now - since) / Nanos::from(frames + 1);
            (self.period, self.counted) = ((self.period + mean) / 2, (0, now));
        } else {
            self.counted = (frames + 1, since);
        }
        self.arrived = now;
    }
}

/// What all lanes of one stream share.
struct StreamState {
    index: u32,
    priority: i32,
    /// Frames served lately, decaying, less for important streams: the least served go first under overload.
    served: f64,
    /// Beyond the device's capacity: every frame is shed.
    refused: bool,
    /// Its rungs are chosen here.
    entry: bool,
    ladder: Ladder,
    demand: Demand,
}

/// The index of a stream that has no lane left: its place is free.
const GONE: u32 = u32::MAX;

impl Climber for StreamState {
    fn ladder(&mut self) -> &mut Ladder {
        &mut self.ladder
    }
    fn seen(&self) -> &Ladder {
        &self.ladder
    }
    fn demand(&self) -> &Demand {
        &self.demand
    }
    fn priority(&self) -> i32 {
        self.priority
    }
    fn climbs(&self) -> bool {
        self.entry
    }
}

/// Decides for one device, on which one or several stages run. Generic over what a frame is, so that simulations and
/// tests need no pixels. Decisions follow from what it was told and from nothing else.
pub struct Planner<T> {
    sites: Vec<Site>,
    rungs: usize,
    slots: usize,
    slowdown: Slowdown,
    /// By stream and site.
    lanes: Vec<LaneState<T>>,
    streams: Vec<StreamState>,
    /// Share of recent frames that were shed or late, 0 to 1.
    misses: f64,
    overloaded: bool,
    /// Time kept free before the deadline beyond the cost model's, learnt from frames that came out late all the same.
    margin: f64,
    decayed_at: Nanos,
    looked_at: Nanos,
    /// When the process was found to have stood still (stopped, or the machine asleep). What was under way then says
    /// nothing about the device.
    thawed_at: Nanos,
    /// Until then misses say nothing either: what gathered meanwhile comes in one burst.
    calm_until: Nanos,
    last_run: Nanos,
    /// The lane whose next frame is waited for, and until when; and when that may be done again.
    patience: Option<(usize, Nanos)>,
    patient_at: Nanos,
    shed_since_run: bool,
    next_by_count: usize,
    /// When the ladder last looked.
    climbed_at: Nanos,
    device: Device,
    policy: Policy,
    order: Vec<(usize, Way, Waiting)>,
    /// By site and variant: what lies before a frame alone.
    alone: Vec<Vec<Path>>,
}

/// How a frame would run: at which rung, as which variant of its stage, saved by a lower rung than its ceiling or not.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Way {
    rung: usize,
    variant: usize,
    rescued: bool,
}

/// Above this share of misses the device counts as overloaded, until it falls below the second one.
const OVERLOAD: (f64, f64) = (0.02, 0.005);
/// Weight of one frame in the share of misses.
const MISS_GAIN: f64 = 0.02;
/// After so long without a batch, while frames are shed, a probe is due.
const PROBE_EVERY: Nanos = SECOND / 2;
/// A stream that has been served so many frames fewer than another, lately, is worth waiting a moment for.
const BEHIND: f64 = 0.5;
/// The device waits no longer than this for a stream that has been served less.
const HOLD: Nanos = 2 * MILLI;
/// A stream that has been served so many times less than another is waited for until its next frame comes.
const STARVES: f64 = 2.0;
/// That is done once in so many of its frames.
const PATIENCE: Nanos = 3;
/// The learnt margin never exceeds this.
const MARGIN_MAX: f64 = 8.0 * MILLI as f64;
/// A late frame widens the margin by this, and by half of what it was late.
const MARGIN_UP: f64 = 0.5 * MILLI as f64;
/// A frame on time narrows the margin by this and by a thousandth of it. In balance fewer than three delivered frames
/// in a thousand are late while the margin is small, and five in a thousand at 3 ms: a tracked quantile (after Robbins
/// and Monro, 1951), which needs no model of what makes frames late.
const MARGIN_DOWN: (f64, f64) = (0.002 * MILLI as f64, 0.001);
/// A planner that is not asked for so long stood still with its process: it is asked several times a second.
const FROZEN: Nanos = SECOND;
/// After it stood still, misses count for nothing for so long.
const CALM: Nanos = SECOND / 2;
/// A thread takes about this long to wake up: the next batch is chosen at least so much ahead.
const WAKE: Nanos = MILLI / 10;
/// A stream that was served less than this share of what the others were, lately, is not passed over for a larger batch.
const LAGS: f64 = 0.91;
/// A larger batch must give so many times the frames per second of a smaller one.
const PAYS: f64 = 1.02;
/// The same under overload, where every frame counts and latency no longer does.
const PAYS_CROWDED: f64 = 1.002;
/// A stream's period is measured over at least so many frames.
const COUNTED: u32 = 8;
/// The ladder looks this often.
const LADDER_EVERY: Nanos = 50 * MILLI;

impl<T> Planner<T> {
    /// A planner with nothing waiting, for a device that runs `slots` batches at once. Every site plans the same number
    /// of rungs, at least one.
    pub fn new(sites: Vec<Site>, slots: usize) -> Self {
        let rungs = sites.iter().map(|s| s.rungs.len()).max().unwrap_or(1).max(1);
        let alone = sites.iter().map(|s| vec![Path::default(); s.variants.len()]).collect();
        Self {
            sites,
            rungs,
            slots: slots.max(1),
            slowdown: Slowdown::default(),
            lanes: Vec::new(),
            streams: Vec::new(),
            misses: 0.0,
            overloaded: false,
            margin: 0.0,
            decayed_at: 0,
            looked_at: 0,
            thawed_at: 0,
            calm_until: 0,
            last_run: 0,
            patience: None,
            patient_at: 0,
            shed_since_run: false,
            next_by_count: 0,
            climbed_at: 0,
            device: Device::default(),
            policy: Policy::default(),
            order: Vec::new(),
            alone,
        }
    }

    /// Schedules by another policy than framegate's, to compare with.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// ξ: how many times slower the device is than when it was calibrated.
    pub fn slowdown(&self) -> &Slowdown {
        &self.slowdown
    }

    /// The stages it plans for.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// A batch's expected span.
    pub fn expected(&self, site: usize, variant: usize, b: usize) -> Nanos {
        let variant = self.sites.get(site).and_then(|s| s.variants.get(variant));
        variant.map_or(0, |v| self.slowdown.expected(&v.cost, v.warmed(b)))
    }

    /// A batch of `places` of this variant, started at `started`, took `span`.
    pub fn ran(&mut self, site: usize, variant: usize, places: usize, started: Nanos, span: Nanos) {
        self.wakes(started + span);
        if started < self.thawed_at {
            return;
        }
        if let Some(v) = self.sites.get_mut(site).and_then(|s| s.variants.get_mut(variant)) {
            // A batch costs what its warmed size costs, however many of its places are filled.
            let size = v.warmed(places);
            self.slowdown.observe(&mut v.cost, size, span);
            if self.lanes.iter().any(|l| l.infeasible) {
                self.judge();
            }
        }
    }

    /// The preprocess of one frame for this variant took `span`.
    pub fn prepared(&mut self, site: usize, variant: usize, span: Nanos) {
        if let Some(v) = self.sites.get_mut(site).and_then(|s| s.variants.get_mut(variant)) {
            v.cost.prepare.observe(span);
        }
    }

    /// A frame that left this site was delivered at `at`, `tail` later, late by `late` (0: on time).
    pub fn delivered(&mut self, site: usize, stream: u32, at: Nanos, tail: Nanos, late: Nanos) {
        self.wakes(at);
        let Some(s) = self.sites.get_mut(site) else { return };
        // What a frozen process delivers late is no sign of a slow device.
        if at.saturating_sub(tail) < self.thawed_at {
            return;
        }
        s.tail.observe(tail);
        if at.saturating_sub(late) < self.calm_until {
            return;
        }
        let stream = self.lanes_of(stream, site).first().map(|l| l.stream);
        self.missed(at, stream, late > 0);
        if late > 0 {
            self.margin = (self.margin + 0.5 * late as f64 + MARGIN_UP).min(MARGIN_MAX);
        } else {
            self.margin = (self.margin - MARGIN_DOWN.0 - MARGIN_DOWN.1 * self.margin).max(0.0);
        }
    }

    /// Whoever calls at `now` may be the first after the process stood still.
    fn wakes(&mut self, now: Nanos) {
        if self.looked_at != 0 && now.saturating_sub(self.looked_at) > FROZEN {
            self.thawed_at = now;
            self.calm_until = now + CALM;
            self.looked_at = now;
        }
    }

    /// A frame that went through this site was delivered `tail` after it left it, with other sites on the way: those
    /// before the last one have the rest of the way as their tail.
    pub fn came_through(&mut self, site: usize, at: Nanos, tail: Nanos) {
        if at.saturating_sub(tail) >= self.thawed_at
            && let Some(s) = self.sites.get_mut(site)
        {
            s.tail.observe(tail);
        }
    }

    /// A frame of the stream at this place, if there is one, missed its deadline or was on time.
    fn missed(&mut self, now: Nanos, stream: Option<usize>, missed: bool) {
        if now < self.calm_until {
            return;
        }
        self.misses += MISS_GAIN * (f64::from(u8::from(missed)) - self.misses);
        let limit = if self.overloaded { OVERLOAD.1 } else { OVERLOAD.0 };
        self.overloaded = self.misses > limit && self.policy == Policy::Framegate;
        if let Some(s) = stream.and_then(|s| self.streams.get_mut(s)) {
            s.ladder.outcome(missed);
        }
    }

    /// By how much a frame with this deadline misses it at this site, alone on an idle device at the quickest rung;
    /// `None` if it fits.
    pub fn excess(&self, site: usize, deadline: Nanos) -> Option<Nanos> {
        let s = self.sites.get(site)?;
        let quickest = s.variants_of(0..self.rungs).map(|v| self.alone(&v.cost)).min().unwrap_or(0);
        (quickest + s.tail.mean()).checked_sub(deadline).filter(|&e| e > 0)
    }

    fn alone(&self, cost: &Cost) -> Nanos {
        cost.prepare.mean() + self.slowdown.expected(cost, 1)
    }

    /// Decides for every lane whether its frames can ever be on time. Frames of those that cannot are shed as infeasible
    /// without another look. Work that merely turned slow is no verdict: the start test sheds its frames one by one,
    /// so this is called when a lane opens, and only takes verdicts back later.
    fn judge(&mut self) {
        for i in 0..self.lanes.len() {
            let l = &self.lanes[i];
            let excess = l.lane.deadline.and_then(|d| self.excess(l.lane.site, d));
            self.lanes[i].infeasible = excess.is_some();
        }
    }

    /// Whether a stream is open at this site, or has frames left there.
    pub fn is_open(&self, stream: u32, site: usize) -> bool {
        !self.lanes_of(stream, site).is_empty()
    }

    /// Whether a stream is open at any site, or has frames left.
    pub fn is_known(&self, stream: u32) -> bool {
        self.streams.iter().any(|s| s.index == stream)
    }

    /// A stream's frames may come to a site from now on.
    pub fn open(&mut self, lane: Lane) {
        let stream = match self.streams.iter().position(|s| s.index == lane.stream) {
            Some(i) => i,
            None => {
                // A newcomer starts level with the least served, not with a claim on all the past.
                let there = self.streams.iter().filter(|s| s.index != GONE);
                let served = there.map(|s| s.served).fold(f64::INFINITY, f64::min);
                let new = StreamState {
                    index: lane.stream,
                    priority: lane.priority,
                    served: if served.is_finite() { served } else { 0.0 },
                    refused: false,
                    entry: false,
                    ladder: Ladder::new(),
                    demand: Demand::default(),
                };
                match self.streams.iter().position(|s| s.index == GONE) {
                    Some(free) => {
                        self.streams[free] = new;
                        free
                    }
                    None => {
                        self.streams.push(new);
                        self.streams.len() - 1
                    }
                }
            }
        };
        self.streams[stream].entry |= lane.entry;
        let lane = Lane { capacity: self.policy.waits(lane.capacity), ..lane };
        let place = self.places(lane.stream, lane.site).end;
        let state = LaneState {
            queue: VecDeque::with_capacity(lane.capacity.min(64) + 1),
            stream,
            taken: 0,
            passed_over: false,
            ended: false,
            infeasible: false,
            arrived: 0,
            period: 0,
            counted: (0, 0),
            lag: 0,
            inferred: None,
            lane,
        };
        // In the order of streams and sites, so that they are found quickly.
        self.lanes.insert(place, state);
        self.patience = None;
        self.order.reserve(self.lanes.len());
        self.judge();
    }

    /// Whether a stream's frames are taken. Those of a stream beyond the device's capacity are shed as `admission`.
    pub fn admit(&mut self, stream: u32, admitted: bool) {
        if let Some(s) = self.streams.iter_mut().find(|s| s.index == stream) {
            s.refused = !admitted;
        }
    }

    /// A stream's ceiling: the best rung that its frames run on. 0 is the best there is.
    pub fn ceiling(&self, stream: u32) -> usize {
        self.streams.iter().find(|s| s.index == stream).map_or(0, |s| s.ladder.rung())
    }

    /// Moves of a stream's ceiling so far, down and up.
    pub fn moves(&self, stream: u32) -> (u64, u64) {
        self.streams.iter().find(|s| s.index == stream).map_or((0, 0), |s| s.ladder.moves())
    }

    /// Sets a stream's ceiling, such as the one it starts with.
    pub fn set_ceiling(&mut self, stream: u32, rung: usize) {
        let lowest = self.rungs - 1;
        if let Some(s) = self.streams.iter_mut().find(|s| s.index == stream) {
            s.ladder.start_at(rung.min(lowest));
        }
    }

    /// A stream has ended at a site: what waits of it there still runs, then it is forgotten.
    pub fn end(&mut self, stream: u32, site: usize) {
        let places = self.places(stream, site);
        self.lanes[places].iter_mut().for_each(|l| l.ended = true);
    }

    /// The places of a stream's lanes at a site: one that is open, and others that have ended and still wait.
    fn places(&self, stream: u32, site: usize) -> std::ops::Range<usize> {
        let key = |l: &LaneState<T>| (l.lane.stream, l.lane.site);
        let first = self.lanes.partition_point(|l| key(l) < (stream, site));
        first..first + self.lanes[first..].partition_point(|l| key(l) == (stream, site))
    }

    fn lanes_of(&self, stream: u32, site: usize) -> &[LaneState<T>] {
        &self.lanes[self.places(stream, site)]
    }

    fn lane_mut(&mut self, stream: u32, site: usize) -> Option<&mut LaneState<T>> {
        let places = self.places(stream, site);
        self.lanes[places].iter_mut().find(|l| !l.ended)
    }

    /// Whether a stream may add one more frame to a site without pushing one out.
    pub fn has_room(&self, stream: u32, site: usize) -> bool {
        self.lanes_of(stream, site).iter().find(|l| !l.ended).is_some_and(|l| l.queue.len() < l.lane.capacity)
    }

    /// A frame of an open stream arrived at a site at `now`. Gives back what does not fit: the stream's oldest frame if
    /// its queue was full, the frame itself if the stream is not open there.
    pub fn arrive(&mut self, stream: u32, site: usize, now: Nanos, waiting: Waiting, item: T) -> Option<T> {
        self.wakes(now);
        let newest_goes = self.policy == Policy::DropNewest;
        let Some(lane) = self.lane_mut(stream, site) else { return Some(item) };
        let place = lane.stream;
        lane.arrives(waiting.ready);
        lane.lag = waiting.ready.saturating_sub(waiting.captured);
        if newest_goes && lane.queue.len() >= lane.lane.capacity {
            return Some(item);
        }
        lane.queue.push_back((waiting, item));
        let pushed_out = (lane.queue.len() > lane.lane.capacity).then(|| lane.queue.pop_front()).flatten();
        pushed_out.map(|(_, item)| {
            self.missed(now, Some(place), true);
            item
        })
    }

    /// Gives up everything that waits.
    pub fn abandon(&mut self) -> Vec<T> {
        self.lanes.iter_mut().flat_map(|l| l.queue.drain(..).map(|(_, item)| item)).collect()
    }

    /// Frames waiting.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|l| l.queue.len()).sum()
    }

    /// Whether more arrives than the device can serve in time.
    pub fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// What to do next, asked at `now`, for a device whose next slot is free at `free_at`. Fills `plan`, which must be
    /// empty.
    pub fn plan(&mut self, now: Nanos, free_at: Nanos, plan: &mut Plan<T>) -> Next {
        self.wakes(now);
        self.looked_at = now;
        self.decay(now);
        self.climb(now);
        let start = now.max(free_at);
        self.look_ahead();
        self.clear_heads(now, start, plan);
        self.shed_since_run |= !plan.shed.is_empty();
        self.forget();
        let waiting = self.waiting();
        if waiting == 0 {
            if self.shed_since_run && now >= self.last_run + PROBE_EVERY {
                return self.probe(now);
            }
            return Next::Idle;
        }
        // The next batch is chosen as late as its preprocess allows: whoever arrives until then can still join.
        let lead = self.lead(waiting);
        if now + lead < free_at {
            return Next::WaitUntil(free_at - lead);
        }
        if let Some(until) = self.holds_back(now, start) {
            return Next::WaitUntil(until);
        }
        if let Some(next) = self.choose(start, plan).or_else(|| self.choose_by_count(plan)) {
            self.last_run = start;
            self.shed_since_run = false;
            // What gave way while the batch was chosen may have stood in front of frames that need no device.
            self.pass_on(&mut plan.follow);
            return next;
        }
        Next::Idle
    }

    /// Lets go of lanes that have ended, and of streams that have no other.
    fn forget(&mut self) {
        let before = self.lanes.len();
        self.lanes.retain(|l| !(l.ended && l.queue.is_empty()));
        if self.lanes.len() < before {
            self.patience = None;
            for (i, stream) in self.streams.iter_mut().enumerate() {
                if !self.lanes.iter().any(|l| l.stream == i) {
                    (stream.index, stream.demand) = (GONE, Demand::default());
                }
            }
        }
    }

    fn lead(&self, waiting: usize) -> Nanos {
        let longest = |s: &Site| {
            s.variants.iter().map(|v| v.cost.prepare.upper(2.0) * v.largest().min(waiting) as Nanos).max().unwrap_or(0)
        };
        self.sites.iter().map(longest).max().unwrap_or(0).max(WAKE)
    }

    /// Everything is being shed, and nothing is learnt from that: a batch without a frame, at the quickest rung of a
    /// site whose frames are shed.
    fn probe(&mut self, now: Nanos) -> Next {
        self.last_run = now;
        self.slowdown.relax();
        self.sites.iter_mut().for_each(|s| {
            s.tail.relax();
            s.variants.iter_mut().for_each(|v| v.cost.prepare.relax());
        });
        self.margin *= 0.5;
        let site = self.lanes.iter().find(|l| l.infeasible).or(self.lanes.first()).map_or(0, |l| l.lane.site);
        match self.sites.get(site).and_then(|s| s.quickest()) {
            Some(variant) => Next::Probe { site, variant },
            None => Next::Idle,
        }
    }

    // Half-life of 0.7 s, in steps of at least 50 ms: exact enough, and cheap with many streams.
    fn decay(&mut self, now: Nanos) {
        let span = now.saturating_sub(self.decayed_at);
        if span >= 50 * MILLI {
            let factor = (-(span as f64) / SECOND as f64).exp();
            for stream in &mut self.streams {
                stream.served *= factor;
            }
            self.decayed_at = now;
        }
    }

    /// The best way in which a waiting frame of a lane can still be on time in a batch of one that starts at
    /// `start`, from its ceiling down.
    fn way(&self, lane: &LaneState<T>, w: &Waiting, start: Nanos) -> Option<Way> {
        let site = &self.sites[lane.lane.site];
        let ceiling = self.streams[lane.stream].ladder.rung();
        let (first, last) = match w.rung {
            Some(fixed) => (fixed, fixed),
            None => (ceiling, if lane.lane.by_count { ceiling } else { self.rungs - 1 }),
        };
        for rung in first..=last {
            let Some(variant) = site.rungs.get(rung).and_then(|r| r.variant) else { continue };
            if !self.policy.tests_start() || self.alone[lane.lane.site][variant].fits(start, w) {
                return Some(Way { rung, variant, rescued: rung > first });
            }
        }
        None
    }

    fn path(&self, site: &Site, variant: usize, batch: (usize, usize)) -> Path {
        self.slowdown.path(&site.variants[variant].cost, &site.tail, batch, self.margin as Nanos)
    }

    /// What lies before a frame alone is asked of every lane, and is the same throughout a decision.
    fn look_ahead(&mut self) {
        for (site, paths) in self.sites.iter().zip(&mut self.alone) {
            paths.clear();
            let margin = self.margin as Nanos;
            paths.extend(site.variants.iter().map(|v| self.slowdown.path(&v.cost, &site.tail, (1, 1), margin)));
        }
    }

    /// Whether the stage has nothing to do for this frame at its rung: it is switched off there, or the frame is one
    /// that a tracker carries.
    fn carried(&self, lane: &LaneState<T>, w: &Waiting) -> Option<usize> {
        let site = &self.sites[lane.lane.site];
        let rung = w.rung.unwrap_or_else(|| self.streams[lane.stream].ladder.rung());
        let plan = site.rungs.get(rung)?;
        let every = u64::from(plan.every.max(1));
        // Streams take turns: with every third frame inferred, each frame time infers a third of the streams.
        let turn = (w.seq + u64::from(lane.lane.stream)).is_multiple_of(every);
        let overdue = lane.inferred.is_none_or(|last| w.seq.saturating_sub(last) >= every);
        (plan.variant.is_none() || !(turn || overdue)).then_some(rung)
    }

    /// Sheds what cannot be delivered in time even if it started next and alone, and what must not run at all. Lets go
    /// on what needs no device, where none of its stream waits before it.
    fn clear_heads(&mut self, now: Nanos, start: Nanos, plan: &mut Plan<T>) {
        for i in 0..self.lanes.len() {
            let lane = &self.lanes[i];
            if lane.queue.is_empty() {
                continue;
            }
            let verdict = match (lane.infeasible, self.streams[lane.stream].refused) {
                (true, _) => Some(ShedReason::Infeasible),
                (_, true) => Some(ShedReason::Admission),
                _ => None,
            };
            if let Some(reason) = verdict {
                plan.shed.extend(self.lanes[i].queue.drain(..).map(|(_, item)| (item, reason)));
                continue;
            }
            while let Some((w, _)) = self.lanes[i].queue.front() {
                let (w, lane) = (*w, &self.lanes[i]);
                let (stream, site) = (lane.stream, lane.lane.site);
                let carried = self.carried(lane, &w);
                let hopeless = match carried {
                    Some(_) => w.deadline.is_some_and(|d| now + self.sites[site].tail.mean() > d),
                    None => self.way(lane, &w, start).is_none(),
                };
                if !hopeless && carried.is_none() {
                    break;
                }
                let Some((_, item)) = self.lanes[i].queue.pop_front() else { break };
                match carried {
                    Some(rung) if !hopeless => plan.pass.push((site, Chosen { item, rung, rescued: false })),
                    _ => {
                        plan.shed.push((item, ShedReason::Deadline));
                        self.missed(now, Some(stream), true);
                    }
                }
            }
        }
    }

    /// Lets frames go on that need no device and stood behind those of the batch.
    fn pass_on(&mut self, out: &mut Vec<(usize, Chosen<T>)>) {
        for i in 0..self.lanes.len() {
            while let Some(rung) = self.lanes[i].queue.front().and_then(|(w, _)| self.carried(&self.lanes[i], w)) {
                let site = self.lanes[i].lane.site;
                if let Some((_, item)) = self.lanes[i].queue.pop_front() {
                    out.push((site, Chosen { item, rung, rescued: false }));
                }
            }
        }
    }

    /// Under overload, whether the device had better wait a moment for a stream that has been served far less than the
    /// one whose turn it would be, and whose next frame is due. Streams that run in step would else be decided by who
    /// happens to come first each time, and always the same.
    fn holds_back(&mut self, now: Nanos, start: Nanos) -> Option<Nanos> {
        if !self.overloaded {
            return None;
        }
        if let Some((lane, until)) = self.patience.take()
            && now < until
            && self.lanes.get(lane).is_some_and(|l| l.queue.is_empty() && !l.ended)
        {
            self.patience = Some((lane, until));
            return Some(until);
        }
        let lane = &self.lanes[self.best_lane()?];
        let w = self.next_of(lane)?;
        let way = self.way(lane, w, start)?;
        let deadline = w.deadline?;
        let site = &self.sites[lane.lane.site];
        let cost = &site.variants[way.variant].cost;
        let path = self.alone[lane.lane.site][way.variant].within(deadline.saturating_sub(w.captured));
        let latest = now + deadline.checked_sub(start + path)?.min(HOLD);
        let alone = self.slowdown.expected(cost, 1);
        let served = self.streams[lane.stream].served;
        let absent = |l: &&LaneState<T>| {
            l.queue.is_empty() && l.period > 0 && !l.infeasible && !l.ended && !self.streams[l.stream].refused
        };
        let moment = self
            .lanes
            .iter()
            .filter(absent)
            .filter(|l| self.streams[l.stream].served + BEHIND < served)
            .map(|l| (l.arrived + l.period, l.arrived + l.period + l.period / 16))
            // Due within the hold, or overdue by less than its usual jitter.
            .filter(|&(due, given_up)| due <= latest && now < given_up)
            .map(|(_, given_up)| given_up.min(latest))
            .max()
            .filter(|&until| until > now);
        if moment.is_some() || now < self.patient_at {
            return moment;
        }
        // A stream whose frames always come while the device is busy would never be served: now and then, if its next
        // frame could be on time but not behind another one, it is waited for, whoever has to give way.
        let (i, starved) = self
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, l)| absent(l) && now < l.arrived + l.period)
            .filter(|(_, l)| STARVES * self.streams[l.stream].served + BEHIND < served)
            .min_by(|a, b| self.streams[a.1.stream].served.total_cmp(&self.streams[b.1.stream].served))?;
        let quickest = self.sites[starved.lane.site].quickest()?;
        let allowed = starved.lane.deadline?.checked_sub(starved.lag)?;
        let slack = allowed.checked_sub(self.alone[starved.lane.site][quickest].within(allowed))?;
        let due = starved.arrived + starved.period;
        if start + alone <= due + slack {
            return None;
        }
        let until = (due + starved.period / 16).min(start + alone + HOLD);
        self.patient_at = until + PATIENCE * starved.period;
        self.patience = Some((i, until));
        Some(until)
    }

    /// The frame of a lane that the choice under way would take next.
    fn next_of<'l>(&self, lane: &'l LaneState<T>) -> Option<&'l Waiting> {
        if self.overloaded {
            return (lane.taken == 0).then(|| self.newest(lane)).flatten().map(|i| &lane.queue[i].0);
        }
        let (w, _) = lane.queue.get(lane.taken)?;
        // Behind a frame that is taken now, one that needs no device has to wait until that one is under way.
        (lane.taken == 0 || self.carried(lane, w).is_none()).then_some(w)
    }

    /// Under overload the newest frame that needs the device has the most time left; what waits before it gives way.
    fn newest(&self, lane: &LaneState<T>) -> Option<usize> {
        lane.queue.iter().rposition(|(w, _)| self.carried(lane, w).is_none())
    }

    /// The lane whose frame goes next, leaving out what the choice under way has taken already. Frames that have begun
    /// go before those that have not.
    fn best_lane(&self) -> Option<usize> {
        let mut best: Option<(usize, (bool, f64, Nanos, i64))> = None;
        for (i, lane) in self.lanes.iter().enumerate() {
            if lane.lane.by_count || lane.passed_over {
                continue;
            }
            let Some(w) = self.next_of(lane) else { continue };
            let stream = &self.streams[lane.stream];
            let served = if self.overloaded { stream.served } else { 0.0 };
            let due = if self.policy.by_deadline() { w.deadline.unwrap_or(Nanos::MAX) } else { w.ready };
            let key = (w.rung.is_none(), served, due, -i64::from(stream.priority));
            if best.as_ref().is_none_or(|(_, b)| {
                key.0.cmp(&b.0).then(key.1.total_cmp(&b.1)).then(key.2.cmp(&b.2)).then(key.3.cmp(&b.3)).is_lt()
            }) {
                best = Some((i, key));
            }
        }
        best.map(|(i, _)| i)
    }

    /// Takes the batch that gives the most frames per second with every member on time.
    fn choose(&mut self, start: Nanos, plan: &mut Plan<T>) -> Option<Next> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        let batch = if self.overloaded { self.gather(start, &mut order) } else { self.line_up(start, &mut order) };
        for &(i, way, _) in &order {
            self.take(i, way, start, plan);
        }
        self.order = order;
        for lane in &mut self.lanes {
            (lane.taken, lane.passed_over) = (0, false);
        }
        let (site, variant) = batch?;
        (!plan.run.is_empty()).then_some(Next::Run { site, variant })
    }

    /// Below the knee: earliest deadline first, as many as pay and can be on time together.
    fn line_up(&mut self, start: Nanos, order: &mut Vec<(usize, Way, Waiting)>) -> Option<(usize, usize)> {
        let greedy = self.policy != Policy::Framegate;
        let mut batch: Option<(usize, usize)> = None;
        let (mut best, mut best_rate, mut tightest) = (0, 0.0, None::<Waiting>);
        while let Some(i) = self.best_lane() {
            let lane = &self.lanes[i];
            let Some(&w) = self.next_of(lane) else { break };
            let site = &self.sites[lane.lane.site];
            // Mixed rungs never share a batch, and neither do stages.
            let way = match self.way(lane, &w, start) {
                Some(way) if batch.is_none_or(|b| b == (lane.lane.site, way.variant)) => way,
                _ => {
                    self.lanes[i].passed_over = true;
                    continue;
                }
            };
            let variant = &site.variants[way.variant];
            let frames = order.len() + 1;
            if frames > variant.largest() {
                break;
            }
            let size = variant.warmed(frames);
            if tightest.is_none_or(|t| w.deadline.unwrap_or(Nanos::MAX) < t.deadline.unwrap_or(Nanos::MAX)) {
                tightest = Some(w);
            }
            if frames > 1
                && self.policy.tests_start()
                && !tightest.is_none_or(|t| self.path(site, way.variant, (frames, size)).fits(start, &t))
            {
                break;
            }
            // A larger batch must give more frames per second, not only more frames. b\* is no limit: a larger batch
            // starves some of those that arrive behind it, but a smaller one leaves more work to meet them.
            let rate = frames as f64 / self.slowdown.bounded(&variant.cost, size).max(1) as f64;
            if best == 0 || rate > best_rate * PAYS || greedy {
                (best, best_rate) = (frames, rate);
            }
            batch = Some((lane.lane.site, way.variant));
            self.lanes[i].taken += 1;
            order.push((i, way, w));
        }
        // Where those left behind would come too late after this batch, but fit into it, they go with it.
        if let (Some((site, variant)), Some(&(_, _, next))) = (batch, order.get(best)) {
            let (site, left) = (&self.sites[site], order.len() - best);
            let v = &site.variants[variant];
            let then = start + self.slowdown.expected(&v.cost, v.warmed(best));
            if !self.path(site, variant, (left, v.warmed(left))).fits(then, &next) {
                best = order.len();
            }
        }
        order.truncate(best);
        batch
    }

    /// Under overload: the largest batch for which there are enough frames that still fit with it, and of those that
    /// fit the least served. Not all can be served, so frames with little time left do not make a batch small; and
    /// b\* is no limit, since those behind are too many anyway.
    fn gather(&mut self, start: Nanos, order: &mut Vec<(usize, Way, Waiting)>) -> Option<(usize, usize)> {
        let first = loop {
            let i = self.best_lane()?;
            let lane = &self.lanes[i];
            if let Some(way) = self.next_of(lane).and_then(|w| self.way(lane, w, start)) {
                break (lane.lane.site, way.variant);
            }
            self.lanes[i].passed_over = true;
        };
        for (i, lane) in self.lanes.iter().enumerate().filter(|(_, l)| !l.lane.by_count && l.lane.site == first.0) {
            let Some(w) = self.next_of(lane) else { continue };
            let Some(way) = self.way(lane, w, start) else { continue };
            if way.variant == first.1 {
                order.push((i, way, *w));
            }
        }
        let (site, lanes) = (&self.sites[first.0], &self.lanes);
        let variant = &site.variants[first.1];
        let due = |w: &Waiting| w.deadline.unwrap_or(Nanos::MAX);
        order.sort_unstable_by_key(|(i, _, w)| std::cmp::Reverse((due(w), *i)));
        let served = |i: usize| self.streams[lanes[i].stream].served;
        let mean = order.iter().map(|o| served(o.0)).sum::<f64>() / order.len().max(1) as f64;
        let least = order.iter().min_by(|a, b| served(a.0).total_cmp(&served(b.0))).map(|o| (o.0, o.2));
        let starved = least.filter(|&(i, _)| served(i) < LAGS * mean).map(|(_, w)| w);
        let (mut best, mut fit, mut best_rate) = (1, order.len(), 0.0);
        for frames in 1..=order.len().min(variant.largest()) {
            let size = variant.warmed(frames);
            let path = self.path(site, first.1, (frames, size));
            let fits = |w: &Waiting| path.fits(start, w);
            if !fits(&order[frames - 1].2) || (frames > 1 && starved.is_some_and(|w| !fits(&w))) {
                break;
            }
            let rate = frames as f64 / self.slowdown.bounded(&variant.cost, size).max(1) as f64;
            if frames == 1 || rate > best_rate * PAYS_CROWDED {
                best_rate = rate;
                best = frames;
                fit = order.partition_point(|(_, _, w)| fits(w));
            }
        }
        order.truncate(fit.max(best));
        order.sort_unstable_by(|(i, _, a), (j, _, b)| {
            served(*i).total_cmp(&served(*j)).then(due(a).cmp(&due(b))).then(i.cmp(j))
        });
        order.truncate(best);
        Some(first)
    }

    /// Takes one frame of a lane into the batch. Under overload those that waited before it give way.
    fn take(&mut self, i: usize, way: Way, start: Nanos, plan: &mut Plan<T>) {
        let before = if self.overloaded { self.newest(&self.lanes[i]).unwrap_or(0) } else { 0 };
        let (index, site) = (self.lanes[i].stream, self.lanes[i].lane.site);
        for _ in 0..before {
            let carried = self.lanes[i].queue.front().and_then(|(w, _)| self.carried(&self.lanes[i], w));
            let Some((_, item)) = self.lanes[i].queue.pop_front() else { break };
            match carried {
                Some(rung) => plan.pass.push((site, Chosen { item, rung, rescued: false })),
                None => {
                    plan.shed.push((item, ShedReason::Overload));
                    self.missed(start, Some(index), true);
                }
            }
        }
        let lane = &mut self.lanes[i];
        let stream = &mut self.streams[lane.stream];
        if let Some((w, item)) = lane.queue.pop_front() {
            stream.served += 0.5f64.powi(stream.priority.clamp(-20, 20));
            if let Some(deadline) = w.deadline {
                let allowed = deadline.saturating_sub(w.captured).max(1);
                self.device.waited(start.saturating_sub(w.ready) as f64 / allowed as f64);
            }
            lane.inferred = Some(w.seq);
            plan.run.push(Chosen { item, rung: way.rung, rescued: way.rescued });
        }
    }

    /// Takes a full batch of one offline stream, or what is left of one that has ended, the streams in turn.
    fn choose_by_count(&mut self, plan: &mut Plan<T>) -> Option<Next> {
        for k in 0..self.lanes.len() {
            let i = (self.next_by_count + k) % self.lanes.len();
            let lane = &self.lanes[i];
            if !lane.lane.by_count {
                continue;
            }
            let Some(way) = lane.queue.front().and_then(|(w, _)| self.way(lane, w, 0)) else { continue };
            let full = self.sites[lane.lane.site].variants[way.variant].largest();
            // A frame that needs no device or runs at another rung ends the batch before it: streams keep their order.
            let joins = |w: &Waiting| w.rung.is_none_or(|r| r == way.rung) && self.carried(lane, w).is_none();
            let ready = lane.queue.iter().take_while(|(w, _)| joins(w)).count();
            let (n, site) = (ready.min(full), lane.lane.site);
            if n > 0 && (n == full || n < lane.queue.len() || lane.ended) {
                let lane = &mut self.lanes[i];
                for (w, item) in lane.queue.drain(..n) {
                    lane.inferred = Some(w.seq);
                    plan.run.push(Chosen { item, rung: way.rung, rescued: false });
                }
                self.next_by_count = i + 1;
                return Some(Next::Run { site, variant: way.variant });
            }
        }
        None
    }

    /// Lets the ladder look at every stream.
    fn climb(&mut self, now: Nanos) {
        let due = now >= self.climbed_at + LADDER_EVERY && now >= self.calm_until;
        if self.rungs < 2 || self.policy != Policy::Framegate || !due {
            return;
        }
        self.climbed_at = now;
        self.weigh();
        ladder::look(now, &mut self.streams, self.rungs, &mut self.device);
    }

    /// What each stream asks of the device at each rung.
    fn weigh(&mut self) {
        let device = &mut self.device;
        device.slots = self.slots as f64;
        device.variants.clear();
        for v in self.sites.iter().flat_map(|s| &s.variants) {
            let alpha = self.slowdown.fixed(&v.cost) as f64;
            let each = self.slowdown.expected(&v.cost, 1) as f64 - alpha;
            device.variants.push(Usage::new((alpha, each), v.largest()));
        }
        for (i, stream) in self.streams.iter_mut().enumerate() {
            stream.demand.clear(self.rungs);
            // A stage behind another sees fewer frames once that one sheds, but would see all of them.
            let lanes = || self.lanes.iter().filter(|l| l.stream == i && !l.ended && !l.lane.by_count);
            let Some(period) = lanes().map(|l| l.period).filter(|&p| p > 0).min() else { continue };
            for lane in lanes() {
                let before: usize = self.sites[..lane.lane.site].iter().map(|s| s.variants.len()).sum();
                let site = &self.sites[lane.lane.site];
                let deadline = lane.lane.deadline.unwrap_or(Nanos::MAX / 4);
                let half = deadline.saturating_sub(site.tail.mean()).max(1) as f64 / 2.0;
                for (rung, plan) in site.rungs.iter().enumerate() {
                    let Some((i, v)) = plan.variant.and_then(|i| Some((i, site.variants.get(i)?))) else { continue };
                    let path = self.slowdown.path(&v.cost, &site.tail, (1, 1), self.margin as Nanos);
                    let rate = 1.0 / period as f64 / f64::from(plan.every.max(1));
                    stream.demand.add(rung, before + i, rate, path.within(deadline) <= deadline);
                    let usage = &mut device.variants[before + i];
                    usage.half = usage.half.min(half);
                }
            }
        }
    }
}

impl Site {
    fn variants_of(&self, rungs: std::ops::Range<usize>) -> impl Iterator<Item = &Variant> {
        rungs.filter_map(|r| self.rungs.get(r)?.variant).filter_map(|v| self.variants.get(v))
    }

    fn quickest(&self) -> Option<usize> {
        (0..self.variants.len())
            .min_by(|&a, &b| self.variants[a].cost.base(1).total_cmp(&self.variants[b].cost.base(1)))
    }
}

//! The planner of one device: what it is told, and what it answers. [`way`] finds how each waiting frame would run and
//! lets go of what needs no device or cannot be on time, [`choose`] takes the next batch, [`patience`] waits for who has
//! been served too little, [`quality`] feeds the ladder.

mod choose;
mod lane;
mod patience;
mod quality;
mod streams;
mod way;

use super::cost::{Cost, Estimate, Path, Slowdown};
use super::ladder::{Device, Rungs};
use super::{Next, Plan, Policy, Site, Variant, Waiting};
use crate::frame::{
    Nanos,
    clock::{MILLI, SECOND},
};
use lane::{LaneState, StreamState};
use way::Way;

/// Decides for one device, on which one or several stages run. Generic over what a frame is, so that simulations and
/// tests need no pixels. Decisions follow from what it was told and from nothing else.
pub struct Planner<T> {
    sites: Vec<Site>,
    rungs: Rungs,
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
    /// The lane whose next frame is waited for, and until when; and when that may be done again.
    patience: Option<(usize, Nanos)>,
    patient_at: Nanos,
    /// By site: frames were shed here, or lost their crops, and when a batch ran last.
    unmeasured: Vec<bool>,
    ran_at: Vec<Nanos>,
    /// When it asked to be asked again, and how much later it is asked then: on a busy machine threads wake up late.
    due: Option<Nanos>,
    oversleeps: Estimate,
    next_by_count: usize,
    /// When the ladder last looked.
    climbed_at: Nanos,
    device: Device,
    policy: Policy,
    order: Vec<(usize, Way, Waiting)>,
    /// By site and variant: what lies before a frame alone.
    alone: Vec<Vec<Path>>,
}

/// Above this share of misses the device counts as overloaded, until it falls below the second one.
const OVERLOAD: (f64, f64) = (0.02, 0.005);
/// Weight of one frame in the share of misses.
const MISS_GAIN: f64 = 0.02;
/// After so long without a batch, while frames are shed, a probe is due.
const PROBE_EVERY: Nanos = SECOND / 2;
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
/// The next batch is chosen at least so much ahead, besides what the thread that asks is late.
const WAKE: Nanos = MILLI / 10;
/// For a thread that wakes up later than this it is not chosen any earlier.
const OVERSLEEPS_MAX: Nanos = 3 * MILLI;

impl<T> Planner<T> {
    /// A planner with nothing waiting, for a device that runs `slots` batches at once. Every site plans the same number
    /// of rungs, at least one.
    pub fn new(sites: Vec<Site>, slots: usize) -> Self {
        let rungs = sites.iter().map(|s| s.rungs.len()).max().unwrap_or(1).max(1);
        let (unmeasured, ran_at) = (vec![false; sites.len()], vec![0; sites.len()]);
        let alone = sites.iter().map(|s| vec![Path::default(); s.variants.len()]).collect();
        Self {
            sites,
            rungs: Rungs::open(rungs),
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
            patience: None,
            patient_at: 0,
            unmeasured,
            ran_at,
            due: None,
            oversleeps: Estimate::default(),
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

    /// These rungs are shut until [`opens`](Self::opens): no frame runs on them. The best rung cannot be.
    pub fn with_shut(mut self, rungs: &[usize]) -> Self {
        rungs.iter().filter(|&&r| r > 0).for_each(|&r| self.rungs.shut(r));
        self
    }

    /// A shut rung that would help, if there is one.
    pub fn wanted(&self) -> Option<usize> {
        self.rungs.wanted()
    }

    /// A rung is open from now on, with these ways of running sites: site, variant, what it costs on an idle device.
    pub fn opens(&mut self, rung: usize, loaded: &[(usize, usize, Variant)]) {
        for (site, variant, measured) in loaded {
            if let Some(v) = self.sites.get_mut(*site).and_then(|s| s.variants.get_mut(*variant)) {
                v.clone_from(measured);
            }
        }
        self.rungs.opens(rung);
        self.judge();
    }

    /// A shut rung cannot be opened: nobody asks for it again.
    pub fn gives_up(&mut self, rung: usize) {
        self.rungs.gives_up(rung);
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
        if s.crops.is_some() {
            // Without its crops a frame goes on at once.
            return s.tail.mean().checked_sub(deadline).filter(|&e| e > 0);
        }
        let quickest = s.loaded().map(|v| self.alone(&v.cost)).min().unwrap_or(0);
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

    /// A frame of an open stream arrived at a site at `now`. Gives back what does not fit: the stream's oldest frame if
    /// its queue was full, the frame itself if the stream is not open there.
    pub fn arrive(&mut self, stream: u32, site: usize, now: Nanos, waiting: Waiting, item: T) -> Option<T> {
        self.wakes(now);
        let newest_goes = self.policy == Policy::DropNewest;
        let on_crops = self.sites.get(site).is_some_and(|s| s.crops.is_some());
        let Some(lane) = self.lane_mut(stream, site) else { return Some(item) };
        let place = lane.stream;
        lane.arrives(waiting.ready);
        lane.lag = waiting.ready.saturating_sub(waiting.captured);
        if newest_goes && lane.queue.len() >= lane.lane.capacity {
            return Some(item);
        }
        lane.queue.push_back((waiting, item));
        let pushed_out = (lane.queue.len() > lane.lane.capacity).then(|| lane.queue.pop_front()).flatten();
        if on_crops {
            lane.counts(waiting.places);
            self.sites[site].crops = Some(lane.usual.ceil() as usize);
        }
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
        if let Some(late) = self.due.take().and_then(|due| now.checked_sub(due)) {
            self.oversleeps.observe(late);
        }
        self.decay(now);
        self.climb(now);
        let start = now.max(free_at);
        self.look_ahead();
        self.clear_heads(now, start, plan);
        self.forget();
        let waiting = self.waiting();
        if waiting == 0 {
            let unmeasured = |&s: &usize| self.unmeasured[s] && now >= self.ran_at[s] + PROBE_EVERY;
            return (0..self.sites.len()).find(unmeasured).map_or(Next::Idle, |site| self.probe(site, now));
        }
        // The next batch is chosen as late as its preprocess allows: whoever arrives until then can still join.
        let lead = self.lead(waiting);
        if now + lead < free_at {
            self.due = Some(free_at - lead);
            return Next::WaitUntil(free_at - lead);
        }
        if let Some(until) = self.holds_back(now, start) {
            return Next::WaitUntil(until);
        }
        if let Some(next) = self.choose(start, plan).or_else(|| self.choose_by_count(plan)) {
            if let Next::Run { site, .. } = next {
                (self.ran_at[site], self.unmeasured[site]) = (start, false);
            }
            // What gave way while the batch was chosen may have stood in front of frames that need no device.
            self.pass_on(&mut plan.follow);
            return next;
        }
        Next::Idle
    }

    fn lead(&self, waiting: usize) -> Nanos {
        let longest = |(n, s): (usize, &Site)| {
            let places = match s.crops {
                None => waiting,
                Some(_) => {
                    let lanes = self.lanes.iter().filter(|l| l.lane.site == n);
                    lanes.flat_map(|l| &l.queue).map(|(w, _)| w.places).sum()
                }
            };
            let prepare = |v: &Variant| v.cost.prepare.upper(2.0) * v.largest().min(places) as Nanos;
            s.variants.iter().map(prepare).max().unwrap_or(0)
        };
        let prepare = self.sites.iter().enumerate().map(longest).max().unwrap_or(0);
        prepare.max(WAKE) + self.oversleeps.upper(1.0).min(OVERSLEEPS_MAX)
    }

    /// Everything is being shed at a site, and nothing is learnt from that: a batch without a frame, at its quickest
    /// rung.
    fn probe(&mut self, site: usize, now: Nanos) -> Next {
        self.ran_at[site] = now;
        self.slowdown.relax();
        self.sites.iter_mut().for_each(|s| {
            // A batch without a frame says nothing about what lies behind it.
            s.tail.fade();
            s.variants.iter_mut().for_each(|v| v.cost.prepare.relax());
        });
        self.margin *= 0.5;
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
}

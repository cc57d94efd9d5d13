//! What holds under any load.

use super::*;
use framegate::frame::Nanos;
use framegate::frame::clock::SECOND;
use framegate::schedule::sim::{Device, Fork, Span};
use framegate::schedule::{Bypass, Lane, Next, Plan, Planner, Waiting, Why};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// The device waits no longer than this for a stream that has been served less, if frames wait.
const HOLD: Nanos = 2 * MILLI;

/// A stream in front of the stages 0..`sites`.
#[derive(Debug, Clone)]
struct Stream {
    period: Nanos,
    phase: Nanos,
    jitter: Nanos,
    deadline: Nanos,
    priority: i32,
    capacity: usize,
    frames: u64,
}

/// A device, what comes to it, and how far the spans are from what was calibrated.
#[derive(Debug, Clone)]
struct Load {
    sites: Vec<Site>,
    slots: usize,
    streams: Vec<Stream>,
    /// The first so many streams are offline.
    offline: usize,
    spread: (f64, f64),
    seed: u64,
}

fn variants() -> impl Strategy<Value = Vec<Variant>> {
    let one =
        (0..8_000_000u64, 200_000..8_000_000u64, 0..2_000_000u64, 1..5usize).prop_map(|(a, b, prepare, sizes)| {
            let mut cost = Cost::of(a, b);
            if prepare > 1_000_000 {
                cost.prepare.observe(prepare - 1_000_000);
            }
            Variant { cost, batch_sizes: [1, 2, 4, 8][..sizes.min(4)].to_vec() }
        });
    prop::collection::vec(one, 1..3)
}

fn sites() -> impl Strategy<Value = Vec<Site>> {
    let rungs = |variants: usize, n: usize| {
        prop::collection::vec((prop::option::weighted(0.9, 0..variants), 1..4u32), n)
            .prop_map(|rungs| rungs.into_iter().map(|(variant, every)| RungPlan { variant, every }).collect::<Vec<_>>())
    };
    let site =
        move |n| {
            variants().prop_flat_map(move |variants| {
                (rungs(variants.len(), n), prop::option::weighted(0.3, 0..6usize)).prop_map(move |(rungs, crops)| {
                    Site { variants: variants.clone(), rungs, tail: Default::default(), crops }
                })
            })
        };
    (1..4usize, 1..4usize).prop_flat_map(move |(sites, rungs)| prop::collection::vec(site(rungs), sites))
}

fn stream() -> impl Strategy<Value = Stream> {
    (5 * MILLI..60 * MILLI, 0..40 * MILLI, 0..10 * MILLI, 10 * MILLI..120 * MILLI, -1..3i32, 1..6usize, 1..25u64)
        .prop_map(|(period, phase, jitter, deadline, priority, capacity, frames)| Stream {
            period,
            phase,
            jitter,
            deadline,
            priority,
            capacity,
            frames,
        })
}

fn load() -> impl Strategy<Value = Load> {
    let spread = prop_oneof![Just((1.0, 1.0)), (0.3..1.0f64, 1.0..3.0f64)];
    (sites(), 1..3usize, prop::collection::vec(stream(), 1..8), 0..3usize, spread, any::<u64>()).prop_map(
        |(sites, slots, streams, offline, spread, seed)| Load { sites, slots, streams, offline, spread, seed },
    )
}

/// Places that a frame could fill at a stage: on crops from none to more than a batch has.
fn places(site: &Site, stream: u32, seq: u64) -> usize {
    match site.crops {
        None => 1,
        Some(most) => (seq * 7 + u64::from(stream) * 3) as usize % (2 * most + 1),
    }
}

/// A frame on its way.
type Item = (u32, Waiting);

/// A frame that has been through a stage, and its rung.
type Done = (Item, usize);

/// Numbers, in order, and who of them is done.
type UnderWay = VecDeque<(u64, Option<Done>)>;

struct Running {
    site: usize,
    variant: usize,
    places: usize,
    started: Nanos,
    ends: Nanos,
    items: Vec<Done>,
}

/// The dispatcher of a load: one stage after the other, each frame through all of them.
struct Driver<'l> {
    load: &'l Load,
    planner: Planner<Item>,
    rng: fastrand::Rng,
    now: Nanos,
    /// By time: frames that come to a stage.
    arrivals: BTreeMap<(Nanos, u64), (usize, Item)>,
    /// What each slot runs.
    slots: Vec<Option<Running>>,
    ids: u64,
    ended: u64,
    /// The last number that left a stage, of each stream.
    last: HashMap<(u32, usize), u64>,
    /// What has left the planner and not the stage, of each stream: who is done waits for who is not.
    under_way: HashMap<(u32, usize), UnderWay>,
    /// The last number that was inferred there, and how many were carried since.
    inferred: HashMap<(u32, usize), (u64, u32)>,
    log: Vec<String>,
}

impl<'l> Driver<'l> {
    fn new(load: &'l Load) -> Self {
        let mut rng = fastrand::Rng::with_seed(load.seed);
        let mut planner = Planner::new(load.sites.clone(), load.slots);
        let (mut arrivals, mut ids) = (BTreeMap::new(), 0);
        for (i, s) in load.streams.iter().enumerate() {
            let deadline = (i >= load.offline).then_some(s.deadline);
            for site in 0..load.sites.len() {
                planner.open(Lane {
                    stream: i as u32,
                    site,
                    priority: s.priority,
                    deadline,
                    by_count: i < load.offline,
                    capacity: if i < load.offline { 64 } else { s.capacity },
                    entry: site == 0,
                });
            }
            let mut last = 0;
            for seq in 0..s.frames {
                let captured = (SECOND + s.phase + seq * s.period + rng.u64(0..=s.jitter)).max(last);
                last = captured;
                let deadline = deadline.map(|d| captured + d);
                let places = places(&load.sites[0], i as u32, seq);
                let w = Waiting { seq, captured, ready: captured, deadline, rung: None, places };
                arrivals.insert((captured, ids), (0, (i as u32, w)));
                ids += 1;
            }
        }
        let slots = (0..load.slots).map(|_| None).collect();
        Self {
            load,
            planner,
            rng,
            now: 0,
            arrivals,
            slots,
            ids,
            ended: 0,
            last: HashMap::new(),
            under_way: HashMap::new(),
            inferred: HashMap::new(),
            log: Vec::new(),
        }
    }

    fn offline(&self, stream: u32) -> bool {
        (stream as usize) < self.load.offline
    }

    /// A frame leaves the planner, in order.
    fn leaves(&mut self, site: usize, (stream, w): Item) {
        self.under_way.entry((stream, site)).or_default().push_back((w.seq, None));
        let last = self.last.insert((stream, site), w.seq);
        assert!(last.is_none_or(|l| l < w.seq), "stream {stream} at {site}: {} behind {last:?}", w.seq);
    }

    /// A frame is done with a stage: it leaves it as soon as those before it have.
    fn done(&mut self, site: usize, item: Item, rung: usize) {
        let lane = self.under_way.get_mut(&(item.0, site)).expect("it left the planner");
        let own = lane.iter_mut().find(|f| f.0 == item.1.seq).expect("it left the planner");
        own.1 = Some((item, rung));
        while let Some(lane) = self.under_way.get_mut(&(item.0, site))
            && let Some(&(_, Some((item, rung)))) = lane.front()
        {
            lane.pop_front();
            self.goes_on(site, item, rung);
        }
    }

    /// On to the next stage, or delivered.
    fn goes_on(&mut self, site: usize, (stream, w): Item, rung: usize) {
        if site + 1 < self.load.sites.len() {
            let places = places(&self.load.sites[site + 1], stream, w.seq);
            let w = Waiting { ready: self.now, rung: Some(rung), places, ..w };
            self.arrivals.insert((self.now, self.ids), (site + 1, (stream, w)));
            self.ids += 1;
        } else {
            let late = w.deadline.map_or(0, |d| self.now.saturating_sub(d));
            self.planner.delivered(site, stream, self.now, 0, late);
            self.ended += 1;
        }
    }

    fn run(mut self) -> Vec<String> {
        let frames: u64 = self.load.streams.iter().map(|s| s.frames).sum();
        let mut plan = Plan::default();
        let mut wake = Nanos::MAX;
        for _ in 0..100_000 {
            let arrival = self.arrivals.keys().next().map_or(Nanos::MAX, |k| k.0);
            let slot = self.slots.iter().flatten().map(|s| s.ends).min().unwrap_or(Nanos::MAX);
            let next = arrival.min(slot).min(wake);
            if next == Nanos::MAX {
                break;
            }
            self.now = self.now.max(next);
            self.finish();
            while self.arrivals.keys().next().is_some_and(|k| k.0 <= self.now) {
                let (_, (site, item)) = self.arrivals.pop_first().expect("there is one");
                let given_up = self.planner.arrive(item.0, site, self.now, item.1, item);
                self.ended += u64::from(given_up.is_some());
            }
            wake = self.decide(&mut plan);
            // No more frames will come: what is left of the offline streams may run.
            if self.arrivals.is_empty() && self.slots.iter().all(Option::is_none) && self.planner.waiting() > 0 {
                for s in 0..self.load.offline as u32 {
                    (0..self.load.sites.len()).for_each(|site| self.planner.end(s, site));
                }
                wake = wake.min(self.now + MILLI);
            }
        }
        // A later stage of an offline stream ends with the earlier one here: what comes to it then is given back.
        assert_eq!((self.ended, self.planner.waiting()), (frames, 0), "frames that ended, and what still waits");
        self.log
    }

    /// Batches whose end has come.
    fn finish(&mut self) {
        for i in 0..self.slots.len() {
            if self.slots[i].as_ref().is_none_or(|s| s.ends > self.now) {
                continue;
            }
            let Some(r) = self.slots[i].take() else { continue };
            self.planner.ran(r.site, r.variant, r.places, r.started, r.ends - r.started);
            for (item, rung) in r.items {
                self.done(r.site, item, rung);
            }
        }
    }

    /// One decision, checked. Gives back when to look again.
    fn decide(&mut self, plan: &mut Plan<Item>) -> Nanos {
        let free = self.slots.iter().any(Option::is_none);
        if !free {
            return Nanos::MAX;
        }
        plan.clear();
        let before = self.planner.waiting();
        let next = self.planner.plan(self.now, self.now, plan);
        self.log.push(format!("{} {next:?} {plan:?}", self.now));
        let out = plan.pass.len() + plan.run.len() + plan.follow.len() + plan.shed.len();
        assert_eq!(before, self.planner.waiting() + out, "frames are neither lost nor made");
        let passed: Vec<_> = plan.pass.drain(..).collect();
        for bypass in passed {
            self.passes(bypass);
        }
        let mut wake = Nanos::MAX;
        match next {
            Next::Run { site, variant } => self.start(site, variant, plan),
            Next::Probe { site, variant } => {
                assert!(plan.run.is_empty() && self.planner.waiting() == 0, "a probe keeps nobody waiting");
                self.busy(site, variant, 1, Vec::new());
            }
            Next::WaitUntil(at) => {
                assert!(plan.run.is_empty());
                // Or under overload for the next frame of a stream that starves, no longer than a frame runs.
                let alone = |site: usize| {
                    let variants = 0..self.load.sites[site].variants.len();
                    variants.map(|v| self.planner.expected(site, v, 1)).max().unwrap_or(0)
                };
                let longest = (0..self.load.sites.len()).map(alone).max().unwrap_or(0);
                let most = if self.planner.is_overloaded() { HOLD + longest } else { HOLD };
                assert!(at > self.now && at <= self.now + most, "waits for {}", at - self.now);
                wake = at;
            }
            Next::Idle => {
                assert!(plan.run.is_empty());
                assert!(self.idles_rightly(), "idle, and {} wait", self.planner.waiting());
            }
        }
        for bypass in plan.follow.drain(..).collect::<Vec<_>>() {
            self.passes(bypass);
        }
        self.ended += plan.shed.len() as u64;
        wake
    }

    /// What waits on an idle device belongs to offline streams and fills no batch.
    fn idles_rightly(&self) -> bool {
        let most = self.load.sites.iter().flat_map(|s| &s.variants).map(Variant::largest).max().unwrap_or(1);
        self.planner.waiting() <= self.load.offline * self.load.sites.len() * (most - 1)
    }

    fn passes(&mut self, Bypass { site, item, rung, why }: Bypass<Item>) {
        assert!(item.1.rung.is_none_or(|r| r == rung), "a frame that has begun keeps its rung");
        self.leaves(site, item);
        let plan = self.load.sites[site].rungs[rung];
        assert_eq!(plan.variant.is_none(), why == Why::Off);
        assert!(self.load.sites[site].crops.is_some() || !matches!(why, Why::Empty | Why::Skipped));
        assert_eq!(item.1.places == 0 && plan.variant.is_some(), why == Why::Empty);
        if why == Why::Carried {
            let most = self.load.sites[site].rungs.iter().map(|r| r.every).max().unwrap_or(1);
            let (last, carried) = self.inferred.get(&(item.0, site)).copied().expect("the first is inferred");
            assert!(item.1.seq - last < u64::from(most), "frame {} is carried from {last}", item.1.seq);
            // Frames without crops count as neither.
            let whole = self.load.sites[site].crops.is_none();
            assert!(!whole || carried + 1 < most, "{carried} frames in a row are carried");
            self.inferred.insert((item.0, site), (last, carried + 1));
        }
        self.done(site, item, rung);
    }

    fn start(&mut self, site: usize, variant: usize, plan: &mut Plan<Item>) {
        let v = &self.load.sites[site].variants[variant];
        let frames = plan.run.len();
        assert!(frames > 0 && frames <= v.largest(), "{frames} frames");
        let filled: usize = plan.run.iter().map(|c| c.places).sum();
        let places = v.batch_sizes.iter().copied().find(|&s| s >= filled).expect("it is warm for it");
        let known = &self.planner.sites()[site];
        let prepare = known.variants[variant].cost.prepare.mean() * filled as Nanos;
        let end = self.now + prepare + self.planner.expected(site, variant, places) + known.tail.mean();
        let offline = self.offline(plan.run[0].item.0);
        let mut items = Vec::new();
        for c in plan.run.drain(..) {
            let (stream, w) = c.item;
            assert!(c.places > 0 && c.places <= w.places, "{} places for a frame that fills {}", c.places, w.places);
            assert_eq!(self.load.sites[site].rungs[c.rung].variant, Some(variant), "mixed rungs share no batch");
            assert!(w.deadline.is_none_or(|d| end <= d), "started, and known to be late");
            assert!(w.rung.is_none_or(|r| r == c.rung), "a frame that has begun keeps its rung");
            assert_eq!(self.offline(stream), offline, "offline frames share no batch with others");
            assert!(!offline || items.iter().all(|((s, _), _): &Done| *s == stream), "nor with each other's");
            self.leaves(site, c.item);
            self.inferred.insert((stream, site), (w.seq, 0));
            items.push((c.item, c.rung));
        }
        self.busy(site, variant, places, items);
    }

    fn busy(&mut self, site: usize, variant: usize, places: usize, items: Vec<Done>) {
        let v = &self.load.sites[site].variants[variant];
        let (low, high) = self.load.spread;
        let model = v.cost.alpha() as f64 + v.cost.beta() as f64 * places as f64;
        let span = model * (low + (high - low) * self.rng.f64());
        let prepare = v.cost.prepare.mean() * items.len() as Nanos;
        let started = self.now + prepare;
        let ends = started + (span as Nanos).max(1);
        let slot = self.slots.iter_mut().find(|s| s.is_none()).expect("one is free");
        *slot = Some(Running { site, variant, places, started, ends, items });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_decision_keeps_the_rules(load in load()) {
        let log = Driver::new(&load).run();
        prop_assert_eq!(log, Driver::new(&load).run(), "the same inputs, the same decisions");
    }
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let feed = (stream(), 0..20 * MILLI, 0..3u64, prop::collection::vec(any::<prop::sample::Index>(), 1..4));
    let truth = (0.0..0.3f64, 0.0..0.02f64, 0.2..4.0f64, any::<bool>());
    // Devices, and whether branches begin behind the first one's first stage.
    let machine = (1..3usize, 1..4usize, any::<bool>());
    (sites(), machine, prop::collection::vec(feed, 1..8), truth, 0..5usize, any::<u64>()).prop_map(
        |(sites, (slots, devices, forks), feeds, (spread, outliers, slow, frozen), policy, seed)| {
            let n = sites.len();
            let feeds = feeds.into_iter().map(|(s, decode, pause, branches)| Feed {
                period: s.period,
                phase: Some(s.phase),
                jitter: s.jitter,
                decode,
                deadline: Some(s.deadline),
                priority: s.priority,
                capacity: s.capacity,
                pauses: vec![Span { from: SECOND / 2, to: SECOND / 2 + pause * 100 * MILLI }],
                present: Span { from: 0, to: s.frames * s.period },
                // Each branch from some stage to the last.
                branches: branches.iter().map(|b| (b.index(n)..n).collect()).collect(),
                forks: (1..branches.len())
                    .filter(|_| forks)
                    .map(|branch| Fork { branch, behind: (0..branch).map(|b| (b, 0)).collect() })
                    .collect(),
                ..Feed::steady(30.0, s.deadline)
            });
            let mut s = Scenario::new(feeds.collect(), sites, 2 * SECOND, seed);
            let on = |d: usize| Device::new((0..n).filter(|site| site % devices == d), slots + d % 2);
            s.devices = (0..devices).map(on).collect();
            s.policy = Policy::ALL[policy];
            s.truth = Truth {
                spread,
                outliers: (outliers, 30 * MILLI),
                slowdowns: vec![(Span { from: SECOND / 4, to: SECOND }, slow)],
                tail: MILLI,
                frozen: if frozen { vec![Span { from: SECOND / 3, to: 2 * SECOND }] } else { Vec::new() },
                ..Truth::default()
            };
            s
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_accounts_for_every_frame_and_can_be_repeated(scenario in scenario()) {
        let out = checked(&scenario);
        prop_assert_eq!(format!("{out:?}"), format!("{:?}", run(&scenario)));
    }
}

/// How streams of equal priority come to a device that is asked for more than it can do.
#[derive(Debug, Clone)]
struct Crowd {
    streams: u32,
    load: f64,
    alpha: Nanos,
    deadline: Nanos,
    jitter: Nanos,
    seed: u64,
}

const PERIOD: Nanos = SECOND / 30;

/// The longest time between two frames of a stream that are served, over that between two on average.
fn longest_wait(c: &Crowd) -> f64 {
    // As much a frame as makes the load what it is to be, in batches of a quarter of the streams.
    let batch = (f64::from(c.streams) / 4.0).max(1.0);
    let share = PERIOD as f64 * c.load / f64::from(c.streams) - c.alpha as f64 / batch;
    let cost = Cost::of(c.alpha, share.max(300_000.0) as Nanos);
    let mut p: Planner<u32> = Planner::new(vec![Site::plain(cost.clone(), (1..=16).collect())], 1);
    let mut rng = fastrand::Rng::with_seed(c.seed);
    for stream in 0..c.streams {
        p.open(Lane {
            stream,
            site: 0,
            priority: 0,
            deadline: Some(c.deadline),
            by_count: false,
            capacity: 8,
            entry: true,
        });
    }
    let mut next: Vec<(Nanos, u64)> = (0..c.streams).map(|_| (SECOND + rng.u64(0..PERIOD), 0)).collect();
    let phases: Vec<Nanos> = next.iter().map(|n| n.0).collect();
    let (mut now, mut plan) = (SECOND, Plan::default());
    // The first three seconds are for it to notice.
    let (counted, end) = (4 * SECOND, 14 * SECOND);
    let mut served = vec![(counted, 0, 0u64); c.streams as usize];
    while now < end {
        for (s, (due, seq)) in next.iter_mut().enumerate() {
            while *due <= now {
                let w = Waiting {
                    seq: *seq,
                    captured: *due,
                    ready: *due,
                    deadline: Some(*due + c.deadline),
                    rung: None,
                    places: 1,
                };
                p.arrive(s as u32, 0, now, w, s as u32);
                *seq += 1;
                *due = phases[s] + *seq * PERIOD + rng.u64(0..=c.jitter);
            }
        }
        plan.clear();
        let arrives = next.iter().map(|n| n.0).min().unwrap_or(end);
        match p.plan(now, now, &mut plan) {
            Next::Run { .. } => {
                let span = cost.alpha() + cost.beta() * plan.run.len() as u64;
                for f in &plan.run {
                    let (last, longest, n) = &mut served[f.item as usize];
                    if now >= counted {
                        (*longest, *n) = ((now - *last).max(*longest), *n + 1);
                        *last = now;
                    }
                    p.delivered(0, f.item, now + span, 0, 0);
                }
                p.ran(0, 0, plan.run.len(), now, span);
                now += span;
            }
            Next::WaitUntil(at) => now = at.min(arrives),
            Next::Probe { .. } | Next::Idle => now = arrives,
        }
    }
    let frames: u64 = served.iter().map(|s| s.2).sum();
    let mean = (end - counted) as f64 * f64::from(c.streams) / frames.max(1) as f64;
    let longest = served.iter().map(|s| s.1.max(end - s.0)).max().unwrap_or(0);
    longest as f64 / mean
}

fn crowd() -> impl Strategy<Value = Crowd> {
    (4..32u32, 1.3..4.0f64, 0..4 * MILLI, 30 * MILLI..100 * MILLI, 0..8 * MILLI, any::<u64>()).prop_map(
        |(streams, load, alpha, deadline, jitter, seed)| Crowd { streams, load, alpha, deadline, jitter, seed },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Under overload a stream of equal priority is served again within twelve times the mean.
    #[test]
    fn nobody_starves(crowd in crowd()) {
        let wait = longest_wait(&crowd);
        prop_assert!(wait < 12.0, "{wait}");
    }
}

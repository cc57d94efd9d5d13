//! A decision of the planner allocates nothing. Alone in its file because it counts what the whole process allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use framegate::frame::Nanos;
use framegate::frame::clock::{MILLI, SECOND};
use framegate::schedule::{Cost, Lane, Next, Plan, Planner, RungPlan, Site, Variant, Waiting};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // Gone while a thread ends; what happens then is nobody's frame.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: hands everything to the system's allocator; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, memory) }
    }

    unsafe fn realloc(&self, at: *mut u8, memory: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, memory, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STREAMS: u64 = 64;
const FPS: u64 = 30;

/// 64 streams through two stages on one device that takes so many of them; with three rungs or with one.
struct World {
    planner: Planner<(u32, Waiting)>,
    plan: Plan<(u32, Waiting)>,
    captured: u64,
    now: Nanos,
    /// What the decisions came to: frames run, passed, shed.
    done: [u64; 3],
}

impl World {
    fn new(fits: f64, rungs: usize) -> Self {
        let variant = |share: f64| Variant {
            cost: Cost::of((share * 2e6) as Nanos, (share * 12e6 / fits) as Nanos),
            batch_sizes: vec![1, 2, 4, 8, 16, 32],
        };
        let plans = [
            RungPlan { variant: Some(0), every: 1 },
            RungPlan { variant: Some(1), every: 1 },
            RungPlan { variant: Some(1), every: 2 },
        ];
        let site = Site {
            variants: vec![variant(1.0), variant(0.7)],
            rungs: plans[..rungs].to_vec(),
            tail: Default::default(),
            crops: None,
        };
        let crops = Site { crops: Some(3), ..Site::plain(Cost::of(100_000, 20_000), (1..=16).collect()) };
        let crops = Site { rungs: vec![crops.rungs[0]; rungs], ..crops };
        let mut planner = Planner::new(vec![site, crops], 1);
        for stream in 0..STREAMS as u32 {
            for site in 0..2 {
                let (priority, deadline) = (stream as i32 % 3, Some(33 * MILLI));
                planner.open(Lane { stream, site, priority, deadline, by_count: false, capacity: 4, entry: site == 0 });
            }
        }
        Self { planner, plan: Plan::with_capacity(10 * STREAMS as usize), captured: 0, now: SECOND, done: [0; 3] }
    }

    fn decide(&mut self) {
        let due = |k: u64| SECOND + k * SECOND / (FPS * STREAMS);
        while due(self.captured) <= self.now {
            let captured = due(self.captured);
            let (stream, seq) = ((self.captured % STREAMS) as u32, self.captured / STREAMS);
            let w = Waiting {
                seq,
                captured,
                ready: captured,
                deadline: Some(captured + 33 * MILLI),
                rung: None,
                places: 1,
            };
            self.planner.arrive(stream, 0, self.now, w, (stream, w));
            self.captured += 1;
        }
        self.plan.clear();
        let next = self.planner.plan(self.now, self.now, &mut self.plan);
        self.done[0] += self.plan.run.len() as u64;
        self.done[1] += (self.plan.pass.len() + self.plan.follow.len()) as u64;
        self.done[2] += self.plan.shed.len() as u64;
        let mut left = None;
        match next {
            Next::Run { site, variant } => {
                let places = self.plan.run.iter().map(|c| c.places).sum();
                let span = self.planner.expected(site, variant, places);
                self.planner.prepared(site, variant, 1000);
                self.planner.ran(site, variant, places, self.now, span);
                self.now += span;
                left = Some(site);
            }
            Next::Probe { .. } | Next::Idle => self.now = due(self.captured),
            Next::WaitUntil(at) => self.now = at.min(due(self.captured)),
        }
        let passed = self.plan.pass.iter().chain(&self.plan.follow).map(|b| (b.site, b.item, b.rung));
        let ran = self.plan.run.iter().filter_map(|c| left.map(|site| (site, c.item, c.rung)));
        for (site, (stream, w), rung) in passed.chain(ran) {
            if site == 0 {
                let w = Waiting { ready: self.now, rung: Some(rung), places: (w.seq % 5) as usize, ..w };
                self.planner.arrive(stream, 1, self.now, w, (stream, w));
            } else {
                let late = w.deadline.map_or(0, |d| self.now.saturating_sub(d));
                self.planner.delivered(site, stream, self.now, 0, late);
            }
        }
    }
}

#[test]
fn a_decision_allocates_nothing() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert!(ALLOCATIONS.get() > before, "the counter counts");
    for rungs in [1, 3] {
        for (name, fits) in [("below the knee", 96.0), ("overloaded", 24.0)] {
            let mut world = World::new(fits, rungs);
            // Queues and lists grow to what they need.
            (0..20_000).for_each(|_| world.decide());
            let before = (ALLOCATIONS.get(), world.done);
            (0..20_000).for_each(|_| world.decide());
            let allocated = ALLOCATIONS.get() - before.0;
            let done: Vec<u64> = world.done.iter().zip(before.1).map(|(a, b)| a - b).collect();
            println!("{name}, {rungs} rungs: run, passed, shed {done:?}");
            assert!(done[0] > 10_000, "{name}: {done:?}");
            assert_eq!(allocated, 0, "{name}, {rungs} rungs");
        }
    }
}

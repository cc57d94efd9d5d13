//! Time that one decision of the planner takes, by the number of streams.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use framegate::frame::Nanos;
use framegate::frame::clock::{MILLI, SECOND};
use framegate::schedule::{Cost, Lane, Next, Plan, Planner, RungPlan, Site, Variant, Waiting};

/// A device that serves so many of these streams, with two rungs.
fn site(streams: f64) -> Site {
    let variant = |share: f64| Variant {
        cost: Cost::of((share * 4e6) as Nanos, (share * 25e6 / streams) as Nanos),
        batch_sizes: vec![1, 2, 4, 8, 16, 32],
    };
    Site {
        variants: vec![variant(1.0), variant(0.7)],
        rungs: vec![RungPlan { variant: Some(0), every: 1 }, RungPlan { variant: Some(1), every: 1 }],
        tail: Default::default(),
        crops: None,
    }
}

/// Streams of 30 fps in front of a device, for ever.
struct World {
    planner: Planner<u32>,
    plan: Plan<u32>,
    streams: u64,
    /// Frames captured so far: number k is due at k / (30 · streams) seconds.
    captured: u64,
    now: Nanos,
}

const FPS: u64 = 30;

impl World {
    fn new(streams: u64, load: f64) -> Self {
        let mut planner = Planner::new(vec![site(streams as f64 / load)], 1);
        for stream in 0..streams as u32 {
            let deadline = Some(33 * MILLI);
            planner.open(Lane { stream, site: 0, priority: 0, deadline, by_count: false, capacity: 4, entry: true });
        }
        let mut world = Self { planner, plan: Plan::default(), streams, captured: 0, now: SECOND };
        (0..2000).for_each(|_| world.decide());
        world
    }

    /// All that comes to one decision: what arrived is told, the next batch is chosen and its end is told.
    fn decide(&mut self) {
        let due = |k: u64| SECOND + k * SECOND / (FPS * self.streams);
        while due(self.captured) <= self.now {
            let captured = due(self.captured);
            let (stream, seq) = ((self.captured % self.streams) as u32, self.captured / self.streams);
            let waiting = Waiting {
                seq,
                captured,
                ready: captured,
                deadline: Some(captured + 33 * MILLI),
                rung: None,
                places: 1,
            };
            self.planner.arrive(stream, 0, self.now, waiting, stream);
            self.captured += 1;
        }
        self.plan.clear();
        match self.planner.plan(self.now, self.now, &mut self.plan) {
            Next::Run { site, variant } => {
                let span = self.planner.expected(site, variant, self.plan.run.len());
                let started = self.now;
                self.now += span;
                self.planner.ran(site, variant, self.plan.run.len(), started, span);
                for c in &self.plan.run {
                    self.planner.delivered(site, c.item, self.now, 0, 0);
                }
            }
            Next::Probe { .. } | Next::Idle => self.now = due(self.captured),
            Next::WaitUntil(at) => self.now = at.min(due(self.captured)),
        }
    }
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner");
    for streams in [1, 8, 64, 256] {
        for (name, load) in [("below the knee", 0.8), ("overloaded", 2.0)] {
            let mut world = World::new(streams, load);
            group.bench_function(BenchmarkId::new(name, streams), |b| b.iter(|| world.decide()));
        }
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);

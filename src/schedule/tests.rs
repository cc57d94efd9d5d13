//! The planner under made-up time.

use super::{Cost, Lane, Limits, Next, Plan, Planner, Waiting};
use crate::frame::ShedReason;
use crate::frame::clock::MILLI;

fn planner(alpha_ms: u64, beta_ms: u64, sizes: &[usize]) -> Planner<u32> {
    let at = |b: usize| (b, (alpha_ms + beta_ms * b as u64) * MILLI);
    let mut p = Planner::new(
        Limits { batch_sizes: sizes.to_vec(), per_stream: 8 },
        Cost::fit(&sizes.iter().map(|&b| at(b)).collect::<Vec<_>>()),
    );
    for s in 0..4 {
        p.open(Lane { stream: s, priority: 0, deadline: Some(33 * MILLI), by_count: false });
    }
    p
}

fn at(captured_ms: u64) -> Waiting {
    Waiting { captured: captured_ms * MILLI, deadline: Some((captured_ms + 33) * MILLI) }
}

#[test]
fn a_frame_that_cannot_make_it_is_shed_before_any_work() {
    let mut p = planner(0, 10, &[1]);
    let mut plan = Plan::default();
    p.arrive(0, 0, at(0), 1);
    p.arrive(1, 0, at(20), 2);
    assert_eq!(p.plan(25 * MILLI, 0, &mut plan), Next::Run);
    assert_eq!(plan.shed, [(1, ShedReason::Deadline)]);
    assert_eq!(plan.run, [2]);
}

#[test]
fn the_earliest_deadline_goes_first() {
    let mut p = planner(0, 5, &[1]);
    p.arrive(0, 0, at(4), 1);
    p.arrive(1, 0, at(2), 2);
    let mut plan = Plan::default();
    assert_eq!(p.plan(5 * MILLI, 0, &mut plan), Next::Run);
    assert_eq!(plan.run, [2]);
}

#[test]
fn batches_form_only_where_they_pay_and_fit() {
    let mut p = planner(4, 1, &[1, 2, 4]);
    for s in 0..4 {
        p.arrive(s, 0, at(0), s);
    }
    let mut plan = Plan::default();
    assert_eq!(p.plan(MILLI, 0, &mut plan), Next::Run);
    assert_eq!(plan.run.len(), 4, "α dominates: all together");

    let mut p = planner(0, 5, &[1, 2, 4]);
    for s in 0..4 {
        p.arrive(s, 0, at(0), s);
    }
    let mut plan = Plan::default();
    p.plan(MILLI, 0, &mut plan);
    assert_eq!(plan.run.len(), 1, "nothing to gain from a batch");
}

#[test]
fn the_next_batch_is_chosen_as_late_as_its_preprocess_allows() {
    let mut p = planner(0, 5, &[1]);
    p.arrive(0, 0, at(0), 1);
    let mut plan = Plan::default();
    let Next::WaitUntil(t) = p.plan(MILLI, 10 * MILLI, &mut plan) else { panic!("must wait") };
    assert!(t > 9 * MILLI && t < 10 * MILLI);
    assert!(plan.run.is_empty());
}

#[test]
fn infeasible_frames_are_shed_and_probes_heal_a_wrong_estimate() {
    let mut p = planner(0, 50, &[1]);
    p.judge();
    assert_eq!(p.excess(33 * MILLI), Some(17 * MILLI));
    let mut plan = Plan::default();
    p.arrive(0, 0, at(1000), 1);
    assert_eq!(p.plan(1001 * MILLI, 0, &mut plan), Next::Probe);
    assert_eq!(plan.shed, [(1, ShedReason::Infeasible)]);
    for _ in 0..40 {
        p.cost_mut().observe(1, 10 * MILLI);
    }
    p.judge_again();
    plan.shed.clear();
    p.arrive(0, 0, at(2000), 2);
    assert_eq!(p.plan(2001 * MILLI, 0, &mut plan), Next::Run);
}

#[test]
fn caution_never_keeps_an_idle_device_from_a_fresh_frame() {
    let mut p = planner(0, 12, &[1]);
    for i in 0..200 {
        p.cost_mut().observe(1, if i % 4 == 0 { 30 * MILLI } else { 11 * MILLI });
        p.delivered(if i % 4 == 0 { 9 * MILLI } else { 0 });
    }
    assert!(p.excess(33 * MILLI).is_none());
    p.arrive(0, 1000 * MILLI, at(1000), 1);
    let mut plan = Plan::default();
    assert_eq!(p.plan(1003 * MILLI, 0, &mut plan), Next::Run);
}

/// Four streams of 30 fps, first frames at `next` (µs), on a device that takes `service` µs a frame, for 30 s. Arrivals
/// jitter by up to `jitter` µs. Gives back how many frames of each stream were served on time.
fn overload(mut next: [u64; 4], service: u64, jitter: u64) -> [u32; 4] {
    const MICRO: u64 = 1000;
    let mut p = planner(0, service / 1000, &[1]);
    let (mut now, mut free, mut served, mut plan) = (0u64, 0u64, [0u32; 4], Plan::default());
    let mut state = 12345u64;
    let mut lot = move |most: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if most == 0 { 0 } else { (state >> 33) % most }
    };
    let mut due = next;
    while now < 30_000_000 {
        for s in 0..4 {
            if due[s] <= now {
                let captured = due[s] * MICRO;
                let w = Waiting { captured, deadline: Some(captured + 33 * MILLI) };
                p.arrive(s as u32, now * MICRO, w, s as u32);
                next[s] += 33_333;
                due[s] = next[s] + lot(jitter);
            }
        }
        if now >= free && p.plan(now * MICRO, free * MICRO, &mut plan) == Next::Run {
            let s = plan.run[0] as usize;
            served[s] += 1;
            free = now + service;
            p.delivered(0);
            p.cost_mut().observe(1, service * MICRO);
        }
        plan.run.clear();
        plan.shed.clear();
        now += 50;
    }
    served
}

#[test]
fn overload_serves_every_stream_whether_they_come_in_step_or_not() {
    for (what, next, service, jitter, least) in [
        ("spread out", [0, 8_000, 16_000, 24_000], 16_000, 0, 1700),
        ("in step", [0, 100, 200, 900], 16_000, 0, 850),
        ("in step, two fit", [0, 300, 600, 900], 12_000, 0, 1700),
        ("in step with jitter", [0, 300, 600, 900], 12_000, 1500, 1600),
        ("two pairs", [0, 100, 16_000, 16_100], 14_000, 500, 1650),
    ] {
        let served = overload(next, service, jitter);
        let total: u32 = served.iter().sum();
        assert!(total > least, "{what}: the device stays busy: {served:?}");
        assert!(served.iter().all(|&n| n * 4 * 10 > total * 9), "{what}: {served:?}");
    }
}

#[test]
fn offline_batches_are_full_of_one_stream_until_it_ends() {
    let mut p = Planner::new(Limits { batch_sizes: vec![1, 2, 4], per_stream: 8 }, Cost::fit(&[(1, MILLI)]));
    p.open(Lane { stream: 0, priority: 0, deadline: None, by_count: true });
    p.open(Lane { stream: 1, priority: 0, deadline: None, by_count: true });
    let w = Waiting { captured: 0, deadline: None };
    let mut plan = Plan::default();
    for i in 0..3 {
        p.arrive(0, 0, w, i);
        p.arrive(1, 0, w, 10 + i);
    }
    assert_eq!(p.plan(0, 0, &mut plan), Next::Idle);
    p.arrive(1, 0, w, 13);
    assert_eq!(p.plan(0, 0, &mut plan), Next::Run);
    assert_eq!(plan.run, [10, 11, 12, 13]);
    plan.run.clear();
    p.end(0);
    assert_eq!(p.plan(0, 0, &mut plan), Next::Run);
    assert_eq!(plan.run, [0, 1, 2]);
}

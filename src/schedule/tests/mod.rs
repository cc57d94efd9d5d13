//! The planner under made-up time. What whole runs come to is in `tests/schedule`.

mod crops;

use super::{Bypass, Chosen, Cost, Lane, Next, Plan, Planner, RungPlan, Site, Variant, Waiting};
use crate::frame::clock::{MILLI, SECOND};
use crate::frame::{Nanos, ShedReason};

fn lane(stream: u32) -> Lane {
    Lane { stream, site: 0, priority: 0, deadline: Some(33 * MILLI), by_count: false, capacity: 8, entry: true }
}

/// A planner of one stage for four streams.
fn planner(alpha_ms: u64, beta_ms: u64, sizes: &[usize]) -> Planner<u32> {
    let mut p = Planner::new(vec![Site::plain(Cost::of(alpha_ms * MILLI, beta_ms * MILLI), sizes.to_vec())], 1);
    (0..4).for_each(|s| p.open(lane(s)));
    p
}

/// A planner of one stage with two rungs for one stream.
fn laddered(best: RungPlan, second: RungPlan) -> Planner<u32> {
    let variant = |ms| Variant { cost: Cost::of(0, ms * MILLI), batch_sizes: vec![1, 2, 4] };
    let site = Site {
        variants: vec![variant(10), variant(3)],
        rungs: vec![best, second],
        tail: Default::default(),
        crops: None,
    };
    let mut p = Planner::new(vec![site], 1);
    p.open(lane(0));
    p
}

const ALL: RungPlan = RungPlan { variant: Some(0), every: 1 };
const QUICK: RungPlan = RungPlan { variant: Some(1), every: 1 };
const THIRD: RungPlan = RungPlan { variant: Some(0), every: 3 };
const OFF: RungPlan = RungPlan { variant: None, every: 1 };

fn at(captured_ms: u64) -> Waiting {
    let captured = captured_ms * MILLI;
    Waiting { seq: 0, captured, ready: captured, deadline: Some(captured + 33 * MILLI), rung: None, places: 1 }
}

fn numbered(seq: u64, captured_ms: u64) -> Waiting {
    Waiting { seq, ..at(captured_ms) }
}

fn items(frames: &[Chosen<u32>]) -> Vec<u32> {
    frames.iter().map(|c| c.item).collect()
}

fn passed(frames: &[Bypass<u32>]) -> Vec<u32> {
    frames.iter().map(|b| b.item).collect()
}

const RUN: Next = Next::Run { site: 0, variant: 0 };

#[test]
fn a_frame_that_cannot_make_it_is_shed_before_any_work() {
    let mut p = planner(0, 10, &[1]);
    let mut plan = Plan::default();
    p.arrive(0, 0, 0, at(0), 1);
    p.arrive(1, 0, 0, at(20), 2);
    assert_eq!(p.plan(25 * MILLI, 0, &mut plan), RUN);
    assert_eq!(plan.shed, [(1, ShedReason::Deadline)]);
    assert_eq!(items(&plan.run), [2]);
}

#[test]
fn the_earliest_deadline_goes_first() {
    let mut p = planner(0, 5, &[1]);
    p.arrive(0, 0, 0, at(4), 1);
    p.arrive(1, 0, 0, at(2), 2);
    let mut plan = Plan::default();
    assert_eq!(p.plan(5 * MILLI, 0, &mut plan), RUN);
    assert_eq!(items(&plan.run), [2]);
}

#[test]
fn batches_form_only_where_they_pay_and_fit() {
    for (alpha, beta, what, n) in [(4, 1, "α dominates: all together", 4), (0, 5, "nothing to gain from a batch", 1)] {
        let mut p = planner(alpha, beta, &[1, 2, 4]);
        (0..4).for_each(|s| assert_eq!(p.arrive(s, 0, 0, at(0), s), None));
        let mut plan = Plan::default();
        assert_eq!(p.plan(MILLI, 0, &mut plan), RUN);
        assert_eq!(plan.run.len(), n, "{what}");
    }
}

#[test]
fn the_next_batch_is_chosen_as_late_as_its_preprocess_allows() {
    let mut p = planner(0, 5, &[1]);
    p.arrive(0, 0, 0, at(0), 1);
    let mut plan = Plan::default();
    let Next::WaitUntil(t) = p.plan(MILLI, 10 * MILLI, &mut plan) else { panic!("must wait") };
    assert!(t > 9 * MILLI && t < 10 * MILLI);
    assert!(plan.run.is_empty());
}

#[test]
fn who_asks_late_is_told_to_ask_earlier() {
    let mut p = planner(0, 10, &[1]);
    let mut plan = Plan::default();
    let mut ahead = |p: &mut Planner<u32>, round: u64, late: Nanos| {
        let (now, free_at) = (SECOND + round * 100 * MILLI, SECOND + (round * 100 + 10) * MILLI);
        p.arrive(0, 0, now, at(1000 + round * 100), 1);
        let Next::WaitUntil(until) = p.plan(now, free_at, &mut plan) else { panic!("the device is busy") };
        assert!(matches!(p.plan(until + late, free_at, &mut plan), Next::Run { .. }));
        plan.clear();
        free_at - until
    };
    let punctual = (0..30).map(|n| ahead(&mut p, n, 0)).last();
    let late = (30..60).map(|n| ahead(&mut p, n, MILLI)).last();
    assert_eq!(punctual, Some(MILLI / 10));
    assert!(late.is_some_and(|l| l > MILLI && l < 2 * MILLI), "{late:?}");
}

#[test]
fn infeasible_frames_are_shed_and_probes_heal_a_wrong_estimate() {
    let mut p = planner(0, 50, &[1]);
    assert_eq!(p.excess(0, 33 * MILLI), Some(17 * MILLI));
    let mut plan = Plan::default();
    p.arrive(0, 0, SECOND, at(1000), 1);
    assert_eq!(p.plan(1001 * MILLI, 0, &mut plan), Next::Probe { site: 0, variant: 0 });
    assert_eq!(plan.shed, [(1, ShedReason::Infeasible)]);
    for i in 0..40 {
        p.ran(0, 0, 1, 1002 * MILLI + i, 10 * MILLI);
    }
    plan.clear();
    p.arrive(0, 0, 1400 * MILLI, at(1400), 2);
    assert_eq!(p.plan(1401 * MILLI, 0, &mut plan), RUN);
}

#[test]
fn what_only_turned_slow_heals_by_probes_too() {
    let mut p = planner(0, 10, &[1]);
    for i in 0..40 {
        p.ran(0, 0, 1, i, 100 * MILLI);
    }
    let (mut plan, mut probes, mut ran) = (Plan::default(), 0, None);
    for k in 0..600u64 {
        let now = SECOND + k * 33 * MILLI;
        p.arrive(0, 0, now, Waiting { seq: k, ..at(now / MILLI) }, k as u32);
        plan.clear();
        match p.plan(now, now, &mut plan) {
            Next::Probe { .. } => {
                probes += 1;
                p.ran(0, 0, 1, now, 10 * MILLI);
            }
            Next::Run { .. } => {
                ran = Some(now - SECOND);
                break;
            }
            _ => (),
        }
    }
    assert!(probes >= 1 && ran.is_some_and(|t| t < 5 * SECOND), "{probes} probes, runs again after {ran:?}");
}

#[test]
fn caution_never_keeps_an_idle_device_from_a_fresh_frame() {
    let mut p = planner(0, 12, &[1]);
    for i in 0..200 {
        let bad = i % 4 == 0;
        p.ran(0, 0, 1, i, if bad { 30 * MILLI } else { 11 * MILLI });
        p.delivered(0, 0, i, 0, if bad { 9 * MILLI } else { 0 });
    }
    assert!(p.excess(0, 33 * MILLI).is_none());
    p.arrive(0, 0, 1000 * MILLI, at(1000), 1);
    let mut plan = Plan::default();
    assert_eq!(p.plan(1003 * MILLI, 0, &mut plan), RUN);
    // Nor from one that took a third of its time to come here: what is left is enough.
    plan.run.clear();
    p.arrive(0, 0, 1112 * MILLI, Waiting { ready: 1112 * MILLI, ..at(1100) }, 2);
    assert_eq!(p.plan(1112 * MILLI, 0, &mut plan), RUN);
    assert_eq!(items(&plan.run), [2]);
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
    let (mut due, mut seq) = (next, [0; 4]);
    while now < 30_000_000 {
        for s in 0..4 {
            if due[s] <= now {
                let (captured, deadline) = (due[s] * MICRO, Some(due[s] * MICRO + 33 * MILLI));
                p.arrive(
                    s as u32,
                    0,
                    now * MICRO,
                    Waiting { seq: seq[s], captured, ready: captured, deadline, rung: None, places: 1 },
                    s as u32,
                );
                seq[s] += 1;
                next[s] += 33_333;
                due[s] = next[s] + lot(jitter);
            }
        }
        if now >= free && p.plan(now * MICRO, free * MICRO, &mut plan) == RUN {
            let s = plan.run[0].item;
            served[s as usize] += 1;
            free = now + service;
            p.delivered(0, s, now * MICRO, 0, 0);
            p.ran(0, 0, 1, now * MICRO, service * MICRO);
        }
        plan.clear();
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
    let mut p = Planner::new(vec![Site::plain(Cost::fit(&[(1, MILLI)]), vec![1, 2, 4])], 1);
    (0..2).for_each(|s| p.open(Lane { deadline: None, by_count: true, ..lane(s) }));
    let w = |seq| Waiting { seq, captured: 0, ready: 0, deadline: None, rung: None, places: 1 };
    let mut plan = Plan::default();
    for i in 0..3 {
        p.arrive(0, 0, 0, w(i), i as u32);
        p.arrive(1, 0, 0, w(i), 10 + i as u32);
    }
    assert_eq!(p.plan(0, 0, &mut plan), Next::Idle);
    p.arrive(1, 0, 0, w(3), 13);
    assert_eq!(p.plan(0, 0, &mut plan), RUN);
    assert_eq!(items(&plan.run), [10, 11, 12, 13]);
    plan.clear();
    p.end(0, 0);
    assert_eq!(p.plan(0, 0, &mut plan), RUN);
    assert_eq!(items(&plan.run), [0, 1, 2]);
}

#[test]
fn a_full_queue_gives_its_oldest_back_and_a_stream_that_is_not_open_its_frame() {
    let mut p: Planner<u32> = Planner::new(vec![Site::plain(Cost::of(0, MILLI), vec![1])], 1);
    p.open(Lane { capacity: 2, ..lane(0) });
    assert!(p.has_room(0, 0) && p.is_open(0, 0) && !p.is_open(1, 0));
    assert_eq!(p.arrive(0, 0, 0, numbered(0, 0), 0), None);
    assert_eq!(p.arrive(0, 0, 0, numbered(1, 0), 1), None);
    assert!(!p.has_room(0, 0));
    assert_eq!(p.arrive(0, 0, 0, numbered(2, 0), 2), Some(0));
    assert_eq!(p.arrive(1, 0, 0, at(0), 9), Some(9));
    assert_eq!(p.abandon(), [1, 2]);
}

#[test]
fn what_waits_of_a_stream_that_ended_still_runs_and_then_it_is_forgotten() {
    let mut p = planner(0, 5, &[1]);
    p.arrive(0, 0, 0, at(0), 1);
    p.end(0, 0);
    assert_eq!(p.arrive(0, 0, 0, at(0), 2), Some(2), "it has ended");
    let mut plan = Plan::default();
    assert_eq!(p.plan(MILLI, 0, &mut plan), RUN);
    assert!(p.is_open(0, 0));
    plan.clear();
    assert_eq!(p.plan(2 * MILLI, 0, &mut plan), Next::Idle);
    assert!(!p.is_open(0, 0));
}

#[test]
fn a_lower_rung_rescues_a_frame_and_the_ceiling_stays() {
    let mut p = laddered(ALL, QUICK);
    let mut plan = Plan::default();
    p.arrive(0, 0, 25 * MILLI, at(0), 1);
    assert_eq!(p.plan(26 * MILLI, 0, &mut plan), Next::Run { site: 0, variant: 1 });
    assert_eq!(plan.run, [Chosen { item: 1, rung: 1, rescued: true, places: 1 }]);
    assert_eq!((p.ceiling(0), p.moves(0)), (0, (0, 0)));
}

#[test]
fn a_shut_rung_is_wanted_in_need_and_used_once_it_opens() {
    let site = |loaded: bool| {
        let quick = Variant { cost: Cost::of(0, 3 * MILLI), batch_sizes: vec![1] };
        let slow = Variant { cost: Cost::of(0, 20 * MILLI), batch_sizes: vec![1] };
        let variants = vec![slow, if loaded { quick } else { Variant::unloaded() }];
        Site { variants, rungs: vec![ALL, QUICK], tail: Default::default(), crops: None }
    };
    let mut p = Planner::new(vec![site(false)], 1).with_shut(&[1]);
    p.open(lane(0));
    p.open(lane(1));
    let mut plan = Plan::default();
    p.arrive(0, 0, 25 * MILLI, at(0), 1);
    assert_eq!(p.plan(26 * MILLI, 0, &mut plan), Next::Idle);
    assert_eq!((plan.shed.len(), p.wanted()), (1, None), "one frame is no trouble");
    plan.clear();
    // Twice what the device can do.
    let (mut now, mut seq) = (SECOND, 1);
    let two = |p: &mut Planner<u32>, plan: &mut Plan<u32>, now: Nanos, seq: u64| {
        let w = |captured| Waiting { seq, captured, ready: captured, deadline: Some(captured + 33 * MILLI), ..at(0) };
        for s in 0..2 {
            p.arrive(s, 0, now, w(now), s);
        }
        plan.clear();
        let next = p.plan(now, now, plan);
        if let Next::Run { variant, .. } = next {
            let span = if variant == 0 { 20 * MILLI } else { 3 * MILLI };
            p.ran(0, variant, 1, now, span);
            plan.run.iter().for_each(|c| p.delivered(0, c.item, now + span, 0, 0));
        }
        next
    };
    while p.wanted().is_none() {
        assert!(seq < 300, "never wanted");
        two(&mut p, &mut plan, now, seq);
        (now, seq) = (now + 20 * MILLI, seq + 1);
    }
    assert_eq!((p.wanted(), p.ceiling(0), p.ceiling(1)), (Some(1), 0, 0), "a shut rung is nobody's ceiling");
    p.opens(1, &[(0, 1, site(true).variants[1].clone())]);
    assert_eq!(p.wanted(), None);
    let opened = seq;
    while p.ceiling(0) == 0 || p.ceiling(1) == 0 {
        assert!(seq < opened + 300, "never used");
        two(&mut p, &mut plan, now, seq);
        (now, seq) = (now + 20 * MILLI, seq + 1);
    }
    assert_eq!(two(&mut p, &mut plan, now, seq), Next::Run { site: 0, variant: 1 });
}

#[test]
fn a_rung_that_cannot_be_loaded_is_not_asked_for_again() {
    let mut p = laddered(ALL, QUICK).with_shut(&[1]);
    let mut plan = Plan::default();
    p.gives_up(1);
    for seq in 0..200 {
        let now = seq * 5 * MILLI;
        p.arrive(0, 0, now, numbered(seq, seq * 5), seq as u32);
        plan.clear();
        p.plan(now, now, &mut plan);
    }
    assert_eq!((p.wanted(), p.ceiling(0)), (None, 0));
}

#[test]
fn at_its_ceiling_a_frame_is_not_rescued() {
    let mut p = laddered(ALL, QUICK);
    p.set_ceiling(0, 1);
    let mut plan = Plan::default();
    p.arrive(0, 0, MILLI, at(0), 1);
    assert_eq!(p.plan(2 * MILLI, 0, &mut plan), Next::Run { site: 0, variant: 1 });
    assert_eq!(plan.run, [Chosen { item: 1, rung: 1, rescued: false, places: 1 }]);
}

#[test]
fn carried_frames_pass_in_order_around_those_that_are_inferred() {
    let mut p = laddered(THIRD, THIRD);
    let mut plan = Plan::default();
    // Every third of stream 0 is inferred: 0, 3, 6.
    (0..5).for_each(|i| assert_eq!(p.arrive(0, 0, 0, numbered(i, i), i as u32), None));
    assert_eq!(p.plan(5 * MILLI, 0, &mut plan), RUN);
    assert_eq!((items(&plan.run), passed(&plan.pass), passed(&plan.follow)), (vec![0], vec![], vec![1, 2]));
    plan.clear();
    assert_eq!(p.plan(6 * MILLI, 6 * MILLI, &mut plan), RUN);
    assert_eq!((items(&plan.run), passed(&plan.pass), passed(&plan.follow)), (vec![3], vec![], vec![4]));
}

#[test]
fn a_stage_that_a_rung_switches_off_passes_everything_and_never_touches_the_device() {
    let mut p = laddered(ALL, OFF);
    p.set_ceiling(0, 1);
    let mut plan = Plan::default();
    (0..3).for_each(|i| assert_eq!(p.arrive(0, 0, 0, numbered(i, i), i as u32), None));
    assert_eq!(p.plan(5 * MILLI, 0, &mut plan), Next::Idle);
    assert_eq!((passed(&plan.pass), plan.run.len()), (vec![0, 1, 2], 0));
}

#[test]
fn frames_that_have_begun_go_first_and_keep_their_rung() {
    let variant = |ms| Variant { cost: Cost::of(0, ms * MILLI), batch_sizes: vec![1] };
    let site =
        Site { variants: vec![variant(5), variant(3)], rungs: vec![ALL, QUICK], tail: Default::default(), crops: None };
    let mut p = Planner::new(vec![site.clone(), site], 1);
    for s in 0..2 {
        p.open(lane(s));
        p.open(Lane { site: 1, ..lane(s) });
    }
    p.arrive(0, 0, 0, at(0), 1);
    p.arrive(1, 1, 4 * MILLI, Waiting { rung: Some(1), ..at(2) }, 2);
    let mut plan = Plan::default();
    assert_eq!(p.plan(4 * MILLI, 0, &mut plan), Next::Run { site: 1, variant: 1 });
    assert_eq!(plan.run, [Chosen { item: 2, rung: 1, rescued: false, places: 1 }]);
}

#[test]
fn a_refused_streams_frames_are_shed_as_such_until_it_is_admitted() {
    let mut p = planner(0, 5, &[1]);
    p.admit(0, false);
    let mut plan = Plan::default();
    p.arrive(0, 0, 0, at(0), 1);
    p.plan(MILLI, 0, &mut plan);
    assert_eq!(plan.shed, [(1, ShedReason::Admission)]);
    p.admit(0, true);
    plan.clear();
    p.arrive(0, 0, 2 * MILLI, at(2), 2);
    assert_eq!(p.plan(3 * MILLI, 0, &mut plan), RUN);
}

/// Feeds a planner of four streams at 30 fps from `from` to `to`, each with one frame on time after the other.
fn steady(p: &mut Planner<u32>, plan: &mut Plan<u32>, from: Nanos, to: Nanos) -> Nanos {
    let mut now = from;
    while now < to {
        for s in 0..4 {
            p.arrive(s, 0, now, at(now / MILLI), s);
        }
        let mut free = now;
        for _ in 0..4 {
            plan.clear();
            if let Next::Run { site, variant } = p.plan(free, free, plan) {
                p.ran(site, variant, 1, free, 5 * MILLI);
                p.delivered(0, plan.run[0].item, free + 5 * MILLI, 0, 0);
                free += 5 * MILLI;
            }
        }
        now += 33 * MILLI;
    }
    now
}

#[test]
fn a_frozen_process_draws_no_conclusions() {
    let site = Site {
        variants: [5, 2].map(|ms| Variant { cost: Cost::of(0, ms * MILLI), batch_sizes: vec![1] }).to_vec(),
        rungs: vec![ALL, QUICK],
        tail: Default::default(),
        crops: None,
    };
    let mut p = Planner::new(vec![site], 1);
    (0..4).for_each(|s| p.open(lane(s)));
    let mut plan = Plan::default();
    let frozen = steady(&mut p, &mut plan, SECOND, 5 * SECOND);
    // Eight frames of each stream wait, a batch is under way, and then nothing happens for ten seconds.
    for s in 0..4 {
        (0..8).for_each(|i| assert_eq!(p.arrive(s, 0, frozen, numbered(i, frozen / MILLI), s), None));
    }
    let thawed = frozen + 10 * SECOND;
    plan.clear();
    p.plan(thawed, thawed, &mut plan);
    assert_eq!(plan.shed.len(), 32, "what waited is too late");
    p.ran(0, 0, 1, frozen, 10 * SECOND);
    (0..4).for_each(|s| p.delivered(0, s, thawed, 0, 10 * SECOND));
    assert!(!p.is_overloaded());
    assert!(p.expected(0, 0, 1) < 6 * MILLI, "{}", p.expected(0, 0, 1));
    steady(&mut p, &mut plan, thawed, thawed + 2 * SECOND);
    assert!(!p.is_overloaded());
    (0..4).for_each(|s| assert_eq!((p.ceiling(s), p.moves(s)), (0, (0, 0)), "stream {s}"));
}

#[test]
fn under_overload_the_newest_frame_runs_and_what_waits_before_it_gives_way() {
    let mut p = planner(0, 5, &[1]);
    for i in 0..200 {
        p.delivered(0, 3, i, 0, if i < 100 { MILLI } else { 0 });
    }
    for _ in 0..4 {
        p.delivered(0, 3, 0, 0, MILLI);
    }
    assert!(p.is_overloaded());
    let mut plan = Plan::default();
    (0..3).for_each(|i| assert_eq!(p.arrive(0, 0, i * MILLI, numbered(i, i), i as u32), None));
    assert_eq!(p.plan(3 * MILLI, 0, &mut plan), RUN);
    assert_eq!(items(&plan.run), [2]);
    assert_eq!(plan.shed, [(0, ShedReason::Overload), (1, ShedReason::Overload)]);
}

#[test]
fn a_frame_too_late_behind_one_that_needs_no_device_is_shed_at_once() {
    let mut p = laddered(ALL, OFF);
    let mut plan = Plan::default();
    // The first began at a rung that switches the stage off, the second at one that takes 10 ms.
    assert_eq!(p.arrive(0, 0, 0, Waiting { rung: Some(1), ..numbered(0, 0) }, 0), None);
    assert_eq!(p.arrive(0, 0, 0, Waiting { rung: Some(0), ..numbered(1, 0) }, 1), None);
    assert_eq!(p.plan(30 * MILLI, 0, &mut plan), Next::Idle);
    assert_eq!((passed(&plan.pass), &plan.shed[..]), (vec![0], &[(1, ShedReason::Deadline)][..]));
    assert_eq!(p.waiting(), 0);
}

#[test]
fn offline_frames_of_two_rungs_share_no_batch() {
    let mut p = laddered(ALL, QUICK);
    p.open(Lane { deadline: None, by_count: true, ..lane(1) });
    let w = |seq, rung| Waiting { seq, captured: 0, ready: 0, deadline: None, rung: Some(rung), places: 1 };
    (0..4).for_each(|i| assert_eq!(p.arrive(1, 0, 0, w(i, usize::from(i > 1)), i as u32), None));
    let mut plan = Plan::default();
    assert_eq!(p.plan(0, 0, &mut plan), RUN);
    assert_eq!(items(&plan.run), [0, 1]);
    plan.clear();
    p.end(1, 0);
    assert_eq!(p.plan(0, 0, &mut plan), Next::Run { site: 0, variant: 1 });
    assert_eq!(items(&plan.run), [2, 3]);
}

#[test]
fn whoever_is_left_behind_and_would_be_late_then_goes_in_the_batch() {
    // A batch gains nothing here, but the last of them would be late behind one frame alone.
    let mut p = Planner::new(vec![Site::plain(Cost::of(0, 5 * MILLI), vec![1, 2, 3, 4, 5, 6, 7, 8])], 1);
    (0..6).for_each(|s| p.open(lane(s)));
    (0..6).for_each(|s| assert_eq!(p.arrive(s, 0, 0, at(0), s), None));
    let mut plan = Plan::default();
    assert_eq!(p.plan(MILLI, 0, &mut plan), RUN);
    assert_eq!(plan.run.len(), 6);
}

#[test]
fn a_stream_that_always_comes_to_a_busy_device_is_waited_for() {
    // 28 ms of 33 a frame: whoever is served once is there in time again, the others come while it runs.
    let served = overload([0, 8_000, 16_000, 24_000], 28_000, 0);
    let total: u32 = served.iter().sum();
    assert!(total > 600 && served.iter().all(|&n| n * 4 * 3 > total), "{served:?}");
}

#[test]
fn a_frame_that_came_too_late_is_stale_and_says_nothing_about_the_device() {
    let mut p = planner(0, 10, &[1]);
    let mut plan = Plan::default();
    for i in 0..200 {
        let captured = (1000 + i * 40) * MILLI;
        let ready = captured + 25 * MILLI;
        // With 8 ms left, and 10 ms are needed.
        let late = Waiting { captured, ready, deadline: Some(captured + 33 * MILLI), ..numbered(i, 0) };
        assert_eq!(p.arrive(0, 0, ready, late, 1), None);
        plan.clear();
        p.plan(ready, 0, &mut plan);
        assert_eq!(plan.shed, [(1, ShedReason::Stale)]);
    }
    assert!(!p.is_overloaded());
}

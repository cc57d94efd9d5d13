//! The ladder: quality steps down where the device cannot keep up, comes back when it can, and never flaps.

use super::*;
use framegate::frame::clock::SECOND;
use framegate::schedule::sim::Span;

const SECONDS: u64 = SECOND;

fn variant(alpha: u64, beta: u64) -> Variant {
    Variant { cost: Cost::of(alpha, beta), batch_sizes: (1..=32).collect() }
}

/// Three rungs: the model, one of half its cost, and that for every second frame.
fn three() -> Site {
    Site {
        variants: vec![variant(ALPHA, BETA), variant(ALPHA / 2, BETA / 2)],
        rungs: vec![
            RungPlan { variant: Some(0), every: 1 },
            RungPlan { variant: Some(1), every: 1 },
            RungPlan { variant: Some(1), every: 2 },
        ],
        tail: Default::default(),
        crops: None,
    }
}

/// Two rungs: the model, and the same for every third frame.
fn every_third() -> Site {
    Site {
        variants: vec![variant(ALPHA, BETA)],
        rungs: vec![RungPlan { variant: Some(0), every: 1 }, RungPlan { variant: Some(0), every: 3 }],
        tail: Default::default(),
        crops: None,
    }
}

fn scenario(site: Site, streams: usize, seconds: u64, seed: u64) -> Scenario {
    Scenario::new(vec![Feed::steady(30.0, 33 * MILLI); streams], vec![site], seconds * SECONDS, seed)
}

fn seconds(from: u64, to: u64) -> Span {
    Span { from: from * SECONDS, to: to * SECONDS }
}

fn moves(out: &Outcomes) -> Vec<(u64, u64)> {
    out.streams.iter().map(|s| s.moves).collect()
}

/// The rung of each stream after the moves up to a time.
fn rungs_at(out: &Outcomes, at: u64) -> Vec<usize> {
    let mut rungs = vec![0; out.streams.len()];
    out.climbs.iter().filter(|(t, _, _)| *t <= at).for_each(|&(_, stream, rung)| rungs[stream] = rung);
    rungs
}

fn lost(out: &Outcomes) -> u64 {
    out.streams.iter().map(|s| s.captured - s.on_time).sum()
}

#[test]
fn a_slowdown_by_two_is_ridden_out_on_a_lower_rung() {
    // 0.9 of the 20.8 streams that fit.
    println!("ladder: slowdown by 2 from 10 s to 20 s, 18 streams: first down, late until, all back, most moves");
    for (name, site) in [("three rungs", three()), ("every third", every_third())] {
        for seed in 0..10 {
            let mut s = scenario(site.clone(), 18, 40, seed);
            s.truth.slowdowns = vec![(seconds(10, 20), 2.0)];
            let out = checked(&s);
            let first = out.climbs.first().map(|c| c.0).expect("the ladder moves");
            let late = out.late_at.iter().max().copied().unwrap_or(0);
            let back = out.climbs.last().map(|c| c.0).unwrap_or(0);
            let most = moves(&out).into_iter().max_by_key(|m| m.0.max(m.1)).expect("streams");
            println!(
                "  {name:12} seed {seed}: {:.2} s, {:.2} s, {:.2} s, {most:?}, lost {}",
                first as f64 / 1e9 - 10.0,
                late as f64 / 1e9 - 10.0,
                back as f64 / 1e9 - 20.0,
                lost(&out)
            );
            assert!((10 * SECONDS..11 * SECONDS).contains(&first), "{name} {seed}: down at {first}");
            assert!(out.late_at.iter().all(|&t| t < 10 * SECONDS + SECONDS / 2), "{name} {seed}: {:?}", out.late_at);
            assert!(rungs_at(&out, 25 * SECONDS).iter().all(|&r| r == 0), "{name} {seed}: {:?}", out.climbs);
            assert!(moves(&out).iter().all(|m| m.0 < 3 && m.1 < 3), "{name} {seed}: {:?}", moves(&out));
        }
    }
}

#[test]
fn a_load_that_comes_and_goes_moves_a_stream_less_and_less() {
    println!("ladder: slowdown by 2 on and off for 2 min, 18 streams: most moves down of a stream, in the second half");
    for half in [1, 2, 3, 4, 6, 8u64] {
        let mut s = scenario(three(), 18, 130, half);
        s.truth.slowdowns =
            (0..120 / (2 * half)).map(|k| (seconds(2 * half * k + half, 2 * half * (k + 1)), 2.0)).collect();
        let out = checked(&s);
        let most = moves(&out).iter().map(|m| m.0).max().unwrap_or(0);
        let second = |i: usize| out.climbs.iter().filter(|c| c.1 == i && c.0 > 60 * SECONDS).count();
        let late = (0..18).map(second).max().unwrap_or(0);
        let climbs = out.climbs.len();
        println!("  every {half} s: {most} down, {late} in the second half, {climbs} in all, lost {}", lost(&out));
        assert!(most <= 8, "every {half} s: {:?}", moves(&out));
        assert!(late <= 4, "every {half} s: {:?}", out.climbs);
    }
}

#[test]
fn a_steady_overload_settles_on_the_rung_that_fits_and_stays() {
    println!("ladder: steady overload for 60 s: on time after 2 s, moves after 10 s, mean rung");
    for (streams, rung) in [(24, 1), (30, 1), (36, 1), (60, 2)] {
        for seed in 0..3 {
            let out = checked(&scenario(three(), streams, 60, seed));
            let late = out.climbs.iter().filter(|c| c.0 > 10 * SECONDS).count();
            let rungs = rungs_at(&out, 60 * SECONDS);
            let mean = rungs.iter().sum::<usize>() as f64 / streams as f64;
            println!(
                "  {streams} streams seed {seed}: {:.4}, {late}, {mean:.2}, lost {}",
                out.on_time_share(),
                lost(&out)
            );
            assert!(out.on_time_share() > 0.97, "{streams} {seed}: {}", out.on_time_share());
            assert!(late <= streams, "{streams} {seed}: {late} moves after it settled");
            assert!(rungs.iter().all(|&r| r <= rung), "{streams} {seed}: {rungs:?}");
        }
    }
}

#[test]
fn single_misses_do_not_move_it() {
    for (outlier, seed) in (0..20).map(|i| ([20, 40][i as usize % 2], i / 2)) {
        let mut s = scenario(three(), 8, 60, seed);
        s.truth = Truth { outliers: (0.002, outlier * MILLI), spread: 0.05, ..Truth::default() };
        let out = checked(&s);
        println!("ladder: outliers of {outlier} ms, seed {seed}: {} lost, {:?}", lost(&out), out.climbs);
        assert!(out.climbs.is_empty() || outlier > 20, "{seed}: {:?}", out.climbs);
    }
}

#[test]
fn rescues_are_counted_apart_and_move_nothing() {
    // Every stream's burst after a pause holds frames that only the quick rung saves.
    for seed in 0..5 {
        let mut s = scenario(three(), 4, 30, seed);
        for f in &mut s.feeds {
            f.decode = 5 * MILLI;
            f.jitter = 0;
        }
        // A decoder that is slow now and then, for one stream.
        s.feeds[0].decode = 28 * MILLI;
        let out = checked(&s);
        assert!(out.streams[0].rescued > 0 && out.streams[0].rescued <= out.streams[0].on_time, "{:?}", out.streams[0]);
        assert!(out.streams[1..].iter().all(|s| s.rescued == 0));
        assert!(out.climbs.is_empty(), "{seed}: {:?}", out.climbs);
    }
}

#[test]
fn the_less_important_give_way_first() {
    for seed in 0..10 {
        let mut s = scenario(three(), 24, 30, seed);
        for (i, f) in s.feeds.iter_mut().enumerate() {
            f.priority = i32::from(i % 2 == 0);
        }
        let out = checked(&s);
        let mut rungs = [0; 24];
        for &(_, stream, rung) in &out.climbs {
            let others = rungs.iter().skip(1).step_by(2);
            assert!(stream % 2 == 1 || rung == 0 || others.clone().all(|&r| r == 2), "{seed}: {:?}", out.climbs);
            rungs[stream] = rung;
        }
        let sum = |parity| rungs.iter().skip(parity).step_by(2).sum::<usize>();
        println!("ladder: two priorities, seed {seed}: {} rungs down of the important, {} of others", sum(0), sum(1));
        assert!(sum(0) <= 4 && sum(1) >= 12, "{seed}: {rungs:?}");
    }
}

#[test]
fn a_frozen_process_moves_nothing_and_is_back_at_once() {
    for seed in 0..10 {
        let mut s = scenario(three(), 18, 40, seed);
        s.truth.frozen = vec![seconds(10, 20)];
        let out = checked(&s);
        assert!(out.climbs.is_empty(), "{seed}: {:?}", out.climbs);
        let late = out.late_at.iter().filter(|&&t| t > 20 * SECONDS).count();
        assert_eq!(late, 0, "{seed}: nothing is late after it woke");
        // 10 s of 40 are lost, with what was under way.
        let on_time = out.on_time() as f64 / (30.0 * 30.0 * 18.0);
        println!("frozen for 10 s, seed {seed}: {on_time:.4} of the rest on time, {} late", out.late_at.len());
        assert!(on_time > 0.99, "{seed}: {on_time}");
    }
}

//! Several devices: frames go from one to the next, each device plans for itself, and a frame is counted once.

use super::*;
use framegate::frame::clock::SECOND;
use framegate::schedule::sim::{Device, Fork, Span};

/// A stage that takes one frame at a time.
fn single(ms: u64) -> Site {
    Site::plain(Cost::of(0, ms * MILLI), vec![1])
}

/// Two devices with one stage each, one behind the other.
fn series(first: Site, second: Site, streams: usize) -> Scenario {
    let mut feed = Feed::steady(30.0, 60 * MILLI);
    feed.branches = vec![vec![0, 1]];
    let mut s = Scenario::new(vec![feed; streams], vec![first, second], 20 * SECOND, 3);
    s.devices = vec![Device::new([0], 1), Device::new([1], 1)];
    s
}

fn goodput(out: &Outcomes, s: &Scenario) -> f64 {
    out.on_time() as f64 / (s.length as f64 / SECOND as f64)
}

#[test]
fn a_frame_alone_passes_one_device_after_the_other() {
    let s = series(single(5), single(10), 1);
    let out = checked(&s);
    assert_eq!(out.batches, [(600, 600), (600, 600)]);
    assert!(out.streams[0].latencies.iter().all(|&l| l == 15 * MILLI));
    let near = |load: f64, wanted: f64| (load - wanted).abs() < 0.001;
    assert!(near(out.loads[0], 0.15) && near(out.loads[1], 0.3) && near(out.busy, 0.225), "{:?}", out.loads);
}

#[test]
fn the_slower_device_bounds_what_two_in_series_do() {
    for (first, second) in [(5, 10), (10, 5), (8, 10)] {
        // Twice what the slower one can do.
        let s = series(single(first), single(second), 7);
        let out = checked(&s);
        let rate = goodput(&out, &s);
        assert!((85.0..=100.5).contains(&rate), "{first} and {second} ms: {rate} of 100 a second");
        // The one in front lets no more through than the one behind will take in time.
        let late: u64 = out.streams.iter().map(|t| t.late).sum();
        assert!((late as f64) < 0.02 * out.on_time() as f64, "{first} and {second} ms: {late} late");
        let slower = usize::from(second > first);
        assert!(out.loads[slower] > 0.9 && out.loads[1 - slower] < 1.001, "{:?}", out.loads);

        // On one device each frame takes both.
        let mut one = series(single(first), single(second), 7);
        one.devices = vec![Device::new([0, 1], 1)];
        let rate = goodput(&checked(&one), &one);
        assert!(rate <= 1000.5 / (first + second) as f64, "{rate}");
    }
}

#[test]
fn what_is_slow_on_one_device_is_slow_there_only() {
    let mut s = series(single(5), single(5), 2);
    s.devices[1].slowdowns = vec![(Span { from: 5 * SECOND, to: 10 * SECOND }, 2.0)];
    let out = checked(&s);
    assert!(out.spans[0].iter().all(|&t| t == 5 * MILLI));
    let slow = out.spans[1].iter().filter(|&&t| t == 10 * MILLI).count();
    assert!((298..=302).contains(&slow) && out.spans[1].len() == 1200, "{slow}");
}

#[test]
fn branches_run_beside_each_other_and_make_one_outcome() {
    let mut feed = Feed::steady(30.0, 60 * MILLI);
    feed.branches = vec![vec![0], vec![1]];
    let mut s = Scenario::new(vec![feed], vec![single(20), single(12)], 10 * SECOND, 1);
    s.devices = vec![Device::new([0], 1), Device::new([1], 1)];
    let out = checked(&s);
    assert_eq!((out.streams[0].captured, out.streams[0].on_time, &out.batches[..]), (300, 300, &[(300, 300); 2][..]));
    assert!(out.streams[0].latencies.iter().all(|&l| l == 20 * MILLI));
    // One device behind the other takes both.
    s.devices = vec![Device::new([0, 1], 1)];
    assert!(checked(&s).streams[0].latencies.iter().all(|&l| l == 32 * MILLI));
    // A branch that is never on time takes the frame with it, whatever the other one makes of it.
    s.sites[1] = single(80);
    s.devices = vec![Device::new([0], 1), Device::new([1], 1)];
    let out = checked(&s);
    assert_eq!((out.on_time(), out.streams[0].shed[4]), (0, 300), "{:?}", out.streams);
}

#[test]
fn branches_fork_behind_a_stage_and_join_before_another() {
    let mut feed = Feed::steady(10.0, 90 * MILLI);
    feed.branches = vec![vec![0, 1], vec![2], vec![3]];
    feed.forks = vec![Fork { branch: 1, behind: vec![(0, 0)] }, Fork { branch: 2, behind: vec![(0, 1), (1, 0)] }];
    let sites = vec![single(5), single(10), single(12), single(2)];
    let mut s = Scenario::new(vec![feed; 2], sites, 10 * SECOND, 1);
    (s.feeds[0].phase, s.feeds[1].phase) = (Some(0), Some(50 * MILLI));
    s.devices = vec![Device::new([0, 3], 1), Device::new([1], 1), Device::new([2], 1)];
    let out = checked(&s);
    assert_eq!(out.on_time(), 200);
    assert_eq!(out.batches, [(200, 200); 4]);
    for t in &out.streams {
        assert!(t.latencies.iter().all(|&l| l == (5 + 12 + 2) * MILLI), "{:?}", t.latencies);
    }
    // The stage behind the join is not reached where one of its branches is given up.
    s.sites[2] = single(86);
    let out = checked(&s);
    assert_eq!((out.on_time(), out.batches[2].1, out.batches[3].1), (0, 0, 0), "{:?}", out.batches);
}

#[test]
fn the_ladder_of_the_first_device_governs_those_behind() {
    // Switched off on the lower rung.
    let rungs = |lower| vec![RungPlan { variant: Some(0), every: 1 }, lower];
    let first = Site { rungs: rungs(RungPlan { variant: Some(0), every: 3 }), ..single(8) };
    let second = Site { rungs: rungs(RungPlan { variant: None, every: 1 }), ..single(4) };
    let s = series(first, second, 6);
    let out = checked(&s);
    let sum = |count: fn(&framegate::schedule::sim::Tally) -> u64| out.streams.iter().map(count).sum::<u64>();
    assert!(sum(|t| t.moves.0) > 0 && !out.climbs.is_empty());
    assert_eq!(out.climbs.len() as u64, sum(|t| t.moves.0 + t.moves.1), "a move is one move, whoever hears of it");
    // What the first device made on the upper rung has been through the second one, and nothing else has.
    let upper = sum(|t| t.rungs.first().copied().unwrap_or(0));
    assert!(out.batches[1].1 >= upper && out.batches[1].1 < out.batches[0].1, "{:?}, {upper}", out.batches);
    assert!(out.on_time_share() > 0.9, "{}", out.on_time_share());
}

#[test]
fn slots_are_each_devices_own() {
    let mut s = series(single(20), single(10), 3);
    s.devices[0].slots = 2;
    let out = checked(&s);
    assert!(out.on_time_share() > 0.97, "{}", out.on_time_share());
    let near = |load: f64, wanted: f64| (load - wanted).abs() < 0.03;
    assert!(near(out.loads[0], 0.9) && near(out.loads[1], 0.9), "{:?}", out.loads);
}

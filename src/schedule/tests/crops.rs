//! Stages on crops of frames.

use super::*;
use crate::schedule::Why;

/// A planner of a stage that takes 10 ms for a frame, and of one behind it on crops, 2 ms + 1 ms for each of up to eight.
fn with_crops() -> Planner<u32> {
    let crops = Site { crops: Some(1), ..Site::plain(Cost::of(2 * MILLI, MILLI), (1..=8).collect()) };
    let mut p = Planner::new(vec![Site::plain(Cost::of(0, 10 * MILLI), vec![1]), crops], 1);
    for stream in 0..4 {
        p.open(lane(stream));
        p.open(Lane { site: 1, entry: false, ..lane(stream) });
    }
    p
}

fn crops(seq: u64, captured_ms: u64, places: usize) -> Waiting {
    Waiting { places, rung: Some(0), ..numbered(seq, captured_ms) }
}

const CROPS: Next = Next::Run { site: 1, variant: 0 };

#[test]
fn a_frame_gets_the_crops_that_it_has_time_for() {
    // In 33 ms there is time for all eight of them, with 9 ms left for at most seven, with 2 ms left for none.
    for (now, most) in [(0, 8), (24, 7), (31, 0)] {
        let (mut p, mut plan) = (with_crops(), Plan::default());
        assert_eq!(p.arrive(0, 1, now * MILLI, crops(0, 0, 8), 7), None);
        let next = p.plan(now * MILLI, 0, &mut plan);
        if most > 0 {
            assert_eq!(next, CROPS);
            // Deviations are kept free.
            assert!((most / 2..=most).contains(&plan.run[0].places), "{now}: {:?}", plan.run);
        } else {
            assert_eq!(next, Next::Idle);
            assert_eq!(plan.pass, [Bypass { site: 1, item: 7, rung: 0, why: Why::Skipped }]);
        }
        assert!(plan.shed.is_empty(), "no frame is shed for its crops");
    }
}

#[test]
fn a_frame_without_crops_goes_on_at_once_and_one_with_crops_goes_before_frames_that_have_not_begun() {
    let (mut p, mut plan) = (with_crops(), Plan::default());
    assert_eq!(p.arrive(0, 0, 0, at(0), 1), None);
    assert_eq!(p.arrive(1, 1, 0, crops(0, 0, 3), 2), None);
    assert_eq!(p.arrive(2, 1, 0, crops(0, 0, 0), 3), None);
    assert_eq!(p.plan(0, 0, &mut plan), CROPS);
    assert_eq!((items(&plan.run), passed(&plan.pass)), (vec![2], vec![3]));
    assert_eq!(plan.pass[0].why, Why::Empty);
}

#[test]
fn crops_of_several_streams_share_a_batch() {
    let (mut p, mut plan) = (with_crops(), Plan::default());
    (0..3).for_each(|s| assert_eq!(p.arrive(s, 1, 0, crops(0, 0, 2), s), None));
    assert_eq!(p.plan(0, 0, &mut plan), CROPS);
    assert_eq!((items(&plan.run), plan.run.iter().map(|c| c.places).sum::<usize>()), (vec![0, 1, 2], 6));
}

#[test]
fn a_frame_with_more_crops_than_a_batch_takes_gets_as_many_as_that() {
    let (mut p, mut plan) = (with_crops(), Plan::default());
    p.open(Lane { stream: 9, deadline: None, by_count: true, ..lane(9) });
    p.open(Lane { stream: 9, site: 1, deadline: None, by_count: true, entry: false, ..lane(9) });
    let w = |seq, places| Waiting { deadline: None, ..crops(seq, 0, places) };
    assert_eq!(p.arrive(9, 1, 0, w(0, 20), 0), None);
    assert_eq!(p.plan(0, 0, &mut plan), CROPS);
    assert_eq!(plan.run, [Chosen { item: 0, rung: 0, rescued: false, places: 8 }]);
    plan.clear();
    // Offline batches are as full as frames come: five places, and the next frame's four do not fit.
    (1..4).for_each(|i| assert_eq!(p.arrive(9, 1, 0, w(i, [3, 2, 4][i as usize - 1]), i as u32), None));
    assert_eq!(p.plan(0, 0, &mut plan), CROPS);
    assert_eq!(items(&plan.run), [1, 2]);
}

#[test]
fn a_wrong_estimate_of_crops_heals_while_their_device_is_idle() {
    let (mut p, mut plan) = (with_crops(), Plan::default());
    // Something once held the machine up.
    (0..50).for_each(|_| p.ran(1, 0, 8, 0, 900 * MILLI));
    let (mut probes, mut ran) = (0, 0);
    for i in 0..300 {
        let now = SECOND + i * 33 * MILLI;
        plan.clear();
        assert_eq!(p.arrive(0, 1, now, crops(i, now / MILLI, 2), 7), None);
        match p.plan(now, now, &mut plan) {
            Next::Probe { site, .. } => {
                probes += 1;
                p.ran(site, 0, 1, now, 3 * MILLI);
            }
            Next::Run { .. } => {
                ran += 1;
                p.ran(1, 0, 2, now, 4 * MILLI);
            }
            _ => {}
        }
    }
    assert!(probes > 0 && ran > 100, "{probes} probes, {ran} runs");
}

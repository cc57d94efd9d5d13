//! How many streams a device can serve, and which of those there are it takes.

use super::Site;
use super::sim::{self, Device, Feed, Scenario};
use crate::frame::Nanos;
use crate::frame::clock::SECOND;

/// A device serves its streams when no more than this share of their frames misses the deadline.
const MISSES: f64 = 0.005;
/// Streams that are looked at at most.
pub const MOST: usize = 1024;

/// How many streams like `feed` a device can serve at a rung: the largest number that the simulation of the planner
/// brings through with at least 99.5 % of the frames on time, with its ceiling held at that rung.
pub fn capacity(sites: &[Site], slots: usize, feed: &Feed, rung: usize) -> usize {
    most(|n| serves(sites, slots, feed, rung, n))
}

/// The largest number of streams up to [`MOST`] that fits: doubled until it does not, then halved between.
pub fn most(fits: impl Fn(usize) -> bool) -> usize {
    if !fits(1) {
        return 0;
    }
    let (mut low, mut high) = (1, 2);
    while high <= MOST && fits(high) {
        (low, high) = (high, high * 2);
    }
    while high - low > 1 {
        let middle = (low + high) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

fn serves(sites: &[Site], slots: usize, feed: &Feed, rung: usize, n: usize) -> bool {
    // Only this rung, so that the ladder cannot help.
    let mut sites = sites.to_vec();
    for site in &mut sites {
        site.rungs = site.rungs.get(rung).copied().into_iter().collect();
    }
    let mut scenario = Scenario::new(vec![feed.clone(); n], sites, 2 * SECOND, n as u64);
    scenario.devices = vec![Device::new(0..scenario.sites.len(), slots)];
    // At first every stream wants its first frame inferred at once, whatever its rung leaves out later.
    scenario.warmup = SECOND / 2;
    let outcomes = sim::run(&scenario);
    let sum = |count: fn(&sim::Tally) -> u64| outcomes.streams.iter().map(count).sum::<u64>();
    sum(|t| t.settled.1) as f64 >= (1.0 - MISSES) * sum(|t| t.settled.0) as f64
}

/// The closed formula beside it: N = b·T/C(b), with the largest batch b up to b\*; a sanity check, since it knows
/// neither phases nor jitter.
pub fn formula(site: &Site, slots: usize, feed: &Feed, rung: usize) -> f64 {
    let Some(plan) = site.rungs.get(rung) else { return 0.0 };
    let Some(variant) = plan.variant.and_then(|v| site.variants.get(v)) else { return f64::INFINITY };
    let xi = super::Slowdown::default();
    let cap = xi.largest_batch(&variant.cost, &site.tail, feed.deadline.unwrap_or(Nanos::MAX / 4));
    let b = variant.floor(cap);
    let span = xi.expected(&variant.cost, b).max(1);
    b as f64 * feed.period as f64 * f64::from(plan.every) * slots as f64 / span as f64
}

/// Which of the streams a device of `capacity` takes: the most important, and of those the first. `streams` are their
/// priorities in the order of the file.
pub fn admitted(streams: &[i32], capacity: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..streams.len()).collect();
    order.sort_by_key(|&i| (-i64::from(streams[i]), i));
    let mut taken = vec![false; streams.len()];
    for &i in order.iter().take(capacity) {
        taken[i] = true;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::MILLI;
    use crate::schedule::Cost;

    #[test]
    fn capacity_is_near_the_formula() {
        let site = Site::plain(Cost::of(4 * MILLI, 1_200_000), (1..=16).collect());
        let feed = Feed::steady(30.0, 33 * MILLI);
        let n = formula(&site, 1, &feed, 0);
        assert!((n - 20.8).abs() < 0.1, "{n}");
        let simulated = capacity(&[site], 1, &feed, 0);
        assert!((19..=21).contains(&simulated), "{simulated}");
    }

    #[test]
    fn the_fewer_frames_are_inferred_the_more_streams_fit() {
        let mut site = Site::plain(Cost::of(0, 9 * MILLI), vec![1]);
        let every = |every| crate::schedule::RungPlan { variant: Some(0), every };
        site.rungs = (1..=6).map(every).collect();
        let feed = Feed::steady(30.0, 33 * MILLI);
        let fit: Vec<usize> = (0..6).map(|rung| capacity(std::slice::from_ref(&site), 1, &feed, rung)).collect();
        assert!(fit.windows(2).all(|w| w[0] < w[1]), "{fit:?}");
    }

    #[test]
    fn what_cannot_serve_one_stream_serves_none() {
        let site = Site::plain(Cost::of(0, 40 * MILLI), vec![1]);
        assert_eq!(capacity(&[site], 1, &Feed::steady(30.0, 33 * MILLI), 0), 0);
    }

    #[test]
    fn the_most_important_are_taken_first() {
        assert_eq!(admitted(&[0, 2, 0, 1], 3), [true, true, false, true]);
        assert_eq!(admitted(&[0, 0], 5), [true, true]);
    }
}

//! Against a clairvoyant optimum: all that could have been on time had all arrivals been known, by exhaustive search.

use super::*;
use framegate::frame::clock::SECOND;
use framegate::schedule::sim::Span;

/// Frames that are to come, with their deadlines, on one serial device.
struct Instance {
    alpha: u64,
    beta: u64,
    /// Period, phase, deadline and number of frames of each stream.
    streams: Vec<(u64, u64, u64, u64)>,
}

const FRAMES: u64 = 10;

impl Instance {
    fn random(rng: &mut fastrand::Rng) -> Self {
        let streams = rng.u64(2..=4);
        // A cost that a frame alone can bear, from a third to three times what the streams ask for.
        let (alpha, beta) = (rng.u64(500_000..8 * MILLI), rng.u64(500_000..8 * MILLI));
        let common = rng.bool().then(|| rng.u64(20 * MILLI..40 * MILLI));
        let stream = |i: u64, rng: &mut fastrand::Rng| {
            let period = rng.u64(10 * MILLI..40 * MILLI);
            let deadline = common.unwrap_or_else(|| rng.u64(20 * MILLI..40 * MILLI));
            (period, rng.u64(0..period), deadline, (FRAMES + i) / streams)
        };
        Self { alpha, beta, streams: (0..streams).map(|i| stream(i, rng)).collect() }
    }

    fn cost(&self, frames: u32) -> u64 {
        self.alpha + self.beta * u64::from(frames)
    }

    /// Every frame's arrival and deadline.
    fn frames(&self) -> Vec<(u64, u64)> {
        let of = |&(period, phase, deadline, n): &(u64, u64, u64, u64)| {
            (0..n).map(move |k| (phase + k * period, phase + k * period + deadline))
        };
        self.streams.iter().flat_map(of).collect()
    }

    /// The most frames that can be on time. For every set of frames, the earliest time at which all of it can be
    /// done: over every choice of the last batch.
    fn optimum(&self) -> u32 {
        let frames = self.frames();
        let sets = 1usize << frames.len();
        // The last arrival and the first deadline of every set.
        let mut window = vec![(0u64, u64::MAX); sets];
        let mut done = vec![u64::MAX; sets];
        done[0] = 0;
        let mut best = 0;
        for set in 1..sets {
            let (rest, first) = (set & (set - 1), frames[set.trailing_zeros() as usize]);
            window[set] = (window[rest].0.max(first.0), window[rest].1.min(first.1));
            let mut batch = set;
            while batch > 0 {
                let before = done[set ^ batch];
                if before < u64::MAX {
                    let (arrived, deadline) = window[batch];
                    let end = before.max(arrived) + self.cost(batch.count_ones());
                    if end <= deadline && end < done[set] {
                        done[set] = end;
                    }
                }
                batch = (batch - 1) & set;
            }
            if done[set] < u64::MAX {
                best = best.max(set.count_ones());
            }
        }
        best
    }

    /// What the planner gets on time. Before that the device was busy for a while, so that its cost is well known.
    fn planned(&self, policy: Policy) -> u32 {
        let begin = 3 * SECOND;
        let calm = Feed {
            phase: Some(0),
            present: Span { from: 0, to: begin - SECOND / 2 },
            ..Feed::steady(100.0, 100 * MILLI)
        };
        let feeds = self.streams.iter().map(|&(period, phase, deadline, n)| Feed {
            period,
            phase: Some(begin + phase),
            deadline: Some(deadline),
            present: Span { from: begin, to: begin + phase + (n - 1) * period + 1 },
            capacity: 8,
            ..Feed::steady(30.0, deadline)
        });
        let feeds = std::iter::once(calm).chain(feeds).collect();
        let site = Site::plain(Cost::of(self.alpha, self.beta), (1..=16).collect());
        let mut s = Scenario::new(feeds, vec![site], 4 * SECOND, 0);
        s.policy = policy;
        let out = checked(&s);
        let captured: u64 = out.streams[1..].iter().map(|s| s.captured).sum();
        assert_eq!(captured as usize, self.frames().len());
        out.streams[1..].iter().map(|s| s.on_time as u32).sum()
    }
}

#[test]
fn goodput_is_near_the_clairvoyant_optimum() {
    const INSTANCES: usize = 1000;
    let mut table =
        format!("{:12} {:>6} {:>6} {:>6} {:>6} {:>10}\n", "policy", "mean", "worst", "p1", "total", "where tight");
    for policy in Policy::ALL {
        let mut rng = fastrand::Rng::with_seed(7);
        // Those where not even the oracle gets all on time are apart: there the others are easy.
        let (mut shares, mut tight, mut sums) = (Vec::new(), Vec::new(), (0, 0));
        while shares.len() < INSTANCES {
            let instance = Instance::random(&mut rng);
            let (best, got) = (instance.optimum(), instance.planned(policy));
            assert!(got <= best, "{got} of {best}: the oracle is wrong");
            if best > 0 {
                shares.push(f64::from(got) / f64::from(best));
                sums = (sums.0 + got, sums.1 + best);
                if (best as usize) < instance.frames().len() {
                    tight.push(f64::from(got) / f64::from(best));
                }
            }
        }
        shares.sort_by(f64::total_cmp);
        let mean = shares.iter().sum::<f64>() / INSTANCES as f64;
        let tight_mean = tight.iter().sum::<f64>() / tight.len() as f64;
        table += &format!(
            "{:12} {mean:6.4} {:6.3} {:6.3} {:6.4} {tight_mean:6.4} of {}\n",
            policy.name(),
            shares[0],
            shares[INSTANCES / 100],
            f64::from(sums.0) / f64::from(sums.1),
            tight.len()
        );
        if policy == Policy::Framegate {
            assert!(mean >= 0.95 && tight_mean >= 0.9, "{table}");
        }
    }
    println!("goodput over the clairvoyant optimum, {INSTANCES} instances of {FRAMES} frames\n{table}");
}

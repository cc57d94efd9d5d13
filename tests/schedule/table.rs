//! Streams of 30 fps and 33 ms at random phase on one serial device, by number and by policy.

use super::*;
use framegate::frame::clock::SECOND;

/// What the closed formula N = b\*·T/C(b\*) says fits, b\* = 10.
const FORMULA: f64 = 20.83;
const SECONDS: u64 = 20;

/// One row: the share on time in the worst run, goodput in streams, worst stream over the mean in the worst run, the
/// 99th percentile of latency in milliseconds.
struct Row {
    on_time: f64,
    goodput: f64,
    fairness: f64,
    p99: f64,
}

fn row(policy: Policy, streams: usize, seeds: u64) -> Row {
    let site = Site::plain(Cost::of(ALPHA, BETA), (1..=32).collect());
    let (mut on_time, mut goodput, mut fairness, mut latencies) = (1.0f64, 0.0, 1.0f64, Vec::new());
    for seed in 0..seeds {
        let feeds = vec![Feed::steady(30.0, 33 * MILLI); streams];
        let mut s = Scenario::new(feeds, vec![site.clone()], SECONDS * SECOND, seed);
        s.policy = policy;
        let out = checked(&s);
        on_time = on_time.min(out.on_time_share());
        goodput += out.on_time() as f64 / (30 * SECONDS * seeds) as f64;
        fairness = fairness.min(out.fairness());
        out.streams.iter().for_each(|s| latencies.extend(&s.latencies));
    }
    latencies.sort_unstable();
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(0) as f64 / 1e6;
    Row { on_time, goodput, fairness, p99 }
}

#[test]
fn what_fits_is_on_time_and_what_does_not_is_shared() {
    let numbers = [10, 16, 18, 19, 20, 21, 22, 24, 28, 32, 40, 48, 64];
    let mut table = format!(
        "{:12} {:>7} {:>8} {:>8} {:>8} {:>7} {:>7}\n",
        "policy", "streams", "on time", "goodput", "/formula", "worst", "p99 ms"
    );
    for policy in Policy::ALL {
        for n in numbers {
            let r = row(policy, n, if policy == Policy::Framegate { 10 } else { 2 });
            table += &format!(
                "{:12} {n:7} {:8.4} {:8.2} {:8.3} {:7.3} {:7.1}\n",
                policy.name(),
                r.on_time,
                r.goodput,
                r.goodput / FORMULA,
                r.fairness,
                r.p99
            );
            if policy != Policy::Framegate {
                continue;
            }
            match n {
                0..=18 => assert_eq!(r.on_time, 1.0, "{n}\n{table}"),
                19 | 20 => assert!(r.on_time >= 0.99, "{n}\n{table}"),
                32.. => assert!(r.goodput >= 1.05 * FORMULA && r.fairness >= 0.9, "{n}\n{table}"),
                _ => assert!(r.goodput >= 0.95 * FORMULA && r.fairness >= 0.85, "{n}\n{table}"),
            }
        }
    }
    println!("{table}");
}

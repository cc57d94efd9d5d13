//! Runs models: one run, a sweep over numbers of streams, how many streams fit.

use super::{Ask, Model};
use crate::frame::Nanos;
use crate::frame::clock::{SECOND, millis};
use crate::schedule::Policy;
use crate::schedule::admission::most;
use crate::schedule::sim::{self, Outcomes, Scenario};
use crate::telemetry::{Quantiles, SimulatedRun};

/// Streams fit where this share of their frames is on time; the same by which the engine admits.
const FITS: f64 = 0.995;
/// How long is simulated to find out whether streams fit.
const LOOK: Nanos = 4 * SECOND;
/// How finely a fraction of a stream is told.
const STEPS: usize = 6;

/// A run in numbers.
pub type Summary = SimulatedRun;

/// How many streams fit, by rung, best first.
pub type Capacity = Vec<usize>;

/// Runs a question.
pub fn run(model: &Model, ask: &Ask) -> (Scenario, Outcomes) {
    let scenario = model.scenario(ask);
    let outcomes = sim::run(&scenario);
    (scenario, outcomes)
}

/// Quantiles of latencies, which are sorted for it.
pub(super) fn quantiles(latencies: &mut [Nanos]) -> Quantiles {
    latencies.sort_unstable();
    let n = latencies.len();
    let at = |q: f64| (n > 0).then(|| millis(latencies[((q * n as f64).ceil() as usize).clamp(1, n) - 1]));
    Quantiles {
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        max: at(1.0),
        mean: (n > 0).then(|| latencies.iter().map(|&l| millis(l)).sum::<f64>() / n as f64),
    }
}

/// A run's numbers over all its streams.
pub(super) fn summarise(model: &Model, ask: &Ask, out: &Outcomes) -> Summary {
    let seconds = ask.length as f64 / SECOND as f64;
    let captured: u64 = out.streams.iter().map(|s| s.captured).sum();
    let of_all = |n: u64| n as f64 / captured.max(1) as f64;
    let mut latencies: Vec<Nanos> = out.streams.iter().flat_map(|s| s.latencies.iter().copied()).collect();
    let mut delivered = vec![0; model.rungs.len().max(1)];
    for stream in &out.streams {
        for (sum, n) in delivered.iter_mut().zip(&stream.rungs) {
            *sum += n;
        }
    }
    let all = delivered.iter().sum::<u64>().max(1) as f64;
    let rung = |r: usize| model.rungs.get(ask.held.unwrap_or(r)).map_or_else(|| "full".to_owned(), |n| n.to_string());
    let shares = delivered.iter().enumerate().filter(|(_, n)| **n > 0);
    Summary {
        policy: ask.policy.name(),
        streams: ask.streams,
        captured_fps: captured as f64 / seconds,
        goodput_fps: out.on_time() as f64 / seconds,
        on_time: out.on_time_share(),
        late: of_all(out.streams.iter().map(|s| s.late).sum()),
        inferred: of_all(out.streams.iter().map(|s| s.inferred).sum()),
        latency_ms: quantiles(&mut latencies),
        worst_over_mean: out.fairness(),
        busy: out.busy.min(1.0),
        devices_busy: match model.devices.len() {
            1 => Default::default(),
            _ => model.devices.iter().zip(&out.loads).map(|(d, load)| (d.name.clone(), load.min(1.0))).collect(),
        },
        rung_share: shares.map(|(r, n)| (rung(r), *n as f64 / all)).collect(),
        rung_changes: out.streams.iter().map(|s| s.moves.0 + s.moves.1).sum(),
    }
}

/// Every policy at every number of streams, the policies of one number together.
pub fn sweep(model: &Model, ask: &Ask, policies: &[Policy], streams: std::ops::RangeInclusive<usize>) -> Vec<Summary> {
    let mut out = Vec::new();
    for n in streams {
        for &policy in policies {
            let ask = Ask { streams: n, policy, ..ask.clone() };
            let (_, outcomes) = run(model, &ask);
            out.push(summarise(model, &ask, &outcomes));
        }
    }
    out
}

/// The largest number of streams up to which all are on time under the first policy of a sweep.
pub fn knee(runs: &[Summary]) -> Option<usize> {
    let policy = runs.first()?.policy;
    runs.iter().filter(|r| r.policy == policy).take_while(|r| r.on_time >= FITS).last().map(|r| r.streams)
}

/// Whether so many streams at this rate are on time at one rung, undisturbed.
fn fits(model: &Model, rung: usize, streams: usize, rate: f64) -> bool {
    let ask = Ask {
        streams,
        rate,
        length: LOOK,
        disturbed: false,
        held: Some(rung),
        admission: false,
        ..model.ask(Policy::Framegate)
    };
    // Near the limit much depends on how the streams happen to lie to each other.
    [1, 2].into_iter().all(|seed| run(model, &Ask { seed, ..ask.clone() }).1.on_time_share() >= FITS)
}

/// How many streams like the pipeline's fit at each rung, undisturbed.
pub fn capacity(model: &Model) -> Capacity {
    (0..model.rungs.len().max(1)).map(|rung| most(|n| fits(model, rung, n, 1.0))).collect()
}

/// Streams and rate that make `load` times the capacity of the best rung. The capacity is told in fractions of a stream
/// by the rate that the streams still bear; the load in whole streams that are all a little slower, or in so many
/// streams as are given, at another rate. `None` where not even a slow stream fits.
pub fn load(model: &Model, load: f64, streams: Option<usize>) -> Option<(usize, f64)> {
    let whole = most(|n| fits(model, 0, n, 1.0));
    let (mut low, mut high) = match whole {
        0 => (0.0, 1.0),
        n => (1.0, (n + 1) as f64 / n as f64),
    };
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        if fits(model, 0, whole.max(1), middle) { low = middle } else { high = middle }
    }
    let wanted = load * low * whole.max(1) as f64;
    (wanted > 0.0).then(|| {
        let n = streams.unwrap_or((wanted - 1e-9).ceil().max(1.0) as usize);
        (n, wanted / n as f64)
    })
}

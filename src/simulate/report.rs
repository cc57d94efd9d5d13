//! The run report of a simulation: the same form as a run's, so that the two can be laid side by side.

use super::answer::{quantiles, summarise};
use super::text::disturbances;
use super::{Ask, Capacity, Model, Summary};
use crate::frame::clock::{MILLI, SECOND, millis};
use crate::frame::{Nanos, ShedReason};
use crate::schedule::sim::{Outcomes, Scenario, Tally};
use crate::telemetry::{
    FrameCounts, Inputs, Machine, ProcessUse, Quantiles, Rates, Report, Simulated, Spread, StageReport, StreamReport,
    Times, process,
};
use std::collections::BTreeMap;

/// A run that is reported.
pub struct Run<'r> {
    /// What was asked.
    pub ask: &'r Ask,
    /// What was simulated.
    pub scenario: &'r Scenario,
    /// What came out.
    pub outcomes: &'r Outcomes,
}

impl Run<'_> {
    /// Its numbers over all streams.
    pub fn summary(&self, model: &Model) -> Summary {
        summarise(model, self.ask, self.outcomes)
    }
}

/// The report of a run. `runs` are all that were made with it, `costs` where the costs are known from.
pub fn report(model: &Model, run: &Run<'_>, costs: &[String], capacity: &Capacity, runs: Vec<Summary>) -> Report {
    let Run { ask, scenario, outcomes } = run;
    let seconds = ask.length as f64 / SECOND as f64;
    let names = model.names(ask.streams);
    let streams = names.into_iter().zip(outcomes.streams.iter().zip(&scenario.feeds));
    let knee = super::knee(&runs).filter(|_| runs.iter().any(|r| r.streams != ask.streams));
    Report {
        schema: 1,
        pipeline: model.name.to_string(),
        seconds,
        warmup_s: scenario.warmup as f64 / SECOND as f64,
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine { cpus: process::cpus(), gpu: None },
        inputs: Inputs { pipeline_sha256: model.sha256.clone(), models: BTreeMap::new(), libraries: BTreeMap::new() },
        streams: streams
            .map(|(name, (tally, feed))| (name, stream(model, tally, feed.deadline, seconds, scenario.truth.tail)))
            .collect(),
        stages: model.stages.iter().enumerate().map(|(i, id)| (id.to_string(), stage(model, outcomes, i))).collect(),
        sinks: BTreeMap::new(),
        copies_per_frame: None,
        process: ProcessUse { cpu_seconds: 0.0, start_cpu_seconds: 0.0, rss_peak_mib: 0.0 },
        simulated: Some(Simulated {
            policy: ask.policy.name(),
            seed: ask.seed,
            rate: ask.rate,
            costs: costs.to_vec(),
            load: disturbances(model, ask),
            notes: model.notes.clone(),
            capacity: model.rungs.iter().map(ToString::to_string).zip(capacity.iter().copied()).collect(),
            knee,
            runs,
        }),
    }
}

fn stream(model: &Model, t: &Tally, deadline: Option<Nanos>, seconds: f64, tail: Nanos) -> StreamReport {
    let delivered = t.on_time + t.late;
    let mut latencies = t.latencies.clone();
    let latency_ms = quantiles(&mut latencies);
    let frames = latencies.len().max(1) as f64;
    let mean = |sum: f64| sum / frames / MILLI as f64;
    let [decode, prepare, execute, rest] = t.parts.map(mean);
    let mut breakdown_ms = BTreeMap::new();
    if let Some(all) = latency_ms.mean {
        // What devices did for a frame at the same time is more than the time that it took.
        let execute = execute.min((all - decode - prepare - rest).max(0.0));
        let wait = (all - decode - prepare - execute - rest).max(0.0);
        breakdown_ms.extend([
            ("arrival", 0.0),
            ("depay_decode", decode),
            ("wait", wait),
            ("prepare", prepare),
            ("execute", execute),
            ("finish", 0.0),
            ("rest", rest),
        ]);
    }
    debug_assert!(tail == 0 || latencies.is_empty() || rest > 0.0);
    let shed: Vec<(&'static str, u64)> = ShedReason::ALL.iter().map(|r| r.name()).zip(t.shed).collect();
    let rungs = t.rungs.iter().enumerate().filter(|(_, n)| **n > 0);
    let name = |r: usize| model.rungs.get(r).map_or_else(|| "full".to_owned(), ToString::to_string);
    StreamReport {
        deadline_ms: deadline.map(millis),
        frames: FrameCounts {
            captured: t.captured,
            on_time: t.on_time,
            late: t.late,
            shed: t.shed.iter().sum(),
            evicted: t.evicted,
            failed: 0,
            in_flight: t.captured.saturating_sub(t.ended()),
        },
        shed_reasons: shed.into_iter().filter(|(_, n)| *n > 0).collect(),
        fail_reasons: BTreeMap::new(),
        fps: Rates {
            captured: t.captured as f64 / seconds,
            delivered: delivered as f64 / seconds,
            inferred: t.inferred as f64 / seconds,
        },
        latency_ms,
        overhead_ms: Times::default(),
        breakdown_ms,
        decode_ms: Spread { mean: (!latencies.is_empty()).then_some(decode), spread: None },
        rhythm: None,
        rung_share: rungs.map(|(r, n)| (name(r), *n as f64 / delivered.max(1) as f64)).collect(),
        rescued: t.rescued,
        rung_changes: t.moves.0 + t.moves.1,
        reconnects: 0,
        samples: None,
        distribution: distribution(&latencies),
    }
}

/// Sorted latencies in steps of a tenth of a millisecond: upper edge and number.
fn distribution(latencies: &[Nanos]) -> Vec<(f64, u64)> {
    let mut out: Vec<(f64, u64)> = Vec::new();
    for &l in latencies {
        let edge = l.div_ceil(MILLI / 10) as f64 / 10.0;
        match out.last_mut() {
            Some(last) if last.0 == edge => last.1 += 1,
            _ => out.push((edge, 1)),
        }
    }
    out
}

fn stage(model: &Model, out: &Outcomes, site: usize) -> StageReport {
    let times = |spans: Option<&Vec<Nanos>>| {
        let mut spans = spans.cloned().unwrap_or_default();
        let Quantiles { p50, p99, .. } = quantiles(&mut spans);
        Times { p50, p99 }
    };
    let device = model.devices.iter().find(|d| d.device.sites.contains(&site));
    let (batches, frames) = out.batches.get(site).copied().unwrap_or_default();
    StageReport {
        frames,
        batches,
        work_ms: times(out.spans.get(site)),
        wait_ms: times(out.waits.get(site)),
        execute_ms: times(out.spans.get(site)),
        batch_mean: (batches > 0).then(|| frames as f64 / batches as f64),
        device: device.map_or_else(|| "cpu".to_owned(), |d| d.name.clone()),
        slots: device.map(|d| d.device.slots),
        cost: Vec::new(),
    }
}

//! What `framegate simulate` prints: tables, and an answer in plain words.

use super::{Ask, Capacity, Model, Summary, knee};
use crate::config::{Lasts, Time};
use crate::frame::Nanos;
use crate::frame::clock::millis;
use crate::schedule::sim::Outcomes;
use std::fmt::Write;
use std::time::Duration;

/// What disturbs the streams and the device, in words.
pub fn disturbances(model: &Model, ask: &Ask) -> String {
    if model.length.is_some() {
        return "arrivals and batches as recorded".into();
    }
    let load = &model.load;
    let ms = |t: Duration| format!("{} ms", plain(t.as_secs_f64() * 1e3));
    let seconds = |t: Time| format!("{} s", plain(t.0.as_secs_f64()));
    let lasts = |l: Option<Lasts>, default: [u64; 2]| {
        let (a, b) = l.map_or(default.map(Duration::from_millis).into(), Lasts::range);
        if a == b { ms(a) } else { format!("{} to {}", plain(a.as_secs_f64() * 1e3), ms(b)) }
    };
    let jitter = |pick: fn(Nanos, Nanos) -> Nanos| model.streams.iter().map(|s| s.feed.jitter).reduce(pick);
    let least = plain(millis(jitter(Nanos::min).unwrap_or(0)));
    let mut parts = vec![match plain(millis(jitter(Nanos::max).unwrap_or(0))) {
        most if most == least => format!("jitter {most} ms"),
        most => format!("jitter {least} to {most} ms"),
    }];
    parts.push(format!("batches spread by {} %", plain(model.truth.spread * 100.0)));
    if let Some(burst) = load.burst.filter(|b| *b > 1) {
        parts.push(format!("bursts of {burst} frames"));
    }
    let mut none = Vec::new();
    let mut gap = |name: &'static str, every: Option<Time>, what: String| match every.filter(|_| ask.disturbed) {
        Some(every) => parts.push(format!("{name} of {what} every {}", seconds(every))),
        None => none.push(name),
    };
    gap("pauses", load.pause.as_ref().map(|g| g.every), lasts(load.pause.as_ref().and_then(|g| g.lasts), [400, 500]));
    gap("stalls", load.stall.as_ref().map(|g| g.every), lasts(load.stall.as_ref().and_then(|g| g.lasts), [2000, 4000]));
    let slow = load.slowdown.as_ref();
    let every = slow.map(|s| s.every.unwrap_or(Time(Duration::from_secs(10))));
    let factor = slow.map_or(1.0, |s| s.factor);
    let who = if model.devices.len() > 1 { "each device" } else { "the device" };
    let what = format!("{who} ×{} for {}", plain(factor), lasts(slow.and_then(|s| s.lasts), [2000, 4000]));
    gap("slowdowns", every, what);
    if let Some(o) = load.outlier.as_ref().filter(|_| ask.disturbed) {
        parts.push(format!("{} % of batches {} longer", plain(o.share * 100.0), ms(o.by.0)));
    }
    if !none.is_empty() {
        parts.push(format!("no {}", none.join(", no ")));
    }
    parts.join(", ")
}

/// A number without needless zeros.
fn plain(v: f64) -> String {
    let text = format!("{v:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn maybe(v: Option<f64>) -> String {
    v.map_or_else(|| "-".into(), |v| format!("{v:.1}"))
}

fn rungs(shares: &std::collections::BTreeMap<String, f64>, names: &[std::sync::Arc<str>]) -> String {
    let shown = |name: &std::sync::Arc<str>| shares.get(&**name).map(|s| format!("{name} {:.0} %", s * 100.0));
    names.iter().filter_map(shown).collect::<Vec<_>>().join(", ")
}

/// Rows of cells as a table; the first and the last column are to the left.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            let _ = match c {
                0 => write!(line, "{cell}{pad}"),
                c if c == columns - 1 => write!(line, "  {cell}"),
                _ => write!(line, "  {pad}{cell}"),
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn head(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|c| (*c).to_owned()).collect()
}

/// One run's streams, and runs of other policies below them.
pub fn print_runs(model: &Model, ask: &Ask, outcomes: &Outcomes, runs: &[Summary]) -> String {
    let mut rows =
        vec![head(&["stream", "captured", "on time", "late", "shed", "evicted", "p50 ms", "p99 ms", "rungs"])];
    for (name, t) in model.names(ask.streams).into_iter().zip(&outcomes.streams) {
        let mut latencies = t.latencies.clone();
        let l = super::answer::quantiles(&mut latencies);
        let delivered = (t.on_time + t.late).max(1) as f64;
        let share = t.rungs.iter().zip(&model.rungs).filter(|(n, _)| **n > 0);
        let share = share.map(|(n, name)| (name.to_string(), *n as f64 / delivered)).collect();
        rows.push(vec![
            name,
            t.captured.to_string(),
            format!("{:.2} %", t.on_time as f64 * 100.0 / t.captured.max(1) as f64),
            t.late.to_string(),
            t.shed.iter().sum::<u64>().to_string(),
            t.evicted.to_string(),
            maybe(l.p50),
            maybe(l.p99),
            rungs(&share, &model.rungs),
        ]);
    }
    let mut out = table(&rows);
    if let [only] = runs {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let each: Vec<String> = only.devices_busy.iter().map(|(name, b)| format!("{name} {}", percent(*b))).collect();
        let busy = if each.is_empty() {
            format!("device busy {}", percent(only.busy))
        } else {
            format!("busy: {}", each.join(", "))
        };
        let (on_time, all) = (only.goodput_fps, only.captured_fps);
        let _ = writeln!(out, "all: {on_time:.1} of {all:.1} frames a second on time, {busy} of the time");
    } else {
        let _ = write!(out, "\n{}", summaries(model, runs, None));
    }
    out
}

/// Every run of a sweep, with the knee marked.
pub fn print_sweep(model: &Model, runs: &[Summary]) -> String {
    summaries(model, runs, knee(runs))
}

fn summaries(model: &Model, runs: &[Summary], knee: Option<usize>) -> String {
    let first = runs.first().map_or("", |r| r.policy);
    let mut rows = vec![head(&[
        "streams",
        "policy",
        "captured/s",
        "on time/s",
        "on time",
        "late",
        "p50 ms",
        "p99 ms",
        "busy",
        "worst/mean",
        "rungs",
    ])];
    for r in runs {
        let mark = if knee == Some(r.streams) && r.policy == first { "  <- knee" } else { "" };
        rows.push(vec![
            r.streams.to_string(),
            r.policy.to_owned(),
            format!("{:.1}", r.captured_fps),
            format!("{:.1}", r.goodput_fps),
            format!("{:.2} %", r.on_time * 100.0),
            format!("{:.2} %", r.late * 100.0),
            maybe(r.latency_ms.p50),
            maybe(r.latency_ms.p99),
            format!("{:.0} %", r.busy * 100.0),
            format!("{:.2}", r.worst_over_mean),
            format!("{}{mark}", rungs(&r.rung_share, &model.rungs)),
        ]);
    }
    table(&rows)
}

fn cameras(n: usize) -> String {
    format!("{n} more camera{}", if n == 1 { "" } else { "s" })
}

/// Whether so many streams fit, and how many more would.
pub fn verdict(model: &Model, streams: usize, capacity: &Capacity) -> String {
    let load = &model.load;
    let disturbed = load.pause.is_some() || load.stall.is_some() || load.slowdown.is_some() || load.outlier.is_some();
    let mut out = answer(model, streams, capacity);
    if disturbed {
        out.push_str("Counted without pauses, stalls and slowdowns.\n");
    }
    out
}

fn answer(model: &Model, streams: usize, capacity: &Capacity) -> String {
    let names: Vec<&str> = model.rungs.iter().map(|r| &**r).collect();
    let more = |rungs: &[usize]| {
        let at = |&r: &usize| match capacity[r] - streams {
            0 => format!("no more camera at rung {}", names[r]),
            more => format!("{} at rung {}", cameras(more), names[r]),
        };
        rungs.iter().map(at).collect::<Vec<_>>().join(", ")
    };
    // A lower rung may well be dearer, if somebody has declared it so.
    let fitting: Vec<usize> = (0..names.len()).filter(|&r| capacity[r] >= streams).collect();
    match fitting.first() {
        Some(0) => format!("fits: yes, {}.\n", more(&fitting)),
        Some(&rung) => format!(
            "fits: yes, from rung {} on: {}; rung {} takes {}.\n",
            names[rung],
            more(&fitting),
            names[0],
            capacity[0]
        ),
        None => {
            let (best, most) = capacity.iter().enumerate().fold((0, 0), |b, (r, &n)| if n > b.1 { (r, n) } else { b });
            if most == 0 {
                let deadline = model.streams.iter().filter_map(|s| s.feed.deadline).min().map_or(0.0, millis);
                format!(
                    "fits: no. Not even one stream is on time within {deadline:.0} ms: take a smaller model, a longer \
                     deadline, or a faster device.\n"
                )
            } else {
                format!("fits: no, {} too many: this machine serves {most} at rung {}.\n", streams - most, names[best])
            }
        }
    }
}

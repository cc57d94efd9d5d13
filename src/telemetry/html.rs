//! The run report as a page with plots: one file, no script, nothing fetched, dark and light.

use super::report::{Report, SamplesReport, StreamReport};
use super::{Breakdown, FrameCounts};
use std::fmt::Write;

const STYLE: &str = include_str!("report.css");
/// Bars of the latency histogram.
const BARS: usize = 66;

/// Text as HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |v| if v < 10.0 { format!("{v:.2}") } else { format!("{v:.1}") })
}

/// The page. Writing to a string cannot fail, so results of `write!` are let go here.
pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    let name = escape(&report.pipeline);
    // A simulation's own use of the machine says nothing.
    let used = match &report.simulated {
        Some(_) => String::new(),
        None => format!(
            " · {:.1} s of processor time, {:.0} MiB at most",
            report.process.cpu_seconds, report.process.rss_peak_mib
        ),
    };
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>{name}: framegate run report</title><style>{STYLE}</style></head><body><main>\n\
         <h1>{name}</h1><p class=\"sub\">{:.1} s {} {} cores{} · framegate {} · latencies without the first {} s{}{}</p>\n",
        report.seconds,
        if report.simulated.is_some() { "of virtual time, simulated on" } else { "on" },
        report.machine.cpus,
        report.machine.gpu.as_ref().map(|g| format!(", {}", escape(g))).unwrap_or_default(),
        report.version,
        report.warmup_s,
        used,
        report.copies_per_frame.map(|c| format!(" · {c:.2} copies a frame")).unwrap_or_default(),
    );
    if let Some(simulated) = &report.simulated {
        super::sweep::section(&mut out, simulated);
    }
    for (id, stream) in &report.streams {
        section(&mut out, id, stream);
    }
    if !report.stages.is_empty() {
        out.push_str(
            "<section><h2>Stages</h2><div class=\"wide\"><table><thead><tr><th>stage<th>device<th>frames<th>batches\
             <th>per batch<th>work p50<th>p99<th>wait p50<th>p99 ms</tr></thead><tbody>",
        );
        for (id, s) in &report.stages {
            let _ = write!(
                out,
                "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                escape(id),
                escape(&s.device),
                s.frames,
                s.batches,
                ms(s.batch_mean),
                ms(s.work_ms.p50),
                ms(s.work_ms.p99),
                ms(s.wait_ms.p50),
                ms(s.wait_ms.p99)
            );
        }
        out.push_str("</tbody></table></div></section>\n");
    }
    if !report.sinks.is_empty() {
        out.push_str("<section><h2>Sinks</h2><table><thead><tr><th>sink<th>records lost</tr></thead><tbody>");
        for (id, s) in &report.sinks {
            let _ = write!(out, "<tr><td>{}<td>{}</tr>", escape(id), s.errors);
        }
        out.push_str("</tbody></table></section>\n");
    }
    // In a script element only this sequence would end it early.
    let json = report.to_json().replace("</", "<\\/");
    let _ = write!(
        out,
        "<details><summary>The report as JSON</summary><pre>{}</pre></details>\n\
         <script type=\"application/json\" id=\"report\">{json}</script></main></body></html>\n",
        escape(&report.to_json())
    );
    out
}

fn section(out: &mut String, id: &str, s: &StreamReport) {
    let l = &s.latency_ms;
    let f = &s.frames;
    let _ = write!(out, "<section><h2>{}</h2><dl class=\"tiles\">", escape(id));
    let on_time = if f.captured > 0 { format!("{:.2} %", percent(f.on_time, f.captured)) } else { "–".into() };
    for (name, value) in [
        ("on time", on_time),
        ("p50 ms", ms(l.p50)),
        ("p99 ms", ms(l.p99)),
        ("max ms", ms(l.max)),
        ("deadline ms", ms(s.deadline_ms)),
        ("fps captured", format!("{:.2}", s.fps.captured)),
        ("fps delivered", format!("{:.2}", s.fps.delivered)),
        ("fps inferred", format!("{:.2}", s.fps.inferred)),
        ("overhead p99 ms", ms(s.overhead_ms.p99)),
        ("reconnects", s.reconnects.to_string()),
    ]
    .into_iter()
    .chain(s.samples.iter().flat_map(samples))
    {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    out.push_str("</dl>");
    histogram(out, s);
    outcomes(out, f);
    reasons(out, s);
    let parts: Vec<_> = Breakdown::NAMES
        .iter()
        .enumerate()
        .map(|(i, name)| (*name, s.breakdown_ms.get(name).copied().unwrap_or(0.0), format!("c{i}")))
        .collect();
    bar(out, &format!("Where the time goes, {} ms on average", ms(l.mean)), &parts, |v| format!("{v:.2} ms"));
    if s.rung_share.len() > 1 {
        let rungs: Vec<_> = s
            .rung_share
            .iter()
            .enumerate()
            .map(|(i, (name, v))| (&**name, *v * 100.0, format!("c{}", i % 7)))
            .collect();
        let title = format!("Rungs: {} changes, {} frames rescued", s.rung_changes, s.rescued);
        bar(out, &title, &rungs, |v| format!("{v:.1} %"));
    }
    out.push_str("</section>\n");
}

/// Tiles of a stream of samples.
fn samples(s: &SamplesReport) -> impl Iterator<Item = (&'static str, String)> {
    let clock = s.clock.map(|c| ("clock ppm", format!("{:.2} ± {:.2}", c.drift_ppm, c.uncertainty_ppm)));
    [("samples", s.received.to_string()), ("samples lost", s.lost.values().sum::<u64>().to_string())]
        .into_iter()
        .chain(clock)
}

fn percent(part: u64, of: u64) -> f64 {
    part as f64 * 100.0 / of.max(1) as f64
}

fn outcomes(out: &mut String, f: &FrameCounts) {
    let parts = [
        ("on time", f.on_time as f64, "good".to_owned()),
        ("late", f.late as f64, "warn".to_owned()),
        ("shed", f.shed as f64, "shed".to_owned()),
        ("evicted", f.evicted as f64, "evicted".to_owned()),
        ("failed", f.failed as f64, "bad".to_owned()),
        ("in flight", f.in_flight as f64, "c6".to_owned()),
    ];
    bar(out, &format!("What became of {} frames", f.captured), &parts, |v| format!("{v:.0}"));
}

fn reasons(out: &mut String, s: &StreamReport) {
    for (what, reasons) in [("Shed", &s.shed_reasons), ("Failed", &s.fail_reasons)] {
        if !reasons.is_empty() {
            let list: Vec<_> = reasons.iter().map(|(name, n)| format!("{name} {n}")).collect();
            let _ = write!(out, "<p class=\"note\">{what}: {}</p>", list.join(", "));
        }
    }
}

/// One bar made of parts, with a legend. Parts that are zero are left out.
fn bar(out: &mut String, title: &str, parts: &[(&str, f64, String)], show: impl Fn(f64) -> String) {
    let total: f64 = parts.iter().map(|p| p.1).sum();
    let _ = write!(out, "<figure><figcaption>{}</figcaption>", escape(title));
    if total > 0.0 {
        out.push_str("<svg class=\"bar\" viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\" role=\"img\">");
        let mut x = 0.0;
        for (name, value, class) in parts.iter().filter(|p| p.1 > 0.0) {
            let width = value / total * 1000.0;
            let _ = write!(
                out,
                "<rect x=\"{x:.2}\" width=\"{width:.2}\" height=\"20\" class=\"{class}\"><title>{}: {}</title></rect>",
                escape(name),
                show(*value)
            );
            x += width;
        }
        out.push_str("</svg><ul class=\"legend\">");
        for (name, value, class) in parts.iter().filter(|p| p.1 > 0.0) {
            let _ = write!(
                out,
                "<li><svg viewBox=\"0 0 10 10\"><rect width=\"10\" height=\"10\" class=\"{class}\"/></svg>{} {}</li>",
                escape(name),
                show(*value)
            );
        }
        out.push_str("</ul>");
    } else {
        out.push_str("<p class=\"note\">nothing</p>");
    }
    out.push_str("</figure>");
}

/// Latencies as bars, with the deadline as a line. What lies beyond the axis is gathered in the last bar.
fn histogram(out: &mut String, s: &StreamReport) {
    let (Some(p99), Some(max)) = (s.latency_ms.p99, s.latency_ms.max) else { return };
    let end = s.deadline_ms.map_or(max, |d| (d * 1.2).max(p99 * 1.1)).max(0.001);
    let mut bars = [0u64; BARS];
    for (edge, frames) in &s.distribution {
        bars[((edge / end * BARS as f64) as usize).min(BARS - 1)] += frames;
    }
    let top = bars.iter().copied().max().unwrap_or(1).max(1) as f64;
    // The first lines of text stand above the bars.
    let (width, head, height) = (1000.0, 36.0, 196.0);
    let x = |v: f64| v / end * width;
    let _ = write!(
        out,
        "<figure><figcaption>Latency, captured to delivered (height: square root of the number of frames)</figcaption>\
         <svg class=\"plot\" viewBox=\"0 0 {width} {}\" role=\"img\">",
        height + 24.0
    );
    for (i, &n) in bars.iter().enumerate().filter(|(_, n)| **n > 0) {
        let h = (n as f64 / top).sqrt() * (height - head);
        let from = i as f64 * end / BARS as f64;
        let late = s.deadline_ms.is_some_and(|d| from >= d);
        let last = if i == BARS - 1 { "and more" } else { "" };
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{h:.1}\" class=\"{}\"><title>from {from:.2} ms \
             {last}: {n} frames</title></rect>",
            x(from) + 1.0,
            height - h,
            width / BARS as f64 - 2.0,
            if late { "warn" } else { "c4" }
        );
    }
    let _ = write!(out, "<line x1=\"0\" x2=\"{width}\" y1=\"{height}\" y2=\"{height}\" class=\"axis\"/>");
    let step = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
        .into_iter()
        .find(|step| end / step <= 12.0)
        .unwrap_or(end / 10.0);
    for tick in 0..=(end / step) as usize {
        let v = tick as f64 * step;
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{}\">{}</text>",
            x(v) + 2.0,
            height + 18.0,
            if step < 1.0 { format!("{v:.1}") } else { format!("{v:.0}") }
        );
    }
    // The deadline's name is a line higher, since it is often near the p99.
    for (name, v, class, y) in [
        ("p50", s.latency_ms.p50, "mark", 30),
        ("p99", s.latency_ms.p99, "mark", 30),
        ("deadline", s.deadline_ms, "deadline", 12),
    ] {
        if let Some(v) = v.filter(|v| *v <= end) {
            let _ = write!(
                out,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{height}\" class=\"{class}\"><title>{name} {v:.2} \
                 ms</title></line><text x=\"{1:.1}\" y=\"{y}\">{name}</text>",
                x(v),
                x(v) + 4.0
            );
        }
    }
    out.push_str("</svg></figure>");
}

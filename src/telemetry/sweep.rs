//! What a simulation tried, as part of the report's page: how many streams fit, every run as a table, and curves over
//! the number of streams.

use super::html::{escape, ms};
use super::report::{Simulated, SimulatedRun};
use std::fmt::Write;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 220.0;
/// Room for the numbers below and to the left.
const MARGIN: (f64, f64) = (52.0, 26.0);
/// Line colours there are.
const COLOURS: usize = 5;

/// One curve.
struct Curve<'c> {
    name: String,
    class: String,
    points: Vec<(f64, f64)>,
    runs: &'c str,
}

/// The part of the page; writing to a string cannot fail, so results of `write!` are let go here.
pub(super) fn section(out: &mut String, s: &Simulated) {
    let _ = write!(
        out,
        "<section><h2>Simulated</h2><p class=\"note\">{} · seed {} · {}</p>",
        escape(s.policy),
        s.seed,
        escape(&s.load)
    );
    let _ = write!(out, "<p class=\"note\">costs: {}</p>", escape(&s.costs.join("; ")));
    for note in &s.notes {
        let _ = write!(out, "<p class=\"note\">{}</p>", escape(note));
    }
    if !s.capacity.is_empty() {
        out.push_str("<dl class=\"tiles\">");
        for (rung, n) in &s.capacity {
            let _ = write!(out, "<div><dt>streams that fit at {}</dt><dd>{n}</dd></div>", escape(rung));
        }
        out.push_str("</dl>");
    }
    let several = s.runs.iter().any(|r| r.streams != s.runs[0].streams);
    if several {
        let captured = |r: &SimulatedRun| Some(r.captured_fps);
        let mut curves = curves(s, |r| Some(r.goodput_fps));
        let first = s.runs.first().map_or("", |r| r.policy);
        curves.insert(0, curve(s, first, "captured".into(), "axis".into(), captured));
        plot(out, "Frames on time, a second, by number of streams", &curves, s.knee, None);
        plot(out, "Share of frames on time", &self::curves(s, |r| Some(r.on_time * 100.0)), s.knee, Some(100.0));
        let curves = self::curves(s, |r| r.latency_ms.p99);
        // Queues without end would leave nothing to be seen of the others.
        let of_first = curves.first().map_or(0.0, |c| c.points.iter().fold(0.0, |m: f64, p| m.max(p.1)));
        let highest = curves.iter().flat_map(|c| &c.points).fold(0.0, |m: f64, p| m.max(p.1));
        let top = highest.min(4.0 * of_first);
        plot(out, "99th percentile of the latency, ms", &curves, s.knee, Some(top).filter(|t| *t > 0.0));
    }
    if s.runs.len() > 1 {
        table(out, s);
    }
    out.push_str("</section>\n");
}

fn curve<'s>(
    s: &'s Simulated,
    policy: &'s str,
    name: String,
    class: String,
    value: impl Fn(&SimulatedRun) -> Option<f64>,
) -> Curve<'s> {
    let runs = s.runs.iter().filter(|r| r.policy == policy);
    Curve { name, class, points: runs.filter_map(|r| Some((r.streams as f64, value(r)?))).collect(), runs: policy }
}

/// A curve for each policy.
fn curves(s: &Simulated, value: impl Fn(&SimulatedRun) -> Option<f64>) -> Vec<Curve<'_>> {
    let mut policies: Vec<&'static str> = Vec::new();
    for run in &s.runs {
        if !policies.contains(&run.policy) {
            policies.push(run.policy);
        }
    }
    let line = |(n, p): (usize, &'static str)| curve(s, p, p.to_owned(), format!("s{}", n % COLOURS), &value);
    policies.into_iter().enumerate().map(line).collect()
}

/// The next round number at or above a fifth of the range.
fn step(range: f64) -> f64 {
    let raw = (range / 5.0).max(1e-6);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|f| f * power).find(|s| *s >= raw).unwrap_or(raw)
}

fn plot(out: &mut String, title: &str, curves: &[Curve<'_>], knee: Option<usize>, top: Option<f64>) {
    let points = || curves.iter().flat_map(|c| c.points.iter());
    let (left, right) = points().fold((f64::MAX, 0.0), |(a, b), p| (p.0.min(a), p.0.max(b)));
    let high = top.unwrap_or_else(|| points().fold(0.0, |m: f64, p| m.max(p.1)));
    if right <= left || high <= 0.0 {
        return;
    }
    let x = |v: f64| MARGIN.0 + (v - left) / (right - left) * (WIDTH - MARGIN.0 - 12.0);
    let y = |v: f64| 8.0 + (1.0 - v / high) * (HEIGHT - 8.0);
    let _ = write!(
        out,
        "<figure><figcaption>{}</figcaption><svg class=\"plot\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\">",
        escape(title),
        HEIGHT + MARGIN.1
    );
    let rise = step(high);
    for n in 0..=(high / rise) as usize {
        let v = n as f64 * rise;
        let _ = write!(
            out,
            "<line x1=\"{}\" x2=\"{WIDTH}\" y1=\"{2:.1}\" y2=\"{2:.1}\" class=\"axis\"/><text x=\"0\" y=\"{3:.1}\">{1}</text>",
            MARGIN.0,
            if rise < 1.0 { format!("{v:.1}") } else { format!("{v:.0}") },
            y(v),
            y(v) + 4.0
        );
    }
    let stride = step(right - left).max(1.0).round();
    for n in 0..=((right - left) / stride) as usize {
        let v = left + n as f64 * stride;
        let _ = write!(out, "<text x=\"{:.1}\" y=\"{:.1}\">{v:.0}</text>", x(v) - 4.0, HEIGHT + 20.0);
    }
    if let Some(knee) = knee.map(|k| k as f64).filter(|k| (left..=right).contains(k)) {
        let _ = write!(
            out,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{HEIGHT}\" class=\"mark\"/><text x=\"{1:.1}\" \
             y=\"12\">knee: {knee:.0}</text>",
            x(knee),
            x(knee) + 5.0
        );
    }
    for c in curves {
        let path: Vec<String> = c.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1.min(high)))).collect();
        let _ = write!(
            out,
            "<polyline points=\"{}\" class=\"line {}\"><title>{} ({})</title></polyline>",
            path.join(" "),
            c.class,
            escape(&c.name),
            escape(c.runs)
        );
    }
    out.push_str("</svg><ul class=\"legend\">");
    for c in curves {
        let _ = write!(
            out,
            "<li><svg viewBox=\"0 0 10 10\"><line x1=\"0\" x2=\"10\" y1=\"5\" y2=\"5\" class=\"line {}\"/></svg>{}</li>",
            c.class,
            escape(&c.name)
        );
    }
    out.push_str("</ul></figure>");
}

fn table(out: &mut String, s: &Simulated) {
    out.push_str(
        "<div class=\"wide\"><table><thead><tr><th>streams<th>policy<th>captured/s<th>on time/s<th>on time %<th>late %\
         <th>p50<th>p99 ms<th>busy %<th>worst/mean<th>rungs</tr></thead><tbody>",
    );
    for r in &s.runs {
        let knee = if s.knee == Some(r.streams) && r.policy == s.policy { " ← knee" } else { "" };
        let rungs: Vec<_> =
            r.rung_share.iter().map(|(name, v)| format!("{} {:.0} %", escape(name), v * 100.0)).collect();
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{:.1}<td>{:.1}<td>{:.2}<td>{:.2}<td>{}<td>{}<td>{:.0}<td>{:.2}<td>{}{knee}</tr>",
            r.streams,
            r.policy,
            r.captured_fps,
            r.goodput_fps,
            r.on_time * 100.0,
            r.late * 100.0,
            ms(r.latency_ms.p50),
            ms(r.latency_ms.p99),
            r.busy * 100.0,
            r.worst_over_mean,
            rungs.join(", ")
        );
    }
    out.push_str("</tbody></table></div>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_about_five_round_steps() {
        assert_eq!(step(100.0), 20.0);
        assert_eq!(step(720.0), 200.0);
        assert_eq!(step(23.0), 5.0);
    }
}

//! The drawing as SVG.

use super::layout::{self, LINE, PADDING};
use super::{Drawing, Group};
use std::fmt::Write;

const MARGIN: f64 = 24.0;
const TITLE: f64 = 34.0;

/// Draws boxes and arrows.
pub(super) fn draw(drawing: &Drawing) -> String {
    let boxes = layout::place(drawing);
    let right = boxes.iter().map(|b| b.x + b.width).fold(0.0, f64::max).max(drawing.name.chars().count() as f64 * 8.5);
    let bottom = boxes.iter().map(|b| b.y + b.height).fold(0.0, f64::max);
    let (width, height) = (right + 2.0 * MARGIN, bottom + 2.0 * MARGIN + TITLE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto\"><path d=\"M0 0 L8 4 L0 8 z\" fill=\"#555\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{:.1}\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
        MARGIN + 12.0,
        escape(&drawing.name),
    );
    let _ = writeln!(out, "<g transform=\"translate({MARGIN} {:.1})\">", MARGIN + TITLE);
    for &(from, to) in &drawing.edges {
        let (a, b) = (boxes[from], boxes[to]);
        let (x1, y1, x2, y2) = (a.x + a.width, a.middle(), b.x, b.middle());
        let bend = ((x2 - x1) / 2.0).min(80.0);
        let _ = writeln!(
            out,
            "<path d=\"M{x1:.1} {y1:.1} C{:.1} {y1:.1} {:.1} {y2:.1} {x2:.1} {y2:.1}\" fill=\"none\" stroke=\"#555\" \
             stroke-width=\"1.4\" marker-end=\"url(#tip)\"/>",
            x1 + bend,
            x2 - bend,
        );
    }
    for (node, place) in drawing.nodes.iter().zip(&boxes) {
        let (fill, stroke, radius) = match node.group {
            Group::Source => ("#dcebfa", "#4a7fb5", 12),
            Group::Stage => ("#f3f3ee", "#77776c", 3),
            Group::Sink => ("#e2f2e0", "#5b9654", 12),
        };
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{radius}\" fill=\"{fill}\" \
             stroke=\"{stroke}\"/>",
            place.x, place.y, place.width, place.height,
        );
        for (n, line) in std::iter::once(&node.title).chain(&node.lines).enumerate() {
            let style = if n == 0 { "font-weight=\"bold\"" } else { "font-size=\"12\" fill=\"#333\"" };
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" {style}>{}</text>",
                place.x + PADDING,
                place.y + PADDING + LINE * (n as f64 + 0.75),
                escape(line),
            );
        }
    }
    out.push_str("</g>\n</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

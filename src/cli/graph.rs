//! `framegate graph`: a pipeline's graph as a picture, or as text for Graphviz.

mod layout;
mod svg;

use super::{Failure, PipelineFile, print};
use framegate::config::{Pipeline, redact};
use std::fmt::Write;
use std::path::PathBuf;

/// Arguments of `graph`.
#[derive(clap::Args)]
pub struct Graph {
    #[command(flatten)]
    file: PipelineFile,
    /// Where to write it: OUT.svg or OUT.dot; left out, Graphviz text goes to standard output
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
}

/// What a box stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Group {
    Source,
    Stage,
    Sink,
}

/// A box: a title, and a few lines below.
struct Node {
    group: Group,
    title: String,
    lines: Vec<String>,
}

/// Boxes, and arrows as pairs of their numbers.
struct Drawing {
    name: String,
    nodes: Vec<Node>,
    edges: Vec<(usize, usize)>,
}

impl Graph {
    pub(super) fn run(self) -> Result<(), Failure> {
        let ending = self.output.as_deref().and_then(|p| p.extension()).and_then(|e| e.to_str());
        if self.output.is_some() && !matches!(ending, Some("svg" | "dot")) {
            return Err(Failure::wrong("graph writes .svg and .dot files"));
        }
        let drawing = Drawing::of(&self.file.load()?);
        let Some(path) = &self.output else {
            return print(&drawing.dot());
        };
        let text = if ending == Some("svg") { svg::draw(&drawing) } else { drawing.dot() };
        std::fs::write(path, text).map_err(|e| anyhow::anyhow!("cannot write {}: {e}", path.display()).into())
    }
}

/// Longest line in a box, characters.
const MAX_LINE: usize = 44;
/// Most settings in a box.
const MAX_LINES: usize = 6;

impl Drawing {
    fn of(pipeline: &Pipeline) -> Self {
        let deadline = |d: Option<std::time::Duration>| match d {
            Some(d) => format!("deadline {}", humantime::format_duration(d)),
            None => "no deadline".to_owned(),
        };
        let mut ids = Vec::new();
        let mut nodes = Vec::new();
        for source in &pipeline.sources {
            let from = source.config.uri.as_deref().or(source.config.launch.as_deref()).unwrap_or_default();
            ids.push(source.id.clone());
            let lines = vec![shorten(&redact(from)), deadline(source.deadline)];
            nodes.push(Node { group: Group::Source, title: source.id.to_string(), lines });
        }
        for stage in &pipeline.stages {
            ids.push(stage.id.clone());
            nodes.push(Node {
                group: Group::Stage,
                title: title(&stage.id, stage.kind),
                lines: settings(&stage.settings),
            });
        }
        let mut edges = Vec::new();
        let number = |id: &str| ids.iter().position(|known| **known == *id);
        for (n, stage) in pipeline.stages.iter().enumerate() {
            edges.extend(stage.from.iter().filter_map(|id| Some((number(id)?, pipeline.sources.len() + n))));
        }
        for sink in &pipeline.sinks {
            edges.extend(sink.from.iter().filter_map(|id| Some((number(id)?, nodes.len()))));
            nodes.push(Node { group: Group::Sink, title: title(&sink.id, sink.kind), lines: settings(&sink.settings) });
        }
        let rungs = match pipeline.rungs.as_slice() {
            [_] => String::new(),
            rungs => format!(", rungs {}", rungs.iter().map(|r| &*r.name).collect::<Vec<_>>().join(" > ")),
        };
        let name = format!("{}: {} fps, {}{rungs}", pipeline.name, pipeline.fps, deadline(pipeline.deadline));
        Self { name, nodes, edges }
    }

    /// Graphviz text.
    fn dot(&self) -> String {
        let mut out =
            String::from("digraph framegate {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
        let _ = writeln!(out, "  labelloc=t;\n  label=\"{}\";", escape_dot(&self.name));
        for (n, node) in self.nodes.iter().enumerate() {
            let style = match node.group {
                Group::Source => "style=\"filled,rounded\", fillcolor=\"#dcebfa\"",
                Group::Stage => "style=filled, fillcolor=\"#f3f3ee\"",
                Group::Sink => "style=\"filled,rounded\", fillcolor=\"#e2f2e0\"",
            };
            let lines = node.lines.iter().map(|l| format!("{}\\l", escape_dot(l))).collect::<String>();
            let _ = writeln!(out, "  n{n} [{style}, label=\"{}\\n{lines}\"];", escape_dot(&node.title));
        }
        for (from, to) in &self.edges {
            let _ = writeln!(out, "  n{from} -> n{to};");
        }
        out.push_str("}\n");
        out
    }
}

fn title(id: &str, kind: &str) -> String {
    if id == kind { id.to_owned() } else { format!("{id} ({kind})") }
}

/// The first few keys as the file sets them.
fn settings(table: &toml::Table) -> Vec<String> {
    let mut lines: Vec<String> = table.iter().map(|(k, v)| shorten(&redact(&format!("{k} = {v}")))).collect();
    if lines.len() > MAX_LINES {
        let more = lines.len() + 1 - MAX_LINES;
        lines.truncate(MAX_LINES - 1);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn shorten(text: &str) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= MAX_LINE {
        return text;
    }
    text.chars().take(MAX_LINE - 1).chain(['…']).collect()
}

fn escape_dot(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing() -> Drawing {
        let node = |group, title: &str| Node { group, title: title.into(), lines: vec!["a < \"b\"".into()] };
        Drawing {
            name: "x & y".into(),
            nodes: vec![
                node(Group::Source, "cam0"),
                node(Group::Source, "cam1"),
                node(Group::Stage, "detect"),
                node(Group::Stage, "track"),
                node(Group::Sink, "out"),
            ],
            edges: vec![(0, 2), (1, 2), (2, 3), (3, 4), (2, 4)],
        }
    }

    #[test]
    fn dot_text_names_every_box_and_every_arrow() {
        let text = drawing().dot();
        for part in ["n0 -> n2", "n2 -> n4", "label=\"cam1\\na < \\\"b\\\"\\l\"", "label=\"x & y\""] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn boxes_stand_right_of_those_before_them_and_never_overlap() {
        let drawing = drawing();
        let boxes = layout::place(&drawing);
        for &(from, to) in &drawing.edges {
            assert!(boxes[from].x + boxes[from].width < boxes[to].x, "{from} -> {to}");
        }
        for (n, a) in boxes.iter().enumerate() {
            for b in &boxes[n + 1..] {
                let apart =
                    a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y;
                assert!(apart, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_picture_escapes_text() {
        let text = svg::draw(&drawing());
        assert!(text.contains("x &amp; y") && text.contains("a &lt; &quot;b&quot;"), "{text}");
        assert_eq!(text.matches("<rect").count(), 5 + 1);
        assert_eq!(text.matches("marker-end").count(), 5);
    }

    #[test]
    fn long_settings_are_cut() {
        assert_eq!(shorten(&"x".repeat(60)).chars().count(), MAX_LINE);
        let table: toml::Table = (0..9).map(|n| (format!("k{n}"), toml::Value::Integer(n))).collect();
        let lines = settings(&table);
        assert_eq!((lines.len(), lines[MAX_LINES - 1].as_str()), (MAX_LINES, "and 4 more"));
    }
}

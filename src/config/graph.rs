//! Who takes frames from whom: resolves `from`, finds what is unknown, unused or in a circle, and puts the stages in
//! an order in which each comes after those it takes frames from.

use super::findings::{Findings, Place, suggest};
use std::sync::Arc;
use toml::Spanned;

/// A stage or sink as far as the graph is concerned.
#[derive(Default)]
pub(super) struct Node {
    /// Its id.
    pub(super) id: Arc<str>,
    /// Where its table's name stands.
    pub(super) head: Place,
    /// Where its `from` stands.
    pub(super) from_place: Place,
    /// `from` as written.
    pub(super) from: Option<Vec<Spanned<String>>>,
    /// What it makes does not go on as frames only: nobody need take its results.
    pub(super) hands_over: bool,
    /// `from` as meant; filled by [`resolve`].
    pub(super) takes: Vec<Arc<str>>,
}

/// Ids and places of one group of tables.
pub(super) type Ids = Vec<(Arc<str>, Place)>;

/// Resolves every `from`, and reports what is wrong with the graph. Gives the stages' order, where there is one.
pub(super) fn resolve(
    sources: &Ids,
    stages: &mut [Node],
    sinks: &mut [Node],
    findings: &mut Findings<'_>,
) -> Option<Vec<usize>> {
    let source_ids: Vec<Arc<str>> = sources.iter().map(|(id, _)| Arc::clone(id)).collect();
    let stage_ids: Vec<Arc<str>> = stages.iter().map(|s| Arc::clone(&s.id)).collect();
    let sink_ids: Vec<Arc<str>> = sinks.iter().map(|s| Arc::clone(&s.id)).collect();
    let known: Vec<&str> = source_ids.iter().chain(&stage_ids).map(|id| &**id).collect();

    for (n, stage) in stages.iter_mut().enumerate() {
        let default = if n == 0 { source_ids.clone() } else { vec![Arc::clone(&stage_ids[n - 1])] };
        take(stage, default, &known, &sink_ids, findings);
    }
    let taken: Vec<Arc<str>> = stages.iter().flat_map(|s| s.takes.clone()).collect();
    let ends: Vec<Arc<str>> = match stage_ids.iter().filter(|id| !taken.contains(id)).cloned().collect::<Vec<_>>() {
        ends if stage_ids.is_empty() => [ends, source_ids.clone()].concat(),
        ends => ends,
    };
    for sink in sinks.iter_mut() {
        take(sink, ends.clone(), &known, &sink_ids, findings);
    }
    let order = order(stages, findings)?;
    report_unused(sources, stages, sinks, findings);
    Some(order)
}

/// Fills in what a node takes frames from.
fn take(node: &mut Node, default: Vec<Arc<str>>, known: &[&str], sinks: &[Arc<str>], findings: &mut Findings<'_>) {
    let Some(from) = &node.from else {
        node.takes = default;
        return;
    };
    if from.is_empty() {
        findings
            .error(node.from_place.clone(), "`from` is empty: no frame would ever come")
            .help("name sources or stages, or leave `from` out");
    }
    for id in from {
        let place = Place::new(id.span(), &node.from_place.key);
        let id = id.get_ref().as_str();
        if node.takes.iter().any(|t| &**t == id) {
            findings.error(place, format!("`{id}` stands in `from` twice"));
        } else if known.contains(&id) {
            node.takes.push(id.into());
        } else if sinks.iter().any(|s| &**s == id) {
            findings
                .error(place, format!("`{id}` is a sink: frames come from sources and stages"))
                .help_if(suggest(id, known, "there is"));
        } else {
            findings
                .error(place, format!("no source and no stage is called `{id}`"))
                .help_if(suggest(id, known, "there is"));
        }
    }
}

/// The stages in an order in which each comes after those it takes frames from; circles are errors.
fn order(stages: &[Node], findings: &mut Findings<'_>) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    let index = |id: &str| stages.iter().position(|s| &*s.id == id);
    while order.len() < stages.len() {
        let ready = (0..stages.len()).find(|n| {
            !order.contains(n) && stages[*n].takes.iter().all(|id| index(id).is_none_or(|m| order.contains(&m)))
        });
        match ready {
            Some(n) => order.push(n),
            None => {
                let waiting: Vec<usize> = (0..stages.len()).filter(|n| !order.contains(n)).collect();
                report_circle(stages, &waiting, findings);
                return None;
            }
        }
    }
    Some(order)
}

/// Every stage that waits has one before it that waits too: following them must come back.
fn report_circle(stages: &[Node], waiting: &[usize], findings: &mut Findings<'_>) {
    let before = |n: usize| waiting.iter().copied().find(|m| stages[n].takes.contains(&stages[*m].id));
    let Some(first) = waiting.first().copied() else { return };
    let mut path = vec![first];
    while let Some(next) = path.last().copied().and_then(before) {
        if let Some(start) = path.iter().position(|n| *n == next) {
            path.drain(..start);
            // In the direction in which frames would go, from the stage that stands first in the file.
            path.reverse();
            let least = path.iter().enumerate().min_by_key(|(_, n)| **n).map_or(0, |(at, _)| at);
            path.rotate_left(least);
            let names: Vec<&str> = path.iter().chain(path.first()).map(|n| &*stages[*n].id).collect();
            findings
                .error(
                    stages[path[0]].from_place.clone(),
                    format!("frames would go in a circle: {}", names.join(" → ")),
                )
                .help("take one of these out of a `from`");
            return;
        }
        path.push(next);
    }
}

/// What is there and leads nowhere.
fn report_unused(sources: &Ids, stages: &[Node], sinks: &[Node], findings: &mut Findings<'_>) {
    let taken = |id: &str| stages.iter().chain(sinks).any(|n| n.takes.iter().any(|t| &**t == id));
    for (id, place) in sources {
        if !taken(id) {
            findings
                .error(place.clone(), format!("no stage and no sink takes frames from source `{id}`"))
                .help(format!("name `{id}` in a `from`, or remove the source"));
        }
    }
    if sinks.is_empty() {
        return;
    }
    for stage in stages {
        if !taken(&stage.id) && !stage.hands_over {
            findings
                .warning(stage.head.clone(), format!("no stage and no sink takes the results of stage `{}`", stage.id))
                .help(format!("name `{}` in a sink's `from`, or remove the stage", stage.id));
        }
    }
}

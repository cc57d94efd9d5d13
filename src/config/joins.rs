//! Sources that join streams: what they join is another part of the same file.

use super::SourceEntry;
use super::findings::{Findings, Place, suggest};
use super::graph::{Ids, Node};
use std::sync::Arc;

/// Resolves the stations of every `join://` source, and reports stages that are none, stations that are none, and
/// circles. Stages of kind `join` that no source takes from are reported too.
pub(super) fn resolve(
    sources: &mut [SourceEntry],
    places: &Ids,
    stages: &[Node],
    joins: &[Arc<str>],
    findings: &mut Findings<'_>,
) {
    let ids: Vec<Arc<str>> = places.iter().map(|(id, _)| id.clone()).collect();
    let mut taken = Vec::new();
    for source in sources {
        let Some(name) = source.config.uri.as_deref().and_then(|u| u.strip_prefix("join://")) else { continue };
        let place = || {
            let head = places.iter().find(|(id, _)| *id == source.id).map(|(_, place)| place.clone());
            head.unwrap_or_else(|| Place::new(0..0, "source"))
        };
        let Some(stage) = joins.iter().find(|id| &***id == name).cloned() else {
            let what =
                if stages.iter().any(|s| &*s.id == name) { "is no stage of kind `join`" } else { "does not exist" };
            let names: Vec<&str> = joins.iter().map(|id| &**id).collect();
            let help = "a stage of kind `join` hands over what this source joins";
            findings
                .error(place(), format!("`{name}`, which source `{}` joins, {what}", source.id))
                .help_if(suggest(name, &names, "there is").or(Some(help.to_owned())));
            continue;
        };
        let reach = reaching(&stage, stages, &ids);
        if reach.contains(&source.id) {
            findings
                .error(place(), format!("frames would go in a circle: `{}` would join its own frames", source.id))
                .help("give the stages before the `join` a `from` that names the stations, without this source");
        }
        if taken.contains(&stage) {
            findings.error(place(), format!("another source joins what `{stage}` hands over already"));
        }
        taken.push(stage);
        match &source.config.stations {
            Some(stations) => {
                for station in stations.iter().filter(|s| !reach.iter().any(|r| **r == ***s)) {
                    let names: Vec<&str> = reach.iter().map(|id| &**id).collect();
                    findings
                        .error(place(), format!("station `{station}` is no source whose frames reach stage `{name}`"))
                        .help_if(suggest(station, &names, "there is"));
                }
            }
            None => source.config.stations = Some(reach.iter().map(ToString::to_string).collect()),
        }
    }
    for join in joins.iter().filter(|j| !taken.contains(j)) {
        if let Some(node) = stages.iter().find(|s| s.id == *join) {
            findings
                .error(node.head.clone(), format!("no source takes what stage `{join}` hands over"))
                .help(format!("add a source with uri = \"join://{join}\", or remove the stage"));
        }
    }
}

/// The sources whose frames reach a stage, in the file's order.
fn reaching(stage: &Arc<str>, stages: &[Node], sources: &[Arc<str>]) -> Vec<Arc<str>> {
    let (mut open, mut seen) = (vec![stage.clone()], Vec::new());
    while let Some(id) = open.pop() {
        if !seen.contains(&id) {
            open.extend(stages.iter().filter(|s| s.id == id).flat_map(|s| s.takes.clone()));
            seen.push(id);
        }
    }
    sources.iter().filter(|s| seen.contains(s)).cloned().collect()
}

//! Sources that take what stages hand over: what they make streams of is another part of the same file.

use super::SourceEntry;
use super::findings::{Findings, Place, suggest};
use super::graph::{Ids, Node};
use crate::stage::HandsOver;
use std::sync::Arc;

/// Stages that hand something over, and what.
pub(super) type Handing = Vec<(Arc<str>, HandsOver)>;

/// Resolves the stations of every `join://` source, and reports stages that are none or hand over something else, channels
/// and stations that there are not, and circles. Stages that nobody takes from are reported too.
pub(super) fn resolve(
    sources: &mut [SourceEntry],
    places: &Ids,
    stages: &[Node],
    handing: &Handing,
    findings: &mut Findings<'_>,
) {
    let ids: Vec<Arc<str>> = places.iter().map(|(id, _)| id.clone()).collect();
    let mut taken: Vec<String> = Vec::new();
    for source in sources {
        let Some(meets) = source.config.meets().map(str::to_owned) else { continue };
        let place = || {
            let head = places.iter().find(|(id, _)| *id == source.id).map(|(_, place)| place.clone());
            head.unwrap_or_else(|| Place::new(0..0, "source"))
        };
        let channel = meets.rsplit_once('/').and_then(|(stage, n)| Some((stage, n.parse::<usize>().ok()?)));
        let (name, wanted) = match channel {
            Some((stage, _)) => (stage, "channelize` with `channels"),
            None => (&*meets, "join"),
        };
        let fits = |h: HandsOver| matches!(h, HandsOver::Channels(_)) == channel.is_some();
        let Some((stage, hands)) = handing.iter().find(|(id, h)| &**id == name && fits(*h)).cloned() else {
            let what = if stages.iter().any(|s| &*s.id == name) { "is no such stage" } else { "does not exist" };
            let names: Vec<&str> = handing.iter().filter(|(_, h)| fits(*h)).map(|(id, _)| &**id).collect();
            let help = format!("a stage `{wanted}` hands over what this source takes");
            findings
                .error(place(), format!("`{name}`, which source `{}` takes from, {what}", source.id))
                .help_if(suggest(name, &names, "there is").or(Some(help)));
            continue;
        };
        let reach = reaching(&stage, stages, &ids);
        if reach.contains(&source.id) {
            findings
                .error(place(), format!("frames would go in a circle: `{}` would take its own frames", source.id))
                .help(format!("give the stages before `{stage}` a `from` that leaves this source out"));
        }
        if taken.contains(&meets) {
            findings.error(place(), format!("another source takes what `{meets}` hands over already"));
        }
        taken.push(meets.clone());
        match (hands, channel) {
            (HandsOver::Channels(channels), Some((_, n))) if n >= channels => {
                let message = format!("stage `{stage}` has {channels} channels, counted from 0, and no channel {n}");
                findings.error(place(), message);
            }
            (HandsOver::Channels(_), _) if reach.len() > 1 => {
                let message = format!("the channels of stage `{stage}` would mix the frames of {}", reach.join(", "));
                findings
                    .error(place(), message)
                    .help("give it a `from` with one source; further ones need stages of their own");
            }
            (HandsOver::Channels(_), _) => {}
            (HandsOver::Frames, _) => match &source.config.stations {
                Some(stations) => {
                    for station in stations.iter().filter(|s| !reach.iter().any(|r| **r == ***s)) {
                        let names: Vec<&str> = reach.iter().map(|id| &**id).collect();
                        findings
                            .error(
                                place(),
                                format!("station `{station}` is no source whose frames reach stage `{name}`"),
                            )
                            .help_if(suggest(station, &names, "there is"));
                    }
                }
                None => source.config.stations = Some(reach.iter().map(ToString::to_string).collect()),
            },
        }
    }
    let takes = |id: &str| taken.iter().any(|t| t == id || t.rsplit_once('/').is_some_and(|(stage, _)| stage == id));
    for (id, hands) in handing.iter().filter(|(id, _)| !takes(id)) {
        if let Some(node) = stages.iter().find(|s| s.id == *id) {
            let uri = match hands {
                HandsOver::Frames => format!("join://{id}"),
                HandsOver::Channels(_) => format!("channel://{id}/0"),
            };
            findings
                .error(node.head.clone(), format!("no source takes what stage `{id}` hands over"))
                .help(format!("add a source with uri = \"{uri}\", or remove the stage"));
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

//! Which stages a stream's frames pass, and over which devices.

use super::{Costs, DeviceModel};
use crate::config::Pipeline;
use crate::schedule::sim::Fork;
use std::sync::Arc;

/// A step of a frame: the branch, and the place in its list.
type Step = (usize, usize);

/// The stages on devices that a source's frames pass: branches, and where those begin that do not begin with the frame.
///
/// On one device each stage that takes the source's frames first begins a branch, and what comes behind is appended: the
/// device runs it one after the other anyway. With several devices what the graph leaves beside each other runs beside
/// each other, and what joins branches waits for all of them.
pub(super) fn ways(
    pipeline: &Pipeline,
    costs: &Costs,
    devices: &[DeviceModel],
    source: &Arc<str>,
) -> (Vec<Vec<usize>>, Vec<Fork>) {
    let place = |id: &Arc<str>| costs.stages.iter().position(|s| s.id == *id);
    // For each stage behind the source the last steps before its end: none where no device stage lies before it. The
    // pipeline's stages come after those they take frames from.
    let mut reached: Vec<(&Arc<str>, Vec<Step>)> = vec![(source, Vec::new())];
    let (mut branches, mut forks): (Vec<Vec<usize>>, Vec<Fork>) = (Vec::new(), Vec::new());
    for stage in &pipeline.stages {
        let from = || reached.iter().filter(|(id, _)| stage.from.contains(id));
        if from().next().is_none() {
            continue;
        }
        let mut behind: Vec<Step> = Vec::new();
        for step in from().flat_map(|(_, steps)| steps) {
            if !behind.contains(step) {
                behind.push(*step);
            }
        }
        if let Some(site) = place(&stage.id) {
            let branch = match &behind[..] {
                // The first branch, whatever joins.
                [first, ..] if devices.len() == 1 => Some(first.0),
                [only] if only.1 + 1 == branches[only.0].len() => Some(only.0),
                _ => None,
            };
            let branch = branch.unwrap_or_else(|| {
                branches.push(Vec::new());
                if !behind.is_empty() {
                    forks.push(Fork { branch: branches.len() - 1, behind });
                }
                branches.len() - 1
            });
            branches[branch].push(site);
            behind = vec![(branch, branches[branch].len() - 1)];
        }
        reached.push((&stage.id, behind));
    }
    (branches, forks)
}

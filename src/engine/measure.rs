//! What a pipeline's stages cost on this machine, measured without running it: for `framegate tune` and
//! `framegate simulate`.

use super::device::{Typical, calibrate, shares};
use super::{EngineError, plan};
use crate::config::Pipeline;
use crate::frame::{Arrival, Frame, Nanos, Stream, clock};
use crate::schedule::{Cost, Estimate, RungPlan, Site, Variant};
use crate::stage::{Batch, BatchStage, BuildContext, Built, Execute, StageConfig, StageError};
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// One way of running a stage, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The device that was taken: `cpu`, `openvino`, `cuda:0`, `tensorrt:0`.
    pub device: String,
    /// Sessions that ran at once.
    pub slots: usize,
    /// Cores that one session keeps busy.
    pub threads: usize,
    /// Batch sizes with the median span of each, nanoseconds, ascending.
    pub spans: Vec<(usize, Nanos)>,
    /// Pixels to tensor, one frame, nanoseconds.
    pub prepare: Nanos,
    /// Outputs to annotations, one frame, nanoseconds.
    pub finish: Nanos,
    /// Crops of a frame, where it runs on crops and batches are of crops; taken for one where it has not been measured.
    pub crops: Option<usize>,
}

impl Measured {
    /// What the planner is told of it.
    pub fn variant(&self) -> Variant {
        let mut cost = Cost::fit(&self.spans);
        cost.prepare.observe(self.prepare);
        Variant { cost, batch_sizes: self.spans.iter().map(|s| s.0).collect() }
    }
}

/// A stage of a pipeline that runs on a device: its ways of running and what each rung takes.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredStage {
    /// The stage's id.
    pub id: Arc<str>,
    /// Its ways of running.
    pub ways: Vec<Measured>,
    /// What it does at each rung: which of `ways`, and how often.
    pub rungs: Vec<RungPlan>,
    /// Crops of a frame, where it runs on crops.
    pub crops: Option<usize>,
}

impl MeasuredStage {
    /// What the planner is told of it.
    pub fn site(&self) -> Site {
        let mut tail = Estimate::default();
        tail.observe(self.ways.iter().map(|w| w.finish).max().unwrap_or(0));
        Site {
            variants: self.ways.iter().map(Measured::variant).collect(),
            rungs: self.rungs.clone(),
            tail,
            crops: self.crops,
        }
    }
}

/// Measures every stage of a pipeline that runs on a device, at every rung.
///
/// # Errors
/// A stage cannot be built, or its device fails.
pub fn pipeline(pipeline: &Pipeline, patience: Duration) -> Result<Vec<MeasuredStage>, EngineError> {
    let mut out = Vec::new();
    for entry in &pipeline.stages {
        let context = plan::context(pipeline, &plan::Commons::default(), &entry.id);
        let failed = |e: StageError| EngineError::Unusable(format!("stage `{}`: {e}", entry.id));
        let mut ways: Vec<(usize, Measured)> = Vec::new();
        let mut rungs = Vec::new();
        let (mut on_device, mut crops) = (true, None);
        for rung in 0..pipeline.rungs.len().max(1) {
            let at = entry.at(rung);
            let Some(way) = at.variant else {
                rungs.push(RungPlan { variant: None, every: at.every });
                continue;
            };
            let known = ways.iter().position(|(w, _)| *w == way);
            let variant = match known {
                Some(n) => n,
                None => match stage(entry.way(way), &context, patience).map_err(failed)? {
                    Some(measured) => {
                        crops = crops.max(measured.crops);
                        ways.push((way, measured));
                        ways.len() - 1
                    }
                    None => {
                        on_device = false;
                        break;
                    }
                },
            };
            rungs.push(RungPlan { variant: Some(variant), every: at.every });
        }
        if on_device && !ways.is_empty() {
            let ways = ways.into_iter().map(|(_, m)| m).collect();
            out.push(MeasuredStage { id: entry.id.clone(), ways, rungs, crops });
        }
    }
    Ok(out)
}

/// Measures one configuration of a stage, with all its sessions at work; `None` for a stage that runs on no device.
///
/// # Errors
/// It cannot be built, or its device fails.
pub fn stage(
    config: &dyn StageConfig,
    context: &BuildContext,
    patience: Duration,
) -> Result<Option<Measured>, StageError> {
    let Built::Batch(stage) = config.build(context)? else { return Ok(None) };
    let slots = stage.slots().max(1);
    let mut sessions: Vec<(Box<dyn Execute>, Batch)> = Vec::new();
    for _ in 0..slots {
        sessions.push((stage.open()?, stage.buffers()));
    }
    // All sessions at once: what one of them takes while the others work is what frames will wait for.
    let start = Barrier::new(slots);
    let spans: Vec<Result<Vec<(usize, Nanos)>, StageError>> = std::thread::scope(|scope| {
        let (stage, start) = (&*stage, &start);
        let run = move |(executor, batch): &mut (Box<dyn Execute>, Batch)| {
            start.wait();
            calibrate(stage, &mut **executor, batch, patience, Typical::Median)
        };
        let threads: Vec<_> = sessions.iter_mut().map(|s| scope.spawn(move || run(s))).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|r| r.unwrap_or_else(|_| Err(StageError::new("panicked while it was measured")))).collect()
    });
    let mut worst: Vec<(usize, Nanos)> = Vec::new();
    for spans in spans {
        for (i, span) in spans?.into_iter().enumerate() {
            match worst.get_mut(i) {
                Some(known) => known.1 = known.1.max(span.1),
                None => worst.push(span),
            }
        }
    }
    let crops = stage.crops().map(|_| 1);
    // A frame without detections has no crops to prepare.
    let (prepare, finish) = if crops.is_some() { (0, 0) } else { around(&*stage, &mut sessions)? };
    Ok(Some(Measured {
        device: stage.device().to_owned(),
        slots,
        threads: stage.threads(),
        spans: worst,
        prepare,
        finish,
        crops,
    }))
}

/// Median spans of preparing and of finishing an example of what the stage takes.
fn around(stage: &dyn BatchStage, sessions: &mut [(Box<dyn Execute>, Batch)]) -> Result<(Nanos, Nanos), StageError> {
    let Some((executor, batch)) = sessions.first_mut() else { return Ok((0, 0)) };
    let stream = Arc::new(Stream::new("measured", 0, None, 0, false));
    let mut frame = Frame::new(stream.capture(0), None, Arrival::default(), stage.example());
    let (mut prepares, mut finishes) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let begun = clock::now();
        stage.prepare(&frame, batch, 0..1)?;
        prepares.push(clock::now() - begun);
        executor.execute(batch, 1)?;
        let begun = clock::now();
        stage.finish(batch, 0..1, &mut frame)?;
        finishes.push(clock::now() - begun);
        frame.annotations = Default::default();
    }
    frame.ticket.mark(crate::frame::Outcome::OnTime);
    let median = |mut v: Vec<Nanos>| {
        v.sort_unstable();
        v[v.len() / 2]
    };
    Ok((median(prepares), median(finishes)))
}

/// The devices of these stages: those that share one are listed together, by their places.
pub fn devices(stages: &[MeasuredStage]) -> Vec<Vec<usize>> {
    let mut out: Vec<(&str, Vec<usize>)> = Vec::new();
    for (n, stage) in stages.iter().enumerate() {
        let Some(first) = stage.ways.first() else { continue };
        let key = shares(&first.device);
        match out.iter_mut().find(|(k, _)| *k == key) {
            Some((_, nodes)) => nodes.push(n),
            None => out.push((key, vec![n])),
        }
    }
    out.into_iter().map(|(_, nodes)| nodes).collect()
}

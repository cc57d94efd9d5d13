//! What a simulation takes for granted about the machine: what stages and decoders cost, and where that is known from.

use crate::config::{Pipeline, Spans, StageEntry};
use crate::engine::EngineError;
use crate::engine::measure::{self, Measured, MeasuredStage};
use crate::frame::Nanos;
use crate::frame::clock::MILLI;
use crate::schedule::RungPlan;
use crate::stage::Runs;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// How long measuring takes, for each way of running a stage.
const PATIENCE: Duration = Duration::from_millis(1200);
/// Batches of a stage whose cost is given as α + β, where its `batch` does not say.
const BATCH_GPU: usize = 8;

/// Why costs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// What the command line says is wrong.
    #[error("{0}")]
    Wrong(String),
    /// A model or a device cannot be used, so that nothing can be measured.
    #[error(transparent)]
    Unmeasured(#[from] EngineError),
}

/// A cost on the command line: `STAGE[@RUNG]=ALPHA+BETA`.
#[derive(Debug, Clone, PartialEq)]
pub struct CostFlag {
    /// The stage's id.
    pub stage: String,
    /// The rung's name; `None` for all.
    pub rung: Option<String>,
    /// A batch's fixed part.
    pub alpha: Duration,
    /// Each frame's part.
    pub beta: Duration,
}

impl FromStr for CostFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}`: write STAGE=ALPHA+BETA, for example detect=4ms+1.2ms or detect@lean=2ms");
        let (what, spans) = text.split_once('=').ok_or_else(form)?;
        let (stage, rung) = match what.split_once('@') {
            Some((stage, rung)) => (stage, Some(rung)),
            None => (what, None),
        };
        if stage.is_empty() || rung == Some("") || spans.is_empty() {
            return Err(form());
        }
        let time = |t: &str| t.parse::<crate::config::Time>().map(|t| t.0);
        let (alpha, beta) = match spans.split_once('+') {
            Some((alpha, beta)) => (time(alpha)?, time(beta)?),
            None => (Duration::ZERO, time(spans)?),
        };
        if (alpha + beta).is_zero() {
            return Err(format!("`{text}`: a batch takes more than no time"));
        }
        Ok(Self { stage: stage.into(), rung: rung.map(str::to_owned), alpha, beta })
    }
}

/// Costs that a run recorded in its report.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RecordedCosts {
    #[serde(default)]
    streams: BTreeMap<String, RecordedStream>,
    #[serde(default)]
    stages: BTreeMap<String, RecordedStage>,
}

#[derive(Debug, Clone, Deserialize)]
struct RecordedStream {
    decode_ms: Option<RecordedSpan>,
    rhythm: Option<RecordedRhythm>,
    fps: Option<RecordedRates>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct RecordedSpan {
    mean: Option<f64>,
    spread: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct RecordedRhythm {
    period_ms: f64,
    phase_ms: f64,
    deviation_ms: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct RecordedRates {
    captured: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct RecordedStage {
    #[serde(default)]
    cost: Vec<RecordedCost>,
    slots: Option<usize>,
    device: String,
}

#[derive(Debug, Clone, Deserialize)]
struct RecordedCost {
    rungs: Vec<String>,
    batch_sizes: Vec<usize>,
    alpha_ms: f64,
    beta_ms: f64,
    prepare_ms: f64,
    tail_ms: f64,
    spread: Option<f64>,
    drift: Option<RecordedDrift>,
    crops: Option<usize>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct RecordedDrift {
    share: f64,
    lasts_ms: f64,
}

fn nanos(ms: f64) -> Nanos {
    (ms.max(0.0) * MILLI as f64).round() as Nanos
}

impl RecordedCosts {
    /// Reads a report that `run --report` wrote.
    ///
    /// # Errors
    /// It cannot be read, or holds no costs.
    pub fn read(path: &Path) -> Result<Self, CostError> {
        let wrong = |what: String| CostError::Wrong(format!("--costs {}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let costs: Self = serde_json::from_str(&text).map_err(|e| wrong(format!("this is no run report ({e})")))?;
        if costs.stages.values().all(|s| s.cost.is_empty()) {
            return Err(wrong("the report holds no costs; write it with `framegate run --report OUT.json`".into()));
        }
        Ok(costs)
    }

    fn way(&self, stage: &str, rung: &str) -> Option<(Measured, Spread)> {
        let stage = self.stages.get(stage)?;
        let cost = stage.cost.iter().find(|c| c.rungs.iter().any(|r| r == rung))?;
        let line = |b: usize| nanos(cost.alpha_ms + cost.beta_ms * b as f64);
        let measured = Measured {
            device: stage.device.clone(),
            slots: stage.slots.unwrap_or(1),
            threads: 1,
            spans: cost.batch_sizes.iter().map(|&b| (b, line(b))).collect(),
            prepare: nanos(cost.prepare_ms),
            finish: nanos(cost.tail_ms),
            crops: cost.crops,
        };
        let drift = cost.drift.map_or((0.0, 0), |d| (d.share.clamp(0.0, 1.0), nanos(d.lasts_ms)));
        Some((measured, Spread { share: cost.spread, drift }))
    }
}

/// A stream's part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrives {
    /// From captured to decoded; `None` where nobody has said.
    pub decode: Option<Nanos>,
    /// Its deviation, as a share of it.
    pub spread: f64,
    /// Frames per second, where they were measured.
    pub fps: Option<f64>,
    /// Where frames were seen to come regularly: when, and how regularly.
    pub beat: Option<Regular>,
}

/// A regular stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regular {
    /// Between two frames.
    pub period: Nanos,
    /// When the first frame is captured, by the beat.
    pub phase: Nanos,
    /// Captures are spread evenly over so much time around the beat.
    pub jitter: Nanos,
}

/// A deviation of more than this share of a period is no beat.
const REGULAR: f64 = 0.25;

impl Regular {
    fn of(recorded: &RecordedRhythm) -> Option<Self> {
        let beats = recorded.period_ms > 0.0 && recorded.deviation_ms < REGULAR * recorded.period_ms;
        beats.then(|| Self {
            period: nanos(recorded.period_ms),
            phase: nanos(recorded.phase_ms),
            // An even spread of this width has that deviation.
            jitter: nanos(recorded.deviation_ms * 12f64.sqrt()),
        })
    }
}

/// How batches deviate from the model.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// By this share of their span; `None` where nobody has said.
    pub share: Option<f64>,
    /// The share of the variance that stays from batch to batch, and for how long.
    pub drift: (f64, Nanos),
}

impl Spread {
    fn of(share: Option<f64>) -> Self {
        Self { share, ..Self::default() }
    }

    /// The wider of the two.
    fn or(self, other: Self) -> Self {
        if other.share.is_some() && other.share >= self.share { other } else { self }
    }
}

/// Everything that a simulation of a pipeline takes for granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// The stages that run on a device.
    pub stages: Vec<MeasuredStage>,
    /// How batches deviate.
    pub spread: Spread,
    /// The sources, in the file's order.
    pub sources: Vec<Arrives>,
    /// Where it is known from, in words.
    pub origins: Vec<String>,
}

/// What is told about costs beside the pipeline file.
#[derive(Debug, Default)]
pub struct Told<'t> {
    /// On the command line.
    pub flags: &'t [CostFlag],
    /// By an earlier run's report.
    pub recorded: Option<&'t RecordedCosts>,
}

impl Costs {
    /// Finds the costs of a pipeline: on the command line, in a report, in the file; what nobody has said is measured
    /// now. `measuring` hears of that first.
    ///
    /// # Errors
    /// The command line names what is not there; no stage runs on a device; what has to be measured cannot be used.
    pub fn find(pipeline: &Pipeline, told: &Told<'_>, measuring: impl FnOnce(&str)) -> Result<Self, CostError> {
        check_names(pipeline, told.flags)?;
        let mut lookup = Lookup { pipeline, told, origins: Vec::new(), spread: Spread::default() };
        let entries: Vec<&StageEntry> = pipeline.stages.iter().filter(|s| on_device(s, pipeline, told)).collect();
        if entries.is_empty() {
            let what = "no stage of this file runs a model on the picture: there is nothing to schedule";
            return Err(CostError::Wrong(what.into()));
        }
        let rungs = pipeline.rungs.len().max(1);
        let mut found: Vec<Vec<Option<Measured>>> = Vec::new();
        for entry in &entries {
            found.push((0..rungs).map(|rung| lookup.way(entry, rung)).collect());
        }
        let lacks = |(entry, ways): (&&StageEntry, &Vec<Option<Measured>>)| {
            (0..rungs).any(|r| ways[r].is_none() && entry.at(r).variant.is_some()).then(|| entry.id.to_string())
        };
        let missing: Vec<String> = entries.iter().zip(&found).filter_map(lacks).collect();
        if !missing.is_empty() {
            measuring(&missing.join(", "));
            let measured = measure::pipeline(pipeline, PATIENCE)?;
            for (entry, ways) in entries.iter().zip(&mut found) {
                let Some(stage) = measured.iter().find(|m| m.id == entry.id) else { continue };
                for (rung, way) in ways.iter_mut().enumerate().filter(|(_, w)| w.is_none()) {
                    *way = stage.rungs.get(rung).and_then(|r| r.variant).and_then(|v| stage.ways.get(v)).cloned();
                }
            }
            lookup.note(format!("{} measured now", missing.join(", ")));
        }
        let stages = entries.iter().zip(found).map(|(entry, ways)| stage(entry, ways)).collect();
        let sources = pipeline.sources.iter().map(|s| lookup.source(&s.id)).collect();
        Ok(Self { stages, spread: lookup.spread, sources, origins: lookup.origins })
    }
}

fn check_names(pipeline: &Pipeline, flags: &[CostFlag]) -> Result<(), CostError> {
    for flag in flags {
        let unknown = |what: &str, name: &str, all: Vec<&str>| {
            CostError::Wrong(format!("--cost: no {what} is called `{name}`; there is: {}", all.join(", ")))
        };
        if !pipeline.stages.iter().any(|s| *s.id == *flag.stage) {
            return Err(unknown("stage", &flag.stage, pipeline.stages.iter().map(|s| &*s.id).collect()));
        }
        if let Some(rung) = &flag.rung
            && !pipeline.rungs.iter().any(|r| *r.name == **rung)
        {
            return Err(unknown("rung", rung, pipeline.rungs.iter().map(|r| &*r.name).collect()));
        }
    }
    Ok(())
}

/// Whether a stage waits for a device: its kind does, or somebody has said what it costs there.
fn on_device(entry: &StageEntry, pipeline: &Pipeline, told: &Told<'_>) -> bool {
    matches!(Runs::of(entry.kind), Runs::Device)
        || pipeline.costs.stages.iter().any(|c| c.stage == entry.id)
        || told.flags.iter().any(|f| *f.stage == *entry.id)
}

struct Lookup<'l> {
    pipeline: &'l Pipeline,
    told: &'l Told<'l>,
    origins: Vec<String>,
    spread: Spread,
}

impl Lookup<'_> {
    fn note(&mut self, origin: String) {
        if !self.origins.contains(&origin) {
            self.origins.push(origin);
        }
    }

    /// What a stage costs at a rung, as far as it has been said.
    fn way(&mut self, entry: &StageEntry, rung: usize) -> Option<Measured> {
        entry.at(rung).variant?;
        let name = self.pipeline.rungs.get(rung).map_or("full", |r| &*r.name);
        let recorded = self.told.recorded.and_then(|r| r.way(&entry.id, name));
        let known = match recorded {
            Some((measured, spread)) => {
                self.spread = self.spread.or(spread);
                self.note(format!("{} from the report", entry.id));
                Some(measured)
            }
            None => self.written(entry, rung, name),
        };
        let flags = self.told.flags.iter().filter(|f| *f.stage == *entry.id);
        let flag = flags.filter(|f| f.rung.as_deref().is_none_or(|r| r == name)).max_by_key(|f| f.rung.is_some());
        let Some(flag) = flag else { return known };
        self.note(format!("{} from the command line", entry.id));
        let mut measured = known.unwrap_or_else(|| self.bare(entry, rung));
        let (alpha, beta) = (flag.alpha.as_nanos() as Nanos, flag.beta.as_nanos() as Nanos);
        measured.spans.iter_mut().for_each(|s| s.1 = alpha + beta * s.0 as Nanos);
        Some(measured)
    }

    /// What the pipeline file says.
    fn written(&mut self, entry: &StageEntry, rung: usize, name: &str) -> Option<Measured> {
        let costs = self.pipeline.costs.stages.iter().filter(|c| c.stage == entry.id);
        let cost = costs.filter(|c| c.rung.as_deref().is_none_or(|r| r == name)).max_by_key(|c| c.rung.is_some())?;
        let mut measured = self.bare(entry, rung);
        match &cost.spans {
            Spans::Batches(batches) => {
                measured.spans = batches.iter().map(|&(n, t)| (n, t.as_nanos() as Nanos)).collect();
            }
            Spans::Line { alpha, beta } => {
                let (alpha, beta) = (alpha.as_nanos() as Nanos, beta.as_nanos() as Nanos);
                measured.spans.iter_mut().for_each(|s| s.1 = alpha + beta * s.0 as Nanos);
            }
        }
        measured.prepare = cost.prepare.unwrap_or_default().as_nanos() as Nanos;
        measured.finish = cost.tail.unwrap_or_default().as_nanos() as Nanos;
        measured.crops = cost.crops.filter(|_| measured.crops.is_some()).or(measured.crops);
        measured.slots = cost.slots.unwrap_or(measured.slots);
        if let Some(device) = &cost.device {
            measured.device.clone_from(device);
        }
        self.spread = self.spread.or(Spread::of(cost.spread));
        self.note(format!("{} from [[cost]]", entry.id));
        Some(measured)
    }

    /// A stage of which only its own keys are known.
    fn bare(&self, entry: &StageEntry, rung: usize) -> Measured {
        let changed = self.pipeline.rungs.get(rung).and_then(|r| r.overrides.iter().find(|(id, _)| *id == entry.id));
        let key = |name: &str| changed.and_then(|(_, t)| t.get(name)).or(entry.settings.get(name));
        let number = |value: Option<&toml::Value>| value.and_then(toml::Value::as_integer).map(|n| n.max(1) as usize);
        let device = key("device").and_then(toml::Value::as_str).unwrap_or("cpu");
        // What `auto` takes is only known once it is opened.
        let device = if device == "auto" { "cpu" } else { device };
        let gpu = !["cpu", "openvino"].contains(&device);
        let on_crops = Runs::of(entry.kind) == Runs::DeviceOnCrops;
        let most = if on_crops { number(key("max_crops")) } else { number(key("batch").and_then(|b| b.get("max"))) };
        let most = most.unwrap_or(if gpu || on_crops { BATCH_GPU } else { 1 });
        let mut sizes: Vec<usize> = (0..usize::BITS).map(|n| 1 << n).take_while(|&n| n < most).collect();
        sizes.push(most);
        Measured {
            device: device.to_owned(),
            slots: number(key("slots")).unwrap_or(1),
            threads: 1,
            spans: sizes.into_iter().map(|n| (n, 0)).collect(),
            prepare: 0,
            finish: 0,
            crops: on_crops.then_some(1),
        }
    }

    fn source(&mut self, id: &Arc<str>) -> Arrives {
        if let Some(recorded) = self.told.recorded {
            // Streams that were not there arrive as those that were, on average.
            let known: Vec<&RecordedStream> = match recorded.streams.get(&**id) {
                Some(stream) => vec![stream],
                None => recorded.streams.values().collect(),
            };
            let mean =
                |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
            let decode = mean(known.iter().filter_map(|s| s.decode_ms?.mean).collect());
            let fps = mean(known.iter().filter_map(|s| Some(s.fps?.captured)).filter(|f| *f > 0.0).collect());
            if let Some(decode) = decode {
                let spread = mean(known.iter().filter_map(|s| s.decode_ms?.spread).collect()).unwrap_or(0.0);
                self.note("arrivals from the report".into());
                let own = recorded.streams.get(&**id).and_then(|s| s.rhythm.as_ref());
                return Arrives { decode: Some(nanos(decode)), spread, fps, beat: own.and_then(Regular::of) };
            }
        }
        match self.pipeline.costs.decode.iter().find(|c| c.source == *id) {
            Some(cost) => {
                self.note("decoding from [[cost]]".into());
                let decode = cost.decode.as_nanos() as Nanos;
                Arrives { decode: Some(decode), spread: cost.spread.unwrap_or(0.0), fps: None, beat: None }
            }
            None => Arrives { decode: None, spread: 0.0, fps: None, beat: None },
        }
    }
}

/// A stage from its costs at each rung; rungs that cost the same run it in the same way.
fn stage(entry: &StageEntry, found: Vec<Option<Measured>>) -> MeasuredStage {
    let (mut ways, mut rungs): (Vec<Measured>, Vec<RungPlan>) = (Vec::new(), Vec::new());
    for (rung, way) in found.into_iter().enumerate() {
        let every = entry.at(rung).every;
        let variant = way.map(|way| match ways.iter().position(|w| *w == way) {
            Some(known) => known,
            None => {
                ways.push(way);
                ways.len() - 1
            }
        });
        rungs.push(RungPlan { variant, every });
    }
    let crops = ways.iter().filter_map(|w| w.crops).max();
    MeasuredStage { id: entry.id.clone(), ways, rungs, crops }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_on_the_command_line_is_a_stage_and_its_spans() {
        let read = |s: &str| s.parse::<CostFlag>();
        let flag = read("detect@lean=4ms+1.2ms").unwrap();
        assert_eq!((flag.stage.as_str(), flag.rung.as_deref()), ("detect", Some("lean")));
        assert_eq!((flag.alpha, flag.beta), (Duration::from_millis(4), Duration::from_micros(1200)));
        assert_eq!(read("detect=5ms").unwrap().alpha, Duration::ZERO);
        for bad in ["detect", "=5ms", "detect@=5ms", "detect=", "detect=-1ms", "detect=4ms+x", "detect=0ms+0ms"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

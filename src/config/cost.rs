//! `[[cost]]`: what stages and decoders cost on a machine, as measured. `[simulate]`: the load that a simulation puts
//! on it. Both are for `framegate simulate`; a run measures for itself.

use super::document::Value;
use super::findings::{Findings, Place, suggest};
use super::section::{Known, Section};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;

/// Largest batch that a cost can be given for.
const MAX_BATCH: usize = 1024;
/// Largest relative deviation: beyond it a mean says nothing any more.
const MAX_SPREAD: f64 = 2.0;

/// What one stage costs at one rung, or at all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct StageCost {
    /// The stage's id.
    pub stage: Arc<str>,
    /// The rung's name; `None` for every rung that has no entry of its own.
    pub rung: Option<Arc<str>>,
    /// What it was measured on; stages on one device wait for each other.
    pub device: Option<String>,
    /// Batches that the device runs at once.
    pub slots: Option<usize>,
    /// How long batches take.
    pub spans: Spans,
    /// Pixels to tensor, one frame.
    pub prepare: Option<Duration>,
    /// From leaving the stage to the sinks' queues.
    pub tail: Option<Duration>,
    /// Crops of a frame, on a stage on crops.
    pub crops: Option<usize>,
    /// Deviation of a batch's span, as a share of it.
    pub spread: Option<f64>,
}

/// How long batches take.
#[derive(Debug, Clone, PartialEq)]
pub enum Spans {
    /// As measured: frames and span, ascending, the first is a batch of one.
    Batches(Vec<(usize, Duration)>),
    /// A batch's fixed part, and each frame's.
    Line {
        /// Whatever the batch.
        alpha: Duration,
        /// For each frame.
        beta: Duration,
    },
}

/// What it takes until a source's frame is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeCost {
    /// The source's id.
    pub source: Arc<str>,
    /// From a frame's first byte to its picture.
    pub decode: Duration,
    /// Its deviation, as a share of it.
    pub spread: Option<f64>,
}

/// What a pipeline file says about costs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Costs {
    /// Of stages.
    pub stages: Vec<StageCost>,
    /// Of decoders.
    pub decode: Vec<DecodeCost>,
}

/// A span of time that may be nothing: `"5.3ms"`, `"400us"`, `"1s 500ms"`, `"0ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Time(pub Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        if trimmed.starts_with('-') {
            return Err(format!("\"{text}\": a time cannot be negative"));
        }
        // Decimals first: measured times have them.
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let scale = match unit.trim() {
            "ns" => Some(1e-9),
            "us" | "µs" => Some(1e-6),
            "ms" => Some(1e-3),
            "s" => Some(1.0),
            _ => None,
        };
        let time = match (number.parse::<f64>(), scale) {
            (Ok(number), Some(scale)) => Duration::try_from_secs_f64(number * scale).ok(),
            _ => humantime::parse_duration(trimmed).ok(),
        };
        match time {
            Some(time) if time <= Duration::from_secs(86_400) => Ok(Self(time)),
            Some(_) => Err(format!("\"{text}\" is longer than a day")),
            None => Err(format!("\"{text}\" is no time: write it like \"5.3ms\", \"400us\" or \"1s 500ms\"")),
        }
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A span of time such as \"5.3ms\", \"400us\" or \"1s 500ms\".",
            "type": "string",
            "pattern": "^\\s*([0-9.]+\\s*[a-zA-Zµ]+\\s*)+$",
        })
    }
}

/// `[[cost]]`: what a stage, or the decoding of a source, costs on this machine. `framegate simulate` plans with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CostTable {
    /// A stage's id. Every entry has this or `source`.
    #[schemars(with = "Option<String>")]
    stage: Option<Spanned<String>>,
    /// A source's id: the entry says what decoding its frames takes.
    #[schemars(with = "Option<String>")]
    source: Option<Spanned<String>>,
    /// A rung's name. Default: every rung that has no entry of its own.
    #[schemars(with = "Option<String>")]
    rung: Option<Spanned<String>>,
    /// What it was measured on: cpu, openvino, cuda:N, tensorrt:N. Stages on one device wait for each other, those on
    /// different ones do not; cpu and openvino are one. Default: what the stage's `device` says.
    device: Option<String>,
    /// Batches that the device runs at once, 1 to 256. Default: the stage's `slots`, else 1.
    #[schemars(range(min = 1, max = 256))]
    slots: Option<usize>,
    /// Measured batches, ascending from a batch of one: [[1, "5.3ms"], [2, "10.1ms"]].
    batches: Option<Vec<(usize, Time)>>,
    /// A batch's fixed part, in place of `batches`. Default "0ms".
    alpha: Option<Time>,
    /// Each frame's part of a batch, in place of `batches`.
    beta: Option<Time>,
    /// Pixels to tensor, one frame. Default "0ms".
    prepare: Option<Time>,
    /// From leaving the stage to the sinks: decoding outputs, tracking, filters. Default "0ms".
    tail: Option<Time>,
    /// Crops that a frame has, on a stage on crops, whose batches are of crops; 0 to 1000. Default 1.
    #[schemars(range(min = 0, max = 1000))]
    crops: Option<usize>,
    /// Deviation as a share of the span, 0 to 2. Default: `spread` of `[simulate]`.
    #[schemars(range(min = 0.0, max = 2.0))]
    spread: Option<f64>,
    /// With `source`: from a frame's first byte to its picture.
    decode: Option<Time>,
}

/// Ids that entries may name.
pub(super) struct Names<'n> {
    pub(super) stages: Vec<&'n str>,
    pub(super) sources: Vec<&'n str>,
    pub(super) rungs: Vec<&'n str>,
}

/// Reads `[[cost]]`.
pub(super) fn read<'i>(value: Option<Value<'i>>, names: &Names<'_>, findings: &mut Findings<'_>) -> Costs {
    let mut costs = Costs::default();
    let Some(value) = value else { return costs };
    let span = value.span();
    let wrong = |findings: &mut Findings<'_>, span| {
        findings
            .error(Place::new(span, "cost"), "costs are a list of tables")
            .help("write [[cost]] with double brackets for each of them");
    };
    let DeValue::Array(items) = value.into_inner() else {
        wrong(findings, span);
        return costs;
    };
    for item in items {
        let head = item.span();
        match item.into_inner() {
            DeValue::Table(table) => {
                entry(&Section { key: "cost".into(), head, table }, names, &mut costs, findings);
            }
            _ => wrong(findings, head),
        }
    }
    costs
}

fn entry(section: &Section<'_>, names: &Names<'_>, costs: &mut Costs, findings: &mut Findings<'_>) {
    let Some(table) = section.read(&Known::default(), findings, CostTable::deserialize) else { return };
    if table.crops.is_some_and(|n| n > 1000) {
        findings.error(section.value_place("crops"), "`crops` lies between 0 and 1000");
    }
    if table.spread.is_some_and(|s| !(0.0..=MAX_SPREAD).contains(&s)) {
        findings
            .error(section.value_place("spread"), "`spread` is a share of the span, from 0 to 2")
            .help("0.1 means: mostly within 10 % of the measured span");
    }
    let mut known = |name: &Option<Spanned<String>>, what: &str, all: &[&str]| {
        let name = name.as_ref()?;
        if !all.contains(&name.get_ref().as_str()) {
            findings
                .error(
                    Place::new(name.span(), format!("cost.{what}")),
                    format!("no {what} is called `{}`", name.get_ref()),
                )
                .help_if(suggest(name.get_ref(), all, "there is"));
        }
        Some(Arc::<str>::from(name.get_ref().as_str()))
    };
    let stage = known(&table.stage, "stage", &names.stages);
    let source = known(&table.source, "source", &names.sources);
    let rung = known(&table.rung, "rung", &names.rungs);
    match (stage, source) {
        (Some(stage), None) => of_stage(section, table, stage, rung, costs, findings),
        (None, Some(source)) => of_source(section, &table, source, costs, findings),
        (Some(_), Some(_)) => {
            findings
                .error(section.place("source"), "an entry is about a stage or about a source, not both")
                .help("write two entries");
        }
        (None, None) => {
            findings
                .error(section.head(), "[[cost]] names neither a stage nor a source")
                .help("add a line `stage = \"…\"` or `source = \"…\"` below it");
        }
    }
}

fn of_stage(
    section: &Section<'_>,
    table: CostTable,
    stage: Arc<str>,
    rung: Option<Arc<str>>,
    costs: &mut Costs,
    findings: &mut Findings<'_>,
) {
    if table.decode.is_some() {
        findings
            .error(section.place("decode"), "`decode` is the cost of a source's frames")
            .help("write an entry with source = \"…\" for it");
    }
    if table.slots.is_some_and(|s| !(1..=256).contains(&s)) {
        findings.error(section.value_place("slots"), "slots must lie between 1 and 256");
    }
    if costs.stages.iter().any(|c| c.stage == stage && c.rung == rung) {
        let at = rung.as_ref().map_or_else(|| "all rungs".to_owned(), |r| format!("rung `{r}`"));
        findings
            .error(section.place("stage"), format!("the cost of stage `{stage}` at {at} is given twice"))
            .help("an entry without `rung` holds for every rung that has none of its own");
    }
    let line = table.alpha.is_some() || table.beta.is_some();
    let spans = match (table.batches, table.beta) {
        (Some(_), _) if line => {
            let key = if table.alpha.is_some() { "alpha" } else { "beta" };
            findings
                .error(section.place(key), "spans are given by `batches`, or by `alpha` and `beta`, not by both")
                .help("keep `batches`: α and β follow from them");
            return;
        }
        (Some(batches), _) => {
            let ascending = batches.windows(2).all(|w| w[0].0 < w[1].0);
            if batches.first().is_none_or(|b| b.0 != 1) || !ascending {
                findings
                    .error(section.value_place("batches"), "batches are a list that begins with a batch of 1 and rises")
                    .help("for example batches = [[1, \"5.3ms\"], [2, \"10.1ms\"], [4, \"19.8ms\"]]");
                return;
            }
            if batches.iter().any(|b| b.0 > MAX_BATCH) {
                findings.error(section.value_place("batches"), format!("a batch has at most {MAX_BATCH} frames"));
            }
            if batches.iter().any(|b| b.1.0.is_zero()) {
                findings.error(section.value_place("batches"), "a batch takes more than no time");
            }
            Spans::Batches(batches.into_iter().map(|(n, t)| (n, t.0)).collect())
        }
        (None, Some(beta)) => Spans::Line { alpha: table.alpha.map_or(Duration::ZERO, |t| t.0), beta: beta.0 },
        (None, None) => {
            findings
                .error(section.head(), format!("[[cost]] does not say how long a batch of stage `{stage}` takes"))
                .help("add `batches = [[1, \"5.3ms\"]]`, or `alpha` and `beta`");
            return;
        }
    };
    costs.stages.push(StageCost {
        stage,
        rung,
        device: table.device,
        slots: table.slots,
        spans,
        prepare: table.prepare.map(|t| t.0),
        tail: table.tail.map(|t| t.0),
        crops: table.crops,
        spread: table.spread,
    });
}

fn of_source(
    section: &Section<'_>,
    table: &CostTable,
    source: Arc<str>,
    costs: &mut Costs,
    findings: &mut Findings<'_>,
) {
    for key in ["rung", "device", "slots", "batches", "alpha", "beta", "prepare", "tail", "crops"] {
        if section.table.contains_key(key) {
            findings
                .error(section.place(key), format!("`{key}` is no cost of a source"))
                .help("a source has `decode` and `spread`");
        }
    }
    if costs.decode.iter().any(|c| c.source == source) {
        findings.error(section.place("source"), format!("the cost of source `{source}` is given twice"));
    }
    let Some(decode) = table.decode else {
        findings
            .error(section.head(), format!("[[cost]] does not say what decoding source `{source}` takes"))
            .help("add `decode = \"3.1ms\"`");
        return;
    };
    costs.decode.push(DecodeCost { source, decode: decode.0, spread: table.spread });
}

/// `[simulate]`: the load that `framegate simulate` puts on the machine.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadTable {
    /// How long frames arrive; `--for` says otherwise. Default "30s".
    #[serde(rename = "for")]
    pub length: Option<Time>,
    /// All that is random follows from it; `--seed` says otherwise. Default 1.
    pub seed: Option<u64>,
    /// Frames arrive late by up to this, evenly spread. Default "2ms".
    pub jitter: Option<Time>,
    /// So many frames arrive together, as over a network that gathers them. Default 1.
    #[schemars(range(min = 1, max = 1000))]
    pub burst: Option<u32>,
    /// Nothing arrives for a while, as when a camera sends a large keyframe over a thin line; what it captured meanwhile
    /// comes in one burst. Default: none. `lasts` defaults to ["400ms", "500ms"].
    pub pause: Option<Gap>,
    /// The stream is gone for a while, and its frames with it. Default: none. `lasts` defaults to ["2s", "4s"].
    pub stall: Option<Gap>,
    /// The device is slower for a while. Default: none.
    pub slowdown: Option<SlowTable>,
    /// Batches that something else on the machine hits. Default: none.
    pub outlier: Option<OutlierTable>,
    /// Deviation of a batch's span as a share of it, 0 to 2, where its cost says none. Default 0.05.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub spread: Option<f64>,
    /// Priorities of the streams, in turn, in place of the sources' own.
    pub priorities: Option<Vec<i32>>,
}

/// Something that happens again and again.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Time between two of them, on average; for each stream on its own.
    pub every: Time,
    /// How long each lasts: a time, or the shortest and the longest.
    pub lasts: Option<Lasts>,
}

/// How long something lasts.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a time, or a list of the shortest and the longest: [\"400ms\", \"500ms\"]")]
pub enum Lasts {
    /// Always the same.
    Always(Time),
    /// Shortest and longest.
    Between([Time; 2]),
}

impl Lasts {
    /// The shortest and the longest.
    pub fn range(self) -> (Duration, Duration) {
        match self {
            Self::Always(t) => (t.0, t.0),
            Self::Between([a, b]) => (a.0, b.0),
        }
    }
}

/// `slowdown = { … }`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowTable {
    /// Time between two of them, on average. Default "10s".
    pub every: Option<Time>,
    /// How long each lasts: a time, or the shortest and the longest. Default ["2s", "4s"].
    pub lasts: Option<Lasts>,
    /// Everything takes so many times as long.
    #[schemars(range(min = 0.1, max = 100.0))]
    pub factor: f64,
}

/// `outlier = { … }`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutlierTable {
    /// Share of the batches that are hit, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// How much longer they take.
    pub by: Time,
}

impl LoadTable {
    /// What is wrong with it that the types cannot say.
    pub(super) fn check(&self, section: &Section<'_>, findings: &mut Findings<'_>) {
        let mut wrong = |key: &str, what: &str| {
            findings.error(section.value_place(key), what);
        };
        if self.length.is_some_and(|t| t.0 < Duration::from_millis(100)) {
            wrong("for", "a simulation lasts at least 100 ms");
        }
        if self.jitter.is_some_and(|t| t.0 > Duration::from_secs(10)) {
            wrong("jitter", "a jitter of more than 10 s is a stream that stands still");
        }
        if self.burst.is_some_and(|b| !(1..=1000).contains(&b)) {
            wrong("burst", "`burst` is a number of frames from 1 to 1000");
        }
        if self.spread.is_some_and(|s| !(0.0..=MAX_SPREAD).contains(&s)) {
            wrong("spread", "`spread` is a share of the span, from 0 to 2");
        }
        if self.priorities.as_ref().is_some_and(Vec::is_empty) {
            wrong("priorities", "a list of priorities has at least one");
        }
        if self.outlier.as_ref().is_some_and(|o| !(0.0..=1.0).contains(&o.share)) {
            wrong("outlier", "`share` lies between 0 and 1");
        }
        if self.slowdown.as_ref().is_some_and(|s| !(0.1..=100.0).contains(&s.factor)) {
            wrong("slowdown", "`factor` lies between 0.1 and 100: 2 means twice as slow");
        }
        let gaps = [
            ("pause", self.pause.as_ref().map(|g| (g.every, g.lasts))),
            ("stall", self.stall.as_ref().map(|g| (g.every, g.lasts))),
            ("slowdown", self.slowdown.as_ref().map(|s| (s.every.unwrap_or(Time(Duration::from_secs(10))), s.lasts))),
        ];
        for (key, gap) in gaps {
            let Some((every, lasts)) = gap else { continue };
            if every.0 < Duration::from_millis(10) {
                wrong(key, "`every` is the time between two: at least 10 ms");
            }
            if lasts.is_some_and(|l| l.range().0 > l.range().1) {
                wrong(key, "`lasts` is the shortest time, then the longest");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_have_decimals_and_never_a_sign() {
        let read = |s: &str| s.parse::<Time>().map(|t| t.0.as_nanos());
        assert_eq!(read("5.3ms"), Ok(5_300_000));
        assert_eq!(read(" 400us "), Ok(400_000));
        assert_eq!(read("1s 500ms"), Ok(1_500_000_000));
        assert_eq!(read("0ms"), Ok(0));
        assert!(read("-1ms").unwrap_err().contains("negative"));
        for bad in ["", "5", "ms", "5.3.1ms", "fast", "2days"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

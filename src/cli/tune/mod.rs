//! `framegate tune`: measures this machine with a pipeline's own models, and writes the file that suits it.

use super::{Code, Failure, PipelineFile, count};
use anyhow::Context;
use framegate::config::{self, Pipeline, StageEntry};
use framegate::engine::measure::{self, Measured, MeasuredStage};
use framegate::frame::{Nanos, clock};
use framegate::schedule::sim::Feed;
use framegate::schedule::{RungPlan, Site, admission};
use framegate::stage::{BuildContext, StageConfig};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

/// How long one way of running a model is measured.
const PATIENCE: Duration = Duration::from_millis(1200);
/// A setting must serve so many times the streams of another, or be so many times as quick, to be preferred to it.
const BETTER: f64 = 1.05;
/// Of a ladder that is made here no rung infers fewer frames than one in so many.
const SPARSEST: u32 = 6;

/// Arguments of `tune`.
#[derive(clap::Args)]
pub struct Tune {
    #[command(flatten)]
    file: PipelineFile,
    /// Write the tuned file here; without it, to standard output
    #[arg(short, long, value_name = "TUNED.toml")]
    output: Option<PathBuf>,
}

/// One setting of a stage, and what it gave.
struct Tried {
    device: String,
    threads: usize,
    slots: usize,
    /// Threads and slots are written to the file only where the device has a use for them.
    on_cores: bool,
    measured: Measured,
    capacity: usize,
}

impl Tried {
    fn single(&self) -> Nanos {
        self.measured.spans.first().map_or(Nanos::MAX, |s| s.1)
    }

    fn beats(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.capacity as f64, other.capacity as f64);
        if mine > theirs * BETTER || theirs > mine * BETTER {
            return mine > theirs;
        }
        (self.single() as f64) * BETTER < other.single() as f64
    }
}

impl Tune {
    pub(super) fn run(self) -> Result<(), Failure> {
        let pipeline = self.file.load()?;
        let text = std::fs::read_to_string(&self.file.file).context("the pipeline file is gone")?;
        let mut document: DocumentMut = text.parse().context("the pipeline file")?;
        let mut words = String::new();
        let cores = graph_threads(&pipeline);
        let _ = writeln!(words, "measured on {} with the models of {}", count(cores, "core"), self.file.file.display());

        let feed = feed(&pipeline);
        let mut chosen: Vec<(&StageEntry, Tried)> = Vec::new();
        for entry in &pipeline.stages {
            if let Some(best) = choose(entry, &pipeline, &feed, cores, &mut words)? {
                write_setting(&mut document, entry, &best);
                chosen.push((entry, best));
            }
        }
        if chosen.is_empty() {
            return Err(Failure::wrong("no stage of this file runs a model on the picture: there is nothing to tune"));
        }
        let mut stages = Vec::new();
        for (entry, best) in chosen {
            stages.push(rungs_of(entry, &pipeline, best)?);
        }
        let mut names: Vec<String> = pipeline.rungs.iter().map(|r| r.name.to_string()).collect();
        let streams = pipeline.sources.iter().filter(|s| s.deadline.is_some()).count();
        let mut capacities = capacities(&stages, &feed, names.len());
        if streams > 0 {
            let declared = document.contains_key("rung");
            if !declared && capacities[0] < streams {
                add_ladder(&mut document, &pipeline, &mut stages, &feed, streams, &mut names, &mut capacities);
            }
            judge(&names, &capacities, streams, pipeline.fps, declared, &pipeline, &mut words);
        }
        write_costs(&mut document, &stages, &names);
        let tuned = document.to_string();
        // What is written here must be what `run` reads.
        config::read_bytes(&self.file.file, tuned.as_bytes(), &[], &|name| std::env::var(name).ok())
            .map_err(|e| Failure::new(Code::Other, anyhow::anyhow!("the tuned file does not check:\n{e}")))?;
        match &self.output {
            Some(path) => {
                std::fs::write(path, tuned).with_context(|| format!("cannot write {}", path.display()))?;
                let _ = writeln!(words, "written to {}", path.display());
                super::print(&words)
            }
            None => {
                super::complain(&words);
                super::print(&tuned)
            }
        }
    }
}

fn graph_threads(pipeline: &Pipeline) -> usize {
    if pipeline.cpus.is_empty() {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        pipeline.cpus.len()
    }
}

/// A stream like those of the file.
fn feed(pipeline: &Pipeline) -> Feed {
    let deadline = pipeline.sources.iter().filter_map(|s| s.deadline).min().unwrap_or(Duration::from_secs(1));
    Feed::steady(pipeline.fps, deadline.as_nanos() as Nanos)
}

fn context(pipeline: &Pipeline, entry: &StageEntry) -> BuildContext {
    BuildContext {
        id: entry.id.clone(),
        search: pipeline.search.clone(),
        fps: pipeline.fps,
        live: pipeline.sources.iter().any(|s| s.deadline.is_some()),
        threads: graph_threads(pipeline),
    }
}

/// A stage's configuration with some keys changed.
fn with(entry: &StageEntry, own: &toml::Table, keys: &toml::Table) -> Result<Box<dyn StageConfig>, Failure> {
    let mut table = own.clone();
    table.extend(keys.clone());
    framegate::stage::from_toml(entry.kind, &table.to_string()).map_err(|e| Failure::new(Code::Other, e))
}

/// Tries a stage's settings and says in words what came of it; `None` for a stage that runs on no device.
fn choose(
    entry: &StageEntry,
    pipeline: &Pipeline,
    feed: &Feed,
    cores: usize,
    words: &mut String,
) -> Result<Option<Tried>, Failure> {
    let unusable =
        |e: framegate::stage::StageError| Failure::new(Code::Unusable, anyhow::anyhow!("stage `{}`: {e}", entry.id));
    if !["detect", "tensor"].contains(&entry.kind) {
        return Ok(None);
    }
    let _ = writeln!(words, "\nstage `{}`:", entry.id);
    let asked = entry.settings.get("device").and_then(toml::Value::as_str).unwrap_or("auto");
    let devices: Vec<&str> =
        if asked == "auto" { vec!["tensorrt:0", "cuda:0", "openvino", "cpu"] } else { vec![asked] };
    let mut best: Option<Tried> = None;
    let mut missing = Vec::new();
    for device in devices {
        let on_cores = ["cpu", "openvino"].contains(&device);
        let shapes: Vec<(usize, usize)> = if on_cores { shapes(cores) } else { vec![(1, 1), (1, 2)] };
        for (threads, slots) in shapes {
            let mut keys = toml::Table::new();
            keys.insert("device".into(), device.into());
            keys.insert("threads".into(), (threads as i64).into());
            keys.insert("slots".into(), (slots as i64).into());
            let batch: toml::Table = [("max".to_owned(), toml::Value::Integer(8))].into_iter().collect();
            keys.insert("batch".into(), batch.into());
            let config = with(entry, &entry.settings, &keys)?;
            let measured = match measure::stage(&*config, &context(pipeline, entry), PATIENCE) {
                Ok(Some(measured)) => measured,
                Ok(None) => return Ok(None),
                Err(error) if asked == "auto" && device != "cpu" => {
                    missing.push(format!("{device} ({error})"));
                    break;
                }
                Err(error) => return Err(unusable(error)),
            };
            let site = alone(&measured);
            let tried = Tried {
                device: device.to_owned(),
                threads,
                slots,
                on_cores,
                capacity: admission::capacity(&[site], slots, feed, 0),
                measured,
            };
            let spans: Vec<_> =
                tried.measured.spans.iter().map(|(n, t)| format!("{n}: {:.2} ms", clock::millis(*t))).collect();
            let _ = writeln!(
                words,
                "  {device:8} {threads} thread(s), {slots} session(s): batches {}; {} streams",
                spans.join(", "),
                tried.capacity
            );
            if best.as_ref().is_none_or(|b| tried.beats(b)) {
                best = Some(tried);
            }
        }
    }
    if !missing.is_empty() {
        let _ = writeln!(words, "  not there: {}", missing.join("; "));
    }
    let Some(mut best) = best else { return Ok(None) };
    smallest_batches(&mut best, feed);
    let _ = writeln!(
        words,
        "  chosen: {} with {} and {}, batches of up to {}",
        best.device,
        count(best.threads, "thread"),
        count(best.slots, "session"),
        best.measured.spans.last().map_or(1, |s| s.0)
    );
    Ok(Some(best))
}

/// Threads of a session and sessions: all cores in one, spread over several, and one that leaves cores to others.
fn shapes(cores: usize) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut threads = cores.max(1);
    loop {
        out.push((threads, 1));
        if cores / threads > 1 {
            out.push((threads, cores / threads));
        }
        if threads == 1 {
            return out;
        }
        threads /= 2;
    }
}

/// One stage alone on its device.
fn alone(measured: &Measured) -> Site {
    let rungs = vec![RungPlan { variant: Some(0), every: 1 }];
    MeasuredStage { id: "".into(), ways: vec![measured.clone()], rungs, crops: measured.crops }.site()
}

/// Leaves out the batches that do not serve more streams: each size costs memory.
fn smallest_batches(best: &mut Tried, feed: &Feed) {
    while best.measured.spans.len() > 1 {
        let mut smaller = best.measured.clone();
        smaller.spans.pop();
        if (admission::capacity(&[alone(&smaller)], best.slots, feed, 0) as f64) * BETTER < best.capacity as f64 {
            return;
        }
        best.measured = smaller;
    }
}

/// Measures the ways in which the file's rungs run a stage, with the chosen setting.
fn rungs_of(entry: &StageEntry, pipeline: &Pipeline, best: Tried) -> Result<MeasuredStage, Failure> {
    let keys = setting(&best);
    let sizes = best.measured.spans.len();
    let (mut ways, mut rungs): (Vec<(usize, Measured)>, Vec<RungPlan>) = (vec![(0, best.measured)], Vec::new());
    for (n, rung) in pipeline.rungs.iter().enumerate() {
        let at = entry.at(n);
        let Some(way) = at.variant else {
            rungs.push(RungPlan { variant: None, every: at.every });
            continue;
        };
        let place = match ways.iter().position(|(w, _)| *w == way) {
            Some(place) => place,
            None => {
                let mut own = entry.settings.clone();
                if let Some((_, changes)) = rung.overrides.iter().find(|(id, _)| *id == entry.id) {
                    own.extend(changes.clone().into_iter().filter(|(k, _)| k != "every" && k != "enabled"));
                }
                let config = with(entry, &own, &keys)?;
                let measured = measure::stage(&*config, &context(pipeline, entry), PATIENCE)
                    .map_err(|e| Failure::new(Code::Unusable, anyhow::anyhow!("stage `{}`: {e}", entry.id)))?;
                let Some(mut measured) = measured else { continue };
                measured.spans.truncate(sizes.max(1));
                ways.push((way, measured));
                ways.len() - 1
            }
        };
        rungs.push(RungPlan { variant: Some(place), every: at.every });
    }
    let ways: Vec<Measured> = ways.into_iter().map(|(_, m)| m).collect();
    let crops = ways.iter().filter_map(|w| w.crops).max();
    Ok(MeasuredStage { id: entry.id.clone(), ways, rungs, crops })
}

/// How many streams fit at each rung, all stages together.
fn capacities(stages: &[MeasuredStage], feed: &Feed, rungs: usize) -> Vec<usize> {
    let devices = measure::devices(stages);
    (0..rungs.max(1))
        .map(|rung| {
            let of = |nodes: &Vec<usize>| {
                let sites: Vec<Site> = nodes.iter().map(|&n| stages[n].site()).collect();
                let slots = nodes.iter().filter_map(|&n| stages[n].ways.first()).map(|w| w.slots).max().unwrap_or(1);
                let feed = Feed { branches: vec![(0..sites.len()).collect()], ..feed.clone() };
                admission::capacity(&sites, slots, &feed, rung)
            };
            devices.iter().map(of).min().unwrap_or(0)
        })
        .collect()
}

/// Adds rungs on which fewer frames are inferred, until the streams fit: a tracker carries the others.
fn add_ladder(
    document: &mut DocumentMut,
    pipeline: &Pipeline,
    stages: &mut [MeasuredStage],
    feed: &Feed,
    streams: usize,
    names: &mut Vec<String>,
    capacities: &mut Vec<usize>,
) {
    if capacities[0] == 0 || !pipeline.stages.iter().any(|s| s.kind == "track") {
        return;
    }
    let mut tables = ArrayOfTables::new();
    let mut best = Table::new();
    best.insert("name", "full".into());
    tables.push(best);
    for every in 2..=SPARSEST {
        for stage in stages.iter_mut() {
            stage.rungs.push(RungPlan { every, ..stage.rungs[0] });
        }
        names.push(format!("every-{every}"));
        *capacities = self::capacities(stages, feed, names.len());
        let mut table = Table::new();
        table.insert("name", format!("every-{every}").into());
        for stage in stages.iter() {
            let mut keys = Table::new();
            keys.set_dotted(true);
            keys.insert("every", i64::from(every).into());
            table.insert(&stage.id, Item::Table(keys));
        }
        tables.push(table);
        if capacities.last().is_some_and(|&n| n >= streams) {
            break;
        }
    }
    document.insert("rung", Item::ArrayOfTables(tables));
}

/// Says in plain words what fits.
fn judge(
    names: &[String],
    capacities: &[usize],
    streams: usize,
    fps: f64,
    declared: bool,
    pipeline: &Pipeline,
    words: &mut String,
) {
    let _ = writeln!(words, "\nstreams of {fps} frames per second that this machine serves:");
    for (name, n) in names.iter().zip(capacities) {
        let _ = writeln!(words, "  {name:12} {n}");
    }
    let fits = capacities.iter().position(|&n| n >= streams);
    let streams = count(streams, "stream");
    let _ = match fits {
        Some(0) => writeln!(words, "the file's {streams} fit at the best quality"),
        Some(rung) => writeln!(words, "the file's {streams} fit at rung `{}` and below it, not above", names[rung]),
        None if capacities[0] == 0 => writeln!(
            words,
            "this machine cannot do it: not even one stream is on time within {:.0} ms; take a smaller model or a longer \
             deadline",
            pipeline.sources.iter().filter_map(|s| s.deadline).min().unwrap_or_default().as_secs_f64() * 1e3
        ),
        None => writeln!(
            words,
            "this machine cannot serve the file's {streams}: {}",
            match (declared, pipeline.stages.iter().any(|s| s.kind == "track")) {
                (true, _) => "add a rung with a smaller model or fewer inferred frames (`every`)",
                (false, true) => "even with the sparsest rung; take a smaller model",
                (false, false) =>
                    "without a tracker every frame must be inferred; add a `track` stage or take a smaller model",
            }
        ),
    };
}

/// The keys of a chosen setting.
fn setting(best: &Tried) -> toml::Table {
    let mut keys = toml::Table::new();
    keys.insert("device".into(), best.device.as_str().into());
    if best.on_cores {
        keys.insert("threads".into(), (best.threads as i64).into());
    }
    keys.insert("slots".into(), (best.slots as i64).into());
    let most = best.measured.spans.last().map_or(1, |s| s.0) as i64;
    let batch: toml::Table = [("max".to_owned(), toml::Value::Integer(most))].into_iter().collect();
    keys.insert("batch".into(), batch.into());
    keys
}

fn write_setting(document: &mut DocumentMut, entry: &StageEntry, best: &Tried) {
    let Some(table) = document.get_mut("stage").and_then(|s| s.get_mut(&*entry.id)).and_then(Item::as_table_like_mut)
    else {
        return;
    };
    for (key, value) in setting(best) {
        let value = match value {
            toml::Value::Integer(n) => Value::from(n),
            toml::Value::String(s) => Value::from(s),
            _ => {
                let mut batch = InlineTable::new();
                batch.insert("max", Value::from(best.measured.spans.last().map_or(1, |s| s.0) as i64));
                Value::from(batch)
            }
        };
        table.insert(&key, Item::Value(value));
    }
}

fn time(t: Nanos) -> String {
    format!("{:.3}ms", clock::millis(t))
}

/// Writes what was measured, for `framegate simulate`.
fn write_costs(document: &mut DocumentMut, stages: &[MeasuredStage], names: &[String]) {
    let mut tables = ArrayOfTables::new();
    for stage in stages {
        let mut written: Vec<usize> = Vec::new();
        for (rung, name) in names.iter().enumerate() {
            let Some(way) = stage.rungs.get(rung).and_then(|r| r.variant) else { continue };
            // One entry serves all rungs that run the stage in the same way; several ways are told apart by their rung.
            if stage.ways.len() == 1 && written.contains(&way) {
                continue;
            }
            written.push(way);
            let m = &stage.ways[way];
            let mut table = Table::new();
            table.insert("stage", (&*stage.id).into());
            if stage.ways.len() > 1 {
                table.insert("rung", name.as_str().into());
            }
            table.insert("device", m.device.as_str().into());
            table.insert("slots", (m.slots as i64).into());
            let batches: Array = m
                .spans
                .iter()
                .map(|&(n, t)| {
                    let mut pair = Array::new();
                    pair.push(n as i64);
                    pair.push(time(t));
                    Value::Array(pair)
                })
                .collect();
            table.insert("batches", Item::Value(batches.into()));
            table.insert("prepare", time(m.prepare).into());
            table.insert("tail", time(m.finish).into());
            tables.push(table);
        }
    }
    document.insert("cost", Item::ArrayOfTables(tables));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_given_to_one_session_or_spread_over_several() {
        assert_eq!(shapes(1), [(1, 1)]);
        assert_eq!(shapes(2), [(2, 1), (1, 1), (1, 2)]);
        assert_eq!(shapes(4), [(4, 1), (2, 1), (2, 2), (1, 1), (1, 4)]);
    }
}

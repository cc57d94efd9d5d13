//! `framegate tune`: measures this machine with a pipeline's own models, and writes the file that suits it.
//!
//! `settings` finds the fastest setting of each stage, `ladder` the rungs that the streams need, `agreement` says what
//! either does to the results, `write` puts it all into the user's file.

mod agreement;
mod ladder;
mod settings;
mod write;

use super::{Code, Failure, PipelineFile, count};
use agreement::Pictures;
use anyhow::Context;
use framegate::config::{self, Admission, Pipeline, StageEntry};
use framegate::engine::measure::{self, Measured, MeasuredStage};
use framegate::frame::{Annotations, Nanos};
use framegate::schedule::sim::Feed;
use framegate::schedule::{RungPlan, Site, admission};
use framegate::stage::{BuildContext, PictureUse, StageConfig, StageError};
use ladder::{Inputs, Step};
use settings::Tried;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use toml_edit::DocumentMut;

/// How long one way of running a model is measured.
const PATIENCE: Duration = Duration::from_millis(1200);
/// A setting must serve so many times the streams of another, or be so many times as quick, to be preferred to it.
const BETTER: f64 = 1.05;

/// Arguments of `tune`.
#[derive(clap::Args)]
pub struct Tune {
    #[command(flatten)]
    file: PipelineFile,
    /// Write the tuned file here; without it, to standard output
    #[arg(short, long, value_name = "TUNED.toml")]
    output: Option<PathBuf>,
    /// Compare results of precisions and input sizes on the pictures in this folder; without it, on drawn scenes
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
}

/// What all measuring needs to know.
struct Bench<'p> {
    pipeline: &'p Pipeline,
    /// A stream like those of the file.
    feed: Feed,
    cores: usize,
    pictures: Pictures,
}

impl Bench<'_> {
    fn context(&self, entry: &StageEntry) -> BuildContext {
        BuildContext {
            id: entry.id.clone(),
            search: self.pipeline.search.clone(),
            fps: self.pipeline.fps,
            live: self.pipeline.sources.iter().any(|s| s.deadline.is_some()),
            threads: self.cores,
            ..BuildContext::default()
        }
    }

    /// Measures a stage with these settings, some keys changed.
    fn measure(
        &self,
        entry: &StageEntry,
        settings: &toml::Table,
        keys: &toml::Table,
    ) -> Result<Option<Measured>, StageError> {
        measure::stage(&*with(entry, settings, keys)?, &self.context(entry), PATIENCE)
    }

    /// What a stage with these settings, some keys changed, writes on the pictures.
    fn results(
        &self,
        entry: &StageEntry,
        settings: &toml::Table,
        keys: &toml::Table,
    ) -> Result<Vec<Annotations>, StageError> {
        agreement::results(&*with(entry, settings, keys)?, &self.context(entry), &self.pictures)
    }

    fn picture_use(&self, entry: &StageEntry, settings: &toml::Table) -> Result<Option<PictureUse>, Failure> {
        let config = with(entry, settings, &toml::Table::new());
        config.and_then(|c| c.picture_use(&self.context(entry))).map_err(|e| unusable(entry, &e))
    }

    /// The settings with which the stage and the file's rungs run it, each once, with the rung that made them.
    fn ways(&self, entry: &StageEntry) -> Vec<(Option<Arc<str>>, toml::Table)> {
        let mut out = vec![(None, entry.settings.clone())];
        for n in 0..self.pipeline.rungs.len() {
            let settings = self.settings_at(entry, n);
            if !out.iter().any(|(_, known)| *known == settings) {
                out.push((Some(self.pipeline.rungs[n].name.clone()), settings));
            }
        }
        out
    }

    /// A stage's settings at one of the file's rungs.
    fn settings_at(&self, entry: &StageEntry, rung: usize) -> toml::Table {
        let mut settings = entry.settings.clone();
        let rung = self.pipeline.rungs.get(rung);
        if let Some((_, changes)) = rung.and_then(|r| r.overrides.iter().find(|(id, _)| *id == entry.id)) {
            settings.extend(changes.clone().into_iter().filter(|(k, _)| k != "every" && k != "enabled"));
        }
        settings
    }

    /// Width and height of the streams' pictures, as far as the file says.
    fn picture_size(&self) -> (u32, u32) {
        let sizes = self.pipeline.sources.iter().filter_map(|s| s.config.width.zip(s.config.height));
        sizes.max_by_key(|(w, h)| u64::from(*w) * u64::from(*h)).unwrap_or((1280, 720))
    }

    fn tracker(&self) -> bool {
        self.pipeline.stages.iter().any(|s| s.kind == "track")
    }

    /// How many streams fit at each rung, all stages together.
    fn capacities(&self, stages: &[MeasuredStage], rungs: usize) -> Vec<usize> {
        let devices = measure::devices(stages);
        (0..rungs.max(1))
            .map(|rung| {
                let of = |nodes: &Vec<usize>| {
                    let sites: Vec<Site> = nodes.iter().map(|&n| stages[n].site()).collect();
                    let slots =
                        nodes.iter().filter_map(|&n| stages[n].ways.first()).map(|w| w.slots).max().unwrap_or(1);
                    let feed = Feed { branches: vec![(0..sites.len()).collect()], ..self.feed.clone() };
                    admission::capacity(&sites, slots, &feed, rung)
                };
                devices.iter().map(of).min().unwrap_or(0)
            })
            .collect()
    }
}

/// A stage's configuration with some keys changed.
fn with(entry: &StageEntry, own: &toml::Table, keys: &toml::Table) -> Result<Box<dyn StageConfig>, StageError> {
    let mut table = own.clone();
    table.extend(keys.clone());
    framegate::stage::from_toml(entry.kind, &table.to_string())
}

fn unusable(entry: &StageEntry, error: &StageError) -> Failure {
    Failure::new(Code::Unusable, anyhow::anyhow!("stage `{}`: {error}", entry.id))
}

/// One stage alone on its device.
fn alone(measured: &Measured) -> Site {
    let rungs = vec![RungPlan { variant: Some(0), every: 1 }];
    MeasuredStage { id: "".into(), ways: vec![measured.clone()], rungs, crops: measured.crops }.site()
}

impl Tune {
    pub(super) fn run(self) -> Result<(), Failure> {
        let pictures = Pictures::of(self.pictures.as_deref())?;
        let pipeline = self.file.load()?;
        let text = std::fs::read_to_string(&self.file.file).context("the pipeline file is gone")?;
        let mut document: DocumentMut = text.parse().context("the pipeline file")?;
        let bench = Bench { feed: feed(&pipeline), cores: cores(&pipeline), pipeline: &pipeline, pictures };
        let streams = pipeline.sources.iter().filter(|s| s.deadline.is_some()).count();
        // A ladder of the user's stays as it is.
        let declared = document.contains_key("rung");
        let mut words = String::new();
        let file = self.file.file.display();
        let _ = writeln!(words, "measured on {} with the models of {file}", count(bench.cores, "core"));

        let (mut stages, mut inputs) = (Vec::new(), Vec::new());
        for entry in &pipeline.stages {
            let Some(best) = settings::choose(entry, &bench, &mut words)? else { continue };
            write::setting(&mut document, entry, &best);
            inputs.push(match declared || streams == 0 {
                true => Inputs::Shape,
                false if best.measured.crops.is_some() => Inputs::Shape,
                false => ladder::smaller_inputs(entry, &bench, &best, &mut words)?,
            });
            stages.push((entry, best));
        }
        if stages.is_empty() {
            return Err(Failure::wrong("no stage of this file runs a model: there is nothing to tune"));
        }
        let mut stages: Vec<MeasuredStage> =
            stages.into_iter().map(|(entry, best)| at_rungs(entry, &bench, best)).collect::<Result<_, _>>()?;
        let mut names: Vec<String> = pipeline.rungs.iter().map(|r| r.name.to_string()).collect();
        if streams > 0 {
            let mut capacities = bench.capacities(&stages, names.len());
            let (mut made, mut degrades) = (false, false);
            if !declared && capacities[0] < streams {
                let capacity = |stages: &[MeasuredStage]| bench.capacities(stages, 1)[0];
                let steps = ladder::make(&mut stages, &inputs, bench.tracker(), streams, &capacity);
                made = steps.iter().any(|s| s.name != Step::FULL);
                if made {
                    write::ladder(&mut document, &stages, &inputs, &steps);
                    degrades = write::admission(&mut document);
                    names = steps.iter().map(|s| s.name.clone()).collect();
                    capacities = steps.iter().map(|s| s.capacity).collect();
                }
            }
            let verdict = Verdict { names: &names, capacities: &capacities, streams, declared, made, degrades };
            let fixed = stages.iter().zip(&inputs).filter_map(|(stage, inputs)| match inputs {
                Inputs::Fixed(w, h) => Some((&*stage.id, (*w, *h))),
                Inputs::Any(_) | Inputs::Shape => None,
            });
            judge(&verdict, &bench, &fixed.collect::<Vec<_>>(), &mut words);
        }
        write::costs(&mut document, &stages, &names);
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

/// Cores that inference may use.
fn cores(pipeline: &Pipeline) -> usize {
    if pipeline.cpus.is_empty() {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        pipeline.cpus.len()
    }
}

/// A stream like those of the file.
fn feed(pipeline: &Pipeline) -> Feed {
    let deadline = shortest_deadline(pipeline).unwrap_or(Duration::from_secs(1));
    Feed::steady(pipeline.fps, deadline.as_nanos() as Nanos)
}

fn shortest_deadline(pipeline: &Pipeline) -> Option<Duration> {
    pipeline.sources.iter().filter_map(|s| s.deadline).min()
}

/// Measures the ways in which the file's rungs run a stage, with the chosen setting.
fn at_rungs(entry: &StageEntry, bench: &Bench<'_>, best: Tried) -> Result<MeasuredStage, Failure> {
    let keys = best.keys();
    let sizes = best.measured.spans.len();
    let (mut ways, mut rungs): (Vec<(usize, Measured)>, Vec<RungPlan>) = (vec![(0, best.measured)], Vec::new());
    for n in 0..bench.pipeline.rungs.len() {
        let at = entry.at(n);
        let Some(way) = at.variant else {
            rungs.push(RungPlan { variant: None, every: at.every });
            continue;
        };
        let place = match ways.iter().position(|(w, _)| *w == way) {
            Some(place) => place,
            None => {
                let measured = bench.measure(entry, &bench.settings_at(entry, n), &keys);
                let Some(mut measured) = measured.map_err(|e| unusable(entry, &e))? else { continue };
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

/// What fits.
struct Verdict<'a> {
    names: &'a [String],
    /// Streams at each rung.
    capacities: &'a [usize],
    /// Streams that the file has.
    streams: usize,
    /// The file has a ladder of its own.
    declared: bool,
    /// It gets one.
    made: bool,
    /// With it comes `admission = "degrade"`.
    degrades: bool,
}

/// Says in plain words what fits and what does not. `fixed` are the stages whose models take one input size.
fn judge(verdict: &Verdict<'_>, bench: &Bench<'_>, fixed: &[(&str, (usize, usize))], words: &mut String) {
    let Verdict { names, capacities, streams, declared, made, degrades } = *verdict;
    let pipeline = bench.pipeline;
    let _ = writeln!(words, "\nstreams of {} frames per second that this machine serves:", pipeline.fps);
    for (name, n) in names.iter().zip(capacities) {
        let _ = writeln!(words, "  {name:12} {n}");
    }
    let within = humantime::format_duration(shortest_deadline(pipeline).unwrap_or_default());
    let (best, most) = (capacities.first().copied().unwrap_or(0), capacities.iter().copied().max().unwrap_or(0));
    let wanted = count(streams, "stream");
    if made && names.first().is_some_and(|n| n != Step::FULL) {
        let _ = writeln!(
            words,
            "at the models' own input size not even one stream is on time within {within}: the ladder begins below it"
        );
    }
    let _ = match capacities.iter().position(|&n| n >= streams) {
        Some(0) if !made => writeln!(words, "the file's {wanted} fit at the best quality"),
        Some(rung) => writeln!(words, "the file's {wanted} fit at rung `{}` and below it, not above", names[rung]),
        None if most == 0 => writeln!(
            words,
            "this machine cannot do it: not even one stream is on time within {within}; take a smaller model or a \
             longer deadline"
        ),
        None => writeln!(
            words,
            "this machine cannot serve the file's {wanted}, {most} at most: {}",
            match (declared, bench.tracker()) {
                (true, _) => "add a rung with a smaller model or input, or with fewer inferred frames (`every`)",
                (false, true) =>
                    "even the lowest rung is not enough; take a smaller model, or cameras with fewer frames per second",
                (false, false) =>
                    "without a tracker every frame must be inferred; add a `track` stage or take a smaller model",
            }
        ),
    };
    if best >= streams {
        return;
    }
    if !declared {
        for (id, (w, h)) in fixed {
            let _ = writeln!(
                words,
                "the model of stage `{id}` takes pictures of {w}x{h} only: a smaller input needs a model file of its own, \
                 which a rung can name (`{id}.model`)"
            );
        }
    }
    if most > best && pipeline.admission == Admission::Refuse {
        let _ = if degrades {
            writeln!(words, "written with `admission = \"degrade\"`: quality gives way where streams would be refused")
        } else {
            writeln!(
                words,
                "with `admission = \"refuse\"` only {} served, those that fit at the best rung; \"degrade\" lets quality \
                 give way instead",
                if best == 1 { "1 stream is".to_owned() } else { format!("{best} streams are") }
            )
        };
    }
}

//! `framegate simulate`: what a pipeline would do on this machine, without running it.

use super::{Code, Failure, complain, count, parse_set, print, run::parse_report, show, wrong};
use anyhow::Context;
use framegate::config::{self, Pipeline, Time};
use framegate::frame::Nanos;
use framegate::schedule::Policy;
use framegate::schedule::trace::{self, Recording, TraceError};
use framegate::simulate::{
    self, Ask, CostError, CostFlag, Costs, Model, RecordedCosts, Run, Told, disturbances, print_runs, print_sweep,
    verdict,
};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Streams that are simulated at most.
const MOST: usize = 1024;

/// Arguments of `simulate`.
#[derive(clap::Args)]
pub struct Simulate {
    /// The pipeline file
    #[arg(value_name = "FILE.toml", required_unless_present = "replay")]
    file: Option<PathBuf>,
    /// Change a key of the file, as in `run`; such as simulate.burst=3
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
    /// So many streams: the file's sources in turn; 1..20 tries every number and marks the knee
    #[arg(long, value_name = "N|N..M", value_parser = parse_streams)]
    streams: Option<Streams>,
    /// So many times the load that fits at the best rung, such as 2; rates and the number of streams follow from it
    #[arg(long, value_name = "X", value_parser = parse_load)]
    load: Option<f64>,
    /// Frames arrive for this time, such as 60s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_length)]
    length: Option<Nanos>,
    /// All that is random follows from it: the same seed gives the same result, to the byte
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Who decides: framegate, fifo, drop-oldest, drop-newest, edf; several with commas between, or all
    #[arg(long, value_name = "NAME", value_parser = parse_policies)]
    policy: Option<Policies>,
    /// Make the recorded decisions again and compare each; with --policy, try policies on what was recorded
    #[arg(long, value_name = "TRACE.jsonl", conflicts_with_all = ["streams", "load", "length", "seed"])]
    replay: Option<PathBuf>,
    /// Write the run report: OUT.json or OUT.html
    #[arg(long, value_name = "OUT", value_parser = parse_report)]
    report: Option<PathBuf>,
    /// What a stage costs: a batch's fixed part and each frame's, such as detect=4ms+1.2ms or detect@lean=2ms
    #[arg(long, value_name = "STAGE[@RUNG]=ALPHA+BETA")]
    cost: Vec<CostFlag>,
    /// Take costs and arrivals from the report of a run
    #[arg(long, value_name = "REPORT.json")]
    costs: Option<PathBuf>,
    /// Frames arrive late by up to this
    #[arg(long, value_name = "DURATION")]
    jitter: Option<Time>,
    /// A stream pauses about so often for 400 to 500 ms, then all of it comes at once, as with large keyframes
    #[arg(long, value_name = "EVERY")]
    pause: Option<Time>,
    /// A stream is gone about so often for 2 to 4 s
    #[arg(long, value_name = "EVERY")]
    stall: Option<Time>,
    /// The device is so many times slower for 2 to 4 s, about every 10 s
    #[arg(long, value_name = "FACTOR")]
    slowdown: Option<f64>,
}

/// One number of streams, or several.
#[derive(Debug, Clone, PartialEq)]
enum Streams {
    One(usize),
    Each(RangeInclusive<usize>),
}

/// Who decides, in the order asked for. (A type of its own: clap takes a bare `Vec` for an argument given again.)
#[derive(Debug, Clone, PartialEq)]
struct Policies(Vec<Policy>);

fn parse_streams(text: &str) -> Result<Streams, String> {
    let number = |t: &str| t.trim().parse::<usize>().ok().filter(|n| (1..=MOST).contains(n));
    let streams = match text.split_once("..") {
        Some((a, b)) => match (number(a), number(b.trim_start_matches('='))) {
            (Some(a), Some(b)) if a <= b => Some(Streams::Each(a..=b)),
            _ => None,
        },
        None => number(text).map(Streams::One),
    };
    streams.ok_or_else(|| format!("write a number from 1 to {MOST}, or two such as 1..20"))
}

fn parse_load(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.01..=100.0).contains(&x) => Ok(x),
        _ => Err("write a number from 0.01 to 100: 2 is twice what fits".into()),
    }
}

fn parse_length(text: &str) -> Result<Nanos, String> {
    match text.parse::<Time>()?.0 {
        time if time < Duration::from_millis(100) => Err("a simulation lasts at least 100 ms".into()),
        time => Ok(time.as_nanos() as Nanos),
    }
}

fn parse_policies(text: &str) -> Result<Policies, String> {
    if text == "all" {
        return Ok(Policies(Policy::ALL.to_vec()));
    }
    let mut out = Vec::new();
    for name in text.split(',').map(str::trim) {
        let known = Policy::ALL.into_iter().find(|p| p.name() == name);
        let policy = known.ok_or_else(|| {
            format!("there is no policy `{name}`; there is: {}, all", Policy::ALL.map(Policy::name).join(", "))
        })?;
        if !out.contains(&policy) {
            out.push(policy);
        }
    }
    Ok(Policies(out))
}

impl From<CostError> for Failure {
    fn from(error: CostError) -> Self {
        match error {
            CostError::Wrong(what) => Self::wrong(what),
            CostError::Unmeasured(error) => error.into(),
        }
    }
}

impl From<TraceError> for Failure {
    fn from(error: TraceError) -> Self {
        let code = if matches!(error, TraceError::Form { .. }) { Code::Wrong } else { Code::Other };
        Self::new(code, error)
    }
}

impl Simulate {
    pub(super) fn run(self) -> Result<(), Failure> {
        super::run::check_folder("--report", self.report.as_deref())?;
        let pipeline = self.file.as_deref().map(|file| self.load(file)).transpose()?;
        match (&self.replay, &pipeline) {
            (Some(trace), _) => self.replay(trace, pipeline.as_ref()),
            (None, Some(pipeline)) => self.simulate(pipeline),
            (None, None) => Err(Failure::wrong("name a pipeline file, or a trace with --replay")),
        }
    }

    /// Reads the file, with the flags laid on it.
    fn load(&self, file: &Path) -> Result<Pipeline, Failure> {
        let mut set = self.set.clone();
        let mut flag = |key: &str, value: Option<String>| {
            set.extend(value.map(|v| (format!("simulate.{key}"), v)));
        };
        let time = |t: Time| format!("\"{}ns\"", t.0.as_nanos());
        flag("jitter", self.jitter.map(time));
        flag("pause", self.pause.map(|t| format!("{{ every = {} }}", time(t))));
        flag("stall", self.stall.map(|t| format!("{{ every = {} }}", time(t))));
        flag("slowdown", self.slowdown.map(|f| format!("{{ factor = {f:?} }}")));
        match config::load(file, &set) {
            Ok((pipeline, warnings)) => {
                show(&warnings);
                Ok(pipeline)
            }
            Err(diagnostics) => {
                show(&diagnostics);
                Err(Failure::quiet(wrong(&diagnostics)))
            }
        }
    }

    fn simulate(&self, pipeline: &Pipeline) -> Result<(), Failure> {
        let recorded = self.costs.as_deref().map(RecordedCosts::read).transpose()?;
        let told = Told { flags: &self.cost, recorded: recorded.as_ref() };
        let costs = Costs::find(pipeline, &told, |stages| {
            complain(&format!("nobody has said what {stages} costs: measuring it now, with the models\n"));
        })?;
        let mut model = Model::new(pipeline, &costs)?;
        let capacity = simulate::capacity(&model);
        let policies = self.policies(pipeline.policy);
        let mut ask = Ask { ..model.ask(policies[0]) };
        ask.seed = self.seed.unwrap_or(ask.seed);
        ask.length = self.length.unwrap_or(ask.length);
        let mut sweep = None;
        match &self.streams {
            Some(Streams::One(n)) => ask.streams = *n,
            Some(Streams::Each(range)) => sweep = Some(range.clone()),
            None => {}
        }
        if let Some(x) = self.load {
            if sweep.is_some() {
                return Err(Failure::wrong("--load takes one number of streams, not several"));
            }
            let streams = self.streams.as_ref().map(|_| ask.streams);
            let (n, rate) = simulate::load(&model, x, streams).ok_or_else(|| {
                Failure::wrong("--load: not even one slow stream fits on this machine, so there is no load to multiply")
            })?;
            (ask.streams, ask.rate) = (n, rate);
        }
        // Admission would hide what is asked for here.
        ask.admission = sweep.is_none() && self.load.is_none();
        if !ask.admission && pipeline.admission != config::Admission::Off {
            model.notes.push("every stream is taken here, whatever `admission` says".into());
        }

        let range = sweep.clone().unwrap_or(ask.streams..=ask.streams);
        let runs = simulate::sweep(&model, &ask, &policies, range);
        if sweep.is_some() {
            ask.streams = simulate::knee(&runs).unwrap_or_else(|| runs.first().map_or(1, |r| r.streams));
        }
        let (scenario, outcomes) = simulate::run(&model, &ask);
        let mut text = head(&model, &ask, sweep.as_ref(), &costs);
        text.push_str(&match sweep {
            Some(_) => print_sweep(&model, &runs),
            None => print_runs(&model, &ask, &outcomes, &runs),
        });
        let own = if sweep.is_some() { model.streams.len() } else { ask.streams };
        if self.load.is_none() {
            let _ = write!(text, "\n{}", verdict(&model, own, &capacity));
            if !scenario.refused.is_empty() {
                let refused = count(scenario.refused.len(), "stream");
                let _ = writeln!(text, "`run` refuses {refused} here: admission = \"refuse\".");
            }
        }
        print(&text)?;
        let run = Run { ask: &ask, scenario: &scenario, outcomes: &outcomes };
        self.write(&simulate::report(&model, &run, &costs.origins, &capacity, runs))
    }

    fn policies(&self, default: Policy) -> Vec<Policy> {
        self.policy.as_ref().map_or_else(|| vec![default], |p| p.0.clone())
    }

    fn write(&self, report: &framegate::telemetry::Report) -> Result<(), Failure> {
        match &self.report {
            Some(path) => Ok(report.write(path).context("the report is lost")?),
            None => Ok(()),
        }
    }

    fn replay(&self, path: &Path, pipeline: Option<&Pipeline>) -> Result<(), Failure> {
        if self.policy.is_none() {
            let done = about(path, trace::replay(lines(path)?))?;
            print(&format!(
                "as recorded: {} by {}, {} arrived\n",
                count(done.decisions as usize, "decision"),
                count(done.planners, "planner"),
                count(done.arrivals as usize, "frame")
            ))?;
            if self.report.is_none() {
                return Ok(());
            }
        }
        let recording = about(path, Recording::read(lines(path)?))?;
        if pipeline.is_some_and(|p| *p.name != *recording.header.pipeline) {
            complain(&format!("note: the trace is of pipeline `{}`\n", recording.header.pipeline));
        }
        let model = Model::recorded(&recording);
        if model.streams.is_empty() {
            return Err(Failure::wrong(format_args!("{}: no frame arrives in this trace", path.display())));
        }
        let policies = self.policies(recording.setup.policy);
        let ask = model.ask(policies[0]);
        let runs = simulate::sweep(&model, &ask, &policies, ask.streams..=ask.streams);
        let (scenario, outcomes) = simulate::run(&model, &ask);
        let costs = vec![format!("recorded in {}", path.display())];
        if self.policy.is_some() {
            let streams = count(ask.streams, "stream");
            let seconds = ask.length as f64 / 1e9;
            let mut text =
                format!("{}: {streams} for {seconds:.1} s, arrivals and batches as recorded\n\n", model.name);
            text.push_str(&print_runs(&model, &ask, &outcomes, &runs));
            print(&text)?;
        }
        let run = Run { ask: &ask, scenario: &scenario, outcomes: &outcomes };
        self.write(&simulate::report(&model, &run, &costs, &Vec::new(), runs))
    }
}

/// A trace's lines. One that cannot be read ends them, and then is missed.
fn lines(path: &Path) -> Result<impl Iterator<Item = String>, Failure> {
    let file = std::fs::File::open(path)
        .map_err(|e| Failure::wrong(format_args!("--replay: cannot read {}: {e}", path.display())))?;
    Ok(BufReader::new(file).lines().map(|line| line.unwrap_or_else(|e| format!("unreadable: {e}"))))
}

/// Says which file an error is about.
fn about<T>(path: &Path, result: Result<T, TraceError>) -> Result<T, Failure> {
    result.map_err(|error| {
        let Failure { code, error } = Failure::from(error);
        Failure { code, error: error.map(|e| e.context(path.display().to_string())) }
    })
}

/// What is simulated, in words.
fn head(model: &Model, ask: &Ask, sweep: Option<&RangeInclusive<usize>>, costs: &Costs) -> String {
    let mut text = String::new();
    let streams = match sweep {
        Some(range) => format!("{} to {} streams", range.start(), range.end()),
        None => count(ask.streams, "stream"),
    };
    let rate = if ask.rate == 1.0 { String::new() } else { format!(" at {:.3} times their rate", ask.rate) };
    let (seconds, seed) = (ask.length as f64 / 1e9, ask.seed);
    let _ = writeln!(text, "{}: {streams}{rate} for {seconds:.1} s of virtual time, seed {seed}", model.name);
    let _ = writeln!(text, "load:  {}", disturbances(model, ask));
    for stage in &costs.stages {
        for (n, way) in stage.ways.iter().enumerate() {
            let at = stage.rungs.iter().zip(&model.rungs).filter(|(r, _)| r.variant == Some(n));
            let at: Vec<&str> = at.map(|(_, name)| &**name).collect();
            let spans = way.spans.iter().map(|(b, t)| format!("{b}: {:.2}", *t as f64 / 1e6));
            let _ = writeln!(
                text,
                "costs: {} at {} on {}: batches {} ms, preprocess {:.2} ms, tail {:.2} ms",
                stage.id,
                at.join(", "),
                way.device,
                spans.collect::<Vec<_>>().join(", "),
                way.prepare as f64 / 1e6,
                way.finish as f64 / 1e6
            );
        }
    }
    let _ = writeln!(text, "       {}", costs.origins.join("; "));
    for note in &model.notes {
        let _ = writeln!(text, "note:  {note}");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_streams_are_one_or_a_range() {
        assert_eq!(parse_streams("12"), Ok(Streams::One(12)));
        assert_eq!(parse_streams("1..20"), Ok(Streams::Each(1..=20)));
        assert_eq!(parse_streams("1..=20"), Ok(Streams::Each(1..=20)));
        for bad in ["0", "20..1", "1..", "many", "2000"] {
            assert!(parse_streams(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_are_named_and_none_twice() {
        assert_eq!(parse_policies("fifo,framegate,fifo").unwrap().0, [Policy::Fifo, Policy::Framegate]);
        assert_eq!(parse_policies("all").unwrap().0.len(), 5);
        assert!(parse_policies("lifo").unwrap_err().contains("drop-oldest"));
    }
}

//! `framegate run`: runs a pipeline until it ends, is told to end, or its time is over.

use super::{Code, Failure, PipelineFile, show};
use anyhow::Context;
use framegate::config::{self, Pipeline};
use framegate::engine::{Engine, EngineError, State};
use framegate::frame::clock;
use framegate::http::{Api, Server};
use framegate::store::Archives;
use framegate::telemetry::{Health, Recorded, Recorder, Telemetry, Traced, Tracer, notify};
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the engine is looked after, and how long a signal may go unnoticed.
const TICK: Duration = Duration::from_millis(25);
/// For draining at the end: everything, the report too, is to be done within 2 s.
const GRACE: Duration = Duration::from_millis(1800);

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Run {
    #[command(flatten)]
    file: PipelineFile,
    /// End after this time, such as 20s or 5min; counted from when everything is ready
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    run_for: Option<Duration>,
    /// Write a report of the run at its end: OUT.json or OUT.html
    #[arg(long, value_name = "OUT", value_parser = parse_report)]
    report: Option<PathBuf>,
    /// Write every decision of the scheduler here, for `simulate --replay`
    #[arg(long, value_name = "TRACE.jsonl")]
    record: Option<PathBuf>,
    /// Write where some frames spend their time here, for Perfetto (ui.perfetto.dev) or chrome://tracing; 500 000
    /// events at most
    #[arg(long, value_name = "OUT.json")]
    trace: Option<PathBuf>,
    /// With --trace: so many frames of a stream, of which one is traced
    #[arg(long, value_name = "N", default_value_t = 7, requires = "trace", value_parser = clap::value_parser!(u64).range(1..))]
    trace_every: u64,
    /// Serve metrics and health here instead of where the file says, or not at all
    #[arg(long, value_name = "ADDR|off", value_parser = parse_http)]
    http: Option<Listen>,
}

/// Where to listen, `None` for nowhere. (A type of its own: clap takes a bare `Option` for an optional argument.)
#[derive(Clone, Copy)]
struct Listen(Option<SocketAddr>);

fn parse_http(text: &str) -> Result<Listen, String> {
    config::parse_listen(text).map(Listen)
}

pub(super) fn parse_report(text: &str) -> Result<PathBuf, String> {
    if text.ends_with(".json") || text.ends_with(".html") {
        Ok(text.into())
    } else {
        Err("a report is a .json or a .html file".into())
    }
}

/// Something that is written at the end needs its folder at the beginning.
pub(super) fn check_folder(flag: &str, path: Option<&Path>) -> Result<(), Failure> {
    match path.and_then(Path::parent).filter(|p| !p.as_os_str().is_empty() && !p.is_dir()) {
        Some(folder) => Err(Failure::wrong(format_args!("{flag}: there is no folder {}", folder.display()))),
        None => Ok(()),
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let code = if matches!(error, EngineError::Unusable(_)) { Code::Unusable } else { Code::Other };
        Self::new(code, error)
    }
}

/// What the process was told from outside.
struct Signals {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let (stop, reload) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for signal in [SIGTERM, SIGINT] {
            // The second one does not wait for draining.
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        signal_hook::flag::register(SIGHUP, Arc::clone(&reload))?;
        Ok(Self { stop, reload })
    }
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let signals = Signals::listen().context("cannot listen for signals")?;
        let pipeline = self.load()?;
        check_folder("--report", self.report.as_deref())?;
        check_folder("--record", self.record.as_deref())?;
        check_folder("--trace", self.trace.as_deref())?;

        let telemetry = Telemetry::new(Arc::clone(&pipeline.name));
        telemetry.start_sampler().context("cannot start the sampling thread")?;
        let recorder = match &self.record {
            Some(path) => {
                let cannot = || format!("--record: cannot write {}", path.display());
                let recorder = Arc::new(Recorder::create(path, &pipeline.name).with_context(cannot)?);
                telemetry.record(recorder.clone());
                Some(recorder)
            }
            None => None,
        };
        let tracer = match &self.trace {
            Some(path) => {
                let cannot = |e| Failure::wrong(format_args!("--trace: cannot write {}: {e}", path.display()));
                let tracer = Arc::new(Tracer::create(path, &telemetry, self.trace_every).map_err(cannot)?);
                telemetry.trace(tracer.clone());
                Some(tracer)
            }
            None => None,
        };
        let health = Arc::new(Health::default());
        let shown = Arc::new(Mutex::new(pipeline.to_json()));
        let archives: Arc<Mutex<Archives>> = Arc::default();
        let _server = serve(&pipeline, &telemetry, &health, &shown, &archives)?;

        tracing::info!(pipeline = &*pipeline.name, streams = pipeline.sources.len(), "starting");
        let mut engine = Engine::start(pipeline, Arc::clone(&telemetry), Arc::clone(&health))?;
        *archives.lock() = engine.archives();
        telemetry.note_library("gstreamer", &gstreamer_version());
        if let Some(runtime) = framegate::infer::runtime::loaded() {
            telemetry.note_library("onnxruntime", &runtime.version);
        }
        let watchdog = notify::Watchdog::start(Arc::clone(&health)).context("cannot start the watchdog thread")?;
        notify::ready(&status(engine.pipeline()));
        let begun = Instant::now();

        let result = loop {
            match engine.tick() {
                Ok(State::Running) => {}
                Ok(State::Finished) => break Ok(()),
                Err(error) => break Err(error),
            }
            if signals.stop.load(Relaxed) {
                tracing::info!("told to stop");
                break Ok(());
            }
            if self.run_for.is_some_and(|time| begun.elapsed() >= time) {
                break Ok(());
            }
            if signals.reload.swap(false, Relaxed) {
                self.reload(&mut engine, &telemetry, &shown);
                *archives.lock() = engine.archives();
            }
            std::thread::sleep(TICK);
        };

        telemetry.ended_at(clock::now());
        notify::stopping();
        engine.stop(GRACE);
        drop(watchdog);
        if let Some(recorder) = recorder {
            let Recorded { lines, lost } = recorder.finish().context("the recording is lost")?;
            if lost > 0 {
                tracing::warn!(lines, lost, "the disk did not keep up: the recording has holes");
            }
        }
        if let Some(tracer) = tracer {
            let Traced { frames, events, lost, full } = tracer.finish().context("the trace is lost")?;
            if full {
                tracing::warn!(frames, events, "the trace has all the events it may have: it ends before the run");
            } else if lost > 0 {
                tracing::warn!(frames, lost, "the disk did not keep up: frames are missing in the trace");
            }
        }
        if let Some(path) = &self.report {
            telemetry.report().write(path).context("the report is lost")?;
        }
        Ok(result?)
    }

    /// Reads the file, with the flags laid on it.
    fn load(&self) -> Result<Pipeline, Failure> {
        let mut pipeline = self.file.load()?;
        self.lay_on(&mut pipeline);
        Ok(pipeline)
    }

    fn lay_on(&self, pipeline: &mut Pipeline) {
        if let Some(Listen(http)) = self.http {
            pipeline.http = http;
        }
    }

    /// Reads the file again and runs it, if nothing is wrong with it; else the old one keeps running.
    fn reload(&self, engine: &mut Engine, telemetry: &Telemetry, shown: &Mutex<serde_json::Value>) {
        notify::reloading();
        let outcome = match config::load(&self.file.file, &self.file.set) {
            Ok((mut pipeline, warnings)) => {
                show(&warnings);
                self.lay_on(&mut pipeline);
                if pipeline.http != engine.pipeline().http {
                    tracing::warn!("[http] is only read at start: restart to listen elsewhere");
                }
                engine.reload(pipeline).map_err(|e| e.to_string())
            }
            Err(findings) => {
                show(&findings);
                Err(format!("the file has {}", super::count(findings.errors(), "error")))
            }
        };
        telemetry.reloaded(outcome.is_ok());
        match outcome {
            Ok(()) => {
                tracing::info!("reloaded");
                *shown.lock() = engine.pipeline().to_json();
            }
            Err(reason) => tracing::error!(reason, "reload refused: the old pipeline keeps running"),
        }
        notify::ready(&status(engine.pipeline()));
    }
}

/// Starts the HTTP side, if there is to be one.
fn serve(
    pipeline: &Pipeline,
    telemetry: &Arc<Telemetry>,
    health: &Arc<Health>,
    shown: &Arc<Mutex<serde_json::Value>>,
    archives: &Arc<Mutex<Archives>>,
) -> Result<Option<Server>, Failure> {
    let Some(address) = pipeline.http else { return Ok(None) };
    let (shown, archives) = (Arc::clone(shown), Arc::clone(archives));
    let api = Api {
        telemetry: Arc::clone(telemetry),
        health: Arc::clone(health),
        pipeline: Box::new(move || shown.lock().clone()),
        archives: Box::new(move || archives.lock().clone()),
        token: Api::token_from_environment(),
    };
    let server = Server::start(address, api).map_err(|error| Failure::new(Code::Other, error))?;
    Ok(Some(server))
}

/// The line that `systemctl status` shows.
fn status(pipeline: &Pipeline) -> String {
    format!("{}: {}", pipeline.name, super::count(pipeline.sources.len(), "stream"))
}

fn gstreamer_version() -> String {
    let (major, minor, micro, _) = gstreamer::version();
    format!("{major}.{minor}.{micro}")
}

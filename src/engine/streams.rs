//! The sources' threads: each runs its source until the stream ends, and starts it again where it panicked.

use crate::config::{Pipeline, SourceEntry};
use crate::frame::exchange::Exchange;
use crate::frame::{Signal, Stream};
use crate::source::{self, Intake, Pace, SourceConfig};
use crate::telemetry::StreamMeter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::supervisor::panic_message;

/// Panics of one source after which it is given up.
const PANICS_MAX: u32 = 5;

/// A running source.
pub struct Running {
    /// Its stream.
    pub stream: Arc<Stream>,
    /// Its way into the graph.
    pub intake: Arc<Intake>,
    /// Its measurements: a stream is listed as long as its source belongs to the pipeline.
    pub meter: Arc<StreamMeter>,
    /// What it was started with: a reload keeps a source that has not changed.
    pub settings: Settings,
    /// Reads as fast as frames are taken.
    pub fast: bool,
    thread: JoinHandle<()>,
}

/// What a source is started with.
pub type Settings = (Option<Duration>, SourceConfig);

/// What this source is started with.
pub fn settings(entry: &SourceEntry) -> Settings {
    (entry.deadline, entry.config.clone())
}

fn context(pipeline: &Pipeline, entry: &SourceEntry) -> source::Context {
    source::Context {
        search: pipeline.search.clone(),
        fps: pipeline.fps,
        live: entry.deadline.is_some(),
        ..source::Context::default()
    }
}

/// Whether the source reads as fast as frames are taken.
pub fn is_fast(pipeline: &Pipeline, entry: &SourceEntry) -> bool {
    entry.config.pace(&context(pipeline, entry)) == Pace::Fast
}

impl Running {
    /// Starts the source's thread.
    ///
    /// # Errors
    /// The source cannot be used, or the system gives no more threads.
    pub fn start(
        pipeline: &Pipeline,
        exchange: &Arc<Exchange>,
        entry: &SourceEntry,
        intake: Arc<Intake>,
        meter: Arc<StreamMeter>,
    ) -> Result<Self, String> {
        let context = source::Context { exchange: exchange.clone(), ..context(pipeline, entry) };
        // Built once here, so that what can never work is said before anything runs.
        let first = source::build(&entry.id, &entry.config, &context).map_err(|e| e.to_string())?;
        let (id, config) = (entry.id.clone(), entry.config.clone());
        let runner = intake.clone();
        let thread = std::thread::Builder::new()
            .name(format!("src:{id}").chars().take(15).collect())
            .spawn(move || run(&id, &config, &context, first, &runner))
            .map_err(|e| format!("the system gives no more threads: {e}"))?;
        Ok(Self {
            stream: intake.stream().clone(),
            fast: is_fast(pipeline, entry),
            intake,
            meter,
            settings: settings(entry),
            thread,
        })
    }

    /// Whether its thread has ended.
    pub fn is_done(&self) -> bool {
        self.thread.is_finished()
    }
}

fn run(
    id: &str,
    config: &SourceConfig,
    context: &source::Context,
    first: Box<dyn source::Source>,
    intake: &Arc<Intake>,
) {
    let (mut next, mut panics) = (Some(first), 0);
    let end = loop {
        let source = match next.take() {
            Some(source) => source,
            None => match source::build(id, config, context) {
                Ok(source) => source,
                Err(error) => break Signal::Broken(error.to_string()),
            },
        };
        match catch_unwind(AssertUnwindSafe(|| source.run(intake.clone()))) {
            Ok(Ok(())) => break Signal::Ended,
            Ok(Err(error)) => break Signal::Broken(error.message),
            Err(panic) => {
                panics += 1;
                let message = panic_message(&*panic);
                if panics >= PANICS_MAX {
                    break Signal::Broken(format!("panicked {panics} times, last: {message}"));
                }
                tracing::error!(stream = id, message, panics, "source panicked: starting it again");
                intake.wait(Duration::from_millis(10 << (2 * panics)));
            }
        }
    };
    intake.close();
    intake.signal(end);
}

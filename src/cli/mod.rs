//! One file per command, and what they share: arguments, logs, exit codes.

mod check;
mod doctor;

mod graph;
mod models;
mod run;
mod simulate;
mod tune;

use clap::{Args, Parser, Subcommand, ValueEnum};
use framegate::config::{self, Diagnostics, Pipeline, Style};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Results before each frame's deadline, from cameras and files; every lost frame accounted for.
#[derive(Parser)]
#[command(name = "framegate", version, arg_required_else_help = true)]
struct Arguments {
    /// How logs are written to standard error; RUST_LOG says which
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    log: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines for people and journald
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline
    Run(run::Run),
    /// Show every error and warning of a pipeline file at once; start nothing
    Check(check::Check),
    /// Say what a pipeline would do on this machine, and how many streams fit
    Simulate(Box<simulate::Simulate>),
    /// Measure this machine with a pipeline's models, and write the file that suits it
    Tune(tune::Tune),
    /// Draw a pipeline's graph
    Graph(graph::Graph),
    /// Show model cards
    Models(models::Models),
    /// Say what is missing on this machine, and the command that installs it
    Doctor(doctor::Doctor),
}

/// A pipeline file on the command line.
#[derive(Args)]
pub struct PipelineFile {
    /// The pipeline file
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// Change a key of the file: a dotted path and a value (TOML, or plain text), such as
    /// stage.detect.threshold=0.4; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, for example pipeline.fps=25".into()),
    }
}

impl PipelineFile {
    /// Reads and checks it. Errors and warnings go to standard error. A file that is right and names what cannot be
    /// used fails with a code of its own.
    fn load(&self) -> Result<Pipeline, Failure> {
        match config::load(&self.file, &self.set) {
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
}

/// The code of a file with errors.
fn wrong(diagnostics: &Diagnostics) -> Code {
    if diagnostics.only_absent() { Code::Unusable } else { Code::Wrong }
}

/// Shows findings as the terminal, or the file behind standard error, can take them.
fn show(diagnostics: &Diagnostics) {
    if diagnostics.0.is_empty() {
        return;
    }
    let fancy = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut text = diagnostics.render(if fancy { Style::Fancy } else { Style::Plain });
    text.push_str(&format!("{}, {}\n", count(diagnostics.errors(), "error"), count(diagnostics.warnings(), "warning")));
    complain(&text);
}

/// "1 error", "2 errors".
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The exit codes beside 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// Anything that has no code of its own.
    Other = 1,
    /// The file or the command line is wrong.
    Wrong = 2,
    /// A source or a model cannot be used.
    Unusable = 3,
}

/// Why a command did not do what it was asked to, and the exit code that says so.
#[derive(Debug)]
struct Failure {
    code: Code,
    /// `None` where everything has been said.
    error: Option<anyhow::Error>,
}

impl Failure {
    fn quiet(code: Code) -> Self {
        Self { code, error: None }
    }
    fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: Some(error.into()) }
    }
    fn wrong(message: impl fmt::Display) -> Self {
        Self::new(Code::Wrong, anyhow::anyhow!("{message}"))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Other, error)
    }
}

/// Writes to standard error; nowhere to complain to if that itself is gone.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes a command's result to standard output. A reader that has gone away is no error.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(Code::Other, error)),
        _ => Ok(()),
    }
}

/// Logs to standard error. Under journald, which stamps lines itself, without times.
fn start_logs(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second call finds the first one's logger in place, which is as good.
    let _ = match format {
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            let logs = logs.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
            if std::env::var_os("JOURNAL_STREAM").is_some() { logs.without_time().try_init() } else { logs.try_init() }
        }
    };
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    // Prints help or what is wrong by itself, and exits with 0 or 2.
    let arguments = Arguments::parse();
    start_logs(arguments.log);
    let result = match arguments.command {
        Command::Run(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Simulate(command) => command.run(),
        Command::Tune(command) => command.run(),
        Command::Graph(command) => command.run(),
        Command::Models(command) => command.run(),
        Command::Doctor(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(error) = failure.error {
                let _ = writeln!(std::io::stderr(), "framegate: {error:#}");
            }
            ExitCode::from(failure.code as u8)
        }
    }
}

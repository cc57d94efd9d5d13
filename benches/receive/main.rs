//! What receiving samples costs, and whether any is lost: an rtl_tcp server on this machine, whose samples become spectra.
//!
//! ```text
//! cargo bench --bench receive
//! cargo bench --bench receive -- --rates 2.4e6,20e6 --seconds 60
//! ```
//!
//! Every run is a framegate of its own (release build). The server paces itself by the clock, and what framegate does not
//! take in time it drops and counts: a loss cannot hide behind TCP's patience. Processor time is framegate's alone, from
//! READY on, per million samples; the server's stands beside it.

#![allow(missing_docs, clippy::print_stdout)]

#[path = "../../tests/common/rtl_tcp.rs"]
mod rtl_tcp;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Parser)]
struct Arguments {
    /// Samples a second, one run each
    #[arg(long, value_delimiter = ',', default_value = "2.4e6,20e6")]
    rates: Vec<f64>,
    /// Length of a run
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Samples of a transform
    #[arg(long, default_value_t = 2048)]
    size: usize,
    /// Stream time of a block
    #[arg(long, default_value = "50ms")]
    block: String,
    /// Stage behind the receiver, instead of `spectrum`
    #[arg(long)]
    stage: Option<String>,
    /// Also write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    // cargo adds it to every benchmark's arguments.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Arguments::parse();
    let dir = tempfile::tempdir()?;
    let mut rows = Vec::new();
    println!(
        "   MS/s  sent MS  dropped by server  lost here  received MS  frames late or lost  p99 ms  CPU ms/MS  drift ppm       RSS MiB"
    );
    for &rate in &args.rates {
        let row = run(&args, rate, dir.path())?;
        let f = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "{:7.1}  {:7.1}  {:17}  {:9}  {:11.1}  {:19}  {:6.2}  {:9.2}  {:6.2} ± {:5.2}  {:7.0}",
            rate / 1e6,
            f("sent") / 1e6,
            f("dropped"),
            f("lost"),
            f("received") / 1e6,
            f("not_on_time"),
            f("p99_ms"),
            f("cpu_ms_per_million"),
            f("drift_ppm"),
            f("uncertainty_ppm"),
            f("rss_mib"),
        );
        rows.push(row);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

/// Runs framegate on a stream of this rate.
fn run(args: &Arguments, rate: f64, dir: &Path) -> Result<Value> {
    let server = rtl_tcp::Server::start(rate);
    let spectrum = format!("kind = \"spectrum\"\nsize = {}\nlevels = false\npeaks = 5", args.size);
    let stage = args.stage.as_deref().unwrap_or(&spectrum);
    let (pipeline, report) = (dir.join("receive.toml"), dir.join("report.json"));
    std::fs::write(
        &pipeline,
        format!(
            "[pipeline]\nname = \"receive\"\nfps = 20\ndeadline = \"200ms\"\n[http]\nlisten = \"off\"\n\
             [source.antenna]\nuri = \"{}\"\nsample_rate = {rate:?}\nfrequency = 100e6\nblock = \"{}\"\n\
             settle = \"0s\"\n[stage.it]\n{stage}\n[sink.out]\nkind = \"jsonl\"\npath = \"{}\"\n",
            server.uri(),
            args.block,
            dir.join("out.jsonl").display()
        ),
    )?;
    let status = Command::new(env!("CARGO_BIN_EXE_framegate"))
        .args(["run", pipeline.to_str().context("UTF-8")?])
        .args(["--for", &format!("{}s", args.seconds), "--report", report.to_str().context("UTF-8")?])
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "framegate ended with {status}");
    let (sent, dropped) = server.counts();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report)?)?;
    let stream = &report["streams"]["antenna"];
    let samples = &stream["samples"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let received = number(&samples["received"]);
    let lost: u64 = samples["lost"].as_object().map_or(0, |causes| causes.values().map(number).sum());
    ensure!(received > 0, "nothing was received: {stream}");
    let frames = &stream["frames"];
    let cpu = report["process"]["cpu_seconds"].as_f64().context("no CPU time")?;
    Ok(json!({
        "rate": rate,
        "seconds": report["seconds"],
        "sent": sent,
        "dropped": dropped,
        "received": received,
        "lost": lost,
        "not_on_time": number(&frames["captured"]) - number(&frames["on_time"]),
        "p99_ms": stream["latency_ms"]["p99"],
        "cpu_ms_per_million": cpu * 1e9 / received as f64,
        "drift_ppm": samples["clock"]["drift_ppm"],
        "uncertainty_ppm": samples["clock"]["uncertainty_ppm"],
        "rss_mib": report["process"]["rss_peak_mib"],
    }))
}

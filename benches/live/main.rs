//! Latency against a real RTSP camera on loopback, measured twice: by framegate's report, and from outside.
//!
//! A server in a process of its own plays a clip at 30 frames per second with the frame's number burnt into the picture
//! and notes when each frame is sent. framegate (release build) runs a detector, a tracker and a small model that reads
//! the number back; this program notes when each result line arrives. Age is the difference.
//!
//! ```text
//! cargo bench --bench live -- --model models/pitch.toml --transport tcp --seconds 60
//! cargo bench --bench live -- --model FastestDet.onnx --transport udp --loss 0.01 --seconds 60
//! ```

#![allow(missing_docs, clippy::print_stdout)]

mod camera;
mod number;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Results of frames sent in the first seconds are not counted: pipelines start, caches warm up.
const SKIP_SECONDS: u64 = 2;

#[derive(Parser)]
struct Arguments {
    /// Detector: a card or an ONNX file
    #[arg(long, default_value = "models/pitch.toml")]
    model: PathBuf,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    transport: String,
    /// Share of RTP packets that the server loses
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// How long to run
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// More lines for the source's table, such as latency = "10ms"
    #[arg(long, default_value = "")]
    source: String,
    /// Device of the detector
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads of the detector's session
    #[arg(long)]
    threads: Option<usize>,
    /// Also write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep the run's files in this folder
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Role of the child process: serve this clip
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
    #[arg(long, hide = true)]
    log: Option<PathBuf>,
    // cargo adds it to every benchmark's arguments.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Ends the process it holds.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<()> {
    let args = Arguments::parse();
    if let (Some(clip), Some(log)) = (&args.serve, &args.log) {
        return camera::serve(clip, log, args.loss);
    }
    let temporary = tempfile::tempdir()?;
    let dir = args.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir)?;
    let clip = dir.join(format!("clip-{}.mkv", args.seconds));
    if !clip.exists() {
        eprintln!("drawing and encoding {} s of the scene", args.seconds + 6);
        camera::encode(&clip, (args.seconds + 6) * 30)?;
    }
    number::write_model(&dir)?;

    let log = dir.join("sent.txt");
    let mut server = Command::new(std::env::current_exe()?)
        .args(["--serve".as_ref(), clip.as_os_str(), "--log".as_ref(), log.as_os_str()])
        .args(["--loss", &args.loss.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().context("server's output")?).read_line(&mut line)?;
    let _server = Ended(server);
    let port: u16 = line.trim().parse().context("the server's port")?;

    let (file, report) = (dir.join("live.toml"), dir.join("report.json"));
    std::fs::write(&file, pipeline(&args, port)?)?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_framegate"))
        .arg("run")
        .arg(&file)
        .args(["--http", "off", "--for", &format!("{}s", args.seconds), "--report"])
        .arg(&report)
        .stdout(Stdio::piped())
        .spawn()?;
    let results = read_results(BufReader::new(child.stdout.take().context("framegate's output")?));
    let status = child.wait()?;
    ensure!(status.success(), "framegate ended with {status}");
    judge(&args, &results?, &sent(&log)?, &report)
}

fn pipeline(args: &Arguments, port: u16) -> Result<String> {
    let model = std::fs::canonicalize(&args.model).with_context(|| args.model.display().to_string())?;
    let threads = args.threads.map_or(String::new(), |n| format!("threads = {n}\n"));
    Ok(format!(
        "[pipeline]\nname = \"live\"\ndeadline = \"33ms\"\nadmission = \"off\"\n\
         [source.cam0]\nuri = \"rtsp://127.0.0.1:{port}/cam\"\ntransport = \"{}\"\n{}\n\
         [stage.detect]\nkind = \"detect\"\nmodel = {model:?}\ndevice = \"{}\"\n{threads}\
         [stage.track]\nkind = \"track\"\n\
         [stage.number]\nkind = \"tensor\"\nmodel = \"number.toml\"\ndevice = \"cpu\"\nregion = {:?}\n\
         [sink.out]\nkind = \"jsonl\"\npath = \"-\"\n",
        args.transport,
        args.source,
        args.device,
        number::region(camera::SIZE),
    ))
}

/// One result: the number read from its picture, when its line arrived, what it says of itself.
struct Seen {
    number: Option<u64>,
    at: u64,
    on_time: bool,
}

fn read_results(lines: impl BufRead) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for line in lines.lines() {
        let at = framegate::frame::clock::now();
        let result: Value = serde_json::from_str(&line?).context("a result line")?;
        let data = result["tensors"]["number"][0]["data"].as_array().context("a result without the number's tensor")?;
        let values: Vec<f64> = data.iter().filter_map(Value::as_f64).collect();
        seen.push(Seen { number: number::read(&values), at, on_time: result["on_time"].as_bool().context("on_time")? });
    }
    Ok(seen)
}

/// When each frame's first packet was sent, by its number.
fn sent(log: &Path) -> Result<HashMap<u64, u64>> {
    let mut times = HashMap::new();
    for line in std::fs::read_to_string(log)?.lines() {
        let (n, at) = line.split_once(' ').context("a line of the server's log")?;
        // The media may be played from its start twice, to preroll and for real: the last time counts.
        times.insert(n.parse()?, at.parse()?);
    }
    Ok(times)
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    sorted[((sorted.len() as f64 * p).ceil() as usize).clamp(1, sorted.len()) - 1]
}

fn judge(args: &Arguments, results: &[Seen], sent: &HashMap<u64, u64>, report: &Path) -> Result<()> {
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report)?)?;
    let stream = &report["streams"]["cam0"];
    let first = results.iter().find_map(|r| r.number).context("no number could be read")?;
    let counted: Vec<_> = results
        .iter()
        .filter(|r| r.number.is_some_and(|n| n >= first + SKIP_SECONDS * 30))
        .filter_map(|r| Some((r, *sent.get(&r.number?)?)))
        .collect();
    if counted.is_empty() {
        bail!("no results to count");
    }
    let mut ages: Vec<f64> = counted.iter().map(|(r, at)| r.at.saturating_sub(*at) as f64 / 1e6).collect();
    ages.sort_by(f64::total_cmp);
    let within = ages.iter().filter(|&&a| a < 33.0).count();
    let unread = results.iter().filter(|r| r.number.is_none()).count();
    let late = results.iter().filter(|r| !r.on_time).count();
    let frames = &stream["frames"];
    let n = |key: &str| frames[key].as_f64().unwrap_or(f64::NAN);
    let figures = serde_json::json!({
        "model": args.model.display().to_string(),
        "transport": args.transport,
        "loss": args.loss,
        "captured": frames["captured"],
        "on_time": frames["on_time"],
        "on_time_share": n("on_time") / n("captured"),
        "report_ms": stream["latency_ms"],
        "outside_ms": {
            "p50": percentile(&ages, 0.5), "p90": percentile(&ages, 0.9), "p99": percentile(&ages, 0.99),
            "max": ages.last(),
        },
        "outside_within_33_ms": within as f64 / ages.len() as f64,
        "difference_ms": {
            "p50": percentile(&ages, 0.5) - stream["latency_ms"]["p50"].as_f64().unwrap_or(f64::NAN),
            "p99": percentile(&ages, 0.99) - stream["latency_ms"]["p99"].as_f64().unwrap_or(f64::NAN),
        },
        "results": results.len(), "unreadable": unread, "late": late,
        "overhead_ms": stream["overhead_ms"],
        "breakdown_ms": stream["breakdown_ms"],
        "frames": frames, "shed_reasons": stream["shed_reasons"],
        "process": report["process"],
    });
    let text = serde_json::to_string_pretty(&figures)?;
    println!("{text}");
    if let Some(path) = &args.json {
        std::fs::write(path, &text)?;
    }
    Ok(())
}

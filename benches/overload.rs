//! What an overloaded device still delivers: the same detector behind one, two, … live streams.
//!
//! ```text
//! cargo bench --bench overload -- --model models/yolox-nano.toml --streams 1,2,3,4 --seconds 60
//! cargo bench --bench overload -- --model models/yolox-nano.toml --streams 4 --seconds 300
//! ```
//!
//! Every run is a framegate of its own (release build) on live 1280×720 scenes at 30 frames per second, drawn without
//! encoding so that decoding takes nothing from the detector. Goodput is on-time frames per second over all streams.

#![allow(missing_docs, clippy::print_stdout)]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Arguments {
    /// Detector: a card or an ONNX file
    #[arg(long, default_value = "models/pitch.toml")]
    model: PathBuf,
    /// Numbers of streams, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4")]
    streams: Vec<usize>,
    /// Length of a run
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Device of the detector
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads of the detector's session
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Table of each source
    #[arg(long, default_value = "uri = \"test://pitch\"\nencoded = false")]
    source: String,
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
        "streams  goodput/s  on time  delivered  p50 ms  p99 ms  max ms  worst/mean  shed                  RSS MiB (early, late)"
    );
    for &n in &args.streams {
        let row = run(&args, n, dir.path())?;
        let f = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "{n:7}  {:9.1}  {:6.1}%  {:8.1}%  {:6.1}  {:6.1}  {:6.1}  {:10.2}  {:20}  {:.0}, {:.0}",
            f("goodput"),
            100.0 * f("on_time_share"),
            100.0 * f("delivered_share"),
            f("p50"),
            f("p99"),
            f("max"),
            f("worst_over_mean"),
            row["shed"].to_string(),
            f("rss_early"),
            f("rss_late"),
        );
        rows.push(row);
    }
    let goodput = |row: &Value| row["goodput"].as_f64().unwrap_or(0.0);
    let peak = rows.iter().map(goodput).fold(0.0, f64::max);
    if let Some(last) = rows.last() {
        println!("goodput of the last row over the peak: {:.3}", goodput(last) / peak);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

/// One run; checks that every frame has its outcome.
fn run(args: &Arguments, n: usize, dir: &Path) -> Result<Value> {
    let model = std::fs::canonicalize(&args.model).with_context(|| args.model.display().to_string())?;
    let mut text = String::from("[pipeline]\nname = \"overload\"\ndeadline = \"33ms\"\nadmission = \"off\"\n");
    for i in 0..n {
        text += &format!("[source.cam{i}]\n{}\n", args.source);
    }
    text += &format!(
        "[stage.detect]\nkind = \"detect\"\nmodel = {model:?}\ndevice = \"{}\"\nthreads = {}\n[stage.track]\nkind = \"track\"\n\
         [sink.out]\nkind = \"jsonl\"\npath = \"results.jsonl\"\n",
        args.device, args.threads
    );
    let (file, report) = (dir.join("overload.toml"), dir.join("report.json"));
    std::fs::write(&file, text)?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_framegate"))
        .current_dir(dir)
        .arg("run")
        .arg(&file)
        .args(["--http", "off", "--for", &format!("{}s", args.seconds), "--report"])
        .arg(&report)
        .stdout(Stdio::null())
        .env("RUST_LOG", "warn")
        .env("ORT_DYLIB_PATH", library()?)
        .spawn()?;
    // Memory after a fifth of the run, when everything has been touched once, and shortly before its end.
    let (begun, mut early, mut late) = (Instant::now(), f64::NAN, f64::NAN);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let share = begun.elapsed().as_secs_f64() / args.seconds as f64;
        let now = rss(child.id());
        if share > 0.2 && early.is_nan() {
            early = now;
        }
        if share < 0.98 {
            late = now;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    ensure!(status.success(), "framegate ended with {status}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&report)?)?;
    let streams = report["streams"].as_object().context("streams")?;
    let seconds = report["seconds"].as_f64().context("seconds")?;
    let (mut captured, mut on_time, mut delivered) = (0.0, Vec::new(), 0.0);
    let mut shed = serde_json::Map::new();
    let worst = |key: &str| streams.values().filter_map(|s| s["latency_ms"][key].as_f64()).fold(0.0, f64::max);
    for (id, stream) in streams {
        let frames = stream["frames"].as_object().context("frames")?;
        let n = |key: &str| frames[key].as_f64().unwrap_or(f64::NAN);
        let ended: f64 = ["on_time", "late", "shed", "evicted", "failed", "in_flight"].map(n).iter().sum();
        ensure!(ended == n("captured") && n("in_flight") == 0.0, "{id}: frames without an outcome: {frames:?}");
        captured += n("captured");
        on_time.push(n("on_time"));
        delivered += n("on_time") + n("late");
        for (reason, count) in stream["shed_reasons"].as_object().into_iter().flatten() {
            let sum = shed.get(reason).and_then(Value::as_u64).unwrap_or(0) + count.as_u64().unwrap_or(0);
            shed.insert(reason.clone(), json!(sum));
        }
    }
    let total: f64 = on_time.iter().sum();
    let least = on_time.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(json!({
        "streams": n, "seconds": seconds, "goodput": total / seconds,
        "on_time_share": total / captured, "delivered_share": delivered / captured,
        "p50": worst("p50"), "p99": worst("p99"), "max": worst("max"),
        "worst_over_mean": least * on_time.len() as f64 / total,
        "shed": shed, "rss_early": early, "rss_late": late,
        "stage": report["stages"]["detect"], "process": report["process"],
    }))
}

/// The library that the program itself would find here: its runs are started in a folder of their own.
fn library() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH") {
        return Ok(path.into());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime/onnxruntime");
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("{}: run scripts/setup", folder.display()))?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libonnxruntime.so")))
        .collect();
    found.sort();
    found.pop().context("no libonnxruntime.so there: run scripts/setup")
}

/// Resident memory of a process, MiB.
fn rss(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}

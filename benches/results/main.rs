//! The API under load: questions over HTTP to a store of a million results while a pipeline runs and goes on storing.
//!
//! ```text
//! cargo bench --bench results
//! cargo bench --bench results -- --rate 2000 --connections 16 --seconds 60
//! cargo bench --bench results -- --postgres postgres://user:password@127.0.0.1/empty
//! ```
//!
//! Open loop: questions are due at fixed times whatever became of those before, and an answer's time counts from when
//! its question was due. The mix: 40 % the latest page, 20 % pages behind a cursor, 15 % with filters, 10 % with fields,
//! 15 % the latest page with the tag of the last answer; a third of all want Zstandard, a third gzip.

#![allow(missing_docs, clippy::print_stdout)]

mod client;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use client::{Client, Question};
use framegate::frame::{Annotations, Payload, Record, Stream, clock};
use framegate::store::{Place, Row};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Arguments {
    /// Results stored before
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Questions a second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Connections that are kept open
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Length of the run
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// An empty PostgreSQL database instead of an SQLite file
    #[arg(long)]
    postgres: Option<String>,
    /// Also write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    // cargo adds it to every benchmark's arguments.
    #[arg(long, hide = true)]
    bench: bool,
}

const STATIONS: [&str; 5] = ["north", "east", "south", "west", "hill"];

fn main() -> Result<()> {
    let args = Arguments::parse();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("results.db");
    let place = match &args.postgres {
        Some(url) => Place::postgres(url, None).map_err(anyhow::Error::msg)?,
        None => Place::Sqlite(file.clone()),
    };
    let begun = Instant::now();
    fill(&place, args.rows)?;
    println!("{} results stored in {:.1} s", args.rows, begun.elapsed().as_secs_f64());
    let sink = match &args.postgres {
        Some(url) => format!("url = {}", json!(url)),
        None => format!("path = {}", json!(file)),
    };
    let model = std::env::current_dir()?.join("models/pitch.toml");
    let pipeline = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[source.pitch]\nuri = \"test://pitch\"\nwidth = 1280\nheight = 720\n\
         [stage.detect]\nkind = \"detect\"\nmodel = {}\n[sink.results]\nkind = \"store\"\n{sink}\n",
        json!(model)
    );
    let path = dir.path().join("results.toml");
    std::fs::write(&path, pipeline)?;
    for (name, rate) in [("without questions", 0), ("with questions", args.rate)] {
        let figures = run(&args, dir.path(), rate).with_context(|| name.to_owned())?;
        println!("{name}: {figures}");
        if let (Some(path), true) = (&args.json, rate > 0) {
            std::fs::write(path, figures.to_string())?;
        }
    }
    Ok(())
}

/// Stores results of ten streams, five a second each, as a locator makes them; about 700 bytes of JSON.
fn fill(place: &Place, rows: u64) -> Result<()> {
    let mut database = place.open()?;
    let streams: Vec<_> = (0..10).map(|n| Arc::new(Stream::new(format!("air{n}"), n, None, 0, true))).collect();
    let mut random = fastrand::Rng::with_seed(7);
    let now = clock::now();
    let mut batch = Vec::new();
    for n in 0..rows {
        let mut annotations = Annotations::default();
        let present: Vec<&str> = STATIONS.into_iter().filter(|_| random.u8(..) > 40).collect();
        annotations.extra.insert(
            "location".into(),
            json!({
                "lat": 52.0 + random.f64(), "lon": 13.0 + random.f64(), "confidence": random.f64(),
                "frequency": 1e8 + 1e9 * random.f64(), "stations": present, "absent": {},
                "uncertainty_m": 500.0 * random.f64(), "snr_db": present.iter().map(|_| random.f64() * 30.0).collect::<Vec<_>>()
            }),
        );
        annotations.extra.insert("stations".into(), json!({ "present": present, "absent": {} }));
        let record = Record {
            pipeline: "field".into(),
            stream: streams[(n % 10) as usize].clone(),
            seq: n / 10,
            pts: None,
            captured: now,
            camera_time_us: None,
            delivered: now,
            on_time: true,
            rung: "full".into(),
            rescued: false,
            inferred: true,
            size: None,
            samples: None,
            annotations,
            payload: Payload::Empty,
        };
        let mut row = Row::new(&record);
        // Up to now, 20 ms apart.
        row.time -= 20_000 * (rows - n) as i64;
        row.delivered = row.time + 5000;
        batch.push(row);
        if batch.len() == 5000 || n + 1 == rows {
            database.write(&batch)?;
            batch.clear();
        }
    }
    Ok(())
}

/// The program, ended when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the pipeline with so many questions a second.
fn run(args: &Arguments, folder: &std::path::Path, rate: u64) -> Result<Value> {
    let seconds = args.seconds + 3;
    let log = folder.join("log");
    let child = Command::new(env!("CARGO_BIN_EXE_framegate"))
        .args(["run", "results.toml", "--report", "report.json", "--for", &format!("{seconds}s")])
        .current_dir(folder)
        .env("RUST_LOG", "info")
        .stderr(std::fs::File::create(&log)?)
        .stdout(Stdio::null())
        .spawn()?;
    let mut program = Program(child);
    let address = address(&log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let questions = runtime.block_on(questions(address))?;
    std::thread::sleep(Duration::from_secs(1));
    let times = match rate {
        0 => None,
        _ => Some(runtime.block_on(client::load(
            address,
            questions,
            args.connections,
            rate,
            Duration::from_secs(args.seconds),
        ))?),
    };
    ensure!(program.0.wait()?.success(), "{}", std::fs::read_to_string(&log)?);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("report.json"))?)?;
    let stream = &report["streams"]["pitch"];
    let frames = |key: &str| stream["frames"][key].as_f64().unwrap_or(f64::NAN);
    let mut figures = json!({
        "on_time_share": frames("on_time") / (frames("captured") - frames("in_flight")),
        "frame_p99_ms": stream["latency_ms"]["p99"],
        "sink_errors": report["sinks"]["results"]["errors"],
        "cpu_seconds": report["process"]["cpu_seconds"],
    });
    if let Some(mut t) = times {
        t.milliseconds.sort_by(f64::total_cmp);
        let at = |q: f64| t.milliseconds[((t.milliseconds.len() - 1) as f64 * q) as usize];
        figures["questions"] = json!(t.milliseconds.len());
        figures["not_modified"] = json!(t.not_modified);
        figures["refused"] = json!(t.refused);
        figures["p50_ms"] = json!(at(0.5));
        figures["p99_ms"] = json!(at(0.99));
        figures["p99.9_ms"] = json!(at(0.999));
        figures["max_ms"] = json!(at(1.0));
    }
    Ok(figures)
}

/// Where the program listens: it says so in its log.
fn address(log: &std::path::Path) -> Result<std::net::SocketAddr> {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(log)?;
        let found = text.split("metrics and health on http://").nth(1).and_then(|rest| rest.split('/').next());
        if let (Some(address), true) = (found, text.contains("ready:")) {
            return Ok(address.parse()?);
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "the program does not start: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is asked: made once, so that asking costs little.
async fn questions(address: std::net::SocketAddr) -> Result<Vec<Question>> {
    let mut client = Client::connect(address).await?;
    let mut cursors = Vec::new();
    let mut query = "limit=50".to_owned();
    while cursors.len() < 100 {
        let answer = client.ask(&Question::new(&query, "")).await?;
        if answer.status == 503 || answer.status == 404 {
            // The store is opened a little after the server.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        ensure!(answer.status == 200, "{query}: {}", answer.status);
        let page: Value = serde_json::from_slice(&answer.body)?;
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=50&cursor={next}");
        cursors.push(query.clone());
    }
    ensure!(!cursors.is_empty(), "one page holds everything: store more results");
    let mut random = fastrand::Rng::with_seed(11);
    let mut all = Vec::new();
    for n in 0..2000u32 {
        let packing = ["", "Accept-Encoding: zstd\r\n", "Accept-Encoding: gzip\r\n"][random.usize(..3)];
        let (query, tagged) = match n % 20 {
            0..8 => (String::new(), false),
            8..12 => (cursors[random.usize(..cursors.len())].clone(), false),
            12 => (format!("stream=air{}", random.u8(..10)), false),
            13 => (format!("station={}&min_confidence=0.{}", STATIONS[random.usize(..5)], random.u8(1..9)), false),
            14 => {
                let low = 1e8 + 1e9 * random.f64();
                (format!("min_frequency={low}&max_frequency={}", low + 1e6 * f64::from(random.u8(1..100))), false)
            }
            15 | 16 => ("limit=100&fields=seq,stream,captured_at,location.lat,location.lon".to_owned(), false),
            _ => (String::new(), true),
        };
        let mut question = Question::new(&query, packing);
        question.tagged = tagged;
        all.push(question);
    }
    random.shuffle(&mut all);
    Ok(all)
}

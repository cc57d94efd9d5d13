//! Recordings and pictures of sample streams, by the program itself.

#[path = "common/bench.rs"]
mod bench;
mod common;

use bench::Bench;
use common::shared_data;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// The pipeline that reads a recording of a remote control, with these sinks.
fn remote(recording: &Path, sinks: &str) -> Bench {
    Bench::new(&format!(
        r#"
[pipeline]
name     = "remote"
deadline = "none"

[source.rx]
uri         = "iqfile://{}"
samples     = "cs8"
sample_rate = 1e6
frequency   = 433.92e6
block       = "50ms"

[stage.bursts]
kind = "energy"
hang = "20ms"

[sink.lines]
kind = "jsonl"
path = "lines.jsonl"

{sinks}
"#,
        recording.display()
    ))
}

/// The bursts of a run: their first samples and lengths.
fn bursts(bench: &Bench) -> Vec<(usize, usize)> {
    let lines = std::fs::read_to_string(bench.path("lines.jsonl")).expect("results");
    let results = lines.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let number = |v: &Value| usize::try_from(v.as_u64().expect("a number")).expect("small");
    results
        .flat_map(|r| r["bursts"].as_array().expect("bursts").clone())
        .map(|b| (number(&b["start"]), number(&b["length"])))
        .collect()
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    let mut found: Vec<_> = entries.filter(|p| p.to_string_lossy().ends_with(ending)).collect();
    found.sort();
    found
}

#[test]
fn every_burst_of_a_real_recording_is_cut_sample_by_sample() {
    let Some(recording) = shared_data("rf/urh/elektromaten.complex16s") else { return };
    let bench = remote(
        &recording,
        "[sink.iq]\nkind = \"sigmf\"\nfolder = \"iq\"\nname = \"{stream}\"\nformat = \"ci8\"\nbefore = \"10ms\"\nafter = \"10ms\"\nlongest = \"2s\"",
    );
    bench.says(&["run", "yard.toml", "--http", "off"]);
    let all = std::fs::read(&recording).expect("readable");
    let heard = bursts(&bench);
    assert!(heard.len() > 1, "{heard:?}");
    // What is to be recorded, worked out from the results alone.
    let mut wanted: Vec<(usize, usize)> = Vec::new();
    for (start, length) in &heard {
        let (from, to) = (start.saturating_sub(10_000), (start + length + 10_000).min(all.len() / 2));
        match wanted.last_mut() {
            Some(last) if from <= last.1 => last.1 = to,
            _ => wanted.push((from, to)),
        }
    }
    assert!(files(&bench.path("iq"), ".part").is_empty());
    // Numbered as they were begun: rx, rx-2, rx-3 …
    let name = |n: usize| if n == 1 { "iq/rx".to_owned() } else { format!("iq/rx-{n}") };
    let got: Vec<(Value, Vec<u8>)> = (1..=files(&bench.path("iq"), ".sigmf-meta").len())
        .map(|n| {
            let data = std::fs::read(bench.path(&format!("{}.sigmf-data", name(n)))).expect("samples");
            (bench.json(&format!("{}.sigmf-meta", name(n))), data)
        })
        .collect();
    assert_eq!(got.len(), wanted.len());
    let mut annotations = 0;
    for ((meta, data), (from, to)) in got.iter().zip(&wanted) {
        assert!(*data == all[2 * from..2 * to], "the samples from {from} to {to}, {} bytes", data.len());
        assert_eq!(meta["global"]["core:datatype"], "ci8");
        assert_eq!(
            (&meta["global"]["core:sample_rate"], &meta["captures"][0]["core:frequency"]),
            (&1e6.into(), &433.92e6.into())
        );
        for a in meta["annotations"].as_array().expect("annotations") {
            let start = from + usize::try_from(a["core:sample_start"].as_u64().expect("a start")).expect("small");
            let length = usize::try_from(a["core:sample_count"].as_u64().expect("a count")).expect("small");
            assert!(heard.contains(&(start, length)), "{a}");
            annotations += 1;
        }
    }
    assert_eq!(annotations, heard.len());
}

#[test]
fn a_disk_that_is_full_is_an_error_of_the_sink_and_of_nothing_else() {
    let Some(recording) = shared_data("rf/urh/elektromaten.complex16s") else { return };
    let bench = remote(&recording, "[sink.iq]\nkind = \"sigmf\"\nfolder = \"iq\"\ntrigger = [\"always\"]");
    // No file may grow beyond 1 MiB: to the program the same as a full disk.
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" run yard.toml --http off --report out.json";
    let program = bench.command(&[]);
    let mut shell = Command::new("bash");
    shell.args(["-c", script, program.get_program().to_str().expect("UTF-8")]);
    shell.current_dir(program.get_current_dir().expect("a folder"));
    shell.envs(program.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let output = shell.output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("cannot be written") && !said.contains("panicked"), "{said}");
    let report = bench.json("out.json");
    assert!(report["sinks"]["iq"]["errors"].as_u64().expect("counted") > 0, "{}", report["sinks"]);
    assert_eq!(report["sinks"]["lines"]["errors"], 0);
    // What is there of it is recognisable as no whole recording.
    assert!(files(&bench.path("iq"), ".sigmf-meta").is_empty());
    assert_eq!(files(&bench.path("iq"), ".sigmf-data.part").len(), 1);
}

/// The running program; killed in the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts the pipeline with the HTTP side on any port, and waits for its address.
    fn start(bench: &Bench) -> (Self, String) {
        let mut command = bench.command(&["run", "yard.toml", "--http", "127.0.0.1:0"]);
        let mut child = command.env("RUST_LOG", "info").stderr(Stdio::piped()).spawn().expect("started");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let running = Self(child);
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("text"), 0, "the program ended");
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split('/').next().expect("an address").to_owned();
            }
        };
        // Nobody reads on, and the program must not wait for that.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        (running, address)
    }

    /// Ends it in good order.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        assert!(self.0.wait().expect("ended").success());
    }
}

/// Sends a request and gives the connection back, to read the answer from.
fn request(address: &str, head: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let length = body.len();
    write!(stream, "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").expect("sent");
    BufReader::new(stream)
}

#[test]
fn a_live_stream_is_watched_and_recorded_on_request() {
    let Some(recording) = shared_data("rf/urh/elektromaten.complex16s") else { return };
    let bench = remote(
        &recording,
        "[sink.fall]\nkind = \"waterfall\"\n[sink.iq]\nkind = \"sigmf\"\nfolder = \"iq\"\ntrigger = [\"request\"]\nname = \"asked\"\nlongest = \"100ms\"",
    );
    let text = std::fs::read_to_string(bench.path("yard.toml")).expect("readable");
    let text = text.replace("block       =", "pace = \"live\"\nloop = true\nblock       =");
    std::fs::write(bench.path("yard.toml"), text).expect("written");
    let (running, address) = Running::start(&bench);
    // The stream is there as soon as its first block is.
    let begun = Instant::now();
    let mut events = loop {
        let mut answer = request(&address, "GET /api/v1/streams/rx/waterfall", "");
        let mut status = String::new();
        answer.read_line(&mut status).expect("an answer");
        if status.contains("200") {
            break answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let (mut last, mut heard) = (f64::NEG_INFINITY, 0);
    // Two seconds of the stream, which has eleven bursts in 1.2.
    for n in 0..20 {
        let line = loop {
            let mut line = String::new();
            assert_ne!(events.read_line(&mut line).expect("an event"), 0);
            if let Some(data) = line.strip_prefix("data: ") {
                break serde_json::from_str::<Value>(data).expect("JSON");
            }
        };
        let time = line["time"].as_f64().expect("a time");
        assert!(time > last, "line {n}");
        last = time;
        assert_eq!((line["levels"].as_array().expect("levels").len(), &line["frequency"]), (512, &433.92e6.into()));
        heard += line["heard"].as_array().expect("a list").len();
    }
    assert!(heard > 0);
    let mut answer = String::new();
    let asked = request(&address, "POST /api/v1/streams/rx/record", "{\"seconds\": 0.2}").read_to_string(&mut answer);
    assert!(asked.is_ok() && answer.starts_with("HTTP/1.1 202"), "{answer}");
    // Finished while the stream goes on.
    let begun = Instant::now();
    while !bench.path("iq/asked.sigmf-meta").exists() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    running.stop();
    let samples = std::fs::metadata(bench.path("iq/asked.sigmf-data")).expect("samples").len() / 8;
    // With what lay before the request.
    assert_eq!(samples, 300_000);
    assert_eq!(bench.json("iq/asked.sigmf-meta")["captures"].as_array().expect("captures").len(), 1);
}

#[test]
fn a_recording_becomes_a_picture() {
    let Some(recording) = shared_data("rf/urh/elektromaten.complex16s") else { return };
    let bench = remote(&recording, "[sink.png]\nkind = \"spectrogram\"\npath = \"{stream}.png\"\nwidth = 800");
    bench.says(&["run", "yard.toml", "--http", "off"]);
    let bytes = std::fs::read(bench.path("rx.png")).expect("a picture");
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.ends_with(b"IEND\xaeB`\x82"));
    if let Some(path) = std::env::var_os("FRAMEGATE_DRAWING") {
        std::fs::copy(bench.path("rx.png"), path).expect("copied");
    }
}

//! Alerts and dashboard: every rule by Prometheus's own tool, every name by what the program says, and all of it by a real
//! Prometheus that scrapes the program.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

#[path = "common/bench.rs"]
mod bench;

use bench::Bench;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Every part that has metrics: a camera, a receiver, a source that is not there, stages, a sink.
const PIPELINE: &str = r#"
[pipeline]
name     = "yard"
deadline = "500ms"
fps      = 10

[source.yard]
uri    = "test://pitch"
fps    = 10
width  = 320
height = 240

[source.gone]
uri      = "rtsp://127.0.0.1:1/gone"
required = false

[source.radio]
uri         = "iqfile://noise.cu8"
samples     = "cu8"
sample_rate = 100_000
loop        = true
pace        = "live"

[stage.detect]
kind  = "detect"
from  = ["yard", "gone"]
model = "MODEL"

[stage.spectrum]
kind = "spectrum"
from = ["radio"]

[sink.results]
kind = "jsonl"
path = "results.jsonl"
"#;

/// Only a machine with such a driver has these.
const GPU: &str = "framegate_gpu_";

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The queries of the dashboard's panels and notes, as Grafana would ask them.
fn queries() -> Vec<String> {
    fn walk(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("expr").map(|e| e.as_str().unwrap().to_owned()));
                map.values().for_each(|v| walk(v, out));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(&serde_json::from_str(&file("config/framegate-grafana.json")).unwrap(), &mut out);
    out.iter()
        .map(|q| {
            let q = q.replace("$job", "framegate.*").replace("$instance", ".*").replace("$stream", ".*");
            q.replace("$__rate_interval", "10s")
        })
        .collect()
}

/// Names of metrics in a text: ours and the process's.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|w| (w.starts_with("framegate_") || w.starts_with("process_")) && !w.ends_with('_'))
        .collect()
}

/// A child that is ended with the test, and what it says on standard error.
struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Option<Self> {
        let mut child = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let tool = command.get_program().display();
                assert!(std::env::var("CI").as_deref() != Ok("true"), "no {tool}: scripts/setup test installs it");
                eprintln!("SKIPPED: no {tool}");
                return None;
            }
            Err(e) => panic!("{command:?}: {e}"),
        };
        let (tx, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = tx.send(line);
            }
        });
        Some(Self { child, lines, said: Vec::new() })
    }

    /// The address that follows `mark` in what it says.
    fn address(&mut self, mark: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|e| panic!("no {mark:?}: {e}\n{}", self.said.join("\n")));
            let address = line.split_once(mark).map(|(_, rest)| {
                rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect::<String>()
            });
            self.said.push(line);
            if let Some(address) = address.filter(|a| a.starts_with("127.0.0.1:")) {
                return address;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn framegate(bench: &Bench) -> (Running, String) {
    fs::write(bench.path("noise.cu8"), vec![127; 100_000]).unwrap();
    let mut command = bench.command(&["run", "yard.toml", "--http", "127.0.0.1:0"]);
    let mut running = Running::start(command.env("RUST_LOG", "info")).unwrap();
    let address = running.address("metrics and health on http://");
    (running, address)
}

/// The status and the body of an answer to GET.
fn answer(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

/// The body of an answer to GET that is one.
fn get(address: &str, path: &str) -> String {
    let (status, body) = answer(address, path);
    assert!(status == "200", "{path}: {status} {body}");
    body
}

/// What Prometheus answers to a query.
fn query(address: &str, query: &str) -> Vec<Value> {
    let escaped: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let answer: Value = serde_json::from_str(&get(address, &format!("/api/v1/query?query={escaped}"))).unwrap();
    answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {answer}")).clone()
}

/// Asks again and again until there is an answer.
fn within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn every_alert_is_tested_and_says_how_bad_it_is_and_what_to_do() {
    let (rules, tests) = (file("config/framegate-alerts.yml"), file("tests/alerts/rules.yml"));
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 20, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for part in ["severity: ", "summary: ", "description: "] {
            assert_eq!(alert.matches(part).count(), 1, "{name}: {part}");
        }
        // It fires in one test and stays silent in another.
        let entry = format!("alertname=\"{name}\", alertstate=\"firing\"");
        let silent = tests.lines().filter(|l| l.contains(&entry) && l.contains("exp_samples: []")).count();
        let fires = tests.matches(&format!("'ALERTS{{{entry}, severity=")).count()
            + tests.matches(&format!("alertname: {name}\n")).count();
        assert!(silent > 0 && fires > 0, "{name}: {silent} and {fires}");
    }
    let test = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/alerts/rules.yml");
    match Command::new("promtool").args(["test", "rules"]).arg(test).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no promtool: scripts/setup test installs it");
            eprintln!("SKIPPED: no promtool");
        }
        Err(e) => panic!("promtool: {e}"),
    }
}

#[test]
fn rules_and_dashboard_use_only_metrics_that_the_program_exposes() {
    let bench = Bench::new(PIPELINE);
    let (_framegate, address) = framegate(&bench);
    // Calibration is over when frames are delivered.
    let page = within(Duration::from_secs(60), "a frame on time", || {
        let page = get(&address, "/metrics");
        let delivered = "framegate_frames_total{stream=\"yard\",outcome=\"on_time\"} ";
        let samples = page.contains("framegate_samples_received_total");
        let all = samples && page.lines().any(|l| l.strip_prefix(delivered).is_some_and(|n| n != "0"));
        all.then_some(page)
    });
    let exposed: BTreeSet<&str> =
        page.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(['{', ' ']).next()).collect();
    let (rules, dashboard) = (file("config/framegate-alerts.yml"), file("config/framegate-grafana.json"));
    let used: BTreeSet<&str> = names(&rules).into_iter().chain(names(&dashboard)).collect();
    assert!(used.len() >= 25, "{used:?}");
    for name in used {
        let known = framegate::telemetry::metrics::ALL.iter().any(|m| m.name == name);
        assert!(exposed.contains(name) || name.starts_with(GPU) && known, "{name} is not exposed:\n{page}");
    }
}

#[test]
fn prometheus_scrapes_the_program_and_an_absent_source_raises_the_alarm() {
    let bench = Bench::new(PIPELINE);
    let (_framegate, address) = framegate(&bench);
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/framegate-alerts.yml");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         scrape_configs: [{{ job_name: framegate, static_configs: [{{ targets: ['{address}'] }}] }}]\n\
         rule_files: ['{}']\n",
        rules.display()
    );
    fs::write(bench.path("prometheus.yml"), config).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", bench.path("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", bench.path("tsdb").display()));
    let Some(mut prometheus) = Running::start(command.arg("--web.listen-address=127.0.0.1:0")) else { return };
    let server = prometheus.address("msg=\"Listening on\" address=");
    within(Duration::from_secs(30), "Prometheus is ready", || (answer(&server, "/-/ready").0 == "200").then_some(()));

    // The rule waits for 30 s of its own.
    let alert = within(Duration::from_secs(90), "the alert fires", || {
        let alerts = query(&server, "ALERTS{alertname=\"FramegateSourceDown\", alertstate=\"firing\"}");
        alerts.into_iter().next()
    });
    assert_eq!((&alert["metric"]["stream"], &alert["metric"]["severity"]), (&"gone".into(), &"critical".into()));
    let rules: Value = serde_json::from_str(&get(&server, "/api/v1/rules")).unwrap();
    let rules: Vec<&Value> =
        rules["data"]["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert_eq!(rules.len(), file("config/framegate-alerts.yml").matches("- alert: ").count());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    // Every panel has something to show.
    for asked in queries() {
        if !asked.contains(GPU) {
            assert!(!query(&server, &asked).is_empty(), "nothing for {asked}");
        }
    }
}

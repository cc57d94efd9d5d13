//! `framegate run --trace` as its users see it: the program itself, and the file that a trace viewer opens.

mod common {
    pub mod bench;
}

use common::bench::Bench;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const PIPELINE: &str = r#"
[pipeline]
name = "yard"
deadline = "60ms"
admission = "off"
[source.a]
uri = "test://ball"
width = 320
height = 240
[source.b]
uri = "test://ball"
width = 320
height = 240
[stage.detect]
kind = "detect"
model = "MODEL"
[stage.track]
kind = "track"
[sink.out]
kind = "jsonl"
path = "-"
[[rung]]
name = "full"
[[rung]]
name = "sparse"
detect.every = 2
"#;

/// A slice: name, category, from, to, arguments.
type Slice = (String, String, u64, u64, Value);

/// What a trace has: names of tracks, and their slices.
struct Trace {
    events: Vec<Value>,
    tracks: BTreeMap<String, Vec<Slice>>,
}

impl Trace {
    fn read(bench: &Bench, name: &str) -> Self {
        let file = bench.json(name);
        let events = file["traceEvents"].as_array().expect("a list").clone();
        assert_eq!(file["otherData"]["events"], events.len());
        let place = |e: &Value| (e["pid"].as_u64().expect("a pid"), e["tid"].as_u64().expect("a tid"));
        let text = |v: &Value| v.as_str().expect("a text").to_owned();
        let mut groups = BTreeSet::new();
        let mut names = BTreeMap::new();
        for e in events.iter().filter(|e| e["ph"] == "M") {
            match e["name"].as_str() {
                Some("process_name") => drop(groups.insert(place(e).0)),
                Some("thread_name") => drop(names.insert(place(e), text(&e["args"]["name"]))),
                _ => {}
            }
        }
        let mut tracks: BTreeMap<String, Vec<Slice>> = BTreeMap::new();
        for e in events.iter().filter(|e| e["ph"] != "M" && e["ph"] != "C") {
            let name = names.get(&place(e)).unwrap_or_else(|| panic!("a track without a name: {e}"));
            assert!(groups.contains(&place(e).0), "{e}");
            if e["ph"] == "X" {
                let (from, dur) = (e["ts"].as_u64().expect("a time"), e["dur"].as_u64().expect("a span"));
                let slice = (text(&e["name"]), text(&e["cat"]), from, from + dur, e["args"].clone());
                tracks.entry(name.clone()).or_default().push(slice);
            }
        }
        Self { events, tracks }
    }

    /// The frames of a stream, each with its parts, which lie within it, one behind the other, and fill it.
    fn frames(&self, stream: &str) -> Vec<(Slice, Vec<Slice>)> {
        let mut out: Vec<(Slice, Vec<Slice>)> = Vec::new();
        // Frames that overlap others are on further tracks of the same name.
        for (_, slices) in self.tracks.iter().filter(|(n, _)| **n == stream || n.starts_with(&format!("{stream} ("))) {
            for slice in slices {
                match slice.1.as_str() {
                    "frame" => out.push((slice.clone(), Vec::new())),
                    "offer" => assert_eq!(slice.2, out.last().expect("a frame").0.3, "offered when sealed"),
                    _ => out.last_mut().expect("a frame").1.push(slice.clone()),
                }
            }
        }
        for (frame, parts) in &out {
            let mut at = frame.2;
            for part in parts {
                assert!(part.2 == at && part.4["seq"] == frame.4["seq"], "{frame:?}: {part:?}");
                at = part.3;
            }
            assert_eq!(at, frame.3, "the parts are the whole: {frame:?}");
        }
        out
    }
}

#[test]
fn the_parts_of_a_traced_frame_are_the_whole() {
    let bench = Bench::new(PIPELINE);
    let call = ["run", "yard.toml", "--http", "off", "--for", "3s", "--trace", "t.json", "--trace-every", "3"];
    let results = bench.says(&[&call[..], &["--report", "run.json"]].concat());
    let results: Vec<Value> = results.lines().map(|l| serde_json::from_str(l).expect("a result")).collect();
    let trace = Trace::read(&bench, "t.json");
    let (report, other) = (bench.json("run.json"), bench.json("t.json")["otherData"].clone());
    assert_eq!((&other["one_frame_in"], &other["lost_frames"], &other["full"]), (&3.into(), &0.into(), &false.into()));
    let device = report["stages"]["detect"]["device"].as_str().expect("a device");
    let mut all = 0;
    for (index, stream) in ["a", "b"].into_iter().enumerate() {
        let frames = trace.frames(stream);
        all += frames.len() as u64;
        let captured = report["streams"][stream]["frames"]["captured"].as_u64().expect("a count");
        assert!(frames.len() as u64 >= captured / 3 - 1 && captured > 60, "{} of {captured}", frames.len());
        let mut delivered = 0;
        for (frame, parts) in frames {
            let seq = frame.4["seq"].as_u64().expect("a number");
            assert_eq!((seq + index as u64) % 3, 0);
            assert_eq!(frame.0, format!("frame {seq}"));
            let names: Vec<&str> = parts.iter().map(|p| p.0.as_str()).filter(|n| *n != "wait").collect();
            let result = results.iter().find(|r| r["stream"] == stream && r["seq"] == seq);
            let Some(result) = result else {
                assert!(frame.4["outcome"] != "on_time" && frame.4["outcome"] != "late", "{frame:?}");
                continue;
            };
            delivered += 1;
            // The trace and the result tell the same.
            let ms = (frame.3 - frame.2) as f64 / 1e3;
            assert!((ms - result["latency_ms"].as_f64().expect("a number")).abs() < 0.002, "{frame:?}: {result}");
            assert_eq!(frame.4["outcome"], if result["on_time"] == true { "on_time" } else { "late" });
            assert_eq!((&frame.4["rung"], &frame.4["inferred"]), (&result["rung"], &result["inferred"]));
            let all = ["arrival", "decode", "detect: prepare", "detect: execute", "detect: finish", "track"];
            if result["inferred"] == true {
                assert_eq!(names, all);
                let execute = parts.iter().find(|p| p.1 == "execute").expect("executed");
                assert_eq!((&execute.4["rung"], &execute.4["device"]), (&result["rung"], &device.into()));
                assert!(execute.4["batch"].as_u64() >= Some(1), "{execute:?}");
            } else {
                assert_eq!(names, ["arrival", "decode", "track"]);
            }
        }
        assert!(delivered > 15, "{delivered}");
    }
    assert_eq!(other["frames"], all);

    // Threads: no two slices of a track overlap, and each frame's arrow leads through those that worked on it.
    for name in ["detect:plan", "detect:run", "detect:finish", "track"] {
        let mut slices = trace.tracks.get(name).unwrap_or_else(|| panic!("no track {name}")).clone();
        slices.sort_by_key(|s| s.2);
        assert!(slices.windows(2).all(|w| w[0].3 <= w[1].2), "{name}");
    }
    let mut flows: BTreeMap<u64, Vec<(u64, String)>> = BTreeMap::new();
    for e in trace.events.iter().filter(|e| e["cat"] == "frame" && e["ph"] != "X") {
        let step = (e["ts"].as_u64().expect("a time"), e["ph"].as_str().expect("a kind").to_owned());
        flows.entry(e["id"].as_u64().expect("an id")).or_default().push(step);
    }
    assert!(flows.len() > 30);
    for steps in flows.values() {
        let kinds: String = steps.iter().map(|s| s.1.as_str()).collect();
        assert!(steps.windows(2).all(|w| w[0].0 <= w[1].0) && ["stttf", "sf"].contains(&&*kinds), "{steps:?}");
    }
    let counters: BTreeSet<&str> =
        trace.events.iter().filter(|e| e["ph"] == "C").filter_map(|e| e["name"].as_str()).collect();
    assert!(counters.contains("ring detect/a") && counters.contains(&*format!("slowdown {device}")), "{counters:?}");
}

#[test]
fn a_run_that_is_told_to_stop_leaves_a_whole_trace() {
    let bench = Bench::new(PIPELINE);
    let call = ["run", "yard.toml", "--http", "off", "--trace", "t.json", "--trace-every", "1"];
    let mut child = bench.command(&call).stdout(Stdio::piped()).spawn().expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // It runs: results come. The rest is read to its end, so that it is not held up.
    let mut lines = lines.map_while(Result::ok);
    assert_eq!(lines.by_ref().take(20).count(), 20);
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
    let delivered = 20 + lines.count();
    assert_eq!(child.wait().expect("ended").code(), Some(0));
    let trace = Trace::read(&bench, "t.json");
    let frames = ["a", "b"].map(|s| trace.frames(s)).concat();
    let done = frames.iter().filter(|(f, _)| f.4["outcome"] == "on_time" || f.4["outcome"] == "late").count();
    assert_eq!(done, delivered, "every frame is traced");
}

#[test]
fn a_trace_that_cannot_be_written_is_said_at_once() {
    let bench = Bench::new(PIPELINE);
    std::fs::create_dir(bench.path("folder")).expect("made");
    for (arguments, part) in [
        (&["--trace", "nowhere/t.json"][..], "--trace: there is no folder nowhere"),
        (&["--trace", "folder"], "--trace: cannot write folder: "),
        (&["--trace", "t.json", "--trace-every", "0"], "--trace-every"),
        (&["--trace-every", "3"], "--trace <OUT.json>"),
    ] {
        let (code, said) = bench.fails(&[&["run", "yard.toml", "--http", "off"], arguments].concat());
        assert!(code == 2 && said.contains(part), "{arguments:?}: {code}, {said}");
    }
}

//! `framegate simulate` as its users see it: the program itself on files, and on a recording of a real run.

mod common {
    pub mod bench;
}

use common::bench::Bench;
use serde_json::Value;

const PIPELINE: &str = r#"
[pipeline]
name = "yard"
deadline = "33ms"
admission = "off"

[source.cam0]
uri = "test://pitch"
[source.cam1]
uri = "test://pitch"
priority = 1

[stage.detect]
kind = "detect"
model = "MODEL"
[stage.track]
kind = "track"
[sink.out]
kind = "jsonl"
path = "out.jsonl"

[[rung]]
name = "full"
[[rung]]
name = "sparse"
detect.every = 3

[[cost]]
stage = "detect"
device = "cpu"
batches = [[1, "5.2ms"], [2, "6.4ms"], [4, "8.8ms"]]
prepare = "0.3ms"
tail = "0.6ms"
spread = 0.08
[[cost]]
source = "cam0"
decode = "3.1ms"
spread = 0.2
[[cost]]
source = "cam1"
decode = "2.5ms"
"#;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_seed_others() {
    let bench = Bench::new(PIPELINE);
    let call = |seed: &str, report: &str| {
        let load = ["--jitter", "5ms", "--pause", "2s", "--stall", "3s", "--slowdown", "1.7", "--load", "1.5"];
        let fixed = ["simulate", "yard.toml", "--for", "6s", "--seed", seed, "--report", report];
        let text = bench.says(&[&fixed[..], &load[..]].concat());
        (text, std::fs::read(bench.path(report)).expect("written"))
    };
    for ending in ["json", "html"] {
        let name = |n: &str| format!("{n}.{ending}");
        let first = call("7", &name("a"));
        assert_eq!(first, call("7", &name("b")));
        assert_ne!(first.1, call("8", &name("c")).1);
    }
    let text = call("7", "d.json").0;
    for part in ["pauses of 400 to 500 ms every 2 s", "stalls", "×1.7", "jitter 5 ms", "seed 7", "spread by 8 %"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_report_is_a_runs_report_and_adds_up() {
    let bench = Bench::new(PIPELINE);
    bench.says(&["simulate", "yard.toml", "--streams", "18", "--for", "5s", "--report", "r.json"]);
    let report = bench.json("r.json");
    assert_eq!((report["schema"].as_u64(), report["pipeline"].as_str()), (Some(1), Some("yard")));
    assert_eq!(report["simulated"]["policy"], "framegate");
    let streams = report["streams"].as_object().expect("streams");
    assert_eq!(streams.len(), 18);
    assert!(streams.contains_key("cam0") && streams.contains_key("cam1-9"), "{:?}", streams.keys());
    for (name, s) in streams {
        let frames = |key: &str| s["frames"][key].as_u64().expect("a count");
        let ended: u64 = ["on_time", "late", "shed", "evicted", "failed", "in_flight"].map(frames).iter().sum();
        assert_eq!((frames("captured"), frames("in_flight")), (ended, 0), "{name}");
        let reasons = s["shed_reasons"].as_object().expect("reasons");
        assert_eq!(reasons.values().filter_map(Value::as_u64).sum::<u64>(), frames("shed"), "{name}");
        let parts = s["breakdown_ms"].as_object().expect("parts");
        let sum: f64 = parts.values().map(number).sum();
        assert_eq!(parts.len(), 7);
        assert!((sum - number(&s["latency_ms"]["mean"])).abs() < 0.01, "{name}: {sum} {}", s["latency_ms"]);
        let shares: f64 = s["rung_share"].as_object().expect("rungs").values().map(number).sum();
        assert!((shares - 1.0).abs() < 0.001, "{name}");
    }
    let detect = &report["stages"]["detect"];
    assert!(number(&detect["batch_mean"]) > 1.0 && number(&detect["execute_ms"]["p99"]) > 5.0, "{detect}");
}

#[test]
fn plain_words_say_what_fits() {
    let bench = Bench::new(PIPELINE);
    let text = bench.says(&["simulate", "yard.toml", "--for", "2s"]);
    let last = text.lines().last().expect("words");
    assert!(last.starts_with("fits: yes, ") && last.contains("at rung full, "), "{text}");
    assert!(last.contains("more cameras at rung sparse"), "{text}");
    let text = bench.says(&["simulate", "yard.toml", "--for", "2s", "--streams", "16"]);
    assert!(text.contains("fits: yes, from rung sparse on: ") && text.contains("; rung full takes 1"), "{text}");
    let text = bench.says(&["simulate", "yard.toml", "--for", "2s", "--cost", "detect@full=40ms"]);
    assert!(text.contains("fits: yes, from rung sparse on: "), "{text}");
    let text = bench.says(&["simulate", "yard.toml", "--for", "2s", "--cost", "detect=40ms"]);
    assert!(text.contains("fits: no. Not even one stream is on time within 33 ms"), "{text}");
    let text = bench.says(&["simulate", "yard.toml", "--for", "2s", "--pause", "1s"]);
    assert!(text.ends_with("Counted without pauses, stalls and slowdowns.\n"), "{text}");
    let text =
        bench.says(&["simulate", "yard.toml", "--for", "2s", "--set", "pipeline.admission=refuse", "--streams", "20"]);
    assert!(text.contains("`run` refuses") && text.contains("fits: yes, from rung sparse on"), "{text}");
}

#[test]
fn a_sweep_marks_the_knee_and_draws_it() {
    let bench = Bench::new(PIPELINE);
    let call = ["simulate", "yard.toml", "--streams", "10..18", "--for", "3s", "--policy", "framegate,fifo"];
    let text = bench.says(&[&call[..], &["--report", "sweep.html"]].concat());
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with('1')).collect();
    assert_eq!(rows.len(), 18, "{text}");
    let knee: Vec<&&str> = rows.iter().filter(|r| r.ends_with("<- knee")).collect();
    assert!(matches!(knee[..], [row] if row.contains("framegate")), "{text}");
    let page = std::fs::read_to_string(bench.path("sweep.html")).expect("written");
    for part in ["<svg class=\"plot\"", "knee: ", "<polyline", "fifo", "Simulated", "prefers-color-scheme"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("http://") && !page.contains("https://"), "the page needs nothing else");
}

#[test]
fn twice_the_load_of_what_fits_is_twice_the_frames() {
    let bench = Bench::new(PIPELINE);
    let captured = |load: &str, more: &[&str]| {
        let call = ["simulate", "yard.toml", "--load", load, "--for", "4s", "--report", "l.json"];
        bench.says(&[&call[..], more].concat());
        number(&bench.json("l.json")["simulated"]["runs"][0]["captured_fps"])
    };
    let once = captured("1", &[]);
    for (load, times) in [("2", 2.0), ("0.25", 0.25)] {
        let frames = captured(load, &[]);
        assert!((frames / once / times - 1.0).abs() < 0.05, "{load}: {frames} of {once}");
    }
    let frames = captured("2", &["--streams", "10"]);
    assert_eq!(bench.json("l.json")["streams"].as_object().expect("streams").len(), 10);
    assert!((frames / once / 2.0 - 1.0).abs() < 0.05, "{frames} of {once}");
}

#[test]
fn what_is_wrong_is_said_with_its_place_or_its_name() {
    let bench = Bench::new(PIPELINE);
    for (arguments, part) in [
        (&["simulate", "yard.toml", "--cost", "detekt=4ms"][..], "no stage is called `detekt`; there is: detect"),
        (&["simulate", "yard.toml", "--cost", "detect@lean=4ms"], "no rung is called `lean`; there is: full, sparse"),
        (&["simulate", "yard.toml", "--cost", "detect"], "ALPHA+BETA"),
        (&["simulate", "yard.toml", "--cost", "detect=-4ms"], "cannot be negative"),
        (&["simulate", "yard.toml", "--streams", "9..3"], "1..20"),
        (&["simulate", "yard.toml", "--load", "0"], "0.01"),
        (&["simulate", "yard.toml", "--policy", "lifo"], "drop-oldest"),
        (&["simulate", "yard.toml", "--slowdown", "0"], "`factor` lies between"),
        (&["simulate", "yard.toml", "--set", "simulate.jiter=3"], "`jitter`"),
        (&["simulate", "yard.toml", "--costs", "yard.toml"], "no run report"),
        (&["simulate", "yard.toml", "--report", "nowhere/x.json"], "there is no folder nowhere"),
        (&["simulate", "--replay", "yard.toml"], "line 1: this is no trace"),
        (&["simulate", "--replay", "gone.jsonl"], "cannot read gone.jsonl"),
        (&["simulate"], "FILE.toml"),
    ] {
        let (code, said) = bench.fails(arguments);
        assert!(code == 2 && said.contains(part), "{arguments:?}: {code}, {said}");
    }
    let bench = Bench::new(&PIPELINE.replace("deadline = \"33ms\"", "deadline = \"none\""));
    let (code, said) = bench.fails(&["simulate", "yard.toml"]);
    assert!(code == 2 && said.contains("nothing has to be on time here"), "{said}");
}

/// Two small cameras and a model, for real.
const RUN: &str = r#"
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
priority = 1
[stage.detect]
kind = "detect"
model = "MODEL"
[sink.out]
kind = "jsonl"
path = "out.jsonl"
[[rung]]
name = "full"
[[rung]]
name = "sparse"
detect.every = 2
"#;

#[test]
fn a_recorded_run_comes_back_decision_for_decision() {
    let bench = Bench::new(RUN);
    let call = ["run", "yard.toml", "--http", "off", "--for", "3s", "--record", "t.jsonl", "--report", "run.json"];
    bench.says(&call);
    let text = bench.says(&["simulate", "--replay", "t.jsonl"]);
    assert!(text.starts_with("as recorded: ") && text.contains("by 1 planner"), "{text}");

    // A decision that was never taken.
    let trace = std::fs::read_to_string(bench.path("t.jsonl")).expect("written");
    let mut lines: Vec<String> = trace.lines().map(str::to_owned).collect();
    let at = lines.iter().position(|l| l.contains("\"run\":[[")).expect("a batch");
    lines[at] = lines[at].replacen(",false,", ",true,", 1);
    std::fs::write(bench.path("other.jsonl"), lines.join("\n")).expect("written");
    let (code, said) = bench.fails(&["simulate", "--replay", "other.jsonl"]);
    assert!(code == 1 && said.contains(&format!("line {}: the decision differs", at + 1)), "{code}: {said}");
    // A line that the writer left out.
    lines.splice(at..=at, ["{\"lost\":1}".to_owned()]);
    std::fs::write(bench.path("hole.jsonl"), lines.join("\n")).expect("written");
    let (code, said) = bench.fails(&["simulate", "--replay", "hole.jsonl"]);
    assert!(code == 1 && said.contains(&format!("line {}: 1 lines are missing", at + 1)), "{code}: {said}");

    // Other policies on what arrived.
    let call = ["simulate", "yard.toml", "--replay", "t.jsonl", "--policy", "all", "--report", "p.json"];
    let text = bench.says(&call);
    assert_eq!(text, bench.says(&call));
    let (run, replayed) = (bench.json("run.json"), bench.json("p.json"));
    assert_eq!(replayed["simulated"]["runs"].as_array().map(Vec::len), Some(5));
    for stream in ["a", "b"] {
        let captured = |r: &Value| number(&r["streams"][stream]["frames"]["captured"]);
        // What was captured and had not reached the planner when the run ended is not in the trace.
        assert!((captured(&run) - captured(&replayed)).abs() <= 3.0, "{stream}: {text}");
    }

    // The run's costs are enough to simulate it.
    let cost = &run["stages"]["detect"]["cost"][0];
    assert!(number(&cost["beta_ms"]) > 0.0 && cost["rungs"] == serde_json::json!(["full", "sparse"]), "{cost}");
    let text = bench.says(&["simulate", "yard.toml", "--costs", "run.json", "--for", "2s"]);
    assert!(text.contains("detect from the report; arrivals from the report") && text.contains("fits: "), "{text}");
}

#[test]
fn without_any_costs_the_models_are_measured() {
    let bench = Bench::new(RUN);
    let output = bench.framegate(&["simulate", "yard.toml", "--for", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("nobody has said what detect costs: measuring it now"), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("detect measured now"));
}

/// Behind the detector two stages on further devices, beside each other.
const DEVICES: &str = r#"
[stage.left]
kind = "detect"
from = ["detect"]
model = "MODEL"
[stage.right]
kind = "detect"
from = ["detect"]
model = "MODEL"
device = "cuda:1"
[[cost]]
stage = "left"
device = "cuda:0"
batches = [[1, "9ms"]]
[[cost]]
stage = "right"
alpha = "0ms"
beta = "6ms"
[simulate]
jitter = "0ms"
spread = 0.0
"#;

#[test]
fn stages_on_several_devices_run_beside_each_other() {
    let text = format!("{}{DEVICES}", PIPELINE.replace("[stage.track]\nkind = \"track\"\n", "").replace("0.08", "0.0"));
    let bench = Bench::new(&text);
    let call = ["simulate", "yard.toml", "--for", "5s", "--report", "r.json", "--set", "simulate.slowdown.factor=1.0"];
    let said = bench.says(&call);
    assert!(!said.contains("as if on one") && said.contains("each device ×1"), "{said}");
    let report = bench.json("r.json");
    for (stage, device) in [("detect", "cpu"), ("left", "cuda:0"), ("right", "cuda:1")] {
        assert_eq!(
            (&report["stages"][stage]["device"], &report["stages"][stage]["slots"]),
            (&device.into(), &1.into())
        );
    }
    // Two cameras of 30 frames a second: each device is busy with its own.
    let busy = &report["simulated"]["runs"][0]["devices_busy"];
    for (device, wanted) in [("cpu", 60.0 * 0.0052), ("cuda:0", 60.0 * 0.009), ("cuda:1", 60.0 * 0.006)] {
        assert!((number(&busy[device]) - wanted).abs() < 0.06, "{device}: {busy}");
    }
    assert!(said.contains("busy: cpu ") && said.contains(", cuda:0 "), "{said}");
    // From the decoder over the detector to the slower of the two: no frame waits for the other one.
    let p50 = number(&report["streams"]["cam1"]["latency_ms"]["p50"]);
    assert!((2.5 + 0.3 + 5.2 + 9.0..2.5 + 0.3 + 5.2 + 9.0 + 4.0).contains(&p50), "{p50}");
    for (name, s) in report["streams"].as_object().expect("streams") {
        assert_eq!(s["frames"]["on_time"], s["frames"]["captured"], "{name}: each frame is counted once");
        let sum: f64 = s["breakdown_ms"].as_object().expect("parts").values().map(number).sum();
        assert!((sum - number(&s["latency_ms"]["mean"])).abs() < 0.01, "{name}");
    }
    // The slowest device bounds how many fit: 9 ms of 33.3 ms a frame. All on one would be 20 ms.
    let fits = |bench: &Bench| {
        bench.says(&["simulate", "yard.toml", "--for", "2s", "--report", "f.json"]);
        number(&bench.json("f.json")["simulated"]["capacity"][0][1])
    };
    assert_eq!(fits(&bench), 3.0);
    let one = Bench::new(&text.replace("cuda:0", "cpu").replace("cuda:1", "openvino"));
    assert_eq!(fits(&one), 1.0);
}

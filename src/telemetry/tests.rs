use super::*;
use crate::frame::clock::MILLI;
use crate::frame::{FailReason, Outcome, ShedReason, Signal};

fn camera(id: &str) -> Arc<Stream> {
    Arc::new(Stream::new(id, 0, Some(33 * MILLI), 0, true))
}

fn parts(execute_ms: u64) -> Breakdown {
    Breakdown { arrival: MILLI, depay_decode: 2 * MILLI, execute: execute_ms * MILLI, ..Breakdown::default() }
}

fn rungs(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|n| Arc::from(*n)).collect()
}

/// 20 s of a camera at 10 fps under a virtual clock; every tenth frame takes 40 ms instead of 10.
fn run() -> (Arc<Telemetry>, Arc<Stream>, Arc<StreamMeter>) {
    let t = Telemetry::new("entrance");
    t.set_rungs(&rungs(&["full", "lean"]));
    let stream = camera("cam0");
    let meter = t.stream(&stream);
    t.ready_at(100 * SECOND);
    for i in 0..200u64 {
        let at = 100 * SECOND + i * 100 * MILLI;
        let ticket = stream.capture(at);
        let slow = i % 10 == 9;
        meter.delivered(at, &parts(if slow { 37 } else { 7 }), 50_000 + i, usize::from(slow));
        ticket.mark(if slow { Outcome::Late } else { Outcome::OnTime });
        stream.ledger.add_inferred();
    }
    stream.capture(120 * SECOND).mark(Outcome::Shed(ShedReason::Deadline));
    stream.capture(120 * SECOND).mark(Outcome::Failed(FailReason::Decode));
    t.ended_at(120 * SECOND);
    (t, stream, meter)
}

/// Quantiles have three significant digits.
#[track_caller]
fn near(value: &serde_json::Value, want: f64) {
    assert!((value.as_f64().unwrap() / want - 1.0).abs() < 1e-3, "{value} {want}");
}

#[test]
fn the_report_has_the_contracts_fields_and_figures() {
    let (t, stream, meter) = run();
    meter.rung(1);
    meter.rung(0);
    stream.ledger.add_rescued();
    stream.ledger.add_reconnect();
    (0..101).for_each(|_| stream.ledger.add_copy());
    let stage = t.stage(&Arc::from("detect"), "cpu");
    for _ in 0..10 {
        stage.batch(2, 8 * MILLI);
        stage.frame(9 * MILLI, 100_000);
        stage.frame(9 * MILLI, 100_000);
    }
    t.sink(&Arc::from("events")).error();
    t.note_pipeline("abc");
    t.note_model("yolox-nano", "def");
    t.note_library("onnxruntime", "1.24.1");
    let report: serde_json::Value = serde_json::from_str(&t.report_at(125 * SECOND).to_json()).unwrap();

    assert_eq!(report["schema"], 1);
    assert_eq!(report["pipeline"], "entrance");
    assert_eq!(report["seconds"], 20.0);
    assert_eq!(report["warmup_s"], 1.0);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["machine"]["cpus"].as_u64().unwrap() >= 1);
    assert!(report["machine"].get("gpu").is_some());
    let inputs = serde_json::json!({"pipeline_sha256": "abc", "models": {"yolox-nano": "def"},
        "libraries": {"onnxruntime": "1.24.1"}});
    assert_eq!(report["inputs"], inputs);
    let cam = &report["streams"]["cam0"];
    let frames = serde_json::json!({"captured": 202, "on_time": 180, "late": 20, "shed": 1, "evicted": 0, "failed": 1,
        "in_flight": 0});
    assert_eq!(cam["frames"], frames);
    assert_eq!(cam["shed_reasons"], serde_json::json!({"deadline": 1}));
    assert_eq!(cam["fail_reasons"], serde_json::json!({"decode": 1}));
    assert_eq!(cam["fps"], serde_json::json!({"captured": 10.1, "delivered": 10.0, "inferred": 10.0}));
    near(&cam["latency_ms"]["p50"], 10.0);
    near(&cam["latency_ms"]["p90"], 10.0);
    near(&cam["latency_ms"]["p95"], 40.0);
    near(&cam["latency_ms"]["p99"], 40.0);
    assert_eq!(cam["latency_ms"]["max"], 40.0);
    near(&cam["overhead_ms"]["p50"], 0.05);
    assert_eq!(cam["rung_share"], serde_json::json!({"full": 0.9, "lean": 0.1}));
    assert_eq!((&cam["rescued"], &cam["rung_changes"], &cam["reconnects"]), (&1.into(), &2.into(), &1.into()));
    let sum: f64 = Breakdown::NAMES.iter().map(|n| cam["breakdown_ms"][n].as_f64().unwrap()).sum();
    assert!((sum - cam["latency_ms"]["mean"].as_f64().unwrap()).abs() < 1e-3, "{sum}");
    assert!((sum - 13.0).abs() < 1e-3, "{sum}");
    let detect = &report["stages"]["detect"];
    assert_eq!((&detect["frames"], &detect["batches"]), (&20.into(), &10.into()));
    assert_eq!(detect["work_ms"], serde_json::json!({"p50": 9.0, "p99": 9.0}));
    assert_eq!(detect["wait_ms"], serde_json::json!({"p50": 0.1, "p99": 0.1}));
    assert_eq!((&detect["batch_mean"], &detect["device"]), (&2.0.into(), &"cpu".into()));
    assert_eq!(report["sinks"]["events"]["errors"], 1);
    assert_eq!(report["copies_per_frame"], 0.5);
    assert!(report["process"]["cpu_seconds"].as_f64().is_some());
    assert!(report["process"]["rss_peak_mib"].as_f64().unwrap() > 1.0);
}

#[test]
fn warm_up_is_left_out_of_latencies_and_counted_in_outcomes() {
    let t = Telemetry::new("entrance");
    let stream = camera("cam0");
    let meter = t.stream(&stream);
    let frame = |at: Nanos, execute| {
        stream.capture(at).mark(Outcome::OnTime);
        meter.delivered(at, &parts(execute), 0, 0);
    };
    frame(9 * SECOND, 900);
    t.set_warmup(Duration::from_secs(2));
    t.ready_at(10 * SECOND);
    frame(11_999 * MILLI, 800);
    frame(12 * SECOND, 17);
    let report = t.report_at(14 * SECOND);
    let cam = &report.streams["cam0"];
    assert_eq!((cam.frames.captured, cam.frames.on_time), (3, 3));
    assert_eq!((cam.latency_ms.max, cam.latency_ms.mean), (Some(20.0), Some(20.0)));
    // The rate is that of the run: the frame before READY does not count.
    assert_eq!((report.seconds, cam.fps.captured), (4.0, 0.5));
}

#[test]
fn a_stream_without_frames_reports_no_times() {
    let t = Telemetry::new("entrance");
    let _meter = t.stream(&camera("cam0"));
    t.ready_at(0);
    let report: serde_json::Value = serde_json::from_str(&t.report_at(SECOND).to_json()).unwrap();
    assert!(report["streams"]["cam0"]["latency_ms"]["p99"].is_null());
    assert!(report["copies_per_frame"].is_null());
    assert!(t.report_at(SECOND).to_html().contains("What became of 0 frames"));
}

#[test]
fn quantiles_are_within_three_digits() {
    let t = Telemetry::new("entrance");
    let stream = camera("cam0");
    let meter = t.stream(&stream);
    t.ready_at(0);
    for us in 1..=100_000u64 {
        meter.delivered(SECOND, &Breakdown { execute: us * 1000, ..Breakdown::default() }, 0, 0);
    }
    let l = t.report_at(SECOND).streams["cam0"].latency_ms;
    for (got, want) in [(l.p50, 50.0), (l.p90, 90.0), (l.p95, 95.0), (l.p99, 99.0), (l.max, 100.0)] {
        assert!((got.unwrap() / want - 1.0).abs() < 1e-3, "{got:?} {want}");
    }
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn metrics_tell_what_the_ledger_says_with_a_bucket_edge_at_the_deadline() {
    let (t, stream, meter) = run();
    stream.set_signal(Signal::Up);
    meter.rung(1);
    t.slowdown("cpu", 1.25);
    t.slowdown("cpu", 1.5);
    let ring = t.ring("cam0→detect");
    ring.set(3, 20 * MILLI);
    t.reloaded(false);
    let text = t.metrics();
    for (series, want) in [
        ("framegate_frames_captured_total{stream=\"cam0\"}", 202.0),
        ("framegate_frames_total{stream=\"cam0\",outcome=\"on_time\"}", 180.0),
        ("framegate_frames_total{stream=\"cam0\",outcome=\"late\"}", 20.0),
        ("framegate_frames_total{stream=\"cam0\",outcome=\"shed\"}", 1.0),
        ("framegate_frames_total{stream=\"cam0\",outcome=\"evicted\"}", 0.0),
        ("framegate_frames_total{stream=\"cam0\",outcome=\"failed\"}", 1.0),
        ("framegate_frames_shed_total{stream=\"cam0\",reason=\"deadline\"}", 1.0),
        ("framegate_frames_inferred_total{stream=\"cam0\"}", 200.0),
        ("framegate_frame_latency_seconds_bucket{stream=\"cam0\",le=\"0.033\"}", 180.0),
        ("framegate_frame_latency_seconds_bucket{stream=\"cam0\",le=\"0.04\"}", 200.0),
        ("framegate_frame_latency_seconds_count{stream=\"cam0\"}", 200.0),
        ("framegate_frame_deadline_seconds{stream=\"cam0\"}", 0.033),
        ("framegate_rung{stream=\"cam0\"}", 1.0),
        ("framegate_rung_changes_total{stream=\"cam0\",direction=\"down\"}", 1.0),
        ("framegate_source_up{stream=\"cam0\"}", 1.0),
        ("framegate_device_slowdown{device=\"cpu\"}", 1.5),
        ("framegate_ring_frames{ring=\"cam0→detect\"}", 3.0),
        ("framegate_ring_seconds{ring=\"cam0→detect\"}", 0.02),
        ("framegate_reloads_total{result=\"refused\"}", 1.0),
        (concat!("framegate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(value(&text, series), Some(want), "{series}\n{text}");
    }
    assert!(value(&text, "process_resident_memory_bytes").unwrap() > 0.0);
    // Asking twice counts nothing twice.
    assert_eq!(value(&t.metrics(), "framegate_frame_latency_seconds_count{stream=\"cam0\"}"), Some(200.0));
}

#[test]
fn counters_go_on_when_a_stream_is_replaced_and_series_end_with_the_handle() {
    let (t, first, meter) = run();
    let second = Arc::new(Stream::new("cam0", 1, Some(50 * MILLI), 0, true));
    assert!(Arc::ptr_eq(&t.stream(&second), &meter));
    second.capture(0).mark(Outcome::OnTime);
    drop(first);
    let captured = "framegate_frames_captured_total{stream=\"cam0\"}";
    assert_eq!(value(&t.metrics(), captured), Some(203.0));
    assert_eq!(value(&t.metrics(), captured), Some(203.0));
    drop(meter);
    assert_eq!(value(&t.metrics(), captured), None);
    assert!(t.streams().is_empty());
    assert_eq!(t.report().streams["cam0"].frames.captured, 203);
}

#[test]
fn readiness_names_what_is_missing() {
    let t = Telemetry::new("entrance");
    let (cam0, cam1) = (camera("cam0"), Arc::new(Stream::new("cam1", 1, None, 0, false)));
    let _meters = (t.stream(&cam0), t.stream(&cam1));
    assert_eq!(t.not_ready(), ["the pipeline is starting", "source `cam0` has not delivered yet"]);
    t.ready_at(0);
    cam0.set_signal(Signal::Down("connection refused".into()));
    assert_eq!(t.not_ready(), ["source `cam0` does not deliver: connection refused"]);
    cam0.set_signal(Signal::Up);
    assert!(t.not_ready().is_empty());
}

#[test]
fn recent_latencies_forget() {
    let (t, _stream, meter) = run();
    assert_eq!(t.streams()[0].latency_ms.p50.map(f64::round), Some(10.0));
    meter.rotate();
    assert!(t.streams()[0].latency_ms.p50.is_some());
    meter.rotate();
    assert_eq!(t.streams()[0].latency_ms.p50, None);
}

#[test]
fn rungs_keep_their_counts_across_a_reload_of_the_ladder() {
    let (t, _stream, meter) = run();
    t.set_rungs(&rungs(&["lean", "sparse"]));
    for rung in [0, 1, 1, 7] {
        meter.delivered(119 * SECOND, &parts(1), 0, rung);
    }
    let share = t.report_at(120 * SECOND).streams["cam0"].rung_share.clone();
    let counts: Vec<_> = share.iter().map(|(n, s)| (&**n, (s * 203.0).round())).collect();
    assert_eq!(counts, [("full", 180.0), ("lean", 21.0), ("sparse", 2.0)]);
}

#[test]
fn observations_reach_the_exporter_without_a_sampler_too() {
    let t = Telemetry::new("entrance");
    let (meter, stage) = (t.stream(&camera("cam0")), t.stage(&Arc::from("detect"), "cpu"));
    for _ in 0..5000 {
        meter.delivered(0, &parts(1), 0, 0);
        stage.frame(MILLI, 0);
        stage.batch(1, MILLI);
    }
    let text = t.metrics();
    assert_eq!(value(&text, "framegate_frame_latency_seconds_count{stream=\"cam0\"}"), Some(5000.0));
    assert_eq!(value(&text, "framegate_stage_work_seconds_count{stage=\"detect\"}"), Some(5000.0));
    assert_eq!(value(&text, "framegate_batch_frames_bucket{stage=\"detect\",le=\"1\"}"), Some(5000.0));
}

#[test]
fn the_page_holds_the_report_and_fetches_nothing() {
    let (t, _stream, _meter) = run();
    let mut report = t.report_at(121 * SECOND);
    report.pipeline = "<b>&</b></script>".into();
    let page = report.to_html();
    assert!(page.contains("<h1>&lt;b&gt;&amp;&lt;/b&gt;&lt;/script&gt;</h1>"));
    for absent in ["http://", "https://", "<link", "src=", "url(", "NaN"] {
        assert!(!page.contains(absent), "{absent}");
    }
    let json = page.split("id=\"report\">").nth(1).unwrap().split("</script>").next().unwrap();
    let inside: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(inside["streams"]["cam0"]["frames"]["captured"], 202);
    assert!(page.contains(">deadline</text>"));
}

#[test]
fn a_report_is_written_by_its_extension_and_errors_name_the_file() {
    let (t, _stream, _meter) = run();
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("out.json"), folder.path().join("out.html"));
    t.report().write(&json).unwrap();
    t.report().write(&html).unwrap();
    assert!(std::fs::read_to_string(&json).unwrap().starts_with("{\n"));
    assert!(std::fs::read_to_string(&html).unwrap().starts_with("<!doctype html>"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    let error = t.report().write(&folder.path().join("absent/out.json")).unwrap_err().to_string();
    assert!(error.contains("absent/out.json") && error.contains("No such file"), "{error}");
}

#[test]
fn the_sampler_ends_with_the_telemetry() {
    let t = Telemetry::new("entrance");
    t.start_sampler().unwrap();
    let weak = Arc::downgrade(&t);
    drop(t);
    // The sampler holds the telemetry only while it samples.
    let end = now() + 10 * SECOND;
    while weak.strong_count() > 0 {
        assert!(now() < end, "still held");
        std::thread::yield_now();
    }
}

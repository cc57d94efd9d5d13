//! Streams of samples, from recordings to results.

#[path = "common/bench.rs"]
mod bench;
mod common;
#[path = "common/intake.rs"]
mod intake;

use bench::Bench;
use common::shared_data;
use framegate::frame::{SampleBlock, Signal};
use framegate::signal::energy::estimate_floor;
use framegate::signal::samples::Converter;
use framegate::source::{Context, Pace, SourceConfig};
use intake::Running;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A raw recording of `n` complex bytes; each sample tells its number, modulo 251.
fn raw(folder: &Path, n: usize) -> SourceConfig {
    let path = folder.join("raw.cu8");
    let bytes: Vec<u8> = (0..n).flat_map(|i| [(i % 251) as u8, 128]).collect();
    std::fs::write(&path, bytes).expect("written");
    SourceConfig {
        samples: Some("cu8".into()),
        sample_rate: Some(10_000.0),
        frequency: Some(433.92e6),
        block: Some(Duration::from_millis(10)),
        ..SourceConfig::at(format!("iqfile://{}", path.display()))
    }
}

fn offline() -> Context {
    Context { live: false, ..Context::default() }
}

/// All blocks of a source that ends.
fn blocks(config: &SourceConfig, context: &Context) -> Vec<Arc<SampleBlock>> {
    let run = Running::start(config, context).expect("starts");
    let mut out = Vec::new();
    while let Some(frame) = run.frame(PATIENCE) {
        out.push(frame.payload.samples().expect("samples").clone());
    }
    assert_eq!(run.stream.signal(), Signal::Ended);
    out
}

#[test]
fn blocks_cover_a_recording_exactly_and_the_last_one_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let blocks = blocks(&raw(folder.path(), 1234), &offline());
    assert_eq!(blocks.len(), 13);
    let mut at = 0;
    for (n, b) in blocks.iter().enumerate() {
        assert_eq!((b.position, b.rate, b.frequency), (at, 10_000.0, Some(433.92e6)));
        assert_eq!((b.samples.len(), b.last), if n == 12 { (34, true) } else { (100, false) });
        for (i, s) in b.samples.iter().enumerate() {
            let number = (f64::from(s.re) * 127.5 + 127.5).round() as u64;
            assert_eq!(number, (at + i as u64) % 251, "sample {i} of block {n}");
        }
        at = b.end();
    }
    assert_eq!(at, 1234);
}

#[test]
fn a_recording_that_repeats_goes_on_counting_and_never_ends() {
    let folder = tempfile::tempdir().expect("folder");
    let config = SourceConfig { repeat: true, ..raw(folder.path(), 250) };
    let run = Running::start(&config, &offline()).expect("starts");
    let mut at = 0;
    for n in 0..12 {
        let frame = run.frame(PATIENCE).expect("a block");
        let b = frame.payload.samples().expect("samples").clone();
        assert_eq!((b.position, b.samples.len(), b.last), (at, if n % 3 == 2 { 50 } else { 100 }, false));
        assert_eq!(frame.pts, Some(at * 100_000));
        at = b.end();
    }
}

#[test]
fn at_live_pace_a_block_comes_when_its_last_sample_would_have() {
    let folder = tempfile::tempdir().expect("folder");
    let config = SourceConfig { pace: Some(Pace::Live), ..raw(folder.path(), 600) };
    let run = Running::start(&config, &Context::default()).expect("starts");
    let mut times = Vec::new();
    while let Some(frame) = run.frame(PATIENCE) {
        times.push(frame.ticket.captured);
    }
    assert_eq!(times.len(), 6);
    // Never early; how late a thread wakes up is the machine's affair.
    let first = times[0];
    assert!(times.iter().enumerate().all(|(n, t)| *t + 9_000_000 >= first + n as u64 * 10_000_000), "{times:?}");
}

#[test]
fn what_is_wrong_with_a_recording_is_said_where_it_is() {
    let folder = tempfile::tempdir().expect("folder");
    let good = raw(folder.path(), 100);
    let complains = |config: SourceConfig, key: &str, part: &str| {
        let issues = config.check(&offline());
        let found: Vec<String> = issues.iter().map(|i| format!("{}: {}", i.key, i.message)).collect();
        assert!(found.iter().any(|m| m.starts_with(&format!("{key}:")) && m.contains(part)), "{found:?}");
    };
    assert!(good.check(&offline()).is_empty());
    complains(SourceConfig { samples: None, ..good.clone() }, "samples", "do not say");
    complains(SourceConfig { samples: Some("cu9".into()), ..good.clone() }, "samples", "cu9");
    complains(SourceConfig { sample_rate: None, ..good.clone() }, "sample_rate", "do not say");
    complains(SourceConfig { sample_rate: Some(-1.0), ..good.clone() }, "sample_rate", "from 1 to");
    complains(SourceConfig { block: Some(Duration::from_micros(1)), ..good.clone() }, "block", "1 to");
    complains(
        SourceConfig { block: Some(Duration::from_secs(3600)), sample_rate: Some(1e9), ..good.clone() },
        "block",
        "",
    );
    complains(SourceConfig { width: Some(64), height: Some(64), ..good.clone() }, "width", "no meaning");
    complains(SourceConfig { uri: Some("iqfile:///no/such.cu8".into()), ..good.clone() }, "uri", "does not exist");
    complains(SourceConfig::at("sigmf:///no/such"), "uri", "does not exist");
    let meta = folder.path().join("bad.sigmf-meta");
    std::fs::write(folder.path().join("bad.sigmf-data"), [0; 8]).expect("written");
    std::fs::write(
        &meta,
        r#"{"global":{"core:datatype":"cf33_le","core:version":"1.0.0"},"captures":[],"annotations":[]}"#,
    )
    .expect("written");
    complains(SourceConfig::at(format!("sigmf://{}", meta.display())), "uri", "core:datatype");
}

#[test]
fn a_sigmf_recording_is_read_with_its_rate_and_frequency() {
    let Some(path) = shared_data("rf/sigmf/sigmf_logo.sigmf-meta") else { return };
    let meta: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("readable")).expect("JSON");
    let base = path.to_str().expect("UTF-8").trim_end_matches(".sigmf-meta");
    let config = SourceConfig { block: Some(Duration::from_millis(20)), ..SourceConfig::at(format!("sigmf://{base}")) };
    assert!(config.check(&offline()).is_empty());
    let other = blocks(&SourceConfig { channel: Some(1), ..config.clone() }, &offline());
    let blocks = blocks(&config, &offline());
    assert!(other.len() == blocks.len() && other[0].samples != blocks[0].samples);
    let issues = SourceConfig { channel: Some(2), ..config }.check(&offline());
    assert!(issues.len() == 1 && issues[0].key == "channel" && issues[0].message.contains("2 channels"), "{issues:?}");
    let rate = meta["global"]["core:sample_rate"].as_f64().expect("a rate");
    let bytes = std::fs::metadata(path.with_extension("sigmf-data")).expect("data").len();
    let total: usize = blocks.iter().map(|b| b.samples.len()).sum();
    let form = meta["global"]["core:datatype"].as_str().expect("a form");
    let each = form.parse::<framegate::signal::samples::Format>().expect("known").sample_bytes() as u64;
    assert_eq!(meta["global"]["core:num_channels"], 2);
    assert_eq!(total as u64, bytes / each / 2);
    assert!(blocks.iter().all(|b| b.rate == rate));
    assert_eq!(blocks[0].frequency, meta["captures"][0]["core:frequency"].as_f64());
}

/// Results of a run, by stream.
fn results(bench: &Bench, name: &str) -> BTreeMap<String, Vec<Value>> {
    let mut out: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in std::fs::read_to_string(bench.path(name)).expect("written").lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        out.entry(value["stream"].as_str().expect("a stream").to_owned()).or_default().push(value);
    }
    out
}

#[test]
fn every_frame_of_the_aircraft_comes_out_of_the_example_and_no_other() {
    let Some(path) = shared_data("rf/adsb/modes1.cu8") else { return };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/adsb.toml");
    let bench = Bench::new(&std::fs::read_to_string(example).expect("readable"));
    for block in ["50ms", "7ms"] {
        let uri = format!("source.receiver.uri=iqfile://{}", path.display());
        let block = format!("source.receiver.block={block}");
        let (out, report) = ("sink.results.path=out.jsonl", "report.json");
        let _ = std::fs::remove_file(bench.path("out.jsonl"));
        bench.says(&[
            "run",
            "yard.toml",
            "--http",
            "off",
            "--set",
            &uri,
            "--set",
            &block,
            "--set",
            out,
            "--report",
            report,
        ]);
        let frames: Vec<Value> = results(&bench, "out.jsonl")["receiver"]
            .iter()
            .flat_map(|r| r["adsb"].as_array().expect("a list").clone())
            .collect();
        let of = |format: u64| frames.iter().filter(|f| f["format"] == format).count();
        assert!(frames.iter().all(|f| f["icao"] == "4d2023"), "{frames:?}");
        assert!(of(17) >= 120 && of(11) >= 60, "{} and {}", of(17), of(11));
        assert!(frames.windows(2).all(|w| w[0]["start"].as_f64() < w[1]["start"].as_f64()), "in order");
        assert!(frames.iter().any(|f| f["place"]["lat"].is_f64()));
        let streams = &bench.json(report)["streams"]["receiver"]["frames"];
        assert_eq!(streams["captured"], streams["on_time"]);
    }
}

#[test]
fn a_station_of_a_recording_becomes_a_file_that_sounds_like_it() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listen.toml");
    let bench = Bench::new(&std::fs::read_to_string(example).expect("readable"));
    // A tone of 1 kHz at half of full deviation, for a second, 500 kHz above the centre.
    let (rate, mut phase) = (2.4e6, 0.0f64);
    let turn = std::f64::consts::TAU / rate;
    let bytes = (0..2_400_000).flat_map(|i| {
        phase += turn * (500e3 + 37.5e3 * (turn * 1000.0 * f64::from(i)).sin());
        [phase.cos(), phase.sin()].map(|v| (v * 127.0 + 127.5).round() as u8)
    });
    std::fs::write(bench.path("band.cu8"), bytes.collect::<Vec<_>>()).expect("written");
    let uri = format!("source.receiver.uri=iqfile://{}", bench.path("band.cu8").display());
    let path = format!("sink.file.path={}/{{stream}}.wav", bench.path("audio").display());
    for block in ["50ms", "7ms"] {
        let block = format!("source.receiver.block={block}");
        bench.says(&["run", "yard.toml", "--http", "off", "--set", &uri, "--set", &path, "--set", &block]);
    }
    let read = |name: &str| {
        let mut reader = hound::WavReader::open(bench.path("audio").join(name)).expect("a file");
        assert_eq!((reader.spec().channels, reader.spec().sample_rate), (1, 48_000));
        reader.samples::<i16>().map(|s| f64::from(s.expect("a sample")) / 32768.0).collect::<Vec<f64>>()
    };
    let audio = read("receiver.wav");
    assert_eq!(audio.len(), 48_000);
    let half = &audio[24_000..];
    let part = |f: fn(f64) -> f64| {
        let turn = std::f64::consts::TAU / 48e3;
        half.iter().enumerate().map(|(i, a)| a * f(turn * 1000.0 * i as f64)).sum::<f64>() / 12e3
    };
    let (tone, power) = (part(f64::sin).hypot(part(f64::cos)), half.iter().map(|a| a * a).sum::<f64>() / 24e3);
    // De-emphasis of 50 us takes a twentieth of it.
    assert!((tone - 0.477).abs() < 0.01, "{tone}");
    assert!(power - tone * tone / 2.0 < 1e-4, "what is not the tone: {power} {tone}");
    assert_eq!(read("receiver-2.wav"), audio, "the cut into blocks makes no difference");
}

/// Bursts of a recording, through the program.
fn bursts(path: &Path, form: &str, rate: f64, keys: &str) -> Vec<(u64, u64)> {
    let bench = Bench::new(&format!(
        "[pipeline]\nname = \"bursts\"\ndeadline = \"none\"\n[source.a]\nuri = \"iqfile://{}\"\nsamples = \"{form}\"\n\
         sample_rate = {rate:?}\nblock = \"3ms\"\n[stage.bursts]\nkind = \"energy\"\nsmooth = 8\n{keys}\n[sink.out]\n\
         kind = \"jsonl\"\npath = \"out.jsonl\"\n",
        path.display()
    ));
    bench.says(&["run", "yard.toml", "--http", "off"]);
    let results = results(&bench, "out.jsonl");
    let all = results["a"].iter().flat_map(|r| r["bursts"].as_array().expect("a list").clone());
    all.map(|b| (b["start"].as_u64().expect("start"), b["length"].as_u64().expect("length"))).collect()
}

#[test]
fn bursts_of_real_recordings_lie_where_their_messages_do() {
    let Some(folder) = shared_data("rf/urh") else { return };
    let near = |a: u64, b: u64| a.abs_diff(b) <= 8;
    // Two of them begin within a burst: what is noise has to be said.
    let floor = |path: &Path| {
        let mut samples = Vec::new();
        let form = "cf32".parse().expect("a form");
        Converter::new(form).push(&std::fs::read(path).expect("readable"), &mut samples);
        estimate_floor(&samples).expect("a floor")
    };
    let with_floor = |name: &str, hang: &str| {
        let path = folder.join(name);
        bursts(&path, "cf32", 1e6, &format!("hang = \"{hang}\"\nfloor = {:.2}", floor(&path)))
    };
    let ask = with_floor("ask.complex", "1200us");
    assert!(ask.len() == 1 && near(ask[0].0, 462) && near(ask[0].0 + ask[0].1, 12012), "{ask:?}");
    let fsk = with_floor("fsk.complex", "1ms");
    assert!(fsk.len() == 1 && near(fsk[0].0, 0) && near(fsk[0].0 + fsk[0].1, 17743), "{fsk:?}");
    // These begin with noise that the floor is learned from.
    let remote = bursts(&folder.join("elektromaten.complex16s"), "cs8", 2e6, "hang = \"2400us\"");
    assert!(remote.len() == 11 && near(remote[0].0, 32061) && near(remote[10].0, 1_139_567), "{remote:?}");
    let saver = bursts(&folder.join("esaver.complex16s"), "cs8", 2e6, "hang = \"1ms\"");
    assert_eq!(saver.len(), 3, "{saver:?}");
}

#[test]
fn a_camera_and_a_receiver_run_in_one_file() {
    let folder = tempfile::tempdir().expect("folder");
    let uri = raw(folder.path(), 4_000_000).uri.expect("a file");
    let bench = Bench::new(&format!(
        r#"
[pipeline]
name = "both"
deadline = "100ms"
[source.camera]
uri = "test://ball"
encoded = false
width = 64
height = 64
[source.receiver]
uri = "{uri}"
samples = "cu8"
sample_rate = 2e6
pace = "live"
[stage.adsb]
kind = "adsb"
from = ["receiver"]
[stage.keep]
kind = "filter"
from = ["camera"]
min_size = [0.0, 0.0]
[sink.out]
kind = "jsonl"
path = "both.jsonl"
from = ["adsb", "keep"]
"#
    ));
    bench.says(&["run", "yard.toml", "--http", "off", "--for", "3s", "--report", "both.json"]);
    let results = results(&bench, "both.jsonl");
    assert_eq!(results.keys().collect::<Vec<_>>(), ["camera", "receiver"]);
    assert!(results["receiver"].iter().all(|r| r["adsb"].is_array() && r["size"].is_null()));
    assert!(results["camera"].iter().all(|r| r["size"] == serde_json::json!([64, 64])));
    for stream in ["camera", "receiver"] {
        let frames = &bench.json("both.json")["streams"][stream]["frames"];
        assert_eq!(frames["in_flight"], 0, "{stream}: {frames}");
        assert!(frames["on_time"].as_u64() > Some(20), "{stream}: {frames}");
    }
}

#[test]
fn channels_of_a_filter_bank_are_streams_of_their_own() {
    let bench = Bench::new(
        r#"
[pipeline]
name = "bank"
deadline = "none"

[source.wide]
uri = "iqfile://wide.cf32"
samples = "cf32"
sample_rate = 48000
frequency = 100e6
block = "100ms"

[source.below]
uri = "channel://bank/7"

[source.above]
uri = "channel://bank/1"

[stage.bank]
kind = "channelize"
from = ["wide"]
channels = 8

[stage.spectrum]
kind = "spectrum"
from = ["below", "above"]
size = 100
average = 12
levels = false
peaks = 1

[sink.out]
kind = "jsonl"
from = ["spectrum"]
path = "-"
"#,
    );
    // A tone that is 6.2 kHz below the centre, for a second.
    let tone = (0..48_000).flat_map(|n| {
        let (sin, cos) = (std::f64::consts::TAU * -6200.0 * f64::from(n) / 48_000.0).sin_cos();
        [cos as f32, sin as f32].map(f32::to_le_bytes).concat()
    });
    std::fs::write(bench.path("wide.cf32"), tone.collect::<Vec<u8>>()).expect("written");
    let text = bench.says(&["run", "yard.toml", "--http", "off", "--report", "report.json"]);
    let mut peaks: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in text.lines() {
        let result: Value = serde_json::from_str(line).expect("JSON");
        let stream = result["stream"].as_str().expect("a stream").to_owned();
        for spectrum in result["spectrum"]["spectra"].as_array().expect("spectra") {
            peaks.entry(stream.clone()).or_default().push(spectrum["peaks"][0].clone());
        }
    }
    // Twelve thousand samples a second make ten spectra of 1200; the filter's start spoils the first.
    assert_eq!((peaks["below"].len(), peaks["above"].len()), (10, 10));
    for peak in &peaks["below"][1..] {
        let (frequency, level) = (peak["frequency"].as_f64().expect("Hz"), peak["level"].as_f64().expect("dBFS"));
        assert!((frequency - 99.9938e6).abs() < 130.0 && level > -2.0, "{peak}");
    }
    for peak in &peaks["above"][1..] {
        assert!(peak["level"].as_f64().is_none_or(|level| level < -60.0), "{peak}");
    }
    let report = bench.json("report.json");
    for stream in ["wide", "below", "above"] {
        let counts = &report["streams"][stream]["frames"];
        assert_eq!(counts["captured"], 10, "{stream}: {counts}");
    }
}

//! The locator's world and its spectrograms, as scripts/train_locator.py has them: a model sees in production what it was
//! trained on. `scripts/train_locator.py --golden` writes the values.

use crate::stage::{config, context};
use framegate::frame::{Arrival, Frame, Payload, SampleBlock, Stream};
use framegate::signal::Complex32;
use framegate::signal::world::World;
use framegate::stage::Built;
use serde_json::Value;
use std::f64::consts::TAU;
use std::path::Path;
use std::sync::Arc;

const SAMPLES: usize = 512 * 431;

/// The stage that the locator is trained for.
const STAGE: &str = "real = false
size = 512
hop = 512
window = 'hann'
padding = 'none'
quantity = 'power'
full_scale = true
scale = 'linear'
bands = 128
columns = 431
step = 43
level = 'db'
least = 1e-12";

fn golden() -> Value {
    serde_json::from_str(include_str!("locator_golden.json")).expect("JSON")
}

fn world() -> World {
    World::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/locator.world.json")).expect("a world")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

/// Keyed by the second, frequency modulated, 1537 Hz above the centre, over noise: the script's formula.
fn signal(rate: f64) -> Vec<Complex32> {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / 8_388_608.0 - 1.0
    };
    (0..SAMPLES)
        .map(|i| {
            let t = i as f64 / rate;
            let phase = TAU * 1537.0 * t + 1.7 * (TAU * 701.0 * t).sin() + 0.4 * (TAU * 2203.0 * t).sin();
            let amplitude = if i / 22050 % 3 < 2 { 0.02 } else { 0.0 };
            let (re, im) = (noise(), noise());
            Complex32::new((amplitude * phase.cos() + 0.001 * re) as f32, (amplitude * phase.sin() + 0.001 * im) as f32)
        })
        .collect()
}

#[test]
fn levels_are_the_scripts() {
    let world = world();
    let golden = golden();
    let cases = golden["levels"].as_array().expect("a list");
    assert!(cases.len() >= 40);
    for case in cases {
        let (place, power) = (numbers(&case["place"]), case["power_db"].as_f64().expect("a number"));
        let theirs = numbers(&case["dbfs"]);
        assert_eq!(theirs.len(), world.stations.len());
        for (station, theirs) in world.stations.iter().zip(theirs) {
            let ours = world.level_dbfs(station, place[0], place[1], power);
            assert!((ours - theirs).abs() < 1e-6, "{} from {place:?}: {ours} for {theirs}", station.id);
        }
    }
}

#[test]
fn spectrograms_are_the_scripts() {
    let rate = world().sample_rate;
    let Built::Stage(make) = config("spectrogram", STAGE).build(&context("s", vec![], false)).expect("built") else {
        panic!("a plain stage");
    };
    let mut stage = make().expect("made");
    let stream = Arc::new(Stream::new("test", 0, None, 0, true));
    let block =
        SampleBlock { samples: signal(rate), rate, frequency: None, position: 0, last: true, gap: None, time: None };
    let mut frame = Frame::new(stream.capture(1), None, Arrival::default(), Payload::Samples(Arc::new(block)));
    stage.process(&mut frame).expect("processed");
    let made = &frame.annotations.features["s"];
    assert_eq!((made.len(), made[0].shape), (1, [128, 431]));
    let mut worst: f64 = 0.0;
    let golden = golden();
    for (column, theirs) in golden["columns"].as_object().expect("columns") {
        let column: usize = column.parse().expect("a number");
        for (band, theirs) in numbers(theirs).into_iter().enumerate() {
            let error = (f64::from(made[0].data[band * 431 + column]) - theirs).abs();
            assert!(error < 1e-3, "column {column}, band {band}: off by {error} dB");
            worst = worst.max(error);
        }
    }
    eprintln!("largest difference {worst:.1e} dB");
}

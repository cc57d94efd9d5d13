//! Stations that are joined, and where the transmitter is that they hear.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

#[path = "common/bench.rs"]
mod bench;
#[path = "common/intake.rs"]
mod intake;
#[path = "common/stage.rs"]
mod stage;

use framegate::frame::exchange::{Exchange, Handed};
use framegate::frame::{
    Annotations, Arrival, Feature, Frame, Joined, Missing, Payload, SampleBlock, SampleTime, Seat, Signal, Stream,
};
use framegate::source::{Context, SourceConfig};
use framegate::stage::{BatchStage, Execute};
use intake::Running;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const STATIONS: [&str; 5] = ["giaveno", "avigliana", "pianezza", "orbassano", "piossasco"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn locate(keys: &str) -> Arc<dyn BatchStage> {
    let context = stage::context("locate", vec![root()], true);
    stage::device_stage("locate", &format!("model = \"models/locator.toml\"\ndevice = \"cpu\"\n{keys}"), &context)
}

/// Noise of −87 dB with a signal of so many decibels above it in some bands, two thirds of the time.
fn heard(above: f32) -> Feature {
    let mut rng = fastrand::Rng::with_seed(above.to_bits().into());
    let value = |band: usize, column: usize, rng: &mut fastrand::Rng| {
        let noise = -87.0 + 4.0 * (rng.f32() - 0.5);
        let signal = (58..76).contains(&band) && column % 90 < 60;
        if signal { noise.max(-87.0 + above + 6.0 * (rng.f32() - 0.5)) } else { noise }
    };
    let data = (0..128 * 431).map(|i| value(i / 431, i % 431, &mut rng)).collect();
    Feature { shape: [128, 431], data, samples: [0, 220_672] }
}

fn seat(station: &str, part: Result<Feature, Missing>) -> Seat {
    let handed = |feature| {
        Arc::new(Handed {
            stream: Arc::new(Stream::new(station, 0, None, 0, true)),
            captured: 0,
            arrival: Arrival::default(),
            pts: None,
            payload: Payload::Empty,
            annotations: Annotations { features: [("spectrogram".into(), vec![feature])].into(), ..Default::default() },
        })
    };
    Seat { station: station.into(), part: part.map(handed) }
}

fn joined(seats: Vec<Seat>) -> Frame {
    let stream = Arc::new(Stream::new("emitter", 0, None, 0, true));
    Frame::new(stream.capture(0), None, Arrival::default(), Payload::Joined(Arc::new(Joined { seats })))
}

/// What a stage says of a frame.
fn told(stage: &Arc<dyn BatchStage>, slot: &mut dyn Execute, mut frame: Frame) -> Value {
    let mut batch = stage.buffers();
    stage::run_one(stage, slot, &mut batch, &mut frame);
    frame.annotations.extra["location"].clone()
}

#[test]
fn a_transmitter_is_placed_near_the_station_that_hears_it_best() {
    let stage = locate("");
    let mut slot = stage.open().unwrap();
    // Where the stations stand, by the world's file.
    let world: Value =
        serde_json::from_slice(&std::fs::read(root().join("models/locator.world.json")).unwrap()).unwrap();
    for (loud, station) in world["stations"].as_array().unwrap().iter().enumerate() {
        let seats = STATIONS.iter().enumerate().map(|(n, s)| seat(s, Ok(heard(if n == loud { 45.0 } else { 3.0 }))));
        let location = told(&stage, &mut *slot, joined(seats.collect()));
        let away = |axis: &str| location[axis].as_f64().unwrap() - station[axis].as_f64().unwrap();
        let distance = away("east_m").hypot(away("north_m"));
        assert!(distance < 3500.0, "{distance} m from {station}: {location}");
        assert_eq!(location["stations"].as_array().unwrap().len(), 5);
        assert!(location["sigma_east_m"].as_f64().unwrap() > 0.0 && location["confidence"].as_f64().unwrap() <= 1.0);
        assert!((location["lat"].as_f64().unwrap() - 45.04).abs() < 0.1);
    }
}

#[test]
fn a_batch_gives_what_its_frames_give_one_by_one() {
    let stage = locate("batch = { max = 4 }");
    let mut slot = stage.open().unwrap();
    let frame = |n: usize| {
        joined(STATIONS.iter().enumerate().map(|(s, id)| seat(id, Ok(heard((10 * n + 3 * s) as f32)))).collect())
    };
    let alone: Vec<Value> = (0..4).map(|n| told(&stage, &mut *slot, frame(n))).collect();
    let (mut batch, mut frames) = (stage.buffers(), (0..4).map(frame).collect::<Vec<_>>());
    for (n, frame) in frames.iter().enumerate() {
        stage.prepare(frame, &mut batch, n..n + 1).unwrap();
    }
    slot.execute(&mut batch, 4).unwrap();
    for (n, frame) in frames.iter_mut().enumerate() {
        stage.finish(&batch, n..n + 1, frame).unwrap();
        let together = &frame.annotations.extra["location"];
        for axis in ["east_m", "north_m"] {
            let off = together[axis].as_f64().unwrap() - alone[n][axis].as_f64().unwrap();
            assert!(off.abs() < 1.0, "{n}, {axis}: {together} and {}", alone[n]);
        }
    }
}

#[test]
fn stations_that_are_missing_are_left_out_and_too_few_give_no_location() {
    let stage = locate("");
    let mut slot = stage.open().unwrap();
    let seats = |present: usize| {
        let part = |n: usize| if n < present { Ok(heard(20.0)) } else { Err(Missing::Down) };
        STATIONS.iter().enumerate().map(|(n, s)| seat(s, part(n))).collect()
    };
    let four = told(&stage, &mut *slot, joined(seats(4)));
    assert_eq!(four["stations"], serde_json::json!(STATIONS[..4]));
    assert!(four["east_m"].is_number());
    let two = told(&stage, &mut *slot, joined(seats(2)));
    assert_eq!((&two["reason"], two.get("east_m")), (&"2 of at least 3 stations".into(), None));
}

#[test]
fn what_cannot_be_located_is_said() {
    let stage = locate("");
    let mut batch = stage.buffers();
    let mut refused = |frame: Frame| stage.prepare(&frame, &mut batch, 0..1).unwrap_err().to_string();
    let stranger = refused(joined(vec![seat("turin", Ok(heard(10.0)))]));
    assert!(stranger.contains("`turin` is not in the model's world, which has giaveno, "), "{stranger}");
    let short = Feature { shape: [128, 100], data: vec![0.0; 12_800].into(), samples: [0, 1] };
    let short = refused(joined(vec![seat("giaveno", Ok(short))]));
    assert!(short.contains("128 bands × 100 columns; the model takes 128 × 431"), "{short}");
    let mut none = seat("giaveno", Ok(heard(1.0)));
    none.part = none.part.map(|h| Arc::new(Handed { annotations: Annotations::default(), ..(*h).clone() }));
    assert!(refused(joined(vec![none])).contains("0 stages made spectrograms"));
    let picture =
        Frame::new(Arc::new(Stream::new("s", 0, None, 0, true)).capture(0), None, Arrival::default(), Payload::Empty);
    assert!(refused(picture).contains("source `join://`"));
}

#[test]
fn a_model_that_is_no_locator_is_refused() {
    let context = stage::context("locate", vec![root()], true);
    let issues = |keys: &str| {
        let all = stage::config("locate", keys).check(&context);
        all.into_iter().map(|i| i.message).collect::<Vec<_>>().join("; ")
    };
    assert!(issues("model = \"models/pitch.toml\"").contains("no locator: its card has no [locator] table"));
    assert!(issues("model = \"models/locator.toml\"\nleast = 6").contains("between 1 and the model's 5 stations"));
    assert_eq!(issues("model = \"models/locator.toml\""), "");
}

/// The pipeline of the five simulated stations as it is, with some changes: what it says until it ends.
fn stations(replace: &[(&str, &str)], arguments: &[&str]) -> Vec<Value> {
    let mut text = std::fs::read_to_string(root().join("pipelines/heimdall.toml")).unwrap();
    for (from, to) in replace {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let bench = bench::Bench::new(&text.replace("models/", &format!("{}/models/", root().display())));
    std::os::unix::fs::symlink(root().join("models"), bench.path("models")).unwrap();
    let mut all = vec!["run", "yard.toml", "--http", "off"];
    all.extend(arguments);
    bench.says(&all).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Sixteen seconds of real time: a location needs ten.
#[test]
fn five_stations_locate_their_transmitter_and_go_on_when_one_dies() {
    let results = stations(
        &[("test://station/pianezza\"", "test://station/pianezza\"\noutage = [\"12s\", \"1h\"]")],
        &["--for", "17s"],
    );
    let located: Vec<&Value> = results.iter().filter(|r| r["location"]["east_m"].is_number()).collect();
    assert!(located.len() >= 4, "{} of {} results", located.len(), results.len());
    let whole = |r: &&&Value| r["stations"]["absent"].as_object().is_some_and(serde_json::Map::is_empty);
    let absent = |r: &&&Value| r["stations"]["absent"]["pianezza"].is_string();
    assert!(located.iter().any(|r| whole(&r)), "{results:?}");
    let without: Vec<_> = located.iter().filter(absent).collect();
    assert!(!without.is_empty(), "no location went on without the dead station: {results:?}");
    for r in without {
        assert!(!r["location"]["stations"].as_array().unwrap().contains(&"pianezza".into()), "{r}");
    }
}

#[test]
fn stations_whose_times_are_not_good_enough_are_refused() {
    let exchange = Arc::new(Exchange::default());
    exchange.expect("heard");
    let giver = exchange.place("heard").give(false);
    let config = SourceConfig {
        stations: Some(vec!["a".into()]),
        accuracy: Some(Duration::from_micros(1)),
        ..SourceConfig::at("join://heard")
    };
    let run = Running::start(&config, &Context { exchange, ..Context::default() }).unwrap();
    let hand = |accuracy: Duration| {
        let block = SampleBlock {
            samples: vec![Default::default(); 10],
            rate: 1e3,
            frequency: None,
            position: 0,
            last: false,
            gap: None,
            time: Some(SampleTime { ns: 1_700_000_000_000_000_000, accuracy }),
        };
        giver.hand(Handed {
            stream: Arc::new(Stream::new("a", 0, None, 0, true)),
            captured: framegate::frame::clock::now(),
            arrival: Arrival::default(),
            pts: None,
            payload: Payload::Samples(Arc::new(block)),
            annotations: Annotations::default(),
        });
    };
    hand(Duration::from_nanos(300));
    assert!(run.frame(Duration::from_secs(10)).is_some());
    hand(Duration::from_millis(50));
    assert!(run.frame(Duration::from_secs(10)).is_none(), "the stream has ended");
    let Signal::Broken(why) = run.stream.signal() else { panic!("{:?}", run.stream.signal()) };
    assert!(why.contains("the times of station `a` are good to 50ms, and `accuracy` asks for 1µs"), "{why}");
}

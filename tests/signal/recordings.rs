//! The signal room on real recordings.

use super::common::shared_data;
use framegate::signal::Complex32;
use framegate::signal::energy::{Burst, Detector, EnergyConfig, estimate_floor};
use framegate::signal::mode_s::cpr::Positions;
use framegate::signal::mode_s::{Body, Extended, Received, Receiver, ReceiverConfig, Repair};
use framegate::signal::samples::Converter;
use framegate::signal::sigmf::Recording;
use std::collections::BTreeMap;
use std::path::Path;

fn samples(path: &Path, format: &str) -> Vec<Complex32> {
    let mut samples = Vec::new();
    let bytes = std::fs::read(path).expect("readable");
    Converter::new(format.parse().expect("a format")).push(&bytes, &mut samples);
    samples
}

fn receive(samples: &[Complex32], repair: Repair, block: usize) -> Vec<Received> {
    let mut receiver = Receiver::new(&ReceiverConfig { sample_rate: 2e6, repair }).expect("valid");
    let mut frames = Vec::new();
    for block in samples.chunks(block) {
        receiver.push(block, |f| frames.push(f));
    }
    receiver.finish(|f| frames.push(f));
    frames
}

#[test]
fn every_frame_of_the_aircraft_is_decoded_and_no_other() {
    let Some(path) = shared_data("rf/adsb/modes1.cu8") else { return };
    let samples = samples(&path, "cu8");
    for repair in [Repair::Off, Repair::Known, Repair::Any] {
        let frames = receive(&samples, repair, 16384);
        let mut formats = BTreeMap::new();
        for f in &frames {
            *formats.entry(f.message.format).or_insert(0) += 1;
        }
        println!(
            "{repair:?}: {} frames {formats:?}, {} repaired",
            frames.len(),
            frames.iter().filter(|f| f.repaired.is_some()).count()
        );
        for f in frames.iter().filter(|f| f.message.icao != 0x4d2023) {
            println!("{f:?}");
        }
        assert!(frames.iter().all(|f| f.message.icao == 0x4d2023), "{frames:?}");
        assert!(formats[&17] >= 120 && formats[&11] >= 60, "{formats:?}");
        assert!(frames.windows(2).all(|w| w[0].start < w[1].start));
        assert_eq!(frames, receive(&samples, repair, 777));
    }
}

#[test]
fn the_aircraft_is_where_an_aircraft_can_be() {
    let Some(path) = shared_data("rf/adsb/modes1.cu8") else { return };
    let mut positions = Positions::default();
    let mut places = Vec::new();
    for f in receive(&samples(&path, "cu8"), Repair::Known, 16384) {
        if let Body::Extended { what: Extended::Airborne { altitude, cpr, .. }, .. } = f.message.body {
            places.extend(positions.update(f.message.icao, cpr, f.start / 2e6).map(|p| (p, altitude)));
        }
    }
    // The recording is put together of bursts, so that the first pair is of two places. From then on it flies straight
    // and descends.
    let places = &places[1..];
    assert!(places.len() > 80);
    for ((a, above), (b, below)) in places.iter().zip(&places[1..]) {
        assert!((a.lat - b.lat).abs() < 0.02 && (a.lon - b.lon).abs() < 0.02, "{a:?} {b:?}");
        assert!(above.zip(*below).is_some_and(|(a, b)| (0..=400).contains(&(a - b))), "{above:?} {below:?}");
    }
}

/// Bursts of a recording, its noise floor known beforehand.
fn bursts(samples: &[Complex32], rate: f64, hang: u64) -> Vec<Burst> {
    let config = EnergyConfig { floor: estimate_floor(samples), hang, smooth: 8, ..EnergyConfig::new(rate) };
    let run = |block: usize| {
        let mut detector = Detector::new(&config).expect("valid");
        let mut bursts = Vec::new();
        for block in samples.chunks(block) {
            detector.push(block, |b| bursts.push(*b));
        }
        detector.finish(|b| bursts.push(*b));
        bursts
    };
    let bursts = run(4096);
    assert_eq!(bursts, run(1000));
    bursts
}

/// Whether a burst lies from `first` to `last` sample, give or take some.
fn lies(b: &Burst, first: u64, last: u64, tolerance: u64) -> bool {
    b.start.abs_diff(first) <= tolerance && (b.start + b.length - 1).abs_diff(last) <= tolerance
}

#[test]
fn the_ask_message_is_one_burst() {
    let Some(path) = shared_data("rf/urh/ask.complex") else { return };
    // 300 samples to a bit; the longest run of zeros is three.
    let bursts = bursts(&samples(&path, "cf32"), 1e6, 1200);
    assert_eq!(bursts.len(), 1);
    assert!(lies(&bursts[0], 462, 12011, 8), "{bursts:?}");
}

#[test]
fn the_fsk_message_is_one_burst_from_the_first_sample_on() {
    let Some(path) = shared_data("rf/urh/fsk.complex") else { return };
    let bursts = bursts(&samples(&path, "cf32"), 1e6, 1000);
    assert_eq!(bursts.len(), 1);
    assert!(lies(&bursts[0], 0, 17742, 8), "{bursts:?}");
}

#[test]
fn the_remote_control_sends_eleven_messages() {
    let Some(path) = shared_data("rf/urh/elektromaten.complex16s") else { return };
    // 600 samples to a bit; eight bits of silence end a message.
    let bursts = bursts(&samples(&path, "cs8"), 2e6, 8 * 600);
    assert_eq!(bursts.len(), 11);
    // Where the amplitude rises first.
    let starts = [32061, 142_816, 253_565, 364_316, 475_065, 585_815, 696_565, 807_318, 918_069, 1_028_819, 1_139_567];
    for (b, start) in bursts.iter().zip(starts) {
        assert!(b.start.abs_diff(start) <= 8 && b.length.abs_diff(78_893) <= 8, "{b:?}");
    }
}

#[test]
fn the_energy_saver_sends_three_messages() {
    let Some(path) = shared_data("rf/urh/esaver.complex16s") else { return };
    let bursts = bursts(&samples(&path, "cs8"), 2e6, 2000);
    assert_eq!(bursts.len(), 3);
    for (b, (first, last)) in bursts.iter().zip([(92376, 125_999), (131_058, 164_681), (169_733, 203_358)]) {
        // Read off the amplitude; the messages fade away over some samples.
        assert!(lies(b, first, last, 20), "{b:?}");
    }
}

#[test]
fn the_logo_is_read_to_its_last_sample() {
    let Some(path) = shared_data("rf/sigmf/sigmf_logo.sigmf-meta") else { return };
    let recording = Recording::open(&path).expect("opened");
    let metadata = recording.metadata();
    assert_eq!(metadata.annotations.len(), 3);
    assert_eq!(metadata.annotations[1].comment.as_deref(), Some("logo spinup"));
    assert_eq!(metadata.captures[0].datetime.as_deref(), Some("2021-06-18T23:17:51.163959Z"));
    assert!(metadata.global.other.contains_key("core:sha512"));
    let mut reader = recording.reader().expect("readable");
    assert_eq!((reader.sample_rate(), reader.channels(), reader.total()), (48e3, 2, 288_000));
    let bytes = std::fs::read(recording.data_file()).expect("readable");
    let (mut block, mut at) = (Vec::new(), 0);
    while let Some(b) = reader.read(1000, &mut block).expect("read") {
        assert_eq!((b.start, b.frequency, b.capture), (at, None, Some(0)));
        for (x, raw) in block.iter().zip(bytes[at as usize * 4..].as_chunks::<2>().0) {
            assert_eq!((x.re, x.im), (f32::from(i16::from_le_bytes(*raw)) / 32768.0, 0.0));
        }
        at += b.frames as u64;
    }
    assert_eq!(at, 288_000);
}

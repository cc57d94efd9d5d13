use super::super::feed::Sending;
use super::super::network::{Line, Network};
use super::super::{Source, SourceConfig};
use super::*;
use crate::frame::{Counts, Gap, Outcome, SampleBlock, Stream};
use crate::ring::{WhenFull, ring};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const RATE: f64 = 1e6;

/// Compiles a library that stands in for SoapySDR; see there for the devices that it has.
fn fake(folder: &Path, flags: &[&str]) -> PathBuf {
    let (source, library) = (folder.join("fake.c"), folder.join("libfake.so"));
    std::fs::write(&source, include_str!("fake.c")).expect("written");
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).args(flags).output();
    let cc = cc.expect("a C compiler, which Rust links with too");
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    library
}

fn radio(library: PathBuf, device: &str) -> Radio {
    Radio {
        device: device.into(),
        channel: 0,
        rate: RATE,
        frequency: 100e6,
        gain: Gain::Db(20.0),
        antenna: Some("RX".into()),
        ppm: 1,
        library: Some(library),
    }
}

/// Runs a receiver until so many samples are in frames or missing.
fn receive(radio: Radio, until: u64) -> (Vec<SampleBlock>, Counts) {
    let stream = Arc::new(Stream::new("radio", 0, None, 0, true));
    let (tx, frames) = ring(4096, WhenFull::EvictOldest);
    let intake = Arc::new(Intake::new(stream.clone(), vec![tx], 8));
    let format = "cf32".parse().expect("a form");
    let ring = Duration::from_secs(10);
    let sending = Sending { format, rate: RATE, frequency: Some(100e6), block: 1000, ring, accuracy: None };
    let config = SourceConfig { reconnect_min: Duration::from_millis(1), ..SourceConfig::at("soapy://fake") };
    let source = Box::new(Network::new("radio", &config, Line::Soapy(radio), sending));
    let running = std::thread::spawn({
        let intake = intake.clone();
        move || source.run(intake)
    });
    let mut blocks: Vec<SampleBlock> = Vec::new();
    while blocks.last().map_or(0, SampleBlock::end) < until {
        let frame = frames.recv_timeout(Duration::from_secs(20)).expect("a block");
        frame.ticket.mark(Outcome::OnTime);
        blocks.push(SampleBlock::clone(frame.payload.samples().expect("samples")));
    }
    intake.stop();
    running.join().expect("no panic").expect("no lasting trouble");
    (blocks, stream.ledger.counts())
}

/// What sample `k` of the device is.
fn sample(k: u64) -> f32 {
    (k % 4096) as f32 / 4096.0
}

#[test]
fn every_sample_is_in_a_block_or_in_the_gap_of_an_overflow() {
    let folder = tempfile::tempdir().expect("folder");
    let library = fake(folder.path(), &[]);
    // The fifth read loses 777 samples; each read gives up to 640 samples.
    let (blocks, counts) = receive(radio(library.clone(), "driver=fake,time=1"), 20_000);
    let mut end = 0;
    for block in &blocks {
        assert_eq!(block.position, end + block.gap.map_or(0, |g| g.samples));
        for (i, s) in block.samples.iter().enumerate() {
            assert_eq!((s.re, s.im), (sample(block.position + i as u64), -0.5), "sample {i} of {}", block.position);
        }
        end = block.end();
    }
    let gaps: Vec<Gap> = blocks.iter().filter_map(|b| b.gap).collect();
    assert_eq!(gaps.len(), 1);
    assert!(gaps[0].cause == GapCause::Overrun && (777..777 + 125).contains(&gaps[0].samples), "{gaps:?}");
    assert_eq!(counts.lost[GapCause::Overrun as usize], gaps[0].samples);
    // Without a clock of its own the host's says how many are missing: one at least.
    let (blocks, counts) = receive(radio(library, "driver=fake"), 20_000);
    let gaps: Vec<Gap> = blocks.iter().filter_map(|b| b.gap).collect();
    assert!(gaps.len() == 1 && gaps[0].cause == GapCause::Overrun && gaps[0].samples >= 1, "{gaps:?}");
    assert_eq!(counts.lost[GapCause::Overrun as usize], gaps[0].samples);
}

#[test]
fn a_receiver_that_is_unplugged_is_opened_again() {
    let folder = tempfile::tempdir().expect("folder");
    let library = fake(folder.path(), &[]);
    let (blocks, counts) = receive(radio(library, "driver=fake,fail=8"), 30_000);
    assert!(counts.reconnects >= 1);
    let again = blocks.iter().filter(|b| b.gap.is_some_and(|g| g.cause == GapCause::Reconnect)).count();
    assert!(again >= 1, "{again}");
    let known = counts.samples + counts.lost.iter().sum::<u64>();
    assert!(known >= blocks.last().map_or(0, SampleBlock::end));
}

#[test]
fn what_is_wrong_with_library_or_device_is_said() {
    let folder = tempfile::tempdir().expect("folder");
    let library = fake(folder.path(), &[]);
    let stream = Arc::new(Stream::new("radio", 0, None, 0, true));
    let intake = Intake::new(stream, Vec::new(), 8);
    let fails = |radio: Radio| match radio.connect(&intake) {
        Err(Trouble::Lasting(why)) => format!("lasting: {why}"),
        Err(Trouble::Passing(why)) => format!("passing: {why}"),
        Ok(_) => panic!("it connects"),
    };
    let lacks = |radio: Radio, part: &str| {
        let why = fails(radio);
        assert!(why.contains(part), "{why}");
    };
    let good = radio(library.clone(), "driver=fake");
    lacks(radio(folder.path().join("none.so"), "driver=fake"), "lasting: SoapySDR is not there");
    lacks(radio(folder.path().join("fake.c"), "driver=fake"), "lasting: SoapySDR is not there");
    lacks(radio(library.clone(), "driver=other"), "passing: driver=other: there is no such device: no match");
    lacks(Radio { rate: 3e6, ..good.clone() }, "2000000 samples a second, not 3000000");
    lacks(Radio { antenna: Some("TX".into()), ..good.clone() }, "the antenna `TX`: no such antenna (not supported)");
    lacks(Radio { device: "driver=fake,closed=1".into(), ..good.clone() }, "gives no stream: busy");
    lacks(Radio { device: "a\0b".into(), ..good }, "zero character");
    let other = tempfile::tempdir().expect("folder");
    let old = fake(other.path(), &["-DABI=\"0.7\""]);
    lacks(radio(old, "driver=fake"), "its binary interface is 0.7, and framegate speaks 0.8");
    let other = tempfile::tempdir().expect("folder");
    let half = fake(other.path(), &["-DHALF"]);
    lacks(radio(half, "driver=fake"), "it has no function SoapySDRDevice_readStream");
}

#[test]
fn an_overflow_costs_what_the_clocks_say() {
    let ms = clock::MILLI;
    let mut gauge = Gauge::new(RATE);
    gauge.overflow();
    // Before the first sample there was no stream.
    assert_eq!(gauge.samples(1000, Some(5_000_000), 10 * ms), 0);
    assert_eq!(gauge.samples(1000, Some(6_000_000), 11 * ms), 0);
    gauge.overflow();
    assert_eq!(gauge.samples(1000, Some(7_300_000), 50 * ms), 300);
    gauge.overflow();
    // A clock that did not move: something is missing all the same.
    assert_eq!(gauge.samples(1000, Some(8_300_000), 51 * ms), 1);
    gauge.overflow();
    assert_eq!(gauge.samples(1000, None, 54 * ms), 2000);
    gauge.overflow();
    assert_eq!(gauge.samples(1000, Some(1), 54 * ms), 1);
}

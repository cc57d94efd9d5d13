//! Sources against real files, servers and cameras' habits.

mod common;
#[path = "common/intake.rs"]
mod intake;

use framegate::source::{Context, Pace, SourceConfig};
use intake::Running;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn offline() -> Context {
    Context { live: false, ..Context::default() }
}

fn file(path: &Path) -> SourceConfig {
    SourceConfig::at(format!("file://{}", path.display()))
}

fn clips() -> Vec<PathBuf> {
    let Some(root) = common::shared_data("video") else { return Vec::new() };
    let mut clips: Vec<PathBuf> = std::fs::read_dir(root)
        .expect("readable")
        .flatten()
        .flat_map(|dir| std::fs::read_dir(dir.path()).expect("readable").flatten().map(|e| e.path()))
        .collect();
    clips.sort();
    clips
}

#[test]
fn every_frame_of_every_clip_comes_once_in_order_and_twice_the_same() {
    for (name, frames) in [
        ("asl_again.mkv", 77),
        ("bottle-detection.mp4", 1189),
        ("car-detection.mp4", 377),
        ("one-by-one-person-detection.mp4", 1394),
        ("gaussian_plume_demo.avi", 60),
        ("example_video.mp4", 431),
        ("test_video.mp4", 10),
    ] {
        let Some(clip) = clips().into_iter().find(|c| c.ends_with(name)) else { continue };
        let run = || {
            let running = Running::start(&file(&clip), &offline()).expect("starts");
            let mut seen = running.to_end();
            let (result, counts) = running.finish();
            result.expect("ends well");
            assert_eq!((counts.captured, counts.on_time), (seen.len() as u64, seen.len() as u64), "{name}");
            assert!(seen.iter().enumerate().all(|(i, s)| s.seq == i as u64), "{name}: in order");
            assert!(seen.windows(2).all(|w| w[0].pts < w[1].pts), "{name}: stream time rises");
            seen.iter_mut().for_each(|s| (s.captured, s.complete, s.decoded) = (0, 0, 0));
            seen
        };
        let first = run();
        assert_eq!(first.len(), frames, "{name}");
        assert_eq!(first, run(), "{name}: two runs differ");
    }
}

#[test]
fn a_clip_at_live_pace_keeps_its_rate_and_is_captured_when_released() {
    let Some(clip) = common::shared_data("video/plume/gaussian_plume_demo.avi") else { return };
    let config = SourceConfig { pace: Some(Pace::Live), repeat: true, ..file(&clip) };
    let running = Running::start(&config, &Context::default()).expect("starts");
    let seen = running.take(150, Duration::from_secs(5));
    let (_, counts) = running.stop();
    assert_eq!(seen.len(), 150);
    let span = (seen[149].captured - seen[0].captured) as f64 / 1e9;
    assert!((2.3..3.5).contains(&span), "149 intervals of 1/60 s took {span} s");
    assert!(seen.iter().all(|s| s.captured <= s.complete && s.complete <= s.decoded));
    assert!(seen.windows(2).all(|w| w[0].seq < w[1].seq && w[0].pts < w[1].pts), "time goes on through the loop");
    assert_eq!(counts.captured, counts.ended());
}

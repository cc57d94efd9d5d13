//! Sources against real files, servers and cameras' habits.

mod common;
#[path = "common/intake.rs"]
mod intake;
#[path = "common/mjpeg.rs"]
mod mjpeg;
#[path = "common/rtsp.rs"]
mod rtsp;

use framegate::frame::{PixelFormat, Signal};
use framegate::source::{Context, Pace, SourceConfig, Transport};
use gstreamer::prelude::*;
use intake::{Running, Seen};
use rtsp::{Options, Server};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long anything may take on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(15);

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
    let seen = running.take(150, PATIENCE);
    let (_, counts) = running.stop();
    assert_eq!(seen.len(), 150);
    let span = (seen[149].captured - seen[0].captured) as f64 / 1e9;
    assert!((2.3..3.5).contains(&span), "149 intervals of 1/60 s took {span} s");
    assert!(seen.iter().all(|s| s.captured <= s.complete && s.complete <= s.decoded));
    assert!(seen.windows(2).all(|w| w[0].seq < w[1].seq && w[0].pts < w[1].pts), "time goes on through the loop");
    assert_eq!(counts.captured, counts.ended());
}

/// Encodes a clip of 90 pictures with B-frames.
fn reordered(encoder: &str, container: &str) -> tempfile::NamedTempFile {
    gstreamer::init().expect("GStreamer");
    let clip = tempfile::Builder::new().suffix(&format!(".{container}")).tempfile().expect("temp file");
    let muxer = if container == "mkv" { "matroskamux" } else { "mp4mux" };
    let writer = gstreamer::parse::launch(&format!(
        "videotestsrc num-buffers=90 pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! {encoder} ! {muxer} ! filesink location={}",
        clip.path().display()
    ));
    let writer = writer.expect("the elements are there");
    writer.set_state(gstreamer::State::Playing).expect("plays");
    let kinds = [gstreamer::MessageType::Eos, gstreamer::MessageType::Error];
    let ended = writer.bus().expect("a bus").timed_pop_filtered(gstreamer::ClockTime::from_seconds(30), &kinds);
    assert_eq!(ended.map(|m| m.type_()), Some(gstreamer::MessageType::Eos), "{encoder}");
    writer.set_state(gstreamer::State::Null).expect("stops");
    clip
}

#[test]
fn b_frames_of_a_recording_cost_no_time_whether_or_not_it_stores_decoding_times() {
    for (encoder, container) in [
        ("x264enc bframes=2 b-adapt=false speed-preset=ultrafast ! h264parse", "mp4"),
        ("x264enc bframes=2 b-adapt=false speed-preset=ultrafast ! h264parse", "mkv"),
        ("x264enc bframes=3 b-pyramid=true b-adapt=false speed-preset=ultrafast ! h264parse", "mkv"),
        ("x264enc bframes=0 speed-preset=ultrafast ! h264parse", "mkv"),
        ("x265enc speed-preset=ultrafast option-string=bframes=3:b-adapt=0 ! h265parse", "mkv"),
    ] {
        let what = format!("{encoder} in {container}");
        let clip = reordered(encoder, container);
        let config = SourceConfig { pace: Some(Pace::Live), ..file(clip.path()) };
        let running = Running::start(&config, &live()).expect("starts");
        let seen = running.to_end();
        let (result, counts) = running.finish();
        result.expect("ends well");
        assert_eq!((counts.captured, seen.len()), (90, 90), "{what}: {counts:?}");
        let due = |i: usize| i as u64 * 1_000_000_000 / 30;
        let wrong = seen.iter().enumerate().find(|(i, s)| s.pts.is_none_or(|p| p.abs_diff(due(*i)) > 1_000_000));
        assert!(wrong.is_none(), "{what}: {wrong:?}");
        let apart = |w: &[Seen]| w[1].captured.saturating_sub(w[0].captured);
        let middle = quantile(seen.windows(2).map(apart).collect(), 0.5);
        assert!(middle.abs_diff(33_333_333) < 3_000_000, "{what}: captured {middle} ns apart");
        let waits: Vec<u64> = seen.iter().map(|s| s.decoded.saturating_sub(s.captured)).collect();
        println!(
            "{what}: decoded after {} ns, {} at the 90th percentile",
            quantile(waits.clone(), 0.5),
            quantile(waits.clone(), 0.9)
        );
        assert!(quantile(waits, 0.75) < 30_000_000, "{what}: a frame time and more from capture to picture");
    }
}

fn live() -> Context {
    Context::default()
}

fn camera(server: &Server) -> SourceConfig {
    SourceConfig::at(server.uri())
}

/// Takes frames until `n` have come; says what was seen and the number burnt into each picture.
fn numbered(running: &Running, n: usize) -> Vec<(Seen, Option<u64>)> {
    std::iter::from_fn(|| {
        let (seen, frame) = running.next(PATIENCE)?;
        let number = rtsp::read_number(frame.payload.picture().expect("picture"));
        Some((seen, number))
    })
    .take(n)
    .collect()
}

fn quantile(mut values: Vec<u64>, q: f64) -> u64 {
    values.sort_unstable();
    values[((values.len() - 1) as f64 * q) as usize]
}

#[test]
fn an_rtsp_frame_is_captured_when_its_first_packet_arrives() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let server = Server::start(Options::default());
        let config =
            SourceConfig { transport: Some(transport), latency: Some(Duration::from_millis(150)), ..camera(&server) };
        let running = Running::start(&config, &live()).expect("starts");
        let seen = numbered(&running, 60);
        let (_, counts) = running.stop();
        assert_eq!(seen.len(), 60, "{transport:?}: {counts:?}");
        // Two units that reach a jitter buffer at once may get the same time from it.
        let rising = |w: &[(Seen, Option<u64>)]| w[0].0.seq < w[1].0.seq && w[0].0.pts <= w[1].0.pts;
        assert!(seen.windows(2).all(rising), "{transport:?}: {seen:?}");
        let sent = server.sent();
        let delay: Vec<u64> = seen
            .iter()
            .filter_map(|(s, n)| {
                let at = sent.iter().find(|(m, _)| Some(*m) == *n)?.1;
                assert!(s.captured >= at, "{transport:?}: captured before it was sent");
                assert!(s.captured <= s.complete && s.complete <= s.decoded, "{transport:?}: {s:?}");
                Some(s.captured - at)
            })
            .collect();
        let read: Vec<_> = seen.iter().map(|(_, n)| *n).collect();
        assert!(delay.len() >= 55, "{transport:?}: numbers read {read:?}, sent {sent:?}");
        let median = quantile(delay, 0.5);
        assert!(
            median < 5_000_000,
            "{transport:?}: captured {median} ns after it was sent, at 150 ms of jitter buffer"
        );
    }
}

#[test]
fn every_kind_of_camera_stream_comes_through_in_order_and_in_its_own_format() {
    use PixelFormat as P;
    for (what, format, encoder, expected) in [
        ("baseline", "I420", rtsp::h264("tune=zerolatency ! video/x-h264,profile=baseline"), P::I420),
        ("one slice", "I420", rtsp::h264("tune=zerolatency sliced-threads=false threads=1"), P::I420),
        ("B-frames", "I420", rtsp::h264("bframes=2 b-adapt=false rc-lookahead=2 threads=1"), P::I420),
        ("4:2:2", "Y42B", rtsp::h264("tune=zerolatency"), P::Y42b),
        ("4:4:4", "Y444", rtsp::h264("tune=zerolatency"), P::Y444),
        ("10 bits", "I420_10LE", rtsp::h264("tune=zerolatency"), P::I420_10),
        ("H.265", "I420", rtsp::h265("tune=zerolatency"), P::I420),
        ("JPEG", "I420", "jpegenc ! rtpjpegpay name=pay0".to_owned(), P::I420),
    ] {
        let server = Server::start(Options { format, encoder, ..Options::default() });
        let running = Running::start(&camera(&server), &live()).expect("starts");
        let first = running.next(PATIENCE).unwrap_or_else(|| panic!("{what}: {:?}", running.stream.signal()));
        assert_eq!(first.1.payload.picture().expect("picture").format, expected, "{what}");
        drop(first);
        let seen = numbered(&running, 40);
        let (_, counts) = running.stop();
        assert_eq!(seen.len(), 40, "{what}: {counts:?}");
        let times: Vec<_> = seen.iter().map(|(s, _)| s.pts).collect();
        assert!(times.windows(2).all(|w| w[0] < w[1]), "{what}: in order of presentation: {times:?}");
        let numbers: Vec<u64> = seen.iter().filter_map(|(_, n)| *n).collect();
        if expected == P::I420 || expected == P::Y444 {
            assert!(numbers.len() >= 35 && numbers.windows(2).all(|w| w[1] == w[0] + 1), "{what}: {numbers:?}");
        }
        assert!(seen.iter().all(|(s, _)| s.size == (640, 360)), "{what}");
    }
}

#[test]
fn a_camera_that_hangs_with_its_connection_open_is_connected_again() {
    let server = Server::start(Options::default());
    let config = SourceConfig {
        stall_timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_millis(900),
        ..camera(&server)
    };
    let running = Running::start(&config, &live()).expect("starts");
    assert_eq!(running.take(10, PATIENCE).len(), 10);
    server.mute(true);
    let signal = running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE);
    assert!(matches!(&signal, Signal::Down(why) if why.contains("no frame for")), "{signal:?}");
    server.mute(false);
    while running.next(Duration::ZERO).is_some() {}
    assert_eq!(running.take(10, PATIENCE).len(), 10);
    let (_, counts) = running.stop();
    assert!(counts.reconnects >= 1, "{counts:?}");
}

#[test]
fn lost_packets_cost_few_frames_and_damaged_ones_no_connection() {
    let udp = |loss, damage| {
        let server = Server::start(Options { loss, damage, width: 1280, height: 720, ..Options::default() });
        let config = SourceConfig { transport: Some(Transport::Udp), ..camera(&server) };
        let running = Running::start(&config, &live()).expect("starts");
        let seen = running.take(200, PATIENCE);
        let (_, counts) = running.stop();
        assert_eq!(seen.len(), 200, "loss {loss}, damage {damage}: {counts:?}");
        let wait = quantile(seen.iter().map(|s| s.decoded - s.captured).collect(), 0.5);
        println!("loss {loss}, damage {damage}: {counts:?}, median {wait} ns");
        (counts, wait)
    };
    let (_, usual) = udp(0.0, 0.0);
    let (counts, wait) = udp(0.01, 0.0);
    assert!(counts.failed[0] <= 10, "{counts:?}");
    assert!(wait < 2 * usual + 20_000_000, "{wait} ns from capture to picture, {usual} without loss");
    let (counts, _) = udp(0.0, 0.02);
    assert_eq!(counts.reconnects, 0);
}

#[test]
fn a_picture_whose_last_packet_is_lost_does_not_wait_for_the_next_one() {
    for (transport, encoder) in [
        (Transport::Udp, rtsp::h264("tune=zerolatency")),
        (Transport::Udp, rtsp::h264("tune=zerolatency sliced-threads=false threads=1")),
        (Transport::Udp, rtsp::h265("tune=zerolatency")),
        (Transport::Auto, rtsp::h264("tune=zerolatency")),
    ] {
        let what = format!("{transport:?}, {encoder}");
        let server = Server::start(Options { lose_last: 7, pattern: "snow", encoder, ..Options::default() });
        let config = SourceConfig { transport: Some(transport), ..camera(&server) };
        let running = Running::start(&config, &live()).expect("starts");
        let seen = numbered(&running, 150);
        let (_, counts) = running.stop();
        assert_eq!(seen.len(), 150, "{what}: {counts:?}");
        let cut = server.cut();
        // Of some damaged pictures the number cannot be read; each counts one further than the one before.
        let offset = seen.iter().find_map(|(s, n)| Some((*n)? - s.seq)).expect("numbers are readable");
        // The next picture's first packet comes a frame time later; the first second is the encoder's and the decoder's.
        let early: Vec<bool> = seen[30..]
            .windows(2)
            .filter(|w| cut.contains(&(w[0].0.seq + offset)))
            .map(|w| w[0].0.decoded < w[1].0.captured)
            .collect();
        let good = early.iter().filter(|e| **e).count();
        println!("{what}: {good} of {} ended before the next one began, {counts:?}", early.len());
        assert!(early.len() >= 10, "{what}: {cut:?}, {:?}", seen.iter().map(|(_, n)| *n).collect::<Vec<_>>());
        // None would without the closing; on a machine that is busy a stream is given more time.
        assert!(good * 4 >= early.len(), "{what}: {good} of {}", early.len());
        assert!(counts.failed[0] <= 5, "{what}: {counts:?}");
    }
}

#[test]
fn a_wrong_address_is_told_in_the_signal() {
    let server = Server::start(Options::default());
    let running = Running::start(&SourceConfig::at(server.uri().replace("/cam", "/other")), &live()).expect("starts");
    let signal = running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE);
    assert!(matches!(&signal, Signal::Down(why) if why.to_lowercase().contains("not found")), "{signal:?}");
    running.stop().0.expect("ends well");
}

#[test]
fn test_scenes_are_drawn_encoded_and_decoded_at_their_rate() {
    for (name, encoded) in [("pitch-numbered", true), ("ball", true), ("pitch", false), ("smpte", false)] {
        let config = SourceConfig {
            width: Some(640),
            height: Some(360),
            fps: Some(30.0),
            encoded,
            ..SourceConfig::at(format!("test://{name}"))
        };
        let running = Running::start(&config, &live()).expect("starts");
        let seen = numbered(&running, 60);
        let (result, counts) = running.stop();
        result.expect("ends well");
        assert_eq!(seen.len(), 60, "{name}: {counts:?}");
        let span = (seen[59].0.captured - seen[0].0.captured) as f64 / 1e9;
        assert!((1.7..4.0).contains(&span), "{name}: 59 intervals of 1/30 s took {span} s");
        if name == "pitch-numbered" {
            assert!(seen.iter().filter(|(_, n)| n.is_some()).count() >= 58, "{name}: numbers are readable");
        }
    }
}

#[test]
fn a_launch_description_ends_reconnects_or_changes_its_caps_as_it_likes() {
    let at = |text: &str| SourceConfig { launch: Some(text.to_owned()), ..SourceConfig::default() };
    let finite =
        Running::start(&at("videotestsrc num-buffers=20 ! video/x-raw,format=YUY2,width=320,height=240"), &live());
    let finite = finite.expect("starts");
    let (_, frame) = finite.next(PATIENCE).expect("a frame");
    assert_eq!(frame.payload.picture().expect("picture").format, PixelFormat::Y42b, "4:2:2 stays 4:2:2");
    drop(frame);
    finite.wait_for(|s| *s == Signal::Ended, PATIENCE);
    let (result, counts) = finite.finish();
    result.expect("ends well");
    assert_eq!(counts.captured, 20);

    let sizes = "concat name=c ! identity \
        videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=320,height=240 ! c. \
        videotestsrc num-buffers=10 ! video/x-raw,format=NV12,width=640,height=480 ! c.";
    let running = Running::start(&at(sizes), &live()).expect("starts");
    let seen = running.take(20, PATIENCE);
    let (result, _) = running.finish();
    result.expect("ends well");
    assert_eq!(seen.iter().map(|s| s.size.0).collect::<Vec<_>>(), [[320; 10], [640; 10]].concat());
}

#[test]
fn a_picture_that_freezes_is_noticed() {
    let config = SourceConfig {
        launch: Some("videotestsrc is-live=true pattern=smpte100 ! video/x-raw,width=320,height=240".to_owned()),
        freeze_timeout: Some(Duration::from_millis(300)),
        ..SourceConfig::default()
    };
    let running = Running::start(&config, &live()).expect("starts");
    let signal = running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE);
    assert!(matches!(&signal, Signal::Down(why) if why.contains("same picture")), "{signal:?}");
    running.stop().0.expect("ends well");
}

#[test]
fn an_absent_v4l2_camera_is_waited_for() {
    let running = Running::start(&SourceConfig::at("v4l2:///dev/video97"), &live()).expect("starts");
    let signal = running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE);
    assert_eq!(signal, Signal::Down("/dev/video97 does not exist".to_owned()));
    let (result, _) = running.stop();
    result.expect("no error");
}

#[test]
fn pictures_come_in_name_order_and_keep_their_colour() {
    let Some(dir) = common::shared_data("images/misc") else { return };
    let config = SourceConfig::at(format!("file://{}/*.jpg", dir.display()));
    let running = Running::start(&config, &offline()).expect("starts");
    let seen = running.to_end();
    let (result, counts) = running.finish();
    result.expect("ends well");
    assert_eq!(counts.captured, 4);
    let sizes: Vec<_> = seen.iter().map(|s| s.size).collect();
    let mut names: Vec<_> = std::fs::read_dir(dir).expect("readable").flatten().map(|e| e.path()).collect();
    names.sort();
    let expected: Vec<_> = names
        .iter()
        .map(|p| {
            let m =
                opencv::imgcodecs::imread(p.to_str().expect("UTF-8"), opencv::imgcodecs::IMREAD_COLOR).expect("reads");
            use opencv::core::MatTraitConst;
            (m.cols() as u32, m.rows() as u32)
        })
        .collect();
    assert_eq!(sizes, expected);
}

#[test]
fn files_that_are_damaged_empty_or_no_video_are_errors_that_name_the_file() {
    let dir = tempfile::tempdir().expect("temp dir");
    for (name, bytes) in [("empty.mp4", vec![]), ("noise.mp4", (0..50_000u32).map(|i| ((i * 7) >> 3) as u8).collect())]
    {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("write");
        let running = Running::start(&file(&path), &offline()).expect("the file is there");
        let (result, counts) = running.finish();
        let message = result.expect_err("no video").to_string();
        assert!(message.contains(name), "{message}");
        assert_eq!(counts.captured, 0);
    }
}

#[test]
fn mjpeg_over_http_is_captured_at_its_arrival_and_recovers() {
    let server = mjpeg::Server::start();
    let running = Running::start(&SourceConfig::at(server.uri()), &live()).expect("starts");
    let seen = running.take(30, PATIENCE);
    assert_eq!(seen.len(), 30, "{:?}", running.stream.signal());
    let sent = server.sent();
    let delays: Vec<u64> =
        seen.iter().filter_map(|s| sent.iter().filter(|t| **t <= s.captured).map(|t| s.captured - t).min()).collect();
    let median = quantile(delays, 0.5);
    assert!(median < 20_000_000, "captured {median} ns after it was sent, one every 40 ms");
    server.drop_clients();
    running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE);
    while running.next(Duration::ZERO).is_some() {}
    assert_eq!(running.take(10, PATIENCE).len(), 10);
    running.stop().0.expect("ends well");
}

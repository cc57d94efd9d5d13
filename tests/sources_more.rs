//! Sources against what cameras and networks do less often: logins, frozen servers, jumps in time, segmented streams,
//! turned pictures, drivers with few buffers, and an end at any moment.

#[path = "common/bounded.rs"]
mod bounded;
mod common;
#[path = "common/hls.rs"]
mod hls;
#[path = "common/intake.rs"]
mod intake;
#[path = "common/mjpeg.rs"]
mod mjpeg;
#[path = "common/rtsp.rs"]
mod rtsp;

use framegate::frame::{Orientation, Signal};
use framegate::source::{Context, Pace, Secret, SourceConfig, Transport};
use gstreamer as gst;
use gstreamer::prelude::*;
use intake::{Running, Seen};
use rtsp::{Login, Options, Server};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(15);

fn live() -> Context {
    Context::default()
}

fn small() -> Options {
    Options { width: 416, height: 240, ..Options::default() }
}

fn launch(text: &str) -> SourceConfig {
    SourceConfig { launch: Some(text.to_owned()), ..SourceConfig::default() }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Takes `n` frames and reads the number burnt into each.
fn numbers(running: &Running, n: usize) -> Vec<(Seen, Option<u64>)> {
    std::iter::from_fn(|| {
        let (seen, frame) = running.next(PATIENCE)?;
        let number = rtsp::read_number(frame.payload.picture().expect("picture"));
        Some((seen, number))
    })
    .take(n)
    .collect()
}

#[test]
fn segments_arrive_in_bursts_and_are_captured_when_paced_out() {
    let server = hls::Server::start();
    let running = Running::start(&SourceConfig::at(server.uri()), &live()).expect("starts");
    let seen = running.take(100, PATIENCE);
    assert_eq!(seen.len(), 100, "{:?}", running.stream.signal());
    let spans: Vec<u64> = seen.windows(2).map(|w| w[1].captured - w[0].captured).collect();
    let middle = median(spans) as f64 / 1e6;
    assert!((28.0..39.0).contains(&middle), "{middle} ms between frames, 33.3 in the stream");
    let waited = median(seen.iter().map(|s| s.decoded - s.captured).collect());
    assert!(waited < 100_000_000, "{waited} ns from capture to picture: the burst's wait is not part of it");
    assert!(seen.windows(2).all(|w| w[0].seq < w[1].seq && w[0].pts < w[1].pts), "in order");
    server.refuse(true);
    running.wait_for(|s| matches!(s, Signal::Down(_)), Duration::from_secs(30));
    server.refuse(false);
    while running.next(Duration::ZERO).is_some() {}
    assert_eq!(running.take(10, PATIENCE).len(), 10, "{:?}", running.stream.signal());
    running.stop().0.expect("ends well");
}

#[test]
fn segments_behind_a_login_are_read_with_the_keys_and_refused_without() {
    // viewer:sesame@9
    let server = hls::Server::start_for(Some("Basic dmlld2VyOnNlc2FtZUA5"));
    let with = |password: &str| SourceConfig {
        user: Some("viewer".to_owned()),
        password: Some(Secret(password.to_owned())),
        ..SourceConfig::at(server.uri())
    };
    let running = Running::start(&with("sesame@9"), &live()).expect("starts");
    assert_eq!(running.take(50, PATIENCE).len(), 50, "{:?}", running.stream.signal());
    running.stop().0.expect("ends well");
    let running = Running::start(&with("wrong@7"), &live()).expect("starts");
    let Signal::Down(why) = running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE) else {
        unreachable!("waited for")
    };
    assert!(why.to_lowercase().contains("authori") && !why.contains("wrong"), "{why}");
    assert_eq!(running.stop().1.captured, 0);
}

#[test]
fn the_right_password_opens_a_camera_and_a_wrong_one_is_named_but_not_shown() {
    for digest in [false, true] {
        let login = Login { digest, user: "viewer", password: "sesame-9" };
        let server = Server::start(Options { login: Some(login), ..small() });
        let inside =
            |password: &str| SourceConfig::at(server.uri().replace("rtsp://", &format!("rtsp://viewer:{password}@")));
        let beside = |password: &str| SourceConfig {
            user: Some("viewer".to_owned()),
            password: Some(Secret(password.to_owned())),
            ..SourceConfig::at(server.uri())
        };
        for config in [inside("sesame-9"), beside("sesame-9")] {
            let running = Running::start(&config, &live()).expect("starts");
            assert_eq!(running.take(5, PATIENCE).len(), 5, "digest {digest}: {:?}", running.stream.signal());
            running.stop().0.expect("ends well");
        }
        for config in [inside("wrong-7"), beside("wrong-7"), SourceConfig::at(server.uri())] {
            let running = Running::start(&config, &live()).expect("starts");
            let signal = running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE);
            let Signal::Down(why) = signal else { unreachable!("waited for") };
            assert!(why.to_lowercase().contains("authori"), "digest {digest}: {why}");
            assert!(!why.contains("wrong-7") && !why.contains("sesame"), "{why}");
            let (result, counts) = running.stop();
            result.expect("a password can be set right while it runs");
            assert_eq!(counts.captured, 0);
        }
    }
}

#[test]
fn automatic_transport_takes_udp_and_else_tcp() {
    for tcp_only in [false, true] {
        let server = Server::start(Options { tcp_only, ..small() });
        let config = SourceConfig { transport: Some(Transport::Auto), ..SourceConfig::at(server.uri()) };
        let running = Running::start(&config, &live()).expect("starts");
        assert_eq!(running.take(30, PATIENCE).len(), 30, "TCP only {tcp_only}: {:?}", running.stream.signal());
        let (result, counts) = running.stop();
        result.expect("ends well");
        assert_eq!(counts.reconnects, 0, "TCP only {tcp_only}");
    }
}

/// A server in a process of its own, which can be frozen.
struct Frozen {
    process: Child,
    uri: String,
}

impl Frozen {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this test's program"))
            .args(["--exact", "a_server_for_another_test", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let uri = lines.map_while(Result::ok).find_map(|l| l.find("rtsp://").map(|i| l[i..].to_owned()));
        Self { process, uri: uri.expect("the server says its address") }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.process.id().to_string()]).status();
        assert!(sent.is_ok_and(|s| s.success()), "kill -{name}");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "the server's side of another test, which starts it"]
fn a_server_for_another_test() {
    let server = Server::start(small());
    println!("\n{}", server.uri());
    // Serves until the other side closes our input.
    std::io::stdin().read_to_end(&mut Vec::new()).expect("readable");
}

#[test]
fn a_server_frozen_with_its_sockets_open_is_noticed_and_found_again() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let server = Frozen::start();
        let config = SourceConfig {
            transport: Some(transport),
            stall_timeout: Duration::from_millis(600),
            connect_timeout: Duration::from_millis(1500),
            ..SourceConfig::at(&server.uri)
        };
        let running = Running::start(&config, &live()).expect("starts");
        assert_eq!(running.take(10, PATIENCE).len(), 10, "{transport:?}: {:?}", running.stream.signal());
        server.signal("STOP");
        let frozen = Instant::now();
        let stalled = |s: &Signal| matches!(s, Signal::Down(why) if why.contains("no frame for"));
        running.wait_for(stalled, PATIENCE);
        assert!(frozen.elapsed() < Duration::from_secs(4), "{transport:?}: noticed after {:?}", frozen.elapsed());
        // The kernel still accepts for it: attempts begin and get no answer.
        running.wait_for(|s| matches!(s, Signal::Down(_)) && !stalled(s), PATIENCE);
        server.signal("CONT");
        while running.next(Duration::ZERO).is_some() {}
        assert_eq!(running.take(10, PATIENCE).len(), 10, "{transport:?}: {:?}", running.stream.signal());
        let (result, counts) = running.stop();
        result.expect("ends well");
        assert!(counts.reconnects >= 1, "{transport:?}: {counts:?}");
    }
}

#[test]
fn a_jump_in_a_cameras_time_costs_no_frame() {
    for (transport, seconds) in
        [(Transport::Tcp, 100), (Transport::Tcp, -100), (Transport::Tcp, 1000), (Transport::Udp, 100)]
    {
        let server = Server::start(Options { jump: Some((40, seconds * 90_000)), ..small() });
        let config = SourceConfig { transport: Some(transport), ..SourceConfig::at(server.uri()) };
        let running = Running::start(&config, &live()).expect("starts");
        let seen = numbers(&running, 100);
        let what = format!("{transport:?}, {seconds} s");
        assert_eq!(seen.len(), 100, "{what}: {:?}", running.stream.signal());
        let (result, counts) = running.stop();
        result.expect("ends well");
        assert_eq!(counts.reconnects, 0, "{what}");
        let read: Vec<u64> = seen.iter().filter_map(|(_, n)| *n).collect();
        assert!(read.len() >= 98 && read.windows(2).all(|w| w[1] - w[0] <= 2), "{what}: {read:?}");
        let decoded = counts.captured - counts.failed[0] - counts.failed[4];
        assert!(decoded >= 100 && counts.failed[0] <= 2, "{what}: {counts:?}");
        let waited = median(seen[60..].iter().map(|(s, _)| s.decoded - s.captured).collect());
        assert!(waited < 100_000_000, "{what}: {waited} ns from capture to picture after the jump");
    }
}

#[test]
fn a_jump_of_stream_time_is_passed_on_and_the_stream_goes_on() {
    let text = "concat name=c adjust-base=false ! identity \
        videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=320,height=240 ! c. \
        videotestsrc num-buffers=20 timestamp-offset=9000000000 ! video/x-raw,format=I420,width=320,height=240 ! c. \
        videotestsrc num-buffers=20 timestamp-offset=1000000000 ! video/x-raw,format=I420,width=320,height=240 ! c.";
    let running = Running::start(&launch(text), &live()).expect("starts");
    let seen = running.take(60, PATIENCE);
    assert_eq!(seen.len(), 60, "{:?}", running.stream.signal());
    let step = |i: usize| seen[i].pts.zip(seen[i - 1].pts).map_or(0, |(b, a)| b as i64 - a as i64);
    assert!(step(20) > 5_000_000_000 && step(40) < -5_000_000_000, "{} and {} ns", step(20), step(40));
    assert!(seen.windows(2).all(|w| w[1].seq == w[0].seq + 1), "no frame is lost over it");
    running.finish().0.expect("ends well");
}

/// Writes a quarter turn into the matrix of an MP4 file's track header, as a telephone does.
fn turn(path: &Path) {
    let mut bytes = std::fs::read(path).expect("readable");
    let header = bytes.windows(4).position(|w| w == b"tkhd").expect("a track") + 4;
    let matrix: [u32; 9] = [0, 1 << 16, 0, 0xffff_0000, 0, 0, 240 << 16, 0, 1 << 30];
    for (i, word) in matrix.iter().enumerate() {
        bytes[header + 40 + i * 4..][..4].copy_from_slice(&word.to_be_bytes());
    }
    std::fs::write(path, bytes).expect("writable");
}

fn orientation(running: &Running) -> Orientation {
    let (_, frame) = running.next(PATIENCE).unwrap_or_else(|| panic!("{:?}", running.stream.signal()));
    frame.payload.picture().expect("picture").orientation
}

#[test]
fn a_turned_camera_is_told_by_its_tags_its_file_or_the_operator() {
    let turned = |quarter_turns, mirrored| Orientation { quarter_turns, mirrored };
    let tagged = |tag: &str, rotate| {
        let text = format!(
            "videotestsrc is-live=true ! video/x-raw,width=320,height=240 ! taginject tags=\"image-orientation={tag}\""
        );
        let running = Running::start(&SourceConfig { rotate, ..launch(&text) }, &live()).expect("starts");
        let seen = orientation(&running);
        running.stop().0.expect("ends well");
        seen
    };
    assert_eq!(tagged("rotate-90", 0), turned(1, false));
    assert_eq!(tagged("rotate-270", 180), turned(1, false));
    assert_eq!(tagged("flip-rotate-180", 0), turned(2, true));

    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("turned.mp4");
    gst::init().expect("GStreamer");
    let writer = gst::parse::launch(&format!(
        "videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=320,height=240 ! x264enc ! mp4mux \
         ! filesink location={}",
        path.display()
    ));
    let writer = writer.expect("the elements are there");
    writer.set_state(gst::State::Playing).expect("plays");
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let ended = writer.bus().expect("a bus").timed_pop_filtered(gst::ClockTime::from_seconds(20), &kinds);
    assert_eq!(ended.map(|m| m.type_()), Some(gst::MessageType::Eos));
    writer.set_state(gst::State::Null).expect("stops");
    turn(&path);
    for pace in [Pace::Fast, Pace::Live] {
        let config = SourceConfig { pace: Some(pace), ..SourceConfig::at(format!("file://{}", path.display())) };
        let running = Running::start(&config, &live()).expect("starts");
        assert_eq!(orientation(&running), turned(1, false), "{pace:?}");
        running.stop().0.expect("ends well");
    }
}

#[test]
fn pictures_of_a_pool_with_few_buffers_are_copied_and_counted_before_it_runs_dry() {
    bounded::register();
    let running = Running::start(&launch(bounded::NAME), &live()).expect("starts");
    // Nothing is held: nothing is copied.
    for _ in 0..20 {
        drop(running.next(PATIENCE).unwrap_or_else(|| panic!("{:?}", running.stream.signal())));
    }
    let copies = running.stream.ledger.counts().copies;
    let mut held = Vec::new();
    for i in 0..40 {
        let next = running.next(PATIENCE);
        held.push(next.unwrap_or_else(|| panic!("the source is stalled while {i} frames are held")));
    }
    let counts = running.stream.ledger.counts();
    assert!(counts.copies - copies >= 40 - u64::from(bounded::BUFFERS) + 2, "{copies}, then {counts:?}");
    assert!(copies < 20, "{copies} copies with nothing held");
    drop(held);
    running.stop().0.expect("ends well");
}

#[test]
fn a_stream_starts_whole_and_a_late_consumer_is_not_late_for_long() {
    // Without deadlines the ring blocks: while nobody takes frames, they pile up in the jitter buffer.
    let offline = Context { live: false, ..Context::default() };
    let late_after_a_hold_up = |drop_on_latency| {
        let server = Server::start(small());
        let config = SourceConfig {
            transport: Some(Transport::Udp),
            latency: Some(Duration::from_millis(100)),
            drop_on_latency,
            ..SourceConfig::at(server.uri())
        };
        let running = Running::start(&config, &offline).expect("starts");
        let read: Vec<_> = numbers(&running, 75).into_iter().map(|(_, n)| n).collect();
        let whole = read.windows(2).all(|w| w[0].zip(w[1]).is_some_and(|(a, b)| b == a + 1));
        assert!(whole, "{drop_on_latency:?}: the first frames are all there: {read:?}");
        let held_up = Instant::now();
        while held_up.elapsed() < Duration::from_millis(800) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let seen = running.take(60, PATIENCE);
        assert_eq!(seen.len(), 60, "{:?}", running.stream.signal());
        let (result, counts) = running.stop();
        result.expect("ends well");
        println!("{drop_on_latency:?}: {counts:?}");
        seen.iter().filter(|s| s.decoded - s.captured > 250_000_000).count()
    };
    let (kept, dropped) = (late_after_a_hold_up(Some(false)), late_after_a_hold_up(None));
    // A few are in the ring and in the decoder already.
    assert!(kept >= 10 && dropped <= 8, "{kept} frames late with nothing thrown away, {dropped} by default");
}

/// Stops a source while its frames are under way. [`Running`] checks that each has an outcome and none is lost.
fn stop_in_the_middle(what: &str, config: &SourceConfig, context: &Context) {
    for frames in [0, 1, 7] {
        let running = Running::start(config, context).expect("starts");
        assert_eq!(running.take(frames, PATIENCE).len(), frames, "{what}: {:?}", running.stream.signal());
        let (result, counts) = running.stop();
        result.unwrap_or_else(|e| panic!("{what}: {e}"));
        let others = counts.failed_total() - counts.failed[0] - counts.failed[4];
        assert_eq!((others, counts.late, counts.shed_total(), counts.evicted), (0, 0, 0, 0), "{what}: {counts:?}");
        assert_eq!(counts.captured, counts.on_time + counts.failed[0] + counts.failed[4], "{what}: {counts:?}");
        assert!(counts.on_time >= frames as u64, "{what}: {counts:?}");
    }
}

#[test]
fn a_stop_in_the_middle_leaves_no_frame_of_a_camera_without_an_outcome() {
    let server = Server::start(small());
    for transport in [Transport::Tcp, Transport::Udp, Transport::Auto] {
        let config = SourceConfig { transport: Some(transport), ..SourceConfig::at(server.uri()) };
        stop_in_the_middle(&format!("RTSP {transport:?}"), &config, &live());
    }
    let reordered = Server::start(Options { encoder: rtsp::h264("bframes=2 rc-lookahead=2 threads=1"), ..small() });
    stop_in_the_middle("B-frames", &SourceConfig::at(reordered.uri()), &live());
    let camera = mjpeg::Server::start();
    stop_in_the_middle("MJPEG", &SourceConfig::at(camera.uri()), &live());
    let segments = hls::Server::start();
    stop_in_the_middle("HLS", &SourceConfig::at(segments.uri()), &live());
}

#[test]
fn a_stop_in_the_middle_leaves_no_frame_of_a_scene_or_a_file_without_an_outcome() {
    let offline = Context { live: false, ..Context::default() };
    for (name, encoded) in [("ball", true), ("pitch", true), ("pitch", false)] {
        let (width, height) = (Some(640), Some(360));
        let config = SourceConfig { width, height, encoded, ..SourceConfig::at(format!("test://{name}")) };
        stop_in_the_middle(name, &config, &live());
    }
    stop_in_the_middle("launch", &launch("videotestsrc is-live=true ! video/x-raw,width=320,height=240"), &live());
    let endless = launch("videotestsrc ! video/x-raw,width=320,height=240");
    stop_in_the_middle("launch that is held up", &endless, &offline);
    if let Some(clip) = common::shared_data("video/intel/one-by-one-person-detection.mp4") {
        let file = |pace| SourceConfig { pace: Some(pace), ..SourceConfig::at(format!("file://{}", clip.display())) };
        stop_in_the_middle("file, live", &file(Pace::Live), &live());
        stop_in_the_middle("file, fast", &file(Pace::Fast), &offline);
    }
    if let Some(dir) = common::shared_data("images/misc") {
        let at = SourceConfig { repeat: true, ..SourceConfig::at(format!("file://{}/*.jpg", dir.display())) };
        stop_in_the_middle("pictures, live", &SourceConfig { pace: Some(Pace::Live), ..at.clone() }, &live());
        stop_in_the_middle("pictures, fast", &at, &offline);
    }
}

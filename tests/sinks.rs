//! Sinks against the real things: files, a broker, a decoder.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod common {
    pub mod record;
}

use common::record::{picture_record, record, stream};
use framegate::frame::clock::MILLI;
use framegate::sink::{Sink, SinkConfig, from_toml};
use framegate::stage::BuildContext;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSink;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

fn context(id: &str) -> BuildContext {
    BuildContext { id: id.into(), ..Default::default() }
}

fn open(kind: &str, text: &str) -> Box<dyn Sink> {
    let config: Box<dyn SinkConfig> = from_toml(kind, text).expect("the text is right");
    config.open(&context("test")).expect("the sink opens")
}

/// Waits until the condition holds, at most `LONG`.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// ---------------------------------------------------------------------------------------------------------- jsonl

#[test]
fn every_stream_gets_a_file_of_whole_lines_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open("jsonl", &format!("path = \"{}/{{pipeline}}/{{stream}}.jsonl\"", dir.path().display()));
    let (a, b) = (stream("cam0"), stream("cam1"));
    for seq in 0..3 {
        sink.deliver(&Arc::new(record(&a, seq))).unwrap();
    }
    sink.deliver(&Arc::new(record(&b, 9))).unwrap();
    // Without flush and without closing.
    let text = std::fs::read_to_string(dir.path().join("entrance/cam0.jsonl")).unwrap();
    let seqs: Vec<u64> =
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [0, 1, 2]);
    assert!(text.ends_with('\n'));
    assert_eq!(std::fs::read_to_string(dir.path().join("entrance/cam1.jsonl")).unwrap().lines().count(), 1);
}

#[test]
fn a_rotated_file_loses_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.jsonl");
    let mut sink = open("jsonl", &format!("path = \"{}\"\nrotate = {{ size = \"2KiB\" }}", path.display()));
    let cam = stream("cam0");
    for seq in 0..100 {
        sink.deliver(&Arc::new(record(&cam, seq))).unwrap();
    }
    let mut seqs = Vec::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.metadata().unwrap().len() <= 2048);
        for line in std::fs::read_to_string(entry.path()).unwrap().lines() {
            seqs.push(serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap());
        }
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (0..100).collect::<Vec<_>>());
}

#[test]
fn unknown_keys_and_kinds_are_refused_with_their_name() {
    assert!(from_toml("jsonl", "pth = \"-\"").is_err_and(|e| e.0.contains("pth")));
    assert!(from_toml("jsonl", "rotate = { size = \"big\" }").is_err_and(|e| e.0.contains("big")));
    assert!(from_toml("carrier-pigeon", "").is_err_and(|e| e.0.contains("carrier-pigeon")));
}

// ----------------------------------------------------------------------------------------------------------- mqtt

/// A mosquitto of the test's own on a loopback port.
struct Broker {
    child: Child,
    port: u16,
    config: PathBuf,
}

impl Broker {
    fn start(dir: &Path, port: u16, more: &str) -> Option<Self> {
        let config = dir.join("mosquitto.conf");
        // Started by root it would become a user that may not look into the test's folder.
        std::fs::write(&config, format!("user root\nlistener {port} 127.0.0.1\n{more}\n")).unwrap();
        let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
        let started = Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(child) => {
                let mut broker = Self { child, port, config };
                broker.wait_until_up();
                Some(broker)
            }
            Err(e) => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "mosquitto does not start: {e}");
                eprintln!("SKIPPED: mosquitto does not start: {e}");
                None
            }
        }
    }

    fn wait_until_up(&mut self) {
        wait_for("the broker listens", || {
            assert!(self.child.try_wait().unwrap().is_none(), "the broker has ended by itself");
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
        });
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end: it saves what it holds for its sessions.
    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
        self.child = Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.wait_until_up();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Another client, by another hand: mosquitto's own.
struct Subscriber {
    child: Child,
    lines: Receiver<String>,
}

impl Subscriber {
    fn start(port: u16, more: &[&str]) -> Self {
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", "#", "-F", "%t %r %p"])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is there where mosquitto is");
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tx.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that fits.
    fn wait(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let left = LONG.saturating_sub(start.elapsed());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|e| panic!("{what}: {e}"));
            if fits(&line) {
                return line;
            }
        }
    }

    fn seq(line: &str) -> u64 {
        let json = &line[line.find('{').expect("a result")..];
        serde_json::from_str::<Value>(json).unwrap()["seq"].as_u64().unwrap()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn results_arrive_at_the_broker_in_order_and_the_goodbye_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let Some(broker) = Broker::start(dir.path(), free_port(), "allow_anonymous true") else { return };
    let heard = Subscriber::start(broker.port, &[]);
    let mut sink = open("mqtt", &format!("url = \"mqtt://127.0.0.1:{}\"", broker.port));
    heard.wait("online", |l| l.ends_with("framegate/test/availability 0 online") || l.ends_with(" 1 online"));
    let cam = stream("cam0");
    for seq in 0..200 {
        sink.deliver(&Arc::new(record(&cam, seq))).unwrap();
    }
    sink.flush().unwrap();
    for seq in 0..200 {
        let line = heard.wait("a result", |l| l.starts_with("framegate/entrance/cam0/result 0 {"));
        assert_eq!(Subscriber::seq(&line), seq);
    }
    drop(sink);
    heard.wait("offline", |l| l.ends_with(" offline"));
}

#[test]
fn a_broker_that_dies_and_comes_back_gets_what_waited() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut broker) = Broker::start(dir.path(), free_port(), "allow_anonymous true") else { return };
    let text = format!("url = \"mqtt://127.0.0.1:{}\"\nbuffer = 50\npatience = \"5s\"", broker.port);
    let mut sink = open("mqtt", &text);
    let cam = stream("cam0");
    {
        let heard = Subscriber::start(broker.port, &[]);
        heard.wait("online", |l| l.ends_with(" online"));
        sink.deliver(&Arc::new(record(&cam, 0))).unwrap();
        heard.wait("a result", |l| l.contains("\"seq\":0"));
    }
    sink.flush().unwrap();

    broker.kill();
    // Until the buffer is full they are kept; then each is an error, at once.
    let mut taken = Vec::new();
    let mut seq = 1;
    let lost = loop {
        match sink.deliver(&Arc::new(record(&cam, seq))) {
            Ok(()) => taken.push(seq),
            Err(e) => break e.0,
        }
        seq += 1;
        assert!(seq < 1000, "the buffer has no bound");
    };
    assert!(taken.len() >= 50 && taken.len() < 200, "{}", taken.len());
    assert!(lost.contains("wait already"), "{lost}");
    let start = Instant::now();
    assert!(sink.deliver(&Arc::new(record(&cam, 9999))).is_err());
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());

    broker.restart();
    let heard = Subscriber::start(broker.port, &["-R"]);
    // Those sent between the broker's start and the subscriber's arrival went to nobody: the rest, in order, to the end.
    wait_for("the sink is through", || sink.flush().is_ok());
    sink.deliver(&Arc::new(record(&cam, 5000))).unwrap();
    let mut last = 0;
    while last != 5000 {
        let line = heard.wait("what waited", |l| l.contains("\"seq\":"));
        let seq = Subscriber::seq(&line);
        assert!(seq >= last, "{seq} after {last}");
        assert!(seq == 5000 || taken.contains(&seq));
        last = seq;
    }
}

#[test]
fn nothing_confirmed_is_lost_when_the_broker_keeps_a_session_for_the_subscriber() {
    let dir = tempfile::tempdir().unwrap();
    let more = format!(
        "allow_anonymous true\npersistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes true",
        dir.path().display()
    );
    let Some(mut broker) = Broker::start(dir.path(), free_port(), &more) else { return };
    let session = ["-i", "reader", "-c"];
    Subscriber::start(broker.port, &session).wait_until_subscribed(&broker);
    let mut sink =
        open("mqtt", &format!("url = \"mqtt://127.0.0.1:{}\"\navailability = \"\"\npatience = \"10s\"", broker.port));
    let cam = stream("cam0");
    for seq in 0..30 {
        sink.deliver(&Arc::new(record(&cam, seq))).unwrap();
    }
    sink.flush().unwrap();
    broker.stop();
    for seq in 30..60 {
        sink.deliver(&Arc::new(record(&cam, seq))).unwrap();
    }
    broker.restart();
    wait_for("the sink is through", || sink.flush().is_ok());
    let heard = Subscriber::start(broker.port, &session);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 60
        && let Ok(line) = heard.lines.recv_timeout(LONG)
    {
        if line.contains("\"seq\":") {
            seen.insert(Subscriber::seq(&line));
        }
    }
    assert_eq!(seen, (0..60).collect());
}

impl Subscriber {
    /// Waits until a message of another client comes through: the broker knows the subscription then.
    fn wait_until_subscribed(self, broker: &Broker) {
        let port = broker.port.to_string();
        let start = Instant::now();
        loop {
            let sent = Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "hello", "-m", "hello"])
                .status()
                .unwrap();
            assert!(sent.success());
            if self.lines.recv_timeout(Duration::from_millis(200)).is_ok() {
                return;
            }
            assert!(start.elapsed() < LONG, "no subscription");
        }
    }
}

#[test]
fn a_broker_that_is_not_there_costs_the_stream_nothing_and_closing_is_bounded() {
    let text = format!("url = \"mqtt://127.0.0.1:{}\"\nbuffer = 3\npatience = \"200ms\"", free_port());
    let start = Instant::now();
    let mut sink = open("mqtt", &text);
    let cam = stream("cam0");
    let results: Vec<bool> = (0..10).map(|seq| sink.deliver(&Arc::new(record(&cam, seq))).is_ok()).collect();
    assert_eq!(results.iter().filter(|ok| **ok).count(), 3);
    assert!(sink.flush().is_err_and(|e| e.0.contains("3 results wait")));
    drop(sink);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_broker_wants_user_and_password() {
    let dir = tempfile::tempdir().unwrap();
    let passwords = dir.path().join("passwords");
    let made = Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&passwords).args(["gate", "hush"]).status();
    if !made.is_ok_and(|s| s.success()) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "mosquitto_passwd is missing");
        eprintln!("SKIPPED: mosquitto_passwd is missing");
        return;
    }
    let more = format!("allow_anonymous false\npassword_file {}", passwords.display());
    let Some(broker) = Broker::start(dir.path(), free_port(), &more) else { return };
    let url = format!("url = \"mqtt://127.0.0.1:{}\"\n", broker.port);
    let cam = stream("cam0");

    let mut wrong = open("mqtt", &format!("{url}user = \"gate\"\npassword = \"wrong\""));
    wrong.deliver(&Arc::new(record(&cam, 1))).unwrap();
    wait_for("the refusal is known", || {
        wrong.flush().is_err_and(|e| e.0.contains("BadUserNamePassword") || e.0.contains("NotAuthorized"))
    });
    let mut right = open("mqtt", &format!("{url}user = \"gate\"\npassword = \"hush\"\npatience = \"10s\""));
    right.deliver(&Arc::new(record(&cam, 2))).unwrap();
    right.flush().unwrap();
}

#[test]
fn a_broker_is_reached_through_tls_and_a_stranger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |args: &str| {
        let status = Command::new("openssl")
            .args(args.split_whitespace())
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|s| s.success())
    };
    std::fs::write(dir.path().join("leaf.ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let made = openssl(&format!("req -x509 {new} -keyout ca.key -out ca.pem -subj /CN=test-ca -days 2"))
        && openssl(&format!("req -x509 {new} -keyout other.key -out other.pem -subj /CN=other-ca -days 2"))
        && openssl(&format!("req {new} -keyout leaf.key -out leaf.csr -subj /CN=127.0.0.1"))
        && openssl(
            "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out leaf.pem -days 2 -extfile leaf.ext",
        );
    if !made {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "openssl cannot make certificates");
        eprintln!("SKIPPED: openssl cannot make certificates");
        return;
    }
    let d = dir.path().display();
    let more = format!("allow_anonymous true\ncertfile {d}/leaf.pem\nkeyfile {d}/leaf.key");
    let Some(broker) = Broker::start(dir.path(), free_port(), &more) else { return };
    let url = format!("url = \"mqtts://127.0.0.1:{}\"\npatience = \"10s\"\n", broker.port);
    let cam = stream("cam0");
    let mut right = open("mqtt", &format!("{url}ca = \"{d}/ca.pem\""));
    right.deliver(&Arc::new(record(&cam, 1))).unwrap();
    right.flush().unwrap();

    let url = format!("url = \"mqtts://127.0.0.1:{}\"\npatience = \"100ms\"\n", broker.port);
    let mut wrong = open("mqtt", &format!("{url}ca = \"{d}/other.pem\""));
    wrong.deliver(&Arc::new(record(&cam, 2))).unwrap();
    wait_for("the certificate is refused", || wrong.flush().is_err_and(|e| e.0.to_lowercase().contains("certificate")));
}

// ---------------------------------------------------------------------------------------------------------- video

/// Decodes a file with other elements than those that wrote it: size, times in ms and mean luma of every frame.
fn play(path: &Path) -> Vec<((u32, u32), u64, u8)> {
    gst::init().unwrap();
    let text = format!(
        "filesrc location=\"{}\" ! decodebin ! videoconvert ! video/x-raw,format=GRAY8 ! appsink name=out sync=false",
        path.display()
    );
    let pipeline = gst::parse::launch(&text).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("out").unwrap().downcast::<AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut frames = Vec::new();
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(10)) {
        let caps = sample.caps().unwrap().structure(0).unwrap();
        let size = (caps.get::<i32>("width").unwrap() as u32, caps.get::<i32>("height").unwrap() as u32);
        let buffer = sample.buffer().unwrap();
        let map = buffer.map_readable().unwrap();
        // The lower half: no bar and no label there.
        let half = &map[map.len() / 2..];
        let mean = half.iter().map(|v| u64::from(*v)).sum::<u64>() / half.len() as u64;
        frames.push((size, buffer.pts().unwrap().mseconds(), mean as u8));
    }
    let eos = sink.is_eos();
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(eos, "{} does not play to its end", path.display());
    frames
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn record_and_play(extension: &str, encoder: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("new/{{stream}}.{extension}"));
    let mut sink = open(
        "video",
        &format!("path = \"{}\"\noverlay = false\nencoder = \"{encoder}\"\nbitrate = 2000", path.display()),
    );
    let cam = stream("cam0");
    // Variable distances, from a stream time that is not zero.
    let times: Vec<u64> = (0..40u64).map(|i| 5000 + i * 33 + (i % 3) * 10 + if i > 20 { 700 } else { 0 }).collect();
    for (seq, ms) in times.iter().enumerate() {
        sink.deliver(&Arc::new(picture_record(&cam, seq as u64 * 2, ms * MILLI, (320, 240)))).unwrap();
    }
    drop(sink);
    let frames = play(&dir.path().join(format!("new/cam0.{extension}")));
    assert_eq!(frames.len(), 40);
    let start = frames[0].1;
    for (i, (size, ms, luma)) in frames.iter().enumerate() {
        assert_eq!(*size, (320, 240));
        let expected = times[i] - times[0];
        assert!((ms - start).abs_diff(expected) <= 1, "frame {i} at {} ms, expected {expected}", ms - start);
        // GRAY8 is full range or limited range, as the converter chooses.
        let limited = 16 + (i as i32 * 4 % 200);
        let full = (limited - 16) * 255 / 219;
        let luma = i32::from(*luma);
        assert!(
            (luma - limited).abs() <= 6 || (luma - full).abs() <= 6,
            "frame {i}: {luma}, expected {limited} or {full}"
        );
    }
}

#[test]
fn a_matroska_recording_plays_with_its_times() {
    record_and_play("mkv", "x264enc");
}

#[test]
fn an_mp4_recording_plays_with_its_times() {
    record_and_play("mp4", "x264enc");
    record_and_play("mp4", "openh264enc");
}

#[test]
fn another_encoder_does_as_well() {
    record_and_play("mkv", "openh264enc");
}

#[test]
fn any_planned_rate_is_recorded() {
    for (fps, encoder) in [(0.01, "x264enc"), (0.01, "openh264enc"), (1000.0, "x264enc"), (1000.0, "openh264enc")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mp4");
        let text = format!("path = \"{}\"\nencoder = \"{encoder}\"", path.display());
        let config = from_toml("video", &text).unwrap();
        let mut sink = config.open(&BuildContext { fps, ..context("test") }).unwrap();
        let cam = stream("cam0");
        for seq in 0..5 {
            sink.deliver(&Arc::new(picture_record(&cam, seq, seq * seq * MILLI, (160, 120)))).unwrap();
        }
        drop(sink);
        let times: Vec<u64> = play(&path).iter().map(|f| f.1).collect();
        assert_eq!(times, [0, 1, 4, 9, 16], "{encoder} at {fps}");
    }
}

#[test]
fn another_size_begins_another_file_and_odd_sizes_are_made_even() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open("video", &format!("path = \"{}/{{stream}}.mkv\"", dir.path().display()));
    let cam = stream("cam0");
    for seq in 0..20 {
        let size = if seq < 10 { (321, 241) } else { (642, 482) };
        sink.deliver(&Arc::new(picture_record(&cam, seq, seq * 40 * MILLI, size))).unwrap();
    }
    drop(sink);
    let files = files(dir.path());
    assert_eq!(files.len(), 2);
    let sizes: Vec<_> = files.iter().map(|f| play(f)).map(|f| (f.len(), f[0].0)).collect();
    assert!(sizes.contains(&(10, (320, 240))) && sizes.contains(&(10, (642, 482))), "{sizes:?}");
}

#[test]
fn segments_cut_a_recording_and_the_rate_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("path = \"{}/{{stream}}-{{start}}.mkv\"\nsegment = \"1s\"\nfps = 10.0", dir.path().display());
    let mut sink = open("video", &text);
    let cam = stream("cam0");
    // 2.5 s at 50 frames per second.
    for seq in 0..125 {
        sink.deliver(&Arc::new(picture_record(&cam, seq, seq * 20 * MILLI, (160, 120)))).unwrap();
    }
    drop(sink);
    let mut counts: Vec<_> = files(dir.path()).iter().map(|f| play(f).len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [5, 10, 10]);
}

#[test]
fn a_stream_that_falls_silent_has_its_file_finished() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open("video", &format!("path = \"{}/{{stream}}.mp4\"", dir.path().display()));
    let cam = stream("cam0");
    for seq in 0..10 {
        sink.deliver(&Arc::new(picture_record(&cam, seq, seq * 40 * MILLI, (160, 120)))).unwrap();
    }
    let path = dir.path().join("cam0.mp4");
    sink.flush().unwrap();
    sink.idle();
    assert!(is_open(&path), "a pause is no end");
    wait_for("the file is closed", || {
        sink.idle();
        !is_open(&path)
    });
    assert_eq!(play(&path).len(), 10);
    // It comes back: another file.
    sink.deliver(&Arc::new(picture_record(&cam, 10, 400 * MILLI, (160, 120)))).unwrap();
    drop(sink);
    assert_eq!(play(&dir.path().join("cam0-2.mp4")).len(), 1);
}

/// Whether this process has the file open.
fn is_open(path: &Path) -> bool {
    let path = path.canonicalize().unwrap();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .any(|fd| std::fs::read_link(fd.unwrap().path()).is_ok_and(|p| p == path))
}

#[test]
fn a_record_without_a_picture_is_an_error_and_the_next_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open("video", &format!("path = \"{}/{{stream}}.mkv\"", dir.path().display()));
    let cam = stream("cam0");
    assert!(sink.deliver(&Arc::new(record(&cam, 0))).is_err_and(|e| e.0.contains("no picture")));
    let good = Arc::new(picture_record(&cam, 1, 0, (160, 120)));
    wait_for("it is tried again", || sink.deliver(&good).is_ok());
    drop(sink);
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn a_folder_in_the_way_is_an_error_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let mut sink = open("video", &format!("path = \"{}/{{stream}}.mp4\"", folder.display()));
    std::fs::write(&folder, "in the way").unwrap();
    let cam = stream("cam0");
    let good = Arc::new(picture_record(&cam, 1, 0, (160, 120)));
    for _ in 0..3 {
        assert!(sink.deliver(&good).is_err());
    }
    std::fs::remove_file(&folder).unwrap();
    wait_for("it is tried again", || sink.deliver(&good).is_ok());
}

/// Not a test by itself: what the next one starts in another process and kills.
#[test]
fn records_until_it_is_killed() {
    let Some(path) = std::env::var_os("FRAMEGATE_TEST_RECORD_TO") else { return };
    let mut sink = open("video", &format!("path = \"{}\"", path.to_string_lossy()));
    let cam = stream("cam0");
    for seq in 0.. {
        sink.deliver(&Arc::new(picture_record(&cam, seq, seq * 33 * MILLI, (320, 240)))).unwrap();
        // At a camera's pace, so that the kill falls into the middle.
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_recording_that_a_crash_cut_short_plays() {
    for extension in ["mkv", "mp4"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("crash.{extension}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "records_until_it_is_killed"])
            .env("FRAMEGATE_TEST_RECORD_TO", &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("something is on disk", || {
            assert!(child.try_wait().unwrap().is_none(), "the recording process ended by itself");
            std::fs::metadata(&path).is_ok_and(|m| m.len() > 60_000)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let frames = play(&path);
        assert!(frames.len() >= 30, "{extension}: {} frames", frames.len());
    }
}

use super::serve::Patience;
use super::*;
use crate::frame::clock::{MILLI, SECOND, now};
use crate::frame::{Outcome, Signal, Stream};
use crate::telemetry::{Breakdown, StageMeter, StreamMeter};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Bench {
    stream: Arc<Stream>,
    meter: Arc<StreamMeter>,
    _stage: Arc<StageMeter>,
    telemetry: Arc<Telemetry>,
    health: Arc<Health>,
}

impl Bench {
    fn new() -> Self {
        let telemetry = Telemetry::new("entrance");
        let stream = Arc::new(Stream::new("cam0", 0, Some(33 * MILLI), 0, true));
        let meter = telemetry.stream(&stream);
        let stage = telemetry.stage(&Arc::from("detect"), "cpu");
        stage.frame(MILLI, MILLI);
        stage.batch(1, MILLI);
        Self { stream, meter, _stage: stage, telemetry, health: Arc::default() }
    }

    fn api(&self, token: Option<&str>) -> Api {
        Api {
            telemetry: self.telemetry.clone(),
            health: self.health.clone(),
            pipeline: Box::new(|| serde_json::json!({ "name": "entrance" })),
            archives: Box::new(Vec::new),
            token: token.map(str::to_owned),
        }
    }

    fn serve(&self) -> Server {
        Server::start(LOOPBACK, self.api(None)).unwrap()
    }

    fn deliver(&self) {
        self.stream.capture(now()).mark(Outcome::OnTime);
        self.meter.delivered(now(), &Breakdown { execute: 10 * MILLI, ..Breakdown::default() }, 0, 0);
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn get_with(address: SocketAddr, path: &str, header: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"))
}

fn get(server: &Server, path: &str) -> Answer {
    get_with(server.address(), path, "")
}

#[test]
fn metrics_pass_promtool() {
    let bench = Bench::new();
    bench.telemetry.slowdown("cpu", 1.0);
    let (ring, sink) = (bench.telemetry.ring("cam0"), bench.telemetry.sink(&Arc::from("events")));
    ring.set(1, MILLI);
    sink.pending(2);
    bench.deliver();
    let server = bench.serve();
    let answer = get(&server, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    assert!(answer.body.contains("framegate_frames_total{stream=\"cam0\",outcome=\"on_time\"} 1\n"), "{}", answer.body);
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "promtool is missing: scripts/setup test installs it");
        eprintln!("SKIPPED: no promtool");
        return;
    };
    promtool.stdin.take().unwrap().write_all(answer.body.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{}", answer.body);
}

#[test]
fn health_follows_the_threads() {
    let bench = Bench::new();
    let server = bench.serve();
    let healthy = get(&server, "/healthz");
    assert_eq!((healthy.status, healthy.json()), (200, serde_json::json!({"healthy": true, "reasons": []})));
    let pulse = bench.health.pulse("detect");
    pulse.begin(now() - 5 * SECOND, SECOND);
    let stuck = get(&server, "/healthz");
    assert_eq!((stuck.status, &stuck.json()["healthy"]), (503, &false.into()));
    assert!(stuck.json()["reasons"][0].as_str().unwrap().contains("`detect`"), "{}", stuck.body);
    let counted = |n: usize| get(&server, "/metrics").body.contains(&format!("\nframegate_threads_stuck {n}\n"));
    assert!(counted(1));
    pulse.end();
    assert_eq!(get(&server, "/healthz").status, 200);
    assert!(counted(0));
}

#[test]
fn readiness_waits_for_required_sources() {
    let bench = Bench::new();
    let server = bench.serve();
    bench.telemetry.ready();
    bench.stream.set_signal(Signal::Down("connection refused".into()));
    let waiting = get(&server, "/readyz");
    assert_eq!(waiting.status, 503);
    assert_eq!(waiting.json()["reasons"][0], "source `cam0` does not deliver: connection refused");
    bench.stream.set_signal(Signal::Up);
    assert_eq!(get(&server, "/readyz").status, 200);
}

#[test]
fn the_api_tells_the_pipeline_and_its_streams() {
    let bench = Bench::new();
    let server = bench.serve();
    bench.stream.set_signal(Signal::Up);
    bench.deliver();
    assert_eq!(get(&server, "/api/v1/pipeline").json()["name"], "entrance");
    let streams = get(&server, "/api/v1/streams").json();
    let cam = &streams["streams"][0];
    assert_eq!((&cam["id"], &cam["state"], &cam["deadline_ms"]), (&"cam0".into(), &"up".into(), &33.0.into()));
    assert_eq!(cam["frames"]["on_time"], 1);
    assert!((cam["latency_ms"]["p99"].as_f64().unwrap() - 10.0).abs() < 0.2);
}

#[test]
fn the_page_is_self_contained() {
    let bench = Bench::new();
    let answer = get(&bench.serve(), "/");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-security-policy: default-src 'none'"), "{}", answer.head);
    for absent in ["http://", "https://", "src=", "innerHTML"] {
        assert!(!answer.body.contains(absent), "{absent}");
    }
}

#[test]
fn unknown_paths_and_methods_are_said_so() {
    let bench = Bench::new();
    let server = bench.serve();
    let unknown = get(&server, "/metric");
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["error"].as_str().unwrap().contains("/metrics"));
    let post = ask(
        server.address(),
        "POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(post.status, 405);
    assert!(ask(server.address(), "nonsense\r\n\r\n").status == 400);
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(64 * 1024));
    assert!((400..500).contains(&ask(server.address(), &long).status));
}

#[test]
fn an_address_in_use_is_named() {
    let bench = Bench::new();
    let first = bench.serve();
    let error = Server::start(first.address(), bench.api(None)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {}: another program does", first.address())), "{error}");
    let elsewhere = "192.0.2.1:0".parse().unwrap();
    let error = Server::start(elsewhere, bench.api(None)).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on 192.0.2.1:0: "), "{error}");
}

/// An address of this host that is not loopback, if there is one. Nothing is sent: connecting a UDP socket only
/// looks up the route.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
fn clients_on_other_hosts_need_the_token() {
    let Some(ip) = own_address() else {
        eprintln!("SKIPPED: this host has only loopback");
        return;
    };
    let bench = Bench::new();
    let address = SocketAddr::new(ip, 0);
    let closed = Server::start(address, bench.api(None)).unwrap();
    assert_eq!(get(&closed, "/metrics").status, 403);
    let open = Server::start(address, bench.api(Some("secret"))).unwrap();
    let without = get(&open, "/metrics");
    assert_eq!(without.status, 401);
    assert!(without.head.contains("www-authenticate: bearer"));
    for (header, status) in [
        ("Authorization: Bearer wrong\r\n", 401),
        ("Authorization: Basic secret\r\n", 401),
        ("Authorization: Bearer\r\n", 401),
        ("Authorization: bearer secret\r\n", 200),
        ("Authorization: Bearer secret\r\n", 200),
    ] {
        assert_eq!(get_with(open.address(), "/metrics", header).status, status, "{header}");
    }
}

#[test]
fn slow_clients_are_let_go_and_do_not_hold_others_up() {
    let bench = Bench::new();
    let patience = Patience { head: Duration::from_millis(200), ..Patience::default() };
    let server = Server::start_with(LOOPBACK, bench.api(None), patience).unwrap();
    // More than are served at once: the last ones wait in the system's queue.
    let mut idle: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    idle[0].write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(get(&server, "/healthz").status, 200);
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        // The server's end closes; one that was half-way through its request may be reset.
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn a_connection_carries_several_requests_and_ends_in_time() {
    let bench = Bench::new();
    let patience = Patience { connection: Duration::from_millis(300), ..Patience::default() };
    let server = Server::start_with(LOOPBACK, bench.api(None), patience).unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
}

#[test]
fn stopping_is_quick_though_clients_linger() {
    let bench = Bench::new();
    let server = bench.serve();
    let lingering: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    assert_eq!(get(&server, "/healthz").status, 200);
    let address = server.address();
    let begun = Instant::now();
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(TcpStream::connect(address).is_err());
    drop(lingering);
}

/// A client that looks at a waterfall, behind the answer's head.
fn look(server: &Server, stream: &str) -> std::io::BufReader<TcpStream> {
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(client, "GET /api/v1/streams/{stream}/waterfall HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut client = std::io::BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(std::io::BufRead::read_line(&mut client, &mut head).unwrap(), 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
    client
}

/// The data of the next event.
fn event(client: &mut std::io::BufReader<TcpStream>) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(std::io::BufRead::read_line(client, &mut line).unwrap(), 0, "the stream of events ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return data.trim_end().to_owned();
        }
    }
}

#[test]
fn a_waterfall_is_a_stream_of_events_that_no_client_holds_up() {
    let bench = Bench::new();
    let server = bench.serve();
    assert_eq!(get(&server, "/api/v1/streams/rx%2F1/waterfall").status, 404);
    let waterfall = bench.telemetry.views().waterfall(&Arc::from("rx/1"));
    assert_eq!(get(&server, "/api/v1/waterfalls").json(), serde_json::json!({"streams": ["rx/1"]}));
    // This one never reads on.
    let _stuck = look(&server, "rx%2F1");
    let mut client = look(&server, "rx%2F1");
    let line = "x".repeat(10_000);
    let begun = Instant::now();
    for n in 0..5000 {
        waterfall.show(format!("{n} {line}").into());
    }
    // 50 MB that nobody has room for are gone at once.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let numbers: Vec<u64> = (0..32).map(|_| event(&mut client).split_once(' ').unwrap().0.parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers[31] >= 31, "{numbers:?}");
    assert_eq!(get(&server, "/healthz").status, 200);
    // The sink goes, and so does the stream of events.
    drop(waterfall);
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(get(&server, "/api/v1/streams/rx%2F1/waterfall").status, 404);
}

#[test]
fn no_more_clients_look_than_there_is_room_for() {
    let bench = Bench::new();
    let server = bench.serve();
    let waterfall = bench.telemetry.views().waterfall(&Arc::from("rx"));
    let mut clients: Vec<_> = (0..16).map(|_| look(&server, "rx")).collect();
    assert_eq!(get(&server, "/api/v1/streams/rx/waterfall").status, 503);
    clients.pop();
    // The server learns that a client has gone when it has something to tell it.
    let begun = Instant::now();
    loop {
        waterfall.show("{}".into());
        let mut client = TcpStream::connect(server.address()).unwrap();
        client.write_all(b"GET /api/v1/streams/rx/waterfall HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut start = [0; 12];
        client.read_exact(&mut start).unwrap();
        if start == *b"HTTP/1.1 200" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "a place stays taken");
    }
}

#[test]
fn the_waterfalls_page_is_self_contained() {
    let bench = Bench::new();
    let answer = get(&bench.serve(), "/waterfall");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-security-policy: default-src 'none'"), "{}", answer.head);
    for absent in ["http://", "https://", "src=", "innerHTML"] {
        assert!(!answer.body.contains(absent), "{absent}");
    }
}

#[test]
fn a_recording_is_asked_for_with_json_and_by_no_foreign_page() {
    let bench = Bench::new();
    let server = bench.serve();
    let recorder = bench.telemetry.views().recorder(&Arc::from("rx"));
    let post = |stream: &str, headers: &str, body: &str| {
        let length = body.len();
        ask(
            server.address(),
            &format!(
                "POST /api/v1/streams/{stream}/record HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
            ),
        )
    };
    let json = "Host: 127.0.0.1:9633\r\nContent-Type: application/json\r\n";
    let good = post("rx", json, r#"{"seconds": 2.5}"#);
    assert_eq!((good.status, good.json()), (202, serde_json::json!({"sinks": 1})));
    assert_eq!(recorder.asked(), Some(Duration::from_millis(2500)));
    let own = format!("{json}Origin: http://127.0.0.1:9633\r\n");
    assert_eq!(post("rx", &own, r#"{"seconds": 0}"#).status, 202);
    assert_eq!(recorder.asked(), Some(Duration::ZERO));
    for (stream, headers, body, status) in [
        ("ry", json, r#"{"seconds": 1}"#, 404),
        ("rx", json, r#"{"seconds": -1}"#, 400),
        ("rx", json, r#"{"seconds": 1e9}"#, 400),
        ("rx", json, r#"{"seconds": 1"#, 400),
        ("rx", json, r#"{"seconds": "1"}"#, 400),
        ("rx", json, r#"{"seconds": 1, "folder": "/etc"}"#, 400),
        ("rx", "Host: localhost\r\nContent-Type: text/plain\r\n", r#"{"seconds": 1}"#, 415),
        ("rx", "Host: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n", "seconds=1", 415),
        ("rx", &format!("{json}Origin: https://elsewhere.example\r\n"), r#"{"seconds": 1}"#, 403),
        // A foreign name that leads here.
        (
            "rx",
            "Host: evil.example\r\nOrigin: http://evil.example\r\nContent-Type: application/json\r\n",
            r#"{"seconds": 1}"#,
            403,
        ),
        ("rx", &format!("{json}Origin: null\r\n"), r#"{"seconds": 1}"#, 403),
    ] {
        let answer = post(stream, headers, body);
        assert_eq!(answer.status, status, "{headers}{body}: {}", answer.body);
        assert!(answer.json()["error"].is_string());
    }
    assert_eq!(recorder.asked(), None);
    assert_eq!(get(&server, "/api/v1/streams/rx/record").status, 405);
}

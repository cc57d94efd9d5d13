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
    pulse.end();
    assert_eq!(get(&server, "/healthz").status, 200);
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

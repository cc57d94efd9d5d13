//! The API's results over real HTTP.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod common {
    pub mod record;
}

use common::record::{located, stream};
use framegate::http::{Api, Server};
use framegate::sink::{Sink, from_toml};
use framegate::stage::BuildContext;
use framegate::telemetry::Telemetry;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

struct Bench {
    server: Server,
    _sink: Box<dyn Sink>,
    _dir: tempfile::TempDir,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| l.split_once(": ").filter(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v))
    }

    fn seqs(&self) -> Vec<u64> {
        self.json()["results"].as_array().unwrap().iter().map(|r| r["seq"].as_u64().unwrap()).collect()
    }
}

impl Bench {
    /// A server with 120 stored results.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("path = \"{}\"", dir.path().join("a.db").display());
        let context = BuildContext { id: "results".into(), ..Default::default() };
        let mut sink = from_toml("store", &text).unwrap().open(&context).unwrap();
        let streams = [stream("air"), stream("sea")];
        for n in 0..120u64 {
            let stations: &[&str] = if n % 4 == 0 { &["north", "south"] } else { &["south"] };
            let record = located(&streams[n as usize % 2], n, 0, stations, 1e6 * n as f64, n as f64 / 120.0);
            sink.deliver(&Arc::new(record)).unwrap();
        }
        sink.flush().unwrap();
        let archive = sink.archive().unwrap();
        let api = Api {
            telemetry: Telemetry::new("test"),
            health: Arc::default(),
            pipeline: Box::new(|| serde_json::json!({})),
            archives: Box::new(move || vec![("results".into(), archive.clone())]),
            token: None,
        };
        let server = Server::start("127.0.0.1:0".parse().unwrap(), api).unwrap();
        Self { server, _sink: sink, _dir: dir }
    }

    fn get_with(&self, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(self.server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: all[end + 4..].to_vec() }
    }

    fn get(&self, path: &str) -> Answer {
        self.get_with(path, "")
    }

    fn results(&self, query: &str) -> Answer {
        self.get(&format!("/api/v1/results?{query}"))
    }
}

#[test]
fn pages_follow_each_other_and_filters_hold() {
    let bench = Bench::new();
    let mut seen = Vec::new();
    let mut query = "limit=50".to_owned();
    loop {
        let page = bench.results(&query);
        assert_eq!(page.status, 200, "{}", String::from_utf8_lossy(&page.body));
        assert_eq!(page.header("content-type"), Some("application/json"));
        seen.extend(page.seqs());
        let next = page.json()["next"].clone();
        let Some(next) = next.as_str() else { break };
        query = format!("limit=50&cursor={next}");
    }
    assert_eq!(seen, (0..120).rev().collect::<Vec<_>>());
    assert_eq!(bench.results("").seqs().len(), 50);
    let filtered = bench.results(
        "order=oldest&stream=air&station=north&min_frequency=10e6&max_frequency=100e6&min_confidence=0.25&\
         from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00%2B00:00",
    );
    assert_eq!(filtered.seqs(), (32..=100).step_by(4).collect::<Vec<_>>());
}

#[test]
fn only_the_fields_that_are_asked_for_come() {
    let bench = Bench::new();
    let page = bench.results("limit=1&fields=seq,location.lat,detections.label").json();
    assert_eq!(
        page["results"][0],
        serde_json::json!({ "seq": 119, "location": { "lat": 52.5 }, "detections": [{ "label": "person" }] })
    );
}

#[test]
fn answers_are_packed_and_not_sent_twice() {
    let bench = Bench::new();
    let plain = bench.results("limit=100");
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("accept-encoding")));
    let mut tags = vec![plain.header("etag").unwrap().to_owned()];
    let packed = |accept: &str| bench.get_with("/api/v1/results?limit=100", &format!("Accept-Encoding: {accept}\r\n"));
    let gzip = packed("gzip");
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == plain.body && gzip.body.len() < plain.body.len() / 4);
    let zstd = packed("gzip, zstd");
    assert_eq!(zstd.header("content-encoding"), Some("zstd"));
    let mut unpacked = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(&zstd.body[..]).unwrap().read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == plain.body);
    tags.extend([gzip.header("etag").unwrap().to_owned(), zstd.header("etag").unwrap().to_owned()]);
    assert!(tags[0] != tags[1] && tags[1] != tags[2]);
    let again = bench.get_with("/api/v1/results?limit=100", &format!("If-None-Match: \"other\", {}\r\n", tags[0]));
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(&*tags[0])));
    let other = bench.get_with("/api/v1/results?limit=99", &format!("If-None-Match: {}\r\n", tags[0]));
    assert_eq!(other.status, 200);
}

#[test]
fn hostile_parameters_are_refused_by_name() {
    let bench = Bench::new();
    let cursor = bench.results("limit=5").json()["next"].as_str().unwrap().to_owned();
    for (query, parameter) in [
        ("limit=1001".to_owned(), "limit"),
        ("limit=9999999999999999999999".to_owned(), "limit"),
        ("offset=5".to_owned(), "offset"),
        ("stream=a%00b".to_owned(), "stream"),
        ("from=now".to_owned(), "from"),
        ("cursor=deadbeef".to_owned(), "cursor"),
        (format!("cursor={cursor}&stream=sea"), "cursor"),
        (format!("cursor={}", cursor.replace('0', "1")), "cursor"),
        ("fields=a.b.c.d.e.f.g.h.i".to_owned(), "fields"),
        ("store=elsewhere".to_owned(), "store"),
        ("%f0%28%8c%28=1".to_owned(), "\u{fffd}(\u{fffd}("),
    ] {
        let answer = bench.results(&query);
        assert_eq!(answer.status, 400, "{query}");
        assert_eq!(answer.json()["parameter"], parameter, "{query}");
        assert!(answer.json()["error"].as_str().unwrap().contains(parameter), "{query}");
    }
    // A text that would be dangerous as a part of a statement is a text.
    assert_eq!(bench.results("stream=%27%3BDROP%20TABLE%20results%3B--").seqs(), [0; 0]);
    assert_eq!(bench.results("limit=100").seqs().len(), 100);
}

/// Every route in the source.
fn routes() -> Vec<&'static str> {
    let sources = [include_str!("../src/http/routes.rs"), include_str!("../src/http/views.rs")];
    let of = |source: &'static str| source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    sources.into_iter().flat_map(of).collect()
}

#[test]
fn the_description_is_true() {
    let bench = Bench::new();
    let description = bench.get("/api/v1/openapi.json").json();
    let paths = description["paths"].as_object().unwrap();
    let mut described: Vec<&str> = paths.keys().map(String::as_str).collect();
    let mut served = routes();
    described.sort_unstable();
    served.sort_unstable();
    assert_eq!(described, served);
    for (path, operations) in paths {
        let get = &operations["get"];
        let answer = bench.get(path);
        if get.is_null() {
            assert!(operations["post"]["requestBody"].is_object() && answer.status == 405, "{path}");
            continue;
        }
        let described = get["responses"][answer.status.to_string()].as_object();
        let described = described.unwrap_or_else(|| panic!("{path}: {} is not described", answer.status));
        let kind = answer.header("content-type").unwrap().split(';').next().unwrap().to_owned();
        if answer.status == 200 {
            assert!(described["content"].get(&kind).is_some(), "{path}: {kind}");
        }
        for parameter in get["parameters"].as_array().into_iter().flatten() {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            if parameter["in"] == "path" {
                assert_eq!(answer.status, 404, "there is no such {name}");
                continue;
            }
            // What the schema forbids is refused; what it allows is not unknown.
            let (right, wrong) = match name {
                "limit" => (schema["maximum"].to_string(), (schema["maximum"].as_u64().unwrap() + 1).to_string()),
                "order" => (schema["enum"][1].as_str().unwrap().to_owned(), "upwards".to_owned()),
                "cursor" => (bench.results("limit=5").json()["next"].as_str().unwrap().to_owned(), "00".to_owned()),
                "fields" => ("seq".to_owned(), "a..b".to_owned()),
                "stream" | "station" => ("x".to_owned(), String::new()),
                "from" | "to" => ("2026-01-01T00:00:00Z".to_owned(), "12:00".to_owned()),
                "store" => ("results".to_owned(), "none".to_owned()),
                _ => {
                    let least = schema["minimum"].as_f64().unwrap();
                    (least.to_string(), (least - 1.0).to_string())
                }
            };
            assert_eq!(bench.get(&format!("{path}?{name}={right}")).status, 200, "{name}={right}");
            let refused = bench.get(&format!("{path}?{name}={wrong}"));
            assert_eq!((refused.status, &refused.json()["parameter"]), (400, &Value::from(name)), "{name}={wrong}");
        }
    }
    let unknown = bench.get("/api/v1/nothing");
    assert!(unknown.status == 404 && served.iter().all(|p| unknown.json()["error"].as_str().unwrap().contains(p)));
}

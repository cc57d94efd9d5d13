//! Five simulated stations end to end: joined, located, in two databases, cached, served.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

#[path = "common/bench.rs"]
mod bench;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/redis.rs"]
mod redis;

use postgres::Postgres;
use redis::Redis;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take; locations begin after ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pipeline with PostgreSQL and Redis beside what it has, whose station `pianezza` dies.
fn pipeline(postgres: &Postgres, redis: &Redis) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("pipelines/heimdall.toml")).unwrap();
    let mut text = text.replace("models/", &format!("{}/models/", root.display()));
    let dies = "test://station/pianezza\"\noutage = [\"13s\", \"1h\"]";
    assert!(text.contains("test://station/pianezza\""));
    text = text.replace("test://station/pianezza\"", dies);
    text += &format!(
        "\n[cache]\nredis = \"{}\"\n\n[sink.postgres]\nkind = \"store\"\nfrom = [\"locate\"]\nurl = \"{}\"\n",
        redis.url(),
        postgres.url(),
    );
    text
}

/// A running program; killed where a test gives up.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Status, head and body of an answer.
fn get(port: u16, path: &str, headers: &str) -> Option<(u16, String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, head.to_owned(), body.to_owned()))
}

/// Results that the API gives, once they satisfy.
fn results(port: u16, query: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let answer = get(port, &format!("/api/v1/results?{query}"), "");
        let body: Option<Value> = answer.as_ref().and_then(|(_, _, body)| serde_json::from_str(body).ok());
        let found = body.and_then(|b| b["results"].as_array().cloned()).unwrap_or_default();
        if enough(&found) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{query}: {answer:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn five_stations_are_located_stored_cached_and_served_and_one_may_die() {
    let (Some(postgres), Some(redis)) = (Postgres::start(), Redis::start()) else { return };
    let bench = bench::Bench::new(&pipeline(&postgres, &redis));
    std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("models"), bench.path("models")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let http = format!("127.0.0.1:{port}");
    let child =
        bench.command(&["run", "yard.toml", "--http", &http, "--report", "r.json"]).stdout(Stdio::null()).spawn();
    let mut running = Running(child.unwrap());

    // Located by all five, and after the death of one by the others.
    let whole = results(port, "store=store&station=pianezza", |found| !found.is_empty());
    assert!(whole[0]["location"]["lat"].is_number(), "{}", whole[0]);
    let without = results(port, "store=postgres", |found| {
        found.first().is_some_and(|r| r["stations"]["absent"]["pianezza"] == "down" && r["location"]["lat"].is_number())
    });
    assert_eq!(without[0]["location"]["stations"].as_array().unwrap().len(), 4);

    // The same question, asked again of results that do not change, is not answered anew.
    let last = without.last().unwrap()["captured_at"].as_str().unwrap().replace('+', "%2B");
    let query = format!("/api/v1/results?store=postgres&to={last}");
    let (status, head, _) = get(port, &query, "").unwrap();
    assert_eq!(status, 200, "{head}");
    let tag = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("etag: ").map(str::to_owned)).unwrap();
    assert_eq!(get(port, "/api/v1/results?limit=0", "").unwrap().0, 400);
    assert!(tag.starts_with('"') || tag.starts_with("w/"), "{tag}");
    let metrics = get(port, "/metrics", "").unwrap().2;
    assert!(metrics.contains("framegate_cache_misses_total"), "{metrics}");

    let id = rustix::process::Pid::from_raw(running.0.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(running.0.wait().unwrap().success());
    let rows = |count: i64| assert!(count >= 3, "{count} rows");
    let in_postgres: i64 = postgres.client().query_one("SELECT count(*) FROM results", &[]).unwrap().get(0);
    let sqlite = rusqlite::Connection::open(bench.path("heimdall.db")).unwrap();
    let in_sqlite: i64 = sqlite.query_row("SELECT count(*) FROM results", [], |row| row.get(0)).unwrap();
    rows(in_sqlite);
    assert_eq!(in_postgres, in_sqlite, "both have every result");
    let frames = &bench.json("r.json")["streams"]["emitter"]["frames"];
    assert_eq!(frames["captured"], in_sqlite, "every location is stored: {frames}");
}

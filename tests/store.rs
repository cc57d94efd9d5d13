//! The store and the cache against the real things: SQLite files, a PostgreSQL and a Redis server that is killed.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod common {
    pub mod postgres;
    pub mod record;
    pub mod redis;
}

use common::postgres::{PASSWORD, Postgres};
use common::record::{located, stream};
use common::redis::Redis;
use framegate::cache::{Cache, Key, Layer, Reason, Settings};
use framegate::frame::clock::SECOND;
use framegate::sink::{Sink, from_toml};
use framegate::stage::BuildContext;
use framegate::store::{Archive, Asked, Encoding, Filter, Limits, Place, Query, Row};
use serde_json::Value;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

fn open(text: &str) -> Box<dyn Sink> {
    from_toml("store", text).unwrap().open(&BuildContext { id: "results".into(), ..Default::default() }).unwrap()
}

/// Waits until the condition holds, at most `LONG`.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn query(filter: Filter) -> Query {
    Query { filter, newest: true, after: None, limit: 1000, fields: None }
}

fn ask(archive: &Archive, query: &Query) -> Value {
    let answer = match archive.ask(query, Encoding::Identity) {
        Asked::Ready(answer) => answer,
        Asked::Later(told) => told.blocking_recv().unwrap().unwrap(),
        Asked::Busy => panic!("busy"),
    };
    serde_json::from_slice(&answer.body()).unwrap()
}

fn seqs(page: &Value) -> Vec<u64> {
    page["results"].as_array().unwrap().iter().map(|r| r["seq"].as_u64().unwrap()).collect()
}

fn deliver(sink: &mut dyn Sink, from: u64, to: u64) {
    let air = stream("air");
    for n in from..to {
        let stations: &[&str] = if n % 2 == 0 { &["north", "south"] } else { &["south"] };
        sink.deliver(&Arc::new(located(&air, n, 0, stations, 1e6 * n as f64, n as f64 / 1000.0))).unwrap();
    }
}

#[test]
fn a_sink_stores_and_its_archive_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(&format!("path = \"{}\"", dir.path().join("a.db").display()));
    let stored = Arc::new(AtomicUsize::new(0));
    let count = stored.clone();
    sink.on_stored(Arc::new(move |_| {
        count.fetch_add(1, Relaxed);
    }));
    let archive = sink.archive().unwrap();
    assert!(seqs(&ask(&archive, &query(Filter::default()))).is_empty());
    deliver(&mut *sink, 0, 100);
    sink.flush().unwrap();
    // What was written is seen at once: no answer of before is given.
    let page = ask(&archive, &query(Filter::default()));
    assert_eq!(seqs(&page), (0..100).rev().collect::<Vec<_>>());
    assert_eq!(page["next"], Value::Null);
    let north = Filter { station: Some("north".into()), min_confidence: Some(0.05), ..Filter::default() };
    assert_eq!(seqs(&ask(&archive, &query(north))), (50..100).rev().filter(|n| n % 2 == 0).collect::<Vec<_>>());
    wait_for("times of storing", || stored.load(Relaxed) == 100);
}

#[test]
fn the_same_questions_at_the_same_time_share_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::default());
    let place = Place::Sqlite(dir.path().join("a.db"));
    let mut database = place.open().unwrap();
    let air = stream("air");
    let rows: Vec<Row> = (0..2000).map(|n| Row::new(&located(&air, n, 0, &["n"], 1.0, 1.0))).collect();
    database.write(&rows).unwrap();
    let archive = place.archive(Arc::default(), cache).unwrap();
    let all: Vec<_> = (0..50).map(|_| archive.ask(&query(Filter::default()), Encoding::Zstd)).collect();
    let answers: Vec<_> = all
        .into_iter()
        .map(|asked| match asked {
            Asked::Ready(answer) => answer,
            Asked::Later(told) => told.blocking_recv().unwrap().unwrap(),
            Asked::Busy => panic!("fifty questions are no crowd"),
        })
        .collect();
    assert!(answers.iter().all(|a| a.tag() == answers[0].tag() && a.body() == answers[0].body()));
    let body = answers[0].body();
    let mut plain = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(&body[..]).unwrap().read_to_end(&mut plain).unwrap();
    assert_eq!(seqs(&serde_json::from_slice(&plain).unwrap()).len(), 1000);
}

#[test]
fn a_postgresql_that_is_killed_loses_nothing_that_waits() {
    let Some(mut server) = Postgres::start() else { return };
    let mut sink = open(&format!(
        "url = \"{}\"\npassword = \"{PASSWORD}\"\nbuffer = 1000\nbatch = 50\npatience = \"200ms\"",
        server.address()
    ));
    deliver(&mut *sink, 0, 200);
    wait_for("the first rows", || sink.flush().is_ok());
    server.kill();
    deliver(&mut *sink, 200, 400);
    assert!(sink.flush().is_err());
    server.run();
    wait_for("the other rows", || sink.flush().is_ok());
    // What is stored already is not stored again.
    deliver(&mut *sink, 390, 410);
    wait_for("the last rows", || sink.flush().is_ok());
    let mut client = server.client();
    let mut count =
        |what: &str| -> i64 { client.query_one(&format!("SELECT count(*) FROM {what}"), &[]).unwrap().get(0) };
    assert_eq!(count("results"), 410);
    assert_eq!(count("heard"), 410 + 205);
    assert_eq!(count("schema_versions"), 2);
    let archive = sink.archive().unwrap();
    assert_eq!(seqs(&ask(&archive, &query(Filter::default()))), (0..410).rev().collect::<Vec<_>>());
    drop(sink);
}

#[test]
fn postgresql_answers_as_sqlite_does() {
    let Some(server) = Postgres::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let places = [Place::Sqlite(dir.path().join("a.db")), Place::postgres(&server.url(), None).unwrap()];
    let streams = [stream("air"), stream("sea")];
    let rows: Vec<Row> = (0..500u64)
        .map(|n| {
            let stations: &[&str] = if n < 250 { &["north"] } else { &["north", "south"] };
            // Pairs are captured at the same time.
            let mut row = Row::new(&located(&streams[n as usize % 2], n, 0, stations, 1e3 * n as f64, 0.5));
            row.time = 1_000_000 * (n as i64 / 2);
            row
        })
        .collect();
    let archives = places.map(|place| {
        place.open().unwrap().write(&rows).unwrap();
        place.archive(Arc::default(), Arc::default()).unwrap()
    });
    for filter in [
        Filter::default(),
        Filter { stream: Some("sea".into()), ..Filter::default() },
        Filter { station: Some("south".into()), from: Some(130_000_000), ..Filter::default() },
        Filter { min_frequency: Some(100e3), max_frequency: Some(300e3), to: Some(140_000_000), ..Filter::default() },
        Filter { min_confidence: Some(0.6), ..Filter::default() },
    ] {
        for newest in [true, false] {
            let mut query = Query { newest, limit: 60, ..query(filter.clone()) };
            loop {
                let [a, b] = archives.each_ref().map(|archive| ask(archive, &query));
                assert_eq!(seqs(&a), seqs(&b), "{query:?}");
                assert_eq!(a["next"], b["next"], "{query:?}");
                let Some(next) = a["next"].as_str() else { break };
                query.resume(next).unwrap();
            }
        }
    }
}

#[test]
fn postgresql_keeps_to_age_and_size() {
    let Some(server) = Postgres::start() else { return };
    let mut database = Place::postgres(&server.url(), None).unwrap().open().unwrap();
    let air = stream("air");
    let rows: Vec<Row> =
        (0..900u64).map(|n| Row::new(&located(&air, n, (1000 - n) * SECOND, &["north"], 1.0, 1.0))).collect();
    database.write(&rows).unwrap();
    let mut client = server.client();
    let mut number = |sql: &str| -> i64 { client.query_one(sql, &[]).unwrap().get(0) };
    let whole = number("SELECT bytes FROM amount");
    let by_age = Limits { keep: Some(Duration::from_secs(100)), max_size: None };
    let now = rows[700].time + 100_000_000;
    assert_eq!([(); 3].map(|()| database.trim(&by_age, now).unwrap()), [500, 200, 0]);
    assert_eq!(number("SELECT min(seq) FROM results"), 700);
    assert_eq!(number("SELECT count(*) FROM heard"), 200);
    let left = number("SELECT bytes FROM amount");
    assert!(left < whole / 4, "{left} of {whole}");
    let by_size = Limits { keep: None, max_size: Some(left as u64 - 1) };
    assert_eq!([(); 2].map(|()| database.trim(&by_size, now).unwrap()), [200, 0]);
    assert_eq!(number("SELECT bytes FROM amount"), 0);
}

#[test]
fn a_postgresql_that_is_not_there_yet_is_no_error() {
    // Nobody listens on port 1.
    let mut sink = open("url = \"postgres://u@127.0.0.1:1/x\"\npatience = \"50ms\"");
    deliver(&mut *sink, 0, 1);
    assert!(sink.flush().is_err_and(|e| e.to_string().contains("1 results")));
    let begun = Instant::now();
    drop(sink);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_memory_forgot_comes_from_redis_and_a_killed_one_is_done_without() {
    let Some(mut server) = Redis::start() else { return };
    let settings = Settings { redis: Some(server.url()), ..Settings::default() };
    let cache = Cache::open(&settings).unwrap();
    let key = |n: u64| Key::of_result(&n.to_be_bytes(), "configuration", "model");
    cache.keep(key(1), &b"value"[..]);
    // Another process: its memory is empty.
    let other = Cache::open(&settings).unwrap();
    wait_for("the value", || other.find(&key(1)).is_some_and(|v| v == "value"));
    assert_eq!(other.counts().hits(Layer::Redis), 1);
    // What somebody else wrote there is not taken.
    let mut client = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    redis::cmd("SET").arg(format!("framegate:{}", key(2))).arg("nonsense").exec(&mut client).unwrap();
    wait_for("the corrupt value", || {
        assert!(other.find(&key(2)).is_none());
        other.counts().drops(Reason::Corrupt) == 1
    });
    server.kill();
    cache.keep(key(3), &b"three"[..]);
    assert!(cache.find(&key(3)).is_some());
    assert!(cache.find(&key(4)).is_none());
    wait_for("the failure", || cache.counts().drops(Reason::Failed) > 0);
    server.run();
    wait_for("the server is used again", || {
        cache.keep(key(5), &b"five"[..]);
        other.find(&key(5)).is_some()
    });
}

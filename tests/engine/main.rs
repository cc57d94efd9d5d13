//! The engine with stages and sinks of the test's own: every captured frame ends in exactly one outcome, whatever
//! happens on the way.

mod crops;
mod parts;
mod rungs;

use crossbeam_channel::unbounded;
use framegate::config::SourceEntry;
use framegate::engine::EngineError;
use framegate::frame::{Detection, Frame};
use framegate::source::SourceConfig;
use framegate::stage::StageError;
use parts::{
    Collect, Running, Stalled, counts, delivered, device, failed, live, offline, pipeline, plain, shed, sink, stage,
    start,
};
use std::time::{Duration, Instant};

#[test]
fn an_offline_run_delivers_every_frame_in_order_and_forms_batches_by_count() {
    for slots in [1, 3] {
        let (config, batches) = device(&[1, 2, 4], Duration::from_micros(200), slots);
        let (tx, records) = unbounded();
        let p = pipeline(
            vec![offline("a", 101), offline("b", 50)],
            vec![stage("detect", &["a", "b"], config), stage("after", &["detect"], plain(|_| Ok(())))],
            vec![sink(&["after"], Collect(tx))],
        );
        let calibration = 15 * 3;
        let telemetry = start(p).finish();
        for (id, n) in [("a", 101), ("b", 50)] {
            let c = counts(&telemetry, id);
            assert_eq!((c.frames.captured, c.frames.on_time, c.frames.in_flight), (n, n, 0), "{id}: {c:?}");
        }
        let mut next = std::collections::HashMap::new();
        for r in records.try_iter() {
            let seq = next.entry(r.stream.id.clone()).or_insert(0);
            assert_eq!(r.seq, *seq, "in order");
            assert!(r.inferred && r.on_time);
            *seq += 1;
        }
        assert_eq!(next.values().sum::<u64>(), 151);
        let sizes: Vec<_> = batches.try_iter().collect();
        let full = sizes.iter().filter(|&&n| n == 4).count();
        assert!(full >= 25 + 12 && full <= 25 + 12 + calibration, "full batches: {full}");
    }
}

#[test]
fn an_overloaded_device_serves_every_stream_and_accounts_for_every_frame() {
    let (config, _batches) = device(&[1], Duration::from_millis(16), 1);
    let (tx, records) = unbounded();
    let ids = ["a", "b", "c", "d"];
    let p = pipeline(ids.map(live).into(), vec![stage("detect", &ids, config)], vec![sink(&["detect"], Collect(tx))]);
    let mut run = start(p);
    run.until(|t| ids.iter().all(|id| counts(t, id).frames.captured >= 90));
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    for id in ids {
        let c = counts(&telemetry, id);
        assert_eq!(c.frames.in_flight, 0, "{id}: {c:?}");
        assert_eq!(c.frames.failed, failed(&c, "stopped"), "only those that were under way at the stop: {c:?}");
        assert!(delivered(&c) > 20, "{id} is served: {c:?}");
        assert!(c.frames.shed > 10, "{id} gives way: {c:?}");
    }
    assert!(records.len() > 80);
}

#[test]
fn a_model_that_can_never_fit_sheds_every_frame_as_infeasible() {
    let (config, _batches) = device(&[1], Duration::from_millis(60), 1);
    let (tx, records) = unbounded();
    let p = pipeline(vec![live("a")], vec![stage("detect", &["a"], config)], vec![sink(&["detect"], Collect(tx))]);
    let mut run = start(p);
    run.until(|t| counts(t, "a").frames.captured >= 45);
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    let c = counts(&telemetry, "a");
    assert_eq!(shed(&c, "infeasible") + failed(&c, "stopped"), c.frames.captured, "{c:?}");
    assert_eq!(records.len(), 0);
}

#[test]
fn branches_of_a_frame_join_again_and_have_one_outcome() {
    let label = |name: &'static str| {
        plain(move |f: &mut Frame| {
            // One branch loses every tenth frame.
            if name == "right" && f.ticket.seq % 10 == 3 {
                return Err(StageError::new("lost on the right"));
            }
            let d = Detection::new(name.into(), 0, 1.0, [0.0; 4]);
            f.annotations.detections.get_or_insert_default().push(d);
            Ok(())
        })
    };
    let (tx, records) = unbounded();
    let p = pipeline(
        vec![offline("a", 100)],
        vec![
            stage("left", &["a"], label("left")),
            stage("right", &["a"], label("right")),
            stage("join", &["left", "right"], plain(|_| Ok(()))),
        ],
        vec![sink(&["join"], Collect(tx))],
    );
    let telemetry = start(p).finish();
    let c = counts(&telemetry, "a");
    assert_eq!(
        (c.frames.captured, c.frames.on_time, failed(&c, "stage"), c.frames.in_flight),
        (100, 90, 10, 0),
        "{c:?}"
    );
    let records: Vec<_> = records.try_iter().collect();
    assert_eq!(records.len(), 90);
    for r in records {
        let mut labels: Vec<_> = r.annotations.detections.iter().flatten().map(|d| d.label.to_string()).collect();
        labels.sort();
        assert_eq!(labels, ["left", "right"], "frame {}", r.seq);
    }
}

#[test]
fn a_panic_fails_its_frame_only_and_the_stage_is_built_anew() {
    let (tx, records) = unbounded();
    let p = pipeline(
        vec![offline("a", 60)],
        vec![stage(
            "shaky",
            &["a"],
            plain(|f| {
                assert!(f.ticket.seq % 25 != 7, "told to");
                Ok(())
            }),
        )],
        vec![sink(&["shaky"], Collect(tx))],
    );
    let telemetry = start(p).finish();
    let c = counts(&telemetry, "a");
    assert_eq!((c.frames.captured, c.frames.on_time, failed(&c, "panic")), (60, 57, 3), "{c:?}");
    assert_eq!(records.len(), 57);
}

#[test]
fn a_stage_that_panics_again_and_again_stops_the_process() {
    let p = pipeline(vec![offline("a", 60)], vec![stage("broken", &["a"], plain(|_| panic!("always")))], Vec::new());
    let mut run = start(p);
    let end = Instant::now() + Duration::from_secs(30);
    let error = loop {
        match run.engine.tick() {
            Err(e) => break e,
            Ok(_) => assert!(Instant::now() < end, "must give up"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(matches!(&error, EngineError::Failed(m) if m.contains("broken") && m.contains("always")), "{error}");
    run.engine.stop(Duration::from_secs(2));
    let c = counts(&run.telemetry, "a");
    assert_eq!(c.frames.in_flight, 0, "{c:?}");
}

#[test]
fn a_stalled_sink_stalls_neither_the_stream_nor_the_stop() {
    let (hold, stalled) = unbounded::<()>();
    let mut out = sink(&["pass"], Stalled(stalled));
    out.queue = 4;
    let p = pipeline(vec![live("a")], vec![stage("pass", &["a"], plain(|_| Ok(())))], vec![out]);
    let mut run = start(p);
    run.until(|t| delivered(&counts(t, "a")) >= 30);
    let Running { engine, telemetry } = run;
    let begun = Instant::now();
    engine.stop(Duration::from_secs(2));
    assert!(begun.elapsed() < Duration::from_millis(2500));
    let c = counts(&telemetry, "a");
    assert_eq!(c.frames.in_flight, 0, "{c:?}");
    assert!(telemetry.metrics().contains("framegate_sink_errors_total{sink=\"out\"}"), "losses are counted");
    drop(hold);
}

#[test]
fn a_reload_loses_no_frame_of_a_source_that_has_not_changed() {
    let (tx, records) = unbounded();
    let make = |n: usize| {
        let (config, _) = device(&[1], Duration::from_millis(1 + n as u64), 1);
        pipeline(
            vec![live("a")],
            vec![stage("detect", &["a"], config), stage("pass", &["detect"], plain(|_| Ok(())))],
            vec![sink(&["pass"], Collect(tx.clone()))],
        )
    };
    let mut run = start(make(0));
    for n in 1..6u64 {
        run.until(|t| delivered(&counts(t, "a")) >= 8 * n);
        run.engine.reload(make(n as usize)).expect("reload");
    }
    run.until(|t| delivered(&counts(t, "a")) >= 60);
    let Running { engine, telemetry } = run;
    assert!(engine.stop(Duration::from_secs(2)));
    let c = counts(&telemetry, "a");
    assert_eq!((c.frames.in_flight, c.frames.evicted), (0, 0), "{c:?}");
    assert_eq!(c.frames.failed, failed(&c, "stopped"));
    let seqs: std::collections::BTreeSet<u64> = records.try_iter().map(|r| r.seq).collect();
    assert_eq!(seqs.len() as u64, delivered(&c), "no frame twice");
}

#[test]
fn a_missing_file_is_an_unusable_source() {
    let config: SourceConfig = toml::from_str("uri = \"file:///does/not/exist.mp4\"").expect("a source");
    let entry = SourceEntry { id: "a".into(), deadline: None, config };
    let p = pipeline(vec![entry], vec![stage("pass", &["a"], plain(|_| Ok(())))], Vec::new());
    let mut run = start(p);
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match run.engine.tick() {
            Err(EngineError::Unusable(m)) => break assert!(m.contains("exist.mp4"), "{m}"),
            Err(e) => panic!("{e}"),
            Ok(_) => assert!(Instant::now() < end),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

use super::super::testing::{RATE, block, record, stream};
use super::*;
use crate::frame::{Gap, GapCause, Payload, SampleBlock, SampleTime, Stream};
use crate::issue::Severity;
use crate::signal::sigmf::{Metadata, Recording};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn config(folder: &Path, more: &str) -> SigmfConfig {
    toml::from_str(&format!("folder = \"{}\"\n{more}", folder.display())).unwrap()
}

fn open(folder: &Path, more: &str) -> Box<dyn Sink> {
    config(folder, more).open(&context()).unwrap()
}

fn context() -> BuildContext {
    BuildContext { id: "iq".into(), ..Default::default() }
}

fn names(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|p| p.to_string_lossy().ends_with(ending)).collect();
    paths.sort();
    paths
}

/// The samples of a recording, as positions, and its metadata.
fn read(meta: &Path) -> (Vec<u64>, Metadata) {
    let recording = Recording::open(meta).unwrap();
    let metadata = Metadata::parse(meta, &std::fs::read_to_string(meta).unwrap()).unwrap();
    let mut reader = recording.reader().unwrap();
    let (mut all, mut samples) = (Vec::new(), Vec::new());
    while reader.read(1000, &mut samples).unwrap().is_some() {
        all.append(&mut samples);
    }
    assert!(all.iter().all(|s| s.im == -s.re));
    (all.iter().map(|s| s.re as u64).collect(), metadata)
}

/// All recordings in the order of their samples.
fn recordings(folder: &Path) -> Vec<(Vec<u64>, Metadata)> {
    let mut all: Vec<_> = names(folder, ".sigmf-meta").iter().map(|p| read(p)).collect();
    all.sort_by_key(|(samples, _)| samples.first().copied());
    assert!(names(folder, ".part").is_empty());
    all
}

#[test]
fn a_burst_is_cut_with_what_lies_before_and_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), "before = \"20ms\"\nafter = \"30ms\"\nformat = \"cf32_le\"");
    let rx = stream();
    for seq in 0..40 {
        // Told in the block behind its end.
        let bursts: &[_] = if seq == 3 { &[(115, 140)] } else { &[] };
        sink.deliver(&record(&rx, seq, block(seq * 100, 100), bursts)).unwrap();
        if seq == 11 {
            assert!(names(folder.path(), ".sigmf-meta").is_empty() && names(folder.path(), ".part").len() == 1);
        }
    }
    sink.flush().unwrap();
    drop(sink);
    let all = recordings(folder.path());
    let (samples, metadata) = &all[0];
    assert_eq!((all.len(), samples), (1, &(95..285).collect()));
    let annotation = &metadata.annotations[0];
    assert_eq!((annotation.start, annotation.count), (20, Some(140)));
    assert_eq!((annotation.lower, annotation.upper), (Some(100e6 + 40.0), Some(100e6 + 60.0)));
    assert_eq!(annotation.label.as_deref(), Some("burst"));
    assert_eq!(annotation.other["framegate:snr_db"], 17.12);
    let global = &metadata.global;
    assert_eq!((global.sample_rate, &*global.format.to_string()), (Some(RATE), "cf32_le"));
    assert_eq!(global.other["framegate:stream"], "rx");
    assert!(global.other["core:recorder"].as_str().unwrap().starts_with("framegate "));
    let capture = &metadata.captures[0];
    assert_eq!((metadata.captures.len(), capture.start, capture.frequency), (1, 0, Some(100e6)));
    let at: jiff::Timestamp = capture.datetime.as_deref().unwrap().parse().unwrap();
    let ago = jiff::Timestamp::now().as_second() - at.as_second();
    assert!((0..60).contains(&ago), "{at}");
}

#[test]
fn gaps_and_retuning_begin_capture_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), "trigger = [\"always\"]\nname = \"all\"");
    let rx = stream();
    let time = |ms: i64| {
        Some(SampleTime { ns: 1_767_268_800_000_000_000 + ms * 1_000_000, accuracy: Duration::from_micros(5) })
    };
    let blocks = [
        SampleBlock { time: time(0), ..block(0, 100) },
        SampleBlock { time: time(100), ..block(100, 50) },
        SampleBlock { gap: Some(Gap { samples: 25, cause: GapCause::Overrun }), time: time(175), ..block(175, 75) },
        SampleBlock { gap: Some(Gap { samples: 0, cause: GapCause::Reconnect }), time: time(900), ..block(250, 50) },
        // Lost on the way to this sink.
        SampleBlock { time: time(1000), ..block(350, 50) },
        SampleBlock { time: time(1050), frequency: Some(200e6), last: true, ..block(400, 50) },
    ];
    for (seq, block) in blocks.into_iter().enumerate() {
        let bursts: &[_] = if seq == 5 { &[(140, 120)] } else { &[] };
        sink.deliver(&record(&rx, seq as u64, block, bursts)).unwrap();
    }
    drop(sink);
    let (samples, metadata) = read(&folder.path().join("all.sigmf-meta"));
    let expected: Vec<u64> = (0..150).chain(175..300).chain(350..450).collect();
    assert_eq!(samples, expected);
    let captures: Vec<_> = metadata
        .captures
        .iter()
        .map(|c| {
            (c.start, c.frequency, c.datetime.as_deref().unwrap().to_owned(), c.other.get("framegate:gap").cloned())
        })
        .collect();
    let at = |s: &str| format!("2026-01-01T12:00:{s}00000000Z");
    let gap = |samples: Value, cause: &str| Some(json!({"samples": samples, "cause": cause}));
    assert_eq!(
        captures,
        [
            (0, Some(100e6), at("00.0"), None),
            (150, Some(100e6), "2026-01-01T12:00:00.175000000Z".to_owned(), gap(json!(25), "overrun")),
            (225, Some(100e6), at("00.9"), gap(Value::Null, "reconnect")),
            (275, Some(100e6), at("01.0"), gap(json!(50), "dropped")),
            (325, Some(200e6), "2026-01-01T12:00:01.050000000Z".to_owned(), None),
        ]
    );
    assert_eq!(metadata.captures[0].other["framegate:time_accuracy_s"], 5e-6);
    // 25 of the burst's samples are in the gap.
    assert_eq!((metadata.annotations[0].start, metadata.annotations[0].count), (140, Some(95)));
}

#[test]
fn a_frame_of_two_branches_counts_once_and_an_ended_stream_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), "before = \"10ms\"\nafter = \"10ms\"");
    let rx = stream();
    for round in 0..2 {
        for seq in 0..5 {
            let block = SampleBlock { last: seq == 4, ..block(seq * 100, 100) };
            let bursts: &[_] = if seq == 4 { &[(290, 20)] } else { &[] };
            sink.deliver(&record(&rx, round * 5 + seq, block.clone(), &[])).unwrap();
            sink.deliver(&record(&rx, round * 5 + seq, block, bursts)).unwrap();
        }
    }
    drop(sink);
    let all = recordings(folder.path());
    assert_eq!(all.len(), 2);
    for (samples, metadata) in all {
        assert_eq!((samples, metadata.annotations.len()), ((280..320).collect(), 1));
    }
}

#[test]
fn who_asks_gets_a_recording_and_can_stop_it() {
    let folder = tempfile::tempdir().unwrap();
    let context = context();
    let config = config(folder.path(), "trigger = [\"request\"]\nbefore = \"50ms\"");
    let mut sink = config.open(&context).unwrap();
    let rx = stream();
    for seq in 0..40 {
        let asked = match seq {
            3 => Some(Duration::from_millis(230)),
            20 => Some(Duration::from_secs(10)),
            22 => Some(Duration::ZERO),
            _ => None,
        };
        if let Some(time) = asked {
            assert_eq!(context.views.record("rx", time), 1);
        }
        // Bursts alone begin nothing.
        sink.deliver(&record(&rx, seq, block(seq * 100, 100), &[(seq * 100, 10)])).unwrap();
    }
    drop(sink);
    let all: Vec<Vec<u64>> = recordings(folder.path()).into_iter().map(|(samples, _)| samples).collect();
    assert_eq!(all, [(250..530).collect::<Vec<_>>(), (1950..2200).collect()]);
    assert_eq!(context.views.record("rx", Duration::ZERO), 0);
}

#[test]
fn old_recordings_of_the_same_sink_are_deleted_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["mine.sigmf-meta", "mine.sigmf-data", "notes.txt", "broken.sigmf-meta"] {
        std::fs::write(folder.path().join(name), r#"{"global":{"framegate:sink":"other"}}"#).unwrap();
    }
    let record_some = |from: u64| {
        let mut sink = open(
            folder.path(),
            "trigger = [\"always\"]\nmax_length = \"100ms\"\nname = \"{stream}\"\nkeep = { count = 3 }",
        );
        for seq in 0..4 {
            sink.deliver(&record(&stream(), seq, block(from + seq * 100, 100), &[])).unwrap();
        }
    };
    record_some(0);
    record_some(1000);
    let left: Vec<_> =
        names(folder.path(), "").iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(left.iter().filter(|n| n.starts_with("rx")).count(), 6, "{left:?}");
    let kept = left.iter().filter(|n| n.starts_with("rx") && n.ends_with("meta"));
    let mut starts: Vec<u64> = kept.map(|n| read(&folder.path().join(n)).0[0]).collect();
    starts.sort_unstable();
    assert_eq!(starts, [1100, 1200, 1300]);
    assert!(
        ["mine.sigmf-meta", "mine.sigmf-data", "notes.txt", "broken.sigmf-meta"]
            .iter()
            .all(|n| left.contains(&(*n).to_owned()))
    );
}

#[test]
fn a_folder_in_the_way_is_an_error_and_a_record_without_samples_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    let mut sink = open(&inside, "trigger = [\"always\"]");
    std::fs::write(&inside, "in the way").unwrap();
    let rx = stream();
    let failed = sink.deliver(&record(&rx, 0, block(0, 100), &[])).unwrap_err();
    assert!(failed.0.contains("inside"), "{failed}");
    // Not tried again at once.
    assert_eq!(sink.deliver(&record(&rx, 1, block(100, 100), &[])).unwrap_err().0, failed.0);
    std::fs::remove_file(&inside).unwrap();
    // Another stream does not wait for this one.
    let other = Arc::new(Stream::new("ry", 1, None, 0, true));
    sink.deliver(&record(&other, 0, block(0, 100), &[])).unwrap();
    let third = Arc::new(Stream::new("rz", 2, None, 0, true));
    let mut empty = Arc::into_inner(record(&third, 0, block(0, 1), &[])).unwrap();
    empty.payload = Payload::Empty;
    assert!(sink.deliver(&Arc::new(empty)).unwrap_err().0.contains("no samples"));
    drop(sink);
    assert_eq!(recordings(&inside)[0].0, (0..100).collect::<Vec<_>>());
}

#[test]
fn what_cannot_work_is_said_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let issues = |more: &str| -> Vec<(String, Severity)> {
        config(folder.path(), more).check(&context()).into_iter().map(|i| (i.key, i.severity)).collect()
    };
    let error = |key: &str| vec![(key.to_owned(), Severity::Error)];
    assert_eq!(issues(""), []);
    assert_eq!(issues("name = \"{start}\""), [("name".to_owned(), Severity::Warning)]);
    for (more, key) in [
        ("name = \"a/{stream}\"", "name"),
        ("name = \"{cam}\"", "name"),
        ("trigger = []", "trigger"),
        ("longest = \"2h\"", "longest"),
        ("format = \"cf33\"", "format"),
        ("format = \"ri16_le\"", "format"),
        ("keep = {}", "keep"),
        ("keep = { count = 0 }", "keep.count"),
    ] {
        assert_eq!(issues(more), error(key), "{more}");
    }
    std::fs::write(folder.path().join("file"), "").unwrap();
    let config = config(&folder.path().join("file"), "");
    assert!(config.check(&context()).iter().any(|i| i.key == "folder"));
}

#[test]
fn bursts_that_are_told_together_and_touch_are_recorded_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), "before = \"0ms\"\nafter = \"1ms\"\nmax_length = \"20ms\"\nlongest = \"1s\"");
    // The first one fills recordings up to where the second begins.
    sink.deliver(&record(&stream(), 0, block(0, 100), &[(10, 51), (61, 1)])).unwrap();
    drop(sink);
    let got: Vec<u64> = recordings(folder.path()).into_iter().flat_map(|(samples, _)| samples).collect();
    assert_eq!(got, (10..63).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the blocks, gaps and bursts are: every wanted sample that was there is in exactly one recording, in its
    /// place, and no other is.
    #[test]
    fn no_sample_is_lost_doubled_or_moved(
        blocks in prop::collection::vec((1u64..60, prop_oneof![4 => Just(0u64), 1 => 1u64..80]), 1..60),
        bursts in prop::collection::vec((0u64..2000, 1u64..120), 0..12),
        before in 0u64..50, after in 0u64..50, max_length in 20u64..400,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = open(folder.path(), &format!(
            "before = \"{before}ms\"\nafter = \"{after}ms\"\nmax_length = \"{max_length}ms\"\nlongest = \"1s\""
        ));
        let mut bursts = bursts;
        bursts.sort_unstable();
        // Bursts of one detector do not overlap, and are told in their order.
        let mut behind = 0;
        bursts.retain(|(start, length)| {
            let fits = *start >= behind;
            if fits { behind = start + length; }
            fits
        });
        let rx = stream();
        let (mut at, mut there, mut told) = (0, BTreeSet::new(), Vec::new());
        let mut waiting = bursts.into_iter().peekable();
        for (seq, (count, gap)) in blocks.into_iter().enumerate() {
            at += gap;
            let b = block(at, count);
            there.extend(at..b.end());
            at = b.end();
            let mut now = Vec::new();
            while let Some(b) = waiting.next_if(|(start, length)| start + length <= at) {
                now.push(b);
            }
            told.extend(now.clone());
            sink.deliver(&record(&rx, seq as u64, b, &now)).unwrap();
        }
        drop(sink);
        let wanted: BTreeSet<u64> = told
            .iter()
            .flat_map(|(start, length)| start.saturating_sub(before)..start + length + after)
            .filter(|n| there.contains(n))
            .collect();
        let mut got = Vec::new();
        for (samples, metadata) in recordings(folder.path()) {
            prop_assert!(samples.last().unwrap() - samples[0] < max_length);
            // A segment begins exactly where a sample does not follow the one before.
            let jumps: Vec<u64> = (1..samples.len()).filter(|&i| samples[i] != samples[i - 1] + 1).map(|i| i as u64).collect();
            let segments: Vec<u64> = metadata.captures.iter().skip(1).map(|c| c.start).collect();
            prop_assert_eq!(jumps, segments);
            got.extend(samples);
        }
        prop_assert_eq!(got, wanted.into_iter().collect::<Vec<_>>());
    }
}

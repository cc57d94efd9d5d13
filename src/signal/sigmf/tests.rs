use super::super::Complex32;
use super::super::samples::Format;
use super::super::testing::noise;
use super::*;
use serde_json::{Value, json};
use std::path::Path;

fn parse(value: &Value) -> Result<Metadata, SigmfError> {
    Metadata::parse(Path::new("a.sigmf-meta"), &value.to_string())
}

fn minimal() -> Value {
    json!({
        "global": {"core:datatype": "ci16_le", "core:version": "1.2.0", "core:sample_rate": 1e6},
        "captures": [{"core:sample_start": 0, "core:frequency": 1e8}],
        "annotations": []
    })
}

#[test]
fn broken_metadata_is_refused_with_file_key_and_what() {
    let with = |path: &str, value: Value| {
        let mut whole = minimal();
        match whole.pointer_mut(path) {
            Some(place) => *place = value,
            None => {
                let (parent, key) = path.rsplit_once('/').expect("a path");
                whole.pointer_mut(parent).expect("a parent")[key] = value;
            }
        }
        whole
    };
    for (broken, said) in [
        (json!([]), "the file: is an array; it must be an object"),
        (json!({}), "global: is missing"),
        (with("/global", json!(3)), "global: is 3; it must be an object"),
        (with("/captures", Value::Null), "captures: is missing"),
        (with("/annotations", json!({})), "annotations: is an object; it must be an array"),
        (with("/captures/0", json!("x")), "captures[0]: is the string \"x\"; it must be an object"),
        (
            with("/captures/0/core:sample_start", json!(-1)),
            "captures[0].core:sample_start: is -1; it must be a whole number",
        ),
        (with("/captures/0/core:sample_start", json!(1.5)), "captures[0].core:sample_start: is 1.5"),
        (with("/captures/0/core:frequency", json!("1e8")), "captures[0].core:frequency: is the string"),
        (with("/captures/0", json!({})), "captures[0].core:sample_start: is missing"),
        (
            with("/captures", json!([{"core:sample_start": 5}, {"core:sample_start": 4}])),
            "captures[1].core:sample_start: 4 is before",
        ),
        (with("/global/core:offset", json!(7)), "captures[0].core:sample_start: 0 is before core:offset, 7"),
        (with("/global/core:datatype", json!("ci24_le")), "global.core:datatype: the sample format is \"ci24_le\""),
        (with("/global/core:datatype", Value::Null), "global.core:datatype: is missing"),
        (with("/global/core:version", Value::Null), "global.core:version: is missing"),
        (with("/global/core:sample_rate", json!(0)), "global.core:sample_rate: is 0"),
        (with("/global/core:sample_rate", json!(-1e6)), "global.core:sample_rate: is -1000000"),
        (with("/global/core:num_channels", json!(0)), "global.core:num_channels: is 0"),
        (with("/global/core:num_channels", json!(1e15)), "global.core:num_channels: is"),
        (with("/global/core:dataset", json!("../../etc/passwd")), "global.core:dataset: is"),
        (with("/global/core:metadata_only", json!(1)), "global.core:metadata_only: is 1; it must be true or false"),
        (
            with("/annotations", json!([{"core:sample_start": u64::MAX, "core:sample_count": 2}])),
            "annotations[0].core:sample_count: reaches beyond",
        ),
    ] {
        let error = parse(&broken).expect_err(said).to_string();
        assert!(error.starts_with("a.sigmf-meta: ") && error.contains(said), "{error}\nnot {said}");
    }
    let error = Metadata::parse(Path::new("b"), "{\n\"global\": }").expect_err("no JSON").to_string();
    assert!(error.contains("b: this is not JSON") && error.contains("line 2"), "{error}");
}

#[test]
fn unknown_keys_and_extensions_are_kept() {
    let mut whole = minimal();
    whole["global"]["antenna:gain"] = json!(3.5);
    whole["global"]["core:extensions"] = json!([{"name": "antenna", "version": "1.0.0", "optional": true}]);
    whole["captures"][0]["x:y"] = json!([1, {"z": null}]);
    whole["annotations"] = json!([{"core:sample_start": 3, "core:label": "a", "signal:detail": {"k": 1}}]);
    whole["own:object"] = json!("kept");
    let metadata = parse(&whole).expect("valid");
    let again = Metadata::parse(Path::new("b"), &metadata.to_json()).expect("valid");
    assert_eq!(metadata, again);
    assert_eq!(serde_json::from_str::<Value>(&metadata.to_json()).expect("JSON"), whole);
}

#[test]
fn what_is_written_is_read_again_segment_by_segment() {
    let dir = tempfile::tempdir().expect("a folder");
    for format in ["cf32_le", "ci16_be", "cu8"] {
        let path = dir.path().join(format).with_extension("sigmf-meta");
        let format: Format = format.parse().expect("a format");
        let mut writer = Writer::create(&path, format, 2e6).expect("created");
        writer.global().other.insert("core:hw".into(), "a receiver".into());
        let samples = noise(5000, 0.9, 4);
        writer.capture(Capture { frequency: Some(1e8), ..Capture::default() });
        writer.write(&samples[..3000]).expect("written");
        writer.capture(Capture {
            frequency: Some(2e8),
            datetime: Some("2026-01-01T00:00:00Z".into()),
            ..Capture::default()
        });
        writer.annotate(Annotation {
            start: 3500,
            count: Some(10),
            label: Some("late".into()),
            ..Annotation::default()
        });
        writer.annotate(Annotation { start: 100, ..Annotation::default() });
        writer.write(&samples[3000..]).expect("written");
        assert!(!path.exists(), "a recording that is there is whole");
        writer.finish().expect("finished");

        let recording = Recording::open(&path).expect("opened");
        assert_eq!(recording.metadata().annotations.iter().map(|a| a.start).collect::<Vec<_>>(), [100, 3500]);
        let mut reader = recording.reader().expect("readable");
        assert_eq!((reader.total(), reader.channels(), reader.sample_rate()), (5000, 1, 2e6));
        let (mut block, mut all) = (Vec::new(), Vec::new());
        let mut seen = Vec::new();
        while let Some(b) = reader.read(1024, &mut block).expect("read") {
            assert_eq!(block.len(), b.frames);
            assert_eq!(b.start, all.len() as u64);
            seen.push((b.frequency, b.capture));
            all.extend_from_slice(&block);
        }
        seen.dedup();
        assert_eq!(seen, [(Some(1e8), Some(0)), (Some(2e8), Some(1))]);
        assert_eq!(all.len(), samples.len());
        assert!(all.iter().zip(&samples).all(|(a, b)| (a - b).norm() < 0.012), "{format}");
    }
}

#[test]
fn headers_offsets_channels_and_trailing_bytes_are_where_they_are_said_to_be() {
    let dir = tempfile::tempdir().expect("a folder");
    let meta = dir.path().join("r.sigmf-meta");
    let mut data = vec![9u8; 3];
    let frame = |i: u8| [i, i + 100];
    (0..4).for_each(|i| data.extend(frame(i)));
    data.extend([9; 5]);
    (4..10).for_each(|i| data.extend(frame(i)));
    data.extend([9; 7]);
    std::fs::write(dir.path().join("raw.bin"), &data).expect("written");
    let mut whole = json!({
        "global": {
            "core:datatype": "ri8", "core:version": "1.2.0", "core:sample_rate": 8000, "core:num_channels": 2,
            "core:offset": 1000, "core:dataset": "raw.bin", "core:trailing_bytes": 7
        },
        "captures": [
            {"core:sample_start": 1000, "core:header_bytes": 3},
            {"core:sample_start": 1004, "core:header_bytes": 5, "core:frequency": 5.0},
            {"core:sample_start": 2000}
        ],
        "annotations": []
    });
    std::fs::write(&meta, whole.to_string()).expect("written");
    let mut reader = Recording::open(&meta).and_then(|r| r.reader()).expect("readable");
    assert_eq!((reader.total(), reader.channels()), (10, 2));
    let mut block = Vec::new();
    let mut got = Vec::new();
    let mut starts = Vec::new();
    while let Some(b) = reader.read(3, &mut block).expect("read") {
        starts.push((b.start, b.frames, b.capture));
        got.extend(block.iter().map(|x| (x.re * 128.0) as u8));
    }
    assert_eq!(starts, [(1000, 3, Some(0)), (1003, 1, Some(0)), (1004, 3, Some(1)), (1007, 3, Some(1))]);
    assert_eq!(got, (0..10).flat_map(frame).collect::<Vec<_>>());

    for (position, start) in [(0, Some(1000)), (1005, Some(1005)), (1001, Some(1001)), (1010, None), (u64::MAX, None)] {
        reader.seek(position);
        assert_eq!(reader.read(3, &mut block).expect("read").map(|b| b.start), start);
    }

    for (key, value, said) in [
        (
            "core:trailing_bytes",
            json!(1000),
            "global.core:trailing_bytes: is 1000, but the data file has only 35 bytes",
        ),
        ("core:trailing_bytes", json!(6), "raw.bin: ends with 1 bytes that are no sample of 2 bytes"),
        ("core:dataset", json!("none.bin"), "none.bin: cannot be opened"),
        ("core:sample_rate", Value::Null, "global.core:sample_rate: is missing"),
    ] {
        let mut broken = whole.clone();
        broken["global"][key] = value;
        std::fs::write(&meta, broken.to_string()).expect("written");
        let error = Recording::open(&meta).and_then(|r| r.reader()).expect_err(said).to_string();
        assert!(error.contains(said), "{error}");
    }
    whole["captures"][0]["core:header_bytes"] = json!(u64::MAX);
    std::fs::write(&meta, whole.to_string()).expect("written");
    let error = Recording::open(&meta).and_then(|r| r.reader()).expect_err("too long").to_string();
    assert!(error.contains("captures[0].core:header_bytes: reaches beyond"), "{error}");
}

#[test]
fn either_file_names_the_recording() {
    for name in ["a/b.c.sigmf-meta", "a/b.c.sigmf-data", "a/b.c"] {
        assert_eq!(files(Path::new(name)), ("a/b.c.sigmf-meta".into(), "a/b.c.sigmf-data".into()));
    }
}

#[test]
fn frames_of_several_channels_are_written_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = Writer::create(&dir.path().join("two"), "cf32".parse().expect("a format"), 1e3).expect("created");
    writer.global().channels = 2;
    assert!(writer.write(&[Complex32::default(); 3]).is_err());
    writer.write(&[Complex32::default(); 4]).expect("written");
    assert_eq!(writer.frames(), 2);
    assert!(Writer::create(&dir.path().join("x"), "cf32".parse().expect("a format"), f64::NAN).is_err());
}

//! Tracking quality on MOT15 sequences with given detections, beside SORT and ByteTrack on the same detections.

mod common;
#[path = "common/mot.rs"]
mod mot;

use framegate::frame::{Arrival, Detection, Frame, Payload, Stream};
use framegate::stage::{self, BuildContext, Built};
use std::path::Path;
use std::sync::Arc;

const SEQUENCES: [&str; 5] = ["ETH-Sunnyday", "KITTI-17", "PETS09-S2L1", "TUD-Campus", "TUD-Stadtmitte"];

/// Runs the stage, as configured by default, over one sequence's detections.
fn track(folder: &Path) -> Vec<mot::Row> {
    let info = std::fs::read_to_string(folder.join("seqinfo.ini")).expect("seqinfo.ini");
    let number = |key: &str| -> u64 {
        let line =
            info.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_else(|| panic!("no {key}"));
        line.trim().parse().expect("a number")
    };
    let (fps, frames) = (number("frameRate"), number("seqLength"));
    let context = BuildContext { id: "track".into(), fps: fps as f64, live: false, ..Default::default() };
    let config = stage::from_toml("track", "").expect("defaults");
    assert!(config.check(&context).is_empty(), "the defaults are sound");
    let Ok(Built::Stage(make)) = config.build(&context) else { panic!("track is a plain stage") };
    let mut stage = make().expect("a stage");

    let mut per_frame = vec![Vec::new(); frames as usize + 1];
    for r in mot::read(&folder.join("det_frcnn.txt")) {
        let [x, y, w, h] = r.rect;
        let bbox = [x, y, x + w, y + h].map(|v| v as f32);
        per_frame[r.frame as usize].push(Detection::new("person".into(), 0, r.score as f32, bbox));
    }
    let stream = Arc::new(Stream::new("mot15", 0, None, 0, true));
    let mut rows = Vec::new();
    for (number, detections) in per_frame.into_iter().enumerate().skip(1) {
        let pts = (number as u64 - 1) * 1_000_000_000 / fps;
        let mut frame = Frame::new(stream.capture(pts), Some(pts), Arrival::default(), Payload::Empty);
        frame.annotations.detections = Some(detections);
        frame.inferred = true;
        stage.process(&mut frame).expect("tracking never fails");
        for d in frame.annotations.detections.expect("still there") {
            let [x1, y1, x2, y2] = d.bbox.map(f64::from);
            let Some(id) = d.track else { continue };
            rows.push(mot::Row { frame: number as u32, id: id as i64, rect: [x1, y1, x2 - x1, y2 - y1], score: 1.0 });
        }
    }
    rows
}

/// A peer's counts, as far as its published figures determine them.
fn peer(scores: &serde_json::Value) -> mot::Counts {
    let count = |key: &str| scores[key].as_u64().unwrap_or_else(|| panic!("no {key}")) as usize;
    let (objects, misses, false_positives) = (count("num_objects"), count("num_misses"), count("num_false_positives"));
    let matches = objects - misses;
    let predictions = matches + false_positives;
    // IDF1 = 2 IDTP / (objects + predictions), and IDTP is a whole number.
    let idtp = scores["idf1"].as_f64().expect("idf1") * (objects + predictions) as f64 / 2.0;
    assert!((idtp - idtp.round()).abs() < 1e-3, "the figures do not fit together");
    mot::Counts {
        objects,
        predictions,
        matches,
        false_positives,
        misses,
        switches: count("num_switches"),
        idtp: idtp.round() as usize,
        ..mot::Counts::default()
    }
}

#[test]
fn it_beats_sort_in_mota_and_bytetrack_in_idf1() {
    let Some(root) = common::shared_data("tracking/mot15") else { return };
    let Some(reference) = common::shared_data("tracking/reference/mot15_shared_scores.json") else { return };
    let reference: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(reference).expect("scores")).expect("JSON");

    let mut overall = [mot::Counts::default(); 3];
    let print = |name: &str, counts: &[mot::Counts; 3]| {
        for (tracker, c) in ["framegate", "SORT", "ByteTrack"].iter().zip(counts) {
            eprintln!(
                "{name:16} {tracker:10} MOTA {:5.1}  IDF1 {:5.1}  FP {:5}  FN {:5}  IDSW {:4}",
                c.mota() * 100.0,
                c.idf1() * 100.0,
                c.false_positives,
                c.misses,
                c.switches
            );
        }
    };
    for name in SEQUENCES {
        // A flag of 0 marks what is not to be scored.
        let truth: Vec<_> = mot::read(&root.join(name).join("gt.txt")).into_iter().filter(|r| r.score != 0.0).collect();
        let ours = mot::score(&truth, &track(&root.join(name)));
        let counts = [ours, peer(&reference["sort"][name]), peer(&reference["byte"][name])];
        assert_eq!(ours.objects, counts[1].objects, "{name}: the same truth for all");
        print(name, &counts);
        for (sum, c) in overall.iter_mut().zip(counts) {
            *sum = *sum + c;
        }
    }
    print("overall", &overall);
    let [ours, sort, byte] = overall;
    assert!(ours.mota() >= sort.mota(), "MOTA {:.4} is below SORT's {:.4}", ours.mota(), sort.mota());
    assert!(ours.idf1() >= byte.idf1() + 0.03, "IDF1 {:.4} against ByteTrack's {:.4}", ours.idf1(), byte.idf1());
}

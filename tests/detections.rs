//! Detections on real pictures against those of an independent decoder.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/stage.rs"]
mod stage;
#[path = "common/still.rs"]
mod still;

use common::shared_data;
use framegate::frame::Detection;
use framegate::infer::card::Named;
use framegate::infer::detector::Detector;
use framegate::infer::model::ModelInfo;
use framegate::infer::nms::iou;
use serde_json::Value;
use stage::{config, context, detections, device_stage, frame, run_one};
use std::path::Path;
use std::sync::Arc;

/// Name in the reference, shipped card, model in the shared data, threshold and overlap limit of the reference.
const MODELS: [(&str, &str, &str, f32, f32); 10] = [
    ("yolox_nano", "yolox-nano", "yolox/yolox_nano.onnx", 0.3, 0.45),
    ("nanodet_m_416", "nanodet-m-416", "nanodet/nanodet_m.onnx", 0.35, 0.5),
    ("nanodet_320", "nanodet-m-320", "nanodet/nanodet.onnx", 0.35, 0.5),
    ("picodet_s_320", "picodet-s-320", "picodet/picodet_s_320_coco.onnx", 0.35, 0.5),
    ("picodet_s_416", "picodet-s-416", "picodet/picodet_s_416_coco.onnx", 0.35, 0.5),
    ("ultraface_rfb320", "ultraface-rfb-320", "ultraface/version-RFB-320.onnx", 0.7, 0.3),
    ("ultraface_slim320", "ultraface-slim-320", "ultraface/version-slim-320.onnx", 0.7, 0.3),
    ("ultraface_rfb640", "ultraface-rfb-640", "ultraface/version-RFB-640.onnx", 0.7, 0.3),
    ("yunet_2026may", "yunet", "yunet/face_detection_yunet_2026may.onnx", 0.7, 0.3),
    ("fastestdet", "fastestdet", "fastestdet/FastestDet.onnx", 0.5, 0.45),
];

struct Box {
    class: u32,
    score: f32,
    bbox: [f32; 4],
}

/// Lays a shipped card beside the model it is about.
fn beside(card: &str, model: &Path, dir: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let there = |name: &str| std::fs::copy(shipped.join(name), dir.join(name)).unwrap();
    there(&format!("{card}.toml"));
    there("coco80.txt");
    std::os::unix::fs::symlink(model, dir.join(model.file_name().unwrap())).unwrap();
}

fn found(wanted: &Box, among: &[Box]) -> bool {
    among
        .iter()
        .any(|b| b.class == wanted.class && (b.score - wanted.score).abs() <= 0.05 && iou(&b.bbox, &wanted.bbox) >= 0.9)
}

#[test]
fn boxes_of_every_family_are_those_of_an_independent_decoder() {
    let Some(reference) = shared_data("images/reference/detections_shared.json") else { return };
    let reference: Value = serde_json::from_str(&std::fs::read_to_string(reference).unwrap()).unwrap();
    let pictures = reference.as_object().unwrap();
    assert!(pictures.len() >= 38);
    let pictures: Vec<_> = pictures
        .iter()
        .filter_map(|(name, by_model)| Some((name, by_model, frame(Arc::new(still::still(&shared_data(name)?))))))
        .collect();
    // The reference was made on the CPU; other devices can be compared by hand, with other keys here.
    let device = std::env::var("FRAMEGATE_TEST_DEVICE").unwrap_or_else(|_| "device = \"cpu\"".to_owned());
    println!("{:<18} {:>10} {:>10} {:>8} {:>8}", "model", "reference", "ours", "there", "back");
    let mut total = [[0usize; 2]; 2];
    let mut worst = Vec::new();
    for (name, card, model, threshold, limit) in MODELS {
        let Some(model) = shared_data(Path::new("models").join(model)) else { return };
        let dir = tempfile::tempdir().unwrap();
        beside(card, &model, dir.path());
        let text = format!(
            "model = \"{card}.toml\"\n{device}\nthreshold = {threshold}\niou = {limit}\nmax_detections = 10000"
        );
        let context = context("detect", vec![dir.path().into()], true);
        assert_eq!(config("detect", &text).check(&context), []);
        let stage = device_stage("detect", &text, &context);
        let mut slot = stage.open().unwrap();
        let mut batch = stage.buffers();
        let mut counts = [[0usize; 2]; 2];
        for (picture, by_model, frame) in &pictures {
            let mut frame = frame.clone();
            run_one(&stage, slot.as_mut(), &mut batch, &mut frame);
            let mine: Vec<Box> = detections(frame)
                .into_iter()
                .map(|d: Detection| Box { class: d.class, score: d.score, bbox: d.bbox })
                .collect();
            // Faces are looked for in some of the pictures only.
            let Some(theirs) = by_model.get(name) else { continue };
            let theirs: Vec<Box> = theirs
                .as_array()
                .unwrap()
                .iter()
                .map(|b| Box {
                    class: b["cls"].as_u64().unwrap() as u32,
                    score: b["score"].as_f64().unwrap() as f32,
                    bbox: [0, 1, 2, 3].map(|i| b["box"][i].as_f64().unwrap() as f32),
                })
                .collect();
            for (side, (from, among)) in [(&theirs, &mine), (&mine, &theirs)].into_iter().enumerate() {
                for b in from.iter().filter(|b| b.score >= 0.4) {
                    let ok = found(b, among);
                    counts[side][0] += 1;
                    counts[side][1] += usize::from(ok);
                    if !ok && std::env::var_os("FRAMEGATE_SHOW_MISSES").is_some() {
                        println!("  {name} {picture} {} {:.3} {:?}", ["there", "back"][side], b.score, b.bbox);
                    }
                }
            }
        }
        let share = |c: [usize; 2]| c[1] as f64 / c[0].max(1) as f64;
        let (there, back) = (share(counts[0]), share(counts[1]));
        println!("{name:<18} {:>10} {:>10} {there:>8.4} {back:>8.4}", counts[0][0], counts[1][0]);
        for side in 0..2 {
            for k in 0..2 {
                total[side][k] += counts[side][k];
            }
        }
        assert!(counts[0][0] >= 100, "{name}: the reference has only {} boxes", counts[0][0]);
        if there < 0.96 || back < 0.96 {
            worst.push(name);
        }
    }
    let share = |c: [usize; 2]| c[1] as f64 / c[0] as f64;
    println!("{:<18} {:>10} {:>10} {:>8.4} {:>8.4}", "all", total[0][0], total[1][0], share(total[0]), share(total[1]));
    assert!(worst.is_empty(), "below 96 %: {worst:?}");
    assert!(share(total[0]) >= 0.98 && share(total[1]) >= 0.98);
}

#[test]
fn shared_models_are_recognised_without_a_card() {
    let dir = tempfile::tempdir().unwrap();
    let more = [("", "", "bench/yolov8n_320.onnx", 0.0, 0.0), ("", "", "bench/yolov8n_640.onnx", 0.0, 0.0)];
    for (_, card, model, ..) in MODELS.into_iter().chain(more) {
        let Some(path) = shared_data(Path::new("models").join(model)) else { return };
        let link = dir.path().join(path.file_name().unwrap());
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let info = ModelInfo::read(&link).unwrap();
        let bare = Detector::new(&Named::read(&link).unwrap(), &info, None, None).unwrap();
        if card.is_empty() {
            assert_eq!((bare.decode.family(), bare.labels.len()), ("yolov8", 80));
            continue;
        }
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        for file in [format!("{card}.toml"), "coco80.txt".into()] {
            std::fs::copy(shipped.join(&file), dir.path().join(&file)).unwrap();
        }
        let carded =
            Detector::new(&Named::read(&dir.path().join(format!("{card}.toml"))).unwrap(), &info, None, None).unwrap();
        assert_eq!(bare.decode.family(), carded.decode.family(), "{model}");
        assert_eq!(bare.input.spec, carded.input.spec, "{model}");
        assert_eq!(bare.input.per_picture, carded.input.per_picture, "{model}");
        assert_eq!(bare.labels, carded.labels, "{model}");
    }
}

#[test]
fn a_model_that_is_not_recognised_says_what_it_has() {
    let Some(model) = shared_data("models/osnet/osnet_x0_25_msmt17.onnx") else { return };
    let text = format!("model = \"{}\"\ndevice = \"cpu\"", model.display());
    let issues = config("detect", &text).check(&context("detect", vec![], true));
    assert_eq!(issues.len(), 1);
    assert_eq!(issues[0].key, "model");
    for part in ["`images`", "[1, 3, 256, 128]", "`output`", "[1, 512]", "[decode] family", "letterbox"] {
        assert!(issues[0].message.contains(part), "{part} is not in {}", issues[0].message);
    }
}

#[test]
fn raw_yolox_rows_are_told_from_decoded_ones_by_a_run() {
    let Some(model) = shared_data("models/yolox/yolox_nano.onnx") else { return };
    let Some(picture) = shared_data("images/misc/dog.jpg") else { return };
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&model, dir.path().join("bare.onnx")).unwrap();
    beside("yolox-nano", &model, dir.path());
    let picture = frame(Arc::new(still::still(&picture)));
    let mut both = Vec::new();
    for model in ["bare.onnx", "yolox-nano.toml"] {
        let text = format!("model = \"{model}\"\ndevice = \"cpu\"\nthreshold = 0.3\niou = 0.45");
        let stage = device_stage("detect", &text, &context("detect", vec![dir.path().into()], true));
        let mut f = picture.clone();
        run_one(&stage, stage.open().unwrap().as_mut(), &mut stage.buffers(), &mut f);
        assert!(f.inferred);
        both.push(detections(f));
    }
    assert!(both[0].iter().any(|d| &*d.label == "dog" && d.score > 0.5));
    assert_eq!(both[0], both[1]);
}

#[test]
fn faces_have_five_points_inside_their_boxes() {
    let Some(model) = shared_data("models/yunet/face_detection_yunet_2026may.onnx") else { return };
    let Some(picture) = shared_data("images/misc/zidane.jpg") else { return };
    let picture = Arc::new(still::still(&picture));
    // By its own size, at a fixed size of the pipeline's choice, and with a size the model cannot have.
    for (input, works) in [("", true), ("input = [640, 384]", true), ("input = 100", false)] {
        let text = format!("model = \"{}\"\ndevice = \"cpu\"\nthreshold = 0.7\n{input}", model.display());
        let context = context("detect", vec![], true);
        assert_eq!(config("detect", &text).check(&context).is_empty(), works, "{input}");
        if !works {
            continue;
        }
        let stage = device_stage("detect", &text, &context);
        let mut f = frame(picture.clone());
        run_one(&stage, stage.open().unwrap().as_mut(), &mut stage.buffers(), &mut f);
        let faces = detections(f);
        assert_eq!(faces.len(), 2, "{input}");
        for face in faces {
            assert_eq!((face.landmarks.len(), &*face.label), (5, "face"));
            let [x1, y1, x2, y2] = face.bbox;
            assert!(face.landmarks.iter().all(|&[x, y]| x > x1 && x < x2 && y > y1 && y < y2));
        }
    }
}

#[test]
fn the_same_person_looks_more_alike_than_others() {
    let Some(model) = shared_data("models/osnet/osnet_x0_25_msmt17.onnx") else { return };
    let Some(picture) = shared_data("images/misc/bus.jpg") else { return };
    let Some(reference) = shared_data("images/reference/detections_shared.json") else { return };
    let reference: Value = serde_json::from_str(&std::fs::read_to_string(reference).unwrap()).unwrap();
    let people: Vec<[f32; 4]> = reference["images/misc/bus.jpg"]["picodet_s_416"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|b| b["cls"] == 0 && b["score"].as_f64().unwrap() > 0.6)
        .map(|b| [0, 1, 2, 3].map(|i| b["box"][i].as_f64().unwrap() as f32))
        .collect();
    assert!(people.len() >= 3);
    let dir = tempfile::tempdir().unwrap();
    beside("osnet-x0-25", &model, dir.path());
    let context = context("reid", vec![dir.path().into()], true);
    let text = "model = \"osnet-x0-25.toml\"\ndevice = \"cpu\"\nclasses = [\"person\"]";
    assert_eq!(config("embed", text).check(&context), []);
    let stage = device_stage("embed", text, &context);
    let mut f = frame(Arc::new(still::still(&picture)));
    // Each person twice: as found, and as a sloppier detector would have found it; and something else.
    let mut all = Vec::new();
    for &[x1, y1, x2, y2] in &people {
        let (dx, dy) = ((x2 - x1) * 0.06, (y2 - y1) * 0.04);
        for bbox in [[x1, y1, x2, y2], [x1 - dx, y1 + dy, x2 - dx, y2 + dy]] {
            all.push(Detection::new("person".into(), 0, 0.9, bbox));
        }
    }
    all.push(Detection::new("bus".into(), 5, 0.9, [0.0, 100.0, 800.0, 800.0]));
    f.annotations.detections = Some(all);
    run_one(&stage, &mut *stage.open().unwrap(), &mut stage.buffers(), &mut f);
    let all = detections(f);
    assert!(all.last().unwrap().embedding.is_none());
    let vectors: Vec<Arc<[f32]>> = all[..people.len() * 2].iter().map(|d| d.embedding.clone().unwrap()).collect();
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    for (i, v) in vectors.iter().enumerate() {
        assert_eq!(v.len(), 512);
        assert!((cosine(v, v) - 1.0).abs() < 1e-5);
        let own = cosine(v, &vectors[i ^ 1]);
        for (j, other) in vectors.iter().enumerate().filter(|(j, _)| j / 2 != i / 2) {
            let theirs = cosine(v, other);
            assert!(own > theirs && theirs < 0.85, "{i}: own {own}, {j}: {theirs}");
        }
    }
}

#[test]
fn check_finds_what_is_wrong_before_anything_starts() {
    let Some(model) = shared_data("models/yolox/yolox_nano.onnx") else { return };
    let dir = tempfile::tempdir().unwrap();
    beside("yolox-nano", &model, dir.path());
    let context = context("detect", vec![dir.path().into()], true);
    let check = |text: &str| config("detect", &format!("model = \"yolox-nano.toml\"\n{text}")).check(&context);
    assert_eq!(check("classes = [\"person\", \"sports ball\"]"), []);
    let issues = check("classes = [\"persn\"]\ninput = 416\nthreshold = 1.5");
    assert_eq!(issues.iter().map(|i| &*i.key).collect::<Vec<_>>(), ["threshold", "classes"]);
    assert_eq!(issues[1].help.as_deref(), Some("did you mean `person`?"));
    let issues = check("input = 320");
    assert_eq!(issues[0].key, "input");
    assert!(issues[0].message.contains("one file for each size"), "{}", issues[0].message);
    let issues = check("labels = [\"a\", \"b\"]\nbatch = { max = 0 }\nthreads = 0\nprecision = \"bf16\"");
    let keys: Vec<_> = issues.iter().map(|i| &*i.key).collect();
    assert_eq!(keys, ["threads", "precision", "batch.max", "model"]);
    assert!(issues[3].message.contains("80 classes, but 2 labels"), "{}", issues[3].message);
    std::fs::remove_file(dir.path().join("yolox_nano.onnx")).unwrap();
    let issues = check("");
    assert!(issues[0].message.contains("get it from https://github.com/"), "{}", issues[0].message);
    std::fs::write(dir.path().join("yolox_nano.onnx"), b"something else").unwrap();
    assert!(check("")[0].message.contains("SHA-256"));
}

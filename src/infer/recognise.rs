//! Recognises common detectors by their inputs, outputs and metadata, so that they work without a card.
//!
//! What follows from the family (normalisation, order of channels, fit) is what the family's own papers and export
//! scripts do. A card overrides every part of it.

use super::InferError;
use super::card::{ChannelCard, FitCard, InputCard, PerChannel, coco80};
use super::decode::{DecodeCard, Order};
use super::model::{ModelInfo, TensorInfo};
use std::sync::Arc;

/// A detector of a known family.
#[derive(Debug, Clone, PartialEq)]
pub struct Recognised {
    /// What the outputs mean.
    pub decode: DecodeCard,
    /// What the family wants as input.
    pub input: InputCard,
    /// Names of the classes, where the model or the family tells.
    pub labels: Option<Vec<Arc<str>>>,
}

/// The family of a detector, if it is one of the known ones.
pub fn recognise(model: &ModelInfo) -> Option<Recognised> {
    ultralytics(model)
        .or_else(|| yunet(model))
        .or_else(|| boxes_and_scores(model))
        .or_else(|| tensorflow(model))
        .or_else(|| torchvision(model))
        .or_else(|| fastestdet(model))
        .or_else(|| gfl(model))
        .or_else(|| detr(model))
        .or_else(|| plain_yolo(model))
}

/// The error for a model of no known family: what it has, and what a card must state.
pub fn unknown(model: &ModelInfo) -> InferError {
    InferError::Output(format!(
        "its outputs are of no known family, so it needs a card (NAME.toml beside NAME.onnx). The model has:{}\n\
         The card must state [decode] family (one of {}) with that family's keys, and [input] channels, mean, std \
         (code values 0-255), fit (letterbox, letterbox-top-left, stretch, crop) and, where the model takes any, size; \
         labels name the classes",
        model.list(),
        DecodeCard::FAMILIES.join(", ")
    ))
}

/// What the input of a family looks like; also for cards that state the family only.
pub fn family_input(decode: &DecodeCard) -> InputCard {
    let plain = |channels, std: f32, fit| InputCard {
        channels: Some(channels),
        std: Some(PerChannel::One(std)),
        fit: Some(fit),
        ..Default::default()
    };
    match decode {
        DecodeCard::Yolox { .. } => InputCard {
            multiple: Some(32),
            pad: Some(PerChannel::One(114.0)),
            ..plain(ChannelCard::Bgr, 1.0, FitCard::LetterboxTopLeft)
        },
        DecodeCard::Yolov5 { .. } | DecodeCard::Yolov8 { .. } | DecodeCard::YoloEnd2end { .. } => InputCard {
            multiple: Some(32),
            pad: Some(PerChannel::One(114.0)),
            ..plain(ChannelCard::Rgb, 255.0, FitCard::Letterbox)
        },
        DecodeCard::Ssd { .. } | DecodeCard::Ultraface {} => {
            InputCard { mean: Some(PerChannel::One(127.0)), ..plain(ChannelCard::Rgb, 128.0, FitCard::Stretch) }
        }
        DecodeCard::Gfl { .. } => InputCard {
            channels: Some(ChannelCard::Bgr),
            mean: Some(PerChannel::Three([103.53, 116.28, 123.675])),
            std: Some(PerChannel::Three([57.375, 57.12, 58.395])),
            fit: Some(FitCard::Stretch),
            ..Default::default()
        },
        DecodeCard::Yunet { .. } => InputCard {
            long_side: Some(640),
            multiple: Some(32),
            pad: Some(PerChannel::One(0.0)),
            never_enlarge: Some(true),
            ..plain(ChannelCard::Bgr, 1.0, FitCard::LetterboxTopLeft)
        },
        DecodeCard::Fastestdet {} => plain(ChannelCard::Bgr, 255.0, FitCard::Stretch),
        DecodeCard::Detr { .. } => plain(ChannelCard::Rgb, 255.0, FitCard::Stretch),
    }
}

fn family(decode: DecodeCard, labels: Option<Vec<Arc<str>>>) -> Recognised {
    Recognised { input: family_input(&decode), decode, labels }
}

fn by_count(classes: Option<usize>) -> Option<Vec<Arc<str>>> {
    (classes == Some(80)).then(coco80)
}

/// Width and height of the picture input, where fixed.
fn input_size(model: &ModelInfo) -> Option<(usize, usize)> {
    let [input] = &model.inputs[..] else { return None };
    match [1, 2, 3].map(|i| input.dim(i)) {
        [Some(1 | 3), Some(h), Some(w)] => Some((w, h)),
        [Some(h), Some(w), Some(1 | 3)] => Some((w, h)),
        _ => None,
    }
}

/// Rows and columns of an output that is a matrix for each picture.
fn matrix(o: &TensorInfo) -> Option<(Option<usize>, Option<usize>)> {
    (o.shape.len() == 3).then(|| (o.dim(1), o.dim(2)))
}

fn named<'a>(model: &'a ModelInfo, name: &str) -> Option<&'a TensorInfo> {
    model.outputs.iter().find(|o| &*o.name == name)
}

/// Exports that carry Ultralytics' metadata: names, image size, task.
fn ultralytics(model: &ModelInfo) -> Option<Recognised> {
    let names = python_names(model.metadata.get("names")?)?;
    let task = model.metadata.get("task").map_or("detect", String::as_str);
    if !matches!(task, "detect" | "segment" | "pose") {
        return None;
    }
    let first = model.outputs.first()?;
    let (rows, columns) = matrix(first)?;
    let output = Some(first.name.to_string());
    let classes = names.len();
    let end2end = model.metadata.get("end2end").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let boxes_last = |extra: usize| columns.is_some_and(|c| c == extra + classes) && rows != Some(extra + classes);
    let decode = if end2end || (columns == Some(6) && rows.is_none_or(|r| r <= 1000)) {
        DecodeCard::YoloEnd2end { output }
    } else if task == "detect" && boxes_last(5) {
        DecodeCard::Yolov5 { output }
    } else {
        DecodeCard::Yolov8 { classes: Some(classes), output }
    };
    let mut found = family(decode, Some(names));
    if input_size(model).is_none() {
        // Height comes first there.
        let numbers = |s: &String| {
            s.trim_matches(['[', ']', '(', ')'])
                .split(',')
                .map(|n| n.trim().parse().ok())
                .collect::<Option<Vec<usize>>>()
        };
        found.input.size = match model.metadata.get("imgsz").and_then(numbers).as_deref() {
            Some([h, w]) => Some([*w, *h]),
            Some([s]) => Some([*s, *s]),
            _ => None,
        };
    }
    Some(found)
}

/// Names as Python writes a dictionary or a list of them: `{0: 'person', 1: "b"}`, `['a', 'b']`.
pub(crate) fn python_names(text: &str) -> Option<Vec<Arc<str>>> {
    let mut names = Vec::new();
    let mut chars = text.chars().peekable();
    let is_dict = text.trim_start().starts_with('{');
    let mut key = String::new();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let mut name = String::new();
                loop {
                    match chars.next()? {
                        '\\' => name.push(chars.next()?),
                        q if q == c => break,
                        other => name.push(other),
                    }
                }
                // Names are numbered from 0 without gaps in every export; anything else is not understood.
                if is_dict && std::mem::take(&mut key).parse() != Ok(names.len()) {
                    return None;
                }
                names.push(name.into());
            }
            c if c.is_ascii_digit() => key.push(c),
            _ => {}
        }
    }
    (!names.is_empty()).then_some(names)
}

fn yunet(model: &ModelInfo) -> Option<Recognised> {
    let all = ["cls", "obj", "bbox", "kps"].iter().flat_map(|w| [8, 16, 32].map(|s| format!("{w}_{s}")));
    for name in all {
        named(model, &name)?;
    }
    Some(family(DecodeCard::Yunet { strides: None }, Some(vec!["face".into()])))
}

/// `boxes` and `scores` in units of the picture with class 0 for "nothing": UltraFace and the SSDs it comes from.
fn boxes_and_scores(model: &ModelInfo) -> Option<Recognised> {
    if model.outputs.len() != 2 {
        return None;
    }
    let (rows, four) = matrix(named(model, "boxes")?)?;
    let (score_rows, columns) = matrix(named(model, "scores")?)?;
    let columns = columns.filter(|&c| c >= 2)?;
    if four != Some(4) || rows != score_rows {
        return None;
    }
    Some(match columns {
        2 => family(DecodeCard::Ultraface {}, Some(vec!["face".into()])),
        _ => family(ssd("boxes", "scores", None, Some(0), Order::Xyxy), by_count(Some(columns - 1))),
    })
}

fn ssd(boxes: &str, scores: &str, labels: Option<&str>, background: Option<u32>, order: Order) -> DecodeCard {
    DecodeCard::Ssd {
        boxes: boxes.into(),
        scores: scores.into(),
        labels: labels.map(Into::into),
        coordinates: None,
        order: Some(order),
        background,
        activation: None,
        nms: None,
    }
}

/// TensorFlow's detection models: boxes as top, left, bottom, right in units of the picture, classes from 1.
fn tensorflow(model: &ModelInfo) -> Option<Recognised> {
    let find =
        |name: &str| model.outputs.iter().find(|o| o.name.split(':').next() == Some(name)).map(|o| o.name.to_string());
    let (boxes, scores, labels) = (find("detection_boxes")?, find("detection_scores")?, find("detection_classes")?);
    let mut decode = ssd(&boxes, &scores, Some(&labels), Some(0), Order::Yxyx);
    if let DecodeCard::Ssd { nms, .. } = &mut decode {
        *nms = Some(false);
    }
    let input = InputCard {
        channels: Some(ChannelCard::Rgb),
        std: Some(PerChannel::One(1.0)),
        fit: Some(FitCard::Stretch),
        ..Default::default()
    };
    Some(Recognised { decode, input, labels: None })
}

/// TorchVision's detection models: final boxes in pixels, labels with 0 for "nothing".
fn torchvision(model: &ModelInfo) -> Option<Recognised> {
    if model.outputs.len() != 3 {
        return None;
    }
    for name in ["boxes", "scores", "labels"] {
        named(model, name)?;
    }
    let mut decode = ssd("boxes", "scores", Some("labels"), Some(0), Order::Xyxy);
    if let DecodeCard::Ssd { nms, coordinates, .. } = &mut decode {
        *nms = Some(false);
        *coordinates = Some(super::decode::Coordinates::Pixels);
    }
    // These models normalise inside.
    let input = InputCard {
        channels: Some(ChannelCard::Rgb),
        std: Some(PerChannel::One(255.0)),
        fit: Some(FitCard::Stretch),
        ..Default::default()
    };
    Some(Recognised { decode, input, labels: None })
}

/// One output of planes on a grid of 16 pixels.
fn fastestdet(model: &ModelInfo) -> Option<Recognised> {
    let (w, h) = input_size(model)?;
    let [output] = &model.outputs[..] else { return None };
    let planes = output.dim(1).filter(|&c| c >= 6)?;
    if output.shape.len() != 4 || output.dim(2) != Some(h / 16) || output.dim(3) != Some(w / 16) {
        return None;
    }
    Some(family(DecodeCard::Fastestdet {}, by_count(Some(planes - 5))))
}

fn gfl(model: &ModelInfo) -> Option<Recognised> {
    let size = input_size(model)?;
    if model.outputs.len() < 6 {
        return None;
    }
    let decode = DecodeCard::Gfl { strides: None, logits: None, origin: None, shift: None };
    let classes = decode.build(&model.outputs, size).ok()?.classes();
    Some(family(decode, by_count(classes)))
}

/// Two outputs for each query, with the names of the original, of Hugging Face's exports or of RF-DETR's.
fn detr(model: &ModelInfo) -> Option<Recognised> {
    let pairs = [("logits", "pred_boxes"), ("pred_logits", "pred_boxes"), ("labels", "dets")];
    let (logits, boxes) = pairs.into_iter().find(|(l, b)| named(model, l).is_some() && named(model, b).is_some())?;
    let (_, columns) = matrix(named(model, logits)?)?;
    let (_, four) = matrix(named(model, boxes)?)?;
    if four.is_some_and(|c| c != 4) {
        return None;
    }
    let decode = DecodeCard::Detr { logits: Some(logits.into()), boxes: Some(boxes.into()), activation: None };
    let mut found = family(decode, by_count(columns));
    if columns == Some(92) || boxes == "dets" {
        // The original and RF-DETR want ImageNet's statistics, the real-time ones between them do not.
        found.input.mean = Some(PerChannel::Three([123.675, 116.28, 103.53]));
        found.input.std = Some(PerChannel::Three([58.395, 57.12, 57.375]));
    }
    Some(found)
}

/// One matrix, without metadata: the number of rows tells YOLOX, YOLOv5 and YOLOv8 apart.
fn plain_yolo(model: &ModelInfo) -> Option<Recognised> {
    let (w, h) = input_size(model)?;
    let [output] = &model.outputs[..] else { return None };
    let (Some(rows), Some(columns)) = matrix(output)? else { return None };
    let cells: usize = [8, 16, 32].map(|s| w.div_ceil(s) * h.div_ceil(s)).iter().sum();
    let name = None;
    if rows == cells && columns >= 6 {
        let decode = DecodeCard::Yolox { strides: None, decoded: None, output: name };
        Some(family(decode, by_count(Some(columns - 5))))
    } else if rows == 3 * cells && columns >= 6 {
        Some(family(DecodeCard::Yolov5 { output: name }, by_count(Some(columns - 5))))
    } else if columns == cells && rows >= 5 {
        Some(family(DecodeCard::Yolov8 { classes: None, output: name }, by_count(Some(rows - 4))))
    } else if columns == 6 && rows <= 1000 {
        Some(family(DecodeCard::YoloEnd2end { output: name }, None))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::model::Dim;
    use ort::value::TensorElementType;

    fn tensor(name: &str, shape: &[i64]) -> TensorInfo {
        let dim = |&d: &i64| if d < 0 { Dim::Dynamic("n".into()) } else { Dim::Fixed(d as usize) };
        TensorInfo { name: name.into(), element: TensorElementType::Float32, shape: shape.iter().map(dim).collect() }
    }

    fn model(input: &[i64], outputs: &[(&str, &[i64])]) -> ModelInfo {
        ModelInfo {
            inputs: vec![tensor("images", input)],
            outputs: outputs.iter().map(|(n, s)| tensor(n, s)).collect(),
            ..Default::default()
        }
    }

    fn name(m: &ModelInfo) -> Option<&'static str> {
        recognise(m).map(|r| r.decode.family())
    }

    #[test]
    fn families_are_told_by_their_shapes() {
        let square = [1, 3, 640, 640];
        type Case<'a> = (&'a [i64], &'a [(&'a str, &'a [i64])], Option<&'a str>);
        let cases: &[Case<'_>] = &[
            (&square, &[("output", &[1, 8400, 85])], Some("yolox")),
            (&square, &[("output", &[1, 25200, 85])], Some("yolov5")),
            (&square, &[("output0", &[1, 84, 8400])], Some("yolov8")),
            (&square, &[("output0", &[1, 300, 6])], Some("yolo-end2end")),
            (&square, &[("logits", &[1, 300, 80]), ("pred_boxes", &[1, 300, 4])], Some("detr")),
            (&square, &[("dets", &[-1, 300, 4]), ("labels", &[-1, 300, 91])], Some("detr")),
            (&[1, 3, 300, 300], &[("scores", &[1, 3000, 21]), ("boxes", &[1, 3000, 4])], Some("ssd")),
            (&[1, 3, 240, 320], &[("scores", &[1, 4420, 2]), ("boxes", &[1, 4420, 4])], Some("ultraface")),
            (&[1, 3, 352, 352], &[("758", &[1, 85, 22, 22])], Some("fastestdet")),
            (
                &[-1, -1, -1, 3],
                &[
                    ("detection_boxes:0", &[-1, -1, -1]),
                    ("detection_scores:0", &[-1, -1]),
                    ("detection_classes:0", &[-1, -1]),
                    ("num_detections:0", &[-1]),
                ],
                Some("ssd"),
            ),
            (&[1, 3, -1, -1], &[("boxes", &[-1, 4]), ("labels", &[-1]), ("scores", &[-1])], Some("ssd")),
            (&square, &[("output", &[1, 1000])], None),
            (&square, &[("a", &[1, 32, 160, 160]), ("b", &[1, 116, 8400])], None),
        ];
        for (input, outputs, want) in cases {
            assert_eq!(name(&model(input, outputs)), *want, "{outputs:?}");
        }
    }

    #[test]
    fn metadata_tells_names_sizes_and_tasks() {
        let mut m = model(&[-1, 3, -1, -1], &[("output0", &[-1, 6, -1])]);
        m.metadata.insert("names".into(), "{0: 'a person', 1: \"dog's\"}".into());
        m.metadata.insert("imgsz".into(), "[384, 640]".into());
        let r = recognise(&m).unwrap();
        assert_eq!(r.labels.unwrap(), ["a person".into(), "dog's".into()] as [Arc<str>; 2]);
        assert_eq!(r.input.size, Some([640, 384]));
        assert_eq!(r.decode, DecodeCard::Yolov8 { classes: Some(2), output: Some("output0".into()) });
        m.metadata.insert("task".into(), "classify".into());
        assert!(recognise(&m).is_none());
        m.metadata.insert("task".into(), "segment".into());
        m.outputs = vec![tensor("output0", &[1, 38, 8400]), tensor("output1", &[1, 32, 160, 160])];
        assert_eq!(name(&m), Some("yolov8"));
        m.metadata.insert("task".into(), "detect".into());
        m.metadata.insert("end2end".into(), "True".into());
        m.outputs = vec![tensor("output0", &[1, 300, 6])];
        assert_eq!(name(&m), Some("yolo-end2end"));
        m.metadata.insert("names".into(), "{1: 'gap'}".into());
        m.outputs = vec![tensor("output0", &[1, -1, -1])];
        assert!(recognise(&m).is_none());
        assert!(python_names("{0: 'open").is_none());
    }

    #[test]
    fn an_unknown_model_is_listed_with_what_a_card_must_state() {
        let e = unknown(&model(&[1, 3, 64, 64], &[("prob", &[1, 1000])])).to_string();
        for part in ["`images`", "[1, 3, 64, 64]", "`prob`", "[1, 1000]", "[decode] family", "mean"] {
            assert!(e.contains(part), "{part} in {e}");
        }
    }
}

//! Decoders must take whatever a model gives: wrong shapes are errors, wild values are left out, nothing panics.

use framegate::infer::decode::{DecodeCard, Found, View};
use framegate::infer::model::{Dim, TensorInfo};
use framegate::infer::nms::Nms;
use ort::value::TensorElementType;
use proptest::prelude::*;

/// A family, and the names and axes of its outputs.
type Family = (DecodeCard, Vec<(&'static str, Vec<usize>)>);

/// Every family, with the names and axes that its outputs have at 64x64.
fn families() -> Vec<Family> {
    let card = |text: &str| toml::from_str::<DecodeCard>(text).expect(text);
    let yunet = [8usize, 16, 32].into_iter().flat_map(|s| {
        let n = (64 / s) * (64 / s);
        let names = match s {
            8 => ["cls_8", "obj_8", "bbox_8", "kps_8"],
            16 => ["cls_16", "obj_16", "bbox_16", "kps_16"],
            _ => ["cls_32", "obj_32", "bbox_32", "kps_32"],
        };
        names.into_iter().zip([1, 1, 4, 10]).map(move |(name, c)| (name, vec![1, n, c]))
    });
    let gfl = vec![("a", vec![1, 64, 3]), ("b", vec![1, 16, 3]), ("c", vec![1, 64, 32]), ("d", vec![1, 16, 32])];
    let pair = |a, b, c: usize| vec![(a, vec![1, 20, 4]), (b, vec![1, 20, c])];
    vec![
        (card("family = 'yolox'"), vec![("o", vec![1, 84, 8])]),
        (card("family = 'yolov5'"), vec![("o", vec![1, 252, 8])]),
        (card("family = 'yolov8'"), vec![("o", vec![1, 7, 84])]),
        (card("family = 'yolov8'"), vec![("o", vec![1, 84, 7])]),
        (card("family = 'yolo-end2end'"), vec![("o", vec![1, 30, 6])]),
        (card("family = 'ssd'\nboxes = 'b'\nscores = 's'\nactivation = 'softmax'"), pair("b", "s", 5)),
        (card("family = 'ultraface'"), pair("boxes", "scores", 2)),
        (card("family = 'gfl'"), gfl.clone()),
        (card("family = 'gfl'\nlogits = true"), gfl),
        (card("family = 'yunet'"), yunet.collect()),
        (card("family = 'fastestdet'"), vec![("o", vec![1, 8, 4, 4])]),
        (card("family = 'detr'"), pair("b", "l", 6)),
        (card("family = 'detr'\nactivation = 'softmax'"), pair("b", "l", 6)),
    ]
}

/// Mostly plausible numbers, and every kind that is not.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -2f32..2.0,
        2 => -1e4f32..1e4,
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-42, -0.0]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn wild_values_give_sound_boxes_or_none(pool in prop::collection::vec(value(), 97), threshold in 0f32..=1.0) {
        for (card, outputs) in families() {
            let infos: Vec<TensorInfo> = outputs
                .iter()
                .map(|(name, shape)| TensorInfo {
                    name: (*name).into(),
                    element: TensorElementType::Float32,
                    shape: shape.iter().map(|&d| Dim::Fixed(d)).collect(),
                })
                .collect();
            let decoder = card.build(&infos, (64, 64)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let data: Vec<Vec<f32>> = outputs
                .iter()
                .enumerate()
                .map(|(k, (_, s))| (0..s.iter().product()).map(|i: usize| pool[(i * 31 + k * 7) % pool.len()]).collect())
                .collect();
            let shapes: Vec<Vec<i64>> = outputs.iter().map(|(_, s)| s.iter().map(|&d| d as i64).collect()).collect();
            let views: Vec<View<'_>> = (0..outputs.len())
                .map(|i| View { name: outputs[i].0, shape: &shapes[i], data: &data[i] })
                .collect();
            let mut found = Found::default();
            decoder.decode(&views, (64, 64), threshold, &mut found).map_err(|e| TestCaseError::fail(e.to_string()))?;
            for b in &found.boxes {
                prop_assert!(b.score >= threshold && b.score <= 1.0, "{}: {b:?}", card.family());
                prop_assert!(b.bbox.iter().all(|v| v.is_finite()) && b.bbox[2] > b.bbox[0] && b.bbox[3] > b.bbox[1]);
                prop_assert!((b.points as usize + decoder.points()) <= found.points.len() || decoder.points() == 0);
            }
            Nms::default().run(&mut found.boxes, 0.5, false, 300);
            // The same values under shapes that were never declared: an error or boxes, but no panic.
            for odd in [&[][..], &[0], &[1, 1], &[-1, 4], &[3, 0, 2], &[i64::MAX, 2], &[1, 2, 3, 4, 5]] {
                let n = odd.iter().fold(1i64, |n, d| n.saturating_mul(*d)).clamp(0, 64) as usize;
                let views: Vec<View<'_>> =
                    outputs.iter().map(|o| View { name: o.0, shape: odd, data: &pool[..n] }).collect();
                let mut found = Found::default();
                if decoder.decode(&views, (64, 64), threshold, &mut found).is_ok() {
                    prop_assert!(found.boxes.iter().all(|b| b.score.is_finite()));
                }
            }
        }
    }
}

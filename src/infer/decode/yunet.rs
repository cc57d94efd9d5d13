//! YuNet (Wu et al. 2023): for each stride class and objectness scores, a box and five points for each cell.
//! Score = sqrt(class · objectness); centre = (cell + value) · stride, size = exp(value) · stride,
//! point = (cell + value) · stride. Points: right eye, left eye, nose, right and left corner of the mouth.

use super::{Decoder, Found, View, corners, grid, pick};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;

/// Points of a face.
const POINTS: usize = 5;

/// Face boxes with points.
#[derive(Debug)]
pub struct Yunet {
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    stride: usize,
    class: usize,
    objectness: usize,
    boxes: usize,
    points: usize,
}

impl Yunet {
    /// For outputs `cls_S`, `obj_S`, `bbox_S`, `kps_S` of each stride S.
    pub fn new(outputs: &[TensorInfo], strides: Vec<usize>) -> Result<Self, InferError> {
        let find = |what: &str, stride: usize, columns: usize| {
            let i = pick(outputs, Some(&format!("{what}_{stride}")), what)?;
            let info = &outputs[i];
            let last = info.shape.len().checked_sub(1).and_then(|l| info.dim(l));
            if last.is_some_and(|c| c != columns) {
                return Err(InferError::Output(format!("output {info} must have {columns} values for each cell")));
            }
            Ok(i)
        };
        let level = |stride| {
            Ok(Level {
                stride,
                class: find("cls", stride, 1)?,
                objectness: find("obj", stride, 1)?,
                boxes: find("bbox", stride, 4)?,
                points: find("kps", stride, 2 * POINTS)?,
            })
        };
        Ok(Self { levels: strides.into_iter().map(level).collect::<Result<_, InferError>>()? })
    }
}

impl Decoder for Yunet {
    fn classes(&self) -> Option<usize> {
        Some(1)
    }

    fn points(&self) -> usize {
        POINTS
    }

    fn decode(
        &self,
        outputs: &[View<'_>],
        size: (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError> {
        for level in &self.levels {
            let (w, h) = grid(size, level.stride);
            let n = w * h;
            let of = |output: usize, each: usize| {
                let view = &outputs[output];
                if view.data.len() == n * each {
                    Ok(view.data)
                } else {
                    Err(view.wrong(&format!("{n} rows of {each}")))
                }
            };
            let (class, objectness) = (of(level.class, 1)?, of(level.objectness, 1)?);
            let (boxes, points) = (of(level.boxes, 4)?, of(level.points, 2 * POINTS)?);
            let stride = level.stride as f32;
            for (i, (c, o)) in class.iter().zip(objectness).enumerate() {
                // Clamping turns NaN into neither, so it fails the comparison in `add`.
                let score = (c.clamp(0.0, 1.0) * o.clamp(0.0, 1.0)).sqrt();
                if score < threshold {
                    continue;
                }
                let (x, y) = ((i % w) as f32, (i / w) as f32);
                let b = &boxes[i * 4..i * 4 + 4];
                let bbox = corners((x + b[0]) * stride, (y + b[1]) * stride, b[2].exp() * stride, b[3].exp() * stride);
                let p = &points[i * 2 * POINTS..(i + 1) * 2 * POINTS];
                if p.iter().all(|v| v.is_finite()) && found.add(threshold, 0, score, bbox) {
                    found.points.extend(p.chunks_exact(2).map(|p| [(x + p[0]) * stride, (y + p[1]) * stride]));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_and_points_start_at_their_cells() {
        let d = Yunet { levels: vec![Level { stride: 8, class: 0, objectness: 1, boxes: 2, points: 3 }] };
        let (mut c, mut o, mut b, mut p) = (vec![0.0; 16], vec![1.5; 16], vec![0.0; 64], vec![0.0; 160]);
        c[6] = 0.81; // cell (2, 1)
        o[6] = 1.2; // counts as 1
        b[24..28].copy_from_slice(&[0.5, 0.5, 0.0, 0.0]);
        p[60..62].copy_from_slice(&[0.25, 0.75]);
        c[7] = f32::NAN;
        let mut found = Found::default();
        fn views<'a>(c: &'a [f32], o: &'a [f32], b: &'a [f32], p: &'a [f32]) -> [View<'a>; 4] {
            [(c, &[16, 1]), (o, &[16, 1]), (b, &[16, 4]), (p, &[16, 10])].map(|(data, shape)| View {
                name: "o",
                shape,
                data,
            })
        }
        d.decode(&views(&c, &o, &b, &p), (32, 32), 0.5, &mut found).unwrap();
        assert_eq!(found.boxes.len(), 1);
        assert!((found.boxes[0].score - 0.9).abs() < 1e-6);
        assert_eq!(found.boxes[0].bbox, [16.0, 8.0, 24.0, 16.0]);
        assert_eq!((found.points.len(), found.points[0]), (5, [18.0, 14.0]));
        assert!(d.decode(&views(&c, &o, &b, &p), (64, 32), 0.5, &mut found).is_err());
        assert!(Yunet::new(&[], vec![8]).is_err());
    }
}

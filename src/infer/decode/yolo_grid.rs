//! YOLOX and YOLOv5: rows of centre x, y, width, height, objectness and class scores.
//!
//! YOLOX exports leave the last step out (Ge et al. 2021, `demo_postprocess`): centre = (value + cell) · stride,
//! size = exp(value) · stride. Score = objectness · class score.

use super::{Decoder, Found, View, any_reaches, best, cells, corners, declared_matrix, grid, pick};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;

/// Rows of boxes with objectness.
#[derive(Debug)]
pub struct YoloGrid {
    output: usize,
    columns: Option<usize>,
    /// Cell sizes where centre and size are still to be computed.
    strides: Option<Vec<usize>>,
}

impl YoloGrid {
    /// For this output; `strides` where the rows are raw.
    pub fn new(
        outputs: &[TensorInfo],
        name: Option<&str>,
        strides: Option<Vec<usize>>,
        size: (usize, usize),
    ) -> Result<Self, InferError> {
        let output = pick(outputs, name, "boxes")?;
        let info = &outputs[output];
        let (rows, columns) = declared_matrix(info)?;
        if columns.is_some_and(|c| c < 6) {
            let why = "rows of a box, objectness and at least one class have 6 values or more";
            return Err(InferError::Output(format!("output {info}: {why}")));
        }
        if let (Some(strides), Some(rows)) = (&strides, rows) {
            let want: usize = strides.iter().map(|&s| cells(size, s)).sum();
            if rows != want {
                return Err(InferError::Output(format!(
                    "output {info} has {rows} rows; cells of {strides:?} pixels in an input of {}x{} make {want}",
                    size.0, size.1
                )));
            }
        }
        Ok(Self { output, columns, strides })
    }
}

impl Decoder for YoloGrid {
    fn classes(&self) -> Option<usize> {
        self.columns.map(|c| c - 5)
    }

    fn decode(
        &self,
        outputs: &[View<'_>],
        size: (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError> {
        let view = &outputs[self.output];
        let columns = view.matrix()?.1;
        let want = self.strides.as_ref().map(|s| s.iter().map(|&s| cells(size, s)).sum());
        let rows = view.expect(want, self.columns.unwrap_or(columns.max(6)))?;
        let mut row = |data: &[f32], at: Option<(usize, usize, usize)>| {
            // A class score is at most 1, so a box whose objectness is under the threshold is under it as well.
            let objectness = data[4];
            if objectness < threshold || !objectness.is_finite() || !any_reaches(&data[5..], threshold) {
                return;
            }
            let (class, score) = best(&data[5..]);
            let score = objectness.min(1.0) * score;
            if score < threshold {
                return;
            }
            let bbox = match at {
                Some((x, y, s)) => {
                    let s = s as f32;
                    let (cx, cy) = ((data[0] + x as f32) * s, (data[1] + y as f32) * s);
                    corners(cx, cy, data[2].exp() * s, data[3].exp() * s)
                }
                None => corners(data[0], data[1], data[2], data[3]),
            };
            found.add(threshold, class, score, bbox);
        };
        let mut all = view.data.chunks_exact(columns);
        match &self.strides {
            None => all.take(rows).for_each(|data| row(data, None)),
            Some(strides) => {
                for &s in strides {
                    let (w, h) = grid(size, s);
                    for y in 0..h {
                        for x in 0..w {
                            if let Some(data) = all.next() {
                                row(data, Some((x, y, s)));
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a YOLOX-shaped output has its last step inside the model: then centres lie all over the input, while raw
/// offsets stay within a few cells of 0. Judged by the centres of the right half of the finest grid.
pub fn looks_decoded(view: &View<'_>, size: (usize, usize), stride: usize) -> bool {
    let Ok((_, columns)) = view.matrix() else { return false };
    let (w, h) = grid(size, stride);
    let mut votes = 0i64;
    for (i, row) in view.data.chunks_exact(columns.max(1)).take(w * h).enumerate() {
        let x = i % w;
        if x >= w / 2 && row.len() > 1 {
            let centre = (x as f32 + 0.5) * stride as f32;
            votes += if (row[0] - centre).abs() < row[0].abs() { 1 } else { -1 };
        }
    }
    votes > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::model::Dim;
    use ort::value::TensorElementType;

    fn info(shape: &[usize]) -> Vec<TensorInfo> {
        let shape = shape.iter().map(|&d| Dim::Fixed(d)).collect();
        vec![TensorInfo { name: "o".into(), element: TensorElementType::Float32, shape }]
    }

    #[test]
    fn raw_rows_become_boxes_at_their_cells() {
        // 64x32: 8x4 cells of 8, 4x2 of 16, 2x1 of 32.
        let d = YoloGrid::new(&info(&[1, 42, 7]), None, Some(vec![8, 16, 32]), (64, 32)).unwrap();
        assert_eq!(d.classes(), Some(2));
        let mut data = vec![0.0; 42 * 7];
        let mut set = |i: usize, row: [f32; 7]| data[i * 7..i * 7 + 7].copy_from_slice(&row);
        set(9, [0.5, 0.5, 0.0, 2f32.ln(), 0.9, 0.1, 0.8]); // cell (1, 1) of 8
        set(32 + 7, [0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.0]); // cell (3, 1) of 16
        set(41, [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0]); // 0.25 is under the threshold
        let mut found = Found::default();
        d.decode(&[View { name: "o", shape: &[42, 7], data: &data }], (64, 32), 0.3, &mut found).unwrap();
        assert_eq!(found.boxes.len(), 2);
        let b = found.boxes[0];
        assert_eq!((b.class, b.bbox), (1, [8.0, 4.0, 16.0, 20.0]));
        assert!((b.score - 0.72).abs() < 1e-6);
        assert_eq!(found.boxes[1].bbox, [40.0, 8.0, 56.0, 24.0]);
    }

    #[test]
    fn decoded_rows_are_taken_as_they_are() {
        let d = YoloGrid::new(&info(&[1, 2, 6]), None, None, (64, 64)).unwrap();
        let data = [10.0, 10.0, 4.0, 6.0, 1.0, 0.5, 30.0, 30.0, 4.0, 6.0, 0.2, 1.0];
        let mut found = Found::default();
        d.decode(&[View { name: "o", shape: &[1, 2, 6], data: &data }], (64, 64), 0.3, &mut found).unwrap();
        assert_eq!(found.boxes.iter().map(|b| b.bbox).collect::<Vec<_>>(), [[8.0, 7.0, 12.0, 13.0]]);
    }

    #[test]
    fn wrong_shapes_are_refused_when_built() {
        assert!(YoloGrid::new(&info(&[1, 41, 7]), None, Some(vec![8, 16, 32]), (64, 32)).is_err());
        assert!(YoloGrid::new(&info(&[1, 42, 5]), None, None, (64, 32)).is_err());
        assert!(YoloGrid::new(&info(&[1, 42, 5, 5]), None, None, (64, 32)).is_err());
        assert!(YoloGrid::new(&info(&[1, 42, 7]), Some("p"), None, (64, 32)).is_err());
    }

    #[test]
    fn raw_and_decoded_rows_are_told_apart() {
        let size = (64, 64);
        let row = |i: usize, decoded: bool| match decoded {
            true => [(i % 8) as f32 * 8.0 + 3.0, (i / 8) as f32 * 8.0 + 3.0, 20.0, 20.0, 0.0, 0.0],
            false => [0.3, 0.6, 0.9, 0.9, 0.0, 0.0],
        };
        for decoded in [true, false] {
            let data: Vec<f32> = (0..84).flat_map(|i| row(i, decoded)).collect();
            assert_eq!(looks_decoded(&View { name: "o", shape: &[84, 6], data: &data }, size, 8), decoded);
        }
    }
}

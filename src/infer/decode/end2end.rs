//! Exports that select boxes themselves (YOLOv10, YOLO26, Ultralytics with `nms=True`, and many others): rows of
//! x1, y1, x2, y2 in pixels, score, class. Unused rows have a score of 0.

use super::{Decoder, Found, View, declared_matrix, pick};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;

/// Boxes that are final.
#[derive(Debug)]
pub struct End2end {
    output: usize,
}

impl End2end {
    /// For this output.
    pub fn new(outputs: &[TensorInfo], name: Option<&str>) -> Result<Self, InferError> {
        let output = pick(outputs, name, "boxes")?;
        let (_, columns) = declared_matrix(&outputs[output])?;
        if columns.is_some_and(|c| c < 6) {
            let why = "rows of a box, a score and a class have 6 values";
            return Err(InferError::Output(format!("output {}: {why}", outputs[output])));
        }
        Ok(Self { output })
    }
}

impl Decoder for End2end {
    fn classes(&self) -> Option<usize> {
        None
    }

    fn overlapping(&self) -> bool {
        false
    }

    fn decode(
        &self,
        outputs: &[View<'_>],
        _size: (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError> {
        let view = &outputs[self.output];
        let (_, columns) = view.matrix()?;
        if columns < 6 {
            return Err(view.wrong("rows of a box, a score and a class"));
        }
        for row in view.data.chunks_exact(columns) {
            let class = row[5].round();
            if (0.0..65_536.0).contains(&class) {
                found.add(threshold, class as usize, row[4], [row[0], row[1], row[2], row[3]]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_final_and_unused_ones_are_left_out() {
        let d = End2end { output: 0 };
        let mut found = Found::default();
        let data = [
            1.0,
            2.0,
            3.0,
            4.0,
            0.9,
            7.0, // a box
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0, // unused
            1.0,
            2.0,
            3.0,
            4.0,
            0.9,
            f32::NAN, // no class
            1.0,
            2.0,
            3.0,
            4.0,
            0.9,
            -1.0, // no class
        ];
        d.decode(&[View { name: "o", shape: &[1, 4, 6], data: &data }], (64, 64), 0.3, &mut found).unwrap();
        assert_eq!(found.boxes.iter().map(|b| (b.class, b.bbox)).collect::<Vec<_>>(), [(7, [1.0, 2.0, 3.0, 4.0])]);
        d.decode(&[View { name: "o", shape: &[0, 6], data: &[] }], (64, 64), 0.3, &mut found).unwrap();
        assert!(d.decode(&[View { name: "o", shape: &[3, 5], data: &[0.0; 15] }], (64, 64), 0.3, &mut found).is_err());
    }
}

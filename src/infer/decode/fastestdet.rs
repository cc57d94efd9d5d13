//! FastestDet (dog-qiuqiu): one grid of planes: objectness, offset x and y (tanh), width and height (sigmoid), class
//! scores. Score = objectness^0.6 · class^0.4.

use super::{Decoder, Found, View, corners, pick, sigmoid};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;

/// One grid of cells.
#[derive(Debug)]
pub struct Fastestdet {
    classes: Option<usize>,
}

impl Fastestdet {
    /// For a model with one output of planes.
    pub fn new(outputs: &[TensorInfo]) -> Result<Self, InferError> {
        let info = &outputs[pick(outputs, None, "planes")?];
        let planes = info.dim(1);
        if info.shape.len() != 4 || planes.is_some_and(|c| c < 6) {
            let why = "planes of objectness, box and classes are at least 6";
            return Err(InferError::Output(format!("output {info}: {why}")));
        }
        Ok(Self { classes: planes.map(|c| c - 5) })
    }
}

impl Decoder for Fastestdet {
    fn classes(&self) -> Option<usize> {
        self.classes
    }

    fn decode(
        &self,
        outputs: &[View<'_>],
        (width, height): (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError> {
        let view = &outputs[0];
        let (planes, rows, columns) = view.planes()?;
        if planes < 6 || self.classes.is_some_and(|c| c + 5 != planes) {
            return Err(view.wrong("planes of objectness, box and classes"));
        }
        let n = rows * columns;
        // With a class score of 1 the objectness alone would have to reach this.
        let least = threshold.max(0.0).powf(1.0 / 0.6);
        for i in 0..n {
            let objectness = view.data[i];
            if objectness < least || objectness.is_nan() {
                continue;
            }
            let at = |plane: usize| view.data[plane * n + i];
            let mut top = (0, f32::NEG_INFINITY);
            for class in 0..planes - 5 {
                let v = at(5 + class);
                if v > top.1 {
                    top = (class, v);
                }
            }
            let score = objectness.min(1.0).powf(0.6) * top.1.clamp(0.0, 1.0).powf(0.4);
            let x = ((i % columns) as f32 + at(1).tanh()) / columns as f32;
            let y = ((i / columns) as f32 + at(2).tanh()) / rows as f32;
            let (w, h) = (width as f32, height as f32);
            found.add(threshold, top.0, score, corners(x * w, y * h, sigmoid(at(3)) * w, sigmoid(at(4)) * h));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_boxes() {
        let d = Fastestdet { classes: Some(2) };
        let mut data = vec![0.0f32; 7 * 4];
        data[3] = 0.9; // objectness of cell (1, 1) of 2x2
        data[24 + 3] = 0.6; // second class
        data[1] = f32::NAN;
        let mut found = Found::default();
        d.decode(&[View { name: "o", shape: &[7, 2, 2], data: &data }], (100, 200), 0.5, &mut found).unwrap();
        assert_eq!(found.boxes.len(), 1);
        let b = found.boxes[0];
        assert!((b.score - 0.9f32.powf(0.6) * 0.6f32.powf(0.4)).abs() < 1e-6 && b.class == 1);
        assert_eq!(b.bbox, [25.0, 50.0, 75.0, 150.0]);
        assert!(d.decode(&[View { name: "o", shape: &[28], data: &data }], (100, 200), 0.5, &mut found).is_err());
    }
}

//! YOLOv8, v9 and v11 as Ultralytics exports them: for each anchor centre x, y, width, height in pixels, then class
//! scores; values are planes of anchors (`[4 + classes, anchors]`), or rows where an export turned them round.

use super::{Decoder, Found, View, any_reaches, best, corners, declared_matrix, pick};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;

/// Boxes and class scores without objectness.
#[derive(Debug)]
pub struct Yolov8 {
    output: usize,
    classes: Option<usize>,
}

impl Yolov8 {
    /// For this output; `classes` where more than class scores follow the box.
    pub fn new(outputs: &[TensorInfo], name: Option<&str>, classes: Option<usize>) -> Result<Self, InferError> {
        let output = pick(outputs, name, "boxes")?;
        let info = &outputs[output];
        let (a, b) = declared_matrix(info)?;
        let values = match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            // The number of anchors is what a model with a dynamic input leaves open.
            (Some(v), None) | (None, Some(v)) => Some(v),
            (None, None) => None,
        };
        let all = match values {
            Some(v) if v < 5 => {
                let why = "a box and at least one class have 5 values or more for each anchor";
                return Err(InferError::Output(format!("output {info}: {why}")));
            }
            Some(v) => Some(v - 4),
            None => None,
        };
        if let (Some(want), Some(all)) = (classes, all)
            && (want == 0 || want > all)
        {
            return Err(InferError::Output(format!("output {info} has room for {all} classes, not for {want}")));
        }
        Ok(Self { output, classes: classes.or(all) })
    }
}

impl Decoder for Yolov8 {
    fn classes(&self) -> Option<usize> {
        self.classes
    }

    fn decode(
        &self,
        outputs: &[View<'_>],
        _size: (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError> {
        let view = &outputs[self.output];
        let (rows, columns) = view.matrix()?;
        let needs = 4 + self.classes.unwrap_or(1);
        // Anchors outnumber values in every real model; where they do not, the declared classes decide.
        let planes = if rows == columns { true } else { rows < columns };
        let (values, anchors) = if planes { (rows, columns) } else { (columns, rows) };
        if values < needs {
            return Err(view.wrong(&format!("a box and {} classes for each anchor", needs - 4)));
        }
        let classes = self.classes.unwrap_or(values - 4);
        if !planes {
            for row in view.data.chunks_exact(columns) {
                let scores = &row[4..4 + classes];
                if any_reaches(scores, threshold) {
                    let (class, score) = best(scores);
                    found.add(threshold, class, score, corners(row[0], row[1], row[2], row[3]));
                }
            }
            return Ok(());
        }
        // Class planes are scanned in blocks that are nearly always empty; what is over the threshold is gathered
        // by anchor, and the best class of each anchor stays.
        let mut gathered = std::mem::take(&mut found.best);
        gathered.clear();
        for class in 0..classes {
            let plane = &view.data[(4 + class) * anchors..(5 + class) * anchors];
            for (block, scores) in plane.chunks(64).enumerate() {
                if any_reaches(scores, threshold) {
                    for (i, &v) in scores.iter().enumerate() {
                        if v >= threshold {
                            gathered.push(((block * 64 + i) as u32, class as u32, v));
                        }
                    }
                }
            }
        }
        gathered.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.2.total_cmp(&a.2)).then(a.1.cmp(&b.1)));
        let mut last = None;
        for &(anchor, class, score) in &gathered {
            if last == Some(anchor) {
                continue;
            }
            last = Some(anchor);
            let at = |value: usize| view.data[value * anchors + anchor as usize];
            found.add(threshold, class as usize, score, corners(at(0), at(1), at(2), at(3)));
        }
        found.best = gathered;
        Ok(())
    }
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
    fn planes_and_rows_give_the_same_boxes() {
        let (anchors, values) = (200, 7);
        let mut rows = vec![0.01f32; anchors * values];
        rows[3 * 7..4 * 7].copy_from_slice(&[20.0, 30.0, 4.0, 8.0, 0.4, 0.9, 0.2]);
        rows[150 * 7..151 * 7].copy_from_slice(&[50.0, 60.0, 10.0, 10.0, 0.0, 0.1, 0.5]);
        let planes: Vec<f32> =
            (0..values).flat_map(|v| (0..anchors).map(move |a| (a, v))).map(|(a, v)| rows[a * 7 + v]).collect();
        let mut results = Vec::new();
        for (shape, data) in [([1i64, 200, 7], &rows), ([1, 7, 200], &planes)] {
            let d = Yolov8::new(&info(&shape.map(|v| v as usize)), None, None).unwrap();
            assert_eq!(d.classes(), Some(3));
            let mut found = Found::default();
            d.decode(&[View { name: "o", shape: &shape, data }], (64, 64), 0.3, &mut found).unwrap();
            results.push(found.boxes);
        }
        assert_eq!(results[0], results[1]);
        let got: Vec<_> = results[0].iter().map(|b| (b.class, b.score, b.bbox)).collect();
        assert_eq!(got, [(1, 0.9, [18.0, 26.0, 22.0, 34.0]), (2, 0.5, [45.0, 55.0, 55.0, 65.0])]);
    }

    #[test]
    fn values_behind_the_classes_are_left_alone() {
        let d = Yolov8::new(&info(&[1, 40, 100]), None, Some(4)).unwrap();
        let mut data = vec![0.0f32; 4000];
        data[..400].fill(10.0);
        data[4 * 100] = 0.6;
        data[8 * 100] = 5.0; // a mask coefficient
        let mut found = Found::default();
        d.decode(&[View { name: "o", shape: &[40, 100], data: &data }], (64, 64), 0.3, &mut found).unwrap();
        assert_eq!(found.boxes.len(), 1);
        assert!(Yolov8::new(&info(&[1, 8, 100]), None, Some(5)).is_err());
        assert!(Yolov8::new(&info(&[1, 4, 100]), None, None).is_err());
    }
}

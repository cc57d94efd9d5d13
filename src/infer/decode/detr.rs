//! DETR, RT-DETR, D-FINE, RF-DETR and kin: class logits and boxes (centre and size in units of the picture) for each
//! query. The original has a last class that means "nothing" and a softmax; its successors have a sigmoid.

use super::{Activation, Decoder, Found, View, any_reaches, best, corners, declared_matrix, logit, pick, sigmoid};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;

/// Queries with logits and boxes.
#[derive(Debug)]
pub struct Detr {
    logits: usize,
    boxes: usize,
    columns: Option<usize>,
    softmax: bool,
}

impl Detr {
    /// For these outputs.
    pub fn new(
        outputs: &[TensorInfo],
        logits: Option<&str>,
        boxes: Option<&str>,
        activation: Option<Activation>,
    ) -> Result<Self, InferError> {
        let by_columns = |four: bool, what: &str| {
            let fits = |o: &TensorInfo| {
                matches!(declared_matrix(o), Ok((_, Some(c))) if (c == 4) == four) && o.shape.len() == 3
            };
            let mut all = outputs.iter().enumerate().filter(|(_, o)| fits(o)).map(|(i, _)| i);
            match (all.next(), all.next()) {
                (Some(i), None) => Ok(i),
                _ => pick(&[], Some(what), what).map_err(|_| {
                    InferError::Output(format!("which output has the {what}? name it in the card's [decode]"))
                }),
            }
        };
        let logits = match logits {
            Some(n) => pick(outputs, Some(n), "logits")?,
            None => by_columns(false, "logits")?,
        };
        let boxes = match boxes {
            Some(n) => pick(outputs, Some(n), "boxes")?,
            None => by_columns(true, "boxes")?,
        };
        let columns = declared_matrix(&outputs[logits])?.1;
        if declared_matrix(&outputs[boxes])?.1.is_some_and(|c| c != 4) {
            return Err(InferError::Output(format!("output {} does not have boxes of 4 values", outputs[boxes])));
        }
        let softmax = match activation {
            Some(a) => a == Activation::Softmax,
            None => columns == Some(92),
        };
        if softmax && columns.is_some_and(|c| c < 2) {
            let info = &outputs[logits];
            return Err(InferError::Output(format!(
                "output {info} has no class beside the one that means \"nothing\""
            )));
        }
        Ok(Self { logits, boxes, columns, softmax })
    }
}

impl Decoder for Detr {
    fn classes(&self) -> Option<usize> {
        self.columns.map(|c| c - usize::from(self.softmax))
    }

    fn overlapping(&self) -> bool {
        false
    }

    fn decode(
        &self,
        outputs: &[View<'_>],
        (width, height): (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError> {
        let (logits, boxes) = (&outputs[self.logits], &outputs[self.boxes]);
        let (rows, columns) = logits.matrix()?;
        boxes.expect(Some(rows), 4)?;
        if columns == 0 || self.columns.is_some_and(|c| c != columns) || (self.softmax && columns < 2) {
            return Err(logits.wrong("logits for each query"));
        }
        let (w, h) = (width as f32, height as f32);
        let limit = logit(threshold);
        for (row, b) in logits.data.chunks_exact(columns).zip(boxes.data.chunks_exact(4)) {
            let (class, score) = if self.softmax {
                let (class, top) = best(&row[..columns - 1]);
                let sum: f32 = row.iter().map(|v| (v - top).exp()).sum();
                (class, 1.0 / sum)
            } else {
                if !any_reaches(row, limit) {
                    continue;
                }
                let (class, top) = best(row);
                (class, sigmoid(top))
            };
            found.add(threshold, class, score, corners(b[0] * w, b[1] * h, b[2] * w, b[3] * h));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::model::Dim;
    use ort::value::TensorElementType;

    fn info(name: &str, shape: &[usize]) -> TensorInfo {
        let shape = shape.iter().map(|&d| Dim::Fixed(d)).collect();
        TensorInfo { name: name.into(), element: TensorElementType::Float32, shape }
    }

    #[test]
    fn both_activations_give_probabilities() {
        let outs = [info("logits", &[1, 2, 3]), info("pred_boxes", &[1, 2, 4])];
        let boxes = [0.5, 0.5, 0.2, 0.4, 0.1, 0.1, 0.1, 0.1];
        let logits = [3f32.ln(), 0.0, -9.0, -9.0, -9.0, 4.0];
        let views =
            [View { name: "l", shape: &[2, 3], data: &logits }, View { name: "b", shape: &[2, 4], data: &boxes }];
        let d = Detr::new(&outs, None, None, None).unwrap();
        let mut found = Found::default();
        d.decode(&views, (100, 200), 0.6, &mut found).unwrap();
        assert_eq!(found.boxes.iter().map(|b| b.class).collect::<Vec<_>>(), [0, 2]);
        assert!((found.boxes[0].score - 0.75).abs() < 1e-6);
        assert!(found.boxes[0].bbox.iter().zip([40.0, 60.0, 60.0, 140.0]).all(|(a, b)| (a - b).abs() < 1e-4));
        let d = Detr::new(&outs, None, None, Some(Activation::Softmax)).unwrap();
        assert_eq!(d.classes(), Some(2));
        found.clear();
        d.decode(&views, (100, 200), 0.6, &mut found).unwrap();
        // The last class of the second query means "nothing".
        assert_eq!(found.boxes.len(), 1);
        assert!((found.boxes[0].score - 0.75).abs() < 1e-3);
        assert!(Detr::new(&outs[..1], None, None, None).is_err());
    }
}

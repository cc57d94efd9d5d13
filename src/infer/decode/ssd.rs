//! SSD-style outputs: decoded boxes in one tensor, scores in another (UltraFace, TorchVision, TensorFlow exports).

use super::{
    Activation, Coordinates, Decoder, Found, Order, View, any_reaches, corners, declared_matrix, pick, sigmoid,
};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;

/// What the boxes and scores are.
#[derive(Debug)]
pub struct SsdCard {
    /// Unit of the boxes.
    pub coordinates: Coordinates,
    /// Order of a box's numbers.
    pub order: Order,
    /// The class that means "nothing".
    pub background: Option<u32>,
    /// What scores still need.
    pub activation: Option<Activation>,
    /// Boxes overlap.
    pub nms: bool,
}

/// Boxes beside scores.
#[derive(Debug)]
pub struct Ssd {
    boxes: usize,
    scores: usize,
    labels: Option<usize>,
    classes: Option<usize>,
    card: SsdCard,
}

impl Ssd {
    /// For these outputs.
    pub fn new(
        outputs: &[TensorInfo],
        boxes: &str,
        scores: &str,
        labels: Option<&str>,
        card: SsdCard,
    ) -> Result<Self, InferError> {
        let boxes = pick(outputs, Some(boxes), "boxes")?;
        let scores = pick(outputs, Some(scores), "scores")?;
        let labels = labels.map(|l| pick(outputs, Some(l), "labels")).transpose()?;
        // Boxes may come as [N, 4] or [N, 1, 4].
        if outputs[boxes].dim(outputs[boxes].shape.len().saturating_sub(1)).is_some_and(|c| c != 4) {
            return Err(InferError::Output(format!("output {} does not have boxes of 4 values", outputs[boxes])));
        }
        let mut classes = None;
        if labels.is_none() {
            let (rows, columns) = declared_matrix(&outputs[scores])?;
            let (box_rows, _) = declared_matrix(&outputs[boxes])?;
            if let (Some(r), Some(b)) = (rows, box_rows)
                && r != b
            {
                let (s, b) = (&outputs[scores], &outputs[boxes]);
                return Err(InferError::Output(format!("outputs {s} and {b} have different numbers of boxes")));
            }
            if let (Some(columns), Some(none)) = (columns, card.background)
                && (columns < 2 || none as usize >= columns)
            {
                let info = &outputs[scores];
                return Err(InferError::Output(format!(
                    "output {info} has no class {none} that could mean \"nothing\""
                )));
            }
            classes = columns.map(|c| c - usize::from(card.background.is_some()));
        }
        Ok(Self { boxes, scores, labels, classes, card })
    }

    fn bbox(&self, b: &[f32], (width, height): (usize, usize)) -> [f32; 4] {
        let (w, h) = match self.card.coordinates {
            Coordinates::Unit => (width as f32, height as f32),
            Coordinates::Pixels => (1.0, 1.0),
        };
        match self.card.order {
            Order::Xyxy => [b[0] * w, b[1] * h, b[2] * w, b[3] * h],
            Order::Yxyx => [b[1] * w, b[0] * h, b[3] * w, b[2] * h],
            Order::Cxcywh => corners(b[0] * w, b[1] * h, b[2] * w, b[3] * h),
        }
    }

    /// The class's number once the background is left out.
    fn number(&self, class: usize) -> Option<usize> {
        match self.card.background {
            Some(none) if class == none as usize => None,
            Some(none) if class > none as usize => Some(class - 1),
            _ => Some(class),
        }
    }
}

impl Decoder for Ssd {
    fn classes(&self) -> Option<usize> {
        self.classes
    }

    fn overlapping(&self) -> bool {
        self.card.nms
    }

    fn decode(
        &self,
        outputs: &[View<'_>],
        size: (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError> {
        let (boxes, scores) = (&outputs[self.boxes], &outputs[self.scores]);
        if !boxes.data.len().is_multiple_of(4) {
            return Err(boxes.wrong("boxes of 4 values"));
        }
        let n = boxes.data.len() / 4;
        let at = |i: usize| self.bbox(&boxes.data[i * 4..i * 4 + 4], size);
        if let Some(labels) = self.labels {
            let labels = &outputs[labels];
            if scores.data.len() != n || labels.data.len() != n {
                return Err(scores.wrong("one score and one label for each box"));
            }
            for (i, (&score, &label)) in scores.data.iter().zip(labels.data).enumerate() {
                if (0.0..65_536.0).contains(&label.round())
                    && let Some(class) = self.number(label.round() as usize)
                {
                    found.add(threshold, class, score, at(i));
                }
            }
            return Ok(());
        }
        if n == 0 {
            return Ok(());
        }
        let columns = scores.data.len() / n;
        if columns == 0 || columns * n != scores.data.len() {
            return Err(scores.wrong("scores for each box"));
        }
        for (i, row) in scores.data.chunks_exact(columns).enumerate() {
            if self.card.activation.is_none() && !any_reaches(row, threshold) {
                continue;
            }
            let mut top: Option<(usize, f32)> = None;
            for (c, &v) in row.iter().enumerate() {
                if let Some(class) = self.number(c)
                    && top.is_none_or(|t| v > t.1)
                    && !v.is_nan()
                {
                    top = Some((class, v));
                }
            }
            let Some((class, raw)) = top else { continue };
            let score = match self.card.activation {
                None => raw,
                Some(Activation::Sigmoid) => sigmoid(raw),
                Some(Activation::Softmax) => 1.0 / row.iter().map(|v| (v - raw).exp()).sum::<f32>(),
            };
            found.add(threshold, class, score, at(i));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssd(card: SsdCard, labels: Option<usize>) -> Ssd {
        Ssd { boxes: 0, scores: 1, labels, classes: None, card }
    }

    fn card() -> SsdCard {
        SsdCard { coordinates: Coordinates::Unit, order: Order::Xyxy, background: Some(0), activation: None, nms: true }
    }

    fn view<'a>(shape: &'a [i64], data: &'a [f32]) -> View<'a> {
        View { name: "o", shape, data }
    }

    #[test]
    fn background_is_left_out_and_units_become_pixels() {
        let d = ssd(card(), None);
        let boxes = [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.9, 1.1];
        let scores = [0.1, 0.9, 0.8, 0.2];
        let mut found = Found::default();
        d.decode(&[view(&[2, 4], &boxes), view(&[2, 2], &scores)], (100, 200), 0.5, &mut found).unwrap();
        assert_eq!(found.boxes.len(), 1);
        let b = found.boxes[0];
        assert_eq!((b.class, b.score), (0, 0.9));
        assert!(b.bbox.iter().zip([10.0, 40.0, 30.0, 80.0]).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn labels_beside_scores_and_other_orders() {
        let d =
            ssd(SsdCard { order: Order::Yxyx, coordinates: Coordinates::Pixels, background: None, ..card() }, Some(2));
        let outs = [view(&[1, 4], &[1.0, 2.0, 3.0, 4.0]), view(&[1], &[0.7]), view(&[1], &[17.0])];
        let mut found = Found::default();
        d.decode(&outs, (100, 100), 0.5, &mut found).unwrap();
        assert_eq!((found.boxes[0].class, found.boxes[0].bbox), (17, [2.0, 1.0, 4.0, 3.0]));
        let outs = [view(&[1, 4], &[1.0, 2.0, 3.0, 4.0]), view(&[2], &[0.7, 0.1]), view(&[1], &[17.0])];
        assert!(d.decode(&outs, (100, 100), 0.5, &mut found).is_err());
    }

    #[test]
    fn softmax_is_taken_over_all_classes() {
        let d = ssd(SsdCard { activation: Some(Activation::Softmax), ..card() }, None);
        let logits = [0.0, 0.0, 2f32.ln()];
        let outs = [view(&[1, 4], &[0.0, 0.0, 1.0, 1.0]), view(&[1, 3], &logits)];
        let mut found = Found::default();
        d.decode(&outs, (10, 10), 0.4, &mut found).unwrap();
        assert_eq!(found.boxes[0].class, 1);
        assert!((found.boxes[0].score - 0.5).abs() < 1e-6);
    }
}

//! NanoDet and PicoDet: class scores and, for each of the four sides, a distribution over distances (Li et al. 2020,
//! "Generalized Focal Loss"). A side's distance is the distribution's mean times the stride.

use super::{Decoder, Found, View, any_reaches, best, cells, declared_matrix, grid, logit, sigmoid};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;

/// Scores and distance distributions for each stride.
#[derive(Debug)]
pub struct Gfl {
    levels: Vec<Level>,
    classes: usize,
    /// Steps of a distribution, `reg_max + 1`.
    steps: usize,
    logits: bool,
    origin: f32,
    shift: f32,
}

#[derive(Debug)]
struct Level {
    stride: usize,
    scores: usize,
    boxes: usize,
}

/// The most steps that a distribution can have.
const MAX_STEPS: usize = 64;

impl Gfl {
    /// Finds the pairs of outputs by their shapes: names and order differ from export to export.
    pub fn new(
        outputs: &[TensorInfo],
        size: (usize, usize),
        strides: Option<&[usize]>,
        logits: bool,
        origin: f32,
        shift: f32,
    ) -> Result<Self, InferError> {
        let fail = |why: String| {
            let all: Vec<_> = outputs.iter().map(|o| o.to_string()).collect();
            InferError::Output(format!("{why}; the model has {}", all.join(", ")))
        };
        if outputs.len() < 2 || outputs.len() % 2 == 1 {
            return Err(fail("scores and distances come in pairs".into()));
        }
        let pairs = outputs.len() / 2;
        let strides = match strides {
            Some(s) if s.len() == pairs => s.to_vec(),
            Some(s) => return Err(fail(format!("{} strides for {pairs} pairs of outputs", s.len()))),
            None => (0..pairs).map(|i| 8 << i).collect(),
        };
        let shapes: Vec<(usize, usize)> = outputs
            .iter()
            .map(|o| match declared_matrix(o)? {
                (Some(r), Some(c)) => Ok((r, c)),
                _ => Err(fail(format!("output {o} leaves its shape open"))),
            })
            .collect::<Result<_, _>>()?;
        // Distances have one column count at every stride, scores another; which is which shows in the counts
        // themselves, or where both could be distances (a multiple of 4), in the order: scores come first.
        let mut columns: Vec<usize> = Vec::new();
        for (_, c) in &shapes {
            if !columns.contains(c) {
                columns.push(*c);
            }
        }
        let distances = |c: usize| c.is_multiple_of(4) && (2..=MAX_STEPS).contains(&(c / 4));
        let (classes, sides) = match columns[..] {
            [a, b] if distances(b) => (a, b),
            [a, b] if distances(a) => (b, a),
            [a] if distances(a) => (a, a),
            _ => return Err(fail("scores and distances cannot be told apart by their columns".into())),
        };
        let mut taken = vec![false; outputs.len()];
        let mut take = |stride: usize, want_columns: usize| {
            let want = (cells(size, stride), want_columns);
            let i = shapes.iter().zip(&taken).position(|(s, t)| !t && *s == want).ok_or_else(|| {
                let (w, h) = size;
                fail(format!(
                    "no output has {} rows of {} values, as cells of {stride} pixels in an input of {w}x{h} need",
                    want.0, want.1
                ))
            })?;
            taken[i] = true;
            Ok::<_, InferError>(i)
        };
        let mut levels = Vec::with_capacity(pairs);
        for stride in strides {
            levels.push(Level { stride, scores: take(stride, classes)?, boxes: take(stride, sides)? });
        }
        Ok(Self { levels, classes, steps: sides / 4, logits, origin, shift })
    }

    /// The mean of a distribution given by its logits.
    fn distance(side: &[f32]) -> f32 {
        let top = side.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut sum, mut weighted) = (0.0, 0.0);
        for (i, v) in side.iter().enumerate() {
            let e = (v - top).exp();
            sum += e;
            weighted += e * i as f32;
        }
        weighted / sum
    }
}

impl Decoder for Gfl {
    fn classes(&self) -> Option<usize> {
        Some(self.classes)
    }

    fn decode(
        &self,
        outputs: &[View<'_>],
        size: (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError> {
        let limit = if self.logits { logit(threshold) } else { threshold };
        for level in &self.levels {
            let (w, h) = grid(size, level.stride);
            let (scores, boxes) = (&outputs[level.scores], &outputs[level.boxes]);
            scores.expect(Some(w * h), self.classes)?;
            boxes.expect(Some(w * h), self.steps * 4)?;
            let stride = level.stride as f32;
            for (i, row) in scores.data.chunks_exact(self.classes).enumerate() {
                if !any_reaches(row, limit) {
                    continue;
                }
                let (class, raw) = best(row);
                let score = if self.logits { sigmoid(raw) } else { raw };
                let sides = &boxes.data[i * self.steps * 4..(i + 1) * self.steps * 4];
                let mut d = sides.chunks_exact(self.steps).map(|s| Self::distance(s) * stride);
                let mut next = || d.next().unwrap_or(f32::NAN);
                let (left, top, right, bottom) = (next(), next(), next(), next());
                let x = ((i % w) as f32 + self.origin) * stride + self.shift;
                let y = ((i / w) as f32 + self.origin) * stride + self.shift;
                found.add(threshold, class, score, [x - left, y - top, x + right, y + bottom]);
            }
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
    fn pairs_are_found_by_shape_whatever_their_names_and_order() {
        // 32x32: 16 cells of 8, 4 of 16. Names as a real export has them, in the wrong order.
        let outs = [info("cls0", &[16, 3]), info("box0", &[4, 3]), info("cls1", &[16, 32]), info("box1", &[4, 32])];
        let d = Gfl::new(&outs, (32, 32), None, false, 0.5, 0.0).unwrap();
        assert_eq!((d.classes, d.steps), (3, 8));
        assert_eq!(d.levels.iter().map(|l| (l.stride, l.scores, l.boxes)).collect::<Vec<_>>(), [(8, 0, 2), (16, 1, 3)]);
        assert!(Gfl::new(&outs, (64, 32), None, false, 0.5, 0.0).is_err());
        assert!(Gfl::new(&outs[..3], (32, 32), None, false, 0.5, 0.0).is_err());
        assert!(Gfl::new(&outs, (32, 32), Some(&[8]), false, 0.5, 0.0).is_err());
    }

    #[test]
    fn distances_are_the_means_of_their_distributions() {
        let outs = [info("c", &[16, 2]), info("b", &[16, 32])];
        let mut scores = vec![-20.0f32; 32];
        scores[5 * 2 + 1] = 3f32.ln(); // cell (1, 1): probability 0.75
        let mut sides = vec![-100.0f32; 16 * 32];
        for (side, step) in [0usize, 1, 2, 3].into_iter().enumerate() {
            sides[5 * 32 + side * 8 + step] = 0.0;
        }
        sides[5 * 32 + 24 + 4] = 0.0; // the last side: half 3, half 4
        let d = Gfl::new(&outs, (32, 32), None, true, 0.5, 0.0).unwrap();
        let mut found = Found::default();
        let views =
            [View { name: "c", shape: &[16, 2], data: &scores }, View { name: "b", shape: &[16, 32], data: &sides }];
        d.decode(&views, (32, 32), 0.5, &mut found).unwrap();
        assert_eq!(found.boxes.len(), 1);
        let b = found.boxes[0];
        assert!((b.score - 0.75).abs() < 1e-6 && b.class == 1);
        assert!(b.bbox.iter().zip([12.0, 4.0, 28.0, 40.0]).all(|(a, b)| (a - b).abs() < 1e-3), "{:?}", b.bbox);
        // Hostile: everything NaN.
        let nan = vec![f32::NAN; 16 * 32];
        let views =
            [View { name: "c", shape: &[16, 2], data: &[1.0; 32] }, View { name: "b", shape: &[16, 32], data: &nan }];
        found.clear();
        d.decode(&views, (32, 32), 0.5, &mut found).unwrap();
        assert!(found.boxes.is_empty());
        assert!(d.decode(&views[..1].repeat(2), (32, 32), 0.5, &mut found).is_err());
    }
}

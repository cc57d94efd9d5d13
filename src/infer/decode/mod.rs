//! Output decoders: from a detector's raw outputs to boxes in model pixels, one file for each family.
//!
//! A decoder is built from the declared outputs and refuses shapes that cannot be right; in use it touches only what
//! may be over the threshold, and skips values that are not numbers.

mod card;
mod detr;
mod end2end;
mod fastestdet;
mod gfl;
mod ssd;
mod yolo_grid;
mod yolov8;
mod yunet;

pub use card::{Activation, Coordinates, DecodeCard, Order};
pub use yolo_grid::looks_decoded;

use super::InferError;
use super::model::TensorInfo;
use std::fmt::Debug;

/// One output of a run at one place of the batch.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The output's name, for error messages.
    pub name: &'a str,
    /// Its shape, without the batch (a leading 1 does no harm).
    pub shape: &'a [i64],
    /// Its values, row-major.
    pub data: &'a [f32],
}

impl<'a> View<'a> {
    /// Rows and columns of an output that is a matrix, after leading axes of 1.
    fn matrix(&self) -> Result<(usize, usize), InferError> {
        let mut shape = self.shape;
        while shape.len() > 2 && shape[0] == 1 {
            shape = &shape[1..];
        }
        let (rows, cols) = match shape {
            [n] => (1, *n),
            [r, c] => (*r, *c),
            _ => return Err(self.wrong("a matrix")),
        };
        self.sized(rows, cols, 1).map(|(r, c, _)| (r, c))
    }

    /// Channels, rows, columns of an output that is a picture, after leading axes of 1.
    fn planes(&self) -> Result<(usize, usize, usize), InferError> {
        let mut shape = self.shape;
        while shape.len() > 3 && shape[0] == 1 {
            shape = &shape[1..];
        }
        match shape {
            [c, h, w] => self.sized(*c, *h, *w),
            _ => Err(self.wrong("planes of rows of columns")),
        }
    }

    fn sized(&self, a: i64, b: i64, c: i64) -> Result<(usize, usize, usize), InferError> {
        let dims = [a, b, c].map(|d| usize::try_from(d).unwrap_or(usize::MAX));
        match dims[0].checked_mul(dims[1]).and_then(|n| n.checked_mul(dims[2])) {
            Some(n) if n == self.data.len() => Ok((dims[0], dims[1], dims[2])),
            _ => Err(self.wrong("that many values")),
        }
    }

    fn wrong(&self, wanted: &str) -> InferError {
        InferError::Output(format!("output `{}` has shape {:?}, which is not {wanted}", self.name, self.shape))
    }

    /// An error unless the matrix has `cols` columns (and `rows` rows where that is known).
    fn expect(&self, rows: Option<usize>, cols: usize) -> Result<usize, InferError> {
        let (r, c) = self.matrix()?;
        if c == cols && rows.is_none_or(|want| want == r) {
            return Ok(r);
        }
        let rows = rows.map_or("any number of".to_owned(), |r| r.to_string());
        Err(InferError::Output(format!(
            "output `{}` has shape {:?} where {rows} rows of {cols} values belong",
            self.name, self.shape
        )))
    }
}

/// A box over the threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// x1, y1, x2, y2 in model pixels.
    pub bbox: [f32; 4],
    /// Confidence, 0 to 1.
    pub score: f32,
    /// The class's number.
    pub class: u32,
    /// Index of its first point in [`Found::points`].
    pub points: u32,
}

/// What a decoder finds in one picture. Reused from picture to picture.
#[derive(Debug, Default)]
pub struct Found {
    /// Boxes over the threshold, in no order.
    pub boxes: Vec<Candidate>,
    /// Named points of all boxes, in model pixels, [`Decoder::points`] for each.
    pub points: Vec<[f32; 2]>,
    /// Work space of decoders that gather before they decide: anchor, class, score.
    best: Vec<(u32, u32, f32)>,
}

impl Found {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.boxes.clear();
        self.points.clear();
    }

    /// Adds a box, unless its score is under the threshold or any value is not a number. Scores a rounding error
    /// above 1 become 1. Says whether it was added.
    fn add(&mut self, threshold: f32, class: usize, score: f32, bbox: [f32; 4]) -> bool {
        // Comparisons with NaN are false, so NaN never gets past the first; infinite scores are no scores.
        let sound = score >= threshold && score.is_finite() && bbox.iter().all(|v| v.is_finite());
        if !sound || bbox[2] <= bbox[0] || bbox[3] <= bbox[1] {
            return false;
        }
        let points = self.points.len() as u32;
        self.boxes.push(Candidate { bbox, score: score.min(1.0), class: class as u32, points });
        true
    }
}

/// Turns outputs into boxes.
pub trait Decoder: Debug + Send + Sync {
    /// Number of classes, where the outputs tell.
    fn classes(&self) -> Option<usize>;

    /// Named points for each box.
    fn points(&self) -> usize {
        0
    }

    /// Whether boxes that overlap still have to be thinned out.
    fn overlapping(&self) -> bool {
        true
    }

    /// Adds the boxes with a score of at least `threshold` to `found`. `outputs` are all outputs in the model's order,
    /// `size` is the input's width and height.
    ///
    /// # Errors
    /// An output has another shape than it was declared to have.
    fn decode(
        &self,
        outputs: &[View<'_>],
        size: (usize, usize),
        threshold: f32,
        found: &mut Found,
    ) -> Result<(), InferError>;
}

/// Largest value of a row and its index; (0, -inf) for an empty row or one of NaNs.
fn best(row: &[f32]) -> (usize, f32) {
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, &v)| if v > b.1 { (i, v) } else { b })
}

/// Whether any value of a row reaches `threshold`. Much faster than [`best`], and most rows have none.
fn any_reaches(row: &[f32], threshold: f32) -> bool {
    row.chunks(16).any(|c| c.iter().fold(false, |any, &v| any | (v >= threshold)))
}

fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}

/// The logit of a probability; everything reaches the logit of 0.
fn logit(p: f32) -> f32 {
    if p <= 0.0 { f32::NEG_INFINITY } else { (p / (1.0 - p).max(f32::MIN_POSITIVE)).ln() }
}

/// Columns and rows of the grid of cells of `stride` pixels that covers an input.
fn grid((width, height): (usize, usize), stride: usize) -> (usize, usize) {
    (width.div_ceil(stride), height.div_ceil(stride))
}

fn cells(size: (usize, usize), stride: usize) -> usize {
    let (w, h) = grid(size, stride);
    w * h
}

/// Centre and size to corners.
fn corners(cx: f32, cy: f32, w: f32, h: f32) -> [f32; 4] {
    [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
}

/// The declared axes of an output as a matrix, `None` where the model leaves them open. The batch is left out.
fn declared_matrix(o: &TensorInfo) -> Result<(Option<usize>, Option<usize>), InferError> {
    match o.shape.len() {
        2 => Ok((o.dim(0), o.dim(1))),
        3 => Ok((o.dim(1), o.dim(2))),
        _ => Err(InferError::Output(format!("output {o} is not one matrix for each picture"))),
    }
}

/// The output of this name, or the only one.
fn pick(outputs: &[TensorInfo], name: Option<&str>, what: &str) -> Result<usize, InferError> {
    let listed = || outputs.iter().map(|o| o.to_string()).collect::<Vec<_>>().join(", ");
    match name {
        Some(n) => outputs
            .iter()
            .position(|o| &*o.name == n)
            .ok_or_else(|| InferError::Output(format!("there is no output `{n}`; the model has {}", listed()))),
        None if outputs.len() == 1 => Ok(0),
        None => Err(InferError::Output(format!(
            "which output has the {what}? the model has {}; name it in the card's [decode]",
            listed()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_never_found() {
        let mut f = Found::default();
        for (score, x2) in [(f32::NAN, 2.0), (f32::INFINITY, 2.0), (0.9, f32::NAN), (0.9, f32::INFINITY), (0.9, -1.0)] {
            assert!(!f.add(0.3, 0, score, [0.0, 0.0, x2, 2.0]));
        }
        assert!(f.add(0.3, 0, 1.000_01, [0.0, 0.0, 2.0, 2.0]));
        assert_eq!(f.boxes[0].score, 1.0);
    }

    #[test]
    fn shapes_that_do_not_fit_their_data_are_errors() {
        let view = |shape: &'static [i64], n: usize| View { name: "o", shape, data: &[0.0; 12][..n] };
        assert_eq!(view(&[1, 3, 4], 12).matrix().unwrap(), (3, 4));
        assert_eq!(view(&[6], 6).matrix().unwrap(), (1, 6));
        assert_eq!(view(&[0, 6], 0).matrix().unwrap(), (0, 6));
        for bad in [&[3i64, 5][..], &[-3, -4], &[2, 3, 2], &[i64::MAX, i64::MAX], &[]] {
            assert!(View { name: "o", shape: bad, data: &[0.0; 12] }.matrix().is_err(), "{bad:?}");
        }
        assert_eq!(view(&[1, 3, 2, 2], 12).planes().unwrap(), (3, 2, 2));
        assert!(view(&[3, 4], 12).planes().is_err());
    }

    #[test]
    fn logit_and_sigmoid_are_inverse_at_the_ends_too() {
        for p in [0.01, 0.35, 0.5, 0.99] {
            assert!((sigmoid(logit(p)) - p).abs() < 1e-6);
        }
        assert_eq!(logit(0.0), f32::NEG_INFINITY);
        assert!(logit(1.0) > 80.0);
    }
}

//! A model's picture input: card, model and pipeline file together say what it is.

use super::InferError;
use super::card::{FitCard, InputCard, MAX_SIDE};
use super::model::{ModelInfo, TensorInfo};
use super::preprocess::{ChannelOrder, Fit, InputSpec, Layout};
use super::tensor::DType;
use ort::value::TensorElementType;

/// The picture input of a model.
#[derive(Debug, Clone)]
pub struct PictureInput {
    /// As the model declares it.
    pub info: TensorInfo,
    /// What the preprocess makes.
    pub spec: InputSpec,
    /// Where each picture decides the size: `spec` has the largest.
    pub per_picture: Option<PerPicture>,
    /// Whether the pipeline file may ask for another width and height.
    pub any_size: bool,
    /// What its sides are multiples of, where the card says so.
    pub multiple: Option<usize>,
}

/// A size that depends on the picture: at its own scale, or smaller so that the long side fits, padded to multiples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerPicture {
    /// Most pixels of the long side.
    pub long_side: usize,
    /// Width and height are padded to multiples of this.
    pub multiple: usize,
}

impl PerPicture {
    /// The input's width and height for a picture of this size.
    pub fn size(&self, (width, height): (u32, u32)) -> (usize, usize) {
        let long = width.max(height).max(1) as f64;
        let scale = (self.long_side as f64 / long).min(1.0);
        let side = |v: u32| {
            let scaled = (v as f64 * scale + 1e-9).floor().max(1.0) as usize;
            scaled.next_multiple_of(self.multiple)
        };
        (side(width), side(height))
    }
}

/// What the card, the recognised family and the pipeline file want.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    /// The card, with the family's defaults filled in.
    pub card: &'a InputCard,
    /// The pipeline file's `input`.
    pub size: Option<(usize, usize)>,
    /// The fit where nobody says.
    pub fit: FitCard,
}

impl PictureInput {
    /// Puts them together.
    ///
    /// # Errors
    /// They contradict each other, or leave something open.
    pub fn new(model: &ModelInfo, wish: &Wish<'_>) -> Result<Self, InferError> {
        let fail = |why: String| InferError::Output(why);
        let card = wish.card;
        let info = match &card.name {
            Some(n) => model
                .inputs
                .iter()
                .find(|i| &*i.name == n)
                .ok_or_else(|| fail(format!("there is no input `{n}`; the model has:{}", model.list())))?,
            None => model.inputs.first().ok_or_else(|| fail("the model has no input".into()))?,
        };
        if model.inputs.len() != 1 {
            return Err(fail(format!(
                "the model has {} inputs, and only models with one picture input can be used:{}",
                model.inputs.len(),
                model.list()
            )));
        }
        if info.shape.len() != 4 {
            return Err(fail(format!("input {info} is not a batch of pictures: it needs four axes")));
        }
        let few = |d: Option<usize>| matches!(d, Some(1 | 3));
        let layout = match card.layout {
            Some(l) => l.into(),
            None if few(info.dim(1)) => Layout::Nchw,
            None if few(info.dim(3)) => Layout::Nhwc,
            None => {
                let why = "has no axis of 1 or 3 channels; the card must state [input] layout";
                return Err(fail(format!("input {info} {why}")));
            }
        };
        let (c, h, w) = match layout {
            Layout::Nchw => (1, 2, 3),
            Layout::Nhwc => (3, 1, 2),
        };
        let channels = match (card.channels, info.dim(c)) {
            (Some(o), _) => o.into(),
            (None, Some(1)) => ChannelOrder::Gray,
            (None, _) => ChannelOrder::Rgb,
        };
        let count = if channels == ChannelOrder::Gray { 1 } else { 3 };
        if info.dim(c).is_some_and(|n| n != count) {
            return Err(fail(format!("input {info} does not have {count} channels on axis {c}")));
        }
        let dtype = match info.element {
            TensorElementType::Float32 => DType::F32,
            TensorElementType::Float16 => DType::F16,
            TensorElementType::Uint8 => DType::U8,
            _ => return Err(fail(format!("input {info} has elements that no picture can be turned into"))),
        };
        if card.dtype.is_some_and(|d| DType::from(d) != dtype) {
            return Err(fail(format!("input {info} is not of the dtype that its card states")));
        }
        let (size, per_picture) = Self::size(info, (info.dim(w), info.dim(h)), wish)?;
        let mut fit = card.fit_or(wish.fit);
        if per_picture.is_some() {
            // The size follows the picture, so scaling and padding are those of a letterbox that never enlarges.
            let pad = card.pad.map_or([0.0; 3], |p| p.all());
            fit = Fit::Letterbox { centered: false, pad, never_enlarge: true };
        }
        let spec = InputSpec {
            width: size.0,
            height: size.1,
            layout,
            channels,
            dtype,
            fit,
            mean: card.mean.map_or([0.0; 3], |m| m.all()),
            scale: card.factor(),
        };
        let any_size = info.dim(w).is_none() && info.dim(h).is_none();
        Ok(Self { info: info.clone(), spec, per_picture, any_size, multiple: card.multiple })
    }

    fn size(
        info: &TensorInfo,
        (width, height): (Option<usize>, Option<usize>),
        wish: &Wish<'_>,
    ) -> Result<((usize, usize), Option<PerPicture>), InferError> {
        let fail = |why: String| Err(InferError::Output(why));
        let card = wish.card;
        let multiple = card.multiple.unwrap_or(1);
        if let Some((w, h)) = wish.size {
            let differs = |have: Option<usize>, want| have.is_some_and(|v| v != want);
            if differs(width, w) || differs(height, h) {
                return fail(format!(
                    "input = {w}x{h} cannot be had: the model's input {info} is fixed. It needs one file for each size"
                ));
            }
            if w == 0 || h == 0 || w > MAX_SIDE || h > MAX_SIDE {
                return fail(format!("input = {w}x{h}: sides must lie between 1 and {MAX_SIDE}"));
            }
            if (width.is_none() && w % multiple != 0) || (height.is_none() && h % multiple != 0) {
                return fail(format!("input = {w}x{h}: the model needs sides that are multiples of {multiple}"));
            }
        }
        let pick = |fixed: Option<usize>, axis: usize| {
            fixed.or(wish.size.map(|s| [s.0, s.1][axis])).or(card.size.map(|s| s[axis]))
        };
        if let (Some([w, h]), true) = (card.size, width.is_some() && height.is_some())
            && (Some(w), Some(h)) != (width, height)
        {
            return fail(format!("the card states a size of {w}x{h}, but the model's input is {info}"));
        }
        match (pick(width, 0), pick(height, 1), card.long_side) {
            (Some(w), Some(h), _) if w > 0 && h > 0 => Ok(((w, h), None)),
            (None, None, Some(long_side)) => {
                let per = PerPicture { long_side, multiple: card.multiple.unwrap_or(32) };
                let side = long_side.next_multiple_of(per.multiple);
                Ok(((side, side), Some(per)))
            }
            _ => fail(format!(
                "input {info} takes any size: say which with `input = [width, height]`, or with the card's [input] size"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::card::{ChannelCard, PerChannel};
    use crate::infer::model::Dim;

    fn model(shape: [i64; 4]) -> ModelInfo {
        let dim = |&d: &i64| if d < 0 { Dim::Dynamic("d".into()) } else { Dim::Fixed(d as usize) };
        let input = TensorInfo {
            name: "x".into(),
            element: TensorElementType::Float32,
            shape: shape.iter().map(dim).collect(),
        };
        ModelInfo { inputs: vec![input], ..Default::default() }
    }

    fn new(shape: [i64; 4], card: InputCard, size: Option<(usize, usize)>) -> Result<PictureInput, String> {
        let wish = Wish { card: &card, size, fit: FitCard::Letterbox };
        PictureInput::new(&model(shape), &wish).map_err(|e| e.to_string())
    }

    #[test]
    fn layout_and_size_come_from_the_model() {
        let i = new([1, 3, 240, 320], InputCard::default(), None).unwrap();
        assert_eq!((i.spec.width, i.spec.height, i.spec.layout), (320, 240, Layout::Nchw));
        let i = new([-1, 240, 320, 1], InputCard::default(), None).unwrap();
        assert_eq!((i.spec.layout, i.spec.channels), (Layout::Nhwc, ChannelOrder::Gray));
        assert!(!i.any_size);
        assert!(new([1, 5, 240, 320], InputCard::default(), None).unwrap_err().contains("layout"));
    }

    #[test]
    fn a_fixed_model_with_another_size_needs_another_file() {
        let e = new([1, 3, 416, 416], InputCard::default(), Some((320, 320))).unwrap_err();
        assert!(e.contains("one file for each size"), "{e}");
        assert!(new([1, 3, 416, 416], InputCard::default(), Some((416, 416))).is_ok());
        let dynamic = InputCard { multiple: Some(32), ..Default::default() };
        let i = new([1, 3, -1, -1], dynamic.clone(), Some((320, 192))).unwrap();
        assert_eq!((i.spec.height, i.any_size, i.multiple), (192, true, Some(32)));
        assert!(new([1, 3, -1, -1], dynamic, Some((320, 200))).unwrap_err().contains("multiples of 32"));
        assert!(new([1, 3, -1, -1], InputCard::default(), None).unwrap_err().contains("any size"));
    }

    #[test]
    fn a_size_by_picture_never_enlarges_and_is_padded() {
        let card = InputCard {
            long_side: Some(640),
            channels: Some(ChannelCard::Bgr),
            pad: Some(PerChannel::One(0.0)),
            ..Default::default()
        };
        let i = new([1, 3, -1, -1], card, None).unwrap();
        let p = i.per_picture.unwrap();
        assert_eq!(p.size((640, 427)), (640, 448));
        assert_eq!(p.size((1280, 853)), (640, 448));
        assert_eq!(p.size((100, 33)), (128, 64));
        assert_eq!(p.size((1, 1)), (32, 32));
        assert!(matches!(i.spec.fit, Fit::Letterbox { centered: false, never_enlarge: true, .. }));
    }
}

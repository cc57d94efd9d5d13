//! The `[decode]` table of a model card: which family, and its parameters.

use super::{Decoder, detr, end2end, fastestdet, gfl, ssd, yolo_grid, yolov8, yunet};
use crate::infer::InferError;
use crate::infer::model::TensorInfo;
use schemars::JsonSchema;
use serde::Deserialize;

/// What the outputs of a detector mean.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "family", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DecodeCard {
    /// YOLOX: rows of centre, size, objectness and classes, for each cell of each stride.
    Yolox {
        /// Cells' sizes in pixels. Default 8, 16, 32.
        #[serde(default)]
        strides: Option<Vec<usize>>,
        /// Centre and size are in pixels already. Default: found out with one run.
        #[serde(default)]
        decoded: Option<bool>,
        /// The output. Default: the only one.
        #[serde(default)]
        output: Option<String>,
    },
    /// YOLOv5, v6, v7: rows of centre and size in pixels, objectness and classes.
    Yolov5 {
        /// The output. Default: the only one.
        #[serde(default)]
        output: Option<String>,
    },
    /// YOLOv8, v9, v11: centre and size in pixels and classes, for each anchor.
    Yolov8 {
        /// Number of classes. Default: all values behind the box; more values (masks, points) are left alone.
        #[serde(default)]
        classes: Option<usize>,
        /// The output. Default: the only one.
        #[serde(default)]
        output: Option<String>,
    },
    /// Exports that end in their own selection: rows of x1, y1, x2, y2 in pixels, score and class.
    YoloEnd2end {
        /// The output. Default: the only one.
        #[serde(default)]
        output: Option<String>,
    },
    /// Decoded boxes, and scores for each class or scores and labels.
    Ssd {
        /// The output with boxes.
        boxes: String,
        /// The output with scores: one for each class, or one for each box if there are `labels`.
        scores: String,
        /// The output with class numbers.
        #[serde(default)]
        labels: Option<String>,
        /// Unit of the boxes. Default unit.
        #[serde(default)]
        coordinates: Option<Coordinates>,
        /// Order of a box's numbers. Default xyxy.
        #[serde(default)]
        order: Option<Order>,
        /// The class that means "nothing". It is left out, and classes behind it move down by one.
        #[serde(default)]
        background: Option<u32>,
        /// Scores are logits, with a softmax or a sigmoid to come. Default: they are probabilities.
        #[serde(default)]
        activation: Option<Activation>,
        /// Boxes that overlap still have to be thinned out. Default true.
        #[serde(default)]
        nms: Option<bool>,
    },
    /// UltraFace: `boxes` in units of the picture, `scores` of background and face.
    Ultraface {},
    /// NanoDet, PicoDet: class scores and distributions of the four distances, for each stride.
    Gfl {
        /// Cells' sizes in pixels. Default: 8, 16, 32, and 64 where there are four pairs of outputs.
        #[serde(default)]
        strides: Option<Vec<usize>>,
        /// Scores are logits. Default false.
        #[serde(default)]
        logits: Option<bool>,
        /// Where in a cell distances start, in cells: 0.5 is the centre. Default 0.5.
        #[serde(default)]
        origin: Option<f32>,
        /// Added to where distances start, in pixels. Default 0.
        #[serde(default)]
        shift: Option<f32>,
    },
    /// YuNet: `cls_`, `obj_`, `bbox_` and `kps_` for each stride; five points for each face.
    Yunet {
        /// Cells' sizes in pixels. Default 8, 16, 32.
        #[serde(default)]
        strides: Option<Vec<usize>>,
    },
    /// FastestDet: planes of objectness, offset, size and classes for each cell.
    Fastestdet {},
    /// DETR, RT-DETR and kin: class logits and boxes in units of the picture, for each query.
    Detr {
        /// The output with logits. Default: the one with more than four columns.
        #[serde(default)]
        logits: Option<String>,
        /// The output with boxes. Default: the one with four columns.
        #[serde(default)]
        boxes: Option<String>,
        /// From logits to probabilities. Default: softmax with 92 columns (91 classes and "nothing"), else sigmoid.
        #[serde(default)]
        activation: Option<Activation>,
    },
}

/// Unit of boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Coordinates {
    /// 0 to 1 over the input.
    Unit,
    /// The input's pixels.
    Pixels,
}

/// Order of a box's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Left, top, right, bottom.
    Xyxy,
    /// Top, left, bottom, right.
    Yxyx,
    /// Centre and size.
    Cxcywh,
}

/// From logits to probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Each class by itself.
    Sigmoid,
    /// All classes share 1.
    Softmax,
}

impl DecodeCard {
    /// The family's name, as in the card.
    pub fn family(&self) -> &'static str {
        match self {
            Self::Yolox { .. } => "yolox",
            Self::Yolov5 { .. } => "yolov5",
            Self::Yolov8 { .. } => "yolov8",
            Self::YoloEnd2end { .. } => "yolo-end2end",
            Self::Ssd { .. } => "ssd",
            Self::Ultraface {} => "ultraface",
            Self::Gfl { .. } => "gfl",
            Self::Yunet { .. } => "yunet",
            Self::Fastestdet {} => "fastestdet",
            Self::Detr { .. } => "detr",
        }
    }

    /// All families' names.
    pub const FAMILIES: [&'static str; 10] =
        ["yolox", "yolov5", "yolov8", "yolo-end2end", "ssd", "ultraface", "gfl", "yunet", "fastestdet", "detr"];

    /// What is wrong with it that the types cannot say.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Yolox { strides: Some(s), .. }
            | Self::Gfl { strides: Some(s), .. }
            | Self::Yunet { strides: Some(s) }
                if s.is_empty() || s.iter().any(|&v| v == 0 || v > 1024) =>
            {
                Err("strides must be a list of numbers between 1 and 1024".into())
            }
            Self::Gfl { origin, shift, .. } if [origin, shift].iter().any(|v| v.is_some_and(|v| !v.is_finite())) => {
                Err("origin and shift must be numbers".into())
            }
            _ => Ok(()),
        }
    }

    /// The decoder for a model with these outputs and an input of `size` (width, height).
    ///
    /// # Errors
    /// The outputs cannot be what the family has.
    pub fn build(&self, outputs: &[TensorInfo], size: (usize, usize)) -> Result<Box<dyn Decoder>, InferError> {
        let usual = || vec![8, 16, 32];
        Ok(match self {
            Self::Yolox { strides, decoded, output } => {
                let strides = (*decoded != Some(true)).then(|| strides.clone().unwrap_or_else(usual));
                Box::new(yolo_grid::YoloGrid::new(outputs, output.as_deref(), strides, size)?)
            }
            Self::Yolov5 { output } => Box::new(yolo_grid::YoloGrid::new(outputs, output.as_deref(), None, size)?),
            Self::Yolov8 { classes, output } => Box::new(yolov8::Yolov8::new(outputs, output.as_deref(), *classes)?),
            Self::YoloEnd2end { output } => Box::new(end2end::End2end::new(outputs, output.as_deref())?),
            Self::Ssd { boxes, scores, labels, coordinates, order, background, activation, nms } => {
                let card = ssd::SsdCard {
                    coordinates: coordinates.unwrap_or(Coordinates::Unit),
                    order: order.unwrap_or(Order::Xyxy),
                    background: *background,
                    activation: *activation,
                    nms: nms.unwrap_or(true),
                };
                Box::new(ssd::Ssd::new(outputs, boxes, scores, labels.as_deref(), card)?)
            }
            Self::Ultraface {} => {
                let card = ssd::SsdCard {
                    coordinates: Coordinates::Unit,
                    order: Order::Xyxy,
                    background: Some(0),
                    activation: None,
                    nms: true,
                };
                Box::new(ssd::Ssd::new(outputs, "boxes", "scores", None, card)?)
            }
            Self::Gfl { strides, logits, origin, shift } => Box::new(gfl::Gfl::new(
                outputs,
                size,
                strides.as_deref(),
                logits.unwrap_or(false),
                origin.unwrap_or(0.5),
                shift.unwrap_or(0.0),
            )?),
            Self::Yunet { strides } => Box::new(yunet::Yunet::new(outputs, strides.clone().unwrap_or_else(usual))?),
            Self::Fastestdet {} => Box::new(fastestdet::Fastestdet::new(outputs)?),
            Self::Detr { logits, boxes, activation } => {
                Box::new(detr::Detr::new(outputs, logits.as_deref(), boxes.as_deref(), *activation)?)
            }
        })
    }
}

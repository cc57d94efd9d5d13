//! What stages write on a frame.

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One thing found in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// The class's name.
    pub label: Arc<str>,
    /// The class's number in the model's labels.
    pub class: u32,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// x1, y1, x2, y2 in pixels of the source picture as viewed, not clipped.
    pub bbox: [f32; 4],
    /// The track's id, unique within the stream.
    pub track: Option<u64>,
    /// Named points (x, y) in pixels of the source picture, in the model's order; empty where the model has none.
    pub landmarks: Vec<[f32; 2]>,
    /// Labels that second models gave to the crop.
    pub attributes: Vec<Attribute>,
    /// Re-identification vector of unit length.
    pub embedding: Option<Arc<[f32]>>,
    /// Ids of stages that skipped this crop because the frame's time would not have allowed it.
    pub skipped: Vec<Arc<str>>,
}

impl Detection {
    /// A detection with a box and nothing else.
    pub fn new(label: Arc<str>, class: u32, score: f32, bbox: [f32; 4]) -> Self {
        Self {
            label,
            class,
            score,
            bbox,
            track: None,
            landmarks: Vec::new(),
            attributes: Vec::new(),
            embedding: None,
            skipped: Vec::new(),
        }
    }
}

/// A label that a second model gave to a detection's crop.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// The stage that gave it.
    pub stage: Arc<str>,
    /// The label.
    pub label: Arc<str>,
    /// Confidence, 0 to 1.
    pub score: f32,
}

/// A raw output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    /// The output's name in the model.
    pub name: Arc<str>,
    /// Its shape, without the batch axis.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub data: Arc<[f32]>,
}

/// A matrix that a stage made of samples for the stages behind it. Results do not carry it.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Its values, row by row.
    pub data: Arc<[f32]>,
    /// Positions in the stream, in samples, of the first sample that it was made of and of the one behind the last.
    pub samples: [u64; 2],
}

/// Everything that stages wrote on a frame of one branch.
#[derive(Debug, Clone, Default)]
pub struct Annotations {
    /// What detectors found, trackers and second models completed. `None` until a detector has run.
    pub detections: Option<Vec<Detection>>,
    /// Raw outputs, by stage id.
    pub tensors: BTreeMap<Arc<str>, Vec<RawTensor>>,
    /// Matrices for the stages behind, by stage id, in the order of their samples.
    pub features: BTreeMap<Arc<str>, Vec<Feature>>,
    /// What other stages say, under their own key in the result.
    pub extra: BTreeMap<Arc<str>, Value>,
}

impl Annotations {
    /// Joins what another branch of the same frame wrote: detections are concatenated, equal ones kept once.
    pub fn merge(&mut self, other: Annotations) {
        match (&mut self.detections, other.detections) {
            (Some(mine), Some(theirs)) => {
                for d in theirs {
                    // A detector above the fork shows up in both branches; the more complete copy stays.
                    match mine.iter_mut().find(|m| m.class == d.class && m.label == d.label && m.bbox == d.bbox) {
                        Some(m) => {
                            m.track = m.track.or(d.track);
                            m.embedding = m.embedding.take().or(d.embedding);
                            for a in d.attributes {
                                if !m.attributes.contains(&a) {
                                    m.attributes.push(a);
                                }
                            }
                            for s in d.skipped {
                                if !m.skipped.contains(&s) {
                                    m.skipped.push(s);
                                }
                            }
                        }
                        None => mine.push(d),
                    }
                }
            }
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
        self.tensors.extend(other.tensors);
        self.features.extend(other.features);
        self.extra.extend(other.extra);
    }
}

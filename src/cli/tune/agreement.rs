//! Whether two ways of running a stage come to the same results: what they find in pictures, laid side by side.

use super::super::{Failure, count};
use anyhow::Context as _;
use framegate::frame::{Annotations, Arrival, Detection, Frame, Outcome, Payload, Picture, PixelFormat, Stream};
use framegate::source::scene::{PlanesMut, Scene, SceneConfig};
use framegate::source::{decode_still, is_still};
use framegate::stage::{BuildContext, Built, StageConfig, StageError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Scenes that are drawn where the user gives no pictures.
const SCENES: u64 = 24;
/// Their seeds: those of scenes to choose by, which no model was trained or is measured on.
const FIRST_SEED: u64 = 900_000_001;
/// Their size.
const SCENE: (usize, usize) = (1280, 720);
/// Most pictures of a user's folder that are looked at.
const MOST: usize = 100;
/// Fewer boxes than this say nothing.
pub(super) const FEWEST: usize = 100;
/// Scores of the same thing lie no further apart.
pub(super) const SCORES: f32 = 0.05;
/// Boxes of the same thing overlap (intersection over union) by so much.
pub(super) const OVERLAP: f32 = 0.75;
/// A box of another input size is of the same thing where it overlaps by so much.
const FOUND: f32 = 0.5;

/// Pictures to compare results on.
pub(super) enum Pictures {
    /// Scenes that framegate draws.
    Drawn,
    /// The user's own.
    Given { folder: PathBuf, files: Vec<PathBuf> },
}

impl Pictures {
    /// Those in a folder, spread over its names; drawn ones without.
    pub(super) fn of(folder: Option<&Path>) -> Result<Self, Failure> {
        let Some(folder) = folder else { return Ok(Self::Drawn) };
        let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()));
        let entries = entries.map_err(|e| Failure::wrong(format!("{e:#}")))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| is_still(p)).collect();
        if files.is_empty() {
            return Err(Failure::wrong(format!("there are no pictures in {}", folder.display())));
        }
        files.sort();
        let step = files.len().div_ceil(MOST);
        let files = files.into_iter().step_by(step).collect();
        Ok(Self::Given { folder: folder.to_owned(), files })
    }

    /// What they are, in words.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Drawn => count(SCENES as usize, "drawn scene"),
            Self::Given { folder, files } => format!("{} of {}", count(files.len(), "picture"), folder.display()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Drawn => SCENES as usize,
            Self::Given { files, .. } => files.len(),
        }
    }

    fn get(&self, n: usize) -> Result<Picture, StageError> {
        match self {
            Self::Drawn => drawn(FIRST_SEED + n as u64),
            Self::Given { files, .. } => decode_still(&files[n]).map_err(StageError::new),
        }
    }
}

fn drawn(seed: u64) -> Result<Picture, StageError> {
    let failed = |e: framegate::source::scene::SceneError| StageError::new(e.to_string());
    let (width, height) = SCENE;
    let scene = Scene::new(SceneConfig::random(width, height), seed).map_err(failed)?;
    let mut planes = vec![vec![0; width * height], vec![0; width * height / 4], vec![0; width * height / 4]];
    if let [y, u, v] = &mut planes[..] {
        let strides = [width, width / 2, width / 2];
        scene.draw(0, &mut PlanesMut::new(SCENE, [y, u, v], strides).map_err(failed)?).map_err(failed)?;
    }
    Ok(Picture::hd((width as u32, height as u32), PixelFormat::I420, [width, width / 2, width / 2], planes))
}

/// What a stage writes on each of the pictures.
pub(super) fn results(
    config: &dyn StageConfig,
    context: &BuildContext,
    pictures: &Pictures,
) -> Result<Vec<Annotations>, StageError> {
    let Built::Batch(stage) = config.build(context)? else { return Ok(Vec::new()) };
    let (mut executor, mut batch) = (stage.open()?, stage.buffers());
    let stream = Arc::new(Stream::new("compared", 0, None, 0, false));
    let mut out = Vec::with_capacity(pictures.len());
    for n in 0..pictures.len() {
        let payload = Payload::Picture(Arc::new(pictures.get(n)?));
        let mut frame = Frame::new(stream.capture(0), None, Arrival::default(), payload);
        stage.prepare(&frame, &mut batch, 0..1)?;
        executor.execute(&mut batch, 1)?;
        stage.finish(&batch, 0..1, &mut frame)?;
        frame.ticket.mark(Outcome::OnTime);
        out.push(std::mem::take(&mut frame.annotations));
    }
    Ok(out)
}

/// How far two lists of results agree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Agreement {
    /// Of so many boxes that either of them reports, so many are the same in both.
    Boxes { same: usize, of: usize },
    /// Raw outputs are so far apart in the worst of their channels, as a share of its length as a vector.
    Outputs { apart: f64 },
}

/// Lays the results of two arithmetics side by side. `threshold` is that of the boxes; without one raw outputs are
/// compared.
pub(super) fn agreement(ours: &[Annotations], theirs: &[Annotations], threshold: Option<f32>) -> Agreement {
    let pairs = ours.iter().zip(theirs);
    match threshold {
        Some(threshold) => {
            let (mut same, mut of) = (0, 0);
            for (a, b) in pairs {
                let (s, n) = same_boxes(boxes(a), boxes(b), threshold + SCORES);
                (same, of) = (same + s, of + n);
            }
            Agreement::Boxes { same, of }
        }
        None => {
            let mut lengths = Lengths::default();
            pairs.for_each(|(a, b)| lengths.add(a, b));
            Agreement::Outputs { apart: lengths.apart() }
        }
    }
}

/// Of the boxes that one way of running a stage reports, how many the other finds too, and how many there are.
pub(super) fn found_again(ours: &[Annotations], theirs: &[Annotations], threshold: f32) -> (usize, usize) {
    let (mut found, mut of) = (0, 0);
    for (a, b) in ours.iter().zip(theirs) {
        for (mine, other) in matched(boxes(a), boxes(b)).0 {
            if mine.score >= threshold + SCORES {
                of += 1;
                found += usize::from(other.is_some_and(|o| overlap(mine.bbox, o.bbox) >= FOUND));
            }
        }
    }
    (found, of)
}

fn boxes(annotations: &Annotations) -> &[Detection] {
    annotations.detections.as_deref().unwrap_or_default()
}

/// Each box of the first list with its counterpart, of the same class, and what is left of the second.
type Matched<'a> = (Vec<(&'a Detection, Option<&'a Detection>)>, Vec<&'a Detection>);

fn matched<'a>(ours: &'a [Detection], theirs: &'a [Detection]) -> Matched<'a> {
    let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
    for (i, a) in ours.iter().enumerate() {
        for (j, b) in theirs.iter().enumerate().filter(|(_, b)| b.class == a.class) {
            let share = overlap(a.bbox, b.bbox);
            if share > 0.0 {
                pairs.push((share, i, j));
            }
        }
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut of_ours, mut taken) = (vec![None; ours.len()], vec![false; theirs.len()]);
    for (_, i, j) in pairs {
        if of_ours[i].is_none() && !taken[j] {
            (of_ours[i], taken[j]) = (Some(&theirs[j]), true);
        }
    }
    let left = theirs.iter().zip(taken).filter(|(_, taken)| !taken).map(|(b, _)| b).collect();
    (ours.iter().zip(of_ours).collect(), left)
}

/// How many boxes are the same in both lists, of how many. Boxes whose score is below `least` in both do not count: a
/// hair decides whether they are reported at all.
fn same_boxes(ours: &[Detection], theirs: &[Detection], least: f32) -> (usize, usize) {
    let (pairs, left) = matched(ours, theirs);
    let mut of = left.iter().filter(|b| b.score >= least).count();
    let mut same = 0;
    for (a, b) in pairs {
        if a.score >= least || b.is_some_and(|b| b.score >= least) {
            of += 1;
            let close = |b: &Detection| {
                overlap(a.bbox, b.bbox) >= OVERLAP && (a.score - b.score).abs() <= SCORES && b.class == a.class
            };
            same += usize::from(b.is_some_and(close));
        }
    }
    (same, of)
}

/// Intersection over union.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |r: [f32; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let all = area(a) + area(b) - common;
    if all > 0.0 { common / all } else { 0.0 }
}

/// Squared lengths of the differences and of the outputs themselves, by output and channel, over all pictures: a channel
/// of small values must not hide behind one of large values.
#[derive(Default)]
struct Lengths {
    channels: BTreeMap<(usize, usize), (f64, f64)>,
    /// An output has another shape, or is missing.
    different: bool,
}

impl Lengths {
    fn add(&mut self, ours: &Annotations, theirs: &Annotations) {
        let (ours, theirs) = (ours.tensors.values().flatten(), theirs.tensors.values().flatten());
        let (ours, theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
        self.different |= ours.len() != theirs.len();
        for (output, (a, b)) in ours.into_iter().zip(theirs).enumerate() {
            if a.shape != b.shape {
                self.different = true;
                continue;
            }
            let (count, run) = channels(&a.shape);
            for (i, (a, b)) in a.data.iter().zip(b.data.iter()).enumerate() {
                let (difference, own) = self.channels.entry((output, i / run % count)).or_default();
                *difference += f64::from(a - b).powi(2);
                *own += f64::from(*a).powi(2);
            }
        }
    }

    fn apart(&self) -> f64 {
        let share = |&(difference, own): &(f64, f64)| match difference {
            0.0 => 0.0,
            // What is no number agrees with nothing.
            _ if (difference / own).is_nan() => f64::INFINITY,
            _ => (difference / own).sqrt(),
        };
        if self.different { f64::INFINITY } else { self.channels.values().map(share).fold(0.0, f64::max) }
    }
}

/// How many channels an output of this shape has and how many values stand together in one: its shortest axis that is
/// one. An output of one axis is one channel.
fn channels(shape: &[usize]) -> (usize, usize) {
    let axes = || shape.iter().enumerate().filter(|(_, n)| **n > 1);
    match axes().min_by_key(|(_, n)| **n) {
        Some((axis, n)) if axes().count() > 1 => (*n, shape[axis + 1..].iter().product::<usize>().max(1)),
        _ => (1, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use framegate::frame::RawTensor;

    fn found(class: u32, score: f32, left: f32) -> Detection {
        Detection::new("thing".into(), class, score, [left, 0.0, left + 100.0, 100.0])
    }

    #[test]
    fn boxes_are_the_same_where_class_place_and_score_are() {
        let ours = [found(0, 0.9, 0.0), found(0, 0.8, 300.0), found(1, 0.7, 600.0), found(0, 0.6, 900.0)];
        assert_eq!(same_boxes(&ours, &ours, 0.4), (4, 4));
        // Moved by a fifth of its width (overlap 0.67), of another class (which counts on either side), less sure.
        let theirs = [found(0, 0.9, 20.0), found(0, 0.78, 302.0), found(2, 0.7, 600.0), found(0, 0.5, 900.0)];
        assert_eq!(same_boxes(&ours, &theirs, 0.4), (1, 5));
        let all = |boxes: &[Detection]| Annotations { detections: Some(boxes.to_vec()), ..Default::default() };
        let (ours, theirs) = ([all(&ours)], [all(&theirs)]);
        assert_eq!(agreement(&ours, &theirs, Some(0.35)), Agreement::Boxes { same: 1, of: 5 });
        // At another input size scores and edges may be others, what is found may not.
        assert_eq!(found_again(&ours, &theirs, 0.35), (3, 4));
    }

    #[test]
    fn what_only_one_side_finds_counts_and_what_is_hardly_found_does_not() {
        let ours = [found(0, 0.9, 0.0), found(0, 0.38, 300.0)];
        assert_eq!(same_boxes(&ours, &ours[..1], 0.4), (1, 1));
        assert_eq!(same_boxes(&ours[..1], &[], 0.4), (0, 1));
        assert_eq!(same_boxes(&[], &ours, 0.4), (0, 1));
    }

    #[test]
    fn each_box_has_one_counterpart() {
        let (one, two) = ([found(0, 0.9, 0.0)], [found(0, 0.9, 0.0), found(0, 0.9, 10.0)]);
        assert_eq!(same_boxes(&one, &two, 0.4), (1, 2));
        assert_eq!(same_boxes(&two, &one, 0.4), (1, 2));
    }

    fn raw(shape: &[usize], data: &[f32]) -> Annotations {
        let tensor = RawTensor { name: "y".into(), shape: shape.into(), data: data.into() };
        Annotations { tensors: [("stage".into(), vec![tensor])].into(), ..Default::default() }
    }

    fn apart(ours: &[Annotations], theirs: &[Annotations]) -> f64 {
        match agreement(ours, theirs, None) {
            Agreement::Outputs { apart } => apart,
            Agreement::Boxes { .. } => f64::NAN,
        }
    }

    #[test]
    fn raw_outputs_are_apart_by_a_share_of_their_length() {
        let of = |a: &[f32], b: &[f32]| apart(&[raw(&[a.len()], a)], &[raw(&[b.len()], b)]);
        assert_eq!(of(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        assert!((of(&[3.0, 4.0], &[3.0, 4.5]) - 0.1).abs() < 1e-9);
        for (a, b) in [(&[1.0][..], &[f32::NAN][..]), (&[0.0], &[1.0]), (&[1.0], &[1.0, 1.0])] {
            assert_eq!(of(a, b), f64::INFINITY, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_channel_of_small_values_does_not_hide_behind_large_ones() {
        // Two channels of three values, in either order of the axes.
        let (large, small) = ([300.0, 400.0, 0.0], [0.3, 0.4, 0.0]);
        let planes = |last: f32| raw(&[2, 3], &[large[0], large[1], large[2], small[0], small[1], last]);
        let rows = |last: f32| raw(&[3, 2], &[large[0], small[0], large[1], small[1], large[2], last]);
        assert!((apart(&[planes(0.0)], &[planes(0.05)]) - 0.1).abs() < 1e-6);
        assert!((apart(&[rows(0.0)], &[rows(0.05)]) - 0.1).abs() < 1e-6);
        // Over all pictures: where a picture has nothing in a channel, the others say what is little.
        let (nothing, noise) = (raw(&[1, 3], &[0.0; 3]), raw(&[1, 3], &[0.0, 0.0, 0.05]));
        let something = raw(&[1, 3], &small);
        assert!((apart(&[nothing, something.clone()], &[noise, something]) - 0.1).abs() < 1e-6);
    }

    #[test]
    fn drawn_scenes_are_pictures_that_differ() {
        let [a, b] = [0, 1].map(|n| Pictures::Drawn.get(n).expect("drawn"));
        assert_eq!((a.width, a.height), (1280, 720));
        assert!(a.buffer.plane(0) != b.buffer.plane(0));
    }
}

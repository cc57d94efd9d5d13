//! One stream's tracks, and how detections are given to them.
//!
//! The association follows ByteTrack (Y. Zhang et al., "ByteTrack: multi-object tracking by associating every
//! detection box", ECCV 2022): confident detections first, then weak ones for what is still in sight. What is left
//! over is looked for around where it was last seen with buffered boxes (F. Yang et al., "Hard to track objects with
//! irregular motions and similar appearances? Make it easier by buffering the matching space", WACV 2023), and a track
//! that is found again learns its speed along the way it must have taken (observation-centric re-update; J. Cao et
//! al., "Observation-centric SORT", CVPR 2023). Re-identification vectors, where detections have them, take part as
//! in N. Aharon et al., "BoT-SORT", 2022.

use super::TrackConfig;
use super::appearance::Appearance;
use super::assignment::{Assignment, Edge};
use super::motion::{Motion, Rect, buffered, iou};
use crate::frame::Detection;

/// Largest coordinate, in pixels, that is believed; it keeps every product finite.
const FARTHEST: f64 = 1e6;
/// Smallest edge of a box, in pixels, that is believed.
const SMALLEST: f64 = 1e-2;
/// Longest way back, in frames, that a track found again is led along.
const LONGEST_WAY: u32 = 64;

/// One object.
#[derive(Debug)]
struct Track {
    /// 0 until confirmed.
    id: u64,
    motion: Motion,
    /// The motion when it was last seen.
    motion_seen: Motion,
    /// The box as last detected.
    rect_seen: Rect,
    /// Frames with a detection.
    hits: u32,
    /// Inferred frames since it was last seen.
    missed: u32,
    /// Seconds since it was last seen.
    unseen: f64,
    /// The candidate it was given in this frame.
    given: Option<usize>,
    /// The box now: halfway between detected and filtered, as configured.
    rect: Rect,
    appearance: Appearance,
    /// Its last detection, without vectors and landmarks: what carried frames show.
    last: Detection,
}

impl Track {
    fn confirmed(&self) -> bool {
        self.id != 0
    }
}

/// A detection that can be tracked.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Its place in the frame's detections.
    index: usize,
    rect: Rect,
    score: f64,
    class: u32,
    free: bool,
}

/// One stream's tracks.
#[derive(Debug, Default)]
pub struct Tracker {
    tracks: Vec<Track>,
    candidates: Vec<Candidate>,
    edges: Vec<Edge>,
    solver: Assignment,
}

/// A step of the association: which tracks meet which detections, and how well a pair fits.
struct Round<'a> {
    /// Tracks that take part.
    tracks: &'a dyn Fn(&Track) -> bool,
    /// Scores of detections that take part.
    scores: std::ops::Range<f64>,
    /// Fit of a pair, larger is better.
    fit: &'a dyn Fn(&Track, &Candidate) -> f64,
    /// Pairs that fit no better are none.
    gate: f64,
}

impl Tracker {
    /// Forgets all tracks.
    pub fn clear(&mut self) {
        self.tracks.clear();
    }

    /// Moves all tracks on by `dt` seconds.
    pub fn predict(&mut self, dt: f64, config: &TrackConfig) {
        for t in &mut self.tracks {
            t.motion.predict(dt, &config.motion);
            t.unseen += dt;
        }
        self.drop_lost(config);
    }

    /// What is expected to be in sight: a detection for each confirmed track that the last inferred frame showed.
    pub fn carried(&self) -> Vec<Detection> {
        let in_sight = self.tracks.iter().filter(|t| t.confirmed() && t.missed == 0);
        in_sight
            .map(|t| Detection { bbox: t.motion.rect().map(|v| v as f32), track: Some(t.id), ..t.last.clone() })
            .collect()
    }

    /// Gives an inferred frame's detections to the tracks, and writes ids and boxes on them. `next_id` is called for
    /// each track that is confirmed.
    pub fn update(&mut self, detections: &mut [Detection], config: &TrackConfig, mut next_id: impl FnMut() -> u64) {
        self.collect(detections, config);
        for t in &mut self.tracks {
            t.given = None;
        }
        self.associate(detections, config);
        for t in &mut self.tracks {
            match t.given {
                Some(c) => {
                    let c = self.candidates[c];
                    t.see(&c, &detections[c.index], config);
                }
                None => t.missed = t.missed.saturating_add(1),
            }
        }
        // A track that was never confirmed gets no second chance: it is mostly a detector's passing fancy.
        self.tracks.retain(|t| t.missed == 0 || t.confirmed());
        for (i, c) in self.candidates.iter().enumerate() {
            if c.free && c.score >= config.new && self.tracks.len() < config.max_tracks {
                self.tracks.push(Track::new(i, c, &detections[c.index], config));
            }
        }
        for t in &mut self.tracks {
            let Some(c) = t.given else { continue };
            if !t.confirmed() && t.hits >= config.confirm {
                t.id = next_id();
            }
            if t.confirmed() {
                let d = &mut detections[self.candidates[c].index];
                d.track = Some(t.id);
                d.bbox = t.rect.map(|v| v as f32);
            }
        }
    }

    /// Takes what can be tracked out of the detections, in an order that does not depend on theirs.
    fn collect(&mut self, detections: &mut [Detection], config: &TrackConfig) {
        self.candidates.clear();
        for (index, d) in detections.iter_mut().enumerate() {
            d.track = None;
            let rect = d.bbox.map(f64::from);
            let score = f64::from(d.score);
            let believed = rect.iter().all(|v| v.abs() <= FARTHEST)
                && rect[2] - rect[0] >= SMALLEST
                && rect[3] - rect[1] >= SMALLEST
                && score >= config.low;
            if believed {
                self.candidates.push(Candidate { index, rect, score: score.min(1.0), class: d.class, free: true });
            }
        }
        self.candidates.sort_by(|a, b| {
            let rects = || a.rect.iter().zip(&b.rect).map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne());
            (a.class.cmp(&b.class))
                .then_with(|| rects().unwrap_or(std::cmp::Ordering::Equal))
                .then(b.score.total_cmp(&a.score))
        });
    }

    fn associate(&mut self, detections: &[Detection], config: &TrackConfig) {
        let high = config.high..f64::INFINITY;
        let similarity = |t: &Track, c: &Candidate| t.appearance.similarity(detections[c.index].embedding.as_deref());
        // Where it should be by now. The score counts because a box that is sure is a box that is right.
        self.round(
            config,
            &Round {
                tracks: &Track::confirmed,
                scores: high.clone(),
                fit: &|t, c| {
                    let overlap = iou(t.motion.rect(), c.rect);
                    if overlap <= 0.0 {
                        return 0.0;
                    }
                    // Looks tell apart those that overlap as well; they do not veto a good overlap.
                    let alike = similarity(t, c).map_or(0.0, |s| (s - config.appearance).max(-0.5));
                    overlap * c.score + alike
                },
                gate: config.overlap,
            },
        );
        // What was in sight a moment ago may be half hidden now.
        self.round(
            config,
            &Round {
                tracks: &|t| t.confirmed() && t.missed == 0,
                scores: config.low..config.high,
                fit: &|t, c| iou(t.motion.rect(), c.rect),
                gate: config.overlap_weak,
            },
        );
        // By its looks alone, as far as it can have come.
        self.round(
            config,
            &Round {
                tracks: &|t| t.confirmed() && t.missed > 0 && t.appearance.known(),
                scores: high.clone(),
                fit: &|t, c| {
                    let reach = 1.0 + 4.0 * t.unseen;
                    let near = iou(buffered(t.rect_seen, reach), c.rect) > 0.0 || iou(t.motion.rect(), c.rect) > 0.0;
                    if near { similarity(t, c).unwrap_or(0.0) } else { 0.0 }
                },
                gate: config.appearance,
            },
        );
        // Near where it was, or should be; the longer ago, the wider.
        let near = |t: &Track, c: &Candidate| {
            let by = config.buffer + config.buffer_growth * t.unseen;
            let there = buffered(c.rect, by);
            iou(buffered(t.rect_seen, by), there).max(iou(buffered(t.motion.rect(), by), there))
        };
        let unlike = |t: &Track, c: &Candidate| similarity(t, c).is_some_and(|s| s < config.appearance / 2.0);
        self.round(
            config,
            &Round {
                tracks: &Track::confirmed,
                scores: high.clone(),
                fit: &|t, c| if unlike(t, c) { 0.0 } else { near(t, c) },
                gate: config.overlap_near,
            },
        );
        // Tracks that have yet to prove themselves take what is left.
        self.round(config, &Round { tracks: &|t| !t.confirmed(), scores: high, fit: &near, gate: config.overlap });
    }

    fn round(&mut self, config: &TrackConfig, round: &Round<'_>) {
        self.edges.clear();
        // A fit is at most 2: an overlap and a similarity.
        const MOST: f64 = 2.0;
        for (row, t) in self.tracks.iter().enumerate().filter(|(_, t)| t.given.is_none() && (round.tracks)(t)) {
            for (col, c) in self.candidates.iter().enumerate() {
                let eligible = c.free && round.scores.contains(&c.score);
                if !eligible || (c.class != t.last.class && !config.across_classes) {
                    continue;
                }
                let fit = (round.fit)(t, c);
                if fit > round.gate {
                    self.edges.push(Edge { row: row as u32, col: col as u32, cost: MOST - fit });
                }
            }
        }
        self.solver.solve(self.tracks.len(), self.candidates.len(), &self.edges, MOST - round.gate);
        for (row, t) in self.tracks.iter_mut().enumerate() {
            if let Some(col) = self.solver.col_of(row) {
                t.given = Some(col);
                self.candidates[col].free = false;
            }
        }
    }

    fn drop_lost(&mut self, config: &TrackConfig) {
        let longest = config.lost.as_secs_f64();
        self.tracks.retain(|t| t.unseen <= longest && t.motion.rect().iter().all(|v| v.is_finite()));
    }
}

impl Track {
    fn new(given: usize, c: &Candidate, d: &Detection, config: &TrackConfig) -> Self {
        let motion = Motion::new(c.rect, &config.motion);
        let mut appearance = Appearance::default();
        appearance.learn(d.embedding.as_deref());
        Self {
            id: 0,
            motion,
            motion_seen: motion,
            rect_seen: c.rect,
            hits: 1,
            missed: 0,
            unseen: 0.0,
            given: Some(given),
            rect: c.rect,
            appearance,
            last: remembered(d),
        }
    }

    fn see(&mut self, c: &Candidate, d: &Detection, config: &TrackConfig) {
        if self.missed > 0 {
            // The prediction went astray for as long as nothing corrected it: go back to where the object was last
            // seen, and lead it along a straight line to here.
            let steps = (self.missed + 1).min(LONGEST_WAY);
            self.motion = self.motion_seen;
            for k in 1..=steps {
                let share = f64::from(k) / f64::from(steps);
                self.motion.predict(self.unseen / f64::from(steps), &config.motion);
                self.motion.update(mix(self.rect_seen, c.rect, share), &config.motion);
            }
        } else {
            self.motion.update(c.rect, &config.motion);
        }
        self.rect = mix(c.rect, self.motion.rect(), config.smoothing);
        self.motion_seen = self.motion;
        self.rect_seen = c.rect;
        self.hits = self.hits.saturating_add(1);
        self.missed = 0;
        self.unseen = 0.0;
        if c.score >= config.high {
            self.appearance.learn(d.embedding.as_deref());
        }
        self.last = remembered(d);
    }
}

/// `share` of `b`, the rest of `a`.
fn mix(a: Rect, b: Rect, share: f64) -> Rect {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

fn remembered(d: &Detection) -> Detection {
    Detection { attributes: d.attributes.clone(), ..Detection::new(d.label.clone(), d.class, d.score, d.bbox) }
}

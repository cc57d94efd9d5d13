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
/// Longest time out of sight, in seconds, after which a lonely object is taken for the same wherever it appears.
const MOMENT: f64 = 0.25;

/// One object.
#[derive(Debug)]
struct Track {
    /// 0 until confirmed.
    id: u64,
    motion: Motion,
    /// Where it should be now.
    expected: Rect,
    /// The motion when it was last seen.
    motion_seen: Motion,
    /// The box as last detected.
    rect_seen: Rect,
    /// Speed of each side between the last two detections, pixels/s.
    drift: Rect,
    /// Frames with a detection.
    hits: u32,
    /// Inferred frames since it was last seen.
    missed: u32,
    /// Seconds since it was last seen.
    unseen: f64,
    /// The candidate it was given in this frame.
    given: Option<usize>,
    /// The box now, between the detected and the filtered one.
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
    /// Candidates of the round at hand.
    eligible: Vec<u32>,
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

    /// Number of tracks held, tentative and lost ones included.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.tracks.len()
    }

    /// Moves all tracks on by `dt` seconds.
    pub fn predict(&mut self, dt: f64, config: &TrackConfig) {
        for t in &mut self.tracks {
            t.motion.predict(dt, &config.motion);
            t.expected = t.motion.rect();
            t.unseen += dt;
        }
        self.drop_lost(config);
    }

    /// What is expected to be in sight: a detection for each confirmed track that the last inferred frame showed.
    pub fn carried(&self) -> Vec<Detection> {
        let in_sight = self.tracks.iter().filter(|t| t.confirmed() && t.missed == 0);
        in_sight
            .map(|t| Detection { bbox: t.expected.map(|v| v as f32), track: Some(t.id), ..t.last.clone() })
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
                    let overlap = iou(t.expected, c.rect);
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
                fit: &|t, c| iou(t.expected, c.rect),
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
                    let near = iou(buffered(t.rect_seen, reach), c.rect) > 0.0 || iou(t.expected, c.rect) > 0.0;
                    if near { similarity(t, c).unwrap_or(0.0) } else { 0.0 }
                },
                gate: config.appearance,
            },
        );
        // Near where it was, or should be; the longer ago, the wider.
        let near = |t: &Track, c: &Candidate| {
            let by = config.buffer + config.buffer_growth * t.unseen;
            let there = buffered(c.rect, by);
            let places = [t.rect_seen, t.expected, t.drifted()];
            places.iter().map(|&p| iou(buffered(p, by), there)).fold(0.0, f64::max)
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
        self.match_lonely(config);
    }

    fn round(&mut self, config: &TrackConfig, round: &Round<'_>) {
        self.edges.clear();
        // A fit is at most 2: an overlap and a similarity.
        const MOST: f64 = 2.0;
        self.eligible.clear();
        let fits = |c: &Candidate| c.free && round.scores.contains(&c.score);
        self.eligible.extend((0u32..).zip(&self.candidates).filter(|(_, c)| fits(c)).map(|(i, _)| i));
        for (row, t) in self.tracks.iter().enumerate().filter(|(_, t)| t.given.is_none() && (round.tracks)(t)) {
            for &col in &self.eligible {
                let c = &self.candidates[col as usize];
                if c.class != t.last.class && !config.across_classes {
                    continue;
                }
                let fit = (round.fit)(t, c);
                if fit > round.gate {
                    self.edges.push(Edge { row: row as u32, col, cost: MOST - fit });
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

    /// A small thing that is kicked is nowhere near where it was, and still the same one if nothing else of its kind
    /// is around: neither another detection about its last place, nor another track about the new one.
    fn match_lonely(&mut self, config: &TrackConfig) {
        let same = |t: &Track, c: &Candidate| c.class == t.last.class || config.across_classes;
        let about = |t: &Track, c: &Candidate| iou(buffered(t.rect_seen, config.reach), c.rect) > 0.0;
        for row in 0..self.tracks.len() {
            let t = &self.tracks[row];
            if t.given.is_some() || t.unseen > MOMENT {
                continue;
            }
            let mut around =
                (0..self.candidates.len()).filter(|&i| same(t, &self.candidates[i]) && about(t, &self.candidates[i]));
            let (Some(col), None) = (around.next(), around.next()) else { continue };
            let c = &self.candidates[col];
            let ratio = area(t.rect_seen) / area(c.rect);
            if c.free
                && c.score >= config.high
                && (0.5..2.0).contains(&ratio)
                && self.tracks.iter().filter(|t| same(t, c) && about(t, c)).count() == 1
            {
                self.candidates[col].free = false;
                self.tracks[row].given = Some(col);
            }
        }
    }

    fn drop_lost(&mut self, config: &TrackConfig) {
        let longest = config.lost.as_secs_f64();
        self.tracks.retain(|t| t.unseen <= longest && t.expected.iter().all(|v| v.is_finite()));
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
            expected: c.rect,
            motion_seen: motion,
            rect_seen: c.rect,
            drift: [0.0; 4],
            hits: 1,
            missed: 0,
            unseen: 0.0,
            given: Some(given),
            rect: c.rect,
            appearance,
            last: remembered(d),
        }
    }

    /// Where it would be had it gone on as between the last two detections: the filter is slow to believe in a turn.
    fn drifted(&self) -> Rect {
        let dx = (self.drift[0] + self.drift[2]) / 2.0 * self.unseen;
        let dy = (self.drift[1] + self.drift[3]) / 2.0 * self.unseen;
        let [x1, y1, x2, y2] = self.rect_seen;
        [x1 + dx, y1 + dy, x2 + dx, y2 + dy]
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
        self.expected = self.motion.rect();
        // Where the two disagree the object has just turned, and the detection is right.
        let trust = iou(c.rect, self.expected);
        self.rect = mix(c.rect, self.expected, config.smoothing * trust);
        self.motion_seen = self.motion;
        self.drift = std::array::from_fn(|i| (c.rect[i] - self.rect_seen[i]) / self.unseen.max(1e-3));
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

fn area(r: Rect) -> f64 {
    (r[2] - r[0]) * (r[3] - r[1])
}

fn remembered(d: &Detection) -> Detection {
    Detection { attributes: d.attributes.clone(), ..Detection::new(d.label.clone(), d.class, d.score, d.bbox) }
}

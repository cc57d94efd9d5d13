//! `track`: gives the same object the same id from frame to frame.
//!
//! Time steps come from the stream's own time, so that a varying frame rate, shed frames and carried frames are only
//! longer or shorter steps. A frame that no detector has seen gets the boxes its tracks should have by now.

mod appearance;
pub mod assignment;
pub mod motion;
mod tracker;

use super::{BuildContext, Built, Stage, StageConfig, StageError, duration};
use crate::frame::clock::{MILLI, SECOND};
use crate::frame::{Frame, Nanos};
use crate::issue::Issue;
use motion::Noise;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tracker::Tracker;

/// Keys of `kind = "track"`. Scores and overlaps are 0 to 1; an overlap is intersection over union.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrackConfig {
    /// Detections from this score on are matched first. Default 0.5.
    pub high: f64,
    /// Detections from this score on can keep a track alive that is in sight; weaker ones are not tracked. Default 0.1.
    pub low: f64,
    /// Detections from this score on can begin a track. Default 0.6.
    pub new: f64,
    /// Least overlap, times score, of a detection with the predicted box. Default 0.2.
    pub overlap: f64,
    /// Least overlap of a detection below `high` with the predicted box. Default 0.5.
    pub overlap_weak: f64,
    /// Least overlap of the enlarged boxes (see `buffer`) where nothing else fits. Default 0.3.
    pub overlap_near: f64,
    /// How far the sides of both boxes are pushed out, in shares of width and height, where nothing else fits.
    /// Default 0.3.
    pub buffer: f64,
    /// How much further for each second that the object was out of sight. Default 0.5.
    pub buffer_growth: f64,
    /// How far an object that has none of its class around may jump while out of sight for a moment, in shares of width
    /// and height: a ball that is kicked. Default 1.5.
    pub reach: f64,
    /// How long an object may be out of sight and keep its id. Default `2s`.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "String")]
    pub lost: Duration,
    /// Frames in a row that must show an object before it gets an id. Default 3.
    pub confirm: u32,
    /// Share of the filtered box in the box of a result: 0 leaves the detector's box alone. The share falls by itself
    /// where the two disagree. Default 0.7.
    pub smoothing: f64,
    /// Where detections carry re-identification vectors: least cosine between two of the same object. Default 0.7.
    pub appearance: f64,
    /// Whether an object may change its class. Default false.
    pub across_classes: bool,
    /// What becomes of detections without a track. Default `keep`.
    pub untracked: Untracked,
    /// A step in the stream's time longer than this forgets all tracks. Default `1s`.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "String")]
    pub reset_after: Duration,
    /// Most tracks of a stream at one time; further objects get none. Default 1000.
    pub max_tracks: usize,
    /// How objects move.
    pub motion: Noise,
}

/// What becomes of detections without a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Untracked {
    /// They stay, without an id.
    #[default]
    Keep,
    /// They are removed.
    Drop,
}

impl Default for TrackConfig {
    fn default() -> Self {
        Self {
            high: 0.5,
            low: 0.1,
            new: 0.6,
            overlap: 0.2,
            overlap_weak: 0.5,
            overlap_near: 0.3,
            buffer: 0.3,
            buffer_growth: 0.5,
            reach: 1.5,
            lost: Duration::from_secs(2),
            confirm: 3,
            smoothing: 0.7,
            appearance: 0.7,
            across_classes: false,
            untracked: Untracked::Keep,
            reset_after: Duration::from_secs(1),
            max_tracks: 1000,
            motion: Noise::default(),
        }
    }
}

impl StageConfig for TrackConfig {
    fn check(&self, _context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        let shares = [
            ("high", self.high),
            ("low", self.low),
            ("new", self.new),
            ("overlap", self.overlap),
            ("overlap_weak", self.overlap_weak),
            ("overlap_near", self.overlap_near),
            ("smoothing", self.smoothing),
            ("appearance", self.appearance),
        ];
        for (key, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                issues.push(Issue::error(key, format!("{value} is not between 0 and 1")));
            }
        }
        for (key, value) in [("buffer", self.buffer), ("buffer_growth", self.buffer_growth), ("reach", self.reach)] {
            if !(0.0..=10.0).contains(&value) {
                issues.push(Issue::error(key, format!("{value} is not between 0 and 10")));
            }
        }
        let n = &self.motion;
        let noises = [
            ("motion.position", n.position),
            ("motion.size", n.size),
            ("motion.acceleration", n.acceleration),
            ("motion.growth", n.growth),
            ("motion.speed", n.speed),
            ("motion.surprise", n.surprise),
        ];
        for (key, value) in noises {
            if !(1e-3..=1e3).contains(&value) {
                issues.push(Issue::error(key, format!("{value} is not between 0.001 and 1000")));
            }
        }
        if self.low > self.high {
            issues.push(Issue::error("low", format!("{} is above high = {}", self.low, self.high)));
        }
        if self.new < self.high {
            let help = "a track begins only from detections that are matched first";
            issues.push(Issue::warning("new", format!("{} is below high = {}", self.new, self.high)).help(help));
        }
        if self.confirm == 0 {
            issues.push(Issue::error("confirm", "an object cannot be confirmed before it was seen: at least 1"));
        }
        if self.max_tracks == 0 {
            issues.push(Issue::error("max_tracks", "0 leaves nothing to track"));
        }
        if self.lost > Duration::from_secs(600) {
            issues.push(Issue::error("lost", "an id cannot be kept longer than 10 minutes"));
        }
        if self.reset_after.is_zero() {
            issues.push(Issue::error("reset_after", "every frame would forget the one before"));
        }
        issues
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        if let Some(i) = self.check(context).into_iter().find(|i| i.severity == crate::issue::Severity::Error) {
            return Err(StageError(format!("{}: {}", i.key, i.message)));
        }
        let config = Arc::new(self.clone());
        // Shared by all instances: one that is rebuilt after a panic must not give an id again.
        let ids = Arc::new(Mutex::new(HashMap::new()));
        Ok(Built::Stage(Box::new(move || {
            Ok(Box::new(Track { config: config.clone(), ids: ids.clone(), streams: HashMap::new() }))
        })))
    }
}

/// The last id given, by stream.
type Ids = Arc<Mutex<HashMap<u32, Arc<AtomicU64>>>>;

/// The stage as built.
struct Track {
    config: Arc<TrackConfig>,
    ids: Ids,
    streams: HashMap<u32, StreamTracks>,
}

/// What is kept for one stream.
struct StreamTracks {
    tracker: Tracker,
    last_id: Arc<AtomicU64>,
    /// Stream time and capture time of the last frame.
    last: Option<(Option<Nanos>, Nanos)>,
}

/// The step from one frame to the next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Goes on after this long.
    On(Nanos),
    /// Too far, or back: nothing that was known holds.
    Reset,
}

/// Stream time may step back by this much, a source's jitter, before it counts as a jump.
const JITTER: Nanos = 100 * MILLI;

/// The step from (stream time, captured) to another. Where either frame has no stream time, or it stands still, the
/// time of capture tells.
fn step(from: (Option<Nanos>, Nanos), to: (Option<Nanos>, Nanos), longest: Nanos) -> Step {
    let captured = to.1.saturating_sub(from.1);
    let dt = match (from.0, to.0) {
        (Some(a), Some(b)) if b > a => b - a,
        (Some(a), Some(b)) if a - b > JITTER => return Step::Reset,
        _ => captured,
    };
    if dt > longest { Step::Reset } else { Step::On(dt) }
}

impl Stage for Track {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let config = &*self.config;
        let index = frame.stream().index;
        let stream = self.streams.entry(index).or_insert_with(|| StreamTracks {
            tracker: Tracker::default(),
            last_id: self.ids.lock().entry(index).or_default().clone(),
            last: None,
        });
        let now = (frame.pts, frame.ticket.captured);
        let longest = Nanos::try_from(config.reset_after.as_nanos()).unwrap_or(Nanos::MAX);
        match stream.last.replace(now).map_or(Step::On(0), |last| step(last, now, longest)) {
            Step::On(dt) => stream.tracker.predict(dt as f64 / SECOND as f64, config),
            Step::Reset => {
                tracing::debug!(stream = &*frame.stream().id, "stream time jumped: tracks are forgotten");
                stream.tracker.clear();
            }
        }
        match &mut frame.annotations.detections {
            Some(detections) if frame.inferred => {
                stream.tracker.update(detections, config, || stream.last_id.fetch_add(1, Relaxed) + 1);
                if config.untracked == Untracked::Drop {
                    detections.retain(|d| d.track.is_some());
                }
            }
            carried => *carried = Some(stream.tracker.carried()),
        }
        Ok(())
    }

    fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
        self.ids.lock().remove(&stream);
    }
}

#[cfg(test)]
mod tests;

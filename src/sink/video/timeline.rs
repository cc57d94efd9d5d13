//! Stream times as a recording's times: from zero on, and never backwards.

use crate::frame::Nanos;
use std::time::Duration;

/// A gap that is not bridged: a new file begins behind it.
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// Where a frame belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file, at the timeline's position.
    Here,
    /// In a new file.
    NewFile,
}

/// The position in a file. Distances are those of the stream times; where there are none, those of the capture times.
#[derive(Debug)]
pub(super) struct Timeline {
    last: Option<(Option<Nanos>, Nanos)>,
    position: Duration,
    usual: Duration,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { last: None, position: Duration::ZERO, usual: Duration::from_nanos(33_333_333) }
    }
}

impl Timeline {
    /// Moves on to a frame.
    pub fn place(&mut self, pts: Option<Nanos>, captured: Nanos) -> Place {
        let Some((last_pts, last_captured)) = self.last.replace((pts, captured)) else { return Place::Here };
        let forward = |from: Nanos, to: Nanos| to.checked_sub(from).filter(|d| *d > 0).map(Duration::from_nanos);
        let delta = match (last_pts, pts) {
            (Some(from), Some(to)) => forward(from, to),
            _ => forward(last_captured, captured),
        };
        // A jump back is a loop or a restart of the source: go on at the usual distance.
        let delta = delta.unwrap_or(self.usual);
        self.position += delta;
        if delta > LONGEST_GAP {
            return Place::NewFile;
        }
        // A gap says nothing about the rate.
        if delta < Duration::from_secs(1) {
            self.usual = delta;
        }
        Place::Here
    }

    /// Time of the frame placed last.
    pub fn position(&self) -> Duration {
        self.position
    }

    /// Distance of the last two frames that followed each other.
    pub fn usual(&self) -> Duration {
        self.usual
    }

    /// Makes the frame placed last the first of a file.
    pub fn restart(&mut self) {
        self.position = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::{MILLI, SECOND};

    #[test]
    fn variable_distances_are_kept() {
        let mut t = Timeline::default();
        let at: Vec<_> = [100, 133, 233, 240]
            .map(|ms| (t.place(Some(ms * MILLI), 0), t.position().as_millis()))
            .into_iter()
            .collect();
        assert_eq!(at, [(Place::Here, 0), (Place::Here, 33), (Place::Here, 133), (Place::Here, 140)]);
    }

    #[test]
    fn capture_times_stand_in_for_missing_stream_times() {
        let mut t = Timeline::default();
        t.place(None, SECOND);
        t.place(None, SECOND + 40 * MILLI);
        t.place(Some(7), SECOND + 80 * MILLI);
        assert_eq!(t.position(), Duration::from_millis(80));
    }

    #[test]
    fn a_jump_back_goes_on_and_a_long_gap_begins_a_file() {
        let mut t = Timeline::default();
        t.place(Some(10 * SECOND), 0);
        t.place(Some(10 * SECOND + 20 * MILLI), 0);
        assert_eq!((t.place(Some(0), 0), t.position()), (Place::Here, Duration::from_millis(40)));
        assert_eq!(t.place(Some(61 * SECOND), 0), Place::NewFile);
        t.restart();
        assert_eq!(t.position(), Duration::ZERO);
    }
}

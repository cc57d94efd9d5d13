//! Frames of several streams that belong together.

use super::exchange::Handed;
use std::sync::Arc;

/// What several stations have of the same time.
#[derive(Debug, Clone)]
pub struct Joined {
    /// One seat for each station, in the order of the pipeline file.
    pub seats: Vec<Seat>,
}

/// A station's part.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The station's stream.
    pub station: Arc<str>,
    /// What it has, or why it has nothing.
    pub part: Result<Arc<Handed>, Missing>,
}

/// Why a station has no part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing came of it in time.
    Late,
    /// Nothing has come for a while, and nobody waited for it.
    Down,
}

impl Missing {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Down => "down",
        }
    }
}

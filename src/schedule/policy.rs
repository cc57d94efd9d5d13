//! Ways of scheduling to compare with: what people do without framegate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a device's frames are scheduled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// framegate's own: start test, batches sized by deadline, least served first under overload, ladder.
    #[default]
    Framegate,
    /// First come, first served, as many as wait in one batch; nothing is given up before its time.
    Fifo,
    /// One frame of each stream waits; a new one takes its place.
    DropOldest,
    /// One frame of each stream waits; new ones are given up until it has run.
    DropNewest,
    /// Earliest deadline first with a start test, as many as can be on time in one batch.
    Edf,
}

impl Policy {
    /// Every policy, framegate's first.
    pub const ALL: [Self; 5] = [Self::Framegate, Self::Fifo, Self::DropOldest, Self::DropNewest, Self::Edf];

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Framegate => "framegate",
            Self::Fifo => "fifo",
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Edf => "edf",
        }
    }

    /// Gives frames up that cannot be on time any more.
    pub(super) fn tests_start(self) -> bool {
        matches!(self, Self::Framegate | Self::Edf)
    }

    /// Goes by deadline, not by arrival.
    pub(super) fn by_deadline(self) -> bool {
        self.tests_start()
    }

    /// Frames of one stream that wait in front of a stage, where its lane would hold `lane`.
    pub(super) fn waits(self, lane: usize) -> usize {
        match self {
            Self::Framegate | Self::Edf => lane,
            Self::Fifo => 1000,
            Self::DropOldest | Self::DropNewest => 1,
        }
    }
}

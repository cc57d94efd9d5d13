//! The way of a frame that is watched (`run --trace`): what was done to it, and when. Few frames are watched; the others
//! carry nothing of this.

use super::{Nanos, Outcome, clock};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

/// Says which frames are watched, and takes their journeys when those end.
pub trait Witness: Send + Sync + fmt::Debug {
    /// Whether the frame of this number of the stream of this index is watched.
    fn watches(&self, stream: u32, seq: u64) -> bool;
    /// A watched frame has ended. Called on threads that frames pass: it must not wait.
    fn ended(&self, trip: Trip);
}

/// What was done to a frame for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Its bytes came in, the first to the last.
    Arrival,
    /// Depayloading, decoding, and the wait for both.
    Decode,
    /// A batch was prepared that it is in.
    Prepare {
        /// The stage.
        stage: Arc<str>,
        /// The batch.
        batch: BatchNote,
    },
    /// That batch ran.
    Execute {
        /// The stage.
        stage: Arc<str>,
    },
    /// Its outputs became annotations.
    Finish {
        /// The stage.
        stage: Arc<str>,
    },
    /// A plain stage worked on it.
    Stage {
        /// The stage.
        stage: Arc<str>,
    },
    /// Its record was offered to the sinks' queues.
    Offer,
}

/// What is noted of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchNote {
    /// The name of the device's threads.
    pub crew: Arc<str>,
    /// The device.
    pub device: Arc<str>,
    /// Frames in it.
    pub frames: usize,
    /// The rung that it runs at.
    pub rung: Arc<str>,
}

/// One act, from when to when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// What was done.
    pub act: Act,
    /// When it began.
    pub from: Nanos,
    /// When it ended.
    pub to: Nanos,
}

/// How a watched frame was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// When its record was sealed.
    pub at: Nanos,
    /// The rung that made the result.
    pub rung: Arc<str>,
    /// A rung below its stream's saved it.
    pub rescued: bool,
    /// It comes from its own picture.
    pub inferred: bool,
}

/// All that is known of a watched frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    /// The stream's id.
    pub stream: Arc<str>,
    /// The frame's number.
    pub seq: u64,
    /// When its first byte reached this host.
    pub captured: Nanos,
    /// When it had to be delivered.
    pub deadline: Option<Nanos>,
    /// What was done to it, in the order in which that ended; on all branches of the graph.
    pub legs: Vec<Leg>,
    /// How it was delivered, if it was; on the last of several branches.
    pub sealed: Option<Sealed>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When the last who held it let go of it.
    pub ended: Nanos,
}

/// A watched frame under way: all its branches write here.
#[derive(Debug)]
pub struct Journey {
    trip: Mutex<Option<Trip>>,
    witness: Arc<dyn Witness>,
}

/// Acts of a frame in a plain pipeline, with room for some more stages.
const LEGS: usize = 12;

impl Journey {
    pub(super) fn new(
        witness: Arc<dyn Witness>,
        stream: Arc<str>,
        seq: u64,
        captured: Nanos,
        deadline: Option<Nanos>,
    ) -> Self {
        let legs = Vec::with_capacity(LEGS);
        let trip = Trip { stream, seq, captured, deadline, legs, sealed: None, outcome: None, ended: captured };
        Self { trip: Mutex::new(Some(trip)), witness }
    }

    fn write(&self, note: impl FnOnce(&mut Trip)) {
        if let Some(trip) = &mut *self.trip.lock() {
            note(trip);
        }
    }

    /// Something was done to the frame.
    pub fn leg(&self, act: Act, from: Nanos, to: Nanos) {
        self.write(|t| t.legs.push(Leg { act, from, to }));
    }

    /// Its record was sealed. Where that happens on several branches, the last one counts.
    pub fn sealed(&self, sealed: Sealed) {
        self.write(|t| {
            if t.sealed.as_ref().is_none_or(|s| s.at < sealed.at) {
                t.sealed = Some(sealed);
            }
        });
    }

    pub(super) fn counted(&self, outcome: Outcome) {
        self.write(|t| t.outcome = Some(outcome));
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if let Some(mut trip) = self.trip.get_mut().take() {
            trip.ended = clock::now();
            self.witness.ended(trip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Arrival, Frame, Payload, ShedReason, Stream};

    #[derive(Debug, Default)]
    struct Third(Mutex<Vec<Trip>>);

    impl Witness for Third {
        fn watches(&self, _: u32, seq: u64) -> bool {
            seq.is_multiple_of(3)
        }
        fn ended(&self, trip: Trip) {
            self.0.lock().push(trip);
        }
    }

    #[test]
    fn watched_frames_tell_their_way_once_whatever_becomes_of_them() {
        let witness = Arc::new(Third::default());
        let stream = Arc::new(Stream::new("cam0", 0, Some(33), 0, true));
        stream.watch(witness.clone());
        for seq in 0..7 {
            let arrival = Arrival { complete: 110 + seq, decoded: 150 + seq };
            let frame = Frame::new(stream.capture(100 + seq), None, arrival, Payload::Empty);
            let branch = frame.clone();
            assert_eq!(frame.ticket.journey().is_some(), seq % 3 == 0);
            match seq {
                0 => branch.ticket.mark(Outcome::Shed(ShedReason::Deadline)),
                3 => branch.ticket.settle(Outcome::OnTime),
                _ => {}
            }
        }
        let trips = witness.0.lock();
        assert_eq!(trips.iter().map(|t| t.seq).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(trips[0].outcome, Some(Outcome::Shed(ShedReason::Deadline)));
        assert_eq!(trips[1].outcome, Some(Outcome::OnTime));
        assert_eq!(trips[2].outcome, Some(Outcome::Failed(crate::frame::FailReason::Lost)));
        let legs: Vec<_> = trips[1].legs.iter().map(|l| (l.act.clone(), l.from, l.to)).collect();
        assert_eq!(legs, [(Act::Arrival, 103, 113), (Act::Decode, 113, 153)]);
        assert_eq!((trips[1].captured, trips[1].deadline), (103, Some(136)));
    }
}

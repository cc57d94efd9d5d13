//! Frames: the unit of work, what they carry, what is written on them, and how they are counted.

mod annotations;
pub mod clock;
pub mod exchange;
mod joined;
pub mod journey;
mod ledger;
mod picture;
mod record;
mod rhythm;
mod samples;

pub use annotations::{Annotations, Attribute, Detection, Feature, RawTensor};
pub use clock::Nanos;
pub use joined::{Joined, Missing, Seat};
pub use ledger::{Counts, FailReason, Ledger, Outcome, ShedReason, Signal, Stream, Ticket};
pub use picture::{
    Colorimetry, Matrix, Orientation, OwnedPlanes, Payload, Picture, PixelBuffer, PixelFormat, Range, Siting,
};
pub use record::Record;
pub use rhythm::{Beat, Rhythm};
pub use samples::{ClockReading, Gap, GapCause, SampleBlock, SampleNote, SampleTime};

use journey::Act;
use std::sync::Arc;

/// When a frame passed the points before the first stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrival {
    /// When its last byte reached this host; equals captured where the two cannot be told apart.
    pub complete: Nanos,
    /// When the decoded frame was offered to its ring.
    pub decoded: Nanos,
}

/// Time that a frame has spent at work so far, for the report's breakdown. What is not named here was waiting.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Pixels to tensor.
    pub prepare: Nanos,
    /// The batch's inference.
    pub execute: Nanos,
    /// Outputs to annotations.
    pub finish: Nanos,
    /// Stages behind: tracking, filters, second models.
    pub rest: Nanos,
    /// Waiting for a device that was busy with others.
    pub queued: Nanos,
}

/// Which nodes of the graph a frame has left, and when: what the tails behind them are measured from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Passed {
    nodes: [(u16, Nanos); 8],
    len: u8,
}

impl Passed {
    /// The frame leaves a node. Beyond eight nodes no more is noted: tails are measured on the first ones.
    pub fn leave(&mut self, node: u16, at: Nanos) {
        if let Some(slot) = self.nodes.get_mut(self.len as usize) {
            *slot = (node, at);
            self.len += 1;
        }
    }

    /// The nodes left so far, in order.
    pub fn nodes(&self) -> &[(u16, Nanos)] {
        &self.nodes[..self.len as usize]
    }
}

/// One unit of work of a stream, on one branch of the graph.
///
/// Cloning makes another branch: pixels and ticket are shared, annotations are copied.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its entry in the stream's ledger: stream, number, captured, deadline.
    pub ticket: Arc<Ticket>,
    /// Stream time, where the source tells it.
    pub pts: Option<Nanos>,
    /// Wall-clock time by the camera itself, microseconds since 1970.
    pub camera_time_us: Option<i64>,
    /// When it arrived and was decoded.
    pub arrival: Arrival,
    /// Pixels or samples.
    pub payload: Payload,
    /// What stages wrote so far.
    pub annotations: Annotations,
    /// Index of the rung that makes the result, 0 is best; `None` until a device stage has chosen it.
    pub rung: Option<usize>,
    /// A lower rung than the stream's ceiling saved it.
    pub rescued: bool,
    /// A device stage ran on its own payload.
    pub inferred: bool,
    /// A rung left it to a tracker.
    pub carried: bool,
    /// Time at work so far.
    pub work: Work,
    /// The nodes it has left.
    pub passed: Passed,
}

impl Frame {
    /// A frame just decoded: nothing is written on it yet.
    pub fn new(ticket: Arc<Ticket>, pts: Option<Nanos>, arrival: Arrival, payload: Payload) -> Self {
        if let Some(journey) = ticket.journey() {
            let complete = arrival.complete.max(ticket.captured);
            journey.leg(Act::Arrival, ticket.captured, complete);
            journey.leg(Act::Decode, complete, arrival.decoded.max(complete));
        }
        Self {
            ticket,
            pts,
            camera_time_us: None,
            arrival,
            payload,
            annotations: Annotations::default(),
            rung: None,
            rescued: false,
            inferred: false,
            carried: false,
            work: Work::default(),
            passed: Passed::default(),
        }
    }

    /// Joins another branch of the same frame: annotations are merged, work is the longer branch's.
    pub fn merge(&mut self, other: Frame) {
        self.annotations.merge(other.annotations);
        self.rung = self.rung.max(other.rung);
        self.rescued |= other.rescued;
        self.carried |= other.carried;
        self.inferred = (self.inferred || other.inferred) && !self.carried;
        let mine = self.work.prepare + self.work.execute + self.work.finish + self.work.rest;
        let theirs = other.work.prepare + other.work.execute + other.work.finish + other.work.rest;
        if theirs > mine {
            self.work = other.work;
        }
        for &(node, at) in other.passed.nodes() {
            if !self.passed.nodes().iter().any(|n| n.0 == node) {
                self.passed.leave(node, at);
            }
        }
    }

    /// The frame's stream.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.ticket.stream
    }
}

//! `channel://STAGE/N`: a channel that a filter bank in the same pipeline takes out of a wide stream, as a stream of its
//! own.

use super::{Flow, Intake, Pace, Source, SourceError};
use crate::frame::exchange::{Taken, TakerHere};
use crate::frame::{Arrival, Frame, Signal, clock};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a stop and the end are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// A channel.
pub struct Channel {
    /// How fast it comes; offline nothing is ever late.
    pub pace: Pace,
    /// No samples for this long are a fault.
    pub stall: Duration,
    /// Where it is taken.
    pub taker: TakerHere,
}

impl Source for Channel {
    fn run(self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError> {
        intake.signal(Signal::Connecting);
        let mut newest = Instant::now();
        while !intake.is_stopping() {
            if let Taken::One(handed) = self.taker.next(LOOK) {
                newest = Instant::now();
                intake.signal(Signal::Up);
                let last = handed.payload.samples().is_some_and(|b| b.last);
                let arrival = Arrival { complete: handed.arrival.complete, decoded: clock::now() };
                let ticket = intake.capture(handed.captured);
                if intake.submit(Frame::new(ticket, handed.pts, arrival, handed.payload)) == Flow::Stop {
                    return Ok(());
                }
                if last {
                    intake.signal(Signal::Ended);
                    return Ok(());
                }
                continue;
            }
            let ended = self.taker.ended();
            if !ended.streams.is_empty() || ended.unknown > 0 {
                intake.signal(Signal::Ended);
                return Ok(());
            }
            if self.pace == Pace::Live && newest.elapsed() > self.stall {
                intake.signal(Signal::Down(format!("its filter bank gave nothing for {:?}", self.stall)));
            }
        }
        Ok(())
    }
}

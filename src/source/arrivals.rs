//! Which arrived unit became which decoded picture.
//!
//! A unit is captured when its first byte arrives and waits here, known by its RTP time and later by its PTS, until
//! the decoder returns the picture. One that no decoder returns within [`PATIENCE`] has failed.

use crate::frame::{FailReason, Nanos, Outcome, Ticket, clock};
use std::collections::VecDeque;
use std::sync::Arc;

/// How long a decoder may take over a unit.
pub const PATIENCE: Nanos = clock::SECOND;
/// How long a failed unit is remembered, so that a late picture of it is not taken for a new one.
const MEMORY: Nanos = 10 * clock::SECOND;
/// How many units may be on their way.
const MOST: usize = 1024;

#[derive(Debug)]
struct Unit {
    rtp: Option<u32>,
    /// A jitter buffer that follows the sender's clock can give packets of one unit different times.
    pts: [Option<Nanos>; 3],
    first: Nanos,
    last: Nanos,
    camera_us: Option<i64>,
    ticket: Option<Arc<Ticket>>,
    /// Its ticket has been given back as failed.
    failed: bool,
}

/// What is known of a decoded picture's unit.
#[derive(Debug)]
pub enum Found {
    /// It arrived, and this is its ticket.
    Unit {
        /// Its ticket.
        ticket: Arc<Ticket>,
        /// When its last byte arrived.
        complete: Nanos,
        /// The camera's own time, microseconds since 1970.
        camera_us: Option<i64>,
    },
    /// It arrived and has been counted as failed since.
    TooLate,
    /// Nothing like it is on its way.
    Nothing,
}

/// The units on their way.
#[derive(Debug, Default)]
pub struct Arrivals {
    units: VecDeque<Unit>,
}

impl Arrivals {
    /// A packet of the unit with RTP time `rtp` arrived at `at`. `picture` tells that it carries pixels, not only
    /// parameters: only then is the unit captured, by `capture`, which is given the arrival of its first packet.
    pub fn packet(&mut self, rtp: u32, at: Nanos, picture: bool, capture: impl FnOnce(Nanos) -> Arc<Ticket>) {
        let index = match self.units.iter().rposition(|u| u.rtp == Some(rtp)) {
            Some(index) => index,
            None => {
                self.push(Unit {
                    rtp: Some(rtp),
                    pts: [None; 3],
                    first: at,
                    last: at,
                    camera_us: None,
                    ticket: None,
                    failed: false,
                });
                self.units.len() - 1
            }
        };
        let unit = &mut self.units[index];
        unit.last = at;
        if picture && unit.ticket.is_none() && !unit.failed {
            unit.ticket = Some(capture(unit.first));
        }
    }

    /// The jitter buffer gave the unit with RTP time `rtp` this PTS.
    pub fn stamped(&mut self, rtp: u32, pts: Nanos, camera_us: Option<i64>) {
        let Some(unit) = self.units.iter_mut().rev().find(|u| u.rtp == Some(rtp)) else { return };
        unit.camera_us = camera_us;
        if !unit.pts.contains(&Some(pts)) {
            unit.pts.rotate_right(1);
            unit.pts[0] = Some(pts);
        }
    }

    /// A whole unit arrived.
    pub fn unit(&mut self, pts: Option<Nanos>, complete: Nanos, camera_us: Option<i64>, ticket: Arc<Ticket>) {
        let first = ticket.captured;
        self.push(Unit {
            rtp: None,
            pts: [pts, None, None],
            first,
            last: complete,
            camera_us,
            ticket: Some(ticket),
            failed: false,
        });
    }

    fn push(&mut self, unit: Unit) {
        if self.units.len() == MOST
            && let Some(oldest) = self.units.pop_front()
        {
            fail(oldest.ticket, FailReason::Decode);
        }
        self.units.push_back(unit);
    }

    fn index(&self, pts: Option<Nanos>) -> Option<usize> {
        pts.and_then(|p| self.units.iter().position(|u| u.pts.contains(&Some(p))))
    }

    /// The decoder returned a picture with this PTS.
    pub fn take(&mut self, pts: Option<Nanos>) -> Found {
        // A decoder that changes times still returns pictures in order: then it is the oldest one's.
        let oldest = || self.units.iter().position(|u| u.ticket.is_some() && (u.rtp.is_none() || u.pts[0].is_some()));
        let Some(index) = self.index(pts).or_else(oldest) else { return Found::Nothing };
        let Some(unit) = self.units.remove(index) else { return Found::Nothing };
        match unit.ticket {
            Some(ticket) => Found::Unit { ticket, complete: unit.last, camera_us: unit.camera_us },
            None if unit.failed => Found::TooLate,
            None => Found::Nothing,
        }
    }

    /// Whether the unit with this PTS has been given up already.
    pub fn has_failed(&self, pts: Option<Nanos>) -> bool {
        self.index(pts).is_some_and(|i| self.units[i].failed)
    }

    /// Counts as failed what has been on its way for too long.
    pub fn expire(&mut self, now: Nanos) {
        for unit in &mut self.units {
            if now.saturating_sub(unit.first) >= PATIENCE && !unit.failed {
                unit.failed = unit.ticket.is_some();
                fail(unit.ticket.take(), FailReason::Decode);
            }
        }
        while self.units.front().is_some_and(|u| u.ticket.is_none() && now.saturating_sub(u.first) >= MEMORY) {
            self.units.pop_front();
        }
    }

    /// Gives up everything on its way.
    pub fn clear(&mut self, reason: FailReason) {
        for unit in self.units.drain(..) {
            fail(unit.ticket, reason);
        }
    }
}

fn fail(ticket: Option<Arc<Ticket>>, reason: FailReason) {
    if let Some(ticket) = ticket {
        ticket.mark(Outcome::Failed(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Stream;

    fn stream() -> Arc<Stream> {
        Arc::new(Stream::new("cam0", 0, None, 0, true))
    }

    fn captured(found: Found) -> Option<(u64, Nanos)> {
        match found {
            Found::Unit { ticket, complete, .. } => {
                ticket.mark(Outcome::OnTime);
                Some((ticket.captured, complete))
            }
            _ => None,
        }
    }

    #[test]
    fn a_picture_gets_the_arrival_of_its_first_packet() {
        let s = stream();
        let mut a = Arrivals::default();
        for (rtp, at) in [(3000, 10), (3000, 12), (6000, 43), (6000, 45)] {
            a.packet(rtp, at, true, |first| s.capture(first));
        }
        a.stamped(3000, 100, None);
        a.stamped(6000, 133, None);
        // B-frames: the second unit may come back first.
        assert_eq!(captured(a.take(Some(133))), Some((43, 45)));
        assert_eq!(captured(a.take(Some(100))), Some((10, 12)));
        assert!(matches!(a.take(Some(100)), Found::Nothing));
        let c = s.ledger.counts();
        assert_eq!((c.captured, c.on_time, c.in_flight()), (2, 2, 0));
    }

    #[test]
    fn parameters_alone_are_no_frame_but_their_arrival_counts() {
        let s = stream();
        let mut a = Arrivals::default();
        a.packet(1, 5, false, |first| s.capture(first));
        assert_eq!(s.ledger.counts().captured, 0);
        a.packet(1, 9, true, |first| s.capture(first));
        a.stamped(1, 70, Some(7));
        assert_eq!(captured(a.take(Some(70))), Some((5, 9)));
    }

    #[test]
    fn what_no_decoder_returns_fails_once_and_a_late_picture_is_not_counted_again() {
        let s = stream();
        let mut a = Arrivals::default();
        a.unit(Some(1), 0, None, s.capture(0));
        a.unit(Some(2), PATIENCE, None, s.capture(PATIENCE));
        a.expire(PATIENCE);
        assert!(a.has_failed(Some(1)) && !a.has_failed(Some(2)));
        assert!(matches!(a.take(Some(1)), Found::TooLate));
        a.clear(FailReason::Stopped);
        let c = s.ledger.counts();
        assert_eq!((c.captured, c.failed[0], c.failed[4], c.in_flight()), (2, 1, 1, 0));
    }
}

//! Releases the units of a recorded stream at its own rate, as a camera would have sent them.

use super::receiver::Receiver;
use crate::frame::{Nanos, clock};
use gst::prelude::*;
use gstreamer as gst;
use std::sync::Arc;
use std::time::Duration;

/// A step in time that no camera makes between two units: the clock starts anew.
const JUMP: Nanos = 2 * clock::SECOND;

/// When a stream's units are due. Pure: time comes in as an argument.
#[derive(Debug, Default)]
pub struct Pacer {
    /// Stream time and clock time that belong together.
    anchor: Option<(Nanos, Nanos)>,
    last: Nanos,
}

impl Pacer {
    /// When the unit with stream time `at` is due, seen at `now`.
    pub fn due(&mut self, at: Option<Nanos>, now: Nanos) -> Nanos {
        let at = at.unwrap_or(self.last);
        let jumped = at.abs_diff(self.last) > JUMP;
        self.last = at;
        match self.anchor {
            Some((stream, clock)) if !jumped => (clock + at).saturating_sub(stream),
            _ => {
                self.anchor = Some((at, now));
                now
            }
        }
    }

    /// Holds each unit that passes the pad until it is due, then announces it.
    pub fn install(pad: &gst::Pad, receiver: Arc<Receiver>) {
        let pacer = parking_lot::Mutex::new(Self::default());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
            if buffer.flags().contains(gst::BufferFlags::HEADER) && buffer.dts_or_pts().is_none() {
                return gst::PadProbeReturn::Ok;
            }
            // Cameras send in decoding order.
            let due = pacer.lock().due(buffer.dts_or_pts().map(|t| t.nseconds()), clock::now());
            loop {
                if receiver.is_closed() {
                    return gst::PadProbeReturn::Drop;
                }
                let Some(left) = due.checked_sub(clock::now()).filter(|l| *l > 0) else { break };
                receiver.intake().wait(Duration::from_nanos(left.min(50 * clock::MILLI)));
            }
            // A picture that others overtake in decoding order (B-frames) is captured when it is its turn to play, not
            // when its unit is decoded ahead of them: the order in a recording is no delay of a camera.
            let ahead =
                buffer.pts().zip(buffer.dts()).map_or(0, |(pts, dts)| pts.nseconds().saturating_sub(dts.nseconds()));
            receiver.unit(buffer.pts().map(|p| p.nseconds()), clock::now() + ahead.min(JUMP), None);
            gst::PadProbeReturn::Ok
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_due_at_their_own_rate_and_jumps_start_anew() {
        let mut p = Pacer::default();
        let ms = clock::MILLI;
        assert_eq!(p.due(Some(40 * ms), 1000), 1000);
        assert_eq!(p.due(Some(73 * ms), 5 * ms), 1000 + 33 * ms);
        assert_eq!(p.due(Some(9000 * ms), 50 * ms), 50 * ms);
        assert_eq!(p.due(Some(9033 * ms), 51 * ms), 83 * ms);
        assert_eq!(p.due(Some(0), 90 * ms), 90 * ms);
        assert_eq!(p.due(None, 91 * ms), 90 * ms);
    }
}

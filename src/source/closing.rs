//! Ends pictures whose last packet was lost.
//!
//! The last packet of a picture carries the mark that it is complete. Where it is lost, as happens over UDP, the
//! depayloader takes the picture for complete when the next one begins, a whole frame time later: too late. So a
//! picture of which nothing has come for longer than its camera ever pauses is closed by a packet made here.

use super::rtp::{Codec, Mended, Mender};
use crate::frame::{Nanos, clock};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_rtp::RTPBuffer;
use gstreamer_rtp::prelude::RTPBufferExt;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// The shortest silence that ends a picture: threads of a busy machine wait this long for their turn.
const LEAST: Nanos = 3 * clock::MILLI;
/// How many times the longest recent pause within a picture the silence has to last.
const MARGIN: Nanos = 4;
/// How long a pause counts as recent: at least one, at most two of these.
const WINDOW: Nanos = 4 * clock::SECOND;
/// How long after a picture that was closed too early more patience is had: the first time, when the machine may just
/// have been busy, and at most, where the camera keeps pausing.
const HOLD: [Nanos; 2] = [2 * clock::SECOND, 3600 * clock::SECOND];
/// How many times longer after each further one.
const LONGER: Nanos = 8;
/// A timer that wakes this much late says that the machine was busy: packets may be waiting to be read.
const OVERSLEPT: Nanos = clock::MILLI;

/// How long a stream's pictures may pause before they are taken for complete. Pure: time comes in as an argument.
#[derive(Debug)]
pub struct Patience {
    most: Nanos,
    /// The longest pause of this window and of the one before.
    pauses: [Nanos; 2],
    window: Nanos,
    /// RTP time and arrival of the last packet.
    last: Option<(u32, Nanos)>,
    /// The newest sequence number that has arrived.
    newest: Option<u16>,
    /// What it is at least, and until when, because a picture was closed too early.
    widened: (Nanos, Nanos),
    hold: Nanos,
    mistake: Option<u32>,
}

impl Patience {
    /// Never more than `most` by what was seen of the stream; only a picture closed too early makes it more.
    pub fn new(most: Nanos) -> Self {
        let most = most.max(LEAST);
        Self {
            most,
            // Until the stream is known.
            pauses: [most; 2],
            window: 0,
            last: None,
            newest: None,
            widened: (0, 0),
            hold: HOLD[0],
            mistake: None,
        }
    }

    /// A packet arrived at `at`; `closed` is the RTP time of the last picture that was closed here. Says whether the
    /// packet is of that one.
    pub fn arrived(&mut self, seq: u16, rtp: u32, at: Nanos, closed: Option<u32>) -> bool {
        let ahead = self.newest.map_or(1, |n| seq.wrapping_sub(n) as i16);
        // Far behind: the sender started anew.
        let in_order = !(-1000..=0).contains(&ahead);
        if in_order {
            self.newest = Some(seq);
        }
        if at.saturating_sub(self.window) > WINDOW {
            self.pauses = [0, self.pauses[0]];
            self.window = at;
        }
        let pause = self.last.filter(|(r, _)| *r == rtp).map(|(_, t)| at.saturating_sub(t));
        self.last = Some((rtp, at));
        let pause = pause.unwrap_or(0);
        self.pauses[0] = self.pauses[0].max(pause);
        if closed != Some(rtp) {
            return false;
        }
        if in_order && self.mistake != Some(rtp) {
            self.mistake = Some(rtp);
            let (span, until) = self.widened;
            if at > until + self.hold {
                self.hold = HOLD[0];
            }
            self.widened = (if at < until { span.max(2 * pause) } else { 2 * pause }, at + self.hold);
            self.hold = (LONGER * self.hold).min(HOLD[1]);
        }
        true
    }

    /// Whether everything that arrived has also left the jitter buffer, whose last packet out was `left`.
    fn is_through(&self, left: Option<u16>) -> bool {
        left.is_some() && left == self.newest
    }

    /// When a picture that is not complete by now is taken for complete; `None` while the jitter buffer holds packets
    /// back.
    pub fn due(&self, left: Option<u16>) -> Option<Nanos> {
        let (_, at) = self.last.filter(|_| self.is_through(left))?;
        let seen = (MARGIN * self.pauses[0].max(self.pauses[1])).clamp(LEAST, self.most);
        let (span, until) = self.widened;
        Some(at + if at < until { seen.max(span) } else { seen })
    }
}

/// What a packet of the picture at hand says of all of them.
#[derive(Debug, Clone, Copy)]
struct Head {
    ssrc: u32,
    kind: u8,
    rtp: u32,
    pts: Option<gst::ClockTime>,
    dts: Option<gst::ClockTime>,
}

#[derive(Debug)]
struct State {
    mender: Mender,
    patience: Option<Patience>,
    head: Option<Head>,
    /// The packet that is on its way through the probe was made here.
    own: bool,
    /// The thread waits until somebody wakes it.
    asleep: bool,
    /// The stream is no more.
    gone: bool,
}

impl State {
    fn due(&self) -> Option<Nanos> {
        self.mender.unfinished()?;
        self.patience.as_ref()?.due(self.mender.last())
    }
}

/// One stream's mender, and what ends its pictures. Shared by the threads that its packets pass through.
#[derive(Debug)]
pub struct Closer {
    state: Mutex<State>,
    wake: Condvar,
}

/// Ends the closer's thread when the pad is gone whose probe holds this.
struct Guard(Arc<Closer>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.state.lock().gone = true;
        self.0.wake.notify_all();
    }
}

impl Closer {
    /// For a stream of this codec. `most`: the longest silence that ends a picture; `None` where no packet is ever
    /// lost, and a picture is never ended by silence.
    pub fn new(codec: Codec, most: Option<Nanos>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                mender: Mender::new(codec),
                patience: most.map(Patience::new),
                head: None,
                own: false,
                asleep: false,
                gone: false,
            }),
            wake: Condvar::new(),
        })
    }

    /// A packet arrived at the jitter buffer at `at`. Says whether it is too late for its picture, which was closed.
    pub fn arrived(&self, seq: u16, rtp: u32, at: Nanos) -> bool {
        let mut state = self.state.lock();
        let closed = state.mender.closed();
        state.patience.as_mut().is_some_and(|p| p.arrived(seq, rtp, at, closed))
    }

    /// Mends a packet on its way from the jitter buffer. Gives what goes on in its place.
    fn mend(&self, mut buffer: gst::Buffer) -> Option<gst::Buffer> {
        let mut state = self.state.lock();
        if state.own {
            return Some(buffer);
        }
        let Ok(packet) = RTPBuffer::from_buffer_readable(&buffer) else { return Some(buffer) };
        let (rtp, seq) = (packet.timestamp(), packet.seq());
        let mended = state.mender.next(seq, rtp, packet.is_marker(), packet.payload().unwrap_or(&[]));
        let head = Head { ssrc: packet.ssrc(), kind: packet.payload_type(), rtp, pts: buffer.pts(), dts: buffer.dts() };
        drop(packet);
        if mended != Mended::Drop {
            state.head = Some(head);
        }
        if state.asleep && state.due().is_some() {
            self.wake.notify_one();
        }
        drop(state);
        match mended {
            Mended::Drop => None,
            Mended::Close(number, payload) => last_packet(&head, number, &payload),
            Mended::Pass(number) => {
                if number != seq || buffer.flags().contains(gst::BufferFlags::DISCONT) {
                    let writable = buffer.make_mut();
                    writable.unset_flags(gst::BufferFlags::DISCONT);
                    if let Ok(mut packet) = RTPBuffer::from_buffer_writable(writable) {
                        packet.set_seq(number);
                    }
                }
                Some(buffer)
            }
        }
    }

    /// Mends what comes into the pad behind a jitter buffer, and starts the thread where silence ends pictures.
    ///
    /// It has to be this pad: its probes run under its stream lock, so that under the same lock the thread's packet and
    /// the jitter buffer's keep the order in which they were numbered.
    pub fn install(self: &Arc<Self>, pad: &gst::Pad) {
        let guard = Guard(self.clone());
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, info| {
            let closer = &guard.0;
            match info.data.take() {
                Some(gst::PadProbeData::Buffer(buffer)) => match closer.mend(buffer) {
                    Some(mended) => info.data = Some(gst::PadProbeData::Buffer(mended)),
                    // Dropping what has been taken out of the probe is an error on a sink pad.
                    None => return gst::PadProbeReturn::Handled,
                },
                Some(gst::PadProbeData::BufferList(list)) => {
                    let mut mended = gst::BufferList::new();
                    let kept = mended.make_mut();
                    list.iter_owned().filter_map(|b| closer.mend(b)).for_each(|b| kept.add(b));
                    info.data = Some(gst::PadProbeData::BufferList(mended));
                }
                other => info.data = other,
            }
            gst::PadProbeReturn::Ok
        });
        if self.state.lock().patience.is_none() {
            return;
        }
        let (closer, pad) = (self.clone(), pad.downgrade());
        let started = std::thread::Builder::new().name("rtp-close".into()).spawn(move || closer.run(&pad));
        if let Err(e) = started {
            tracing::warn!("no thread that ends pictures whose last packet is lost: {e}");
        }
    }

    fn run(&self, pad: &gst::glib::WeakRef<gst::Pad>) {
        while self.wait() {
            let Some(pad) = pad.upgrade() else { return };
            // The streaming thread may be passing a packet on: what it did counts, and it waits while we do the same.
            let lock = pad.stream_lock();
            if let Some(packet) = self.close() {
                // What became of it the streaming thread learns with its next packet.
                let _ = pad.chain(packet);
                self.state.lock().own = false;
            }
            drop(lock);
        }
    }

    /// Waits until a picture has been silent for too long. False when the stream is no more.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        let (mut given, mut not_before) = (None, 0);
        loop {
            if state.gone {
                return false;
            }
            let Some(due) = state.due() else {
                state.asleep = true;
                self.wake.wait(&mut state);
                state.asleep = false;
                continue;
            };
            let (due, now) = (due.max(not_before), clock::now());
            if due <= now {
                return true;
            }
            let woken = !self.wake.wait_for(&mut state, Duration::from_nanos(due - now)).timed_out();
            let picture = state.mender.unfinished();
            if !woken && clock::now() > due + OVERSLEPT && given != picture {
                (given, not_before) = (picture, clock::now() + LEAST);
            }
        }
    }

    /// The packet that closes the picture at hand, if it still is to be closed. The caller holds the pad's stream lock
    /// and passes it on.
    fn close(&self) -> Option<gst::Buffer> {
        let mut state = self.state.lock();
        if state.due().is_none_or(|due| due > clock::now()) {
            return None;
        }
        let head = state.head?;
        let (number, payload) = state.mender.close()?;
        let packet = last_packet(&head, number, &payload);
        state.own = packet.is_some();
        packet
    }
}

/// A packet with the mark that it is its picture's last.
fn last_packet(head: &Head, seq: u16, payload: &[u8]) -> Option<gst::Buffer> {
    let mut buffer = gst::Buffer::new_rtp_with_sizes(payload.len() as u32, 0, 0).ok()?;
    let new = buffer.get_mut()?;
    new.set_pts(head.pts);
    new.set_dts(head.dts);
    let mut rtp = RTPBuffer::from_buffer_writable(new).ok()?;
    rtp.set_seq(seq);
    rtp.set_timestamp(head.rtp);
    rtp.set_ssrc(head.ssrc);
    rtp.set_payload_type(head.kind);
    rtp.set_marker(true);
    rtp.payload_mut().ok()?.copy_from_slice(payload);
    drop(rtp);
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = clock::MILLI;
    const START: Nanos = 100 * clock::SECOND;

    /// Packets of a stream of pictures 33 ms apart, each of four packets so far apart; gives the next sequence number
    /// and the time of the last packet.
    fn play(p: &mut Patience, mut seq: u16, begin: Nanos, pictures: u64, pause: Nanos) -> (u16, Nanos) {
        let mut at = begin;
        for picture in 0..pictures {
            let first = begin + picture * 33 * MS;
            for packet in 0..4 {
                at = first + packet * pause;
                assert!(!p.arrived(seq, (first / (33 * MS)) as u32, at, None));
                seq = seq.wrapping_add(1);
            }
        }
        (seq, at)
    }

    /// How long the picture at hand may be silent.
    fn silence(p: &Patience) -> Nanos {
        let (_, at) = p.last.expect("something arrived");
        p.due(p.newest).expect("nothing is held back") - at
    }

    #[test]
    fn silence_is_measured_by_the_streams_own_pauses() {
        let mut p = Patience::new(8 * MS);
        assert_eq!(p.due(None), None);
        p.arrived(65530, 7, START, None);
        assert_eq!(silence(&p), 8 * MS, "before anything is known");
        let (seq, at) = play(&mut p, 65531, START + 33 * MS, 400, MS / 10);
        assert_eq!(silence(&p), LEAST, "packets come at once");
        let (seq, at) = play(&mut p, seq, at + 33 * MS, 30, 3 * MS / 2);
        assert_eq!(silence(&p), 6 * MS);
        let (seq, at) = play(&mut p, seq, at + 33 * MS, 30, 4 * MS);
        assert_eq!(silence(&p), 8 * MS, "never longer than fits the deadline");
        // What was seen long ago does not count.
        play(&mut p, seq, at + 33 * MS, 400, MS / 10);
        assert_eq!(silence(&p), LEAST);
    }

    #[test]
    fn nothing_is_due_while_the_jitter_buffer_holds_packets_back() {
        let mut p = Patience::new(8 * MS);
        p.arrived(10, 1, START, None);
        p.arrived(12, 1, START + MS, None);
        assert_eq!(p.due(Some(10)), None);
        // A packet that was overtaken is not the newest; the one behind it still is.
        p.arrived(11, 1, START + 2 * MS, None);
        assert_eq!(p.due(Some(11)), None);
        assert_eq!(p.due(Some(12)), Some(START + 10 * MS));
        // A sender that starts anew may count from anywhere.
        p.arrived(12_u16.wrapping_sub(2000), 2, START + 40 * MS, None);
        assert_eq!(p.due(Some(12)), None);
    }

    #[test]
    fn a_picture_closed_too_early_makes_patient_at_once_and_each_time_for_longer() {
        let mut p = Patience::new(8 * MS);
        let (mut seq, mut at) = play(&mut p, 0, START, 400, MS / 10);
        assert_eq!(silence(&p), LEAST);
        for (late, hold) in [(12 * MS, 2), (10 * MS, 16), (10 * MS, 128)] {
            // The picture was closed, and the rest of it comes late, in two packets.
            let rtp = p.last.map(|(r, _)| r).expect("arrived");
            at += late;
            assert!(p.arrived(seq, rtp, at, Some(rtp)));
            assert!(p.arrived(seq + 1, rtp, at + MS, Some(rtp)));
            assert_eq!(silence(&p), 2 * late);
            (seq, at) = play(&mut p, seq + 2, at + 33 * MS, hold * 28, MS / 10);
            assert_eq!(silence(&p), 2 * late, "still, after {hold} s");
            (seq, at) = play(&mut p, seq, at + 33 * MS, 10 * hold.min(30), MS / 10);
            assert!(silence(&p) <= 8 * MS, "tried again");
        }
        // What has gone well for long is as it was at first.
        (seq, at) = play(&mut p, seq, at + 33 * MS, 60_000, MS / 10);
        let rtp = p.last.map(|(r, _)| r).expect("arrived");
        assert!(p.arrived(seq, rtp, at + 12 * MS, Some(rtp)));
        play(&mut p, seq.wrapping_add(1), at + 33 * MS, 61, MS / 10);
        assert!(silence(&p) <= 8 * MS);
    }

    #[test]
    fn a_late_copy_of_a_packet_is_no_mistake() {
        let mut p = Patience::new(8 * MS);
        let (seq, at) = play(&mut p, 0, START, 400, MS / 10);
        let rtp = p.last.map(|(r, _)| r).expect("arrived");
        assert!(p.arrived(seq - 1, rtp, at + 12 * MS, Some(rtp)), "but it is dropped");
        assert_eq!(p.widened, (0, 0));
    }
}

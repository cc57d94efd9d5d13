//! RTP around the jitter buffer: when units arrive, which PTS they get, what the camera's clock says, and how
//! damaged ones are passed on.

use super::closing::Closer;
use super::receiver::Receiver;
use crate::frame::{Nanos, clock};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_rtp::RTPBuffer;
use parking_lot::Mutex;
use std::sync::Arc;

/// What a stream's packets carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// RFC 6184.
    H264,
    /// RFC 7798.
    H265,
    /// RFC 2435.
    Jpeg,
    /// Anything else.
    Other,
}

impl Codec {
    /// By the `encoding-name` of the session description.
    pub fn of(name: &str) -> Self {
        match name.to_ascii_uppercase().as_str() {
            "H264" => Self::H264,
            "H265" | "HEVC" => Self::H265,
            "JPEG" => Self::Jpeg,
            _ => Self::Other,
        }
    }

    /// Whether a packet carries pixels, not only parameters.
    pub fn is_picture(self, payload: &[u8]) -> bool {
        match (self, payload) {
            (Self::Jpeg | Self::Other, _) => true,
            (_, []) => false,
            (Self::H264, p) => match p[0] & 0x1f {
                1..=5 => true,
                24 => aggregated(p, 1).any(|n| (1..=5).contains(&(n & 0x1f))),
                28 | 29 => p.get(1).is_some_and(|h| (1..=5).contains(&(h & 0x1f))),
                _ => false,
            },
            (Self::H265, p) => match (p[0] >> 1) & 0x3f {
                0..=31 => true,
                48 => aggregated(p, 2).any(|n| (n >> 1) & 0x3f < 32),
                49 => p.get(2).is_some_and(|h| h & 0x3f < 32),
                _ => false,
            },
        }
    }

    /// A fragment that ends the unit that this fragment belongs to, and adds nothing but a zero byte, which may trail
    /// any unit.
    fn last_fragment(self, payload: &[u8]) -> Vec<u8> {
        match (self, payload) {
            (Self::H264, [first, header, ..]) => vec![*first, (header & 0x1f) | 0x40, 0],
            (Self::H265, [first, second, header, ..]) => vec![*first, *second, (header & 0x3f) | 0x40, 0],
            _ => Vec::new(),
        }
    }

    /// A whole unit that means nothing (filler data).
    fn filler(self) -> Vec<u8> {
        if self == Self::H265 { vec![38 << 1, 1, 0xff, 0x80] } else { vec![12, 0xff, 0x80] }
    }

    /// Where a packet is a fragment of a unit: whether it is the first and whether it is the last one.
    fn fragment(self, payload: &[u8]) -> Option<(bool, bool)> {
        let header = match (self, payload) {
            (Self::H264, [first, header, ..]) if first & 0x1f == 28 => header,
            (Self::H265, [first, _, header, ..]) if (first >> 1) & 0x3f == 49 => header,
            _ => return None,
        };
        Some((header & 0x80 != 0, header & 0x40 != 0))
    }
}

/// First bytes of the units that an aggregation packet holds behind its header.
fn aggregated(payload: &[u8], header: usize) -> impl Iterator<Item = u8> {
    let mut rest = payload.get(header..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let (size, tail) = rest.split_at_checked(2)?;
        let size = usize::from(u16::from_be_bytes([size[0], size[1]]));
        let first = *tail.first()?;
        rest = tail.get(size..).unwrap_or(&[]);
        Some(first)
    })
}

/// What becomes of a packet behind the jitter buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Mended {
    /// It goes on under this sequence number.
    Pass(u16),
    /// It goes on under this sequence number with no more than this payload: its content is of no use, but it ends its
    /// picture, and the depayloader would otherwise hold the picture back until the next one.
    Close(u16, Vec<u8>),
    /// It is of no use: the fragments before it are missing.
    Drop,
}

/// Hides lost packets from the depayloader. That one throws a whole unit away when one of its fragments is missing;
/// the decoder gets much more out of what came before the gap, and conceals the rest.
///
/// So sequence numbers are made to follow each other, and the fragments behind a gap are dropped up to the next unit.
/// Parameter sets between the slices of one picture, which GStreamer's payloader sends, are dropped too: the
/// depayloader would take them for the start of another picture and cut this one in two.
#[derive(Debug)]
pub struct Mender {
    codec: Codec,
    expected: Option<u16>,
    shift: u16,
    /// Fragments of the unit at hand are dropped.
    broken: bool,
    /// The depayloader has taken the first fragment of a unit and waits for its last one.
    open: bool,
    /// RTP time of the last packet that carried pixels and was passed on.
    picture: Option<u32>,
    /// That of the picture at hand while its last packet is still to come.
    unfinished: Option<u32>,
    /// That of the last picture that was closed without its last packet.
    closed: Option<u32>,
    /// How the last fragment that was passed on begins.
    fragment: [u8; 3],
}

impl Mender {
    /// For a stream of this codec.
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            expected: None,
            shift: 0,
            broken: false,
            open: false,
            picture: None,
            unfinished: None,
            closed: None,
            fragment: [0; 3],
        }
    }

    /// Sequence number of the last packet that came.
    pub fn last(&self) -> Option<u16> {
        self.expected.map(|e| e.wrapping_sub(1))
    }

    /// RTP time of the picture at hand while its last packet is still to come.
    pub fn unfinished(&self) -> Option<u32> {
        self.unfinished
    }

    /// RTP time of the last picture that [`close`](Self::close) ended.
    pub fn closed(&self) -> Option<u32> {
        self.closed
    }

    /// Ends the picture at hand, whose last packet does not come: gives the sequence number and the payload of a packet
    /// that ends it. What comes of it later is dropped.
    pub fn close(&mut self) -> Option<(u16, Vec<u8>)> {
        let number = self.expected?.wrapping_sub(self.shift);
        self.closed = Some(self.unfinished.take()?);
        self.shift = self.shift.wrapping_sub(1);
        Some((number, self.closing()))
    }

    fn closing(&mut self) -> Vec<u8> {
        let open = std::mem::replace(&mut self.open, false);
        if open { self.codec.last_fragment(&self.fragment) } else { self.codec.filler() }
    }

    /// The next packet in order.
    pub fn next(&mut self, seq: u16, rtp: u32, marker: bool, payload: &[u8]) -> Mended {
        let gap = self.expected.is_some_and(|e| e != seq);
        let missing = seq.wrapping_sub(self.expected.unwrap_or(seq));
        self.expected = Some(seq.wrapping_add(1));
        if missing > 1000 {
            // The sender started anew.
            self.shift = 0;
        } else {
            self.shift = self.shift.wrapping_add(missing);
        }
        if self.unfinished.is_some_and(|p| p != rtp) {
            // The next picture begins: the depayloader takes this one for complete.
            self.unfinished = None;
        }
        if self.closed == Some(rtp) {
            self.shift = self.shift.wrapping_add(1);
            return Mended::Drop;
        }
        let fragment = self.codec.fragment(payload);
        self.broken = match fragment {
            Some((true, _)) | None => false,
            Some((false, _)) => self.broken || gap,
        };
        let pixels = self.codec.is_picture(payload);
        let between = !pixels && !marker && self.picture == Some(rtp);
        if self.broken || between {
            if marker && self.picture == Some(rtp) {
                self.unfinished = None;
                return Mended::Close(seq.wrapping_sub(self.shift), self.closing());
            }
            self.shift = self.shift.wrapping_add(1);
            return Mended::Drop;
        }
        if pixels {
            self.picture = Some(rtp);
            self.unfinished = Some(rtp);
        }
        if marker {
            self.unfinished = None;
        }
        self.open = fragment.is_some_and(|(_, last)| !last);
        if self.open {
            self.fragment.iter_mut().zip(payload).for_each(|(kept, b)| *kept = *b);
        }
        Mended::Pass(seq.wrapping_sub(self.shift))
    }
}

/// The camera's clock by the last sender report.
#[derive(Debug, Clone, Copy)]
struct Report {
    rtp: u32,
    /// Microseconds since 1970.
    us: i64,
    rate: u32,
}

impl Report {
    /// Reads a sender report (RFC 3550, 6.4.1).
    fn read(packet: &[u8], rate: u32) -> Option<Self> {
        let word = |i: usize| Some(u32::from_be_bytes(packet.get(i..i + 4)?.try_into().ok()?));
        if *packet.get(1)? != 200 || rate == 0 {
            return None;
        }
        let (seconds, fraction) = (word(8)?, word(12)?);
        // NTP counts from 1900; a camera without a clock sends nothing or the time since it was switched on.
        let seconds = i64::from(seconds).checked_sub(2_208_988_800).filter(|s| *s > 0)?;
        let us = seconds * 1_000_000 + ((i64::from(fraction) * 1_000_000) >> 32);
        Some(Self { rtp: word(16)?, us, rate })
    }

    fn at(self, rtp: u32) -> i64 {
        let ticks = i64::from(rtp.wrapping_sub(self.rtp) as i32);
        self.us + ticks * 1_000_000 / i64::from(self.rate)
    }
}

/// Watches what goes into a jitter buffer and what comes out of it. `silence`: how long the packets of a picture may
/// pause at most before it is ended, `None` where none is ever lost.
pub fn watch(buffer: &gst::Element, codec: Codec, receiver: &Arc<Receiver>, silence: Option<Nanos>) {
    let Some((sink, src)) = buffer.static_pad("sink").zip(buffer.static_pad("src")) else { return };
    let both = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    let closer = matches!(codec, Codec::H264 | Codec::H265).then(|| Closer::new(codec, silence));

    let (arriving, closing) = (receiver.clone(), closer.clone());
    sink.add_probe(both, move |_, info| {
        each(info, |buffer| {
            let Ok(packet) = RTPBuffer::from_buffer_readable(buffer) else { return };
            let rtp = packet.timestamp();
            // What belongs to a picture that has gone on without it is no new picture.
            if !closing.as_ref().is_some_and(|c| c.arrived(packet.seq(), rtp, clock::now())) {
                arriving.packet(rtp, codec.is_picture(packet.payload().unwrap_or(&[])));
            }
        })
    });

    let report = Arc::new(Mutex::new(None::<Report>));
    let heard = report.clone();
    buffer.connect("handle-sync", false, move |args| {
        let s = args.get(1).and_then(|v| v.get::<gst::Structure>().ok())?;
        let packet = s.get::<gst::Buffer>("sr-buffer").ok()?;
        let rate = s.get::<u32>("clock-rate").ok()?;
        let map = packet.map_readable().ok()?;
        if let Some(new) = Report::read(&map, rate) {
            *heard.lock() = Some(new);
        }
        None
    });

    let leaving = receiver.clone();
    src.add_probe(both, move |_, info| {
        each(info, |buffer| {
            if let (Ok(packet), Some(pts)) = (RTPBuffer::from_buffer_readable(buffer), buffer.pts()) {
                let camera = report.lock().map(|r| r.at(packet.timestamp()));
                leaving.stamped(packet.timestamp(), pts.nseconds(), camera);
            }
        })
    });
    // The manager links the jitter buffer after it has told us of it.
    if let Some(closer) = closer {
        src.connect_linked(move |_, peer| closer.install(peer));
    }
}

/// Looks at every packet that passes a probe.
fn each(info: &gst::PadProbeInfo, mut look: impl FnMut(&gst::BufferRef)) -> gst::PadProbeReturn {
    match &info.data {
        Some(gst::PadProbeData::Buffer(b)) => look(b),
        Some(gst::PadProbeData::BufferList(l)) => l.iter().for_each(look),
        _ => {}
    }
    gst::PadProbeReturn::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: [u8; 3] = [28, 0x80 | 5, 0];
    const MIDDLE: [u8; 3] = [28, 5, 0];
    const END: [u8; 3] = [28, 0x40 | 5, 0];

    #[test]
    fn parameters_are_told_from_pictures() {
        assert!(!Codec::H264.is_picture(&[7]) && !Codec::H264.is_picture(&[8]) && !Codec::H264.is_picture(&[6]));
        assert!(Codec::H264.is_picture(&[0x65]) && Codec::H264.is_picture(&MIDDLE));
        assert!(!Codec::H264.is_picture(&[24, 0, 1, 7, 0, 1, 8]));
        assert!(Codec::H264.is_picture(&[24, 0, 1, 7, 0, 1, 0x65]));
        assert!(!Codec::H265.is_picture(&[32 << 1, 1]) && Codec::H265.is_picture(&[19 << 1, 1]));
        assert!(Codec::H265.is_picture(&[49 << 1, 1, 0x80 | 19]) && !Codec::H265.is_picture(&[49 << 1, 1, 33]));
        assert!(Codec::of("jpeg").is_picture(&[]));
    }

    #[test]
    fn a_gap_costs_only_the_fragments_behind_it() {
        let mut m = Mender::new(Codec::H264);
        assert_eq!(m.next(10, 0, false, &START), Mended::Pass(10));
        assert_eq!(m.next(11, 0, false, &MIDDLE), Mended::Pass(11));
        // 12 is lost.
        assert_eq!(m.next(13, 0, false, &MIDDLE), Mended::Drop);
        assert_eq!(m.next(14, 0, false, &END), Mended::Drop);
        assert_eq!(m.next(15, 0, false, &START), Mended::Pass(12));
        assert_eq!(m.next(16, 0, false, &END), Mended::Pass(13));
        // 17, a start, is lost.
        assert_eq!(m.next(18, 0, false, &END), Mended::Drop);
        assert_eq!(m.next(19, 0, false, &[0x65]), Mended::Pass(14));
    }

    #[test]
    fn a_damaged_picture_ends_with_its_own_last_packet() {
        let mut m = Mender::new(Codec::H264);
        m.next(10, 90, false, &START);
        // 11 is lost: what was taken is closed by an empty last fragment.
        assert_eq!(m.next(12, 90, true, &END), Mended::Close(11, vec![28, 0x40 | 5, 0]));
        // The next picture's first slice is whole, the start of its second one, 15, is lost.
        assert_eq!(m.next(13, 180, false, &[0x61, 1]), Mended::Pass(12));
        assert_eq!(m.next(16, 180, true, &END), Mended::Close(13, vec![12, 0xff, 0x80]));
        // Of this one nothing is left to be closed.
        assert_eq!(m.next(18, 270, true, &END), Mended::Drop);
        assert_eq!(m.next(19, 360, true, &[0x61, 1]), Mended::Pass(14));
    }

    #[test]
    fn a_picture_without_its_last_packet_is_closed_and_numbers_go_on() {
        let mut m = Mender::new(Codec::H264);
        assert_eq!((m.unfinished(), m.close()), (None, None));
        m.next(10, 90, false, &[0x67]);
        assert_eq!(m.unfinished(), None, "parameters alone are no picture");
        m.next(11, 90, false, &START);
        assert_eq!(m.next(12, 90, false, &MIDDLE), Mended::Pass(12));
        assert_eq!((m.unfinished(), m.last()), (Some(90), Some(12)));
        // 13, the last one, is lost.
        assert_eq!(m.close(), Some((13, vec![28, 0x40 | 5, 0])));
        assert_eq!((m.unfinished(), m.closed(), m.close()), (None, Some(90), None));
        assert_eq!(m.next(14, 180, false, &[0x61, 1]), Mended::Pass(14));
        // Whole units came, the rest is late.
        assert_eq!(m.close(), Some((15, vec![12, 0xff, 0x80])));
        assert_eq!(m.next(15, 180, false, &START), Mended::Drop);
        assert_eq!(m.next(16, 180, true, &END), Mended::Drop);
        assert_eq!(m.next(17, 270, false, &START), Mended::Pass(16));
        assert_eq!(m.next(18, 270, true, &END), Mended::Pass(17));
        assert_eq!(m.unfinished(), None, "it ended by itself");
        // A picture that the next one's packets end is not closed again.
        m.next(19, 360, false, &START);
        m.next(20, 450, false, &[0x67]);
        assert_eq!(m.close(), None);
    }

    #[test]
    fn a_damaged_picture_is_closed_too() {
        let mut m = Mender::new(Codec::H265);
        let (start, middle, end) = ([49 << 1, 1, 0x80 | 19, 0], [49 << 1, 1, 19, 0], [49 << 1, 1, 0x40 | 19, 0]);
        assert_eq!(m.next(1, 90, false, &start), Mended::Pass(1));
        // 2 is lost, and so is the last one, 4.
        assert_eq!(m.next(3, 90, false, &middle), Mended::Drop);
        assert_eq!(m.close(), Some((2, vec![49 << 1, 1, 0x40 | 19, 0])));
        assert_eq!(m.next(5, 180, false, &start), Mended::Pass(3));
        assert_eq!(m.next(6, 180, true, &end), Mended::Pass(4));
    }

    #[test]
    fn numbers_wrap_and_restarts_are_followed() {
        let mut m = Mender::new(Codec::H264);
        assert_eq!(m.next(65534, 0, false, &[0x61]), Mended::Pass(65534));
        assert_eq!(m.next(0, 0, false, &[0x61]), Mended::Pass(65535));
        assert_eq!(m.next(1, 0, false, &[0x61]), Mended::Pass(0));
        assert_eq!(m.next(30000, 0, false, &[0x61]), Mended::Pass(30000));
    }

    #[test]
    fn parameters_between_the_slices_of_a_picture_are_dropped() {
        let mut m = Mender::new(Codec::H264);
        let (sps, slice) = (&[0x67][..], &[0x65][..]);
        assert_eq!(m.next(1, 90, false, sps), Mended::Pass(1));
        assert_eq!(m.next(2, 90, false, slice), Mended::Pass(2));
        assert_eq!(m.next(3, 90, false, sps), Mended::Drop);
        assert_eq!(m.next(4, 90, true, slice), Mended::Pass(3));
        assert_eq!(m.next(5, 180, false, sps), Mended::Pass(4));
    }

    #[test]
    fn a_sender_report_tells_the_cameras_time() {
        let mut packet = [0u8; 28];
        packet[1] = 200;
        packet[8..12].copy_from_slice(&(2_208_988_800u32 + 1_700_000_000).to_be_bytes());
        packet[12..16].copy_from_slice(&0x8000_0000u32.to_be_bytes());
        packet[16..20].copy_from_slice(&90_000u32.to_be_bytes());
        let r = Report::read(&packet, 90_000).expect("a report");
        assert_eq!(r.at(90_000 + 45_000), 1_700_000_001_000_000);
        assert_eq!(r.at(90_000 - 9_000), 1_700_000_000_400_000);
        packet[8..12].copy_from_slice(&5u32.to_be_bytes());
        assert!(Report::read(&packet, 90_000).is_none());
    }
}

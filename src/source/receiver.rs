//! The end of a source's GStreamer pipeline: joins decoded pictures with their arrivals and hands them over.
//!
//! One receiver serves one connection. Its callbacks run on GStreamer's threads: they stamp and push.

use super::arrivals::{Arrivals, Found};
use super::picture::{self, Reading};
use super::{Flow, Intake, pool};
use crate::frame::{Arrival, FailReason, Frame, Nanos, Orientation, Outcome, Payload, Picture, Signal, Ticket, clock};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What the receiver does with frames that nobody announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// Every unit is announced when it arrives.
    Yes,
    /// None is: frames are captured when they come out of the pipeline.
    No,
}

/// Takes one connection's pictures.
pub struct Receiver {
    intake: Arc<Intake>,
    announced: Announced,
    arrivals: Mutex<Arrivals>,
    output: Mutex<Output>,
    /// Pictures that are out, and so the decoder's buffers that it cannot reuse.
    held: Arc<AtomicUsize>,
    closed: AtomicBool,
    jpeg: AtomicBool,
    skipping: AtomicBool,
    frames: AtomicU64,
    last_input: AtomicU64,
    last_change: AtomicU64,
    turned: u8,
    /// Added to every PTS: a file that starts again goes on in time.
    pts_offset: Nanos,
    last_pts: AtomicU64,
    trouble: Mutex<Option<String>>,
}

#[derive(Default)]
struct Output {
    caps: Option<gst::Caps>,
    reading: Option<Reading>,
    tagged: Orientation,
    hash: u64,
}

impl Receiver {
    /// A receiver for one connection of the intake's stream. `turned` are quarter turns to add to the orientation.
    pub fn new(intake: Arc<Intake>, announced: Announced, rotate: u16, pts_offset: Nanos) -> Arc<Self> {
        let now = clock::now();
        Arc::new(Self {
            intake,
            announced,
            arrivals: Mutex::default(),
            output: Mutex::default(),
            held: Arc::default(),
            closed: AtomicBool::new(false),
            jpeg: AtomicBool::new(false),
            skipping: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            last_input: AtomicU64::new(now),
            last_change: AtomicU64::new(now),
            turned: (rotate / 90 % 4) as u8,
            pts_offset,
            last_pts: AtomicU64::new(0),
            trouble: Mutex::new(None),
        })
    }

    /// The intake it feeds.
    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }
    /// Frames handed over so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
    }
    /// When the last packet or frame came, at least when the connection was begun.
    pub fn last_input(&self) -> Nanos {
        self.last_input.load(Relaxed)
    }
    /// When the picture last was another one than before.
    pub fn last_change(&self) -> Nanos {
        self.last_change.load(Relaxed)
    }
    /// The largest PTS handed over, with the offset.
    pub fn last_pts(&self) -> Nanos {
        self.last_pts.load(Relaxed)
    }
    /// Whether nothing more will be taken.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed) || self.intake.is_stopping()
    }
    /// The stream turned out to be JPEG.
    pub fn set_jpeg(&self) {
        self.jpeg.store(true, Relaxed);
    }
    /// Something on a GStreamer thread makes the connection useless.
    pub fn give_up(&self, why: String) {
        self.trouble.lock().get_or_insert(why);
    }
    /// What made it useless, if anything did.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// An RTP packet arrived.
    pub fn packet(&self, rtp: u32, picture: bool) {
        if self.is_closed() {
            return;
        }
        let now = clock::now();
        self.last_input.store(now, Relaxed);
        self.arrivals.lock().packet(rtp, now, picture, |first| self.intake.capture(first));
    }

    /// The jitter buffer gave an RTP time its PTS.
    pub fn stamped(&self, rtp: u32, pts: Nanos, camera_us: Option<i64>) {
        self.arrivals.lock().stamped(rtp, pts, camera_us);
    }

    /// A whole unit arrived whose first byte came at `first`.
    pub fn unit(&self, pts: Option<Nanos>, first: Nanos, camera_us: Option<i64>) {
        if self.is_closed() {
            return;
        }
        let now = clock::now();
        self.last_input.store(now, Relaxed);
        let ticket = self.intake.capture(first);
        self.arrivals.lock().unit(pts, now, camera_us, ticket);
    }

    /// Whether a unit is to be decoded. A decoder that fell so far behind that its units have failed already skips to
    /// the next keyframe, else the delay would only grow.
    pub fn wants(&self, buffer: &gst::BufferRef) -> bool {
        if self.announced == Announced::No {
            return true;
        }
        let delta = buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let failed = self.arrivals.lock().has_failed(buffer.pts().map(|p| p.nseconds()));
        let skip = failed || (delta && self.skipping.load(Relaxed));
        self.skipping.store(skip, Relaxed);
        !skip
    }

    /// Counts as failed what no decoder returned in time.
    pub fn expire(&self) {
        self.arrivals.lock().expire(clock::now());
    }

    /// Takes nothing more; what is on its way has failed.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        let stopping = self.intake.is_stopping();
        self.arrivals.lock().clear(if stopping { FailReason::Stopped } else { FailReason::Decode });
    }

    /// Makes the appsink that ends in this receiver.
    pub fn sink(self: &Arc<Self>) -> gst_app::AppSink {
        let on_sample = self.clone();
        let callbacks = gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                on_sample.sample(&sample)
            })
            .build();
        let sink = gst_app::AppSink::builder()
            .sync(false)
            .async_(false)
            .enable_last_sample(false)
            .max_buffers(1)
            .wait_on_eos(false)
            .callbacks(callbacks)
            .build();
        if let Some(pad) = sink.static_pad("sink") {
            let this = self.clone();
            let mask = gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::EVENT_DOWNSTREAM;
            pad.add_probe(mask, move |_, info| this.negotiate(info));
        }
        sink
    }

    fn negotiate(&self, info: &mut gst::PadProbeInfo) -> gst::PadProbeReturn {
        match &mut info.data {
            Some(gst::PadProbeData::Query(query)) => {
                if let gst::QueryViewMut::Allocation(q) = query.view_mut() {
                    let (caps, _) = q.get_owned();
                    let size =
                        caps.and_then(|c| gstreamer_video::VideoInfo::from_caps(&c).ok()).map_or(0, |i| i.size());
                    q.add_allocation_meta::<gstreamer_video::VideoMeta>(None);
                    // What the engine holds comes on top of what the decoder needs; there is no upper limit.
                    q.add_allocation_pool(None::<&gst::BufferPool>, size as u32, self.intake.held_frames() as u32, 0);
                    return gst::PadProbeReturn::Handled;
                }
            }
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Tag(tag) = event.view()
                    && let Some(turn) = tag.tag().get::<gst::tags::ImageOrientation>()
                {
                    self.output.lock().tagged = picture::orientation(turn.get());
                }
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    }

    fn sample(&self, sample: &gst::Sample) -> Result<gst::FlowSuccess, gst::FlowError> {
        let now = clock::now();
        if self.is_closed() {
            return Err(gst::FlowError::Flushing);
        }
        let Some(buffer) = sample.buffer_owned() else { return Ok(gst::FlowSuccess::Ok) };
        let pts = buffer.pts().map(|p| p.nseconds());
        let (ticket, complete, camera_us) = match self.arrival(pts, now) {
            Some(found) => found,
            None => return Ok(gst::FlowSuccess::Ok),
        };
        let picture = match self.picture(sample, buffer, now) {
            Ok(picture) => picture,
            Err(why) => {
                ticket.mark(Outcome::Failed(FailReason::Decode));
                self.give_up(why);
                return Err(gst::FlowError::NotNegotiated);
            }
        };
        let pts = stream_time(sample).or(pts).map(|p| p + self.pts_offset);
        if let Some(pts) = pts {
            self.last_pts.fetch_max(pts, Relaxed);
        }
        self.last_input.store(now, Relaxed);
        if self.frames.fetch_add(1, Relaxed) == 0 {
            self.intake.signal(Signal::Up);
        }
        let arrival = Arrival { complete, decoded: clock::now() };
        let mut frame = Frame::new(ticket, pts, arrival, Payload::Picture(Arc::new(picture)));
        frame.camera_time_us = camera_us;
        match self.intake.submit(frame) {
            Flow::More => Ok(gst::FlowSuccess::Ok),
            Flow::Stop => Err(gst::FlowError::Flushing),
        }
    }

    fn arrival(&self, pts: Option<Nanos>, now: Nanos) -> Option<(Arc<Ticket>, Nanos, Option<i64>)> {
        if self.announced == Announced::Yes {
            let found = self.arrivals.lock().take(pts);
            match found {
                Found::Unit { ticket, complete, camera_us } => return Some((ticket, complete, camera_us)),
                Found::TooLate => return None,
                Found::Nothing => {}
            }
        }
        Some((self.intake.capture(now), now, None))
    }

    fn picture(&self, sample: &gst::Sample, mut buffer: gst::Buffer, now: Nanos) -> Result<Picture, String> {
        let mut output = self.output.lock();
        let caps = sample.caps().ok_or("a picture without caps")?;
        if output.caps.as_ref().is_none_or(|c| c.as_ptr() != caps.as_ptr()) {
            let jpeg = self.jpeg.load(Relaxed);
            output.reading = Some(Reading::new(caps, jpeg)?);
            output.caps = Some(caps.to_owned());
        }
        let mut turn = output.tagged;
        turn.quarter_turns = (turn.quarter_turns + self.turned) % 4;
        let held = self.held.load(Relaxed);
        if pool::limit(&buffer).is_some_and(|most| held >= room(most as usize, self.intake.held_frames())) {
            buffer = buffer.copy_deep().map_err(|_| "no memory for a copy of the picture".to_owned())?;
            self.intake.stream().ledger.add_copy();
        }
        let reading = output.reading.as_ref().ok_or("a picture without caps")?;
        let picture = reading.picture(buffer, turn, &self.held)?;
        let hash = fingerprint(&picture);
        if hash != output.hash {
            output.hash = hash;
            self.last_change.store(now, Relaxed);
        }
        Ok(picture)
    }
}

/// A picture's time within its stream: encoders and demuxers may count from elsewhere than 0.
fn stream_time(sample: &gst::Sample) -> Option<Nanos> {
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    Some(segment.to_stream_time(sample.buffer()?.pts()?)?.nseconds())
}

/// How many buffers of a bounded pool may be out before pictures are copied: two have to stay free, and no more than
/// were asked for are ours.
fn room(most: usize, asked: usize) -> usize {
    most.saturating_sub(2).min(asked.max(1))
}

/// A number that changes when the picture does: a few rows of the first plane, mixed.
fn fingerprint(picture: &Picture) -> u64 {
    let plane = picture.buffer.plane(0);
    let (rows, stride, width) = (picture.height as usize, picture.strides[0], picture.width as usize);
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for i in 0..8 {
        let start = (rows * (2 * i + 1) / 16) * stride;
        let Some(row) = plane.get(start..start + width.min(stride)) else { continue };
        for chunk in row.as_chunks::<8>().0 {
            hash = (hash ^ u64::from_le_bytes(*chunk)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_pool_keeps_two_buffers_free() {
        assert_eq!(room(4, 8), 2);
        assert_eq!(room(20, 8), 8);
        assert_eq!(room(1, 8), 0);
    }
}

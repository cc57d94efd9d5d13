//! A stand-in for the engine: runs a source on its own thread and takes its frames.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use framegate::frame::{Counts, Frame, Nanos, Outcome, Picture, Signal, Stream, clock};
use framegate::ring::{WhenFull, ring};
use framegate::source::{Context, Intake, SourceConfig, SourceError, build};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A source at work.
pub struct Running {
    pub stream: Arc<Stream>,
    pub intake: Arc<Intake>,
    pub frames: crossbeam_channel::Receiver<Frame>,
    thread: Option<JoinHandle<Result<(), SourceError>>>,
}

/// What a test keeps of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub seq: u64,
    pub pts: Option<Nanos>,
    pub captured: Nanos,
    pub complete: Nanos,
    pub decoded: Nanos,
    pub size: (u32, u32),
    pub hash: u64,
}

/// A number that two equal pictures share: all visible bytes of all planes.
pub fn hash(picture: &Picture) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for plane in 0..picture.planes() {
        let (rows, bytes) = extent(picture, plane);
        let data = picture.buffer.plane(plane);
        for row in 0..rows {
            for b in &data[row * picture.strides[plane]..][..bytes] {
                h = (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    h
}

/// Rows and bytes per row of a plane.
pub fn extent(picture: &Picture, plane: usize) -> (usize, usize) {
    use framegate::frame::PixelFormat as P;
    let (w, h) = (picture.width as usize, picture.height as usize);
    let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
    match (picture.format, plane) {
        (P::I420 | P::Nv12 | P::Y42b | P::Y444 | P::Gray8, 0) | (P::Y444, _) => (h, w),
        (P::I420, _) => (ch, cw),
        (P::Nv12, _) => (ch, cw * 2),
        (P::Y42b, _) => (h, cw),
        (P::I420_10 | P::I422_10 | P::Y444_10 | P::P010, 0) | (P::Y444_10, _) => (h, w * 2),
        (P::I420_10, _) => (ch, cw * 2),
        (P::P010, _) => (ch, cw * 4),
        (P::I422_10, _) => (h, cw * 2),
        (P::Rgb | P::Bgr, _) => (h, w * 3),
        (P::Rgbx | P::Bgrx, _) => (h, w * 4),
        (P::Gray8, _) => (0, 0),
    }
}

impl Running {
    /// Starts a source that takes these keys.
    pub fn start(config: &SourceConfig, context: &Context) -> Result<Self, SourceError> {
        let source = build("cam0", config, context)?;
        let deadline = context.live.then_some(33 * clock::MILLI);
        let stream = Arc::new(Stream::new("cam0", 0, deadline, 0, true));
        let (size, when_full) = if context.live { (256, WhenFull::EvictOldest) } else { (4, WhenFull::Block) };
        let (tx, frames) = ring(size, when_full);
        let intake = Arc::new(Intake::new(stream.clone(), vec![tx], 8));
        let thread = std::thread::spawn({
            let intake = intake.clone();
            move || {
                let result = source.run(intake.clone());
                intake.close();
                result
            }
        });
        Ok(Self { stream, intake, frames, thread: Some(thread) })
    }

    /// The next frame, delivered at once.
    pub fn next(&self, patience: Duration) -> Option<(Seen, Frame)> {
        let frame = self.frame(patience)?;
        let picture = frame.payload.picture().expect("sources give pictures");
        let seen = Seen {
            seq: frame.ticket.seq,
            pts: frame.pts,
            captured: frame.ticket.captured,
            complete: frame.arrival.complete,
            decoded: frame.arrival.decoded,
            size: (picture.width, picture.height),
            hash: 0,
        };
        Some((seen, frame))
    }

    /// The next frame of whatever kind, delivered at once.
    pub fn frame(&self, patience: Duration) -> Option<Frame> {
        let frame = self.frames.recv_timeout(patience).ok()?;
        frame.ticket.mark(Outcome::OnTime);
        Some(frame)
    }

    /// `n` frames, or fewer where the next does not come in time.
    pub fn take(&self, n: usize, patience: Duration) -> Vec<Seen> {
        std::iter::from_fn(|| self.next(patience).map(|(s, _)| s)).take(n).collect()
    }

    /// Everything until the stream ends, with the pictures' hashes.
    pub fn to_end(&self) -> Vec<Seen> {
        std::iter::from_fn(|| {
            let (mut seen, frame) = self.next(Duration::from_secs(30))?;
            seen.hash = hash(frame.payload.picture().expect("picture"));
            Some(seen)
        })
        .collect()
    }

    /// Waits until the source says this of itself.
    pub fn wait_for(&self, what: impl Fn(&Signal) -> bool, patience: Duration) -> Signal {
        let until = Instant::now() + patience;
        loop {
            let signal = self.stream.signal();
            if what(&signal) {
                return signal;
            }
            assert!(Instant::now() < until, "still {signal:?} after {patience:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the source, says how it ended and checks that it ended in time and that every frame has an outcome.
    pub fn stop(mut self) -> (Result<(), SourceError>, Counts) {
        let begun = Instant::now();
        self.intake.stop();
        let result = self.join();
        // A pipeline that does not stop is left to itself after 350 ms; the rest is for a machine that is busy.
        assert!(begun.elapsed() < Duration::from_secs(2), "took {:?} to stop", begun.elapsed());
        self.settle(result)
    }

    /// Waits for the source's own end.
    pub fn finish(mut self) -> (Result<(), SourceError>, Counts) {
        let result = self.join();
        self.settle(result)
    }

    fn join(&mut self) -> Result<(), SourceError> {
        self.thread.take().expect("joined once").join().expect("the source's thread does not panic")
    }

    fn settle(&mut self, result: Result<(), SourceError>) -> (Result<(), SourceError>, Counts) {
        for frame in self.frames.try_iter() {
            frame.ticket.mark(Outcome::OnTime);
        }
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let counts = self.stream.ledger.counts();
            if counts.in_flight() == 0 {
                assert_eq!(counts.failed[5], 0, "no frame is lost without an outcome: {counts:?}");
                return (result, counts);
            }
            assert!(Instant::now() < until, "frames without an outcome: {counts:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

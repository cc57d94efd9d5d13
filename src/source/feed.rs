//! From bytes of a receiver to frames of samples: what every live source of samples is built on.
//!
//! ```text
//! receiving thread            ring of blocks           source's thread
//! ┌─────────────────────┐  ┌────┬────┬────┬────┐  ┌──────────────────────────┐
//! │ Inlet: fill, gap    ├─▶│    │    │    │    ├─▶│ Feed: convert, clock,    ├─▶ Intake
//! └─────────────────────┘  └────┴────┴────┴────┘  │ frame                    │
//!            ▲                                    └────────────┬─────────────┘
//!            └─────────────── empty buffers ───────────────────┘
//! ```
//!
//! The receiving thread puts bytes into an [`Inlet`] and does nothing else, so that it is always back at its socket or
//! driver in time. Bytes become blocks there; a block that is full goes into the ring. Where the ring is full, because
//! the machine is too busy even for the thread behind it, the whole block is dropped and counted. The [`Feed`] makes
//! samples and frames of the blocks. It never waits for the engine, whose own rings push out their oldest frame.
//!
//! Every sample since the first one is either in a frame or counted as lost under its [`GapCause`], and positions count
//! on over what is lost: behind any block, its end is what was received plus what was lost so far.
//!
//! Nothing is allocated for a block in the steady state: buffers go back, and a block's samples are used again once
//! nobody holds them any more.

use super::sample_clock::SampleClock;
use super::{Flow, Intake};
use crate::frame::{Arrival, Frame, Gap, GapCause, Nanos, Payload, SampleBlock, SampleTime, Signal, Stream, clock};
use crate::signal::samples::{Converter, Format};
use crossbeam_channel as channel;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

/// Between two gaps, what is shorter than this part of a block is given up too: a line that loses every other packet
/// must not make a frame of each of the others.
const SHORTEST: usize = 8;
/// Blocks of samples that are kept to be used again.
const SHELF: usize = 4;
/// A clock that drifts more than this, in parts per million, is no drifting clock but a wrong rate.
const WRONG_RATE: f64 = 1000.0;

/// What a receiver sends, and how it becomes frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Sending {
    /// How samples lie in the bytes.
    pub format: Format,
    /// Samples a second.
    pub rate: f64,
    /// Centre frequency in Hz, where it is known.
    pub frequency: Option<f64>,
    /// Samples in a block, at least 1.
    pub block: usize,
    /// Stream time that the ring holds; two blocks at least.
    pub ring: Duration,
    /// How far the times that the receiver's samples get may be off, as its operator states; `None`: they get none.
    pub accuracy: Option<Duration>,
}

/// A block on its way from the inlet to the feed.
struct Piece {
    bytes: Vec<u8>,
    /// Position of its first sample.
    start: u64,
    gap: Option<Gap>,
    /// What is missing before it is only known by the host's clock.
    fresh: bool,
    /// When its last byte arrived.
    at: Nanos,
}

/// Where a receiver's bytes go in. Owned by the thread that receives; see the [module](self).
pub struct Inlet {
    stream: Arc<Stream>,
    heard: Arc<AtomicU64>,
    to: channel::Sender<Piece>,
    empty: channel::Receiver<Vec<u8>>,
    rate: f64,
    /// Bytes of a sample.
    sample: usize,
    block: Vec<u8>,
    held: usize,
    /// Position of the first sample in `block`.
    start: u64,
    /// What is missing before it.
    gap: Option<Gap>,
    fresh: bool,
    /// The connection was made anew: how much is missing is seen when something arrives.
    anew: bool,
    /// When something arrived last, and the position behind it.
    last: Option<(Nanos, u64)>,
}

impl Inlet {
    /// Room for the next bytes, never empty: at most to the end of the block at hand. To be read into, then
    /// [`filled`](Self::filled).
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.block[self.held..]
    }

    /// The first `n` bytes of the [`room`](Self::room) were filled at `at`.
    pub fn filled(&mut self, n: usize, at: Nanos) {
        let n = n.min(self.block.len() - self.held);
        if n == 0 {
            return;
        }
        if std::mem::take(&mut self.anew)
            && let Some((last, end)) = self.last
        {
            // As many as should have come meanwhile, less those that came; one at least, so that nothing joins what
            // does not belong together.
            let due = end as f64 + at.saturating_sub(last) as f64 / 1e9 * self.rate;
            let missing = (due - (n / self.sample) as f64 - self.start as f64).round().max(1.0) as u64;
            self.fresh = true;
            self.lose(missing, GapCause::Reconnect);
        }
        self.held += n;
        self.last = Some((at, self.start + (self.held / self.sample) as u64));
        self.heard.store(at, Relaxed);
        if self.held == self.block.len() {
            self.hand_over(at);
        }
    }

    /// Takes bytes that arrived at `at`, any number of them.
    pub fn push(&mut self, mut bytes: &[u8], at: Nanos) {
        while !bytes.is_empty() {
            let room = self.room();
            let (head, tail) = bytes.split_at(room.len().min(bytes.len()));
            room[..head.len()].copy_from_slice(head);
            self.filled(head.len(), at);
            bytes = tail;
        }
    }

    /// So many samples are missing behind what was put in last. 0 is none.
    pub fn missing(&mut self, samples: u64, cause: GapCause) {
        if samples > 0 {
            self.cut(cause);
            self.lose(samples, cause);
        }
    }

    /// What comes next does not follow what came last, and nobody knows how much is missing: a connection was lost, or a
    /// sender began anew. It is counted as [`GapCause::Reconnect`] by the time that passes.
    pub fn interrupted(&mut self) {
        self.cut(GapCause::Reconnect);
        self.anew = self.last.is_some();
    }

    /// Hands over what there is of the block at hand, or gives it up for this cause where that is too little.
    fn cut(&mut self, cause: GapCause) {
        let samples = self.held / self.sample;
        let Some((last, _)) = self.last.filter(|_| samples > 0) else {
            self.held = 0;
            return;
        };
        if samples * SHORTEST < self.block.len() / self.sample {
            self.held = 0;
            self.lose(samples as u64, cause);
            return;
        }
        self.held = samples * self.sample;
        self.hand_over(last);
    }

    /// Counts samples right behind the last block as lost. There is nothing in the block at hand, or it is about to
    /// begin behind them.
    fn lose(&mut self, samples: u64, cause: GapCause) {
        self.stream.ledger.add_lost(samples, cause);
        self.start += samples;
        self.gap = Some(match self.gap {
            // Of two causes the one that cost more is named.
            Some(gap) if gap.samples >= samples => Gap { samples: gap.samples + samples, cause: gap.cause },
            gap => Gap { samples: gap.map_or(0, |g| g.samples) + samples, cause },
        });
    }

    /// Puts the block at hand into the ring, if there is room.
    fn hand_over(&mut self, at: Nanos) {
        let (whole, held) = (self.block.len(), std::mem::take(&mut self.held));
        let samples = (held / self.sample) as u64;
        // Only this end puts anything in: what is not full now stays so.
        if self.to.is_full() {
            self.lose(samples, GapCause::Overrun);
            return;
        }
        let next = self.empty.try_recv().unwrap_or_else(|_| vec![0; whole]);
        let mut bytes = std::mem::replace(&mut self.block, next);
        self.block.resize(whole, 0);
        bytes.truncate(held);
        let (gap, fresh) = (self.gap.take(), std::mem::take(&mut self.fresh));
        // Where the feed is gone, nobody looks at it any more.
        let _ = self.to.try_send(Piece { bytes, start: self.start, gap, fresh, at });
        self.start += samples;
    }
}

/// What a call of [`Feed::pump`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// It made a frame.
    Frame,
    /// Nothing came.
    Nothing,
    /// The pipeline is stopping.
    Stop,
}

/// Makes frames of what comes through an [`Inlet`]. Owned by the source's thread; see the [module](self).
pub struct Feed {
    intake: Arc<Intake>,
    sending: Sending,
    heard: Arc<AtomicU64>,
    from: channel::Receiver<Piece>,
    empty: channel::Sender<Vec<u8>>,
    converter: Converter,
    clock: SampleClock,
    shelf: Vec<Arc<SampleBlock>>,
    warned: bool,
}

impl Feed {
    /// A feed of the intake's stream, and its inlet, which may go to any thread.
    pub fn new(intake: &Arc<Intake>, sending: Sending) -> (Inlet, Self) {
        let sample = sending.format.sample_bytes();
        let blocks = (sending.ring.as_secs_f64() * sending.rate / sending.block as f64).ceil().max(2.0) as usize;
        let (to, from) = channel::bounded(blocks);
        let (give, empty) = channel::bounded(blocks + 2);
        let heard = Arc::new(AtomicU64::new(0));
        let inlet = Inlet {
            stream: intake.stream().clone(),
            heard: heard.clone(),
            to,
            empty,
            rate: sending.rate,
            sample,
            block: vec![0; sending.block * sample],
            held: 0,
            start: 0,
            gap: None,
            fresh: false,
            anew: false,
            last: None,
        };
        let feed = Self {
            intake: intake.clone(),
            heard,
            from,
            empty: give,
            converter: Converter::new(sending.format),
            clock: SampleClock::new(sending.rate),
            shelf: Vec::with_capacity(SHELF),
            warned: false,
            sending,
        };
        (inlet, feed)
    }

    /// When bytes last arrived at the inlet; 0 before the first.
    pub fn heard(&self) -> Nanos {
        self.heard.load(Relaxed)
    }

    /// Makes a frame of the next block, which is waited for if there is none.
    pub fn pump(&mut self, patience: Duration) -> Pumped {
        let Ok(piece) = self.from.recv_timeout(patience) else {
            return if self.intake.is_stopping() { Pumped::Stop } else { Pumped::Nothing };
        };
        let at = piece.at;
        let start = piece.start;
        let block = self.block(piece);
        self.intake.signal(Signal::Up);
        let pts = (start as f64 / self.sending.rate * 1e9) as Nanos;
        let arrival = Arrival { complete: at, decoded: clock::now() };
        let frame = Frame::new(self.intake.capture(at), Some(pts), arrival, Payload::Samples(block));
        match self.intake.submit(frame) {
            Flow::More => Pumped::Frame,
            Flow::Stop => Pumped::Stop,
        }
    }

    fn block(&mut self, piece: Piece) -> Arc<SampleBlock> {
        let Piece { bytes, start, gap, fresh, at } = piece;
        if fresh {
            self.clock.restart();
        }
        let end = start + (bytes.len() / self.sending.format.sample_bytes()) as u64;
        if self.clock.arrived(end, at) {
            self.tell();
        }
        let time = self.sending.accuracy.and_then(|stated| self.time(start, stated));
        let Sending { rate, frequency, .. } = self.sending;
        let make = |samples| SampleBlock { samples, rate, frequency, position: start, last: false, gap, time };
        // A block that nobody else holds any more.
        let free = self.shelf.iter().position(|b| Arc::strong_count(b) == 1);
        let mut block = match free.map(|i| self.shelf.swap_remove(i)) {
            Some(block) => block,
            None => Arc::new(make(Vec::with_capacity(self.sending.block))),
        };
        match Arc::get_mut(&mut block) {
            Some(old) => {
                let mut samples = std::mem::take(&mut old.samples);
                samples.clear();
                self.converter.push(&bytes, &mut samples);
                *old = make(samples);
            }
            // Counted as ours alone, and nobody could have taken it since.
            None => unreachable!("a block that is only ours"),
        }
        // A full channel has enough of them.
        let _ = self.empty.try_send(bytes);
        if self.shelf.len() < SHELF {
            self.shelf.push(block.clone());
        }
        block
    }

    /// When the sample at `position` was taken.
    fn time(&self, position: u64, stated: Duration) -> Option<SampleTime> {
        let (at, jitter) = self.clock.time(position)?;
        let ns = clock::wall(Nanos::try_from(at).ok()?).duration_since(UNIX_EPOCH).ok()?.as_nanos() as i64;
        Some(SampleTime { ns, accuracy: stated.max(jitter) })
    }

    /// Publishes what the clock reads.
    fn tell(&mut self) {
        let Some(reading) = self.clock.reading() else { return };
        let stream = self.intake.stream();
        stream.set_sample_clock(reading);
        let wrong = reading.drift_ppm.abs() - reading.uncertainty_ppm > WRONG_RATE;
        if wrong && !self.warned {
            let (stated, measured) = (self.sending.rate, self.sending.rate * (1.0 + reading.drift_ppm / 1e6));
            tracing::warn!(
                stream = &*stream.id,
                stated,
                measured,
                "samples come at another rate than `sample_rate` says, or some are lost before they get here"
            );
        }
        self.warned = wrong;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Counts, Outcome};
    use crate::ring::{WhenFull, ring};
    use proptest::prelude::*;

    const RATE: f64 = 1000.0;

    struct Bench {
        inlet: Inlet,
        feed: Feed,
        frames: channel::Receiver<Frame>,
        stream: Arc<Stream>,
    }

    /// Blocks of 40 real bytes, of which the ring holds `blocks`.
    fn bench(blocks: u64) -> Bench {
        let stream = Arc::new(Stream::new("radio", 0, Some(clock::SECOND), 0, true));
        let (tx, frames) = ring(4096, WhenFull::EvictOldest);
        let intake = Arc::new(Intake::new(stream.clone(), vec![tx], 8));
        let sending = Sending {
            format: "ru8".parse().expect("a form"),
            rate: RATE,
            frequency: None,
            block: 40,
            ring: Duration::from_millis(40 * blocks),
            accuracy: None,
        };
        let (inlet, feed) = Feed::new(&intake, sending);
        Bench { inlet, feed, frames, stream }
    }

    impl Bench {
        fn pump(&mut self) {
            while self.feed.pump(Duration::ZERO) == Pumped::Frame {}
        }

        /// The blocks that came out: position, samples, gap.
        fn blocks(&self) -> Vec<Arc<SampleBlock>> {
            let taken = self.frames.try_iter().map(|f| {
                f.ticket.mark(Outcome::OnTime);
                f.payload.samples().expect("samples").clone()
            });
            taken.collect()
        }

        fn counts(&self) -> Counts {
            self.stream.ledger.counts()
        }
    }

    /// When the sample at this position arrives.
    fn at(position: u64) -> Nanos {
        clock::SECOND + (position as f64 / RATE * 1e9) as Nanos
    }

    /// Bytes that tell their position.
    fn bytes(range: std::ops::Range<u64>) -> Vec<u8> {
        range.map(|i| (i % 251) as u8).collect()
    }

    /// Whether a block holds the samples of its position.
    fn is_true(block: &SampleBlock) -> bool {
        let told = |s: f32| (f64::from(s) * 127.5 + 127.5).round() as u64;
        block.samples.iter().zip(block.position..).all(|(s, i)| told(s.re) == i % 251)
    }

    fn shape(blocks: &[Arc<SampleBlock>]) -> Vec<(u64, usize, Option<Gap>)> {
        blocks.iter().map(|b| (b.position, b.samples.len(), b.gap)).collect()
    }

    #[test]
    fn blocks_are_full_and_a_gap_ends_one_early() {
        let mut b = bench(20);
        b.inlet.push(&bytes(0..100), at(100));
        b.inlet.missing(25, GapCause::Lost);
        b.inlet.push(&bytes(125..170), at(170));
        b.pump();
        let blocks = b.blocks();
        let gap = Some(Gap { samples: 25, cause: GapCause::Lost });
        assert_eq!(shape(&blocks), [(0, 40, None), (40, 40, None), (80, 20, None), (125, 40, gap)]);
        assert!(blocks.iter().all(|b| is_true(b)));
        let c = b.counts();
        assert_eq!((c.samples, c.lost, c.gaps), (140, [0, 25, 0], [0, 1, 0]));
    }

    #[test]
    fn a_full_ring_drops_whole_blocks_and_what_follows_says_so() {
        let mut b = bench(3);
        b.inlet.push(&bytes(0..400), at(400));
        b.pump();
        b.inlet.push(&bytes(400..480), at(480));
        b.pump();
        let blocks = b.blocks();
        let gap = Some(Gap { samples: 280, cause: GapCause::Overrun });
        assert_eq!(shape(&blocks), [(0, 40, None), (40, 40, None), (80, 40, None), (400, 40, gap), (440, 40, None)]);
        assert!(blocks.iter().all(|b| is_true(b)));
        let c = b.counts();
        assert_eq!((c.samples, c.lost, c.gaps), (200, [280, 0, 0], [1, 0, 0]));
    }

    #[test]
    fn what_is_missing_of_a_new_connection_is_known_by_the_clock() {
        let mut b = bench(20);
        b.inlet.interrupted();
        b.inlet.push(&bytes(0..44), at(44));
        // Four of them are too few for a frame, and a second without any.
        b.inlet.interrupted();
        b.inlet.push(&bytes(1047..1087), at(1087));
        b.pump();
        let blocks = b.blocks();
        let gap = Some(Gap { samples: 1007, cause: GapCause::Reconnect });
        assert_eq!(shape(&blocks), [(0, 40, None), (1047, 40, gap),][..]);
        assert_eq!(blocks[1].samples[0].re, (1047 % 251) as f32 / 127.5 - 1.0);
        // At once is one at least.
        b.inlet.interrupted();
        b.inlet.push(&bytes(1088..1128), at(1087));
        b.pump();
        assert_eq!(shape(&b.blocks()), [(1088, 40, Some(Gap { samples: 1, cause: GapCause::Reconnect }))]);
    }

    #[test]
    fn half_a_sample_does_not_outlive_its_connection() {
        let stream = Arc::new(Stream::new("radio", 0, None, 0, true));
        let (tx, frames) = ring(64, WhenFull::EvictOldest);
        let intake = Arc::new(Intake::new(stream, vec![tx], 8));
        let format = "cs16".parse().expect("a form");
        let ring = Duration::from_secs(1);
        let sending = Sending { format, rate: RATE, frequency: None, block: 4, ring, accuracy: None };
        let (mut inlet, mut feed) = Feed::new(&intake, sending);
        inlet.push(&[1, 0, 2, 0, 3, 0], at(1));
        inlet.interrupted();
        inlet.push(&[4, 0, 5, 0, 6, 0, 7, 0], at(2));
        inlet.interrupted();
        while feed.pump(Duration::ZERO) == Pumped::Frame {}
        let of = |f: Frame| {
            f.ticket.mark(Outcome::OnTime);
            let samples = &f.payload.samples().expect("samples").samples;
            samples.iter().flat_map(|s| [(s.re * 32768.0) as i32, (s.im * 32768.0) as i32]).collect::<Vec<_>>()
        };
        assert_eq!(frames.try_iter().map(of).collect::<Vec<_>>(), [vec![1, 2], vec![4, 5, 6, 7]]);
    }

    #[test]
    fn buffers_are_used_again_once_nobody_holds_them() {
        let mut b = bench(20);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..50 {
            b.inlet.push(&bytes(n * 40..(n + 1) * 40), at(n * 40 + 40));
            b.pump();
            let blocks = b.blocks();
            assert!(is_true(&blocks[0]));
            seen.insert(blocks[0].samples.as_ptr() as usize);
        }
        assert_eq!(seen.len(), 1);
        // One that is still held is left alone.
        b.inlet.push(&bytes(2000..2040), at(2040));
        b.pump();
        let held = b.blocks();
        b.inlet.push(&bytes(2040..2080), at(2080));
        b.pump();
        assert!(is_true(&held[0]) && is_true(&b.blocks()[0]));
    }

    #[test]
    fn times_are_given_where_an_accuracy_is_stated_and_are_no_better_than_the_network() {
        for (stated, jitter) in [(5, 1), (5, 40), (100, 1)] {
            let mut b = bench(20);
            b.feed.sending.accuracy = Some(Duration::from_millis(stated));
            let mut random = fastrand::Rng::with_seed(1);
            let mut last = None;
            for n in 0..500 {
                // In turns of ten, so that even the least late of a second is late.
                let late = if n / 50 % 2 == 0 { jitter } else { 0 } + random.u64(..2);
                b.inlet.push(&bytes(n * 40..(n + 1) * 40), at(n * 40 + 40) + late * clock::MILLI);
                b.pump();
                last = b.blocks().pop();
                assert!(n < 100 || last.as_ref().is_some_and(|l| n < 200 || l.time.is_some()), "block {n}");
            }
            let time = last.expect("a block").time.expect("a time");
            let ms = time.accuracy.as_millis() as u64;
            assert!(ms >= stated && (ms >= jitter / 2) && ms <= stated.max(3 * jitter), "{stated} {jitter}: {time:?}");
        }
    }

    proptest! {
        #[test]
        fn every_sample_is_in_a_frame_or_in_a_counted_gap(
            steps in prop::collection::vec((0u8..5, 1u64..130), 1..60), ring in 1u64..6
        ) {
            let mut b = bench(ring);
            let (mut position, mut heard, mut blocks) = (0, false, Vec::new());
            for (step, n) in steps {
                match step {
                    0 => {
                        b.inlet.missing(n, GapCause::Lost);
                        position += n;
                    }
                    // So long that it cannot be mistaken for none.
                    1 if heard => {
                        b.inlet.interrupted();
                        position += 10 * n;
                        b.inlet.push(&bytes(position..position + 1), at(position + 1));
                        position += 1;
                    }
                    2 => {
                        b.pump();
                        blocks.extend(b.blocks());
                    }
                    _ => {
                        b.inlet.push(&bytes(position..position + n), at(position + n));
                        position += n;
                        heard = true;
                    }
                }
            }
            // Room for what is left.
            b.pump();
            blocks.extend(b.blocks());
            b.inlet.cut(GapCause::Lost);
            b.pump();
            blocks.extend(b.blocks());
            let c = b.counts();
            prop_assert_eq!(c.samples + c.lost.iter().sum::<u64>(), position);
            prop_assert_eq!(c.samples, blocks.iter().map(|b| b.samples.len() as u64).sum::<u64>());
            let mut end = 0;
            for block in &blocks {
                prop_assert!(is_true(block), "{:?}", shape(&blocks));
                let gap = block.gap.map_or(0, |g| g.samples);
                prop_assert_eq!(end + gap, block.position);
                end = block.end();
            }
        }
    }
}

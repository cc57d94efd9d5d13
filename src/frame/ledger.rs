//! Who counts frames: a stream's ledger, and the ticket that makes sure that every captured frame is
//! counted under exactly one outcome.

use super::clock::Nanos;
use super::journey::{Journey, Witness};
use super::{Beat, ClockReading, Gap, GapCause, Rhythm};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Why the scheduler gave a frame up before spending work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ShedReason {
    /// It could no longer be delivered before its deadline.
    Deadline,
    /// More frames waited than the device can serve; this one was given up for others.
    Overload,
    /// Its stream is beyond the machine's capacity.
    Admission,
    /// It was older than what its stream has already delivered, or than a stage accepts.
    Stale,
    /// Not even alone on an idle machine could it be delivered before its deadline.
    Infeasible,
}

impl ShedReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Deadline, Self::Overload, Self::Admission, Self::Stale, Self::Infeasible];

    /// The name in metrics, logs and the report.
    pub fn name(self) -> &'static str {
        ["deadline", "overload", "admission", "stale", "infeasible"][self as usize]
    }
}

/// Why a frame failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FailReason {
    /// It arrived and no decoder returned it within a second.
    Decode,
    /// A stage returned an error for it.
    Stage,
    /// A stage panicked on it.
    Panic,
    /// A stage hung on it and was abandoned.
    Hang,
    /// Its stream was removed, or the process stopped, while it was under way.
    Stopped,
    /// It was let go without an outcome. Always a defect of framegate.
    Lost,
}

impl FailReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 6] = [Self::Decode, Self::Stage, Self::Panic, Self::Hang, Self::Stopped, Self::Lost];

    /// The name in metrics, logs and the report.
    pub fn name(self) -> &'static str {
        ["decode", "stage", "panic", "hang", "stopped", "lost"][self as usize]
    }
}

/// How a captured frame ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Delivered before its deadline (or it had none).
    OnTime,
    /// Delivered after its deadline.
    Late,
    /// Given up by the scheduler.
    Shed(ShedReason),
    /// Pushed out of a full ring.
    Evicted,
    /// An error, a panic, or a decoder that never returned it.
    Failed(FailReason),
}

impl Outcome {
    /// The contract's name of the outcome, without its reason.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnTime => "on_time",
            Self::Late => "late",
            Self::Shed(_) => "shed",
            Self::Evicted => "evicted",
            Self::Failed(_) => "failed",
        }
    }

    // Larger wins where the branches of a frame end differently; 0 is "none yet".
    fn code(self) -> u8 {
        match self {
            Self::OnTime => 1,
            Self::Late => 2,
            Self::Shed(r) => 3 + r as u8,
            Self::Evicted => 8,
            Self::Failed(r) => 9 + r as u8,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::OnTime,
            2 => Self::Late,
            3..=7 => Self::Shed(ShedReason::ALL[code as usize - 3]),
            8 => Self::Evicted,
            9..=14 => Self::Failed(FailReason::ALL[code as usize - 9]),
            _ => Self::Failed(FailReason::Lost),
        }
    }
}

/// Counts of one stream's frames. Every number only grows.
#[derive(Debug, Default)]
pub struct Ledger {
    captured: AtomicU64,
    outcomes: [AtomicU64; 15],
    inferred: AtomicU64,
    rescued: AtomicU64,
    copies: AtomicU64,
    reconnects: AtomicU64,
    samples: AtomicU64,
    lost: [AtomicU64; 3],
    gaps: [AtomicU64; 3],
}

/// A consistent reading of a [`Ledger`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames captured.
    pub captured: u64,
    /// Frames delivered before their deadline.
    pub on_time: u64,
    /// Frames delivered after their deadline.
    pub late: u64,
    /// Frames shed, by [`ShedReason`].
    pub shed: [u64; 5],
    /// Frames evicted from full rings.
    pub evicted: u64,
    /// Frames failed, by [`FailReason`].
    pub failed: [u64; 6],
    /// Frames delivered whose result was inferred from their own picture.
    pub inferred: u64,
    /// Frames saved by a lower rung than the stream's ceiling.
    pub rescued: u64,
    /// Pixel copies made, beside the preprocess.
    pub copies: u64,
    /// Times the source was connected again.
    pub reconnects: u64,
    /// Samples that came into frames.
    pub samples: u64,
    /// Samples that are known to be missing, by [`GapCause`].
    pub lost: [u64; 3],
    /// Places where samples are missing, by [`GapCause`].
    pub gaps: [u64; 3],
}

impl Counts {
    /// Frames that have an outcome.
    pub fn ended(&self) -> u64 {
        self.on_time + self.late + self.shed_total() + self.evicted + self.failed_total()
    }
    /// Frames captured and not yet ended.
    pub fn in_flight(&self) -> u64 {
        self.captured - self.ended()
    }
    /// Frames shed, whatever the reason.
    pub fn shed_total(&self) -> u64 {
        self.shed.iter().sum()
    }
    /// Frames failed, whatever the reason.
    pub fn failed_total(&self) -> u64 {
        self.failed.iter().sum()
    }
    /// Frames delivered, on time or late.
    pub fn delivered(&self) -> u64 {
        self.on_time + self.late
    }
}

impl Ledger {
    /// Reads all counters. Outcomes are read before `captured`, so `in_flight` never underflows.
    pub fn counts(&self) -> Counts {
        let at = |o: Outcome| self.outcomes[o.code() as usize].load(std::sync::atomic::Ordering::Acquire);
        let mut c = Counts {
            on_time: at(Outcome::OnTime),
            late: at(Outcome::Late),
            evicted: at(Outcome::Evicted),
            shed: ShedReason::ALL.map(|r| at(Outcome::Shed(r))),
            failed: FailReason::ALL.map(|r| at(Outcome::Failed(r))),
            inferred: self.inferred.load(Relaxed),
            rescued: self.rescued.load(Relaxed),
            copies: self.copies.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            samples: self.samples.load(Relaxed),
            lost: std::array::from_fn(|i| self.lost[i].load(Relaxed)),
            gaps: std::array::from_fn(|i| self.gaps[i].load(Relaxed)),
            captured: 0,
        };
        c.captured = self.captured.load(std::sync::atomic::Ordering::Acquire);
        c
    }

    /// Counts a delivered frame that was really inferred.
    pub fn add_inferred(&self) {
        self.inferred.fetch_add(1, Relaxed);
    }
    /// Counts a frame saved by a lower rung.
    pub fn add_rescued(&self) {
        self.rescued.fetch_add(1, Relaxed);
    }
    /// Counts a copy of a frame's pixels.
    pub fn add_copy(&self) {
        self.copies.fetch_add(1, Relaxed);
    }
    /// Counts a reconnect of the source.
    pub fn add_reconnect(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }
    /// Counts samples that came into a frame.
    pub fn add_samples(&self, n: u64) {
        self.samples.fetch_add(n, Relaxed);
    }
    /// Counts samples as missing.
    pub fn add_lost(&self, n: u64, cause: GapCause) {
        self.lost[cause as usize].fetch_add(n, Relaxed);
    }
    /// Counts a place in the stream where samples are missing; how many is for [`add_lost`](Self::add_lost).
    pub fn add_gap(&self, gap: &Gap) {
        self.gaps[gap.cause as usize].fetch_add(1, Relaxed);
    }
}

/// What a source says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Not connected yet.
    Connecting,
    /// Frames arrive.
    Up,
    /// No frames arrive, for the reason given; the source is trying to recover.
    Down(String),
    /// The stream ended by itself (a file's end).
    Ended,
    /// The source gave up for good, for the reason given (a file that does not exist or cannot be decoded).
    Broken(String),
}

/// One source's sequence of frames: its identity, its rules and its counts.
#[derive(Debug)]
pub struct Stream {
    /// The id in the pipeline file.
    pub id: Arc<str>,
    /// A small number, unique in the process and never used again.
    pub index: u32,
    /// From captured to deadline; `None` for offline work.
    pub deadline: Option<Nanos>,
    /// Larger is more important.
    pub priority: i32,
    /// `/readyz` waits for it.
    pub required: bool,
    /// Its counts.
    pub ledger: Ledger,
    seq: AtomicU64,
    up: AtomicBool,
    signal: Mutex<Signal>,
    rhythm: Mutex<Rhythm>,
    clock: Mutex<Option<ClockReading>>,
    witness: OnceLock<Arc<dyn Witness>>,
}

impl Stream {
    /// A stream without frames.
    pub fn new(id: impl Into<Arc<str>>, index: u32, deadline: Option<Nanos>, priority: i32, required: bool) -> Self {
        Self {
            id: id.into(),
            index,
            deadline,
            priority,
            required,
            ledger: Ledger::default(),
            seq: AtomicU64::new(0),
            up: AtomicBool::new(false),
            signal: Mutex::new(Signal::Connecting),
            rhythm: Mutex::default(),
            clock: Mutex::default(),
            witness: OnceLock::new(),
        }
    }

    /// Counts a frame as captured at `at` and gives it its sequence number.
    pub fn capture(self: &Arc<Self>, at: Nanos) -> Arc<Ticket> {
        self.ledger.captured.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let seq = self.seq.fetch_add(1, Relaxed);
        self.rhythm.lock().beats(at);
        let witness = self.witness.get().filter(|w| w.watches(self.index, seq));
        let deadline = self.deadline.map(|d| at + d);
        Arc::new(Ticket {
            stream: self.clone(),
            seq,
            captured: at,
            worst: AtomicU8::new(0),
            settled: AtomicBool::new(false),
            journey: witness.map(|w| Arc::new(Journey::new(w.clone(), self.id.clone(), seq, at, deadline))),
        })
    }

    /// How regularly its frames are captured.
    pub fn beat(&self) -> Option<Beat> {
        self.rhythm.lock().beat()
    }

    /// What its samples' clock was last measured to do by the host's; `None` before, and for pictures.
    pub fn sample_clock(&self) -> Option<ClockReading> {
        *self.clock.lock()
    }
    /// Notes how fast its samples' clock runs.
    pub fn set_sample_clock(&self, reading: ClockReading) {
        *self.clock.lock() = Some(reading);
    }

    /// Some of its frames are watched from now on. Only the first witness counts.
    pub fn watch(&self, witness: Arc<dyn Witness>) {
        let _ = self.witness.set(witness);
    }

    /// Goes on numbering where `seq` stands: for a stream that replaces another of the same id.
    pub fn continue_from(&self, seq: u64) {
        self.seq.store(seq, Relaxed);
    }
    /// The next sequence number.
    pub fn next_seq(&self) -> u64 {
        self.seq.load(Relaxed)
    }

    /// Notes what the source says of itself; returns the state before.
    pub fn set_signal(&self, signal: Signal) -> Signal {
        self.up.store(signal == Signal::Up, Relaxed);
        std::mem::replace(&mut self.signal.lock(), signal)
    }
    /// What the source last said of itself.
    pub fn signal(&self) -> Signal {
        self.signal.lock().clone()
    }
    /// Whether frames arrive.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }
}

/// A captured frame's entry in its stream's ledger, shared by all branches of the frame.
///
/// When the last branch lets go of it, the worst outcome that any of them [`mark`](Ticket::mark)ed is counted; a
/// ticket that nobody marked counts as failed. So conservation holds by construction, across panics too.
#[derive(Debug)]
pub struct Ticket {
    /// The frame's stream.
    pub stream: Arc<Stream>,
    /// The frame's number within its stream.
    pub seq: u64,
    /// When the frame's first byte reached this host.
    pub captured: Nanos,
    worst: AtomicU8,
    settled: AtomicBool,
    journey: Option<Arc<Journey>>,
}

impl Ticket {
    /// Counts the frame now, although somebody may still hold on to it: for work that hangs and is abandoned.
    /// What is marked later changes nothing any more.
    pub fn settle(&self, outcome: Outcome) {
        self.mark(outcome);
        self.count();
    }

    fn count(&self) {
        if !self.settled.swap(true, std::sync::atomic::Ordering::AcqRel) {
            let outcome = Outcome::from_code(self.worst.load(Relaxed));
            self.stream.ledger.outcomes[outcome.code() as usize].fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            if let Some(journey) = &self.journey {
                journey.counted(outcome);
            }
        }
    }

    /// Notes how a branch of the frame ended. Failed beats evicted beats shed beats late beats on time.
    pub fn mark(&self, outcome: Outcome) {
        self.worst.fetch_max(outcome.code(), Relaxed);
    }

    /// The worst outcome marked so far.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.worst.load(Relaxed) {
            0 => None,
            code => Some(Outcome::from_code(code)),
        }
    }

    /// The frame's way, if it is watched.
    pub fn journey(&self) -> Option<&Arc<Journey>> {
        self.journey.as_ref()
    }

    /// Captured plus the stream's deadline; `None` for offline work.
    pub fn deadline(&self) -> Option<Nanos> {
        self.stream.deadline.map(|d| self.captured + d)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ticket_is_counted_once_under_its_worst_outcome() {
        let s = Arc::new(Stream::new("cam0", 0, Some(33), 0, true));
        let a = s.capture(1);
        let b = a.clone();
        a.mark(Outcome::Late);
        b.mark(Outcome::OnTime);
        drop(a);
        assert_eq!(s.ledger.counts().in_flight(), 1);
        drop(b);
        s.capture(2).mark(Outcome::Shed(ShedReason::Infeasible));
        drop(s.capture(3));
        let hung = s.capture(4);
        hung.settle(Outcome::Failed(FailReason::Hang));
        assert_eq!(s.ledger.counts().failed[3], 1);
        hung.mark(Outcome::Failed(FailReason::Lost));
        drop(hung);
        let c = s.ledger.counts();
        assert_eq!((c.captured, c.late, c.shed[4], c.failed[5], c.in_flight()), (4, 1, 1, 1, 0));
    }

    #[test]
    fn codes_round_trip() {
        let all = [Outcome::OnTime, Outcome::Late, Outcome::Evicted]
            .into_iter()
            .chain(ShedReason::ALL.map(Outcome::Shed))
            .chain(FailReason::ALL.map(Outcome::Failed));
        for o in all {
            assert_eq!(Outcome::from_code(o.code()), o);
        }
    }
}

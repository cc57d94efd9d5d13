//! What came out.

use crate::frame::Nanos;

/// What became of one stream.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Frames captured.
    pub captured: u64,
    /// Delivered before the deadline.
    pub on_time: u64,
    /// Delivered after it.
    pub late: u64,
    /// Shed, by [`ShedReason`](crate::frame::ShedReason).
    pub shed: [u64; 5],
    /// Pushed out of a full queue.
    pub evicted: u64,
    /// Delivered with a result of their own picture.
    pub inferred: u64,
    /// Saved by a rung below their ceiling.
    pub rescued: u64,
    /// Of the frames captured behind the warm-up: how many there were, and how many were on time.
    pub settled: (u64, u64),
    /// Delivered, by rung.
    pub rungs: Vec<u64>,
    /// Moves of the ceiling, down and up.
    pub moves: (u64, u64),
    /// Latencies of delivered frames behind the warm-up, nanoseconds, in the order of delivery.
    pub latencies: Vec<Nanos>,
    /// Sums over the delivered frames behind the warm-up: decode, prepare, execute, tail, nanoseconds. What else they
    /// spent was waiting.
    pub parts: [f64; 4],
}

impl Tally {
    /// Frames that ended.
    pub fn ended(&self) -> u64 {
        self.on_time + self.late + self.shed.iter().sum::<u64>() + self.evicted
    }
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    /// By stream.
    pub streams: Vec<Tally>,
    /// Batches run, and the frames in them, by site.
    pub batches: Vec<(u64, u64)>,
    /// How long batches took, by site, in the order in which they ended.
    pub spans: Vec<Vec<Nanos>>,
    /// How long frames waited for each site: from ready to the start of their batch, without their preprocess.
    pub waits: Vec<Vec<Nanos>>,
    /// Share of the time that slots were busy, of all devices together.
    pub busy: f64,
    /// The same for each device.
    pub loads: Vec<f64>,
    /// Decisions taken.
    pub decisions: u64,
    /// Frames that were started although what was expected of their batch and of the rest of their way said that they
    /// would be late; always 0 with a start test.
    pub known_late: u64,
    /// When each stream's ceiling moved: time, stream, rung.
    pub climbs: Vec<(Nanos, usize, usize)>,
    /// Frames that came out late: when they were captured.
    pub late_at: Vec<Nanos>,
}

impl Outcomes {
    /// Frames on time over all streams.
    pub fn on_time(&self) -> u64 {
        self.streams.iter().map(|s| s.on_time).sum()
    }

    /// Share of captured frames that were on time, 0 to 1.
    pub fn on_time_share(&self) -> f64 {
        self.on_time() as f64 / self.streams.iter().map(|s| s.captured).sum::<u64>().max(1) as f64
    }

    /// On-time frames of the worst-served stream over the mean of all.
    pub fn fairness(&self) -> f64 {
        let worst = self.streams.iter().map(|s| s.on_time).min().unwrap_or(0);
        worst as f64 * self.streams.len() as f64 / self.on_time().max(1) as f64
    }
}

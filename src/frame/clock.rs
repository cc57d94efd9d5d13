//! The one clock of the process: `CLOCK_MONOTONIC`, in nanoseconds.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, or a span of time, in nanoseconds of the monotonic clock.
///
/// GStreamer's system clock counts the same nanoseconds, so its clock times compare directly with these.
pub type Nanos = u64;

/// One millisecond in [`Nanos`].
pub const MILLI: Nanos = 1_000_000;
/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000_000_000;

/// The monotonic clock now.
pub fn now() -> Nanos {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as Nanos * SECOND + t.tv_nsec as Nanos
}

/// Wall clock less monotonic clock, nanoseconds; 0 until it is first measured.
static OFFSET: AtomicI64 = AtomicI64::new(0);

/// The wall-clock time of a monotonic instant, by the offset between the two clocks.
///
/// The offset is kept while it holds to within half a millisecond: all sinks say the same time of a frame, and the
/// time between two frames is the monotonic clock's. A wall clock that is set or slewed is followed in such steps.
pub fn wall(at: Nanos) -> SystemTime {
    let offset = offset();
    let since = (at as i64).saturating_add(offset);
    if since >= 0 {
        UNIX_EPOCH + Duration::from_nanos(since as u64)
    } else {
        UNIX_EPOCH - Duration::from_nanos(since.unsigned_abs())
    }
}

fn offset() -> i64 {
    let kept = OFFSET.load(Relaxed);
    let mut best = (Nanos::MAX, kept);
    for _ in 0..3 {
        let before = now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        let span = now() - before;
        if span < best.0 {
            best = (span, wall - (before + span / 2) as i64);
        }
        if kept != 0 && (best.1 - kept).unsigned_abs() <= MILLI / 2 {
            return kept;
        }
        // Not preempted between the readings.
        if span < MILLI / 20 {
            break;
        }
    }
    OFFSET.store(best.1, Relaxed);
    best.1
}

/// Nanoseconds as fractional milliseconds.
pub fn millis(span: Nanos) -> f64 {
    span as f64 / MILLI as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_keeps_the_monotonic_clocks_distances() {
        let at = now();
        let first = wall(at);
        for ms in 1..200 {
            assert_eq!(wall(at + ms * MILLI).duration_since(first).unwrap(), Duration::from_millis(ms));
        }
        let error = SystemTime::now().duration_since(wall(now())).unwrap_or_else(|e| e.duration());
        assert!(error < Duration::from_millis(50), "{error:?}");
    }
}

//! The one clock of the process: `CLOCK_MONOTONIC`, in nanoseconds.

use std::time::{Duration, SystemTime};

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

/// The wall-clock time of a monotonic instant, by the offset between the two clocks now.
pub fn wall(at: Nanos) -> SystemTime {
    let (mono, wall) = (now(), SystemTime::now());
    if at <= mono { wall - Duration::from_nanos(mono - at) } else { wall + Duration::from_nanos(at - mono) }
}

/// Nanoseconds as fractional milliseconds.
pub fn millis(span: Nanos) -> f64 {
    span as f64 / MILLI as f64
}

//! Whether the threads move: each engine thread says when it takes a piece of work and when it is done with it.
//!
//! A thread that waits for frames is well; one that holds a piece of work longer than that work's bound is stuck. So
//! an absent camera is not a hang, and a call into a driver that never returns is one.

use crate::frame::Nanos;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

#[derive(Debug)]
struct State {
    thread: Arc<str>,
    /// When the piece of work was taken.
    began: AtomicU64,
    /// When it has to be done; 0 between pieces of work.
    until: AtomicU64,
    abandoned: AtomicBool,
}

/// A thread's heartbeat. Two atomic stores for each piece of work.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<State>);

impl Pulse {
    /// The thread takes a piece of work that has to be done within `bound`.
    pub fn begin(&self, now: Nanos, bound: Nanos) {
        self.0.began.store(now, Release);
        self.0.until.store(now.saturating_add(bound).max(1), Release);
    }

    /// The thread is done with it.
    pub fn end(&self) {
        self.0.until.store(0, Release);
    }

    /// The engine has given the thread up and replaced it: it is no longer listed, whatever it does.
    /// Returns whether this call was the first.
    pub fn abandon(&self) -> bool {
        !self.0.abandoned.swap(true, AcqRel)
    }

    /// Whether the engine has given the thread up; one that wakes up after all must not touch anything and end.
    pub fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Acquire)
    }

    /// The thread's name.
    pub fn thread(&self) -> &Arc<str> {
        &self.0.thread
    }
}

/// A thread that holds a piece of work for too long.
#[derive(Debug, Clone)]
pub struct Stuck {
    /// Its heartbeat.
    pub pulse: Pulse,
    /// For how long it has held the piece of work.
    pub held: Duration,
    /// For how long it may.
    pub bound: Duration,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "thread `{}` has been at one piece of work for {:.1} s, allowed are {:.1} s",
            self.pulse.thread(),
            self.held.as_secs_f64(),
            self.bound.as_secs_f64()
        )
    }
}

/// All heartbeats of the process.
#[derive(Debug, Default)]
pub struct Health {
    pulses: Mutex<Vec<Weak<State>>>,
}

impl Health {
    /// A heartbeat for a thread of this name. It is watched until its last clone is dropped.
    pub fn pulse(&self, thread: impl Into<Arc<str>>) -> Pulse {
        let state = Arc::new(State {
            thread: thread.into(),
            began: AtomicU64::new(0),
            until: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
        });
        let mut pulses = self.pulses.lock();
        pulses.retain(|p| p.strong_count() > 0);
        pulses.push(Arc::downgrade(&state));
        Pulse(state)
    }

    /// Threads that hold a piece of work longer than its bound, the longest over first.
    pub fn stuck(&self, now: Nanos) -> Vec<Stuck> {
        let mut stuck: Vec<Stuck> =
            self.pulses.lock().iter().filter_map(Weak::upgrade).filter_map(check(now)).collect();
        stuck.sort_by_key(|s| std::cmp::Reverse(s.held.saturating_sub(s.bound)));
        stuck
    }

    /// Threads that are watched.
    pub fn watched(&self) -> usize {
        self.pulses.lock().iter().filter(|p| p.strong_count() > 0).count()
    }
}

fn check(now: Nanos) -> impl Fn(Arc<State>) -> Option<Stuck> {
    move |state| {
        let until = state.until.load(Acquire);
        let began = state.began.load(Acquire);
        // Read again: a thread that took its next piece in between is not stuck.
        if until == 0 || now <= until || state.until.load(Acquire) != until || state.abandoned.load(Acquire) {
            return None;
        }
        Some(Stuck {
            held: Duration::from_nanos(now.saturating_sub(began)),
            bound: Duration::from_nanos(until.saturating_sub(began)),
            pulse: Pulse(state),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::SECOND;

    #[test]
    fn only_a_thread_that_holds_work_too_long_is_stuck() {
        let health = Health::default();
        let (idle, busy) = (health.pulse("idle"), health.pulse("detect"));
        busy.begin(10 * SECOND, SECOND);
        assert!(health.stuck(11 * SECOND).is_empty());
        let stuck = health.stuck(13 * SECOND);
        assert_eq!(stuck.len(), 1);
        assert_eq!(&**stuck[0].pulse.thread(), "detect");
        assert_eq!(stuck[0].to_string(), "thread `detect` has been at one piece of work for 3.0 s, allowed are 1.0 s");
        busy.end();
        assert!(health.stuck(99 * SECOND).is_empty());
        drop(idle);
        assert_eq!(health.watched(), 1);
    }

    #[test]
    fn an_abandoned_thread_is_not_listed_again() {
        let health = Health::default();
        let pulse = health.pulse("detect");
        pulse.begin(0, 5);
        assert_eq!(health.stuck(6).len(), 1);
        assert!(health.stuck(6)[0].pulse.abandon());
        assert!(!pulse.abandon());
        assert!(pulse.is_abandoned());
        assert!(health.stuck(7).is_empty());
    }
}

//! The streams: when their frames arrive, and which way they take over the devices' stages.

use crate::frame::Nanos;
use crate::frame::clock::SECOND;
use std::sync::Arc;

/// One stream's frames and what they pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// Time between two frames.
    pub period: Nanos,
    /// When the first frame is captured; `None`: at random within a period.
    pub phase: Option<Nanos>,
    /// Captures are late by up to this, evenly spread.
    pub jitter: Nanos,
    /// So many frames arrive together, with the last of them; at least 1.
    pub burst: u32,
    /// From captured to ready for the first stage: arrival and decoding.
    pub decode: Nanos,
    /// Its deviation, as a share of it.
    pub decode_spread: f64,
    /// Captured to deadline.
    pub deadline: Option<Nanos>,
    /// Larger is more important.
    pub priority: i32,
    /// Frames that may wait in front of a stage.
    pub capacity: usize,
    /// Times when nothing arrives; what was captured meanwhile comes in one burst at the end. Ascending.
    pub pauses: Vec<Span>,
    /// Times when the stream is gone: its frames are never captured.
    pub stalls: Vec<Span>,
    /// What arrives, where that has been recorded: when frames were captured and when they were ready, ascending. Takes
    /// the place of all that is said about arrivals above.
    pub recorded: Option<Arc<[(Nanos, Nanos)]>>,
    /// When the stream is there. Frames outside are never captured.
    pub present: Span,
    /// The stages it passes, one list of sites for each branch.
    pub branches: Vec<Vec<usize>>,
    /// Branches that do not begin with the decoded frame. Those they wait for come before them in the list.
    pub forks: Vec<Fork>,
}

/// Where a branch begins that leaves others, or at which others join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The branch that begins.
    pub branch: usize,
    /// The steps that have to be done: branch and place in its list.
    pub behind: Vec<(usize, usize)>,
}

impl Feed {
    /// A steady stream through one stage, there from the start.
    pub fn steady(fps: f64, deadline: Nanos) -> Self {
        let period = (SECOND as f64 / fps) as Nanos;
        Self {
            period,
            phase: None,
            jitter: 0,
            burst: 1,
            decode: 0,
            decode_spread: 0.0,
            deadline: Some(deadline),
            priority: 0,
            capacity: (deadline / period.max(1)) as usize + 3,
            pauses: Vec::new(),
            stalls: Vec::new(),
            recorded: None,
            present: Span { from: 0, to: Nanos::MAX },
            branches: vec![vec![0]],
            forks: Vec::new(),
        }
    }
}

/// From a time on, and up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first nanosecond.
    pub from: Nanos,
    /// The first nanosecond after it.
    pub to: Nanos,
}

impl Span {
    pub(super) fn holds(self, at: Nanos) -> bool {
        at >= self.from && at < self.to
    }
}

/// Steps of a stream that are told apart: far more than there are stages on devices.
const STEPS: u32 = 64;

/// A stream's way, prepared: which steps lie before which. Steps are bits, branch after branch.
pub(super) struct Route {
    /// The first step of each branch.
    firsts: Vec<u32>,
    /// All steps that a frame has made when a branch is done.
    upstream: Vec<u64>,
    /// Branches that begin behind others, with the steps that they wait for.
    forks: Vec<(u16, u64)>,
}

impl Route {
    pub(super) fn new(feed: &Feed) -> Self {
        let mut firsts = Vec::new();
        let mut next = 0;
        for branch in &feed.branches {
            firsts.push(next);
            next += branch.len() as u32;
        }
        let mut route = Self { firsts, upstream: Vec::new(), forks: Vec::new() };
        for (b, branch) in feed.branches.iter().enumerate() {
            let mut steps = (0..branch.len()).fold(0, |all, step| all | route.step(b, step));
            if let Some(fork) = feed.forks.iter().find(|f| f.branch == b) {
                let behind = fork.behind.iter().filter(|(of, _)| *of < b);
                let mut mask = 0;
                for &(of, step) in behind {
                    mask |= route.step(of, step);
                    // What lies before that step on its branch, and before that branch.
                    let after = (step + 1..feed.branches[of].len()).fold(0, |all, s| all | route.step(of, s));
                    steps |= route.upstream[of] & !after;
                }
                if mask != 0 {
                    route.forks.push((b as u16, mask));
                }
            }
            route.upstream.push(steps);
        }
        route
    }

    /// A step's bit.
    pub(super) fn step(&self, branch: usize, step: usize) -> u64 {
        match self.firsts.get(branch).map(|first| first + step as u32) {
            Some(bit) if bit < STEPS => 1 << bit,
            _ => 0,
        }
    }

    /// Whether a branch begins with the decoded frame.
    pub(super) fn is_root(&self, branch: u16) -> bool {
        !self.forks.iter().any(|f| f.0 == branch)
    }

    /// The steps that lie before the end of a branch.
    pub(super) fn upstream(&self, branch: u16) -> u64 {
        self.upstream.get(usize::from(branch)).copied().unwrap_or(0)
    }

    /// Whether one of these steps is on one of these branches.
    pub(super) fn waits_for(&self, steps: u64, branches: u64) -> bool {
        let end = |b: usize| self.firsts.get(b + 1).copied().unwrap_or(STEPS).min(STEPS);
        let mask = |bit: u32| 1_u64.checked_shl(bit).map_or(u64::MAX, |b| b - 1);
        let on = |b: usize| steps & mask(end(b)) & !mask(self.firsts[b]);
        (0..self.firsts.len().min(STEPS as usize)).any(|b| branches >> b & 1 == 1 && on(b) != 0)
    }

    /// Branches that begin behind others, with the steps that they wait for.
    pub(super) fn forks(&self) -> &[(u16, u64)] {
        &self.forks
    }
}

/// When the frame of number `seq` that is due at `nominal` arrives.
pub(super) fn arrival(feed: &Feed, seq: u64, nominal: Nanos, rng: &mut fastrand::Rng) -> Nanos {
    let late = if feed.jitter > 0 { rng.u64(0..=feed.jitter) } else { 0 };
    let burst = u64::from(feed.burst.max(1));
    // With the last frame of its burst.
    let at = nominal + late + (burst - 1 - seq % burst) * feed.period;
    feed.pauses.iter().find(|p| p.holds(at)).map_or(at, |p| p.to)
}

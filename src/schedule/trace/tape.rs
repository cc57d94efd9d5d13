//! A planner that is listened to.

use super::{Decision, Item, Setup, Told};
use crate::frame::Nanos;
use crate::schedule::{Lane, Next, Plan, Planner, Variant, Waiting};

/// Takes what a planner is told.
pub type Tape = Box<dyn FnMut(Told) + Send>;

/// A planner that can be listened to. Without a tape it costs nothing: no copy, no allocation.
pub struct Taped<T> {
    planner: Planner<T>,
    tape: Option<Tape>,
}

impl<T> std::ops::Deref for Taped<T> {
    type Target = Planner<T>;

    fn deref(&self) -> &Planner<T> {
        &self.planner
    }
}

impl<T: Item> Taped<T> {
    /// Makes the planner, and puts it on tape where there is one.
    pub fn new(setup: Setup, mut tape: Option<Tape>) -> Self {
        let planner = setup.planner();
        if let Some(tape) = &mut tape {
            tape(Told::Made(Box::new(setup)));
        }
        Self { planner, tape }
    }

    fn tell(&mut self, told: impl FnOnce() -> Told) {
        if let Some(tape) = &mut self.tape {
            tape(told());
        }
    }

    /// [`Planner::open`], of a stream with this id.
    pub fn open(&mut self, name: &str, lane: Lane) {
        self.tell(|| Told::Open { name: name.to_owned(), lane });
        self.planner.open(lane);
    }

    /// [`Planner::admit`].
    pub fn admit(&mut self, stream: u32, admitted: bool) {
        self.tell(|| Told::Admit(stream, admitted));
        self.planner.admit(stream, admitted);
    }

    /// [`Planner::set_ceiling`].
    pub fn set_ceiling(&mut self, stream: u32, rung: usize) {
        self.tell(|| Told::Ceiling(stream, rung));
        self.planner.set_ceiling(stream, rung);
    }

    /// [`Planner::end`].
    pub fn end(&mut self, stream: u32, site: usize) {
        self.tell(|| Told::End(stream, site));
        self.planner.end(stream, site);
    }

    /// [`Planner::arrive`].
    pub fn arrive(&mut self, stream: u32, site: usize, now: Nanos, waiting: Waiting, item: T) -> Option<T> {
        let out = self.planner.arrive(stream, site, now, waiting, item);
        self.tell(|| Told::Arrive {
            stream,
            site,
            now,
            seq: waiting.seq,
            captured: waiting.captured,
            ready: waiting.ready,
            deadline: waiting.deadline,
            rung: waiting.rung,
            places: waiting.places,
            out: out.as_ref().map(|item| item.id().1),
        });
        out
    }

    /// [`Planner::ran`].
    pub fn ran(&mut self, site: usize, variant: usize, places: usize, started: Nanos, span: Nanos) {
        self.tell(|| Told::Ran(site, variant, places, started, span));
        self.planner.ran(site, variant, places, started, span);
    }

    /// [`Planner::prepared`].
    pub fn prepared(&mut self, site: usize, variant: usize, span: Nanos) {
        self.tell(|| Told::Prepared(site, variant, span));
        self.planner.prepared(site, variant, span);
    }

    /// [`Planner::delivered`].
    pub fn delivered(&mut self, site: usize, stream: u32, at: Nanos, tail: Nanos, late: Nanos) {
        self.tell(|| Told::Delivered(site, stream, at, tail, late));
        self.planner.delivered(site, stream, at, tail, late);
    }

    /// [`Planner::came_through`].
    pub fn came_through(&mut self, site: usize, at: Nanos, tail: Nanos) {
        self.tell(|| Told::CameThrough(site, at, tail));
        self.planner.came_through(site, at, tail);
    }

    /// [`Planner::opens`].
    pub fn opens(&mut self, rung: usize, loaded: Vec<(usize, usize, Variant)>) {
        self.planner.opens(rung, &loaded);
        self.tell(|| Told::Opens(rung, loaded));
    }

    /// [`Planner::gives_up`].
    pub fn gives_up(&mut self, rung: usize) {
        self.tell(|| Told::GivesUp(rung));
        self.planner.gives_up(rung);
    }

    /// [`Planner::abandon`].
    pub fn abandon(&mut self) -> Vec<T> {
        let gone = self.planner.abandon();
        self.tell(|| Told::Abandon(gone.len()));
        gone
    }

    /// [`Planner::plan`].
    pub fn plan(&mut self, now: Nanos, free_at: Nanos, plan: &mut Plan<T>) -> Next {
        let next = self.planner.plan(now, free_at, plan);
        self.tell(|| Told::Plan(Box::new(Decision::of(now, free_at, next, plan))));
        next
    }
}

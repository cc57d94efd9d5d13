//! Where streams meet inside of a pipeline: stages hand over what they have, sources make new streams of it.
//!
//! A stage of one stream cannot wait for another stream without delaying its own. So it hands over and goes on, and
//! whoever waits is a source, with a deadline of its own.

use super::{Annotations, Arrival, Frame, Nanos, Payload, Stream};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a stage hands over of a frame.
#[derive(Debug, Clone)]
pub struct Handed {
    /// The stream that it is from.
    pub stream: Arc<Stream>,
    /// When its frame was captured.
    pub captured: Nanos,
    /// When it arrived.
    pub arrival: Arrival,
    /// Stream time.
    pub pts: Option<Nanos>,
    /// Pixels or samples.
    pub payload: Payload,
    /// What stages wrote so far.
    pub annotations: Annotations,
}

impl From<&Frame> for Handed {
    fn from(frame: &Frame) -> Self {
        Self {
            stream: frame.stream().clone(),
            captured: frame.ticket.captured,
            arrival: frame.arrival,
            pts: frame.pts,
            payload: frame.payload.clone(),
            annotations: frame.annotations.clone(),
        }
    }
}

/// The meeting places of a pipeline, by name. They outlive a reload, as sources do.
#[derive(Debug, Default)]
pub struct Exchange(Mutex<BTreeMap<String, Arc<Place>>>);

impl Exchange {
    /// The place of this name.
    pub fn place(&self, name: &str) -> Arc<Place> {
        self.0.lock().entry(name.to_owned()).or_default().clone()
    }

    /// Somebody will come to take at this place: what is handed over before waits for them.
    pub fn expect(&self, name: &str) {
        let place = self.place(name);
        let mut state = place.state.lock();
        if matches!(state.taker, Taker::None | Taker::Gone) {
            state.taker = Taker::Expected;
        }
    }

    /// Whether somebody takes at this place, or will.
    pub fn expected(&self, name: &str) -> bool {
        self.0.lock().get(name).is_some_and(|p| matches!(p.state.lock().taker, Taker::Expected | Taker::Here(_)))
    }
}

/// What waits at one place, at most: beyond it the oldest is given up, or whoever hands over waits.
const ROOM: usize = 64;
/// How long an offline giver waits for somebody who is expected.
const PATIENCE: Duration = Duration::from_secs(5);

/// One place: givers on one side, a taker on the other.
#[derive(Debug, Default)]
pub struct Place {
    state: Mutex<State>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Handed>,
    taker: Taker,
    /// Those who give, the newest last: a reload builds the new one before the old one goes.
    givers: Vec<Givers>,
    next: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Taker {
    /// Nobody takes here.
    #[default]
    None,
    /// Somebody will.
    Expected,
    Here(u64),
    /// They went.
    Gone,
}

#[derive(Debug)]
struct Givers {
    id: u64,
    seen: BTreeMap<u32, Arc<str>>,
    ended: Ended,
}

/// Which streams have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// Those that something was handed over of.
    pub streams: Vec<Arc<str>>,
    /// Those that nobody knows the name of, as nothing was.
    pub unknown: usize,
}

/// What there is to take.
#[derive(Debug)]
pub enum Taken {
    /// This.
    One(Box<Handed>),
    /// Nothing, as long as the taker was ready to wait.
    Nothing,
}

impl Place {
    /// Somebody gives here from now on.
    pub fn give(self: &Arc<Self>, blocks: bool) -> Giver {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.givers.push(Givers { id, seen: BTreeMap::new(), ended: Ended::default() });
        Giver { place: self.clone(), id, blocks }
    }

    /// Somebody takes here from now on; what waited for an earlier taker is given up.
    pub fn take(self: &Arc<Self>) -> TakerHere {
        let mut state = self.state.lock();
        if state.taker != Taker::Expected {
            state.waiting.clear();
        }
        let id = state.next;
        state.next += 1;
        state.taker = Taker::Here(id);
        self.changed.notify_all();
        TakerHere { place: self.clone(), id }
    }

    /// What was given up because nobody took it in time.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// One who hands over at a place. Clones are made by sharing it.
#[derive(Debug)]
pub struct Giver {
    place: Arc<Place>,
    id: u64,
    blocks: bool,
}

impl Giver {
    /// Hands over, if there is somebody who takes. Live streams never wait: the oldest that waits is given up where there
    /// is no room. Offline a giver waits for room, and a few seconds for those who are expected.
    pub fn hand(&self, handed: Handed) {
        let mut state = self.place.state.lock();
        if let Some(me) = state.givers.iter_mut().find(|g| g.id == self.id) {
            me.ended.streams.retain(|s| **s != *handed.stream.id);
            me.seen.entry(handed.stream.index).or_insert_with(|| handed.stream.id.clone());
        }
        if self.blocks {
            let end = Instant::now() + PATIENCE;
            while state.waiting.len() >= ROOM && matches!(state.taker, Taker::Here(_) | Taker::Expected) {
                self.place.changed.wait_for(&mut state, PATIENCE / 50);
                if state.taker == Taker::Expected && Instant::now() > end {
                    state.taker = Taker::Gone;
                    state.waiting.clear();
                }
            }
        }
        if matches!(state.taker, Taker::None | Taker::Gone) {
            return;
        }
        if state.waiting.len() >= ROOM {
            state.waiting.pop_front();
            self.place.lost.fetch_add(1, Relaxed);
        }
        state.waiting.push_back(handed);
        self.place.changed.notify_all();
    }

    /// A stream is gone for good.
    pub fn ended(&self, stream: u32) {
        let mut state = self.place.state.lock();
        if let Some(me) = state.givers.iter_mut().find(|g| g.id == self.id) {
            match me.seen.get(&stream) {
                Some(id) => me.ended.streams.push(id.clone()),
                None => me.ended.unknown += 1,
            }
        }
        self.place.changed.notify_all();
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.place.state.lock().givers.retain(|g| g.id != self.id);
    }
}

/// The one who takes at a place; nobody does when it is dropped.
#[derive(Debug)]
pub struct TakerHere {
    place: Arc<Place>,
    id: u64,
}

impl TakerHere {
    /// Takes the oldest, or waits for one.
    pub fn next(&self, wait: Duration) -> Taken {
        let mut state = self.place.state.lock();
        if state.waiting.is_empty() {
            self.place.changed.wait_for(&mut state, wait);
        }
        let Some(handed) = state.waiting.pop_front() else { return Taken::Nothing };
        self.place.changed.notify_all();
        Taken::One(Box::new(handed))
    }

    /// Which streams have ended, as far as those know who give now.
    pub fn ended(&self) -> Ended {
        self.place.state.lock().givers.last().map(|g| g.ended.clone()).unwrap_or_default()
    }

    /// What was given up so far because it was not taken in time.
    pub fn lost(&self) -> u64 {
        self.place.lost()
    }
}

impl Drop for TakerHere {
    fn drop(&mut self) {
        let mut state = self.place.state.lock();
        // Another may have come already.
        if state.taker == Taker::Here(self.id) {
            state.taker = Taker::Gone;
            state.waiting.clear();
            self.place.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(stream: &Arc<Stream>, captured: Nanos) -> Handed {
        Handed {
            stream: stream.clone(),
            captured,
            arrival: Arrival::default(),
            pts: None,
            payload: Payload::Empty,
            annotations: Annotations::default(),
        }
    }

    fn stream(id: &str, index: u32) -> Arc<Stream> {
        Arc::new(Stream::new(id, index, None, 0, true))
    }

    fn times(taker: &TakerHere) -> Vec<Nanos> {
        std::iter::from_fn(|| match taker.next(Duration::ZERO) {
            Taken::One(h) => Some(h.captured),
            Taken::Nothing => None,
        })
        .collect()
    }

    #[test]
    fn live_givers_give_the_oldest_up_and_never_wait() {
        let exchange = Exchange::default();
        let giver = exchange.place("a").give(false);
        let stream = stream("s", 0);
        giver.hand(handed(&stream, 7));
        exchange.expect("a");
        for at in 0..ROOM as Nanos + 3 {
            giver.hand(handed(&stream, at));
        }
        let taker = exchange.place("a").take();
        assert_eq!(taker.lost(), 3);
        assert_eq!(times(&taker), (3..ROOM as Nanos + 3).collect::<Vec<_>>());
        drop(taker);
        giver.hand(handed(&stream, 1));
        assert_eq!(times(&exchange.place("a").take()), Vec::<Nanos>::new(), "nobody took");
    }

    #[test]
    fn offline_givers_wait_for_room_and_a_taker_that_goes_lets_them_on() {
        let exchange = Exchange::default();
        let taker = exchange.place("a").take();
        let giver = exchange.place("a").give(true);
        let stream = stream("s", 0);
        let all = 3 * ROOM as Nanos;
        let thread = std::thread::spawn(move || (0..all).for_each(|at| giver.hand(handed(&stream, at))));
        for at in 0..all / 2 {
            let Taken::One(h) = taker.next(Duration::from_secs(10)) else { panic!("one") };
            assert_eq!(h.captured, at);
        }
        assert_eq!(taker.lost(), 0);
        drop(taker);
        thread.join().unwrap();
    }

    #[test]
    fn the_newest_giver_says_which_streams_ended() {
        let exchange = Exchange::default();
        let place = exchange.place("a");
        let taker = place.take();
        let old = place.give(false);
        let (a, b) = (stream("a", 0), stream("b", 1));
        old.hand(handed(&a, 0));
        old.ended(0);
        old.ended(7);
        assert_eq!(taker.ended(), Ended { streams: vec!["a".into()], unknown: 1 });
        let new = place.give(false);
        assert_eq!(taker.ended(), Ended::default());
        new.hand(handed(&b, 0));
        new.ended(1);
        new.hand(handed(&b, 1));
        assert_eq!(taker.ended(), Ended::default(), "it came back");
        drop(new);
        assert_eq!(taker.ended().unknown, 1);
    }
}

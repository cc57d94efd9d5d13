//! What a node reads: one ring for each stream that flows into it, and where branches join, the copies of a frame
//! brought together again.

use crate::frame::{Frame, Stream};
use crate::ring::{self, Bell, Sender, WhenFull};
use crate::telemetry::{RingMeter, StreamMeter};
use crossbeam_channel::{Receiver, TryRecvError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One stream's ring into a node.
struct Port {
    stream: Arc<Stream>,
    by_count: bool,
    rx: Receiver<Frame>,
    meter: Arc<RingMeter>,
    /// Copies of each frame that come in here: more than one where branches join.
    copies: usize,
    stream_meter: Arc<StreamMeter>,
    terms: Terms,
}

/// On which terms a stream is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Its frames are taken; else they are shed as `admission`.
    pub admitted: bool,
    /// The rung that it starts on.
    pub rung: usize,
}

/// The part that the outside holds: opens rings, and says when there will be no more.
pub struct InboxHandle {
    bell: Bell,
    added: Mutex<Vec<Port>>,
    closing: AtomicBool,
    aborting: AtomicBool,
}

/// How a stream's ring is made.
pub struct RingSpec {
    /// Items it holds.
    pub capacity: usize,
    /// What it does when full.
    pub when_full: WhenFull,
    /// Offline: batches are formed by count.
    pub by_count: bool,
    /// Copies of each frame that will come, one for each branch that joins here.
    pub copies: usize,
    /// On which terms the stream is taken.
    pub terms: Terms,
}

impl InboxHandle {
    /// Opens a ring for a stream. Where branches join, each of them gets a clone of the sender.
    pub fn open(
        &self,
        stream: &Arc<Stream>,
        spec: &RingSpec,
        meter: Arc<RingMeter>,
        stream_meter: Arc<StreamMeter>,
    ) -> Sender<Frame> {
        let (tx, rx) = ring::with_bell(spec.capacity, spec.when_full, Some(self.bell.clone()));
        let port = Port {
            stream: stream.clone(),
            by_count: spec.by_count,
            rx,
            meter,
            copies: spec.copies,
            stream_meter,
            terms: spec.terms,
        };
        self.added.lock().push(port);
        self.bell.ring();
        tx
    }

    /// No more rings will be opened: the node ends when those there are have ended.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// What still waits is given up.
    pub fn abort(&self) {
        self.aborting.store(true, Ordering::Release);
        self.close();
    }
}

/// What happened to the streams since the last look.
pub enum Change {
    /// Frames of this stream may come now.
    Opened {
        /// The stream.
        stream: Arc<Stream>,
        /// Offline: batches are formed by count.
        by_count: bool,
        /// Its measurements.
        meter: Arc<StreamMeter>,
        /// On which terms it is taken.
        terms: Terms,
    },
    /// No more frames of this stream will come.
    Ended(Arc<Stream>),
}

/// The part that the node's thread holds.
pub struct Inbox {
    handle: Arc<InboxHandle>,
    ports: Vec<Port>,
    next: usize,
    joins: HashMap<u32, Join>,
    changes: Vec<Change>,
}

/// Copies of a stream's frames that wait for their siblings.
#[derive(Default)]
struct Join {
    pending: BTreeMap<u64, (Frame, usize)>,
}

/// Frames of one stream that may wait for their siblings. Beyond it the oldest is let go: a branch that loses every
/// frame would hold them all.
const PENDING_MAX: usize = 64;

impl Join {
    /// Takes a copy in; gives the frame back once all its copies are there.
    ///
    /// Every branch keeps the order, so when a frame is complete, incomplete ones before it have lost a copy for good:
    /// they are let go, and count under the outcome that the losing branch has marked.
    fn take(&mut self, frame: Frame, copies: usize) -> Option<Frame> {
        let seq = frame.ticket.seq;
        let complete = match self.pending.remove(&seq) {
            None => (frame, 1),
            Some((mut first, n)) => {
                first.merge(frame);
                (first, n + 1)
            }
        };
        if complete.1 < copies {
            self.pending.insert(seq, complete);
            if self.pending.len() > PENDING_MAX {
                self.pending.pop_first();
            }
            return None;
        }
        self.pending = self.pending.split_off(&seq);
        Some(complete.0)
    }
}

impl Inbox {
    /// An inbox without rings, and its handle. The bell wakes the thread that reads it.
    pub fn new(bell: Bell) -> (Self, Arc<InboxHandle>) {
        let handle = Arc::new(InboxHandle {
            bell,
            added: Mutex::default(),
            closing: AtomicBool::new(false),
            aborting: AtomicBool::new(false),
        });
        let inbox =
            Self { handle: handle.clone(), ports: Vec::new(), next: 0, joins: HashMap::new(), changes: Vec::new() };
        (inbox, handle)
    }

    /// Whether the node may end: no ring is left and none will be opened.
    pub fn is_done(&self) -> bool {
        self.ports.is_empty() && self.handle.closing.load(Ordering::Acquire) && self.handle.added.lock().is_empty()
    }

    /// Whether what still waits has to be given up.
    pub fn is_aborting(&self) -> bool {
        self.handle.aborting.load(Ordering::Acquire)
    }

    /// Picks up newly opened rings.
    pub fn refresh(&mut self) {
        let mut added = self.handle.added.lock();
        for port in added.drain(..) {
            self.changes.push(Change::Opened {
                stream: port.stream.clone(),
                by_count: port.by_count,
                meter: port.stream_meter.clone(),
                terms: port.terms,
            });
            self.ports.push(port);
        }
    }

    /// The next opened or ended stream, in the order in which it happened.
    pub fn change(&mut self) -> Option<Change> {
        if self.changes.is_empty() { None } else { Some(self.changes.remove(0)) }
    }

    /// The next frame, the streams in turn, of those that `wanted` agrees to; complete where branches join.
    pub fn next(&mut self, mut wanted: impl FnMut(&Stream) -> bool) -> Option<Frame> {
        let mut tried = 0;
        while tried < self.ports.len() {
            let i = self.next % self.ports.len();
            let port = &self.ports[i];
            if !wanted(&port.stream) {
                self.next = i + 1;
                tried += 1;
                continue;
            }
            match port.rx.try_recv() {
                Ok(frame) => {
                    port.meter.set(port.rx.len(), crate::frame::clock::now().saturating_sub(frame.arrival.decoded));
                    self.next = i + 1;
                    tried = 0;
                    if port.copies == 1 {
                        return Some(frame);
                    }
                    let (copies, stream) = (port.copies, port.stream.index);
                    if let Some(frame) = self.joins.entry(stream).or_default().take(frame, copies) {
                        return Some(frame);
                    }
                }
                Err(TryRecvError::Empty) => {
                    self.next = i + 1;
                    tried += 1;
                }
                Err(TryRecvError::Disconnected) => {
                    let port = self.ports.swap_remove(i);
                    port.meter.set(0, 0);
                    self.joins.remove(&port.stream.index);
                    self.changes.push(Change::Ended(port.stream));
                    tried = 0;
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Arrival, Detection, Payload};

    fn frame(stream: &Arc<Stream>, label: &str) -> Frame {
        let mut f = Frame::new(stream.capture(1), None, Arrival::default(), Payload::Empty);
        f.annotations.detections = Some(vec![Detection::new(label.into(), 0, 1.0, [0.0; 4])]);
        f
    }

    #[test]
    fn a_frame_leaves_a_join_when_all_its_copies_are_there() {
        let s = Arc::new(Stream::new("s", 0, None, 0, true));
        let mut join = Join::default();
        let (a0, a1, a2) = (frame(&s, "a"), frame(&s, "a"), frame(&s, "a"));
        let mut b1 = a1.clone();
        b1.annotations.detections = Some(vec![Detection::new("b".into(), 1, 1.0, [1.0; 4])]);
        a0.ticket.mark(crate::frame::Outcome::Evicted);
        assert!(join.take(a0, 2).is_none());
        assert!(join.take(a1, 2).is_none());
        assert!(join.take(a2, 2).is_none());
        let whole = join.take(b1, 2).expect("complete");
        assert_eq!(whole.annotations.detections.as_ref().map(Vec::len), Some(2));
        // Frame 0 lost its other copy on the way: it left the join and its ledger entry is closed.
        assert_eq!(s.ledger.counts().evicted, 1);
        assert_eq!(join.pending.len(), 1);
    }
}

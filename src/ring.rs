//! The bounded buffer between two threads: a `crossbeam-channel` that either pushes out its oldest item or blocks.
//!
//! Where the ring is full and evicts, the producer takes the oldest item out through a receiver of its own.

use crate::frame::{Nanos, clock};
use crossbeam_channel as channel;
use std::time::Duration;

/// What a full ring does with one more item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Pushes out the oldest: for live streams.
    EvictOldest,
    /// Makes the producer wait: for offline work, where nothing may be lost.
    Block,
}

/// Number of items a ring holds: `span` of a stream at `fps`, at most `items`, at least one.
pub fn capacity(span: Duration, items: usize, fps: f64) -> usize {
    ((span.as_secs_f64() * fps).ceil() as usize).clamp(1, items.max(1))
}

/// The producer's end. Clones share the ring.
#[derive(Debug)]
pub struct Sender<T> {
    tx: channel::Sender<T>,
    oldest: channel::Receiver<T>,
    when_full: WhenFull,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { tx: self.tx.clone(), oldest: self.oldest.clone(), when_full: self.when_full }
    }
}

/// How a push ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    /// The item is in the ring.
    In,
    /// The item is in the ring; this older one had to leave for it.
    Evicted(T),
    /// Blocking, and still full after the time given: the item comes back.
    Full(T),
    /// The consumer is gone: the item comes back.
    Closed(T),
}

/// A ring of `capacity` items.
pub fn ring<T>(capacity: usize, when_full: WhenFull) -> (Sender<T>, channel::Receiver<T>) {
    let (tx, rx) = channel::bounded(capacity.max(1));
    (Sender { tx, oldest: rx.clone(), when_full }, rx)
}

impl<T> Sender<T> {
    /// Puts an item in. Evicting rings never wait; blocking ones wait at most `patience`.
    pub fn push(&self, item: T, patience: Duration) -> Pushed<T> {
        match self.when_full {
            WhenFull::Block => match self.tx.send_timeout(item, patience) {
                Ok(()) => Pushed::In,
                Err(channel::SendTimeoutError::Timeout(item)) => Pushed::Full(item),
                Err(channel::SendTimeoutError::Disconnected(item)) => Pushed::Closed(item),
            },
            WhenFull::EvictOldest => {
                let mut item = item;
                let mut out = None;
                loop {
                    match self.tx.try_send(item) {
                        Ok(()) => return out.map_or(Pushed::In, Pushed::Evicted),
                        Err(channel::TrySendError::Disconnected(item)) => return Pushed::Closed(item),
                        Err(channel::TrySendError::Full(back)) => {
                            // With one producer at most one item has to leave: the consumer only takes more out.
                            if let Ok(oldest) = self.oldest.try_recv() {
                                out = Some(oldest);
                            }
                            item = back;
                        }
                    }
                }
            }
        }
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.tx.len()
    }
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.tx.is_empty()
    }
    /// Items the ring can hold.
    pub fn capacity(&self) -> usize {
        self.tx.capacity().unwrap_or(usize::MAX)
    }
}

/// Age of an item that entered at `since`.
pub fn age(since: Nanos) -> Nanos {
    clock::now().saturating_sub(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicting_ring_keeps_the_newest() {
        let (tx, rx) = ring(2, WhenFull::EvictOldest);
        assert_eq!(tx.push(1, Duration::ZERO), Pushed::In);
        assert_eq!(tx.push(2, Duration::ZERO), Pushed::In);
        assert_eq!(tx.push(3, Duration::ZERO), Pushed::Evicted(1));
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_blocking_ring_gives_the_item_back() {
        let (tx, rx) = ring(1, WhenFull::Block);
        assert_eq!(tx.push(1, Duration::ZERO), Pushed::In);
        assert_eq!(tx.push(2, Duration::from_millis(1)), Pushed::Full(2));
        assert_eq!(rx.recv(), Ok(1));
    }

    #[test]
    fn the_smaller_of_time_and_items_sizes_a_ring() {
        assert_eq!(capacity(Duration::from_millis(100), 8, 30.0), 3);
        assert_eq!(capacity(Duration::from_secs(10), 8, 30.0), 8);
        assert_eq!(capacity(Duration::ZERO, 8, 30.0), 1);
    }
}

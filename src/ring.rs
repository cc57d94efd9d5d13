//! The bounded buffer between two threads: a `crossbeam-channel` that either pushes out its oldest item or blocks.
//!
//! Where the ring is full and evicts, the producer takes the oldest item out through a receiver of its own.

use crossbeam_channel as channel;
use std::time::Duration;

/// Wakes the thread that reads several rings. Ringing twice before it wakes is ringing once.
#[derive(Debug, Clone)]
pub struct Bell(channel::Sender<()>);

impl Bell {
    /// A bell and the end that its listener waits on.
    pub fn new() -> (Self, channel::Receiver<()>) {
        let (tx, rx) = channel::bounded(1);
        (Self(tx), rx)
    }

    /// Wakes the listener, now or when it next waits.
    pub fn ring(&self) {
        // Full means that it has been rung already, closed that nobody listens any more: both are fine.
        let _ = self.0.try_send(());
    }
}

/// Waits until a bell rings, `patience` at most.
pub fn listen(heard: &channel::Receiver<()>, patience: Duration) {
    match heard.recv_timeout(patience) {
        Ok(()) | Err(channel::RecvTimeoutError::Timeout) => {}
        // Nobody can ring any more; whoever waits here still has its own reasons to look now and then.
        Err(channel::RecvTimeoutError::Disconnected) => std::thread::sleep(patience),
    }
}

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
    bell: OnDrop,
}

/// Rings when the sender has left the channel, so that the listener notices the last one leaving.
#[derive(Debug, Clone)]
struct OnDrop(Option<Bell>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(bell) = &self.0 {
            bell.ring();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { tx: self.tx.clone(), oldest: self.oldest.clone(), when_full: self.when_full, bell: self.bell.clone() }
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
    with_bell(capacity, when_full, None)
}

/// A ring of `capacity` items that rings a bell for each item that goes in, and when its last sender is gone.
pub fn with_bell<T>(capacity: usize, when_full: WhenFull, bell: Option<Bell>) -> (Sender<T>, channel::Receiver<T>) {
    let (tx, rx) = channel::bounded(capacity.max(1));
    (Sender { tx, oldest: rx.clone(), when_full, bell: OnDrop(bell) }, rx)
}

impl<T> Sender<T> {
    /// Puts an item in. Evicting rings never wait; blocking ones wait at most `patience`.
    pub fn push(&self, item: T, patience: Duration) -> Pushed<T> {
        let pushed = self.place(item, patience);
        if let (Some(bell), Pushed::In | Pushed::Evicted(_)) = (&self.bell.0, &pushed) {
            bell.ring();
        }
        pushed
    }

    fn place(&self, item: T, patience: Duration) -> Pushed<T> {
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
    fn the_bell_rings_for_items_and_for_the_last_senders_leaving() {
        let (bell, heard) = Bell::new();
        let (tx, rx) = with_bell(2, WhenFull::Block, Some(bell));
        tx.push(1, Duration::ZERO);
        assert!(heard.try_recv().is_ok() && heard.try_recv().is_err());
        drop(tx);
        assert!(heard.try_recv().is_ok());
        assert_eq!(rx.recv(), Ok(1));
        assert!(rx.recv().is_err());
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

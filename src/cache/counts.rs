//! What a cache counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where a value may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// In memory.
    Memory,
    /// In a folder.
    Disk,
    /// In a Redis server.
    Redis,
}

impl Layer {
    /// All of them, nearest first.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Redis];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        ["memory", "disk", "redis"][self as usize]
    }
}

/// Why a value was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Others needed its room.
    Full,
    /// It was too old.
    Old,
    /// It was not what had been written.
    Corrupt,
    /// Its layer had too much to do.
    Busy,
    /// Its layer was away, or failed on it.
    Failed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Full, Self::Old, Self::Corrupt, Self::Busy, Self::Failed];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        ["full", "old", "corrupt", "busy", "failed"][self as usize]
    }
}

/// Counters of a cache since it was opened.
#[derive(Debug, Default)]
pub struct Counts {
    hits: [AtomicU64; 3],
    misses: [AtomicU64; 3],
    bytes: [AtomicU64; 3],
    dropped: [AtomicU64; 5],
}

impl Counts {
    pub(super) fn asked(&self, layer: Layer, found: bool) {
        let which = if found { &self.hits } else { &self.misses };
        which[layer as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn dropped(&self, reason: Reason) {
        self.dropped[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn set_bytes(&self, layer: Layer, bytes: u64) {
        self.bytes[layer as usize].store(bytes, Relaxed);
    }

    /// Look-ups that a layer answered.
    pub fn hits(&self, layer: Layer) -> u64 {
        self.hits[layer as usize].load(Relaxed)
    }

    /// Look-ups that it did not.
    pub fn misses(&self, layer: Layer) -> u64 {
        self.misses[layer as usize].load(Relaxed)
    }

    /// Bytes that it holds; 0 for Redis, which knows itself.
    pub fn bytes(&self, layer: Layer) -> u64 {
        self.bytes[layer as usize].load(Relaxed)
    }

    /// Values dropped.
    pub fn drops(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize].load(Relaxed)
    }
}

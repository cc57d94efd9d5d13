//! What stages that listen to streams of samples share: a listener for each stream, told of gaps and of the end.

use super::StageError;
use crate::frame::{Frame, Nanos, SampleBlock};
use crate::signal::{Complex32, SignalError};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Listens to one stream, without gaps.
pub(super) trait Listener {
    /// What it hears.
    type Heard;

    /// Its stream begins, or goes on behind a gap, with this block, whose last sample was captured at `at`.
    fn begin(&mut self, _block: &SampleBlock, _at: Nanos) {}

    /// Takes samples in.
    fn push(&mut self, samples: &[Complex32], heard: &mut Vec<Self::Heard>);

    /// Nothing comes behind; what comes then is another stream, whose positions begin anew.
    fn finish(&mut self, heard: &mut Vec<Self::Heard>);

    /// Counts the position of what was heard from so many samples earlier on.
    fn shift(heard: &mut Self::Heard, by: u64);
}

/// A listener for each stream.
pub(super) struct Listeners<L>(HashMap<u32, Known<L>>);

struct Known<L> {
    listener: L,
    rate: f64,
    /// Position in the stream of the listener's first sample, and of the one that it expects next.
    origin: u64,
    next: u64,
}

impl<L> Default for Listeners<L> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<L: Listener> Listeners<L> {
    /// Lets a frame's stream be heard; `new` makes a listener for samples of a rate. Positions in what was heard are
    /// the stream's.
    ///
    /// # Errors
    /// The frame has no samples, or nobody can listen to them.
    pub(super) fn hear(
        &mut self,
        frame: &Frame,
        new: impl FnOnce(f64) -> Result<L, SignalError>,
    ) -> Result<Vec<L::Heard>, StageError> {
        let block = frame.payload.samples().ok_or_else(|| StageError::new("the frame has no samples"))?;
        let index = frame.stream().index;
        // Samples of another rate are another stream.
        if self.0.get(&index).is_some_and(|k| k.rate != block.rate) {
            self.0.remove(&index);
        }
        let known = match self.0.entry(index) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let mut listener = new(block.rate).map_err(|e| StageError::new(e.to_string()))?;
                listener.begin(block, frame.ticket.captured);
                free.insert(Known { listener, rate: block.rate, origin: block.position, next: block.position })
            }
        };
        let mut heard = Vec::new();
        if known.next != block.position || block.gap.is_some_and(|_| known.next != known.origin) {
            // Nothing lies across a gap.
            known.listener.finish(&mut heard);
            heard.iter_mut().for_each(|h| L::shift(h, known.origin));
            known.origin = block.position;
            known.listener.begin(block, frame.ticket.captured);
        }
        let before = heard.len();
        known.listener.push(&block.samples, &mut heard);
        if block.last {
            known.listener.finish(&mut heard);
        }
        heard[before..].iter_mut().for_each(|h| L::shift(h, known.origin));
        known.next = block.end();
        Ok(heard)
    }

    /// A stream is gone for good.
    pub(super) fn forget(&mut self, stream: u32) {
        self.0.remove(&stream);
    }
}

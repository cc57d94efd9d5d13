//! A stream of any pushes, cut into blocks of one size that begin a fixed hop apart.

/// Cuts a stream into blocks of `size` that begin every `hop` items.
///
/// Blocks are handed out straight from the pushed slice where they lie in it wholly; only what is left over is copied.
#[derive(Debug, Clone)]
pub struct Overlap<T> {
    size: usize,
    hop: usize,
    /// What was pushed from the next block's start on; shorter than a block.
    carry: Vec<T>,
    /// Items to pass over before the next block starts (`hop` above `size` only).
    skip: usize,
    /// Start of the next block.
    next: u64,
    /// End of the last block.
    covered: u64,
}

impl<T: Copy> Overlap<T> {
    /// Blocks of `size`, a start every `hop`; both are taken as at least 1.
    pub fn new(size: usize, hop: usize) -> Self {
        let (size, hop) = (size.max(1), hop.max(1));
        Self { size, hop, carry: Vec::with_capacity(size * 2), skip: 0, next: 0, covered: 0 }
    }

    /// Items in a block.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Items from one block's start to the next one's.
    pub fn hop(&self) -> usize {
        self.hop
    }

    /// How many items were pushed so far.
    pub fn pushed(&self) -> u64 {
        self.next - self.skip as u64 + self.carry.len() as u64
    }

    /// How many items at the end were in no block yet.
    pub fn uncovered(&self) -> usize {
        self.pushed().saturating_sub(self.covered) as usize
    }

    /// Takes items in and hands every complete block out with the position of its first item.
    pub fn push(&mut self, mut input: &[T], mut block: impl FnMut(u64, &[T])) {
        let skipped = self.skip.min(input.len());
        self.skip -= skipped;
        input = &input[skipped..];
        // Where the next block starts, in what is carried and then the input.
        let mut at = 0;
        let held = self.carry.len();
        if held > 0 {
            // A block that starts in the carry reaches at most this far into the input.
            self.carry.extend_from_slice(&input[..input.len().min(self.size - 1)]);
            while at < held && at + self.size <= self.carry.len() {
                block(self.next, &self.carry[at..at + self.size]);
                at += self.hop;
                self.advance();
            }
            if at < held {
                self.carry.drain(..at);
                return;
            }
            self.carry.clear();
            at -= held;
        }
        while at + self.size <= input.len() {
            block(self.next, &input[at..at + self.size]);
            at += self.hop;
            self.advance();
        }
        match input.get(at..) {
            Some(rest) => self.carry.extend_from_slice(rest),
            None => self.skip += at - input.len(),
        }
    }

    /// Ends the stream: where items were in no block yet, a last block is filled up and handed out with its position and
    /// how many items of it were really there. Then everything begins anew at position 0.
    pub fn finish(&mut self, filler: T, block: impl FnOnce(u64, &[T], usize)) {
        if self.uncovered() > 0 && !self.carry.is_empty() {
            let real = self.carry.len();
            self.carry.resize(self.size, filler);
            block(self.next, &self.carry, real);
        }
        self.reset();
    }

    /// Begins anew at position 0.
    pub fn reset(&mut self) {
        self.carry.clear();
        (self.skip, self.next, self.covered) = (0, 0, 0);
    }

    fn advance(&mut self) {
        self.covered = self.next + self.size as u64;
        self.next += self.hop as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cut, sizes};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_are_the_same_however_the_stream_is_cut(n in 0usize..500, size in 1usize..40, hop in 1usize..60, sizes in sizes()) {
            let stream: Vec<u32> = (0..n as u32).collect();
            let mut expected: Vec<(u64, Vec<u32>)> = Vec::new();
            let mut at = 0;
            while at + size <= n {
                expected.push((at as u64, stream[at..at + size].to_vec()));
                at += hop;
            }
            let mut overlap = Overlap::new(size, hop);
            let mut got = Vec::new();
            for block in cut(&stream, &sizes) {
                overlap.push(block, |at, b| got.push((at, b.to_vec())));
            }
            prop_assert_eq!(&got, &expected);
            prop_assert_eq!(overlap.pushed(), n as u64);
            if hop <= size {
                // Every item is in a block once the end is there.
                let covered = got.last().map_or(0, |(at, _)| *at as usize + size);
                prop_assert_eq!(overlap.uncovered(), n - covered);
                let mut end = covered;
                overlap.finish(u32::MAX, |at, b, real| {
                    assert_eq!(b.len(), size);
                    assert_eq!(&b[..real], &stream[at as usize..]);
                    end = at as usize + real;
                });
                prop_assert_eq!(end, n);
            }
        }
    }
}

//! Reads bits: each is a microsecond whose first or second half is the loud one.
//!
//! Samples do not fall on these halves. A sample that lies across two bits says something about both, which a comparison
//! of halves takes for noise; at 2 MS/s and half a sample off it cannot tell some bits at all. So the likeliest sequence
//! of bits is looked for (A. Viterbi's algorithm, IEEE Trans. Information Theory 13, 1967): no sample is longer than
//! half a bit, so two states, the last bit's two values, are enough.

use super::frame::Raw;

/// Bits of the two kinds of frame.
pub(super) const LONG: usize = 112;
const SHORT: usize = 56;
/// How many of the least certain bits may be the wrong one.
pub(super) const SUSPECTS: usize = 16;
/// The most that samples may differ from what the bits would give: the mean square over that of the pulses. Knowing
/// nothing makes 0.25.
const UNLIKE: f32 = 0.14;

/// How much of a sample lies within two moments.
pub(super) fn coverage(sample: usize, from: f64, to: f64) -> f32 {
    ((sample as f64 + 1.0).min(to) - (sample as f64).max(from)).max(0.0) as f32
}

/// Reads the bits of frames that start at one fraction of a sample.
pub(super) struct Slicer {
    bits: Vec<Bit>,
    /// The weights of all bits' samples.
    samples: Vec<[f32; 3]>,
}

/// The samples that end within a bit.
struct Bit {
    /// The first of them, and where their weights are: how much of each is covered by the second half of the bit before,
    /// by this bit's first, and by its second half.
    first: usize,
    weights: std::ops::Range<usize>,
    /// The sum of squares of what they would be, by the bit before and this bit.
    squares: [[f32; 2]; 2],
}

impl Slicer {
    /// Bits from `start` on, each `length` long, in samples.
    pub(super) fn new(start: f64, length: f64) -> Self {
        let mut samples = Vec::new();
        let mut next = start.floor() as usize;
        let bits = (0..LONG).map(|i| {
            let from = start + i as f64 * length;
            let (middle, to) = (from + length / 2.0, from + length);
            let (first, at) = (next, samples.len());
            while (next + 1) as f64 <= to + 1e-9 {
                let before = coverage(next, from - length / 2.0, from);
                samples.push([before, coverage(next, from, middle), coverage(next, middle, to)]);
                next += 1;
            }
            let squares = [0, 1]
                .map(|last| [0, 1].map(|this| samples[at..].iter().map(|s| expected(s, last, this).powi(2)).sum()));
            Bit { first, weights: at..samples.len(), squares }
        });
        Self { bits: bits.collect(), samples }
    }

    /// The likeliest bits and the least certain of them, where the samples look like bits at all. `quiet` is the
    /// amplitude between pulses, `loud` that of pulses; `m` reaches behind the last bit. Frames that are checked by known
    /// addresses only are left out where `replies` is not set.
    pub(super) fn slice(&self, m: &[f32], quiet: f32, loud: f32, replies: bool) -> Option<(Raw, [u8; SUSPECTS])> {
        let scale = 1.0 / (loud - quiet);
        if !scale.is_finite() {
            return None;
        }
        // Squared difference of a bit's samples from what they would be, by the bit before and this one, less `sum` of
        // squares of the samples, which is the same for all.
        let mut costs = [[[0f32; 2]; 2]; LONG];
        let mut sum = 0.0;
        let mut total = [0f32; 2];
        // Bit `i` of a path that ends with a value, in the order of time from the lowest bit on.
        let mut paths = [0u128; 2];
        let mut length = LONG;
        let mut count = 0;
        for (i, bit) in self.bits.iter().enumerate() {
            let mut with = [0f32; 3];
            let weights = &self.samples[bit.weights.clone()];
            count += weights.len();
            for (m, w) in m[bit.first..].iter().zip(weights) {
                let x = (m - quiet) * scale;
                sum += x * x;
                (0..3).for_each(|k| with[k] += x * w[k]);
            }
            let cost = &mut costs[i];
            for (last, cost) in cost.iter_mut().enumerate() {
                for (this, cost) in cost.iter_mut().enumerate() {
                    *cost = bit.squares[last][this] - 2.0 * expected(&with, last, this);
                }
            }
            // Before the first bit it is quiet, as behind a one.
            if i == 0 {
                total = cost[1];
                paths = [0, 1];
            } else {
                let (from_zero, from_one) = (cost[0], cost[1]);
                let (old, old_paths) = (total, paths);
                for this in 0..2 {
                    let (zero, one) = (old[0] + from_zero[this], old[1] + from_one[this]);
                    let last = usize::from(one < zero);
                    total[this] = zero.min(one);
                    paths[this] = old_paths[last] | (this as u128) << i;
                }
            }
            if i == 7 {
                // The format tells the length; those that nobody uses are no frames.
                let path = paths[usize::from(total[1] < total[0])];
                match ((path as u8) & 0x1f).reverse_bits() >> 3 {
                    11 => length = SHORT,
                    17 | 18 => {}
                    0 | 4 | 5 if replies => length = SHORT,
                    16 | 20 | 21 | 24.. if replies => {}
                    _ => return None,
                }
            }
            if i + 1 == length {
                break;
            }
            // Noise is told early; the fewer the bits, the more room for chance.
            if i % 8 == 7 && total[0].min(total[1]) + sum > UNLIKE * (count as f32 + 12.0) {
                return None;
            }
        }
        let end = usize::from(total[1] < total[0]);
        // Samples that are huge can make NaN of it, which is no fit either.
        if (total[end] + sum).partial_cmp(&(UNLIKE * count as f32)) != Some(std::cmp::Ordering::Less) {
            return None;
        }
        let path = paths[end];
        let bit = |i: usize| (path >> i & 1) as usize;
        let mut bytes = [0u8; 14];
        (0..length).for_each(|i| bytes[i / 8] |= (bit(i) as u8) << (7 - i % 8));
        // How much worse the samples fit with this bit the other way round.
        let doubt = |i: usize| {
            let (last, this) = (if i == 0 { 1 } else { bit(i - 1) }, bit(i));
            let mut more = costs[i][last][1 - this] - costs[i][last][this];
            if i + 1 < length {
                more += costs[i + 1][1 - this][bit(i + 1)] - costs[i + 1][this][bit(i + 1)];
            }
            more
        };
        Some((Raw::new(&bytes[..length / 8])?, least(length, doubt)))
    }
}

/// What a sample would be, over the pulses' amplitude, by the bit before and the bit that it ends in.
fn expected(sample: &[f32; 3], last: usize, this: usize) -> f32 {
    let [before, first, second] = sample;
    let before = if last == 0 { *before } else { 0.0 };
    before + if this == 1 { *first } else { *second }
}

/// The few of `n` with the smallest value, in order.
fn least(n: usize, value: impl Fn(usize) -> f32) -> [u8; SUSPECTS] {
    let mut numbers = [u8::MAX; SUSPECTS];
    let mut values = [f32::INFINITY; SUSPECTS];
    for i in 0..n {
        let v = value(i);
        let place = values.partition_point(|&held| held <= v);
        if place < SUSPECTS {
            numbers.copy_within(place..SUSPECTS - 1, place + 1);
            values.copy_within(place..SUSPECTS - 1, place + 1);
            (numbers[place], values[place]) = (i as u8, v);
        }
    }
    numbers
}

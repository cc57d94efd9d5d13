//! Numbers in front of datagrams: what of a stream is missing.

use crate::frame::{Nanos, clock};

/// What stands before the samples of each datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Header {
    /// Nothing: what is lost cannot be seen.
    #[default]
    None,
    /// The datagram's number, 32 bits, least significant byte first.
    U32le,
    /// The datagram's number, 32 bits, most significant byte first.
    U32be,
    /// The datagram's number, 64 bits, least significant byte first: what GNU Radio's UDP Sink calls a 64-bit sequence
    /// number.
    U64le,
    /// The datagram's number, 64 bits, most significant byte first.
    U64be,
    /// The same as `u64le` with eight more bytes that tell the size: GNU Radio's sequence number and data size.
    U64leSize,
}

impl Header {
    /// Its bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::U32le | Self::U32be => 4,
            Self::U64le | Self::U64be => 8,
            Self::U64leSize => 16,
        }
    }

    /// Reads a number from the front of a datagram; `None` of one that is too short, and where there is none.
    fn number(self, datagram: &[u8]) -> Option<u64> {
        let four = || datagram.first_chunk::<4>().copied();
        let eight = || datagram.first_chunk::<8>().copied();
        match self {
            Self::None => None,
            Self::U32le => four().map(|b| u32::from_le_bytes(b).into()),
            Self::U32be => four().map(|b| u32::from_be_bytes(b).into()),
            Self::U64le | Self::U64leSize => eight().map(u64::from_le_bytes),
            Self::U64be => eight().map(u64::from_be_bytes),
        }
    }

    /// How far `number` is ahead of `expected`, the short way round.
    fn ahead(self, number: u64, expected: u64) -> i64 {
        match self {
            Self::U32le | Self::U32be => i64::from((number as u32).wrapping_sub(expected as u32) as i32),
            _ => number.wrapping_sub(expected) as i64,
        }
    }
}

/// What a datagram is to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It follows the one before.
    Next,
    /// So many datagrams are missing before it.
    Behind(u64),
    /// It comes too late: it has been counted as missing, or is there already.
    Late,
    /// Its sender began anew.
    Anew,
}

/// A datagram that is so far behind is not late, its sender has begun anew.
const LATE: i64 = 1024;
/// Nor are so many late in a row, one after the other.
const ROW: u32 = 8;
/// More datagrams than were due since the last one, and this much time more, cannot be missing: their sender began anew.
const SLACK: f64 = 2.0;

/// Follows the numbers of one stream. Pure: time comes in as an argument.
#[derive(Debug)]
pub struct Sequence {
    header: Header,
    /// Samples a second.
    rate: f64,
    /// The number that is next, and when the last datagram came.
    next: Option<(u64, Nanos)>,
    /// Late ones in a row that follow each other: the number that would be next, and how many there are.
    late: (u64, u32),
}

impl Sequence {
    /// Numbers in this form, of a stream of so many samples a second.
    pub fn new(header: Header, rate: f64) -> Self {
        Self { header, rate, next: None, late: (0, 0) }
    }

    /// Another sender: its numbers are its own.
    pub fn restart(&mut self) {
        *self = Self::new(self.header, self.rate);
    }

    /// Where a datagram with so many samples belongs that came at `at`. One without a number follows the one before.
    pub fn place(&mut self, datagram: &[u8], samples: usize, at: Nanos) -> Place {
        let Some(number) = self.header.number(datagram) else { return Place::Next };
        let place = match self.next {
            None => Place::Next,
            Some((next, last)) => match self.header.ahead(number, next) {
                0 => Place::Next,
                ahead @ 1.. => {
                    let passed = at.saturating_sub(last) as f64 / clock::SECOND as f64;
                    let missing = ahead as f64 * samples as f64 / self.rate;
                    if missing > passed + SLACK { Place::Anew } else { Place::Behind(ahead.unsigned_abs()) }
                }
                late if late >= -LATE => {
                    let (next, row) = self.late;
                    self.late = (number.wrapping_add(1), if number == next { row + 1 } else { 1 });
                    if self.late.1 < ROW {
                        return Place::Late;
                    }
                    Place::Anew
                }
                _ => Place::Anew,
            },
        };
        self.next = Some((number.wrapping_add(1), at));
        self.late = (0, 0);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(header: Header, numbers: &[u64]) -> Vec<Place> {
        let mut sequence = Sequence::new(header, 1000.0);
        let datagram = |n: u64| match header {
            Header::U32le => (n as u32).to_le_bytes().to_vec(),
            Header::U32be => (n as u32).to_be_bytes().to_vec(),
            Header::U64be => n.to_be_bytes().to_vec(),
            _ => [n.to_le_bytes(), 10u64.to_le_bytes()].concat(),
        };
        let placed = numbers.iter().zip(0u64..).map(|(&n, i)| sequence.place(&datagram(n), 10, i * 10 * clock::MILLI));
        placed.collect()
    }

    #[test]
    fn jumps_are_counted_and_stragglers_left_out() {
        use Place::{Behind, Late, Next};
        for header in [Header::U32le, Header::U32be, Header::U64le, Header::U64be, Header::U64leSize] {
            assert_eq!(places(header, &[7, 8, 11, 9, 12, 12, 13]), [Next, Next, Behind(2), Late, Next, Late, Next]);
        }
        assert_eq!(places(Header::None, &[7, 3, 11]), [Next; 3]);
    }

    #[test]
    fn numbers_that_run_out_begin_again_at_zero() {
        let end = u64::from(u32::MAX);
        assert_eq!(
            places(Header::U32le, &[end - 1, end, 0, 2]),
            [Place::Next, Place::Next, Place::Next, Place::Behind(1)]
        );
        assert_eq!(places(Header::U64le, &[u64::MAX, 0]), [Place::Next, Place::Next]);
    }

    #[test]
    fn a_sender_that_begins_anew_is_no_loss_of_billions() {
        use Place::{Anew, Next};
        assert_eq!(places(Header::U64le, &[1_000_000, 1, 2]), [Next, Anew, Next]);
        assert_eq!(places(Header::U64le, &[1, 1_000_000, 1_000_001]), [Next, Anew, Next]);
        assert_eq!(places(Header::U32le, &[5, 3_000_000_000]), [Next, Anew]);
        // Soon after its first start, too.
        let numbers: Vec<u64> = (1..=100).chain(1..=20).collect();
        let places = places(Header::U64le, &numbers);
        assert_eq!(places[100..107], [Place::Late; 7]);
        assert_eq!(places[107], Anew);
        assert_eq!(places[108..], [Next; 12]);
    }
}

//! Frames: their parity, whom they are from, and the repair of one bit.

use super::message::{Body, Message};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The generator of the 24-bit parity, without its highest bit.
const GENERATOR: u32 = 0xff_f409;

/// What one byte adds to the remainder.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = (i as u32) << 16;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 0x80_0000 != 0 { (c << 1) ^ GENERATOR } else { c << 1 };
            bit += 1;
        }
        table[i] = c & 0xff_ffff;
        i += 1;
    }
    table
};

/// The remainder of a frame: 0 where the parity is plain and right, else what was laid over it (or errors).
pub fn checksum(bytes: &[u8]) -> u32 {
    let (data, parity) = bytes.split_at(bytes.len().saturating_sub(3));
    let remainder = data.iter().fold(0u32, |c, &b| ((c << 8) ^ TABLE[(((c >> 16) as u8) ^ b) as usize]) & 0xff_ffff);
    parity.iter().fold(0, |p, &b| (p << 8) | u32::from(b)) ^ remainder
}

/// The bits of a frame: 7 or 14 bytes; shown in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw {
    bytes: [u8; 14],
    long: bool,
}

impl std::fmt::Display for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Raw {
    /// A frame of 7 or 14 bytes whose length is that of its format.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let long = bytes.first()? & 0x80 != 0;
        if bytes.len() != if long { 14 } else { 7 } {
            return None;
        }
        let mut all = [0; 14];
        all[..bytes.len()].copy_from_slice(bytes);
        Some(Self { bytes: all, long })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..if self.long { 14 } else { 7 }]
    }

    /// Its downlink format, 0 to 24.
    pub fn format(&self) -> u8 {
        // Formats from 24 on have a number of two bits only.
        (self.bytes[0] >> 3).min(24)
    }

    /// Some bits as a number; `at` counts from 0, `n` is at most 32.
    pub(super) fn bits(&self, at: usize, n: usize) -> u32 {
        let bits = (at..at + n).map(|i| self.bytes.get(i / 8).map_or(0, |b| b >> (7 - i % 8) & 1));
        bits.fold(0, |v, b| v << 1 | u32::from(b))
    }

    fn flipped(mut self, bit: usize) -> Self {
        self.bytes[bit / 8] ^= 0x80 >> (bit % 8);
        self
    }
}

/// Which frames may be repaired. A repair is a guess: one in about 150,000 frames of pure noise that look like an
/// extended squitter turns into a right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repair {
    /// None.
    Off,
    /// Extended squitters of aircraft that were heard with a frame that needed no repair.
    #[default]
    Known,
    /// Extended squitters of all aircraft.
    Any,
}

/// A frame that is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Its bits, after repair.
    pub raw: Raw,
    /// What it says.
    pub message: Message,
    /// The bit that was repaired.
    pub repaired: Option<u8>,
}

impl Checked {
    /// Whether all 24 bits of parity speak for it: nothing was repaired, and no station's number is laid over them, which
    /// an error in the last bits looks like too.
    pub fn is_certain(&self) -> bool {
        let numbered = matches!(self.message.body, Body::AllCall { interrogator: 1.., .. });
        self.repaired.is_none() && !numbered
    }
}

/// Aircraft that were heard lately.
#[derive(Debug, Clone)]
pub struct Known {
    seen: BTreeMap<u32, u64>,
    forget: u64,
}

/// The most aircraft that are remembered.
const MOST: usize = 8192;

impl Known {
    /// Remembers aircraft for this long, in whatever unit times are given in.
    pub fn new(forget: u64) -> Self {
        Self { seen: BTreeMap::new(), forget }
    }

    /// Whether an aircraft was heard lately.
    pub fn contains(&self, icao: u32, now: u64) -> bool {
        self.seen.get(&icao).is_some_and(|&at| now.saturating_sub(at) <= self.forget)
    }

    /// Whether none was heard yet.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    fn hear(&mut self, icao: u32, now: u64) {
        if self.seen.len() >= MOST && !self.seen.contains_key(&icao) {
            let forget = self.forget;
            self.seen.retain(|_, &mut at| now.saturating_sub(at) <= forget);
            if self.seen.len() >= MOST
                && let Some(oldest) = self.seen.iter().min_by_key(|(_, at)| **at).map(|(&icao, _)| icao)
            {
                self.seen.remove(&oldest);
            }
        }
        self.seen.insert(icao, now);
    }
}

/// Checks a frame. Squitters (formats 11, 17 and 18) carry a plain parity; all-call replies to a ground station have its
/// number laid over theirs, and all other frames the aircraft's address, so that these are taken only where that address
/// was heard lately. `suspects` are bits that may be repaired, the likeliest first.
pub fn check(raw: Raw, known: &mut Known, now: u64, repair: Repair, suspects: &[u8]) -> Option<Checked> {
    let remainder = checksum(raw.bytes());
    let address = raw.bits(8, 24);
    match raw.format() {
        17 | 18 if remainder == 0 => {
            known.hear(address, now);
            Some(Checked { raw, message: Message::read(&raw, address, 0), repaired: None })
        }
        17 | 18 if repair != Repair::Off => {
            // The format is not repaired: another one would have another kind of parity.
            let bit = suspects.iter().copied().find(|&bit| bit >= 5 && error_of(bit) == remainder)?;
            let raw = raw.flipped(bit.into());
            let address = raw.bits(8, 24);
            (repair == Repair::Any || known.contains(address, now)).then(|| Checked {
                raw,
                message: Message::read(&raw, address, 0),
                repaired: Some(bit),
            })
        }
        11 if remainder < 80 => {
            // With a number laid over it, 17 bits of parity are left: not enough for a stranger.
            if remainder == 0 {
                known.hear(address, now);
            } else if !known.contains(address, now) {
                return None;
            }
            Some(Checked { raw, message: Message::read(&raw, address, remainder as u8), repaired: None })
        }
        0 | 4 | 5 | 16 | 20 | 21 | 24 if known.contains(remainder, now) => {
            Some(Checked { raw, message: Message::read(&raw, remainder, 0), repaired: None })
        }
        _ => None,
    }
}

/// The remainder that an error in one bit of a long frame leaves.
fn error_of(bit: u8) -> u32 {
    let mut bytes = [0; 14];
    bytes[usize::from(bit) / 8 % 14] = 0x80 >> (bit % 8);
    checksum(&bytes)
}

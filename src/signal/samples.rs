//! Raw bytes to samples and back.
//!
//! Full scale is 1.0. Signed integers are divided by the size of their most negative value (−128 reads −1.0). Unsigned
//! ones are centred between the two middle codes, as receivers put out: `cu8` is (x − 127.5) / 127.5, so that both ends
//! read ±1.0. Floats are taken as they are, but what is not finite becomes zero and is counted, since one NaN would
//! never leave a filter with feedback. Real samples get an imaginary part of zero.

use super::{Complex32, SignalError, lanes};
use std::fmt;
use std::str::FromStr;

/// The number that a sample is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Number {
    F32,
    F64,
    I32,
    I16,
    I8,
    U32,
    U16,
    U8,
}

impl Number {
    /// Its size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }
}

/// How samples lie in bytes. Written and read as SigMF does (`ci16_le`); `cs16` and `cs8`, the names that most radio
/// programs use for signed integers, are read too, as is an ending without underscore (`cs16be`). Without an ending,
/// numbers are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Whether a sample has a real and an imaginary number.
    pub complex: bool,
    /// The number.
    pub number: Number,
    /// Whether the most significant byte is first; has no meaning for one-byte numbers.
    pub big_endian: bool,
}

impl Format {
    /// The size of a sample of one channel in bytes, 1 to 16.
    pub fn sample_bytes(self) -> usize {
        self.number.bytes() * if self.complex { 2 } else { 1 }
    }
}

impl FromStr for Format {
    type Err = SignalError;

    fn from_str(s: &str) -> Result<Self, SignalError> {
        let parse = || {
            let complex = match s.as_bytes().first()? {
                b'c' => true,
                b'r' => false,
                _ => return None,
            };
            let rest = &s[1..];
            let (name, big_endian) = match (rest.strip_suffix("be"), rest.strip_suffix("le")) {
                (Some(name), _) => (name.strip_suffix('_').unwrap_or(name), true),
                (_, Some(name)) => (name.strip_suffix('_').unwrap_or(name), false),
                _ => (rest, false),
            };
            let number = match name {
                "f32" => Number::F32,
                "f64" => Number::F64,
                "i32" | "s32" => Number::I32,
                "i16" | "s16" => Number::I16,
                "i8" | "s8" => Number::I8,
                "u32" => Number::U32,
                "u16" => Number::U16,
                "u8" => Number::U8,
                _ => return None,
            };
            Some(Self { complex, number, big_endian: big_endian && number.bytes() > 1 })
        };
        parse().ok_or_else(|| {
            SignalError::new(
                "the sample format",
                format_args!("{s:?}"),
                "c or r, then f32, f64, i32, i16, i8, u32, u16 or u8, then _le or _be (such as cu8, ci16_le, rf32_be)",
            )
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.number {
            Number::F32 => "f32",
            Number::F64 => "f64",
            Number::I32 => "i32",
            Number::I16 => "i16",
            Number::I8 => "i8",
            Number::U32 => "u32",
            Number::U16 => "u16",
            Number::U8 => "u8",
        };
        let kind = if self.complex { 'c' } else { 'r' };
        let ending = match (self.number.bytes(), self.big_endian) {
            (1, _) => "",
            (_, true) => "_be",
            (_, false) => "_le",
        };
        write!(f, "{kind}{name}{ending}")
    }
}

/// Turns a stream of bytes, cut anywhere, into samples.
#[derive(Debug, Clone)]
pub struct Converter {
    format: Format,
    /// Bytes of a sample that is not complete yet.
    rest: [u8; 16],
    held: usize,
    not_finite: u64,
}

impl Converter {
    /// A converter at the start of a stream.
    pub fn new(format: Format) -> Self {
        Self { format, rest: [0; 16], held: 0, not_finite: 0 }
    }

    /// The format that it reads.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Appends every sample that is complete to `out`, which is not cleared, and returns how many these were.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<Complex32>) -> usize {
        let size = self.format.sample_bytes();
        let before = out.len();
        if self.held > 0 {
            let missing = (size - self.held).min(bytes.len());
            self.rest[self.held..self.held + missing].copy_from_slice(&bytes[..missing]);
            self.held += missing;
            bytes = &bytes[missing..];
            if self.held < size {
                return 0;
            }
            let sample = self.rest;
            self.convert(&sample[..size], out);
            self.held = 0;
        }
        let whole = bytes.len() / size * size;
        self.convert(&bytes[..whole], out);
        let rest = &bytes[whole..];
        self.rest[..rest.len()].copy_from_slice(rest);
        self.held = rest.len();
        out.len() - before
    }

    /// Bytes that wait for the rest of their sample.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Numbers so far that were NaN or infinite and became zero.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Forgets the bytes of a sample that is not complete, as after a gap.
    pub fn reset(&mut self) {
        self.held = 0;
    }

    /// Converts whole samples.
    fn convert(&mut self, bytes: &[u8], out: &mut Vec<Complex32>) {
        let start = out.len();
        let count = bytes.len() / self.format.sample_bytes();
        out.resize(start + count, Complex32::default());
        if self.format.complex {
            self.numbers(bytes, lanes::parts_mut(&mut out[start..]));
            return;
        }
        // Real numbers are converted through a small buffer on the stack, then spread.
        let mut reals = [0f32; 512];
        let piece = reals.len() * self.format.number.bytes();
        for (bytes, out) in bytes.chunks(piece).zip(out[start..].chunks_mut(reals.len())) {
            self.numbers(bytes, &mut reals[..out.len()]);
            for (o, &re) in out.iter_mut().zip(&reals) {
                o.re = re;
            }
        }
    }

    fn numbers(&mut self, bytes: &[u8], out: &mut [f32]) {
        let big = self.format.big_endian;
        let mut bad = 0u64;
        match self.format.number {
            Number::U8 => lanes::from_u8(bytes, 127.5, 1.0 / 127.5, out),
            Number::I8 => lanes::from_i8(bytes, 1.0 / 128.0, out),
            Number::I16 if !big => lanes::from_i16(bytes.as_chunks().0, 1.0 / 32768.0, out),
            Number::F32 if !big => bad = lanes::from_f32(bytes.as_chunks().0, out).into(),
            Number::I16 => each(bytes, out, |b| f32::from(i16::from_be_bytes(b)) / 32768.0),
            Number::U16 => each(bytes, out, |b| {
                let x = if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) };
                (f32::from(x) - 32767.5) / 32767.5
            }),
            Number::I32 => each(bytes, out, |b| {
                let x = if big { i32::from_be_bytes(b) } else { i32::from_le_bytes(b) };
                (f64::from(x) / 2_147_483_648.0) as f32
            }),
            Number::U32 => each(bytes, out, |b| {
                let x = if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) };
                ((f64::from(x) - 2_147_483_647.5) / 2_147_483_647.5) as f32
            }),
            Number::F32 => each(bytes, out, |b| finite(f32::from_be_bytes(b), &mut bad)),
            Number::F64 => each(bytes, out, |b| {
                let x = if big { f64::from_be_bytes(b) } else { f64::from_le_bytes(b) };
                finite(x as f32, &mut bad)
            }),
        }
        self.not_finite += bad;
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], mut read: impl FnMut([u8; N]) -> f32) {
    for (o, &b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = read(b);
    }
}

fn finite(x: f32, bad: &mut u64) -> f32 {
    if x.is_finite() {
        return x;
    }
    *bad += 1;
    0.0
}

/// Appends samples as bytes. Integers are rounded, and what is beyond full scale is clipped; NaN becomes the centre. A
/// real format drops the imaginary parts.
pub fn encode(format: Format, samples: &[Complex32], out: &mut Vec<u8>) {
    out.reserve(samples.len() * format.sample_bytes());
    for x in samples {
        number(format, x.re, out);
        if format.complex {
            number(format, x.im, out);
        }
    }
}

fn number(format: Format, x: f32, out: &mut Vec<u8>) {
    let wide = if x.is_nan() { 0.0 } else { f64::from(x) };
    // `as` saturates, which is the clipping.
    let signed = |scale: f64| (wide * scale).round();
    let unsigned = |half: f64| (wide * half + half).round();
    macro_rules! put {
        ($value:expr) => {{
            let value = $value;
            out.extend_from_slice(&if format.big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
        }};
    }
    match format.number {
        Number::F32 => put!(x),
        Number::F64 => put!(f64::from(x)),
        Number::I32 => put!(signed(2_147_483_648.0) as i32),
        Number::I16 => put!(signed(32768.0) as i16),
        Number::I8 => put!(signed(128.0) as i8),
        Number::U32 => put!(unsigned(2_147_483_647.5) as u32),
        Number::U16 => put!(unsigned(32767.5) as u16),
        Number::U8 => put!(unsigned(127.5) as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cut, sizes};
    use super::*;
    use proptest::prelude::*;

    fn all() -> Vec<Format> {
        let numbers =
            [Number::F32, Number::F64, Number::I32, Number::I16, Number::I8, Number::U32, Number::U16, Number::U8];
        let mut all = Vec::new();
        for number in numbers {
            for complex in [true, false] {
                all.push(Format { complex, number, big_endian: false });
                if number.bytes() > 1 {
                    all.push(Format { complex, number, big_endian: true });
                }
            }
        }
        all
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(all().len(), 28);
        for format in all() {
            assert_eq!(format.to_string().parse::<Format>(), Ok(format));
        }
        for (name, full) in
            [("cs16", "ci16_le"), ("cs16be", "ci16_be"), ("cs8", "ci8"), ("cf32", "cf32_le"), ("ru8_be", "ru8")]
        {
            assert_eq!(name.parse::<Format>().map(|f| f.to_string()), Ok(full.to_string()));
        }
        for name in ["", "c", "x8", "cf16", "ci24_le", "ci16__le", "çf32", "cf32_le_le", "CF32"] {
            assert!(name.parse::<Format>().is_err(), "{name}");
        }
    }

    #[test]
    fn scales_are_as_documented() {
        let read = |name: &str, bytes: &[u8]| {
            let mut out = Vec::new();
            Converter::new(name.parse().expect("a format")).push(bytes, &mut out);
            out
        };
        let c = Complex32::new;
        assert_eq!(read("cu8", &[0, 255, 127, 128]), [c(-1.0, 1.0), c(-0.5 / 127.5, 0.5 / 127.5)]);
        assert_eq!(read("cs8", &[0x80, 0x7f]), [c(-1.0, 127.0 / 128.0)]);
        assert_eq!(read("cs16", &[0x00, 0x80, 0x00, 0x40]), [c(-1.0, 0.5)]);
        assert_eq!(read("cs16be", &[0x80, 0x00, 0x40, 0x00]), [c(-1.0, 0.5)]);
        assert_eq!(read("ru16_le", &[0, 0, 255, 255]), [c(-1.0, 0.0), c(1.0, 0.0)]);
        assert_eq!(read("ri32_be", &[0x40, 0, 0, 0]), [c(0.5, 0.0)]);
        assert_eq!(read("ru32_le", &[255; 4]), [c(1.0, 0.0)]);
    }

    #[test]
    fn what_is_not_finite_becomes_zero_and_is_counted() {
        let mut bytes = Vec::new();
        for x in [f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY] {
            bytes.extend(x.to_le_bytes());
        }
        let mut converter = Converter::new("cf32".parse().expect("a format"));
        let mut out = Vec::new();
        converter.push(&bytes, &mut out);
        assert_eq!(out, [Complex32::new(0.0, 1.0), Complex32::default()]);
        assert_eq!(converter.not_finite(), 3);
    }

    proptest! {
        #[test]
        fn samples_come_back_and_do_not_depend_on_the_cuts(values in prop::collection::vec((-1.2f32..1.2, -1.2f32..1.2), 0..300), sizes in sizes()) {
            let samples: Vec<Complex32> = values.iter().map(|&(re, im)| Complex32::new(re, im)).collect();
            for format in all() {
                let mut bytes = Vec::new();
                encode(format, &samples, &mut bytes);
                prop_assert_eq!(bytes.len(), samples.len() * format.sample_bytes());
                let mut converter = Converter::new(format);
                let mut out = Vec::new();
                let mut total = 0;
                for piece in cut(&bytes, &sizes) {
                    total += converter.push(piece, &mut out);
                }
                prop_assert_eq!(converter.held(), 0);
                prop_assert_eq!(total, samples.len());
                let float = matches!(format.number, Number::F32 | Number::F64);
                let step = if float { 0.0 } else { 1.01 / 2f32.powi(format.number.bytes() as i32 * 8 - 1) + 2e-7 };
                for (x, y) in samples.iter().zip(&out) {
                    let clip = |v: f32| if float { v } else { v.clamp(-1.0, 1.0) };
                    prop_assert!((clip(x.re) - y.re).abs() <= step, "{} {} {}", format, x, y);
                    let im = if format.complex { clip(x.im) } else { 0.0 };
                    prop_assert!((im - y.im).abs() <= step, "{} {} {}", format, x, y);
                }
            }
        }
    }
}

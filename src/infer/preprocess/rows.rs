//! The pass itself, one output row at a time: mix two source rows into a line of floats, mix neighbours along the line, turn
//! samples into channels, write. Every loop here is plain and contiguous: it vectorises for whatever instruction set the caller was
//! compiled for, which on aarch64 is NEON without further ado. Only the mixing along the line needs [`Lanes`].

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::plan::{BLOCK, Channel, Plan};
use super::simd::Lanes;
use super::{Fit, InputSpec, Layout};
use crate::frame::PixelFormat;
use crate::infer::tensor::DType;

/// Lines are this much longer than their samples, so that whole vectors can be read at their end.
pub(super) const SLACK: usize = 64;

/// Where output rows run along source columns, this many are read together: a source row's cache line then serves them all.
const TURNED_ROWS: usize = 16;

/// Rows of floats that live as long as the preprocessor.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Source rows mixed vertically, for each sample of a pixel; lines of `pitch` samples for one output row or several.
    lines: [Vec<f32>; 3],
    pitch: usize,
    /// The same, at the output's columns.
    mixed: [Vec<f32>; 3],
    /// Channels of a row that is not written directly.
    ready: [Vec<f32>; 3],
    halves: Vec<f16>,
}

impl Scratch {
    /// Makes room for rows or columns of a picture with this longer side, and for an output of this width. Never
    /// shrinks, so a size seen before allocates nothing.
    pub(super) fn fit(&mut self, side: u32, width: usize, transposed: bool) {
        // An odd number of cache lines keeps lines that are written side by side out of one another's way.
        self.pitch = (side as usize + SLACK).next_multiple_of(16) | 16;
        let line = if transposed { self.pitch * TURNED_ROWS } else { self.pitch };
        let mixed = width.next_multiple_of(BLOCK);
        let grow = |v: &mut Vec<f32>, n: usize| {
            if v.len() < n {
                v.resize(n, 0.0);
            }
        };
        self.lines.iter_mut().for_each(|v| grow(v, line));
        self.mixed.iter_mut().for_each(|v| grow(v, mixed));
        self.ready.iter_mut().for_each(|v| grow(v, width));
        if self.halves.len() < width {
            self.halves.resize(width, f16::ZERO);
        }
    }
}

/// A picture's bytes, checked to be long enough for their size and strides.
pub(super) struct Source<'a> {
    pub(super) format: PixelFormat,
    pub(super) planes: [&'a [u8]; 3],
    pub(super) strides: [usize; 3],
}

/// One picture into one tensor slot. `out` has exactly the input's size.
#[inline(always)]
pub(super) fn run<L: Lanes>(spec: &InputSpec, plan: &Plan, source: &Source<'_>, scratch: &mut Scratch, out: &mut [u8]) {
    let pad = Pad::of(spec);
    for y in 0..spec.height {
        if !plan.rows.contains(&y) {
            pad.fill(spec, out, y, 0..spec.width);
            continue;
        }
        pad.fill(spec, out, y, 0..plan.columns.start);
        pad.fill(spec, out, y, plan.columns.end..spec.width);
        let row = y - plan.rows.start;
        let Scratch { lines, pitch, mixed, ready, halves } = scratch;
        let together = if plan.transposed { TURNED_ROWS } else { 1 };
        let line = row % together;
        if line == 0 {
            let last = (row + together).min(plan.rows.len());
            gather_lines::<L>(plan, source, row..last, lines, *pitch);
        }
        for i in 0..plan.inputs {
            let taps = &plan.along[usize::from(plan.chroma && i > 0)];
            L::along(taps, &lines[i][line * *pitch..][..*pitch], &mut mixed[i]);
        }
        emit::<L>(spec, plan, y, mixed, ready, halves, out);
    }
}

/// Mixes the source rows of these output rows into `lines`, `pitch` apart, for each sample of a pixel.
#[inline(always)]
fn gather_lines<L: Lanes>(
    plan: &Plan,
    source: &Source<'_>,
    rows: Range<usize>,
    lines: &mut [Vec<f32>; 3],
    pitch: usize,
) {
    use PixelFormat::*;
    let [l0, l1, l2] = lines;
    let at = |plane: usize| Rows { plan, source, plane, rows: rows.clone(), pitch };
    let colour = plan.inputs == 3;
    match source.format {
        Gray8 => at(0).read::<L, _, 1>([l0], bytes),
        I420 | Y42b | Y444 => {
            at(0).read::<L, _, 1>([l0], bytes);
            if colour {
                at(1).read::<L, _, 1>([l1], bytes);
                at(2).read::<L, _, 1>([l2], bytes);
            }
        }
        I420_10 | I422_10 | Y444_10 => {
            at(0).read::<L, _, 1>([l0], low_word);
            if colour {
                at(1).read::<L, _, 1>([l1], low_word);
                at(2).read::<L, _, 1>([l2], low_word);
            }
        }
        Nv12 => {
            at(0).read::<L, _, 1>([l0], bytes);
            if colour {
                at(1).read::<L, _, 2>([l1, l2], |&[u, v]: &[u8; 2]| [f32::from(u), f32::from(v)]);
            }
        }
        P010 => {
            at(0).read::<L, _, 1>([l0], high_word);
            if colour {
                at(1).read::<L, _, 2>([l1, l2], |&[a, b, c, d]: &[u8; 4]| {
                    let [u] = high_word(&[a, b]);
                    let [v] = high_word(&[c, d]);
                    [u, v]
                });
            }
        }
        Rgb => at(0).read::<L, _, 3>([l0, l1, l2], |&[r, g, b]: &[u8; 3]| [r, g, b].map(f32::from)),
        Bgr => at(0).read::<L, _, 3>([l0, l1, l2], |&[b, g, r]: &[u8; 3]| [r, g, b].map(f32::from)),
        Rgbx => at(0).read::<L, _, 3>([l0, l1, l2], |&[r, g, b, _]: &[u8; 4]| [r, g, b].map(f32::from)),
        Bgrx => at(0).read::<L, _, 3>([l0, l1, l2], |&[b, g, r, _]: &[u8; 4]| [r, g, b].map(f32::from)),
    }
}

#[inline(always)]
fn bytes(&[v]: &[u8; 1]) -> [f32; 1] {
    [f32::from(v)]
}

#[inline(always)]
fn low_word(b: &[u8; 2]) -> [f32; 1] {
    [f32::from(u16::from_le_bytes(*b))]
}

#[inline(always)]
fn high_word(b: &[u8; 2]) -> [f32; 1] {
    [f32::from(u16::from_le_bytes(*b) >> 6)]
}

/// The rows (or, for a quarter turn, columns) of one plane that some output rows mix.
struct Rows<'a> {
    plan: &'a Plan,
    source: &'a Source<'a>,
    plane: usize,
    rows: Range<usize>,
    pitch: usize,
}

impl Rows<'_> {
    /// Mixes them into the lines of `N` samples; `load` takes a pixel of `P` bytes apart.
    #[inline(always)]
    fn read<L: Lanes, const P: usize, const N: usize>(
        &self,
        mut lines: [&mut Vec<f32>; N],
        load: impl Fn(&[u8; P]) -> [f32; N] + Copy,
    ) {
        let grid = usize::from(self.plane > 0);
        let taps = &self.plan.along[grid];
        let (lo, n) = (taps.lo(), taps.len());
        let across = &self.plan.across[grid][self.rows.clone()];
        let data = self.source.planes[self.plane];
        let stride = self.source.strides[self.plane];
        if self.plan.transposed {
            let pixel = |row: usize, column: usize| load(&data[row * stride + column * P..].as_chunks::<P>().0[0]);
            for i in 0..n {
                for (g, tap) in across.iter().enumerate() {
                    let (a, b) = (pixel(lo + i, tap.first), pixel(lo + i, tap.second));
                    for ((line, a), b) in lines.iter_mut().zip(a).zip(b) {
                        line[g * self.pitch + i] = L::mix(a, b, tap.weight);
                    }
                }
            }
            return;
        }
        let pixels = |row: usize| {
            let start = row * stride + lo * P;
            data[start..start + n * P].as_chunks::<P>().0
        };
        for (g, tap) in across.iter().enumerate() {
            let lines = lines.each_mut().map(|l| &mut l[g * self.pitch..][..n]);
            let (a, b) = (pixels(tap.first), pixels(tap.second));
            for i in 0..n.min(a.len()).min(b.len()) {
                let (p, q) = (load(&a[i]), load(&b[i]));
                for c in 0..N {
                    lines[c][i] = L::mix(p[c], q[c], tap.weight);
                }
            }
        }
    }
}

/// One value of a channel.
#[inline(always)]
fn value<L: Lanes, const N: usize>(c: &Channel, samples: [f32; N]) -> f32 {
    let mut v = c.add;
    for (sample, mix) in samples.into_iter().zip(c.mix) {
        v = L::fma(sample, mix, v);
    }
    L::fma(v.clamp(0.0, 255.0), c.gain, c.shift)
}

/// One channel of a row, handed to `put` pixel by pixel.
#[inline(always)]
fn channel<L: Lanes, T>(
    c: &Channel,
    inputs: usize,
    mixed: &[Vec<f32>; 3],
    n: usize,
    out: &mut [T],
    put: impl Fn(f32) -> T,
) {
    let a = &mixed[0][..n];
    let out = &mut out[..n];
    if inputs == 1 {
        for (o, &a) in out.iter_mut().zip(a) {
            *o = put(value::<L, 1>(c, [a]));
        }
    } else {
        let (b, d) = (&mixed[1][..n], &mixed[2][..n]);
        for (((o, &a), &b), &d) in out.iter_mut().zip(a).zip(b).zip(d) {
            *o = put(value::<L, 3>(c, [a, b, d]));
        }
    }
}

/// Rounds to the nearest byte, ties to even.
#[inline(always)]
fn to_byte(v: f32) -> u8 {
    // From 2^23 on a float's steps are whole, so its lowest bits are the rounded number. A cast would saturate
    // element by element and take three times as long.
    (v.clamp(0.0, 255.0) + 8_388_608.0).to_bits() as u8
}

/// Turns a row's samples into channels and writes them.
#[inline(always)]
fn emit<L: Lanes>(
    spec: &InputSpec,
    plan: &Plan,
    y: usize,
    mixed: &[Vec<f32>; 3],
    ready: &mut [Vec<f32>; 3],
    halves: &mut [f16],
    out: &mut [u8],
) {
    let count = spec.channels.count();
    let n = plan.columns.len();
    let size = spec.dtype.bytes();
    if spec.layout == Layout::Nchw || count == 1 {
        for (i, c) in plan.channels.iter().enumerate().take(count) {
            let start = ((i * spec.height + y) * spec.width + plan.columns.start) * size;
            let row = &mut out[start..start + n * size];
            match spec.dtype {
                DType::F32 => {
                    channel::<L, _>(c, plan.inputs, mixed, n, row.as_chunks_mut::<4>().0, f32::to_ne_bytes);
                }
                DType::U8 => channel::<L, _>(c, plan.inputs, mixed, n, row, to_byte),
                DType::F16 => {
                    channel::<L, _>(c, plan.inputs, mixed, n, &mut ready[0], |v| v);
                    halves[..n].convert_from_f32_slice(&ready[0][..n]);
                    for (o, v) in row.as_chunks_mut::<2>().0.iter_mut().zip(&halves[..n]) {
                        *o = v.to_ne_bytes();
                    }
                }
            }
        }
        return;
    }
    for (c, ready) in plan.channels.iter().zip(ready.iter_mut()) {
        channel::<L, _>(c, plan.inputs, mixed, n, ready, |v| v);
    }
    let start = (y * spec.width + plan.columns.start) * size * 3;
    let row = &mut out[start..start + n * size * 3];
    let [a, b, c] = [0, 1, 2].map(|i| &ready[i][..n]);
    let pixels = a.iter().zip(b).zip(c).map(|((&a, &b), &c)| [a, b, c]);
    match spec.dtype {
        DType::F32 => {
            for (o, v) in row.as_chunks_mut::<4>().0.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
                *o = v.map(f32::to_ne_bytes);
            }
        }
        DType::U8 => {
            for (o, v) in row.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
                *o = v.map(to_byte);
            }
        }
        DType::F16 => {
            for (i, ready) in ready.iter().enumerate() {
                halves[..n].convert_from_f32_slice(&ready[..n]);
                for (o, v) in row.as_chunks_mut::<2>().0.as_chunks_mut::<3>().0.iter_mut().zip(&halves[..n]) {
                    o[i] = v.to_ne_bytes();
                }
            }
        }
    }
}

/// The padding's value, normalised and encoded.
struct Pad {
    elements: [[u8; 4]; 3],
}

impl Pad {
    fn of(spec: &InputSpec) -> Self {
        let pad = match spec.fit {
            Fit::Letterbox { pad, .. } => pad,
            Fit::Stretch | Fit::Crop => [0.0; 3],
        };
        let elements = [0, 1, 2].map(|i| {
            let v = (pad[i] - spec.mean[i]) * spec.scale[i];
            let mut bytes = [0; 4];
            match spec.dtype {
                DType::F32 => bytes = v.to_ne_bytes(),
                DType::F16 => bytes[..2].copy_from_slice(&f16::from_f32(v).to_ne_bytes()),
                DType::U8 => bytes[0] = to_byte(v),
            }
            bytes
        });
        Self { elements }
    }

    #[inline(always)]
    fn fill(&self, spec: &InputSpec, out: &mut [u8], y: usize, columns: Range<usize>) {
        if columns.is_empty() {
            return;
        }
        let count = spec.channels.count();
        let size = spec.dtype.bytes();
        if spec.layout == Layout::Nchw || count == 1 {
            for (i, e) in self.elements.iter().enumerate().take(count) {
                let start = ((i * spec.height + y) * spec.width + columns.start) * size;
                let row = &mut out[start..start + columns.len() * size];
                match spec.dtype {
                    DType::F32 => row.as_chunks_mut::<4>().0.fill(*e),
                    DType::F16 => row.as_chunks_mut::<2>().0.fill([e[0], e[1]]),
                    DType::U8 => row.fill(e[0]),
                }
            }
            return;
        }
        let start = (y * spec.width + columns.start) * size * 3;
        let row = &mut out[start..start + columns.len() * size * 3];
        let e = &self.elements;
        match spec.dtype {
            DType::F32 => row.as_chunks_mut::<4>().0.as_chunks_mut::<3>().0.fill(*e),
            DType::F16 => row.as_chunks_mut::<2>().0.as_chunks_mut::<3>().0.fill(e.map(|e| [e[0], e[1]])),
            DType::U8 => row.as_chunks_mut::<3>().0.fill(e.map(|e| e[0])),
        }
    }
}

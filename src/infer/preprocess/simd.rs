//! Vector width: which one this machine has, and the one step that plain loops cannot vectorise, mixing neighbours at computed places.
//!
//! The only unsafe code of the pixel pass is here. It rests on two facts: a level above portable is only ever run after
//! the processor was found to have it ([`SimdLevel::supported`]), and [`Taps`] promises that its indices lie inside
//! the line whose length is checked at the top of each function.

#![allow(unsafe_code)]

use super::InputSpec;
use super::plan::{Plan, Taps};
use super::rows::{self, SLACK, Scratch, Source};

/// The vector instructions that a pass uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SimdLevel {
    /// What every processor of the target has: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// 256 bits with fused multiply-add (x86-64-v3).
    Avx2,
    /// 512 bits (x86-64-v4).
    Avx512,
}

impl SimdLevel {
    /// Every level, narrowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The widest that this machine has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|l| l.supported()).unwrap_or(Self::Portable)
    }

    /// Whether this machine has it.
    pub fn supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Floats in a vector, as far as the tables are concerned.
    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Portable | Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }
}

/// What differs between the levels.
pub(super) trait Lanes {
    /// `a * b + c`, fused where that is one instruction.
    fn fma(a: f32, b: f32, c: f32) -> f32;

    /// `a + (b - a) * weight`.
    #[inline(always)]
    fn mix(a: f32, b: f32, weight: f32) -> f32 {
        Self::fma(b - a, weight, a)
    }

    /// Mixes the line's samples into the output's columns.
    fn along(taps: &Taps, line: &[f32], out: &mut [f32]);
}

/// Runs the pass at a level that the machine has; a level that it does not have runs as portable.
pub(super) fn run(
    level: SimdLevel,
    spec: &InputSpec,
    plan: &Plan,
    source: &Source<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the features that the function was compiled for were just found on this processor.
        SimdLevel::Avx512 if level.supported() => unsafe { x86::run_avx512(spec, plan, source, scratch, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 if level.supported() => unsafe { x86::run_avx2(spec, plan, source, scratch, out) },
        _ => rows::run::<Portable>(spec, plan, source, scratch, out),
    }
}

struct Portable;

impl Lanes for Portable {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        // Where the target has no fused instruction `mul_add` is a library call.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
    }

    #[inline(always)]
    fn along(taps: &Taps, line: &[f32], out: &mut [f32]) {
        assert!(line.len() > taps.len());
        for ((o, &i), &w) in out[..taps.padded()].iter_mut().zip(taps.index()).zip(taps.weight()) {
            let i = i as usize;
            // SAFETY: an index is at most `len - 1` (a promise of `Taps`) and the line is longer than `len`.
            let (a, b) = unsafe { (*line.get_unchecked(i), *line.get_unchecked(i + 1)) };
            *o = Self::mix(a, b, w);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run_avx2(spec: &InputSpec, plan: &Plan, source: &Source<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        rows::run::<Avx2>(spec, plan, source, scratch, out);
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn run_avx512(
        spec: &InputSpec,
        plan: &Plan,
        source: &Source<'_>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) {
        rows::run::<Avx512>(spec, plan, source, scratch, out);
    }

    struct Avx2;

    impl Lanes for Avx2 {
        #[inline(always)]
        fn fma(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }

        #[inline(always)]
        fn along(taps: &Taps, line: &[f32], out: &mut [f32]) {
            // SAFETY: only `run_avx2` uses this type.
            unsafe { along_avx2(taps, line, out) }
        }
    }

    struct Avx512;

    impl Lanes for Avx512 {
        #[inline(always)]
        fn fma(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }

        #[inline(always)]
        fn along(taps: &Taps, line: &[f32], out: &mut [f32]) {
            // SAFETY: only `run_avx512` uses this type.
            unsafe { along_avx512(taps, line, out) }
        }
    }

    /// Picks by permuting 1, 2 or 4 vectors read at the block's first sample, which beats gathering by far; a block that spans
    /// more (a reduction by more than about four) is gathered.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn along_avx2(taps: &Taps, line: &[f32], out: &mut [f32]) {
        let n = taps.padded();
        assert!(line.len() >= taps.len() + SLACK && out.len() >= n && n.is_multiple_of(8));
        assert!(taps.index().len() == n && taps.weight().len() == n && taps.base().len() * 8 >= n);
        let one = _mm256_set1_epi32(1);
        let span = taps.span();
        for block in 0..n / 8 {
            // SAFETY: block * 8 + 8 <= n, the length of the three arrays; base < len, and reads reach at most 32 samples
            // from there, within the line's slack; gathered indices are at most len, inside the line too.
            unsafe {
                let index = _mm256_loadu_si256(taps.index().as_ptr().add(block * 8).cast());
                let weight = _mm256_loadu_ps(taps.weight().as_ptr().add(block * 8));
                let base = *taps.base().get_unchecked(block);
                let (a, b) = if span <= 32 {
                    let from = line.as_ptr().add(base as usize);
                    let i = _mm256_sub_epi32(index, _mm256_set1_epi32(base));
                    let j = _mm256_add_epi32(i, one);
                    let v0 = _mm256_loadu_ps(from);
                    if span <= 8 {
                        (_mm256_permutevar8x32_ps(v0, i), _mm256_permutevar8x32_ps(v0, j))
                    } else {
                        let v1 = _mm256_loadu_ps(from.add(8));
                        if span <= 16 {
                            (pick16(v0, v1, i), pick16(v0, v1, j))
                        } else {
                            let v2 = _mm256_loadu_ps(from.add(16));
                            let v3 = _mm256_loadu_ps(from.add(24));
                            (pick32([v0, v1, v2, v3], i), pick32([v0, v1, v2, v3], j))
                        }
                    }
                } else {
                    let from = line.as_ptr();
                    (
                        _mm256_i32gather_ps::<4>(from, index),
                        _mm256_i32gather_ps::<4>(from, _mm256_add_epi32(index, one)),
                    )
                };
                let mixed = _mm256_fmadd_ps(_mm256_sub_ps(b, a), weight, a);
                _mm256_storeu_ps(out.as_mut_ptr().add(block * 8), mixed);
            }
        }
    }

    /// Element `i` (0 to 15) of two vectors.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pick16(v0: __m256, v1: __m256, i: __m256i) -> __m256 {
        let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(i));
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(v0, i), _mm256_permutevar8x32_ps(v1, i), upper)
    }

    /// Element `i` (0 to 31) of four vectors.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pick32(v: [__m256; 4], i: __m256i) -> __m256 {
        let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<27>(i));
        _mm256_blendv_ps(pick16(v[0], v[1], i), pick16(v[2], v[3], i), upper)
    }

    /// As [`along_avx2`], with vectors of 16 and a reach of 64 samples.
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn along_avx512(taps: &Taps, line: &[f32], out: &mut [f32]) {
        let n = taps.padded();
        assert!(line.len() >= taps.len() + SLACK && out.len() >= n && n.is_multiple_of(16));
        assert!(taps.index().len() == n && taps.weight().len() == n && taps.base().len() * 16 >= n);
        let one = _mm512_set1_epi32(1);
        let span = taps.span();
        for block in 0..n / 16 {
            // SAFETY: block * 16 + 16 <= n, the length of the three arrays; base < len, and reads reach at most 64 samples
            // from there, within the line's slack; gathered indices are at most len, inside the line too.
            unsafe {
                let index = _mm512_loadu_si512(taps.index().as_ptr().add(block * 16).cast());
                let weight = _mm512_loadu_ps(taps.weight().as_ptr().add(block * 16));
                let base = *taps.base().get_unchecked(block);
                let (a, b) = if span <= 64 {
                    let from = line.as_ptr().add(base as usize);
                    let i = _mm512_sub_epi32(index, _mm512_set1_epi32(base));
                    let j = _mm512_add_epi32(i, one);
                    let v0 = _mm512_loadu_ps(from);
                    let v1 = _mm512_loadu_ps(from.add(16));
                    if span <= 32 {
                        (_mm512_permutex2var_ps(v0, i, v1), _mm512_permutex2var_ps(v0, j, v1))
                    } else {
                        let v2 = _mm512_loadu_ps(from.add(32));
                        let v3 = _mm512_loadu_ps(from.add(48));
                        let pick = |i: __m512i| {
                            let upper = _mm512_test_epi32_mask(i, _mm512_set1_epi32(32));
                            _mm512_mask_blend_ps(
                                upper,
                                _mm512_permutex2var_ps(v0, i, v1),
                                _mm512_permutex2var_ps(v2, i, v3),
                            )
                        };
                        (pick(i), pick(j))
                    }
                } else {
                    let from = line.as_ptr();
                    (
                        _mm512_i32gather_ps::<4>(index, from),
                        _mm512_i32gather_ps::<4>(_mm512_add_epi32(index, one), from),
                    )
                };
                let mixed = _mm512_fmadd_ps(_mm512_sub_ps(b, a), weight, a);
                _mm512_storeu_ps(out.as_mut_ptr().add(block * 16), mixed);
            }
        }
    }
}

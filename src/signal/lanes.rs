//! The few inner loops that the compiler turns into vector code, built twice: for any processor, and for AVX2 where the
//! machine has it. Both do the same operations in the same order (no fused multiply-add), so results do not depend on
//! the machine.

use super::Complex32;

macro_rules! lanes {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: `wide` needs nothing but AVX2, and the processor has just said that it has it.
                    return unsafe { wide($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )*};
}

/// Samples as interleaved real and imaginary parts.
#[inline]
pub fn parts(x: &[Complex32]) -> &[f32] {
    // SAFETY: `Complex<f32>` is `repr(C)` with two `f32` and no padding, as num-complex documents.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len() * 2) }
}

/// Samples as interleaved real and imaginary parts, to be written.
#[inline]
pub fn parts_mut(x: &mut [Complex32]) -> &mut [f32] {
    // SAFETY: as above; the borrow is exclusive, and every pair of `f32` is a sample.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len() * 2) }
}

/// Each weight twice, once for the real and once for the imaginary part.
pub fn twice(weights: impl IntoIterator<Item = f64>) -> Vec<f32> {
    weights.into_iter().flat_map(|w| [w as f32; 2]).collect()
}

lanes! {
    /// `out = x · weights`, element by element, over the shortest of the three.
    fn weigh(x: &[f32], weights: &[f32], out: &mut [f32]) {
        for ((o, x), w) in out.iter_mut().zip(x).zip(weights) {
            *o = x * w;
        }
    }

    /// `out += x · weights`, element by element, over the shortest of the three.
    fn weigh_add(x: &[f32], weights: &[f32], out: &mut [f32]) {
        for ((o, x), w) in out.iter_mut().zip(x).zip(weights) {
            *o += x * w;
        }
    }

    /// The sum of samples times weights; every weight is there twice (see [`twice`]).
    fn dot(x: &[f32], weights: &[f32]) -> Complex32 {
        let n = x.len().min(weights.len());
        let (xs, x_rest) = x[..n].as_chunks::<16>();
        let (ws, w_rest) = weights[..n].as_chunks::<16>();
        let mut sums = [0f32; 16];
        for (x, w) in xs.iter().zip(ws) {
            for k in 0..16 {
                sums[k] += x[k] * w[k];
            }
        }
        for (k, (x, w)) in x_rest.iter().zip(w_rest).enumerate() {
            sums[k] += x * w;
        }
        let mut half = [0f32; 8];
        for k in 0..8 {
            half[k] = sums[k] + sums[k + 8];
        }
        Complex32::new((half[0] + half[4]) + (half[2] + half[6]), (half[1] + half[5]) + (half[3] + half[7]))
    }

    /// `out = |x|²`.
    fn power(x: &[Complex32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = x.re * x.re + x.im * x.im;
        }
    }

    /// `out += |x|²`.
    fn power_add(x: &[Complex32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o += x.re * x.re + x.im * x.im;
        }
    }

    /// `out = max(out, |x|²)`; NaN never wins.
    fn power_max(x: &[Complex32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            let p = x.re * x.re + x.im * x.im;
            *o = if p > *o { p } else { *o };
        }
    }

    /// `out` moves towards `|x|²` by a share; what is not finite counts as silence, since it would never leave the mean.
    fn power_towards(x: &[Complex32], share: f32, out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            let p = x.re * x.re + x.im * x.im;
            let p = if p < f32::INFINITY { p } else { 0.0 };
            *o += share * (p - *o);
        }
    }

    /// `out = |x|`.
    fn magnitude(x: &[Complex32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = (x.re * x.re + x.im * x.im).sqrt();
        }
    }

    /// `out = x · y · by`, complex.
    fn rotate(x: &[Complex32], y: &[Complex32], by: Complex32, out: &mut [Complex32]) {
        for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
            let r = Complex32::new(y.re * by.re - y.im * by.im, y.re * by.im + y.im * by.re);
            *o = Complex32::new(x.re * r.re - x.im * r.im, x.re * r.im + x.im * r.re);
        }
    }

    /// `out = (x − centre) · scale`.
    fn from_u8(x: &[u8], centre: f32, scale: f32, out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = (f32::from(x) - centre) * scale;
        }
    }

    /// `out = x · scale`.
    fn from_i8(x: &[u8], scale: f32, out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = f32::from(x as i8) * scale;
        }
    }

    /// `out = x · scale`, little-endian.
    fn from_i16(x: &[[u8; 2]], scale: f32, out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = f32::from(i16::from_le_bytes(x)) * scale;
        }
    }

    /// Little-endian numbers; what is not finite becomes zero. Returns how many were not.
    fn from_f32(x: &[[u8; 4]], out: &mut [f32]) -> u32 {
        let mut bad = 0;
        for (o, &x) in out.iter_mut().zip(x) {
            let v = f32::from_le_bytes(x);
            let fine = v.abs() < f32::INFINITY;
            *o = if fine { v } else { 0.0 };
            bad += u32::from(!fine);
        }
        bad
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;

    #[test]
    fn a_dot_product_of_any_length_is_the_plain_sum() {
        for n in 0..70 {
            let x = noise(n, 1.0, n as u64 + 1);
            let weights: Vec<f64> = noise(n, 1.0, 99).iter().map(|c| f64::from(c.re)).collect();
            let plain: num_complex::Complex64 =
                x.iter().zip(&weights).map(|(c, w)| num_complex::Complex64::new(c.re.into(), c.im.into()) * w).sum();
            let ours = dot(parts(&x), &twice(weights));
            assert!((f64::from(ours.re) - plain.re).abs() < 1e-5 && (f64::from(ours.im) - plain.im).abs() < 1e-5);
        }
    }
}

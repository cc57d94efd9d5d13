//! What light, lens, sensor and codec do to a picture, for training and evaluation scenes.

use super::PlanesMut;
use super::look::Flaws;
use super::rng::Rng;

/// Spoils a picture.
pub(super) fn apply(out: &mut PlanesMut<'_>, flaws: &Flaws, rng: &mut Rng) {
    light(out, flaws);
    let blur = flaws.blur * out.height as f32 / 720.0;
    let (w, h) = (out.width, out.height);
    let [sy, su, sv] = out.strides;
    if blur > 0.1 {
        smear(out.y, w, h, sy, blur);
        smear(out.u, w / 2, h / 2, su, blur / 2.0);
        smear(out.v, w / 2, h / 2, sv, blur / 2.0);
    }
    if flaws.noise > 0.0 {
        grain(out.y, w, h, sy, flaws.noise, rng);
        grain(out.u, w / 2, h / 2, su, flaws.noise * 0.4, rng);
        grain(out.v, w / 2, h / 2, sv, flaws.noise * 0.4, rng);
    }
    if flaws.quantiser > 0.0 {
        let dct = Dct::new();
        dct.quantise(out.y, w, h, sy, flaws.quantiser);
        dct.quantise(out.u, w / 2, h / 2, su, flaws.quantiser * 1.3);
        dct.quantise(out.v, w / 2, h / 2, sv, flaws.quantiser * 1.3);
    }
}

fn light(out: &mut PlanesMut<'_>, flaws: &Flaws) {
    let curve: [f32; 256] = std::array::from_fn(|i| {
        let v = (i as f32 - 16.0).max(0.0) / 219.0;
        219.0 * flaws.gain * v.powf(flaws.gamma)
    });
    let (cx, cy) = (out.width as f32 / 2.0, out.height as f32 / 2.0);
    let per = flaws.vignette / (cx * cx + cy * cy);
    for y in 0..out.height {
        let dy = y as f32 - cy;
        for (x, p) in out.y[y * out.strides[0]..][..out.width].iter_mut().enumerate() {
            let dx = x as f32 - cx;
            *p = (16.5 + curve[*p as usize] * (1.0 - per * (dx * dx + dy * dy))).clamp(16.0, 235.0) as u8;
        }
    }
    let strength = flaws.saturation * flaws.gain.min(1.0);
    let strides = [out.strides[1], out.strides[2]];
    for (i, plane) in [&mut *out.u, &mut *out.v].into_iter().enumerate() {
        for y in 0..out.height / 2 {
            for p in &mut plane[y * strides[i]..][..out.width / 2] {
                *p = (128.5 + (*p as f32 - 128.0) * strength + flaws.tint[i]).clamp(16.0, 240.0) as u8;
            }
        }
    }
}

/// A Gaussian blur of standard deviation `sigma`, rows then columns.
fn smear(plane: &mut [u8], w: usize, h: usize, stride: usize, sigma: f32) {
    let radius = (sigma * 2.5).ceil() as usize;
    let mut kernel: Vec<f32> = (0..=2 * radius)
        .map(|i| {
            let d = (i as f32 - radius as f32) / sigma;
            (-0.5 * d * d).exp()
        })
        .collect();
    let sum: f32 = kernel.iter().sum();
    kernel.iter_mut().for_each(|k| *k /= sum);
    let mut across = vec![0f32; w * h];
    let mut padded = vec![0f32; w + 2 * radius];
    for y in 0..h {
        let row = &plane[y * stride..][..w];
        for (i, p) in padded.iter_mut().enumerate() {
            *p = row[i.saturating_sub(radius).min(w - 1)] as f32;
        }
        let out = &mut across[y * w..][..w];
        for (i, k) in kernel.iter().enumerate() {
            for (o, p) in out.iter_mut().zip(&padded[i..]) {
                *o += k * p;
            }
        }
    }
    let mut sum = vec![0f32; w];
    for y in 0..h {
        sum.fill(0.5);
        for (i, k) in kernel.iter().enumerate() {
            let source = (y + i).saturating_sub(radius).min(h - 1);
            for (o, p) in sum.iter_mut().zip(&across[source * w..][..w]) {
                *o += k * p;
            }
        }
        for (p, s) in plane[y * stride..][..w].iter_mut().zip(&sum) {
            *p = *s as u8;
        }
    }
}

fn grain(plane: &mut [u8], w: usize, h: usize, stride: usize, sigma: f32, rng: &mut Rng) {
    for y in 0..h {
        for p in &mut plane[y * stride..][..w] {
            // The sum of four uniform bytes is close enough to a normal deviate (standard deviation 147.8).
            let r = rng.next();
            let sum = (r & 255) + ((r >> 8) & 255) + ((r >> 16) & 255) + ((r >> 24) & 255);
            *p = (*p as f32 + 0.5 + (sum as f32 - 510.0) * (sigma / 147.8)).clamp(0.0, 255.0) as u8;
        }
    }
}

/// The 8×8 block transform of JPEG, MPEG and friends.
struct Dct {
    basis: [[f32; 8]; 8],
}

impl Dct {
    fn new() -> Self {
        let basis = std::array::from_fn(|k| {
            let norm = if k == 0 { (1.0f32 / 8.0).sqrt() } else { 0.5 };
            std::array::from_fn(|i| norm * ((2 * i + 1) as f32 * k as f32 * std::f32::consts::PI / 16.0).cos())
        });
        Self { basis }
    }

    /// Rounds the coefficients of every block to steps that grow with the frequency.
    fn quantise(&self, plane: &mut [u8], w: usize, h: usize, stride: usize, step: f32) {
        let b = &self.basis;
        for by in (0..h / 8).map(|i| i * 8) {
            for bx in (0..w / 8).map(|i| i * 8) {
                let block: [[f32; 8]; 8] =
                    std::array::from_fn(|y| std::array::from_fn(|x| plane[(by + y) * stride + bx + x] as f32));
                let rows: [[f32; 8]; 8] =
                    std::array::from_fn(|y| std::array::from_fn(|k| (0..8).map(|x| block[y][x] * b[k][x]).sum()));
                let mut freq: [[f32; 8]; 8] =
                    std::array::from_fn(|j| std::array::from_fn(|k| (0..8).map(|y| rows[y][k] * b[j][y]).sum()));
                for (j, line) in freq.iter_mut().enumerate() {
                    for (k, c) in line.iter_mut().enumerate() {
                        let q = step * (1.0 + 0.22 * (j + k) as f32);
                        *c = (*c / q).round() * q;
                    }
                }
                let rows: [[f32; 8]; 8] =
                    std::array::from_fn(|y| std::array::from_fn(|k| (0..8).map(|j| freq[j][k] * b[j][y]).sum()));
                for (y, row) in rows.iter().enumerate() {
                    for x in 0..8 {
                        let v: f32 = (0..8).map(|k| row[k] * b[k][x]).sum();
                        plane[(by + y) * stride + bx + x] = (v + 0.5).clamp(0.0, 255.0) as u8;
                    }
                }
            }
        }
    }
}

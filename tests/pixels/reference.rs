//! The pixel pass's arithmetic a second time: in double precision, one output pixel after another, straight from its
//! description and sharing nothing with the library but the types of its interface.

use framegate::frame::{Matrix, Picture, PixelFormat, Range, Siting};
use framegate::infer::preprocess::{ChannelOrder, Fit, InputSpec, Region};

/// What an output pixel is before normalisation.
#[derive(Debug, Clone, Copy)]
pub enum Pixel {
    /// Covered by the picture: red, green, blue and luma, 0–255.
    Picture { rgb: [f64; 3], luma: f64 },
    /// Beside the picture.
    Padding,
}

/// Size in whole pixels and origin of the scaled region.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

pub fn placement(fit: Fit, (w, h): (f64, f64), (in_w, in_h): (f64, f64)) -> Placement {
    match fit {
        Fit::Stretch => Placement { left: 0.0, top: 0.0, width: in_w, height: in_h },
        Fit::Letterbox { centered: true, never_enlarge, .. } => {
            let mut r = f64::min(in_w / w, in_h / h);
            if never_enlarge && r > 1.0 {
                r = 1.0;
            }
            let (width, height) = ((w * r).round_ties_even().max(1.0), (h * r).round_ties_even().max(1.0));
            Placement { left: ((in_w - width) / 2.0).floor(), top: ((in_h - height) / 2.0).floor(), width, height }
        }
        Fit::Letterbox { centered: false, never_enlarge, .. } => {
            let mut r = f64::min(in_w / w, in_h / h);
            if never_enlarge && r > 1.0 {
                r = 1.0;
            }
            // A whole number that division spoilt is still that number.
            let whole = |v: f64| if (v - v.round()).abs() < 1e-6 { v.round() } else { v.floor() };
            Placement { left: 0.0, top: 0.0, width: whole(w * r).max(1.0), height: whole(h * r).max(1.0) }
        }
        Fit::Crop => {
            let r = f64::max(in_w / w, in_h / h);
            let whole = |v: f64| if (v - v.round()).abs() < 1e-6 { v.round() } else { v.floor() };
            let (width, height) = (whole(w * r).max(in_w), whole(h * r).max(in_h));
            let middle = |d: f64| -(d / 2.0).round_ties_even();
            Placement { left: middle(width - in_w), top: middle(height - in_h), width, height }
        }
    }
}

/// One plane as numbers.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f64>,
}

impl Plane {
    fn at(&self, x: f64, y: f64) -> f64 {
        let clamp = |v: f64, n: usize| v.max(0.0).min(n as f64 - 1.0) as usize;
        let (x0, y0) = (x.floor(), y.floor());
        let (fx, fy) = (x - x0, y - y0);
        let v = |i: f64, j: f64| self.values[clamp(j, self.height) * self.width + clamp(i, self.width)];
        let top = v(x0, y0) * (1.0 - fx) + v(x0 + 1.0, y0) * fx;
        let bottom = v(x0, y0 + 1.0) * (1.0 - fx) + v(x0 + 1.0, y0 + 1.0) * fx;
        top * (1.0 - fy) + bottom * fy
    }
}

/// A picture taken apart into full-precision planes (luma, Cb, Cr; or red, green, blue; or grey).
pub struct Reference<'a> {
    picture: &'a Picture,
    planes: Vec<Plane>,
    halved: (bool, bool),
    bits: u32,
}

impl<'a> Reference<'a> {
    pub fn new(picture: &'a Picture) -> Self {
        use PixelFormat::*;
        let (w, h) = (picture.width as usize, picture.height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        // Plane, columns, rows, bytes from pixel to pixel, byte offset within, 16-bit words, shift.
        type Part = (usize, usize, usize, usize, usize, bool, u32);
        let parts: Vec<Part> = match picture.format {
            I420 => vec![(0, w, h, 1, 0, false, 0), (1, cw, ch, 1, 0, false, 0), (2, cw, ch, 1, 0, false, 0)],
            Y42b => vec![(0, w, h, 1, 0, false, 0), (1, cw, h, 1, 0, false, 0), (2, cw, h, 1, 0, false, 0)],
            Y444 => vec![(0, w, h, 1, 0, false, 0), (1, w, h, 1, 0, false, 0), (2, w, h, 1, 0, false, 0)],
            Nv12 => vec![(0, w, h, 1, 0, false, 0), (1, cw, ch, 2, 0, false, 0), (1, cw, ch, 2, 1, false, 0)],
            I420_10 => vec![(0, w, h, 2, 0, true, 0), (1, cw, ch, 2, 0, true, 0), (2, cw, ch, 2, 0, true, 0)],
            I422_10 => vec![(0, w, h, 2, 0, true, 0), (1, cw, h, 2, 0, true, 0), (2, cw, h, 2, 0, true, 0)],
            Y444_10 => vec![(0, w, h, 2, 0, true, 0), (1, w, h, 2, 0, true, 0), (2, w, h, 2, 0, true, 0)],
            P010 => vec![(0, w, h, 2, 0, true, 6), (1, cw, ch, 4, 0, true, 6), (1, cw, ch, 4, 2, true, 6)],
            Gray8 => vec![(0, w, h, 1, 0, false, 0)],
            Rgb => (0..3).map(|c| (0, w, h, 3, c, false, 0)).collect(),
            Bgr => (0..3).map(|c| (0, w, h, 3, 2 - c, false, 0)).collect(),
            Rgbx => (0..3).map(|c| (0, w, h, 4, c, false, 0)).collect(),
            Bgrx => (0..3).map(|c| (0, w, h, 4, 2 - c, false, 0)).collect(),
        };
        let planes = parts
            .into_iter()
            .map(|(plane, width, height, step, offset, wide, shift)| {
                let data = picture.buffer.plane(plane);
                let mut values = Vec::with_capacity(width * height);
                for y in 0..height {
                    for x in 0..width {
                        let at = y * picture.strides[plane] + x * step + offset;
                        let v =
                            if wide { u32::from(data[at]) + 256 * u32::from(data[at + 1]) } else { data[at].into() };
                        values.push(f64::from(v >> shift));
                    }
                }
                Plane { width, height, values }
            })
            .collect();
        let halved = match picture.format {
            I420 | Nv12 | I420_10 | P010 => (true, true),
            Y42b | I422_10 => (true, false),
            _ => (false, false),
        };
        let bits = if matches!(picture.format, I420_10 | I422_10 | Y444_10 | P010) { 10 } else { 8 };
        Self { picture, planes, halved, bits }
    }

    /// Every pixel of the input, row by row.
    pub fn pixels(&self, spec: &InputSpec, region: Option<Region>) -> Vec<Pixel> {
        let (vw, vh) = self.picture.view_size();
        let [x1, y1, x2, y2] = region.unwrap_or([0.0, 0.0, vw as f32, vh as f32]).map(f64::from);
        let place = placement(spec.fit, (x2 - x1, y2 - y1), (spec.width as f64, spec.height as f64));
        let mut out = Vec::with_capacity(spec.width * spec.height);
        for y in 0..spec.height {
            for x in 0..spec.width {
                let (px, py) = (x as f64 - place.left, y as f64 - place.top);
                out.push(if px < 0.0 || py < 0.0 || px >= place.width || py >= place.height {
                    Pixel::Padding
                } else {
                    let vx = x1 + (px + 0.5) * (x2 - x1) / place.width;
                    let vy = y1 + (py + 0.5) * (y2 - y1) / place.height;
                    self.viewed(vx, vy)
                });
            }
        }
        out
    }

    /// The colour at a place of the picture as viewed.
    fn viewed(&self, vx: f64, vy: f64) -> Pixel {
        let (vw, vh) = self.picture.view_size();
        let (mut w, mut h) = (f64::from(vw), f64::from(vh));
        let (mut x, mut y) = (vx, vy);
        // Take the clockwise quarter turns back one by one: each was (x, y) -> (h - y, x).
        for _ in 0..self.picture.orientation.quarter_turns % 4 {
            (x, y) = (y, w - x);
            (w, h) = (h, w);
        }
        if self.picture.orientation.mirrored {
            x = w - x;
        }
        self.stored(x * f64::from(self.picture.width) / w, y * f64::from(self.picture.height) / h)
    }

    /// The colour at a place of the picture as stored.
    fn stored(&self, x: f64, y: f64) -> Pixel {
        use PixelFormat::*;
        let color = self.picture.color;
        let sample = |i: usize| {
            let axis = |v: f64, halved: bool, siting: Siting| match (halved && i > 0, siting) {
                (false, _) => v - 0.5,
                (true, Siting::Centered) => (v - 1.0) / 2.0,
                (true, Siting::Cosited) => (v - 0.5) / 2.0,
            };
            self.planes[i].at(axis(x, self.halved.0, color.siting_x), axis(y, self.halved.1, color.siting_y))
        };
        let full = f64::from((1u32 << self.bits) - 1);
        let unit = f64::from(1u32 << (self.bits - 8));
        // Luma to 0–1, chroma to -0.5–0.5.
        let luma = |v: f64| match color.range {
            Range::Full => v / full,
            Range::Limited => (v - 16.0 * unit) / (219.0 * unit),
        };
        let chroma = |v: f64| match color.range {
            Range::Full => (v - 128.0 * unit) / full,
            Range::Limited => (v - 128.0 * unit) / (224.0 * unit),
        };
        let code = |v: f64| (255.0 * v).clamp(0.0, 255.0);
        match self.picture.format {
            Rgb | Bgr | Rgbx | Bgrx => {
                let rgb = [sample(0), sample(1), sample(2)];
                Pixel::Picture { rgb, luma: 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] }
            }
            Gray8 => {
                let v = code(luma(sample(0)));
                Pixel::Picture { rgb: [v; 3], luma: v }
            }
            _ => {
                let (kr, kb) = match color.matrix {
                    Matrix::Bt601 => (0.299, 0.114),
                    Matrix::Bt709 => (0.2126, 0.0722),
                    Matrix::Bt2020 => (0.2627, 0.0593),
                };
                let (ey, cb, cr) = (luma(sample(0)), chroma(sample(1)), chroma(sample(2)));
                // Cb = (B - Y) / (2 (1 - Kb)), Cr = (R - Y) / (2 (1 - Kr)), Y = Kr R + Kg G + Kb B.
                let r = ey + cr * 2.0 * (1.0 - kr);
                let b = ey + cb * 2.0 * (1.0 - kb);
                let g = (ey - kr * r - kb * b) / (1.0 - kr - kb);
                Pixel::Picture { rgb: [code(r), code(g), code(b)], luma: code(ey) }
            }
        }
    }
}

/// What the tensor should hold for channel `c` of this pixel.
pub fn expected(spec: &InputSpec, pixel: Pixel, c: usize) -> f64 {
    let code = match (pixel, spec.channels) {
        (Pixel::Picture { luma, .. }, ChannelOrder::Gray) => luma,
        (Pixel::Picture { rgb, .. }, ChannelOrder::Rgb) => rgb[c],
        (Pixel::Picture { rgb, .. }, ChannelOrder::Bgr) => rgb[2 - c],
        (Pixel::Padding, _) => match spec.fit {
            Fit::Letterbox { pad, .. } => f64::from(pad[c]),
            _ => unreachable!("only letterbox pads"),
        },
    };
    (code - f64::from(spec.mean[c])) * f64::from(spec.scale[c])
}

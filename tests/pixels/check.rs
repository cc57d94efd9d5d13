//! Runs the pass and holds what it wrote against the reference.

use framegate::frame::{Colorimetry, Matrix, Orientation, OwnedPlanes, Picture, PixelFormat, Range, Siting};
use framegate::infer::preprocess::{Fit, InputSpec, Layout, Preprocessor, Region, SimdLevel};
use framegate::infer::tensor::DType;
use half::f16;

use crate::reference::{Pixel, expected};

/// Largest error allowed, as a part of full scale: ten times less than what is promised.
pub const TOLERANCE: f64 = 1e-4;

pub const FORMATS: [PixelFormat; 13] = [
    PixelFormat::I420,
    PixelFormat::Nv12,
    PixelFormat::Y42b,
    PixelFormat::Y444,
    PixelFormat::I420_10,
    PixelFormat::I422_10,
    PixelFormat::Y444_10,
    PixelFormat::P010,
    PixelFormat::Gray8,
    PixelFormat::Rgb,
    PixelFormat::Bgr,
    PixelFormat::Rgbx,
    PixelFormat::Bgrx,
];
pub const MATRICES: [Matrix; 3] = [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020];
pub const RANGES: [Range; 2] = [Range::Full, Range::Limited];
pub const SITINGS: [Siting; 2] = [Siting::Cosited, Siting::Centered];
pub const LETTERBOX: Fit = Fit::Letterbox { centered: true, pad: [114.0, 7.0, 220.0], never_enlarge: false };
pub const TOP_LEFT: Fit = Fit::Letterbox { centered: false, pad: [1.0, 128.0, 50.5], never_enlarge: false };
pub const FITS: [Fit; 5] = [
    LETTERBOX,
    TOP_LEFT,
    Fit::Letterbox { centered: true, pad: [0.0, 255.0, 90.0], never_enlarge: true },
    Fit::Stretch,
    Fit::Crop,
];

/// The levels that this machine can run.
pub fn levels() -> Vec<SimdLevel> {
    SimdLevel::ALL.into_iter().filter(|l| l.supported()).collect()
}

/// A small generator, so that a failure comes back with its seed.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

pub const COLOR: Colorimetry =
    Colorimetry { matrix: Matrix::Bt709, range: Range::Limited, siting_x: Siting::Cosited, siting_y: Siting::Centered };

/// A picture of noise, the hardest case for an interpolation, with `slack` unused bytes behind every row.
pub fn noise_picture(format: PixelFormat, width: u32, height: u32, slack: usize, seed: u64) -> Picture {
    use PixelFormat::*;
    let (w, h) = (width as usize, height as usize);
    let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
    // Bytes of a row, rows.
    let planes: Vec<(usize, usize)> = match format {
        I420 => vec![(w, h), (cw, ch), (cw, ch)],
        Nv12 => vec![(w, h), (2 * cw, ch)],
        Y42b => vec![(w, h), (cw, h), (cw, h)],
        Y444 => vec![(w, h); 3],
        I420_10 => vec![(2 * w, h), (2 * cw, ch), (2 * cw, ch)],
        I422_10 => vec![(2 * w, h), (2 * cw, h), (2 * cw, h)],
        Y444_10 => vec![(2 * w, h); 3],
        P010 => vec![(2 * w, h), (4 * cw, ch)],
        Gray8 => vec![(w, h)],
        Rgb | Bgr => vec![(3 * w, h)],
        Rgbx | Bgrx => vec![(4 * w, h)],
    };
    let mut noise = Noise(seed);
    let mut strides = [0; 3];
    let buffers = planes
        .iter()
        .enumerate()
        .map(|(i, &(row, rows))| {
            strides[i] = row + slack;
            let mut bytes: Vec<u8> = (0..strides[i] * (rows - 1) + row).map(|_| noise.next() as u8).collect();
            if matches!(format, I420_10 | I422_10 | Y444_10) {
                for y in 0..rows {
                    for x in 0..row / 2 {
                        bytes[y * strides[i] + 2 * x + 1] &= 3;
                    }
                }
            }
            bytes
        })
        .collect();
    Picture {
        width,
        height,
        format,
        strides,
        color: COLOR,
        pixel_aspect: (1, 1),
        orientation: Orientation::default(),
        buffer: Box::new(OwnedPlanes(buffers)),
    }
}

/// Runs the pass into a slot that starts at an odd address and was full of something else.
pub fn run(pass: &mut Preprocessor, picture: &Picture, region: Option<Region>) -> Vec<u8> {
    let mut slot = vec![0xa5; pass.spec().bytes() + 1];
    let geometry = pass.run(picture, region, &mut slot[1..]).expect("the picture is sound");
    let (w, h) = picture.view_size();
    assert_eq!(geometry.picture, [w as f32, h as f32]);
    slot.remove(0);
    slot
}

/// Compares a whole tensor; gives the largest error as a part of full scale.
///
/// # Panics
/// Where an element is further from the reference than [`TOLERANCE`] and its own type's rounding.
pub fn compare(spec: &InputSpec, tensor: &[u8], pixels: &[Pixel], what: &dyn Fn() -> String) -> f64 {
    let channels = spec.channels.count();
    let plane = spec.width * spec.height;
    let mut worst = 0.0f64;
    for (i, &pixel) in pixels.iter().enumerate() {
        for c in 0..channels {
            let at = match spec.layout {
                Layout::Nchw => c * plane + i,
                Layout::Nhwc => i * channels + c,
            };
            let want = expected(spec, pixel, c);
            let full = 255.0 * f64::from(spec.scale[c].abs());
            let (got, want, rounding) = match spec.dtype {
                DType::F32 => (f64::from(f32::from_ne_bytes(tensor[4 * at..][..4].try_into().expect("4"))), want, 0.0),
                DType::F16 => {
                    let v = f16::from_ne_bytes(tensor[2 * at..][..2].try_into().expect("2"));
                    (f64::from(v), want, want.abs() / 2048.0 + 3e-8)
                }
                DType::U8 => (f64::from(tensor[at]), want.clamp(0.0, 255.0), 0.5),
            };
            let error = ((got - want).abs() - rounding).max(0.0) / full;
            assert!(
                error <= TOLERANCE,
                "{}: pixel {},{} channel {c}: {got}, should be {want} ({error:.2e} of full scale off)",
                what(),
                i % spec.width,
                i / spec.width,
            );
            worst = worst.max(error);
        }
    }
    worst
}

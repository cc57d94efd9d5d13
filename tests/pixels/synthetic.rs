//! Noise in every format and mode.

use framegate::frame::{Colorimetry, Orientation};
use framegate::infer::preprocess::{ChannelOrder, Fit, InputSpec, Layout, Preprocessor, SimdLevel};
use framegate::infer::tensor::DType;
use proptest::prelude::*;

use crate::check::{
    FITS, FORMATS, LETTERBOX, MATRICES, RANGES, SITINGS, TOP_LEFT, compare, levels, noise_picture, run,
};
use crate::reference::Reference;

const ORDERS: [ChannelOrder; 3] = [ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Gray];
const LAYOUTS: [Layout; 2] = [Layout::Nchw, Layout::Nhwc];
const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::U8];

/// Every combination of layout, channel order and element type, with a normalisation that suits the type.
fn specs(width: usize, height: usize, fit: Fit) -> Vec<InputSpec> {
    let mut specs = Vec::new();
    for layout in LAYOUTS {
        for channels in ORDERS {
            for dtype in TYPES {
                let (mean, scale) = match dtype {
                    DType::U8 => ([10.0, -20.0, 0.5], [1.0, 0.7, 1.25]),
                    DType::F32 | DType::F16 => ([123.675, 116.28, 103.53], [0.01712475, 0.017507, 0.01742919]),
                };
                specs.push(InputSpec { width, height, layout, channels, dtype, fit, mean, scale });
            }
        }
    }
    specs
}

/// The full product; `formats` splits it over the test threads.
fn product(formats: std::ops::Range<usize>) {
    for (f, format) in FORMATS.into_iter().enumerate().filter(|(f, _)| formats.contains(f)) {
        let mut picture = noise_picture(format, 37, 23, 5, f as u64);
        for fit in FITS {
            let specs = specs(29, 31, fit);
            let mut passes: Vec<Preprocessor> = levels()
                .into_iter()
                .flat_map(|l| specs.iter().map(move |s| Preprocessor::with_level(s.clone(), l)))
                .collect();
            for matrix in MATRICES {
                for range in RANGES {
                    for (siting_x, siting_y) in SITINGS.iter().flat_map(|&x| SITINGS.map(|y| (x, y))) {
                        picture.color = Colorimetry { matrix, range, siting_x, siting_y };
                        let pixels = Reference::new(&picture).pixels(&specs[0], None);
                        for pass in &mut passes {
                            let tensor = run(pass, &picture, None);
                            let spec = pass.spec();
                            let what = || format!("{picture:?} {:?} {spec:?}", pass.level());
                            compare(spec, &tensor, &pixels, &what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn eight_bit_planar_in_every_combination() {
    product(0..4);
}

#[test]
fn ten_bit_planar_in_every_combination() {
    product(4..8);
}

#[test]
fn grey_and_rgb_in_every_combination() {
    product(8..13);
}

/// Output blocks that span one, two, four and more vectors of source samples take different ways.
#[test]
fn every_scale_from_enlarging_to_a_twentieth() {
    for format in FORMATS {
        for width in [3, 20, 41, 64, 90, 129, 200, 333, 700, 1300] {
            let picture = noise_picture(format, width, 9, 0, u64::from(width));
            let spec = InputSpec {
                width: 64,
                height: 7,
                layout: Layout::Nchw,
                channels: ChannelOrder::Rgb,
                dtype: DType::F32,
                fit: Fit::Stretch,
                mean: [0.0; 3],
                scale: [1.0; 3],
            };
            let pixels = Reference::new(&picture).pixels(&spec, None);
            for level in levels() {
                let mut pass = Preprocessor::with_level(spec.clone(), level);
                let tensor = run(&mut pass, &picture, None);
                compare(&spec, &tensor, &pixels, &|| format!("{picture:?} {level:?}"));
            }
        }
    }
}

/// Two regions and two pictures in turn, so that tables and scratch rows are used again.
#[test]
fn a_pass_that_changes_pictures_and_regions_stays_right() {
    let pictures = [(64, 48), (15, 90), (200, 31)].map(|(w, h)| noise_picture(FORMATS[1], w, h, 0, u64::from(w)));
    let regions = [None, Some([3.0, 4.5, 12.0, 30.0]), Some([-20.0, 2.0, 9.0, 400.0])];
    for level in levels() {
        let spec = specs(40, 40, LETTERBOX).swap_remove(0);
        let mut pass = Preprocessor::with_level(spec.clone(), level);
        for _ in 0..2 {
            for picture in &pictures {
                for region in regions {
                    let tensor = run(&mut pass, picture, region);
                    let pixels = Reference::new(picture).pixels(&spec, region);
                    compare(&spec, &tensor, &pixels, &|| format!("{picture:?} {region:?} {level:?}"));
                }
            }
        }
    }
}

fn pick<T: Copy + std::fmt::Debug + 'static>(from: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(from)
}

fn fits() -> impl Strategy<Value = Fit> {
    prop_oneof![
        pick(&FITS),
        Just(TOP_LEFT),
        (any::<bool>(), any::<bool>(), 0.0..=255.0f32).prop_map(|(centered, never_enlarge, v)| Fit::Letterbox {
            centered,
            pad: [v, v / 2.0, v / 3.0],
            never_enlarge
        }),
    ]
}

prop_compose! {
    fn any_spec()(
        width in 1..90usize, height in 1..60usize, layout in pick(&LAYOUTS), channels in pick(&ORDERS),
        dtype in pick(&TYPES), fit in fits(), mean in prop::array::uniform3(0.0..128.0f32),
        scale in prop::array::uniform3(0.002..1.0f32),
    ) -> InputSpec {
        InputSpec { width, height, layout, channels, dtype, fit, mean, scale }
    }
}

prop_compose! {
    fn any_color()(
        matrix in pick(&MATRICES), range in pick(&RANGES), siting_x in pick(&SITINGS), siting_y in pick(&SITINGS),
    ) -> Colorimetry {
        Colorimetry { matrix, range, siting_x, siting_y }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Odd sizes, padded strides, regions inside and beyond the picture, turned, mirrored, with oblong pixels.
    #[test]
    fn anything_that_can_be_asked_for(
        format in pick(&FORMATS), width in 1..150u32, height in 1..70u32, slack in 0..40usize, seed in any::<u64>(),
        spec in any_spec(), color in any_color(), quarter_turns in 0..4u8, mirrored in any::<bool>(),
        pixel_aspect in prop_oneof![3 => Just((1, 1)), 1 => (1..20u32, 1..20u32)],
        region in prop::option::of((-1.0..1.5f32, -1.0..1.5f32, 0.01..1.5f32, 0.01..1.5f32)),
        level in pick(&SimdLevel::ALL),
    ) {
        let mut picture = noise_picture(format, width, height, slack, seed);
        picture.color = color;
        picture.orientation = Orientation { quarter_turns, mirrored };
        picture.pixel_aspect = pixel_aspect;
        let (vw, vh) = picture.view_size();
        prop_assume!(vw > 0 && vh > 0);
        let region = region.map(|(x, y, w, h)| {
            let (vw, vh) = (vw as f32, vh as f32);
            [x * vw, y * vh, (x + w) * vw, (y + h) * vh]
        });
        let pixels = Reference::new(&picture).pixels(&spec, region);
        let mut pass = Preprocessor::with_level(spec.clone(), level);
        let tensor = run(&mut pass, &picture, region);
        compare(&spec, &tensor, &pixels, &|| format!("{picture:?} {:?} {region:?} {level:?}", picture.orientation));
    }
}

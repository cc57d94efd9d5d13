//! Published values, errors, and where the picture lands.

use framegate::frame::{Colorimetry, Matrix, Orientation, OwnedPlanes, Picture, PixelFormat, Range};
use framegate::infer::preprocess::{
    ChannelOrder, Fit, InputSpec, Layout, MAX_SIDE, PixelError, Preprocessor, Region, SimdLevel,
};
use framegate::infer::tensor::DType;

use crate::check::{COLOR, FITS, FORMATS, LETTERBOX, TOP_LEFT, levels, noise_picture, run};
use opencv::core::{Mat, MatTraitConst, MatTraitConstManual, Size};
use opencv::imgproc;

fn spec(width: usize, height: usize, fit: Fit) -> InputSpec {
    InputSpec {
        width,
        height,
        layout: Layout::Nhwc,
        channels: ChannelOrder::Rgb,
        dtype: DType::U8,
        fit,
        mean: [0.0; 3],
        scale: [1.0; 3],
    }
}

fn flat(format: PixelFormat, color: Colorimetry, samples: [u16; 3]) -> Picture {
    let planes = match format {
        PixelFormat::Y444 => samples.map(|v| vec![v as u8; 4]).to_vec(),
        _ => samples.map(|v| v.to_le_bytes().repeat(4)).to_vec(),
    };
    let stride = planes[0].len() / 2;
    Picture {
        width: 2,
        height: 2,
        format,
        strides: [stride; 3],
        color,
        pixel_aspect: (1, 1),
        orientation: Orientation::default(),
        buffer: Box::new(OwnedPlanes(planes)),
    }
}

/// The 100 % colour bars' code values of the standards.
#[test]
fn colour_bars_come_out_as_their_colours() {
    use Matrix::*;
    let limited = |matrix| Colorimetry { matrix, range: Range::Limited, ..COLOR };
    let full = |matrix| Colorimetry { matrix, range: Range::Full, ..COLOR };
    let bars: [(PixelFormat, Colorimetry, [u16; 3], [u8; 3]); 11] = [
        (PixelFormat::Y444, limited(Bt601), [81, 90, 240], [255, 0, 0]),
        (PixelFormat::Y444, limited(Bt601), [145, 54, 34], [0, 255, 0]),
        (PixelFormat::Y444, limited(Bt601), [41, 240, 110], [0, 0, 255]),
        (PixelFormat::Y444, limited(Bt709), [63, 102, 240], [255, 0, 0]),
        (PixelFormat::Y444, limited(Bt709), [173, 42, 26], [0, 255, 0]),
        (PixelFormat::Y444, limited(Bt709), [32, 240, 118], [0, 0, 255]),
        (PixelFormat::Y444, limited(Bt709), [235, 128, 128], [255, 255, 255]),
        (PixelFormat::Y444, full(Bt601), [76, 85, 255], [255, 0, 0]),
        (PixelFormat::Y444_10, limited(Bt709), [250, 409, 960], [255, 0, 0]),
        (PixelFormat::Y444_10, limited(Bt2020), [294, 387, 960], [255, 0, 0]),
        (PixelFormat::Y444_10, full(Bt709), [1023, 512, 512], [255, 255, 255]),
    ];
    for (format, color, samples, rgb) in bars {
        let picture = flat(format, color, samples);
        for level in levels() {
            let out = run(&mut Preprocessor::with_level(spec(1, 1, Fit::Stretch), level), &picture, None);
            let off = out.iter().zip(rgb).map(|(&a, b)| a.abs_diff(b)).max().unwrap_or(255);
            assert!(off <= 2, "{picture:?} {samples:?}: {out:?}, should be {rgb:?}");
        }
    }
}

/// Half-pixel centres and repeated edges are what OpenCV's bilinear does too, to its own rounding.
#[test]
fn agrees_with_opencv_resize() {
    for (w, h, to_w, to_h) in [(97, 61, 40, 33), (97, 61, 200, 150), (64, 64, 32, 32), (33, 20, 97, 5)] {
        let picture = noise_picture(PixelFormat::Bgr, w, h, 0, 3);
        let mut source = Mat::from_slice(picture.buffer.plane(0)).expect("mat").try_clone().expect("mat");
        source = source.reshape(3, h as i32).expect("reshape").try_clone().expect("mat");
        let mut resized = Mat::default();
        imgproc::resize(&source, &mut resized, Size::new(to_w, to_h), 0.0, 0.0, imgproc::INTER_LINEAR).expect("resize");
        let mut spec = spec(to_w as usize, to_h as usize, Fit::Stretch);
        spec.channels = ChannelOrder::Bgr;
        for level in levels() {
            let out = run(&mut Preprocessor::with_level(spec.clone(), level), &picture, None);
            let theirs = resized.data_bytes().expect("continuous");
            let worst = out.iter().zip(theirs).map(|(&a, &b)| a.abs_diff(b)).max();
            assert!(out.len() == theirs.len() && worst <= Some(1), "{w}x{h} to {to_w}x{to_h}: {worst:?}");
        }
    }
}

#[test]
fn letterbox_lands_where_the_tools_put_it() {
    // Picture, input, fit, scale, offset.
    let even = Fit::Letterbox { centered: true, pad: [0.0; 3], never_enlarge: true };
    type Case = ((u32, u32), usize, Fit, [f32; 2], [f32; 2]);
    let cases: [Case; 6] = [
        ((1280, 720), 640, LETTERBOX, [0.5, 0.5], [0.0, 140.0]),
        ((1280, 720), 416, TOP_LEFT, [0.325, 0.325], [0.0, 0.0]),
        // 640 x 427: 277.55 rows, rounded to 278 with 69 above, or down to 277.
        ((640, 427), 416, LETTERBOX, [0.65, 278.0 / 427.0], [0.0, 69.0]),
        ((640, 427), 416, TOP_LEFT, [0.65, 277.0 / 427.0], [0.0, 0.0]),
        ((100, 50), 416, even, [1.0, 1.0], [158.0, 183.0]),
        // 853.33 columns, rounded down, of which 640 are seen.
        ((1280, 960), 640, Fit::Crop, [853.0 / 1280.0, 640.0 / 960.0], [-106.0, 0.0]),
    ];
    for ((w, h), input, fit, scale, offset) in cases {
        let picture = noise_picture(PixelFormat::Gray8, w, h, 0, 0);
        let spec = spec(input, input, fit);
        let mut slot = vec![0; spec.bytes()];
        let g = Preprocessor::new(spec).run(&picture, None, &mut slot).expect("sound");
        assert_eq!((g.scale, g.offset, g.picture), (scale, offset, [w as f32, h as f32]), "{w}x{h} {fit:?}");
    }
}

/// A bright spot is found where the geometry says it is, however the picture was turned, cut and scaled.
#[test]
fn geometry_points_at_the_pixel_as_viewed() {
    let (w, h) = (80u32, 60u32);
    // The spot as stored: columns 50 to 53, rows 12 to 15.
    let mut bytes = vec![0u8; (w * h) as usize];
    for y in 12..16 {
        bytes[(y * w as usize + 50)..][..4].fill(255);
    }
    // The spot as viewed in each orientation, worked out by hand: x1, y1, x2, y2.
    let views: [(u8, bool, [f32; 4]); 8] = [
        (0, false, [50.0, 12.0, 54.0, 16.0]),
        (1, false, [44.0, 50.0, 48.0, 54.0]),
        (2, false, [26.0, 44.0, 30.0, 48.0]),
        (3, false, [12.0, 26.0, 16.0, 30.0]),
        (0, true, [26.0, 12.0, 30.0, 16.0]),
        (1, true, [44.0, 26.0, 48.0, 30.0]),
        (2, true, [50.0, 44.0, 54.0, 48.0]),
        (3, true, [12.0, 50.0, 16.0, 54.0]),
    ];
    let full = Colorimetry { range: Range::Full, ..COLOR };
    for (quarter_turns, mirrored, at) in views {
        let picture = Picture {
            width: w,
            height: h,
            format: PixelFormat::Gray8,
            strides: [w as usize; 3],
            color: full,
            pixel_aspect: (1, 1),
            orientation: Orientation { quarter_turns, mirrored },
            buffer: Box::new(OwnedPlanes(vec![bytes.clone()])),
        };
        for fit in [LETTERBOX, TOP_LEFT, Fit::Stretch] {
            for region in [None, Some([-10.0, 3.0, 70.0, 75.0]), Some([8.5, 9.0, 60.0, 61.0])] {
                let mut spec = spec(160, 200, fit);
                spec.channels = ChannelOrder::Gray;
                let mut slot = vec![0; spec.bytes()];
                let g = Preprocessor::new(spec.clone()).run(&picture, region, &mut slot).expect("sound");
                let content = g.to_model(region.unwrap_or([0.0, 0.0, g.picture[0], g.picture[1]]));
                let (mut sum, mut mx, mut my) = (0.0, 0.0, 0.0);
                for (i, &v) in slot.iter().enumerate() {
                    let (x, y) = ((i % 160) as f32 + 0.5, (i / 160) as f32 + 0.5);
                    if x > content[0] && x < content[2] && y > content[1] && y < content[3] {
                        let v = f32::from(v);
                        (sum, mx, my) = (sum + v, mx + v * x, my + v * y);
                    }
                }
                let [x, y] = g.point_to_picture([mx / sum, my / sum]);
                let centre = [(at[0] + at[2]) / 2.0, (at[1] + at[3]) / 2.0];
                assert!(
                    (x - centre[0]).abs() < 0.05 && (y - centre[1]).abs() < 0.05,
                    "{quarter_turns} {mirrored} {fit:?} {region:?}: {x},{y}, should be {centre:?}"
                );
            }
        }
    }
}

#[test]
fn oblong_pixels_widen_the_view() {
    let mut picture = noise_picture(PixelFormat::I420, 72, 57, 0, 1);
    picture.pixel_aspect = (16, 11);
    let spec = spec(104, 57, LETTERBOX);
    let mut slot = vec![0; spec.bytes()];
    let g = Preprocessor::new(spec).run(&picture, None, &mut slot).expect("sound");
    assert_eq!((g.picture, g.scale, g.offset), ([104.0, 57.0], [1.0, 1.0], [0.0, 0.0]));
}

fn refused(picture: &Picture, region: Option<Region>, slot: usize, spec: InputSpec) -> PixelError {
    let mut out = vec![0xa5; slot];
    let error = Preprocessor::new(spec).run(picture, region, &mut out).expect_err("must be refused");
    assert!(out.iter().all(|&b| b == 0xa5), "written to before {error}");
    error
}

#[test]
fn short_planes_are_refused_in_every_format() {
    for format in FORMATS {
        for plane in 0..noise_picture(format, 9, 7, 3, 0).planes() {
            let mut picture = noise_picture(format, 9, 7, 3, 0);
            let mut planes: Vec<Vec<u8>> = (0..picture.planes()).map(|i| picture.buffer.plane(i).to_vec()).collect();
            planes[plane].pop();
            picture.buffer = Box::new(OwnedPlanes(planes));
            let spec = spec(8, 8, LETTERBOX);
            match refused(&picture, None, spec.bytes(), spec) {
                PixelError::ShortPlane { plane: p, have, need, .. } => assert_eq!((p, have + 1), (plane, need)),
                other => panic!("{format:?} plane {plane}: {other}"),
            }
        }
        let mut picture = noise_picture(format, 9, 7, 0, 0);
        picture.strides[0] -= 1;
        let spec = spec(8, 8, LETTERBOX);
        assert!(matches!(refused(&picture, None, spec.bytes(), spec), PixelError::ShortStride { plane: 0, .. }));
        let mut picture = noise_picture(format, 9, 7, 0, 0);
        picture.strides[0] = usize::MAX;
        let spec = self::spec(8, 8, LETTERBOX);
        assert!(matches!(refused(&picture, None, spec.bytes(), spec), PixelError::ShortPlane { plane: 0, .. }));
    }
}

#[test]
fn a_missing_plane_is_refused() {
    let mut picture = noise_picture(PixelFormat::I420, 9, 7, 0, 0);
    picture.buffer = Box::new(OwnedPlanes(vec![vec![0; 63]]));
    let spec = spec(8, 8, LETTERBOX);
    let error = refused(&picture, None, spec.bytes(), spec);
    assert_eq!(error.to_string(), "plane 1 of a 9x7 I420 picture has 0 bytes, needs 20");
}

#[test]
fn slots_of_another_size_are_refused() {
    let picture = noise_picture(PixelFormat::Nv12, 9, 7, 0, 0);
    let spec = spec(8, 8, LETTERBOX);
    for slot in [0, spec.bytes() - 1, spec.bytes() + 1] {
        assert_eq!(
            refused(&picture, None, slot, spec.clone()),
            PixelError::WrongSlot { have: slot, need: spec.bytes() }
        );
    }
}

#[test]
fn empty_and_impossible_pictures_and_regions_are_refused() {
    let size = spec(8, 8, LETTERBOX).bytes();
    for (w, h) in [(0, 7), (9, 0), (0, 0)] {
        let mut picture = noise_picture(PixelFormat::Gray8, 9, 7, 0, 0);
        (picture.width, picture.height) = (w, h);
        assert_eq!(refused(&picture, None, size, spec(8, 8, LETTERBOX)), PixelError::Empty);
    }
    let picture = noise_picture(PixelFormat::I420, 9, 7, 0, 0);
    for region in [[3.0, 0.0, 3.0, 5.0], [0.0, 5.0, 3.0, 5.0], [4.0, 0.0, 3.0, 5.0]] {
        assert_eq!(refused(&picture, Some(region), size, spec(8, 8, LETTERBOX)), PixelError::Empty);
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for i in 0..4 {
            let mut region = [0.0, 0.0, 4.0, 4.0];
            region[i] = bad;
            let error = refused(&picture, Some(region), size, spec(8, 8, LETTERBOX));
            assert!(matches!(error, PixelError::BadRegion(_)), "{error}");
        }
    }
    assert_eq!(refused(&picture, None, 0, spec(0, 8, LETTERBOX)), PixelError::Empty);
    let mut picture = noise_picture(PixelFormat::Gray8, 9, 7, 0, 0);
    picture.width = MAX_SIDE + 1;
    let error = refused(&picture, None, size, spec(8, 8, LETTERBOX));
    assert_eq!(error, PixelError::TooLarge { width: MAX_SIDE + 1, height: 7 });
}

/// Regions far outside, tiny and enormous: never a panic, always the edge's or the picture's own values.
#[test]
fn extreme_regions_repeat_the_edge() {
    let picture =
        Picture { color: Colorimetry { range: Range::Full, ..COLOR }, ..noise_picture(PixelFormat::Gray8, 9, 7, 0, 5) };
    let corner = picture.buffer.plane(0)[0];
    for fit in FITS {
        for level in levels() {
            let mut pass = Preprocessor::with_level(spec(20, 20, fit), level);
            run(&mut pass, &picture, Some([-1e38, -1e38, 1e38, 1e38]));
            run(&mut pass, &picture, Some([-3e38, -3e38, 3e38, 3e38]));
            run(&mut pass, &picture, Some([4.0, 0.0, 4.000001, 1e30]));
            let out = run(&mut pass, &picture, Some([-900.0, -900.0, -880.0, -880.0]));
            assert!(out.iter().all(|&v| v == corner), "{fit:?}");
        }
    }
}

#[test]
fn a_level_that_the_machine_lacks_becomes_one_that_it_has() {
    for level in SimdLevel::ALL {
        let pass = Preprocessor::with_level(spec(8, 8, LETTERBOX), level);
        assert!(pass.level().supported() && pass.level() <= level);
    }
}

//! The fused pixel pass at every vector width that the machine has, beside OpenCV's three steps for the same tensor
//! but for the last (OpenCV ends at interleaved bytes; normalising and separating channels comes on top).

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use framegate::frame::{Picture, PixelFormat};
use framegate::infer::preprocess::{ChannelOrder, Fit, InputSpec, Layout, Preprocessor, SimdLevel};
use framegate::infer::tensor::DType;
use opencv::core::{self, Mat, MatTraitConst, Scalar, Size};
use opencv::imgproc;

const SIDE: i32 = 640;

/// A picture of slopes and edges.
fn picture(format: PixelFormat, width: u32, height: u32) -> Picture {
    let (w, h) = (width as usize, height as usize);
    let plane = |n: usize, step: usize| (0..n).map(|i| (i * step / 64 % 256) as u8).collect::<Vec<u8>>();
    let (strides, planes) = match format {
        PixelFormat::Nv12 => ([w, w, 0], vec![plane(w * h, 31), plane(w * h / 2, 17)]),
        _ => ([w, w / 2, w / 2], vec![plane(w * h, 31), plane(w * h / 4, 17), plane(w * h / 4, 7)]),
    };
    Picture::hd((width, height), format, strides, planes)
}

/// Colour conversion, scaling and padding as one writes them with OpenCV, with buffers that are used again.
fn opencv_steps(planes: &Mat, code: i32, buffers: &mut [Mat; 3]) -> opencv::Result<()> {
    let [rgb, scaled, padded] = buffers;
    imgproc::cvt_color_def(planes, rgb, code)?;
    let scale = f64::min(f64::from(SIDE) / f64::from(rgb.cols()), f64::from(SIDE) / f64::from(rgb.rows()));
    let size =
        Size::new((f64::from(rgb.cols()) * scale).round() as i32, (f64::from(rgb.rows()) * scale).round() as i32);
    imgproc::resize(rgb, scaled, size, 0.0, 0.0, imgproc::INTER_LINEAR)?;
    let (x, y) = (SIDE - size.width, SIDE - size.height);
    core::copy_make_border(
        scaled,
        padded,
        y / 2,
        y - y / 2,
        x / 2,
        x - x / 2,
        core::BORDER_CONSTANT,
        Scalar::all(114.0),
    )
}

fn preprocess(c: &mut Criterion) {
    core::set_num_threads(1).expect("OpenCV takes a number of threads");
    for (width, height) in [(1280, 720), (1920, 1080)] {
        for (format, code) in
            [(PixelFormat::I420, imgproc::COLOR_YUV2RGB_I420), (PixelFormat::Nv12, imgproc::COLOR_YUV2RGB_NV12)]
        {
            let mut group = c.benchmark_group(format!("{height}p_{format:?}"));
            let picture = picture(format, width, height);
            let spec = InputSpec {
                width: SIDE as usize,
                height: SIDE as usize,
                layout: Layout::Nchw,
                channels: ChannelOrder::Rgb,
                dtype: DType::F32,
                fit: Fit::Letterbox { centered: true, pad: [114.0; 3], never_enlarge: false },
                mean: [0.0; 3],
                scale: [1.0 / 255.0; 3],
            };
            for level in SimdLevel::ALL.into_iter().filter(|l| l.supported()) {
                let mut pass = Preprocessor::with_level(spec.clone(), level);
                let mut slot = vec![0; spec.bytes()];
                group.bench_function(BenchmarkId::new("fused", format!("{level:?}")), |b| {
                    b.iter(|| pass.run(black_box(&picture), None, &mut slot).expect("the picture is sound"));
                });
            }
            let mut bytes = Vec::new();
            for i in 0..picture.planes() {
                bytes.extend_from_slice(picture.buffer.plane(i));
            }
            let flat = Mat::from_slice(&bytes).expect("a matrix");
            let planes = flat.reshape(1, height as i32 * 3 / 2).expect("rows of the picture's width");
            let planes = planes.try_clone().expect("a copy");
            let mut buffers = [Mat::default(), Mat::default(), Mat::default()];
            group.bench_function("opencv", |b| {
                b.iter(|| opencv_steps(black_box(&planes), code, &mut buffers).expect("OpenCV converts"));
            });
            group.finish();
        }
    }
}

criterion_group!(benches, preprocess);
criterion_main!(benches);

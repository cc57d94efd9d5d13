//! Frames as decoders give them, in every format.

use std::path::Path;

use framegate::frame::{Colorimetry, Orientation, OwnedPlanes, Picture, PixelFormat};
use framegate::infer::preprocess::{ChannelOrder, InputSpec, Layout, Preprocessor, Region};
use framegate::infer::tensor::DType;
use gstreamer::prelude::*;
use gstreamer_video::VideoFrameExt;

use crate::check::{COLOR, FITS, FORMATS, MATRICES, Noise, RANGES, SITINGS, compare, levels, run};
use crate::common::shared_data;
use crate::reference::Reference;

const CLIPS: [&str; 7] = [
    "video/intel/asl_again.mkv",
    "video/intel/bottle-detection.mp4",
    "video/intel/car-detection.mp4",
    "video/intel/one-by-one-person-detection.mp4",
    "video/plume/gaussian_plume_demo.avi",
    "video/roboflow/example_video.mp4",
    "video/roboflow/test_video.mp4",
];

/// GStreamer's name of a format.
fn name(format: PixelFormat) -> &'static str {
    use PixelFormat::*;
    match format {
        I420 => "I420",
        Nv12 => "NV12",
        Y42b => "Y42B",
        Y444 => "Y444",
        I420_10 => "I420_10LE",
        I422_10 => "I422_10LE",
        Y444_10 => "Y444_10LE",
        P010 => "P010_10LE",
        Gray8 => "GRAY8",
        Rgb => "RGB",
        Bgr => "BGR",
        Rgbx => "RGBx",
        Bgrx => "BGRx",
    }
}

/// One frame from inside the clip, with the decoder's own strides.
fn decode(clip: &Path, format: PixelFormat, number: usize) -> Picture {
    gstreamer::init().expect("GStreamer starts");
    let description = format!(
        "filesrc name=file ! decodebin ! videoconvert ! video/x-raw,format={} ! appsink name=out sync=false max-buffers=1",
        name(format)
    );
    let pipeline = gstreamer::parse::launch(&description).expect("a sound description");
    let pipeline = pipeline.downcast::<gstreamer::Pipeline>().expect("a pipeline");
    pipeline.by_name("file").expect("named").set_property("location", clip.to_str().expect("a plain path"));
    let out = pipeline.by_name("out").expect("named");
    let out = out.downcast::<gstreamer_app::AppSink>().expect("an appsink");
    pipeline.set_state(gstreamer::State::Playing).expect("plays");
    let mut sample = None;
    for _ in 0..=number {
        sample = out.try_pull_sample(gstreamer::ClockTime::from_seconds(20));
        assert!(sample.is_some(), "{} ends or stalls before frame {number}", clip.display());
    }
    let sample = sample.expect("asserted");
    let info = gstreamer_video::VideoInfo::from_caps(sample.caps().expect("caps")).expect("video caps");
    let buffer = sample.buffer_owned().expect("a buffer");
    let frame = gstreamer_video::VideoFrame::from_buffer_readable(buffer, &info).expect("maps");
    let mut strides = [0; 3];
    let planes = (0..frame.n_planes())
        .map(|i| {
            strides[i as usize] = frame.plane_stride()[i as usize] as usize;
            frame.plane_data(i).expect("a plane").to_vec()
        })
        .collect();
    let picture = Picture {
        width: info.width(),
        height: info.height(),
        format,
        strides,
        color: COLOR,
        pixel_aspect: (1, 1),
        orientation: Orientation::default(),
        buffer: Box::new(OwnedPlanes(planes)),
    };
    pipeline.set_state(gstreamer::State::Null).expect("stops");
    picture
}

/// Every clip in these formats; ways to read it are drawn so that over all pairs each mode comes up many times.
fn real_frames(formats: &[PixelFormat]) {
    let mut noise = Noise(11);
    for clip in CLIPS {
        let Some(path) = shared_data(clip) else { return };
        for &format in formats {
            let mut picture = decode(&path, format, 7);
            for _ in 0..3 {
                fn draw<T: Copy, const N: usize>(noise: &mut Noise, from: [T; N]) -> T {
                    from[noise.next() as usize % N]
                }
                let n = &mut noise;
                let (width, height) = draw(n, [(640, 640), (416, 416), (320, 240), (128, 256), (352, 353)]);
                let dtype = draw(n, [DType::F32, DType::F32, DType::F16, DType::U8]);
                let spec = InputSpec {
                    width,
                    height,
                    layout: draw(n, [Layout::Nchw, Layout::Nhwc]),
                    channels: draw(n, [ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Gray]),
                    dtype,
                    fit: draw(n, FITS),
                    mean: [123.675, 116.28, 103.53].map(|m| if dtype == DType::U8 { 0.0 } else { m }),
                    scale: [0.01712475, 0.017507, 0.01742919].map(|s| if dtype == DType::U8 { 1.0 } else { s }),
                };
                picture.color = Colorimetry {
                    matrix: draw(n, MATRICES),
                    range: draw(n, RANGES),
                    siting_x: draw(n, SITINGS),
                    siting_y: draw(n, SITINGS),
                };
                picture.orientation =
                    Orientation { quarter_turns: draw(n, [0, 0, 0, 1, 2, 3]), mirrored: draw(n, [false, false, true]) };
                let region: Option<Region> =
                    draw(n, [None, None, Some([100.3, 31.7, 333.3, 290.0]), Some([-40.0, 200.0, 300.0, 800.0])]);
                let pixels = Reference::new(&picture).pixels(&spec, region);
                for level in levels() {
                    let mut pass = Preprocessor::with_level(spec.clone(), level);
                    let tensor = run(&mut pass, &picture, region);
                    compare(&spec, &tensor, &pixels, &|| {
                        format!("{clip} {picture:?} {:?} {region:?} {spec:?} {level:?}", picture.orientation)
                    });
                }
            }
        }
    }
}

#[test]
fn decoded_frames_in_planar_formats() {
    real_frames(&FORMATS[..7]);
}

#[test]
fn decoded_frames_in_interleaved_formats() {
    real_frames(&FORMATS[7..]);
}

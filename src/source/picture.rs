//! From a mapped GStreamer buffer to a [`Picture`], without copying.

use crate::frame::{Colorimetry, Matrix, Orientation, Picture, PixelBuffer, PixelFormat, Range, Siting};
use gst_video::prelude::*;
use gst_video::{VideoChromaSite, VideoColorMatrix, VideoColorRange, VideoFormat, VideoInfo};
use gstreamer as gst;
use gstreamer_video as gst_video;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Our name of a format that is read as it stands, and the order of its planes.
fn native(format: VideoFormat) -> Option<(PixelFormat, [u32; 3])> {
    use PixelFormat as P;
    let straight = [0, 1, 2];
    Some(match format {
        VideoFormat::I420 => (P::I420, straight),
        VideoFormat::Yv12 => (P::I420, [0, 2, 1]),
        VideoFormat::Nv12 => (P::Nv12, straight),
        VideoFormat::Y42b => (P::Y42b, straight),
        VideoFormat::Y444 => (P::Y444, straight),
        VideoFormat::I42010le => (P::I420_10, straight),
        VideoFormat::I42210le => (P::I422_10, straight),
        VideoFormat::Y44410le => (P::Y444_10, straight),
        VideoFormat::P01010le => (P::P010, straight),
        VideoFormat::Gray8 => (P::Gray8, straight),
        VideoFormat::Rgb => (P::Rgb, straight),
        VideoFormat::Bgr => (P::Bgr, straight),
        VideoFormat::Rgbx | VideoFormat::Rgba => (P::Rgbx, straight),
        VideoFormat::Bgrx | VideoFormat::Bgra => (P::Bgrx, straight),
        _ => return None,
    })
}

/// The format a stream is handed over in: its own where that is read as it stands, else the nearest one that loses
/// neither chroma resolution nor, up to ten, bits.
pub fn target(format: VideoFormat) -> VideoFormat {
    if native(format).is_some() {
        return format;
    }
    let info = gst_video::VideoFormatInfo::from_format(format);
    if info.is_gray() {
        return VideoFormat::Gray8;
    }
    if !info.is_yuv() {
        return VideoFormat::Rgb;
    }
    let deep = info.depth().first().is_some_and(|d| *d > 8);
    let shift = |of: &[u32]| of.get(1).copied().unwrap_or(0);
    match (shift(info.w_sub()), shift(info.h_sub()), deep) {
        (_, 0, _) if shift(info.w_sub()) == 0 => {
            if deep {
                VideoFormat::Y44410le
            } else {
                VideoFormat::Y444
            }
        }
        (_, 0, true) => VideoFormat::I42210le,
        (_, 0, false) => VideoFormat::Y42b,
        (0, _, true) => VideoFormat::Y44410le,
        (0, _, false) => VideoFormat::Y444,
        (_, _, true) => VideoFormat::I42010le,
        (_, _, false) => VideoFormat::I420,
    }
}

/// How to read the pictures of a stream until its caps change.
#[derive(Debug, Clone)]
pub struct Reading {
    info: VideoInfo,
    format: PixelFormat,
    planes: [u32; 3],
    color: Colorimetry,
    pixel_aspect: (u32, u32),
}

impl Reading {
    /// From the caps of a decoded stream; `jpeg` tells that it was JPEG.
    ///
    /// # Errors
    /// Caps that are no raw video or not a format that is read.
    pub fn new(caps: &gst::CapsRef, jpeg: bool) -> Result<Self, String> {
        let info = VideoInfo::from_caps(caps).map_err(|_| format!("no raw video: {caps}"))?;
        let (format, planes) =
            native(info.format()).ok_or_else(|| format!("unexpected pixel format {}", info.format()))?;
        let (par_n, par_d) = (info.par().numer(), info.par().denom());
        let pixel_aspect = if par_n > 0 && par_d > 0 { (par_n as u32, par_d as u32) } else { (1, 1) };
        // The info holds a guess by the number of rows in its place, wherever the caps do not state the colorimetry too.
        let site = caps.structure(0).and_then(|s| s.get::<&str>("chroma-site").ok());
        let site = site.and_then(|s| s.parse::<VideoChromaSite>().ok());
        Ok(Self { color: color(&info, jpeg, site), format, planes, pixel_aspect, info })
    }

    /// Maps a buffer. `held` counts the pictures that are out.
    ///
    /// # Errors
    /// A buffer that does not fit the caps.
    pub fn picture(
        &self,
        buffer: gst::Buffer,
        orientation: Orientation,
        held: &Arc<AtomicUsize>,
    ) -> Result<Picture, String> {
        let frame = gst_video::VideoFrame::from_buffer_readable(buffer, &self.info)
            .map_err(|_| "a buffer that does not fit its caps".to_owned())?;
        let mut strides = [0; 3];
        for (stride, plane) in strides.iter_mut().zip(self.planes).take(frame.n_planes() as usize) {
            *stride = usize::try_from(frame.plane_stride()[plane as usize])
                .map_err(|_| "a picture stored from its last row up".to_owned())?;
        }
        held.fetch_add(1, Relaxed);
        Ok(Picture {
            width: self.info.width(),
            height: self.info.height(),
            format: self.format,
            strides,
            color: self.color,
            pixel_aspect: self.pixel_aspect,
            orientation,
            buffer: Box::new(Mapped { frame, planes: self.planes, held: held.clone() }),
        })
    }
}

/// A decoder's buffer, mapped for reading for as long as the picture lives.
struct Mapped {
    frame: gst_video::VideoFrame<gst_video::video_frame::Readable>,
    planes: [u32; 3],
    held: Arc<AtomicUsize>,
}

impl PixelBuffer for Mapped {
    fn plane(&self, i: usize) -> &[u8] {
        self.planes.get(i).and_then(|p| self.frame.plane_data(*p).ok()).unwrap_or(&[])
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Relaxed);
    }
}

/// Colorimetry of the caps; what they leave open is filled in as the standards say. `site` is the chroma siting
/// that they state.
fn color(info: &VideoInfo, jpeg: bool, site: Option<VideoChromaSite>) -> Colorimetry {
    let stated = info.colorimetry();
    let matrix = match stated.matrix() {
        _ if jpeg => Matrix::Bt601,
        VideoColorMatrix::Bt601 | VideoColorMatrix::Fcc => Matrix::Bt601,
        VideoColorMatrix::Bt709 | VideoColorMatrix::Smpte240m => Matrix::Bt709,
        VideoColorMatrix::Bt2020 => Matrix::Bt2020,
        // Standard definition ends with PAL's 576 rows.
        _ if info.height() <= 576 && info.width() <= 1024 => Matrix::Bt601,
        _ => Matrix::Bt709,
    };
    let range = match stated.range() {
        VideoColorRange::Range0_255 => Range::Full,
        VideoColorRange::Range16_235 => Range::Limited,
        _ if jpeg || info.format_info().is_rgb() => Range::Full,
        _ => Range::Limited,
    };
    let (siting_x, siting_y) = match site.filter(|s| !s.is_empty()) {
        _ if jpeg => (Siting::Centered, Siting::Centered),
        // MPEG-2's and H.264's default, left of the pair and between the rows.
        None => (Siting::Cosited, Siting::Centered),
        Some(site) => {
            let at = |flag| if site.contains(flag) { Siting::Cosited } else { Siting::Centered };
            (at(VideoChromaSite::H_COSITED), at(VideoChromaSite::V_COSITED))
        }
    };
    Colorimetry { matrix, range, siting_x, siting_y }
}

/// The orientation that a stream's `image-orientation` tag asks for.
pub fn orientation(tag: &str) -> Orientation {
    let (mirrored, turn) = match tag.strip_prefix("flip-") {
        Some(turn) => (true, turn),
        None => (false, tag),
    };
    let quarter_turns = match turn {
        "rotate-90" => 1,
        "rotate-180" => 2,
        "rotate-270" => 3,
        _ => 0,
    };
    Orientation { quarter_turns, mirrored }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_never_coarsens_the_chroma_grid() {
        super::super::plugins::init().expect("GStreamer");
        for (from, to) in [
            (VideoFormat::Yuy2, VideoFormat::Y42b),
            (VideoFormat::Uyvy, VideoFormat::Y42b),
            (VideoFormat::Nv16, VideoFormat::Y42b),
            (VideoFormat::V210, VideoFormat::I42210le),
            (VideoFormat::Nv24, VideoFormat::Y444),
            (VideoFormat::Ayuv, VideoFormat::Y444),
            (VideoFormat::Nv21, VideoFormat::I420),
            (VideoFormat::I42012le, VideoFormat::I42010le),
            (VideoFormat::Gbr, VideoFormat::Rgb),
            (VideoFormat::Xrgb, VideoFormat::Rgb),
            (VideoFormat::Gray16Le, VideoFormat::Gray8),
            (VideoFormat::Nv12, VideoFormat::Nv12),
        ] {
            assert_eq!(target(from), to, "{from}");
        }
    }

    #[test]
    fn colour_follows_the_caps_and_the_standards_where_they_are_silent() {
        super::super::plugins::init().expect("GStreamer");
        let read = |text: &str, jpeg: bool| {
            let caps = format!("video/x-raw,format=I420,framerate=30/1,{text}").parse::<gst::Caps>().expect("caps");
            Reading::new(&caps, jpeg).expect("raw video").color
        };
        let hd = read("width=1280,height=720", false);
        assert_eq!((hd.matrix, hd.range), (Matrix::Bt709, Range::Limited));
        let sd = read("width=640,height=480", false);
        assert_eq!((sd.matrix, sd.siting_x, sd.siting_y), (Matrix::Bt601, Siting::Cosited, Siting::Centered));
        let full = read("width=1280,height=720,colorimetry=1:4:0:0", false);
        assert_eq!((full.matrix, full.range), (Matrix::Bt601, Range::Full));
        let jpeg = read("width=1280,height=720,colorimetry=1:4:0:0", true);
        assert_eq!((jpeg.range, jpeg.siting_x), (Range::Full, Siting::Centered));
        let top = read("width=1280,height=720,chroma-site=cosited", false);
        assert_eq!((top.siting_x, top.siting_y), (Siting::Cosited, Siting::Cosited));
    }

    #[test]
    fn orientation_tags_are_read() {
        assert_eq!(orientation("rotate-90"), Orientation { quarter_turns: 1, mirrored: false });
        assert_eq!(orientation("flip-rotate-270"), Orientation { quarter_turns: 3, mirrored: true });
        assert_eq!(orientation("rotate-0"), Orientation::default());
    }
}

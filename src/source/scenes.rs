//! `test://NAME`: scenes that framegate or GStreamer draws, encoded and decoded again as a camera's stream would be.

use super::SourceConfig;
use super::decode::{self, Decoding};
use super::front::{announce, attach_when_known, fraction, lasting};
use super::live::{Camera, Trouble};
use super::receiver::{Announced, Receiver};
use super::scene::{PlanesMut, Scene, SceneConfig};
use crate::frame::clock;
use gst::prelude::*;
use gst_video::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use std::sync::Arc;
use std::time::Duration;

/// Our own scene, and with the number of each frame burnt in.
const PITCH: [&str; 2] = ["pitch", "pitch-numbered"];
/// Patterns of `videotestsrc`.
const PATTERNS: [&str; 10] =
    ["ball", "smpte", "snow", "black", "white", "checkers-8", "circular", "gradient", "pinwheel", "zone-plate"];
/// The seed of the pitch: every run shows the same match.
const SEED: u64 = 1;

/// All names, for messages.
pub fn names() -> Vec<&'static str> {
    PITCH.into_iter().chain(PATTERNS).collect()
}

/// Whether there is such a scene.
pub fn exists(name: &str) -> bool {
    names().contains(&name)
}

/// A test scene.
pub struct Test {
    /// Its name.
    pub name: String,
    /// Frames per second.
    pub fps: f64,
    /// The source's keys.
    pub config: SourceConfig,
}

impl Test {
    /// What cannot be drawn in this size or at this rate.
    ///
    /// # Errors
    /// The scene's own message.
    pub fn scene(&self) -> Result<Scene, String> {
        let (width, height) = (self.config.width.unwrap_or(1280), self.config.height.unwrap_or(720));
        let config = SceneConfig {
            number: self.name == PITCH[1],
            ..SceneConfig::live(width as usize, height as usize, self.fps)
        };
        Scene::new(config, SEED).map_err(|e| e.to_string())
    }

    fn encoder(&self) -> Result<gst::Element, String> {
        let key = (self.fps.round() as u32).max(1);
        if let Ok(x264) = gst::ElementFactory::make("x264enc").build() {
            x264.set_property_from_str("tune", "zerolatency");
            x264.set_property_from_str("speed-preset", "ultrafast");
            x264.set_property("key-int-max", key);
            x264.set_property("bitrate", 4000u32);
            return Ok(x264);
        }
        let open = gst::ElementFactory::make("openh264enc").build().map_err(|_| super::plugins::missing("x264enc"))?;
        open.set_property("gop-size", key);
        open.set_property("bitrate", 4_000_000u32);
        Ok(open)
    }
}

impl Camera for Test {
    fn announces(&self) -> Announced {
        Announced::Yes
    }

    fn connect(&mut self, receiver: &Arc<Receiver>, decoding: &Decoding) -> Result<gst::Pipeline, Trouble> {
        let (width, height) = (self.config.width.unwrap_or(1280), self.config.height.unwrap_or(720));
        let (n, d) = fraction(self.fps);
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height)
            .fps(gst::Fraction::new(n, d))
            .build()
            .map_err(lasting)?;
        let caps = info.to_caps().map_err(lasting)?;
        let pipeline = gst::Pipeline::new();
        let drawn = PITCH.contains(&self.name.as_str());
        let source: gst::Element = if drawn {
            let source = gst_app::AppSrc::builder()
                .caps(&caps)
                .format(gst::Format::Time)
                .is_live(true)
                .block(true)
                .max_bytes(2 * info.size() as u64)
                .build();
            let (scene, receiver, sink) = (self.scene().map_err(Trouble::Lasting)?, receiver.clone(), source.clone());
            let fps = self.fps;
            std::thread::Builder::new()
                .name("scene".into())
                .spawn(move || draw(&scene, fps, &info, &sink, &receiver))
                .map_err(lasting)?;
            source.upcast()
        } else {
            let source = decode::make("videotestsrc").map_err(Trouble::Lasting)?;
            source.set_property("is-live", true);
            source.set_property_from_str("pattern", &self.name);
            source
        };
        let filter = decode::make("capsfilter").map_err(Trouble::Lasting)?;
        filter.set_property("caps", &caps);
        let mut chain = vec![source, filter];
        if self.config.encoded {
            chain.push(self.encoder().map_err(Trouble::Lasting)?);
            chain.push(decode::make("h264parse").map_err(Trouble::Lasting)?);
        }
        pipeline.add_many(&chain).map_err(lasting)?;
        gst::Element::link_many(&chain).map_err(lasting)?;
        let pad = chain.last().and_then(|e| e.static_pad("src")).ok_or_else(|| lasting("nothing to link"))?;
        // The camera's work ends where its stream leaves the encoder.
        announce(&pad, receiver);
        let decoding = Decoding { own_thread: self.config.encoded, ..decoding.clone() };
        attach_when_known(&pipeline, &pad, &decoding, receiver);
        Ok(pipeline)
    }
}

/// Draws at the scene's rate until the connection ends. A machine that is too slow skips pictures, as a camera would
/// have taken them and nobody seen them; their numbers are missing.
fn draw(scene: &Scene, fps: f64, info: &gst_video::VideoInfo, sink: &gst_app::AppSrc, receiver: &Receiver) {
    let interval = clock::SECOND as f64 / fps;
    let start = clock::now();
    let mut n = 0;
    let pool = match pool(info) {
        Ok(pool) => pool,
        Err(why) => return receiver.give_up(why),
    };
    while !receiver.is_closed() {
        let due = start + (n as f64 * interval) as u64;
        let now = clock::now();
        if let Some(left) = due.checked_sub(now).filter(|l| *l > 0) {
            receiver.intake().wait(Duration::from_nanos(left.min(50 * clock::MILLI)));
            continue;
        }
        let late = ((now - due) as f64 / interval) as u64;
        if late > 0 {
            n += late;
            continue;
        }
        let pts = gst::ClockTime::from_nseconds((n as f64 * interval) as u64);
        let buffer = match picture(scene, n, info, &pool, pts) {
            Ok(buffer) => buffer,
            Err(why) => {
                receiver.give_up(why);
                break;
            }
        };
        if sink.push_buffer(buffer).is_err() {
            break;
        }
        n += 1;
    }
    let _ = pool.set_active(false);
}

fn pool(info: &gst_video::VideoInfo) -> Result<gst::BufferPool, String> {
    let pool = gst_video::VideoBufferPool::new();
    let mut config = pool.config();
    let caps = info.to_caps().map_err(|e| e.to_string())?;
    config.set_params(Some(&caps), info.size() as u32, 2, 0);
    pool.set_config(config).and_then(|()| pool.set_active(true)).map_err(|e| e.to_string())?;
    Ok(pool.upcast())
}

fn picture(
    scene: &Scene,
    n: u64,
    info: &gst_video::VideoInfo,
    pool: &gst::BufferPool,
    pts: gst::ClockTime,
) -> Result<gst::Buffer, String> {
    let buffer = pool.acquire_buffer(None).map_err(|e| e.to_string())?;
    let unmapped = || "a picture that cannot be drawn on".to_owned();
    let mut frame = gst_video::VideoFrame::from_buffer_writable(buffer, info).map_err(|_| unmapped())?;
    let strides = [0, 1, 2].map(|i| frame.plane_stride()[i] as usize);
    let size = (info.width() as usize, info.height() as usize);
    let [y, u, v, _] = frame.planes_data_mut();
    let mut planes = PlanesMut::new(size, [y, u, v], strides).map_err(|e| e.to_string())?;
    scene.draw(n, &mut planes).map_err(|e| e.to_string())?;
    let mut buffer = frame.into_buffer();
    buffer.make_mut().set_pts(pts);
    Ok(buffer)
}

//! Live sources without a jitter buffer: V4L2 cameras, HTTP, test scenes and free descriptions.

use super::decode::{self, Decoding, Unfit};
use super::live::{Camera, Trouble};
use super::receiver::{Announced, Receiver};
use super::{CameraFormat, SourceConfig, file, launch};
use crate::frame::clock;
use gst::prelude::*;
use gstreamer as gst;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

pub(super) fn lasting(e: impl ToString) -> Trouble {
    Trouble::Lasting(e.to_string())
}

/// Builds the decoder behind a pad as soon as its caps are known.
pub(super) fn attach_when_known(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    decoding: &Decoding,
    receiver: &Arc<Receiver>,
) {
    let (bin, decoding, receiver) = (pipeline.downgrade(), decoding.clone(), receiver.clone());
    let done = AtomicBool::new(false);
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        let Some(gst::EventView::Caps(event)) = info.event().map(|e| e.view()) else { return gst::PadProbeReturn::Ok };
        if let Some(bin) = bin.upgrade().filter(|_| !done.swap(true, Relaxed)) {
            match decode::attach(bin.upcast_ref(), pad, event.caps(), &decoding, &receiver) {
                Ok(()) => {}
                Err(Unfit::NotVideo) => receiver.give_up(format!("no video: {}", event.caps())),
                Err(Unfit::Missing(why)) => receiver.give_up(why),
            }
        }
        gst::PadProbeReturn::Ok
    });
}

/// Announces every buffer that passes a pad as a unit that arrives now.
pub(super) fn announce(pad: &gst::Pad, receiver: &Arc<Receiver>) {
    let receiver = receiver.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer() {
            receiver.unit(buffer.pts().map(|p| p.nseconds()), clock::now(), None);
        }
        gst::PadProbeReturn::Ok
    });
}

/// A camera of the kernel.
pub struct V4l2 {
    /// Its device node.
    pub device: PathBuf,
    /// The source's keys.
    pub config: SourceConfig,
}

impl V4l2 {
    fn caps(&self) -> String {
        let mut fields = String::new();
        if let Some((w, h)) = self.config.width.zip(self.config.height) {
            fields += &format!(",width={w},height={h}");
        }
        if let Some(fps) = self.config.fps {
            let (n, d) = fraction(fps);
            fields += &format!(",framerate={n}/{d}");
        }
        let kinds: &[&str] = match self.config.format.unwrap_or_default() {
            CameraFormat::Auto => &["video/x-raw", "image/jpeg", "video/x-h264"],
            CameraFormat::Raw => &["video/x-raw"],
            CameraFormat::Mjpeg => &["image/jpeg"],
            CameraFormat::H264 => &["video/x-h264"],
        };
        kinds.iter().map(|k| format!("{k}{fields}")).collect::<Vec<_>>().join(";")
    }
}

/// A rate as GStreamer's fraction; 29.97 and its kin exactly.
pub(super) fn fraction(fps: f64) -> (i32, i32) {
    let ntsc = fps * 1.001;
    if (ntsc - ntsc.round()).abs() < 1e-3 && (fps - fps.round()).abs() > 1e-3 {
        return ((ntsc.round() * 1000.0) as i32, 1001);
    }
    if (fps - fps.round()).abs() < 1e-9 { (fps.round() as i32, 1) } else { ((fps * 1000.0).round() as i32, 1000) }
}

impl Camera for V4l2 {
    fn announces(&self) -> Announced {
        Announced::Yes
    }

    fn connect(&mut self, receiver: &Arc<Receiver>, decoding: &Decoding) -> Result<gst::Pipeline, Trouble> {
        let source = decode::make("v4l2src").map_err(Trouble::Lasting)?;
        if !self.device.exists() {
            return Err(Trouble::Passing(format!("{} does not exist", self.device.display())));
        }
        source.set_property("device", self.device.to_string_lossy().as_ref());
        let filter = decode::make("capsfilter").map_err(Trouble::Lasting)?;
        filter.set_property("caps", self.caps().parse::<gst::Caps>().map_err(lasting)?);
        let pipeline = gst::Pipeline::new();
        pipeline.add_many([&source, &filter]).and_then(|()| source.link(&filter)).map_err(lasting)?;
        let pad = filter.static_pad("src").ok_or_else(|| lasting("capsfilter has no source pad"))?;
        attach_when_known(&pipeline, &pad, decoding, receiver);
        let (receiver, clocked) = (receiver.clone(), pipeline.downgrade());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                let pts = buffer.pts().map(|p| p.nseconds());
                // v4l2src turns the driver's monotonic stamp into running time.
                let base = clocked.upgrade().and_then(|p| p.base_time()).map(|b| b.nseconds());
                let driver = base.zip(pts).map(|(b, p)| clock::wall(b + p));
                let us = driver.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_micros() as i64);
                receiver.unit(pts, clock::now(), us);
            }
            gst::PadProbeReturn::Ok
        });
        Ok(pipeline)
    }
}

/// MJPEG or HLS over HTTP.
pub struct Http {
    /// Its address.
    pub uri: String,
    /// The source's keys.
    pub config: SourceConfig,
}

impl Http {
    /// Whether it is a playlist of segments, which arrive in bursts.
    fn segmented(&self) -> bool {
        self.uri.split(['?', '#']).next().is_some_and(|p| p.ends_with(".m3u8") || p.ends_with(".mpd"))
    }

    /// The address with the name and password of the keys in it: the segments' addresses inherit them there, and
    /// nowhere else.
    fn with_login(&self) -> String {
        let (Some(user), Some((scheme, rest))) = (&self.config.user, self.uri.split_once("://")) else {
            return self.uri.clone();
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let host = rest[..end].rsplit('@').next().unwrap_or("");
        let password = self.config.password.as_ref().map_or(String::new(), |p| format!(":{}", escaped(&p.0)));
        format!("{scheme}://{}{password}@{host}{}", escaped(user), &rest[end..])
    }
}

/// Text as a part of an address (RFC 3986, 2.1).
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Camera for Http {
    fn announces(&self) -> Announced {
        Announced::Yes
    }

    fn connect(&mut self, receiver: &Arc<Receiver>, decoding: &Decoding) -> Result<gst::Pipeline, Trouble> {
        let pipeline = gst::Pipeline::new();
        if self.segmented() {
            let source = decode::make("urisourcebin").map_err(Trouble::Lasting)?;
            decode::make("hlsdemux").map_err(Trouble::Lasting)?;
            decode::make("souphttpsrc").map_err(Trouble::Lasting)?;
            source.set_property("uri", self.with_login());
            source.set_property("parse-streams", true);
            pipeline.add(&source).map_err(lasting)?;
            let decoding = Decoding { own_thread: true, ..decoding.clone() };
            file::expose(&pipeline, &source, decoding, receiver, true);
            return Ok(pipeline);
        }
        let source = decode::make("souphttpsrc").map_err(Trouble::Lasting)?;
        source.set_property("location", &self.uri);
        source.set_property("is-live", true);
        source.set_property("do-timestamp", true);
        source.set_property("timeout", self.config.connect_timeout.as_secs().max(1) as u32);
        source.set_property("retries", 0);
        if let Some(user) = &self.config.user {
            source.set_property("user-id", user);
        }
        if let Some(password) = &self.config.password {
            source.set_property("user-pw", &password.0);
        }
        let find = decode::make("typefind").map_err(Trouble::Lasting)?;
        pipeline.add_many([&source, &find]).and_then(|()| source.link(&find)).map_err(lasting)?;
        let (bin, receiver, decoding) = (pipeline.downgrade(), receiver.clone(), decoding.clone());
        find.connect("have-type", false, move |args| {
            let (find, bin) = (args.first()?.get::<gst::Element>().ok()?, bin.upgrade()?);
            let caps = args.get(2)?.get::<gst::Caps>().ok()?;
            let multipart = caps.structure(0).is_some_and(|s| s.name().starts_with("multipart/"));
            if let Err(why) = plug(&bin, &find, multipart, &decoding, &receiver) {
                receiver.give_up(why);
            }
            None
        });
        Ok(pipeline)
    }
}

/// Builds demuxer, parser and decoder for what comes over HTTP.
fn plug(
    bin: &gst::Pipeline,
    find: &gst::Element,
    multipart: bool,
    decoding: &Decoding,
    receiver: &Arc<Receiver>,
) -> Result<(), String> {
    let demux = decode::make(if multipart { "multipartdemux" } else { "parsebin" })?;
    bin.add(&demux).map_err(|e| e.to_string())?;
    if multipart {
        let (bin, receiver, decoding) = (bin.downgrade(), receiver.clone(), decoding.clone());
        let done = AtomicBool::new(false);
        demux.connect_pad_added(move |_, pad| {
            let Some(bin) = bin.upgrade().filter(|_| !done.swap(true, Relaxed)) else { return };
            stamp_first_byte(&bin, pad, &receiver);
            // Parts come without a size and without a rate, which decoders want to know.
            let parsed = decode::make("jpegparse").and_then(|parse| {
                bin.add(&parse).map_err(|e| e.to_string())?;
                let (sink, src) =
                    parse.static_pad("sink").zip(parse.static_pad("src")).ok_or("jpegparse has no pads")?;
                attach_when_known(&bin, &src, &decoding, &receiver);
                parse.sync_state_with_parent().map_err(|e| e.to_string())?;
                pad.link(&sink).map(|_| ()).map_err(|e| format!("the stream cannot be linked: {e}"))
            });
            if let Err(why) = parsed {
                receiver.give_up(why);
            }
        });
    } else {
        let (clocked, arriving) = (bin.downgrade(), receiver.clone());
        let stamped = AtomicBool::new(false);
        demux.connect_pad_added(move |_, pad| {
            let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
            let name = caps.structure(0).map_or("", |s| s.name().as_str());
            // The stream that is decoded: the first with pictures.
            if !(name.starts_with("video/") || name.starts_with("image/")) || stamped.swap(true, Relaxed) {
                return;
            }
            if let Some(bin) = clocked.upgrade() {
                stamp_first_byte(&bin, pad, &arriving);
            }
        });
        file::expose(bin, &demux, decoding.clone(), receiver, false);
    }
    demux.sync_state_with_parent().map_err(|e| e.to_string())?;
    find.link(&demux).map_err(|e| e.to_string())
}

/// Announces what passes a pad as units whose first byte arrived when the source says: it stamps what it reads, and a
/// demuxer gives a part the stamp of its first byte.
fn stamp_first_byte(pipeline: &gst::Pipeline, pad: &gst::Pad, receiver: &Arc<Receiver>) {
    let (clocked, receiver) = (pipeline.downgrade(), receiver.clone());
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
        let (now, pts) = (clock::now(), buffer.pts().map(|p| p.nseconds()));
        let base = clocked.upgrade().and_then(|p| p.base_time()).map(|b| b.nseconds());
        let recent = now.saturating_sub(clock::SECOND)..=now;
        let first = base.zip(pts).map(|(b, p)| b + p).filter(|t| recent.contains(t));
        receiver.unit(pts, first.unwrap_or(now), None);
        gst::PadProbeReturn::Ok
    });
}

/// Any other GStreamer source.
pub struct Launch {
    /// Its description.
    pub description: String,
    /// Whether its last connection was to a live source, which has no end.
    pub live: bool,
}

impl Camera for Launch {
    fn announces(&self) -> Announced {
        Announced::No
    }

    fn may_end(&self) -> bool {
        !self.live
    }

    fn connect(&mut self, receiver: &Arc<Receiver>, decoding: &Decoding) -> Result<gst::Pipeline, Trouble> {
        let source = launch::parse(&self.description).map_err(Trouble::Lasting)?;
        let pad = source.static_pad("src").ok_or_else(|| lasting("the description has nothing to link at its end"))?;
        // A source that says it is live is a camera: its end is a lost connection.
        self.live = source.iterate_sources().into_iter().flatten().any(|e| {
            let says = e.find_property("is-live").filter(|p| p.value_type() == bool::static_type());
            says.is_none_or(|_| e.property::<bool>("is-live"))
                && e.find_property("num-buffers").is_none_or(|_| e.property::<i32>("num-buffers") < 0)
        });
        let pipeline = gst::Pipeline::new();
        pipeline.add(&source).map_err(lasting)?;
        attach_when_known(&pipeline, &pad, decoding, receiver);
        Ok(pipeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Secret;

    #[test]
    fn a_login_of_the_keys_replaces_the_one_in_the_address() {
        let password = Some(Secret("a@b:c/d".to_owned()));
        let config = SourceConfig { user: Some("me".to_owned()), password, ..SourceConfig::default() };
        let at = |uri: &str| Http { uri: uri.to_owned(), config: config.clone() }.with_login();
        assert_eq!(at("http://h:80/x.m3u8?y=@"), "http://me:a%40b%3Ac%2Fd@h:80/x.m3u8?y=@");
        assert_eq!(at("https://you:old@h/x.m3u8"), "https://me:a%40b%3Ac%2Fd@h/x.m3u8");
        assert_eq!(at("http://h"), "http://me:a%40b%3Ac%2Fd@h");
    }
}

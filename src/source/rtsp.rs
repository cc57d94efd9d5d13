//! `rtsp://`: cameras over TCP and UDP.

use super::ack::QuickAck;
use super::decode::{self, Decoding};
use super::front::attach_when_known;
use super::live::{Camera, Trouble};
use super::receiver::{Announced, Receiver};
use super::rtp::{self, Codec};
use super::{SourceConfig, Transport, file};
use crate::frame::{Nanos, clock};
use gst::prelude::*;
use gstreamer as gst;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a jitter buffer waits over UDP where there is no deadline.
const PATIENT: Duration = Duration::from_millis(200);
/// The shortest `latency` that is a limit by default: it holds several pictures, so that two that arrive together
/// do not exceed it.
const BOUNDING: Duration = Duration::from_millis(100);
/// How long after the first picture the limit begins to hold: a stream starts with a burst that must not cost its
/// first keyframe.
const SETTLED: Nanos = clock::SECOND;

/// The part of the deadline that a picture may wait for a last packet that is lost. Work takes the rest.
const SILENCE: Nanos = 4;
/// The same where there is no deadline.
const SILENT: Nanos = 20 * clock::MILLI;

/// The port of addresses without one.
const RTSP_PORT: u16 = 554;

/// An RTSP camera.
pub struct Rtsp {
    /// Its address.
    pub uri: String,
    /// The source's keys.
    pub config: SourceConfig,
    /// From captured to deadline.
    pub deadline: Option<Nanos>,
}

impl Rtsp {
    fn latency(&self) -> Duration {
        let usual = match (self.config.transport.unwrap_or_default(), self.deadline) {
            (Transport::Tcp, _) => Duration::ZERO,
            (_, Some(deadline)) => Duration::from_nanos(deadline / 4),
            (_, None) => PATIENT,
        };
        self.config.latency.unwrap_or(usual)
    }
}

impl Camera for Rtsp {
    fn announces(&self) -> Announced {
        Announced::Yes
    }

    fn connect(&mut self, receiver: &Arc<Receiver>, decoding: &Decoding) -> Result<gst::Pipeline, Trouble> {
        self.deadline = receiver.intake().stream().deadline;
        let source = decode::make("rtspsrc").map_err(Trouble::Lasting)?;
        decode::make("rtph264depay").map_err(Trouble::Lasting)?;
        let latency = self.latency();
        let timeout = self.config.connect_timeout.as_micros() as u64;
        source.set_property("location", &self.uri);
        source.set_property_from_str(
            "protocols",
            match self.config.transport.unwrap_or_default() {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
                Transport::Auto => "tcp+udp",
            },
        );
        source.set_property("latency", latency.as_millis() as u32);
        source.set_property("tcp-timeout", timeout);
        // Half the patience for UDP leaves the other half for TCP.
        source.set_property("timeout", timeout / 2);
        source.set_property("udp-buffer-size", 4 << 20);
        // Following the sender's clock keeps the waits for lost packets right over days, and bends times a little.
        // Over TCP nothing is lost, and the camera's own spacing is the better one.
        let tcp = self.config.transport.unwrap_or_default() == Transport::Tcp;
        source.set_property_from_str("buffer-mode", if tcp { "none" } else { "slave" });
        if let Some(user) = &self.config.user {
            source.set_property("user-id", user);
        }
        if let Some(password) = &self.config.password {
            source.set_property("user-pw", &password.0);
        }

        let codec = Arc::new(Mutex::new(None));
        let chosen = codec.clone();
        source.connect("select-stream", false, move |args| {
            let caps = args.get(2).and_then(|v| v.get::<gst::Caps>().ok());
            let s = caps.as_ref().and_then(|c| c.structure(0));
            let video = s.is_some_and(|s| s.get::<&str>("media") == Ok("video"));
            // Sound would only cost bandwidth; of several pictures the first is taken.
            let mut chosen = chosen.lock();
            let take = video && chosen.is_none();
            if take {
                *chosen = Some(Codec::of(s.and_then(|s| s.get::<&str>("encoding-name").ok()).unwrap_or("")));
            }
            Some(take.to_value())
        });

        let plugged_as = codec.clone();
        let watcher = receiver.clone();
        let port = port_of(&self.uri);
        let transport = self.config.transport.unwrap_or_default();
        let silence = self.deadline.map_or(SILENT, |d| d / SILENCE);
        let bounded = self.config.drop_on_latency.unwrap_or(latency >= BOUNDING);
        source.connect("new-manager", false, move |args| {
            let manager = args.get(1).and_then(|v| v.get::<gst::Element>().ok())?;
            let (watcher, codec) = (watcher.clone(), codec.clone());
            manager.connect("new-jitterbuffer", false, move |args| {
                let manager = args.first().and_then(|v| v.get::<gst::Element>().ok())?;
                let buffer = args.get(1).and_then(|v| v.get::<gst::Element>().ok())?;
                let over_udp = match transport {
                    Transport::Tcp => false,
                    Transport::Udp => true,
                    Transport::Auto => receives_udp(&manager),
                };
                let codec = codec.lock().unwrap_or(Codec::Other);
                rtp::watch(&buffer, codec, &watcher, over_udp.then_some(silence));
                if !over_udp {
                    acknowledge(&buffer, port);
                }
                if bounded {
                    bound(&buffer, &watcher);
                }
                None
            });
            None
        });

        let pipeline = gst::Pipeline::new();
        pipeline.add(&source).map_err(|e| Trouble::Lasting(e.to_string()))?;
        let (bin, receiver, decoding) = (pipeline.downgrade(), receiver.clone(), decoding.clone());
        let linked = AtomicBool::new(false);
        source.connect_pad_added(move |_, pad| {
            let Some(bin) = bin.upgrade().filter(|_| !linked.swap(true, Relaxed)) else { return };
            let codec = plugged_as.lock().unwrap_or(Codec::Other);
            let plugged = plug(&bin, pad, codec, &decoding, &receiver);
            if let Err(why) = plugged {
                receiver.give_up(why);
            }
        });
        Ok(pipeline)
    }
}

/// Whether the `rtspsrc` of this manager receives over UDP.
fn receives_udp(manager: &gst::Element) -> bool {
    let source = manager.parent().and_downcast::<gst::Bin>();
    source.is_some_and(|bin| {
        bin.iterate_elements().into_iter().flatten().any(|e| e.factory().is_some_and(|f| f.name() == "udpsrc"))
    })
}

/// The server's port.
fn port_of(uri: &str) -> u16 {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let host = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    // In brackets an IPv6 address has colons of its own.
    host.rsplit_once(']')
        .map_or(host, |(_, port)| port)
        .rsplit_once(':')
        .and_then(|(_, p)| p.parse().ok())
        .unwrap_or(RTSP_PORT)
}

/// Acknowledges every packet that reaches this jitter buffer over TCP at once.
fn acknowledge(buffer: &gst::Element, port: u16) {
    let Some(sink) = buffer.static_pad("sink") else { return };
    let ack = QuickAck::new(port);
    sink.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, _| {
        ack.packet();
        gst::PadProbeReturn::Ok
    });
}

/// Lets a jitter buffer throw away what makes it span more than its latency, once the stream has settled.
fn bound(buffer: &gst::Element, receiver: &Arc<Receiver>) {
    let Some(src) = buffer.static_pad("src") else { return };
    let (receiver, first) = (receiver.clone(), OnceLock::new());
    src.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |pad, _| {
        if receiver.frames() == 0 {
            return gst::PadProbeReturn::Ok;
        }
        let first = *first.get_or_init(clock::now);
        if clock::now() < first + SETTLED {
            return gst::PadProbeReturn::Ok;
        }
        if let Some(buffer) = pad.parent_element() {
            buffer.set_property("drop-on-latency", true);
        }
        gst::PadProbeReturn::Remove
    });
}

/// Builds depayloader, parser and decoder behind a pad of `rtspsrc`.
fn plug(
    bin: &gst::Pipeline,
    pad: &gst::Pad,
    codec: Codec,
    decoding: &Decoding,
    receiver: &Arc<Receiver>,
) -> Result<(), String> {
    // Whole access units from the depayloader on: a parser that has to find their ends itself waits for the next one
    // to begin, a frame later.
    let names: &[&str] = match codec {
        Codec::H264 => &["rtph264depay", "capsfilter", "h264parse"],
        Codec::H265 => &["rtph265depay", "capsfilter", "h265parse"],
        Codec::Jpeg => &["rtpjpegdepay"],
        Codec::Other => &["parsebin"],
    };
    let chain = names.iter().map(|n| decode::make(n)).collect::<Result<Vec<_>, _>>()?;
    let units = match codec {
        Codec::H264 => Some("video/x-h264,stream-format=byte-stream,alignment=au"),
        Codec::H265 => Some("video/x-h265,stream-format=byte-stream,alignment=au"),
        _ => None,
    };
    if let (Some(units), Some(filter)) = (units, chain.get(1)) {
        filter.set_property("caps", units.parse::<gst::Caps>().map_err(|e| e.to_string())?);
    }
    bin.add_many(&chain).and_then(|()| gst::Element::link_many(&chain)).map_err(|e| e.to_string())?;
    let (Some(first), Some(last)) = (chain.first(), chain.last()) else { return Ok(()) };
    match last.static_pad("src") {
        Some(out) => attach_when_known(bin, &out, decoding, receiver),
        None => file::expose(bin, last, decoding.clone(), receiver, false),
    }
    for element in chain.iter().rev() {
        element.sync_state_with_parent().map_err(|e| e.to_string())?;
    }
    let sink = first.static_pad("sink").ok_or("a depayloader without a sink pad")?;
    pad.link(&sink).map_err(|e| format!("the stream cannot be linked: {e}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_behind_users_and_in_front_of_paths() {
        for (uri, port) in [
            ("rtsp://camera/stream", 554),
            ("rtsp://camera:8554/a:1/b", 8554),
            ("rtsp://user:secret@camera:10554", 10554),
            ("rtsp://user:1234@camera/x", 554),
            ("rtsp://[::1]:8555/x", 8555),
            ("rtsp://[fe80::1]/x", 554),
        ] {
            assert_eq!(port_of(uri), port, "{uri}");
        }
    }
}

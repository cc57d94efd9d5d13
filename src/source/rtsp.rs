//! `rtsp://`: cameras over TCP and UDP.

use super::decode::{self, Decoding};
use super::live::{Camera, Trouble};
use super::receiver::{Announced, Receiver};
use super::rtp::{self, Codec};
use super::{SourceConfig, Transport, file};
use crate::frame::Nanos;
use gst::prelude::*;
use gstreamer as gst;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How long a jitter buffer waits over UDP where there is no deadline.
const PATIENT: Duration = Duration::from_millis(200);

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
        source.set_property(
            "drop-on-latency",
            self.config.drop_on_latency.unwrap_or(latency >= Duration::from_millis(50)),
        );
        source.set_property("tcp-timeout", timeout);
        // Half the patience for UDP leaves the other half for TCP.
        source.set_property("timeout", timeout / 2);
        source.set_property("udp-buffer-size", 4 << 20);
        source.set_property_from_str("buffer-mode", "slave");
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

        let udp = self.config.transport.is_some_and(|t| t != Transport::Tcp);
        let watcher = receiver.clone();
        source.connect("new-manager", false, move |args| {
            let manager = args.get(1).and_then(|v| v.get::<gst::Element>().ok())?;
            let (watcher, codec) = (watcher.clone(), codec.clone());
            manager.connect("new-jitterbuffer", false, move |args| {
                let buffer = args.get(1).and_then(|v| v.get::<gst::Element>().ok())?;
                rtp::watch(&buffer, codec.lock().unwrap_or(Codec::Other), udp, &watcher);
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
            let plugged = decode::make("parsebin").and_then(|parse| {
                bin.add(&parse).map_err(|e| e.to_string())?;
                file::expose(&bin, &parse, decoding.clone(), &receiver, false);
                parse.sync_state_with_parent().map_err(|e| e.to_string())?;
                let sink = parse.static_pad("sink").ok_or("parsebin has no sink pad")?;
                pad.link(&sink).map_err(|e| format!("the stream cannot be linked: {e}"))?;
                Ok(())
            });
            if let Err(why) = plugged {
                receiver.give_up(why);
            }
        });
        Ok(pipeline)
    }
}

//! GStreamer itself: started once, and what to say when an element of it is missing.

use gstreamer as gst;
use gstreamer::prelude::*;
use std::sync::OnceLock;

/// Starts GStreamer, once for the process.
///
/// # Errors
/// Why GStreamer does not start.
pub fn init() -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED.get_or_init(|| gst::init().map_err(|e| format!("GStreamer does not start: {e}"))).clone()
}

/// The Debian package that brings an element, where it is known.
pub fn package(element: &str) -> Option<&'static str> {
    Some(match element {
        "appsink" | "appsrc" | "videoconvert" | "videotestsrc" | "parsebin" | "decodebin" | "theoradec"
        | "tcpclientsrc" => "gstreamer1.0-plugins-base",
        "rtspsrc" | "rtpjitterbuffer" | "rtph264depay" | "rtph265depay" | "v4l2src" | "multipartdemux"
        | "souphttpsrc" | "vp8dec" | "vp9dec" | "jpegdec" | "pngdec" | "qtdemux" | "matroskademux" | "avidemux"
        | "flvdemux" => "gstreamer1.0-plugins-good",
        "h264parse" | "h265parse" | "jpegparse" | "mpeg4videoparse" | "mpegvideoparse" | "av1parse" | "tsdemux"
        | "hlsdemux" | "openh264dec" | "openh264enc" | "dav1ddec" | "av1dec" => "gstreamer1.0-plugins-bad",
        "x264enc" => "gstreamer1.0-plugins-ugly",
        _ if element.starts_with("avdec_") || element.starts_with("avenc_") => "gstreamer1.0-libav",
        _ if element.starts_with("vaapi") => "gstreamer1.0-vaapi",
        _ if element.starts_with("nv") || element.starts_with("va") || element.starts_with("qsv") => {
            "gstreamer1.0-plugins-bad"
        }
        _ => return None,
    })
}

/// What helps when an element is missing.
pub fn advice(element: &str) -> String {
    let install = match package(element) {
        Some(package) => format!("install it with `apt-get install {package}`"),
        None => format!("`gst-inspect-1.0 {element}` says whether it is installed"),
    };
    format!(
        "{install}; if it is installed already, GStreamer's cache has it on its blacklist: delete \
         ~/.cache/gstreamer-1.0/registry.*.bin and start again"
    )
}

/// "Missing" and what helps.
pub fn missing(element: &str) -> String {
    format!("the GStreamer element `{element}` is missing; {}", advice(element))
}

/// How much less of a busy core decoders get than inference. What they decode waits for it anyway: on two cores with
/// more streams than fit, a third more frames come out in time. Not much less, or another program on the machine would
/// starve them.
const NICE: i32 = 5;

/// Lets the threads of a GStreamer pipeline, and those that they start, give way to the engine's on a busy machine. Those
/// that receive do not: when a frame's first byte came must not depend on what else the machine does.
pub fn yields(bus: &gst::Bus) {
    bus.set_sync_handler(|_, message| {
        if let gst::MessageView::StreamStatus(status) = message.view()
            && let (gst::StreamStatusType::Enter, owner) = status.get()
            && !owner.factory().is_some_and(|f| f.metadata("klass").is_some_and(|k| k.starts_with("Source/")))
        {
            // Said by the thread itself, whose own niceness it is on Linux; GStreamer uses threads again. One that may
            // not be nice is no harm.
            let process = rustix::process::getpriority_process(Some(rustix::process::getpid())).unwrap_or(0);
            let _ = rustix::process::setpriority_process(None, process + NICE);
        }
        gst::BusSyncReply::Pass
    });
}

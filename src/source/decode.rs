//! From an encoded stream's pad to the receiver: chooses the decoder and builds what comes behind it.

use super::picture;
use super::plugins;
use super::receiver::Receiver;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use std::sync::Arc;

/// How a stream is to be decoded.
#[derive(Debug, Clone)]
pub struct Decoding {
    /// Without frame threads, which would delay the stream.
    pub low_delay: bool,
    /// The element to use, `None` for the best.
    pub element: Option<String>,
    /// Elements that failed at it before.
    pub not: Vec<String>,
    /// Decode on a thread of its own.
    pub own_thread: bool,
}

/// Why nothing can be built behind a pad.
#[derive(Debug)]
pub enum Unfit {
    /// Nothing to see in this stream (sound, text): leave it.
    NotVideo,
    /// It is video, and what it needs is missing.
    Missing(String),
}

/// Makes an element.
///
/// # Errors
/// That it is missing, and what helps.
pub fn make(name: &str) -> Result<gst::Element, String> {
    gst::ElementFactory::make(name).build().map_err(|_| plugins::missing(name))
}

fn decoders(caps: &gst::CapsRef, decoding: &Decoding) -> Vec<gst::ElementFactory> {
    let caps: gst::Caps = bare(caps);
    let kinds =
        gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO | gst::ElementFactoryType::MEDIA_IMAGE;
    let mut found: Vec<_> = gst::ElementFactory::factories_with_type(kinds, gst::Rank::MARGINAL)
        .into_iter()
        .filter(|f| f.can_sink_any_caps(&caps) && !decoding.not.iter().any(|n| n == f.name().as_str()))
        .collect();
    // A hardware decoder first; libav's MJPEG next, because the other one halves the chroma of 4:4:4 and 4:2:2.
    let hardware = |f: &gst::ElementFactory| f.metadata("klass").is_some_and(|k| k.contains("Hardware"));
    found.sort_by_key(|f| std::cmp::Reverse((hardware(f), f.name() == "avdec_mjpeg", i32::from(f.rank()))));
    found
}

/// Caps without what a parser in between can change.
fn bare(caps: &gst::CapsRef) -> gst::Caps {
    let mut caps = caps.to_owned();
    for s in caps.make_mut().iter_mut() {
        s.remove_fields(["stream-format", "alignment", "codec_data", "parsed", "framed"]);
    }
    caps
}

/// The element of libav that decodes a format, for messages.
fn usual_decoder(name: &str) -> &'static str {
    match name {
        "video/x-h264" => "avdec_h264",
        "video/x-h265" => "avdec_h265",
        "image/jpeg" => "avdec_mjpeg",
        "video/mpeg" => "avdec_mpeg4",
        "video/x-vp8" => "vp8dec",
        "video/x-vp9" => "vp9dec",
        "video/x-av1" => "dav1ddec",
        _ => "libav's decoders (avdec_…)",
    }
}

fn decoder(caps: &gst::CapsRef, decoding: &Decoding) -> Result<gst::Element, Unfit> {
    let name = caps.structure(0).map_or("", |s| s.name().as_str());
    let element = match decoding.element.as_deref().filter(|e| *e != "auto") {
        Some(chosen) => make(chosen).map_err(Unfit::Missing)?,
        None => decoders(caps, decoding)
            .into_iter()
            .filter_map(|f| f.create().build().ok())
            // A driver that is not there shows here.
            .find(|e| {
                let ready = e.set_state(gst::State::Ready).is_ok();
                if !ready {
                    let _ = e.set_state(gst::State::Null);
                }
                ready
            })
            .ok_or_else(|| {
                let usual = usual_decoder(name);
                Unfit::Missing(format!("nothing here decodes {name}: {}", plugins::missing(usual)))
            })?,
    };
    if decoding.low_delay {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        for (key, value) in [
            ("thread-type", "slice".to_owned()),
            ("max-threads", cores.to_string()),
            ("max-frame-delay", "1".to_owned()),
        ] {
            if element.has_property(key) {
                element.set_property_from_str(key, &value);
            }
        }
    }
    Ok(element)
}

/// Puts what works decoding times out of the codec's parameters behind a pad, and gives the pad behind it. `None` where
/// the format needs none, or the element is not there.
pub fn timestamp(pipeline: &gst::Pipeline, pad: &gst::Pad, caps: &gst::CapsRef) -> Option<gst::Pad> {
    let element = match caps.structure(0)?.name().as_str() {
        "video/x-h264" => "h264timestamper",
        "video/x-h265" => "h265timestamper",
        _ => return None,
    };
    let element = gst::ElementFactory::make(element).build().ok()?;
    pipeline.add(&element).ok()?;
    let ends = element.static_pad("sink").zip(element.static_pad("src"));
    let linked = ends.and_then(|(sink, src)| {
        element.sync_state_with_parent().ok()?;
        pad.link(&sink).ok()?;
        Some(src)
    });
    if linked.is_none() {
        let _ = element.set_state(gst::State::Null);
        let _ = pipeline.remove(&element);
    }
    linked
}

/// Builds everything between a pad and the receiver, and links it.
///
/// # Errors
/// [`Unfit`].
pub fn attach(
    pipeline: &gst::Bin,
    pad: &gst::Pad,
    caps: &gst::CapsRef,
    decoding: &Decoding,
    receiver: &Arc<Receiver>,
) -> Result<(), Unfit> {
    let name = caps.structure(0).map_or("", |s| s.name().as_str()).to_owned();
    if !name.starts_with("video/") && !name.starts_with("image/") {
        return Err(Unfit::NotVideo);
    }
    let missing = Unfit::Missing;
    let mut chain = Vec::new();
    if name == "image/jpeg" {
        receiver.set_jpeg();
    }
    if name != "video/x-raw" {
        if decoding.own_thread {
            let queue = make("queue").map_err(missing)?;
            queue.set_property("max-size-buffers", 0u32);
            queue.set_property("max-size-bytes", 0u32);
            queue.set_property("max-size-time", gst::ClockTime::from_seconds(2).nseconds());
            chain.push(queue);
        }
        let decoder = decoder(caps, decoding)?;
        let sink =
            decoder.static_pad("sink").ok_or_else(|| Unfit::Missing(format!("{} has no sink pad", decoder.name())))?;
        if !sink.query_caps(None).can_intersect(caps) {
            // The decoder wants another framing of the same bits.
            match name.as_str() {
                "video/x-h264" => chain.push(make("h264parse").map_err(missing)?),
                "video/x-h265" => chain.push(make("h265parse").map_err(missing)?),
                _ => {}
            }
        }
        let gate = receiver.clone();
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| match info.buffer() {
            Some(buffer) if !gate.wants(buffer) => gst::PadProbeReturn::Drop,
            _ => gst::PadProbeReturn::Ok,
        });
        chain.push(decoder);
    }
    chain.extend(output(receiver).map_err(missing)?);
    let broken = |what: &str| Unfit::Missing(format!("{what} behind a stream of {name}"));
    pipeline.add_many(&chain).map_err(|_| broken("nothing can be added"))?;
    gst::Element::link_many(&chain).map_err(|_| broken("the decoder cannot be linked"))?;
    for element in chain.iter().rev() {
        element.sync_state_with_parent().map_err(|_| broken("the decoder does not start"))?;
    }
    let first = chain.first().and_then(|e| e.static_pad("sink")).ok_or_else(|| broken("nothing to link"))?;
    pad.link(&first).map_err(|_| broken("the decoder cannot be linked"))?;
    Ok(())
}

/// The converter that does nothing where the format is read as it stands, and the receiver's sink.
pub fn output(receiver: &Arc<Receiver>) -> Result<Vec<gst::Element>, String> {
    let convert = make("videoconvert")?;
    let filter = make("capsfilter")?;
    let pad = convert.static_pad("sink").ok_or("videoconvert has no sink pad")?;
    let chooser = filter.downgrade();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let (Some(gst::EventView::Caps(event)), Some(filter)) = (info.event().map(|e| e.view()), chooser.upgrade())
            && let Ok(info) = gst_video::VideoInfo::from_caps(&event.caps_owned())
        {
            let format = picture::target(info.format());
            filter.set_property("caps", gst_video::VideoCapsBuilder::new().format(format).build());
        }
        gst::PadProbeReturn::Ok
    });
    Ok(vec![convert, filter, receiver.sink().upcast()])
}

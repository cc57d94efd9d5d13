//! `file://`: video files, as fast as the stages take them or at their own rate.

use super::decode::{self, Decoding, Unfit};
use super::pace::Pacer;
use super::pipe::Pipe;
use super::receiver::{Announced, Receiver};
use super::{Intake, Pace, Source, SourceConfig, SourceError};
use crate::frame::{Nanos, Signal, clock};
use gst::prelude::*;
use gstreamer as gst;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// A video file.
pub struct File {
    /// The source's id.
    pub id: String,
    /// Where it is.
    pub path: PathBuf,
    /// How fast to release frames.
    pub pace: Pace,
    /// The source's keys.
    pub config: SourceConfig,
}

impl Source for File {
    fn run(self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError> {
        intake.signal(Signal::Connecting);
        let mut offset = 0;
        loop {
            let next = self.play(&intake, offset).map_err(|message| {
                intake.signal(Signal::Broken(message.clone()));
                SourceError { id: self.id.clone(), message }
            })?;
            if intake.is_stopping() {
                return Ok(());
            }
            if !self.config.repeat {
                intake.signal(Signal::Ended);
                return Ok(());
            }
            offset = next;
        }
    }
}

impl File {
    /// Plays it once; gives the stream time at which a repetition goes on.
    fn play(&self, intake: &Arc<Intake>, offset: Nanos) -> Result<Nanos, String> {
        let announced = if self.pace == Pace::Live { Announced::Yes } else { Announced::No };
        let receiver = Receiver::new(intake.clone(), announced, self.config.rotate, offset);
        let result = self.play_into(&receiver);
        receiver.close();
        result?;
        if receiver.frames() == 0 && !intake.is_stopping() {
            return Err(format!("{} has no picture that can be decoded", self.path.display()));
        }
        let span = receiver.last_pts().saturating_sub(offset);
        let frame = span.checked_div(receiver.frames().saturating_sub(1)).unwrap_or(clock::SECOND / 30);
        Ok(receiver.last_pts() + frame)
    }

    fn play_into(&self, receiver: &Arc<Receiver>) -> Result<(), String> {
        let decoding = Decoding {
            low_delay: self.pace == Pace::Live,
            element: self.config.decoder.clone(),
            not: Vec::new(),
            own_thread: self.pace == Pace::Live,
        };
        let pipe = Pipe::new(pipeline(&self.path, self.pace, decoding, receiver)?)?;
        pipe.start(receiver);
        loop {
            let message = pipe.message(Duration::from_millis(50));
            if receiver.is_closed() {
                receiver.close();
                return Ok(());
            }
            receiver.expire();
            if let Some(why) = receiver.trouble() {
                return Err(format!("{}: {why}", self.path.display()));
            }
            match message.as_ref().map(|m| m.view()) {
                Some(gst::MessageView::Eos(_)) => return Ok(()),
                Some(gst::MessageView::Error(e)) => {
                    let detail = e.debug().map_or(String::new(), |d| format!(" ({})", d.lines().last().unwrap_or("")));
                    return Err(format!("{}: {}{detail}", self.path.display(), e.error().message()));
                }
                _ => {}
            }
        }
    }
}

fn pipeline(path: &Path, pace: Pace, decoding: Decoding, receiver: &Arc<Receiver>) -> Result<gst::Pipeline, String> {
    let source = decode::make("filesrc")?;
    source.set_property("location", path.to_str().ok_or("a file name that is not UTF-8")?);
    let parse = decode::make("parsebin")?;
    let pipeline = gst::Pipeline::new();
    pipeline.add_many([&source, &parse]).and_then(|()| source.link(&parse)).map_err(|e| e.to_string())?;
    expose(&pipeline, &parse, decoding, receiver, pace == Pace::Live);
    Ok(pipeline)
}

/// Decodes the first video stream that `parse` finds; with `paced`, released at its own rate.
pub fn expose(
    pipeline: &gst::Pipeline,
    parse: &gst::Element,
    decoding: Decoding,
    receiver: &Arc<Receiver>,
    paced: bool,
) {
    let taken = Arc::new(Mutex::new(false));
    let unknown = Arc::new(AtomicBool::new(false));
    let (bin, receiver) = (pipeline.downgrade(), receiver.clone());
    let (seen, on_end, waiting) = (taken.clone(), receiver.clone(), unknown.clone());
    let take = Arc::new(move |pad: &gst::Pad, caps: &gst::CapsRef| {
        let mut taken = taken.lock();
        let Some(bin) = bin.upgrade().filter(|_| !*taken) else { return };
        let timed = if paced && is_undated(pad) { decode::timestamp(&bin, pad, caps) } else { None };
        let pad = timed.as_ref().unwrap_or(pad);
        match decode::attach(bin.upcast_ref(), pad, caps, &decoding, &receiver) {
            Ok(()) => {
                *taken = true;
                if paced {
                    Pacer::install(pad, receiver.clone());
                }
            }
            Err(Unfit::NotVideo) => {}
            Err(Unfit::Missing(what)) => receiver.give_up(what),
        }
    });
    parse.connect_pad_added(move |_, pad| {
        if let Some(caps) = pad.current_caps() {
            return take(pad, &caps);
        }
        // Segmented streams say what they are with their first segment.
        unknown.store(true, Relaxed);
        let take = take.clone();
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
            let Some(gst::EventView::Caps(event)) = info.event().map(|e| e.view()) else {
                return gst::PadProbeReturn::Ok;
            };
            take(pad, event.caps());
            gst::PadProbeReturn::Remove
        });
    });
    parse.connect_no_more_pads(move |_| {
        if !*seen.lock() && !waiting.load(Relaxed) {
            on_end.give_up("there is no video in it".to_owned());
        }
    });
}

/// Whether a pad of `parsebin` gives units without decoding times: Matroska does not store them.
fn is_undated(pad: &gst::Pad) -> bool {
    let parse = pad.parent_element().and_downcast::<gst::Bin>();
    parse.is_some_and(|bin| {
        bin.iterate_elements().into_iter().flatten().any(|e| e.factory().is_some_and(|f| f.name() == "matroskademux"))
    })
}

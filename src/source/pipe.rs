//! A GStreamer pipeline that can neither hang its owner nor outlive it unnoticed.

use gst::prelude::*;
use gstreamer as gst;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

/// How long a pipeline may take to stop before it is left to itself.
const STOP: Duration = Duration::from_millis(350);

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Pipelines that hung when they were stopped and were left to themselves, since the process started.
pub fn abandoned() -> usize {
    ABANDONED.load(Relaxed)
}

/// A pipeline on the monotonic clock. Dropping it stops it, on a thread of its own that is not waited for for long.
pub struct Pipe {
    pipeline: Option<gst::Pipeline>,
    bus: gst::Bus,
}

impl Pipe {
    /// Takes charge of a pipeline that has not been started.
    ///
    /// # Errors
    /// A pipeline without a bus.
    pub fn new(pipeline: gst::Pipeline) -> Result<Self, String> {
        // Its clock and ours count the same nanoseconds.
        pipeline.use_clock(Some(&gst::SystemClock::obtain()));
        let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
        super::plugins::yields(&bus);
        Ok(Self { pipeline: Some(pipeline), bus })
    }

    /// Starts it on a thread of its own: opening a device or a connection may take its time. How it went comes over
    /// the bus, or, where the start itself failed without a message, through the receiver.
    pub fn start(&self, receiver: &std::sync::Arc<super::receiver::Receiver>) {
        let Some(pipeline) = self.pipeline.clone() else { return };
        let receiver = receiver.clone();
        let started = std::thread::Builder::new().name("gst-start".into()).spawn({
            let receiver = receiver.clone();
            move || {
                let started = pipeline.set_state(gst::State::Playing).is_ok();
                if receiver.is_closed() {
                    // A late start must not revive a pipeline that has been stopped meanwhile.
                    let _ = pipeline.set_state(gst::State::Null);
                } else if !started && pipeline.bus().is_none_or(|b| !b.have_pending()) {
                    receiver.give_up("the pipeline does not start".to_owned());
                }
            }
        });
        if let Err(e) = started {
            receiver.give_up(format!("no thread for the pipeline: {e}"));
        }
    }

    /// The next message, if one comes within `patience`.
    pub fn message(&self, patience: Duration) -> Option<gst::Message> {
        let kinds = [gst::MessageType::Error, gst::MessageType::Warning, gst::MessageType::Eos];
        let patience = gst::ClockTime::from_nseconds(patience.as_nanos() as u64);
        self.bus.timed_pop_filtered(patience, &kinds)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(pipeline) = self.pipeline.take() else { return };
        let (done, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("gst-stop".into()).spawn(move || {
            let _ = pipeline.set_state(gst::State::Null);
            drop(pipeline);
            let _ = done.send(());
        });
        if thread.is_err() || stopped.recv_timeout(STOP).is_err() {
            ABANDONED.fetch_add(1, Relaxed);
            tracing::error!("a GStreamer pipeline does not stop and is left to itself");
        }
    }
}

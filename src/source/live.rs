//! Keeps a live stream running: connects, watches, connects again.

use super::decode::Decoding;
use super::pipe::Pipe;
use super::receiver::{Announced, Receiver};
use super::{Flow, Intake, Source, SourceConfig, SourceError};
use crate::frame::{Signal, clock};
use gst::prelude::*;
use gstreamer as gst;
use std::sync::Arc;
use std::time::Duration;

/// How often a connection is looked at.
pub const LOOK: Duration = Duration::from_millis(50);
/// How long a server that has said goodbye to its client may still send.
const GOODBYE: Duration = Duration::from_millis(400);

/// What goes wrong with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It may work next time.
    Passing(String),
    /// It will never work.
    Lasting(String),
}

/// A kind of live source: builds one connection's pipeline.
pub trait Camera: Send {
    /// Builds a pipeline that ends in the receiver.
    ///
    /// # Errors
    /// What is missing, for now or for good.
    fn connect(&mut self, receiver: &Arc<Receiver>, decoding: &Decoding) -> Result<gst::Pipeline, Trouble>;

    /// Whether it announces its units when they arrive.
    fn announces(&self) -> Announced;

    /// A connection ended: without a single frame, where `frames` is 0.
    fn ended(&mut self, _frames: u64) {}

    /// Whether the end of the stream is the end of the source, not a lost connection.
    fn may_end(&self) -> bool {
        false
    }
}

/// Waits between attempts: doubles from the shortest to the longest, with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    state: u64,
}

impl Backoff {
    /// Waits from `min` to `max`; `seed` makes the jitter of two sources differ.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, next: min, state: seed | 1 }
    }
    /// The connection was good: the next wait is the shortest.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
    /// The next wait: up to a quarter shorter than its nominal length.
    pub fn wait(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.max);
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        nominal.mul_f64(1.0 - 0.25 * (self.state >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// A live source of any kind.
pub struct Live<C> {
    id: String,
    config: SourceConfig,
    camera: C,
}

impl<C: Camera> Live<C> {
    /// A source that keeps `camera` connected.
    pub fn new(id: &str, config: &SourceConfig, camera: C) -> Self {
        Self { id: id.to_owned(), config: config.clone(), camera }
    }

    /// Serves one connection until it ends; says why, and how many frames came.
    fn serve(&mut self, intake: &Arc<Intake>, first: bool, not: &mut Vec<String>) -> (u64, Result<(), Trouble>) {
        let receiver = Receiver::new(intake.clone(), self.camera.announces(), self.config.rotate, 0);
        let decoding =
            Decoding { low_delay: true, element: self.config.decoder.clone(), not: not.clone(), own_thread: false };
        let pipe = match self.camera.connect(&receiver, &decoding) {
            Ok(pipeline) => Pipe::new(pipeline).map_err(Trouble::Lasting),
            Err(trouble) => Err(trouble),
        };
        let result = match pipe {
            Ok(pipe) => {
                pipe.start(&receiver);
                let result = self.watch(intake, &receiver, &pipe, first, not);
                receiver.close();
                drop(pipe);
                result
            }
            Err(trouble) => Err(trouble),
        };
        receiver.close();
        self.camera.ended(receiver.frames());
        (receiver.frames(), result)
    }

    fn watch(
        &self,
        intake: &Arc<Intake>,
        receiver: &Arc<Receiver>,
        pipe: &Pipe,
        first: bool,
        not: &mut Vec<String>,
    ) -> Result<(), Trouble> {
        let passing = |why: String| Err(Trouble::Passing(why));
        let begun = clock::now();
        let mut up = false;
        let mut goodbye = None;
        loop {
            let message = pipe.message(LOOK);
            if intake.is_stopping() {
                return Ok(());
            }
            receiver.expire();
            if !up && receiver.frames() > 0 {
                up = true;
                if !first {
                    intake.stream().ledger.add_reconnect();
                }
            }
            if let Some(why) = receiver.trouble() {
                return if why.contains("is missing") { Err(Trouble::Lasting(why)) } else { passing(why) };
            }
            match message.as_ref().map(|m| m.view()) {
                Some(gst::MessageView::Error(e)) => {
                    note_decoder(e.src(), receiver.frames(), not);
                    return failure(&e.error(), e.debug().as_deref());
                }
                Some(gst::MessageView::Eos(_)) if self.camera.may_end() => return Ok(()),
                Some(gst::MessageView::Eos(_)) => return passing("the other end closed the stream".to_owned()),
                Some(gst::MessageView::Warning(w)) => {
                    let text = w.error().message().to_owned();
                    tracing::debug!(stream = self.id, warning = text, "GStreamer");
                    if w.error().kind::<gst::ResourceError>().is_some() {
                        goodbye.get_or_insert((clock::now(), text));
                    }
                }
                _ => {}
            }
            let now = clock::now();
            let since = |t: u64| Duration::from_nanos(now.saturating_sub(t));
            let silent = since(receiver.last_input());
            if let Some((at, text)) = &goodbye
                && since(*at) > GOODBYE
                && silent > GOODBYE
            {
                return passing(text.clone());
            }
            let idle = since(intake.last_frame().max(begun));
            if !up && since(begun) > self.config.connect_timeout {
                return passing(format!("no frame within {:?} of connecting", self.config.connect_timeout));
            }
            if up && idle > self.config.stall_timeout {
                return passing(format!("no frame for {:?}", self.config.stall_timeout));
            }
            if let Some(limit) = self.config.freeze_timeout
                && up
                && since(receiver.last_change()) > limit
            {
                return passing(format!("the same picture for {limit:?}"));
            }
        }
    }
}

/// A decoder that fails before its first frame is not tried again, where there is another.
fn note_decoder(source: Option<&gst::Object>, frames: u64, not: &mut Vec<String>) {
    let factory = source.and_then(|o| o.downcast_ref::<gst::Element>()).and_then(|e| e.factory());
    if let Some(f) = factory.filter(|f| frames == 0 && f.has_type(gst::ElementFactoryType::DECODER)) {
        not.push(f.name().to_string());
    }
}

fn failure(error: &gst::glib::Error, detail: Option<&str>) -> Result<(), Trouble> {
    let text = super::redact_all(error.message());
    // The debug text's last line is what the server or the kernel said.
    let detail = detail.and_then(|d| d.lines().last()).map(super::redact_all).filter(|d| !d.contains(&text));
    let text = match detail {
        Some(detail) => format!("{text} ({detail})"),
        None => text,
    };
    match error.kind::<gst::CoreError>() {
        Some(gst::CoreError::MissingPlugin) => Err(Trouble::Lasting(text)),
        _ => Err(Trouble::Passing(text)),
    }
}

/// Connects again and again, with pauses between. `serve` serves one connection, the first or a later one, until it
/// ends, and says why and how many frames came.
///
/// # Errors
/// Trouble that lasts.
pub fn persist(
    id: &str,
    config: &SourceConfig,
    intake: &Arc<Intake>,
    mut serve: impl FnMut(bool) -> (u64, Result<(), Trouble>),
) -> Result<(), SourceError> {
    intake.signal(Signal::Connecting);
    let seed = clock::now() ^ (u64::from(intake.stream().index) << 32);
    let mut backoff = Backoff::new(config.reconnect_min, config.reconnect_max, seed);
    let mut first = true;
    loop {
        let (frames, result) = serve(first);
        if intake.is_stopping() {
            return Ok(());
        }
        match result {
            Ok(()) => {
                intake.signal(Signal::Ended);
                return Ok(());
            }
            Err(Trouble::Lasting(message)) => {
                intake.signal(Signal::Broken(message.clone()));
                return Err(SourceError { id: id.to_owned(), message });
            }
            Err(Trouble::Passing(why)) => intake.signal(Signal::Down(why)),
        }
        if frames > 0 {
            backoff.reset();
        }
        first = false;
        if intake.wait(backoff.wait()) == Flow::Stop {
            return Ok(());
        }
    }
}

impl<C: Camera> Source for Live<C> {
    fn run(mut self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError> {
        let (id, config) = (self.id.clone(), self.config.clone());
        let mut not = Vec::new();
        persist(&id, &config, &intake, |first| self.serve(&intake, first, &mut not))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_vary() {
        let ms = Duration::from_millis;
        let mut b = Backoff::new(ms(100), ms(1000), 42);
        let waits: Vec<_> = (0..8).map(|_| b.wait()).collect();
        for (wait, nominal) in waits.iter().zip([100, 200, 400, 800, 1000, 1000, 1000, 1000]) {
            assert!(*wait <= ms(nominal) && *wait >= ms(nominal * 3 / 4), "{wait:?} of {nominal}");
        }
        assert!(waits[4..].windows(2).any(|w| w[0] != w[1]), "no jitter");
        b.reset();
        assert!(b.wait() <= ms(100));
    }
}

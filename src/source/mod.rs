//! Sources: where frames come from.
//!
//! A source runs on a thread of its own, recovers by itself from whatever its camera or network does, and hands
//! frames to its [`Intake`]. It never waits for another source.

mod ack;
mod address;
mod arrivals;
mod channel;
mod closing;
mod config;
mod decode;
mod feed;
mod file;
mod front;
mod glob;
mod join;
mod launch;
mod live;
mod network;
mod pace;
mod picture;
mod pipe;
pub mod plugins;
mod pool;
mod receiver;
mod recording;
mod rtp;
mod rtsp;
mod sample_clock;
pub mod scene;
mod scenes;
mod soapy;
mod station;
mod stills;

pub use config::{CameraFormat, Secret, SourceConfig, Transport, redact};
pub use network::{Gain, Header, Sampling};
pub use pipe::abandoned;
pub use soapy::version as soapy_version;
pub use stills::{decode as decode_still, readable as is_still};

use crate::frame::exchange::Exchange;
use crate::frame::{FailReason, Frame, Nanos, Outcome, Signal, Stream, Ticket, clock};
use crate::ring::{Pushed, Sender};
use address::Address;
use parking_lot::{Condvar, Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Why a source cannot be used at all. What it can recover from is a [`Signal`], not an error.
#[derive(Debug, thiserror::Error)]
#[error("source `{id}`: {message}")]
pub struct SourceError {
    /// The source's id in the pipeline file.
    pub id: String,
    /// What is wrong and, where known, what helps.
    pub message: String,
}

/// How fast frames are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// At the stream's own rate, with deadlines: a camera, or a file that plays one.
    Live,
    /// As fast as the stages take frames; blocks instead of dropping.
    Fast,
}

/// What a source may know about the pipeline when it is checked and built.
#[derive(Debug, Clone)]
pub struct Context {
    /// Folders in which relative paths are looked for, in order.
    pub search: Vec<PathBuf>,
    /// Frames per second and stream to plan for.
    pub fps: f64,
    /// Whether its frames have deadlines.
    pub live: bool,
    /// Where streams of the pipeline meet.
    pub exchange: Arc<Exchange>,
}

impl Default for Context {
    /// The working directory, 30 frames per second, with deadlines.
    fn default() -> Self {
        Self { search: vec![PathBuf::from(".")], fps: 30.0, live: true, exchange: Arc::default() }
    }
}

impl Context {
    /// Where a file may be: as it is if absolute, else in each search folder.
    fn candidates(&self, path: &Path) -> Vec<PathBuf> {
        if path.is_absolute() { vec![path.to_owned()] } else { self.search.iter().map(|d| d.join(path)).collect() }
    }

    fn find(&self, path: &Path) -> Option<PathBuf> {
        self.candidates(path).into_iter().find(|p| p.exists())
    }
}

/// Makes a source ready to run. Nothing is connected yet: an absent camera is no error, a missing file is.
///
/// # Errors
/// A wrong configuration, a missing file, or a missing GStreamer plugin.
pub fn build(id: &str, config: &SourceConfig, context: &Context) -> Result<Box<dyn Source>, SourceError> {
    let error = |message: String| SourceError { id: id.to_owned(), message };
    plugins::init().map_err(error)?;
    let address = Address::of(config, context).map_err(|issue| {
        error(match issue.help {
            Some(help) => format!("{} ({help})", issue.message),
            None => issue.message,
        })
    })?;
    let (id, pace, config) = (id.to_owned(), config.pace(context), config.clone());
    Ok(match address {
        Address::File { path } => Box::new(file::File { id, path, pace, config }),
        Address::Pictures { files } => {
            let fps = config.fps.unwrap_or(context.fps);
            Box::new(stills::Stills { id, files, pace, fps, config })
        }
        Address::Rtsp { uri } => {
            let camera = rtsp::Rtsp { uri, config: config.clone(), deadline: None };
            Box::new(live::Live::new(&id, &config, camera))
        }
        Address::V4l2 { device } => {
            let camera = front::V4l2 { device, config: config.clone() };
            Box::new(live::Live::new(&id, &config, camera))
        }
        Address::Http { uri } => {
            let camera = front::Http { uri, config: config.clone() };
            Box::new(live::Live::new(&id, &config, camera))
        }
        Address::Launch { description } => {
            let camera = front::Launch { description, live: true };
            Box::new(live::Live::new(&id, &config, camera))
        }
        Address::Samples { tape } => {
            let (block, repeat) = (config.block.unwrap_or(config::BLOCK), config.repeat);
            Box::new(recording::Recording { id, tape, pace, block, repeat })
        }
        Address::Network { line, sending } => Box::new(network::Network::new(&id, &config, line, sending)),
        Address::Join { name } => Box::new(join::Join::new(&id, &config, pace, context.exchange.place(&name).take())),
        Address::Channel { place } => Box::new(channel::Channel {
            pace,
            stall: config.stall_timeout,
            taker: context.exchange.place(&place).take(),
        }),
        Address::Station { world, number } => Box::new(station::Station {
            id,
            world: *world,
            number,
            block: config.block.unwrap_or(config::BLOCK),
            outage: config.outage,
        }),
        Address::Test { name } if !scenes::exists(&name) => {
            return Err(error(format!("there is no test scene `{name}`; there are {}", scenes::names().join(", "))));
        }
        Address::Test { name } => {
            let fps = config.fps.unwrap_or(context.fps);
            let camera = scenes::Test { name, fps, config: config.clone() };
            camera.scene().map_err(error)?;
            Box::new(live::Live::new(&id, &config, camera))
        }
    })
}

/// Takes passwords out of the addresses in a text that somebody else wrote.
fn redact_all(text: &str) -> String {
    text.split(' ').map(redact).collect::<Vec<_>>().join(" ")
}

/// A camera, a file or a receiver, ready to be opened.
pub trait Source: Send {
    /// Delivers frames to the intake until the stream ends, [`Intake::is_stopping`], or nothing can be done any more.
    ///
    /// # Errors
    /// Only what no waiting and no reconnecting can cure: a file that does not exist, a missing plugin.
    fn run(self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError>;
}

/// Whether the intake wants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    More,
    /// The pipeline is stopping: the frame was not taken, nothing more will be.
    Stop,
}

/// The way into the engine for one stream. Shared by the source's thread and its GStreamer callbacks.
#[derive(Debug)]
pub struct Intake {
    stream: Arc<Stream>,
    // Replaced as a whole when the pipeline is reloaded, emptied at the end of the stream.
    rings: RwLock<Vec<Sender<Frame>>>,
    /// Frames that the engine may hold at once (rings, in flight, previews): added to the decoder's pool.
    held_frames: usize,
    stopping: AtomicBool,
    stop: (Mutex<()>, Condvar),
    last_frame: AtomicU64,
}

impl Intake {
    /// An intake of a stream that feeds these rings, one for each stage that takes the stream's frames.
    pub fn new(stream: Arc<Stream>, rings: Vec<Sender<Frame>>, held_frames: usize) -> Self {
        Self {
            stream,
            rings: RwLock::new(rings),
            held_frames,
            stopping: AtomicBool::new(false),
            stop: (Mutex::new(()), Condvar::new()),
            last_frame: AtomicU64::new(0),
        }
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Frames that the engine may hold at once.
    pub fn held_frames(&self) -> usize {
        self.held_frames
    }

    /// A frame's first byte arrived at `at`: counts it and gives it its number.
    /// The ticket must end in [`submit`](Self::submit) or be marked; one that is dropped bare counts as failed.
    pub fn capture(&self, at: Nanos) -> Arc<Ticket> {
        self.stream.capture(at)
    }

    /// Offers a decoded frame to every ring. Live rings never block; offline rings wait for room.
    pub fn submit(&self, frame: Frame) -> Flow {
        self.last_frame.store(frame.arrival.decoded, Relaxed);
        let samples = frame.payload.samples().map(|b| (b.samples.len() as u64, b.gap));
        let flow = self.send(frame);
        if let Some((samples, gap)) = samples.filter(|_| flow == Flow::More) {
            self.stream.ledger.add_samples(samples);
            gap.iter().for_each(|gap| self.stream.ledger.add_gap(gap));
        }
        flow
    }

    fn send(&self, frame: Frame) -> Flow {
        let rings = self.rings.read();
        let Some((last, others)) = rings.split_last() else {
            frame.ticket.mark(Outcome::Failed(FailReason::Stopped));
            return Flow::Stop;
        };
        for ring in others {
            if self.offer(ring, frame.clone()) == Flow::Stop {
                return Flow::Stop;
            }
        }
        self.offer(last, frame)
    }

    fn offer(&self, ring: &Sender<Frame>, mut frame: Frame) -> Flow {
        loop {
            if self.is_stopping() {
                frame.ticket.mark(Outcome::Failed(FailReason::Stopped));
                return Flow::Stop;
            }
            // A blocking ring is tried in short turns, so that a stop is noticed.
            match ring.push(frame, Duration::from_millis(20)) {
                Pushed::In => return Flow::More,
                Pushed::Evicted(oldest) => {
                    oldest.ticket.mark(Outcome::Evicted);
                    return Flow::More;
                }
                Pushed::Full(back) => {
                    // The source delivers; it is the stages that are slow. That is no silence.
                    self.last_frame.store(clock::now(), Relaxed);
                    frame = back;
                }
                Pushed::Closed(back) => {
                    back.ticket.mark(Outcome::Failed(FailReason::Stopped));
                    return Flow::Stop;
                }
            }
        }
    }

    /// Sends frames to other rings from now on: the pipeline was reloaded around the stream. No frame falls between.
    pub fn redirect(&self, rings: Vec<Sender<Frame>>) {
        *self.rings.write() = rings;
    }

    /// No more frames will come: the stages behind finish what they have.
    pub fn close(&self) {
        self.rings.write().clear();
    }

    /// Says how the source is doing. Changes are logged once, here.
    pub fn signal(&self, signal: Signal) {
        let before = self.stream.set_signal(signal.clone());
        if before == signal {
            return;
        }
        let stream = &*self.stream.id;
        match signal {
            Signal::Connecting => tracing::info!(stream, "connecting"),
            Signal::Up => tracing::info!(stream, "frames arrive"),
            Signal::Down(reason) => tracing::warn!(stream, reason, "no frames"),
            Signal::Ended => tracing::info!(stream, "end of stream"),
            Signal::Broken(reason) => tracing::error!(stream, reason, "source given up"),
        }
    }

    /// When the last frame was submitted, monotonic; 0 before the first.
    pub fn last_frame(&self) -> Nanos {
        self.last_frame.load(Relaxed)
    }

    /// Whether the source has to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Asks the source to end, and wakes it where it waits in [`wait`](Self::wait).
    pub fn stop(&self) {
        let _guard = self.stop.0.lock();
        self.stopping.store(true, Relaxed);
        self.stop.1.notify_all();
    }

    /// Waits for `span` or a stop, whichever is first. Says whether to go on.
    pub fn wait(&self, span: Duration) -> Flow {
        let mut guard = self.stop.0.lock();
        if !self.is_stopping() {
            self.stop.1.wait_for(&mut guard, span);
        }
        if self.is_stopping() { Flow::Stop } else { Flow::More }
    }
}

//! Samples of live receivers: over the network (`rtl_tcp://`, `tcp://`, `udp://`), or at this machine (`soapy://`).
//!
//! The source's thread connects, watches and makes frames; a thread of each connection's own receives, and does nothing
//! else. What both share is a [`Feed`].

mod rtl_tcp;
mod sequence;
mod tcp;
mod udp;

pub use rtl_tcp::{Gain, PORT as RTL_TCP_PORT, SETTLE as RTL_TCP_SETTLE, Sampling, Tuner};
pub use sequence::Header;

use super::feed::{Feed, Inlet, Pumped, Sending};
use super::live::{LOOK, Trouble, persist};
use super::soapy::Radio;
use super::{Intake, Source, SourceConfig, SourceError};
use crate::frame::clock;
use parking_lot::Mutex;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How long a receiving thread waits for bytes before it looks whether it has to stop.
pub(super) const TURN: Duration = Duration::from_millis(50);
/// Socket buffer that is asked for, in bytes, at least and at most; between them it holds what the ring does.
const SOCKET: [usize; 2] = [256 << 10, 8 << 20];

/// A host, by name or number, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or number; of IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Endpoint {
    /// Its addresses. May take as long as a name server does.
    fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let found = (&*self.host, self.port).to_socket_addrs();
        let found: Vec<_> = found.map_err(|e| format!("`{}` is not found: {e}", self.host))?.collect();
        if found.is_empty() { Err(format!("`{}` has no address", self.host)) } else { Ok(found) }
    }
}

/// Where samples come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// An rtl_tcp server, and how its receiver is set.
    RtlTcp(Endpoint, Tuner),
    /// A server of bare samples.
    Tcp(Endpoint),
    /// A sender of bare samples connects here.
    Listen(Endpoint),
    /// Datagrams that arrive here.
    Udp(Endpoint, Header),
    /// A receiver that SoapySDR drives.
    Soapy(Radio),
}

/// One connection, owned by its receiving thread.
pub(super) trait Link: Send {
    /// Puts into the inlet what has arrived, waiting up to [`TURN`] for it.
    ///
    /// # Errors
    /// Why nothing more will come.
    fn receive(&mut self, inlet: &mut Inlet) -> Result<(), String>;
}

/// What connects, and whether a connection is given up when nothing comes.
enum Plug {
    RtlTcp(rtl_tcp::Client),
    Tcp(tcp::Client),
    Listen(tcp::Listener),
    Udp(udp::Port),
    Soapy(Radio),
}

impl Plug {
    fn new(line: Line, config: &SourceConfig, sending: &Sending) -> Self {
        let patience = config.connect_timeout;
        let bytes = (sending.ring.as_secs_f64() * sending.rate) as usize * sending.format.sample_bytes();
        let buffer = bytes.clamp(SOCKET[0], SOCKET[1]);
        match line {
            Line::RtlTcp(to, tuner) => {
                Self::RtlTcp(rtl_tcp::Client { to: tcp::Client { to, patience, buffer }, tuner })
            }
            Line::Tcp(to) => Self::Tcp(tcp::Client { to, patience, buffer }),
            Line::Soapy(radio) => Self::Soapy(radio),
            Line::Listen(at) => Self::Listen(tcp::Listener::new(at, buffer)),
            Line::Udp(at, header) => Self::Udp(udp::Port {
                at,
                header,
                format: sending.format,
                rate: sending.rate,
                buffer,
                silence: config.stall_timeout,
            }),
        }
    }

    /// Waits for a connection; `None` when the pipeline stops meanwhile.
    fn connect(&mut self, intake: &Intake) -> Result<Option<Box<dyn Link>>, Trouble> {
        let link = match self {
            Self::Soapy(radio) => return radio.connect(intake).map(boxed),
            Self::RtlTcp(client) => client.connect(intake).map(boxed),
            Self::Tcp(client) => client.connect(intake).map(boxed),
            Self::Listen(listener) => listener.accept(intake).map(boxed),
            Self::Udp(port) => port.open(intake).map(boxed),
        };
        link.map_err(Trouble::Passing)
    }

    /// Whether silence ends a connection. A port that is closed would only miss what comes next.
    fn is_given_up(&self) -> bool {
        !matches!(self, Self::Udp(_))
    }

    /// Turns away who else connects.
    fn refuse(&self) {
        if let Self::Listen(listener) = self {
            listener.refuse();
        }
    }
}

fn boxed<L: Link + 'static>(link: Option<L>) -> Option<Box<dyn Link>> {
    link.map(|l| Box::new(l) as Box<dyn Link>)
}

/// A source of samples over the network.
pub struct Network {
    id: String,
    config: SourceConfig,
    line: Line,
    sending: Sending,
}

impl Network {
    /// A source of what `line` sends.
    pub fn new(id: &str, config: &SourceConfig, line: Line, sending: Sending) -> Self {
        Self { id: id.to_owned(), config: config.clone(), line, sending }
    }
}

/// What stands while connections come and go.
struct Reception {
    plug: Plug,
    feed: Feed,
    /// Lent to the receiving thread of a connection.
    inlet: Option<Inlet>,
}

impl Source for Network {
    fn run(self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError> {
        let Self { id, config, line, sending } = *self;
        let plug = Plug::new(line, &config, &sending);
        let (inlet, feed) = Feed::new(&intake, sending);
        let mut reception = Reception { plug, feed, inlet: Some(inlet) };
        persist(&id, &config, &intake, |first| match reception.plug.connect(&intake) {
            Ok(Some(link)) => reception.serve(&id, &config, &intake, link, first),
            Ok(None) => (0, Ok(())),
            Err(trouble) => (0, Err(trouble)),
        })
    }
}

impl Reception {
    /// Serves a connection until it ends, or nothing comes any more.
    fn serve(
        &mut self,
        id: &str,
        config: &SourceConfig,
        intake: &Arc<Intake>,
        mut link: Box<dyn Link>,
        first: bool,
    ) -> (u64, Result<(), Trouble>) {
        let stop = Arc::new(AtomicBool::new(false));
        // Who takes it out of here first has it: the thread, or, where there is no thread, nobody.
        let lent = Arc::new(Mutex::new(self.inlet.take()));
        let name: String = format!("rx:{id}").chars().take(15).collect();
        let receiving = std::thread::Builder::new().name(name).spawn({
            let (stop, lent) = (stop.clone(), lent.clone());
            move || {
                let Some(mut inlet) = lent.lock().take() else { return (None, Ok(())) };
                let result = loop {
                    if stop.load(Relaxed) {
                        break Ok(());
                    }
                    if let Err(why) = link.receive(&mut inlet) {
                        break Err(why);
                    }
                };
                inlet.interrupted();
                (Some(inlet), result)
            }
        });
        let receiving = match receiving {
            Ok(thread) => thread,
            Err(e) => {
                self.inlet = lent.lock().take();
                return (0, Err(Trouble::Passing(format!("the system gives no thread to receive with: {e}"))));
            }
        };
        let begun = clock::now();
        let mut frames = 0;
        let silence = loop {
            let pumped = self.feed.pump(LOOK);
            if pumped == Pumped::Frame {
                frames += 1;
                if frames == 1 && !first {
                    intake.stream().ledger.add_reconnect();
                }
            }
            if pumped == Pumped::Stop || intake.is_stopping() || receiving.is_finished() {
                break None;
            }
            self.plug.refuse();
            let heard = self.feed.heard();
            let (since, limit) = match heard.checked_sub(begun) {
                Some(_) => (heard, config.stall_timeout),
                None => (begun, config.connect_timeout),
            };
            if Duration::from_nanos(clock::now().saturating_sub(since)) > limit {
                let why = format!("no samples for {}", humantime::format_duration(limit));
                if self.plug.is_given_up() {
                    break Some(why);
                }
                intake.signal(crate::frame::Signal::Down(why));
            }
        };
        stop.store(true, Relaxed);
        let (inlet, result) = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.inlet = inlet;
        // What still waits in the ring came before the end.
        while !intake.is_stopping() && self.feed.pump(Duration::ZERO) == Pumped::Frame {
            frames += 1;
        }
        let why = silence.map(Err).unwrap_or(result);
        (frames, why.map_err(Trouble::Passing))
    }
}

/// Asks for a socket buffer of this size in bytes. Says how large it is now.
fn receive_buffer(socket: &impl std::os::fd::AsFd, bytes: usize) -> usize {
    // The system gives as much as it allows (net.core.rmem_max), and tells twice that: its own share of it.
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(bytes);
    socket.recv_buffer_size().unwrap_or(0) / 2
}

/// Runs what may take its time on a thread of its own; `None` when the pipeline stops meanwhile. The thread is then left
/// to itself: it ends with what it waits for.
pub(super) fn aside<T: Send + 'static>(
    intake: &Intake,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<Option<T>, String> {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("connect".into())
        .spawn(move || done.send(work()))
        .map_err(|e| format!("the system gives no thread to connect with: {e}"))?;
    loop {
        match result.recv_timeout(LOOK) {
            Ok(result) => return result.map(Some),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) if intake.is_stopping() => return Ok(None),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Err("connecting failed".to_owned()),
        }
    }
}

//! Bare samples over TCP, from a server or from a sender that connects here.

use super::{Endpoint, Inlet, Intake, LOOK, Link, TURN, aside, receive_buffer};
use crate::frame::clock;
use crate::source::Flow;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Whether a call only came to nothing, and may be made again.
pub fn is_nothing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// A connection that sends samples.
pub struct Stream {
    socket: TcpStream,
    /// Bytes that are still passed over.
    skip: usize,
}

impl Stream {
    /// Samples from this socket, behind `skip` bytes that are passed over.
    ///
    /// # Errors
    /// The socket is not one any more.
    pub fn new(socket: TcpStream, skip: usize) -> Result<Self, String> {
        socket.set_read_timeout(Some(TURN)).map_err(|e| e.to_string())?;
        Ok(Self { socket, skip })
    }
}

impl Link for Stream {
    fn receive(&mut self, inlet: &mut Inlet) -> Result<(), String> {
        let room = inlet.room();
        let most = if self.skip > 0 { self.skip.min(room.len()) } else { room.len() };
        match self.socket.read(&mut room[..most]) {
            Ok(0) => Err("the other end closed the connection".to_owned()),
            Ok(n) if self.skip > 0 => {
                self.skip -= n;
                Ok(())
            }
            Ok(n) => {
                inlet.filled(n, clock::now());
                Ok(())
            }
            Err(e) if is_nothing(e.kind()) => Ok(()),
            Err(e) => Err(format!("the connection broke: {e}")),
        }
    }
}

/// Connects to a server.
pub struct Client {
    /// The server.
    pub to: Endpoint,
    /// How long connecting may take.
    pub patience: Duration,
    /// Bytes that the system may hold for us.
    pub buffer: usize,
}

impl Client {
    /// A connection to the server; `None` when the pipeline stops meanwhile.
    ///
    /// # Errors
    /// Why there is none.
    pub fn socket(&self, intake: &Intake) -> Result<Option<TcpStream>, String> {
        let (to, patience, buffer) = (self.to.clone(), self.patience, self.buffer);
        aside(intake, move || {
            let (mut why, until) = (String::new(), Instant::now() + patience);
            for address in to.resolve()? {
                let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                match TcpStream::connect_timeout(&address, left) {
                    Ok(socket) => {
                        enlarge(&socket, buffer);
                        return Ok(socket);
                    }
                    Err(e) => why = format!("cannot connect to {to}: {e}"),
                }
            }
            Err(why)
        })
    }

    /// A connection that sends samples.
    ///
    /// # Errors
    /// Why there is none.
    pub fn connect(&self, intake: &Intake) -> Result<Option<Stream>, String> {
        self.socket(intake)?.map(|s| Stream::new(s, 0)).transpose()
    }
}

/// Enlarges a connection's buffer, where that does it any good: by itself it may grow beyond what may be asked for, and
/// asking ends its growth.
fn enlarge(socket: &TcpStream, bytes: usize) {
    let allowed = std::fs::read_to_string("/proc/sys/net/core/rmem_max").ok().and_then(|t| t.trim().parse().ok());
    if allowed.is_some_and(|allowed: usize| allowed >= bytes) {
        receive_buffer(socket, bytes);
    }
}

/// Lets one sender at a time connect.
pub struct Listener {
    at: Endpoint,
    buffer: usize,
    /// Kept from one sender to the next.
    socket: Option<TcpListener>,
}

impl Listener {
    /// Listens there, once it is asked to.
    pub fn new(at: Endpoint, buffer: usize) -> Self {
        Self { at, buffer, socket: None }
    }

    /// Waits for a sender.
    ///
    /// # Errors
    /// Why nobody can connect here.
    pub fn accept(&mut self, intake: &Intake) -> Result<Option<Stream>, String> {
        let at = &self.at;
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let wanted = at.clone();
                let Some(addresses) = aside(intake, move || wanted.resolve())? else { return Ok(None) };
                let socket = TcpListener::bind(&*addresses).map_err(|e| format!("cannot listen on {at}: {e}"))?;
                socket.set_nonblocking(true).map_err(|e| format!("cannot listen on {at}: {e}"))?;
                socket
            }
        };
        let socket = self.socket.insert(socket);
        let (client, from) = loop {
            match socket.accept() {
                Ok(client) => break client,
                Err(e) if is_nothing(e.kind()) => {
                    if intake.wait(LOOK) == Flow::Stop {
                        return Ok(None);
                    }
                }
                Err(e) => return Err(format!("cannot listen on {at}: {e}")),
            }
        };
        client.set_nonblocking(false).map_err(|e| e.to_string())?;
        enlarge(&client, self.buffer);
        tracing::info!(stream = &*intake.stream().id, %from, "a sender has connected");
        Stream::new(client, 0).map(Some)
    }

    /// Turns away who else connects: two senders are no stream.
    pub fn refuse(&self) {
        if let Some(Ok((_, from))) = self.socket.as_ref().map(TcpListener::accept) {
            tracing::warn!(%from, "turned away: another sender is connected");
        }
    }
}

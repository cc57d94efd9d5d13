//! An rtl_tcp server without a receiver: it sends numbered samples by the clock, and what its client does not take in time
//! is dropped and counted, as a receiver would, so that a loss cannot hide behind TCP's patience.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Samples after which the numbers begin again: both bytes of a sample count, to 251 each.
pub const CYCLE: u64 = 251 * 251;
/// How often samples are sent.
const TICK: Duration = Duration::from_millis(5);

/// The bytes of the sample of this number.
pub fn sample(number: u64) -> [u8; 2] {
    [(number % 251) as u8, (number / 251 % 251) as u8]
}

/// The number of a sample that has been converted, less whole cycles.
pub fn number(re: f32, im: f32) -> u64 {
    let byte = |x: f32| (f64::from(x) * 127.5 + 127.5).round() as u64;
    byte(re) + 251 * byte(im)
}

#[derive(Default)]
struct Shared {
    /// Samples that the clock demanded of all connections, and those of them that no client took.
    due: AtomicU64,
    dropped: AtomicU64,
    commands: Mutex<Vec<(u8, u32)>>,
    connections: AtomicU64,
    /// Connections below this number are to end.
    ended: AtomicU64,
    silent: AtomicBool,
    stop: AtomicBool,
}

/// A server at work.
pub struct Server {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves one client after the other with so many samples a second.
    pub fn start(rate: f64) -> Self {
        Self::on(0, rate)
    }

    /// The same on a certain port.
    pub fn on(port: u16, rate: f64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.stop.load(Relaxed) {
                    return;
                }
                let n = serving.connections.fetch_add(1, Relaxed);
                serve(&client, &serving, n, rate);
                let _ = client.shutdown(Shutdown::Both);
            }
        });
        Self { port, shared, thread: Some(thread) }
    }

    pub fn uri(&self) -> String {
        format!("rtl_tcp://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Samples that were due so far, and those of them that nobody took.
    pub fn counts(&self) -> (u64, u64) {
        let dropped = self.shared.dropped.load(Relaxed);
        (self.shared.due.load(Relaxed), dropped)
    }

    /// Commands so far, of all connections.
    pub fn commands(&self) -> Vec<(u8, u32)> {
        self.shared.commands.lock().expect("no panic").clone()
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }

    /// Ends the connection that there is.
    pub fn drop_client(&self) {
        self.shared.ended.store(self.connections(), Relaxed);
    }

    /// Sends nothing more, or goes on.
    pub fn silence(&self, silent: bool) {
        self.shared.silent.store(silent, Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves one client until it, or the server, ends the connection.
fn serve(mut client: &TcpStream, shared: &Arc<Shared>, connection: u64, rate: f64) {
    // An R820T with 29 gains.
    if client.write_all(b"RTL0\0\0\0\x05\0\0\0\x1d").is_err() {
        return;
    }
    let reader = client.try_clone().expect("a second handle");
    let told = shared.clone();
    let commands = std::thread::spawn(move || listen(reader, &told));
    client.set_nonblocking(true).expect("a socket");
    // A cycle twice and a bit, so that what is due lies in one piece.
    let most = (rate * 1.0) as u64;
    let bytes: Vec<u8> = (0..CYCLE + most).flat_map(sample).collect();
    let (begun, mut sent, mut half) = (Instant::now(), 0u64, None);
    while !shared.stop.load(Relaxed) && shared.ended.load(Relaxed) <= connection {
        std::thread::sleep(TICK);
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        let number = due - sent;
        if shared.silent.load(Relaxed) {
            sent = due;
            continue;
        }
        shared.due.fetch_add(number, Relaxed);
        let start = (sent % CYCLE) as usize * 2;
        let taken = put(client, &bytes[start..start + 2 * number.min(most) as usize], &mut half);
        let Ok(taken) = taken else { break };
        shared.dropped.fetch_add(number - taken, Relaxed);
        sent = due;
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = commands.join();
}

/// Sends as much as the client takes now; how many whole samples that were. Of one that was sent by half, the other half
/// comes first of all.
fn put(mut client: &TcpStream, mut bytes: &[u8], half: &mut Option<u8>) -> std::io::Result<u64> {
    let mut write = |bytes: &[u8]| match client.write(bytes) {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        result => result,
    };
    if let Some(byte) = *half {
        if write(&[byte])? == 0 {
            return Ok(0);
        }
        *half = None;
    }
    let whole = bytes.len();
    while !bytes.is_empty() {
        let n = write(bytes)?;
        if n == 0 {
            break;
        }
        bytes = &bytes[n..];
    }
    let sent = whole - bytes.len();
    if sent % 2 == 1 {
        *half = Some(bytes[0]);
    }
    Ok(sent.div_ceil(2) as u64)
}

/// Takes commands until the connection ends.
fn listen(mut client: TcpStream, shared: &Shared) {
    let mut command = [0; 5];
    loop {
        let mut held = 0;
        while held < command.len() {
            match client.read(&mut command[held..]) {
                Ok(0) => return,
                Ok(n) => held += n,
                // The other handle made the socket one that does not wait.
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(TICK),
                Err(_) => return,
            }
        }
        let [kind, value @ ..] = command;
        shared.commands.lock().expect("no panic").push((kind, u32::from_be_bytes(value)));
    }
}

//! Samples in datagrams.

use super::sequence::{Header, Place, Sequence};
use super::tcp::is_nothing;
use super::{Endpoint, Inlet, Intake, Link, TURN, aside, receive_buffer};
use crate::frame::{GapCause, Nanos, clock};
use crate::signal::samples::Format;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// The largest datagram there is.
const LARGEST: usize = 1 << 16;
/// A socket buffer that holds less than this overflows whenever the machine is busy for a moment.
const LEAST: Duration = Duration::from_millis(20);

/// Where datagrams arrive.
pub struct Port {
    /// The address; one of a group is joined.
    pub at: Endpoint,
    /// What stands before the samples.
    pub header: Header,
    /// The samples.
    pub format: Format,
    /// Samples a second.
    pub rate: f64,
    /// Bytes that the system may hold for us.
    pub buffer: usize,
    /// After so long another sender may take over.
    pub silence: Duration,
}

impl Port {
    /// Opens the port.
    ///
    /// # Errors
    /// Why nothing can arrive there.
    pub fn open(&self, intake: &Intake) -> Result<Option<Datagrams>, String> {
        let at = self.at.clone();
        let Some(addresses) = aside(intake, move || at.resolve())? else { return Ok(None) };
        let failed = |e: std::io::Error| format!("cannot receive at {}: {e}", self.at);
        let socket = UdpSocket::bind(&*addresses).map_err(failed)?;
        match addresses.first().map(SocketAddr::ip) {
            Some(IpAddr::V4(group)) if group.is_multicast() => {
                socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED).map_err(failed)?;
            }
            Some(IpAddr::V6(group)) if group.is_multicast() => socket.join_multicast_v6(&group, 0).map_err(failed)?,
            _ => {}
        }
        socket.set_read_timeout(Some(TURN)).map_err(failed)?;
        let holds = receive_buffer(&socket, self.buffer) as f64 / (self.rate * self.format.sample_bytes() as f64);
        if holds < LEAST.as_secs_f64() {
            let holds = humantime::format_duration(Duration::from_micros((holds * 1e6) as u64)).to_string();
            let stream = &*intake.stream().id;
            tracing::warn!(stream, holds, "the socket's buffer is small for this rate: raise net.core.rmem_max");
        }
        Ok(Some(Datagrams {
            socket,
            sequence: Sequence::new(self.header, self.rate),
            header: self.header.bytes(),
            sample: self.format.sample_bytes(),
            datagram: vec![0; LARGEST],
            from: None,
            silence: self.silence.as_nanos() as Nanos,
            unusable: 0,
            others: 0,
        }))
    }
}

/// Datagrams of one sender.
pub struct Datagrams {
    socket: UdpSocket,
    sequence: Sequence,
    header: usize,
    sample: usize,
    datagram: Vec<u8>,
    /// Who sends, and when the last one came.
    from: Option<(SocketAddr, Nanos)>,
    silence: Nanos,
    /// Datagrams that hold no samples, and those of other senders.
    unusable: u64,
    others: u64,
}

/// Whether the n-th of something is worth a line in the log: the first, the tenth, the hundredth …
fn is_told(n: u64) -> bool {
    n > 0 && 10u64.pow(n.ilog10()) == n
}

impl Link for Datagrams {
    fn receive(&mut self, inlet: &mut Inlet) -> Result<(), String> {
        let (n, from) = match self.socket.recv_from(&mut self.datagram) {
            Ok(received) => received,
            Err(e) if is_nothing(e.kind()) => return Ok(()),
            Err(e) => return Err(format!("cannot receive: {e}")),
        };
        let at = clock::now();
        match self.from {
            Some((sender, last)) if sender != from => {
                if at.saturating_sub(last) < self.silence {
                    self.others += 1;
                    if is_told(self.others) {
                        tracing::warn!(%sender, other = %from, datagrams = self.others, "a second sender is passed over");
                    }
                    return Ok(());
                }
                inlet.interrupted();
                self.sequence.restart();
            }
            // Without numbers nobody knows how much a pause cost.
            Some((_, last)) if self.header == 0 && at.saturating_sub(last) > self.silence => inlet.interrupted(),
            _ => {}
        }
        if n == 0 {
            // How some senders say that they are done.
            return Ok(());
        }
        let bytes = n.saturating_sub(self.header);
        if n < self.header || bytes % self.sample != 0 {
            self.unusable += 1;
            if is_told(self.unusable) {
                let (header, sample) = (self.header, self.sample);
                tracing::warn!(%from, bytes = n, header, sample, datagrams = self.unusable, "no whole samples in a datagram");
            }
            if self.header == 0 {
                inlet.missing((bytes / self.sample) as u64, GapCause::Lost);
            }
            return Ok(());
        }
        self.from = Some((from, at));
        let samples = bytes / self.sample;
        match self.sequence.place(&self.datagram[..n], samples, at) {
            Place::Next => {}
            Place::Behind(datagrams) => inlet.missing(datagrams * samples as u64, GapCause::Lost),
            Place::Anew => inlet.interrupted(),
            Place::Late => return Ok(()),
        }
        inlet.push(&self.datagram[self.header..n], at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_told;

    #[test]
    fn the_log_hears_of_the_first_and_of_every_power_of_ten() {
        let told: Vec<u64> = (0..=10_000).filter(|&n| is_told(n)).collect();
        assert_eq!(told, [1, 10, 100, 1000, 10_000]);
    }
}

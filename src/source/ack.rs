//! Acknowledging a camera's TCP segments at once.
//!
//! A server that leaves Nagle's algorithm on sends the rest of a picture only when what came before is acknowledged, and
//! Linux puts an acknowledgement off for up to 40 ms: now and then a picture arrives a whole deadline late. `rtspsrc`
//! does not show its socket, so it is found among the process's own by its peer.

use parking_lot::Mutex;
use std::os::fd::RawFd;

/// Keeps the connections to one port of a server out of delayed acknowledgement.
pub struct QuickAck {
    port: u16,
    sockets: Mutex<Option<Vec<RawFd>>>,
}

impl QuickAck {
    /// For connections to `port`.
    pub fn new(port: u16) -> Self {
        Self { port, sockets: Mutex::new(None) }
    }

    /// A packet arrived: what it came in is acknowledged now, not later. The kernel forgets the wish, so it is said for
    /// every packet.
    pub fn packet(&self) {
        let mut sockets = self.sockets.lock();
        let known = sockets.get_or_insert_with(|| connected(self.port));
        known.retain(|&fd| socket::peer_port(fd) == Some(self.port) && socket::quick_ack(fd));
    }
}

/// The process's TCP sockets whose peer listens on `port`.
fn connected(port: u16) -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| socket::peer_port(fd) == Some(port))
        .collect()
}

#[allow(unsafe_code)]
mod socket {
    use std::mem::size_of;
    use std::os::fd::RawFd;

    /// The port of a connected IP socket's peer; `None` for anything else.
    pub fn peer_port(fd: RawFd) -> Option<u16> {
        // SAFETY: all zeroes is a valid sockaddr_storage.
        let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `address`, which holds that many; a number that is no
        // open socket is an error it reports.
        if unsafe { libc::getpeername(fd, (&raw mut address).cast(), &raw mut length) } != 0 {
            return None;
        }
        match i32::from(address.ss_family) {
            // Both kinds have the port, in network order, in the two bytes behind the family.
            libc::AF_INET | libc::AF_INET6 => {
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in.
                let port = unsafe { (*(&raw const address).cast::<libc::sockaddr_in>()).sin_port };
                Some(u16::from_be(port))
            }
            _ => None,
        }
    }

    /// Asks for acknowledgements without delay; false where the socket is gone or is not TCP.
    pub fn quick_ack(fd: RawFd) -> bool {
        let on: libc::c_int = 1;
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option's value is a c_int that outlives the call; a number that is no open socket is an error the
        // kernel reports.
        unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, (&raw const on).cast(), size) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_connection_is_found_by_its_peers_port_and_forgotten_when_it_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let port = listener.local_addr().expect("address").port();
        let client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
        let ack = QuickAck::new(port);
        ack.packet();
        assert_eq!(ack.sockets.lock().as_deref(), Some(&[client.as_raw_fd()][..]));
        drop(client);
        ack.packet();
        assert_eq!(ack.sockets.lock().as_deref(), Some(&[][..]));
    }
}

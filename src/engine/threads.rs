//! Named threads of the data plane, on chosen cores, at real-time priority where that is allowed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};

/// Where and how urgently a thread runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Cores it may run on, empty for all.
    pub cpus: Vec<usize>,
    /// SCHED_FIFO priority, 1 to 99; `None` for the normal scheduler.
    pub realtime: Option<u8>,
}

/// Starts a thread. A placement that the system does not permit is a warning, said once, and the thread runs anyway.
///
/// # Errors
/// The system has no room for one more thread.
pub fn spawn(name: &str, placement: &Placement, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let placement = placement.clone();
    Builder::new().name(short(name)).spawn(move || {
        place(&placement);
        body();
    })
}

// Linux shows 15 bytes of a thread's name.
fn short(name: &str) -> String {
    let mut end = name.len().min(15);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

fn place(placement: &Placement) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let first = || !WARNED.swap(true, Relaxed);
    if !placement.cpus.is_empty() {
        let mut set = rustix::thread::CpuSet::new();
        for &cpu in placement.cpus.iter().filter(|&&c| c < rustix::thread::CpuSet::MAX_CPU) {
            set.set(cpu);
        }
        match rustix::thread::sched_setaffinity(None, &set) {
            Err(error) if first() => tracing::warn!(cpus = ?placement.cpus, %error, "threads stay on all cores"),
            _ => {}
        }
    }
    match placement.realtime.map(realtime::set) {
        Some(Err(error)) if first() => {
            tracing::warn!(%error, "real-time priority is not permitted: see LimitRTPRIO= or CAP_SYS_NICE");
        }
        _ => {}
    }
}

#[allow(unsafe_code)]
mod realtime {
    use std::io;

    /// Gives the calling thread SCHED_FIFO at this priority.
    pub fn set(priority: u8) -> io::Result<()> {
        let param = libc::sched_param { sched_priority: i32::from(priority) };
        // SAFETY: `param` is a valid sched_param that outlives the call; pid 0 is the calling thread.
        match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_where_it_is_placed_and_under_its_name() {
        let placement = Placement { cpus: vec![0], realtime: None };
        let t = spawn("fg-a-rather-long-name", &placement, || {
            assert_eq!(std::thread::current().name(), Some("fg-a-rather-lon"));
            let set = rustix::thread::sched_getaffinity(None).expect("affinity");
            assert!(set.is_set(0) && set.count() == 1);
        });
        t.expect("spawn").join().expect("join");
    }
}

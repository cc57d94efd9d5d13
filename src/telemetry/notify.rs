//! What systemd is told: readiness, reloads, the end, and that the process is alive.
//!
//! Without a service manager (no `NOTIFY_SOCKET`) all of it does nothing.

use super::Health;
use crate::frame::clock;
use parking_lot::{Condvar, Mutex};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// The pipeline runs; `status` is the line that `systemctl status` shows.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins. It ends with [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The process drains and ends.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// The line that `systemctl status` shows.
pub fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

/// Starting takes this much longer from now on than the unit's `TimeoutStartSec` says.
pub fn extend_start(by: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(by.as_micros().try_into().unwrap_or(u32::MAX))]);
}

/// Feeds the watchdog of systemd while nothing is stuck. Dropping it ends the feeding.
#[derive(Debug)]
pub struct Watchdog {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts feeding, twice as often as the unit's `WatchdogSec` asks for; `None` where it does not ask.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(health: Arc<Health>) -> std::io::Result<Option<Self>> {
        match sd_notify::watchdog_enabled() {
            Some(limit) if !limit.is_zero() => Self::every(limit / 2, health).map(Some),
            _ => Ok(None),
        }
    }

    fn every(interval: Duration, health: Arc<Health>) -> std::io::Result<Self> {
        let stop: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            loop {
                let stuck = health.stuck(clock::now());
                match stuck.first() {
                    None => send(&[NotifyState::Watchdog]),
                    Some(first) => {
                        tracing::error!(threads = stuck.len(), "watchdog not fed: {first}");
                        status(&first.to_string());
                    }
                }
                let mut stopped_now = stopped.0.lock();
                if !*stopped_now {
                    stopped.1.wait_for(&mut stopped_now, interval);
                }
                if *stopped_now {
                    return;
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It only sends datagrams; were it to panic, the hook has said so already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    /// Not a test: the service that the tests below start as a process of its own, since environment variables
    /// belong to the whole process.
    #[test]
    #[ignore = "started by the other tests"]
    fn service() {
        match std::env::var("FRAMEGATE_TEST_SERVICE").as_deref() {
            Ok("life") => {
                ready("2 streams");
                reloading();
                ready("3 streams");
                status("going down the ladder");
                extend_start(Duration::from_secs(20));
                stopping();
            }
            Ok("watchdog") => {
                let health = Arc::new(Health::default());
                let pulse = health.pulse("detect");
                let _watchdog = Watchdog::start(health.clone()).unwrap().unwrap();
                // Its parent closes standard input to take it to the next step.
                let mut line = String::new();
                std::io::stdin().read_line(&mut line).unwrap();
                pulse.begin(clock::now() - 2 * clock::SECOND, clock::SECOND);
                std::io::stdin().read_line(&mut line).unwrap();
                pulse.end();
                std::io::stdin().read_line(&mut line).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }

    fn start(part: &str, folder: &std::path::Path) -> (UnixDatagram, std::process::Child) {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "telemetry::notify::tests::service", "--ignored", "--nocapture"])
            .env("FRAMEGATE_TEST_SERVICE", part)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "20000")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (socket, child)
    }

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    #[test]
    fn a_service_manager_hears_of_every_change() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, mut child) = start("life", folder.path());
        let before = clock::now() / 1000;
        assert_eq!(receive(&socket), "READY=1\nSTATUS=2 streams\n");
        let reloading = receive(&socket);
        let usec: u64 = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim().parse().unwrap();
        assert!(usec >= before && usec <= clock::now() / 1000, "{usec}");
        assert_eq!(receive(&socket), "READY=1\nSTATUS=3 streams\n");
        assert_eq!(receive(&socket), "STATUS=going down the ladder\n");
        assert_eq!(receive(&socket), "EXTEND_TIMEOUT_USEC=20000000\n");
        assert_eq!(receive(&socket), "STOPPING=1\nSTATUS=draining\n");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn the_watchdog_is_fed_only_while_nothing_is_stuck() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let (socket, mut child) = start("watchdog", folder.path());
        let mut stdin = child.stdin.take().unwrap();
        for _ in 0..3 {
            assert_eq!(receive(&socket), "WATCHDOG=1\n");
        }
        writeln!(stdin, "get stuck").unwrap();
        // What was under way still comes; then only the reason does.
        let first = std::iter::repeat_with(|| receive(&socket)).find(|m| m != "WATCHDOG=1\n").unwrap();
        assert!(first.starts_with("STATUS=thread `detect` has been at one piece of work for 2."), "{first}");
        for _ in 0..5 {
            assert!(receive(&socket).starts_with("STATUS="));
        }
        writeln!(stdin, "recover").unwrap();
        assert!(std::iter::repeat_with(|| receive(&socket)).take(1000).any(|m| m == "WATCHDOG=1\n"));
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }
}

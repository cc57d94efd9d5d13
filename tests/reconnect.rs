//! A camera that goes and comes again, alone in its process so that threads and files can be counted.

#[path = "common/intake.rs"]
mod intake;
#[path = "common/rtsp.rs"]
mod rtsp;

use framegate::frame::Signal;
use framegate::source::{Context, SourceConfig, Transport};
use intake::Running;
use rtsp::{Options, Server};
use std::time::{Duration, Instant};

#[test]
fn a_server_killed_and_restarted_ten_times_is_found_again_within_two_seconds() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let port = Server::free_port();
        let config =
            SourceConfig { transport: Some(transport), ..SourceConfig::at(format!("rtsp://127.0.0.1:{port}/cam")) };
        // Not there at first.
        let running = Running::start(&config, &Context::default()).expect("an absent camera is no error");
        running.wait_for(|s| matches!(s, Signal::Down(_)), Duration::from_secs(2));
        let mut server = Server::start(Options { port, width: 320, height: 240, ..Options::default() });
        let (mut levels, mut waits) = (Vec::new(), Vec::new());
        for round in 0..10 {
            let resumed = Instant::now();
            running
                .next(Duration::from_secs(8))
                .unwrap_or_else(|| panic!("{transport:?}, round {round}: {:?}", running.stream.signal()));
            waits.push(resumed.elapsed());
            assert_eq!(running.take(10, Duration::from_secs(5)).len(), 10);
            assert!(running.stream.is_up());
            server.stop();
            running.wait_for(|s| matches!(s, Signal::Down(_)), Duration::from_secs(10));
            while running.next(Duration::ZERO).is_some() {}
            levels.push(level());
            server.resume();
        }
        assert_eq!(running.take(20, Duration::from_secs(5)).len(), 20, "up again");
        let (_, counts) = running.stop();
        waits.sort();
        assert!(waits[5] < Duration::from_secs(2), "{transport:?}: {waits:?}");
        assert!(counts.reconnects >= 11, "{transport:?}: {counts:?}");
        assert_eq!(counts.captured, counts.ended(), "{transport:?}");
        // Threads and sockets that are just being closed come and go: the least of three rounds counts.
        let least = |rounds: &[(usize, usize)]| {
            let of = |pick: fn(&(usize, usize)) -> usize| rounds.iter().map(pick).min().unwrap_or(0);
            (of(|l| l.0), of(|l| l.1))
        };
        let ((threads, files), (last_threads, last_files)) = (least(&levels[1..4]), least(&levels[7..]));
        assert!(last_threads <= threads + 2 && last_files <= files + 3, "{transport:?} leaks: {levels:?}");
    }
}

/// Threads and open files of this process.
fn level() -> (usize, usize) {
    let count = |dir: &str| std::fs::read_dir(dir).expect("procfs").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

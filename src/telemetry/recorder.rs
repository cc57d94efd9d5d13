//! Writes what planners are told to a file (`run --record`). Planners hand lines over and never wait: a thread of its own
//! writes them, and what it cannot keep up with is left out and counted in the file.

use crate::schedule::trace::{Header, Line, Tape, Told};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Lines that wait for the disk at most: minutes of a few cameras.
const PENDING: usize = 1 << 16;
/// Without new lines for so long, what there is goes to the disk.
const FLUSH: Duration = Duration::from_millis(500);

enum Message {
    Line(Line),
    End,
}

/// What a finished recording came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Lines in the file.
    pub lines: u64,
    /// Lines that are missing in it.
    pub lost: u64,
}

/// A recording under way.
pub struct Recorder {
    lines: Sender<Message>,
    lost: Arc<AtomicU64>,
    planners: AtomicU32,
    writer: Mutex<Option<JoinHandle<io::Result<Recorded>>>>,
}

impl Recorder {
    /// Begins a recording.
    ///
    /// # Errors
    /// The file cannot be written, or the system has no thread left.
    pub fn create(path: &Path, pipeline: &str) -> io::Result<Self> {
        Self::write_to(File::create(path)?, pipeline, PENDING)
    }

    fn write_to(out: impl Write + Send + 'static, pipeline: &str, pending: usize) -> io::Result<Self> {
        let (lines, received) = crossbeam_channel::bounded(pending);
        let lost = Arc::new(AtomicU64::new(0));
        let (header, missing) = (Header::new(pipeline), lost.clone());
        let writer = std::thread::Builder::new().name("record".into()).spawn(move || {
            let mut out = BufWriter::with_capacity(1 << 16, out);
            let result = write(&mut out, &header, &received, &missing);
            if let Err(error) = &result {
                // Said at once: the run goes on, and the recording is of no use any more.
                tracing::error!("the recording is lost: {error}");
            }
            result
        })?;
        Ok(Self { lines, lost, planners: AtomicU32::new(0), writer: Mutex::new(Some(writer)) })
    }

    /// A tape for one more planner.
    pub fn tape(&self) -> Tape {
        let planner = self.planners.fetch_add(1, Relaxed);
        let (lines, lost) = (self.lines.clone(), self.lost.clone());
        Box::new(move |told: Told| {
            // A hole is told where it is, before what comes after it.
            if lost.load(Relaxed) > 0 {
                let missing = lost.swap(0, Relaxed);
                if lines.try_send(Message::Line(Line::Lost { lost: missing })).is_err() {
                    lost.fetch_add(missing + 1, Relaxed);
                    return;
                }
            }
            if lines.try_send(Message::Line(Line::Told { planner, told })).is_err() {
                lost.fetch_add(1, Relaxed);
            }
        })
    }

    /// Ends the recording: everything so far is in the file.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn finish(&self) -> io::Result<Recorded> {
        // A planner that hangs may keep its tape, so the end is said and not only heard from the tapes' going away.
        let _ = self.lines.send(Message::End);
        match self.writer.lock().take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the writing thread panicked")),
            None => Ok(Recorded { lines: 0, lost: 0 }),
        }
    }
}

fn write(
    out: &mut impl Write,
    header: &Header,
    lines: &Receiver<Message>,
    missing: &AtomicU64,
) -> io::Result<Recorded> {
    let mut done = Recorded { lines: 0, lost: 0 };
    let mut put = |out: &mut dyn Write, line: &dyn Fn(&mut dyn Write) -> serde_json::Result<()>| {
        line(out)?;
        done.lines += 1;
        out.write_all(b"\n")
    };
    put(out, &|out| serde_json::to_writer(out, header))?;
    let mut lost = 0;
    loop {
        match lines.recv_timeout(FLUSH) {
            Ok(Message::Line(line)) => {
                if let Line::Lost { lost: n } = line {
                    lost += n;
                }
                put(out, &|out| serde_json::to_writer(out, &line))?;
            }
            Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => out.flush()?,
        }
    }
    let last = missing.swap(0, Relaxed);
    if last > 0 {
        put(out, &|out| serde_json::to_writer(out, &Line::Lost { lost: last }))?;
    }
    out.flush()?;
    done.lost = lost + last;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A disk that stands still until it is told to go on.
    struct Stuck(Arc<Mutex<Vec<u8>>>, mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.1.recv();
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_stands_still_costs_lines_and_no_time() {
        let (go, held) = mpsc::channel();
        let text = Arc::new(Mutex::new(Vec::new()));
        let recorder = Recorder::write_to(Stuck(text.clone(), held), "p", 4).unwrap();
        let mut tape = recorder.tape();
        // Far more than the buffers hold; a tape that waited would never come back.
        for n in 0..20_000 {
            tape(Told::Abandon(n));
        }
        drop(go);
        let done = recorder.finish().unwrap();
        assert!(done.lost > 0, "{done:?}");
        let text = String::from_utf8(text.lock().clone()).unwrap();
        assert_eq!(text.lines().count() as u64, done.lines);
        let holes: Vec<u64> = text
            .lines()
            .skip(1)
            .filter_map(|l| match serde_json::from_str(l).unwrap() {
                Line::Lost { lost } => Some(lost),
                Line::Told { .. } => None,
            })
            .collect();
        let told = text.lines().count() as u64 - 1 - holes.len() as u64;
        assert_eq!((holes.iter().sum::<u64>(), told + done.lost), (done.lost, 20_000));
    }
}

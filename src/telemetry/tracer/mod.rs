//! Writes the ways of some frames as a Chrome trace (`run --trace`), which Perfetto and chrome://tracing show.
//!
//! Frames hand their ways over when they end and never wait: a thread of its own makes events of them (`events`) and
//! writes those. What it cannot keep up with is left out and counted.

mod events;

use super::Telemetry;
use crate::frame::Nanos;
use crate::frame::clock::{MILLI, now};
use crate::frame::journey::{Trip, Witness};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use events::{Event, Layout};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Frames that wait for the writer at most.
const PENDING: usize = 1024;
/// Events in a file at most: what viewers still open. A frame has about 20.
const MOST: u64 = 500_000;
/// Rings and devices are looked at this often.
const COUNTERS: Nanos = 100 * MILLI;
/// The file is whole at least this often, whatever becomes of the process.
const SETTLE: Nanos = 1000 * MILLI;

enum Message {
    Trip(Box<Trip>),
    End,
}

/// What a finished trace came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traced {
    /// Frames in it.
    pub frames: u64,
    /// Events in it.
    pub events: u64,
    /// Frames that were watched and are missing in it: the disk did not keep up, or it was full.
    pub lost: u64,
    /// It has all the events that a trace may have, and ends before the run.
    pub full: bool,
}

/// Watches one frame in so many of each stream.
#[derive(Debug)]
struct Sampler {
    every: u64,
    trips: Sender<Message>,
    lost: AtomicU64,
    /// No more frames are taken.
    closed: AtomicBool,
}

impl Witness for Sampler {
    fn watches(&self, stream: u32, seq: u64) -> bool {
        // Streams take turns, so that not all of them are watched at once.
        (seq + u64::from(stream)).is_multiple_of(self.every) && !self.closed.load(Relaxed)
    }

    fn ended(&self, trip: Trip) {
        if self.trips.try_send(Message::Trip(Box::new(trip))).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// A trace under way.
#[derive(Debug)]
pub struct Tracer {
    sampler: Arc<Sampler>,
    writer: Mutex<Option<JoinHandle<io::Result<Traced>>>>,
}

impl Tracer {
    /// Begins a trace of one frame in `every` of each stream, at least 1.
    ///
    /// # Errors
    /// The file cannot be written, or the system has no thread left.
    pub fn create(path: &Path, telemetry: &Arc<Telemetry>, every: u64) -> io::Result<Self> {
        let file = File::create(path)?;
        // What is no plain file, such as a pipe, is whole at the end only.
        let plain = file.metadata()?.is_file();
        Self::write_to(file, telemetry, every, Limits { pending: PENDING, most: MOST, settles: plain })
    }

    fn write_to(
        out: impl Write + Seek + Send + 'static,
        telemetry: &Arc<Telemetry>,
        every: u64,
        limits: Limits,
    ) -> io::Result<Self> {
        let (trips, received) = crossbeam_channel::bounded(limits.pending);
        let lost = AtomicU64::new(0);
        let sampler = Arc::new(Sampler { every: every.max(1), trips, lost, closed: AtomicBool::new(false) });
        let mut page = Page::new(out, telemetry.name(), sampler.every, limits.settles)?;
        let (telemetry, watcher) = (Arc::downgrade(telemetry), sampler.clone());
        let writer = std::thread::Builder::new().name("trace".into()).spawn(move || {
            // Niceness is the thread's own on Linux. A thread that may not be nice is no harm.
            let _ = rustix::process::nice(10);
            let result = write(&mut page, &received, &telemetry, &watcher, limits.most);
            watcher.closed.store(true, Relaxed);
            if let Err(error) = &result {
                // Said at once: the run goes on, and the trace is of no use any more.
                tracing::error!("the trace is lost: {error}");
            }
            result
        })?;
        Ok(Self { sampler, writer: Mutex::new(Some(writer)) })
    }

    /// Who watches the frames of a stream.
    pub(super) fn witness(&self) -> Arc<dyn Witness> {
        self.sampler.clone()
    }

    /// Ends the trace: everything so far is in the file.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn finish(&self) -> io::Result<Traced> {
        self.sampler.closed.store(true, Relaxed);
        // A frame that hangs keeps the sampler, so the end is said and not only heard from its going away.
        let _ = self.sampler.trips.send(Message::End);
        match self.writer.lock().take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the writing thread panicked")),
            None => Ok(Traced::default()),
        }
    }
}

struct Limits {
    pending: usize,
    most: u64,
    settles: bool,
}

fn write(
    page: &mut Page<impl Write + Seek>,
    trips: &Receiver<Message>,
    telemetry: &Weak<Telemetry>,
    sampler: &Sampler,
    most: u64,
) -> io::Result<Traced> {
    let (mut layout, mut events) = (Layout::default(), Vec::new());
    let (mut counted, mut settled) = (0, now());
    layout.begin(&page.pipeline, &mut events);
    loop {
        let patience = (counted + COUNTERS).saturating_sub(now());
        match trips.recv_timeout(Duration::from_nanos(patience)) {
            Ok(Message::Trip(_)) if page.done.full => page.done.lost += 1,
            Ok(Message::Trip(trip)) => {
                layout.frame(&trip, &mut events);
                page.done.frames += 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break,
        }
        let at = now();
        if at >= counted + COUNTERS && !page.done.full {
            counted = at;
            if let Some(t) = telemetry.upgrade() {
                t.counters(|what, name, reading| layout.counter(what, name, at, reading, &mut events));
            }
        }
        page.write(&mut events)?;
        page.done.full = page.done.events >= most;
        if page.done.full {
            sampler.closed.store(true, Relaxed);
        }
        if at >= settled + SETTLE {
            settled = at;
            page.settle()?;
        }
    }
    page.write(&mut events)?;
    page.done.lost += sampler.lost.load(Relaxed);
    page.end()?;
    Ok(page.done)
}

/// The file: one JSON object with a list of events, which is whole whenever it is settled.
struct Page<W: Write + Seek> {
    out: BufWriter<W>,
    pipeline: Arc<str>,
    every: u64,
    settles: bool,
    done: Traced,
}

impl<W: Write + Seek> Page<W> {
    fn new(out: W, pipeline: &Arc<str>, every: u64, settles: bool) -> io::Result<Self> {
        let out = BufWriter::with_capacity(1 << 16, out);
        let mut page = Self { out, pipeline: pipeline.clone(), every, settles, done: Traced::default() };
        page.out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        page.settle()?;
        Ok(page)
    }

    fn write(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        for event in events.drain(..) {
            self.out.write_all(if self.done.events == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut self.out, &event)?;
            self.done.events += 1;
        }
        Ok(())
    }

    /// What closes the object.
    fn tail(&self) -> String {
        let Traced { frames, events, lost, full } = self.done;
        let other = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pipeline": &*self.pipeline,
            "clock": "CLOCK_MONOTONIC",
            "one_frame_in": self.every,
            "frames": frames,
            "events": events,
            "lost_frames": lost,
            "full": full,
        });
        format!("\n],\"otherData\":{other}}}\n")
    }

    /// Makes the file whole as it is. What comes next is written over its end.
    fn settle(&mut self) -> io::Result<()> {
        if !self.settles {
            return self.out.flush();
        }
        let tail = self.tail();
        self.out.write_all(tail.as_bytes())?;
        self.out.seek(SeekFrom::Current(-(tail.len() as i64)))?;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let tail = self.tail();
        self.out.write_all(tail.as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Outcome, Stream};
    use std::io::Cursor;
    use std::sync::mpsc;

    /// A disk that stands still until it is told to go on.
    struct Stuck(Arc<Mutex<Cursor<Vec<u8>>>>, mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.1.recv();
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Stuck {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.lock().seek(to)
        }
    }

    fn read(text: &Mutex<Cursor<Vec<u8>>>) -> serde_json::Value {
        serde_json::from_slice(text.lock().get_ref()).unwrap()
    }

    fn pass(stream: &Arc<Stream>, frames: u64) {
        for n in 0..frames {
            stream.capture(n * MILLI).mark(Outcome::OnTime);
        }
    }

    #[test]
    fn a_disk_that_stands_still_costs_frames_and_no_time() {
        let (go, held) = mpsc::channel();
        let text = Arc::new(Mutex::new(Cursor::new(Vec::new())));
        // The first write makes the file.
        go.send(()).unwrap();
        let limits = Limits { pending: 4, most: MOST, settles: true };
        let tracer = Tracer::write_to(Stuck(text.clone(), held), &Telemetry::new("p"), 2, limits).unwrap();
        assert_eq!(read(&text)["traceEvents"], serde_json::json!([]), "whole before anything happens");
        let stream = Arc::new(Stream::new("cam0", 0, None, 0, true));
        stream.watch(tracer.witness());
        // A frame that waited would never come back.
        pass(&stream, 20_000);
        drop(go);
        let done = tracer.finish().unwrap();
        assert!(done.lost > 0 && done.frames > 0, "{done:?}");
        assert_eq!(done.frames + done.lost, 10_000);
        let trace = read(&text);
        assert_eq!(trace["otherData"]["lost_frames"], done.lost);
        assert_eq!(trace["traceEvents"].as_array().map(|e| e.len() as u64), Some(done.events));
    }

    #[test]
    fn a_full_trace_ends_and_its_frames_are_watched_no_more() {
        let text = Arc::new(Mutex::new(Cursor::new(Vec::new())));
        let (_, open) = mpsc::channel();
        let limits = Limits { pending: 1 << 12, most: 100, settles: true };
        let tracer = Tracer::write_to(Stuck(text.clone(), open), &Telemetry::new("p"), 1, limits).unwrap();
        let stream = Arc::new(Stream::new("cam0", 0, None, 0, true));
        stream.watch(tracer.witness());
        pass(&stream, 1000);
        let done = tracer.finish().unwrap();
        assert!(done.full && (100..130).contains(&done.events), "{done:?}");
        assert!(done.frames + done.lost <= 1000 && stream.capture(0).journey().is_none());
        assert_eq!(read(&text)["otherData"]["full"], true);
    }
}

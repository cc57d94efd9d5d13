//! The sinks' threads and queues.

use super::outlet::SinkPort;
use super::plan::Commons;
use super::{EngineError, plan};
use crate::config::{Pipeline, SinkEntry};
use crate::frame::Record;
use crate::ring::{self, WhenFull};
use crate::sink::Sink;
use crate::stage::BuildContext;
use crate::store::{Archive, Archives};
use crate::telemetry::{SinkMeter, Telemetry};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// With nothing to deliver for so long, a sink brings what it holds to where it belongs.
const IDLE: Duration = Duration::from_millis(500);

struct Running {
    id: Arc<str>,
    from: Vec<Arc<str>>,
    /// What it was opened with: a reload keeps a sink that has not changed.
    settings: String,
    port: SinkPort,
    archive: Option<Arc<Archive>>,
    thread: Arc<JoinHandle<()>>,
}

/// The open sinks of a pipeline.
pub struct Sinks(Vec<Running>);

impl Sinks {
    /// Opens the sinks of the file; those of `before` that have not changed go on as they are.
    ///
    /// # Errors
    /// A sink that cannot be used.
    pub fn open(
        pipeline: &Pipeline,
        commons: &Commons,
        telemetry: &Arc<Telemetry>,
        before: Option<&Self>,
    ) -> Result<Self, EngineError> {
        let mut sinks = Vec::new();
        let when_full = if pipeline.sources.iter().all(|s| s.deadline.is_none()) {
            // Offline nothing may be lost: a slow sink slows the reading down.
            WhenFull::Block
        } else {
            WhenFull::EvictOldest
        };
        for entry in &pipeline.sinks {
            let settings = format!("{when_full:?} {} {} {:?}", entry.kind, entry.queue, entry.config);
            let kept = before.and_then(|b| b.0.iter().find(|r| r.id == entry.id && r.settings == settings));
            let (port, archive, thread) = match kept {
                Some(r) => (r.port.clone(), r.archive.clone(), r.thread.clone()),
                None => start(pipeline, commons, entry, telemetry, when_full)?,
            };
            sinks.push(Running { id: entry.id.clone(), from: entry.from.clone(), settings, port, archive, thread });
        }
        Ok(Self(sinks))
    }

    /// The queues of the sinks that take frames from this source or stage.
    pub fn ports_from(&self, id: &str) -> Vec<SinkPort> {
        self.0.iter().filter(|s| s.from.iter().any(|f| **f == *id)).map(|s| s.port.clone()).collect()
    }

    /// The reading ends of those that store, in the file's order.
    pub fn archives(&self) -> Archives {
        self.0.iter().filter_map(|s| Some((s.id.clone(), s.archive.clone()?))).collect()
    }

    /// No more records will come: gives back the sinks' threads, which end when their queues are empty.
    pub fn close(self) -> Vec<Arc<JoinHandle<()>>> {
        self.0.into_iter().map(|s| s.thread).collect()
    }
}

/// A sink at work: the way in, what answers questions about what it stored, its thread.
type Started = (SinkPort, Option<Arc<Archive>>, Arc<JoinHandle<()>>);

fn start(
    pipeline: &Pipeline,
    commons: &Commons,
    entry: &SinkEntry,
    telemetry: &Arc<Telemetry>,
    when_full: WhenFull,
) -> Result<Started, EngineError> {
    let context = BuildContext { views: telemetry.views().clone(), ..plan::context(pipeline, commons, &entry.id) };
    let mut sink = entry.config.open(&context).map_err(|e| EngineError::Failed(format!("sink `{}`: {e}", entry.id)))?;
    let archive = sink.archive();
    let (tx, rx) = ring::ring(entry.queue.max(1), when_full);
    let meter = telemetry.sink(&entry.id);
    let measured = meter.clone();
    sink.on_stored(Arc::new(move |after| measured.stored(after)));
    let port = SinkPort { ring: tx, meter: meter.clone(), wants_payload: entry.config.wants_payload() };
    let id = entry.id.clone();
    let thread = std::thread::Builder::new()
        .name(format!("sink:{id}").chars().take(15).collect())
        .spawn(move || run(&id, sink, &rx, &meter))
        .map_err(|e| EngineError::Failed(format!("the system gives no more threads: {e}")))?;
    Ok((port, archive, Arc::new(thread)))
}

fn run(id: &str, mut sink: Box<dyn Sink>, records: &Receiver<Arc<Record>>, meter: &SinkMeter) {
    let troubled = Cell::new(false);
    let said = |what: &str, error: String| {
        meter.error();
        // The counter has every one of them; the log has the first after each success.
        if !troubled.replace(true) {
            tracing::warn!(sink = id, error, "{what}");
        }
    };
    let mut dirty = false;
    loop {
        let flushing = match records.recv_timeout(IDLE) {
            Ok(record) => {
                dirty = true;
                let result = catch_unwind(AssertUnwindSafe(|| sink.deliver(&record)));
                meter.pending(records.len());
                match result {
                    Ok(Ok(())) => troubled.set(false),
                    Ok(Err(e)) => said("a result was lost", e.to_string()),
                    Err(p) => said("the sink panicked on a result", super::supervisor::panic_message(&*p).to_owned()),
                }
                continue;
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        if dirty {
            dirty = false;
            match catch_unwind(AssertUnwindSafe(|| sink.flush())) {
                Ok(Ok(())) => {}
                Ok(Err(e)) => said("results could not be flushed", e.to_string()),
                Err(p) => said("the sink panicked in flush", super::supervisor::panic_message(&*p).to_owned()),
            }
        }
        if flushing {
            return;
        }
        if let Err(p) = catch_unwind(AssertUnwindSafe(|| sink.idle())) {
            said("the sink panicked while idle", super::supervisor::panic_message(&*p).to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::SinkError;
    use crossbeam_channel::{Sender, unbounded};

    struct Watched(Sender<&'static str>);

    impl Sink for Watched {
        fn deliver(&mut self, _: &Arc<Record>) -> Result<(), SinkError> {
            Ok(())
        }

        fn flush(&mut self) -> Result<(), SinkError> {
            self.0.send("flush").map_err(|e| SinkError(e.to_string()))
        }

        fn idle(&mut self) {
            self.0.send("idle").unwrap();
            panic!("an idle sink that panics goes on");
        }
    }

    #[test]
    fn a_sink_without_records_is_told_of_the_time_again_and_again_and_not_flushed() {
        let telemetry = Telemetry::new("test");
        let (records, theirs) = unbounded();
        let (calls, seen) = unbounded();
        let thread = std::thread::spawn(move || {
            run("s", Box::new(Watched(calls)), &theirs, &telemetry.sink(&"s".into()));
        });
        for _ in 0..3 {
            assert_eq!(seen.recv_timeout(10 * IDLE), Ok("idle"));
        }
        drop(records);
        thread.join().unwrap();
        assert!(seen.iter().all(|call| call == "idle"));
    }
}

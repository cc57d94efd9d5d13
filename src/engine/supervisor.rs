//! What happens when work goes wrong: errors are logged at a bounded rate, panics rebuild the stage with back-off, and
//! what fails again and again stops the process.

use crate::frame::{Frame, Nanos, clock, clock::SECOND};
use crate::stage::StageError;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// So many panics of one stage within [`WINDOW`] are "again and again".
const PANICS_MAX: usize = 5;
/// Panics older than this are forgotten.
const WINDOW: Nanos = 60 * SECOND;

/// Hears of everything that goes wrong in the data plane.
#[derive(Default)]
pub struct Supervisor {
    panics: Mutex<HashMap<Arc<str>, Vec<Nanos>>>,
    errors: Mutex<HashMap<Arc<str>, (Nanos, u64)>>,
    fatal: Mutex<Option<String>>,
    stopping: AtomicBool,
}

impl Supervisor {
    /// Why the process has to stop, if it has to.
    pub fn fatal(&self) -> Option<String> {
        self.fatal.lock().clone()
    }

    /// The process has to stop; the first reason stays.
    pub fn give_up(&self, reason: String) {
        tracing::error!(reason, "giving up");
        self.fatal.lock().get_or_insert(reason);
    }

    /// The process is stopping: nothing is rebuilt any more.
    pub fn stopping(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// A stage returned an error for a frame. Logged once a second for each stage, with the number left out.
    pub fn frame_failed(&self, stage: &Arc<str>, frame: &Frame, error: &StageError) {
        let now = clock::now();
        let mut errors = self.errors.lock();
        let (last, silent) = errors.entry(stage.clone()).or_insert((0, 0));
        if *last != 0 && now < *last + SECOND {
            *silent += 1;
            return;
        }
        let stream = &*frame.stream().id;
        tracing::warn!(stage = &**stage, stream, seq = frame.ticket.seq, unlogged = *silent, %error, "frame failed");
        (*last, *silent) = (now, 0);
    }

    /// A stage panicked: waits a little longer each time, then builds it anew. `None` when the process has to stop.
    pub fn after_panic<T>(
        &self,
        stage: &Arc<str>,
        panic: &(dyn Any + Send),
        build: impl Fn() -> Result<T, StageError>,
    ) -> Option<T> {
        loop {
            let (message, now) = (panic_message(panic), clock::now());
            let count = {
                let mut panics = self.panics.lock();
                let times = panics.entry(stage.clone()).or_default();
                times.retain(|&t| t + WINDOW > now);
                times.push(now);
                times.len()
            };
            if count >= PANICS_MAX || self.stopping.load(Relaxed) {
                self.give_up(format!("stage `{stage}` failed {count} times within a minute, last: {message}"));
                return None;
            }
            tracing::error!(stage = &**stage, message, count, "stage panicked: building it anew");
            std::thread::sleep(Duration::from_millis(10 << (2 * count.min(5))));
            match build() {
                Ok(stage) => return Some(stage),
                Err(error) => tracing::error!(stage = &**stage, %error, "stage cannot be built anew"),
            }
        }
    }
}

/// The text of a caught panic.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown panic")
}

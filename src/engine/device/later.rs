//! Rungs that are loaded when the ladder needs them first: the models that only they run cost no memory until then.

use super::super::supervisor::panic_message;
use super::super::threads::{self, Placement};
use super::{Crew, Event, Memory, Route, Threads, Typical, Ways, open_way, shares};
use crate::frame::{Frame, Payload, clock};
use crate::schedule::sim::Feed;
use crate::schedule::{Site, Variant, admission};
use crate::stage::{Batch, BatchStage, Built, Execute, OnCrops, StageError};
use crate::telemetry::Telemetry;
use parking_lot::Mutex;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Measuring one way of running a stage takes about this long: frames wait for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Builds a stage.
pub type Builder = Box<dyn Fn() -> Result<Built, StageError> + Send + Sync>;

/// A way of running a stage that is built when its rung is needed. Until then it says of itself what the stage's own way
/// says, and takes no frame.
pub struct Later {
    like: Arc<dyn BatchStage>,
    build: Builder,
    built: OnceLock<Arc<dyn BatchStage>>,
}

impl Later {
    /// One that is built by `build`, for a stage that otherwise runs as `like`.
    pub fn new(like: Arc<dyn BatchStage>, build: Builder) -> Self {
        Self { like, build, built: OnceLock::new() }
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.built.get().is_some()
    }

    fn load(&self) -> Result<(), StageError> {
        let Built::Batch(stage) = (self.build)()? else {
            return Err(StageError::new("on this rung it would run on no device"));
        };
        if shares(stage.device()) != shares(self.like.device()) {
            return Err(StageError::new(format!(
                "on this rung it would run on {}, on others on {}; give it a `device` that takes all of them",
                stage.device(),
                self.like.device()
            )));
        }
        // Only the opener loads, one rung after the other.
        let _ = self.built.set(stage);
        Ok(())
    }

    fn stage(&self) -> Result<&dyn BatchStage, StageError> {
        self.built.get().map(|s| &**s).ok_or_else(|| StageError::new("its rung is not loaded yet"))
    }

    fn known(&self) -> &dyn BatchStage {
        &**self.built.get().unwrap_or(&self.like)
    }
}

impl BatchStage for Later {
    fn batch_sizes(&self) -> &[usize] {
        self.built.get().map_or(&[], |s| s.batch_sizes())
    }

    fn device(&self) -> &str {
        self.known().device()
    }

    fn slots(&self) -> usize {
        self.known().slots()
    }

    fn threads(&self) -> usize {
        self.known().threads()
    }

    fn open(&self) -> Result<Box<dyn Execute>, StageError> {
        self.stage()?.open()
    }

    fn buffers(&self) -> Batch {
        self.known().buffers()
    }

    fn example(&self) -> Payload {
        self.built.get().unwrap_or(&self.like).example()
    }

    fn crops(&self) -> Option<&dyn OnCrops> {
        self.known().crops()
    }

    fn prepare(&self, frame: &Frame, batch: &mut Batch, places: Range<usize>) -> Result<(), StageError> {
        self.stage()?.prepare(frame, batch, places)
    }

    fn finish(&self, batch: &Batch, places: Range<usize>, frame: &mut Frame) -> Result<(), StageError> {
        self.stage()?.finish(batch, places, frame)
    }
}

/// A device, as far as opening rungs is concerned.
pub struct Link {
    /// Its executors. Not held: they end when their dispatcher does.
    pub crew: Weak<Crew>,
    /// Batches that run at once.
    pub slots: usize,
    /// Its stages' ids.
    pub ids: Vec<Arc<str>>,
    /// Its stages.
    pub ways: Vec<Ways>,
    /// What is known of them.
    pub sites: Vec<Site>,
}

/// Opens rungs that are shut, for all devices of a graph together.
pub struct Opener {
    names: Vec<Arc<str>>,
    /// A stream like those of the pipeline; `None` where no frame has a deadline.
    feed: Option<Feed>,
    placement: Placement,
    telemetry: Arc<Telemetry>,
    /// The graph's threads.
    threads: Threads,
    devices: Mutex<Vec<Link>>,
    /// Rungs that were asked for.
    asked: Mutex<Vec<usize>>,
}

/// What was loaded for one device: with its sessions, one for each slot.
type Loaded = Vec<(Route, Variant, Vec<Memory>, Vec<Box<dyn Execute>>)>;

impl Opener {
    /// An opener for rungs of these names; `feed` is a stream like those of the pipeline.
    pub fn new(
        names: Vec<Arc<str>>,
        feed: Option<Feed>,
        placement: Placement,
        telemetry: Arc<Telemetry>,
        threads: Threads,
    ) -> Self {
        let (devices, asked) = (Mutex::default(), Mutex::default());
        Self { names, feed, placement, telemetry, threads, devices, asked }
    }

    /// One more device. Those that frames reach later come later.
    pub fn links(&self, link: Link) {
        self.devices.lock().push(link);
    }

    /// Opens a rung, on a thread of its own; asking again changes nothing.
    pub fn request(self: &Arc<Self>, rung: usize) {
        let mut asked = self.asked.lock();
        if asked.contains(&rung) {
            return;
        }
        asked.push(rung);
        let (opener, name) = (self.clone(), self.names.get(rung).map_or("", |n| n).to_owned());
        tracing::info!(rung = name, "loading: the ladder needs it");
        let spawned = threads::spawn("rung:open", &self.placement, move || opener.open(rung));
        match spawned {
            Ok(thread) => self.threads.lock().push((thread, None)),
            Err(error) => self.failed(rung, &format!("the system gives no more threads: {error}")),
        }
    }

    fn name(&self, rung: usize) -> &str {
        self.names.get(rung).map_or("", |n| n)
    }

    fn failed(&self, rung: usize, why: &str) {
        tracing::error!(rung = self.name(rung), "the rung cannot be loaded and stays shut: {why}");
        for link in &*self.devices.lock() {
            if let Some(crew) = link.crew.upgrade() {
                crew.hears(Event::Lost { rung });
            }
        }
    }

    fn open(&self, rung: usize) {
        let begun = clock::now();
        let mut devices = self.devices.lock();
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            devices.iter().map(|link| load(link, rung)).collect::<Result<Vec<Loaded>, String>>()
        }));
        let loaded = match loaded {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(why)) => {
                drop(devices);
                return self.failed(rung, &why);
            }
            Err(panic) => {
                drop(devices);
                return self.failed(rung, &format!("panicked: {}", panic_message(&*panic)));
            }
        };
        for (link, loaded) in devices.iter_mut().zip(&loaded) {
            for (route, variant, ..) in loaded {
                if let Some(v) = link.sites.get_mut(route.site).and_then(|s| s.variants.get_mut(route.variant)) {
                    v.clone_from(variant);
                }
            }
        }
        if let Some(feed) = &self.feed {
            let serves = |link: &Link| serves(&link.sites, link.slots, feed, rung);
            let streams = devices.iter().map(serves).min().unwrap_or(0);
            self.telemetry.capacity(self.name(rung), streams);
            tracing::info!(rung = self.name(rung), streams, took_ms = clock::millis(clock::now() - begun), "loaded");
        }
        // Those behind first: a frame comes to them with the rung that a device before them gave it.
        for (link, loaded) in devices.iter().zip(loaded).rev() {
            let Some(crew) = link.crew.upgrade() else { continue };
            let mut ways = Vec::with_capacity(loaded.len());
            for (route, variant, memory, sessions) in loaded {
                crew.late.lock().extend(sessions.into_iter().map(|s| (route, s)));
                ways.push((route, variant, memory));
            }
            crew.hears(Event::Opened { rung, ways });
        }
    }
}

/// Streams that a device serves at a rung.
pub fn serves(sites: &[Site], slots: usize, feed: &Feed, rung: usize) -> usize {
    let feed = Feed { branches: vec![(0..sites.len()).collect()], ..feed.clone() };
    admission::capacity(sites, slots, &feed, rung)
}

/// Loads what a rung runs on a device and is not loaded yet.
fn load(link: &Link, rung: usize) -> Result<Loaded, String> {
    let mut out = Loaded::new();
    for (site, (id, ways)) in link.ids.iter().zip(&link.ways).enumerate() {
        let Some(variant) = ways.rungs.get(rung).and_then(|r| r.variant) else { continue };
        let Some(later) = ways.later.get(variant).and_then(Option::as_ref).filter(|l| !l.is_loaded()) else { continue };
        let opened = later.load().and_then(|()| open_way(&**later, link.slots, PATIENCE, Typical::Quickest));
        let opened = opened.map_err(|e| format!("stage `{id}`: {e}"))?;
        out.push((Route { site, variant }, opened.variant, opened.memory, opened.sessions));
    }
    Ok(out)
}

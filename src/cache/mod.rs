//! One cache for the whole engine, addressed by content: what was made of this input, by this configuration, with this
//! model, is made once.
//!
//! Memory comes first; behind it a folder and a Redis server where they are configured. What lies behind is asked by
//! threads of its own and waited for a short time only, so that a slow disk or a server that is gone costs whoever asks
//! a few milliseconds and never more. Nothing that is looked up here is needed: what is not found is made again.

mod counts;
mod disk;
mod key;
mod redis;

pub use counts::{Counts, Layer, Reason};
pub use key::Key;

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError, bounded};
use disk::Disk;
use quick_cache::{Lifecycle, Weighter, sync};
use redis::Redis;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a look-up waits for what lies behind memory.
const PATIENCE: Duration = Duration::from_millis(5);
/// Questions and values that wait for a layer.
const QUEUE: usize = 256;
/// What an entry costs beside its bytes.
const OVERHEAD: u64 = 96;

/// What a cache may take, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Bytes in memory.
    pub memory: u64,
    /// A folder behind it.
    pub path: Option<PathBuf>,
    /// Bytes in the folder.
    pub disk: u64,
    /// What is older is not given any more, wherever it lies.
    pub age: Option<Duration>,
    /// A Redis server behind memory: `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`.
    pub redis: Option<String>,
}

impl Default for Settings {
    /// 64 MiB of memory, nothing behind it.
    fn default() -> Self {
        Self { memory: 64 << 20, path: None, disk: 1 << 30, age: None, redis: None }
    }
}

/// Whether this is a Redis server's address; starts nothing.
///
/// # Errors
/// What is wrong with it.
pub fn check_redis(url: &str) -> Result<(), String> {
    redis::client(url).map(|_| ())
}

/// Why a cache cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CacheError(pub String);

/// A value in memory.
#[derive(Clone)]
struct Entry {
    value: Bytes,
    made: Instant,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Entry> for Weight {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.value.len() as u64 + OVERHEAD
    }
}

/// Counts what is pushed out.
#[derive(Clone)]
struct Pushed(Arc<Counts>);

impl Lifecycle<Key, Entry> for Pushed {
    type RequestState = ();
    fn on_evict(&self, (): &mut (), _: Key, _: Entry) {
        self.0.dropped(Reason::Full);
    }
}

type Memory = sync::Cache<Key, Entry, Weight, std::collections::hash_map::RandomState, Pushed>;

/// What a layer behind memory is told.
enum Task {
    Find(Key, Sender<Option<Bytes>>),
    Keep(Key, Bytes),
}

/// A layer behind memory, on its own thread.
trait Behind: Send {
    fn find(&mut self, key: &Key) -> Option<Bytes>;
    fn keep(&mut self, key: &Key, value: &[u8]);
}

/// The cache. Cheap to share; dropping the last handle ends its threads.
pub struct Cache {
    memory: Memory,
    age: Option<Duration>,
    behind: Vec<(Layer, Sender<Task>)>,
    counts: Arc<Counts>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("behind", &self.behind.len()).finish_non_exhaustive()
    }
}

impl Default for Cache {
    /// In memory only.
    fn default() -> Self {
        let counts = Arc::<Counts>::default();
        Self { memory: memory(Settings::default().memory, &counts), age: None, behind: Vec::new(), counts }
    }
}

fn memory(bytes: u64, counts: &Arc<Counts>) -> Memory {
    let entries = usize::try_from(bytes / 4096).unwrap_or(usize::MAX).clamp(64, 1 << 20);
    Memory::with(entries, bytes, Weight, std::collections::hash_map::RandomState::new(), Pushed(counts.clone()))
}

impl Cache {
    /// Opens a cache. A Redis server that is away is no error: the cache works without, and goes on asking.
    ///
    /// # Errors
    /// The folder cannot be used, the server's address is none, or the system has no thread left.
    pub fn open(settings: &Settings) -> Result<Self, CacheError> {
        let counts = Arc::<Counts>::default();
        let mut behind = Vec::new();
        if let Some(path) = &settings.path {
            let disk = Disk::open(path, settings.disk, settings.age, counts.clone())
                .map_err(|e| CacheError(format!("{}: {e}", path.display())))?;
            behind.push((Layer::Disk, start("cache:disk", Box::new(disk))?));
        }
        if let Some(url) = &settings.redis {
            let redis = Redis::new(url, settings.age, counts.clone()).map_err(CacheError)?;
            behind.push((Layer::Redis, start("cache:redis", Box::new(redis))?));
        }
        Ok(Self { memory: memory(settings.memory, &counts), age: settings.age, behind, counts })
    }

    /// What the cache counts.
    pub fn counts(&self) -> &Arc<Counts> {
        self.counts.set_bytes(Layer::Memory, self.memory.weight());
        &self.counts
    }

    /// Looks into memory alone: for threads that must not wait at all.
    pub fn peek(&self, key: &Key) -> Option<Bytes> {
        let found = self.memory.get(key).filter(|e| {
            let young = self.age.is_none_or(|age| e.made.elapsed() < age);
            if !young && self.memory.remove(key).is_some() {
                self.counts.dropped(Reason::Old);
            }
            young
        });
        self.counts.asked(Layer::Memory, found.is_some());
        found.map(|e| e.value)
    }

    /// Looks into memory and then behind it, where each layer is given a few milliseconds. What lies behind is brought
    /// to the front.
    pub fn find(&self, key: &Key) -> Option<Bytes> {
        if let Some(value) = self.peek(key) {
            return Some(value);
        }
        for (layer, tasks) in &self.behind {
            let (tell, told) = bounded(1);
            let found = match tasks.try_send(Task::Find(*key, tell)) {
                Ok(()) => told.recv_timeout(PATIENCE).ok().flatten(),
                Err(_) => None,
            };
            self.counts.asked(*layer, found.is_some());
            if let Some(value) = found {
                self.keep_here(*key, value.clone());
                return Some(value);
            }
        }
        None
    }

    /// Keeps a value, in memory now and behind it soon.
    pub fn keep(&self, key: Key, value: impl Into<Bytes>) {
        let value = value.into();
        for (_, tasks) in &self.behind {
            if let Err(TrySendError::Full(_)) = tasks.try_send(Task::Keep(key, value.clone())) {
                self.counts.dropped(Reason::Busy);
            }
        }
        self.keep_here(key, value);
    }

    /// Keeps a value in memory alone: what is old before anybody else could ask for it.
    pub fn keep_here(&self, key: Key, value: Bytes) {
        self.memory.insert(key, Entry { value, made: Instant::now() });
    }
}

/// The layer's thread: it ends with the cache.
fn start(name: &str, mut layer: Box<dyn Behind>) -> Result<Sender<Task>, CacheError> {
    let (tasks, theirs) = bounded(QUEUE);
    let run = move || {
        // What is kept here saves work that has its own threads. A thread that may not be nice is no harm.
        let _ = rustix::process::nice(5);
        for task in theirs {
            match task {
                Task::Find(key, tell) => {
                    // Who has stopped waiting does not want it any more.
                    let _ = tell.try_send(layer.find(&key));
                }
                Task::Keep(key, value) => layer.keep(&key, &value),
            }
        }
    };
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|e| CacheError(format!("no thread for the cache: {e}")))?;
    Ok(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        Key::of(&[&n.to_be_bytes()])
    }

    /// Waits for the layers behind: values reach them after `keep` has returned.
    fn until(mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn memory_stays_within_its_bytes() {
        let cache = Cache::open(&Settings { memory: 100_000, ..Settings::default() }).unwrap();
        for n in 0..1000 {
            cache.keep(key(n), vec![0; 1000]);
        }
        assert!(cache.counts().bytes(Layer::Memory) <= 100_000);
        assert!(cache.counts().drops(Reason::Full) >= 900);
        assert!((0..1000).filter(|n| cache.find(&key(*n)).is_some()).count() >= 50);
    }

    #[test]
    fn what_memory_forgot_comes_from_disk_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { memory: 4096, path: Some(dir.path().join("cache")), ..Settings::default() };
        let cache = Cache::open(&settings).unwrap();
        for n in 0..50 {
            cache.keep(key(n), n.to_be_bytes().repeat(100));
        }
        until(|| cache.find(&key(49)).is_some() && cache.find(&key(0)).is_some());
        drop(cache);
        let cache = Cache::open(&settings).unwrap();
        until(|| cache.find(&key(7)).is_some_and(|v| v == 7u64.to_be_bytes().repeat(100)));
        assert!(cache.counts().hits(Layer::Disk) >= 1);
        // Now it is in memory.
        assert!(cache.peek(&key(7)).is_some());
    }

    #[test]
    fn what_is_too_old_is_gone() {
        let settings = Settings { age: Some(Duration::from_millis(20)), ..Settings::default() };
        let cache = Cache::open(&settings).unwrap();
        cache.keep(key(1), vec![1]);
        until(|| cache.peek(&key(1)).is_none());
        assert_eq!(cache.counts().drops(Reason::Old), 1);
    }

    /// Answers when it is let.
    struct Slow(crossbeam_channel::Receiver<()>);

    impl Behind for Slow {
        fn find(&mut self, _: &Key) -> Option<Bytes> {
            let _ = self.0.recv();
            None
        }
        fn keep(&mut self, _: &Key, _: &[u8]) {
            let _ = self.0.recv();
        }
    }

    #[test]
    fn a_layer_that_hangs_costs_a_look_up_its_patience_and_no_more() {
        let (go, wait) = crossbeam_channel::unbounded();
        let mut cache = Cache::default();
        cache.behind.push((Layer::Disk, start("test", Box::new(Slow(wait))).unwrap()));
        // Many more than its queue holds: what does not fit is dropped and counted, nothing waits.
        for n in 0..2 * QUEUE as u64 {
            cache.keep(key(n), vec![1]);
        }
        assert!(cache.counts().drops(Reason::Busy) as usize >= QUEUE - 1);
        assert!(cache.find(&key(u64::MAX)).is_none());
        drop(go);
    }
}

//! Who answers questions: a few threads with a connection each, and one answer for all who ask the same.

use super::StoreError;
use super::query::{Query, Reading, page};
use crate::cache::{Cache, Key};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// Threads, each with a connection.
const READERS: usize = 2;
/// Questions that wait for a thread.
const QUEUE: usize = 512;
/// Below the engine's threads, above those that have all the time there is.
const NICE: i32 = 5;

/// How an answer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Encoding {
    /// Its name in HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn pack(self, body: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(body.to_vec()),
            Self::Gzip => {
                let packed = Vec::with_capacity(body.len() / 4);
                let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Zstd => Ok(ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest)),
        }
    }
}

/// A page, ready to be sent.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Tag and body in one.
    all: Bytes,
}

/// Hexadecimal digits of a tag.
const TAG: usize = 32;

impl Answer {
    /// Tells one content from another, in hexadecimal.
    pub fn tag(&self) -> &[u8] {
        &self.all[..TAG]
    }

    /// The page, packed as asked for.
    pub fn body(&self) -> Bytes {
        self.all.slice(TAG..)
    }

    fn new(body: &[u8], encoding: Encoding) -> Result<Self, StoreError> {
        let packed = encoding.pack(body).map_err(|e| StoreError::Away(format!("{}: {e}", encoding.name())))?;
        let mut all = Vec::with_capacity(TAG + packed.len());
        // The tag is of what is said, so that every packing of one page shares its digits.
        all.extend(&Key::of(&[body]).to_string().as_bytes()[..TAG]);
        all.extend(packed);
        Ok(Self { all: all.into() })
    }

    fn read(all: Bytes) -> Option<Self> {
        (all.len() > TAG).then_some(Self { all })
    }
}

/// What becomes of a question.
pub enum Asked {
    /// It was answered before.
    Ready(Answer),
    /// It is being answered.
    Later(oneshot::Receiver<Result<Answer, StoreError>>),
    /// More questions wait than will be answered soon.
    Busy,
}

type Waiting = Mutex<HashMap<Key, Vec<oneshot::Sender<Result<Answer, StoreError>>>>>;

struct Job {
    key: Key,
    query: Query,
    encoding: Encoding,
}

/// Makes a connection for reading.
pub(super) type Open = Arc<dyn Fn() -> Result<Box<dyn Reading>, StoreError> + Send + Sync>;

/// Those of a pipeline, by the ids of their sinks.
pub type Archives = Vec<(Arc<str>, Arc<Archive>)>;

/// The reading end of a store. Dropping it ends its threads.
pub struct Archive {
    /// Tells one store from another in the cache.
    name: String,
    generation: Arc<AtomicU64>,
    cache: Arc<Cache>,
    jobs: Sender<Job>,
    waiting: Arc<Waiting>,
}

impl Archive {
    /// Starts the threads.
    pub(super) fn start(
        name: String,
        open: &Open,
        generation: Arc<AtomicU64>,
        cache: Arc<Cache>,
    ) -> std::io::Result<Self> {
        let (jobs, theirs) = bounded(QUEUE);
        let waiting = Arc::<Waiting>::default();
        for n in 0..READERS {
            let reader =
                Reader { open: open.clone(), jobs: theirs.clone(), waiting: waiting.clone(), cache: cache.clone() };
            std::thread::Builder::new().name(format!("reader:{n}")).spawn(move || reader.run())?;
        }
        Ok(Self { name, generation, cache, jobs, waiting })
    }

    /// Asks for a page. Never waits: who asks is told when the page is there. Those who ask the same at the same time
    /// share one answer, and so do those who ask before anything changed, or within a second: so much later than they
    /// were written are rows seen that another program wrote.
    pub fn ask(&self, query: &Query, encoding: Encoding) -> Asked {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let when = [self.generation.load(Relaxed).to_be_bytes(), second.to_be_bytes()].concat();
        let asked = format!("{query:?} {encoding:?}");
        let key = Key::of(&[b"results", self.name.as_bytes(), asked.as_bytes(), &when]);
        if let Some(answer) = self.cache.peek(&key).and_then(Answer::read) {
            return Asked::Ready(answer);
        }
        let (tell, told) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if let Some(others) = waiting.get_mut(&key) {
            others.push(tell);
            return Asked::Later(told);
        }
        match self.jobs.try_send(Job { key, query: query.clone(), encoding }) {
            Ok(()) => {
                waiting.insert(key, vec![tell]);
                Asked::Later(told)
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Asked::Busy,
        }
    }
}

struct Reader {
    open: Open,
    jobs: Receiver<Job>,
    waiting: Arc<Waiting>,
    cache: Arc<Cache>,
}

impl Reader {
    fn run(self) {
        // Frames come first. A thread that may not be nice is no harm.
        let _ = rustix::process::nice(NICE);
        let mut database = None;
        for job in &self.jobs {
            let result = catch_unwind(AssertUnwindSafe(|| self.answer(&mut database, &job)));
            let result = result.unwrap_or_else(|_| Err(StoreError::Away("the reader panicked".to_owned())));
            if let Err(StoreError::Away(_)) = result {
                // A new connection is the cure for most of what a connection can have.
                database = None;
            }
            let told = self.waiting.lock().remove(&job.key).unwrap_or_default();
            for one in told {
                // Who has gone away does not want it any more.
                let _ = one.send(result.clone());
            }
        }
    }

    fn answer(&self, database: &mut Option<Box<dyn Reading>>, job: &Job) -> Result<Answer, StoreError> {
        let open = match database {
            Some(open) => open,
            None => database.insert((self.open)()?),
        };
        let answer = Answer::new(&page(&mut **open, &job.query)?, job.encoding)?;
        self.cache.keep_here(job.key, answer.all.clone());
        Ok(answer)
    }
}

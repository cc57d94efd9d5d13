//! The thread that writes results, and the bounded buffer of those that wait for it.
//!
//! A row stays in the buffer until its transaction is done: what a database that goes away had not taken is written
//! when it is back. Storing the same row twice is one row, so an answer that was lost on the way costs nothing.

use super::{Database, Limits, Row, StoreError, row};
use crate::frame::{Nanos, clock};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// The first wait before a database that failed is tried again; it doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// How often limits are looked at, and the pause between two steps of deleting.
const UPKEEP: Duration = Duration::from_secs(1);
const BETWEEN_STEPS: Duration = Duration::from_millis(50);

/// Makes the connection to a database.
pub type Connect = Box<dyn FnMut() -> Result<Box<dyn Database>, StoreError> + Send>;

/// How to write, and what to keep.
pub struct Plan {
    /// Makes the connection, again after each failure.
    pub connect: Connect,
    /// A connection that is there already.
    pub database: Option<Box<dyn Database>>,
    /// Rows in a transaction, at most.
    pub batch: usize,
    /// How long a row may wait for others to share its transaction.
    pub every: Duration,
    /// Rows that wait, at most.
    pub buffer: usize,
    /// Longest wait for room while the database is away, and for the last rows at the end.
    pub patience: Duration,
    /// What is deleted.
    pub limits: Limits,
    /// The sink's id, for the log.
    pub sink: Arc<str>,
}

/// Who is told how long after its capture a row was stored.
type Told = Arc<dyn Fn(Nanos) + Send + Sync>;

#[derive(Default)]
struct State {
    waiting: VecDeque<(Row, Instant)>,
    /// Taken out by the thread, not yet written.
    handed: usize,
    /// Rows that the database will not have.
    refused: usize,
    why_refused: String,
    /// Why the database is away.
    trouble: Option<String>,
    told: Option<Told>,
    /// No more rows will come; what is not written by then is lost.
    close_by: Option<Instant>,
    ended: bool,
}

impl State {
    fn pending(&self) -> usize {
        self.waiting.len() + self.handed
    }
}

struct Shared {
    state: Mutex<State>,
    /// Rows have come, or the keeper closes.
    wake: Condvar,
    /// Rows are written, or the database came or went.
    changed: Condvar,
    generation: Arc<AtomicU64>,
}

/// The writer's end for a sink. Dropping it writes what waits, as far as the patience goes.
pub struct Keeper {
    shared: Arc<Shared>,
    buffer: usize,
    patience: Duration,
    sink: Arc<str>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(plan: Plan) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            changed: Condvar::new(),
            generation: Arc::default(),
        });
        let (buffer, patience, sink) = (plan.buffer, plan.patience, plan.sink.clone());
        let theirs = shared.clone();
        std::thread::Builder::new().name(format!("store:{sink}").chars().take(15).collect()).spawn(move || {
            Writer { plan, shared: theirs.clone(), said: None }.run();
            theirs.state.lock().ended = true;
            theirs.changed.notify_all();
        })?;
        Ok(Self { shared, buffer, patience, sink })
    }

    /// A number that grows with every change of what is stored.
    pub fn generation(&self) -> Arc<AtomicU64> {
        self.shared.generation.clone()
    }

    /// Whom to tell how long after its capture each row was stored.
    pub fn tell(&self, told: Arc<dyn Fn(Nanos) + Send + Sync>) {
        self.shared.state.lock().told = Some(told);
    }

    /// Takes a row. Where the buffer is full it waits for room: as long as the database takes rows, and for the
    /// patience while it does not.
    ///
    /// # Errors
    /// The row is lost, or rows before it were: the database is away and the buffer full, or it refused them.
    pub fn put(&self, row: Row) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        let give_up = Instant::now() + self.patience;
        while state.pending() >= self.buffer {
            if state.ended {
                return Err(StoreError::Away("the store's thread has ended".to_owned()));
            }
            let late = self.shared.changed.wait_for(&mut state, self.patience.min(UPKEEP)).timed_out();
            if let (true, Some(why)) = (late && Instant::now() >= give_up, &state.trouble) {
                let n = state.pending();
                return Err(StoreError::Away(format!("the database is away ({why}) and {n} results wait already")));
            }
        }
        state.waiting.push_back((row, Instant::now()));
        self.shared.wake.notify_one();
        refused(&mut state)
    }

    /// Waits until everything taken is written, at most for the patience.
    ///
    /// # Errors
    /// How many are not, and why; or that rows were refused.
    pub fn flush(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.patience;
        let mut state = self.shared.state.lock();
        while state.pending() > 0 && !state.ended {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        match (state.pending(), &state.trouble) {
            (0, _) => refused(&mut state),
            (n, Some(why)) => Err(StoreError::Away(format!("{n} results wait for the database ({why})"))),
            (n, None) => Err(StoreError::Away(format!("{n} results are not written yet"))),
        }
    }
}

fn refused(state: &mut State) -> Result<(), StoreError> {
    match std::mem::take(&mut state.refused) {
        0 => Ok(()),
        n => Err(StoreError::Refused(format!("the database refused {n} results: {}", state.why_refused))),
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let by = Instant::now() + self.patience;
        let mut state = self.shared.state.lock();
        state.close_by = Some(by);
        self.shared.wake.notify_one();
        // The thread may hang in a database that does not answer: then it is left behind.
        while !state.ended {
            if self.shared.changed.wait_until(&mut state, by + Duration::from_millis(100)).timed_out() {
                break;
            }
        }
        let lost = state.pending();
        if lost > 0 {
            tracing::warn!(sink = &*self.sink, lost, "results lost: the database did not take them before the end");
        }
    }
}

/// The thread.
struct Writer {
    plan: Plan,
    shared: Arc<Shared>,
    /// The trouble that the log has already.
    said: Option<String>,
}

impl Writer {
    fn run(mut self) {
        let mut database = self.plan.database.take();
        let mut backoff = FIRST_BACKOFF;
        let mut upkeep = Instant::now();
        loop {
            let failed = match &mut database {
                None => match (self.plan.connect)() {
                    Ok(d) => {
                        // Whether it works is seen when it is used.
                        database = Some(d);
                        continue;
                    }
                    Err(e) => Some(e),
                },
                Some(db) => match self.take(upkeep) {
                    Taken::Closed => return,
                    Taken::Nothing => match db.trim(&self.plan.limits, row::micros(SystemTime::now())) {
                        Ok(deleted) => {
                            upkeep = Instant::now() + if deleted > 0 { BETWEEN_STEPS } else { UPKEEP };
                            if deleted > 0 {
                                self.shared.generation.fetch_add(1, Relaxed);
                            }
                            None
                        }
                        Err(e) => {
                            upkeep = Instant::now() + UPKEEP;
                            Some(e)
                        }
                    },
                    Taken::Rows(rows) => self.write(&mut **db, rows).err(),
                },
            };
            match failed {
                None => {
                    if self.said.take().is_some() {
                        tracing::info!(sink = &*self.plan.sink, "the database is back");
                    }
                    backoff = FIRST_BACKOFF;
                    let mut state = self.shared.state.lock();
                    if state.trouble.take().is_some() {
                        self.shared.changed.notify_all();
                    }
                }
                Some(error) => {
                    // A new connection is the cure for most of what a connection can have.
                    database = None;
                    if !self.wait(&error.to_string(), backoff) {
                        return;
                    }
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            }
        }
    }

    /// Waits for rows: until there are as many as a transaction may have, or the first has waited long enough.
    fn take(&self, upkeep: Instant) -> Taken {
        let mut state = self.shared.state.lock();
        loop {
            let now = Instant::now();
            let closing = state.close_by.is_some();
            let due = state.waiting.front().map(|(_, since)| *since + self.plan.every);
            match due {
                None if closing => return Taken::Closed,
                Some(_) if state.close_by.is_some_and(|by| now >= by) => return Taken::Closed,
                Some(due) if closing || due <= now || state.waiting.len() >= self.plan.batch => {
                    // Deleting has its turn even where rows never stop coming.
                    if upkeep + BETWEEN_STEPS <= now && !closing {
                        return Taken::Nothing;
                    }
                    let n = state.waiting.len().min(self.plan.batch);
                    let rows: Vec<_> = state.waiting.drain(..n).collect();
                    state.handed = n;
                    return Taken::Rows(rows);
                }
                _ if upkeep <= now => return Taken::Nothing,
                due => {
                    let until = due.map_or(upkeep, |d| d.min(upkeep));
                    let _ = self.shared.wake.wait_until(&mut state, until);
                }
            }
        }
    }

    /// Writes rows, or puts them back.
    fn write(&self, db: &mut dyn Database, taken: Vec<(Row, Instant)>) -> Result<(), StoreError> {
        let (rows, since): (Vec<Row>, Vec<Instant>) = taken.into_iter().unzip();
        let mut refused = None;
        let mut outcome = db.write(&rows);
        if let Err(StoreError::Refused(_)) = outcome {
            // Some row is to blame, and the others need not suffer for it.
            outcome = Ok(());
            for row in &rows {
                match db.write(std::slice::from_ref(row)) {
                    Ok(()) => {}
                    Err(StoreError::Refused(why)) => {
                        let (n, _) = refused.unwrap_or((0, String::new()));
                        refused = Some((n + 1, why));
                    }
                    Err(away) => {
                        outcome = Err(away);
                        break;
                    }
                }
            }
        }
        if outcome.is_ok() {
            self.shared.generation.fetch_add(1, Relaxed);
        }
        let mut state = self.shared.state.lock();
        state.handed = 0;
        match &outcome {
            Ok(()) => {
                if let Some((n, why)) = refused {
                    state.refused += n;
                    state.why_refused = why;
                }
                let told = state.told.clone();
                self.shared.changed.notify_all();
                drop(state);
                if let Some(told) = told {
                    let now = clock::now();
                    rows.iter().for_each(|r| told(now.saturating_sub(r.captured)));
                }
            }
            Err(_) => rows.into_iter().zip(since).rev().for_each(|row| state.waiting.push_front(row)),
        }
        outcome
    }

    /// The database failed: says so once and waits before the next attempt. False where the keeper closes.
    fn wait(&mut self, why: &str, backoff: Duration) -> bool {
        if self.said.as_deref() != Some(why) {
            tracing::warn!(sink = &*self.plan.sink, error = why, "the database failed; trying again");
            self.said = Some(why.to_owned());
        }
        let retry = Instant::now() + backoff;
        let mut state = self.shared.state.lock();
        state.trouble = Some(why.to_owned());
        self.shared.changed.notify_all();
        loop {
            let now = Instant::now();
            match state.close_by {
                Some(_) if state.waiting.is_empty() => return false,
                Some(by) if now >= by => return false,
                // Little time is left: the next attempt comes soon, or is the last.
                Some(_) if now + FIRST_BACKOFF >= retry => return true,
                Some(by) => {
                    let until = by.min(now + FIRST_BACKOFF);
                    let _ = self.shared.wake.wait_until(&mut state, until);
                    return Instant::now() < by;
                }
                None if now >= retry => return true,
                None => {
                    let _ = self.shared.wake.wait_until(&mut state, retry);
                }
            }
        }
    }
}

/// What the thread is to do next.
enum Taken {
    Rows(Vec<(Row, Instant)>),
    /// It is time to look at the limits.
    Nothing,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::record;
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// A database in memory that can be away, and refuses the stream `bad`.
    #[derive(Clone, Default)]
    struct Fake {
        away: Arc<AtomicBool>,
        rows: Arc<Mutex<Vec<Vec<i64>>>>,
    }

    impl Database for Fake {
        fn write(&mut self, rows: &[Row]) -> Result<(), StoreError> {
            if self.away.load(Relaxed) {
                return Err(StoreError::Away("unplugged".into()));
            }
            if rows.iter().any(|r| &*r.stream == "bad") {
                return Err(StoreError::Refused("no".into()));
            }
            self.rows.lock().push(rows.iter().map(|r| r.seq).collect());
            Ok(())
        }

        fn trim(&mut self, _: &Limits, _: i64) -> Result<usize, StoreError> {
            Ok(0)
        }
    }

    fn keeper(fake: &Fake, buffer: usize, every: Duration) -> Keeper {
        let again = fake.clone();
        let plan = Plan {
            connect: Box::new(move || Ok(Box::new(again.clone()))),
            database: None,
            batch: 4,
            every,
            buffer,
            patience: Duration::from_millis(200),
            limits: Limits::default(),
            sink: "s".into(),
        };
        Keeper::start(plan).unwrap()
    }

    fn row(stream: &str, n: u64) -> Row {
        Row::new(&record(stream, n, 0, &[], 1.0, 1.0))
    }

    fn stored(fake: &Fake) -> Vec<i64> {
        fake.rows.lock().iter().flatten().copied().collect()
    }

    #[test]
    fn rows_share_transactions_and_all_are_written_in_order() {
        let fake = Fake::default();
        let told = Arc::new(AtomicU64::new(0));
        let keeper = keeper(&fake, 100, Duration::from_secs(5));
        let count = told.clone();
        keeper.tell(Arc::new(move |_| {
            count.fetch_add(1, Relaxed);
        }));
        let before = keeper.generation().load(Relaxed);
        for n in 0..10 {
            keeper.put(row("a", n)).unwrap();
        }
        // Two whole batches do not wait for the rest; the end does not either.
        let begun = Instant::now();
        drop(keeper);
        assert!(begun.elapsed() < Duration::from_secs(4));
        assert_eq!(stored(&fake), (0..10).collect::<Vec<_>>());
        assert!(fake.rows.lock().iter().all(|batch| batch.len() <= 4));
        assert_eq!(told.load(Relaxed), 10);
        assert_eq!(before, 0);
    }

    #[test]
    fn what_waits_while_the_database_is_away_is_written_when_it_is_back() {
        let fake = Fake::default();
        fake.away.store(true, Relaxed);
        let keeper = keeper(&fake, 8, Duration::from_millis(1));
        for n in 0..8 {
            keeper.put(row("a", n)).unwrap();
        }
        // The buffer is full: what comes now is lost, and says so.
        let error = keeper.put(row("a", 8)).unwrap_err().to_string();
        assert!(error.contains("unplugged") && error.contains("8 results wait"), "{error}");
        assert!(keeper.flush().is_err());
        fake.away.store(false, Relaxed);
        let begun = Instant::now();
        while keeper.flush().is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(stored(&fake), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_row_that_is_refused_is_counted_and_the_others_are_written() {
        let fake = Fake::default();
        let keeper = keeper(&fake, 100, Duration::from_millis(50));
        let results: Vec<_> = (0..4).map(|n| keeper.put(row(if n == 2 { "bad" } else { "a" }, n))).collect();
        let flushed = keeper.flush();
        let errors = results.into_iter().chain([flushed]).filter_map(Result::err).collect::<Vec<_>>();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].to_string().contains("refused 1 result"), "{errors:?}");
        assert_eq!(stored(&fake), [0, 1, 3]);
    }

    #[test]
    fn an_end_with_the_database_away_does_not_hang() {
        let fake = Fake::default();
        fake.away.store(true, Relaxed);
        let keeper = keeper(&fake, 8, Duration::from_millis(1));
        keeper.put(row("a", 0)).unwrap();
        let begun = Instant::now();
        drop(keeper);
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(stored(&fake).is_empty());
    }
}

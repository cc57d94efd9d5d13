//! The store: results in a database, written in batches by one thread and read by a few others.
//!
//! A [`Row`] is a record on its way in. The [`Keeper`] holds what waits and writes it; a [`Database`] is one kind of
//! database behind it. An [`Archive`] answers each [`Query`]. Sinks of kind `store` have a keeper and an archive each.

mod archive;
mod fields;
mod keeper;
mod postgres;
mod query;
mod row;
mod sqlite;

pub use archive::{Answer, Archive, Archives, Asked, Encoding};
pub use fields::Fields;
pub use keeper::{Keeper, Plan};
pub use postgres::Postgres;
pub use query::{Filter, MOST, Mark, Query};
pub use row::Row;
pub use sqlite::Sqlite;

use crate::cache::Cache;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use std::time::Duration;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database is not there, or not now; the same again may succeed.
    #[error("{0}")]
    Away(String),
    /// The database is there and will not take this.
    #[error("{0}")]
    Refused(String),
}

/// What is kept of a store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Results captured longer ago are deleted.
    pub keep: Option<Duration>,
    /// Bytes that the database may take; beyond them the oldest results are deleted.
    pub max_size: Option<u64>,
}

/// Where a store is.
#[derive(Clone)]
pub enum Place {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres(Box<::postgres::Config>),
}

impl Place {
    /// Reads a PostgreSQL address, `postgres://USER:PASSWORD@HOST[:PORT]/DATABASE`; a password given apart replaces
    /// the address's.
    ///
    /// # Errors
    /// What is wrong with it, without its secrets.
    pub fn postgres(url: &str, password: Option<&str>) -> Result<Self, String> {
        postgres::address(url, password).map(|config| Self::Postgres(Box::new(config)))
    }

    /// The writing connection; makes tables where there are none.
    ///
    /// # Errors
    /// The database cannot be used, is away, or was made by a newer version.
    pub fn open(&self) -> Result<Box<dyn Database>, StoreError> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(Sqlite::open(path)?),
            Self::Postgres(config) => Box::new(Postgres::open(config)?),
        })
    }

    /// Starts threads that answer questions. `generation` grows with what is written; answers go through the cache.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn archive(&self, generation: Arc<AtomicU64>, cache: Arc<Cache>) -> std::io::Result<Archive> {
        let place = self.clone();
        let open = move || -> Result<Box<dyn query::Reading>, StoreError> {
            Ok(match &place {
                Self::Sqlite(path) => Box::new(sqlite::Reader::open(path)?),
                Self::Postgres(config) => Box::new(postgres::Reader::open(config)?),
            })
        };
        let name = match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(c) => format!("{:?} {:?} {:?}", c.get_hosts(), c.get_ports(), c.get_dbname()),
        };
        let open: archive::Open = Arc::new(open);
        Archive::start(name, &open, generation, cache)
    }
}

/// A database as its writer sees it.
pub trait Database: Send {
    /// Writes these rows in one transaction. A row whose run, stream and number are there already is left out.
    ///
    /// # Errors
    /// None of the rows was written.
    fn write(&mut self, rows: &[Row]) -> Result<(), StoreError>;

    /// Deletes a few of the oldest results beyond the limits, so that writing never waits long. `now` is in
    /// microseconds since 1970. Says how many were deleted: 0 where nothing is beyond them.
    ///
    /// # Errors
    /// Nothing was deleted.
    fn trim(&mut self, limits: &Limits, now: i64) -> Result<usize, StoreError>;
}

/// Results that one step of [`Database::trim`] deletes at most.
const STEP: usize = 500;

/// The oldest time that is kept, microseconds since 1970.
fn oldest(keep: Duration, now: i64) -> i64 {
    now.saturating_sub(i64::try_from(keep.as_micros()).unwrap_or(i64::MAX))
}

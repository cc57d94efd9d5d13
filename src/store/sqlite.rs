//! Results in an SQLite file.

mod reading;

pub(super) use reading::Reader;

use super::{Database, Limits, Row, STEP, StoreError, oldest};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::time::Duration;

/// How a file comes to be as this program wants it, step by step. What has been released is never changed.
const MIGRATIONS: &[&str] = &[
    // 1: results.
    "CREATE TABLE results (
         id INTEGER PRIMARY KEY AUTOINCREMENT,
         run INTEGER NOT NULL,
         pipeline TEXT NOT NULL,
         stream TEXT NOT NULL,
         seq INTEGER NOT NULL,
         time INTEGER NOT NULL,
         delivered INTEGER NOT NULL,
         on_time INTEGER NOT NULL,
         rung TEXT NOT NULL,
         frequency REAL,
         confidence REAL,
         latitude REAL,
         longitude REAL,
         record TEXT NOT NULL,
         UNIQUE (run, stream, seq)
     ) STRICT;
     CREATE INDEX results_by_time ON results (time, id, frequency, confidence);
     CREATE INDEX results_by_stream ON results (stream, time, id, frequency, confidence);",
    // 2: by station, frequency and confidence.
    "CREATE TABLE heard (
         station TEXT NOT NULL,
         time INTEGER NOT NULL,
         result INTEGER NOT NULL REFERENCES results (id) ON DELETE CASCADE,
         PRIMARY KEY (station, time, result)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX heard_by_result ON heard (result);
     CREATE INDEX results_by_frequency ON results (frequency, time, id) WHERE frequency IS NOT NULL;
     CREATE INDEX results_by_confidence ON results (confidence, time, id) WHERE confidence IS NOT NULL;
     INSERT OR IGNORE INTO heard (station, time, result)
         SELECT s.value, r.time, r.id FROM results r, json_each(r.record, '$.location.stations') s
         WHERE s.type = 'text';
     INSERT OR IGNORE INTO heard (station, time, result)
         SELECT s.value, r.time, r.id FROM results r, json_each(r.record, '$.stations.present') s
         WHERE s.type = 'text';",
];

/// How long a connection waits for another program's transaction.
const BUSY: Duration = Duration::from_secs(2);

/// The writing connection to an SQLite file.
pub struct Sqlite(Connection);

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
        match error.sqlite_error_code() {
            Some(ConstraintViolation | TooBig | TypeMismatch) => Self::Refused(error.to_string()),
            _ => Self::Away(error.to_string()),
        }
    }
}

impl Sqlite {
    /// Opens a file, makes it where there is none, and brings it to the present form.
    ///
    /// # Errors
    /// The file cannot be used, is no database, or was made by a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_to(path, MIGRATIONS)
    }

    fn open_to(path: &Path, migrations: &[&str]) -> Result<Self, StoreError> {
        let named = |e: StoreError| match e {
            StoreError::Away(e) => StoreError::Away(format!("{}: {e}", path.display())),
            StoreError::Refused(e) => StoreError::Refused(format!("{}: {e}", path.display())),
        };
        (|| -> Result<Self, StoreError> {
            let mut connection = Connection::open_with_flags(
                path,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?;
            connection.busy_timeout(BUSY)?;
            // Before the first table: pages of deleted results go back to the system a few at a time.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            // Readers never wait for the writer. A crash of the program loses nothing that was committed, a crash of
            // the machine at most the last moments.
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
            migrate(&mut connection, migrations)?;
            Ok(Self(connection))
        })()
        .map_err(named)
    }

    /// Bytes in use.
    fn size(&self) -> Result<u64, StoreError> {
        let pragma = |name| self.0.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
    }
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    // Two programs may open a new file at once: the second waits here, and finds it made.
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    change.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_versions (
             version INTEGER PRIMARY KEY,
             applied TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
         ) STRICT;",
    )?;
    let have: i64 = change.query_row("SELECT coalesce(max(version), 0) FROM schema_versions", [], |row| row.get(0))?;
    let have = usize::try_from(have).unwrap_or(0);
    if have > MIGRATIONS.len() {
        return Err(StoreError::Refused(format!(
            "was made by a newer framegate (version {have} of the tables; this one knows {})",
            MIGRATIONS.len()
        )));
    }
    for (n, step) in migrations.iter().enumerate().skip(have) {
        change.execute_batch(step)?;
        change.execute("INSERT INTO schema_versions (version) VALUES (?1)", [n as i64 + 1])?;
    }
    Ok(change.commit()?)
}

fn insert(change: &Transaction<'_>, rows: &[Row]) -> Result<(), StoreError> {
    let mut result = change.prepare_cached(
        "INSERT INTO results (run, pipeline, stream, seq, time, delivered, on_time, rung, frequency, confidence,
             latitude, longitude, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (run, stream, seq) DO NOTHING",
    )?;
    let mut heard = change.prepare_cached("INSERT OR IGNORE INTO heard (station, time, result) VALUES (?1, ?2, ?3)")?;
    for r in rows {
        let new = result.execute(params![
            r.run,
            &*r.pipeline,
            &*r.stream,
            r.seq,
            r.time,
            r.delivered,
            r.on_time,
            &*r.rung,
            r.frequency,
            r.confidence,
            r.position.map(|p| p.0),
            r.position.map(|p| p.1),
            r.record,
        ])?;
        if new == 1 {
            let id = change.last_insert_rowid();
            for station in &r.stations {
                heard.execute(params![station, r.time, id])?;
            }
        }
    }
    Ok(())
}

impl Database for Sqlite {
    fn write(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let change = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        insert(&change, rows)?;
        Ok(change.commit()?)
    }

    fn trim(&mut self, limits: &Limits, now: i64) -> Result<usize, StoreError> {
        let mut deleted = 0;
        if let Some(keep) = limits.keep {
            deleted += self
                .0
                .prepare_cached(
                    "DELETE FROM results WHERE id IN (SELECT id FROM results WHERE time < ?1 ORDER BY time LIMIT ?2)",
                )?
                .execute(params![oldest(keep, now), STEP as i64])?;
        }
        if let Some(most) = limits.max_size
            && deleted == 0
            && self.size()? > most
        {
            deleted += self
                .0
                .prepare_cached("DELETE FROM results WHERE id IN (SELECT id FROM results ORDER BY time, id LIMIT ?1)")?
                .execute([STEP as i64])?;
        }
        if deleted > 0 {
            // Gives rows as it goes, one for each page.
            let mut vacuum = self.0.prepare_cached("PRAGMA incremental_vacuum(256)")?;
            let mut pages = vacuum.query([])?;
            while pages.next()?.is_some() {}
        }
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::record;
    use super::*;
    use crate::frame::clock::SECOND;

    fn rows(from: u64, to: u64) -> Vec<Row> {
        (from..to).map(|n| Row::new(&record("air", n, (1000 - n) * SECOND, &["north", "south"], 1e6, 0.5))).collect()
    }

    fn count(db: &Sqlite, what: &str) -> i64 {
        db.0.query_row(&format!("SELECT count(*) FROM {what}"), [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn a_record_written_twice_is_one_row() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Sqlite::open(&dir.path().join("a.db")).unwrap();
        db.write(&rows(0, 10)).unwrap();
        db.write(&rows(5, 15)).unwrap();
        assert_eq!((count(&db, "results"), count(&db, "heard")), (15, 30));
    }

    #[test]
    fn a_file_of_version_1_is_brought_up_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.db");
        {
            let db = Sqlite::open_to(&path, &MIGRATIONS[..1]).unwrap();
            let old = &rows(3, 4)[0];
            db.0.execute(
                "INSERT INTO results (run, pipeline, stream, seq, time, delivered, on_time, rung, record)
                 VALUES (1, 'field', 'air', 3, 42, 43, 1, 'full', ?1)",
                [&old.record],
            )
            .unwrap();
            assert_eq!(count(&db, "schema_versions"), 1);
        }
        let db = Sqlite::open(&path).unwrap();
        assert_eq!((count(&db, "schema_versions"), count(&db, "results")), (MIGRATIONS.len() as i64, 1));
        assert_eq!(count(&db, "heard WHERE station = 'south' AND time = 42"), 1);
    }

    #[test]
    fn a_file_of_a_newer_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.db");
        Sqlite::open(&path).unwrap().0.execute("INSERT INTO schema_versions (version) VALUES (99)", []).unwrap();
        let error = Sqlite::open(&path).err().unwrap().to_string();
        assert!(error.contains("newer framegate") && error.contains("99"), "{error}");
    }

    #[test]
    fn what_is_no_database_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        std::fs::write(&path, "nothing of a database in here, but long enough to be looked at".repeat(40)).unwrap();
        assert!(Sqlite::open(&path).is_err_and(|e| e.to_string().contains("notes.txt")));
        assert!(Sqlite::open(&dir.path().join("no/such/folder.db")).is_err());
    }

    #[test]
    fn results_beyond_the_age_go_in_small_steps_with_what_belongs_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Sqlite::open(&dir.path().join("a.db")).unwrap();
        let all = rows(0, 900);
        db.write(&all).unwrap();
        // Everything older than the row in the middle.
        let limits = Limits { keep: Some(Duration::from_secs(100)), max_size: None };
        let now = all[800].time + 100_000_000;
        assert_eq!(db.trim(&limits, now).unwrap(), STEP);
        assert_eq!(db.trim(&limits, now).unwrap(), 300);
        assert_eq!(db.trim(&limits, now).unwrap(), 0);
        assert_eq!((count(&db, "results"), count(&db, "heard")), (100, 200));
        assert_eq!(count(&db, "results WHERE seq < 800"), 0);
    }

    #[test]
    fn the_oldest_results_go_until_the_size_is_kept_and_the_file_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let mut db = Sqlite::open(&path).unwrap();
        db.write(&rows(0, 1000)).unwrap();
        db.write(&(1000..6000).map(|n| Row::new(&record("sea", n, 0, &["north"], 1e6, 0.5))).collect::<Vec<_>>())
            .unwrap();
        let before = db.size().unwrap();
        let limits = Limits { keep: None, max_size: Some(before / 2) };
        let mut steps = 0;
        while db.trim(&limits, 0).unwrap() > 0 {
            steps += 1;
            assert!(steps < 20, "no end");
        }
        assert!(db.size().unwrap() <= before / 2);
        assert_eq!(count(&db, "results WHERE stream = 'air'"), 0);
        assert!(count(&db, "results") > 1000);
        db.0.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < before * 3 / 4);
    }
}

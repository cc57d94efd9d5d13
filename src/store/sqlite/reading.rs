//! Questions to an SQLite file.

use crate::store::StoreError;
use crate::store::query::{Mark, Query, Reading, Statement, Value, Way};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Row, ToSql, params_from_iter};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a question may take.
const LONGEST: Duration = Duration::from_secs(5);
/// Steps of the database's machine between two looks at the clock.
const STEPS: i32 = 10_000;
/// Fewer results than this are found and sorted more quickly than a walk through time meets them.
const FEW: i64 = 2000;

/// A reading connection.
pub struct Reader(Connection);

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(n) => ValueRef::Integer(*n),
            Self::Real(x) => ValueRef::Real(*x),
            Self::Text(t) => ValueRef::Text(t.as_bytes()),
        }))
    }
}

impl Reader {
    /// Opens a file that is there.
    ///
    /// # Errors
    /// It is not, or is no database.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(1))?;
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "mmap_size", 256 << 20)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self(connection))
    }

    fn run(
        &self,
        statement: &Statement,
        mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let mut prepared = self.0.prepare_cached(&statement.text)?;
        let mut rows = prepared.query(params_from_iter(&statement.values))?;
        while let Some(row) = rows.next()? {
            each(row)?;
        }
        Ok(())
    }

    /// The shortest way to the results: through time, or by another column where few have such values in it.
    fn way(&self, query: &Query) -> Result<Way, StoreError> {
        let f = &query.filter;
        if f.station.is_some() {
            return Ok(Way::Time);
        }
        let frequency = f.min_frequency.or(f.max_frequency).is_some();
        let range = (f.min_frequency.unwrap_or(0.0), f.max_frequency.unwrap_or(f64::MAX));
        for (asked, way, column, (low, high)) in [
            (frequency, Way::Frequency, "frequency", range),
            (f.min_confidence.is_some(), Way::Confidence, "confidence", (f.min_confidence.unwrap_or(0.0), f64::MAX)),
        ] {
            if !asked {
                continue;
            }
            let text = format!(
                "SELECT count(*) FROM (SELECT 1 FROM results WHERE {column} >= $1 AND {column} <= $2 LIMIT $3)"
            );
            let values = vec![Value::Real(low), Value::Real(high), Value::Int(FEW)];
            let mut found = FEW;
            self.run(&Statement { text, values }, |row| {
                found = row.get(0)?;
                Ok(())
            })?;
            if found < FEW {
                return Ok(way);
            }
        }
        Ok(Way::Time)
    }
}

impl Reading for Reader {
    fn read(&mut self, query: &Query, each: &mut dyn FnMut(Mark, &str)) -> Result<(), StoreError> {
        let end = Instant::now() + LONGEST;
        self.0.progress_handler(STEPS, Some(move || Instant::now() > end))?;
        let statement = query.statement(self.way(query)?);
        self.run(&statement, |row| {
            let record = row.get_ref(2)?.as_str()?;
            each(Mark { id: row.get(0)?, time: row.get(1)? }, record);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::SECOND;
    use crate::store::row::tests::record;
    use crate::store::{Database, Filter, Row as Stored, Sqlite};

    /// 300 results of three streams, a second apart, the first half heard in the north, the second in the south.
    fn filled() -> (tempfile::TempDir, Reader, Vec<Stored>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let mut db = Sqlite::open(&path).unwrap();
        let rows: Vec<_> = (0..300u64)
            .map(|n| {
                let stream = ["air", "sea", "land"][n as usize % 3];
                let stations: &[&str] = if n < 150 { &["north"] } else { &["south"] };
                // Some are captured at the same moment.
                let age = (300 - n / 2 * 2) * SECOND;
                let mut row = Stored::new(&record(stream, n, 0, stations, 1e6 * n as f64, n as f64 / 300.0));
                row.time -= (age / 1000) as i64;
                row.time = row.time / 1_000_000 * 1_000_000;
                row
            })
            .collect();
        db.write(&rows).unwrap();
        let reader = Reader::open(&path).unwrap();
        (dir, reader, rows)
    }

    fn seq(record: &str) -> u64 {
        serde_json::from_str::<serde_json::Value>(record).unwrap()["seq"].as_u64().unwrap()
    }

    /// All pages of a question, by their marks.
    fn all(reader: &mut Reader, filter: Filter, newest: bool, limit: usize) -> Vec<u64> {
        let mut query = Query { filter, newest, after: None, limit, fields: None };
        let mut out = Vec::new();
        loop {
            let mut page = Vec::new();
            reader.read(&query, &mut |mark, record| page.push((mark, seq(record)))).unwrap();
            let more = page.len() > limit;
            page.truncate(limit);
            query.after = page.last().map(|p| p.0);
            out.extend(page.iter().map(|p| p.1));
            if !more {
                return out;
            }
        }
    }

    #[test]
    fn pages_follow_each_other_without_a_gap_or_a_result_twice() {
        let (_dir, mut reader, _) = filled();
        let newest = all(&mut reader, Filter::default(), true, 7);
        assert_eq!(newest, (0..300).rev().collect::<Vec<_>>());
        assert_eq!(all(&mut reader, Filter::default(), false, 100), (0..300).collect::<Vec<_>>());
        let air = Filter { stream: Some("air".into()), ..Filter::default() };
        assert_eq!(all(&mut reader, air, false, 9), (0..300).step_by(3).collect::<Vec<_>>());
        let north = Filter { station: Some("north".into()), ..Filter::default() };
        assert_eq!(all(&mut reader, north, true, 11), (0..150).rev().collect::<Vec<_>>());
    }

    #[test]
    fn conditions_hold_together() {
        let (_dir, mut reader, rows) = filled();
        let filter = Filter {
            stream: Some("sea".into()),
            from: Some(rows[20].time),
            to: Some(rows[200].time),
            station: Some("north".into()),
            min_frequency: Some(30e6),
            max_frequency: Some(120e6),
            min_confidence: Some(0.25),
        };
        let expected: Vec<u64> = (75..=120).filter(|n| n % 3 == 1).collect();
        assert_eq!(all(&mut reader, filter.clone(), false, 4), expected);
        // By frequency first, which few results have, and the same by time.
        let by_frequency = Filter { station: None, ..filter };
        assert_eq!(all(&mut reader, by_frequency, false, 4), expected);
    }

    #[test]
    fn every_question_finds_its_index() {
        let (_dir, reader, _) = filled();
        let both = || Filter { min_frequency: Some(5.0), min_confidence: Some(0.5), ..Filter::default() };
        let plan = |filter: Filter, way: Way| {
            let mark = Some(Mark { time: 5, id: 5 });
            let query = Query { filter, newest: true, after: mark, limit: 10, fields: None };
            let s = query.statement(way);
            let text = format!("EXPLAIN QUERY PLAN {}", s.text);
            let mut lines = Vec::new();
            reader
                .run(&Statement { text, values: s.values }, |row| {
                    lines.push(row.get::<_, String>(3)?);
                    Ok(())
                })
                .unwrap();
            lines.join("; ")
        };
        for (filter, way, index, sorted) in [
            (Filter::default(), Way::Time, "SEARCH r USING INDEX results_by_time", false),
            (Filter { stream: Some("a".into()), ..both() }, Way::Time, "results_by_stream (stream=? AND", false),
            (both(), Way::Time, "SEARCH r USING INDEX results_by_time", false),
            (Filter { station: Some("n".into()), ..both() }, Way::Time, "PRIMARY KEY (station=? AND", false),
            (both(), Way::Frequency, "results_by_frequency (frequency>?)", true),
            (both(), Way::Confidence, "results_by_confidence (confidence>?)", true),
        ] {
            let plan = plan(filter.clone(), way);
            assert!(plan.contains(index), "{filter:?}: {plan}");
            assert_eq!(plan.contains("TEMP B-TREE"), sorted, "{filter:?}: {plan}");
        }
    }
}

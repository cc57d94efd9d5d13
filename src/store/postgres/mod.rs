//! Results in a PostgreSQL database.

mod reading;

pub(super) use reading::Reader;

use super::{Database, Limits, Row, STEP, StoreError, oldest};
use ::postgres::{Client, Config, NoTls};
use std::time::Duration;

/// How a database comes to be as this program wants it, step by step. What has been released is never changed. The two
/// steps correspond to those of SQLite files.
const MIGRATIONS: &[&str] = &[
    // 1: results.
    "CREATE TABLE results (
         id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
         run bigint NOT NULL,
         pipeline text NOT NULL,
         stream text NOT NULL,
         seq bigint NOT NULL,
         time bigint NOT NULL,
         delivered bigint NOT NULL,
         on_time boolean NOT NULL,
         rung text NOT NULL,
         frequency double precision,
         confidence double precision,
         latitude double precision,
         longitude double precision,
         record text NOT NULL,
         UNIQUE (run, stream, seq)
     );
     CREATE INDEX results_by_time ON results (time, id) INCLUDE (frequency, confidence);
     CREATE INDEX results_by_stream ON results (stream, time, id) INCLUDE (frequency, confidence);",
    // 2: by station, frequency and confidence; how much there is.
    "CREATE TABLE heard (
         station text NOT NULL,
         time bigint NOT NULL,
         result bigint NOT NULL REFERENCES results (id) ON DELETE CASCADE,
         PRIMARY KEY (station, time, result)
     );
     CREATE INDEX heard_by_result ON heard (result);
     CREATE INDEX results_by_frequency ON results (frequency, time, id) WHERE frequency IS NOT NULL;
     CREATE INDEX results_by_confidence ON results (confidence, time, id) WHERE confidence IS NOT NULL;
     CREATE TABLE amount (bytes bigint NOT NULL);
     INSERT INTO amount SELECT coalesce(sum(octet_length(record) + 512), 0) FROM results;
     INSERT INTO heard (station, time, result)
         SELECT DISTINCT s.name #>> '{}', r.time, r.id
         FROM results r CROSS JOIN LATERAL (
             SELECT jsonb_path_query(r.record::jsonb, '$.location.stations[*]') AS name
             UNION ALL
             SELECT jsonb_path_query(r.record::jsonb, '$.stations.present[*]')
         ) s
         WHERE jsonb_typeof(s.name) = 'string';",
];

/// What a row takes beside its record, about: columns, its part of the indexes.
const OVERHEAD: i64 = 512;
/// The number that programs which change the tables wait for each other with.
const LOCK: i64 = 0x6672_616d_6567_6174;
/// Longest wait for a connection.
const PATIENCE: Duration = Duration::from_secs(3);

impl From<::postgres::Error> for StoreError {
    fn from(error: ::postgres::Error) -> Self {
        // Classes 22 and 23: the values themselves are wrong.
        let values = error.code().is_some_and(|c| c.code().starts_with("22") || c.code().starts_with("23"));
        // What the library says of an error of the server is "db error"; the server's own words say more.
        let text = match error.as_db_error() {
            Some(db) => format!("{} ({})", db.message(), db.code().code()),
            None => match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        };
        if values { Self::Refused(text) } else { Self::Away(text) }
    }
}

/// Reads an address, `postgres://USER:PASSWORD@HOST[:PORT]/DATABASE`.
///
/// # Errors
/// What is wrong with it, without its secrets.
pub(super) fn address(url: &str, password: Option<&str>) -> Result<Config, String> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err("is no address of a PostgreSQL database".to_owned());
    }
    let mut config: Config = url.parse().map_err(|_| "is no address of a PostgreSQL database".to_owned())?;
    if config.get_hosts().is_empty() {
        return Err("names no host".to_owned());
    }
    if let Some(password) = password {
        config.password(password);
    }
    config.application_name("framegate").connect_timeout(PATIENCE).keepalives_idle(Duration::from_secs(10));
    config.tcp_user_timeout(Duration::from_secs(5));
    Ok(config)
}

/// Connects, with a limit to what a statement may take.
fn connect(config: &Config, longest: Duration) -> Result<Client, StoreError> {
    let mut client = config.connect(NoTls)?;
    client.batch_execute(&format!("SET statement_timeout = {}", longest.as_millis()))?;
    Ok(client)
}

/// The writing connection to a PostgreSQL database.
pub struct Postgres(Client);

impl Postgres {
    /// Connects, and brings the tables to the present form.
    ///
    /// # Errors
    /// The server is away, refuses, or the tables were made by a newer version.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        Self::open_to(config, MIGRATIONS)
    }

    fn open_to(config: &Config, migrations: &[&str]) -> Result<Self, StoreError> {
        let mut client = connect(config, Duration::from_secs(30))?;
        let mut change = client.transaction()?;
        change.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
        change.batch_execute(
            "SET LOCAL client_min_messages = warning;
             CREATE TABLE IF NOT EXISTS schema_versions (
                 version integer PRIMARY KEY,
                 applied timestamptz NOT NULL DEFAULT now()
             );",
        )?;
        let have: i32 = change.query_one("SELECT coalesce(max(version), 0) FROM schema_versions", &[])?.try_get(0)?;
        let have = usize::try_from(have).unwrap_or(0);
        if have > MIGRATIONS.len() {
            return Err(StoreError::Refused(format!(
                "the tables were made by a newer framegate (version {have}; this one knows {})",
                MIGRATIONS.len()
            )));
        }
        for (n, step) in migrations.iter().enumerate().skip(have) {
            change.batch_execute(step)?;
            change.execute("INSERT INTO schema_versions (version) VALUES ($1)", &[&(n as i32 + 1)])?;
        }
        change.commit()?;
        Ok(Self(client))
    }
}

/// All rows of a batch, and their stations, in one statement.
const INSERT: &str = "
    WITH new AS (
        INSERT INTO results (run, pipeline, stream, seq, time, delivered, on_time, rung, frequency, confidence,
            latitude, longitude, record)
        SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::boolean[], $8::text[], $9::double precision[], $10::double precision[], $11::double precision[],
            $12::double precision[], $13::text[])
        ON CONFLICT (run, stream, seq) DO NOTHING
        RETURNING id, run, stream, seq, time, octet_length(record) AS bytes
    ), stations AS (
        INSERT INTO heard (station, time, result)
        SELECT s.station, new.time, new.id
        FROM new JOIN unnest($14::bigint[], $15::text[], $16::bigint[], $17::text[]) AS s (run, stream, seq, station)
            USING (run, stream, seq)
    )
    UPDATE amount SET bytes = amount.bytes + coalesce((SELECT sum(new.bytes + $18::bigint) FROM new), 0)::bigint";

/// Deletes the rows that a query names, and what they take.
fn delete(which: &str) -> String {
    format!(
        "WITH gone AS (
             DELETE FROM results WHERE id IN ({which}) RETURNING octet_length(record) AS bytes
         ), less AS (
             UPDATE amount SET bytes = greatest(0, amount.bytes
                 - coalesce((SELECT sum(gone.bytes + $1::bigint) FROM gone), 0)::bigint)
         )
         SELECT count(*) FROM gone"
    )
}

impl Database for Postgres {
    fn write(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        fn all<'r, T>(rows: &'r [Row], one: impl Fn(&'r Row) -> T) -> Vec<T> {
            rows.iter().map(one).collect()
        }
        // One statement changes each row once: two of the same key would be an error.
        let mut seen = std::collections::HashSet::new();
        let rows: Vec<Row> = rows.iter().filter(|r| seen.insert((r.run, r.stream.clone(), r.seq))).cloned().collect();
        let heard: Vec<(&Row, &str)> =
            rows.iter().flat_map(|r| r.stations.iter().map(move |s| (r, s.as_str()))).collect();
        let rows = &rows[..];
        self.0.execute(
            INSERT,
            &[
                &all(rows, |r| r.run),
                &all(rows, |r| &*r.pipeline),
                &all(rows, |r| &*r.stream),
                &all(rows, |r| r.seq),
                &all(rows, |r| r.time),
                &all(rows, |r| r.delivered),
                &all(rows, |r| r.on_time),
                &all(rows, |r| &*r.rung),
                &all(rows, |r| r.frequency),
                &all(rows, |r| r.confidence),
                &all(rows, |r| r.position.map(|p| p.0)),
                &all(rows, |r| r.position.map(|p| p.1)),
                &all(rows, |r| r.record.as_str()),
                &heard.iter().map(|(r, _)| r.run).collect::<Vec<_>>(),
                &heard.iter().map(|(r, _)| &*r.stream).collect::<Vec<_>>(),
                &heard.iter().map(|(r, _)| r.seq).collect::<Vec<_>>(),
                &heard.iter().map(|(_, s)| *s).collect::<Vec<_>>(),
                &OVERHEAD,
            ],
        )?;
        Ok(())
    }

    fn trim(&mut self, limits: &Limits, now: i64) -> Result<usize, StoreError> {
        let step = STEP as i64;
        let mut deleted: i64 = 0;
        if let Some(keep) = limits.keep {
            let which = "SELECT id FROM results WHERE time < $2 ORDER BY time LIMIT $3";
            let row = self.0.query_one(&delete(which), &[&OVERHEAD, &oldest(keep, now), &step])?;
            deleted += row.try_get::<_, i64>(0)?;
        }
        if let Some(most) = limits.max_size
            && deleted == 0
        {
            let bytes: i64 = self.0.query_one("SELECT bytes FROM amount", &[])?.try_get(0)?;
            if u64::try_from(bytes).is_ok_and(|bytes| bytes > most) {
                let which = "SELECT id FROM results ORDER BY time, id LIMIT $2";
                deleted += self.0.query_one(&delete(which), &[&OVERHEAD, &step])?.try_get::<_, i64>(0)?;
            }
        }
        Ok(usize::try_from(deleted).unwrap_or(0))
    }
}

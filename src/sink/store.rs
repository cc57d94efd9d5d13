//! `store`: results in a database.

use super::units::{Bytes, Secret, Span};
use super::{Sink, SinkConfig, SinkError};
use crate::config::redact;
use crate::frame::{Nanos, Record};
use crate::issue::Issue;
use crate::stage::BuildContext;
use crate::store::{Archive, Keeper, Limits, Place, Plan, Row};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `kind = "store"`: keeps every result in a database, where `GET /api/v1/results` finds it.
///
/// Results are written in batches by a thread of its own. A database that fails is tried again; up to `buffer` results
/// wait for it, and what comes beyond that is lost and counted. There is one row for each frame of a stream: of a frame
/// that comes over several branches the first result is kept.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file, relative to the working directory; made where there is none. Default `"results.db"`.
    #[serde(default)]
    path: Option<PathBuf>,
    /// A PostgreSQL database instead: `"postgres://USER@HOST[:5432]/DATABASE"`. Its tables are made where there are
    /// none. It may be away when the pipeline starts.
    #[serde(default)]
    url: Option<Url>,
    /// Password for `url`; better from the environment: `"${PGPASSWORD}"`. Default: none.
    #[serde(default)]
    password: Option<Secret>,
    /// Results captured longer ago are deleted: `"7d"`. Default: never.
    #[serde(default)]
    keep: Option<Span>,
    /// Bytes that the database may take: `"2GiB"`. Beyond them the oldest results are deleted. In PostgreSQL, which
    /// gives room back when it likes, the results themselves are counted. 1 MiB or more. Default: no limit.
    #[serde(default)]
    max_size: Option<Bytes>,
    /// Results that are written at once, 1 to 10000. Default 500.
    #[serde(default = "five_hundred")]
    batch: usize,
    /// How long a result waits for others to be written with, 10 s at most. Default `"10ms"`.
    #[serde(default = "ten_milliseconds")]
    every: Span,
    /// Results that wait, at most, while the database is away or slow. Default 10000.
    #[serde(default = "ten_thousand")]
    buffer: usize,
    /// Longest wait for room in the buffer while the database is away, and for the last results at the end. Default
    /// `"500ms"`.
    #[serde(default = "half_a_second")]
    patience: Span,
}

/// An address that shows without its secrets.
#[derive(Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
struct Url(String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

fn five_hundred() -> usize {
    500
}
fn ten_thousand() -> usize {
    10_000
}
fn ten_milliseconds() -> Span {
    Span(Duration::from_millis(10))
}
fn half_a_second() -> Span {
    Span(Duration::from_millis(500))
}

/// A smaller database would hold hardly more than its tables.
const LEAST_SIZE: u64 = 1 << 20;

impl StoreConfig {
    fn file(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("results.db"))
    }

    fn place(&self) -> Result<Place, String> {
        match &self.url {
            Some(url) => Place::postgres(&url.0, self.password.as_ref().map(|p| &*p.0)),
            None => std::path::absolute(self.file())
                .map(Place::Sqlite)
                .map_err(|e| format!("{}: {e}", self.file().display())),
        }
    }
}

impl SinkConfig for StoreConfig {
    fn check(&self, _context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        let file = self.file();
        if let Some(Url(url)) = &self.url {
            match self.place() {
                Err(e) => {
                    issues.push(Issue::error("url", e).help("write it like \"postgres://user@127.0.0.1/framegate\""));
                }
                Ok(Place::Postgres(config)) => issues.extend(encryption(url, &config)),
                Ok(Place::Sqlite(_)) => {}
            }
            if self.path.is_some() {
                issues.push(Issue::error("path", "is not used beside `url`").help("remove one of the two"));
            }
        } else if self.password.is_some() {
            issues.push(Issue::error("password", "without `url`: an SQLite file has none"));
        } else if file.as_os_str().is_empty() || file.is_dir() {
            issues.push(Issue::error("path", "names no file").help("name a file, such as \"results.db\""));
        } else if let Some(folder) = file.parent().filter(|f| *f != Path::new("") && !f.is_dir()) {
            issues.push(
                Issue::error("path", format!("there is no folder `{}`", folder.display()))
                    .help("make it, or name a file in one that exists"),
            );
        }
        if self.max_size.is_some_and(|b| b.0 < LEAST_SIZE) {
            issues.push(Issue::error("max_size", "is less than 1 MiB"));
        }
        if !(1..=10_000).contains(&self.batch) {
            issues.push(Issue::error("batch", format!("{} results at once: give 1 to 10000", self.batch)));
        }
        if self.every.0 > Duration::from_secs(10) {
            issues.push(Issue::error("every", "is longer than 10 s"));
        }
        if self.buffer < self.batch {
            issues.push(
                Issue::error("buffer", format!("{} results are fewer than a `batch` of {}", self.buffer, self.batch))
                    .help("give at least as many as are written at once"),
            );
        }
        issues
    }

    fn open(&self, context: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        let place = self.place().map_err(SinkError)?;
        let database = match place {
            // A file that cannot be used will not become usable; a server may come back.
            Place::Sqlite(_) => Some(place.open().map_err(|e| SinkError(e.to_string()))?),
            Place::Postgres(_) => None,
        };
        let again = place.clone();
        let keeper = Keeper::start(Plan {
            connect: Box::new(move || again.open()),
            database,
            batch: self.batch,
            every: self.every.0,
            buffer: self.buffer,
            patience: self.patience.0,
            limits: Limits { keep: self.keep.map(|k| k.0), max_size: self.max_size.map(|b| b.0) },
            sink: context.id.clone(),
        });
        let no_thread = |e| SinkError(format!("no thread for the database: {e}"));
        let keeper = keeper.map_err(no_thread)?;
        let archive = place.archive(keeper.generation(), context.cache.clone()).map_err(no_thread)?;
        Ok(Box::new(StoreSink { keeper, archive: Arc::new(archive) }))
    }
}

/// What is said of a connection that everybody on the way can read.
fn encryption(url: &str, config: &postgres::Config) -> Option<Issue> {
    use postgres::config::{Host, SslMode};
    if config.get_ssl_mode() == SslMode::Require {
        return Some(
            Issue::error("url", "TLS is not offered")
                .help("remove `sslmode`, and keep the database on this machine or behind a tunnel"),
        );
    }
    let local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    };
    let far = config.get_password().is_some() && !config.get_hosts().iter().all(local);
    far.then(|| Issue::warning("url", format!("the password for {} travels unencrypted", redact(url))))
}

struct StoreSink {
    keeper: Keeper,
    archive: Arc<Archive>,
}

impl Sink for StoreSink {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        self.keeper.put(Row::new(record)).map_err(|e| SinkError(e.to_string()))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.keeper.flush().map_err(|e| SinkError(e.to_string()))
    }

    fn on_stored(&mut self, told: Arc<dyn Fn(Nanos) + Send + Sync>) {
        self.keeper.tell(told);
    }

    fn archive(&self) -> Option<Arc<Archive>> {
        Some(self.archive.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issues(text: &str) -> Vec<String> {
        let config: StoreConfig = toml::from_str(text).unwrap();
        config.check(&BuildContext::default()).into_iter().map(|i| i.key).collect()
    }

    #[test]
    fn a_plain_configuration_has_no_issues() {
        assert_eq!(issues(""), [] as [&str; 0]);
        assert_eq!(issues("path = \"/tmp/x.db\"\nkeep = \"7d\"\nmax_size = \"2GiB\""), [] as [&str; 0]);
    }

    #[test]
    fn the_password_does_not_show() {
        let config: StoreConfig =
            toml::from_str("url = \"postgres://u:hush@127.0.0.1/x\"\npassword = \"quiet\"").unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("hush") && !shown.contains("quiet"), "{shown}");
    }

    #[test]
    fn what_cannot_work_is_said_by_key() {
        assert_eq!(issues("path = \"/no/such/folder/x.db\"\nmax_size = 4096"), ["path", "max_size"]);
        assert_eq!(issues("path = \"/tmp\"\nbatch = 0"), ["path", "batch"]);
        assert_eq!(issues("every = \"1min\"\nbuffer = 10"), ["every", "buffer"]);
        assert_eq!(issues("url = \"http://127.0.0.1/x\"\npath = \"x.db\""), ["url", "path"]);
        assert_eq!(issues("url = \"postgres://u@192.0.2.1/x\"\npassword = \"p\""), ["url"]);
        assert_eq!(issues("url = \"postgres://u@127.0.0.1/x?sslmode=require\""), ["url"]);
        assert_eq!(issues("password = \"p\""), ["password"]);
    }
}

//! Values in a Redis server.

use super::{Behind, Bytes, Counts, Key, Reason};
use ::redis::{Client, Commands, Connection, RedisError, RedisResult};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for a connection, and for each answer.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a server that is away is left alone.
const AGAIN: Duration = Duration::from_secs(2);

/// The server.
pub(super) struct Redis {
    client: Client,
    connection: Option<Connection>,
    retry: Instant,
    age: Option<Duration>,
    counts: Arc<Counts>,
    /// The log says once that the server is away.
    away: bool,
}

/// The server's address, if it is one.
pub(super) fn client(url: &str) -> Result<Client, String> {
    // The library's message may repeat the address, with the password in it.
    Client::open(url).map_err(|e| format!("is no address of a Redis server: {:?}", e.kind()))
}

impl Redis {
    pub(super) fn new(url: &str, age: Option<Duration>, counts: Arc<Counts>) -> Result<Self, String> {
        let client = client(url).map_err(|e| format!("`redis` {e}"))?;
        Ok(Self { client, connection: None, retry: Instant::now(), age, counts, away: false })
    }

    fn ask<T>(&mut self, ask: impl FnOnce(&mut Connection) -> RedisResult<T>) -> Option<T> {
        if self.connection.is_none() {
            if Instant::now() < self.retry {
                self.counts.dropped(Reason::Failed);
                return None;
            }
            let connected = self.client.get_connection_with_timeout(PATIENCE).and_then(|c| {
                c.set_read_timeout(Some(PATIENCE))?;
                c.set_write_timeout(Some(PATIENCE))?;
                Ok(c)
            });
            match connected {
                Ok(connection) => self.connection = Some(connection),
                Err(e) => return self.failed(&e),
            }
        }
        let connection = self.connection.as_mut()?;
        match ask(connection) {
            Ok(value) => {
                if std::mem::take(&mut self.away) {
                    tracing::info!("the cache's Redis server is back");
                }
                Some(value)
            }
            Err(e) => {
                // An answer that comes too late would be taken for the next one's.
                self.connection = None;
                self.failed(&e)
            }
        }
    }

    fn failed<T>(&mut self, error: &RedisError) -> Option<T> {
        self.counts.dropped(Reason::Failed);
        self.retry = Instant::now() + AGAIN;
        if !std::mem::replace(&mut self.away, true) {
            let error = format!("{:?} {}", error.kind(), error.code().unwrap_or_default());
            tracing::warn!(error, "the cache's Redis server is away; going on without it");
        }
        None
    }
}

/// The value with its checksum in front.
fn seal(name: &str, value: &[u8]) -> Vec<u8> {
    [&Key::of(&[name.as_bytes(), value]).bytes()[..], value].concat()
}

impl Behind for Redis {
    fn find(&mut self, key: &Key) -> Option<Bytes> {
        let name = format!("framegate:{key}");
        let sealed = Bytes::from(self.ask(|c| c.get::<_, Option<Vec<u8>>>(&name))??);
        let whole = sealed.len() >= 32 && seal(&name, &sealed[32..]) == sealed;
        if !whole {
            self.counts.dropped(Reason::Corrupt);
            self.ask(|c| c.del::<_, ()>(&name));
            return None;
        }
        Some(sealed.slice(32..))
    }

    fn keep(&mut self, key: &Key, value: &[u8]) {
        let name = format!("framegate:{key}");
        let sealed = seal(&name, value);
        match self.age {
            Some(age) => {
                let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1);
                self.ask(|c| c.pset_ex::<_, _, ()>(&name, sealed, ms));
            }
            None => {
                self.ask(|c| c.set::<_, _, ()>(&name, sealed));
            }
        }
    }
}

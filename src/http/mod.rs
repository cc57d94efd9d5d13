//! The HTTP side: metrics, health, the API's reads and a status page.
//!
//! It runs on one thread of its own and only reads what [`telemetry`](crate::telemetry) keeps, so that no client,
//! however slow or many, ever touches a frame. Reads are open to clients on this host; all others need the bearer
//! token.

mod openapi;
mod results;
mod routes;
mod serve;
mod views;

pub use serve::Server;

use crate::store::Archives;
use crate::telemetry::{Health, Telemetry};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;

/// The environment variable that holds the bearer token for clients on other hosts.
pub const TOKEN_VARIABLE: &str = "FRAMEGATE_HTTP_TOKEN";

/// What the server serves.
pub struct Api {
    /// Metrics, streams, readiness.
    pub telemetry: Arc<Telemetry>,
    /// Whether threads move.
    pub health: Arc<Health>,
    /// The pipeline as it runs now, without secrets.
    pub pipeline: Box<dyn Fn() -> Value + Send + Sync>,
    /// The stores that answer questions, by the ids of their sinks.
    pub archives: Box<dyn Fn() -> Archives + Send + Sync>,
    /// What clients on other hosts have to show; without one they are turned away.
    pub token: Option<String>,
}

impl Api {
    /// The operator's token, from the environment variable [`TOKEN_VARIABLE`].
    pub fn token_from_environment() -> Option<String> {
        std::env::var(TOKEN_VARIABLE).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is taken.
    #[error(
        "cannot listen on {0}: another program does (perhaps another framegate); choose another address with `[http] \
         listen` or `--http`, port 0 for any"
    )]
    InUse(SocketAddr),
    /// The address cannot be used.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The server's thread cannot be started.
    #[error("cannot start the HTTP server's thread: {0}")]
    Thread(std::io::Error),
}

#[cfg(test)]
mod tests;

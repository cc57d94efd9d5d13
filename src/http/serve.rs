//! The server's thread: accepts, limits, stops.

use super::routes::{Peer, router};
use super::{Api, HttpError};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections served at once; more wait in the system's queue.
const CONNECTIONS: usize = 64;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// To send a request's head, also after the one before.
    pub(super) head: Duration,
    /// For a whole connection. Answers are short, but for streams of events: browsers ask for those again by themselves.
    pub(super) connection: Duration,
    /// To take its answer when the server stops.
    pub(super) stop: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: Duration::from_secs(30), connection: Duration::from_secs(300), stop: Duration::from_millis(500) }
    }
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` (port 0: any) and serves from a thread of its own.
    ///
    /// # Errors
    /// The address cannot be used, or the system has no thread left.
    pub fn start(address: SocketAddr, api: Api) -> Result<Self, HttpError> {
        Self::start_with(address, api, Patience::default())
    }

    pub(super) fn start_with(address: SocketAddr, api: Api, patience: Patience) -> Result<Self, HttpError> {
        let bind = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => HttpError::InUse(address),
            _ => HttpError::Bind { address, source },
        };
        let listener = StdListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        if !address.ip().to_canonical().is_loopback() {
            let token = if api.token.is_some() { "with the bearer token" } else { "and turned away: no token is set" };
            tracing::warn!(%address, "HTTP is open to other hosts, {token}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HttpError::Thread)?;
        let (stop, stopped) = watch::channel(false);
        let app = router(Arc::new(api));
        let thread = std::thread::Builder::new()
            .name("http".into())
            .spawn(move || {
                // Frames come first. A thread that may not be nice is no harm.
                let _ = rustix::process::nice(5);
                runtime.block_on(accept(listener, app, stopped, patience));
                runtime.shutdown_background();
            })
            .map_err(HttpError::Thread)?;
        tracing::info!("metrics and health on http://{address}/");
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    /// Takes no more connections, lets answers under way be taken for a short while, and ends.
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the HTTP server's thread panicked");
        }
    }
}

/// Waits until the server has to stop.
async fn told(stopped: &mut watch::Receiver<bool>) {
    // An error means that the server's handle is gone, which is a stop too.
    let _ = stopped.wait_for(|s| *s).await;
}

async fn accept(listener: StdListener, app: Router, mut stopped: watch::Receiver<bool>, patience: Patience) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "HTTP is not served");
            return;
        }
    };
    let for_connections = stopped.clone();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let incoming = async {
            // The semaphore is never closed.
            let place = room.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        tokio::select! {
            () = told(&mut stopped) => break,
            // Keeps the set small; what a connection ended with is nobody's concern.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (place, accepted) = incoming => match accepted {
                Ok((stream, peer)) => {
                    let connection = serve(stream, peer, app.clone(), for_connections.clone(), patience);
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: trying at once again would only burn a core.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    let _ = timeout(patience.stop, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    mut stopped: watch::Receiver<bool>,
    patience: Patience,
) {
    // An answer's last piece must not wait until the client has confirmed the one before.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(app.layer(Extension(Peer(peer.ip()))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_headers(64)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // Whatever ends a connection early is the client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(patience.connection) => {}
        () = told(&mut stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(patience.stop, connection).await;
}

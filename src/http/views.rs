//! What is watched and asked for: live waterfalls, recordings.

use super::Api;
use super::routes::{error, json_response, self_contained};
use crate::views::Views;
use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

/// Clients that may look at once, of all waterfalls together: each holds a connection.
const WATCHERS: usize = 16;
/// A client that hears nothing for so long could take the server for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const PAGE: &str = include_str!("waterfall.html");

pub(super) fn routes() -> Router<Arc<Api>> {
    let watching = Arc::new(AtomicUsize::new(0));
    Router::new()
        .route("/waterfall", get(|| async { self_contained(PAGE) }))
        .route("/api/v1/streams/{id}/record", post(record))
        .route("/api/v1/waterfalls", get(waterfalls))
        .route("/api/v1/streams/{id}/waterfall", get(move |api, id| waterfall(api, id, watching)))
}

fn views(api: &Api) -> &Views {
    api.telemetry.views()
}

/// What a recording is to be.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Its length in seconds of stream time, 0 to a day; 0 stops.
    seconds: f64,
}

/// Asks all `sigmf` sinks of a stream to record it.
async fn record(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Json<Record>, JsonRejection>,
) -> Response {
    if !is_own_page(&headers) {
        return error(StatusCode::FORBIDDEN, "pages of other sites may change nothing here");
    }
    // What is not declared as JSON is refused: pages of other sites can send only other types without being asked first.
    let Json(Record { seconds }) = match body {
        Ok(body) => body,
        Err(JsonRejection::JsonDataError(e)) => return error(StatusCode::BAD_REQUEST, &e.body_text()),
        Err(e) => return error(e.status(), &e.body_text()),
    };
    if !(0.0..=86_400.0).contains(&seconds) {
        return error(StatusCode::BAD_REQUEST, "`seconds` is from 0, which stops, to 86400");
    }
    match views(&api).record(&id, Duration::from_secs_f64(seconds)) {
        0 => error(StatusCode::NOT_FOUND, "no `sigmf` sink records a stream of this name"),
        sinks => json_response(StatusCode::ACCEPTED, &json!({ "sinks": sinks })),
    }
}

/// Whether a request comes from no page at all, or from one that this server gave. A foreign page may have a name that
/// leads here: only addresses, and `localhost`, are names of our own.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    if !headers.contains_key(header::ORIGIN) {
        return true;
    }
    let Some((origin, host)) = text(header::ORIGIN).zip(text(header::HOST)) else { return false };
    let Ok(authority) = host.parse::<axum::http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let own = name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok();
    own && origin.strip_prefix("http://") == Some(host)
}

async fn waterfalls(State(api): State<Arc<Api>>) -> Response {
    let streams: Vec<String> = views(&api).waterfalls().iter().map(ToString::to_string).collect();
    json_response(StatusCode::OK, &json!({ "streams": streams }))
}

/// One who looks, until dropped.
struct Watcher(Arc<AtomicUsize>);

impl Watcher {
    fn new(all: Arc<AtomicUsize>) -> Option<Self> {
        let room = all.fetch_update(Relaxed, Relaxed, |n| (n < WATCHERS).then_some(n + 1));
        room.is_ok().then_some(Self(all))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Lines as server-sent events, each a JSON object. A client that is too slow misses lines.
async fn waterfall(State(api): State<Arc<Api>>, Path(id): Path<String>, all: Arc<AtomicUsize>) -> Response {
    let Some(lines) = views(&api).watch(&id) else {
        return error(StatusCode::NOT_FOUND, "no `waterfall` sink shows a stream of this name");
    };
    let Some(watcher) = Watcher::new(all) else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "as many clients as may look at waterfalls do already");
    };
    let events = BroadcastStream::new(lines).filter_map(move |line| {
        // Held as long as the client is there.
        let _ = &watcher;
        // An error says how many lines were lost.
        line.ok().map(|line| Ok::<_, Infallible>(Event::default().data(&*line)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

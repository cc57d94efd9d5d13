//! What is served under which path.

use super::results::results;
use super::{Api, openapi};
use crate::frame::clock;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;

/// The largest request body that is read.
const BODY_LIMIT: usize = 1 << 20;
const PAGE: &str = include_str!("status.html");

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

pub(super) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/pipeline", get(pipeline))
        .route("/api/v1/streams", get(streams))
        .route("/api/v1/results", get(results))
        .route("/api/v1/openapi.json", get(description))
        .merge(super::views::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(api.clone(), guard))
        .with_state(api)
}

pub(super) fn json_response(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

pub(super) fn error(status: StatusCode, message: &str) -> Response {
    json_response(status, &json!({ "error": message }))
}

/// Turns clients of other hosts away unless they show the token.
async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<Peer>().is_some_and(|p| p.0.to_canonical().is_loopback());
    let mut response = if local {
        next.run(request).await
    } else {
        match &api.token {
            Some(token) if shows(request.headers(), token) => next.run(request).await,
            Some(_) => {
                let mut r = error(StatusCode::UNAUTHORIZED, "clients on other hosts need the bearer token");
                r.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                r
            }
            None => {
                let message = format!(
                    "clients on other hosts need a bearer token, and none is set in the environment variable {}",
                    super::TOKEN_VARIABLE
                );
                error(StatusCode::FORBIDDEN, &message)
            }
        }
    };
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn shows(headers: &HeaderMap, token: &str) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()) else { return false };
    let Some((scheme, shown)) = value.split_once(' ') else { return false };
    // Digests are compared, so that the time taken tells nothing about the token.
    scheme.eq_ignore_ascii_case("bearer") && Sha256::digest(shown.trim()) == Sha256::digest(token)
}

async fn page() -> Response {
    self_contained(PAGE)
}

/// A page that may load nothing from anywhere else.
pub(super) fn self_contained(page: &'static str) -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

async fn metrics(State(api): State<Arc<Api>>) -> Response {
    api.telemetry.stuck(api.health.stuck(clock::now()).len());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.telemetry.metrics()).into_response()
}

async fn healthz(State(api): State<Arc<Api>>) -> Response {
    let reasons: Vec<String> = api.health.stuck(clock::now()).iter().map(ToString::to_string).collect();
    state("healthy", &reasons)
}

async fn readyz(State(api): State<Arc<Api>>) -> Response {
    state("ready", &api.telemetry.not_ready())
}

fn state(name: &str, reasons: &[String]) -> Response {
    let good = reasons.is_empty();
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ name: good, "reasons": reasons }))
}

async fn pipeline(State(api): State<Arc<Api>>) -> Response {
    json_response(StatusCode::OK, &(api.pipeline)())
}

async fn streams(State(api): State<Arc<Api>>) -> Response {
    json_response(StatusCode::OK, &json!({ "streams": api.telemetry.streams() }))
}

async fn description() -> Response {
    json_response(StatusCode::OK, &openapi::describe())
}

async fn unknown() -> Response {
    let mut paths: Vec<_> = openapi::PATHS.iter().map(|(path, ..)| *path).collect();
    paths.push(openapi::RECORD);
    error(StatusCode::NOT_FOUND, &format!("there are {}, and nothing else", paths.join(", ")))
}

async fn wrong_method() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "this address does not take this method")
}

//! `GET /api/v1/results`: what stores hold, page by page.

pub(super) mod params;

use super::Api;
use super::routes::error;
use crate::store::{Asked, Encoding, StoreError};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use params::Question;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an answer. Databases give up before.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn results(State(api): State<Arc<Api>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let question = match Question::read(query.as_deref().unwrap_or_default()) {
        Ok(question) => question,
        Err(wrong) => return params::refused(&wrong),
    };
    let archives = (api.archives)();
    let Some((_, archive)) = (match &question.store {
        None => archives.first(),
        Some(id) => archives.iter().find(|(known, _)| **known == **id),
    }) else {
        return match &question.store {
            Some(id) if !archives.is_empty() => {
                let ids: Vec<_> = archives.iter().map(|(id, _)| &**id).collect();
                params::refused(&params::Wrong::new("store", format!("there is no `{id}`: {}", ids.join(", "))))
            }
            _ => error(StatusCode::NOT_FOUND, "this pipeline keeps no results: add a sink of kind `store`"),
        };
    };
    let encoding = accepted(&headers);
    let answer = match archive.ask(&question.query, encoding) {
        Asked::Ready(answer) => Ok(answer),
        Asked::Busy => return busy("more questions wait than can be answered soon"),
        Asked::Later(told) => match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::Away("the store was closed".to_owned())),
            Err(_) => Err(StoreError::Away("the database does not answer".to_owned())),
        },
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(StoreError::Away(why) | StoreError::Refused(why)) => {
            tracing::warn!(error = why, "a question to the store was not answered");
            return busy("the database cannot answer now");
        }
    };
    let mark = ["", "-g", "-z"][encoding as usize];
    let tag = format!("\"{}{mark}\"", String::from_utf8_lossy(answer.tag()));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok()).any(|v| matches(v, &tag));
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => {
            let mut response = Response::new(Body::from(answer.body()));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if encoding != Encoding::Identity {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
            }
            response
        }
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // May be kept, and has to be asked for again each time: the answer is then mostly "not modified".
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

fn busy(message: &str) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Whether one of these tags is this one, weakly compared as RFC 9110 has it.
fn matches(tags: &str, tag: &str) -> bool {
    tags.split(',').map(str::trim).any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == tag)
}

/// The best packing that the client takes: Zstandard before gzip where it likes them equally.
fn accepted(headers: &HeaderMap) -> Encoding {
    let mut likes = [(Encoding::Zstd, None), (Encoding::Gzip, None), (Encoding::Identity, None)];
    let mut others = None;
    let items = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    for item in items.flat_map(|v| v.split(',')) {
        let (name, parameter) = item.split_once(';').unwrap_or((item, ""));
        let quality = parameter.trim().strip_prefix("q=").map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
        let name = name.trim();
        if name == "*" {
            others = Some(quality);
        }
        for (encoding, like) in &mut likes {
            if name.eq_ignore_ascii_case(encoding.name())
                || (name.eq_ignore_ascii_case("x-gzip") && *encoding == Encoding::Gzip)
            {
                *like = Some(quality);
            }
        }
    }
    let mut best = (Encoding::Identity, 0.0f32);
    for (encoding, like) in likes {
        // What is not mentioned is as good as `*`; plain text is always possible, and the last choice.
        let unsaid = others.unwrap_or(if encoding == Encoding::Identity { 0.001 } else { 0.0 });
        let quality = like.unwrap_or(unsaid);
        if quality > best.1 {
            best = (encoding, quality);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_what_the_client_likes_best() {
        for (accept, expected) in [
            ("", Encoding::Identity),
            ("gzip", Encoding::Gzip),
            ("gzip, deflate, br, zstd", Encoding::Zstd),
            ("zstd;q=0.5, gzip;q=0.8", Encoding::Gzip),
            ("br;q=1.0, *;q=0.5", Encoding::Zstd),
            ("gzip;q=0", Encoding::Identity),
            ("identity, gzip;q=0.5", Encoding::Identity),
            ("GZIP ; q=nonsense", Encoding::Identity),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(accept).unwrap());
            assert_eq!(accepted(&headers), expected, "{accept}");
        }
        assert_eq!(accepted(&HeaderMap::new()), Encoding::Identity);
    }

    #[test]
    fn tags_are_compared_weakly() {
        assert!(matches("\"a\", W/\"b\"", "\"b\""));
        assert!(matches("*", "\"b\""));
        assert!(!matches("\"b-g\"", "\"b\""));
    }
}

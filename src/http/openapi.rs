//! The API's description of itself, OpenAPI 3.1.

use super::results::params::PARAMETERS;
use serde_json::{Map, Value, json};

/// Everything under which something is served: path, summary, and what a good answer is.
pub(super) const PATHS: &[(&str, &str, &str)] = &[
    ("/", "A page that shows the streams.", "text/html"),
    ("/metrics", "Metrics in Prometheus's text format.", "text/plain"),
    ("/healthz", "Whether the process is alive and its threads move; 503 with the reasons if not.", "application/json"),
    ("/readyz", "Whether every required source delivers; 503 with the reasons if not.", "application/json"),
    ("/api/v1/pipeline", "The pipeline as it runs now, without secrets.", "application/json"),
    ("/api/v1/streams", "Outcomes and latency of each stream.", "application/json"),
    ("/waterfall", "A page that shows streams of samples live.", "text/html"),
    ("/api/v1/waterfalls", "The streams that can be watched.", "application/json"),
    ("/api/v1/streams/{id}/waterfall", "A stream's lines, as server-sent events.", "text/event-stream"),
    (RESULTS, "Stored results, page by page.", "application/json"),
    ("/api/v1/openapi.json", "This description.", "application/json"),
];

/// The one that changes something.
pub(super) const RECORD: &str = "/api/v1/streams/{id}/record";

/// The one with parameters.
pub(super) const RESULTS: &str = "/api/v1/results";

/// The description.
pub(super) fn describe() -> Value {
    let mut paths: Map<String, Value> = PATHS
        .iter()
        .map(|(path, about, kind)| {
            let mut get = operation(about, kind);
            if matches!(*path, "/healthz" | "/readyz") {
                get["responses"]["503"] = json!({ "description": "Not so; the reasons are in the body." });
            }
            if *path == RESULTS {
                results(&mut get);
            }
            if path.contains("{id}") {
                get["parameters"] = stream();
                get["responses"]["404"] = refusal("There is no such stream, or nobody shows it.");
            }
            ((*path).to_owned(), json!({ "get": get }))
        })
        .collect();
    let mut post = operation("Lets the `sigmf` sinks of a stream record it.", "application/json");
    post["parameters"] = stream();
    post["requestBody"] = json!({
        "required": true,
        "content": { "application/json": { "schema": {
            "type": "object", "required": ["seconds"], "additionalProperties": false,
            "properties": { "seconds": {
                "type": "number", "minimum": 0, "maximum": 86400, "description": "Length in stream time; 0 stops."
            } }
        } } }
    });
    if let Some(responses) = post["responses"].as_object_mut()
        && let Some(accepted) = responses.remove("200")
    {
        responses.insert("202".into(), accepted);
        responses.insert("400".into(), refusal("`seconds` is missing or out of its range."));
        responses.insert("404".into(), refusal("No sink of kind `sigmf` records such a stream."));
        responses.insert("415".into(), refusal("The body is not declared as JSON."));
    }
    paths.insert(RECORD.into(), json!({ "post": post }));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "framegate", "version": env!("CARGO_PKG_VERSION"),
            "description": "Reads are open to clients on this host; all others need the bearer token.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": {
                "Error": {
                    "type": "object", "required": ["error"],
                    "properties": {
                        "error": { "type": "string" },
                        "parameter": { "type": "string", "description": "The parameter that is wrong." }
                    }
                },
                "Page": {
                    "type": "object", "required": ["results", "next"],
                    "properties": {
                        "results": {
                            "type": "array",
                            "items": { "type": "object", "description": "A result, as every sink gets it." }
                        },
                        "next": { "type": ["string", "null"], "description": "The next page's `cursor`; null on the last." }
                    }
                }
            }
        },
        "security": [{}, { "token": [] }]
    })
}

fn refusal(description: &str) -> Value {
    let schema = json!({ "$ref": "#/components/schemas/Error" });
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

/// The parameter of paths that name a stream.
fn stream() -> Value {
    json!([{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" }, "description": "The stream." }])
}

fn operation(about: &str, kind: &str) -> Value {
    json!({
        "summary": about,
        "responses": {
            "200": { "description": "As asked.", "content": { kind: {} } },
            "401": refusal("A client on another host without the right token."),
            "403": refusal("A client on another host, and no token is set.")
        }
    })
}

fn results(get: &mut Value) {
    let parameters: Vec<Value> = PARAMETERS
        .iter()
        .map(|p| json!({ "name": p.name, "in": "query", "description": p.about, "schema": (p.schema)() }))
        .collect();
    get["parameters"] = json!(parameters);
    let responses = &mut get["responses"];
    responses["200"] = json!({
        "description": "A page. Packed with Zstandard or gzip where `Accept-Encoding` allows it.",
        "headers": { "ETag": { "schema": { "type": "string" }, "description": "For `If-None-Match`." } },
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Page" } } }
    });
    responses["304"] = json!({ "description": "`If-None-Match` names what would be sent." });
    responses["400"] = refusal("A parameter is wrong or unknown; `parameter` names it.");
    responses["404"] = refusal("The pipeline has no sink of kind `store`.");
    responses["503"] = refusal("The database cannot answer now; try again after `Retry-After` seconds.");
}

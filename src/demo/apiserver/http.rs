//! HTTP in, calls of [`rest`](super::rest) and [`watch`](super::watch) out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use serde_json::{Value, json};

use super::faults::{Fault, Logged};
use super::request::{Query, Target};
use super::rest::{Answer, Call, PatchKind};
use super::status::ApiError;
use super::{Shared, discovery, watch};

/// What the real server takes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Closes a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("connection dropped")]
pub struct Dropped;

/// What the real server keeps a connection for that nobody asks on. Clients count on it: kube's never closes one.
pub const IDLE: Duration = Duration::from_secs(90);

/// Serves one connection to its end, at the latest when nothing was asked for so long.
pub async fn connection(io: impl Read + Write + Unpin, shared: Arc<Shared>, idle: Duration) {
    let service = service_fn(|request| serve(request, shared.clone()));
    let mut server = hyper::server::conn::http1::Builder::new();
    // hyper begins to wait for the next request's header when the last answer is out.
    server.timer(TokioTimer::new()).header_read_timeout(idle);
    // An error is a client that went away or is silent, or a connection dropped on purpose.
    let _ = server.serve_connection(io, service).await;
}

/// Answers one request.
pub async fn serve<B>(request: Request<B>, shared: Arc<Shared>) -> Result<Response<Body>, Dropped>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let header = |name| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let logged = Logged {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        user_agent: header(USER_AGENT),
    };
    let fault = shared.faults.arrives(&logged);
    match &fault {
        Some(Fault::Drop) => return Err(Dropped),
        Some(Fault::Status(code)) => return Ok(failed(&ApiError::injected(*code))),
        Some(Fault::Answer(code, status)) => return Ok(json_answer(*code, status)),
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Fault::DropAnswer) | None => {}
    }
    let answer = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => {
            let content_type = header(CONTENT_TYPE);
            answer(&parts.method, &content_type, &body.to_bytes(), &logged, &shared)
        }
        Err(_) => Err(ApiError::too_large(BODY_LIMIT)),
    };
    match fault {
        Some(Fault::DropAnswer) => Err(Dropped),
        _ => Ok(answer.unwrap_or_else(|error| failed(&error))),
    }
}

fn answer(
    method: &Method,
    content_type: &str,
    body: &Bytes,
    logged: &Logged,
    shared: &Shared,
) -> Result<Response<Body>, ApiError> {
    if let Some(answer) = discovery::answer(&logged.path) {
        return match method {
            &Method::GET => Ok(match answer.as_str() {
                Some(text) => Response::new(full(text.to_owned())),
                None => json_answer(200, &answer),
            }),
            _ => Err(ApiError::method_not_allowed()),
        };
    }
    let target = Target::parse(&logged.path).ok_or_else(ApiError::no_such_path)?;
    let query = Query::parse(&logged.query);
    if method == Method::GET && query.is_set("watch") {
        let events = watch::watch(&shared.store, &target, &query)?;
        let mut response = Response::new(events.boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        return Ok(response);
    }
    let call = Call {
        store: &shared.store,
        target: &target,
        query: &query,
        user_agent: &logged.user_agent,
        admit: &|object| shared.faults.admit(logged, object),
    };
    let (code, object) = verb(method, content_type, body, &target, &call)?;
    Ok(json_answer(code, &object))
}

fn verb(method: &Method, content_type: &str, body: &Bytes, target: &Target, call: &Call<'_>) -> Answer {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    match (method, target.name.as_deref()) {
        (&Method::POST, Some(name)) if target.is_binding() => call.bind(name, &read(media_type, body)?),
        _ if target.is_binding() => Err(ApiError::method_not_allowed()),
        (&Method::GET, None) => call.list(),
        (&Method::GET, Some(name)) => call.get(name),
        (&Method::POST, None) => call.create(read(media_type, body)?),
        (&Method::PUT, Some(name)) => call.replace(name, read(media_type, body)?),
        (&Method::PATCH, Some(name)) => {
            let kind = match media_type {
                "application/merge-patch+json" => PatchKind::Merge,
                // The same where every list is replaced as a whole, as in all kinds here but pods.
                "application/strategic-merge-patch+json" if target.resource.kind != "Pod" => {
                    let mut patch = parse(false, body)?;
                    without_directives(&mut patch);
                    return call.patch(name, PatchKind::Merge, patch);
                }
                "application/json-patch+json" => PatchKind::Json,
                "application/apply-patch+yaml" => PatchKind::Apply,
                _ => {
                    let accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
                    return Err(ApiError::unsupported_media_type(accepted));
                }
            };
            call.patch(name, kind, parse(kind == PatchKind::Apply, body)?)
        }
        (&Method::DELETE, Some(name)) if !target.is_status() => {
            call.delete(name, &options(media_type, body)?)
        }
        (&Method::DELETE, None) => call.delete_collection(&options(media_type, body)?),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// `$setElementOrder` and the like only say how lists are to be merged.
fn without_directives(patch: &mut Value) {
    if let Value::Object(map) = patch {
        map.retain(|key, _| !key.starts_with('$'));
        map.values_mut().for_each(without_directives);
    }
}

/// DeleteOptions, which need not be sent.
fn options(media_type: &str, body: &Bytes) -> Result<Value, ApiError> {
    if body.is_empty() { Ok(json!({})) } else { read(media_type, body) }
}

fn read(media_type: &str, body: &Bytes) -> Result<Value, ApiError> {
    match media_type {
        "" | "application/json" => parse(false, body),
        "application/yaml" => parse(true, body),
        _ => Err(ApiError::unsupported_media_type("application/json, application/yaml")),
    }
}

fn parse(yaml: bool, body: &Bytes) -> Result<Value, ApiError> {
    let bad =
        |error: String| ApiError::bad_request(format!("the body of the request can't be read: {error}"));
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(_) if yaml => {
            let text = std::str::from_utf8(body).map_err(|error| bad(error.to_string()))?;
            serde_saphyr::from_str(text).map_err(|error| bad(error.to_string()))
        }
        Err(error) => Err(bad(error.to_string())),
    }
}

fn failed(error: &ApiError) -> Response<Body> {
    json_answer(error.code, &error.body())
}

fn json_answer(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::faults::Faults;
    use super::super::store::Store;
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    /// What comes back until the server closes the connection, or for `limit`.
    async fn until_closed(path: &str, limit: Duration) -> (String, bool) {
        let (mut client, io) = tokio::io::duplex(1 << 20);
        let shared = Arc::new(Shared { store: Store::default(), faults: Faults::default() });
        let server = tokio::spawn(async move { connection(TokioIo::new(io), shared, SHORT).await });
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let closed = tokio::time::timeout(limit, client.read_to_end(&mut said)).await.is_ok();
        server.abort();
        (String::from_utf8(said).unwrap(), closed)
    }

    #[tokio::test]
    async fn a_connection_that_nobody_asks_on_is_closed_and_a_watch_is_not() {
        let (said, closed) = until_closed("/api/v1/nodes", Duration::from_secs(30)).await;
        assert!(closed && said.starts_with("HTTP/1.1 200"), "{said}");
        let (said, closed) = until_closed("/api/v1/nodes?watch=true", 10 * SHORT).await;
        assert!(!closed && said.starts_with("HTTP/1.1 200"), "{said}");
    }
}

//! The REST API: configurable-http-proxy's, on listeners of its own, and `PUT` for the whole table.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess},
};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use crate::{access_log::AccessLog, metrics, routes::ReplaceError, server::Shared};

/// Routes are small; a longer body is a mistake or an attack.
const LONGEST_BODY: usize = 1024 * 1024;

/// A table of 100,000 routes is about 30 MB long.
const LONGEST_TABLE: usize = 256 * 1024 * 1024;

/// Lists of more routes than this are made on a thread that may take its time.
const SHORT_LIST: usize = 500;

/// How long a client may take to send its body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Answers one request to the API.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.method().clone();
    let path: String = request.uri().path().escape_debug().take(300).collect();
    let (response, message) = match answer(&shared, request).await {
        Ok(response) => (response, String::new()),
        Err(refusal) => refusal.into_response(),
    };
    let status = response.status();
    shared.metrics.count_api_status(status);
    let line = format!("{} {method} {path} {message}", status.as_u16());
    match status.as_u16() {
        ..400 => tracing::info!("{line}"),
        400..500 => tracing::warn!("{line}"),
        _ => tracing::error!("{line}"),
    }
    Ok(response)
}

/// An answer that is not a success. An empty message has an empty body.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }

    fn empty(status: StatusCode) -> Self {
        Self::new(status, "")
    }

    fn into_response(self) -> (Response<Full<Bytes>>, String) {
        let mut response = Response::new(Full::from(self.message.clone()));
        *response.status_mut() = self.status;
        (response, self.message)
    }
}

async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let raw = request
        .uri()
        .path()
        .strip_prefix("/api/routes")
        .filter(|path| path.is_empty() || path.starts_with('/'))
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "Not Found"))?;
    let known = match *request.method() {
        Method::GET | Method::POST | Method::DELETE => true,
        Method::PUT => matches!(raw, "" | "/"),
        _ => false,
    };
    if !known {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "Method not supported",
        ));
    }
    if !is_authorized(shared, &request) {
        tracing::debug!("Rejecting API request without the right token");
        return Err(Refusal::empty(StatusCode::FORBIDDEN));
    }
    let path = percent_encoding::percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "The path is not UTF-8"))?
        .into_owned();
    match *request.method() {
        Method::PUT => put(shared, request).await,
        Method::POST => post(shared, &path, request.into_body()).await,
        Method::DELETE => delete(shared, &path),
        _ if matches!(&*path, "" | "/") => list(shared, request.uri().query()).await,
        _ => get(shared, &path),
    }
}

fn get(shared: &Shared, path: &str) -> Result<Response<Full<Bytes>>, Refusal> {
    let route = shared.routes.get(path);
    let route = route.ok_or_else(|| Refusal::empty(StatusCode::NOT_FOUND))?;
    let mut json = String::new();
    route.write_json(&mut json);
    Ok(json_response(json))
}

async fn list(shared: &Arc<Shared>, query: Option<&str>) -> Result<Response<Full<Bytes>>, Refusal> {
    let parameter = |name: &str| {
        form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.into_owned())
    };
    let since = match parameter("inactiveSince").or_else(|| parameter("inactive_since")) {
        None => None,
        Some(text) => Some(parse_time(&text).ok_or_else(|| {
            let message = format!("Invalid datestamp '{text}' must be ISO8601.");
            Refusal::new(StatusCode::BAD_REQUEST, message)
        })?),
    };
    shared.metrics.api_get.fetch_add(1, Ordering::Relaxed);
    let (json, tag) = if shared.routes.len() <= SHORT_LIST {
        shared.routes.to_json(since)
    } else {
        let shared = Arc::clone(shared);
        aside(move || shared.routes.to_json(since)).await?
    };
    let mut response = json_response(json);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

/// Work that would keep other API requests waiting, on a thread for such work.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Refusal::empty(StatusCode::INTERNAL_SERVER_ERROR))
}

/// Replaces all routes by those of the body, which has the form that `GET` gives. With `If-Match`
/// and the `ETag` of a `GET`, only when no route was added or removed since.
async fn put(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let tag = request.headers().get(IF_MATCH).cloned();
    let body = read_body(request.into_body(), LONGEST_TABLE).await?;
    let shared = Arc::clone(shared);
    aside(move || {
        let Entries(entries) = serde_json::from_slice(&body).map_err(|error| {
            let message = format!("Body is not an object of routes: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, message)
        })?;
        let number = entries.len();
        let tag = tag.as_ref().map(HeaderValue::as_bytes);
        let tag = tag.filter(|tag| *tag != b"*");
        let replaced = shared.routes.replace(entries, tag).map_err(|error| {
            let status = match error {
                ReplaceError::BadEntry { .. } => StatusCode::BAD_REQUEST,
                ReplaceError::Changed => StatusCode::PRECONDITION_FAILED,
            };
            Refusal::new(status, error.to_string())
        })?;
        tracing::info!(
            "Routes replaced: {number} routes, {} added, {} changed, {} removed",
            replaced.added,
            replaced.changed,
            replaced.removed
        );
        Ok(empty(StatusCode::NO_CONTENT))
    })
    .await?
}

/// Routes by path, in the order of the body. An object type would lose paths that stand twice.
struct Entries(Vec<(String, Map<String, Value>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Entries;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object of routes by path")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((path, value)) = map.next_entry::<String, Value>()? {
                    // What is no object has no target, which the table says of its path.
                    let data = match value {
                        Value::Object(data) => data,
                        _ => Map::new(),
                    };
                    entries.push((path, data));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

async fn post(
    shared: &Shared,
    path: &str,
    body: Incoming,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let mut data = read_object(body).await?;
    // The time of the request counts, as in configurable-http-proxy.
    data.remove("last_activity");
    let route = shared.routes.add(path, data).map_err(|error| {
        tracing::warn!("Bad POST data: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, error.to_string())
    })?;
    let path = in_one_line(&route.path);
    tracing::info!("Adding route {path} -> {}", route.target_url);
    tracing::info!("Route added {path} -> {}", route.target_url);
    metrics::count_activity();
    shared.metrics.api_add.fetch_add(1, Ordering::Relaxed);
    Ok(empty(StatusCode::CREATED))
}

fn delete(shared: &Shared, path: &str) -> Result<Response<Full<Bytes>>, Refusal> {
    shared.metrics.api_delete.fetch_add(1, Ordering::Relaxed);
    match shared.routes.remove(path) {
        Some(route) => {
            tracing::info!("Removing route {}", in_one_line(&route.path));
            Ok(empty(StatusCode::NO_CONTENT))
        }
        None => Err(Refusal::empty(StatusCode::NOT_FOUND)),
    }
}

/// A path as it may stand in the log, where a line break would begin a line that nobody wrote.
fn in_one_line(path: &str) -> String {
    let part = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    path.chars().map(part).collect()
}

/// The body as a JSON object. Other JSON has no target, and is answered like an empty object.
async fn read_object(body: Incoming) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_slice(&read_body(body, LONGEST_BODY).await?) {
        Ok(Value::Object(data)) => Ok(data),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("Body not valid JSON: {error}"),
        )),
    }
}

async fn read_body(body: Incoming, longest: usize) -> Result<Bytes, Refusal> {
    let body = Limited::new(body, longest).collect();
    let body = tokio::time::timeout(BODY_DEADLINE, body)
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "The body did not come in time"))?
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is too long")
            } else {
                let message = format!("The body broke off: {error}");
                Refusal::new(StatusCode::BAD_REQUEST, message)
            }
        })?;
    Ok(body.to_bytes())
}

/// Whether the request has our token as `Authorization: token …`.
fn is_authorized(shared: &Shared, request: &Request<Incoming>) -> bool {
    let Some(token) = &shared.settings.auth_token else {
        return true;
    };
    let given = request.headers().get(AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(6)?;
        scheme
            .eq_ignore_ascii_case(b"token ")
            .then(|| token.trim_ascii())
    });
    given.is_some_and(|given| given.ct_eq(token.as_bytes()).into())
}

/// Milliseconds since 1970. A time without a zone is taken as UTC.
fn parse_time(text: &str) -> Option<i64> {
    let zoned = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc2822(text));
    if let Ok(time) = zoned {
        return Some(time.timestamp_millis());
    }
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            date.and_hms_opt(0, 0, 0)
        })?;
    Some(local.and_utc().timestamp_millis())
}

fn json_response(json: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(json));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Answers one request to the metrics listener.
pub(crate) fn metrics(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri() != "/metrics" {
        return Refusal::new(StatusCode::NOT_FOUND, "Not Found")
            .into_response()
            .0;
    }
    let log = shared.settings.access_log.as_ref();
    let dropped = log.map_or(0, AccessLog::dropped);
    let page = shared.metrics.render(shared.routes.len(), dropped) + &shared.tls.metrics();
    let mut response = Response::new(Full::from(page));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_no_line_of_the_log_s_own() {
        let shown = in_one_line("/user/o'neil é\n12:00 Adding route /");
        assert_eq!(shown, "/user/o'neil é\\n12:00 Adding route /");
    }

    #[test]
    fn times() {
        let milliseconds = 1_577_934_245_000;
        for text in [
            "2020-01-02T03:04:05Z",
            "2020-01-02T03:04:05.000Z",
            "2020-01-02T04:04:05+01:00",
            "2020-01-02T03:04:05",
            "Thu, 02 Jan 2020 03:04:05 GMT",
        ] {
            assert_eq!(parse_time(text), Some(milliseconds), "{text}");
        }
        assert_eq!(parse_time("1970-01-02"), Some(86_400_000));
        assert_eq!(parse_time("yesterday"), None);
    }
}

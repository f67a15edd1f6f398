//! The REST API: configurable-http-proxy's, on listeners of its own.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use crate::server::Shared;

/// Routes are small; a longer body is a mistake or an attack.
const LONGEST_BODY: usize = 1024 * 1024;

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
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let raw = request
        .uri()
        .path()
        .strip_prefix("/api/routes")
        .filter(|path| path.is_empty() || path.starts_with('/'))
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "Not Found"))?;
    if ![Method::GET, Method::POST, Method::DELETE].contains(request.method()) {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "Method not supported",
        ));
    }
    if !is_authorized(shared, &request) {
        return Err(Refusal::empty(StatusCode::FORBIDDEN));
    }
    let path = percent_encoding::percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "The path is not UTF-8"))?
        .into_owned();
    match *request.method() {
        Method::POST => post(shared, &path, request.into_body()).await,
        Method::DELETE => delete(shared, &path),
        _ if matches!(&*path, "" | "/") => list(shared, request.uri().query()),
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

fn list(shared: &Shared, query: Option<&str>) -> Result<Response<Full<Bytes>>, Refusal> {
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
    Ok(json_response(shared.routes.to_json(since)))
}

async fn post(
    shared: &Shared,
    path: &str,
    body: Incoming,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let data = read_object(body).await?;
    let route = shared
        .routes
        .add(path, data)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    tracing::info!("Route added {} -> {}", route.path, route.target_url);
    shared.metrics.api_add.fetch_add(1, Ordering::Relaxed);
    Ok(empty(StatusCode::CREATED))
}

fn delete(shared: &Shared, path: &str) -> Result<Response<Full<Bytes>>, Refusal> {
    shared.metrics.api_delete.fetch_add(1, Ordering::Relaxed);
    match shared.routes.remove(path) {
        Some(route) => {
            tracing::info!("Removing route {}", route.path);
            Ok(empty(StatusCode::NO_CONTENT))
        }
        None => Err(Refusal::empty(StatusCode::NOT_FOUND)),
    }
}

/// The body as a JSON object. Other JSON has no target, and is answered like an empty object.
async fn read_object(body: Incoming) -> Result<Map<String, Value>, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let body = Limited::new(body, LONGEST_BODY).collect();
    let body = tokio::time::timeout(BODY_DEADLINE, body)
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "The body did not come in time"))?
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is too long")
            } else {
                bad(format!("The body broke off: {error}"))
            }
        })?
        .to_bytes();
    match serde_json::from_slice(&body) {
        Ok(Value::Object(data)) => Ok(data),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(bad(format!("Body not valid JSON: {error}"))),
    }
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
    let page = shared.metrics.render(shared.routes.len());
    let mut response = Response::new(Full::from(page));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! How requests come in: what is too large, and what becomes of a body that nobody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;

use crate::auth;
use crate::error::Error;
use crate::router::MAX_BODY;
use crate::state::AppState;

/// Bodies of up to this many bytes are read before anything else is done.
const READ_AHEAD: usize = 64 * 1024;
/// The longest pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(30);
/// How much of a refused body is read away, in bytes, and how long at most.
const MAX_DISCARDED: usize = 128 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Refuses what is too large, or of a method that nothing here answers, before anything is read of it.
///
/// A connection over which half a body was sent cannot be used again, and the proxy must not try: it would
/// lose the next request that comes along. So small bodies are read whatever becomes of the request, and
/// with large ones that nobody read the answer says that the connection ends.
pub async fn bound(State(hub): State<AppState>, request: Request, next: Next) -> Response {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        let response = Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The request is larger than {} MB.", MAX_BODY / 1024 / 1024),
        );
        discard(request.into_body()).await;
        return closing(response.into_response());
    }
    let is_known = matches!(
        *request.method(),
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
    );
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let ended = Arc::new(AtomicBool::new(body.is_end_stream()));
    let mut body = without_long_pauses(body, &ended);
    if length.is_some_and(|length| length <= READ_AHEAD as u64) {
        body = if let Ok(bytes) = axum::body::to_bytes(body, READ_AHEAD).await {
            Body::from(bytes)
        } else {
            let error = Error::bad_request("The body was not sent completely.");
            return closing(error.into_response());
        };
    }
    let response = if is_known {
        next.run(Request::from_parts(parts, body)).await
    } else {
        let mut response = Error::new(StatusCode::METHOD_NOT_ALLOWED, "").into_response();
        auth::add_own_headers(&hub, &path, &mut response);
        response
    };
    if ended.load(Ordering::Relaxed) {
        response
    } else {
        closing(response)
    }
}

fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The same body, broken off when its sender stops for too long; `ended` becomes true with its end.
fn without_long_pauses(body: Body, ended: &Arc<AtomicBool>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let ended = Arc::clone(ended);
    let chunks = Some((body.into_data_stream(), ended));
    Body::from_stream(futures_util::stream::unfold(chunks, next_chunk))
}

type Chunks = (axum::body::BodyDataStream, Arc<AtomicBool>);

async fn next_chunk(
    chunks: Option<Chunks>,
) -> Option<(Result<Bytes, axum::Error>, Option<Chunks>)> {
    let (mut chunks, ended) = chunks?;
    match tokio::time::timeout(BODY_PAUSE, chunks.next()).await {
        Ok(Some(chunk)) => {
            if chunks.is_end_stream() {
                ended.store(true, Ordering::Relaxed);
            }
            Some((chunk, Some((chunks, ended))))
        }
        Ok(None) => {
            ended.store(true, Ordering::Relaxed);
            None
        }
        Err(_) => {
            let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Some((Err(axum::Error::new(late)), None))
        }
    }
}

/// Reads away what is refused, up to a limit: a client that is still sending when the connection
/// closes sees only that it broke, and never the answer.
async fn discard(body: Body) {
    let reading = async {
        let mut chunks = body.into_data_stream();
        let mut left = MAX_DISCARDED;
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    // Whether it ended or took too long, the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

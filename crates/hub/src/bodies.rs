//! How requests come in: what is too large, and what becomes of a body that nobody reads.

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

/// The largest body that is read of strangers, in bytes.
const MAX_OF_STRANGERS: usize = 64 * 1024;
/// The longest pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(30);
/// How long a whole body may take.
const BODY_LIMIT: Duration = Duration::from_mins(5);
/// How much of a refused body is read away, in bytes, and how long at most.
const MAX_DISCARDED: usize = 128 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Refuses what is too large, or of a method that nothing here answers; reads the body before anything else
/// is done; and sees to it that what changes something is done to its end.
///
/// Who asks, and what they may do, is looked up after the body has come: it may take minutes, in which
/// somebody's rights end. A connection over which half a body was sent cannot be used again, and the proxy
/// must not try: it would lose the next request that comes along. So with what was not read the answer
/// says that the connection ends.
pub async fn bound(State(hub): State<AppState>, request: Request, next: Next) -> Response {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        discard(request.into_body()).await;
        return too_large();
    }
    let (parts, body) = request.into_parts();
    let is_small =
        body.is_end_stream() || length.is_some_and(|length| length <= MAX_OF_STRANGERS as u64);
    let limit = if is_small {
        MAX_OF_STRANGERS
    } else {
        match auth::is_somebody(&hub, &parts).await {
            Ok(true) => MAX_BODY,
            Ok(false) => MAX_OF_STRANGERS,
            Err(error) => return closing(error.into_response()),
        }
    };
    let (body, is_whole) = match read(body, limit).await {
        Ok(bytes) => (Body::from(bytes), true),
        // A stranger is told what they are told without a body, or that it is too large if it is looked at.
        Err(Unread::TooLarge) if limit < MAX_BODY => (unreadable(), false),
        Err(Unread::TooLarge) => return too_large(),
        Err(Unread::Broken) => {
            let error = Error::bad_request("The body was not sent completely.");
            return closing(error.into_response());
        }
    };
    let response = run(&hub, Request::from_parts(parts, body), next).await;
    if is_whole {
        response
    } else {
        closing(response)
    }
}

/// Answers a request whose body is there.
async fn run(hub: &AppState, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match *request.method() {
        // What only reads is given up when whoever asked is gone.
        Method::GET | Method::HEAD | Method::OPTIONS if auth::is_api(hub, &path) => {
            next.run(request).await
        }
        // All else would be left half done: changed, but not told to the audit log or the proxy.
        Method::GET
        | Method::HEAD
        | Method::OPTIONS
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE => tokio::spawn(next.run(request))
            .await
            .unwrap_or_else(|error| {
                Error::Internal(format!("a handler ended by itself: {error}")).into_response()
            }),
        _ => {
            let mut response = Error::new(StatusCode::METHOD_NOT_ALLOWED, "").into_response();
            auth::add_own_headers(hub, &path, &mut response);
            response
        }
    }
}

fn too_large() -> Response {
    let error = Error::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("The request is larger than {} MB.", MAX_BODY / 1024 / 1024),
    );
    closing(error.into_response())
}

/// A body that fails whoever reads it.
fn unreadable() -> Body {
    let error = std::io::Error::other("the body is too large");
    Body::from_stream(futures_util::stream::iter([Err::<Bytes, _>(error)]))
}

fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    /// It was broken off, or came too slowly.
    Broken,
}

/// A whole body of at most so many bytes.
async fn read(body: Body, limit: usize) -> Result<Bytes, Unread> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let reading = async {
        let mut chunks = body.into_data_stream();
        let mut whole = Vec::new();
        loop {
            match tokio::time::timeout(BODY_PAUSE, chunks.next()).await {
                Ok(Some(Ok(chunk))) if whole.len() + chunk.len() > limit => {
                    return Err(Unread::TooLarge);
                }
                Ok(Some(Ok(chunk))) => whole.extend_from_slice(&chunk),
                Ok(None) => return Ok(Bytes::from(whole)),
                Ok(Some(Err(_))) | Err(_) => return Err(Unread::Broken),
            }
        }
    };
    (tokio::time::timeout(BODY_LIMIT, reading).await).unwrap_or(Err(Unread::Broken))
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

//! `/api/users/{user}/servers/{server}/progress`: a start's events, as they happen.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use orrery_core::scopes::{Scope, Target};
use tokio::time::Instant;

use super::path::PathServer;
use crate::auth::{Asking, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::servers::ProgressEvent;
use crate::state::AppState;

/// How often something is sent while nothing happens, so that no proxy between thinks the connection
/// dead.
const KEEP_ALIVE: Duration = Duration::from_secs(8);
/// How long one request is served at most. Browsers ask again, and are told everything again.
const LONGEST: Duration = Duration::from_hours(2);
/// How often it is looked at whether whoever follows still may.
const RIGHTS: Duration = Duration::from_secs(10);

pub(super) fn routes() -> ApiRoutes {
    let needs = Needs::ServerScopes(&[Scope::ReadServers]);
    [
        "/api/users/{user}/server/progress",
        "/api/users/{user}/servers//progress",
        "/api/users/{user}/servers/{server}/progress",
    ]
    .into_iter()
    .fold(ApiRoutes::default(), |routes, path| {
        routes.get(path, needs, &PROGRESS, progress)
    })
}

const PROGRESS: Operation = Operation::new("get-user-server-name-progress", Tag::Servers, "Follow a server's start")
    .about("Server-sent events: those so far at once. The stream ends with the one that says `ready` or `failed`.")
    .answers(&[Answer::text(200, "The events, each a JSON object.", "text/event-stream")])
    .refuses(&[400]);

/// `GET`: server-sent events. Those so far come at once; the stream ends with the one that says
/// `ready` or `failed`, or when the client goes away.
async fn progress(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    path: PathServer,
) -> Result<Response> {
    let view = hub
        .servers
        .view(&path.user, &path.server)
        .await?
        .ok_or_else(|| Error::not_found(""))?;
    let events = hub
        .servers
        .events(&path.user, &path.server)
        .await?
        .ok_or_else(|| Error::bad_request(format!("{} is not starting...", view.log_name())))?;
    // Whoever comes when all is over is told how it ended, and no more.
    let is_over = view.pending().is_none();
    let events = events
        .filter(move |event| std::future::ready(!is_over || event.ready || event.failed))
        .map(|event| encode(&event));
    let lines = lines(Box::pin(events), KEEP_ALIVE, Instant::now() + LONGEST);
    let lines = lines.take_until(Box::pin(end_of_rights(requester, path)));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Over when whoever follows may not any more.
async fn end_of_rights(requester: Arc<Requester>, path: PathServer) {
    let target = Target::Server {
        user: &path.user.name,
        server: path.server.as_str(),
    };
    loop {
        tokio::time::sleep(RIGHTS).await;
        // A database that is away takes nobody's rights.
        if let Ok(false) = requester.still_may(Scope::ReadServers, target).await {
            return;
        }
    }
}

fn encode(event: &ProgressEvent) -> Bytes {
    match serde_json::to_string(event) {
        Ok(json) => format!("data: {json}\n\n").into(),
        // An event is texts and numbers; should one not be writable, the others still matter.
        Err(_) => Bytes::from_static(b"\n\n"),
    }
}

type Encoded = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Events with empty lines between where nothing is said for `silence`, until `end` at the latest.
fn lines(
    events: Encoded,
    silence: Duration,
    end: Instant,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let greeting = stream::once(std::future::ready(Ok(Bytes::from_static(b"\n\n"))));
    greeting.chain(stream::unfold(events, move |mut events| async move {
        let pause = end.min(Instant::now() + silence);
        match tokio::time::timeout_at(pause, events.next()).await {
            Ok(Some(event)) => Some((Ok(event), events)),
            Ok(None) => None,
            Err(_) if Instant::now() >= end => None,
            Err(_) => Some((Ok(Bytes::from_static(b"\n\n")), events)),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_is_filled_and_has_an_end() {
        let event = stream::once(std::future::ready(Bytes::from_static(b"data: {}\n\n")));
        let events: Encoded = Box::pin(event.chain(stream::pending()));
        let end = Instant::now() + Duration::from_millis(100);
        let sent: Vec<_> = lines(events, Duration::from_millis(10), end)
            .collect()
            .await;
        let sent: Vec<Bytes> = sent
            .into_iter()
            .map(|line| line.expect("lines never fail"))
            .collect();
        assert_eq!(sent[..2], [&b"\n\n"[..], b"data: {}\n\n"]);
        assert!(sent.len() > 2, "nothing was sent in the silence");
        assert!(sent[2..].iter().all(|line| line == "\n\n"));
    }

    #[tokio::test]
    async fn the_stream_ends_with_its_events() {
        let events: Encoded = Box::pin(stream::empty());
        let end = Instant::now() + Duration::from_mins(1);
        assert_eq!(lines(events, Duration::from_mins(1), end).count().await, 1);
    }
}

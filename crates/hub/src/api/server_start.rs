//! `POST /api/users/{user}/servers/{server}`: starts a server.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use orrery_core::phase::Phase;
use orrery_core::scopes::Scope;

use super::SLOW_SPAWN;
use super::body::JsonBody;
use super::path::PathServer;
use super::schemas::SERVER_REQUEST;
use super::server::{PATHS, ServerBody};
use crate::audit::{Action, Event};
use crate::auth::Asking;
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::servers::{StartError, StartRequest};
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    let needs = Needs::ServerScopes(&[Scope::StartServers]);
    PATHS
        .into_iter()
        .fold(ApiRoutes::default(), |routes, path| {
            routes.post(path, needs, &START, start)
        })
}

const START: Operation = Operation::new("post-user-server-name", Tag::Servers, "Start a server")
    .about("Makes a named server that is not there yet. The answer is 202 after a few seconds, while the start goes on or waits for its turn.")
    .body(Body::json(Shape::One(&SERVER_REQUEST)).optional())
    .answers(&[
        Answer::empty(201, "The server is ready."),
        Answer::empty(202, "It starts."),
    ])
    .refuses(&[409, 429]);

/// Starts the server, creating a named one. Answers 201 when it is ready within a few seconds, else
/// 202: the start goes on, or waits for its turn.
async fn start(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    path: PathServer,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let (user, server) = (&path.user, &path.server);
    let body = ServerBody::read(body)?;
    let display_name = body.display_name.filter(|_| !server.is_default());
    if !server.is_default() {
        let shown = display_name.as_deref().unwrap_or(server.as_str());
        hub.servers
            .check_named_server(user, server, Some(shown), true)
            .await?;
    }
    let request = || StartRequest {
        options: body.user_options.clone(),
        display_name: display_name.clone(),
    };
    let started = match hub.servers.start(user, server, request()).await {
        // It may have died without anybody having noticed.
        Err(StartError::AlreadyRunning { .. }) if !hub.servers.poll_now(user, server).await? => {
            hub.servers.start(user, server, request()).await
        }
        other => other,
    };
    let run = match started {
        Ok(run) => run,
        Err(StartError::Pending {
            pending: "spawn", ..
        }) => return Ok(plain(StatusCode::ACCEPTED)),
        Err(error) => return Err(error.into()),
    };
    tracing::info!(user = %user.name, %server, by = requester.name(), "start requested");
    let event = Event::new(Action::ServerStart).by(&requester);
    let event = event.on_server(&user.name, server.as_str());
    hub.audit.record_others(event).await;
    match hub.servers.wait(run, SLOW_SPAWN).await? {
        Phase::Ready => Ok(plain(StatusCode::CREATED)),
        Phase::Queued | Phase::Starting => Ok(plain(StatusCode::ACCEPTED)),
        Phase::Failed | Phase::Stopping | Phase::Stopped => {
            let failure = hub
                .servers
                .view(user, server)
                .await?
                .and_then(|view| view.failure);
            let message = failure.map_or_else(
                || "The server was stopped before it was ready.".to_owned(),
                |failure| failure.message,
            );
            Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
    }
}

/// An answer without a body, as upstream gives it to requests about servers.
pub(super) fn plain(status: StatusCode) -> Response {
    if status == StatusCode::NO_CONTENT {
        return status.into_response();
    }
    (status, [(header::CONTENT_TYPE, "text/plain")], "").into_response()
}

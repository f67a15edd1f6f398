//! `DELETE /api/users/{user}/servers/{server}`: stops a server, and removes a named one.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use orrery_core::phase::Phase;
use orrery_core::scopes::Scope;

use super::body::JsonBody;
use super::path::PathServer;
use super::schemas::STOP_REQUEST;
use super::server::PATHS;
use super::server_start::plain;
use super::{SLOW_STOP, python};
use crate::audit::{Action, Event};
use crate::auth::Asking;
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::servers::{DeleteError, StopError, StopOutcome};
use crate::state::AppState;

/// How long a request waits for the end of a start that it cancelled. That it is cancelled stands in the
/// database at once; nobody waits for what a spawner that hangs makes of it.
const SLOW_CANCEL: Duration = Duration::from_millis(500);

pub(super) fn routes() -> ApiRoutes {
    let needs = Needs::ServerScopes(&[Scope::DeleteServers]);
    PATHS
        .into_iter()
        .fold(ApiRoutes::default(), |routes, path| {
            routes.delete(path, needs, &STOP, stop)
        })
}

const STOP: Operation = Operation::new("delete-user-server-name", Tag::Servers, "Stop a server")
    .about("Cancels a start that is under way. The answer is 202 after a few seconds, while the stop goes on.")
    .body(Body::json(Shape::One(&STOP_REQUEST)).optional())
    .answers(&[
        Answer::empty(202, "It stops."),
        Answer::empty(204, "It does not run any more."),
    ])
    .refuses(&[409]);

/// Stops the server; with `{"remove": true}` a named one goes altogether when it has stopped. Answers
/// 204 when that is done within a few seconds, else 202; sooner when a start is cancelled.
async fn stop(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    path: PathServer,
    body: JsonBody,
) -> Result<Response> {
    let (user, server) = (&path.user, &path.server);
    let body = body.object_or_nothing("Body must be a JSON object")?;
    let remove = body.get("remove").is_some_and(python::is_truthy);
    if server.is_default() {
        if remove {
            return Err(Error::bad_request("Cannot delete the default server"));
        }
    } else {
        if !hub.servers.settings().allow_named_servers {
            return Err(Error::bad_request("Named servers are not enabled."));
        }
        if hub.servers.view(user, server).await?.is_none() {
            return Err(no_such(&user.name, server.as_str()));
        }
    }
    let outcome = if remove {
        hub.servers.stop_and_delete(user, server).await
    } else {
        hub.servers.stop(user, server).await
    };
    let outcome = match outcome {
        // A default server that was never started.
        Err(StopError::NoSuchServer { .. }) if server.is_default() => StopOutcome::NotRunning,
        other => other?,
    };
    tracing::info!(user = %user.name, %server, by = requester.name(), remove, "stop requested");
    let event = Event::new(Action::ServerStop).by(&requester);
    let event = event.on_server(&user.name, server.as_str());
    hub.audit
        .record_others(event.detail("remove", remove))
        .await;
    let phase = match outcome {
        StopOutcome::AlreadyStopping(_) => Phase::Stopping,
        StopOutcome::Stopping(run) => hub.servers.wait(run, SLOW_STOP).await?,
        StopOutcome::Cancelled(run) => hub.servers.wait(run, SLOW_CANCEL).await?,
        StopOutcome::NotRunning => {
            if remove {
                match hub.servers.delete_server(user, server).await {
                    // The stop above may have removed it already.
                    Ok(()) | Err(DeleteError::NoSuchServer { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Phase::Stopped
        }
    };
    Ok(plain(if phase.is_active() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::NO_CONTENT
    }))
}

fn no_such(user: &str, server: &str) -> Error {
    Error::not_found(format!("{user} has no server named '{server}'"))
}

//! `/api/users/{user}/activity`: single-user servers tell when they were used.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use chrono::{NaiveDateTime, TimeDelta};
use orrery_core::ServerName;
use orrery_core::scopes::Scope;
use orrery_store::spawners;
use orrery_store::users::User;
use serde_json::{Map, Value};

use super::body::JsonBody;
use super::schemas::ACTIVITY;
use super::time::{isoformat, parse};
use super::{path, python};
use crate::auth::Asking;
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// Clocks differ, but not by more than this.
const FUTURE: TimeDelta = TimeDelta::minutes(59);

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default().post(
        "/api/users/{user}/activity",
        Needs::Scopes(&[Scope::UsersActivity]),
        &RECORD,
        record,
    )
}

const RECORD: Operation = Operation::new("post-user-activity", Tag::Users, "Tell of activity")
    .about("Moves the user's and their servers' last activity forward; nothing is taken when a part is wrong.")
    .body(Body::json(Shape::One(&ACTIVITY)))
    .answers(&[Answer::empty(200, "It was taken.")]);

/// `POST`: moves the user's and their servers' last activity forward; nothing of it is taken when a part
/// is wrong.
async fn record(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let user = path::find(&hub, &requester, &name).await?.ok_or_else(|| {
        let name: String = name.chars().take(64).collect();
        Error::not_found(format!("No such user: {}", python::repr(&name.into())))
    })?;
    let Value::Object(body) = body else {
        return Err(Error::bad_request("body must be a json dict"));
    };
    let given = |key: &str| body.get(key).filter(|value| python::is_truthy(value));
    let (of_user, of_servers) = (given("last_activity"), given("servers"));
    if of_user.is_none() && of_servers.is_none() {
        return Err(Error::bad_request(
            "body must contain at least one of `last_activity` or `servers`",
        ));
    }
    let now = hub.clock.now();
    let servers = match of_servers {
        Some(servers) => seen_servers(&hub, &user, servers, now).await?,
        None => Vec::new(),
    };
    if let Some(time) = of_user {
        hub.servers
            .record_user_activity(user.id, timestamp(time, now)?);
    }
    for (server, time) in servers {
        hub.servers.record_server_activity(user.id, &server, time);
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], "").into_response())
}

async fn seen_servers(
    hub: &AppState,
    user: &User,
    servers: &Value,
    now: NaiveDateTime,
) -> Result<Vec<(ServerName, NaiveDateTime)>> {
    let malformed = || {
        Error::bad_request(
            "servers must be a dict of the form {server_name: {last_activity: timestamp}}",
        )
    };
    let servers: &Map<String, Value> = servers.as_object().ok_or_else(malformed)?;
    let known = if servers.keys().all(String::is_empty) {
        Vec::new()
    } else {
        spawners::list_of_user(hub.store.read(), user.id).await?
    };
    let mut seen = Vec::new();
    for (name, info) in servers {
        // Every user has a default server, be its row made yet or not.
        let exists = name.is_empty() || known.iter().any(|spawner| spawner.name == *name);
        let Some(server) = ServerName::parse(name).ok().filter(|_| exists) else {
            let name: String = name.chars().take(64).collect();
            return Err(Error::bad_request(format!(
                "No such server '{name}' for user {}",
                user.name
            )));
        };
        let time = info
            .as_object()
            .and_then(|info| info.get("last_activity"))
            .ok_or_else(malformed)?;
        seen.push((server, timestamp(time, now)?));
    }
    Ok(seen)
}

fn timestamp(value: &Value, now: NaiveDateTime) -> Result<NaiveDateTime> {
    let time = value.as_str().and_then(parse).ok_or_else(|| {
        Error::bad_request(format!("Not a valid timestamp: {}", python::repr(value)))
    })?;
    if time.signed_duration_since(now) > FUTURE {
        return Err(Error::bad_request(format!(
            "Rejecting activity from more than an hour in the future: {}",
            isoformat(time)
        )));
    }
    Ok(time)
}

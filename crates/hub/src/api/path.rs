//! What a path names, looked up.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use orrery_core::ServerName;
use orrery_core::escape::for_log;
use orrery_store::groups::{self, Group};
use orrery_store::users::{self, User};

use crate::auth::Requester;
use crate::error::{Error, Result};
use crate::state::AppState;

/// The user that the path's `{user}` names; 404 if there is none.
pub(super) struct PathUser(pub(super) User);

impl FromRequestParts<AppState> for PathUser {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, hub: &AppState) -> Result<Self> {
        let name = parameter(parts, "user").await?.unwrap_or_default();
        let requester = parts.extensions.get::<Arc<Requester>>();
        let found = match requester {
            Some(requester) => find(hub, requester, &name).await?,
            None => users::find(hub.store.read(), &name).await?,
        };
        found.map(Self).ok_or_else(|| Error::not_found(""))
    }
}

/// The user of this name.
pub(super) async fn find(
    hub: &AppState,
    requester: &Requester,
    name: &str,
) -> Result<Option<User>> {
    match requester.user() {
        // Whoever asks was read, or found unchanged, for this very request.
        Some(user) if user.name == name => Ok(Some(User::clone(user))),
        _ => Ok(users::find(hub.store.read(), name).await?),
    }
}

/// The user and the server that the path names; 404 if there is no such user. Whether there is such a
/// server is the handler's question. Without `{server}` it is the default server.
pub(super) struct PathServer {
    /// Whose server.
    pub(super) user: User,
    /// Which one.
    pub(super) server: ServerName,
}

impl FromRequestParts<AppState> for PathServer {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, hub: &AppState) -> Result<Self> {
        let PathUser(user) = PathUser::from_request_parts(parts, hub).await?;
        let name = parameter(parts, "server").await?.unwrap_or_default();
        let server = ServerName::parse(&name).map_err(|_| {
            Error::bad_request(format!("Invalid server_name: {}", for_log(&name, 64)))
        })?;
        Ok(Self { user, server })
    }
}

/// The group that the path's `{group}` names; 404 if there is none.
pub(super) struct PathGroup(pub(super) Group);

impl FromRequestParts<AppState> for PathGroup {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, hub: &AppState) -> Result<Self> {
        let name = parameter(parts, "group").await?.unwrap_or_default();
        let found = groups::find(hub.store.read(), &name).await?;
        found
            .map(Self)
            .ok_or_else(|| Error::not_found(format!("No such group: {name}")))
    }
}

/// One parameter of the path, decoded.
async fn parameter(parts: &mut Parts, name: &str) -> Result<Option<String>> {
    let parameters = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|_| Error::bad_request("The address is not valid UTF-8."))?;
    let value = parameters
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned());
    Ok(value)
}

//! `/hub/home`: a person's own servers.

use axum::extract::State;
use axum::response::Html;
use minijinja::context;
use minijinja::value::{Serde, Value};
use orrery_core::ServerName;
use std::sync::Arc;

use super::respond::frame;
use crate::auth::{Asking, auth_state, user_name};
use crate::error::Result;
use crate::servers::is_valid_name;
use crate::state::AppState;

/// `GET /hub/home`.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
) -> Result<Html<String>> {
    let user = requester.logged_in()?;
    let default = ServerName::default_server();
    if hub
        .servers
        .view(user, &default)
        .await?
        .is_some_and(|view| view.ready())
    {
        // A server that died since its last check is shown as stopped.
        hub.servers.poll_now(user, &default).await?;
    }
    let frame = frame(&hub, &requester).await?;
    let Some(person) = &frame.user else {
        return Err(crate::error::Error::Internal(
            "a page for people was asked for by nobody".to_owned(),
        ));
    };
    let name = user_name(user)?;
    let is_active =
        person.default_server.active || person.named_servers.iter().any(|server| server.active);
    // Starting is always somebody's explicit wish: only the spawn page does it.
    let url = if is_active {
        hub.urls.user_url(&name)
    } else {
        hub.urls.spawn(&name, &default)
    };
    let old_names: Vec<&str> = person
        .named_servers
        .iter()
        .map(|server| server.name.as_str())
        .filter(|name| !is_valid_name(name))
        .collect();
    let spawners: Vec<Value> = std::iter::once(&person.default_server)
        .chain(&person.named_servers)
        .map(|server| Value::from_dyn_object(Arc::clone(server)))
        .collect();
    let html = hub.templates.render(
        "home.html",
        context! {
            url,
            allow_named_servers => hub.config.hub.allow_named_servers,
            named_server_limit_per_user => hub.config.hub.named_server_limit_per_user,
            spawners,
            default_server => Value::from_dyn_object(Arc::clone(&person.default_server)),
            invalid_server_names => Serde(old_names),
            accesses => super::audit::latest(&hub, user).await?,
            auth_state => Serde(auth_state::of(&hub, user).await?),
            ..frame.value()
        },
    )?;
    Ok(Html(html))
}

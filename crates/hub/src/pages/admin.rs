//! `/hub/admin`: everybody's servers. The page itself asks the REST API for them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use minijinja::context;
use minijinja::value::Serde;

use super::Frame;
use super::respond::frame;
use crate::auth::{Asking, auth_state};
use crate::error::Result;
use crate::state::AppState;

/// `GET /hub/admin`.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
) -> Result<Html<String>> {
    let frame = frame(&hub, &requester).await?;
    let frame = Arc::new(Frame {
        admin_access: true,
        ..(*frame).clone()
    });
    let html = hub.templates.render(
        "admin.html",
        context! {
            api_page_limit => hub.config.hub.api_page_default_limit,
            allow_named_servers => hub.config.hub.allow_named_servers,
            named_server_limit_per_user => hub.config.hub.named_server_limit_per_user,
            server_version => env!("CARGO_PKG_VERSION"),
            auth_state => Serde(auth_state::of(&hub, requester.logged_in()?).await?),
            ..frame.value()
        },
    )?;
    Ok(Html(html))
}

//! `/hub/error/<status>`: what the proxy shows when it cannot reach a server.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Html;
use minijinja::context;

use super::respond::{frame, stranger_frame};
use crate::auth::Asking;
use crate::error::{Error, Result};
use crate::state::AppState;

/// `GET /hub/error/:status`. It answers 200: the proxy puts its own status on it.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(status): Path<String>,
) -> Result<Html<String>> {
    // Only digits are a route, as upstream has it.
    let code = status.parse::<u16>().map_err(|_| Error::not_found(""))?;
    let reason = StatusCode::from_u16(code)
        .ok()
        .and_then(|status| status.canonical_reason());
    let home = hub.urls.hub_path("home");
    let message_html = (code == 503)
        .then(|| format!("Your server does not answer. It may have stopped: you can start it again <a href=\"{home}\">at home</a>."));
    let frame = if requester.user().is_some() {
        frame(&hub, &requester).await?
    } else {
        stranger_frame(&hub, &requester)
    };
    let html = hub.templates.render_status(
        code,
        context! {
            status_code => code,
            status_message => reason.unwrap_or("Unknown HTTP Error"),
            message_html,
            logo_url => home,
            ..frame.value()
        },
    )?;
    Ok(Html(html))
}

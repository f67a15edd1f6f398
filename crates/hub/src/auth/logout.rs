//! Logging out.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use orrery_store::api_tokens;

use super::{Asking, Requester, session, sessions, xsrf};
use crate::audit::{Action, Event};
use crate::error::Result;
use crate::pages;
use crate::state::AppState;

/// `GET /hub/logout`: ends the browser session: its cookies and every token made in it, so that
/// servers refuse it as well.
pub async fn logout(State(hub): State<AppState>, Asking(requester): Asking) -> Result<Response> {
    let began = std::time::Instant::now();
    let ended = end(&hub, &requester).await;
    let page = ended.and_then(|()| page(&hub, &requester));
    // Also where the database takes nothing for now: whoever uses this browser next is not logged in.
    requester.clear_cookie(
        session::SESSION_COOKIE,
        &hub.urls.base,
        hub.session_cookie_domain(),
    );
    requester.clear_cookie(hub.login_cookie(), &hub.urls.hub, None);
    requester.clear_cookie(xsrf::NAME, &hub.urls.hub, None);
    if page.is_ok() {
        hub.metrics.logout(began.elapsed());
    }
    page
}

/// Stops what is to be stopped at a logout, and ends the session and its tokens.
async fn end(hub: &AppState, requester: &Requester) -> Result<()> {
    let Some(user) = requester.user() else {
        return Ok(());
    };
    if hub.config.hub.shutdown_on_logout {
        for view in hub.servers.views(user).await? {
            if view.ready()
                && let Err(error) = hub.servers.stop(user, &view.name).await
            {
                tracing::error!(user = %user.name, server = %view.name, %error, "not stopped on logout");
            }
        }
    }
    // A stranger's request must not end a session whose id it may have guessed.
    let tokens = if let Some(session) = &requester.session {
        sessions::end(hub, session).await?.unwrap_or_default()
    } else if let Some(session_id) = requester.session_id() {
        let (id, session_id) = (user.id, session_id.as_str());
        hub.store
            .write(|transaction| async move {
                api_tokens::delete_session(&transaction, id, session_id).await
            })
            .await?
    } else {
        0
    };
    tracing::info!(user = %user.name, tokens, "user logged out");
    let event = Event::new(Action::Logout)
        .by(requester)
        .detail("tokens", tokens);
    hub.audit.note(event.on_user(&user.name));
    Ok(())
}

fn page(hub: &AppState, requester: &Requester) -> Result<Response> {
    if hub.config.authenticator.auto_login {
        // The login page would log in again at once.
        return Ok(pages::logout(hub, requester)?.into_response());
    }
    Ok(crate::error::redirect(&hub.urls.hub_path("login")))
}

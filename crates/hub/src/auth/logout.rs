//! Logging out.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use orrery_store::api_tokens;

use super::{Asking, session, sessions, xsrf};
use crate::audit::{Action, Event};
use crate::error::Result;
use crate::pages;
use crate::state::AppState;

/// `GET /hub/logout`: ends the browser session: its cookies and every token made in it, so that
/// servers refuse it as well.
pub async fn logout(State(hub): State<AppState>, Asking(requester): Asking) -> Result<Response> {
    let began = std::time::Instant::now();
    if let Some(user) = requester.user() {
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
            sessions::end(&hub, session).await?.unwrap_or_default()
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
            .by(&requester)
            .detail("tokens", tokens);
        hub.audit.note(event.on_user(&user.name));
    }
    let page = if hub.config.authenticator.auto_login {
        // The login page would log in again at once.
        pages::logout(&hub, &requester)?.into_response()
    } else {
        crate::error::redirect(&hub.urls.hub_path("login"))
    };
    requester.clear_cookie(
        session::SESSION_COOKIE,
        &hub.urls.base,
        hub.session_cookie_domain(),
    );
    requester.clear_cookie(hub.login_cookie(), &hub.urls.hub, None);
    requester.clear_cookie(xsrf::NAME, &hub.urls.hub, None);
    hub.metrics.logout(began.elapsed());
    Ok(page)
}

//! `/api/users/{user}/admin-access`: deprecated since JupyterHub 0.8, when administrators came to log in
//! to other people's servers as everybody does. It only says whether `JupyterHub.admin_access` is on.

use axum::extract::State;
use orrery_core::scopes::Scope;

use super::path::PathUser;
use crate::error::{Error, Result};
use crate::router::{Needs, Routes};
use crate::state::AppState;

pub(super) fn routes() -> Routes {
    Routes::default().post(
        "/api/users/{user}/admin-access",
        Needs::Scopes(&[Scope::Servers]),
        ask,
    )
}

/// `POST`: an empty answer, or 403 where administrators have no access by this option.
async fn ask(State(hub): State<AppState>, PathUser(_): PathUser) -> Result<()> {
    if hub.config.hub.admin_access {
        Ok(())
    } else {
        Err(Error::forbidden("admin access to user servers disabled"))
    }
}

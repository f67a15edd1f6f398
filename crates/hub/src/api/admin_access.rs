//! `/api/users/{user}/admin-access`: deprecated since JupyterHub 0.8, when administrators came to log in
//! to other people's servers as everybody does. It only says whether `JupyterHub.admin_access` is on.

use axum::extract::State;
use orrery_core::scopes::Scope;

use super::path::PathUser;
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default().post(
        "/api/users/{user}/admin-access",
        Needs::Scopes(&[Scope::Servers]),
        &ASK,
        ask,
    )
}

const ASK: Operation = Operation::new("post-user-admin-access", Tag::Users, "Ask for access to a user's servers")
    .about("Only says whether `JupyterHub.admin_access` is on. Administrators log in to other people's servers as everybody does.")
    .deprecated()
    .answers(&[Answer::empty(200, "It is on.")]);

/// `POST`: an empty answer, or 403 where administrators have no access by this option.
async fn ask(State(hub): State<AppState>, user: Result<PathUser>) -> Result<()> {
    // JupyterHub looks whether there is such a user only then.
    if hub.config.hub.admin_access {
        user.map(|_| ())
    } else {
        Err(Error::forbidden("admin access to user servers disabled"))
    }
}

//! `/api/user`: who asks.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use orrery_core::scopes::identify_scopes;
use serde_json::json;

use super::arguments::Arguments;
use super::models::{self, Model, ServiceDetail};
use super::schemas::{IDENTITY, INCLUDE_STOPPED_SERVERS};
use super::user_models;
use crate::auth::{Asking, Identity, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// The largest answer that is kept, in bytes: there may be one for each token.
const MOST_KEPT: usize = 8 * 1024;

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default().get("/api/user", Needs::Nothing, &SHOW, show)
}

const SHOW: Operation = Operation::new("get-current-user", Tag::Users, "Show who asks")
    .about("The user or service whose credentials these are, and what they may do.")
    .checks(Needs::Credentials)
    .query(&[&INCLUDE_STOPPED_SERVERS])
    .answers(&[Answer::json(200, "The requester.", Shape::One(&IDENTITY))]);

/// `GET /api/user`: the requester's own model, with the token and its scopes. Single-user servers and
/// services ask this with their users' tokens, on each request whose answer they do not remember, so
/// the answer is kept along with what is known of the credentials, as long as nothing in the database
/// changes.
async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    arguments: Arguments,
) -> Result<Response> {
    let Some(identity) = &requester.identity else {
        return Err(Error::forbidden(""));
    };
    if arguments.include_stopped_servers() {
        return Ok(respond(answer(&hub, &requester, identity, true).await?));
    }
    if let Some(kept) = requester.self_answer.get() {
        return Ok(respond(kept.clone()));
    }
    let answer = answer(&hub, &requester, identity, false).await?;
    if answer.len() <= MOST_KEPT {
        // Another request may have been faster; both say the same.
        let _ = requester.self_answer.set(answer.clone());
    }
    Ok(respond(answer))
}

fn respond(answer: Bytes) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )],
        answer,
    )
        .into_response()
}

async fn answer(
    hub: &AppState,
    requester: &Requester,
    identity: &Identity,
    stopped: bool,
) -> Result<Bytes> {
    let mut model = shown(hub, requester, identity, stopped).await?;
    let token = requester.token.as_ref();
    model.insert(
        "token_id".to_owned(),
        json!(token.map(|token| models::token_id(token))),
    );
    model.insert(
        "session_id".to_owned(),
        json!(token.and_then(|token| token.session_id.as_deref())),
    );
    model.insert("scopes".to_owned(), json!(requester.scopes.to_strings()));
    serde_json::to_vec(&model)
        .map(Bytes::from)
        .map_err(|error| Error::Internal(format!("a user's model could not be written: {error}")))
}

/// A user or service whose credentials somebody has shown. Everybody may know who that is, whatever the
/// requester's token is for.
pub(super) async fn shown(
    hub: &AppState,
    requester: &Requester,
    identity: &Identity,
    stopped: bool,
) -> Result<Model> {
    let scopes = requester.scopes.union(&identify_scopes(identity.owner()));
    match identity {
        Identity::User(user) => user_models::user(hub, &scopes, user, stopped).await,
        Identity::Service(service) => {
            models::service(hub, &scopes, service, ServiceDetail::Row).await
        }
    }
}

//! `/api/users/{user}/tokens`: a user's API tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orrery_core::scopes::Scope;
use orrery_store::api_tokens::{self, ApiToken};
use orrery_store::users::{self, User};
use orrery_store::{StoreError, oauth_codes};
use serde_json::{Value, json};

use super::models;
use super::path::PathUser;
use super::schemas::{TOKEN, TOKENS};
use crate::audit::{Action, Event};
use crate::auth::{self, Asking, Identity, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    let (list, one, no_one) = (
        "/api/users/{user}/tokens",
        "/api/users/{user}/tokens/{token_id}",
        "/api/users/{user}/tokens/",
    );
    let readers = Needs::Scopes(&[Scope::ReadTokens]);
    let writers = Needs::Scopes(&[Scope::Tokens]);
    ApiRoutes::default()
        .get(list, readers, &SHOW_ALL, show_all)
        .get(one, readers, &SHOW, show)
        .delete(one, writers, &DELETE, delete)
        .get(no_one, readers, &SHOW, no_id)
        .delete(no_one, writers, &DELETE, no_id)
}

const SHOW_ALL: Operation = Operation::new("get-user-tokens", Tag::Tokens, "List a user's tokens")
    .about("Those that have not expired, the one used longest ago first.")
    .answers(&[Answer::json(200, "The tokens.", Shape::One(&TOKENS))]);

/// `GET …/tokens`: those that have not expired, the one used longest ago first.
async fn show_all(State(hub): State<AppState>, Path(name): Path<String>) -> Result<Json<Value>> {
    let user = find_user(&hub, &name).await?;
    let scopes = auth::user_scopes(&hub, hub.store.read(), &user).await?;
    let now = hub.clock.now();
    let mut tokens = api_tokens::list(hub.store.read(), api_tokens::Owner::User(user.id)).await?;
    tokens.retain(|token| token.expires_at.is_none_or(|end| end >= now));
    tokens.sort_by_key(|token| token.last_activity.or(token.created));
    let owner = Identity::User(Arc::new(user));
    let mut shown = Vec::with_capacity(tokens.len());
    for token in &tokens {
        shown.push(models::token(&hub, token, &owner, &scopes).await?);
    }
    Ok(Json(json!({ "api_tokens": shown })))
}

const SHOW: Operation =
    Operation::new("get-user-token", Tag::Tokens, "Show a token").answers(&[Answer::json(
        200,
        "The token, without its secret.",
        Shape::One(&TOKEN),
    )]);

/// `GET …/tokens/{id}`.
async fn show(
    State(hub): State<AppState>,
    Path((name, id)): Path<(String, String)>,
) -> Result<Json<Value>> {
    let user = find_user(&hub, &name).await?;
    let token = find_token(&hub, &user, &id).await?;
    let scopes = auth::user_scopes(&hub, hub.store.read(), &user).await?;
    let owner = Identity::User(Arc::new(user));
    Ok(Json(Value::Object(
        models::token(&hub, &token, &owner, &scopes).await?,
    )))
}

const DELETE: Operation = Operation::new("delete-user-token", Tag::Tokens, "Revoke a token")
    .about("With a token from an OAuth login go all of the same application, and codes that it has not exchanged yet.")
    .answers(&[Answer::empty(204, "The token is gone.")]);

/// `DELETE …/tokens/{id}`. With a token from an OAuth login go all of the same application.
async fn delete(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path((name, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    let user = find_user(&hub, &name).await?;
    let token = find_token(&hub, &user, &id).await?;
    revoke(&hub, &requester, &token, &Identity::User(Arc::new(user))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a token; with one from an OAuth login all of the same application, and what it could exchange for
/// another.
pub(super) async fn revoke(
    hub: &AppState,
    requester: &Requester,
    token: &ApiToken,
    owner: &Identity,
) -> Result<()> {
    let of = match owner {
        Identity::User(user) => api_tokens::Owner::User(user.id),
        Identity::Service(service) => api_tokens::Owner::Service(service.id),
    };
    hub.store
        .write(|transaction| async move {
            match token.client_id.as_deref() {
                Some(client) if client != "jupyterhub" => {
                    // First, so that none is exchanged once the tokens are gone.
                    if let api_tokens::Owner::User(user_id) = of {
                        oauth_codes::delete_of_user_and_client(&transaction, user_id, client)
                            .await?;
                    }
                    api_tokens::delete_of_owner_and_client(&transaction, of, client).await?;
                }
                _ => {
                    api_tokens::delete(&transaction, token.id).await?;
                }
            }
            Ok::<_, StoreError>(())
        })
        .await?;
    let event = Event::new(Action::TokenRevoke).by(requester);
    let event = match owner {
        Identity::User(user) => event.on_user(&user.name).owned_by(&user.name),
        Identity::Service(service) => event.on_service(&service.fields.name),
    };
    let event = event
        .detail("token", format!("a{}", token.id))
        .detail("note", token.note.clone().unwrap_or_default());
    tracing::info!(token = token.id, by = requester.name(), "token deleted");
    hub.audit
        .record(event.detail("oauth_client", token.client_id.clone()))
        .await;
    Ok(())
}

/// `…/tokens/` without an id.
async fn no_id(PathUser(user): PathUser) -> Error {
    Error::not_found(format!("No such token  for user {}", user.name))
}

async fn find_user(hub: &AppState, name: &str) -> Result<User> {
    users::find(hub.store.read(), name)
        .await?
        .ok_or_else(|| Error::not_found(format!("No such user: {name}")))
}

async fn find_token(hub: &AppState, user: &User, id: &str) -> Result<ApiToken> {
    let number = id
        .strip_prefix('a')
        .and_then(|number| number.parse::<i32>().ok());
    let token = match number {
        Some(number) => api_tokens::find_by_id(hub.store.read(), number).await?,
        None => None,
    };
    token
        .filter(|token| token.user_id == Some(user.id))
        .ok_or_else(|| {
            let id: String = id.chars().take(64).collect();
            Error::not_found(format!("No such token {id} for user {}", user.name))
        })
}

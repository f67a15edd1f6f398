//! `/api/authorizations`: of old, for services that resolve tokens and cookies one by one. Requests prove
//! themselves by a token; a cookie is not enough.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orrery_core::Secret;
use orrery_core::escape::path_segment;
use orrery_core::scopes::{Owner, identify_scopes};
use serde_json::Value;

use super::models::{self, ServiceDetail};
use super::user_models;
use crate::auth::{self, Asking, Identity, Requester};
use crate::error::{Error, Result};
use crate::router::{Needs, Routes};
use crate::state::AppState;

pub(super) fn routes() -> Routes {
    Routes::default()
        .get("/api/authorizations/token/{token}", Needs::Nothing, token)
        .post("/api/authorizations/token", Needs::Nothing, removed)
        .post("/api/authorizations/token/{token}", Needs::Nothing, removed)
        .get(
            "/api/authorizations/cookie/{name}/{value}",
            Needs::Nothing,
            cookie,
        )
}

/// `GET …/token/{token}`: whose token it is.
async fn token(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(token): Path<String>,
) -> Result<Json<Value>> {
    needs_token(&requester)?;
    let known = auth::by_token(&hub, &Secret::new(token))
        .await?
        .ok_or_else(|| Error::not_found(""))?;
    if let Some(token) = &known.token {
        hub.servers.record_token_activity(token.id, hub.clock.now());
    }
    let model = match &known.identity {
        Identity::User(user) => {
            hub.servers.record_user_activity(user.id, hub.clock.now());
            let scopes = requester
                .scopes
                .union(&identify_scopes(Owner::User(&user.name)));
            user_models::user(&hub, &scopes, user, false).await?
        }
        Identity::Service(service) => {
            let scopes = requester
                .scopes
                .union(&identify_scopes(Owner::Service(&service.fields.name)));
            models::service(&hub, &scopes, service, ServiceDetail::Row).await?
        }
    };
    Ok(Json(Value::Object(model)))
}

/// `POST …/token`: gone since JupyterHub 2.
async fn removed() -> Error {
    Error::new(
        StatusCode::NOT_FOUND,
        "Deprecated endpoint /hub/api/authorizations/token is removed in JupyterHub 2.0. \
         Use /hub/api/users/:user/tokens instead.",
    )
}

/// `GET …/cookie/{name}/{value}`: whose login cookie it is.
async fn cookie(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path((name, value)): Path<(String, String)>,
) -> Result<Json<Value>> {
    needs_token(&requester)?;
    let name = path_segment(&name);
    let cookie_id = hub
        .signer
        .verify(&name, &value, hub.cookie_max_age(), hub.unix_time())
        .and_then(|value| String::from_utf8(value).ok())
        .ok_or_else(|| Error::not_found(""))?;
    let known = auth::by_cookie(&hub, &cookie_id)
        .await?
        .ok_or_else(|| Error::not_found(""))?;
    let Identity::User(user) = &known.identity else {
        return Err(Error::not_found(""));
    };
    Ok(Json(Value::Object(
        user_models::user(&hub, &requester.scopes, user, false).await?,
    )))
}

fn needs_token(requester: &Requester) -> Result<()> {
    if requester.used_token() {
        Ok(())
    } else {
        Err(Error::forbidden(""))
    }
}

//! `/api/authorizations`: of old, for services that resolve tokens and cookies one by one. Requests prove
//! themselves by a token; a cookie is not enough.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orrery_core::Secret;
use orrery_core::escape::path_segment;
use serde_json::{Value, json};

use super::schemas::{SERVICE, USER};
use super::{self_user, user_models};
use crate::auth::sessions::LoginCookie;
use crate::auth::{self, Asking, Identity, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get(
            "/api/authorizations/token/{token}",
            Needs::Nothing,
            &TOKEN,
            token,
        )
        .post(
            "/api/authorizations/token",
            Needs::Nothing,
            &REMOVED,
            removed,
        )
        .post(
            "/api/authorizations/token/{token}",
            Needs::Nothing,
            &REMOVED_WITH_TOKEN,
            removed,
        )
        .get(
            "/api/authorizations/cookie/{name}/{value}",
            Needs::Nothing,
            &COOKIE,
            cookie,
        )
}

fn user_or_service() -> Value {
    json!({ "oneOf": [USER.reference(), SERVICE.reference()] })
}

fn user_or_nothing() -> Value {
    json!({ "oneOf": [USER.reference(), { "type": "object", "maxProperties": 0 }] })
}

const TOKEN: Operation = Operation::new("get-auth-token", Tag::Tokens, "Find out whose token it is")
    .about("Requests prove themselves by a token; a cookie is not enough. `GET /user` with the token in question is better.")
    .deprecated()
    .checks(Needs::Credentials)
    .answers(&[Answer::json(200, "The user or service.", Shape::Inline(user_or_service))]);

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
    if let Identity::User(user) = &known.identity {
        hub.servers.record_user_activity(user.id, hub.clock.now());
    }
    let model = self_user::shown(&hub, &requester, &known.identity, false).await?;
    Ok(Json(Value::Object(model)))
}

const REMOVED: Operation = Operation::new("post-auth-token", Tag::Tokens, "Gone: make a token")
    .about("Gone since JupyterHub 2: always answers 404. `POST /users/{name}/tokens` makes tokens.")
    .deprecated()
    .refuses(&[404]);
const REMOVED_WITH_TOKEN: Operation = Operation::new(
    "post-auth-token-token",
    Tag::Tokens,
    "Gone: make a token",
)
.about("Gone since JupyterHub 2: always answers 404. `POST /users/{name}/tokens` makes tokens.")
.deprecated();

/// `POST …/token`: gone since JupyterHub 2.
async fn removed() -> Error {
    Error::new(
        StatusCode::NOT_FOUND,
        "Deprecated endpoint /hub/api/authorizations/token is removed in JupyterHub 2.0. \
         Use /hub/api/users/:user/tokens instead.",
    )
}

const COOKIE: Operation = Operation::new(
    "get-auth-cookie",
    Tag::Tokens,
    "Find out whose login cookie it is",
)
.about("Requests prove themselves by a token; a cookie is not enough.")
.deprecated()
.checks(Needs::Credentials)
.answers(&[Answer::json(
    200,
    "The user; empty where the requester may not see them.",
    Shape::Inline(user_or_nothing),
)]);

/// `GET …/cookie/{name}/{value}`: whose login cookie it is.
async fn cookie(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path((name, value)): Path<(String, String)>,
) -> Result<Json<Value>> {
    needs_token(&requester)?;
    let name = path_segment(&name);
    let cookie = LoginCookie::read(&hub, &name, &value).ok_or_else(|| Error::not_found(""))?;
    let known = auth::by_cookie(&hub, &cookie, None)
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

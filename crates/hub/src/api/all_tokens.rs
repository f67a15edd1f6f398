//! `/api/tokens`: everybody's API tokens, for administrators. JupyterHub shows tokens of one user at a time.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orrery_core::escape::for_log;
use orrery_core::scopes::{Scope, ScopeSet, Target};
use orrery_store::api_tokens::{self, ApiToken, Owner, TokenQuery};
use orrery_store::{services, users};
use serde_json::Value;

use super::arguments::Arguments;
use super::schemas::{AFTER, LIMIT, TOKEN_PAGE, UNUSED_SINCE, USER_FILTER};
use super::sessions::visible;
use super::{models, tokens};
use crate::auth::{self, Asking, Identity, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Parameter, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get(
            "/api/tokens",
            Needs::SomeScopes(&[Scope::ReadTokens]),
            &LIST,
            list,
        )
        .delete(
            "/api/tokens/{token_id}",
            Needs::SomeScopes(&[Scope::Tokens]),
            &DELETE,
            delete,
        )
}

const SERVICE: Parameter = Parameter::new(
    "service",
    "Only the tokens of this service.",
    || serde_json::json!({ "type": "string" }),
);
const NOTE: Parameter = Parameter::new(
    "note",
    "Only tokens with this in their note, in upper or lower case.",
    || serde_json::json!({ "type": "string", "maxLength": 1023 }),
);
const EXPIRED: Parameter = Parameter::new(
    "expired",
    "Only tokens that have expired, or only those that have not. Expired ones are thrown away every hour.",
    || serde_json::json!({ "type": "boolean" }),
);

const LIST: Operation = Operation::new("get-tokens", Tag::Tokens, "List everybody's tokens")
    .about(
        "Those of users whose tokens the requester may read, by id; those of services too, if the requester \
         holds `read:tokens` and `read:services` without a filter. JupyterHub has no such list.",
    )
    .query(&[&AFTER, &LIMIT, &USER_FILTER, &SERVICE, &NOTE, &EXPIRED, &UNUSED_SINCE])
    .answers(&[Answer::json(200, "One page.", Shape::One(&TOKEN_PAGE))])
    .refuses(&[400]);

/// `GET /api/tokens`.
async fn list(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let limit = arguments.page(&hub)?.limit;
    let nothing = || Ok(Json(arguments.keyset(&requester, &[], limit, None)));
    let owner = match (arguments.get("user"), arguments.get("service")) {
        (Some(_), Some(_)) => {
            return Err(Error::bad_request(
                "Ask for a user or for a service, not for both",
            ));
        }
        (Some(user), None) => match users::find(hub.store.read(), user).await? {
            Some(user) => Some(Owner::User(user.id)),
            None => return nothing(),
        },
        (None, Some(service)) => match services::find(hub.store.read(), service).await? {
            Some(service) => Some(Owner::Service(service.id)),
            None => return nothing(),
        },
        (None, None) => None,
    };
    let expired = match arguments.get("expired") {
        None => None,
        Some("true" | "1") => Some((true, hub.clock.now())),
        Some("false" | "0") => Some((false, hub.clock.now())),
        Some(_) => return Err(Error::bad_request("expired must be true or false")),
    };
    let Ok(after) = i32::try_from(arguments.after()?) else {
        return nothing();
    };
    let visible = visible(&requester, Scope::ReadTokens);
    let query = TokenQuery {
        after,
        // One more tells whether there is a next page.
        limit: limit + 1,
        owner,
        note: arguments
            .get("note")
            .filter(|note| !note.is_empty())
            .map(|note| note.chars().take(1023).collect()),
        expired,
        unused_since: arguments.time("unused_since")?,
        services: visible.is_none() && requester.scopes.has(Scope::ReadServices),
        visible,
    };
    let _turn = hub.long_reads.turn().await?;
    let mut found = api_tokens::page(hub.store.read(), &query).await?;
    let has_more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut owners = Owners::default();
    let mut shown = Vec::with_capacity(found.len());
    for token in &found {
        if let Some((owner, scopes)) = owners.of(&hub, token).await? {
            let model = models::token(&hub, token, &owner, &scopes).await?;
            shown.push(Value::Object(model));
        }
    }
    let next = found.last().filter(|_| has_more);
    let next = next.map(|last| i64::from(last.id));
    Ok(Json(arguments.keyset(&requester, &shown, limit, next)))
}

/// The owners of a page's tokens, each looked up once, with all that they may do.
#[derive(Default)]
struct Owners(HashMap<OwnerKey, Option<(Identity, ScopeSet)>>);

/// A user's id, or a service's.
type OwnerKey = (Option<i32>, Option<i32>);

impl Owners {
    async fn of(
        &mut self,
        hub: &AppState,
        token: &ApiToken,
    ) -> Result<Option<(Identity, ScopeSet)>> {
        let key = (token.user_id, token.service_id);
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let connection = hub.store.read();
        let found = match auth::token_owner(connection, token).await? {
            Some(owner) => {
                let scopes = auth::identity_scopes(hub, connection, &owner).await?;
                Some((owner, scopes))
            }
            None => None,
        };
        self.0.insert(key, found.clone());
        Ok(found)
    }
}

const DELETE: Operation = Operation::new("delete-token", Tag::Tokens, "Revoke anybody's token")
    .about(
        "As by the user's own address: with a token from an OAuth login go all of the same application. \
         A service's token takes `tokens` without a filter and `admin:services`.",
    )
    .answers(&[Answer::empty(204, "The token is gone.")]);

/// `DELETE /api/tokens/{id}`.
async fn delete(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    let no_such = || Error::not_found(format!("No such token {}", for_log(&id, 64)));
    let number = id.strip_prefix('a').and_then(|id| id.parse::<i32>().ok());
    let token = match number {
        Some(number) => api_tokens::find_by_id(hub.store.read(), number).await?,
        None => None,
    };
    let token = token.ok_or_else(no_such)?;
    let owner = auth::token_owner(hub.store.read(), &token).await?;
    let owner = owner.ok_or_else(no_such)?;
    if !may_revoke(&requester, &owner).await? {
        return Err(no_such());
    }
    tokens::revoke(&hub, &requester, &token, &owner).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn may_revoke(requester: &Requester, owner: &Identity) -> Result<bool> {
    match owner {
        Identity::User(user) => requester.may(Scope::Tokens, Target::User(&user.name)).await,
        Identity::Service(service) => {
            let target = Target::Service(&service.fields.name);
            Ok(requester.scopes.has(Scope::Tokens)
                && requester.may(Scope::AdminServices, target).await?)
        }
    }
}

//! `/api/share-codes/{user}/{server}`: codes that whoever gets one can exchange for a share, on
//! `/hub/accept-share`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine as _;
use chrono::TimeDelta;
use orrery_core::escape::for_log;
use orrery_core::scopes::Scope;
use orrery_core::{Secret, random};
use orrery_store::share_codes::{self, NewShareCode, ShareCode};
use orrery_store::shares::Of;
use orrery_store::token_hash::{self, Origin};
use orrery_store::users;
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::body::JsonBody;
use super::path::PathUser;
use super::schemas::{LIMIT, NEW_SHARE_CODE, OFFSET, SHARE_CODE, SHARE_CODE_REQUEST};
use super::share_models::{self, short};
use super::shares::{SharedServer, check_holds, fields, needs_server, of_one_server_only, scopes};
use crate::audit::{Action, Event};
use crate::auth::{Asking, redirects};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Parameter, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// How long a code lives, in seconds, if the request does not say.
const DEFAULT_LIFETIME: i64 = 86_400;
/// How long a code may live, in seconds: a minute to a year.
const LIFETIMES: std::ops::RangeInclusive<i64> = 60..=525_600 * 60;

pub(super) fn routes() -> ApiRoutes {
    let (read, write) = (&[Scope::ReadShares], &[Scope::Shares]);
    let all = "/api/share-codes/{user}";
    let routes = ApiRoutes::default()
        .get(all, Needs::Scopes(read), &OF_OWNER, of_owner)
        .post(
            all,
            Needs::Scopes(write),
            &NEEDS_SERVER_POST,
            of_one_server_only,
        )
        .delete(
            all,
            Needs::Scopes(write),
            &NEEDS_SERVER_DELETE,
            of_one_server_only,
        );
    [
        "/api/share-codes/{user}/",
        "/api/share-codes/{user}/{server}",
    ]
    .into_iter()
    .fold(routes, |routes, path| {
        routes
            .get(path, Needs::ServerScopes(read), &OF_SERVER, of_server)
            .post(path, Needs::ServerScopes(write), &CREATE, create)
            .delete(path, Needs::ServerScopes(write), &DELETE, delete)
    })
}

/// What lists of codes answer.
const ONE_PAGE: &[Answer] = &[Answer::json(
    200,
    "One page of codes.",
    Shape::Framed(&SHARE_CODE),
)];

const OF_OWNER: Operation = Operation::new(
    "get-share-codes-owner",
    Tag::Shares,
    "List the codes for a user's servers",
)
.query(&[&OFFSET, &LIMIT])
.answers(ONE_PAGE);

const NEEDS_SERVER_POST: Operation = needs_server("post-share-codes-owner");
const NEEDS_SERVER_DELETE: Operation = needs_server("delete-share-codes-owner");

/// `GET /share-codes/{user}`: the codes for all of a user's servers.
async fn of_owner(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(owner): PathUser,
    arguments: Arguments,
) -> Result<Json<Value>> {
    share_models::code_list(&hub, &requester, &arguments, Of::Owner(owner.id)).await
}

const OF_SERVER: Operation = Operation::new(
    "get-share-codes-server",
    Tag::Shares,
    "List the codes for a server",
)
.query(&[&OFFSET, &LIMIT])
.answers(ONE_PAGE);

/// `GET`: the codes for one server.
async fn of_server(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(path): Path<Vec<(String, String)>>,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let (_, spawner) = SharedServer::named(&path).find(&hub).await?;
    let of = Of::Spawner(spawner.map_or(0, |spawner| spawner.id));
    share_models::code_list(&hub, &requester, &arguments, of).await
}

const CREATE: Operation =
    Operation::new("post-share-code", Tag::Shares, "Make a code for a server")
        .about("Whoever has it can exchange it for a share, at its `accept_url`.")
        .body(Body::json(Shape::One(&SHARE_CODE_REQUEST)).optional())
        .answers(&[Answer::json(
            200,
            "The new code.",
            Shape::One(&NEW_SHARE_CODE),
        )]);

/// `POST`: a new code, which the answer shows this once.
async fn create(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(path): Path<Vec<(String, String)>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    let body = fields(&body, &["scopes", "expires_in"])?;
    let asked = scopes(&hub, body.get("scopes"))?;
    let lifetime = lifetime(body.get("expires_in"))?;
    let server = SharedServer::named(&path);
    let scopes = server.limited(asked.as_deref())?;
    // Whether the requester may, before whether there is such a server: upstream's order.
    if let Some(owner) = users::find(hub.store.read(), server.owner).await? {
        check_holds(&hub, &requester, &owner, &scopes).await?;
    }
    let (owner, spawner) = server.find_or_make(&hub).await?;

    let code =
        Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random::bytes::<32>()));
    let now = hub.clock.now();
    let new = &NewShareCode {
        hashed: token_hash::hash_token(code.expose(), Origin::Generated)?,
        prefix: token_hash::prefix(code.expose()).to_owned(),
        created_at: now,
        expires_at: now + lifetime,
        scopes,
        owner_id: owner.id,
        spawner_id: spawner.id,
    };
    let (place, owner_read, spawner_read) = (&server, &owner, &spawner);
    let kept = hub
        .store
        .write(|transaction| async move {
            place
                .check_same(&transaction, owner_read, spawner_read)
                .await?;
            Ok::<_, Error>(share_codes::insert(&transaction, new).await?)
        })
        .await?;
    tracing::info!(owner = %owner.name, server = spawner.name, code = kept.id, by = requester.name(), "share code made");
    let event = Event::new(Action::ShareCodeCreate)
        .by(&requester)
        .on_server(&owner.name, &spawner.name)
        .detail("id", format!("sc_{}", kept.id))
        .detail("scopes", kept.scopes.clone())
        .detail("expires_at", kept.expires_at.map(super::time::isoformat));
    hub.audit.record(event).await;
    let mut model = share_models::Servers::default()
        .code(&hub, &kept)
        .await?
        .ok_or_else(|| Error::not_found(""))?;
    let query = [("code".to_owned(), code.expose().to_owned())];
    let accept_url = redirects::with_query(&hub.urls.hub_path("accept-share"), &query);
    model["code"] = json!(code.expose());
    model["full_accept_url"] = json!(
        hub.urls
            .public_origin()
            .map(|origin| format!("{origin}{accept_url}"))
    );
    model["accept_url"] = json!(accept_url);
    Ok(Json(model))
}

const DELETE: Operation = Operation::new(
    "delete-share-code",
    Tag::Shares,
    "Delete codes for a server",
)
.about("All of them, if no argument names one. What was exchanged for a share stays one.")
.query(&[
    &Parameter::new("code", "The code itself.", || json!({ "type": "string" })),
    &Parameter::new(
        "id",
        "Its id, as lists have it.",
        || json!({ "type": "string" }),
    ),
])
.answers(&[Answer::empty(204, "It is gone.")]);

/// `DELETE`: one code, by itself (`?code=`) or by its id (`?id=`), or all of the server.
async fn delete(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(path): Path<Vec<(String, String)>>,
    arguments: Arguments,
) -> Result<StatusCode> {
    let argument = |name: &str| arguments.get(name).filter(|value| !value.is_empty());
    let server = SharedServer::named(&path);
    let (owner, spawner) = server.find(&hub).await?;
    let spawner_id = spawner.map_or(0, |spawner| spawner.id);
    let one = match (argument("code"), argument("id")) {
        (Some(code), _) => {
            let found = find(&hub, &Secret::new(code))
                .await?
                .filter(|found| found.spawner_id == Some(spawner_id));
            let found = found.ok_or_else(|| Error::not_found("No matching code found"))?;
            Some(found.id)
        }
        (None, Some(id)) => {
            let missing = || Error::not_found(format!("No code found matching id={}", short(id)));
            let number = id
                .strip_prefix("sc_")
                .and_then(|number| number.parse::<i32>().ok());
            Some(number.ok_or_else(missing)?)
        }
        (None, None) => None,
    };
    let is_gone = hub
        .store
        .write(|transaction| async move {
            match one {
                Some(id) => share_codes::delete(&transaction, spawner_id, id).await,
                None => share_codes::delete_of_spawner(&transaction, spawner_id)
                    .await
                    .map(|_| true),
            }
        })
        .await?;
    if !is_gone {
        return Err(Error::not_found(format!(
            "No code found matching id=sc_{}",
            one.unwrap_or_default()
        )));
    }
    tracing::info!(owner = %owner.name, server = %for_log(server.server, 64), code = one, by = requester.name(), "share code deleted");
    let event = Event::new(Action::ShareCodeRevoke)
        .by(&requester)
        .on_server(&owner.name, server.server);
    hub.audit
        .record(event.detail("id", one.map(|id| format!("sc_{id}"))))
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// The code's row, if it is known and has not expired.
pub(crate) async fn find(hub: &AppState, code: &Secret) -> Result<Option<ShareCode>> {
    if code.expose().len() > token_hash::MAX_LENGTH {
        return Ok(None);
    }
    let prefix = token_hash::prefix(code.expose());
    let found = share_codes::find_candidates(hub.store.read(), prefix, hub.clock.now()).await?;
    Ok(found
        .into_iter()
        .find(|candidate| token_hash::verify_token(&candidate.hashed, code.expose())))
}

/// How long the code is to live.
fn lifetime(value: Option<&Value>) -> Result<TimeDelta> {
    let seconds = match value {
        None => Some(DEFAULT_LIFETIME),
        // Upstream takes whole numbers however they are written.
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(value) => value.as_i64().or_else(|| {
            let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
            format!("{number:.0}").parse().ok()
        }),
    };
    seconds
        .filter(|seconds| LIFETIMES.contains(seconds))
        .and_then(TimeDelta::try_seconds)
        .ok_or_else(|| {
            Error::bad_request(format!(
                "expires_in must be an integer between {} and {}",
                LIFETIMES.start(),
                LIFETIMES.end()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_lives_between_a_minute_and_a_year() {
        let seconds = |value: Option<Value>| {
            lifetime(value.as_ref())
                .map(|time| time.num_seconds())
                .map_err(|error| error.to_string())
        };
        assert_eq!(seconds(None), Ok(86_400));
        for (value, expected) in [
            (json!(60), 60),
            (json!("60"), 60),
            (json!(60.0), 60),
            (json!(31_536_000), 31_536_000),
        ] {
            assert_eq!(seconds(Some(value)), Ok(expected));
        }
        for value in [
            json!(null),
            json!(59),
            json!(-1),
            json!(31_536_001),
            json!(60.5),
            json!("soon"),
            json!([60]),
            json!(true),
        ] {
            assert!(seconds(Some(value.clone())).is_err(), "{value}");
        }
    }
}

//! `/api/users/{user}/sessions` and `/api/sessions`: the browsers that people are logged in with. JupyterHub
//! does not know them; the scopes are those of tokens.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::TimeDelta;
use orrery_core::escape::for_log;
use orrery_core::scopes::{Access, Scope, Target};
use orrery_store::sessions::{self as rows, Session, SessionQuery};
use orrery_store::users::{self, User, Visible};
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::path::PathUser;
use super::schemas::{AFTER, LIMIT, SESSION_PAGE, SESSIONS, UNUSED_SINCE, USER_FILTER};
use super::time::isoformat;
use crate::audit::{Action, Event};
use crate::auth::{Asking, Requester, sessions};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Parameter, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    let (list, one) = (
        "/api/users/{user}/sessions",
        "/api/users/{user}/sessions/{session_id}",
    );
    ApiRoutes::default()
        .get(list, Needs::Scopes(&[Scope::ReadTokens]), &SHOW, show)
        .delete(list, Needs::Scopes(&[Scope::Tokens]), &END_ALL, end_all)
        .delete(one, Needs::Scopes(&[Scope::Tokens]), &END, end)
        .get(
            "/api/sessions",
            Needs::SomeScopes(&[Scope::ReadTokens]),
            &LIST,
            list_all,
        )
        .delete(
            "/api/sessions/{session_id}",
            Needs::SomeScopes(&[Scope::Tokens]),
            &END_ANY,
            end_any,
        )
}

const SHOW: Operation = Operation::new("get-user-sessions", Tag::Tokens, "List a user's sessions")
    .about(
        "The browsers that the user is logged in with, the one used last first. JupyterHub has no such list.",
    )
    .answers(&[Answer::json(200, "The sessions.", Shape::One(&SESSIONS))]);

/// `GET …/sessions`.
async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(user): PathUser,
) -> Result<Json<Value>> {
    let current = sessions::current(&hub, &requester).await?;
    let live = rows::of_user(hub.store.read(), user.id, hub.sessions_since()).await?;
    let models: Vec<Value> = live
        .iter()
        .map(|session| model(&hub, session, &user.name, current.as_ref()))
        .collect();
    Ok(Json(json!({ "sessions": models })))
}

const EXCEPT: Parameter = Parameter::new(
    "except",
    "`current` spares the session that the request comes from. Asked by a token of that session, login cookies \
     that were never seen here stay good, as its own does: ask by the cookie, which is replaced, to end those too.",
    || json!({ "type": "string", "enum": ["current"] }),
);

const END_ALL: Operation = Operation::new("delete-user-sessions", Tag::Tokens, "Log a user out everywhere")
    .about(
        "Ends all of the user's sessions, with the tokens that servers and services got in them, and makes \
         login cookies worthless that were never seen here. API tokens that were made by hand stay.",
    )
    .query(&[&EXCEPT])
    .answers(&[Answer::empty(204, "They are logged out.")])
    .refuses(&[400]);

/// `DELETE …/sessions`.
async fn end_all(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(user): PathUser,
    arguments: Arguments,
) -> Result<StatusCode> {
    let spared = match arguments.get("except") {
        None => None,
        Some("current") => Some(
            sessions::current(&hub, &requester)
                .await?
                .filter(|session| session.user_id == user.id)
                .ok_or_else(|| {
                    Error::bad_request("This request comes from no session of that user")
                })?,
        ),
        Some(_) => {
            return Err(Error::bad_request("except must be \"current\""));
        }
    };
    let ended = match &spared {
        Some(current) => sessions::end_others(&hub, &requester, &user, current).await?,
        None => sessions::end_all(&hub, &user).await?,
    };
    tracing::info!(user = %user.name, by = requester.name(), ended, "sessions ended");
    let event = revoked(&requester, &user).detail("sessions", ended);
    hub.audit.record(event).await;
    Ok(StatusCode::NO_CONTENT)
}

const END: Operation = Operation::new("delete-user-session", Tag::Tokens, "End a session").about(
    "Its cookie is refused at once, and the tokens that servers and services got in it are gone. They ask the \
     hub again after five minutes at most, as they do when somebody logs out elsewhere.",
)
.answers(&[Answer::empty(204, "The session has ended.")]);

/// `DELETE …/sessions/{id}`.
async fn end(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path((name, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    let user = users::find(hub.store.read(), &name).await?;
    let session = find(&hub, &id).await?;
    match (user, session) {
        (Some(user), Some(session)) if session.user_id == user.id => {
            end_one(&hub, &requester, &user, &session).await
        }
        _ => Err(no_such(&id)),
    }
}

const LIST: Operation = Operation::new("get-sessions", Tag::Tokens, "List everybody's sessions")
    .about(
        "Those of users whose tokens the requester may read, by id. JupyterHub has no such list.",
    )
    .query(&[&AFTER, &LIMIT, &USER_FILTER, &UNUSED_SINCE])
    .answers(&[Answer::json(200, "One page.", Shape::One(&SESSION_PAGE))])
    .refuses(&[400]);

/// `GET /api/sessions`.
async fn list_all(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let limit = arguments.page(&hub)?.limit;
    let mut query = SessionQuery {
        after: arguments.after()?,
        // One more tells whether there is a next page.
        limit: limit + 1,
        since: hub.sessions_since(),
        user_id: None,
        unused_since: arguments.time("unused_since")?,
        visible: visible(&requester, Scope::ReadTokens),
    };
    if let Some(name) = arguments.get("user") {
        match users::find(hub.store.read(), name).await? {
            Some(user) => query.user_id = Some(user.id),
            None => return Ok(Json(arguments.keyset(&requester, &[], limit, None))),
        }
    }
    let _turn = hub.long_reads.turn().await?;
    let mut found = rows::list(hub.store.read(), &query).await?;
    let has_more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let ids: Vec<i32> = found.iter().map(|session| session.user_id).collect();
    let owners = users::find_many(hub.store.read(), &ids).await?;
    let current = sessions::current(&hub, &requester).await?;
    let models: Vec<Value> = found
        .iter()
        .filter_map(|session| {
            let owner = owners.iter().find(|user| user.id == session.user_id)?;
            Some(model(&hub, session, &owner.name, current.as_ref()))
        })
        .collect();
    let next = found.last().filter(|_| has_more).map(|last| last.id);
    Ok(Json(arguments.keyset(&requester, &models, limit, next)))
}

const END_ANY: Operation = Operation::new("delete-session", Tag::Tokens, "End anybody's session")
    .about("As by the user's own address.")
    .answers(&[Answer::empty(204, "The session has ended.")]);

/// `DELETE /api/sessions/{id}`.
async fn end_any(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    let session = find(&hub, &id).await?.ok_or_else(|| no_such(&id))?;
    let user = users::find_by_id(hub.store.read(), session.user_id)
        .await?
        .ok_or_else(|| no_such(&id))?;
    if !requester
        .may(Scope::Tokens, Target::User(&user.name))
        .await?
    {
        return Err(no_such(&id));
    }
    end_one(&hub, &requester, &user, &session).await
}

async fn end_one(
    hub: &AppState,
    requester: &Requester,
    user: &User,
    session: &Session,
) -> Result<StatusCode> {
    let tokens = sessions::end(hub, session)
        .await?
        .ok_or_else(|| no_such(&id(session)))?;
    tracing::info!(user = %user.name, by = requester.name(), session = session.id, tokens, "session ended");
    let event = revoked(requester, user)
        .detail("session", id(session))
        .detail("tokens", tokens);
    hub.audit.record(event).await;
    Ok(StatusCode::NO_CONTENT)
}

fn revoked(requester: &Requester, user: &User) -> Event {
    Event::new(Action::SessionRevoke)
        .by(requester)
        .on_user(&user.name)
        .owned_by(&user.name)
}

/// A session that has not ended, by its id on the wire.
async fn find(hub: &AppState, id: &str) -> Result<Option<Session>> {
    let Some(number) = id.strip_prefix('s').and_then(|id| id.parse::<i64>().ok()) else {
        return Ok(None);
    };
    let found = rows::find_by_id(hub.store.read(), number).await?;
    let since = hub.sessions_since();
    Ok(found.filter(|session| session.ended_at.is_none() && session.created >= since))
}

fn no_such(id: &str) -> Error {
    Error::not_found(format!("No such session {}", for_log(id, 64)))
}

/// The users that a scope reaches; `None` for all of them. Filters by server or service reach nobody's
/// tokens.
pub(super) fn visible(requester: &Requester, scope: Scope) -> Option<Visible> {
    let filters = match requester.scopes.access(scope) {
        Some(Access::All) => return None,
        Some(Access::Only(filters)) => filters,
        None => return Some(Visible::default()),
    };
    Some(Visible {
        users: filters.users.iter().map(str::to_owned).collect(),
        groups: filters.groups.iter().map(str::to_owned).collect(),
    })
}

fn model(hub: &AppState, session: &Session, user: &str, current: Option<&Session>) -> Value {
    let age = TimeDelta::from_std(hub.cookie_max_age()).ok();
    let expires = age.and_then(|age| session.created.checked_add_signed(age));
    json!({
        "id": id(session),
        "kind": "session",
        "user": user,
        "created": isoformat(session.created),
        "last_activity": isoformat(session.last_seen),
        "expires_at": expires.map(isoformat),
        "address": session.address,
        "user_agent": session.user_agent,
        "current": current.is_some_and(|current| current.id == session.id),
    })
}

/// A session's id on the wire: `s12`.
fn id(session: &Session) -> String {
    format!("s{}", session.id)
}

//! `/api/users/{user}`: one user.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use orrery_core::escape::for_log;
use orrery_core::scopes::Scope;
use orrery_core::{ServerName, UserName};
use orrery_store::users::{self, User, UserChanges};
use orrery_store::{ConnectionTrait, StoreError};
use serde_json::{Map, Value, json};

use super::arguments::Arguments;
use super::body::{self, JsonBody};
use super::path::PathUser;
use super::schemas::{INCLUDE_STOPPED_SERVERS, USER, USER_CHANGES, USER_REQUEST};
use super::users::{USER_FIELDS, add_to_authenticator, check_name_is_free_for, is_admin};
use super::{SLOW_STOP, user_models};
use crate::audit::{Action, Event};
use crate::auth::{AUTHENTICATE_TIMEOUT, Asking, Requester, auth_state, people};
use crate::error::{Error, Result};
use crate::etag;
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::servers::StopError;
use crate::state::AppState;

/// How often a user's servers are stopped, if new ones are started meanwhile, before the user stays.
const DELETE_ATTEMPTS: usize = 5;

pub(super) fn routes() -> ApiRoutes {
    let readers = &[
        Scope::ReadUsers,
        Scope::ReadUsersName,
        Scope::ReadServers,
        Scope::ReadUsersGroups,
        Scope::ReadUsersActivity,
        Scope::ReadRolesUsers,
    ];
    let path = "/api/users/{user}";
    ApiRoutes::default()
        .get(path, Needs::Scopes(readers), &SHOW, show)
        .post(path, Needs::Scopes(&[Scope::AdminUsers]), &CREATE, create)
        .patch(path, Needs::Scopes(&[Scope::AdminUsers]), &EDIT, edit)
        .delete(path, Needs::Scopes(&[Scope::DeleteUsers]), &DELETE, delete)
}

const SHOW: Operation = Operation::new("get-user", Tag::Users, "Show a user")
    .about("The fields depend on the requester's scopes.")
    .query(&[&INCLUDE_STOPPED_SERVERS])
    .answers(&[Answer::json(200, "The user.", Shape::One(&USER))]);

/// `GET`: the user's model.
async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
    arguments: Arguments,
) -> Result<(Extension<etag::Editable>, Json<Value>)> {
    let stopped = arguments.include_stopped_servers();
    let found = user_models::named(&hub, &requester.scopes, &name, stopped).await?;
    let (mut model, has_auth_state) = found.ok_or_else(|| Error::not_found(""))?;
    if has_auth_state
        && let Some(shown) = model.get_mut("auth_state")
        && let Some(user) = users::find(hub.store.read(), &name).await?
    {
        *shown = auth_state::of(&hub, &user).await?.into();
    }
    note_auth_state(&hub, &requester, &name, &model);
    let editable = Extension(editable_in(&model));
    Ok((editable, Json(Value::Object(model))))
}

/// Notes that the answer shows somebody's auth state.
fn note_auth_state(hub: &AppState, requester: &Requester, name: &str, model: &Map<String, Value>) {
    let state = model.get("auth_state");
    if state.is_some_and(|state| !state.is_null()) {
        let event = Event::new(Action::AuthStateRead).by(requester);
        hub.audit.note(event.on_user(name).owned_by(name));
    }
}

async fn shown(
    hub: &AppState,
    requester: &Requester,
    user: &User,
    include_stopped_servers: bool,
) -> Result<Map<String, Value>> {
    let scopes = &requester.scopes;
    let mut model = user_models::user(hub, scopes, user, include_stopped_servers).await?;
    if let Some(state) = model.get_mut("auth_state") {
        *state = auth_state::of(hub, user).await?.into();
    }
    Ok(model)
}

const CREATE: Operation = Operation::new("post-user", Tag::Users, "Create a user")
    .body(Body::json(Shape::One(&USER_REQUEST)).optional())
    .answers(&[Answer::json(201, "The new user.", Shape::One(&USER))])
    .refuses(&[409]);

/// `POST`: creates the user, with the name just as the path has it.
async fn create(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let exists = || Error::conflict(format!("User {name} already exists"));
    if users::find(hub.store.read(), &name).await?.is_some() {
        return Err(exists());
    }
    let nothing = Map::new();
    let fields = if super::python::is_truthy(&body) {
        body::check_model(&body, "user", USER_FIELDS)?
    } else {
        &nothing
    };
    let admin = fields
        .get("admin")
        .is_some_and(|admin| admin == &json!(true));
    if admin && !is_admin(&requester) {
        return Err(Error::forbidden("Only admins can grant admin permissions"));
    }
    let valid = hub.rules.validate(&name).map_err(|_| {
        Error::bad_request(format!(
            "Failed to create user: {}",
            super::users::shown_name(&name)
        ))
    })?;
    check_name_is_free_for(&hub, &requester, valid.as_str())?;
    add_to_authenticator(&hub, &valid)
        .await
        .map_err(|_| Error::bad_request(format!("Failed to create user: {valid}")))?;
    let now = hub.clock.now();
    let valid = &valid;
    let created = hub
        .store
        .write(|transaction| async move {
            if users::find(&transaction, valid.as_str()).await?.is_some() {
                return Ok(None);
            }
            people::find_or_insert(&transaction, valid.as_str(), admin, now)
                .await
                .map(Some)
        })
        .await
        .map_err(|error: StoreError| {
            if error.is_duplicate() {
                exists()
            } else {
                error.into()
            }
        })?;
    let Some(user) = created else {
        return Err(exists());
    };
    tracing::info!(user = %user.name, by = requester.name(), admin, "user created");
    let event = Event::new(Action::UserCreate)
        .by(&requester)
        .on_user(&user.name);
    hub.audit.record(event.detail("admin", admin)).await;
    let model = user_models::user(&hub, &requester.scopes, &user, false).await?;
    Ok((StatusCode::CREATED, Json(Value::Object(model))).into_response())
}

const EDIT: Operation = Operation::new("patch-user", Tag::Users, "Change a user")
    .about(
        "Renames the user, changes whether they are an administrator, or sets their login state.",
    )
    .body(Body::json(Shape::One(&USER_CHANGES)))
    .answers(&[Answer::json(
        200,
        "The user as they are now.",
        Shape::One(&USER),
    )])
    .refuses(&[409]);

/// `PATCH`: renames the user, changes whether they are an administrator, or sets their auth state.
async fn edit(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(user): PathUser,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    let fields = body::check_model(&body, "user", USER_FIELDS)?;
    check_unchanged(&hub, &requester, &headers, &user).await?;
    let new_name = match fields
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| *name != user.name)
    {
        Some(typed) => Some(free_name(&hub, typed).await?),
        None => None,
    };
    let admin = fields.get("admin").and_then(Value::as_bool);
    check_may_edit(&requester, &user, admin)?;
    if let Some(name) = &new_name {
        check_name_is_free_for(&hub, &requester, name.as_str())?;
    }
    for field in ["groups", "roles"] {
        if fields.contains_key(field) {
            return Err(Error::bad_request(format!(
                "user.{field} cannot be changed by this request"
            )));
        }
    }
    let sealed = match fields.get("auth_state") {
        Some(state) => Some(Some(hub.auth_states.seal(state, hub.unix_time()).await?)),
        None => None,
    };
    let changes = UserChanges {
        name: new_name.as_ref().map(ToString::to_string),
        admin,
        encrypted_auth_state: sealed,
        ..UserChanges::default()
    };
    let (read, changes, asking) = (&user, &changes, &requester);
    let is_conditional = etag::is_conditional(&headers);
    let (before, user) = hub
        .store
        .write(|transaction| async move {
            let before = lock(&transaction, read, is_conditional).await?;
            // They may have become an administrator since they were read.
            check_may_edit(asking, &before, admin)?;
            users::update(&transaction, before.id, changes).await?;
            let user = users::find_by_id(&transaction, before.id)
                .await?
                .ok_or_else(|| Error::not_found(""))?;
            if changes.admin.is_some() {
                people::assign_default_roles(&transaction, &user).await?;
            }
            Ok::<_, Error>((before, user))
        })
        .await?;
    hub.audit
        .record_all(edits(&requester, &before, &user, changes))
        .await;
    tracing::info!(user = %before.name, by = requester.name(), name = ?changes.name, admin = ?changes.admin, auth_state = changes.encrypted_auth_state.is_some(), "user edited");
    if changes.name.is_some() {
        hub.routes.wake();
    }
    let mut model = user_models::user(&hub, &requester.scopes, &user, false).await?;
    let state = auth_state::of(&hub, &user).await?;
    model.insert("auth_state".to_owned(), state.into());
    // Who has just set it knows it.
    if changes.encrypted_auth_state.is_none() {
        note_auth_state(&hub, &requester, &user.name, &model);
    }
    Ok(Json(Value::Object(model)))
}

/// Whoever may edit users must not make themselves more than they are by it.
fn check_may_edit(requester: &Requester, user: &User, admin: Option<bool>) -> Result<()> {
    if is_admin(requester) {
        return Ok(());
    }
    if user.admin {
        return Err(Error::forbidden("Only admins can modify other admins"));
    }
    if admin == Some(true) {
        return Err(Error::forbidden("Only admins can grant admin permissions"));
    }
    Ok(())
}

/// The user as they are now, and stay until the transaction ends; 404 if they are gone, for SQLite gives their id
/// to the next one. With `If-Match`, 412 if they are not what was read any more.
async fn lock(
    transaction: &impl ConnectionTrait,
    read: &User,
    is_conditional: bool,
) -> Result<User> {
    let now = users::find_and_lock(transaction, read.id).await?;
    if is_conditional
        && now
            .as_ref()
            .is_none_or(|now| editable(now) != editable(read))
    {
        return Err(etag::changed());
    }
    now.filter(|now| is_same(now, read))
        .ok_or_else(|| Error::not_found(""))
}

/// Whether a row of this id is still the user that was asked for.
fn is_same(now: &User, read: &User) -> bool {
    now.name == read.name && now.created == read.created
}

/// Refuses a change that was made from another state of the user than the present one.
async fn check_unchanged(
    hub: &AppState,
    requester: &Requester,
    headers: &HeaderMap,
    user: &User,
) -> Result<()> {
    if etag::is_conditional(headers) {
        let now = shown(hub, requester, user, false).await?;
        etag::check_editable(headers, &editable_in(&now))?;
    }
    Ok(())
}

/// What an edit can change, as far as the requester sees it. Not when somebody was last active, which would refuse
/// every edit of those who are.
fn editable_in(model: &Map<String, Value>) -> etag::Editable {
    let fields = ["name", "admin", "auth_state"].map(|field| model.get(field));
    etag::Editable::of(&json!(fields))
}

/// The same in a row.
fn editable(user: &User) -> (&str, bool, Option<&[u8]>) {
    let auth_state = user.encrypted_auth_state.as_deref();
    (&user.name, user.admin, auth_state)
}

/// What an edit changed, for the audit log.
fn edits(requester: &Requester, before: &User, after: &User, changes: &UserChanges) -> Vec<Event> {
    let event = |action| Event::new(action).by(requester).on_user(&after.name);
    let mut events = Vec::new();
    if before.name != after.name {
        events.push(event(Action::UserRename).detail("from", before.name.as_str()));
    }
    if before.admin != after.admin {
        events.push(event(Action::UserAdmin).detail("admin", after.admin));
    }
    if changes.encrypted_auth_state.is_some() {
        events.push(event(Action::AuthStateWrite));
    }
    events
}

async fn free_name(hub: &AppState, typed: &str) -> Result<UserName> {
    let normalized = hub.normalize(typed).await;
    let name = hub.rules.validate(&normalized).map_err(|_| {
        Error::bad_request(format!("Invalid username: {}", for_log(&normalized, 64)))
    })?;
    if users::find(hub.store.read(), name.as_str())
        .await?
        .is_some()
    {
        return Err(Error::bad_request(format!(
            "User {name} already exists, username must be unique"
        )));
    }
    Ok(name)
}

const DELETE: Operation = Operation::new("delete-user", Tag::Users, "Delete a user")
    .about("Stops their servers, then deletes all that is theirs in the hub. Nobody deletes themselves.")
    .answers(&[Answer::empty(204, "The user is gone.")])
    .refuses(&[409]);

/// `DELETE`: stops the user's servers, then deletes the user and all that is theirs.
async fn delete(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(user): PathUser,
    headers: HeaderMap,
) -> Result<StatusCode> {
    check_unchanged(&hub, &requester, &headers, &user).await?;
    if user.name == requester.name() {
        return Err(Error::bad_request("Cannot delete yourself!"));
    }
    check_may_delete(&requester, &user)?;
    let stopping = || {
        Error::bad_request(format!(
            "{}'s server is in the process of stopping, please wait.",
            user.name
        ))
    };
    let default = hub
        .servers
        .view(&user, &ServerName::default_server())
        .await?;
    if default.is_some_and(|view| view.pending() == Some("stop")) {
        return Err(stopping());
    }
    tell_authenticator(&hub, &user).await?;
    let (read, asking) = (&user, &requester);
    let is_conditional = etag::is_conditional(&headers);
    let mut attempts = DELETE_ATTEMPTS;
    loop {
        // Somebody else may have been faster while the authenticator was told, and their id be another's.
        users::find_by_id(hub.store.read(), user.id)
            .await?
            .filter(|now| is_same(now, &user))
            .ok_or_else(|| Error::not_found(""))?;
        match hub.servers.stop_all_of(&user, SLOW_STOP).await {
            Err(StopError::StillRunning(_)) => return Err(stopping()),
            other => other?,
        }
        let deleted = hub
            .store
            .write(|transaction| async move {
                let now = lock(&transaction, read, is_conditional).await?;
                check_may_delete(asking, &now)?;
                Ok::<_, Error>(users::delete(&transaction, now.id).await?)
            })
            .await;
        match deleted {
            // A start arrived in between: that server is stopped as well.
            Err(Error::Store(StoreError::StillActive(server))) => {
                attempts -= 1;
                tracing::info!(%server, "started while its user was being deleted");
                if attempts == 0 {
                    return Err(Error::conflict(format!(
                        "{}'s server is started again each time that it is stopped, please try later.",
                        user.name
                    )));
                }
            }
            Err(error) => return Err(error),
            Ok(true) => break,
            // Somebody else was faster.
            Ok(false) => return Err(Error::not_found("")),
        }
    }
    hub.servers.forget_activity_of(user.id);
    tracing::info!(user = %user.name, by = requester.name(), "user deleted");
    let event = Event::new(Action::UserDelete)
        .by(&requester)
        .on_user(&user.name);
    hub.audit.record(event).await;
    hub.routes.wake();
    Ok(StatusCode::NO_CONTENT)
}

fn check_may_delete(requester: &Requester, user: &User) -> Result<()> {
    if user.admin && !is_admin(requester) {
        return Err(Error::forbidden("Only admins can delete other admins"));
    }
    Ok(())
}

/// Tells the authenticator that the user goes. Names that could not be given any more are none of its
/// business.
async fn tell_authenticator(hub: &AppState, user: &User) -> Result<()> {
    let Ok(name) = UserName::parse(&user.name) else {
        return Ok(());
    };
    let telling = hub.authenticator.delete_user(&name);
    match tokio::time::timeout(AUTHENTICATE_TIMEOUT, telling).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::Internal(format!(
            "the authenticator could not delete {name}: {error}"
        ))),
        Err(_) => Err(Error::Internal(format!(
            "the authenticator did not delete {name} in time"
        ))),
    }
}

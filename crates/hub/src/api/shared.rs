//! `…/users/{user}/shared` and `…/groups/{group}/shared`: what others share with a user or group, and how
//! they leave it again.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orrery_core::scopes::Scope;
use orrery_store::shares::{self, Of, Share, With};
use orrery_store::{spawners, users};
use serde_json::Value;

use super::arguments::Arguments;
use super::path::PathGroup;
use super::schemas::{LIMIT, OFFSET, SHARE};
use super::share_models::{self, named, short};
use super::shares::ONE_PAGE;
use crate::audit::{Action, Event};
use crate::auth::{Asking, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    let read_users = Needs::Scopes(&[Scope::ReadUsersShares]);
    let read_groups = Needs::Scopes(&[Scope::ReadGroupsShares]);
    let users = Needs::Scopes(&[Scope::UsersShares]);
    let groups = Needs::Scopes(&[Scope::GroupsShares]);
    let mut routes = ApiRoutes::default()
        .get(
            "/api/users/{user}/shared",
            read_users,
            &WITH_USER,
            with_user,
        )
        .get(
            "/api/groups/{group}/shared",
            read_groups,
            &WITH_GROUP,
            with_group,
        );
    for server in ["", "{shared_server}"] {
        let (user, group) = (
            format!("/api/users/{{user}}/shared/{{owner}}/{server}"),
            format!("/api/groups/{{group}}/shared/{{owner}}/{server}"),
        );
        routes = routes
            .get(&user, read_users, &SHOW_USER, show_user)
            .delete(&user, users, &LEAVE_USER, leave_user)
            .get(&group, read_groups, &SHOW_GROUP, show_group)
            .delete(&group, groups, &LEAVE_GROUP, leave_group);
    }
    routes
}

const WITH_USER: Operation = Operation::new(
    "get-user-shared",
    Tag::Shares,
    "List what is shared with a user",
)
.about("Also by their groups.")
.query(&[&OFFSET, &LIMIT])
.answers(ONE_PAGE);

/// `GET`: what is shared with a user, also by their groups.
async fn with_user(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let user = users::find(hub.store.read(), &name)
        .await?
        .ok_or_else(|| Error::not_found(format!("No such user: {}", short(&name))))?;
    share_models::share_list(&hub, &requester, &arguments, Of::User(user.id)).await
}

const WITH_GROUP: Operation = Operation::new(
    "get-group-shared",
    Tag::Shares,
    "List what is shared with a group",
)
.query(&[&OFFSET, &LIMIT])
.answers(ONE_PAGE);

/// `GET`: what is shared with a group.
async fn with_group(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathGroup(group): PathGroup,
    arguments: Arguments,
) -> Result<Json<Value>> {
    share_models::share_list(&hub, &requester, &arguments, Of::Group(group.id)).await
}

type Names = Path<Vec<(String, String)>>;

const SHOW_USER: Operation = Operation::new(
    "get-user-shared-server",
    Tag::Shares,
    "Show what a user may do with a server",
)
.answers(&[Answer::json(200, "The share.", Shape::One(&SHARE))]);

/// `GET …/{owner}/{server}`: one server, as it is shared with the user by themselves.
async fn show_user(State(hub): State<AppState>, Path(path): Names) -> Result<Json<Value>> {
    let share = of_user(&hub, &path).await?;
    model(&hub, &share).await
}

const LEAVE_USER: Operation = Operation::new(
    "delete-user-shared-server",
    Tag::Shares,
    "Leave a server, as a user",
)
.answers(&[Answer::empty(
    204,
    "It is not shared with the user any more.",
)]);

/// `DELETE …/{owner}/{server}`: the user does not want it any more.
async fn leave_user(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(path): Names,
) -> Result<StatusCode> {
    let share = of_user(&hub, &path).await?;
    leave(&hub, &requester, &share, &path).await
}

const SHOW_GROUP: Operation = Operation::new(
    "get-group-shared-server",
    Tag::Shares,
    "Show what a group may do with a server",
)
.answers(&[Answer::json(200, "The share.", Shape::One(&SHARE))]);

/// `GET …/{owner}/{server}`: one server, as it is shared with the group.
async fn show_group(
    State(hub): State<AppState>,
    PathGroup(group): PathGroup,
    Path(path): Names,
) -> Result<Json<Value>> {
    let share = of_group(&hub, &path, group.id).await?;
    model(&hub, &share).await
}

const LEAVE_GROUP: Operation = Operation::new(
    "delete-group-shared-server",
    Tag::Shares,
    "Leave a server, as a group",
)
.answers(&[Answer::empty(
    204,
    "It is not shared with the group any more.",
)]);

/// `DELETE …/{owner}/{server}`: the group does not want it any more.
async fn leave_group(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathGroup(group): PathGroup,
    Path(path): Names,
) -> Result<StatusCode> {
    let share = of_group(&hub, &path, group.id).await?;
    leave(&hub, &requester, &share, &path).await
}

async fn leave(
    hub: &AppState,
    requester: &Requester,
    share: &Share,
    path: &[(String, String)],
) -> Result<StatusCode> {
    let id = share.id;
    hub.store
        .write(|transaction| async move { shares::delete(&transaction, id).await })
        .await?;
    tracing::info!(share = id, by = requester.name(), "share left");
    let event = Event::new(Action::ShareLeave)
        .by(requester)
        .on_server(named(path, "owner"), named(path, "shared_server"));
    let kind = if share.group_id.is_some() {
        "group"
    } else {
        "user"
    };
    hub.audit
        .record(event.detail(kind, named(path, kind)))
        .await;
    Ok(StatusCode::NO_CONTENT)
}

async fn of_user(hub: &AppState, path: &[(String, String)]) -> Result<Share> {
    let with = users::find(hub.store.read(), named(path, "user"))
        .await?
        .map(|user| With::User(user.id));
    find(hub, path, "user", with).await
}

async fn of_group(hub: &AppState, path: &[(String, String)], group: i32) -> Result<Share> {
    find(hub, path, "group", Some(With::Group(group))).await
}

async fn find(
    hub: &AppState,
    path: &[(String, String)],
    kind: &str,
    with: Option<With>,
) -> Result<Share> {
    let (owner, server) = (named(path, "owner"), named(path, "shared_server"));
    let found = match (users::find(hub.store.read(), owner).await?, with) {
        (Some(owner), Some(with)) => {
            match spawners::find(hub.store.read(), owner.id, server).await? {
                Some(spawner) => shares::find(hub.store.read(), spawner.id, with).await?,
                None => None,
            }
        }
        _ => None,
    };
    found.ok_or_else(|| {
        Error::not_found(format!(
            "No such share for {kind} {} on {}/{}",
            short(named(path, kind)),
            short(owner),
            short(server)
        ))
    })
}

async fn model(hub: &AppState, share: &Share) -> Result<Json<Value>> {
    share_models::Servers::default()
        .share(hub, share)
        .await?
        .map(Json)
        .ok_or_else(|| Error::not_found(""))
}

//! `/api/shares`, `/api/share-codes` and `…/shared`: who may use whose servers. Looking only.

use axum::Json;
use axum::extract::{Path, State};
use orrery_core::ServerName;
use orrery_core::scopes::Scope;
use orrery_store::groups;
use orrery_store::share_codes::{self, ShareCode};
use orrery_store::shares::{self, Share};
use orrery_store::spawners::{self, Spawner};
use orrery_store::users;
use serde_json::{Value, json};

use super::arguments::{Arguments, Page};
use super::models::{self};
use super::path::{PathGroup, PathServer, PathUser};
use super::time::isoformat;
use crate::auth::{Asking, Requester};
use crate::error::{Error, Result};
use crate::router::{Needs, Routes};
use crate::state::AppState;

pub(super) fn routes() -> Routes {
    let shares = &[Scope::ReadShares];
    let (users, groups) = (&[Scope::ReadUsersShares], &[Scope::ReadGroupsShares]);
    Routes::default()
        .get("/api/shares/{user}", Needs::Scopes(shares), of_owner)
        .get(
            "/api/shares/{user}/",
            Needs::ServerScopes(shares),
            of_server,
        )
        .get(
            "/api/shares/{user}/{server}",
            Needs::ServerScopes(shares),
            of_server,
        )
        .get(
            "/api/share-codes/{user}",
            Needs::Scopes(shares),
            codes_of_owner,
        )
        .get(
            "/api/share-codes/{user}/",
            Needs::ServerScopes(shares),
            codes_of_server,
        )
        .get(
            "/api/share-codes/{user}/{server}",
            Needs::ServerScopes(shares),
            codes_of_server,
        )
        .get("/api/users/{user}/shared", Needs::Scopes(users), with_user)
        .get(
            "/api/users/{user}/shared/{owner}/",
            Needs::Scopes(users),
            one_with_user,
        )
        .get(
            "/api/users/{user}/shared/{owner}/{shared_server}",
            Needs::Scopes(users),
            one_with_user,
        )
        .get(
            "/api/groups/{group}/shared",
            Needs::Scopes(groups),
            with_group,
        )
        .get(
            "/api/groups/{group}/shared/{owner}/",
            Needs::Scopes(groups),
            one_with_group,
        )
        .get(
            "/api/groups/{group}/shared/{owner}/{shared_server}",
            Needs::Scopes(groups),
            one_with_group,
        )
}

/// Everything that a user's servers are shared by.
async fn of_owner(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(owner): PathUser,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let found = shares::by_owner(hub.store.read(), owner.id).await?;
    share_list(&hub, &requester, &arguments, found).await
}

/// With whom one server is shared.
async fn of_server(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    path: PathServer,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let found = match spawner(&hub, &path).await? {
        Some(spawner) => shares::by_spawner(hub.store.read(), spawner.id).await?,
        None => Vec::new(),
    };
    share_list(&hub, &requester, &arguments, found).await
}

/// The codes for all of a user's servers.
async fn codes_of_owner(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(owner): PathUser,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let found = share_codes::by_owner(hub.store.read(), owner.id).await?;
    code_list(&hub, &requester, &arguments, found).await
}

/// The codes for one server.
async fn codes_of_server(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    path: PathServer,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let found = match spawner(&hub, &path).await? {
        Some(spawner) => share_codes::by_spawner(hub.store.read(), spawner.id).await?,
        None => Vec::new(),
    };
    code_list(&hub, &requester, &arguments, found).await
}

/// What is shared with a user, also by their groups.
async fn with_user(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(user): PathUser,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let mut found = shares::with_user(hub.store.read(), user.id).await?;
    for group in groups::of_users(hub.store.read(), &[user.id]).await? {
        found.extend(shares::with_group(hub.store.read(), group.id).await?);
    }
    found.sort_by_key(|share| share.id);
    share_list(&hub, &requester, &arguments, found).await
}

/// What is shared with a group.
async fn with_group(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathGroup(group): PathGroup,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let found = shares::with_group(hub.store.read(), group.id).await?;
    share_list(&hub, &requester, &arguments, found).await
}

/// One server, as it is shared with a user.
async fn one_with_user(
    State(hub): State<AppState>,
    Path(path): Path<Vec<(String, String)>>,
) -> Result<Json<Value>> {
    let (user, owner, server) = (
        named(&path, "user"),
        named(&path, "owner"),
        named(&path, "shared_server"),
    );
    let missing = || Error::not_found(format!("No such share for user {user} on {owner}/{server}"));
    let user = users::find(hub.store.read(), user)
        .await?
        .ok_or_else(missing)?;
    let found = shares::with_user(hub.store.read(), user.id).await?;
    one(&hub, found, owner, server)
        .await?
        .map(Json)
        .ok_or_else(missing)
}

/// One server, as it is shared with a group.
async fn one_with_group(
    State(hub): State<AppState>,
    PathGroup(group): PathGroup,
    Path(path): Path<Vec<(String, String)>>,
) -> Result<Json<Value>> {
    let (owner, server) = (named(&path, "owner"), named(&path, "shared_server"));
    let missing = || {
        Error::not_found(format!(
            "No such share for group {} on {owner}/{server}",
            group.name
        ))
    };
    let found = shares::with_group(hub.store.read(), group.id).await?;
    one(&hub, found, owner, server)
        .await?
        .map(Json)
        .ok_or_else(missing)
}

fn named<'a>(path: &'a [(String, String)], name: &str) -> &'a str {
    path.iter()
        .find(|(key, _)| key == name)
        .map_or("", |(_, value)| value)
}

/// The row of a server that shall be looked at; `None` for a default server that was never started.
async fn spawner(hub: &AppState, path: &PathServer) -> Result<Option<Spawner>> {
    let (user, server) = (&path.user, &path.server);
    let found = spawners::find(hub.store.read(), user.id, server.as_str()).await?;
    if found.is_none() && !server.is_default() {
        return Err(Error::not_found(format!(
            "No such server: {}/{server}",
            user.name
        )));
    }
    Ok(found)
}

async fn one(
    hub: &AppState,
    found: Vec<Share>,
    owner: &str,
    server: &str,
) -> Result<Option<Value>> {
    let Some(owner) = users::find(hub.store.read(), owner).await? else {
        return Ok(None);
    };
    let Some(spawner) = spawners::find(hub.store.read(), owner.id, server).await? else {
        return Ok(None);
    };
    match found
        .into_iter()
        .find(|share| share.spawner_id == Some(spawner.id))
    {
        Some(share) => share_model(hub, &share).await,
        None => Ok(None),
    }
}

async fn share_list(
    hub: &AppState,
    requester: &Requester,
    arguments: &Arguments,
    found: Vec<Share>,
) -> Result<Json<Value>> {
    let page = arguments.page(hub)?;
    let total = found.len() as u64;
    let now = hub.clock.now();
    let mut models = Vec::new();
    for share in on_page(found, page) {
        if share.expires_at.is_none_or(|end| end > now) {
            models.extend(share_model(hub, &share).await?);
        }
    }
    Ok(Json(arguments.framed(
        requester,
        &json!(models),
        page,
        total,
    )))
}

async fn code_list(
    hub: &AppState,
    requester: &Requester,
    arguments: &Arguments,
    found: Vec<ShareCode>,
) -> Result<Json<Value>> {
    let page = arguments.page(hub)?;
    let total = found.len() as u64;
    let now = hub.clock.now();
    let mut models = Vec::new();
    for code in on_page(found, page) {
        if code.expires_at.is_some_and(|end| end <= now) {
            continue;
        }
        if let Some(server) = shared_server(hub, code.owner_id, code.spawner_id).await? {
            models.push(json!({
                "server": server,
                "scopes": code.scopes,
                "id": format!("sc_{}", code.id),
                "created_at": isoformat(code.created_at),
                "expires_at": code.expires_at.map(isoformat),
                "exchange_count": code.exchange_count,
                "last_exchanged_at": code.last_exchanged_at.map(isoformat),
            }));
        }
    }
    Ok(Json(arguments.framed(
        requester,
        &json!(models),
        page,
        total,
    )))
}

fn on_page<T>(found: Vec<T>, page: Page) -> impl Iterator<Item = T> {
    let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    found
        .into_iter()
        .skip(bounded(page.offset))
        .take(bounded(page.limit))
}

async fn share_model(hub: &AppState, share: &Share) -> Result<Option<Value>> {
    let Some(server) = shared_server(hub, share.owner_id, share.spawner_id).await? else {
        return Ok(None);
    };
    let user = match share.user_id {
        Some(id) => users::find_by_id(hub.store.read(), id)
            .await?
            .map(|user| json!({ "name": user.name })),
        None => None,
    };
    let group = match share.group_id {
        Some(id) => groups::find_by_id(hub.store.read(), id)
            .await?
            .map(|group| json!({ "name": group.name })),
        None => None,
    };
    Ok(Some(json!({
        "server": server,
        "scopes": share.scopes,
        "kind": if group.is_some() { "group" } else { "user" },
        "user": user,
        "group": group,
        "created_at": isoformat(share.created_at),
    })))
}

/// The part of a server's model that whoever it is shared with sees.
async fn shared_server(
    hub: &AppState,
    owner: Option<i32>,
    spawner: Option<i32>,
) -> Result<Option<Value>> {
    let (Some(owner), Some(spawner)) = (owner, spawner) else {
        return Ok(None);
    };
    let owner = users::find_by_id(hub.store.read(), owner).await?;
    let spawner = spawners::find_by_id(hub.store.read(), spawner).await?;
    let (Some(owner), Some(spawner)) = (owner, spawner) else {
        return Ok(None);
    };
    let Ok(server) = ServerName::parse(&spawner.name) else {
        return Ok(None);
    };
    let Some(view) = hub.servers.view(&owner, &server).await? else {
        return Ok(None);
    };
    Ok(Some(json!({
        "user": { "name": owner.name },
        "name": view.name.as_str(),
        "url": view.url,
        "full_url": models::full_url(hub, &view.url),
        "ready": view.ready(),
    })))
}

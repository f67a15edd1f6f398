//! JSON models of users, filtered by what the requester may see; a few queries for any number.

use std::collections::HashMap;

use orrery_core::ServerName;
use orrery_core::scopes::{Groups, Memberships, Scope, ScopeSet, Target, user_fields};
use orrery_store::groups;
use orrery_store::roles::{self, HolderKind};
use orrery_store::users::User;
use serde_json::{Value, json};

use super::models::{self, Model};
use super::time::isoformat;
use crate::error::Result;
use crate::servers::ServerView;
use crate::state::{AppState, HubState};

/// Users as the requester may see them, in the same order; empty for those that they may not see.
pub(super) async fn users(
    hub: &AppState,
    scopes: &ScopeSet,
    list: &[User],
    include_stopped_servers: bool,
) -> Result<Vec<Model>> {
    let ids: Vec<i32> = list.iter().map(|user| user.id).collect();
    let names: HashMap<i32, &str> = list
        .iter()
        .map(|user| (user.id, user.name.as_str()))
        .collect();
    let mut groups: HashMap<i32, Vec<String>> = HashMap::new();
    for membership in groups::of_users(hub.store.read(), &ids).await? {
        groups
            .entry(membership.user_id)
            .or_default()
            .push(membership.name);
    }
    let memberships: Memberships = groups
        .iter()
        .filter_map(|(id, groups)| Some((*names.get(id)?, groups)))
        .flat_map(|(user, groups)| groups.iter().map(move |group| (user, group.as_str())))
        .collect();
    let mut roles: HashMap<i32, Vec<String>> = HashMap::new();
    for assignment in roles::names_of_many(hub.store.read(), HolderKind::User, &ids).await? {
        roles
            .entry(assignment.holder_id)
            .or_default()
            .push(assignment.name);
    }
    let mut servers = if scopes.has_some(Scope::ReadServers) || scopes.has_some(Scope::ReadUsers) {
        hub.servers.views_of(list).await?
    } else {
        HashMap::new()
    };
    list.iter()
        .map(|user| {
            let parts = Parts {
                groups: groups.remove(&user.id).unwrap_or_default(),
                roles: roles.remove(&user.id).unwrap_or_default(),
                servers: servers.remove(&user.id).unwrap_or_default(),
            };
            model(
                hub,
                scopes,
                &memberships,
                user,
                parts,
                include_stopped_servers,
            )
        })
        .collect()
}

/// One user.
pub(super) async fn user(
    hub: &AppState,
    scopes: &ScopeSet,
    user: &User,
    include_stopped_servers: bool,
) -> Result<Model> {
    let models = users(
        hub,
        scopes,
        std::slice::from_ref(user),
        include_stopped_servers,
    )
    .await?;
    Ok(models.into_iter().next().unwrap_or_default())
}

/// What stands in other tables.
struct Parts {
    groups: Vec<String>,
    roles: Vec<String>,
    servers: Vec<ServerView>,
}

fn model(
    hub: &HubState,
    scopes: &ScopeSet,
    memberships: &dyn Groups,
    user: &User,
    parts: Parts,
    include_stopped_servers: bool,
) -> Result<Model> {
    let fields = user_fields(scopes, &user.name, memberships);
    if fields.is_empty() {
        return Ok(Model::new());
    }
    let mut servers = parts.servers;
    let default = servers.iter().find(|view| view.name.is_default());
    let all = json!({
        "kind": "user",
        "name": user.name,
        "admin": user.admin,
        "roles": parts.roles,
        "groups": parts.groups,
        "server": default.filter(|view| view.ready()).map(|view| &view.url),
        "pending": default.and_then(ServerView::pending),
        "created": user.created.map(isoformat),
        "last_activity": hub.servers.user_activity(user.id, user.last_activity).map(isoformat),
        "user_info": user.user_info,
        // Filled in where one user is asked for.
        "auth_state": null,
    });
    if include_stopped_servers && default.is_none() {
        servers.insert(0, models::untouched_default_server(hub, user)?);
    }
    let shown: Model = servers
        .iter()
        .filter(|view| include_stopped_servers || view.phase.is_active())
        .filter(|view| may_read(scopes, memberships, user, &view.name))
        .map(|view| {
            (
                view.name.as_str().to_owned(),
                models::server(hub, scopes, memberships, view),
            )
        })
        .collect();
    let mut model = models::keep(all, fields.iter().copied());
    if fields.contains("servers") || !shown.is_empty() {
        model.insert("servers".to_owned(), Value::Object(shown));
    }
    Ok(model)
}

fn may_read(scopes: &ScopeSet, memberships: &dyn Groups, user: &User, server: &ServerName) -> bool {
    let target = Target::Server {
        user: &user.name,
        server: server.as_str(),
    };
    scopes.allows(Scope::ReadServers, target, memberships)
}

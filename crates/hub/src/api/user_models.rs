//! JSON models of users, filtered by what the requester may see; a few queries for any number.

use orrery_core::ServerName;
use orrery_core::scopes::{Groups, Memberships, Scope, ScopeSet, Target, user_fields};
use orrery_store::user_pages::{self, Listed};
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
    let mut read = user_pages::of(hub.store.read(), &ids)
        .await?
        .into_iter()
        .peekable();
    let read = list.iter().map(|user| {
        read.next_if(|listed| listed.id == user.id)
            // Deleted in the meantime.
            .unwrap_or_else(|| Listed::without_more(user))
    });
    listed(hub, scopes, read.collect(), include_stopped_servers).await
}

/// The same of users who were read with all that belongs to them.
pub(super) async fn listed(
    hub: &AppState,
    scopes: &ScopeSet,
    list: Vec<Listed>,
    include_stopped_servers: bool,
) -> Result<Vec<Model>> {
    let memberships: Memberships = list
        .iter()
        .flat_map(|user| {
            let groups = user.groups.iter();
            groups.map(|group| (user.name.as_str(), group.as_str()))
        })
        .collect();
    let with_servers = scopes.has_some(Scope::ReadServers) || scopes.has_some(Scope::ReadUsers);
    let mut models = Vec::with_capacity(list.len());
    for mut user in list {
        let servers = std::mem::take(&mut user.servers);
        let servers = if with_servers {
            hub.servers
                .views_of_listed(user.id, &user.name, servers)
                .await?
        } else {
            Vec::new()
        };
        models.push(model(
            hub,
            scopes,
            &memberships,
            user,
            servers,
            include_stopped_servers,
        )?);
    }
    Ok(models)
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

fn model(
    hub: &HubState,
    scopes: &ScopeSet,
    memberships: &dyn Groups,
    user: Listed,
    mut servers: Vec<ServerView>,
    include_stopped_servers: bool,
) -> Result<Model> {
    let fields = user_fields(scopes, &user.name, memberships);
    if fields.is_empty() {
        return Ok(Model::new());
    }
    let default = servers.iter().find(|view| view.name.is_default());
    let all = json!({
        "kind": "user",
        "name": user.name,
        "admin": user.admin,
        "roles": user.roles,
        "groups": user.groups,
        "server": default.filter(|view| view.ready()).map(|view| &view.url),
        "pending": default.and_then(ServerView::pending),
        "created": user.created.map(isoformat),
        "last_activity": hub.servers.user_activity(user.id, user.last_activity).map(isoformat),
        "user_info": user.user_info,
        // Filled in where one user is asked for.
        "auth_state": null,
    });
    if include_stopped_servers && default.is_none() {
        servers.insert(
            0,
            models::untouched_default_server(hub, user.id, &user.name)?,
        );
    }
    let shown: Model = servers
        .iter()
        .filter(|view| include_stopped_servers || view.phase.is_active())
        .filter(|view| may_read(scopes, memberships, &user.name, &view.name))
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

fn may_read(scopes: &ScopeSet, memberships: &dyn Groups, user: &str, server: &ServerName) -> bool {
    let target = Target::Server {
        user,
        server: server.as_str(),
    };
    scopes.allows(Scope::ReadServers, target, memberships)
}

//! JSON models of users, filtered by what the requester may see; a few queries for any number.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use orrery_core::ServerName;
use orrery_core::scopes::{Groups, Memberships, Scope, ScopeSet, Target, user_fields};
use orrery_store::user_pages::{self, Listed};
use orrery_store::users::User;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

use super::models::{self, Model};
use super::time::isoformat;
use crate::error::{Error, Result};
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
    let models = listed(hub, scopes, read.collect(), include_stopped_servers).await?;
    models.into_iter().map(UserModel::into_map).collect()
}

/// The same of users who were read with all that belongs to them, to be written straight into an answer.
pub(super) async fn listed(
    hub: &AppState,
    scopes: &ScopeSet,
    list: Vec<Listed>,
    include_stopped_servers: bool,
) -> Result<Vec<UserModel>> {
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

/// The user of this name, if there is one, and whether a login has left auth state.
pub(super) async fn named(
    hub: &AppState,
    scopes: &ScopeSet,
    name: &str,
    include_stopped_servers: bool,
) -> Result<Option<(Model, bool)>> {
    let Some(user) = user_pages::named(hub.store.read(), name).await? else {
        return Ok(None);
    };
    let has_auth_state = user.has_auth_state;
    let models = listed(hub, scopes, vec![user], include_stopped_servers).await?;
    let model = models.into_iter().next().map(UserModel::into_map);
    Ok(Some((
        model.transpose()?.unwrap_or_default(),
        has_auth_state,
    )))
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

/// A user's model: what of it is shown. A list of many is written without a map for each.
pub(super) struct UserModel {
    fields: BTreeSet<&'static str>,
    user: Listed,
    last_activity: Option<NaiveDateTime>,
    server: Option<String>,
    pending: Option<&'static str>,
    servers: Option<Model>,
}

impl UserModel {
    /// Whether the user may not be seen at all.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.servers.is_none()
    }

    fn into_map(self) -> Result<Model> {
        match serde_json::to_value(&self) {
            Ok(Value::Object(model)) => Ok(model),
            Ok(other) => Err(Error::Internal(format!("a user's model is {other}"))),
            Err(error) => Err(Error::Internal(format!(
                "a user's model could not be written: {error}"
            ))),
        }
    }
}

impl Serialize for UserModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let user = &self.user;
        let mut model = serializer.serialize_map(None)?;
        for field in &self.fields {
            match *field {
                "kind" => model.serialize_entry(field, "user")?,
                "name" => model.serialize_entry(field, &user.name)?,
                "admin" => model.serialize_entry(field, &user.admin)?,
                "roles" => model.serialize_entry(field, &user.roles)?,
                "groups" => model.serialize_entry(field, &user.groups)?,
                "server" => model.serialize_entry(field, &self.server)?,
                "pending" => model.serialize_entry(field, &self.pending)?,
                "created" => model.serialize_entry(field, &user.created.map(isoformat))?,
                "last_activity" => {
                    model.serialize_entry(field, &self.last_activity.map(isoformat))?;
                }
                "user_info" => model.serialize_entry(field, &user.user_info)?,
                // Filled in where one user is asked for.
                "auth_state" => model.serialize_entry(field, &Value::Null)?,
                _ => {}
            }
        }
        if let Some(servers) = &self.servers {
            model.serialize_entry("servers", servers)?;
        }
        model.end()
    }
}

fn model(
    hub: &HubState,
    scopes: &ScopeSet,
    memberships: &dyn Groups,
    user: Listed,
    mut servers: Vec<ServerView>,
    include_stopped_servers: bool,
) -> Result<UserModel> {
    let fields = user_fields(scopes, &user.name, memberships);
    if fields.is_empty() {
        return Ok(UserModel {
            fields,
            user,
            last_activity: None,
            server: None,
            pending: None,
            servers: None,
        });
    }
    let default = servers.iter().find(|view| view.name.is_default());
    let server = default
        .filter(|view| view.ready())
        .map(|view| view.url.clone());
    let pending = default.and_then(ServerView::pending);
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
    Ok(UserModel {
        last_activity: hub.servers.user_activity(user.id, user.last_activity),
        server,
        pending,
        servers: (fields.contains("servers") || !shown.is_empty()).then_some(shown),
        fields,
        user,
    })
}

fn may_read(scopes: &ScopeSet, memberships: &dyn Groups, user: &str, server: &ServerName) -> bool {
    let target = Target::Server {
        user,
        server: server.as_str(),
    };
    scopes.allows(Scope::ReadServers, target, memberships)
}

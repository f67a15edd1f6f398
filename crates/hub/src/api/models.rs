//! JSON models of servers, groups, services and tokens, filtered by what the requester may see.
//! Users have a file of their own: [`super::user_models`].

use std::collections::{BTreeSet, HashMap};

use orrery_core::scopes::{
    Groups, NoGroups, Scope, ScopeSet, Target, group_fields, service_fields,
};
use orrery_core::{ServerName, UserName};
use orrery_store::api_tokens::ApiToken;
use orrery_store::groups::{self, Group};
use orrery_store::roles::{self, HolderKind};
use orrery_store::services::Service;
use orrery_store::{oauth_clients, servers};
use serde_json::{Map, Value, json};

use super::time::isoformat;
use crate::auth::{self, Identity};
use crate::error::{Error, Result};
use crate::servers::ServerView;
use crate::state::{AppState, HubState};

/// One JSON object.
pub(super) type Model = Map<String, Value>;

/// Keeps the named fields of a model.
pub(super) fn keep<'a>(model: Value, fields: impl IntoIterator<Item = &'a str>) -> Model {
    let Value::Object(mut all) = model else {
        return Model::new();
    };
    fields
        .into_iter()
        .filter_map(|field| all.remove_entry(field))
        .collect()
}

/// A server that the requester may see; `state` is added where they may see that too.
pub(super) fn server(
    hub: &HubState,
    scopes: &ScopeSet,
    groups: &dyn Groups,
    view: &ServerView,
) -> Value {
    let (user, server) = (view.user_name.as_str(), view.name.as_str());
    let mut model = json!({
        "name": server,
        "display_name": view.display_name,
        "full_name": view.full_name(),
        "last_activity": view.last_activity.map(isoformat),
        "started": view.started.map(isoformat),
        "pending": view.pending(),
        "ready": view.ready(),
        "stopped": view.stopped(),
        "url": view.url,
        "user_options": view.user_options,
        "progress_url": view.progress_url,
        "full_url": full_url(hub, &view.url),
        "full_progress_url": full_url(hub, &view.progress_url),
    });
    if scopes.allows(
        Scope::AdminServerState,
        Target::Server { user, server },
        groups,
    ) {
        model["state"] = view.state.clone();
    }
    model
}

/// The default server of a user who never started it. Upstream makes its row whenever it touches the
/// user; here it exists as soon as it is asked for.
pub(super) fn untouched_default_server(
    hub: &HubState,
    user_id: i32,
    user_name: &str,
) -> Result<ServerView> {
    let user_name = UserName::parse(user_name)
        .map_err(|error| Error::Internal(format!("user {user_id} in the database: {error}")))?;
    let name = ServerName::default_server();
    Ok(ServerView {
        display_name: String::new(),
        user_id,
        spawner_id: 0,
        run: None,
        phase: orrery_core::phase::Phase::Stopped,
        url: hub.urls.server_url(&user_name, &name),
        progress_url: hub.urls.progress(&user_name, &name),
        started: None,
        last_activity: None,
        user_options: json!({}),
        state: Value::Null,
        failure: None,
        progress: Vec::new(),
        queue: None,
        name,
        user_name,
    })
}

/// A path with the protocol and host of `JupyterHub.public_url`, if that is set.
pub(super) fn full_url(hub: &HubState, path: &str) -> Option<String> {
    if path.contains("://") {
        return Some(path.to_owned());
    }
    Some(format!("{}{path}", hub.urls.public_origin()?))
}

/// Groups as the requester may see them, in the same order; empty for those that they may not see.
pub(super) async fn groups(
    hub: &AppState,
    scopes: &ScopeSet,
    list: &[Group],
) -> Result<Vec<Model>> {
    let fields: Vec<_> = list
        .iter()
        .map(|group| group_fields(scopes, &group.name, &NoGroups))
        .collect();
    // A group can have very many members: they are read only where they are shown.
    let with = |field: &str| -> Vec<i32> {
        let shown = list.iter().zip(&fields);
        shown
            .filter(|(_, fields)| fields.contains(field))
            .map(|(group, _)| group.id)
            .collect()
    };
    let mut users = groups::member_names(hub.store.read(), &with("users")).await?;
    let held = roles::names_of_many(hub.store.read(), HolderKind::Group, &with("roles")).await?;
    let mut roles: HashMap<i32, Vec<Value>> = HashMap::new();
    for role in held {
        roles
            .entry(role.holder_id)
            .or_default()
            .push(role.name.into());
    }
    let model = |(group, fields): (&Group, BTreeSet<&'static str>)| {
        let model = json!({
            "kind": "group",
            "name": group.name,
            "roles": roles.remove(&group.id).unwrap_or_default(),
            "users": users.remove(&group.id).unwrap_or_default(),
            "properties": if group.properties.is_null() { json!({}) } else { group.properties.clone() },
        });
        keep(model, fields)
    };
    Ok(list.iter().zip(fields).map(model).collect())
}

/// One group.
pub(super) async fn group(hub: &AppState, scopes: &ScopeSet, group: &Group) -> Result<Model> {
    let models = groups(hub, scopes, std::slice::from_ref(group)).await?;
    Ok(models.into_iter().next().unwrap_or_default())
}

/// How much of a service upstream has at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceDetail {
    /// Everything.
    Full,
    /// Its row alone, where upstream keeps of a configured service only what the configuration says.
    Row,
}

/// A service as the requester may see it; empty if not at all.
pub(super) async fn service(
    hub: &AppState,
    scopes: &ScopeSet,
    service: &Service,
    detail: ServiceDetail,
) -> Result<Model> {
    let fields = &service.fields;
    let shown = service_fields(scopes, &fields.name, &NoGroups);
    if shown.is_empty() {
        return Ok(Model::new());
    }
    let roles = roles::names_of_many(hub.store.read(), HolderKind::Service, &[service.id]).await?;
    let has_address = fields.url.as_ref().is_some_and(|url| !url.is_empty());
    let prefix = match fields.server_id {
        Some(id) => servers::find(hub.store.read(), id)
            .await?
            .map(|server| server.base_url),
        None => None,
    };
    let prefix = prefix.or_else(|| has_address.then(|| hub.urls.service(&fields.name)));
    let mut url = json!(fields.url.as_deref().unwrap_or_default());
    let mut info = if fields.info.is_null() {
        json!({})
    } else {
        fields.info.clone()
    };
    let mut display = json!(fields.display.unwrap_or(true));
    if detail == ServiceDetail::Row && fields.from_config {
        for (value, default) in [
            (&mut url, json!("")),
            (&mut info, json!({})),
            (&mut display, json!(true)),
        ] {
            if *value == default {
                *value = Value::Null;
            }
        }
    }
    let model = json!({
        "kind": "service",
        "name": fields.name,
        "roles": roles.into_iter().map(|role| role.name).collect::<Vec<_>>(),
        "admin": fields.admin,
        "url": url,
        "prefix": prefix.unwrap_or_default(),
        "command": fields.command.as_deref().unwrap_or_default(),
        "pid": fields.pid.filter(|_| detail == ServiceDetail::Full).unwrap_or(0),
        "info": info,
        "display": display,
    });
    Ok(keep(model, shown))
}

/// A token, without its secret. `owner_scopes` is all that its owner may do.
pub(super) async fn token(
    hub: &AppState,
    token: &ApiToken,
    owner: &Identity,
    owner_scopes: &ScopeSet,
) -> Result<Model> {
    let connection = hub.store.read();
    let scopes = auth::token_scopes(hub, connection, token, owner, owner_scopes).await?;
    let client_id = token.client_id.as_deref().unwrap_or("jupyterhub");
    let client = oauth_clients::find(connection, client_id).await?;
    let client = client
        .and_then(|client| client.description)
        .filter(|text| !text.is_empty());
    let mut model = keep(
        json!({
            "id": token_id(token),
            "kind": "api_token",
            // Of old; upstream leaves it present and empty.
            "roles": [],
            "scopes": scopes.to_strings(),
            "created": token.created.map(isoformat),
            "last_activity": token.last_activity.map(isoformat),
            "expires_at": token.expires_at.map(isoformat),
            "note": token.note,
            "session_id": token.session_id,
            "oauth_client": client.as_deref().unwrap_or(client_id),
        }),
        [
            "id",
            "kind",
            "roles",
            "scopes",
            "created",
            "last_activity",
            "expires_at",
            "note",
            "session_id",
            "oauth_client",
        ],
    );
    match owner {
        Identity::User(user) => model.insert("user".to_owned(), json!(user.name)),
        Identity::Service(service) => {
            model.insert("service".to_owned(), json!(service.fields.name))
        }
    };
    Ok(model)
}

/// A token's id on the wire: `a12`.
pub(super) fn token_id(token: &ApiToken) -> String {
    format!("a{}", token.id)
}

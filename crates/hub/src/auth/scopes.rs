//! What users, services and tokens may do: by roles, groups, shares, OAuth clients and bounds.

use std::sync::Arc;

use chrono::NaiveDateTime;
use orrery_core::scopes::roles::RoleSpec;
use orrery_core::scopes::{Client, Memberships, Owner, ScopeSet, Share};
use orrery_store::api_tokens::ApiToken;
use orrery_store::services::Service;
use orrery_store::users::User;
use orrery_store::{
    ConnectionTrait, StoreError, groups, oauth_clients, roles, services, shares, spawners, users,
};

use super::requester::Identity;
use super::token_bounds;
use crate::error::Result;
use crate::state::AppState;

/// All that a user may do: by their roles, their groups' roles and what is shared with them.
pub async fn user_scopes(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    user: &User,
) -> Result<ScopeSet> {
    Ok(scopes_of_user(hub, connection, user).await?.scopes)
}

/// The raw scopes of a user's roles, not expanded.
pub async fn raw_user_scopes(
    connection: &impl ConnectionTrait,
    user: &User,
) -> Result<Vec<String>, StoreError> {
    let roles = roles::of_user_and_groups(connection, user.id).await?;
    Ok(roles
        .iter()
        .flat_map(|role| RoleSpec::effective_scopes(&role.name, &role.scopes))
        .map(str::to_owned)
        .collect())
}

/// All that a service may do by its roles.
async fn service_scopes(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    service: &Service,
) -> Result<ScopeSet> {
    let roles = roles::of(connection, roles::Holder::Service(service.id)).await?;
    let none: [Share; 0] = [];
    Ok(hub.scopes.of_owner(
        Owner::Service(&service.fields.name),
        roles
            .iter()
            .flat_map(|role| RoleSpec::effective_scopes(&role.name, &role.scopes)),
        &none,
    ))
}

/// What a token allows, given what its owner may do.
pub async fn token_scopes(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    token: &ApiToken,
    identity: &Identity,
    owner_scopes: &ScopeSet,
) -> Result<ScopeSet> {
    let (scopes, _) = token_scopes_and_why(hub, connection, token, identity, owner_scopes).await?;
    Ok(scopes)
}

/// The same, and whether anybody's groups were asked for to know.
pub(super) async fn token_scopes_and_why(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    token: &ApiToken,
    identity: &Identity,
    owner_scopes: &ScopeSet,
) -> Result<(ScopeSet, bool)> {
    let client = client_of(connection, token.client_id.as_deref()).await?;
    let owner = identity.owner();
    let members = hub
        .scopes
        .token_members_in_question(&token.scopes, owner, owner_scopes, &client);
    let groups = memberships(connection, members.iter().map(String::as_str)).await?;
    let effective = hub
        .scopes
        .of_token(&token.scopes, owner, owner_scopes, &client, &groups);
    if !effective.discarded.is_empty() {
        tracing::debug!(token = token.id, discarded = ?effective.discarded.to_strings(), "a token lists more than its owner may do");
    }
    let by_groups = !members.is_empty();
    match identity {
        Identity::User(user) if client == Client::Hub => {
            let (scopes, more) =
                token_bounds::narrow(hub, connection, token, user, effective.scopes).await?;
            Ok((scopes, by_groups || more))
        }
        _ => Ok((effective.scopes, by_groups)),
    }
}

/// Whose a token is, if they still exist.
pub async fn token_owner(
    connection: &impl ConnectionTrait,
    token: &ApiToken,
) -> Result<Option<Identity>, StoreError> {
    if let Some(id) = token.user_id {
        let user = users::find_by_id(connection, id).await?;
        return Ok(user.map(|user| Identity::User(Arc::new(user))));
    }
    let Some(id) = token.service_id else {
        return Ok(None);
    };
    let service = services::find_by_id(connection, id).await?;
    Ok(service.map(|service| Identity::Service(Arc::new(service))))
}

/// All that a user or service may do.
pub async fn identity_scopes(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    identity: &Identity,
) -> Result<ScopeSet> {
    Ok(scopes_of(hub, connection, identity).await?.scopes)
}

pub(super) async fn scopes_of(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    identity: &Identity,
) -> Result<OwnerScopes> {
    match identity {
        Identity::User(user) => scopes_of_user(hub, connection, user).await,
        Identity::Service(service) => Ok(OwnerScopes {
            scopes: service_scopes(hub, connection, service).await?,
            good_until: None,
        }),
    }
}

/// All that the owner of a token may do.
pub(super) struct OwnerScopes {
    pub(super) scopes: ScopeSet,
    /// When some of it ends by itself.
    pub(super) good_until: Option<NaiveDateTime>,
}

pub(super) async fn scopes_of_user(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    user: &User,
) -> Result<OwnerScopes> {
    let roles = roles::of_user_and_groups(connection, user.id).await?;
    let (shares, good_until) = shared_with(connection, user.id, hub.clock.now()).await?;
    let scopes = hub.scopes.of_owner(
        Owner::User(&user.name),
        roles
            .iter()
            .flat_map(|role| RoleSpec::effective_scopes(&role.name, &role.scopes)),
        &shares,
    );
    Ok(OwnerScopes { scopes, good_until })
}

/// What is shared with a user, by the names of owners and servers.
async fn shared_with(
    connection: &impl ConnectionTrait,
    user_id: i32,
    now: NaiveDateTime,
) -> Result<(Vec<Share>, Option<NaiveDateTime>), StoreError> {
    let mut shares = Vec::new();
    let mut good_until = None;
    for share in shares::with_user(connection, user_id).await? {
        if share.expires_at.is_some_and(|end| end <= now) {
            continue;
        }
        good_until = earlier(good_until, share.expires_at);
        let (Some(owner_id), Some(spawner_id)) = (share.owner_id, share.spawner_id) else {
            continue;
        };
        let owner = users::find_by_id(connection, owner_id).await?;
        let spawner = spawners::find_by_id(connection, spawner_id).await?;
        if let (Some(owner), Some(spawner)) = (owner, spawner) {
            // The owner or the server may have been renamed since.
            let filter = format!("server={}/{}", owner.name, spawner.name);
            shares.push(Share {
                scopes: shares::filtered(&share.scopes, &filter)
                    .into_iter()
                    .collect(),
                user: owner.name,
                server: spawner.name,
            });
        }
    }
    Ok((shares, good_until))
}

pub(super) fn earlier(
    one: Option<NaiveDateTime>,
    other: Option<NaiveDateTime>,
) -> Option<NaiveDateTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What stands behind an OAuth client id.
pub async fn client_of(
    connection: &impl ConnectionTrait,
    client_id: Option<&str>,
) -> Result<Client, StoreError> {
    let Some(client_id) = client_id.filter(|id| *id != "jupyterhub") else {
        return Ok(Client::Hub);
    };
    if oauth_clients::find(connection, client_id).await?.is_none() {
        return Ok(Client::Orphan);
    }
    if let Some(spawner) = spawners::find_by_client(connection, client_id).await?
        && let Some(user_id) = spawner.user_id
        && let Some(user) = users::find_by_id(connection, user_id).await?
    {
        return Ok(Client::Server {
            user: user.name,
            server: spawner.name,
        });
    }
    if let Some(service) = services::find_by_client(connection, client_id).await? {
        return Ok(Client::Service(service.fields.name));
    }
    Ok(Client::Orphan)
}

/// The groups of some users, by name.
pub async fn memberships<'a>(
    connection: &impl ConnectionTrait,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Memberships, StoreError> {
    let mut all = Memberships::new();
    for name in names {
        if let Some(user) = users::find(connection, name).await? {
            let groups = groups::of_users(connection, &[user.id]).await?;
            all = all.with(name, groups.into_iter().map(|group| group.name));
        }
    }
    Ok(all)
}

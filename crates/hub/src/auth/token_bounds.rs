//! What API tokens of users may do at most (`JupyterHub.token_allowed_scopes`), by the roles of their
//! owners. It is looked at when a token is made and each time that one is used, so that a lower bound
//! narrows the tokens that exist.
//!
//! Tokens from OAuth logins have bounds of their own, those of their clients. A server's own token keeps
//! what every server of its user is given.

use std::collections::BTreeSet;

use orrery_core::scopes::{Client, Owner, ScopeSet, identify_scopes};
use orrery_store::api_tokens::ApiToken;
use orrery_store::users::User;
use orrery_store::{ConnectionTrait, roles};

use super::memberships;
use crate::error::Result;
use crate::state::AppState;

/// How notes of servers' own tokens begin, as upstream writes them.
const SERVERS_NOTE: &str = "Server at ";

/// The most that tokens of a user may do.
pub struct Bound {
    /// As it is configured.
    pub raw: BTreeSet<String>,
    /// Expanded.
    pub scopes: ScopeSet,
}

/// The bound for tokens of `user`; `None` if there is none.
pub async fn of(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    user: &User,
) -> Result<Option<Bound>> {
    let by_role = &hub.config.hub.token_allowed_scopes;
    if by_role.is_empty() {
        return Ok(None);
    }
    let raw: BTreeSet<String> = roles::of_user_and_groups(connection, user.id)
        .await?
        .iter()
        .filter_map(|role| by_role.get(&role.name))
        .flatten()
        .cloned()
        .collect();
    if raw.contains("inherit") {
        return Ok(None);
    }
    let owner = Owner::User(&user.name);
    let scopes = hub.scopes.expand(&raw, Some(owner), &Client::Hub);
    Ok(Some(Bound { raw, scopes }))
}

/// Of what a token would allow, what is within the bound of its owner; and whether anybody's groups were
/// asked for to know.
pub async fn narrow(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    token: &ApiToken,
    user: &User,
    scopes: ScopeSet,
) -> Result<(ScopeSet, bool)> {
    let Some(bound) = of(hub, connection, user).await? else {
        return Ok((scopes, false));
    };
    let owner = Owner::User(&user.name);
    // Whoever asks may know whose token it is.
    let mut allowed = bound.scopes.union(&identify_scopes(owner));
    if token
        .note
        .as_deref()
        .is_some_and(|note| note.starts_with(SERVERS_NOTE))
    {
        // People can write such a note too, and get no more by it than their servers have anyway.
        let of_servers = of_servers(hub, connection).await?;
        allowed = allowed.union(&hub.scopes.expand(&of_servers, Some(owner), &Client::Hub));
    }
    within(connection, &scopes, &allowed).await
}

/// The scopes of `wanted` that are beyond the bound; raw and expanded, for an error's sentence.
pub async fn excess(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    user: &User,
    wanted: &[String],
) -> Result<Option<(Bound, Vec<String>)>> {
    let Some(bound) = of(hub, connection, user).await? else {
        return Ok(None);
    };
    // All that the owner may do is narrowed at each use.
    let named = wanted.iter().filter(|scope| *scope != "inherit");
    let owner = Owner::User(&user.name);
    let listed = hub.scopes.expand(named, Some(owner), &Client::Hub);
    let allowed = bound.scopes.union(&identify_scopes(owner));
    let (held, _) = within(connection, &listed, &allowed).await?;
    let excess = listed.difference(&held);
    Ok((!excess.is_empty()).then(|| (bound, excess.to_strings())))
}

/// The part of `scopes` that is within `allowed`; and whether anybody's groups were asked for to know.
pub async fn within(
    connection: &impl ConnectionTrait,
    scopes: &ScopeSet,
    allowed: &ScopeSet,
) -> Result<(ScopeSet, bool)> {
    let members = scopes.members_in_question(allowed);
    let groups = memberships(connection, members.iter().map(String::as_str)).await?;
    Ok((scopes.intersect(allowed, &groups), !members.is_empty()))
}

/// What any server of a user is given, raw.
async fn of_servers(hub: &AppState, connection: &impl ConnectionTrait) -> Result<BTreeSet<String>> {
    let configured = &hub.servers.settings().server_token_scopes;
    let raw: Vec<String> = if configured.is_empty() {
        let role = roles::find(connection, "server").await?;
        role.map(|role| role.scopes).unwrap_or_default()
    } else {
        configured.clone()
    };
    let mut scopes: BTreeSet<String> = raw
        .into_iter()
        .map(|scope| match scope.strip_suffix("!server") {
            Some(base) => format!("{base}!user"),
            None => scope,
        })
        .collect();
    scopes.insert("users:activity!user".to_owned());
    Ok(scopes)
}

//! The hub as OAuth provider for single-user servers and services: the authorization code grant of
//! RFC 6749 with PKCE (RFC 7636), in upstream's paths and formats.

mod authorize;
mod token;

use orrery_core::scopes::{Client, Owner};
use orrery_store::oauth_clients::OauthClient;
use orrery_store::users::User;

use crate::auth;
use crate::error::Result;
use crate::router::{Needs, Routes};
use crate::state::AppState;

/// How long a code can be exchanged, in seconds.
const CODE_LIFETIME: i64 = 300;

/// The routes of this module.
pub fn routes() -> Routes {
    Routes::default()
        .get("/api/oauth2/authorize", Needs::Login, authorize::ask)
        .post("/api/oauth2/authorize", Needs::Login, authorize::confirm)
        .post("/api/oauth2/token", Needs::Nothing, token::exchange)
}

/// The scopes that every token of `client` has: to know its owner and to reach the client itself.
fn required_scopes(user: &User, client: &Client) -> Vec<String> {
    let identify = orrery_core::scopes::identify_scopes(Owner::User(&user.name));
    identify
        .union(&orrery_core::scopes::access_scopes(client))
        .to_strings()
}

/// Splits `requested` by what the client may ask for and what the user holds; both raw.
async fn resolve(
    hub: &AppState,
    user: &User,
    client: &Client,
    requested: &std::collections::BTreeSet<String>,
    have: &std::collections::BTreeSet<String>,
) -> Result<orrery_core::scopes::Resolved> {
    let owner = Owner::User(&user.name);
    let wanted = hub.scopes.expand(requested, Some(owner), client);
    let held = hub.scopes.expand(have, Some(owner), client);
    let members = wanted.members_in_question(&held);
    let groups = auth::memberships(hub.store.read(), members.iter().map(String::as_str)).await?;
    Ok(hub
        .scopes
        .resolve_requested(requested, have, owner, client, &groups))
}

/// What people call the client.
fn description(client: &OauthClient) -> &str {
    client
        .description
        .as_deref()
        .filter(|text| !text.is_empty())
        .unwrap_or(&client.identifier)
}

//! What a server is given when its turn comes: its address' row, its API token, its OAuth client.

use std::collections::BTreeSet;

use orrery_core::scopes::{Client, Owner};
use orrery_core::{Secret, escape};
use orrery_store::api_tokens::{self, NewApiToken};
use orrery_store::oauth_clients::{self, NewOauthClient};
use orrery_store::servers::{self, NewServer};
use orrery_store::spawners::{self, SpawnerChanges};
use orrery_store::token_hash::{self, Origin};
use orrery_store::users::{self, UserChanges};
use orrery_store::{ConnectionTrait, NaiveDateTime, StoreError, roles};
use serde_json::{Value, json};

use super::{Course, Engine, environment};
use crate::auth::memberships;
use crate::urls::Urls;

/// The OAuth client that tokens made by the hub itself belong to.
const HUB_CLIENT: &str = "jupyterhub";

/// The scope without which a server cannot report activity.
const ACTIVITY: &str = "users:activity!user";

/// What a server starts with. The token is nowhere else: the database has only its hash, so a start
/// that is cut off is cleaned up rather than repeated.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) token: Secret,
    hashed_token: String,
    hashed_secret: String,
}

impl Grant {
    /// A fresh token.
    pub(super) fn generate() -> Result<Self, StoreError> {
        let token = token_hash::generate_token()?;
        Ok(Self {
            hashed_token: token_hash::hash_token(token.expose(), Origin::Generated)?,
            // The client's secret is the same token, hashed apart as upstream does.
            hashed_secret: token_hash::hash_token(token.expose(), Origin::Generated)?,
            token,
        })
    }
}

impl Engine {
    /// Writes all rows that upstream writes before it calls its spawner. `old_address` is the row of
    /// an earlier life that was never cleaned. Gives the server's id as an OAuth client.
    pub(super) async fn write_grant(
        &self,
        connection: &impl ConnectionTrait,
        course: &Course,
        grant: &Grant,
        old_address: Option<i32>,
        now: NaiveDateTime,
    ) -> Result<String, StoreError> {
        if let Some(old) = old_address {
            servers::delete(connection, old).await?;
        }
        let base_url = self.urls.server(&course.user, &course.server);
        let address = NewServer {
            proto: "http".to_owned(),
            ip: String::new(),
            port: 0,
            base_url: base_url.clone(),
            cookie_name: "cookie".to_owned(),
        };
        let address = servers::insert(connection, &address).await?;
        let note = format!("Server at {base_url}");
        api_tokens::insert(
            connection,
            &NewApiToken {
                owner: api_tokens::Owner::User(course.user_id),
                hashed: grant.hashed_token.clone(),
                prefix: token_hash::prefix(grant.token.expose()).to_owned(),
                client_id: HUB_CLIENT.to_owned(),
                session_id: None,
                created: now,
                expires_at: None,
                note,
                scopes: self.token_scopes(connection, course).await?,
            },
        )
        .await?;
        let client_id = client_id(connection, course).await?;
        oauth_clients::upsert(
            connection,
            &NewOauthClient {
                identifier: client_id.clone(),
                description: format!("Server at {base_url}"),
                secret: grant.hashed_secret.clone(),
                redirect_uri: environment::callback_url(&self.urls, &course.user, &course.server),
                allowed_scopes: self.client_scopes(course),
            },
        )
        .await?;
        let changes = SpawnerChanges {
            server_id: Some(Some(address.id)),
            state: Some(json!({})),
            started: Some(Some(now)),
            last_activity: Some(Some(now)),
            oauth_client_id: Some(Some(client_id.clone())),
            ..SpawnerChanges::default()
        };
        spawners::update(connection, course.spawner_id, &changes).await?;
        let changes = UserChanges {
            last_activity: Some(now),
            ..UserChanges::default()
        };
        users::update(connection, course.user_id, &changes).await?;
        Ok(client_id)
    }

    /// Takes back what [`Engine::write_grant`] gave and clears the spawner's row, as upstream does
    /// when a server has ended.
    pub(super) async fn revoke_grant(
        &self,
        connection: &impl ConnectionTrait,
        course: &Course,
        now: NaiveDateTime,
    ) -> Result<(), StoreError> {
        let note = format!(
            "Server at {}",
            self.urls.server(&course.user, &course.server)
        );
        let owner = api_tokens::Owner::User(course.user_id);
        for token in api_tokens::list(connection, owner).await? {
            if token.client_id.as_deref() == Some(HUB_CLIENT)
                && token.note.as_deref() == Some(note.as_str())
            {
                api_tokens::delete(connection, token.id).await?;
            }
        }
        if let Some(spawner) = spawners::find_by_id(connection, course.spawner_id).await? {
            let changes = SpawnerChanges {
                server_id: Some(None),
                state: Some(json!({})),
                started: Some(None),
                last_activity: Some(Some(now)),
                ..SpawnerChanges::default()
            };
            spawners::update(connection, spawner.id, &changes).await?;
            // A database from JupyterHub may name one client in two rows.
            if let Some(client_id) = &spawner.oauth_client_id
                && !spawners::is_client_of_another(connection, client_id, spawner.id).await?
            {
                oauth_clients::delete(connection, client_id).await?;
            }
            if let Some(address) = spawner.server_id {
                servers::delete(connection, address).await?;
            }
        }
        users::touch_activity(connection, &[(course.user_id, now)]).await
    }

    /// The scopes of the server's own token: those asked for, as far as the user holds them.
    async fn token_scopes(
        &self,
        connection: &impl ConnectionTrait,
        course: &Course,
    ) -> Result<Vec<String>, StoreError> {
        let mut wanted: BTreeSet<String> = if self.settings.server_token_scopes.is_empty() {
            let role = roles::find(connection, "server").await?;
            role.map(|role| role.scopes)
                .unwrap_or_default()
                .into_iter()
                .collect()
        } else {
            self.settings.server_token_scopes.iter().cloned().collect()
        };
        // `!server` means nothing to a token that is not owned by the server's own OAuth client.
        wanted = wanted
            .into_iter()
            .map(|scope| {
                if scope.ends_with("!server") {
                    format!("{scope}={}/{}", course.user, course.server)
                } else {
                    scope
                }
            })
            .collect();
        if ![ACTIVITY, "users:activity", "inherit"]
            .iter()
            .any(|scope| wanted.contains(*scope))
        {
            wanted.insert(ACTIVITY.to_owned());
        }
        let mut held: BTreeSet<String> = roles::of_user_and_groups(connection, course.user_id)
            .await?
            .into_iter()
            .flat_map(|role| role.scopes)
            .collect();
        held.insert("inherit".to_owned());
        let owner = Owner::User(course.user.as_str());
        let asked = self.definitions.expand(&wanted, Some(owner), &Client::Hub);
        let has = self.definitions.expand(&held, Some(owner), &Client::Hub);
        let members = asked.members_in_question(&has);
        let groups = memberships(connection, members.iter().map(String::as_str)).await?;
        let resolved =
            self.definitions
                .resolve_requested(&wanted, &held, owner, &Client::Hub, &groups);
        if !resolved.disallowed.is_empty() {
            tracing::debug!(
                user = %escape::for_log(course.user.as_str(), 64),
                scopes = ?resolved.disallowed,
                "the server's token does not get scopes that its user does not hold"
            );
        }
        Ok(resolved.allowed.into_iter().collect())
    }

    /// The scopes that the server may ask its visitors for; access to itself always.
    fn client_scopes(&self, course: &Course) -> Vec<String> {
        let mut scopes: BTreeSet<String> = self
            .settings
            .oauth_client_allowed_scopes
            .iter()
            .cloned()
            .collect();
        scopes.insert(format!(
            "access:servers!server={}/{}",
            course.user, course.server
        ));
        scopes.into_iter().collect()
    }
}

/// The server's id as an OAuth client: upstream's, unless another server has that one. Upstream joins
/// the names of user and server by a hyphen, which both may have inside.
async fn client_id(
    connection: &impl ConnectionTrait,
    course: &Course,
) -> Result<String, StoreError> {
    let usual = Urls::oauth_client_id(&course.user, &course.server);
    if spawners::is_client_of_another(connection, &usual, course.spawner_id).await? {
        // Begins otherwise than all usual ones, so that nobody can choose names that give it.
        return Ok(format!("jupyterhub-server-{}", course.spawner_id));
    }
    Ok(usual)
}

/// An address as upstream keeps it, from the URL that a spawner gave.
pub(super) fn address(url: &str, base_url: &str) -> Option<NewServer> {
    let uri: http::Uri = url.parse().ok()?;
    let proto = uri.scheme_str()?.to_owned();
    let default_port = match proto.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let host = uri.host()?;
    let ip = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    Some(NewServer {
        ip: ip.to_owned(),
        port: i32::from(uri.port_u16().unwrap_or(default_port)),
        base_url: base_url.to_owned(),
        cookie_name: "cookie".to_owned(),
        proto,
    })
}

/// The state to keep: an object, whatever the spawner said.
pub(super) fn as_state(state: &Value) -> Value {
    match state {
        Value::Object(_) => state.clone(),
        Value::Null => json!({}),
        other => json!({ "state": other }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_as_upstream_does() {
        let parts = |url| address(url, "/user/ada/").map(|new| (new.proto, new.ip, new.port));
        let expected = |proto: &str, ip: &str, port| Some((proto.to_owned(), ip.to_owned(), port));
        assert_eq!(
            parts("http://127.0.0.1:4567"),
            expected("http", "127.0.0.1", 4567)
        );
        assert_eq!(parts("http://[::1]:4567"), expected("http", "::1", 4567));
        assert_eq!(
            parts("https://host.example"),
            expected("https", "host.example", 443)
        );
        assert_eq!(parts("ftp://x:1"), None);
        assert_eq!(parts("nonsense"), None);
    }
}

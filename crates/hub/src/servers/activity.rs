//! When users, servers and tokens were last used: collected in memory, written together.

use std::collections::HashMap;
use std::sync::Mutex;

use chrono::NaiveDateTime;
use orrery_core::ServerName;
use orrery_store::{StoreError, api_tokens, spawners, users};

use super::Engine;

/// Activity that is not yet in the database. Losing it costs some seconds of "last seen".
#[derive(Default)]
pub(super) struct Buffer(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    users: HashMap<i32, NaiveDateTime>,
    servers: HashMap<(i32, ServerName), NaiveDateTime>,
    tokens: HashMap<i32, NaiveDateTime>,
}

impl Buffer {
    fn with<T>(&self, work: impl FnOnce(&mut Seen) -> T) -> T {
        work(&mut self.0.lock().expect("nothing panics under this lock"))
    }
}

fn later<K: std::hash::Hash + Eq>(seen: &mut HashMap<K, NaiveDateTime>, key: K, at: NaiveDateTime) {
    let known = seen.entry(key).or_insert(at);
    *known = at.max(*known);
}

impl Engine {
    /// A user was active.
    pub fn record_user_activity(&self, user_id: i32, at: NaiveDateTime) {
        self.activity
            .with(|seen| later(&mut seen.users, user_id, at));
    }

    /// A server was used. Its user's activity is recorded apart.
    pub fn record_server_activity(&self, user_id: i32, server: &ServerName, at: NaiveDateTime) {
        self.activity
            .with(|seen| later(&mut seen.servers, (user_id, server.clone()), at));
    }

    /// An API token was used.
    pub fn record_token_activity(&self, token_id: i32, at: NaiveDateTime) {
        self.activity
            .with(|seen| later(&mut seen.tokens, token_id, at));
    }

    /// When a user was last active: what the database knows, or what is still to be written.
    pub fn user_activity(
        &self,
        user_id: i32,
        known: Option<NaiveDateTime>,
    ) -> Option<NaiveDateTime> {
        self.activity
            .with(|seen| seen.users.get(&user_id).copied())
            .max(known)
    }

    /// When a server was last used: what the database knows, or what is still to be written.
    pub(super) fn server_activity(
        &self,
        user_id: i32,
        server: &ServerName,
        known: Option<NaiveDateTime>,
    ) -> Option<NaiveDateTime> {
        self.activity
            .with(|seen| seen.servers.get(&(user_id, server.clone())).copied())
            .max(known)
    }

    /// Writes what was recorded, in one transaction. What is older than the database knows changes
    /// nothing. On an error it is kept for the next time.
    pub async fn flush_activity(&self) -> Result<(), StoreError> {
        let Seen {
            users: of_users,
            servers,
            tokens,
        } = self.activity.with(std::mem::take);
        if of_users.is_empty() && servers.is_empty() && tokens.is_empty() {
            return Ok(());
        }
        let seen_users: Vec<_> = of_users.iter().map(|(id, at)| (*id, *at)).collect();
        let seen_users = &seen_users;
        let (servers_seen, tokens_seen) = (&servers, &tokens);
        let written = self
            .store
            .write(|transaction| async move {
                users::touch_activity(&transaction, seen_users).await?;
                let mut seen_servers = Vec::with_capacity(servers_seen.len());
                let mut owners: Vec<i32> = servers_seen.keys().map(|(user, _)| *user).collect();
                owners.sort_unstable();
                owners.dedup();
                for spawner in spawners::list_of_users(&transaction, &owners).await? {
                    let (Some(user), Ok(name)) =
                        (spawner.user_id, ServerName::parse(&spawner.name))
                    else {
                        continue;
                    };
                    if let Some(at) = servers_seen.get(&(user, name)) {
                        seen_servers.push((spawner.id, *at));
                    }
                }
                spawners::touch_activity(&transaction, &seen_servers).await?;
                for (token, at) in tokens_seen {
                    api_tokens::touch(&transaction, *token, *at).await?;
                }
                Ok::<_, StoreError>(())
            })
            .await;
        if written.is_err() {
            self.activity.with(|seen| {
                for (user, at) in of_users {
                    later(&mut seen.users, user, at);
                }
                for (server, at) in servers {
                    later(&mut seen.servers, server, at);
                }
                for (token, at) in tokens {
                    later(&mut seen.tokens, token, at);
                }
            });
        }
        written
    }
}

impl Engine {
    /// Takes over when the proxy last saw each server in use, as upstream does every
    /// `last_activity_interval`.
    pub(super) async fn harvest_activity(&self) -> Result<(), StoreError> {
        let used = match self.routes.used().await {
            Ok(used) => used,
            Err(error) => {
                tracing::debug!(%error, "the proxy did not tell when servers were used");
                return Ok(());
            }
        };
        let known: HashMap<(String, String), i32> = spawners::list_active(self.store.read())
            .await?
            .into_iter()
            .filter_map(|active| {
                Some((
                    (active.user_name, active.spawner.name),
                    active.spawner.user_id?,
                ))
            })
            .collect();
        for seen in used {
            let Ok(server) = ServerName::parse(&seen.server) else {
                continue;
            };
            if let Some(user) = known.get(&(seen.user, seen.server)) {
                self.record_user_activity(*user, seen.at);
                self.record_server_activity(*user, &server, seen.at);
            }
        }
        Ok(())
    }
}

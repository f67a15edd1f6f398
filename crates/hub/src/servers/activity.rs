//! When users, servers and tokens were last used: collected in memory, written together.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use chrono::NaiveDateTime;
use orrery_core::ServerName;
use orrery_store::{StoreError, api_tokens, sessions, spawners, users};
use tokio::time::Instant;

use super::Engine;

/// Activity that is not yet in the database, or only just. Losing it costs some seconds of "last seen".
#[derive(Default)]
pub(super) struct Buffer(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// What is to be written.
    fresh: Collected,
    /// What was written a short time ago. Whoever read the database before that must not be shown what
    /// is older than what others were shown already.
    written: Collected,
    /// The same of before [`Seen::turned`].
    written_before: Collected,
    turned: Option<Instant>,
}

/// For so long at least, what was written is still shown from memory: longer than a statement may take.
const SHOWN_AFTER_WRITING: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
struct Collected {
    users: HashMap<i32, NaiveDateTime>,
    servers: HashMap<(i32, ServerName), NaiveDateTime>,
    tokens: HashMap<i32, NaiveDateTime>,
    sessions: HashMap<i64, sessions::Seen>,
}

impl Seen {
    /// The latest that `of` finds.
    fn latest(
        &self,
        of: impl Fn(&Collected) -> Option<NaiveDateTime>,
        known: Option<NaiveDateTime>,
    ) -> Option<NaiveDateTime> {
        let recent = [&self.fresh, &self.written, &self.written_before];
        recent.into_iter().filter_map(of).max().max(known)
    }

    /// Takes for written what was, unless something newer came meanwhile.
    fn was_written(&mut self, all: Collected) {
        let fresh = &mut self.fresh;
        fresh.users.retain(|key, at| all.users.get(key) != Some(at));
        fresh
            .servers
            .retain(|key, at| all.servers.get(key) != Some(at));
        fresh
            .tokens
            .retain(|key, at| all.tokens.get(key) != Some(at));
        fresh
            .sessions
            .retain(|key, used| all.sessions.get(key) != Some(used));
        let now = Instant::now();
        if self
            .turned
            .is_none_or(|turned| now.duration_since(turned) > SHOWN_AFTER_WRITING)
        {
            self.written_before = std::mem::take(&mut self.written);
            self.turned = Some(now);
        }
        for (user, at) in all.users {
            later(&mut self.written.users, user, at);
        }
        for (server, at) in all.servers {
            later(&mut self.written.servers, server, at);
        }
    }
}

impl Collected {
    fn is_empty(&self) -> bool {
        self.users.is_empty()
            && self.servers.is_empty()
            && self.tokens.is_empty()
            && self.sessions.is_empty()
    }
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
            .with(|seen| later(&mut seen.fresh.users, user_id, at));
    }

    /// A server was used. Its user's activity is recorded apart.
    pub fn record_server_activity(&self, user_id: i32, server: &ServerName, at: NaiveDateTime) {
        self.activity
            .with(|seen| later(&mut seen.fresh.servers, (user_id, server.clone()), at));
    }

    /// An API token was used.
    pub fn record_token_activity(&self, token_id: i32, at: NaiveDateTime) {
        self.activity
            .with(|seen| later(&mut seen.fresh.tokens, token_id, at));
    }

    /// A login's cookie was used.
    pub fn record_session_use(&self, used: sessions::Seen) {
        self.activity.with(|seen| {
            seen.fresh.sessions.insert(used.id, used);
        });
    }

    /// A user was deleted. The database may give the number to somebody new.
    pub fn forget_activity_of(&self, user_id: i32) {
        self.activity.with(|seen| {
            for collected in [&mut seen.fresh, &mut seen.written, &mut seen.written_before] {
                collected.users.remove(&user_id);
                collected.servers.retain(|(user, _), _| *user != user_id);
            }
        });
    }

    /// When a user was last active: what the database knows, or what is still to be written.
    pub fn user_activity(
        &self,
        user_id: i32,
        known: Option<NaiveDateTime>,
    ) -> Option<NaiveDateTime> {
        let of = |seen: &Collected| seen.users.get(&user_id).copied();
        self.activity.with(|seen| seen.latest(of, known))
    }

    /// When a server was last used: what the database knows, or what is still to be written.
    pub(super) fn server_activity(
        &self,
        user_id: i32,
        server: &ServerName,
        known: Option<NaiveDateTime>,
    ) -> Option<NaiveDateTime> {
        let key = (user_id, server.clone());
        let of = |seen: &Collected| seen.servers.get(&key).copied();
        self.activity.with(|seen| seen.latest(of, known))
    }

    /// Writes what was recorded, in one transaction with a few statements for all. What is older than the
    /// database knows changes nothing. Until it is written it stays to be shown, and on an error it is
    /// kept for the next time.
    pub async fn flush_activity(&self) -> Result<(), StoreError> {
        let written = self.activity.with(|seen| seen.fresh.clone());
        if written.is_empty() {
            return Ok(());
        }
        let mut owners: Vec<i32> = written.servers.keys().map(|(user, _)| *user).collect();
        owners.sort_unstable();
        owners.dedup();
        let seen_servers: Vec<_> = spawners::keys_of_users(self.store.read(), &owners)
            .await?
            .into_iter()
            .filter_map(|spawner| {
                let name = ServerName::parse(&spawner.name).ok()?;
                let at = written.servers.get(&(spawner.user_id, name))?;
                Some((spawner.id, *at))
            })
            .collect();
        let pairs = |seen: &HashMap<i32, NaiveDateTime>| -> Vec<_> {
            seen.iter().map(|(id, at)| (*id, *at)).collect()
        };
        let (seen_users, seen_tokens) = (&pairs(&written.users), &pairs(&written.tokens));
        let seen_sessions: Vec<_> = written.sessions.values().cloned().collect();
        let (seen_servers, seen_sessions) = (&seen_servers, &seen_sessions);
        self.store
            .write(|transaction| async move {
                users::touch_activity(&transaction, seen_users).await?;
                spawners::touch_activity(&transaction, seen_servers).await?;
                api_tokens::touch_activity(&transaction, seen_tokens).await?;
                sessions::touch(&transaction, seen_sessions).await?;
                Ok::<_, StoreError>(())
            })
            .await?;
        self.activity.with(|seen| seen.was_written(written));
        Ok(())
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

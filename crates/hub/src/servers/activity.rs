//! When users, servers and tokens were last used: collected in memory, written together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::NaiveDateTime;
use orrery_core::ServerName;
use orrery_store::{StoreError, api_tokens, sessions, spawners, users};
use tokio::time::Instant;

use super::Engine;

/// Activity that is not yet in the database, or only just. Losing it costs some seconds of "last seen".
#[derive(Default)]
pub(super) struct Buffer {
    seen: Mutex<Seen>,
    /// Grows whenever something is recorded that answers show differently.
    generation: AtomicU64,
}

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

/// So many are looked for one by one where the database refuses to write; the rest goes with what it was
/// to be written with.
const MAX_REFUSED: usize = 100;

/// One row that is to be written.
#[derive(Debug)]
enum One {
    User(i32, NaiveDateTime),
    /// By the row of `spawners`.
    Server(i32, (i32, ServerName), NaiveDateTime),
    Token(i32, NaiveDateTime),
    Session(sessions::Seen),
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
    fn was_written(&mut self, mut all: Collected) {
        let fresh = &mut self.fresh;
        // Whose activity was forgotten meanwhile is gone; somebody new may have the number.
        all.users.retain(|key, _| fresh.users.contains_key(key));
        all.servers.retain(|key, _| fresh.servers.contains_key(key));
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

    /// Leaves out one, unless something newer came meanwhile.
    fn forget(&mut self, one: &One) {
        fn remove<K: std::hash::Hash + Eq, V: PartialEq>(
            from: &mut HashMap<K, V>,
            key: &K,
            value: &V,
        ) {
            if from.get(key) == Some(value) {
                from.remove(key);
            }
        }
        match one {
            One::User(id, at) => remove(&mut self.users, id, at),
            One::Server(_, key, at) => remove(&mut self.servers, key, at),
            One::Token(id, at) => remove(&mut self.tokens, id, at),
            One::Session(used) => remove(&mut self.sessions, &used.id, used),
        }
    }
}

impl Buffer {
    fn with<T>(&self, work: impl FnOnce(&mut Seen) -> T) -> T {
        work(&mut self.seen.lock().expect("nothing panics under this lock"))
    }
}

/// Notes the time of a use; says whether it is news.
fn later<K: std::hash::Hash + Eq>(
    seen: &mut HashMap<K, NaiveDateTime>,
    key: K,
    at: NaiveDateTime,
) -> bool {
    match seen.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(at);
            true
        }
        Entry::Occupied(entry) if *entry.get() >= at => false,
        Entry::Occupied(mut entry) => {
            entry.insert(at);
            true
        }
    }
}

impl Engine {
    /// A user was active.
    pub fn record_user_activity(&self, user_id: i32, at: NaiveDateTime) {
        self.note(|seen| later(&mut seen.fresh.users, user_id, at));
    }

    /// A server was used. Its user's activity is recorded apart.
    pub fn record_server_activity(&self, user_id: i32, server: &ServerName, at: NaiveDateTime) {
        let key = (user_id, server.clone());
        self.note(|seen| later(&mut seen.fresh.servers, key, at));
    }

    fn note(&self, work: impl FnOnce(&mut Seen) -> bool) {
        if self.activity.with(work) {
            self.activity.generation.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A number that grows with the activity of users and servers that is shown but not written yet.
    pub(crate) fn activity_generation(&self) -> u64 {
        self.activity.generation.load(Ordering::SeqCst)
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
    /// database knows changes nothing. Until it is written it stays to be shown, and while the database is
    /// away or busy it is kept for the next time. What the database refuses is logged and forgotten.
    pub async fn flush_activity(&self) -> Result<(), StoreError> {
        let mut written = self.activity.with(|seen| seen.fresh.clone());
        if written.is_empty() {
            return Ok(());
        }
        let seen = self.to_write(&written).await?;
        let mut refused = Vec::new();
        let mut pieces = vec![seen.as_slice()];
        while let Some(piece) = pieces.pop() {
            match self.write_activity(piece).await {
                Ok(()) => {}
                // What is written already changes nothing when it is written again.
                Err(error) if error.is_unavailable() => return Err(error),
                Err(error) => match piece {
                    [_, _, ..] if refused.len() < MAX_REFUSED => {
                        let (first, second) = piece.split_at(piece.len() / 2);
                        pieces.extend([second, first]);
                    }
                    [one] => {
                        tracing::warn!(%error, seen = ?one, "the database refused this activity, which is forgotten");
                        refused.push(one);
                    }
                    many => {
                        let count = many.len();
                        tracing::warn!(%error, count, "the database refused much activity, which is forgotten");
                        refused.extend(many);
                    }
                },
            }
        }
        self.activity.with(|seen| {
            for one in refused {
                written.forget(one);
                seen.fresh.forget(one);
            }
            seen.was_written(written);
        });
        Ok(())
    }

    /// What was recorded as what it is in the database. Servers that are gone are left out.
    async fn to_write(&self, collected: &Collected) -> Result<Vec<One>, StoreError> {
        let mut owners: Vec<i32> = collected.servers.keys().map(|(user, _)| *user).collect();
        owners.sort_unstable();
        owners.dedup();
        let servers = spawners::keys_of_users(self.store.read(), &owners)
            .await?
            .into_iter()
            .filter_map(|spawner| {
                let name = ServerName::parse(&spawner.name).ok()?;
                let key = (spawner.user_id, name);
                let at = *collected.servers.get(&key)?;
                Some(One::Server(spawner.id, key, at))
            });
        let users = collected.users.iter().map(|(id, at)| One::User(*id, *at));
        let tokens = collected.tokens.iter().map(|(id, at)| One::Token(*id, *at));
        let sessions = collected.sessions.values().cloned().map(One::Session);
        Ok(users.chain(servers).chain(tokens).chain(sessions).collect())
    }

    async fn write_activity(&self, seen: &[One]) -> Result<(), StoreError> {
        let (mut of_users, mut of_servers) = (Vec::new(), Vec::new());
        let (mut of_tokens, mut of_sessions) = (Vec::new(), Vec::new());
        for one in seen {
            match one {
                One::User(id, at) => of_users.push((*id, *at)),
                One::Server(id, _, at) => of_servers.push((*id, *at)),
                One::Token(id, at) => of_tokens.push((*id, *at)),
                One::Session(used) => of_sessions.push(used.clone()),
            }
        }
        let (of_users, of_servers) = (&of_users, &of_servers);
        let (of_tokens, of_sessions) = (&of_tokens, &of_sessions);
        self.store
            .write(|transaction| async move {
                users::touch_activity(&transaction, of_users).await?;
                spawners::touch_activity(&transaction, of_servers).await?;
                api_tokens::touch_activity(&transaction, of_tokens).await?;
                sessions::touch(&transaction, of_sessions).await?;
                Ok::<_, StoreError>(())
            })
            .await
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

//! Auth state: what an authenticator learned of somebody, encrypted in the database. It is decrypted
//! only for a request that shows it, and is in no log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use orrery_core::fernet::{Fernet, InvalidKey, Key};
use orrery_store::StoreError;
use orrery_store::users::{self, User, UserChanges};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::state::AppState;

/// The environment variable that holds the keys, with semicolons between.
pub const KEYS_VARIABLE: &str = "JUPYTERHUB_CRYPT_KEY";

/// How long encryption may wait for a thread.
const WAIT: Duration = Duration::from_secs(10);

/// Encrypts and decrypts auth state.
pub struct AuthStates {
    /// None without keys.
    fernet: Option<Arc<Fernet>>,
    /// Whether logins keep theirs.
    is_enabled: bool,
    threads: Semaphore,
}

/// Why auth state cannot be kept as the configuration wishes.
#[derive(Debug, thiserror::Error)]
pub enum AuthStateError {
    /// It is wished, but there is no key.
    #[error(
        "Authenticator.enable_auth_state is set, but there is no key to encrypt auth state with: set the \
         environment variable {KEYS_VARIABLE}, for instance to what `openssl rand -hex 32` prints, or \
         CryptKeeper.keys"
    )]
    NoKeys,
    /// The environment holds something else than keys.
    #[error("{KEYS_VARIABLE}: {0}")]
    Key(#[from] InvalidKey),
}

impl AuthStates {
    /// With the keys of the configuration, or of the environment if it has none.
    pub fn new(
        config: &Config,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, AuthStateError> {
        let is_enabled = config.authenticator.enable_auth_state;
        let mut keys: Vec<Key> = config
            .crypt_keeper
            .keys
            .iter()
            .map(|key| key.0.clone())
            .collect();
        if keys.is_empty()
            && let Some(text) = environment.get(KEYS_VARIABLE)
        {
            match keys_in(text) {
                Ok(found) => keys = found,
                Err(error) if is_enabled => return Err(error.into()),
                Err(error) => tracing::warn!("{KEYS_VARIABLE} is not used: {error}"),
            }
        }
        let fernet = Fernet::new(keys).map(Arc::new);
        if is_enabled && fernet.is_none() {
            return Err(AuthStateError::NoKeys);
        }
        let threads = usize::try_from(config.crypt_keeper.n_threads).unwrap_or_default();
        Ok(Self {
            fernet,
            is_enabled,
            threads: Semaphore::new(threads.clamp(1, Semaphore::MAX_PERMITS)),
        })
    }

    /// Encrypts a state for the database's column.
    pub async fn seal(&self, state: &Value, unix_time: i64) -> Result<Vec<u8>> {
        let text = orrery_store::json::to_text(state);
        self.seal_bytes(text.into_bytes(), unix_time).await
    }

    async fn seal_bytes(&self, content: Vec<u8>, unix_time: i64) -> Result<Vec<u8>> {
        let Some(fernet) = self.fernet.clone() else {
            return Err(Error::bad_request(format!(
                "Auth state cannot be kept: the hub has no key to encrypt it with (set {KEYS_VARIABLE})."
            )));
        };
        let time = u64::try_from(unix_time).unwrap_or_default();
        self.run(move || fernet.seal(&content, time).into_bytes())
            .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Ok(Ok(_thread)) = tokio::time::timeout(WAIT, self.threads.acquire()).await else {
            return Err(Error::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The hub is too busy right now. Please try again in a moment.",
            ));
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::Internal(format!("auth state was not worked on: {error}")))
    }
}

/// Upstream's reading of the variable: empty parts are nothing.
fn keys_in(text: &str) -> Result<Vec<Key>, InvalidKey> {
    text.split(';')
        .filter(|key| !key.trim().is_empty())
        .map(|key| Key::parse(key.as_bytes()))
        .collect()
}

/// Somebody's auth state. What cannot be decrypted counts as none, as upstream has it: it stays where
/// it is, in case the right key comes back, until the next login replaces it.
pub async fn of(hub: &AppState, user: &User) -> Result<Option<Value>> {
    let Some(encrypted) = user.encrypted_auth_state.clone() else {
        return Ok(None);
    };
    let states = &hub.auth_states;
    let unreadable = |why: &str| {
        tracing::warn!(user = %user.name, "auth state cannot be read until the next login: {why}");
        Ok(None)
    };
    let Some(fernet) = states.fernet.clone() else {
        return unreadable(&format!("there is no key, see {KEYS_VARIABLE}"));
    };
    let opened = match states.run(move || fernet.open(&encrypted)).await? {
        Ok(opened) => opened,
        Err(error) => return unreadable(&error.to_string()),
    };
    let text = std::str::from_utf8(&opened.content).ok();
    let Some(state) = text.and_then(|text| orrery_store::json::from_text(text).ok()) else {
        return unreadable("it is not JSON");
    };
    if !opened.by_first_key
        && let Err(error) = renew(hub, user, opened.content).await
    {
        // The next reading tries again.
        tracing::warn!(user = %user.name, %error, "auth state was read, but not encrypted with the new key");
    }
    Ok(Some(state).filter(|state| !state.is_null()))
}

/// Encrypts with the present key what an older one encrypted, so that the older can be given up.
async fn renew(hub: &AppState, user: &User, content: Vec<u8>) -> Result<()> {
    let sealed = hub.auth_states.seal_bytes(content, hub.unix_time()).await?;
    let changes = &UserChanges {
        encrypted_auth_state: Some(Some(sealed)),
        ..UserChanges::default()
    };
    hub.store
        .write(|transaction| async move {
            let present = users::find_by_id(&transaction, user.id).await?;
            // A login in between brought a newer one.
            if present
                .is_some_and(|present| present.encrypted_auth_state == user.encrypted_auth_state)
            {
                users::update(&transaction, user.id, changes).await?;
            }
            Ok::<_, StoreError>(())
        })
        .await?;
    Ok(())
}

/// Keeps what a login brought; without auth state, or where it is not enabled, clears what was kept.
pub async fn keep(hub: &AppState, user: &User, state: Option<&Value>) -> Result<()> {
    let state = state.filter(|state| hub.auth_states.is_enabled && !state.is_null());
    if state.is_none() && user.encrypted_auth_state.is_none() {
        return Ok(());
    }
    let sealed = match state {
        Some(state) => Some(hub.auth_states.seal(state, hub.unix_time()).await?),
        None => None,
    };
    let changes = &UserChanges {
        encrypted_auth_state: Some(sealed),
        ..UserChanges::default()
    };
    let id = user.id;
    hub.store
        .write(|transaction| async move { users::update(&transaction, id, changes).await })
        .await?;
    Ok(())
}

//! What the configuration wants in the database, put there when the hub starts: roles, users,
//! groups, services and their tokens.

mod blocked;
mod holders;
mod known_users;
mod people;
mod roles;
mod server_names;
mod services;
mod tokens;

use std::collections::BTreeMap;

use orrery_core::access::Rules;
use orrery_core::scopes::Definitions;
use orrery_core::scopes::roles::RolePlan;
use orrery_store::{NaiveDateTime, Store, StoreError};

pub(crate) use known_users::add_known_users;

use self::tokens::ConfiguredToken;
use crate::audit::Event;
use crate::config::Config;
use crate::urls::Urls;

/// Why the configuration cannot be put into the database.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A role or scope is not sound.
    #[error("{0}")]
    Role(#[from] orrery_core::scopes::roles::RoleError),
    /// A scope is not sound.
    #[error("{0}")]
    Scope(#[from] orrery_core::scopes::ScopeError),
    /// A name is not a user's.
    #[error("{option} names {name}, which is not a valid username: {why}")]
    User {
        /// The option.
        option: &'static str,
        /// The name, made safe to show.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A server's name of an older version, with what only a newer one writes.
    #[error(
        "the server {server} of {user} has a name that JupyterHub 6 does not give, and a display name, which older \
         versions do not write: correct one of them in the database"
    )]
    Name {
        /// Whose it is.
        user: String,
        /// The name, made safe to show.
        server: String,
    },
    /// Two settings say who is in which group.
    #[error(
        "JupyterHub.load_groups cannot be used with Authenticator.manage_groups = True, where the \
         authenticator says who is in which group: remove one of the two"
    )]
    ManagedGroups,
    /// Something is given to whom or what does not exist.
    #[error("{what} names {name}, which does not exist")]
    Unknown {
        /// What names it.
        what: String,
        /// The name, made safe to show.
        name: String,
    },
}

impl orrery_store::WriteError for SetupError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Puts everything there, in one transaction. Gives what that changed, for the audit log.
pub(crate) async fn apply(
    store: &Store,
    config: &Config,
    rules: &Rules,
    definitions: &Definitions,
    urls: &Urls,
    now: NaiveDateTime,
) -> Result<Vec<Event>, SetupError> {
    let mut wishes = Wishes::of(config, definitions).await?;
    wishes.compare(store, now).await?;
    server_names::check(store, config.hub.allow_existing_invalid_named_servers).await?;
    wishes.write(store, config, rules, urls, now).await
}

/// What the configuration wants, with all that takes time done beforehand.
pub(crate) struct Wishes {
    plan: RolePlan,
    tokens: Vec<ConfiguredToken>,
    /// Of services that are OAuth clients, by name, hashed.
    secrets: BTreeMap<String, String>,
}

impl Wishes {
    /// Reads them from the configuration.
    pub(crate) async fn of(config: &Config, definitions: &Definitions) -> Result<Self, SetupError> {
        if config.authenticator.manage_groups && !config.hub.load_groups.is_empty() {
            return Err(SetupError::ManagedGroups);
        }
        let plan = roles::planned(config, definitions)?;
        let tokens = tokens::hashed(config).await?;
        let secrets = services::hashed_secrets(config).await?;
        Ok(Self {
            plan,
            tokens,
            secrets,
        })
    }

    /// Finds out which of the configured tokens are known already, which is as slow as hashing.
    pub(crate) async fn compare(
        &mut self,
        store: &Store,
        now: NaiveDateTime,
    ) -> Result<(), StoreError> {
        tokens::compare(store, &mut self.tokens, now).await
    }

    /// Puts everything into the database, in one transaction. [`compare`](Self::compare) comes before.
    /// Gives what that changed, for the audit log.
    pub(crate) async fn write(
        &self,
        store: &Store,
        config: &Config,
        rules: &Rules,
        urls: &Urls,
        now: NaiveDateTime,
    ) -> Result<Vec<Event>, SetupError> {
        let Self {
            plan,
            tokens,
            secrets,
        } = self;
        store
            .write(|transaction| async move {
                let mut events = Vec::new();
                let roles = roles::write(&transaction, plan, &mut events).await?;
                // Before all else: from here on nothing is given to them.
                blocked::strip(&transaction, rules, &mut events).await?;
                people::write_users(&transaction, rules, now, &mut events).await?;
                people::write_groups(&transaction, config, rules, now, &mut events).await?;
                services::write(&transaction, config, secrets, urls, &mut events).await?;
                // What upstream gives a token of which nobody says what it may do.
                let scopes = roles.get("token").map_or(&[][..], |role| &role.scopes);
                tokens::write(&transaction, tokens, scopes, rules, now, &mut events).await?;
                holders::write(&transaction, plan, &roles, rules, now, &mut events).await?;
                Ok::<_, SetupError>(events.into_iter().map(Event::by_config).collect())
            })
            .await
    }
}

//! The API tokens that the configuration gives to users and services.

use std::collections::BTreeMap;

use orrery_core::access::Rules;
use orrery_core::{Secret, escape};
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::token_hash::{self, Origin};
use orrery_store::{ConnectionTrait, NaiveDateTime, Store, StoreError, services};

use super::SetupError;
use super::people::named_user;
use crate::audit::{Action, Event};
use crate::config::Config;

/// A token that the configuration gives to somebody.
pub(super) struct ConfiguredToken {
    token: Secret,
    hashed: String,
    name: String,
    is_service: bool,
    /// Hashes in the database, and whether they are of this token.
    compared: BTreeMap<String, bool>,
}

impl ConfiguredToken {
    fn is_of(&self, hashed: &str) -> bool {
        match self.compared.get(hashed) {
            Some(is_same) => *is_same,
            // It came into the database a moment ago.
            None => token_hash::verify_token(hashed, self.token.expose()),
        }
    }
}

/// Hashing chosen tokens is slow on purpose, so it is done before the transaction begins.
pub(super) async fn hashed(config: &Config) -> Result<Vec<ConfiguredToken>, StoreError> {
    let origin = if config.hub.trust_user_provided_tokens {
        Origin::Generated
    } else {
        Origin::Chosen
    };
    let of_users = config
        .hub
        .api_tokens
        .0
        .iter()
        .map(|(token, name)| (token.clone(), name.clone(), false));
    let of_services = config
        .hub
        .service_tokens
        .0
        .iter()
        .map(|(token, name)| (token.clone(), name.clone(), true));
    let in_services = config
        .hub
        .services
        .iter()
        .filter_map(|service| Some((service.api_token.clone()?, service.name.clone(), true)));
    let all: Vec<_> = of_users.chain(of_services).chain(in_services).collect();
    let hashing = tokio::task::spawn_blocking(move || {
        all.into_iter()
            .map(|(token, name, is_service)| {
                let hashed = token_hash::hash_token(token.expose(), origin)?;
                Ok(ConfiguredToken {
                    token,
                    hashed,
                    name,
                    is_service,
                    compared: BTreeMap::new(),
                })
            })
            .collect()
    });
    hashing.await.expect("hashing tokens does not panic")
}

/// Finds out which of the configured tokens are known already, which is as slow as hashing.
pub(super) async fn compare(
    store: &Store,
    tokens: &mut Vec<ConfiguredToken>,
    now: NaiveDateTime,
) -> Result<(), StoreError> {
    let mut candidates = Vec::new();
    for configured in tokens.iter() {
        let prefix = token_hash::prefix(configured.token.expose());
        let rows = api_tokens::find_candidates(store.read(), prefix, now).await?;
        candidates.push(rows.into_iter().map(|row| row.hashed).collect::<Vec<_>>());
    }
    let mut taken = std::mem::take(tokens);
    let comparing = tokio::task::spawn_blocking(move || {
        for (configured, hashes) in taken.iter_mut().zip(candidates) {
            let token = configured.token.expose();
            let verdicts = hashes.into_iter().map(|hashed| {
                let is_same = token_hash::verify_token(&hashed, token);
                (hashed, is_same)
            });
            configured.compared = verdicts.collect();
        }
        taken
    });
    *tokens = comparing.await.expect("comparing tokens does not panic");
    Ok(())
}

/// Gives the configured tokens to their owners, and takes those away that now are somebody else's.
pub(super) async fn write(
    transaction: &impl ConnectionTrait,
    tokens: &[ConfiguredToken],
    scopes: &[String],
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for configured in tokens {
        let owner = if configured.is_service {
            // `services::write` has made it.
            let Some(service) = services::find(transaction, &configured.name).await? else {
                return Err(SetupError::Unknown {
                    what: "JupyterHub.service_tokens".to_owned(),
                    name: escape::for_log(&configured.name, 64),
                });
            };
            Owner::Service(service.id)
        } else {
            let option = "JupyterHub.api_tokens";
            let user = named_user(transaction, rules, option, &configured.name, now, events);
            Owner::User(user.await?.id)
        };
        let prefix = token_hash::prefix(configured.token.expose());
        let mut is_known = false;
        for row in api_tokens::find_candidates(transaction, prefix, now).await? {
            if !configured.is_of(&row.hashed) {
                continue;
            }
            let same_owner = match owner {
                Owner::User(id) => row.user_id == Some(id),
                Owner::Service(id) => row.service_id == Some(id),
            };
            if same_owner {
                is_known = true;
            } else {
                // The configuration gave the token to somebody else.
                api_tokens::delete(transaction, row.id).await?;
                events
                    .push(Event::new(Action::TokenRevoke).detail("token", format!("a{}", row.id)));
            }
        }
        if is_known {
            continue;
        }
        let new = NewApiToken {
            owner,
            hashed: configured.hashed.clone(),
            prefix: prefix.to_owned(),
            client_id: "jupyterhub".to_owned(),
            session_id: None,
            created: now,
            expires_at: None,
            note: "from config".to_owned(),
            scopes: scopes.to_vec(),
        };
        let row = api_tokens::insert(transaction, &new).await?;
        let event = Event::new(Action::TokenCreate)
            .detail("token", format!("a{}", row.id))
            .detail("note", "from config")
            .detail("scopes", new.scopes);
        events.push(if configured.is_service {
            event.on_service(&configured.name)
        } else {
            event.on_user(&configured.name).owned_by(&configured.name)
        });
    }
    Ok(())
}

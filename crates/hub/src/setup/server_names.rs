//! Named servers of older versions, whose names JupyterHub 6 would not take any more.

use std::collections::{BTreeMap, BTreeSet};

use orrery_store::spawners::{self, SpawnerChanges};
use orrery_store::{Store, users};
use sha2::{Digest as _, Sha256};
use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

use super::SetupError;
use crate::config::InvalidNamedServers;
use crate::servers::is_valid_name;

/// The longest name, and its part before a hash.
const LONGEST: usize = 30;
const LONGEST_BEFORE_HASH: usize = 21;

/// Gives servers whose names are not valid today new ones, if that is wished, and keeps the old ones
/// for people to read; says how many there are otherwise. Servers that run keep their names.
pub(super) async fn check(store: &Store, wished: InvalidNamedServers) -> Result<(), SetupError> {
    let all = spawners::list_named(store.read()).await?;
    let (mut invalid, mut taken) = (Vec::new(), BTreeMap::<i32, BTreeSet<String>>::new());
    for spawner in all {
        let Some(user_id) = spawner.user_id else {
            continue;
        };
        taken
            .entry(user_id)
            .or_default()
            .insert(spawner.name.clone());
        if !is_valid_name(&spawner.name) {
            invalid.push((user_id, spawner));
        }
    }
    if invalid.is_empty() {
        return Ok(());
    }
    if wished != InvalidNamedServers::Autorename {
        tracing::warn!(
            servers = invalid.len(),
            "named servers have names that JupyterHub 6 does not give any more; see \
             JupyterHub.allow_existing_invalid_named_servers"
        );
        return Ok(());
    }
    for (user_id, spawner) in invalid {
        let owner = users::find_by_id(store.read(), user_id).await?;
        let owner = owner.map(|user| user.name).unwrap_or_default();
        let old = orrery_core::escape::for_log(&spawner.name, 64);
        if spawner.server_id.is_some() || spawner.started.is_some() {
            tracing::error!(user = %owner, server = %old, "a server with an invalid name runs, and keeps it");
            continue;
        }
        if spawner
            .display_name
            .as_deref()
            .is_some_and(|shown| !shown.is_empty())
        {
            return Err(SetupError::Name {
                user: owner,
                server: old,
            });
        }
        let names = taken.entry(user_id).or_default();
        let mut name = readable(&spawner.name, LONGEST);
        if names.contains(&name) {
            name = format!(
                "{}-{}",
                readable(&spawner.name, LONGEST_BEFORE_HASH),
                &orrery_core::random::to_hex(&Sha256::digest(spawner.name.as_bytes()))[..8]
            );
        }
        names.insert(name.clone());
        tracing::info!(user = %owner, server = %old, name, "a named server gets a valid name");
        let (changes, name) = (
            &SpawnerChanges {
                display_name: Some(Some(spawner.name.clone())),
                ..SpawnerChanges::default()
            },
            name.as_str(),
        );
        store
            .write(|transaction| async move {
                spawners::rename(&transaction, spawner.id, name).await?;
                spawners::update(&transaction, spawner.id, changes).await
            })
            .await?;
    }
    Ok(())
}

/// What a name can be read by in a valid one, as upstream makes it: without accents, in lower case, a
/// hyphen for each run of anything else.
fn readable(name: &str, longest: usize) -> String {
    let plain: String = name
        .nfkd()
        .filter(|c| c.general_category() != GeneralCategory::NonspacingMark)
        .collect::<String>()
        .to_lowercase();
    let mut safe = String::new();
    for c in plain.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            safe.push(c);
        } else if !safe.is_empty() && !safe.ends_with('-') {
            safe.push('-');
        }
    }
    safe.truncate(longest);
    if safe.starts_with(|first: char| first.is_ascii_digit()) {
        safe.truncate(longest - 2);
        safe.insert_str(0, "x-");
    }
    safe.truncate(safe.trim_end_matches('-').len());
    if safe.is_empty() {
        "x".to_owned()
    } else {
        safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_names_are_upstreams() {
        // As `safe_slug(name, avoid_collisions=False)` of JupyterHub 6.1.1 answers.
        for (name, expected) in [
            ("My Server", "my-server"),
            ("Übung_2", "ubung-2"),
            ("--a--b--", "a-b"),
            ("2lab", "x-2lab"),
            ("½", "x-1-2"),
            ("…", "x"),
            ("☃", "x"),
            (
                "a-very-long-name-of-a-server-indeed",
                "a-very-long-name-of-a-server-i",
            ),
        ] {
            assert_eq!(readable(name, LONGEST), expected, "{name}");
            assert!(is_valid_name(&readable(name, LONGEST)), "{name}");
        }
    }
}

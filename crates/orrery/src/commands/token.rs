//! `orrery token NAME`: makes an API token for an existing user.

use anyhow::{Context as _, bail};
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::token_hash::{self, Origin};
use orrery_store::{roles, users};

use super::start::setup;
use super::{checked, refuse};
use crate::cli::Invocation;
use crate::output::say;
use crate::{registry, sources};

/// Applies the configuration to the database as a start does, so that configured users exist, then
/// makes a token with the scopes of the role `token`, as upstream does, and prints it.
pub(super) async fn run(invocation: &Invocation, name: Option<&str>) -> anyhow::Result<()> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => match std::env::var("USER") {
            Ok(name) => name,
            Err(_) => bail!("name the user whose token it will be: orrery token NAME"),
        },
    };
    let mut loaded = sources::load(invocation).await?;
    checked(&mut loaded.tree)?;
    let mut chosen = match registry::choose(&loaded.tree) {
        Ok(chosen) => chosen,
        Err(problems) => return refuse(&problems),
    };
    // A token for an emptied database would be of no use.
    chosen.config.hub.reset_db = false;
    // Nor are new certificates, while a hub runs with the old ones.
    chosen.config.hub.recreate_internal_certs = false;
    // A hub may be using the database meanwhile: only its own start, or `upgrade-db`, changes its tables.
    chosen.config.hub.upgrade_db = false;
    let (hub, _) = orrery_hub::build(setup(chosen)?).await?;

    let store = &hub.store;
    let Some(user) = users::find(store.read(), &name).await? else {
        bail!(
            "there is no user named {name:?}: users exist once they have logged in or an administrator has added them"
        );
    };
    let scopes = match roles::find(store.read(), "token").await? {
        Some(role) => role.scopes,
        None => vec!["inherit".to_owned()],
    };
    let secret = token_hash::generate_token()?;
    let new = NewApiToken {
        owner: Owner::User(user.id),
        hashed: token_hash::hash_token(secret.expose(), Origin::Generated)?,
        prefix: token_hash::prefix(secret.expose()).to_owned(),
        client_id: "jupyterhub".to_owned(),
        session_id: None,
        created: hub.clock.now(),
        expires_at: None,
        note: "command-line generated".to_owned(),
        scopes,
    };
    let new = &new;
    store
        .write(|transaction| async move { api_tokens::insert(&transaction, new).await })
        .await
        .context("the token was not written")?;
    say(&format!("{}\n", secret.expose()))?;
    store.close().await;
    Ok(())
}

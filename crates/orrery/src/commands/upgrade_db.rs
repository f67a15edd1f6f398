//! `orrery upgrade-db`: brings the database up to date with this version.

use orrery_store::{DbUrl, Store, StoreError, StoreOptions};

use super::{checked, refuse};
use crate::cli::Invocation;
use crate::output::say;
use crate::{registry, sources};

/// Opens the database. One that is current is left as it is and an empty one gets its tables; older
/// ones are refused with what to do.
pub(super) async fn run(invocation: &Invocation) -> anyhow::Result<()> {
    let mut loaded = sources::load(invocation).await?;
    checked(&mut loaded.tree)?;
    let config = match registry::config_only(&loaded.tree) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    let url = DbUrl::parse(&config.hub.db_url)?;
    match Store::open(&url, StoreOptions::default()).await {
        Ok(store) => {
            store.close().await;
            say("The database is up to date.\n")
        }
        Err(error @ StoreError::SchemaVersion { .. }) => Err(anyhow::anyhow!(
            "{error} (upgrading databases is not supported yet)"
        )),
        Err(error) => Err(error.into()),
    }
}

//! `orrery upgrade-db`: brings the database of an older JupyterHub up to date.

use std::fmt::Write as _;

use orrery_core::{Clock as _, SystemClock};
use orrery_store::migrate::{self, Plan, Progress, Standing};
use orrery_store::{ALEMBIC_REVISION, Claim, DbUrl, Dialect, Store, StoreOptions};

use super::{checked, refuse};
use crate::cli::Invocation;
use crate::output::say;
use crate::{registry, sources};

/// Migrates the database that the configuration names, or says what that would do. One that is
/// current is left as it is, and an empty one gets its tables.
pub(super) async fn run(invocation: &Invocation, dry_run: bool) -> anyhow::Result<()> {
    let mut loaded = sources::load(invocation).await?;
    checked(&mut loaded.tree)?;
    let config = match registry::config_only(&loaded.tree) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    let url = DbUrl::parse(&config.hub.db_url)?;
    let options = StoreOptions {
        allow_network_file_system: std::env::var_os("ORRERY_ALLOW_NETWORK_SQLITE")
            .is_some_and(|value| value == "1"),
        ..StoreOptions::default()
    };
    if dry_run {
        return say(&match migrate::look(&url, &options).await? {
            Standing::Empty => {
                format!("The database {url} has no tables yet: they would be made.\n")
            }
            Standing::Current => "The database is up to date.\n".to_owned(),
            Standing::Older(plan) => described(&url, &plan),
        });
    }
    // No hub of ours may use the tables while they change.
    let _claim = Claim::take(&url)?;
    let standing = migrate::upgrade(&url, &options, SystemClock.now(), &|progress| {
        let line = match progress {
            Progress::Backup(copy) => format!("Copied to {}.\n", copy.display()),
            Progress::Step(step) => format!("{} {}\n", step.to, step.summary),
            Progress::Statement(_) => return,
        };
        // Nobody reads, but the database is to be upgraded all the same.
        let _ = say(&line);
    })
    .await?;
    // Opening makes the tables that are missing, and shows that a hub can use it.
    Store::open(&url, options).await?.close().await;
    if let Standing::Older(plan) = standing {
        say(&ended(&plan, "ended"))?;
    }
    say("The database is up to date.\n")
}

/// What would be done.
fn described(url: &DbUrl, plan: &Plan) -> String {
    let mut text = match &plan.found {
        Some(found) => {
            format!("The database {url} has revision {found}; it would get {ALEMBIC_REVISION}:\n")
        }
        None => format!(
            "The database {url} has all tables of revision {ALEMBIC_REVISION} without saying so; it would say so.\n"
        ),
    };
    for step in plan.steps {
        writeln!(text, "  {} {}", step.to, step.summary).expect("a text can be written to");
    }
    text.push_str(&ended(plan, "would end"));
    text.push_str(match url.dialect() {
        Dialect::Sqlite => "A copy of the file would be made first, beside it.\n",
        Dialect::Postgres | Dialect::MySql => {
            "This kind of database is not copied: back it up before you run this without --dry-run.\n"
        }
    });
    text.push_str("Stop every hub that uses it first. Nothing was changed.\n");
    text
}

fn ended(plan: &Plan, end: &str) -> String {
    match plan.ending_tokens {
        0 => String::new(),
        count => format!(
            "{count} tokens {end}, as with JupyterHub's own upgrade, for those of JupyterHub 1 do not say what \
             they are for. Those in the configuration come back when the hub starts; people make new ones.\n"
        ),
    }
}

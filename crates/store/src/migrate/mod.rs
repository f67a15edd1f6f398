//! Bringing a database of an older JupyterHub, since 1.0, up to date.
//!
//! On SQLite and PostgreSQL all steps are one transaction. MySQL commits each change of a table by
//! itself, so there a migration that was interrupted goes on where it ended when it is run again:
//! each change looks first whether it is done, and the revision is written down after each step.

mod backup;
mod changes;
mod connect;
mod sqlite_table;
mod steps;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, DbBackend};

use connect::Purpose;
pub use steps::Step;

use crate::{
    ALEMBIC_REVISION,
    connection::Transaction,
    error::StoreError,
    schema,
    sql::{self, Result, values},
    store::{StoreOptions, prepare_error},
    url::{DbUrl, Target},
};

/// How long one statement may take, for tables may be long.
const STATEMENT_LIMIT: Duration = Duration::from_secs(3600);

/// How long to wait for others who use the tables.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// What a database needs.
#[derive(Debug)]
pub enum Standing {
    /// It has no tables yet, or is not there yet: opening it makes them.
    Empty,
    /// It is up to date.
    Current,
    /// It is to be migrated.
    Older(Plan),
}

/// What a migration does, or did.
#[derive(Debug)]
pub struct Plan {
    /// The revision of the database; `None` if it has everything that the newest one has, and only
    /// does not say so.
    pub found: Option<String>,
    /// The steps, in order.
    pub steps: &'static [Step],
    /// How many tokens end with it: those of JupyterHub 1 have no scopes. Upstream ends them as well.
    pub ending_tokens: u64,
    /// The copy that was made before, of a SQLite file.
    pub backup: Option<PathBuf>,
}

/// What a migration tells while it works.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The copy of a SQLite file stands.
    Backup(&'a Path),
    /// A step begins.
    Step(&'static Step),
    /// A statement is about to be run.
    Statement(&'a str),
}

/// Who is told. Nothing is told twice, and nothing is asked: a migration that began goes on.
pub type Tell<'a> = &'a (dyn Fn(Progress<'_>) + Send + Sync);

trait Telling {
    fn statement(&self, sql: &str);
}

impl Telling for Tell<'_> {
    fn statement(&self, sql: &str) {
        self(Progress::Statement(sql));
    }
}

/// Looks what a database needs and changes nothing.
///
/// Fails with [`StoreError::SchemaVersion`] if it cannot be migrated from where it stands.
pub async fn look(url: &DbUrl, options: &StoreOptions) -> Result<Standing> {
    if connect::is_missing(url) {
        return Ok(Standing::Empty);
    }
    let pool = connect::pool(url, options, Purpose::Look).await?;
    let transaction = connect::begin(&pool, options, Purpose::Look).await;
    let result = match transaction {
        Ok(transaction) => {
            let standing = standing(&transaction, url).await;
            // Nothing was changed, so nothing is lost with it.
            let _ = transaction.finish(false).await;
            standing
        }
        Err(error) => Err(error),
    };
    let _ = pool.close().await;
    result.map_err(|error| prepare_error(url, error))
}

/// Brings a database up to date; of a SQLite file a copy is made first, beside it and named after
/// `now`. Where that fails, or a later statement does, the database is left as it was (on MySQL: to be
/// gone on with). Nobody else may use the database meanwhile: take a [`Claim`](crate::Claim) before.
pub async fn upgrade(
    url: &DbUrl,
    options: &StoreOptions,
    now: NaiveDateTime,
    tell: Tell<'_>,
) -> Result<Standing> {
    if connect::is_missing(url) {
        return Ok(Standing::Empty);
    }
    let pool = connect::pool(url, options, Purpose::Change).await?;
    let result = match connect::begin(&pool, options, Purpose::Change).await {
        Ok(transaction) => finish(&transaction, url, options, now, tell)
            .await
            .map(|done| (transaction, done)),
        Err(error) => Err(error),
    };
    let result = match result {
        Ok((transaction, standing)) => transaction.finish(true).await.map(|()| standing),
        Err(error) => Err(error),
    };
    let _ = pool.close().await;
    result.map_err(|error| prepare_error(url, error))
}

async fn finish(
    transaction: &Transaction,
    url: &DbUrl,
    options: &StoreOptions,
    now: NaiveDateTime,
    tell: Tell<'_>,
) -> Result<Standing> {
    connect::limit_waiting(transaction, LOCK_LIMIT).await?;
    schema::exclusively(transaction, async {
        let mut standing = standing(transaction, url).await?;
        if let Standing::Older(plan) = &mut standing {
            // The transaction keeps other writers out, so that the copy is what the steps begin with.
            if let Target::File(path) = &url.target {
                let mut connection = connect::reader(url, path, options).await?;
                let copy = backup::copy(&mut connection, path, now, STATEMENT_LIMIT).await;
                let _ = sqlx::Connection::close(connection).await;
                let copy = copy?;
                tell(Progress::Backup(&copy));
                plan.backup = Some(copy);
            }
            migrate(transaction, plan, tell).await?;
        }
        Ok(standing)
    })
    .await
}

async fn migrate(connection: &impl ConnectionTrait, plan: &Plan, tell: Tell<'_>) -> Result<()> {
    if plan.found.is_none() {
        tell.statement("CREATE TABLE alembic_version");
        return schema::add_version(connection).await;
    }
    for step in plan.steps {
        tell(Progress::Step(step));
        for change in step.changes {
            changes::apply(connection, change, tell).await?;
        }
        let sql = "UPDATE alembic_version SET version_num = ?";
        tell.statement(sql);
        sql::execute(connection, sql, values![step.to]).await?;
        if connection.get_database_backend() == DbBackend::MySql {
            // What is done is done there; the revision is not to be lost with a later step.
            connection.execute_unprepared("COMMIT").await?;
        }
    }
    Ok(())
}

async fn standing(connection: &impl ConnectionTrait, url: &DbUrl) -> Result<Standing> {
    let tables = schema::tables(connection).await?;
    let has = |table: &str| tables.iter().any(|name| name == table);
    let is_new =
        !schema::upstream_tables(connection).any(|table| table != "alembic_version" && has(table));
    if !has("alembic_version") {
        if is_new {
            return Ok(Standing::Empty);
        }
        return untagged(connection, url, has("spawners")).await;
    }
    let revision = match schema::revision(connection).await? {
        None if is_new => return Ok(Standing::Empty),
        None => return Err(refusal(url, "none")),
        Some(revision) => revision,
    };
    match steps::from(&revision) {
        None => Err(refusal(url, &revision)),
        // Upstream leaves such an empty one where it was looked at but never started on.
        Some([]) => Ok(Standing::Current),
        Some(steps) => {
            let mut ending_tokens = 0;
            if revision == steps::STEPS[0].from {
                for table in ["api_tokens", "oauth_access_tokens"] {
                    if has(table) {
                        let sql = format!("SELECT COUNT(*) AS n FROM {table}");
                        ending_tokens += sql::count(connection, &sql, vec![]).await?;
                    }
                }
            }
            Ok(Standing::Older(Plan {
                found: Some(revision),
                steps,
                ending_tokens,
                backup: None,
            }))
        }
    }
}

/// A database that does not say its revision. Upstream takes it for the newest one if it has
/// `spawners`; so do we, once we have seen that it has all that the newest one has.
async fn untagged(
    connection: &impl ConnectionTrait,
    url: &DbUrl,
    has_spawners: bool,
) -> Result<Standing> {
    if !has_spawners {
        return Err(refusal(url, "none"));
    }
    for step in steps::STEPS {
        for (table, column) in step.added() {
            let columns = columns(connection, table).await?;
            if !columns.is_empty() && !columns.iter().any(|name| name == column) {
                return Err(refusal(url, "none"));
            }
        }
    }
    Ok(Standing::Older(Plan {
        found: None,
        steps: &[],
        ending_tokens: 0,
        backup: None,
    }))
}

/// Why a database of this revision is not opened as it is; `none` stands for no revision.
pub(crate) fn refusal(url: &impl std::fmt::Display, revision: &str) -> StoreError {
    let cure = if steps::from(revision).is_some() {
        "an older JupyterHub made it: stop every hub that uses it and run `orrery upgrade-db`, which \
         copies a SQLite file first (back up other databases yourself), or set JupyterHub.upgrade_db"
    } else if revision == "none" {
        "the tables are of a JupyterHub before 1.0 or of another program; run JupyterHub 1.5's \
         `jupyterhub upgrade-db` on a copy first, or give another db_url"
    } else if steps::is_ancient(revision) {
        "a JupyterHub before 1.0 made it: back it up and run JupyterHub 1.5's `jupyterhub upgrade-db` \
         first, then `orrery upgrade-db`"
    } else {
        "a newer JupyterHub or another program made it: restore a backup of JupyterHub 6.1.1's \
         database, or give another db_url"
    };
    StoreError::SchemaVersion {
        database: url.to_string(),
        found: revision.to_owned(),
        needed: ALEMBIC_REVISION.to_owned(),
        cure: cure.to_owned(),
    }
}

/// The names of a table's columns; none if there is no such table.
async fn columns(connection: &impl ConnectionTrait, table: &str) -> Result<Vec<String>> {
    let sql = match connection.get_database_backend() {
        DbBackend::Postgres => {
            "SELECT CAST(column_name AS TEXT) AS name FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position"
        }
        DbBackend::MySql => {
            "SELECT CAST(column_name AS CHAR) AS name FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position"
        }
        _ => "SELECT name FROM pragma_table_info(?) ORDER BY cid",
    };
    sql::rows(connection, sql, values![table])
        .await?
        .iter()
        .map(|row| Ok(row.try_get("", "name")?))
        .collect()
}

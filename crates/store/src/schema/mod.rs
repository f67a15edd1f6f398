//! Making upstream's tables and ours, and refusing databases that another version made.

use std::{collections::HashSet, future::Future};

use orrery_core::scopes::roles::default_roles;
use sea_orm::{ConnectionTrait, DbBackend};

use crate::{
    error::StoreError,
    json, migrate,
    sql::{self, Result, values},
};

/// The alembic revision of JupyterHub 6.1.1.
pub const ALEMBIC_REVISION: &str = "f460b0348206";

/// The version of the `orrery_*` tables.
pub const ORRERY_SCHEMA_VERSION: i32 = 1;

/// Checks the database and makes what is missing. Call it in a write transaction. Where the database
/// has no transactional DDL (MySQL), a second call finishes what an interrupted first one began.
pub(crate) async fn prepare(connection: &impl ConnectionTrait, database: &str) -> Result<()> {
    exclusively(connection, prepare_locked(connection, database)).await
}

/// Does work on the tables' shape while no other program of ours does.
pub(crate) async fn exclusively<T>(
    connection: &impl ConnectionTrait,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match connection.get_database_backend() {
        DbBackend::Postgres => {
            // Any constant would do; this one is the alembic revision's digits.
            let lock = "SELECT 1 AS one FROM pg_advisory_xact_lock(460348206)";
            sql::rows(connection, lock, vec![]).await?;
            work.await
        }
        DbBackend::MySql => {
            // The lock is the connection's, not the transaction's: it must be given back in any case.
            let name = "CONCAT('orrery:', MD5(DATABASE()))";
            let lock = format!("SELECT GET_LOCK({name}, 10) AS locked");
            let row = sql::rows(connection, &lock, vec![]).await?.pop();
            let locked = match row {
                Some(row) => row.try_get::<Option<i64>>("", "locked")?,
                None => None,
            };
            if locked != Some(1) {
                return Err(StoreError::Unavailable {
                    problem: "another program is making the tables since 10 s".to_owned(),
                    source: None,
                });
            }
            let outcome = work.await;
            let unlock = format!("SELECT RELEASE_LOCK({name}) AS released");
            sql::rows(connection, &unlock, vec![]).await?;
            outcome
        }
        // The write transaction itself keeps others out.
        _ => work.await,
    }
}

/// The statements that make upstream's tables.
fn upstream_ddl(connection: &impl ConnectionTrait) -> &'static str {
    match connection.get_database_backend() {
        DbBackend::Postgres => include_str!("postgres.sql"),
        DbBackend::MySql => include_str!("mysql.sql"),
        _ => include_str!("sqlite.sql"),
    }
}

/// The names of upstream's tables.
pub(crate) fn upstream_tables(
    connection: &impl ConnectionTrait,
) -> impl Iterator<Item = &'static str> {
    statements(upstream_ddl(connection)).map(|(table, _)| table)
}

/// The revision that the database says; `None` if its place is empty.
pub(crate) async fn revision(connection: &impl ConnectionTrait) -> Result<Option<String>> {
    let sql = "SELECT version_num FROM alembic_version";
    let rows = sql::rows(connection, sql, vec![]).await?;
    match rows.as_slice() {
        [] => Ok(None),
        [row] => Ok(Some(row.try_get("", "version_num")?)),
        _ => Ok(Some("several at once".to_owned())),
    }
}

/// Makes the table that says the revision, and says the newest one.
pub(crate) async fn add_version(connection: &impl ConnectionTrait) -> Result<()> {
    for (table, statement) in statements(upstream_ddl(connection)) {
        if table == "alembic_version" {
            connection.execute_unprepared(statement).await?;
        }
    }
    stamp(connection).await
}

async fn prepare_locked(connection: &impl ConnectionTrait, database: &str) -> Result<()> {
    let upstream = upstream_ddl(connection);
    let ours = match connection.get_database_backend() {
        DbBackend::Postgres => include_str!("orrery_postgres.sql"),
        DbBackend::MySql => include_str!("orrery_mysql.sql"),
        _ => include_str!("orrery_sqlite.sql"),
    };
    let present = tables(connection).await?;
    let has = |table: &str| present.iter().any(|name| name == table);
    let is_new = !statements(upstream).any(|(table, _)| table != "alembic_version" && has(table));
    if has("alembic_version") {
        check_revision(connection, database, is_new).await?;
    } else if !is_new {
        return Err(migrate::refusal(&database, "none"));
    }
    let ours_is_new = !has("orrery_schema");
    let with = indexes(connection).await?;
    for (table, statement) in statements(upstream).chain(statements(ours)) {
        let is_ours = statement.contains(" orrery_");
        // Our indexes come with our tables; newer ones are added where those are. Only a table's owner may
        // say so, even of one that is there.
        let is_missing = index_name(statement).is_some_and(|name| !with.contains(name))
            || (ours_is_new && !table.starts_with("orrery_"));
        if !has(table) || (is_ours && is_missing) {
            connection.execute_unprepared(statement).await?;
            if table == "alembic_version" {
                stamp(connection).await?;
            }
        }
    }
    let roles = sql::count(connection, "SELECT COUNT(*) AS n FROM roles", vec![]).await?;
    if roles == 0 {
        add_default_roles(connection).await?;
    }
    crate::events::prepare(connection).await?;
    check_ours(connection, database).await
}

async fn check_revision(
    connection: &impl ConnectionTrait,
    database: &str,
    is_new: bool,
) -> Result<()> {
    match revision(connection).await? {
        // The making of the tables was interrupted right at its start.
        None if is_new => stamp(connection).await,
        Some(revision) if revision == ALEMBIC_REVISION => Ok(()),
        found => Err(migrate::refusal(
            &database,
            found.as_deref().unwrap_or("none"),
        )),
    }
}

async fn check_ours(connection: &impl ConnectionTrait, database: &str) -> Result<()> {
    let rows = sql::rows(connection, "SELECT version FROM orrery_schema", vec![]).await?;
    let Some(row) = rows.first() else {
        let sql = "INSERT INTO orrery_schema (version) VALUES (?)";
        sql::execute(connection, sql, values![ORRERY_SCHEMA_VERSION]).await?;
        return Ok(());
    };
    let found: i32 = row.try_get("", "version")?;
    if found == ORRERY_SCHEMA_VERSION {
        return Ok(());
    }
    Err(StoreError::SchemaVersion {
        database: database.to_owned(),
        found: format!("orrery {found}"),
        needed: format!("orrery {ORRERY_SCHEMA_VERSION}"),
        cure: "another version of this program made it: start that version, or restore a backup"
            .to_owned(),
    })
}

async fn stamp(connection: &impl ConnectionTrait) -> Result<()> {
    let sql = "INSERT INTO alembic_version (version_num) VALUES (?)";
    sql::execute(connection, sql, values![ALEMBIC_REVISION]).await?;
    Ok(())
}

/// As upstream does when it starts on a new database.
async fn add_default_roles(connection: &impl ConnectionTrait) -> Result<()> {
    for role in default_roles() {
        let sql =
            "INSERT INTO roles (name, description, scopes, managed_by_auth) VALUES (?, ?, ?, ?)";
        let scopes = json::to_text(&role.scopes);
        let values = values![role.name, role.description, scopes, false];
        sql::execute(connection, sql, values).await?;
    }
    Ok(())
}

/// The names of all tables.
pub(crate) async fn tables(connection: &impl ConnectionTrait) -> Result<Vec<String>> {
    let sql = match connection.get_database_backend() {
        DbBackend::Postgres => {
            "SELECT CAST(tablename AS TEXT) AS name FROM pg_tables WHERE schemaname = current_schema()"
        }
        DbBackend::MySql => {
            "SELECT CAST(table_name AS CHAR) AS name FROM information_schema.tables \
             WHERE table_schema = DATABASE()"
        }
        _ => "SELECT name FROM sqlite_master WHERE type = 'table'",
    };
    sql::rows(connection, sql, vec![])
        .await?
        .iter()
        .map(|row| Ok(row.try_get("", "name")?))
        .collect()
}

/// The names of all indexes.
async fn indexes(connection: &impl ConnectionTrait) -> Result<HashSet<String>> {
    let sql = match connection.get_database_backend() {
        DbBackend::Postgres => {
            "SELECT CAST(indexname AS TEXT) AS name FROM pg_indexes WHERE schemaname = current_schema()"
        }
        DbBackend::MySql => {
            "SELECT DISTINCT CAST(index_name AS CHAR) AS name FROM information_schema.statistics \
             WHERE table_schema = DATABASE()"
        }
        _ => "SELECT name FROM sqlite_master WHERE type = 'index'",
    };
    sql::rows(connection, sql, vec![])
        .await?
        .iter()
        .map(|row| Ok(row.try_get("", "name")?))
        .collect()
}

/// The name in `CREATE INDEX name`, perhaps with `IF NOT EXISTS`.
fn index_name(statement: &str) -> Option<&str> {
    let rest = statement.strip_prefix("CREATE INDEX ")?;
    let name = rest.strip_prefix("IF NOT EXISTS ").unwrap_or(rest);
    name.split_whitespace().next()
}

/// The statements of a DDL file, each with the table it makes or belongs to.
fn statements(ddl: &str) -> impl Iterator<Item = (&str, &str)> {
    ddl.split_inclusive(";\n").filter_map(|statement| {
        let start = statement.find("CREATE ")?;
        let statement = statement[start..].trim_end().trim_end_matches(';');
        let words = statement.split_whitespace();
        let after = if statement.starts_with("CREATE TABLE") {
            "TABLE"
        } else {
            "ON"
        };
        let table = words.skip_while(|word| *word != after).nth(1)?;
        Some((table.trim_matches('`'), statement))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_has_the_same_tables_and_indexes() {
        let names = |ddl| {
            statements(ddl)
                .map(|(table, statement)| (table.to_owned(), statement.starts_with("CREATE INDEX")))
                .collect::<Vec<_>>()
        };
        let sqlite = names(include_str!("sqlite.sql"));
        assert_eq!(sqlite.len(), 18, "16 tables and 2 indexes");
        assert_eq!(names(include_str!("postgres.sql")), sqlite);
        assert_eq!(names(include_str!("mysql.sql")), sqlite);
        let ours = names(include_str!("orrery_sqlite.sql"));
        assert_eq!(names(include_str!("orrery_postgres.sql")), ours);
        // MySQL needs none of the indexes on upstream's tables.
        let on_our_tables: Vec<_> = ours
            .into_iter()
            .filter(|(table, _)| table.starts_with("orrery_"))
            .collect();
        assert_eq!(names(include_str!("orrery_mysql.sql")), on_our_tables);
        for table in [
            "orrery_schema",
            "orrery_runs",
            "orrery_sessions",
            "orrery_audit",
            "orrery_events",
        ] {
            assert!(
                on_our_tables.iter().any(|(name, _)| name == table),
                "{table}"
            );
        }
    }
}

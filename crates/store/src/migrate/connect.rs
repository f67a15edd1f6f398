//! The one connection of a migration.

use std::{path::Path, time::Duration};

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _,
};
use sqlx::{
    Connection as _, mysql::MySqlPoolOptions, pool::PoolOptions, postgres::PgPoolOptions,
    sqlite::SqliteConnectOptions, sqlite::SqliteConnection,
};

use super::STATEMENT_LIMIT;
use crate::{
    connection::Transaction,
    error::StoreError,
    sql::Result,
    store::{
        StoreOptions, check_file, check_file_system, connect_error, mysql_options,
        postgres_options, sqlite_options,
    },
    url::{DbUrl, Dialect, Target},
};

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Look,
    Change,
}

/// Whether it is a file that is not there, or memory, where nothing can be older.
pub(super) fn is_missing(url: &DbUrl) -> bool {
    match &url.target {
        Target::Memory => true,
        Target::File(path) => !path.exists(),
        Target::Server(..) => false,
    }
}

/// The options for a connection whose statements may take long.
fn patient(options: &StoreOptions) -> StoreOptions {
    StoreOptions {
        max_connections: 1,
        statement_timeout: STATEMENT_LIMIT,
        ..options.clone()
    }
}

/// A pool of one connection. It does not make a file, does not change its journal, and does not
/// enforce foreign keys on SQLite, where tables are made anew.
pub(super) async fn pool(
    url: &DbUrl,
    options: &StoreOptions,
    purpose: Purpose,
) -> Result<DatabaseConnection> {
    let options = patient(options);
    let limit = options.acquire_timeout;
    let failed = |error: sqlx::Error| connect_error(url, &error);
    match &url.target {
        Target::Memory => Err(StoreError::Url("a database in memory is always new".into())),
        Target::File(path) => {
            let mut connect = file(path, &options)?;
            if purpose == Purpose::Look {
                connect = connect.pragma("query_only", "ON");
            } else {
                check_file_system(url, path, &options)?;
                check_file(url, path)?;
            }
            let pool = one(limit).connect_with(connect).await.map_err(failed)?;
            Ok(pool.into())
        }
        Target::Server(Dialect::Postgres, address) => {
            let connect = postgres_options(address, &options)?;
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(limit);
            Ok(pool.connect_with(connect).await.map_err(failed)?.into())
        }
        Target::Server(_, address) => {
            let connect = mysql_options(address)?;
            let pool = MySqlPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(limit);
            Ok(pool.connect_with(connect).await.map_err(failed)?.into())
        }
    }
}

fn one(limit: Duration) -> PoolOptions<sqlx::Sqlite> {
    PoolOptions::new().max_connections(1).acquire_timeout(limit)
}

fn file(path: &Path, options: &StoreOptions) -> Result<SqliteConnectOptions> {
    Ok(sqlite_options(options, "sqlite::memory:")?
        .in_memory(false)
        .shared_cache(false)
        .create_if_missing(false)
        .foreign_keys(false)
        .filename(path))
}

/// A second connection to a file, which reads only.
pub(super) async fn reader(
    url: &DbUrl,
    path: &Path,
    options: &StoreOptions,
) -> Result<SqliteConnection> {
    SqliteConnection::connect_with(&file(path, options)?)
        .await
        .map_err(|error| connect_error(url, &error))
}

/// Begins the transaction; one that changes a SQLite file keeps other writers out from now on.
pub(super) async fn begin(
    pool: &DatabaseConnection,
    options: &StoreOptions,
    purpose: Purpose,
) -> Result<Transaction> {
    let mode = match purpose {
        Purpose::Look => SqliteTransactionMode::Deferred,
        Purpose::Change => SqliteTransactionMode::Immediate,
    };
    let limit = options.write_timeout;
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(mode),
        ..TransactionOptions::default()
    };
    let begun = tokio::time::timeout(limit, pool.begin_with_options(options))
        .await
        .map_err(|_| StoreError::timed_out("beginning a transaction", limit))??;
    Ok(Transaction::new(begun, STATEMENT_LIMIT))
}

/// Sets how long to wait for others who use a table. SQLite's own limit is set with the connection.
pub(super) async fn limit_waiting(
    connection: &impl ConnectionTrait,
    limit: Duration,
) -> Result<()> {
    let seconds = limit.as_secs();
    let sql = match connection.get_database_backend() {
        DbBackend::Postgres => format!("SET LOCAL lock_timeout = '{seconds}s'"),
        DbBackend::MySql => format!("SET SESSION lock_wait_timeout = {seconds}"),
        _ => return Ok(()),
    };
    connection.execute_unprepared(&sql).await?;
    Ok(())
}

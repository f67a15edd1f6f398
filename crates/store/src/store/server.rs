//! Connecting to a database server: PostgreSQL, MySQL and MariaDB.

use std::{str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, Connection as _,
    mysql::{MySqlConnectOptions, MySqlSslMode},
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::StoreOptions;
use crate::{error::StoreError, outage::Health, url::Address};

pub(super) fn server_pool<D: sqlx::Database>(
    pool: PoolOptions<D>,
    options: &StoreOptions,
    health: &Arc<Health>,
) -> PoolOptions<D> {
    let health = Arc::clone(health);
    pool.max_connections(options.max_connections)
        .acquire_timeout(options.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection, metadata| {
            // A connection that rested may have been cut by the server or a firewall, and one from
            // before the database was away is surely lost.
            let is_doubtful =
                metadata.idle_for > Duration::from_secs(20) || health.doubts(metadata.age);
            Box::pin(async move {
                if !is_doubtful {
                    return Ok(true);
                }
                let ping = tokio::time::timeout(PING, connection.ping()).await;
                Ok(matches!(ping, Ok(Ok(()))))
            })
        })
}

/// How long an idle connection may take to show that it is there.
const PING: Duration = Duration::from_secs(2);

pub(crate) fn postgres_options(
    address: &Address,
    options: &StoreOptions,
) -> Result<PgConnectOptions, StoreError> {
    let limit = options.statement_timeout.as_millis().to_string();
    let mut connect = PgConnectOptions::new_without_pgpass()
        .application_name("orrery")
        .options([("statement_timeout", limit.as_str())])
        .disable_statement_logging();
    if let Some(user) = &address.user {
        connect = connect.username(user);
    }
    if let Some(password) = &address.password {
        connect = connect.password(password.expose());
    }
    if let Some(host) = &address.host {
        connect = connect.host(host);
    }
    if let Some(port) = address.port {
        connect = connect.port(port);
    }
    if let Some(database) = &address.database {
        connect = connect.database(database);
    }
    for (name, value) in &address.arguments {
        connect = match name.as_str() {
            "sslmode" | "ssl" => connect.ssl_mode(PgSslMode::from_str(value).map_err(|_| {
                bad_value(name, "disable, prefer, require, verify-ca or verify-full")
            })?),
            "sslrootcert" => connect.ssl_root_cert(value),
            "sslcert" => connect.ssl_client_cert(value),
            "sslkey" => connect.ssl_client_key(value),
            "host" => connect.host(value),
            "port" => connect.port(value.parse().map_err(|_| bad_value(name, "a port"))?),
            "user" => connect.username(value),
            "password" => connect.password(value),
            "dbname" => connect.database(value),
            "application_name" => connect.application_name(value),
            // Bounded by our own deadlines.
            "connect_timeout" | "client_encoding" => connect,
            other => return Err(unknown_argument(other, "PostgreSQL")),
        };
    }
    Ok(connect)
}

pub(crate) fn mysql_options(address: &Address) -> Result<MySqlConnectOptions, StoreError> {
    let mut connect = MySqlConnectOptions::new().disable_statement_logging();
    if let Some(user) = &address.user {
        connect = connect.username(user);
    }
    if let Some(password) = &address.password {
        connect = connect.password(password.expose());
    }
    if let Some(host) = &address.host {
        connect = connect.host(host);
    }
    if let Some(port) = address.port {
        connect = connect.port(port);
    }
    if let Some(database) = &address.database {
        connect = connect.database(database);
    }
    for (name, value) in &address.arguments {
        connect = match name.as_str() {
            "charset" if value.starts_with("utf8") => connect,
            "charset" => return Err(bad_value(name, "utf8mb4")),
            "unix_socket" => connect.socket(value),
            "ssl_ca" => connect.ssl_ca(value).ssl_mode(MySqlSslMode::VerifyCa),
            "ssl_cert" => connect.ssl_client_cert(value),
            "ssl_key" => connect.ssl_client_key(value),
            "ssl_verify_identity" if value == "true" => {
                connect.ssl_mode(MySqlSslMode::VerifyIdentity)
            }
            "ssl_disabled" if value == "true" => connect.ssl_mode(MySqlSslMode::Disabled),
            "ssl_mode" => connect.ssl_mode(MySqlSslMode::from_str(value).map_err(|_| {
                bad_value(
                    name,
                    "DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY",
                )
            })?),
            "connect_timeout" | "read_timeout" | "write_timeout" => connect,
            other => return Err(unknown_argument(other, "MySQL")),
        };
    }
    Ok(connect)
}

fn bad_value(name: &str, wanted: &str) -> StoreError {
    StoreError::Url(format!("the argument {name:?} must be {wanted}"))
}

fn unknown_argument(name: &str, database: &str) -> StoreError {
    StoreError::Url(format!(
        "the argument {name:?} is not supported for {database}"
    ))
}

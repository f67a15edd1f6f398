//! The changes of a step as statements for each database.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{ConnectionTrait, DbBackend};

use super::{
    Tell, Telling as _, sqlite_table,
    steps::{Change, Kind},
};
use crate::{
    json, schema,
    sql::{self, Result, values},
};

/// Does what is not done yet of a change.
pub(super) async fn apply(
    connection: &impl ConnectionTrait,
    change: &Change,
    tell: Tell<'_>,
) -> Result<()> {
    match *change {
        Change::Add(table, column, kind) => add(connection, table, column, kind, tell).await,
        Change::AddClient(table) => add_client(connection, table, tell).await,
        Change::Drop(table) => {
            if has_table(connection, table).await? {
                let sql = format!("DROP TABLE {table}");
                run(connection, &sql, tell).await?;
            }
            Ok(())
        }
        Change::SetTrue(table, column) => {
            if has_table(connection, table).await? {
                let sql = format!("UPDATE {table} SET {column} = TRUE");
                run(connection, &sql, tell).await?;
            }
            Ok(())
        }
        Change::ScopesOfTokens => scopes_of_tokens(connection, tell).await,
        Change::ScopesOfClients => scopes_of_clients(connection, tell).await,
    }
}

async fn run(connection: &impl ConnectionTrait, sql: &str, tell: Tell<'_>) -> Result<()> {
    tell.statement(sql);
    connection.execute_unprepared(sql).await?;
    Ok(())
}

async fn has_table(connection: &impl ConnectionTrait, table: &str) -> Result<bool> {
    let tables = schema::tables(connection).await?;
    Ok(tables.iter().any(|name| name == table))
}

/// Whether the table exists and lacks the column.
async fn lacks(connection: &impl ConnectionTrait, table: &str, column: &str) -> Result<bool> {
    let columns = super::columns(connection, table).await?;
    Ok(!columns.is_empty() && !columns.iter().any(|name| name == column))
}

async fn add(
    connection: &impl ConnectionTrait,
    table: &str,
    column: &str,
    kind: Kind,
    tell: Tell<'_>,
) -> Result<()> {
    if !lacks(connection, table, column).await? {
        return Ok(());
    }
    let backend = connection.get_database_backend();
    let quote = quote(backend);
    let kind = type_name(backend, kind);
    // `groups` and `user` are reserved words in some of the databases.
    let sql = format!("ALTER TABLE {quote}{table}{quote} ADD COLUMN {quote}{column}{quote} {kind}");
    run(connection, &sql, tell).await
}

fn quote(backend: DbBackend) -> char {
    match backend {
        DbBackend::MySql => '`',
        _ => '"',
    }
}

fn type_name(backend: DbBackend, kind: Kind) -> String {
    match kind {
        Kind::Text(length) => format!("VARCHAR({length})"),
        Kind::Json => "TEXT".to_owned(),
        Kind::Flag => "BOOLEAN".to_owned(),
        Kind::FalseFlag if backend == DbBackend::Sqlite => "BOOLEAN DEFAULT 0 NOT NULL".to_owned(),
        Kind::FalseFlag => "BOOLEAN DEFAULT FALSE NOT NULL".to_owned(),
        Kind::Seconds30 => "INTEGER DEFAULT '30' NOT NULL".to_owned(),
    }
}

async fn add_client(connection: &impl ConnectionTrait, table: &str, tell: Tell<'_>) -> Result<()> {
    let name = format!("fk_{table}_oauth_client_id_oauth_clients");
    let constraint = format!(
        "CONSTRAINT {name} FOREIGN KEY(oauth_client_id) REFERENCES oauth_clients (identifier) \
         ON DELETE SET NULL"
    );
    if connection.get_database_backend() == DbBackend::Sqlite {
        if lacks(connection, table, "oauth_client_id").await? {
            let column = "oauth_client_id VARCHAR(255)";
            for sql in sqlite_table::add_constrained(connection, table, column, &constraint).await?
            {
                run(connection, &sql, tell).await?;
            }
        }
        return Ok(());
    }
    add(connection, table, "oauth_client_id", Kind::Text(255), tell).await?;
    let here = match connection.get_database_backend() {
        DbBackend::MySql => "DATABASE()",
        _ => "current_schema()",
    };
    let sql = format!(
        "SELECT COUNT(*) AS n FROM information_schema.table_constraints \
         WHERE table_schema = {here} AND table_name = ? AND constraint_name = ?"
    );
    let has = sql::count(connection, &sql, values![table, name]).await? > 0;
    if !has && has_table(connection, table).await? {
        run(
            connection,
            &format!("ALTER TABLE {table} ADD {constraint}"),
            tell,
        )
        .await?;
    }
    Ok(())
}

/// The scopes of all roles of each holder, without doubles and in order.
async fn scopes_by_holder(
    connection: &impl ConnectionTrait,
    map: &str,
    holder: &str,
) -> Result<BTreeMap<i32, BTreeSet<String>>> {
    let sql = format!(
        "SELECT m.{holder} AS holder, r.scopes FROM {map} m JOIN roles r ON r.id = m.role_id"
    );
    let mut found = BTreeMap::<i32, BTreeSet<String>>::new();
    for row in sql::rows(connection, &sql, vec![]).await? {
        let scopes = json::read_list(&row, "", "scopes")?;
        found
            .entry(row.try_get("", "holder")?)
            .or_default()
            .extend(scopes);
    }
    Ok(found)
}

async fn ids(connection: &impl ConnectionTrait, table: &str) -> Result<Vec<i32>> {
    sql::rows(
        connection,
        &format!("SELECT id FROM {table} ORDER BY id"),
        vec![],
    )
    .await?
    .iter()
    .map(|row| Ok(row.try_get("", "id")?))
    .collect()
}

async fn scopes_of_tokens(connection: &impl ConnectionTrait, tell: Tell<'_>) -> Result<()> {
    // Without the map it is done already, or the tokens went with an older step.
    if !has_table(connection, "api_token_role_map").await?
        || !has_table(connection, "api_tokens").await?
    {
        return Ok(());
    }
    let mut scopes = scopes_by_holder(connection, "api_token_role_map", "api_token_id").await?;
    let sql = "UPDATE api_tokens SET scopes = ? WHERE id = ?";
    tell.statement(sql);
    for id in ids(connection, "api_tokens").await? {
        // Like upstream: nothing at all is written for none, which means the same.
        if let Some(scopes) = scopes.remove(&id).filter(|scopes| !scopes.is_empty()) {
            sql::execute(connection, sql, values![json::to_text(&scopes), id]).await?;
        }
    }
    Ok(())
}

async fn scopes_of_clients(connection: &impl ConnectionTrait, tell: Tell<'_>) -> Result<()> {
    if !has_table(connection, "oauth_client_role_map").await?
        || !has_table(connection, "oauth_clients").await?
    {
        return Ok(());
    }
    let mut scopes =
        scopes_by_holder(connection, "oauth_client_role_map", "oauth_client_id").await?;
    let of_servers = "SELECT c.id, u.name AS owner, s.name FROM oauth_clients c \
                      JOIN spawners s ON s.oauth_client_id = c.identifier \
                      JOIN users u ON u.id = s.user_id WHERE c.identifier <> 'jupyterhub'";
    let mut servers = BTreeSet::new();
    for row in sql::rows(connection, of_servers, vec![]).await? {
        let id: i32 = row.try_get("", "id")?;
        let owner: String = row.try_get("", "owner")?;
        let name: Option<String> = row.try_get("", "name")?;
        let scope = format!("access:servers!server={owner}/{}", name.unwrap_or_default());
        scopes.entry(id).or_default().insert(scope);
        servers.insert(id);
    }
    let of_services = "SELECT c.id, s.name FROM oauth_clients c \
                       JOIN services s ON s.oauth_client_id = c.identifier \
                       WHERE c.identifier <> 'jupyterhub'";
    for row in sql::rows(connection, of_services, vec![]).await? {
        let id: i32 = row.try_get("", "id")?;
        let name: String = row.try_get("", "name")?;
        if !servers.contains(&id) {
            let scope = format!("access:services!service={name}");
            scopes.entry(id).or_default().insert(scope);
        }
    }
    let sql = "UPDATE oauth_clients SET allowed_scopes = ? WHERE id = ?";
    tell.statement(sql);
    for id in ids(connection, "oauth_clients").await? {
        // Like upstream: nothing at all is written for none, which means the same.
        if let Some(scopes) = scopes.remove(&id).filter(|scopes| !scopes.is_empty()) {
            sql::execute(connection, sql, values![json::to_text(&scopes), id]).await?;
        }
    }
    Ok(())
}

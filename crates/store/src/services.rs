//! `services`: other programs that stand beside the hub.

use sea_orm::{ConnectionTrait, Value as SqlValue};
use serde_json::Value;

use crate::{
    json,
    sql::{self, Result, values},
};

/// A row of `services`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Key.
    pub id: i32,
    /// Everything but the key.
    pub fields: ServiceFields,
}

/// The columns of `services` without the key.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceFields {
    /// Unique name.
    pub name: String,
    /// Whether it is an administrator (of old; roles replace it).
    pub admin: bool,
    /// Where it listens.
    pub url: Option<String>,
    /// The scopes that it may ask users for.
    pub oauth_client_allowed_scopes: Option<Vec<String>>,
    /// Free information for pages.
    pub info: Value,
    /// Whether pages list it.
    pub display: Option<bool>,
    /// Whether users are sent through without being asked.
    pub oauth_no_confirm: Option<bool>,
    /// The command that starts it, if the hub does.
    pub command: Option<Vec<String>>,
    /// The folder it is started in.
    pub cwd: Option<String>,
    /// Its environment.
    pub environment: Value,
    /// The system user it runs as.
    pub user: Option<String>,
    /// How long its start may take, in seconds.
    pub timeout: i32,
    /// Whether the configuration names it (otherwise the REST API made it).
    pub from_config: bool,
    /// Its address.
    pub server_id: Option<i32>,
    /// Its process.
    pub pid: Option<i32>,
    /// It as an OAuth client.
    pub oauth_client_id: Option<String>,
}

impl Default for ServiceFields {
    fn default() -> Self {
        Self {
            name: String::new(),
            admin: false,
            url: None,
            oauth_client_allowed_scopes: None,
            info: Value::Null,
            display: None,
            oauth_no_confirm: None,
            command: None,
            cwd: None,
            environment: Value::Null,
            user: None,
            timeout: 30,
            from_config: true,
            server_id: None,
            pid: None,
            oauth_client_id: None,
        }
    }
}

impl sea_orm::FromQueryResult for Service {
    fn from_query_result(
        row: &sea_orm::QueryResult,
        prefix: &str,
    ) -> std::result::Result<Self, sea_orm::DbErr> {
        let optional_list = |column: &str| {
            let text: Option<String> = row.try_get(prefix, column)?;
            match text {
                None => Ok(None),
                Some(_) => json::read_list(row, prefix, column).map(Some),
            }
        };
        Ok(Self {
            id: row.try_get(prefix, "id")?,
            fields: ServiceFields {
                name: row.try_get(prefix, "name")?,
                admin: row
                    .try_get::<Option<bool>>(prefix, "admin")?
                    .unwrap_or_default(),
                url: row.try_get(prefix, "url")?,
                oauth_client_allowed_scopes: optional_list("oauth_client_allowed_scopes")?,
                info: json::read_dict(row, prefix, "info")?,
                display: row.try_get(prefix, "display")?,
                oauth_no_confirm: row.try_get(prefix, "oauth_no_confirm")?,
                command: optional_list("command")?,
                cwd: row.try_get(prefix, "cwd")?,
                environment: json::read_dict(row, prefix, "environment")?,
                user: row.try_get(prefix, "user")?,
                timeout: row.try_get(prefix, "timeout")?,
                from_config: row
                    .try_get::<Option<bool>>(prefix, "from_config")?
                    .unwrap_or(true),
                server_id: row.try_get(prefix, "_server_id")?,
                pid: row.try_get(prefix, "pid")?,
                oauth_client_id: row.try_get(prefix, "oauth_client_id")?,
            },
        })
    }
}

/// Finds a service by name.
pub async fn find(connection: &impl ConnectionTrait, name: &str) -> Result<Option<Service>> {
    sql::one_exact(
        connection,
        "SELECT * FROM services WHERE name = ?",
        values![name],
        |row: &Service| row.fields.name == name,
    )
    .await
}

/// Finds a service by id.
pub async fn find_by_id(connection: &impl ConnectionTrait, id: i32) -> Result<Option<Service>> {
    sql::one(
        connection,
        "SELECT * FROM services WHERE id = ?",
        values![id],
    )
    .await
}

/// Finds the service that is this OAuth client.
pub async fn find_by_client(
    connection: &impl ConnectionTrait,
    oauth_client_id: &str,
) -> Result<Option<Service>> {
    sql::one_exact(
        connection,
        "SELECT * FROM services WHERE oauth_client_id = ?",
        values![oauth_client_id],
        |row: &Service| row.fields.oauth_client_id.as_deref() == Some(oauth_client_id),
    )
    .await
}

/// Every service, by id.
pub async fn list(connection: &impl ConnectionTrait) -> Result<Vec<Service>> {
    sql::all(connection, "SELECT * FROM services ORDER BY id", vec![]).await
}

/// Adds a service.
pub async fn insert(connection: &impl ConnectionTrait, fields: &ServiceFields) -> Result<Service> {
    let mut columns = columns(fields);
    columns.retain(|(name, _)| *name != "name");
    let key = ("name", fields.name.as_str());
    let id = sql::insert_unique(connection, "services", key, columns).await?;
    Ok(Service {
        id,
        fields: fields.clone(),
    })
}

/// Replaces a service's values.
pub async fn update(
    connection: &impl ConnectionTrait,
    id: i32,
    fields: &ServiceFields,
) -> Result<bool> {
    sql::update(connection, "services", id, columns(fields)).await
}

/// Sets a service's flag `admin`.
pub async fn set_admin(connection: &impl ConnectionTrait, id: i32, admin: bool) -> Result<bool> {
    sql::update(connection, "services", id, vec![("admin", admin.into())]).await
}

/// Deletes a service with its tokens, its address and its OAuth client, as upstream does.
pub async fn delete(connection: &impl ConnectionTrait, id: i32) -> Result<bool> {
    let Some(service) = find_by_id(connection, id).await? else {
        return Ok(false);
    };
    for table in ["api_tokens", "service_role_map"] {
        let sql = format!("DELETE FROM {table} WHERE service_id = ?");
        sql::execute(connection, &sql, values![id]).await?;
    }
    let deleted =
        sql::execute(connection, "DELETE FROM services WHERE id = ?", values![id]).await? > 0;
    if let Some(server_id) = service.fields.server_id {
        crate::servers::delete(connection, server_id).await?;
    }
    if let Some(client) = service.fields.oauth_client_id {
        crate::oauth_clients::delete(connection, &client).await?;
    }
    Ok(deleted)
}

fn columns(fields: &ServiceFields) -> Vec<(&'static str, SqlValue)> {
    let optional_list = |list: &Option<Vec<String>>| match list {
        None => SqlValue::String(None),
        Some(list) => json::list(list),
    };
    vec![
        ("name", fields.name.as_str().into()),
        ("admin", fields.admin.into()),
        ("url", fields.url.clone().into()),
        (
            "oauth_client_allowed_scopes",
            optional_list(&fields.oauth_client_allowed_scopes),
        ),
        ("info", json::dict(&fields.info)),
        ("display", fields.display.into()),
        ("oauth_no_confirm", fields.oauth_no_confirm.into()),
        ("command", optional_list(&fields.command)),
        ("cwd", fields.cwd.clone().into()),
        ("environment", json::dict(&fields.environment)),
        ("user", fields.user.clone().into()),
        ("timeout", fields.timeout.into()),
        ("from_config", fields.from_config.into()),
        ("_server_id", fields.server_id.into()),
        ("pid", fields.pid.into()),
        ("oauth_client_id", fields.oauth_client_id.clone().into()),
    ]
}

//! `oauth_clients`: everything that may log users in through the hub: servers and services.

use std::fmt;

use sea_orm::ConnectionTrait;

use crate::{
    json,
    sql::{self, Result, from_row, values},
};

/// A row of `oauth_clients`. `Debug` leaves out the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct OauthClient {
    /// Key.
    pub id: i32,
    /// The `client_id`: unique, and what other tables refer to.
    pub identifier: String,
    /// What users read when they are asked to confirm.
    pub description: Option<String>,
    /// The secret, hashed as tokens are (`token_hash`); empty for the hub's own client.
    pub secret: Option<String>,
    /// Where users are sent back to.
    pub redirect_uri: Option<String>,
    /// The scopes that it may ask for.
    pub allowed_scopes: Vec<String>,
}

impl fmt::Debug for OauthClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OauthClient")
            .field("id", &self.id)
            .field("identifier", &self.identifier)
            .field("redirect_uri", &self.redirect_uri)
            .finish_non_exhaustive()
    }
}

from_row!(OauthClient {
    id,
    identifier,
    description,
    secret,
    redirect_uri,
    allowed_scopes: list,
});

/// A client to add, or the new values of one.
#[derive(Clone)]
pub struct NewOauthClient {
    /// See [`OauthClient::identifier`].
    pub identifier: String,
    /// See [`OauthClient::description`].
    pub description: String,
    /// See [`OauthClient::secret`]: the hash, never the secret.
    pub secret: String,
    /// See [`OauthClient::redirect_uri`].
    pub redirect_uri: String,
    /// See [`OauthClient::allowed_scopes`].
    pub allowed_scopes: Vec<String>,
}

/// Finds a client by its `client_id`.
pub async fn find(
    connection: &impl ConnectionTrait,
    identifier: &str,
) -> Result<Option<OauthClient>> {
    sql::one_exact(
        connection,
        "SELECT * FROM oauth_clients WHERE identifier = ?",
        values![identifier],
        |row: &OauthClient| row.identifier == identifier,
    )
    .await
}

/// Every client, by id.
pub async fn list(connection: &impl ConnectionTrait) -> Result<Vec<OauthClient>> {
    sql::all(
        connection,
        "SELECT * FROM oauth_clients ORDER BY id",
        vec![],
    )
    .await
}

/// Adds a client; a `client_id` that exists is an error ([`StoreError::is_duplicate`]).
///
/// [`StoreError::is_duplicate`]: crate::StoreError::is_duplicate
pub async fn insert(connection: &impl ConnectionTrait, new: &NewOauthClient) -> Result<i32> {
    let columns = vec![
        ("description", new.description.as_str().into()),
        ("secret", new.secret.as_str().into()),
        ("redirect_uri", new.redirect_uri.as_str().into()),
        ("allowed_scopes", json::list(&new.allowed_scopes)),
    ];
    let key = ("identifier", new.identifier.as_str());
    sql::insert_unique(connection, "oauth_clients", key, columns).await
}

/// Adds the client, or gives the client of that `client_id` these values.
pub async fn upsert(
    connection: &impl ConnectionTrait,
    new: &NewOauthClient,
) -> Result<OauthClient> {
    let columns = vec![
        ("description", new.description.as_str().into()),
        ("secret", new.secret.as_str().into()),
        ("redirect_uri", new.redirect_uri.as_str().into()),
        ("allowed_scopes", json::list(&new.allowed_scopes)),
    ];
    let key = ("identifier", new.identifier.as_str());
    let id = sql::upsert(connection, "oauth_clients", key, columns).await?;
    Ok(OauthClient {
        id,
        identifier: new.identifier.clone(),
        description: Some(new.description.clone()),
        secret: Some(new.secret.clone()),
        redirect_uri: Some(new.redirect_uri.clone()),
        allowed_scopes: new.allowed_scopes.clone(),
    })
}

/// Deletes a client, its tokens and its codes.
pub async fn delete(connection: &impl ConnectionTrait, identifier: &str) -> Result<bool> {
    if find(connection, identifier).await?.is_none() {
        return Ok(false);
    }
    for table in ["api_tokens", "oauth_codes"] {
        let sql = format!("DELETE FROM {table} WHERE client_id = ?");
        sql::execute(connection, &sql, values![identifier]).await?;
    }
    for table in ["spawners", "services"] {
        let sql = format!("UPDATE {table} SET oauth_client_id = NULL WHERE oauth_client_id = ?");
        sql::execute(connection, &sql, values![identifier]).await?;
    }
    Ok(sql::execute(
        connection,
        "DELETE FROM oauth_clients WHERE identifier = ?",
        values![identifier],
    )
    .await?
        > 0)
}

//! `share_codes`: codes that can be exchanged for a share.

use std::fmt;

use chrono::NaiveDateTime;
use sea_orm::ConnectionTrait;

use crate::{
    StoreError, json,
    shares::Of,
    sql::{self, Result, from_row, values},
    time,
};

/// A row of `share_codes`. `Debug` leaves out the hash.
#[derive(Clone, PartialEq, Eq)]
pub struct ShareCode {
    /// Key.
    pub id: i32,
    /// The code's hash, see [`token_hash`](crate::token_hash).
    pub hashed: String,
    /// The code's first four characters.
    pub prefix: String,
    /// How often it was exchanged.
    pub exchange_count: i32,
    /// When it was last exchanged.
    pub last_exchanged_at: Option<NaiveDateTime>,
    /// When it was made.
    pub created_at: NaiveDateTime,
    /// What it gives.
    pub scopes: Vec<String>,
    /// When it ends.
    pub expires_at: Option<NaiveDateTime>,
    /// Whose server it is.
    pub owner_id: Option<i32>,
    /// The server.
    pub spawner_id: Option<i32>,
}

impl fmt::Debug for ShareCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ShareCode")
            .field("id", &self.id)
            .field("owner_id", &self.owner_id)
            .field("spawner_id", &self.spawner_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

from_row!(ShareCode {
    id,
    hashed: or_default,
    prefix: or_default,
    exchange_count: or_default,
    last_exchanged_at,
    created_at,
    scopes: list,
    expires_at,
    owner_id,
    spawner_id,
});

/// A code to be kept. The code itself is not.
#[derive(Clone)]
pub struct NewShareCode {
    /// The code's hash.
    pub hashed: String,
    /// Its first four characters.
    pub prefix: String,
    /// When it is made.
    pub created_at: NaiveDateTime,
    /// When it ends.
    pub expires_at: NaiveDateTime,
    /// What it gives.
    pub scopes: Vec<String>,
    /// Whose server it is.
    pub owner_id: i32,
    /// The server.
    pub spawner_id: i32,
}

/// Keeps a new code.
pub async fn insert(connection: &impl ConnectionTrait, new: &NewShareCode) -> Result<ShareCode> {
    let id = sql::insert_upstream(
        connection,
        "share_codes",
        vec![
            ("hashed", new.hashed.as_str().into()),
            ("prefix", new.prefix.as_str().into()),
            ("exchange_count", 0.into()),
            ("created_at", time::truncate(new.created_at).into()),
            ("expires_at", time::truncate(new.expires_at).into()),
            ("scopes", json::list(&new.scopes)),
            ("owner_id", new.owner_id.into()),
            ("spawner_id", new.spawner_id.into()),
        ],
    )
    .await?;
    sql::one(
        connection,
        "SELECT * FROM share_codes WHERE id = ?",
        values![id],
    )
    .await?
    .ok_or_else(|| StoreError::Corrupt("a share code that was just made is gone".to_owned()))
}

/// Counts an exchange of a code; says whether the code is still there.
pub async fn count_exchange(
    connection: &impl ConnectionTrait,
    id: i32,
    now: NaiveDateTime,
) -> Result<bool> {
    let sql = "UPDATE share_codes SET exchange_count = COALESCE(exchange_count, 0) + 1, \
               last_exchanged_at = ? WHERE id = ?";
    Ok(sql::execute(connection, sql, values![time::truncate(now), id]).await? > 0)
}

/// Deletes a code of a server; says whether there was such a code.
pub async fn delete(connection: &impl ConnectionTrait, spawner_id: i32, id: i32) -> Result<bool> {
    let sql = "DELETE FROM share_codes WHERE spawner_id = ? AND id = ?";
    Ok(sql::execute(connection, sql, values![spawner_id, id]).await? > 0)
}

/// Deletes all codes of a server; gives their number.
pub async fn delete_of_spawner(connection: &impl ConnectionTrait, spawner_id: i32) -> Result<u64> {
    let sql = "DELETE FROM share_codes WHERE spawner_id = ?";
    sql::execute(connection, sql, values![spawner_id]).await
}

/// A part of a list of codes, by id, and how many there are in all. Expired codes count until they are
/// purged.
pub async fn page(
    connection: &impl ConnectionTrait,
    of: Of,
    offset: u64,
    limit: u64,
) -> Result<(Vec<ShareCode>, u64)> {
    let condition = match of {
        Of::Owner(_) | Of::Spawner(_) => of.condition(),
        Of::User(_) | Of::Group(_) => ("1 = 0", Vec::new()),
    };
    sql::page(connection, "share_codes", condition, offset, limit).await
}

/// The codes with this prefix that have not expired, to be verified one by one.
pub async fn find_candidates(
    connection: &impl ConnectionTrait,
    prefix: &str,
    now: NaiveDateTime,
) -> Result<Vec<ShareCode>> {
    sql::all(
        connection,
        "SELECT * FROM share_codes WHERE prefix = ? AND (expires_at IS NULL OR expires_at >= ?) \
         ORDER BY id",
        values![prefix, time::truncate(now)],
    )
    .await
}

/// An owner's codes, by id.
pub async fn by_owner(connection: &impl ConnectionTrait, owner_id: i32) -> Result<Vec<ShareCode>> {
    sql::all(
        connection,
        "SELECT * FROM share_codes WHERE owner_id = ? ORDER BY id",
        values![owner_id],
    )
    .await
}

/// The codes of one server, by id.
pub async fn by_spawner(
    connection: &impl ConnectionTrait,
    spawner_id: i32,
) -> Result<Vec<ShareCode>> {
    sql::all(
        connection,
        "SELECT * FROM share_codes WHERE spawner_id = ? ORDER BY id",
        values![spawner_id],
    )
    .await
}

/// Deletes the codes that have expired; gives their number.
pub async fn purge_expired(connection: &impl ConnectionTrait, now: NaiveDateTime) -> Result<u64> {
    sql::execute(
        connection,
        "DELETE FROM share_codes WHERE expires_at < ?",
        values![time::truncate(now)],
    )
    .await
}

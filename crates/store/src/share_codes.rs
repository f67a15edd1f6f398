//! `share_codes`: codes that can be exchanged for a share.

use std::fmt;

use chrono::NaiveDateTime;
use sea_orm::ConnectionTrait;

use crate::{
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

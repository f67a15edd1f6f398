//! `shares`: access to a server, given by its owner to a user or a group.

use chrono::NaiveDateTime;
use sea_orm::ConnectionTrait;

use crate::{
    sql::{self, Result, from_row, values},
    time,
};

/// A row of `shares`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Key.
    pub id: i32,
    /// Who got it, if a user.
    pub user_id: Option<i32>,
    /// Who got it, if a group.
    pub group_id: Option<i32>,
    /// Whose server it is.
    pub owner_id: Option<i32>,
    /// The server.
    pub spawner_id: Option<i32>,
    /// When it was given.
    pub created_at: NaiveDateTime,
    /// When it ends.
    pub expires_at: Option<NaiveDateTime>,
    /// What it allows; each scope names the server.
    pub scopes: Vec<String>,
}

from_row!(Share {
    id,
    user_id,
    group_id,
    owner_id,
    spawner_id,
    created_at,
    expires_at,
    scopes: list,
});

/// What an owner shares, by id.
pub async fn by_owner(connection: &impl ConnectionTrait, owner_id: i32) -> Result<Vec<Share>> {
    sql::all(
        connection,
        "SELECT * FROM shares WHERE owner_id = ? ORDER BY id",
        values![owner_id],
    )
    .await
}

/// The shares of one server, by id.
pub async fn by_spawner(connection: &impl ConnectionTrait, spawner_id: i32) -> Result<Vec<Share>> {
    sql::all(
        connection,
        "SELECT * FROM shares WHERE spawner_id = ? ORDER BY id",
        values![spawner_id],
    )
    .await
}

/// What was shared with a user, directly or through a group, by id. Expired shares are among them
/// until they are purged.
pub async fn with_user(connection: &impl ConnectionTrait, user_id: i32) -> Result<Vec<Share>> {
    sql::all(
        connection,
        "SELECT * FROM shares WHERE user_id = ? OR group_id IN \
         (SELECT group_id FROM user_group_map WHERE user_id = ?) ORDER BY id",
        values![user_id, user_id],
    )
    .await
}

/// What was shared with a group, by id.
pub async fn with_group(connection: &impl ConnectionTrait, group_id: i32) -> Result<Vec<Share>> {
    sql::all(
        connection,
        "SELECT * FROM shares WHERE group_id = ? ORDER BY id",
        values![group_id],
    )
    .await
}

/// Deletes the shares that have expired; gives their number.
pub async fn purge_expired(connection: &impl ConnectionTrait, now: NaiveDateTime) -> Result<u64> {
    sql::execute(
        connection,
        "DELETE FROM shares WHERE expires_at < ?",
        values![time::truncate(now)],
    )
    .await
}

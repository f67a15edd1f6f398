//! `shares`: access to a server, given by its owner to a user or a group.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, Value};

use crate::{
    StoreError, json,
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

/// Who a server is shared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// One user.
    User(i32),
    /// All members of a group.
    Group(i32),
}

impl With {
    fn column(self) -> (&'static str, i32) {
        match self {
            Self::User(id) => ("user_id", id),
            Self::Group(id) => ("group_id", id),
        }
    }
}

/// Which shares or codes a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Those of all servers of a user.
    Owner(i32),
    /// Those of one server.
    Spawner(i32),
    /// What was shared with a user, directly or through a group. There are no such codes.
    User(i32),
    /// What was shared with a group. There are no such codes.
    Group(i32),
}

impl Of {
    pub(crate) fn condition(self) -> (&'static str, Vec<Value>) {
        match self {
            Self::Owner(id) => ("owner_id = ?", values![id]),
            Self::Spawner(id) => ("spawner_id = ?", values![id]),
            Self::User(id) => (
                "(user_id = ? OR group_id IN (SELECT group_id FROM user_group_map WHERE user_id = ?))",
                values![id, id],
            ),
            Self::Group(id) => ("group_id = ?", values![id]),
        }
    }
}

/// What is to be shared of whose server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose server it is.
    pub owner_id: i32,
    /// The server.
    pub spawner_id: i32,
    /// With whom.
    pub with: With,
    /// The server's filter, `server=ada/lab`, which all scopes have.
    pub filter: String,
    /// The scopes.
    pub scopes: Vec<String>,
    /// When.
    pub now: NaiveDateTime,
}

/// Shares a server: adds to what was shared before with the same user or group.
pub async fn grant(connection: &impl ConnectionTrait, grant: &Grant) -> Result<Share> {
    // Two requests at once must not share the same server twice.
    sql::lock(connection, "spawners", grant.spawner_id).await?;
    if let Some(mut share) = find(connection, grant.spawner_id, grant.with).await? {
        let mut scopes: BTreeSet<String> = filtered(&share.scopes, &grant.filter);
        scopes.extend(grant.scopes.iter().cloned());
        let scopes: Vec<String> = scopes.into_iter().collect();
        if scopes != share.scopes {
            set_scopes(connection, share.id, &scopes).await?;
            share.scopes = scopes;
        }
        return Ok(share);
    }
    let scopes: BTreeSet<&String> = grant.scopes.iter().collect();
    let scopes: Vec<String> = scopes.into_iter().cloned().collect();
    let (column, with) = grant.with.column();
    let id = sql::insert_upstream(
        connection,
        "shares",
        vec![
            (column, with.into()),
            ("owner_id", grant.owner_id.into()),
            ("spawner_id", grant.spawner_id.into()),
            ("created_at", time::truncate(grant.now).into()),
            ("scopes", json::list(&scopes)),
        ],
    )
    .await?;
    sql::one(connection, "SELECT * FROM shares WHERE id = ?", values![id])
        .await?
        .ok_or_else(|| StoreError::Corrupt("a share that was just made is gone".to_owned()))
}

/// Takes some scopes, or all, from whom a server is shared with; gives the share if there is something
/// left of it.
pub async fn revoke(
    connection: &impl ConnectionTrait,
    spawner_id: i32,
    with: With,
    filter: &str,
    revoked: Option<&[String]>,
) -> Result<Option<Share>> {
    sql::lock(connection, "spawners", spawner_id).await?;
    let Some(mut share) = find(connection, spawner_id, with).await? else {
        return Ok(None);
    };
    let left: Vec<String> = filtered(&share.scopes, filter)
        .into_iter()
        .filter(|scope| revoked.is_some_and(|revoked| !revoked.contains(scope)))
        .collect();
    if left.is_empty() {
        delete(connection, share.id).await?;
        return Ok(None);
    }
    if left != share.scopes {
        set_scopes(connection, share.id, &left).await?;
        share.scopes = left;
    }
    Ok(Some(share))
}

/// Scopes as they are meant now: their filter names the server as it is called now, whatever it or its
/// owner was called when they were written.
pub fn filtered(scopes: &[String], filter: &str) -> BTreeSet<String> {
    scopes
        .iter()
        .map(|scope| {
            let base = scope.split_once('!').map_or(&**scope, |(base, _)| base);
            format!("{base}!{filter}")
        })
        .collect()
}

/// How one server is shared with one user or group, by themselves.
pub async fn find(
    connection: &impl ConnectionTrait,
    spawner_id: i32,
    with: With,
) -> Result<Option<Share>> {
    let (column, id) = with.column();
    let sql = format!("SELECT * FROM shares WHERE spawner_id = ? AND {column} = ? ORDER BY id");
    sql::one(connection, &sql, values![spawner_id, id]).await
}

/// Gives a share other scopes; says whether there is such a share.
async fn set_scopes(connection: &impl ConnectionTrait, id: i32, scopes: &[String]) -> Result<bool> {
    sql::update(
        connection,
        "shares",
        id,
        vec![("scopes", json::list(scopes))],
    )
    .await
}

/// Ends a share; says whether there was one.
pub async fn delete(connection: &impl ConnectionTrait, id: i32) -> Result<bool> {
    let sql = "DELETE FROM shares WHERE id = ?";
    Ok(sql::execute(connection, sql, values![id]).await? > 0)
}

/// Ends all shares of a server; gives their number.
pub async fn delete_of_spawner(connection: &impl ConnectionTrait, spawner_id: i32) -> Result<u64> {
    let sql = "DELETE FROM shares WHERE spawner_id = ?";
    sql::execute(connection, sql, values![spawner_id]).await
}

/// A part of a list of shares, by id, and how many there are in all. Expired shares count until they
/// are purged.
pub async fn page(
    connection: &impl ConnectionTrait,
    of: Of,
    offset: u64,
    limit: u64,
) -> Result<(Vec<Share>, u64)> {
    sql::page(connection, "shares", of.condition(), offset, limit).await
}

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

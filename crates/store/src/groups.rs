//! `groups` and `user_group_map`.

use sea_orm::ConnectionTrait;
use serde_json::Value;

use crate::{
    events::{self, Members},
    json,
    sql::{self, CHUNK, Result, from_row, marks, values},
};

/// A row of `groups`.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Key.
    pub id: i32,
    /// Unique name.
    pub name: String,
    /// Free properties, a JSON object.
    pub properties: Value,
}

from_row!(Group {
    id,
    name,
    properties: dict
});

/// A group of a user.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    /// The user.
    pub user_id: i32,
    /// The group.
    pub id: i32,
    /// The group's name.
    pub name: String,
}

from_row!(Membership { user_id, id, name });

/// A member of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The group.
    pub group_id: i32,
    /// The user.
    pub id: i32,
    /// The user's name.
    pub name: String,
}

from_row!(Member { group_id, id, name });

/// Finds a group by name.
pub async fn find(connection: &impl ConnectionTrait, name: &str) -> Result<Option<Group>> {
    sql::one_exact(
        connection,
        "SELECT * FROM \"groups\" WHERE name = ?",
        values![name],
        |row: &Group| row.name == name,
    )
    .await
}

/// Finds a group by id.
pub async fn find_by_id(connection: &impl ConnectionTrait, id: i32) -> Result<Option<Group>> {
    sql::one(
        connection,
        "SELECT * FROM \"groups\" WHERE id = ?",
        values![id],
    )
    .await
}

/// One page of groups, by id.
pub async fn list(
    connection: &impl ConnectionTrait,
    offset: u64,
    limit: u64,
) -> Result<Vec<Group>> {
    sql::all(
        connection,
        "SELECT * FROM \"groups\" ORDER BY id LIMIT ? OFFSET ?",
        values![
            i64::try_from(limit).unwrap_or(i64::MAX),
            i64::try_from(offset).unwrap_or(i64::MAX)
        ],
    )
    .await
}

/// How many groups there are.
pub async fn count(connection: &impl ConnectionTrait) -> Result<u64> {
    sql::count(connection, "SELECT COUNT(*) AS n FROM \"groups\"", vec![]).await
}

/// Adds a group.
pub async fn insert(
    connection: &impl ConnectionTrait,
    name: &str,
    properties: &Value,
) -> Result<Group> {
    let columns = vec![("properties", json::dict(properties))];
    let id = sql::insert_unique(connection, "groups", ("name", name), columns).await?;
    Ok(Group {
        id,
        name: name.to_owned(),
        properties: properties.clone(),
    })
}

/// Replaces a group's properties.
pub async fn set_properties(
    connection: &impl ConnectionTrait,
    id: i32,
    properties: &Value,
) -> Result<bool> {
    let columns = vec![("properties", json::dict(properties))];
    sql::update(connection, "groups", id, columns).await
}

/// Deletes a group, its memberships, its roles and what was shared with it.
pub async fn delete(connection: &impl ConnectionTrait, id: i32) -> Result<bool> {
    events::members_changed(connection, id, Members::All).await?;
    for table in ["user_group_map", "group_role_map", "shares"] {
        let sql = format!("DELETE FROM {table} WHERE group_id = ?");
        sql::execute(connection, &sql, values![id]).await?;
    }
    Ok(sql::execute(
        connection,
        "DELETE FROM \"groups\" WHERE id = ?",
        values![id],
    )
    .await?
        > 0)
}

/// Adds users to a group; who is in it already stays.
pub async fn add_members(
    connection: &impl ConnectionTrait,
    id: i32,
    user_ids: &[i32],
) -> Result<()> {
    events::members_changed(connection, id, Members::Missing(user_ids)).await?;
    for user_id in user_ids {
        // A derived row keeps this one statement the same in every dialect.
        sql::execute(
            connection,
            "INSERT INTO user_group_map (user_id, group_id) \
             SELECT u.id, g.id FROM users u, \"groups\" g WHERE u.id = ? AND g.id = ? \
             AND NOT EXISTS (SELECT 1 FROM user_group_map m WHERE m.user_id = u.id AND m.group_id = g.id)",
            values![*user_id, id],
        )
        .await?;
    }
    Ok(())
}

/// Takes users out of a group.
pub async fn remove_members(
    connection: &impl ConnectionTrait,
    id: i32,
    user_ids: &[i32],
) -> Result<()> {
    events::members_changed(connection, id, Members::Of(user_ids)).await?;
    for chunk in user_ids.chunks(CHUNK) {
        let sql = format!(
            "DELETE FROM user_group_map WHERE group_id = ? AND user_id IN ({})",
            marks(chunk.len())
        );
        let mut values = values![id];
        values.extend(chunk.iter().map(|user_id| (*user_id).into()));
        sql::execute(connection, &sql, values).await?;
    }
    Ok(())
}

/// The groups of the given users, by user and group id.
pub async fn of_users(
    connection: &impl ConnectionTrait,
    user_ids: &[i32],
) -> Result<Vec<Membership>> {
    let mut found = Vec::new();
    for chunk in user_ids.chunks(CHUNK) {
        let sql = format!(
            "SELECT m.user_id, g.id, g.name FROM user_group_map m \
             JOIN \"groups\" g ON g.id = m.group_id WHERE m.user_id IN ({}) ORDER BY m.user_id, g.id",
            marks(chunk.len())
        );
        let ids = chunk.iter().map(|id| (*id).into()).collect();
        found.extend(sql::all(connection, &sql, ids).await?);
    }
    Ok(found)
}

/// The members of the given groups, by group and user id.
pub async fn members_of(
    connection: &impl ConnectionTrait,
    group_ids: &[i32],
) -> Result<Vec<Member>> {
    let mut found = Vec::new();
    for chunk in group_ids.chunks(CHUNK) {
        let sql = format!(
            "SELECT m.group_id, u.id, u.name FROM user_group_map m \
             JOIN users u ON u.id = m.user_id WHERE m.group_id IN ({}) ORDER BY m.group_id, u.id",
            marks(chunk.len())
        );
        let ids = chunk.iter().map(|id| (*id).into()).collect();
        found.extend(sql::all(connection, &sql, ids).await?);
    }
    Ok(found)
}

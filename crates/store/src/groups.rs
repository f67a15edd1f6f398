//! `groups` and `user_group_map`.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, DbBackend, Value as SqlValue};
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

/// A group of a user, by names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedMembership {
    /// The user's name.
    pub user_name: String,
    /// The group's name.
    pub name: String,
}

from_row!(NamedMembership { user_name, name });

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

/// Which groups `GET /groups` wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupQuery {
    /// How many to leave out at the start.
    pub offset: u64,
    /// How many at most.
    pub limit: u64,
    /// Part of the name, in either case; `%` and `_` are wildcards, as in the list of users.
    pub name_filter: Option<String>,
    /// By name, or else by id.
    pub by_name: bool,
    /// Whether the order is reversed.
    pub descending: bool,
    /// If set, only the groups with these names.
    pub names: Option<Vec<String>>,
    /// If set, only those that come after the group with this id and name, which need not be there any more.
    pub after: Option<(i32, String)>,
}

/// One page of groups.
pub async fn list(connection: &impl ConnectionTrait, query: &GroupQuery) -> Result<Vec<Group>> {
    let (mut condition, mut values) = condition(connection.get_database_backend(), query);
    let (way, beyond) = if query.descending {
        (" DESC", "<")
    } else {
        ("", ">")
    };
    let column = if query.by_name { "name" } else { "id" };
    if let Some((id, name)) = &query.after {
        condition = format!("{condition} AND g.{column} {beyond} ?");
        values.push(if query.by_name {
            name.as_str().into()
        } else {
            (*id).into()
        });
    }
    let sql = format!(
        "SELECT g.* FROM \"groups\" g WHERE {condition} ORDER BY g.{column}{way} LIMIT ? OFFSET ?"
    );
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    values.extend(values![signed(query.limit), signed(query.offset)]);
    sql::all(connection, &sql, values).await
}

/// How many groups `query` has on all pages.
pub async fn count(connection: &impl ConnectionTrait, query: &GroupQuery) -> Result<u64> {
    let (condition, values) = condition(connection.get_database_backend(), query);
    let sql = format!("SELECT COUNT(*) AS n FROM \"groups\" g WHERE {condition}");
    sql::count(connection, &sql, values).await
}

fn condition(backend: DbBackend, query: &GroupQuery) -> (String, Vec<SqlValue>) {
    let mut parts = vec!["1 = 1".to_owned()];
    let mut values = Vec::new();
    if let Some(filter) = query.name_filter.as_deref().filter(|text| !text.is_empty()) {
        if sql::is_longer(filter, sql::MAX_NAME) {
            parts.push("1 = 0".to_owned());
        } else {
            parts.push("LOWER(g.name) LIKE LOWER(?)".to_owned());
            values.push(format!("%{filter}%").into());
        }
    }
    if let Some(names) = &query.names {
        parts.push(if names.is_empty() {
            "1 = 0".to_owned()
        } else {
            let name = sql::exactly(backend, "g.name");
            format!("{name} IN ({})", marks(names.len()))
        });
        values.extend(names.iter().map(|name| SqlValue::from(name.as_str())));
    }
    (parts.join(" AND "), values)
}

/// Finds a group by id and keeps others from changing it until the transaction ends.
pub async fn find_and_lock(connection: &impl ConnectionTrait, id: i32) -> Result<Option<Group>> {
    sql::lock(connection, "groups", id).await?;
    find_by_id(connection, id).await
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
    for chunk in user_ids.chunks(CHUNK) {
        // What was deleted meanwhile is left out.
        let sql = format!(
            "INSERT INTO user_group_map (user_id, group_id) \
             SELECT u.id, g.id FROM users u, \"groups\" g WHERE g.id = ? AND u.id IN ({}) AND NOT EXISTS \
             (SELECT 1 FROM user_group_map m WHERE m.user_id = u.id AND m.group_id = g.id)",
            marks(chunk.len())
        );
        let mut values = values![id];
        values.extend(chunk.iter().map(|user_id| (*user_id).into()));
        sql::execute(connection, &sql, values).await?;
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

/// The groups of the users with these names. Where the database takes names for the same that differ, there
/// may be more.
pub async fn of_user_names(
    connection: &impl ConnectionTrait,
    names: &[&str],
) -> Result<Vec<NamedMembership>> {
    let mut found = Vec::new();
    for chunk in names.chunks(CHUNK) {
        let sql = format!(
            "SELECT u.name AS user_name, g.name FROM users u \
             JOIN user_group_map m ON m.user_id = u.id \
             JOIN \"groups\" g ON g.id = m.group_id WHERE u.name IN ({})",
            marks(chunk.len())
        );
        let names = chunk.iter().map(|name| (*name).into()).collect();
        found.extend(sql::all(connection, &sql, names).await?);
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

/// The names of the members of many groups, by the members' ids. Groups without members have no entry.
pub async fn member_names(
    connection: &impl ConnectionTrait,
    group_ids: &[i32],
) -> Result<HashMap<i32, Vec<String>>> {
    let array = match connection.get_database_backend() {
        DbBackend::Postgres => "CAST(json_agg(u.name ORDER BY u.id) AS TEXT)",
        DbBackend::Sqlite => "json_group_array(u.name ORDER BY u.id)",
        _ => {
            let mut found: HashMap<i32, Vec<String>> = HashMap::new();
            for member in members_of(connection, group_ids).await? {
                found.entry(member.group_id).or_default().push(member.name);
            }
            return Ok(found);
        }
    };
    // One row for each group and not for each member, of whom there may be thousands.
    let mut found = HashMap::with_capacity(group_ids.len());
    for chunk in group_ids.chunks(CHUNK) {
        let sql = format!(
            "SELECT m.group_id, {array} AS names FROM user_group_map m JOIN users u ON u.id = m.user_id \
             WHERE m.group_id IN ({}) GROUP BY m.group_id",
            marks(chunk.len())
        );
        let ids = chunk.iter().map(|id| (*id).into()).collect();
        for row in sql::rows(connection, &sql, ids).await? {
            let names: String = row.try_get("", "names")?;
            let names = serde_json::from_str(&names)
                .map_err(|error| sea_orm::DbErr::Json(format!("members of a group: {error}")))?;
            found.insert(row.try_get("", "group_id")?, names);
        }
    }
    Ok(found)
}

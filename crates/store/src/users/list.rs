//! Which users a list shows, and in which order.

use std::fmt::Write as _;

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, DbBackend, Value as SqlValue};

use super::User;
use crate::sql::{self, Result, marks, values};

/// Which users `GET /users` wants.
#[derive(Clone, Debug, Default)]
pub struct UserQuery {
    /// How many to leave out at the start.
    pub offset: u64,
    /// How many at most.
    pub limit: Option<u64>,
    /// Part of the name, in either case. As upstream, `%` and `_` are wildcards.
    pub name_filter: Option<String>,
    /// Only users with, or without, servers.
    pub state: Option<UserState>,
    /// Order.
    pub sort: UserSort,
    /// Whether the order is reversed.
    pub descending: bool,
    /// If set, only these users and the members of these groups may be seen.
    pub visible: Option<Visible>,
    /// If set, only those who come after this place in the order.
    pub after: Option<After>,
}

/// A place in a list: that of its last user so far, who need not be there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// The user's id.
    pub id: i32,
    /// What the list is sorted by.
    pub key: AfterKey,
}

/// The last user's value of what a list is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterKey {
    /// Sorted by the id alone.
    Id,
    /// The name.
    Name(String),
    /// The last activity.
    LastActivity(Option<NaiveDateTime>),
}

/// The users that a filtered `list:users` scope covers.
#[derive(Clone, Debug, Default)]
pub struct Visible {
    /// By name.
    pub users: Vec<String>,
    /// By the name of a group of theirs.
    pub groups: Vec<String>,
}

/// `state` of `GET /users`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserState {
    /// At least one server that starts, runs or stops.
    Active,
    /// At least one server that runs and is neither starting nor stopping.
    Ready,
    /// No active server.
    Inactive,
}

/// `sort` of `GET /users`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserSort {
    /// By id.
    #[default]
    Id,
    /// By name.
    Name,
    /// By last activity; never seen comes first, or last when descending, as in upstream.
    LastActivity,
}

/// One page of users.
pub async fn list(connection: &impl ConnectionTrait, query: &UserQuery) -> Result<Vec<User>> {
    let (selection, values) = selection(connection.get_database_backend(), query);
    let sql = format!("SELECT u.* FROM users u WHERE {selection}");
    sql::all(connection, &sql, values).await
}

/// How many users `query` has without its offset and limit.
pub async fn count(connection: &impl ConnectionTrait, query: &UserQuery) -> Result<u64> {
    let (condition, values) = condition(connection.get_database_backend(), query);
    let sql = format!("SELECT COUNT(*) AS n FROM users u WHERE {condition}");
    sql::count(connection, &sql, values).await
}

/// What follows `FROM users u WHERE` in a query for one page, and its values.
pub(crate) fn selection(backend: DbBackend, query: &UserQuery) -> (String, Vec<SqlValue>) {
    let (mut condition, mut values) = condition(backend, query);
    if let Some(after) = &query.after {
        let (beyond, more) = beyond(after, query.descending);
        condition = format!("{condition} AND {beyond}");
        values.extend(more);
    }
    let order = order(backend, "u", query.sort, query.descending);
    let mut sql = format!("{condition} ORDER BY {order}");
    if query.limit.is_some() || query.offset > 0 {
        // As a number in the text: from a value that is still to come, PostgreSQL cannot tell that the
        // page is short.
        let limit = i64::try_from(query.limit.unwrap_or(u64::MAX)).unwrap_or(i64::MAX);
        let _ = write!(sql, " LIMIT {limit}");
    }
    if query.offset > 0 {
        sql.push_str(" OFFSET ?");
        values.push(i64::try_from(query.offset).unwrap_or(i64::MAX).into());
    }
    (sql, values)
}

fn condition(backend: DbBackend, query: &UserQuery) -> (String, Vec<SqlValue>) {
    let mut parts = vec!["1 = 1".to_owned()];
    let mut values = Vec::new();
    if let Some(filter) = query.name_filter.as_deref().filter(|text| !text.is_empty()) {
        let is_longer = sql::is_longer(filter, sql::MAX_NAME);
        parts.push(match backend {
            _ if is_longer => "1 = 0".into(),
            // The index of the names is much smaller than the table, and has the ids. LIKE overlooks case.
            DbBackend::Sqlite => "u.id IN (SELECT f.id FROM users f WHERE f.name LIKE ?)".into(),
            _ => "LOWER(u.name) LIKE LOWER(?)".into(),
        });
        if !is_longer {
            values.push(format!("%{filter}%").into());
        }
    }
    // Without a reference to the outer row, so that it is looked up once and not for each user.
    let active = "IN (SELECT s.user_id FROM spawners s \
                  WHERE s.server_id IS NOT NULL AND s.user_id IS NOT NULL)";
    match query.state {
        Some(UserState::Active) => parts.push(format!("u.id {active}")),
        Some(UserState::Inactive) => parts.push(format!("u.id NOT {active}")),
        Some(UserState::Ready) => {
            parts.push(format!("u.id {active}"));
            parts.push(
                "u.id IN (SELECT r.user_id FROM orrery_runs r \
                 WHERE r.phase = 'ready' AND r.user_id IS NOT NULL)"
                    .into(),
            );
        }
        None => {}
    }
    if let Some(visible) = &query.visible {
        let mut either = Vec::new();
        if !visible.users.is_empty() {
            either.push(format!(
                "{} IN ({})",
                sql::exactly(backend, "u.name"),
                marks(visible.users.len())
            ));
            values.extend(visible.users.iter().map(|name| name.as_str().into()));
        }
        if !visible.groups.is_empty() {
            either.push(format!(
                "EXISTS (SELECT 1 FROM user_group_map m JOIN \"groups\" g ON g.id = m.group_id \
                 WHERE m.user_id = u.id AND {} IN ({}))",
                sql::exactly(backend, "g.name"),
                marks(visible.groups.len())
            ));
            values.extend(visible.groups.iter().map(|name| name.as_str().into()));
        }
        parts.push(if either.is_empty() {
            "1 = 0".into()
        } else {
            format!("({})", either.join(" OR "))
        });
    }
    (parts.join(" AND "), values)
}

/// The condition of the users after a place, in the order that [`order`] gives.
fn beyond(after: &After, descending: bool) -> (String, Vec<SqlValue>) {
    let way = if descending { "<" } else { ">" };
    match &after.key {
        AfterKey::Id => (format!("u.id {way} ?"), values![after.id]),
        // No two users have the same name.
        AfterKey::Name(name) => (format!("u.name {way} ?"), values![name.as_str()]),
        AfterKey::LastActivity(Some(time)) => {
            // Those who were never seen come first, or last when descending.
            let never = if descending {
                " OR u.last_activity IS NULL"
            } else {
                ""
            };
            (
                format!(
                    "(u.last_activity {way} ? OR (u.last_activity = ? AND u.id {way} ?){never})"
                ),
                values![*time, *time, after.id],
            )
        }
        AfterKey::LastActivity(None) => {
            let seen = if descending {
                ""
            } else {
                "u.last_activity IS NOT NULL OR "
            };
            (
                format!("({seen}(u.last_activity IS NULL AND u.id {way} ?))"),
                values![after.id],
            )
        }
    }
}

/// What follows `ORDER BY`. The id makes pages stable. Each is the order of an index, which
/// spares sorting all users for one page.
pub(crate) fn order(backend: DbBackend, table: &str, sort: UserSort, descending: bool) -> String {
    let (column, is_nullable) = match sort {
        UserSort::Id => {
            let way = if descending { " DESC" } else { "" };
            return format!("{table}.id{way}");
        }
        UserSort::Name => ("name", false),
        UserSort::LastActivity => ("last_activity", true),
    };
    let way = if descending { " DESC" } else { "" };
    // NULL is less than everything in SQLite and MySQL, and more in PostgreSQL. Every user has a name.
    let nulls = match (backend, descending) {
        (DbBackend::Postgres, false) if is_nullable => " NULLS FIRST",
        (DbBackend::Postgres, true) if is_nullable => " NULLS LAST",
        _ => "",
    };
    format!("{table}.{column}{way}{nulls}, {table}.id{way}")
}

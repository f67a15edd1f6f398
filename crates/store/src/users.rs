//! `users`: everybody who may log in.

mod list;

use std::{collections::HashSet, fmt};

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, DbBackend, Value as SqlValue};
use serde_json::Value;

use crate::{
    events, json,
    sql::{self, CHUNK, Result, from_row, marks, values},
    time,
};

pub use list::{After, AfterKey, UserQuery, UserSort, UserState, Visible, count, list};
pub(crate) use list::{order, selection};

/// A row of `users`. `Debug` leaves out the cookie id and the auth state.
#[derive(Clone, PartialEq)]
pub struct User {
    /// Key.
    pub id: i32,
    /// Unique, normalised name.
    pub name: String,
    /// What the authenticator told of the user, or null.
    pub user_info: Value,
    /// Whether the user is an administrator.
    pub admin: bool,
    /// When the row was made.
    pub created: Option<NaiveDateTime>,
    /// When the user or one of their servers was last seen.
    pub last_activity: Option<NaiveDateTime>,
    /// The id that login cookies carry; changing it logs the user out everywhere.
    pub cookie_id: String,
    /// Upstream's spawner state of before named servers, or null.
    pub state: Value,
    /// The authenticator's state, encrypted.
    pub encrypted_auth_state: Option<Vec<u8>>,
}

impl fmt::Debug for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("User")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("admin", &self.admin)
            .field("created", &self.created)
            .field("last_activity", &self.last_activity)
            .finish_non_exhaustive()
    }
}

from_row!(User {
    id,
    name,
    user_info: dict,
    admin: or_default,
    created: time,
    last_activity: time,
    cookie_id,
    state: dict,
    encrypted_auth_state,
});

/// What a new user starts with.
#[derive(Clone)]
pub struct NewUser {
    /// Unique, normalised name.
    pub name: String,
    /// Whether the user is an administrator.
    pub admin: bool,
    /// Now.
    pub created: NaiveDateTime,
    /// A fresh random id, as `token_hash::generate_token` makes them.
    pub cookie_id: String,
}

/// The columns to change; `None` leaves a column as it is.
#[derive(Clone, Default)]
pub struct UserChanges {
    /// A new name.
    pub name: Option<String>,
    /// A new administrator flag.
    pub admin: Option<bool>,
    /// A new time of creation.
    pub created: Option<NaiveDateTime>,
    /// A new time of last activity.
    pub last_activity: Option<NaiveDateTime>,
    /// A new cookie id, which ends every login.
    pub cookie_id: Option<String>,
    /// A new spawner state; null clears it.
    pub state: Option<Value>,
    /// A new encrypted auth state; `Some(None)` clears it.
    pub encrypted_auth_state: Option<Option<Vec<u8>>>,
    /// New information from the authenticator; null clears it.
    pub user_info: Option<Value>,
}

/// Finds a user by name.
pub async fn find(connection: &impl ConnectionTrait, name: &str) -> Result<Option<User>> {
    sql::one_exact(
        connection,
        "SELECT * FROM users WHERE name = ?",
        values![name],
        |row: &User| row.name == name,
    )
    .await
}

/// Finds a user by id.
pub async fn find_by_id(connection: &impl ConnectionTrait, id: i32) -> Result<Option<User>> {
    sql::one(connection, "SELECT * FROM users WHERE id = ?", values![id]).await
}

/// Finds a user by id and keeps others from changing them until the transaction ends.
pub async fn find_and_lock(connection: &impl ConnectionTrait, id: i32) -> Result<Option<User>> {
    sql::lock(connection, "users", id).await?;
    find_by_id(connection, id).await
}

/// Finds the user whose login cookies carry `cookie_id`.
pub async fn find_by_cookie_id(
    connection: &impl ConnectionTrait,
    cookie_id: &str,
) -> Result<Option<User>> {
    let found: Option<User> = sql::one(
        connection,
        "SELECT * FROM users WHERE cookie_id = ?",
        values![cookie_id],
    )
    .await?;
    // MySQL's usual collations compare without regard to case; a secret must match exactly.
    Ok(found.filter(|user| user.cookie_id == cookie_id))
}

/// Finds users by id, in the order of their ids.
pub async fn find_many(connection: &impl ConnectionTrait, ids: &[i32]) -> Result<Vec<User>> {
    let mut found = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(CHUNK) {
        let sql = format!("SELECT * FROM users WHERE id IN ({})", marks(chunk.len()));
        let ids = chunk.iter().map(|id| (*id).into()).collect();
        found.extend(sql::all::<User>(connection, &sql, ids).await?);
    }
    found.sort_by_key(|user| user.id);
    Ok(found)
}

/// How many users were active since `since`.
pub async fn count_active_since(
    connection: &impl ConnectionTrait,
    since: NaiveDateTime,
) -> Result<u64> {
    sql::count(
        connection,
        "SELECT COUNT(*) AS n FROM users WHERE last_activity >= ?",
        values![time::truncate(since)],
    )
    .await
}

/// Adds a user. [`StoreError::Duplicate`](crate::StoreError::Duplicate) if the name is taken,
/// [`StoreError::Lookalike`](crate::StoreError::Lookalike) if only the database takes it for another.
pub async fn insert(connection: &impl ConnectionTrait, new: &NewUser) -> Result<User> {
    let created = time::truncate(new.created);
    let columns = vec![
        ("admin", new.admin.into()),
        ("created", created.into()),
        ("cookie_id", new.cookie_id.as_str().into()),
    ];
    let key = ("name", new.name.as_str());
    let id = sql::insert_unique(connection, "users", key, columns).await?;
    events::users_created(connection, &[&new.name]).await?;
    Ok(User {
        id,
        name: new.name.clone(),
        user_info: Value::Null,
        admin: new.admin,
        created: Some(created),
        last_activity: None,
        cookie_id: new.cookie_id.clone(),
        state: Value::Null,
        encrypted_auth_state: None,
    })
}

/// Adds many users, with one statement for some hundreds of them, and gives them with their ids. An error
/// as of [`insert`] if a name is taken: nothing is to be kept of the transaction then.
pub async fn insert_many(connection: &impl ConnectionTrait, new: &[NewUser]) -> Result<Vec<User>> {
    let mut made = Vec::with_capacity(new.len());
    for chunk in new.chunks(CHUNK) {
        let rows = vec!["(?, ?, ?, ?)"; chunk.len()].join(", ");
        let sql = format!("INSERT INTO users (name, admin, created, cookie_id) VALUES {rows}");
        let mut values = Vec::with_capacity(chunk.len() * 4);
        for user in chunk {
            values.extend(values![
                user.name.as_str(),
                user.admin,
                time::truncate(user.created),
                user.cookie_id.as_str()
            ]);
        }
        if let Err(error) = sql::execute(connection, &sql, values).await {
            return Err(explain_many(connection, chunk, error).await);
        }
        let names: Vec<&str> = chunk.iter().map(|user| user.name.as_str()).collect();
        let found = find_by_names(connection, &names).await?;
        if found.len() != chunk.len() {
            return Err(sea_orm::DbErr::RecordNotInserted.into());
        }
        made.extend(found);
        crate::events::users_created(connection, &names).await?;
    }
    Ok(made)
}

/// Which of the names MySQL took for that of another row, if it was that. PostgreSQL's transaction is over.
async fn explain_many(
    connection: &impl ConnectionTrait,
    new: &[NewUser],
    error: crate::StoreError,
) -> crate::StoreError {
    let mut error = error;
    if error.is_duplicate() && connection.get_database_backend() == DbBackend::MySql {
        for user in new {
            error = sql::explain(connection, "users", ("name", &user.name), error).await;
            if matches!(error, crate::StoreError::Lookalike { .. }) {
                break;
            }
        }
    }
    error
}

/// Finds users by name, by id.
pub async fn find_by_names(connection: &impl ConnectionTrait, names: &[&str]) -> Result<Vec<User>> {
    let mut found: Vec<User> = Vec::with_capacity(names.len());
    for chunk in names.chunks(CHUNK) {
        let sql = format!("SELECT * FROM users WHERE name IN ({})", marks(chunk.len()));
        let values = chunk.iter().map(|name| (*name).into()).collect();
        let wanted: HashSet<&str> = chunk.iter().copied().collect();
        let rows = sql::all::<User>(connection, &sql, values).await?;
        // MySQL's usual collations find lookalikes as well.
        found.extend(
            rows.into_iter()
                .filter(|user| wanted.contains(user.name.as_str())),
        );
    }
    found.sort_by_key(|user| user.id);
    found.dedup_by_key(|user| user.id);
    Ok(found)
}

/// Changes a user; says whether there is such a user.
pub async fn update(
    connection: &impl ConnectionTrait,
    id: i32,
    changes: &UserChanges,
) -> Result<bool> {
    record_changes(connection, id, changes).await?;
    let mut columns: Vec<(&str, SqlValue)> = Vec::new();
    if let Some(name) = &changes.name {
        columns.push(("name", name.as_str().into()));
    }
    if let Some(admin) = changes.admin {
        columns.push(("admin", admin.into()));
    }
    if let Some(created) = changes.created {
        columns.push(("created", time::truncate(created).into()));
    }
    if let Some(last_activity) = changes.last_activity {
        columns.push(("last_activity", time::truncate(last_activity).into()));
    }
    if let Some(cookie_id) = &changes.cookie_id {
        columns.push(("cookie_id", cookie_id.as_str().into()));
    }
    if let Some(state) = &changes.state {
        columns.push(("state", json::dict(state)));
    }
    if let Some(auth_state) = &changes.encrypted_auth_state {
        columns.push(("encrypted_auth_state", auth_state.clone().into()));
    }
    if let Some(user_info) = &changes.user_info {
        columns.push(("user_info", json::dict(user_info)));
    }
    match (
        sql::update(connection, "users", id, columns).await,
        &changes.name,
    ) {
        (Err(error), Some(name)) => {
            Err(sql::explain(connection, "users", ("name", name), error).await)
        }
        (done, _) => done,
    }
}

/// Writes the event of a change, before it is made.
async fn record_changes(
    connection: &impl ConnectionTrait,
    id: i32,
    changes: &UserChanges,
) -> Result<()> {
    if changes.name.is_none() && changes.admin.is_none() && changes.user_info.is_none() {
        return Ok(());
    }
    let Some(before) = find_by_id(connection, id).await? else {
        return Ok(());
    };
    let mut data = serde_json::Map::new();
    let name = changes.name.as_ref().unwrap_or(&before.name);
    if *name != before.name {
        data.insert(events::OLD_NAME.to_owned(), before.name.clone().into());
    }
    if let Some(admin) = changes.admin.filter(|admin| *admin != before.admin) {
        data.insert(events::ADMIN.to_owned(), admin.into());
    }
    if changes
        .user_info
        .as_ref()
        .is_some_and(|info| *info != before.user_info)
    {
        data.insert(events::USER_INFO.to_owned(), true.into());
    }
    if data.is_empty() {
        return Ok(());
    }
    let event = events::NewEvent {
        kind: events::Kind::UserChanged,
        user: name,
        server: None,
        data: Some(Value::Object(data)),
    };
    events::record(connection, &[event]).await
}

/// Moves `last_activity` forward for many users at once; earlier times than the known change nothing.
pub async fn touch_activity(
    connection: &impl ConnectionTrait,
    seen: &[(i32, NaiveDateTime)],
) -> Result<()> {
    sql::touch_later(connection, "users", seen).await
}

/// Deletes a user with everything that upstream deletes along: servers, tokens, OAuth codes, shares.
/// Stop the servers first: [`StoreError::StillActive`](crate::StoreError::StillActive) while a run of
/// theirs has not ended. Runs stay, as a ledger, without the reference. Says whether there was such a
/// user. Call it in a write transaction.
pub async fn delete(connection: &impl ConnectionTrait, id: i32) -> Result<bool> {
    // A start that arrives meanwhile waits for this, or this for it.
    sql::lock(connection, "users", id).await?;
    crate::runs::refuse_active(connection, "user_id", id).await?;
    let Some(user) = find_by_id(connection, id).await? else {
        return Ok(false);
    };
    for spawner in crate::spawners::list_of_user(connection, id).await? {
        crate::spawners::delete(connection, spawner.id).await?;
    }
    let groups = crate::groups::of_users(connection, &[id]).await?;
    let groups: Vec<_> = groups.into_iter().map(|group| group.name).collect();
    let event = events::NewEvent {
        kind: events::Kind::UserDeleted,
        user: &user.name,
        server: None,
        data: Some(serde_json::json!({ events::GROUPS: groups })),
    };
    events::record(connection, &[event]).await?;
    // A database that was upgraded from an old release may lack the cascades, so name each table.
    for table in [
        "api_tokens",
        "oauth_codes",
        "user_group_map",
        "user_role_map",
        "orrery_sessions",
    ] {
        let sql = format!("DELETE FROM {table} WHERE user_id = ?");
        sql::execute(connection, &sql, values![id]).await?;
    }
    sql::execute(
        connection,
        "DELETE FROM shares WHERE user_id = ? OR owner_id = ?",
        values![id, id],
    )
    .await?;
    sql::execute(
        connection,
        "DELETE FROM share_codes WHERE owner_id = ?",
        values![id],
    )
    .await?;
    sql::execute(
        connection,
        "UPDATE orrery_runs SET user_id = NULL WHERE user_id = ?",
        values![id],
    )
    .await?;
    Ok(sql::execute(connection, "DELETE FROM users WHERE id = ?", values![id]).await? > 0)
}

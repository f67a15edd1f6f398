//! `spawners`: one row for each server a user has or had, named ones and the default one.

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, Value as SqlValue};
use serde_json::Value;

use crate::{
    events, json,
    servers::Server,
    sql::{self, CHUNK, Result, from_row, marks, values},
    time,
};

/// A row of `spawners`.
#[derive(Clone, Debug, PartialEq)]
pub struct Spawner {
    /// Key.
    pub id: i32,
    /// Whose it is.
    pub user_id: Option<i32>,
    /// Its address while it is active.
    pub server_id: Option<i32>,
    /// All that the spawner knows of the running server; null when it does not run.
    pub state: Value,
    /// Its name; empty for the default server.
    pub name: String,
    /// Its name as the user wrote it.
    pub display_name: Option<String>,
    /// When it was last started.
    pub started: Option<NaiveDateTime>,
    /// When it was last used.
    pub last_activity: Option<NaiveDateTime>,
    /// The options that the user chose at the last start.
    pub user_options: Value,
    /// The server as an OAuth client.
    pub oauth_client_id: Option<String>,
}

from_row!(Spawner {
    id,
    user_id,
    server_id,
    state: dict,
    name: or_default,
    display_name,
    started: time,
    last_activity: time,
    user_options: dict,
    oauth_client_id,
});

/// A spawner that has an address, with it and its user's name.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveSpawner {
    /// The spawner.
    pub spawner: Spawner,
    /// Its address.
    pub server: Server,
    /// Whose it is.
    pub user_name: String,
}

/// When an active server was last used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The spawner.
    pub id: i32,
    /// Whose it is.
    pub user_name: String,
    /// Its name; empty for the default server.
    pub name: String,
    /// When it was last used.
    pub last_activity: Option<NaiveDateTime>,
}

from_row!(Activity {
    id,
    user_name,
    name: or_default,
    last_activity: time,
});

/// A spawner to add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewSpawner {
    /// Whose it is.
    pub user_id: i32,
    /// Its name; empty for the default server.
    pub name: String,
    /// Its name as the user wrote it.
    pub display_name: Option<String>,
    /// The options that the user chose.
    pub user_options: Value,
    /// The spawner's state; upstream starts with an empty object.
    pub state: Value,
}

/// The columns to change; `None` leaves a column as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpawnerChanges {
    /// A new address, or none.
    pub server_id: Option<Option<i32>>,
    /// A new state; null clears it.
    pub state: Option<Value>,
    /// A new display name.
    pub display_name: Option<Option<String>>,
    /// A new start time.
    pub started: Option<Option<NaiveDateTime>>,
    /// A new time of last activity.
    pub last_activity: Option<Option<NaiveDateTime>>,
    /// New options; null clears them.
    pub user_options: Option<Value>,
    /// A new OAuth client; it must exist.
    pub oauth_client_id: Option<Option<String>>,
}

/// Finds a user's server by name.
pub async fn find(
    connection: &impl ConnectionTrait,
    user_id: i32,
    name: &str,
) -> Result<Option<Spawner>> {
    sql::one_exact(
        connection,
        "SELECT * FROM spawners WHERE user_id = ? AND name = ? ORDER BY id",
        values![user_id, name],
        |row: &Spawner| row.name == name,
    )
    .await
}

/// Finds a spawner by id.
pub async fn find_by_id(connection: &impl ConnectionTrait, id: i32) -> Result<Option<Spawner>> {
    sql::one(
        connection,
        "SELECT * FROM spawners WHERE id = ?",
        values![id],
    )
    .await
}

/// Finds the spawner that is this OAuth client.
pub async fn find_by_client(
    connection: &impl ConnectionTrait,
    oauth_client_id: &str,
) -> Result<Option<Spawner>> {
    sql::one_exact(
        connection,
        "SELECT * FROM spawners WHERE oauth_client_id = ?",
        values![oauth_client_id],
        |row: &Spawner| row.oauth_client_id.as_deref() == Some(oauth_client_id),
    )
    .await
}

/// Whether another spawner than `id` is this OAuth client.
pub async fn is_client_of_another(
    connection: &impl ConnectionTrait,
    oauth_client_id: &str,
    id: i32,
) -> Result<bool> {
    let count = sql::count(
        connection,
        "SELECT COUNT(*) AS n FROM spawners WHERE oauth_client_id = ? AND id <> ?",
        values![oauth_client_id, id],
    )
    .await?;
    Ok(count > 0)
}

/// A user's spawners, by id.
pub async fn list_of_user(connection: &impl ConnectionTrait, user_id: i32) -> Result<Vec<Spawner>> {
    sql::all(
        connection,
        "SELECT * FROM spawners WHERE user_id = ? ORDER BY id",
        values![user_id],
    )
    .await
}

/// Every named server, by id.
pub async fn list_named(connection: &impl ConnectionTrait) -> Result<Vec<Spawner>> {
    sql::all(
        connection,
        "SELECT * FROM spawners WHERE name <> '' ORDER BY id",
        values![],
    )
    .await
}

/// The spawners of many users, by user and id.
pub async fn list_of_users(
    connection: &impl ConnectionTrait,
    user_ids: &[i32],
) -> Result<Vec<Spawner>> {
    let mut found = Vec::new();
    for chunk in user_ids.chunks(CHUNK) {
        let sql = format!(
            "SELECT * FROM spawners WHERE user_id IN ({}) ORDER BY user_id, id",
            marks(chunk.len())
        );
        let ids = chunk.iter().map(|id| (*id).into()).collect();
        found.extend(sql::all(connection, &sql, ids).await?);
    }
    Ok(found)
}

/// What a spawner is called and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpawnerKey {
    /// Key.
    pub id: i32,
    /// Whose it is.
    pub user_id: i32,
    /// Its name; empty for the default server.
    pub name: String,
}

from_row!(SpawnerKey {
    id,
    user_id,
    name: or_default
});

/// What the spawners of many users are called.
pub async fn keys_of_users(
    connection: &impl ConnectionTrait,
    user_ids: &[i32],
) -> Result<Vec<SpawnerKey>> {
    let mut found = Vec::new();
    for chunk in user_ids.chunks(CHUNK) {
        let sql = format!(
            "SELECT id, user_id, name FROM spawners WHERE user_id IN ({})",
            marks(chunk.len())
        );
        let ids = chunk.iter().map(|id| (*id).into()).collect();
        found.extend(sql::all(connection, &sql, ids).await?);
    }
    Ok(found)
}

/// Every spawner that has an address, by id.
pub async fn list_active(connection: &impl ConnectionTrait) -> Result<Vec<ActiveSpawner>> {
    let rows = sql::rows(
        connection,
        "SELECT s.*, u.name AS user_name, v.id AS v_id, v.proto AS v_proto, v.ip AS v_ip, \
         v.port AS v_port, v.base_url AS v_base_url, v.cookie_name AS v_cookie_name \
         FROM spawners s JOIN servers v ON v.id = s.server_id JOIN users u ON u.id = s.user_id \
         ORDER BY s.id",
        vec![],
    )
    .await?;
    rows.iter()
        .map(|row| {
            use sea_orm::FromQueryResult;
            Ok(ActiveSpawner {
                spawner: Spawner::from_query_result(row, "")?,
                server: Server::from_query_result(row, "v_")?,
                user_name: row.try_get("", "user_name")?,
            })
        })
        .collect()
}

/// When each server that has an address was last used.
pub async fn activity(connection: &impl ConnectionTrait) -> Result<Vec<Activity>> {
    sql::all(
        connection,
        // SQLite finds these by the index, as it does not for `IS NOT NULL`.
        "SELECT s.id, u.name AS user_name, s.name, s.last_activity FROM spawners s \
         JOIN users u ON u.id = s.user_id WHERE s.server_id > 0",
        vec![],
    )
    .await
}

/// Adds a spawner.
pub async fn insert(connection: &impl ConnectionTrait, new: &NewSpawner) -> Result<Spawner> {
    let columns = vec![
        ("user_id", new.user_id.into()),
        ("name", new.name.as_str().into()),
        ("display_name", new.display_name.clone().into()),
        ("state", json::dict(&new.state)),
        ("user_options", json::dict(&new.user_options)),
    ];
    let id = sql::insert_upstream(connection, "spawners", columns).await?;
    Ok(Spawner {
        id,
        user_id: Some(new.user_id),
        server_id: None,
        state: new.state.clone(),
        name: new.name.clone(),
        display_name: new.display_name.clone(),
        started: None,
        last_activity: None,
        user_options: new.user_options.clone(),
        oauth_client_id: None,
    })
}

/// Gives a server another name, which its user must not have a server of yet. Says whether there is
/// such a server.
pub async fn rename(connection: &impl ConnectionTrait, id: i32, name: &str) -> Result<bool> {
    let Some(before) = find_by_id(connection, id).await? else {
        return Ok(false);
    };
    if let Some(user) = owner_name(connection, &before).await? {
        let event = events::NewEvent {
            kind: events::Kind::ServerRenamed,
            user: &user,
            server: Some(name),
            data: Some(serde_json::json!({ events::OLD_NAME: before.name })),
        };
        events::record(connection, &[event]).await?;
    }
    sql::update(connection, "spawners", id, vec![("name", name.into())]).await
}

async fn owner_name(
    connection: &impl ConnectionTrait,
    spawner: &Spawner,
) -> Result<Option<String>> {
    let Some(user_id) = spawner.user_id else {
        return Ok(None);
    };
    let user = crate::users::find_by_id(connection, user_id).await?;
    Ok(user.map(|user| user.name))
}

/// Changes a spawner; says whether there is such a spawner.
pub async fn update(
    connection: &impl ConnectionTrait,
    id: i32,
    changes: &SpawnerChanges,
) -> Result<bool> {
    let mut columns: Vec<(&str, SqlValue)> = Vec::new();
    if let Some(server_id) = changes.server_id {
        columns.push(("server_id", server_id.into()));
    }
    if let Some(state) = &changes.state {
        columns.push(("state", json::dict(state)));
    }
    if let Some(display_name) = &changes.display_name {
        columns.push(("display_name", display_name.clone().into()));
    }
    if let Some(started) = changes.started {
        columns.push(("started", started.map(time::truncate).into()));
    }
    if let Some(last_activity) = changes.last_activity {
        columns.push(("last_activity", last_activity.map(time::truncate).into()));
    }
    if let Some(user_options) = &changes.user_options {
        columns.push(("user_options", json::dict(user_options)));
    }
    if let Some(client) = &changes.oauth_client_id {
        columns.push(("oauth_client_id", client.clone().into()));
    }
    sql::update(connection, "spawners", id, columns).await
}

/// Moves `last_activity` forward for many spawners; earlier times than the known change nothing.
pub async fn touch_activity(
    connection: &impl ConnectionTrait,
    seen: &[(i32, NaiveDateTime)],
) -> Result<()> {
    sql::touch_later(connection, "spawners", seen).await
}

/// Deletes a spawner with its address, its OAuth client and its shares, as upstream does. Stop the
/// server first: [`StoreError::StillActive`](crate::StoreError::StillActive) while its run has not
/// ended. Runs stay, as a ledger, without the reference. Call it in a write transaction.
pub async fn delete(connection: &impl ConnectionTrait, id: i32) -> Result<bool> {
    sql::lock(connection, "spawners", id).await?;
    crate::runs::refuse_active(connection, "spawner_id", id).await?;
    let Some(spawner) = find_by_id(connection, id).await? else {
        return Ok(false);
    };
    for table in ["shares", "share_codes"] {
        let sql = format!("DELETE FROM {table} WHERE spawner_id = ?");
        sql::execute(connection, &sql, values![id]).await?;
    }
    sql::execute(
        connection,
        "UPDATE orrery_runs SET spawner_id = NULL WHERE spawner_id = ?",
        values![id],
    )
    .await?;
    if let Some(user) = owner_name(connection, &spawner).await? {
        let event = events::NewEvent {
            kind: events::Kind::ServerDeleted,
            user: &user,
            server: Some(&spawner.name),
            data: None,
        };
        events::record(connection, &[event]).await?;
    }
    let deleted =
        sql::execute(connection, "DELETE FROM spawners WHERE id = ?", values![id]).await? > 0;
    if let Some(server_id) = spawner.server_id {
        crate::servers::delete(connection, server_id).await?;
    }
    if let Some(client) = spawner.oauth_client_id {
        crate::oauth_clients::delete(connection, &client).await?;
    }
    Ok(deleted)
}

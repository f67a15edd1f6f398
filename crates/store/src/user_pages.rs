//! Users with their groups, roles and servers, as lists and models show them: on SQLite and PostgreSQL
//! one query that gives one row, whatever the number of users, for what costs is the way of each row
//! from the database's thread or process to here.

use std::collections::HashMap;
use std::fmt;

use chrono::{Datelike as _, NaiveDateTime};
use orrery_core::phase::{Failure, Phase};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, Value as SqlValue};
use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::Value;

use crate::{
    error::StoreError,
    groups, json, roles,
    runs::{self, Run},
    spawners::{self, Spawner},
    sql::{self, CHUNK, Result, marks},
    users::{self, User, UserQuery, UserSort},
};

/// A user with what stands in other tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Key.
    pub id: i32,
    /// Unique, normalised name.
    pub name: String,
    /// Whether the user is an administrator.
    pub admin: bool,
    /// When the row was made.
    pub created: Option<NaiveDateTime>,
    /// When the user or one of their servers was last seen.
    pub last_activity: Option<NaiveDateTime>,
    /// What the authenticator told of the user, or null.
    pub user_info: Value,
    /// Whether a login has left auth state.
    pub has_auth_state: bool,
    /// The names of their groups, by the groups' ids.
    pub groups: Vec<String>,
    /// The names of the roles that they hold themselves, by the roles' ids.
    pub roles: Vec<String>,
    /// Their servers, running or not, by id.
    pub servers: Vec<ListedServer>,
}

/// A server of a user.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedServer {
    /// The row of `spawners`.
    pub id: i32,
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
    /// All that the spawner knows of the running server.
    pub state: Value,
    /// Its active run, if it has one.
    pub run: Option<ListedRun>,
}

/// What lists show of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedRun {
    /// Key.
    pub id: i64,
    /// Where it stands.
    pub phase: Phase,
    /// The last progress events, oldest first. Left out of lists while the server runs well.
    pub events: Vec<Value>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

impl From<Run> for ListedRun {
    fn from(run: Run) -> Self {
        Self {
            id: run.id,
            phase: run.phase,
            events: run.events,
            failure: run.failure,
        }
    }
}

impl ListedServer {
    /// A server and its run, read apart.
    pub fn new(spawner: Spawner, run: Option<Run>) -> Self {
        Self {
            id: spawner.id,
            name: spawner.name,
            display_name: spawner.display_name,
            started: spawner.started,
            last_activity: spawner.last_activity,
            user_options: spawner.user_options,
            state: spawner.state,
            run: run.map(ListedRun::from),
        }
    }
}

impl Listed {
    /// A user alone.
    pub fn without_more(user: &User) -> Self {
        Self {
            id: user.id,
            name: user.name.clone(),
            admin: user.admin,
            created: user.created,
            last_activity: user.last_activity,
            user_info: user.user_info.clone(),
            has_auth_state: user.encrypted_auth_state.is_some(),
            groups: Vec::new(),
            roles: Vec::new(),
            servers: Vec::new(),
        }
    }
}

/// One page of users, in the order that the query names.
pub async fn list(connection: &impl ConnectionTrait, query: &UserQuery) -> Result<Vec<Listed>> {
    let backend = connection.get_database_backend();
    if backend == DbBackend::MySql {
        let found = users::list(connection, query).await?;
        return together(connection, found).await;
    }
    let (tail, values) = users::selection(backend, query);
    let order = users::order(backend, "p", query.sort, query.descending);
    read(connection, &tail, &order, values).await
}

/// Users by their ids, in the order of these; those that are gone are left out.
pub async fn of(connection: &impl ConnectionTrait, ids: &[i32]) -> Result<Vec<Listed>> {
    let backend = connection.get_database_backend();
    let mut found = Vec::with_capacity(ids.len());
    if backend == DbBackend::MySql {
        found = together(connection, users::find_many(connection, ids).await?).await?;
    } else {
        let order = users::order(backend, "p", UserSort::Id, false);
        for chunk in ids.chunks(CHUNK) {
            let tail = if chunk.len() == 1 {
                "u.id = ?".to_owned()
            } else {
                format!("u.id IN ({})", marks(chunk.len()))
            };
            let values = chunk.iter().map(|id| (*id).into()).collect();
            found.extend(read(connection, &tail, &order, values).await?);
        }
    }
    if ids.is_sorted() {
        return Ok(found);
    }
    let mut by_id: HashMap<i32, Listed> = found.into_iter().map(|user| (user.id, user)).collect();
    Ok(ids.iter().filter_map(|id| by_id.remove(id)).collect())
}

/// The user of this name.
pub async fn named(connection: &impl ConnectionTrait, name: &str) -> Result<Option<Listed>> {
    let backend = connection.get_database_backend();
    let found = if backend == DbBackend::MySql {
        let found = users::find(connection, name).await?;
        together(connection, found.into_iter().collect()).await?
    } else {
        let order = users::order(backend, "p", UserSort::Id, false);
        read(connection, "u.name = ?", &order, vec![name.into()]).await?
    };
    Ok(found.into_iter().next())
}

/// The users whom `tail` selects, as one value of JSON.
async fn read(
    connection: &impl ConnectionTrait,
    tail: &str,
    order: &str,
    values: Vec<SqlValue>,
) -> Result<Vec<Listed>> {
    let sql = match connection.get_database_backend() {
        DbBackend::Postgres => postgres(tail, order),
        _ => sqlite(tail, order),
    };
    let row = sql::rows(connection, &sql, values).await?.pop();
    let text: Option<String> = match row {
        Some(row) => row.try_get("", "people")?,
        None => None,
    };
    let people: Vec<UserRow> = match &text {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| DbErr::Json(format!("a page of users: {error}")))?,
        None => Vec::new(),
    };
    people.into_iter().map(Listed::try_from).collect()
}

/// The users' own columns.
const COLUMNS: &str = "u.id, u.name, u.admin, u.created, u.last_activity, u.user_info, \
     CASE WHEN u.encrypted_auth_state IS NULL THEN 0 ELSE 1 END AS has_auth_state";

/// What is shown of a server and its run.
const SERVER: &str = "s.id, s.name, s.display_name, s.started, s.last_activity, s.user_options, s.state, \
     r.id, r.phase, CASE WHEN r.phase <> 'ready' THEN r.events END, \
     CASE WHEN r.phase <> 'ready' THEN r.failure END";

/// Servers with their active runs.
const SERVERS: &str = "spawners s LEFT JOIN orrery_runs r \
     ON r.active_key = CONCAT(s.user_id, '/', s.name) AND r.user_id = s.user_id";

/// For each user, what is theirs is looked up by the indexes. What a subquery gives is JSON only where it is
/// said.
fn sqlite(tail: &str, order: &str) -> String {
    format!(
        "WITH p AS (SELECT {COLUMNS} FROM users u WHERE {tail}) \
         SELECT json_group_array(json_array(p.id, p.name, p.admin, p.created, p.last_activity, p.user_info, p.has_auth_state, \
         json((SELECT json_group_array(g.name ORDER BY g.id) FROM user_group_map m \
         JOIN \"groups\" g ON g.id = m.group_id WHERE m.user_id = p.id)), \
         json((SELECT json_group_array(r.name ORDER BY r.id) FROM user_role_map m \
         JOIN roles r ON r.id = m.role_id WHERE m.user_id = p.id)), \
         json((SELECT json_group_array(json_array({SERVER}) ORDER BY s.id) \
         FROM {SERVERS} WHERE s.user_id = p.id))) ORDER BY {order}) AS people FROM p"
    )
}

/// What is theirs is looked up for all users together: PostgreSQL begins each subquery of each row anew,
/// which takes longer than what it finds.
fn postgres(tail: &str, order: &str) -> String {
    format!(
        "WITH p AS (SELECT {COLUMNS} FROM users u WHERE {tail}), \
         gs AS (SELECT m.user_id, json_agg(g.name ORDER BY g.id) AS names FROM user_group_map m \
         JOIN \"groups\" g ON g.id = m.group_id WHERE m.user_id IN (SELECT p.id FROM p) GROUP BY m.user_id), \
         rs AS (SELECT m.user_id, json_agg(r.name ORDER BY r.id) AS names FROM user_role_map m \
         JOIN roles r ON r.id = m.role_id WHERE m.user_id IN (SELECT p.id FROM p) GROUP BY m.user_id), \
         ss AS (SELECT s.user_id, json_agg(json_build_array({SERVER}) ORDER BY s.id) AS servers \
         FROM {SERVERS} WHERE s.user_id IN (SELECT p.id FROM p) GROUP BY s.user_id) \
         SELECT json_agg(json_build_array(p.id, p.name, p.admin, p.created, p.last_activity, p.user_info, p.has_auth_state, \
         gs.names, rs.names, ss.servers) ORDER BY {order})::text AS people \
         FROM p LEFT JOIN gs ON gs.user_id = p.id LEFT JOIN rs ON rs.user_id = p.id \
         LEFT JOIN ss ON ss.user_id = p.id"
    )
}

/// The same from the queries for each table.
async fn together(connection: &impl ConnectionTrait, found: Vec<User>) -> Result<Vec<Listed>> {
    let ids: Vec<i32> = found.iter().map(|user| user.id).collect();
    let mut of_groups: HashMap<i32, Vec<String>> = HashMap::new();
    for membership in groups::of_users(connection, &ids).await? {
        let names = of_groups.entry(membership.user_id).or_default();
        names.push(membership.name);
    }
    let mut of_roles: HashMap<i32, Vec<String>> = HashMap::new();
    for role in roles::names_of_many(connection, roles::HolderKind::User, &ids).await? {
        let names = of_roles.entry(role.holder_id).or_default();
        names.push(role.name);
    }
    // The runs first: who is told that a server is ready is told what it has from then on.
    let mut active: HashMap<(i32, String), Run> = runs::active_of_users(connection, &ids)
        .await?
        .into_iter()
        .filter_map(|run| Some(((run.user_id?, run.server_name.clone()), run)))
        .collect();
    let mut servers: HashMap<i32, Vec<ListedServer>> = HashMap::new();
    for spawner in spawners::list_of_users(connection, &ids).await? {
        let Some(user) = spawner.user_id else {
            continue;
        };
        let run = active.remove(&(user, spawner.name.clone()));
        let mut server = ListedServer::new(spawner, run);
        if let Some(run) = &mut server.run
            && run.phase == Phase::Ready
        {
            (run.events, run.failure) = (Vec::new(), None);
        }
        servers.entry(user).or_default().push(server);
    }
    let with_more = |user: &User| Listed {
        groups: of_groups.remove(&user.id).unwrap_or_default(),
        roles: of_roles.remove(&user.id).unwrap_or_default(),
        servers: servers.remove(&user.id).unwrap_or_default(),
        ..Listed::without_more(user)
    };
    Ok(found.iter().map(with_more).collect())
}

/// A user as the array of JSON that the queries make.
#[derive(serde::Deserialize)]
struct UserRow(
    i32,
    String,
    Option<Flag>,
    Option<Time>,
    Option<Time>,
    Option<String>,
    i64,
    Option<Vec<String>>,
    Option<Vec<String>>,
    Option<Vec<ServerRow>>,
);

#[derive(serde::Deserialize)]
struct ServerRow(
    i32,
    Option<String>,
    Option<String>,
    Option<Time>,
    Option<Time>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// SQLite has no type for truth.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Number(i64),
}

/// A point in time: SQLAlchemy's text from SQLite, ISO 8601 from PostgreSQL. What is none is logged and
/// left out, so that one row does not cost the others.
struct Time(Option<NaiveDateTime>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(TimeVisitor).map(Self)
    }
}

struct TimeVisitor;

impl TimeVisitor {
    fn left_out(what: &dyn fmt::Debug) {
        tracing::warn!(text = ?what, "a time in the database cannot be read and is left out");
    }
}

impl Visitor<'_> for TimeVisitor {
    type Value = Option<NaiveDateTime>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a point in time")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
        let time = crate::time::from_text(text).filter(|time| time.year() > 0);
        if time.is_none() {
            let text: String = text.chars().take(64).collect();
            Self::left_out(&text);
        }
        Ok(time)
    }

    // SQLite keeps numbers in any column.
    fn visit_i64<E>(self, number: i64) -> std::result::Result<Self::Value, E> {
        Self::left_out(&number);
        Ok(None)
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Self::Value, E> {
        Self::left_out(&number);
        Ok(None)
    }

    fn visit_f64<E>(self, number: f64) -> std::result::Result<Self::Value, E> {
        Self::left_out(&number);
        Ok(None)
    }
}

impl TryFrom<UserRow> for Listed {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self> {
        let servers = row.9.unwrap_or_default();
        Ok(Self {
            id: row.0,
            name: row.1,
            admin: match row.2 {
                None => false,
                Some(Flag::Bool(admin)) => admin,
                Some(Flag::Number(number)) => number != 0,
            },
            created: row.3.and_then(|time| time.0),
            last_activity: row.4.and_then(|time| time.0),
            user_info: value("user_info", row.5)?,
            has_auth_state: row.6 != 0,
            groups: row.7.unwrap_or_default(),
            roles: row.8.unwrap_or_default(),
            servers: servers
                .into_iter()
                .map(ListedServer::try_from)
                .collect::<Result<_>>()?,
        })
    }
}

impl TryFrom<ServerRow> for ListedServer {
    type Error = StoreError;

    fn try_from(row: ServerRow) -> Result<Self> {
        let run = match (row.7, row.8) {
            (Some(id), Some(word)) => Some(ListedRun {
                id,
                phase: Phase::from_word(&word)
                    .ok_or_else(|| StoreError::Corrupt(format!("unknown phase {word:?}")))?,
                events: parsed("events", row.9)?,
                failure: parsed("failure", row.10)?,
            }),
            _ => None,
        };
        Ok(Self {
            id: row.0,
            name: row.1.unwrap_or_default(),
            display_name: row.2,
            started: row.3.and_then(|time| time.0),
            last_activity: row.4.and_then(|time| time.0),
            user_options: value("user_options", row.5)?,
            state: value("state", row.6)?,
            run,
        })
    }
}

fn value(column: &str, text: Option<String>) -> Result<Value> {
    text.map_or(Ok(Value::Null), |text| json::from_text(&text))
        .map_err(|error| DbErr::Json(format!("column {column}: {error}")).into())
}

fn parsed<T: Default + serde::de::DeserializeOwned>(
    column: &str,
    text: Option<String>,
) -> Result<T> {
    text.map_or(Ok(T::default()), |text| serde_json::from_str(&text))
        .map_err(|error| DbErr::Json(format!("column {column}: {error}")).into())
}

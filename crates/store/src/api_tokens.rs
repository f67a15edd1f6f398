//! `api_tokens`: tokens of users and services, OAuth access tokens among them.

use std::fmt;

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, Value as SqlValue};

use crate::{
    json,
    sql::{self, Result, from_row, values},
    time,
    users::Visible,
};

/// A row of `api_tokens`. `Debug` leaves out the hash and the session.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Key; the REST API calls it `a<id>`.
    pub id: i32,
    /// The owner, if it is a user.
    pub user_id: Option<i32>,
    /// The owner, if it is a service.
    pub service_id: Option<i32>,
    /// See [`token_hash`](crate::token_hash).
    pub hashed: String,
    /// The token's first four characters.
    pub prefix: String,
    /// The OAuth client it was issued to (`jupyterhub` for tokens made by hand). A token without
    /// one is stale: upstream deletes it when it meets it.
    pub client_id: Option<String>,
    /// The browser session it belongs to.
    pub session_id: Option<String>,
    /// When it was made.
    pub created: Option<NaiveDateTime>,
    /// When it ends.
    pub expires_at: Option<NaiveDateTime>,
    /// When it was last used.
    pub last_activity: Option<NaiveDateTime>,
    /// What it is for.
    pub note: Option<String>,
    /// Its scopes, unexpanded.
    pub scopes: Vec<String>,
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ApiToken")
            .field("id", &self.id)
            .field("user_id", &self.user_id)
            .field("service_id", &self.service_id)
            .field("client_id", &self.client_id)
            .field("expires_at", &self.expires_at)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

from_row!(ApiToken {
    id,
    user_id,
    service_id,
    hashed,
    prefix,
    client_id,
    session_id,
    created: time,
    expires_at,
    last_activity: time,
    note,
    scopes: list,
});

/// The longest note that a token can have, in characters.
const MAX_NOTE: usize = 1023;

/// Who owns a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A user, by id.
    User(i32),
    /// A service, by id.
    Service(i32),
}

impl Owner {
    fn column(self) -> (&'static str, i32) {
        match self {
            Self::User(id) => ("user_id", id),
            Self::Service(id) => ("service_id", id),
        }
    }
}

/// A token to add. Hash and prefix come from [`token_hash`](crate::token_hash).
#[derive(Clone)]
pub struct NewApiToken {
    /// Who owns it.
    pub owner: Owner,
    /// [`token_hash::hash_token`](crate::token_hash::hash_token).
    pub hashed: String,
    /// [`token_hash::prefix`](crate::token_hash::prefix).
    pub prefix: String,
    /// The OAuth client; it must exist.
    pub client_id: String,
    /// The browser session.
    pub session_id: Option<String>,
    /// Now.
    pub created: NaiveDateTime,
    /// When it ends.
    pub expires_at: Option<NaiveDateTime>,
    /// What it is for.
    pub note: String,
    /// Its scopes.
    pub scopes: Vec<String>,
}

/// The tokens with this prefix that have not expired, to be verified one by one.
pub async fn find_candidates(
    connection: &impl ConnectionTrait,
    prefix: &str,
    now: NaiveDateTime,
) -> Result<Vec<ApiToken>> {
    sql::all(
        connection,
        "SELECT * FROM api_tokens WHERE prefix = ? AND (expires_at IS NULL OR expires_at >= ?) \
         ORDER BY id",
        values![prefix, time::truncate(now)],
    )
    .await
}

/// Finds a token by id.
pub async fn find_by_id(connection: &impl ConnectionTrait, id: i32) -> Result<Option<ApiToken>> {
    sql::one(
        connection,
        "SELECT * FROM api_tokens WHERE id = ?",
        values![id],
    )
    .await
}

/// The tokens of a user or service, by id, expired ones too.
pub async fn list(connection: &impl ConnectionTrait, owner: Owner) -> Result<Vec<ApiToken>> {
    let (column, id) = owner.column();
    let sql = format!("SELECT * FROM api_tokens WHERE {column} = ? ORDER BY id");
    sql::all(connection, &sql, values![id]).await
}

/// Which of everybody's tokens to list, by id.
#[derive(Clone, Debug, Default)]
pub struct TokenQuery {
    /// Those after this id.
    pub after: i32,
    /// How many at most.
    pub limit: u64,
    /// One owner's.
    pub owner: Option<Owner>,
    /// With this in their note, in any case.
    pub note: Option<String>,
    /// Those that have expired at this time, or those that have not.
    pub expired: Option<(bool, NaiveDateTime)>,
    /// Not used since this.
    pub unused_since: Option<NaiveDateTime>,
    /// If set, only those of these users and of the members of these groups.
    pub visible: Option<Visible>,
    /// Whether those of services are listed as well.
    pub services: bool,
}

/// One page of everybody's tokens.
pub async fn page(connection: &impl ConnectionTrait, query: &TokenQuery) -> Result<Vec<ApiToken>> {
    let backend = connection.get_database_backend();
    let mut condition = "id > ?".to_owned();
    let mut values = values![query.after];
    let mut and = |part: &str, more: Vec<SqlValue>| {
        condition.push_str(" AND ");
        condition.push_str(part);
        values.extend(more);
    };
    if let Some(owner) = query.owner {
        let (column, id) = owner.column();
        and(&format!("{column} = ?"), values![id]);
    }
    if let Some(note) = &query.note {
        if sql::is_longer(note, MAX_NOTE) {
            return Ok(Vec::new());
        }
        let pattern = note
            .replace('!', "!!")
            .replace('%', "!%")
            .replace('_', "!_");
        and(
            "LOWER(note) LIKE LOWER(?) ESCAPE '!'",
            values![format!("%{pattern}%")],
        );
    }
    match query.expired {
        Some((true, now)) => and("expires_at < ?", values![time::truncate(now)]),
        Some((false, now)) => and(
            "(expires_at IS NULL OR expires_at >= ?)",
            values![time::truncate(now)],
        ),
        None => {}
    }
    if let Some(since) = query.unused_since {
        let since = time::truncate(since);
        and("COALESCE(last_activity, created) < ?", values![since]);
    }
    let (mut owners, names) = match &query.visible {
        None => ("user_id IS NOT NULL".to_owned(), Vec::new()),
        Some(visible) => {
            let (users, names) = crate::sessions::users_in(backend, visible);
            (format!("user_id IN ({users})"), names)
        }
    };
    if query.services {
        owners.push_str(" OR service_id IS NOT NULL");
    }
    and(&format!("({owners})"), names);
    let sql = format!("SELECT * FROM api_tokens WHERE {condition} ORDER BY id LIMIT ?");
    values.push(i64::try_from(query.limit).unwrap_or(i64::MAX).into());
    sql::all(connection, &sql, values).await
}

/// Adds a token.
pub async fn insert(connection: &impl ConnectionTrait, new: &NewApiToken) -> Result<ApiToken> {
    let created = time::truncate(new.created);
    let expires_at = new.expires_at.map(time::truncate);
    let (column, owner) = new.owner.column();
    let columns: Vec<(&str, SqlValue)> = vec![
        (column, owner.into()),
        ("hashed", new.hashed.as_str().into()),
        ("prefix", new.prefix.as_str().into()),
        ("client_id", new.client_id.as_str().into()),
        ("session_id", new.session_id.clone().into()),
        ("created", created.into()),
        ("expires_at", expires_at.into()),
        ("note", new.note.as_str().into()),
        ("scopes", json::list(&new.scopes)),
    ];
    let id = sql::insert_upstream(connection, "api_tokens", columns).await?;
    let (user_id, service_id) = match new.owner {
        Owner::User(id) => (Some(id), None),
        Owner::Service(id) => (None, Some(id)),
    };
    Ok(ApiToken {
        id,
        user_id,
        service_id,
        hashed: new.hashed.clone(),
        prefix: new.prefix.clone(),
        client_id: Some(new.client_id.clone()),
        session_id: new.session_id.clone(),
        created: Some(created),
        expires_at,
        last_activity: None,
        note: Some(new.note.clone()),
        scopes: new.scopes.clone(),
    })
}

/// Notes that a token was used at `now`.
pub async fn touch(connection: &impl ConnectionTrait, id: i32, now: NaiveDateTime) -> Result<bool> {
    let columns = vec![("last_activity", time::truncate(now).into())];
    sql::update(connection, "api_tokens", id, columns).await
}

/// Notes when many tokens were used; earlier times than the known change nothing.
pub async fn touch_activity(
    connection: &impl ConnectionTrait,
    seen: &[(i32, NaiveDateTime)],
) -> Result<()> {
    sql::touch_later(connection, "api_tokens", seen).await
}

/// Replaces a token's scopes.
pub async fn set_scopes(
    connection: &impl ConnectionTrait,
    id: i32,
    scopes: &[String],
) -> Result<bool> {
    let columns = vec![("scopes", json::list(scopes))];
    sql::update(connection, "api_tokens", id, columns).await
}

/// Deletes a token.
pub async fn delete(connection: &impl ConnectionTrait, id: i32) -> Result<bool> {
    Ok(sql::execute(
        connection,
        "DELETE FROM api_tokens WHERE id = ?",
        values![id],
    )
    .await?
        > 0)
}

/// Deletes the tokens of a browser session of one user, as logout does; gives their number.
pub async fn delete_session(
    connection: &impl ConnectionTrait,
    user_id: i32,
    session_id: &str,
) -> Result<u64> {
    sql::execute(
        connection,
        "DELETE FROM api_tokens WHERE user_id = ? AND session_id = ?",
        values![user_id, session_id],
    )
    .await
}

/// Deletes one owner's tokens issued to an OAuth client; gives their number.
pub async fn delete_of_owner_and_client(
    connection: &impl ConnectionTrait,
    owner: Owner,
    client_id: &str,
) -> Result<u64> {
    let (column, id) = owner.column();
    let client = sql::exactly(connection.get_database_backend(), "client_id");
    let sql = format!("DELETE FROM api_tokens WHERE {column} = ? AND {client} = ?");
    sql::execute(connection, &sql, values![id, client_id]).await
}

/// Deletes the tokens that have expired; gives their number.
pub async fn purge_expired(connection: &impl ConnectionTrait, now: NaiveDateTime) -> Result<u64> {
    sql::execute(
        connection,
        "DELETE FROM api_tokens WHERE expires_at < ?",
        values![time::truncate(now)],
    )
    .await
}

//! `orrery_sessions`: who is logged in, by which browser. JupyterHub has no such table: there a login is
//! a signed cookie and nothing else, good until it expires.
//!
//! A row that has ended stays for a while; where the cookie would be good without it, until the cookie
//! would have expired.

use std::cmp::Reverse;
use std::fmt;

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, DbBackend, Value as SqlValue};

use crate::{
    sql::{self, Result, from_row, marks, values},
    time,
    users::{self, Visible},
};

/// The longest address that is kept, in characters.
pub const MAX_ADDRESS: usize = 64;
/// How the keys of cookies begin that need no row to be good: those that JupyterHub signed. No digit.
pub const UNMARKED: &str = "u";
/// The longest user agent that is kept, in characters.
pub const MAX_USER_AGENT: usize = 255;

/// A row of `orrery_sessions`. `Debug` leaves out what the browser's cookies hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// Key; the REST API calls it `s<id>`.
    pub id: i64,
    /// Who is logged in.
    pub user_id: i32,
    /// The browser session, by which OAuth tokens belong to this one.
    pub session_id: String,
    /// When the login's cookie was signed.
    pub created: NaiveDateTime,
    /// When it was last used, to a minute or so.
    pub last_seen: NaiveDateTime,
    /// From where it was last used.
    pub address: Option<String>,
    /// The browser, as it called itself at the login.
    pub user_agent: Option<String>,
    /// Since when its cookie is refused.
    pub ended_at: Option<NaiveDateTime>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("id", &self.id)
            .field("user_id", &self.user_id)
            .field("created", &self.created)
            .field("ended_at", &self.ended_at)
            .finish_non_exhaustive()
    }
}

from_row!(Session {
    id,
    user_id,
    session_id,
    created,
    last_seen,
    address,
    user_agent,
    ended_at,
});

/// A session to add.
#[derive(Clone)]
pub struct NewSession {
    /// Who is logged in.
    pub user_id: i32,
    /// What tells the login's cookie from all others: 64 hexadecimal digits, or [`UNMARKED`] and 63.
    pub cookie_key: String,
    /// The browser session, at most 64 characters.
    pub session_id: String,
    /// When the cookie was signed.
    pub created: NaiveDateTime,
    /// Now.
    pub last_seen: NaiveDateTime,
    /// From where.
    pub address: Option<String>,
    /// The browser.
    pub user_agent: Option<String>,
}

/// Which sessions to list: those that have neither ended nor expired, by id.
#[derive(Clone, Debug, Default)]
pub struct SessionQuery {
    /// Those after this id.
    pub after: i64,
    /// How many at most.
    pub limit: u64,
    /// Those begun at or after this; older ones have expired.
    pub since: NaiveDateTime,
    /// One user's.
    pub user_id: Option<i32>,
    /// Not used since this.
    pub unused_since: Option<NaiveDateTime>,
    /// If set, only those of these users and of the members of these groups.
    pub visible: Option<Visible>,
}

/// When and from where a session was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The session.
    pub id: i64,
    /// When.
    pub at: NaiveDateTime,
    /// From where.
    pub address: Option<String>,
}

/// Finds a session by its cookie, ended ones too.
pub async fn find_by_key(
    connection: &impl ConnectionTrait,
    cookie_key: &str,
) -> Result<Option<Session>> {
    sql::one(
        connection,
        "SELECT * FROM orrery_sessions WHERE cookie_key = ?",
        values![cookie_key],
    )
    .await
}

/// Finds a session by id, ended ones too.
pub async fn find_by_id(connection: &impl ConnectionTrait, id: i64) -> Result<Option<Session>> {
    sql::one(
        connection,
        "SELECT * FROM orrery_sessions WHERE id = ?",
        values![id],
    )
    .await
}

const OF_USER: &str = "SELECT * FROM orrery_sessions WHERE user_id = ? AND ended_at IS NULL \
    AND created >= ? ORDER BY last_seen DESC, id DESC";

/// A user's sessions that were begun at or after `since` and have not ended, the one used last first.
pub async fn of_user(
    connection: &impl ConnectionTrait,
    user_id: i32,
    since: NaiveDateTime,
) -> Result<Vec<Session>> {
    sql::all(connection, OF_USER, values![user_id, time::truncate(since)]).await
}

/// One page of everybody's sessions.
pub async fn list(connection: &impl ConnectionTrait, query: &SessionQuery) -> Result<Vec<Session>> {
    let mut condition = "id > ? AND ended_at IS NULL AND created >= ?".to_owned();
    let mut values = values![query.after, time::truncate(query.since)];
    if let Some(user_id) = query.user_id {
        condition.push_str(" AND user_id = ?");
        values.push(user_id.into());
    }
    if let Some(since) = query.unused_since {
        condition.push_str(" AND last_seen < ?");
        values.push(time::truncate(since).into());
    }
    if let Some(visible) = &query.visible {
        let (users, mut names) = users_in(connection.get_database_backend(), visible);
        condition = format!("{condition} AND user_id IN ({users})");
        values.append(&mut names);
    }
    let sql = format!("SELECT * FROM orrery_sessions WHERE {condition} ORDER BY id LIMIT ?");
    values.push(i64::try_from(query.limit).unwrap_or(i64::MAX).into());
    sql::all(connection, &sql, values).await
}

/// Begins a session. [`StoreError::Duplicate`](crate::StoreError::Duplicate) if its cookie has one.
pub async fn insert(connection: &impl ConnectionTrait, new: &NewSession) -> Result<Session> {
    let bounded =
        |text: &Option<String>, most| text.as_ref().map(|text| text.chars().take(most).collect());
    let created = time::truncate(new.created);
    let last_seen = time::truncate(new.last_seen);
    let address: Option<String> = bounded(&new.address, MAX_ADDRESS);
    let user_agent: Option<String> = bounded(&new.user_agent, MAX_USER_AGENT);
    let columns = vec![
        ("user_id", new.user_id.into()),
        ("cookie_key", new.cookie_key.as_str().into()),
        ("session_id", new.session_id.as_str().into()),
        ("created", created.into()),
        ("last_seen", last_seen.into()),
        ("address", address.clone().into()),
        ("user_agent", user_agent.clone().into()),
    ];
    let id = sql::insert(connection, "orrery_sessions", columns).await?;
    Ok(Session {
        id,
        user_id: new.user_id,
        session_id: new.session_id.clone(),
        created,
        last_seen,
        address,
        user_agent,
        ended_at: None,
    })
}

/// Begins the session of a cookie that is seen for the first time. `None` if the user's cookies carry another
/// id than `cookie_id` by now: since the cookie was looked at, all their logins were ended.
pub async fn admit(
    connection: &impl ConnectionTrait,
    new: &NewSession,
    cookie_id: &str,
) -> Result<Option<Session>> {
    if !has_cookie_id(connection, new.user_id, cookie_id).await? {
        return Ok(None);
    }
    insert(connection, new).await.map(Some)
}

/// Whether the user's cookies carry this id, and go on to do so until the transaction ends.
async fn has_cookie_id(
    connection: &impl ConnectionTrait,
    user_id: i32,
    cookie_id: &str,
) -> Result<bool> {
    let user = users::find_and_lock(connection, user_id).await?;
    Ok(user.is_some_and(|user| user.cookie_id == cookie_id))
}

/// Ends a session: its cookie is refused from now on. Says whether it had not ended before.
pub async fn end(connection: &impl ConnectionTrait, id: i64, now: NaiveDateTime) -> Result<bool> {
    Ok(sql::execute(
        connection,
        "UPDATE orrery_sessions SET ended_at = ? WHERE id = ? AND ended_at IS NULL",
        values![time::truncate(now), id],
    )
    .await?
        > 0)
}

/// Whether every session of this user with this browser session has ended: nothing new may be given out
/// for it. Keeps the answer true until the transaction ends. `false` where none was ever known.
pub async fn is_over(
    connection: &impl ConnectionTrait,
    user_id: i32,
    session_id: &str,
) -> Result<bool> {
    let backend = connection.get_database_backend();
    let locking = match backend {
        DbBackend::Sqlite => "",
        _ => " FOR UPDATE",
    };
    let sql = format!(
        "SELECT * FROM orrery_sessions WHERE user_id = ? AND {} = ?{locking}",
        sql::exactly(backend, "session_id")
    );
    let found: Vec<Session> = sql::all(connection, &sql, values![user_id, session_id]).await?;
    Ok(!found.is_empty() && found.iter().all(|session| session.ended_at.is_some()))
}

/// Notes when and from where sessions were used, a few hundred with each statement; earlier times than the
/// known change nothing. Always in the order of the ids, so that no two who do it wait for each other.
pub async fn touch(connection: &impl ConnectionTrait, seen: &[Seen]) -> Result<()> {
    let mut seen: Vec<&Seen> = seen.iter().collect();
    // Of one session several times, the latest.
    seen.sort_by_key(|seen| (seen.id, Reverse(seen.at)));
    seen.dedup_by_key(|seen| seen.id);
    for chunk in seen.chunks(sql::CHUNK) {
        let sql = if connection.get_database_backend() == DbBackend::MySql {
            let more = " UNION ALL SELECT ?, ?, ?".repeat(chunk.len() - 1);
            format!(
                "UPDATE orrery_sessions JOIN (SELECT ? AS id, CAST(? AS DATETIME(6)) AS at, \
                 CAST(? AS CHAR({MAX_ADDRESS})) AS address{more}) v ON v.id = orrery_sessions.id \
                 SET orrery_sessions.last_seen = v.at, orrery_sessions.address = v.address \
                 WHERE orrery_sessions.last_seen < v.at"
            )
        } else {
            let rows = vec!["(?, ?, ?)"; chunk.len()].join(", ");
            format!(
                "WITH v (id, at, address) AS (VALUES {rows}) \
                 UPDATE orrery_sessions SET last_seen = v.at, address = v.address FROM v \
                 WHERE orrery_sessions.id = v.id AND orrery_sessions.last_seen < v.at"
            )
        };
        let mut values = Vec::with_capacity(chunk.len() * 3);
        for Seen { id, at, address } in chunk {
            let address: Option<String> = address
                .as_ref()
                .map(|text| text.chars().take(MAX_ADDRESS).collect());
            values.extend(values![*id, time::truncate(*at), address]);
        }
        sql::execute(connection, &sql, values).await?;
    }
    Ok(())
}

/// Deletes the sessions whose cookies were signed before `before`, and have expired; gives their number.
pub async fn purge(connection: &impl ConnectionTrait, before: NaiveDateTime) -> Result<u64> {
    sql::execute(
        connection,
        "DELETE FROM orrery_sessions WHERE created < ?",
        values![time::truncate(before)],
    )
    .await
}

/// Deletes the sessions that ended before `before` and whose cookies are refused without a row too; gives
/// their number.
pub async fn purge_ended(connection: &impl ConnectionTrait, before: NaiveDateTime) -> Result<u64> {
    sql::execute(
        connection,
        "DELETE FROM orrery_sessions WHERE ended_at < ? AND cookie_key NOT LIKE ?",
        values![time::truncate(before), format!("{UNMARKED}%")],
    )
    .await
}

/// Logs a user out everywhere: ends all sessions but `but`, deletes the tokens and OAuth codes of
/// browser sessions but that one's. A new `cookie_id` makes cookies that were never seen here worthless
/// as well, and that of `but`. Tokens that belong to no browser stay. Gives the number of sessions.
pub async fn end_all(
    connection: &impl ConnectionTrait,
    user_id: i32,
    but: Option<&Session>,
    cookie_id: Option<&str>,
    now: NaiveDateTime,
) -> Result<u64> {
    // Whoever exchanges a code at this moment holds the rows.
    let mut ended = end_those(connection, user_id, but, now).await?;
    let kept = but.map_or("", |session| session.session_id.as_str());
    for table in ["api_tokens", "oauth_codes"] {
        let sql = format!(
            "DELETE FROM {table} WHERE user_id = ? AND session_id IS NOT NULL AND session_id <> ?"
        );
        sql::execute(connection, &sql, values![user_id, kept]).await?;
    }
    if let Some(cookie_id) = cookie_id {
        let changes = users::UserChanges {
            cookie_id: Some(cookie_id.to_owned()),
            ..users::UserChanges::default()
        };
        users::update(connection, user_id, &changes).await?;
        // Whoever logged in meanwhile held the user, and has a cookie that is worthless now.
        ended += end_those(connection, user_id, but, now).await?;
    }
    Ok(ended)
}

/// What takes the place of a session whose cookie becomes worthless with all others.
#[derive(Clone, Copy)]
pub struct Renewal<'a> {
    /// The session that goes on for it.
    pub session: &'a NewSession,
    /// What cookies carry from now on.
    pub cookie_id: &'a str,
}

/// Ends all sessions of a user but `current`, or what takes its place, as [`end_all`] does. Gives the number of
/// those ended; `None`, and nothing done, if `current` has ended itself or the user's cookies carry another id
/// than `cookie_id` by now: whoever asks was logged out meanwhile, and must not come back by this.
pub async fn end_others(
    connection: &impl ConnectionTrait,
    current: &Session,
    cookie_id: &str,
    renewal: Option<Renewal<'_>>,
    now: NaiveDateTime,
) -> Result<Option<u64>> {
    if !is_live(connection, current.id).await?
        || !has_cookie_id(connection, current.user_id, cookie_id).await?
    {
        return Ok(None);
    }
    let user_id = current.user_id;
    let Some(renewal) = renewal else {
        let ended = end_all(connection, user_id, Some(current), None, now).await?;
        return Ok(Some(ended));
    };
    let kept = insert(connection, renewal.session).await?;
    let cookie_id = Some(renewal.cookie_id);
    let ended = end_all(connection, user_id, Some(&kept), cookie_id, now).await?;
    // The one that was replaced is among them.
    Ok(Some(ended.saturating_sub(1)))
}

/// Whether a session has not ended, and does not until the transaction ends.
async fn is_live(connection: &impl ConnectionTrait, id: i64) -> Result<bool> {
    let locking = match connection.get_database_backend() {
        DbBackend::Sqlite => "",
        _ => " FOR UPDATE",
    };
    let sql = format!("SELECT * FROM orrery_sessions WHERE id = ?{locking}");
    let found: Option<Session> = sql::one(connection, &sql, values![id]).await?;
    Ok(found.is_some_and(|session| session.ended_at.is_none()))
}

async fn end_those(
    connection: &impl ConnectionTrait,
    user_id: i32,
    but: Option<&Session>,
    now: NaiveDateTime,
) -> Result<u64> {
    sql::execute(
        connection,
        "UPDATE orrery_sessions SET ended_at = ? \
         WHERE user_id = ? AND ended_at IS NULL AND id <> ?",
        values![
            time::truncate(now),
            user_id,
            but.map_or(0, |session| session.id)
        ],
    )
    .await
}

/// Ends one session as logging out does, with the tokens and OAuth codes of its browser. Says how many
/// tokens that were; `None` if it had ended before.
pub async fn log_out(
    connection: &impl ConnectionTrait,
    session: &Session,
    now: NaiveDateTime,
) -> Result<Option<u64>> {
    let is_first = end(connection, session.id, now).await?;
    let tokens =
        crate::api_tokens::delete_session(connection, session.user_id, &session.session_id).await?;
    sql::execute(
        connection,
        "DELETE FROM oauth_codes WHERE user_id = ? AND session_id = ?",
        values![session.user_id, session.session_id.as_str()],
    )
    .await?;
    Ok(is_first.then_some(tokens))
}

/// A query for the ids of the users that `visible` covers.
pub(crate) fn users_in(backend: DbBackend, visible: &Visible) -> (String, Vec<SqlValue>) {
    let named = |column, names: &[String]| match names.len() {
        0 => "1 = 0".to_owned(),
        count => format!("{} IN ({})", sql::exactly(backend, column), marks(count)),
    };
    let sql = format!(
        "SELECT u.id FROM users u WHERE {} \
         UNION SELECT m.user_id FROM user_group_map m JOIN \"groups\" g ON g.id = m.group_id WHERE {}",
        named("u.name", &visible.users),
        named("g.name", &visible.groups),
    );
    let names = visible.users.iter().chain(&visible.groups);
    (sql, names.map(|name| name.as_str().into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DbUrl, Store, StoreError, StoreOptions};

    /// How SQLite looks for a user's sessions.
    async fn plan(store: &Store) -> String {
        let plan = format!("EXPLAIN QUERY PLAN {OF_USER}");
        let rows = sql::rows(store.read(), &plan, values![1, NaiveDateTime::default()])
            .await
            .expect("a plan");
        rows[0].try_get("", "detail").expect("a step")
    }

    #[tokio::test]
    async fn a_login_does_not_read_what_has_ended_also_on_a_database_that_had_no_such_index() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = DbUrl::file(folder.path().join("hub.sqlite"));
        let open = async || {
            Store::open(&url, StoreOptions::default())
                .await
                .expect("a database")
        };
        let store = open().await;
        let wanted = "ix_orrery_sessions_of_user (user_id=? AND ended_at=? AND created>?)";
        assert!(plan(&store).await.contains(wanted));
        store
            .write(|transaction| async move {
                let drop = "DROP INDEX ix_orrery_sessions_of_user";
                transaction.execute_unprepared(drop).await?;
                Ok::<_, StoreError>(())
            })
            .await
            .expect("a change");
        store.close().await;
        let store = open().await;
        let plan = plan(&store).await;
        assert!(plan.contains(wanted), "{plan}");
    }
}

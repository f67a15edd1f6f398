//! `orrery_events`: what changed of users and servers, for whoever watches. Ours, not upstream's.
//!
//! A row is written in the transaction of the change that it tells of, by the functions of this crate that
//! make the change, so that none is missed and none is told that did not happen. Readers go by *positions*:
//! whatever becomes visible later has a higher one. On SQLite, with its one writer, that is the id. Other
//! databases give ids when a row is written and show it when its transaction ends, so a later id may be
//! seen before an earlier one; there, readers give positions to the rows that have none yet, one reader
//! after the other.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDateTime};
use orrery_core::phase::Phase;
use orrery_core::{Clock as _, SystemClock};
use sea_orm::{ConnectionTrait, DbBackend};
use serde_json::{Value, json};

use crate::{
    Store, StoreError,
    sql::{self, CHUNK, Result, marks, values},
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// There is a new user.
    UserCreated,
    /// A user is another: see the keys of [`Event::data`].
    UserChanged,
    /// A user is gone.
    UserDeleted,
    /// A server's run came to this phase.
    Server(Phase),
    /// A server has another name; [`OLD_NAME`] says the one before.
    ServerRenamed,
    /// A server is gone for good.
    ServerDeleted,
}

/// In the data of [`Kind::UserChanged`] and [`Kind::ServerRenamed`]: the name before.
pub const OLD_NAME: &str = "old_name";
/// In the data of [`Kind::UserChanged`]: whether the user is an administrator now.
pub const ADMIN: &str = "admin";
/// In the data of [`Kind::UserChanged`]: true if the information from the authenticator was replaced.
pub const USER_INFO: &str = "user_info";
/// In the data of [`Kind::UserChanged`]: the groups that the user came into.
pub const GROUPS_ADDED: &str = "groups_added";
/// In the data of [`Kind::UserChanged`]: the groups that the user left.
pub const GROUPS_REMOVED: &str = "groups_removed";
/// In the data of [`Kind::UserDeleted`]: the groups that the user was in.
pub const GROUPS: &str = "groups";
/// In the data of a server that failed: the class of the cause.
pub const CAUSE: &str = "cause";

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::UserCreated => "user.created",
            Self::UserChanged => "user.changed",
            Self::UserDeleted => "user.deleted",
            Self::Server(Phase::Queued) => "server.queued",
            Self::Server(Phase::Starting) => "server.starting",
            Self::Server(Phase::Ready) => "server.ready",
            Self::Server(Phase::Stopping) => "server.stopping",
            Self::Server(Phase::Stopped) => "server.stopped",
            Self::Server(Phase::Failed) => "server.failed",
            Self::ServerRenamed => "server.renamed",
            Self::ServerDeleted => "server.deleted",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        let simple = [
            Self::UserCreated,
            Self::UserChanged,
            Self::UserDeleted,
            Self::ServerRenamed,
            Self::ServerDeleted,
        ];
        match word.strip_prefix("server.").and_then(Phase::from_word) {
            Some(phase) => Some(Self::Server(phase)),
            None => simple.into_iter().find(|kind| kind.as_str() == word),
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Higher than that of all that became visible before it.
    pub position: i64,
    /// When it was written.
    pub at: NaiveDateTime,
    /// What happened; `None` if another version of this program wrote it.
    pub kind: Option<Kind>,
    /// The user, by the name after the change.
    pub user: String,
    /// The server, where it is one's change; empty for the default server.
    pub server: Option<String>,
    /// A small object; see the kinds.
    pub data: Value,
}

/// Between which positions events can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Up to here they were thrown away.
    pub pruned: i64,
    /// The last one; [`Span::pruned`] if there is none.
    pub last: i64,
}

impl Span {
    /// Whether everything after `position` can still be told.
    pub fn covers(self, position: i64) -> bool {
        (self.pruned..=self.last).contains(&position)
    }
}

/// Events from a position on.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// In the order of their positions.
    pub events: Vec<Event>,
    /// Whether events after the position asked for had been thrown away already.
    pub has_gap: bool,
}

/// How many rows get their positions in one statement.
const SEQUENCED: i64 = 10_000;

/// An event to write.
pub(crate) struct NewEvent<'a> {
    pub(crate) kind: Kind,
    pub(crate) user: &'a str,
    pub(crate) server: Option<&'a str>,
    pub(crate) data: Option<Value>,
}

/// Writes events of the transaction that `connection` is.
pub(crate) async fn record(
    connection: &impl ConnectionTrait,
    events: &[NewEvent<'_>],
) -> Result<()> {
    let at = now();
    for chunk in events.chunks(CHUNK) {
        let rows = vec!["(?, ?, ?, ?, ?)"; chunk.len()].join(", ");
        let sql = format!(
            "INSERT INTO orrery_events (at, kind, user_name, server_name, data) VALUES {rows}"
        );
        let mut values = Vec::with_capacity(chunk.len() * 5);
        for event in chunk {
            values.extend(values![
                at,
                event.kind.as_str(),
                event.user,
                event.server,
                event.data.as_ref().map(Value::to_string)
            ]);
        }
        sql::execute(connection, &sql, values).await?;
    }
    Ok(())
}

/// Writes that there are these new users.
pub(crate) async fn users_created(connection: &impl ConnectionTrait, names: &[&str]) -> Result<()> {
    let events: Vec<_> = names
        .iter()
        .map(|name| NewEvent {
            kind: Kind::UserCreated,
            user: name,
            server: None,
            data: None,
        })
        .collect();
    record(connection, &events).await
}

/// Which users a change of a group is about.
pub(crate) enum Members<'a> {
    /// Those that are in it.
    All,
    /// Of these, by id, the ones that are in it.
    Of(&'a [i32]),
    /// Of these, by id, the ones that are not in it.
    Missing(&'a [i32]),
}

/// Writes that users came into a group or left it, before that is done.
pub(crate) async fn members_changed(
    connection: &impl ConnectionTrait,
    group_id: i32,
    members: Members<'_>,
) -> Result<()> {
    let Some(group) = crate::groups::find_by_id(connection, group_id).await? else {
        return Ok(());
    };
    let (ids, key, not) = match members {
        Members::All => (None, GROUPS_REMOVED, ""),
        Members::Of(ids) => (Some(ids), GROUPS_REMOVED, ""),
        Members::Missing(ids) => (Some(ids), GROUPS_ADDED, "NOT "),
    };
    let data = json!({ key: [group.name] }).to_string();
    let sql = format!(
        "INSERT INTO orrery_events (at, kind, user_name, data) SELECT ?, ?, u.name, ? FROM users u \
         WHERE {not}EXISTS (SELECT 1 FROM user_group_map m WHERE m.user_id = u.id AND m.group_id = ?)"
    );
    let values = || {
        let kind = Kind::UserChanged.as_str();
        values![now(), kind, data.as_str(), group_id]
    };
    let Some(ids) = ids else {
        // By way of the members, who may be few of many.
        let sql = "INSERT INTO orrery_events (at, kind, user_name, data) SELECT ?, ?, u.name, ? \
                   FROM user_group_map m JOIN users u ON u.id = m.user_id WHERE m.group_id = ?";
        sql::execute(connection, sql, values()).await?;
        return Ok(());
    };
    for chunk in ids.chunks(CHUNK) {
        let sql = format!("{sql} AND u.id IN ({})", marks(chunk.len()));
        let mut values = values();
        values.extend(chunk.iter().map(|id| (*id).into()));
        sql::execute(connection, &sql, values).await?;
    }
    Ok(())
}

/// Writes that a run has come to a phase.
pub(crate) async fn run_moved(
    connection: &impl ConnectionTrait,
    run_id: i64,
    phase: Phase,
) -> Result<()> {
    let mut data = None;
    if phase == Phase::Failed {
        // Noted already, also where the failed start was stopped before it ended.
        let run = crate::runs::find(connection, run_id).await?;
        let cause = run.and_then(|run| run.failure).map(|failure| failure.cause);
        data = cause.map(|cause| json!({ CAUSE: cause }).to_string());
    }
    // By the names that user and server have now.
    let sql = "INSERT INTO orrery_events (at, kind, user_name, server_name, data) \
               SELECT ?, ?, COALESCE(u.name, r.user_name), COALESCE(s.name, r.server_name), ? \
               FROM orrery_runs r LEFT JOIN users u ON u.id = r.user_id \
               LEFT JOIN spawners s ON s.id = r.spawner_id WHERE r.id = ?";
    let values = values![now(), Kind::Server(phase).as_str(), data, run_id];
    sql::execute(connection, sql, values).await?;
    Ok(())
}

/// Between which positions events can be read now.
pub async fn span(store: &Store) -> Result<Span> {
    sequence_new(store).await?;
    read_span(store.read()).await
}

/// The first events after `position`, at most `limit`.
pub async fn after(store: &Store, position: i64, limit: u32) -> Result<Page> {
    sequence_new(store).await?;
    let connection = store.read();
    let column = position_column(connection);
    let sql = format!(
        "SELECT {column} AS position, at, kind, user_name, server_name, data FROM orrery_events \
         WHERE {column} > ? ORDER BY {column} LIMIT ?"
    );
    let events = sql::rows(connection, &sql, values![position, i64::from(limit)])
        .await?
        .iter()
        .map(|row| {
            let at: i64 = row.try_get("", "at")?;
            let kind: String = row.try_get("", "kind")?;
            let data: Option<String> = row.try_get("", "data")?;
            let data = data.and_then(|text| serde_json::from_str(&text).ok());
            Ok(Event {
                position: row.try_get("", "position")?,
                at: DateTime::from_timestamp_micros(at)
                    .unwrap_or_default()
                    .naive_utc(),
                kind: Kind::parse(&kind),
                user: row.try_get("", "user_name")?,
                server: row.try_get("", "server_name")?,
                data: data.unwrap_or_default(),
            })
        })
        .collect::<Result<_>>()?;
    // After the rows: what was thrown away meanwhile is noticed.
    let has_gap = position < read_span(connection).await?.pruned;
    Ok(Page { events, has_gap })
}

/// From which position on these names are of whoever has them now, where that is after `position`: when they were
/// made, or renamed to it. All that is told of the name before is about somebody else.
pub async fn held_since(
    store: &Store,
    names: &[&str],
    position: i64,
) -> Result<HashMap<String, i64>> {
    let connection = store.read();
    let column = position_column(connection);
    let mut held = HashMap::new();
    for chunk in names.chunks(CHUNK) {
        let sql = format!(
            "SELECT user_name, MAX({column}) AS position FROM orrery_events WHERE {column} > ? \
             AND (kind = ? OR (kind = ? AND data LIKE ?)) AND user_name IN ({}) GROUP BY user_name",
            marks(chunk.len())
        );
        let (created, changed) = (Kind::UserCreated.as_str(), Kind::UserChanged.as_str());
        let mut values = values![position, created, changed, format!("%\"{OLD_NAME}\":%")];
        values.extend(chunk.iter().map(|name| (*name).into()));
        for row in sql::rows(connection, &sql, values).await? {
            held.insert(row.try_get("", "user_name")?, row.try_get("", "position")?);
        }
    }
    Ok(held)
}

/// Deletes the oldest events, at most `limit`, that were written before `before`; gives their number. Call
/// it in a write transaction.
pub async fn prune(
    connection: &impl ConnectionTrait,
    before: NaiveDateTime,
    limit: u32,
) -> Result<u64> {
    // A row that nobody ever read must have its position too, or its loss would not be noticed.
    sequence(connection).await?;
    let oldest = sql::rows(
        connection,
        "SELECT id, at FROM orrery_events ORDER BY id LIMIT ?",
        values![i64::from(limit)],
    )
    .await?;
    let before = before.and_utc().timestamp_micros();
    let mut last = None;
    for row in oldest {
        if row.try_get::<i64>("", "at")? >= before {
            break;
        }
        last = Some(row.try_get::<i64>("", "id")?);
    }
    let Some(last) = last else { return Ok(0) };
    let column = position_column(connection);
    let sql = format!("SELECT MAX({column}) AS n FROM orrery_events WHERE id <= ?");
    let pruned = sql::count(connection, &sql, values![last]).await?;
    let pruned = i64::try_from(pruned).unwrap_or(i64::MAX);
    let sql = "UPDATE orrery_events_mark SET pruned = ? WHERE pruned < ?";
    sql::execute(connection, sql, values![pruned, pruned]).await?;
    sql::execute(
        connection,
        "DELETE FROM orrery_events WHERE id <= ?",
        values![last],
    )
    .await
}

/// Makes the one row of the marks. Call it while nobody else makes tables.
pub(crate) async fn prepare(connection: &impl ConnectionTrait) -> Result<()> {
    let sql = "SELECT COUNT(*) AS n FROM orrery_events_mark";
    if sql::count(connection, sql, vec![]).await? == 0 {
        let sql = "INSERT INTO orrery_events_mark (id, last_seq, pruned) VALUES (1, 0, 0)";
        sql::execute(connection, sql, vec![]).await?;
    }
    Ok(())
}

fn now() -> i64 {
    // Nothing is decided by this time but when the row is thrown away.
    SystemClock.now().and_utc().timestamp_micros()
}

fn position_column(connection: &impl ConnectionTrait) -> &'static str {
    match connection.get_database_backend() {
        DbBackend::Sqlite => "id",
        _ => "seq",
    }
}

async fn read_span(connection: &impl ConnectionTrait) -> Result<Span> {
    let last = match connection.get_database_backend() {
        DbBackend::Sqlite => "COALESCE((SELECT MAX(id) FROM orrery_events), pruned)",
        _ => "last_seq",
    };
    let sql = format!("SELECT {last} AS last_position, pruned FROM orrery_events_mark");
    let row = sql::rows(connection, &sql, vec![])
        .await?
        .pop()
        .ok_or_else(|| StoreError::Corrupt("orrery_events_mark is empty".to_owned()))?;
    Ok(Span {
        pruned: row.try_get("", "pruned")?,
        last: row.try_get("", "last_position")?,
    })
}

/// Gives positions to the rows that became visible since the last time, if there are any.
async fn sequence_new(store: &Store) -> Result<()> {
    if store.read().get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let sql = "SELECT id FROM orrery_events WHERE seq IS NULL LIMIT 1";
    while !sql::rows(store.read(), sql, vec![]).await?.is_empty() {
        store
            .write(|transaction| async move { sequence(&transaction).await })
            .await?;
    }
    Ok(())
}

/// Gives positions to rows that have none. Whoever does it holds the mark's row until the commit, so
/// positions become visible in their order.
async fn sequence(connection: &impl ConnectionTrait) -> Result<()> {
    if connection.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let sql = "SELECT last_seq FROM orrery_events_mark WHERE id = 1 FOR UPDATE";
    let Some(mark) = sql::rows(connection, sql, vec![]).await?.pop() else {
        return Ok(());
    };
    let last: i64 = mark.try_get("", "last_seq")?;
    let new = sql::rows(
        connection,
        "SELECT id FROM orrery_events WHERE seq IS NULL ORDER BY id LIMIT ?",
        values![SEQUENCED],
    )
    .await?;
    let (Some(first), Some(end)) = (new.first(), new.last()) else {
        return Ok(());
    };
    let (first, end): (i64, i64) = (first.try_get("", "id")?, end.try_get("", "id")?);
    // All are moved by as much as the first needs to come after the last position given.
    let shift = (last + 1 - first).max(0);
    sql::execute(
        connection,
        "UPDATE orrery_events SET seq = id + ? WHERE seq IS NULL AND id >= ? AND id <= ?",
        values![shift, first, end],
    )
    .await?;
    let sql = "UPDATE orrery_events_mark SET last_seq = ? WHERE id = 1";
    sql::execute(connection, sql, values![end + shift]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in [
            Kind::UserCreated,
            Kind::UserChanged,
            Kind::UserDeleted,
            Kind::Server(Phase::Queued),
            Kind::Server(Phase::Starting),
            Kind::Server(Phase::Ready),
            Kind::Server(Phase::Stopping),
            Kind::Server(Phase::Stopped),
            Kind::Server(Phase::Failed),
            Kind::ServerRenamed,
            Kind::ServerDeleted,
        ] {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("server.painted"), None);
    }
}

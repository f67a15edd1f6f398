//! `orrery_runs`: one row for each life of a server, from request to stop. Ours, not upstream's.
//!
//! A run is *active* until it is stopped or failed; the unique `active_key` holds that a server has
//! at most one active run, whoever writes. Finished runs stay as a ledger of use.

use std::time::Duration;

use chrono::NaiveDateTime;
use orrery_core::phase::{Failure, Phase};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Value as SqlValue};
use serde_json::Value;

use crate::{
    error::StoreError,
    events, json,
    sql::{self, CHUNK, Result, from_row, marks, values},
    time,
};

/// A row of `orrery_runs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Key; never used twice.
    pub id: i64,
    /// Whose server it is, while the user exists. An active run without it is to be failed: somebody
    /// deleted the user while the server ran.
    pub user_id: Option<i32>,
    /// The row of `spawners`, while it exists.
    pub spawner_id: Option<i32>,
    /// The user's name when the run began.
    pub user_name: String,
    /// The server's name; empty for the default server.
    pub server_name: String,
    /// Where the run stands.
    pub phase: Phase,
    /// The replica that moves the run.
    pub owner: Option<String>,
    /// Until when it is the owner's.
    pub lease_until: Option<NaiveDateTime>,
    /// When the present phase has taken too long.
    pub deadline: Option<NaiveDateTime>,
    /// The last progress events, oldest first.
    pub events: Vec<Value>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Whether somebody asked to end it while it was pending.
    pub cancel_requested: bool,
    /// When it was asked for.
    pub queued_at: NaiveDateTime,
    /// When its turn came.
    pub started_at: Option<NaiveDateTime>,
    /// When the server answered.
    pub ready_at: Option<NaiveDateTime>,
    /// When it was asked to end.
    pub stopping_at: Option<NaiveDateTime>,
    /// When it had ended.
    pub ended_at: Option<NaiveDateTime>,
}

from_row!(Run {
    id,
    user_id,
    spawner_id,
    user_name,
    server_name,
    phase: phase,
    owner,
    lease_until,
    deadline,
    events: parsed,
    failure: parsed,
    cancel_requested,
    queued_at,
    started_at,
    ready_at,
    stopping_at,
    ended_at,
});

/// Where an active run stands, without what may be large.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Key.
    pub id: i64,
    /// The row of `spawners`, while it exists.
    pub spawner_id: Option<i32>,
    /// The user's name when the run began.
    pub user_name: String,
    /// The server's name; empty for the default server.
    pub server_name: String,
    /// Where the run stands.
    pub phase: Phase,
    /// When the present phase has taken too long.
    pub deadline: Option<NaiveDateTime>,
}

from_row!(Standing {
    id,
    spawner_id,
    user_name,
    server_name,
    phase: phase,
    deadline,
});

/// The columns of [`Standing`].
const STANDING: &str = "id, spawner_id, user_name, server_name, phase, deadline";

/// A run to add; it begins as [`Phase::Queued`].
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Whose server.
    pub user_id: i32,
    /// The row of `spawners`.
    pub spawner_id: i32,
    /// The user's name.
    pub user_name: String,
    /// The server's name; empty for the default server.
    pub server_name: String,
    /// The options that the user chose. The ledger keeps a copy, without uploaded files, if it is not
    /// large; what a start goes by stands in `spawners`.
    pub options: Value,
    /// The replica that will move it.
    pub owner: Option<String>,
    /// Until when it is the owner's.
    pub lease_until: Option<NaiveDateTime>,
    /// When waiting has taken too long.
    pub deadline: Option<NaiveDateTime>,
    /// Now.
    pub queued_at: NaiveDateTime,
}

/// Which runs a replica may take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// Those without an owner and those whose lease has ended.
    Expired,
    /// All active ones: for the only hub of a database, when it starts.
    All,
}

/// Every column but the options, which can be large and which nobody needs who asks where runs stand.
const COLUMNS: &str = "id, user_id, spawner_id, user_name, server_name, phase, owner, lease_until, deadline, \
     events, failure, cancel_requested, queued_at, started_at, ready_at, stopping_at, ended_at";

fn select(condition: &str) -> String {
    format!("SELECT {COLUMNS} FROM orrery_runs WHERE {condition}")
}

/// The condition of active runs, for queries that would otherwise look through the whole ledger: the
/// databases find these by the index on the phase. SQLite has no use of one for `IS NOT NULL`.
macro_rules! active {
    () => {
        "phase IN ('queued', 'starting', 'ready', 'stopping')"
    };
}

const OVERDUE: &str = concat!(active!(), " AND deadline < ? ORDER BY id");

const OWNED: &str = concat!(active!(), " AND owner = ? ORDER BY id");

const COUNTS: &str = concat!(
    "SELECT phase, COUNT(*) AS n FROM orrery_runs WHERE ",
    active!(),
    " GROUP BY phase ORDER BY phase"
);

const EXTEND_LEASES: &str = concat!(
    "UPDATE orrery_runs SET lease_until = ? WHERE owner = ? AND ",
    active!()
);

/// Lets one transaction after the other pass, on every database, until each has ended: what is counted
/// after this stays true until the commit. The first statement of its transaction, or the transaction
/// may see what was before. SQLite has one writer anyway.
pub async fn serialise(connection: &impl ConnectionTrait) -> Result<()> {
    if connection.get_database_backend() != DbBackend::Sqlite {
        let sql = "SELECT version FROM orrery_schema FOR UPDATE";
        sql::rows(connection, sql, vec![]).await?;
    }
    Ok(())
}

/// Adds a run. [`StoreError::Duplicate`] if the server has an active
/// run already.
pub async fn insert(connection: &impl ConnectionTrait, new: &NewRun) -> Result<i64> {
    let key = format!("{}/{}", new.user_id, new.server_name);
    // Other programs can delete a user while a server runs, and SQLite gives ids again: what is left
    // of the first one's run must not stand in the way of the next one's servers.
    sql::execute(
        connection,
        "UPDATE orrery_runs SET active_key = CONCAT('gone/', id) \
         WHERE active_key = ? AND user_id IS NULL",
        values![key.as_str()],
    )
    .await?;
    let columns: Vec<(&str, SqlValue)> = vec![
        ("user_id", new.user_id.into()),
        ("spawner_id", new.spawner_id.into()),
        ("user_name", new.user_name.as_str().into()),
        ("server_name", new.server_name.as_str().into()),
        ("active_key", key.into()),
        ("phase", Phase::Queued.as_str().into()),
        ("owner", new.owner.clone().into()),
        ("lease_until", new.lease_until.map(time::truncate).into()),
        ("deadline", new.deadline.map(time::truncate).into()),
        ("options", ledger_options(&new.options)),
        ("cancel_requested", false.into()),
        ("queued_at", time::truncate(new.queued_at).into()),
    ];
    let id = sql::insert(connection, "orrery_runs", columns).await?;
    events::run_moved(connection, id, Phase::Queued).await?;
    Ok(id)
}

/// The longest options that the ledger copies, in bytes of JSON.
const MAX_OPTIONS: usize = 16 * 1024;

/// What the ledger keeps of a start's options: no uploaded file, and nothing at all if they are large.
fn ledger_options(options: &Value) -> SqlValue {
    match json::dict(&without_uploads(options)) {
        SqlValue::String(Some(text)) if text.len() > MAX_OPTIONS => SqlValue::String(None),
        kept => kept,
    }
}

/// Bytes, as uploaded files are, stand in JSON as objects with this key.
const BYTES: &str = "__jupyterhub_bytes__";

fn without_uploads(value: &Value) -> Value {
    match value {
        Value::Object(fields) if fields.contains_key(BYTES) => Value::Null,
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), without_uploads(value)))
            .collect(),
        Value::Array(values) => values.iter().map(without_uploads).collect(),
        other => other.clone(),
    }
}

/// What the ledger kept of the options that a run was started with; null if they were too large.
pub async fn options(connection: &impl ConnectionTrait, id: i64) -> Result<Value> {
    let sql = "SELECT options FROM orrery_runs WHERE id = ?";
    match sql::rows(connection, sql, values![id]).await?.pop() {
        Some(row) => Ok(json::read_dict(&row, "", "options")?),
        None => Ok(Value::Null),
    }
}

/// Finds a run by id.
pub async fn find(connection: &impl ConnectionTrait, id: i64) -> Result<Option<Run>> {
    sql::one(connection, &select("id = ?"), values![id]).await
}

/// The active run of a server, if it has one.
pub async fn active(
    connection: &impl ConnectionTrait,
    user_id: i32,
    server_name: &str,
) -> Result<Option<Run>> {
    sql::one(
        connection,
        &select("active_key = ? AND user_id = ?"),
        values![format!("{user_id}/{server_name}"), user_id],
    )
    .await
}

/// The newest run of a spawner, active or not.
pub async fn latest(connection: &impl ConnectionTrait, spawner_id: i32) -> Result<Option<Run>> {
    sql::one(
        connection,
        &select("spawner_id = ? ORDER BY id DESC LIMIT 1"),
        values![spawner_id],
    )
    .await
}

/// The active runs of many users, by id.
pub async fn active_of_users(
    connection: &impl ConnectionTrait,
    user_ids: &[i32],
) -> Result<Vec<Run>> {
    let mut found: Vec<Run> = Vec::new();
    for chunk in user_ids.chunks(CHUNK) {
        let sql = select(&format!(
            "active_key IS NOT NULL AND user_id IN ({})",
            marks(chunk.len())
        ));
        let ids = chunk.iter().map(|id| (*id).into()).collect();
        found.extend(sql::all(connection, &sql, ids).await?);
    }
    found.sort_by_key(|run| run.id);
    Ok(found)
}

/// The runs in any of these phases, by id.
pub async fn list(connection: &impl ConnectionTrait, phases: &[Phase]) -> Result<Vec<Run>> {
    if phases.is_empty() {
        return Ok(Vec::new());
    }
    let sql = select(&format!("phase IN ({}) ORDER BY id", marks(phases.len())));
    let words = phases.iter().map(|phase| phase.as_str().into()).collect();
    sql::all(connection, &sql, words).await
}

/// Where every active run stands, by id.
pub async fn standing(connection: &impl ConnectionTrait) -> Result<Vec<Standing>> {
    let sql = format!(
        "SELECT {STANDING} FROM orrery_runs WHERE {} ORDER BY id",
        active!()
    );
    sql::all(connection, &sql, vec![]).await
}

/// Where the active runs of one replica stand, by id.
pub async fn standing_owned(
    connection: &impl ConnectionTrait,
    owner: &str,
) -> Result<Vec<Standing>> {
    let sql = format!(
        "SELECT {STANDING} FROM orrery_runs WHERE owner = ? AND {} ORDER BY id",
        active!()
    );
    sql::all(connection, &sql, values![owner]).await
}

/// How many active runs are nobody's, or of somebody whose lease has ended.
pub async fn count_free(connection: &impl ConnectionTrait, now: NaiveDateTime) -> Result<u64> {
    sql::count(
        connection,
        concat!(
            "SELECT COUNT(*) AS n FROM orrery_runs WHERE ",
            active!(),
            " AND (owner IS NULL OR lease_until IS NULL OR lease_until < ?)"
        ),
        values![time::truncate(now)],
    )
    .await
}

/// The failed runs that may have left something running: those with a deadline, which a run that has
/// ended does not have otherwise. Those of `owner`, and those that it may take over: all, or those whose
/// owner holds no lease of a run that lasts.
pub async fn with_leftovers(
    connection: &impl ConnectionTrait,
    which: TakeOver,
    owner: &str,
    now: NaiveDateTime,
) -> Result<Vec<Run>> {
    let mut values = values![Phase::Failed.as_str()];
    let whose = match which {
        TakeOver::All => "",
        TakeOver::Expired => {
            values.extend(values![owner, time::truncate(now)]);
            concat!(
                " AND (owner = ? OR owner IS NULL OR NOT EXISTS (SELECT 1 FROM orrery_runs AS held \
                 WHERE held.owner = orrery_runs.owner AND held.lease_until >= ? AND held.",
                active!(),
                "))"
            )
        }
    };
    let sql = format!(
        "SELECT * FROM orrery_runs WHERE phase = ? AND deadline IS NOT NULL{whose} ORDER BY id"
    );
    sql::all(connection, &sql, values).await
}

/// The active runs whose present phase has taken too long, by id.
pub async fn past_deadline(
    connection: &impl ConnectionTrait,
    now: NaiveDateTime,
) -> Result<Vec<Run>> {
    sql::all(connection, &select(OVERDUE), values![time::truncate(now)]).await
}

/// The active runs of one replica, by id.
pub async fn list_owned(connection: &impl ConnectionTrait, owner: &str) -> Result<Vec<Run>> {
    sql::all(connection, &select(OWNED), values![owner]).await
}

/// The runs that became ready or ended after `after` and not later than `until`, for statistics. Those
/// before the id `first` are not looked at; see [`first_open`].
pub async fn changed_between(
    connection: &impl ConnectionTrait,
    first: i64,
    after: NaiveDateTime,
    until: NaiveDateTime,
) -> Result<Vec<Run>> {
    let (after, until) = (time::truncate(after), time::truncate(until));
    sql::all(
        connection,
        &select(
            "id >= ? AND \
         ((ready_at > ? AND ready_at <= ?) OR (ended_at > ? AND ended_at <= ?)) ORDER BY id",
        ),
        values![first, after, until, after, until],
    )
    .await
}

/// The first id, from `first` on, of a run that did not end before `until`: nothing will ever be said of
/// earlier ones that happened later.
pub async fn first_open(
    connection: &impl ConnectionTrait,
    first: i64,
    until: NaiveDateTime,
) -> Result<i64> {
    let found = sql::count(
        connection,
        "SELECT COALESCE(MIN(CASE WHEN active_key IS NOT NULL OR ended_at > ? THEN id END), \
         MAX(id) + 1, 0) AS n FROM orrery_runs WHERE id >= ?",
        values![time::truncate(until), first],
    )
    .await?;
    Ok(i64::try_from(found).unwrap_or(i64::MAX).max(first))
}

/// How many runs are in each active phase that has any.
pub async fn counts(connection: &impl ConnectionTrait) -> Result<Vec<(Phase, u64)>> {
    sql::rows(connection, COUNTS, vec![])
        .await?
        .iter()
        .map(|row| {
            let number: i64 = row.try_get("", "n")?;
            Ok((
                read_phase(row, "", "phase")?,
                u64::try_from(number).unwrap_or_default(),
            ))
        })
        .collect()
}

/// How many runs are in any of these phases.
pub async fn count_in(connection: &impl ConnectionTrait, phases: &[Phase]) -> Result<u64> {
    if phases.is_empty() {
        return Ok(0);
    }
    let sql = format!(
        "SELECT COUNT(*) AS n FROM orrery_runs WHERE phase IN ({})",
        marks(phases.len())
    );
    let words = phases.iter().map(|phase| phase.as_str().into()).collect();
    sql::count(connection, &sql, words).await
}

/// Moves a run from one phase to another, notes the time, and sets the new phase's deadline.
/// Says whether it happened: `false` means that the run was no longer in `from`. A run that ends
/// gives up its lease.
pub async fn transition(
    connection: &impl ConnectionTrait,
    id: i64,
    from: Phase,
    to: Phase,
    now: NaiveDateTime,
    deadline: Option<NaiveDateTime>,
) -> Result<bool> {
    let moved = move_phase(connection, id, (from, to), now, deadline).await?;
    if moved {
        events::run_moved(connection, id, to).await?;
    }
    Ok(moved)
}

async fn move_phase(
    connection: &impl ConnectionTrait,
    id: i64,
    (from, to): (Phase, Phase),
    now: NaiveDateTime,
    deadline: Option<NaiveDateTime>,
) -> Result<bool> {
    let time_column = match to {
        Phase::Queued => "queued_at",
        Phase::Starting => "started_at",
        Phase::Ready => "ready_at",
        Phase::Stopping => "stopping_at",
        Phase::Stopped | Phase::Failed => "ended_at",
    };
    let end = if to.is_active() {
        ""
    } else {
        ", active_key = NULL, lease_until = NULL"
    };
    let sql = format!(
        "UPDATE orrery_runs SET phase = ?, {time_column} = ?, deadline = ?{end} \
         WHERE id = ? AND phase = ?"
    );
    let values = values![
        to.as_str(),
        time::truncate(now),
        deadline.map(time::truncate),
        id,
        from.as_str()
    ];
    Ok(sql::execute(connection, &sql, values).await? == 1)
}

/// Ends a run as failed, from the phase it was in, with the reason. Says whether it happened.
pub async fn fail(
    connection: &impl ConnectionTrait,
    id: i64,
    from: Phase,
    failure: &Failure,
    now: NaiveDateTime,
) -> Result<bool> {
    if !move_phase(connection, id, (from, Phase::Failed), now, None).await? {
        return Ok(false);
    }
    set_failure(connection, id, failure).await?;
    events::run_moved(connection, id, Phase::Failed).await?;
    Ok(true)
}

/// Notes why a run fails, whatever its phase.
pub async fn set_failure(
    connection: &impl ConnectionTrait,
    id: i64,
    failure: &Failure,
) -> Result<bool> {
    let sql = "UPDATE orrery_runs SET failure = ? WHERE id = ?";
    Ok(sql::execute(connection, sql, values![json::to_text(failure), id]).await? == 1)
}

/// Deletes the oldest runs that ended before `before`, at most `limit`; gives their number.
pub async fn prune(
    connection: &impl ConnectionTrait,
    before: NaiveDateTime,
    limit: u32,
) -> Result<u64> {
    let old = sql::rows(
        connection,
        "SELECT id FROM orrery_runs WHERE active_key IS NULL AND ended_at < ? ORDER BY id LIMIT ?",
        values![time::truncate(before), i64::from(limit)],
    )
    .await?;
    let mut deleted = 0;
    for chunk in old.chunks(CHUNK) {
        let mut ids = Vec::with_capacity(chunk.len());
        for row in chunk {
            ids.push(row.try_get::<i64>("", "id")?.into());
        }
        let sql = format!("DELETE FROM orrery_runs WHERE id IN ({})", marks(ids.len()));
        deleted += sql::execute(connection, &sql, ids).await?;
    }
    Ok(deleted)
}

/// Asks to end a pending run; its owner sees it at the next look. Says whether it was active.
pub async fn request_cancel(connection: &impl ConnectionTrait, id: i64) -> Result<bool> {
    let sql = "UPDATE orrery_runs SET cancel_requested = ? WHERE id = ? AND active_key IS NOT NULL";
    Ok(sql::execute(connection, sql, values![true, id]).await? == 1)
}

/// Moves the present phase's deadline.
pub async fn set_deadline(
    connection: &impl ConnectionTrait,
    id: i64,
    phase: Phase,
    deadline: Option<NaiveDateTime>,
) -> Result<bool> {
    let sql = "UPDATE orrery_runs SET deadline = ? WHERE id = ? AND phase = ?";
    let values = values![deadline.map(time::truncate), id, phase.as_str()];
    Ok(sql::execute(connection, sql, values).await? == 1)
}

/// Lengthens the lease of one run. `false` means that it is no longer the owner's: stop moving it.
pub async fn extend_lease(
    connection: &impl ConnectionTrait,
    id: i64,
    owner: &str,
    until: NaiveDateTime,
) -> Result<bool> {
    let sql = "UPDATE orrery_runs SET lease_until = ? \
               WHERE id = ? AND owner = ? AND active_key IS NOT NULL";
    let values = values![time::truncate(until), id, owner];
    Ok(sql::execute(connection, sql, values).await? == 1)
}

/// Lengthens the lease of every active run of a replica.
pub async fn extend_leases(
    connection: &impl ConnectionTrait,
    owner: &str,
    until: NaiveDateTime,
) -> Result<u64> {
    sql::execute(
        connection,
        EXTEND_LEASES,
        values![time::truncate(until), owner],
    )
    .await
}

/// Makes active runs of others this replica's, and gives them as they now are.
pub async fn take_over(
    connection: &impl ConnectionTrait,
    which: TakeOver,
    owner: &str,
    now: NaiveDateTime,
    until: NaiveDateTime,
) -> Result<Vec<Run>> {
    let (now, until) = (time::truncate(now), time::truncate(until));
    let (free, free_values) = match which {
        TakeOver::Expired => (
            "(owner IS NULL OR lease_until IS NULL OR lease_until < ?)",
            values![now],
        ),
        TakeOver::All => ("(owner IS NULL OR owner <> ?)", values![owner]),
    };
    let sql = select(&format!("{} AND {free} ORDER BY id", active!()));
    let candidates: Vec<Run> = sql::all(connection, &sql, free_values.clone()).await?;
    let sql = format!(
        "UPDATE orrery_runs SET owner = ?, lease_until = ? \
         WHERE id = ? AND active_key IS NOT NULL AND {free}"
    );
    let mut taken = Vec::new();
    for mut run in candidates {
        let mut values = values![owner, until, run.id];
        values.extend(free_values.clone());
        // Another replica may have been faster, or the run may have ended.
        if sql::execute(connection, &sql, values).await? == 1 {
            run.owner = Some(owner.to_owned());
            run.lease_until = Some(until);
            taken.push(run);
        }
    }
    Ok(taken)
}

/// Adds a progress event and keeps the last `keep`. Call it in a write transaction.
pub async fn append_event(
    connection: &impl ConnectionTrait,
    id: i64,
    event: &Value,
    keep: usize,
) -> Result<bool> {
    let lock = if connection.get_database_backend() == DbBackend::Sqlite {
        ""
    } else {
        " FOR UPDATE"
    };
    let sql = format!("SELECT events FROM orrery_runs WHERE id = ?{lock}");
    let Some(row) = sql::rows(connection, &sql, values![id]).await?.pop() else {
        return Ok(false);
    };
    let mut events: Vec<Value> = read_parsed(&row, "", "events")?;
    events.push(event.clone());
    let surplus = events.len().saturating_sub(keep);
    events.drain(..surplus);
    let sql = "UPDATE orrery_runs SET events = ? WHERE id = ?";
    sql::execute(connection, sql, values![json::to_text(&events), id]).await?;
    Ok(true)
}

/// The waiting runs in the order in which they shall start. Whoever has fewer servers that start or
/// run comes first, and everybody's first waiting server before anybody's second; then first come,
/// first served.
pub async fn queue(connection: &impl ConnectionTrait) -> Result<Vec<Run>> {
    sql::all(connection, &queue_sql(), vec![]).await
}

/// The first `count` of [`queue`].
pub async fn queue_front(connection: &impl ConnectionTrait, count: u32) -> Result<Vec<Run>> {
    let sql = format!("{} LIMIT ?", queue_sql());
    sql::all(connection, &sql, values![i64::from(count)]).await
}

const QUEUED: &str = "orrery_runs r JOIN ( \
         SELECT q.id, ROW_NUMBER() OVER (PARTITION BY q.user_name ORDER BY q.queued_at, q.id) \
         + (SELECT COUNT(*) FROM orrery_runs s \
            WHERE s.user_id = q.user_id AND s.phase IN ('starting', 'ready')) AS turn \
         FROM orrery_runs q WHERE q.phase = 'queued') t ON t.id = r.id \
     ORDER BY t.turn, r.queued_at, r.id";

fn queue_sql() -> String {
    format!("SELECT r.{} FROM {QUEUED}", COLUMNS.replace(", ", ", r."))
}

/// The place of a waiting run in [`queue`], beginning with 1.
pub async fn queue_place(connection: &impl ConnectionTrait, id: i64) -> Result<Option<usize>> {
    let queue = queue(connection).await?;
    Ok(queue
        .iter()
        .position(|run| run.id == id)
        .map(|index| index + 1))
}

/// How long the last `count` successful starts took, newest first; from them comes the expected time.
pub async fn recent_start_times(
    connection: &impl ConnectionTrait,
    count: u32,
) -> Result<Vec<Duration>> {
    let rows = sql::rows(
        connection,
        "SELECT started_at, ready_at FROM orrery_runs \
         WHERE ready_at IS NOT NULL AND started_at IS NOT NULL ORDER BY id DESC LIMIT ?",
        values![i64::from(count)],
    )
    .await?;
    rows.iter()
        .map(|row| {
            let started: NaiveDateTime = row.try_get("", "started_at")?;
            let ready: NaiveDateTime = row.try_get("", "ready_at")?;
            Ok((ready - started).to_std().unwrap_or_default())
        })
        .collect()
}

pub(crate) fn read_phase(
    row: &QueryResult,
    prefix: &str,
    column: &str,
) -> std::result::Result<Phase, DbErr> {
    let word: String = row.try_get(prefix, column)?;
    Phase::from_word(&word).ok_or_else(|| DbErr::Type(format!("unknown phase {word:?}")))
}

pub(crate) fn read_parsed<T: Default + serde::de::DeserializeOwned>(
    row: &QueryResult,
    prefix: &str,
    column: &str,
) -> std::result::Result<T, DbErr> {
    match row.try_get::<Option<String>>(prefix, column)? {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| DbErr::Json(format!("column {column}: {error}"))),
    }
}

/// Refuses when a run of this user (`user_id`) or server (`spawner_id`) has not ended.
pub(crate) async fn refuse_active(
    connection: &impl ConnectionTrait,
    column: &str,
    id: i32,
) -> Result<()> {
    let sql = select(&format!(
        "{column} = ? AND active_key IS NOT NULL ORDER BY id LIMIT 1"
    ));
    match sql::one::<Run>(connection, &sql, values![id]).await? {
        None => Ok(()),
        Some(run) => Err(StoreError::StillActive(format!(
            "{}/{}",
            run.user_name, run.server_name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::Value as SqlValue;
    use serde_json::json;

    use super::*;
    use crate::{DbUrl, Store, StoreOptions};

    #[tokio::test]
    async fn counting_runs_and_each_tick_looked_through_the_whole_ledger() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = DbUrl::file(folder.path().join("hub.sqlite"));
        let store = Store::open(&url, StoreOptions::default())
            .await
            .expect("a database");
        let text = || SqlValue::from("x");
        for (sql, values) in [
            (COUNTS.to_owned(), vec![]),
            (select(OWNED), vec![text()]),
            (select(OVERDUE), vec![text()]),
            (EXTEND_LEASES.to_owned(), vec![text(), text()]),
        ] {
            let plan = format!("EXPLAIN QUERY PLAN {sql}");
            let rows = sql::rows(store.read(), &plan, values)
                .await
                .expect("a plan");
            assert!(!rows.is_empty());
            for row in rows {
                let step: String = row.try_get("", "detail").expect("a step");
                assert!(!step.contains("SCAN"), "{sql}: {step}");
            }
        }
    }

    #[test]
    fn an_uploaded_file_was_kept_in_every_run() {
        let bytes = json!({"__jupyterhub_bytes__": true, "data": "/wA="});
        let options = json!({
            "image": "small",
            "key_file": [{"filename": "key", "body": bytes, "content_type": "text/plain"}],
        });
        let kept = json!({
            "image": "small",
            "key_file": [{"filename": "key", "body": null, "content_type": "text/plain"}],
        });
        assert_eq!(ledger_options(&options), json::dict(&kept));
        let large = json!({"text": "x".repeat(MAX_OPTIONS)});
        assert_eq!(ledger_options(&large), SqlValue::String(None));
    }
}

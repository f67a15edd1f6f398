//! `orrery_runs`: one row for each life of a server, from request to stop. Ours, not upstream's.
//!
//! A run is *active* until it is stopped or failed; the unique `active_key` holds that a server has
//! at most one active run, whoever writes. Finished runs stay as a ledger of use.

mod leases;
mod ledger;
mod moves;
mod queue;
mod standing;

use chrono::NaiveDateTime;
use orrery_core::phase::{Failure, Phase};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Value as SqlValue};
use serde_json::Value;

use crate::{
    error::StoreError,
    events,
    sql::{self, CHUNK, Result, from_row, marks, values},
    time,
};

pub use leases::{TakeOver, extend_lease, extend_leases, list_owned, take_over, with_leftovers};
pub use ledger::{changed_between, first_open, options, prune, recent_start_times};
pub use moves::{append_event, fail, request_cancel, set_deadline, set_failure, transition};
pub use queue::{queue, queue_front, queue_place};
pub use standing::{Standing, count_free, count_in, counts, standing, standing_owned};

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

/// Every column but the options, which can be large and which nobody needs who asks where runs stand.
const COLUMNS: &str = "id, user_id, spawner_id, user_name, server_name, phase, owner, lease_until, deadline, \
     events, failure, cancel_requested, queued_at, started_at, ready_at, stopping_at, ended_at";

fn select(condition: &str) -> String {
    format!("SELECT {COLUMNS} FROM orrery_runs WHERE {condition}")
}

/// The condition of active runs, for queries that would otherwise look through the whole ledger: the
/// databases find these by the index on the phase. SQLite has no use of one for `IS NOT NULL`.
macro_rules! is_active {
    () => {
        "phase IN ('queued', 'starting', 'ready', 'stopping')"
    };
}
use is_active;

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
        ("options", ledger::kept_options(&new.options)),
        ("cancel_requested", false.into()),
        ("queued_at", time::truncate(new.queued_at).into()),
    ];
    let id = sql::insert(connection, "orrery_runs", columns).await?;
    events::run_moved(connection, id, Phase::Queued).await?;
    Ok(id)
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

    use super::*;
    use super::{
        leases::{EXTEND_LEASES, OWNED},
        standing::COUNTS,
    };
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
}

//! What changes a run: its phase, by compare-and-set, and what is noted on its way.

use chrono::NaiveDateTime;
use orrery_core::phase::{Failure, Phase};
use sea_orm::{ConnectionTrait, DbBackend};
use serde_json::Value;

use super::read_parsed;
use crate::{
    events, json,
    sql::{self, Result, values},
    time,
};

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

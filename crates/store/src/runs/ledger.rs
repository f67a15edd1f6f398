//! Finished runs, as a ledger of use: what it keeps, what statistics read of it, and its end.

use std::time::Duration;

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, Value as SqlValue};
use serde_json::Value;

use super::{Run, select};
use crate::{
    json, old_rows,
    sql::{self, Result, values},
    time,
};

/// What the ledger kept of the options that a run was started with; null if they were too large.
pub async fn options(connection: &impl ConnectionTrait, id: i64) -> Result<Value> {
    let sql = "SELECT options FROM orrery_runs WHERE id = ?";
    match sql::rows(connection, sql, values![id]).await?.pop() {
        Some(row) => Ok(json::read_dict(&row, "", "options")?),
        None => Ok(Value::Null),
    }
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

/// Deletes the oldest runs that ended before `before`, at most `limit`; gives their number.
pub async fn prune(
    connection: &impl ConnectionTrait,
    before: NaiveDateTime,
    limit: u32,
) -> Result<u64> {
    old_rows::delete(
        connection,
        "orrery_runs",
        "SELECT id FROM orrery_runs WHERE active_key IS NULL AND ended_at < ? ORDER BY id LIMIT ?",
        values![time::truncate(before), i64::from(limit)],
    )
    .await
}

/// The longest options that the ledger copies, in bytes of JSON.
const MAX_OPTIONS: usize = 16 * 1024;

/// What the ledger keeps of a start's options: no uploaded file, and nothing at all if they are large.
pub(super) fn kept_options(options: &Value) -> SqlValue {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        assert_eq!(kept_options(&options), json::dict(&kept));
        let large = json!({"text": "x".repeat(MAX_OPTIONS)});
        assert_eq!(kept_options(&large), SqlValue::String(None));
    }
}

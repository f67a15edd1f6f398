//! `orrery_audit`: who did what, from where. Ours, not upstream's.
//!
//! Rows are only added, and deleted only when they are too old: there is no way to change one. Names
//! stand in them as text, so that a row outlives the user or server that it is about.

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, Value as SqlValue};
use serde_json::Value;

use crate::{
    old_rows,
    sql::{self, CHUNK, Result, from_row, marks, values},
    time,
};

/// A row of `orrery_audit`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Key; newer rows have greater ones.
    pub id: i64,
    /// When it happened; of several that one row counts, the first.
    pub at: NaiveDateTime,
    /// What was done: `token.create`.
    pub action: String,
    /// `ok`, `failed` or `denied`.
    pub outcome: String,
    /// How often it happened; more than 1 where equal events share a row.
    pub repeats: i32,
    /// `user`, `service`, `hub`, or empty for somebody unknown.
    pub actor_kind: String,
    /// Who did it.
    pub actor: String,
    /// What they proved themselves by: `cookie`, `token`, `password`, `config`, or empty.
    pub via: String,
    /// The token that was used.
    pub token_id: Option<i32>,
    /// The OAuth client that it was issued to.
    pub oauth_client: Option<String>,
    /// The network address that it came from; empty where there is none.
    pub address: String,
    /// What kind of thing it was done to: `user`, `group`, `service`, …
    pub target_kind: String,
    /// Its name.
    pub target: String,
    /// Whose server, token or share it was about.
    pub owner: Option<String>,
    /// Which server of theirs; empty for the default server.
    pub server: Option<String>,
    /// What else there is to say, as an object.
    pub details: Value,
}

from_row!(Row {
    id,
    at,
    action,
    outcome,
    repeats,
    actor_kind,
    actor,
    via,
    token_id,
    oauth_client,
    address,
    target_kind,
    target,
    owner,
    server,
    details: dict,
});

/// The columns that an added row has, in the order of [`values_of`].
const COLUMNS: &str = "at, action, outcome, repeats, actor_kind, actor, via, token_id, oauth_client, \
    address, target_kind, target, owner, server, details";

/// How many columns those are.
const WIDTH: usize = 15;

/// A name that somebody had for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The name.
    pub name: String,
    /// From when on.
    pub since: Option<NaiveDateTime>,
    /// Until when.
    pub until: Option<NaiveDateTime>,
}

/// Which rows to list. Everything that is set must fit.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// These actions.
    pub actions: Vec<String>,
    /// This outcome.
    pub outcome: Option<String>,
    /// This actor, by name.
    pub actor: Option<String>,
    /// Not what the owner did, by the name of then. A service of that name is somebody else.
    pub by_others: bool,
    /// This target, by name.
    pub target: Option<String>,
    /// This owner.
    pub owner: Option<String>,
    /// An owner who had one of these names then; nobody in particular if there are none.
    pub held: Vec<Held>,
    /// This server of the owner's.
    pub server: Option<String>,
    /// From this address.
    pub address: Option<String>,
    /// At this time or later.
    pub since: Option<NaiveDateTime>,
    /// Before this time.
    pub until: Option<NaiveDateTime>,
    /// Rows that are older than the one with this key: the next page.
    pub before: Option<i64>,
    /// How many at most.
    pub limit: u64,
}

/// Adds rows, in their order. Their `id` is not looked at.
pub async fn insert(connection: &impl ConnectionTrait, rows: &[Row]) -> Result<()> {
    for chunk in rows.chunks(CHUNK / WIDTH) {
        let one = format!("({})", marks(WIDTH));
        let all = vec![one; chunk.len()].join(", ");
        let sql = format!("INSERT INTO orrery_audit ({COLUMNS}) VALUES {all}");
        let values = chunk.iter().flat_map(values_of).collect();
        sql::execute(connection, &sql, values).await?;
    }
    Ok(())
}

fn values_of(row: &Row) -> [SqlValue; WIDTH] {
    [
        time::truncate(row.at).into(),
        row.action.as_str().into(),
        row.outcome.as_str().into(),
        row.repeats.into(),
        row.actor_kind.as_str().into(),
        row.actor.as_str().into(),
        row.via.as_str().into(),
        row.token_id.into(),
        row.oauth_client.clone().into(),
        row.address.as_str().into(),
        row.target_kind.as_str().into(),
        row.target.as_str().into(),
        row.owner.clone().into(),
        row.server.clone().into(),
        crate::json::dict(&row.details),
    ]
}

/// The rows that fit, newest first.
pub async fn list(connection: &impl ConnectionTrait, query: &AuditQuery) -> Result<Vec<Row>> {
    let mut conditions: Vec<String> = Vec::new();
    let mut values: Vec<SqlValue> = Vec::new();
    if !query.actions.is_empty() {
        conditions.push(format!("action IN ({})", marks(query.actions.len())));
        values.extend(query.actions.iter().map(|action| action.as_str().into()));
    }
    let texts = [
        ("outcome = ?", &query.outcome),
        ("actor = ?", &query.actor),
        ("target = ?", &query.target),
        ("owner = ?", &query.owner),
        ("server = ?", &query.server),
        ("address = ?", &query.address),
    ];
    for (condition, value) in texts {
        if let Some(value) = value {
            conditions.push(condition.to_owned());
            values.push(value.as_str().into());
        }
    }
    if query.by_others {
        conditions.push("NOT (actor_kind = 'user' AND actor = owner)".to_owned());
    }
    for (condition, time) in [("at >= ?", query.since), ("at < ?", query.until)] {
        if let Some(time) = time {
            conditions.push(condition.to_owned());
            values.push(time::truncate(time).into());
        }
    }
    let mut held = Vec::with_capacity(query.held.len());
    for Held { name, since, until } in &query.held {
        let mut condition = "owner = ?".to_owned();
        values.push(name.as_str().into());
        for (part, time) in [(" AND at >= ?", since), (" AND at < ?", until)] {
            if let Some(time) = time {
                condition.push_str(part);
                values.push(time::truncate(*time).into());
            }
        }
        held.push(format!("({condition})"));
    }
    if !held.is_empty() {
        conditions.push(format!("({})", held.join(" OR ")));
    }
    if let Some(before) = query.before {
        conditions.push("id < ?".to_owned());
        values.push(before.into());
    }
    let filter = if conditions.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", conditions.join(" AND "))
    };
    values.push(i64::try_from(query.limit).unwrap_or(i64::MAX).into());
    let sql = format!("SELECT * FROM orrery_audit {filter} ORDER BY id DESC LIMIT ?");
    sql::all(connection, &sql, values).await
}

/// Deletes at most `limit` rows of before `before`, the oldest first; gives their number.
pub async fn prune(
    connection: &impl ConnectionTrait,
    before: NaiveDateTime,
    limit: u32,
) -> Result<u64> {
    old_rows::delete(
        connection,
        "orrery_audit",
        "SELECT id FROM orrery_audit WHERE at < ? ORDER BY at LIMIT ?",
        values![time::truncate(before), i64::from(limit)],
    )
    .await
}

//! Where active runs stand, and how many there are, without what may be large.

use chrono::NaiveDateTime;
use orrery_core::phase::Phase;
use sea_orm::ConnectionTrait;

use super::{is_active, read_phase};
use crate::{
    sql::{self, Result, from_row, marks, values},
    time,
};

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

/// Where every active run stands, by id.
pub async fn standing(connection: &impl ConnectionTrait) -> Result<Vec<Standing>> {
    let sql = format!(
        "SELECT {STANDING} FROM orrery_runs WHERE {} ORDER BY id",
        is_active!()
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
        is_active!()
    );
    sql::all(connection, &sql, values![owner]).await
}

pub(super) const COUNTS: &str = concat!(
    "SELECT phase, COUNT(*) AS n FROM orrery_runs WHERE ",
    is_active!(),
    " GROUP BY phase ORDER BY phase"
);

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

/// How many active runs are nobody's, or of somebody whose lease has ended.
pub async fn count_free(connection: &impl ConnectionTrait, now: NaiveDateTime) -> Result<u64> {
    sql::count(
        connection,
        concat!(
            "SELECT COUNT(*) AS n FROM orrery_runs WHERE ",
            is_active!(),
            " AND (owner IS NULL OR lease_until IS NULL OR lease_until < ?)"
        ),
        values![time::truncate(now)],
    )
    .await
}

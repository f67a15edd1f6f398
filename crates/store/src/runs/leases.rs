//! Which replica moves a run, and until when.

use chrono::NaiveDateTime;
use orrery_core::phase::Phase;
use sea_orm::ConnectionTrait;

use super::{Run, is_active, select};
use crate::{
    sql::{self, Result, values},
    time,
};

/// Which runs a replica may take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// Those without an owner and those whose lease has ended.
    Expired,
    /// All active ones: for the only hub of a database, when it starts.
    All,
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
    let sql = select(&format!("{} AND {free} ORDER BY id", is_active!()));
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

pub(super) const EXTEND_LEASES: &str = concat!(
    "UPDATE orrery_runs SET lease_until = ? WHERE owner = ? AND ",
    is_active!()
);

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

pub(super) const OWNED: &str = concat!(is_active!(), " AND owner = ? ORDER BY id");

/// The active runs of one replica, by id.
pub async fn list_owned(connection: &impl ConnectionTrait, owner: &str) -> Result<Vec<Run>> {
    sql::all(connection, &select(OWNED), values![owner]).await
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
                is_active!(),
                "))"
            )
        }
    };
    let sql = format!(
        "SELECT * FROM orrery_runs WHERE phase = ? AND deadline IS NOT NULL{whose} ORDER BY id"
    );
    sql::all(connection, &sql, values).await
}

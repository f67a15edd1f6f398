//! The waiting runs, in the order in which they shall start.

use sea_orm::ConnectionTrait;

use super::{COLUMNS, Run};
use crate::sql::{self, Result, values};

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

/// The place of a waiting run in [`queue`], beginning with 1.
pub async fn queue_place(connection: &impl ConnectionTrait, id: i64) -> Result<Option<usize>> {
    let queue = queue(connection).await?;
    Ok(queue
        .iter()
        .position(|run| run.id == id)
        .map(|index| index + 1))
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

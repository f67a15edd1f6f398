//! Deleting what is too old, a bounded number of rows at a time.

use sea_orm::{ConnectionTrait, Value};

use crate::sql::{self, CHUNK, Result, marks};

/// Deletes the rows of `table` whose ids the query `old` gives; says how many there were.
pub(crate) async fn delete(
    connection: &impl ConnectionTrait,
    table: &str,
    old: &str,
    values: Vec<Value>,
) -> Result<u64> {
    let old = sql::rows(connection, old, values).await?;
    let mut deleted = 0;
    for chunk in old.chunks(CHUNK) {
        let mut ids = Vec::with_capacity(chunk.len());
        for row in chunk {
            ids.push(row.try_get::<i64>("", "id")?.into());
        }
        let sql = format!("DELETE FROM {table} WHERE id IN ({})", marks(ids.len()));
        deleted += sql::execute(connection, &sql, ids).await?;
    }
    Ok(deleted)
}

//! The one place that turns SQL text and values into statements for each dialect.
//!
//! Statements are written once, in plain SQL: `?` for each value, `"name"` for words that are
//! reserved somewhere. [`statement`] translates both, and binds times on SQLite as the text that
//! SQLAlchemy writes.

use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};

use crate::{error::StoreError, time};

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// A list of values to bind.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$(sea_orm::Value::from($value)),*] };
}
pub(crate) use values;

/// Reads a row into a struct; columns that are JSON, lists or nullable flags say so.
macro_rules! from_row {
    ($type:ident { $($field:ident $(: $kind:ident)?),* $(,)? }) => {
        impl sea_orm::FromQueryResult for $type {
            fn from_query_result(
                row: &sea_orm::QueryResult,
                prefix: &str,
            ) -> std::result::Result<Self, sea_orm::DbErr> {
                Ok(Self { $($field: $crate::sql::from_row!(@read row, prefix, stringify!($field) $(, $kind)?)),* })
            }
        }
    };
    (@read $row:ident, $prefix:ident, $name:expr) => { $row.try_get($prefix, $name)? };
    (@read $row:ident, $prefix:ident, $name:expr, dict) => { $crate::json::read_dict($row, $prefix, $name)? };
    (@read $row:ident, $prefix:ident, $name:expr, list) => { $crate::json::read_list($row, $prefix, $name)? };
    (@read $row:ident, $prefix:ident, $name:expr, phase) => { $crate::runs::read_phase($row, $prefix, $name)? };
    (@read $row:ident, $prefix:ident, $name:expr, parsed) => { $crate::runs::read_parsed($row, $prefix, $name)? };
    (@read $row:ident, $prefix:ident, $name:expr, time) => { $crate::time::read($row, $prefix, $name)? };
    (@read $row:ident, $prefix:ident, $name:expr, or_default) => {
        $row.try_get::<Option<_>>($prefix, $name)?.unwrap_or_default()
    };
}
pub(crate) use from_row;

/// Builds the statement for the connection's dialect.
pub(crate) fn statement(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Statement {
    let backend = connection.get_database_backend();
    let values = if backend == DbBackend::Sqlite {
        values.into_iter().map(time_as_text).collect()
    } else {
        values
    };
    Statement::from_sql_and_values(backend, translate(backend, sql), values)
}

/// Runs a statement and says how many rows it changed.
pub(crate) async fn execute(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<u64> {
    let statement = statement(connection, sql, values);
    Ok(connection.execute_raw(statement).await?.rows_affected())
}

/// Inserts a row and gives its id.
pub(crate) async fn insert(
    connection: &impl ConnectionTrait,
    table: &str,
    columns: Vec<(&str, Value)>,
) -> Result<i64> {
    let names: Vec<_> = columns
        .iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    let marks = vec!["?"; names.len()].join(", ");
    let mut sql = format!(
        "INSERT INTO \"{table}\" ({}) VALUES ({marks})",
        names.join(", ")
    );
    let values = columns.into_iter().map(|(_, value)| value).collect();
    if connection.get_database_backend() == DbBackend::Postgres {
        sql.push_str(" RETURNING id");
        let row = connection
            .query_one_raw(statement(connection, &sql, values))
            .await?
            .ok_or(DbErr::RecordNotInserted)?;
        // Upstream's ids are 32 bits wide, ours 64.
        return Ok(match row.try_get::<i32>("", "id") {
            Ok(id) => id.into(),
            Err(_) => row.try_get::<i64>("", "id")?,
        });
    }
    let done = connection
        .execute_raw(statement(connection, &sql, values))
        .await?;
    i64::try_from(done.last_insert_id())
        .map_err(|_| StoreError::Corrupt(format!("an id of {table} is out of range")))
}

/// Inserts into one of upstream's tables, whose ids have 32 bits.
pub(crate) async fn insert_upstream(
    connection: &impl ConnectionTrait,
    table: &str,
    columns: Vec<(&str, Value)>,
) -> Result<i32> {
    i32::try_from(insert(connection, table, columns).await?)
        .map_err(|_| StoreError::Corrupt(format!("an id of {table} is out of range")))
}

/// Inserts a row whose `key` is unique, as [`insert_upstream`] does.
/// [`StoreError::Lookalike`] where only the database takes the key for that of another row.
pub(crate) async fn insert_unique(
    connection: &impl ConnectionTrait,
    table: &'static str,
    key: (&str, &str),
    mut columns: Vec<(&str, Value)>,
) -> Result<i32> {
    columns.insert(0, (key.0, key.1.into()));
    match insert_upstream(connection, table, columns).await {
        Err(error) => Err(explain(connection, table, key, error).await),
        done => done,
    }
}

/// What a failed write of a unique key is to be called.
pub(crate) async fn explain(
    connection: &impl ConnectionTrait,
    table: &'static str,
    key: (&str, &str),
    error: StoreError,
) -> StoreError {
    if !error.is_duplicate() || connection.get_database_backend() != DbBackend::MySql {
        return error;
    }
    match check_spelling(connection, table, key).await {
        Err(lookalike @ StoreError::Lookalike { .. }) => lookalike,
        _ => error,
    }
}

/// Refuses a key that the database takes for that of an existing row although they differ.
async fn check_spelling(
    connection: &impl ConnectionTrait,
    table: &'static str,
    (key, name): (&str, &str),
) -> Result<()> {
    let sql = format!("SELECT \"{key}\" AS existing FROM \"{table}\" WHERE \"{key}\" = ?");
    for row in rows(connection, &sql, values![name]).await? {
        let existing: String = row.try_get("", "existing")?;
        if existing != name {
            return Err(StoreError::Lookalike {
                table,
                name: name.to_owned(),
                existing,
            });
        }
    }
    Ok(())
}

/// Inserts a row, or gives the row with the same `key` these values, in one statement, so that two
/// replicas may do it at once. Gives the row's id. A row of another spelling, which MySQL would take
/// for the same, is left as it is: [`StoreError::Lookalike`].
pub(crate) async fn upsert(
    connection: &impl ConnectionTrait,
    table: &'static str,
    key: (&str, &str),
    columns: Vec<(&str, Value)>,
) -> Result<i32> {
    let is_mysql = connection.get_database_backend() == DbBackend::MySql;
    if is_mysql {
        check_spelling(connection, table, key).await?;
    }
    let unique = key;
    let (key, key_value) = key;
    let names: Vec<_> = columns
        .iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    let sets: Vec<_> = names
        .iter()
        .map(|name| {
            if is_mysql {
                format!("{name} = VALUES({name})")
            } else {
                format!("{name} = excluded.{name}")
            }
        })
        .collect();
    let conflict = if is_mysql {
        "ON DUPLICATE KEY UPDATE".to_owned()
    } else {
        format!("ON CONFLICT (\"{key}\") DO UPDATE SET")
    };
    let sql = format!(
        "INSERT INTO \"{table}\" (\"{key}\", {}) VALUES (?, {}) {conflict} {}",
        names.join(", "),
        marks(names.len()),
        sets.join(", ")
    );
    let mut values = values![key_value];
    values.extend(columns.into_iter().map(|(_, value)| value));
    execute(connection, &sql, values).await?;
    if is_mysql {
        // Another transaction may have added its spelling in between; the caller rolls back.
        check_spelling(connection, table, unique).await?;
    }
    let sql = format!("SELECT id FROM \"{table}\" WHERE \"{key}\" = ?");
    let row = rows(connection, &sql, values![key_value])
        .await?
        .pop()
        .ok_or(DbErr::RecordNotInserted)?;
    Ok(row.try_get("", "id")?)
}

/// Sets the given columns of one row; says whether there was such a row.
pub(crate) async fn update(
    connection: &impl ConnectionTrait,
    table: &str,
    id: i32,
    columns: Vec<(&str, Value)>,
) -> Result<bool> {
    if columns.is_empty() {
        let sql = format!("SELECT 1 AS present FROM \"{table}\" WHERE id = ?");
        return Ok(rows(connection, &sql, values![id]).await?.pop().is_some());
    }
    let sets: Vec<_> = columns
        .iter()
        .map(|(name, _)| format!("\"{name}\" = ?"))
        .collect();
    let sql = format!("UPDATE \"{table}\" SET {} WHERE id = ?", sets.join(", "));
    let mut values: Vec<_> = columns.into_iter().map(|(_, value)| value).collect();
    values.push(id.into());
    Ok(execute(connection, &sql, values).await? > 0)
}

/// Moves `last_activity` forward in many rows of one of upstream's tables, a few hundred with each statement.
/// Always in the order of the ids, so that no two who do it wait for each other.
pub(crate) async fn touch_later(
    connection: &impl ConnectionTrait,
    table: &str,
    seen: &[(i32, NaiveDateTime)],
) -> Result<()> {
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    // Of one id several times, the latest.
    seen.reverse();
    seen.dedup_by_key(|(id, _)| *id);
    seen.reverse();
    let later = format!("({table}.last_activity IS NULL OR {table}.last_activity < v.at)");
    for chunk in seen.chunks(CHUNK) {
        let sql = if connection.get_database_backend() == DbBackend::MySql {
            let more = " UNION ALL SELECT ?, ?".repeat(chunk.len() - 1);
            format!(
                "UPDATE {table} JOIN (SELECT ? AS id, CAST(? AS DATETIME(6)) AS at{more}) v ON v.id = {table}.id \
                 SET {table}.last_activity = v.at WHERE {later}"
            )
        } else {
            let rows = vec!["(?, ?)"; chunk.len()].join(", ");
            format!(
                "WITH v (id, at) AS (VALUES {rows}) UPDATE {table} SET last_activity = v.at FROM v \
                 WHERE {table}.id = v.id AND {later}"
            )
        };
        let mut values = Vec::with_capacity(chunk.len() * 2);
        for (id, time) in chunk {
            values.extend(values![*id, time::truncate(*time)]);
        }
        execute(connection, &sql, values).await?;
    }
    Ok(())
}

/// Whether a query asks for a text that the database cannot hold, and so has nothing for: PostgreSQL
/// refuses each statement that brings a text with a NUL.
fn is_hopeless(connection: &impl ConnectionTrait, values: &[Value]) -> bool {
    connection.get_database_backend() == DbBackend::Postgres
        && values
            .iter()
            .any(|value| matches!(value, Value::String(Some(text)) if text.contains('\0')))
}

/// All rows of a query, as they come.
pub(crate) async fn rows(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<sea_orm::QueryResult>> {
    if is_hopeless(connection, &values) {
        return Ok(Vec::new());
    }
    Ok(connection
        .query_all_raw(statement(connection, sql, values))
        .await?)
}

/// All rows of a query.
pub(crate) async fn all<T: FromQueryResult>(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<T>> {
    rows(connection, sql, values)
        .await?
        .iter()
        .map(|row| Ok(T::from_query_result(row, "")?))
        .collect()
}

/// The first row of a query, if there is one.
pub(crate) async fn one<T: FromQueryResult>(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<Option<T>> {
    if is_hopeless(connection, &values) {
        return Ok(None);
    }
    let row = connection
        .query_one_raw(statement(connection, sql, values))
        .await?;
    Ok(row.map(|row| T::from_query_result(&row, "")).transpose()?)
}

/// The first row of a query that `is_exact` says is the one asked for. MySQL's usual collations overlook
/// case and accents, so `WHERE name = ?` finds `josé` where `jose` was asked for: whatever is looked
/// up by a text goes through here, or through [`exactly`].
pub(crate) async fn one_exact<T: FromQueryResult>(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
    is_exact: impl Fn(&T) -> bool + Send,
) -> Result<Option<T>> {
    let found: Vec<T> = all(connection, sql, values).await?;
    Ok(found.into_iter().find(is_exact))
}

/// A text column as something that is compared byte by byte in every database.
pub(crate) fn exactly(backend: DbBackend, column: &str) -> String {
    match backend {
        DbBackend::MySql => format!("CAST(CONVERT({column} USING utf8mb4) AS BINARY)"),
        _ => column.to_owned(),
    }
}

/// Keeps others from changing a row, and from adding rows that refer to it, until the transaction ends.
/// SQLite has one writer anyway.
pub(crate) async fn lock(connection: &impl ConnectionTrait, table: &str, id: i32) -> Result<()> {
    if connection.get_database_backend() != DbBackend::Sqlite {
        let sql = format!("SELECT id FROM \"{table}\" WHERE id = ? FOR UPDATE");
        rows(connection, &sql, values![id]).await?;
    }
    Ok(())
}

/// The number in the column `n` of a query's only row.
pub(crate) async fn count(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<u64> {
    if is_hopeless(connection, &values) {
        return Ok(0);
    }
    let row = connection
        .query_one_raw(statement(connection, sql, values))
        .await?
        .ok_or_else(|| DbErr::RecordNotFound("a count without a row".into()))?;
    Ok(u64::try_from(row.try_get::<i64>("", "n")?).unwrap_or_default())
}

/// A part of the rows of a table that meet a condition, by id, and how many there are in all.
pub(crate) async fn page<T: FromQueryResult>(
    connection: &impl ConnectionTrait,
    table: &str,
    (condition, mut values): (&str, Vec<Value>),
    offset: u64,
    limit: u64,
) -> Result<(Vec<T>, u64)> {
    let sql = format!("SELECT COUNT(*) AS n FROM \"{table}\" WHERE {condition}");
    let total = count(connection, &sql, values.clone()).await?;
    let sql = format!("SELECT * FROM \"{table}\" WHERE {condition} ORDER BY id LIMIT ? OFFSET ?");
    let signed = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
    values.extend([signed(limit), signed(offset)]);
    Ok((all(connection, &sql, values).await?, total))
}

/// `?, ?, ?` for a list of `count` values.
pub(crate) fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// Whether a filter is longer than any text of this many characters that it is to be found in. SQLite
/// refuses patterns of more than 50,000 bytes.
pub(crate) fn is_longer(filter: &str, limit: usize) -> bool {
    filter.chars().nth(limit).is_some()
}

/// The longest name of a user or group, in characters.
pub(crate) const MAX_NAME: usize = 255;

/// How many values one statement binds at most in a list; every database takes far more.
pub(crate) const CHUNK: usize = 500;

fn time_as_text(value: Value) -> Value {
    match value {
        Value::ChronoDateTime(time) => Value::String(time.map(time::sqlite_text)),
        other => other,
    }
}

/// `?` becomes `$1`, `$2`, … on PostgreSQL; `"name"` becomes `` `name` `` on MySQL. No statement of
/// this crate holds either character in a literal.
fn translate(backend: DbBackend, sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 16);
    let mut count = 0;
    for character in sql.chars() {
        match (backend, character) {
            (DbBackend::Postgres, '?') => {
                count += 1;
                text.push('$');
                text.push_str(&count.to_string());
            }
            (DbBackend::MySql, '"') => text.push('`'),
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translates_marks_and_names() {
        let sql = "SELECT * FROM \"groups\" WHERE id = ? AND name = ?";
        assert_eq!(translate(DbBackend::Sqlite, sql), sql);
        assert_eq!(
            translate(DbBackend::Postgres, sql),
            "SELECT * FROM \"groups\" WHERE id = $1 AND name = $2"
        );
        assert_eq!(
            translate(DbBackend::MySql, sql),
            "SELECT * FROM `groups` WHERE id = ? AND name = ?"
        );
    }
}

//! SQLite cannot add a constraint to a table: the table is made anew with it and takes its place.

use sea_orm::ConnectionTrait;

use crate::{
    error::StoreError,
    sql::{self, Result, values},
};

/// Adds a column and a table constraint. The connection must not enforce foreign keys, or removing
/// the old table would remove the rows that refer to it. Like upstream's way to do this it leaves out
/// checks without a name, such as those of flags that SQLAlchemy once made.
pub(super) async fn add_constrained(
    connection: &impl ConnectionTrait,
    table: &str,
    column: &str,
    constraint: &str,
) -> Result<Vec<String>> {
    let sql = "SELECT name, type, sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL";
    let mut old = None;
    let mut indexes = Vec::new();
    for row in sql::rows(connection, sql, values![table]).await? {
        let text: String = row.try_get("", "sql")?;
        match row.try_get::<String>("", "type")?.as_str() {
            "table" => old = Some(text),
            _ => indexes.push(text),
        }
    }
    let unreadable = || StoreError::Corrupt(format!("the definition of the table {table}"));
    let new = format!("_orrery_new_{table}");
    let made = old
        .and_then(|old| definition(&old, &new, column, constraint))
        .ok_or_else(unreadable)?;
    let columns = super::columns(connection, table)
        .await?
        .iter()
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let mut statements = vec![
        made,
        format!("INSERT INTO \"{new}\" ({columns}) SELECT {columns} FROM \"{table}\""),
        format!("DROP TABLE \"{table}\""),
        format!("ALTER TABLE \"{new}\" RENAME TO \"{table}\""),
    ];
    statements.extend(indexes);
    Ok(statements)
}

/// The `CREATE TABLE` of `old` for the name `new`, with one more column and constraint.
fn definition(old: &str, new: &str, column: &str, constraint: &str) -> Option<String> {
    let start = old.find('(')?;
    let end = old.rfind(')')?;
    let (constraints, mut columns): (Vec<_>, Vec<_>) = parts(old.get(start + 1..end)?)
        .into_iter()
        .partition(|part| is_constraint(part));
    columns.push(column);
    columns.push(constraint);
    columns.extend(constraints.into_iter().filter(|part| word(part) != "CHECK"));
    Some(format!(
        "CREATE TABLE \"{new}\" (\n\t{}\n)",
        columns.join(",\n\t")
    ))
}

fn word(part: &str) -> String {
    part.chars()
        .take_while(char::is_ascii_alphabetic)
        .collect::<String>()
        .to_ascii_uppercase()
}

fn is_constraint(part: &str) -> bool {
    ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"].contains(&word(part).as_str())
}

/// What stands between the commas that are in no parentheses and no quotes.
fn parts(body: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    let mut quote = None;
    for (at, character) in body.char_indices() {
        match (quote, character) {
            (Some(end), _) if character == end => quote = None,
            (None, '\'' | '"' | '`') => quote = Some(character),
            (None, '[') => quote = Some(']'),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(body[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(body[start..].trim());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_parts_come_after_the_columns_and_unnamed_checks_go() {
        let old = "CREATE TABLE services (\n\tid INTEGER NOT NULL, \"a,b\" TEXT DEFAULT '),(', \n\t\
                   PRIMARY KEY (id), CHECK (admin IN (0, 1)), \
                   CONSTRAINT kept CHECK (id > 0), UNIQUE (id, \"a,b\")\n)";
        let new = definition(
            old,
            "new",
            "c TEXT",
            "CONSTRAINT f FOREIGN KEY(c) REFERENCES x (y)",
        );
        assert_eq!(
            new.unwrap(),
            "CREATE TABLE \"new\" (\n\tid INTEGER NOT NULL,\n\t\"a,b\" TEXT DEFAULT '),(',\n\tc TEXT,\n\t\
             CONSTRAINT f FOREIGN KEY(c) REFERENCES x (y),\n\tPRIMARY KEY (id),\n\t\
             CONSTRAINT kept CHECK (id > 0),\n\tUNIQUE (id, \"a,b\")\n)"
        );
        assert_eq!(definition("CREATE TABLE t AS", "n", "c", "d"), None);
    }
}

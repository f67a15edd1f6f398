//! Why a database cannot be opened, and what to do about it.

use crate::{
    error::StoreError,
    url::{DbUrl, Dialect},
};

pub(super) fn open_error(url: &DbUrl, problem: String, cure: &str) -> StoreError {
    StoreError::Open {
        database: url.to_string(),
        problem,
        cure: cure.to_owned(),
    }
}

pub(crate) fn connect_error(url: &DbUrl, error: &sqlx::Error) -> StoreError {
    let problem = match error {
        sqlx::Error::Database(database) => database.message().to_owned(),
        other => other.to_string(),
    };
    let cure = match url.dialect() {
        Dialect::Sqlite if problem.contains("not a database") => {
            "it is some other kind of file: give another db_url"
        }
        Dialect::Sqlite if problem.contains("malformed") => {
            "it is damaged: restore a backup, or try `sqlite3 FILE .recover`"
        }
        Dialect::Sqlite => {
            "see that the user that runs this program may write the file and its folder, and that the disk is not full"
        }
        Dialect::Postgres | Dialect::MySql => {
            "see that it runs, that host, port, user, password and database are right, and that it lets this machine in"
        }
    };
    open_error(url, problem, cure)
}

/// What fails while the tables are looked at is a failure to open.
pub(crate) fn prepare_error(url: &DbUrl, error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt(problem) => open_error(
            url,
            problem,
            "it is damaged or another kind of file: restore a backup, or give another db_url",
        ),
        StoreError::Full { problem, .. } => {
            open_error(url, problem, "make room on the disk that it is on")
        }
        StoreError::ReadOnly { problem, .. } => open_error(
            url,
            problem,
            "see that this program's user may write it, and that the database server is not set to read only",
        ),
        StoreError::Away { problem, .. } => open_error(
            url,
            problem,
            "see whether it runs and can be reached from here",
        ),
        StoreError::Unavailable { problem, .. } => open_error(
            url,
            problem,
            "see that it may be written, that the disk is not full, and that no other program holds it",
        ),
        StoreError::Busy(_) => open_error(
            url,
            "another program holds it locked".into(),
            "stop that program: a SQLite file has one hub",
        ),
        StoreError::Statement(error) => open_error(
            url,
            error.to_string(),
            "see that the user may make and change tables in it",
        ),
        other => other,
    }
}

//! What can go wrong with the database, told apart by what a caller can do about it.

use std::time::Duration;

use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database URL cannot be understood. The text never holds the password.
    #[error("the database URL is not usable: {0}")]
    Url(String),
    /// The database cannot be opened; says which one, why, and what to do.
    #[error("cannot open the database {database}: {problem}; {cure}")]
    Open {
        /// File or URL without password.
        database: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        cure: String,
    },
    /// The database was made by another version; nothing was changed in it.
    #[error(
        "the database {database} has schema version {found}, but this program needs {needed}; {cure}"
    )]
    SchemaVersion {
        /// File or URL without password.
        database: String,
        /// The version found.
        found: String,
        /// The version that this program reads and writes.
        needed: String,
        /// What to do.
        cure: String,
    },
    /// The database does not answer, which the log says once. It is asked until it does.
    #[error("the database is away: {problem}")]
    Away {
        /// What happened.
        problem: String,
        /// The driver's error.
        #[source]
        source: DbErr,
    },
    /// The database has no room left to write. It works again when there is some.
    #[error("the database has no room left: {problem}")]
    Full {
        /// What happened.
        problem: String,
        /// The driver's error.
        #[source]
        source: DbErr,
    },
    /// The database can only be read now. It works again when it can be written.
    #[error("the database can only be read: {problem}")]
    ReadOnly {
        /// What happened.
        problem: String,
        /// The driver's error.
        #[source]
        source: DbErr,
    },
    /// The database fails or is too busy. Trying later can help.
    #[error("the database is not available: {problem}")]
    Unavailable {
        /// What happened.
        problem: String,
        /// The driver's error, if it came from there.
        #[source]
        source: Option<DbErr>,
    },
    /// Somebody else wrote at the same time; the same transaction may succeed when run again.
    #[error("the database was busy with another transaction")]
    Busy(#[source] DbErr),
    /// A row with the same unique value exists already.
    #[error("a row with the same unique value exists already")]
    Duplicate(#[source] DbErr),
    /// A name that the database cannot tell from another one, for its collation overlooks case or
    /// accents (MySQL, MariaDB). Counts as a duplicate.
    #[error(
        "{name:?} cannot be kept in {table} beside {existing:?}: the database takes the two for the same \
         name, for its collation overlooks case or accents"
    )]
    Lookalike {
        /// The table.
        table: &'static str,
        /// The new name.
        name: String,
        /// The name that is there.
        existing: String,
    },
    /// A user or server that cannot be deleted, for a server has not ended; nothing was changed. Stop
    /// it and try again. Holds `user/server`.
    #[error("the server {0} has not ended")]
    StillActive(String),
    /// A row that should be referred to does not exist.
    #[error("a row that is referred to does not exist")]
    Reference(#[source] DbErr),
    /// A value in the database cannot be read as what it should be.
    #[error("the database holds a value that cannot be read: {0}")]
    Corrupt(String),
    /// Anything else: a bug in a statement, or a database that is not what it says.
    #[error("a database statement failed")]
    Statement(#[source] DbErr),
}

impl StoreError {
    /// Whether the database is away, full, read-only or overloaded (answer 503), rather than a bug
    /// (500).
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Busy(_)) || self.is_said()
    }

    /// Whether the store itself logs it, once when it begins and once when it ends: whoever tries
    /// again and again need not.
    pub fn is_said(&self) -> bool {
        matches!(
            self,
            Self::Away { .. } | Self::Full { .. } | Self::ReadOnly { .. }
        )
    }

    /// Whether a row with the same unique value exists already (answer 409).
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Duplicate(_) | Self::Lookalike { .. })
    }

    pub(crate) fn timed_out(what: &str, limit: Duration) -> Self {
        Self::Unavailable {
            problem: format!("{what} took longer than {} s", limit.as_secs_f32()),
            source: None,
        }
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        let class = class_of(&error);
        match class {
            Class::Lost(problem) => Self::Away {
                problem,
                source: error,
            },
            Class::Full(problem) => Self::Full {
                problem,
                source: error,
            },
            Class::ReadOnly(problem) => Self::ReadOnly {
                problem,
                source: error,
            },
            Class::Away(problem) => Self::Unavailable {
                problem,
                source: Some(error),
            },
            Class::Busy => Self::Busy(error),
            Class::Duplicate => Self::Duplicate(error),
            Class::Reference => Self::Reference(error),
            Class::Corrupt(text) => Self::Corrupt(text),
            Class::Bug => Self::Statement(error),
        }
    }
}

fn class_of(error: &DbErr) -> Class {
    match error {
        DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => {
            Class::Away("no connection became free in time".into())
        }
        DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed) => {
            Class::Away("the connection is closed".into())
        }
        DbErr::Conn(RuntimeErr::SqlxError(cause))
        | DbErr::Exec(RuntimeErr::SqlxError(cause))
        | DbErr::Query(RuntimeErr::SqlxError(cause)) => match (error, classify(cause)) {
            // A server that lets no new connection in (another password, no such database any more) may
            // do so again; no statement was even sent.
            (DbErr::Conn(_), Class::Bug) if matches!(**cause, sqlx::Error::Database(_)) => {
                Class::Away(cause.to_string())
            }
            (_, class) => class,
        },
        DbErr::Conn(other) => Class::Away(other.to_string()),
        DbErr::Json(text) | DbErr::Type(text) => Class::Corrupt(text.clone()),
        // The connection wrapper reports a passed deadline this way, and that the database is away.
        DbErr::Custom(text) if text == AWAY => Class::Lost(text.clone()),
        DbErr::Custom(text) if text.starts_with(TIMED_OUT) => Class::Away(text.clone()),
        _ => Class::Bug,
    }
}

/// Whether the connection that brought this error is of no use any more.
pub(crate) fn is_lost(error: &DbErr) -> bool {
    matches!(class_of(error), Class::Lost(_))
}

/// Whether this answer to an attempt to connect comes from a server that is there and stays, whatever it
/// thinks of us: too many others, a wrong password.
pub(crate) fn is_answer(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(_)) && !matches!(classify(error), Class::Lost(_))
}

/// Whether a connection is in a transaction that nobody knows of: SQLite ended the one that was there
/// by itself, when the disk was full, and the driver did not notice.
pub(crate) fn is_out_of_step(error: &DbErr) -> bool {
    matches!(
        error,
        DbErr::Conn(RuntimeErr::SqlxError(cause))
        | DbErr::Exec(RuntimeErr::SqlxError(cause))
        | DbErr::Query(RuntimeErr::SqlxError(cause))
            if matches!(**cause, sqlx::Error::InvalidSavePointStatement)
    )
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        DbErr::Query(RuntimeErr::SqlxError(std::sync::Arc::new(error))).into()
    }
}

/// How a statement that passed its deadline begins its message.
pub(crate) const TIMED_OUT: &str = "no answer from the database";

/// How it is reported that the database does not answer.
pub(crate) const AWAY: &str = "it does not answer";

/// SQLite could not enlarge the file that its connections share.
const SQLITE_IOERR_SHMSIZE: u32 = 0x0a | (0x13 << 8);

enum Class {
    Lost(String),
    Full(String),
    ReadOnly(String),
    Away(String),
    Busy,
    Duplicate,
    Reference,
    Corrupt(String),
    Bug,
}

/// MySQL's "got error 28 from storage engine": the number is the system's or, from 120 on, the engine's.
fn engine_error(message: &str) -> Class {
    let number = message
        .split(|character: char| !character.is_ascii_digit())
        .find_map(|digits| digits.parse::<u32>().ok());
    match number {
        // No room on the device, in the table, in its index.
        Some(28 | 135 | 136) => Class::Full(message.to_owned()),
        Some(30) => Class::ReadOnly(message.to_owned()),
        _ => Class::Away(message.to_owned()),
    }
}

fn classify(error: &sqlx::Error) -> Class {
    use sqlx::Error as E;
    match error {
        // A server that ends in the middle of an answer leaves half of it.
        E::Io(_) | E::Tls(_) | E::Protocol(_) => Class::Lost(error.to_string()),
        E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => Class::Away(error.to_string()),
        E::ColumnDecode { .. } | E::Decode(_) => Class::Corrupt(error.to_string()),
        E::Database(database) => {
            if database.is_unique_violation() {
                return Class::Duplicate;
            }
            if database.is_foreign_key_violation() {
                return Class::Reference;
            }
            let code = database.code().unwrap_or_default();
            if database
                .try_downcast_ref::<sqlx::sqlite::SqliteError>()
                .is_some()
            {
                let code = code.parse::<u32>().unwrap_or_default();
                // Extended result codes keep the primary code in their low byte.
                match code & 0xff {
                    5 | 6 => Class::Busy,
                    8 => Class::ReadOnly(database.message().to_owned()),
                    // Or there is no room to make the index of the write-ahead log larger.
                    13 => Class::Full(database.message().to_owned()),
                    10 if code == SQLITE_IOERR_SHMSIZE => {
                        Class::Full("the disk is full".to_owned())
                    }
                    10 | 14 => Class::Away(database.message().to_owned()),
                    11 | 26 => Class::Corrupt(database.message().to_owned()),
                    _ => Class::Bug,
                }
            } else if let Some(mysql) =
                database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
            {
                match mysql.number() {
                    1205 | 1213 => Class::Busy,
                    1053 | 1152 | 1158..=1161 | 1927 | 4031 => {
                        Class::Lost(database.message().to_owned())
                    }
                    3 | 1021 | 1026 | 1114 => Class::Full(database.message().to_owned()),
                    1030 => engine_error(database.message()),
                    1290 | 1792 | 1836 => Class::ReadOnly(database.message().to_owned()),
                    1040 | 1203 | 1317 => Class::Away(database.message().to_owned()),
                    _ => Class::Bug,
                }
            } else {
                match code.as_ref() {
                    "40001" | "40P01" | "55P03" => Class::Busy,
                    "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => {
                        Class::Lost(database.message().to_owned())
                    }
                    code if code.starts_with("08") => Class::Lost(database.message().to_owned()),
                    "25006" => Class::ReadOnly(database.message().to_owned()),
                    "53100" => Class::Full(database.message().to_owned()),
                    code if code == "57014" || code.starts_with("53") => {
                        Class::Away(database.message().to_owned())
                    }
                    _ => Class::Bug,
                }
            }
        }
        _ => Class::Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_error_is_told_by_its_number() {
        let of = engine_error;
        assert!(matches!(
            of("Got error 28 \"No space left on device\" from storage engine InnoDB"),
            Class::Full(_)
        ));
        assert!(matches!(
            of("Got error 30 \"Read-only file system\" from storage engine Aria"),
            Class::ReadOnly(_)
        ));
        for other in [
            "Got error 168 \"Unknown (generic) error from engine\" from storage engine InnoDB",
            "Got error 5 - 'Input/output error' from storage engine",
            "Got error 128 from storage engine",
            "",
        ] {
            assert!(matches!(of(other), Class::Away(_)), "{other}");
        }
    }
}

//! Noticing that anything was committed, by whichever process, cheaply enough to ask per request.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::Mutex;

use crate::error::StoreError;

/// A state of the database: as long as two are equal, nothing was committed between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(u64);

pub(crate) enum Freshness {
    /// SQLite in a file: `PRAGMA data_version` on a connection that never writes, which changes with
    /// each commit of any other connection, in this process or another.
    File(Box<Watch>),
    /// SQLite in memory: nobody else can write, so the store counts.
    Memory(AtomicU64),
    /// Databases on the network: no cheap way to know.
    Unknown,
}

pub(crate) struct Watch {
    /// The number of the check begun last.
    begun: AtomicU64,
    last: Mutex<Last>,
}

struct Last {
    /// `None` when the store was closed.
    connection: Option<SqliteConnection>,
    /// The number of the check that `version` is from.
    number: u64,
    version: Version,
}

impl Watch {
    pub(crate) fn new(connection: SqliteConnection) -> Self {
        Self {
            begun: AtomicU64::new(0),
            last: Mutex::new(Last {
                connection: Some(connection),
                number: 0,
                version: Version(0),
            }),
        }
    }

    async fn check(&self) -> Result<Version, StoreError> {
        // A check that began before this call may have missed a commit that the caller knows of.
        let arrived = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.number > arrived {
            return Ok(last.version);
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        // A query, not a bare text: it is prepared once and kept.
        let Some(connection) = &mut last.connection else {
            return Err(StoreError::Unavailable {
                problem: "it was closed".to_owned(),
                source: None,
            });
        };
        let row = sqlx::query("PRAGMA data_version")
            .fetch_one(connection)
            .await?;
        let version: i64 = row.try_get(0)?;
        last.number = number;
        last.version = Version(version.cast_unsigned());
        Ok(last.version)
    }
}

impl Freshness {
    pub(crate) async fn version(&self) -> Result<Option<Version>, StoreError> {
        match self {
            Self::File(watch) => watch.check().await.map(Some),
            Self::Memory(count) => Ok(Some(Version(count.load(Ordering::SeqCst)))),
            Self::Unknown => Ok(None),
        }
    }

    /// Closes its connection, after which nothing is known any more.
    pub(crate) async fn close(&self) {
        if let Self::File(watch) = self
            && let Some(connection) = watch.last.lock().await.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "a connection was not closed well");
        }
    }

    /// To be called after each commit of this store.
    pub(crate) fn committed(&self) {
        if let Self::Memory(count) = self {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

//! Noticing that anything was committed, by whichever process, cheaply enough to ask per request.

use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use sqlx::{
    ConnectOptions as _, Connection, PgConnection, Row, SqliteConnection,
    postgres::PgConnectOptions,
};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

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
    /// PostgreSQL: which transactions are over, see [`LookOut`].
    Postgres(LookOut),
    /// MySQL: no cheap way to know.
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
            Self::Postgres(look_out) => Ok(look_out.version().await),
            Self::Unknown => Ok(None),
        }
    }

    /// Closes its connection, after which nothing is known any more.
    pub(crate) async fn close(&self) {
        if let Self::Postgres(look_out) = self {
            look_out.asking.lock().await.take();
        }
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

/// Asks a PostgreSQL server for its snapshot, over a connection of its own.
///
/// A snapshot says which transactions are over: every number below `xmax` but those in the list of
/// running ones. Whoever changes anything has a number from a counter that never gives one twice, and
/// what was changed becomes visible, before the commit is acknowledged, by leaving the list or moving
/// `xmax`; subtransactions become visible with their transaction. So between two equal snapshots nothing
/// was committed, by nobody. Other transactions that end make them differ as well, which costs a look
/// more. The numbers are those of one server: another process of the server, which is what remains
/// different when a server was replaced or lost what it had not yet written, or another connection makes
/// another version, and a standby, where replay moves things, has none.
pub(crate) struct LookOut {
    asking: Mutex<Option<mpsc::Sender<oneshot::Sender<Option<Version>>>>>,
}

/// How many may wait for one look; the others wait to be let in.
const MOST_WAITING: usize = 1024;

/// How long one look may take, a new connection included.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// After a look that failed, nothing is known for this long.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

const SNAPSHOT: &str = "SELECT CONCAT(pg_current_snapshot(), ' ', pg_backend_pid()) AS seen, \
                        pg_is_in_recovery() AS is_standby";

impl LookOut {
    /// Begins with the first question; ends when it is closed or dropped.
    pub(crate) fn new(connect: PgConnectOptions) -> Self {
        let (asking, asked) = mpsc::channel(MOST_WAITING);
        tokio::spawn(look_out(connect, asked));
        Self {
            asking: Mutex::new(Some(asking)),
        }
    }

    async fn version(&self) -> Option<Version> {
        let asking = self.asking.lock().await.clone()?;
        let (reply, answer) = oneshot::channel();
        asking.send(reply).await.ok()?;
        answer.await.ok()?
    }
}

async fn look_out(
    connect: PgConnectOptions,
    mut asked: mpsc::Receiver<oneshot::Sender<Option<Version>>>,
) {
    let mut connection = None;
    let mut last = String::new();
    let mut version = 0;
    let mut pause_until = Instant::now();
    let mut waiting = Vec::new();
    // All who are waiting asked before the look that answers them begins.
    while asked.recv_many(&mut waiting, MOST_WAITING).await > 0 {
        let mut seen = None;
        if Instant::now() >= pause_until {
            match tokio::time::timeout(LOOK_LIMIT, look(&connect, &mut connection)).await {
                Ok(Ok(snapshot)) => seen = snapshot,
                failed => {
                    if let Ok(Err(error)) = failed {
                        tracing::debug!(%error, "the database did not say its snapshot");
                    }
                    // Whatever a new connection sees is compared with nothing of before.
                    connection = None;
                    pause_until = Instant::now() + LOOK_PAUSE;
                }
            }
        }
        let answer = seen.map(|seen| {
            if seen != last {
                version += 1;
                last = seen;
            }
            Version(version)
        });
        if connection.is_none() {
            last.clear();
        }
        for reply in waiting.drain(..) {
            // Whoever gave up waiting needs no answer.
            let _ = reply.send(answer);
        }
    }
    if let Some(connection) = connection
        && let Err(error) = PgConnection::close(connection).await
    {
        tracing::debug!(%error, "a connection was not closed well");
    }
}

/// The server's snapshot; `None` on a standby.
async fn look(
    connect: &PgConnectOptions,
    connection: &mut Option<PgConnection>,
) -> Result<Option<String>, sqlx::Error> {
    let connected = match connection {
        Some(connected) => connected,
        None => connection.insert(connect.connect().await?),
    };
    let row = sqlx::query(SNAPSHOT).fetch_one(connected).await?;
    let is_standby: bool = row.try_get("is_standby")?;
    let seen = row.try_get("seen")?;
    Ok((!is_standby).then_some(seen))
}

//! The open database: a pool to read from and the one way to write.

mod errors;
mod server;
mod sqlite;

use std::{
    future::Future,
    io,
    path::Path,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};
use sqlx::{mysql::MySqlPoolOptions, postgres::PgPoolOptions};

use crate::{
    connection::{Connection, Transaction},
    error::{StoreError, is_out_of_step},
    freshness::{Freshness, LookOut, Version},
    network,
    outage::{Health, Look},
    schema,
    url::{DbUrl, Dialect, Target},
};

pub(crate) use errors::{connect_error, prepare_error};
pub(crate) use server::{mysql_options, postgres_options};
pub(crate) use sqlite::{check_file, check_file_system, sqlite_options};

use errors::open_error;
use server::server_pool;
use sqlite::sqlite_pool;

/// How to use the database.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How many connections at most: all on a server, but the one more that looks for changes on
    /// PostgreSQL; on SQLite the readers, of which it makes four
    /// at most, for each is a thread with a cache of its own.
    pub max_connections: u32,
    /// How long to wait for a free connection, or for the one writer of SQLite.
    pub acquire_timeout: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// How long a whole write transaction may take, waiting and repeating included.
    pub write_timeout: Duration,
    /// How long SQLite waits for another process that writes.
    pub busy_timeout: Duration,
    /// Whether a SQLite file may be on a file system of a network, which is known to damage it when
    /// two machines open it.
    pub allow_network_file_system: bool,
    /// Says by its number on what kind of file system a path is.
    pub file_system: fn(&Path) -> io::Result<i64>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            max_connections: 8,
            acquire_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            busy_timeout: Duration::from_secs(5),
            allow_network_file_system: false,
            file_system: network::magic,
        }
    }
}

/// The open database. Cloning gives another handle.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dialect: Dialect,
    reader: Connection,
    writer: DatabaseConnection,
    health: Arc<Health>,
    /// Set when the one connection that writes to a SQLite file is to be replaced.
    replace_writer: Arc<AtomicBool>,
    freshness: Freshness,
    options: StoreOptions,
}

/// An error that [`Store::write`] can carry through.
pub trait WriteError: From<StoreError> {
    /// The store's error inside, if that is what it is: a busy database is tried again.
    fn store_error(&self) -> Option<&StoreError>;
}

impl WriteError for StoreError {
    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

/// How often a transaction is run when the database is busy with others.
const ATTEMPTS: u32 = 6;

impl Store {
    /// Opens the database, makes its tables if it is empty, and refuses it if another version made
    /// it. A SQLite file is made if it is missing, readable by its owner only.
    pub async fn open(url: &DbUrl, options: StoreOptions) -> Result<Self, StoreError> {
        let limit = options.write_timeout;
        match tokio::time::timeout(limit, Self::open_unbounded(url, options)).await {
            Ok(result) => result,
            Err(_) => Err(open_error(
                url,
                format!("no answer within {} s", limit.as_secs_f32()),
                "see whether it runs and can be reached from here",
            )),
        }
    }

    async fn open_unbounded(url: &DbUrl, options: StoreOptions) -> Result<Self, StoreError> {
        let replace_writer = Arc::new(AtomicBool::new(false));
        let mut health = Health::new(Look::Never);
        let (reader, writer, freshness) = match &url.target {
            Target::Memory => {
                let pool = sqlite_pool(&options, 1)
                    .connect_with(sqlite_options(&options, "sqlite::memory:")?)
                    .await
                    .map_err(|error| connect_error(url, &error))?;
                let pool = DatabaseConnection::from(pool);
                (pool.clone(), pool, Freshness::Memory(0.into()))
            }
            Target::File(path) => sqlite::open_file(url, path, &options, &replace_writer).await?,
            Target::Server(Dialect::Postgres, address) => {
                let connect = postgres_options(address, &options)?;
                health = Health::new(Look::Postgres(connect.clone()));
                let pool = server_pool(PgPoolOptions::new(), &options, &health)
                    .connect_with(connect.clone())
                    .await
                    .map_err(|error| connect_error(url, &error))?;
                let pool = DatabaseConnection::from(pool);
                let look_out = LookOut::new(connect);
                (pool.clone(), pool, Freshness::Postgres(look_out))
            }
            Target::Server(_, address) => {
                let connect = mysql_options(address)?;
                health = Health::new(Look::MySql(connect.clone()));
                let pool = server_pool(MySqlPoolOptions::new(), &options, &health)
                    .connect_with(connect)
                    .await
                    .map_err(|error| connect_error(url, &error))?;
                let pool = DatabaseConnection::from(pool);
                (pool.clone(), pool, Freshness::Unknown)
            }
        };
        let store = Self {
            inner: Arc::new(Inner {
                dialect: url.dialect(),
                reader: Connection {
                    pool: reader,
                    statement_timeout: options.statement_timeout,
                    health: Arc::clone(&health),
                },
                writer,
                health,
                replace_writer,
                freshness,
                options,
            }),
        };
        let database = url.to_string();
        store
            .write(|transaction| {
                let database = database.clone();
                async move { schema::prepare(&transaction, &database).await }
            })
            .await
            .map_err(|error| prepare_error(url, error))?;
        Ok(store)
    }

    /// The kind of database.
    pub fn dialect(&self) -> Dialect {
        self.inner.dialect
    }

    /// To read from. Each statement stands alone; on a SQLite file it cannot write.
    pub fn read(&self) -> &Connection {
        &self.inner.reader
    }

    /// Begins a write transaction that the caller commits. Prefer [`write`](Self::write), which
    /// tries again when the database is busy.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let limit = self.inner.options.acquire_timeout + self.inner.options.busy_timeout;
        let begin = self.inner.health.repeating(|| self.begin_once());
        let Ok(begun) = tokio::time::timeout(limit, begin).await else {
            self.inner.health.suspect();
            return Err(StoreError::timed_out("beginning a transaction", limit));
        };
        let begun = begun?;
        Ok(Transaction::new(
            begun,
            self.inner.options.statement_timeout,
        ))
    }

    async fn begin_once(&self) -> Result<DatabaseTransaction, DbErr> {
        let options = || TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let writer = &self.inner.writer;
        match writer.begin_with_options(options()).await {
            Err(error) if is_out_of_step(&error) => {
                self.inner.replace_writer.store(true, Ordering::SeqCst);
                writer.begin_with_options(options()).await
            }
            begun => begun,
        }
    }

    /// Commits a transaction of [`begin`](Self::begin). When the database goes away meanwhile, nobody
    /// can tell whether it was committed.
    pub async fn commit(&self, transaction: Transaction) -> Result<(), StoreError> {
        let committed = transaction.finish(true).await;
        self.inner.health.wrote(committed.as_ref().copied());
        if let Err(error) = committed {
            self.doubt(&error);
            return Err(error);
        }
        self.inner.freshness.committed();
        Ok(())
    }

    /// Heeds what a failure says about its connection.
    fn doubt(&self, error: &StoreError) {
        if matches!(error, StoreError::Away { .. }) {
            self.inner.health.suspect();
        }
        let is_harmless = matches!(
            error,
            StoreError::Busy(_)
                | StoreError::Duplicate(_)
                | StoreError::Lookalike { .. }
                | StoreError::StillActive(_)
                | StoreError::Reference(_)
                | StoreError::Corrupt(_)
        );
        if !is_harmless && matches!(self.inner.freshness, Freshness::File(_)) {
            // SQLite may have ended the transaction by itself, which the driver does not notice.
            self.inner.replace_writer.store(true, Ordering::SeqCst);
        }
    }

    /// Runs `work` in a write transaction: commits on `Ok`, rolls back on `Err`. When the database
    /// is busy with another writer, everything is run again from the start, so `work` must have no
    /// effect outside the transaction. Never await anything but the store inside: SQLite has one
    /// writer. Inside, use the transaction handed in, never [`read`](Self::read), and let no clone
    /// of it outlive `work`.
    pub async fn write<T, E, F, W>(&self, work: W) -> Result<T, E>
    where
        E: WriteError,
        F: Future<Output = Result<T, E>>,
        W: Fn(Transaction) -> F,
    {
        let limit = self.inner.options.write_timeout;
        match tokio::time::timeout(limit, self.write_unbounded(work)).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::timed_out("a write transaction", limit).into()),
        }
    }

    async fn write_unbounded<T, E, F, W>(&self, work: W) -> Result<T, E>
    where
        E: WriteError,
        F: Future<Output = Result<T, E>>,
        W: Fn(Transaction) -> F,
    {
        let mut attempt = 1;
        loop {
            let (error, may_be_committed) = match self.attempt(&work).await {
                Ok(value) => return Ok(value),
                Err(Failed::Before(error)) => (error, false),
                Err(Failed::AtCommit(error)) => (error, true),
            };
            if attempt == ATTEMPTS {
                return Err(error);
            }
            match error.store_error() {
                Some(StoreError::Busy(_)) => {
                    tracing::debug!(
                        attempt,
                        "the database is busy; running the transaction again"
                    );
                    tokio::time::sleep(pause(attempt)).await;
                }
                // Only the connection was lost, and the transaction with it.
                Some(StoreError::Away { .. })
                    if !may_be_committed && self.inner.health.is_back().await => {}
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn attempt<T, E, F, W>(&self, work: &W) -> Result<T, Failed<E>>
    where
        E: WriteError,
        F: Future<Output = Result<T, E>>,
        W: Fn(Transaction) -> F,
    {
        let transaction = match self.begin().await {
            Ok(transaction) => transaction,
            Err(error) => {
                self.inner.health.wrote(Err(&error));
                return Err(Failed::Before(error.into()));
            }
        };
        match work(transaction.clone()).await {
            Ok(value) => match self.commit(transaction).await {
                Ok(()) => Ok(value),
                Err(error) => Err(Failed::AtCommit(error.into())),
            },
            Err(error) => {
                if let Some(error) = error.store_error() {
                    self.inner.health.wrote(Err(error));
                    self.doubt(error);
                }
                // The work's error says more than a failed rollback, which closing does as well.
                if let Err(rollback) = transaction.finish(false).await {
                    tracing::debug!(error = %rollback, "could not roll a transaction back");
                }
                Err(Failed::Before(error))
            }
        }
    }

    /// The database's present state, to tell whether something that was read before still holds:
    /// equal versions mean that nobody, in whichever process, committed anything in between. `None`
    /// on MySQL, and where PostgreSQL does not say: read again. Calls that arrive together share one
    /// look, which begins after they arrived.
    pub async fn freshness(&self) -> Result<Option<Version>, StoreError> {
        let limit = self.inner.options.statement_timeout;
        tokio::time::timeout(limit, self.inner.freshness.version())
            .await
            .map_err(|_| StoreError::timed_out("looking for changes", limit))?
    }

    /// Whether the database answers now.
    pub async fn ping(&self) -> Result<(), StoreError> {
        crate::sql::rows(self.read(), "SELECT 1 AS one", vec![])
            .await
            .map(drop)
    }

    /// Closes every connection; on SQLite this folds the write-ahead log into the file first, so that
    /// the file alone is a whole backup, also while other programs have it open.
    pub async fn close(&self) {
        let limit = self.inner.options.acquire_timeout;
        let close = async {
            let _ = self.inner.reader.pool.close_by_ref().await;
            self.inner.freshness.close().await;
            if matches!(self.inner.freshness, Freshness::File(_))
                && let Err(error) = self
                    .inner
                    .writer
                    .execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)")
                    .await
            {
                tracing::warn!(%error, "the write-ahead log was not folded into the database");
            }
            let _ = self.inner.writer.close_by_ref().await;
        };
        if tokio::time::timeout(limit, close).await.is_err() {
            tracing::warn!("the database's connections did not close in time");
        }
    }
}

/// When an attempt at a transaction failed.
enum Failed<E> {
    /// Nothing of it is in the database.
    Before(E),
    /// It may be in the database all the same.
    AtCommit(E),
}

/// Longer with each attempt, and different for each replica.
fn pause(attempt: u32) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pauses are merely less spread.
    let _ = getrandom::fill(&mut random);
    Duration::from_millis(u64::from(2_u32.pow(attempt)) * (2 + u64::from(random[0] % 8)))
}

//! The open database: a pool to read from and the one way to write.

use std::{
    fs,
    future::Future,
    io,
    path::Path,
    str::FromStr,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};
use sqlx::{
    ConnectOptions, Connection as _,
    mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode},
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};

use crate::{
    connection::{Connection, Transaction},
    error::{StoreError, is_out_of_step},
    freshness::{Freshness, LookOut, Version, Watch},
    network,
    outage::{Health, Look},
    schema,
    url::{Address, DbUrl, Dialect, Target},
};

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
            Target::File(path) => open_file(url, path, &options, &replace_writer).await?,
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

async fn open_file(
    url: &DbUrl,
    path: &Path,
    options: &StoreOptions,
    replace_writer: &Arc<AtomicBool>,
) -> Result<(DatabaseConnection, DatabaseConnection, Freshness), StoreError> {
    check_file_system(url, path, options)?;
    create_private(url, path)?;
    let connect = sqlite_options(options, "sqlite::memory:")?
        .in_memory(false)
        .shared_cache(false)
        .filename(path);
    // The writer comes first: it makes the write-ahead log, which readers then find.
    let logged = connect
        .clone()
        .journal_mode(SqliteJournalMode::Wal)
        // What was acknowledged outlives a power cut.
        .synchronous(SqliteSynchronous::Full);
    let writer = loop {
        let replace = Arc::clone(replace_writer);
        let pool = sqlite_pool(options, 1).before_acquire(move |_, _| {
            let is_good = !replace.swap(false, Ordering::SeqCst);
            Box::pin(async move { Ok(is_good) })
        });
        match pool.connect_with(logged.clone()).await {
            Ok(writer) => break writer,
            // SQLite does not wait for its busy timeout where two programs change the journal's mode
            // at once. The caller's deadline ends this.
            Err(error) if is_busy(&error) => tokio::time::sleep(BUSY_PAUSE).await,
            Err(error) => return Err(connect_error(url, &error)),
        }
    };
    let read_only = connect.pragma("query_only", "ON");
    let watch = SqliteConnection::connect_with(&read_only)
        .await
        .map_err(|error| connect_error(url, &error))?;
    let reader = sqlite_pool(options, options.max_connections.min(4))
        .connect_with(read_only)
        .await
        .map_err(|error| connect_error(url, &error))?;
    Ok((
        reader.into(),
        writer.into(),
        Freshness::File(Box::new(Watch::new(watch))),
    ))
}

/// Whether another program holds a lock that it will give back.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    // SQLITE_BUSY and its extended codes have 5 in their lowest byte.
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| code & 0xff == 5)
}

/// How long an idle connection may take to show that it is there.
const PING: Duration = Duration::from_secs(2);

/// The pause before a busy SQLite file is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Refuses a file on a network file system.
pub(crate) fn check_file_system(
    url: &DbUrl,
    path: &Path,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let place = if path.exists() { path } else { folder };
    // Where nobody can tell, opening the file says what is wrong.
    let Ok(magic) = (options.file_system)(place) else {
        return Ok(());
    };
    let Some(kind) = network::network_file_system(place, magic) else {
        return Ok(());
    };
    if options.allow_network_file_system {
        tracing::warn!(
            kind,
            "the database is a SQLite file on a network file system, which can damage it"
        );
        return Ok(());
    }
    Err(open_error(
        url,
        format!(
            "it is on a network file system ({kind}), where SQLite cannot keep programs apart that write at once, \
             which damages the file"
        ),
        "move it to a local disk and change JupyterHub.db_url, or use PostgreSQL or MariaDB; if only this machine \
         ever opens it and losing it is no harm, set the environment variable ORRERY_ALLOW_NETWORK_SQLITE=1",
    ))
}

/// Makes a missing file readable by its owner only, and names what is wrong with an existing one.
fn create_private(url: &DbUrl, path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            let cure = match error.kind() {
                io::ErrorKind::NotFound => "make its folder, or give another db_url",
                io::ErrorKind::PermissionDenied => {
                    "give the user that runs this program the right to write in its folder"
                }
                _ => "give a db_url that can be written",
            };
            return Err(open_error(url, error.to_string(), cure));
        }
    }
    check_file(url, path)
}

/// Names what is wrong with a file that stands already.
pub(crate) fn check_file(url: &DbUrl, path: &Path) -> Result<(), StoreError> {
    let metadata = fs::metadata(path)
        .map_err(|error| open_error(url, error.to_string(), "give another db_url"))?;
    if metadata.is_dir() {
        return Err(open_error(
            url,
            "it is a folder".into(),
            "give the name of a file in it",
        ));
    }
    let cure = "give the user that runs this program the right to read and write it";
    if metadata.permissions().readonly() {
        return Err(open_error(url, "it is read-only".into(), cure));
    }
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| open_error(url, error.to_string(), cure))?;
    Ok(())
}

pub(crate) fn sqlite_options(
    options: &StoreOptions,
    url: &str,
) -> Result<SqliteConnectOptions, StoreError> {
    Ok(SqliteConnectOptions::from_str(url)?
        .foreign_keys(true)
        .busy_timeout(options.busy_timeout)
        .statement_cache_capacity(200)
        .disable_statement_logging())
}

fn sqlite_pool(options: &StoreOptions, connections: u32) -> PoolOptions<sqlx::Sqlite> {
    PoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(options.acquire_timeout)
        // A database in memory would end with its connection; a file's connections cost nothing.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

fn server_pool<D: sqlx::Database>(
    pool: PoolOptions<D>,
    options: &StoreOptions,
    health: &Arc<Health>,
) -> PoolOptions<D> {
    let health = Arc::clone(health);
    pool.max_connections(options.max_connections)
        .acquire_timeout(options.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection, metadata| {
            // A connection that rested may have been cut by the server or a firewall, and one from
            // before the database was away is surely lost.
            let is_doubtful =
                metadata.idle_for > Duration::from_secs(20) || health.doubts(metadata.age);
            Box::pin(async move {
                if !is_doubtful {
                    return Ok(true);
                }
                let ping = tokio::time::timeout(PING, connection.ping()).await;
                Ok(matches!(ping, Ok(Ok(()))))
            })
        })
}

pub(crate) fn postgres_options(
    address: &Address,
    options: &StoreOptions,
) -> Result<PgConnectOptions, StoreError> {
    let limit = options.statement_timeout.as_millis().to_string();
    let mut connect = PgConnectOptions::new_without_pgpass()
        .application_name("orrery")
        .options([("statement_timeout", limit.as_str())])
        .disable_statement_logging();
    if let Some(user) = &address.user {
        connect = connect.username(user);
    }
    if let Some(password) = &address.password {
        connect = connect.password(password.expose());
    }
    if let Some(host) = &address.host {
        connect = connect.host(host);
    }
    if let Some(port) = address.port {
        connect = connect.port(port);
    }
    if let Some(database) = &address.database {
        connect = connect.database(database);
    }
    for (name, value) in &address.arguments {
        connect = match name.as_str() {
            "sslmode" | "ssl" => connect.ssl_mode(PgSslMode::from_str(value).map_err(|_| {
                bad_value(name, "disable, prefer, require, verify-ca or verify-full")
            })?),
            "sslrootcert" => connect.ssl_root_cert(value),
            "sslcert" => connect.ssl_client_cert(value),
            "sslkey" => connect.ssl_client_key(value),
            "host" => connect.host(value),
            "port" => connect.port(value.parse().map_err(|_| bad_value(name, "a port"))?),
            "user" => connect.username(value),
            "password" => connect.password(value),
            "dbname" => connect.database(value),
            "application_name" => connect.application_name(value),
            // Bounded by our own deadlines.
            "connect_timeout" | "client_encoding" => connect,
            other => return Err(unknown_argument(other, "PostgreSQL")),
        };
    }
    Ok(connect)
}

pub(crate) fn mysql_options(address: &Address) -> Result<MySqlConnectOptions, StoreError> {
    let mut connect = MySqlConnectOptions::new().disable_statement_logging();
    if let Some(user) = &address.user {
        connect = connect.username(user);
    }
    if let Some(password) = &address.password {
        connect = connect.password(password.expose());
    }
    if let Some(host) = &address.host {
        connect = connect.host(host);
    }
    if let Some(port) = address.port {
        connect = connect.port(port);
    }
    if let Some(database) = &address.database {
        connect = connect.database(database);
    }
    for (name, value) in &address.arguments {
        connect = match name.as_str() {
            "charset" if value.starts_with("utf8") => connect,
            "charset" => return Err(bad_value(name, "utf8mb4")),
            "unix_socket" => connect.socket(value),
            "ssl_ca" => connect.ssl_ca(value).ssl_mode(MySqlSslMode::VerifyCa),
            "ssl_cert" => connect.ssl_client_cert(value),
            "ssl_key" => connect.ssl_client_key(value),
            "ssl_verify_identity" if value == "true" => {
                connect.ssl_mode(MySqlSslMode::VerifyIdentity)
            }
            "ssl_disabled" if value == "true" => connect.ssl_mode(MySqlSslMode::Disabled),
            "ssl_mode" => connect.ssl_mode(MySqlSslMode::from_str(value).map_err(|_| {
                bad_value(
                    name,
                    "DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY",
                )
            })?),
            "connect_timeout" | "read_timeout" | "write_timeout" => connect,
            other => return Err(unknown_argument(other, "MySQL")),
        };
    }
    Ok(connect)
}

fn bad_value(name: &str, wanted: &str) -> StoreError {
    StoreError::Url(format!("the argument {name:?} must be {wanted}"))
}

fn unknown_argument(name: &str, database: &str) -> StoreError {
    StoreError::Url(format!(
        "the argument {name:?} is not supported for {database}"
    ))
}

fn open_error(url: &DbUrl, problem: String, cure: &str) -> StoreError {
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

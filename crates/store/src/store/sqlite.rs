//! Opening a SQLite file: its writer, its readers, and the look at what is wrong with it.

use std::{
    fs, io,
    path::Path,
    str::FromStr,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sea_orm::DatabaseConnection;
use sqlx::{
    ConnectOptions, Connection as _,
    pool::PoolOptions,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};

use super::{StoreOptions, connect_error, open_error};
use crate::{
    error::StoreError,
    freshness::{Freshness, Watch},
    network,
    url::DbUrl,
};

pub(super) async fn open_file(
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

pub(super) fn sqlite_pool(options: &StoreOptions, connections: u32) -> PoolOptions<sqlx::Sqlite> {
    PoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(options.acquire_timeout)
        // A database in memory would end with its connection; a file's connections cost nothing.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
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

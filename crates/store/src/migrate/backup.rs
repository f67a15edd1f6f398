//! The copy of a SQLite file that is made before anything in it is changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::NaiveDateTime;
use sqlx::SqliteConnection;

use crate::{error::StoreError, private_file};

/// How many copies one second may have.
const NAMES: u32 = 100;

/// Writes all that is committed, the write-ahead log's part included, into a new file beside the
/// database that only the database's owner may read, and sees that it is on the disk. Where that fails, nothing
/// is left of it. `connection` must not be the one that changes the database.
pub(super) async fn copy(
    connection: &mut SqliteConnection,
    database: &Path,
    now: NaiveDateTime,
    limit: Duration,
) -> Result<PathBuf, StoreError> {
    let refuse = |path: &Path, problem: String| {
        StoreError::Open {
        database: format!("sqlite:///{}", database.display()),
        problem: format!("the backup copy {} cannot be made: {problem}", path.display()),
        cure: "nothing was changed; see that its folder may be written and that the disk has room for a copy"
            .to_owned(),
    }
    };
    let path = reserve(database, now).map_err(|(path, error)| refuse(&path, error.to_string()))?;
    // SQLite fills an empty file, and refuses one that has something in it.
    let work = async {
        sqlx::query("VACUUM INTO ?")
            .bind(path.to_string_lossy().as_ref())
            .execute(&mut *connection)
            .await
            .map_err(|error| error.to_string())?;
        let synced = fs::File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|error| error.to_string())
    };
    let problem = match tokio::time::timeout(limit, work).await {
        Ok(Ok(())) => return Ok(path),
        Ok(Err(problem)) => problem,
        Err(_) => format!("it took longer than {} s", limit.as_secs()),
    };
    // Whatever stands there is ours and not whole.
    let _ = fs::remove_file(&path);
    Err(refuse(&path, problem))
}

/// Makes an empty file of a name that nobody has: `jupyterhub.sqlite.2026-11-21-093000`, as upstream
/// names its copies.
fn reserve(database: &Path, now: NaiveDateTime) -> Result<PathBuf, (PathBuf, io::Error)> {
    let stem = format!("{}.{}", database.display(), now.format("%Y-%m-%d-%H%M%S"));
    let mut number = 0;
    loop {
        let path = match number {
            0 => PathBuf::from(&stem),
            number => PathBuf::from(format!("{stem}.{number}")),
        };
        let made = private_file::create(&path, database);
        number += 1;
        match made {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < NAMES => {}
            Err(error) => return Err((path, error)),
        }
    }
}

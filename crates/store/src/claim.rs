//! One hub for one SQLite file.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::{
    error::StoreError,
    private_file,
    url::{DbUrl, Target},
};

/// The right to be the only hub on a SQLite file, held until it is dropped. It is a lock on the file
/// `…-lock` beside the database (`….lock` may be SQLite's own), which the kernel gives back when the
/// process ends, however it ends. Other programs, such as upstream's or ours that make a token, are not
/// kept out.
#[derive(Debug)]
pub struct Claim {
    /// Servers and proxies do not inherit it, for files are closed when a program is started.
    _locked: Option<File>,
}

impl Claim {
    /// Claims the database, or says which process has it. Databases on a network may have several
    /// hubs, and one in memory cannot have two: these are not locked.
    pub fn take(url: &DbUrl) -> Result<Self, StoreError> {
        let Target::File(path) = &url.target else {
            return Ok(Self { _locked: None });
        };
        let (path, beside) = lock_path(path);
        let refuse = |problem: String, cure: &str| StoreError::Open {
            database: url.to_string(),
            problem,
            cure: cure.to_owned(),
        };
        let mut file = private_file::open(&path, &beside).map_err(|error| {
            refuse(
                format!("{}: {error}", path.display()),
                "give the user that runs this program the right to write in its folder",
            )
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Without the number the sentence is still right.
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim().parse::<u32>() {
                    Ok(process) => format!(", process {process},"),
                    Err(_) => String::new(),
                };
                return Err(refuse(
                    format!("another hub{holder} uses it"),
                    "stop that hub first, or start this one in another folder or with another db_url",
                ));
            }
            Err(TryLockError::Error(error)) => {
                // Some network file systems have no locks; then nobody can be kept out.
                tracing::warn!(path = %path.display(), %error, "the database cannot be locked against a second hub");
            }
        }
        let noted = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::debug!(path = %path.display(), %error, "the process id was not noted");
        }
        Ok(Self {
            _locked: Some(file),
        })
    }
}

/// Beside the real file, so that each way to name it leads to the same lock; with the file or, while it
/// is yet to be made, its folder.
fn lock_path(database: &Path) -> (PathBuf, PathBuf) {
    let (real, beside) = match database.canonicalize() {
        Ok(real) => (real.clone(), real),
        Err(_) => match (database.parent(), database.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                };
                let folder = parent.canonicalize();
                let folder = folder.unwrap_or_else(|_| parent.to_owned());
                (folder.join(name), folder)
            }
            _ => (database.to_owned(), database.to_owned()),
        },
    };
    let mut path = real.into_os_string();
    path.push("-lock");
    (path.into(), beside)
}

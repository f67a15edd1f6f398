//! What servers write: one file for each server's present run, and one for the run before.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::{ServerSpec, spawner_failure};
use serde_json::Value;

use super::process::State;

/// A log that has grown beyond this begins anew.
const LARGEST: u64 = 10 * 1024 * 1024;
/// So much of a log's end is looked at for its last lines.
const TAIL: u64 = 64 * 1024;
/// Longer lines are cut.
const LONGEST_LINE: usize = 2000;

/// A run's log.
pub(super) struct Log {
    /// Its name inside the folder.
    pub(super) name: String,
    pub(super) file: File,
}

/// Makes the folder, for the hub's user alone.
pub(super) fn make_folder(folder: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| failure("The folder of logs", folder, &error))
}

/// Whether logs can be kept there.
pub(super) async fn check(folder: &Path) -> Result<(), Failure> {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || make_folder(&folder))
        .await
        .map_err(|error| spawner_failure(format!("The check broke off: {error}.")))?
}

/// Begins a run's log and puts the log of the run before aside.
pub(super) fn create(folder: &Path, spec: &ServerSpec) -> Result<Log, Failure> {
    make_folder(folder)?;
    let name = name(spec);
    let path = folder.join(&name);
    match fs::rename(&path, previous(&path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failure("The last log", &path, &error));
        }
        _ => {}
    }
    // Appending, so that a log that is cut short (see `bound`) goes on at its new end.
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map(|file| Log { name, file })
        .map_err(|error| failure("The log", &path, &error))
}

/// `ada.log`, or `ada+lab.log` for a named server: escaping leaves no `+` in the parts.
fn name(spec: &ServerSpec) -> String {
    let mut name = spec.user.escaped();
    if !spec.server.is_default() {
        name.push('+');
        name.push_str(&spec.server.escaped());
    }
    // File names end at 255 bytes. A leading dot would hide the file, and `logs` refuses it.
    if name.len() > 200 || name.starts_with('.') {
        return format!("run-{}.log", spec.run_id);
    }
    name.push_str(".log");
    name
}

fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Keeps a running server's log from filling the disk: one that has grown too large is put aside and
/// begins anew.
pub(super) async fn bound(path: &Path) {
    let is_large = tokio::fs::metadata(path)
        .await
        .is_ok_and(|data| data.len() > LARGEST);
    if !is_large {
        return;
    }
    let path = path.to_owned();
    let bounded = tokio::task::spawn_blocking(move || -> io::Result<()> {
        // The server keeps its descriptor, so the file must stay and its content must go. What is
        // written between the two steps is lost.
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let copied = copy_end(&mut file, &previous(&path));
        // Also without a copy, on a full disk for instance.
        file.set_len(0).and(copied)
    })
    .await;
    if let Ok(Err(error)) = bounded {
        tracing::warn!(%error, "a server's log is too large and could not be put aside");
    }
}

/// Copies the end of a log. Its server can make it as long as it likes, without writing so much.
fn copy_end(log: &mut File, path: &Path) -> io::Result<()> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LARGEST)))?;
    let mut aside = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    io::copy(&mut log.take(LARGEST), &mut aside).map(drop)
}

/// The last lines that the server with this state wrote.
pub(super) async fn of_state(folder: &Path, state: &Value, lines: usize) -> Vec<String> {
    match State::parse(state).and_then(|state| state.log) {
        Some(log) => tail(&folder.join(log), lines).await,
        None => Vec::new(),
    }
}

/// The last lines of a log, oldest first; none if it cannot be read.
pub(super) async fn tail(path: &Path, lines: usize) -> Vec<String> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || read_tail(&path, lines).unwrap_or_default())
        .await
        .unwrap_or_default()
}

fn read_tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = OpenOptions::new().read(true).open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut all: Vec<&str> = text.lines().collect();
    // The first line may have begun before.
    if skipped > 0 && all.len() > 1 {
        all.remove(0);
    }
    let first = all.len().saturating_sub(lines);
    Ok(all[first..].iter().map(|line| shortened(line)).collect())
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

fn failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Cause::Spawner,
        format!("{what} {} cannot be written: {error}.", path.display()),
    )
}

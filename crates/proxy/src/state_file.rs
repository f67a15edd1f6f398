//! The state file: the last known routes, so that a restarted proxy serves them without the hub.
//!
//! Each line is one JSON object, a route or a removal; a later line replaces an earlier one. A
//! change appends a line, which outlives a killed process. From time to time the file is replaced,
//! atomically, by a fresh one with one line for each route. That takes long with many routes, so
//! it happens beside the changes: [`rewrite`] holds the file's lock for moments only, and what is
//! appended meanwhile goes to the old file and to the new one. Lines that cannot be read are left
//! out, above all a last line without its end (power failure).

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, routes::Route, trie::Trie};

pub(crate) struct StateFile {
    path: PathBuf,
    loaded: HashMap<String, Map<String, Value>>,
    /// Open for appending; none after a failure, until the whole file has been written anew.
    file: Option<File>,
    /// The file that is about to take the place of `file`.
    successor: Option<File>,
    /// What was appended while the successor is written, and is not in it yet.
    pending: Option<Vec<u8>>,
    lines: usize,
}

/// A file's lock: the table's writers append under it, [`rewrite`] replaces the file.
pub(crate) type Slot = Mutex<Option<StateFile>>;

/// So many bytes of pending lines are written while writers wait.
const LAST_PIECE: usize = 16 * 1024;

#[derive(Deserialize)]
struct Line {
    path: String,
    /// Missing for a removal.
    data: Option<Map<String, Value>>,
}

impl StateFile {
    /// Reads the file if it is there, and makes sure that it can be written.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |action: &'static str| {
            move |source| Error::File {
                action,
                path: path.to_owned(),
                source,
            }
        };
        // A link stays a link; what it leads to is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&target)
            .map_err(failed("open the state file"))?;
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut content))
            .map_err(failed("read the state file"))?;
        // A file that somebody else made may be open to all.
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(failed("protect the state file"))?;
        if content.last().is_some_and(|last| *last != b'\n') {
            // The next line must not become a part of this half one.
            file.write_all(b"\n")
                .map_err(failed("write the state file"))?;
        }
        let (loaded, lines) = read(&content);
        Ok(Self {
            path: target,
            loaded,
            file: Some(file),
            successor: None,
            pending: None,
            lines,
        })
    }

    /// The routes that were read.
    pub(crate) fn take_loaded(&mut self) -> HashMap<String, Map<String, Value>> {
        std::mem::take(&mut self.loaded)
    }

    pub(crate) fn added(&mut self, route: &Route) {
        let mut line = String::new();
        write_route(route, &mut line);
        self.append(&line);
    }

    pub(crate) fn removed(&mut self, route: &Route) {
        self.append(&format!("{{\"path\":{}}}\n", Value::from(&*route.path)));
    }

    /// How many lines the file has.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    /// Whether the file should be written anew: it cannot be appended to, or it holds far more
    /// lines than there are routes.
    pub(crate) fn is_worn(&self, routes: usize) -> bool {
        self.file.is_none() || self.lines > 2 * routes + 1000
    }

    /// A proxy that cannot write its state goes on serving; it says so once, and tries the whole
    /// file at the next change.
    fn append(&mut self, line: &str) {
        self.lines += 1;
        if let Some(pending) = &mut self.pending {
            pending.extend_from_slice(line.as_bytes());
        }
        let mut files = self.file.iter_mut().chain(&mut self.successor);
        if let Err(error) = files.try_for_each(|file| file.write_all(line.as_bytes())) {
            self.file = None;
            tracing::error!(
                "cannot append to the state file {}: {error}",
                self.path.display()
            );
        }
    }
}

/// Takes the lock. A writer that panicked has published nothing, so all is whole.
pub(crate) fn lock(slot: &Slot) -> MutexGuard<'_, Option<StateFile>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces the file by one that holds the routes that `snapshot` gives, and what is appended after
/// that. `snapshot` is called under the lock. Only one rewrite may run at a time. Does nothing
/// without a file.
pub(crate) fn rewrite(
    slot: &Slot,
    snapshot: impl FnOnce() -> Trie<Arc<Route>>,
) -> Result<(), Error> {
    let (path, routes) = {
        let mut slot = lock(slot);
        let Some(file) = slot.as_mut() else {
            return Ok(());
        };
        file.pending = Some(Vec::new());
        (file.path.clone(), snapshot())
    };
    let result = write_beside(&path, &routes)
        .and_then(|successor| succeed(slot, &path, successor, routes.len()));
    if result.is_err()
        && let Some(file) = lock(slot).as_mut()
    {
        file.pending = None;
        file.successor = None;
    }
    result.map_err(|source| Error::File {
        action: "write the state file",
        path,
        source,
    })
}

/// Has the file beside the old one catch up with it and take its place.
fn succeed(slot: &Slot, path: &Path, mut successor: File, written: usize) -> io::Result<()> {
    let appended_since = loop {
        let mut slot = lock(slot);
        let Some(file) = slot.as_mut() else {
            // Given up meanwhile.
            return fs::remove_file(beside(path));
        };
        let pending = file.pending.take().unwrap_or_default();
        if pending.len() <= LAST_PIECE {
            successor.write_all(&pending)?;
            file.successor = Some(successor.try_clone()?);
            break file.lines;
        }
        file.pending = Some(Vec::new());
        drop(slot);
        successor.write_all(&pending)?;
    };
    fs::rename(beside(path), path)?;
    if let Some(file) = lock(slot).as_mut() {
        // A successor that missed a line must be followed by a whole one.
        let missed = file.file.is_none() && file.lines > appended_since;
        file.file = file.successor.take().filter(|_| !missed);
        file.lines = written + (file.lines - appended_since);
    }
    // The rename itself must outlive a power failure.
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn read(content: &[u8]) -> (HashMap<String, Map<String, Value>>, usize) {
    let mut loaded = HashMap::new();
    let mut lines = 0;
    for line in content.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        lines += 1;
        match serde_json::from_slice::<Line>(line) {
            Ok(Line {
                path,
                data: Some(data),
            }) => {
                loaded.insert(path, data);
            }
            Ok(Line { path, data: None }) => {
                loaded.remove(&path);
            }
            Err(error) => tracing::warn!("a line of the state file is left out: {error}"),
        }
    }
    (loaded, lines)
}

fn write_route(route: &Route, line: &mut String) {
    line.push_str("{\"path\":");
    line.push_str(&Value::from(&*route.path).to_string());
    line.push_str(",\"data\":");
    route.write_json(line);
    line.push_str("}\n");
}

fn beside(path: &Path) -> PathBuf {
    let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Writes the routes beside the old file. Whoever reads sees the old or the new, never half.
fn write_beside(path: &Path, routes: &Trie<Arc<Route>>) -> io::Result<File> {
    let beside = beside(path);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    let mut writer = BufWriter::with_capacity(64 * 1024, file);
    let mut line = String::new();
    let mut result = Ok(());
    routes.for_each(|route| {
        if result.is_ok() {
            line.clear();
            write_route(route, &mut line);
            result = writer.write_all(line.as_bytes());
        }
    });
    result?;
    let file = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_data()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(content: &[u8]) -> Vec<String> {
        let mut paths: Vec<String> = read(content).0.into_keys().collect();
        paths.sort();
        paths
    }

    #[test]
    fn later_lines_win_and_half_lines_are_left_out() {
        let file = b"{\"path\":\"/a\",\"data\":{}}\n{\"path\":\"/b\",\"data\":{}}\n\
            {\"path\":\"/a\"}\n\xff\xfe\n\n{\"path\":\"/c\",\"data\":{}}\n{\"path\":\"/d\",\"da";
        assert_eq!(loaded(file), ["/b", "/c"]);
        // However much of the end is missing, whole lines count.
        for end in 0..file.len() {
            let whole = file[..end].iter().filter(|byte| **byte == b'\n').count();
            assert!(read(&file[..end]).1 <= whole + 1);
        }
    }

    #[test]
    fn a_half_line_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes");
        fs::write(
            &path,
            "{\"path\":\"/a\",\"data\":{}}\n{\"path\":\"/b\",\"da",
        )
        .unwrap();
        let mut file = StateFile::open(&path).unwrap();
        assert_eq!(file.take_loaded().len(), 1);
        file.append("{\"path\":\"/c\",\"data\":{}}\n");
        assert_eq!(loaded(&fs::read(&path).unwrap()), ["/a", "/c"]);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_at_start() {
        let folder = tempfile::tempdir().unwrap();
        assert!(StateFile::open(folder.path()).is_err());
        assert!(StateFile::open(&folder.path().join("no/routes")).is_err());
    }
}

//! The state file: the last known routes, so that a restarted proxy serves them without the hub.
//!
//! Each line is one JSON object, a route or a removal; a later line replaces an earlier one. A
//! change appends a line, which outlives a killed process. From time to time the file is replaced,
//! atomically, by a fresh one with one line for each route. That takes long with many routes, so
//! it happens beside the changes: [`rewrite`] holds the file's mutex for moments only, and what is
//! appended meanwhile goes to the old file and to the new one. Lines that cannot be read are left
//! out, above all a last line without its end (power failure).
//!
//! Two proxies that write one file would undo each other's changes, so the file is locked (`flock`)
//! by whoever keeps it, a successor before it takes its predecessor's name. Whoever gets the lock
//! looks whether the name still leads to what was locked.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    hash::{BuildHasher, RandomState},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Error, metrics,
    private_file::{self, Fresh},
    routes::Route,
    trie::Trie,
};

pub(crate) struct StateFile {
    path: PathBuf,
    loaded: HashMap<String, Map<String, Value>>,
    /// Open for appending, and locked.
    file: File,
    health: Health,
    /// What was appended while a fresh file is written, and is not in it yet.
    pending: Option<Vec<u8>>,
    lines: usize,
}

/// How the file is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Good,
    /// It agrees with the table, but could not be written anew.
    Due,
    /// It does not agree with the table. Nothing is appended until it has been written anew.
    Behind,
}

/// A file's mutex: the table's writers append under it, [`rewrite`] replaces the file.
pub(crate) type Slot = Mutex<Option<StateFile>>;

/// How long a start waits for a proxy that is about to stop, and writes the file a last time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two looks meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// So many bytes of pending lines are written while writers wait.
const LAST_PIECE: usize = 16 * 1024;

#[derive(Deserialize)]
struct Line {
    path: String,
    /// Missing for a removal.
    data: Option<Map<String, Value>>,
}

impl StateFile {
    /// Reads the file if it is there, and makes sure that it can be written. Waits a little for
    /// another proxy to give it up.
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        Self::open_within(path, PATIENCE).await
    }

    async fn open_within(path: &Path, patience: Duration) -> Result<Self, Error> {
        let begun = tokio::time::Instant::now();
        let mut is_told = false;
        loop {
            if let Some(file) = Self::open_now(path)? {
                return Ok(file);
            }
            if begun.elapsed() >= patience {
                return Err(Error::File {
                    action: "keep routes in the state file",
                    path: path.to_owned(),
                    source: io::Error::other("another proxy does; each needs a file of its own"),
                });
            }
            if !is_told {
                tracing::info!("Waiting for another proxy to leave {}", path.display());
                is_told = true;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether the file can be opened, without taking it from the proxy that keeps it.
    pub(crate) fn check(path: &Path) -> Result<(), Error> {
        open(path).map(drop).map_err(|source| Error::File {
            action: "open the state file",
            path: path.to_owned(),
            source,
        })
    }

    /// `None` when another proxy keeps its routes there.
    fn open_now(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |action: &'static str| {
            move |source| Error::File {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let mut file = open(path).map_err(failed("open the state file"))?;
        // A link stays a link; what it leads to is replaced.
        let target = fs::canonicalize(path).map_err(failed("open the state file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => tracing::warn!(
                "internal: {} cannot be locked against other proxies: {error}",
                path.display()
            ),
        }
        if !is_at(&file, &target).map_err(failed("open the state file"))? {
            // Somebody replaced it, and then left it or not.
            return Ok(None);
        }
        remove_left_overs(&target);
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
        Ok(Some(Self {
            path: target,
            loaded,
            file,
            health: Health::Good,
            pending: None,
            lines,
        }))
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

    /// Whether the file holds far more lines than there are routes, and should be written anew.
    pub(crate) fn is_worn(&self, routes: usize) -> bool {
        self.health == Health::Good && self.lines > 2 * routes + 1000
    }

    /// Whether the file could not be written, and should be written anew soon.
    pub(crate) fn is_due(&self) -> bool {
        self.health > Health::Good
    }

    fn append(&mut self, line: &str) {
        self.lines += 1;
        if let Some(pending) = &mut self.pending {
            pending.extend_from_slice(line.as_bytes());
        }
        if self.health == Health::Behind {
            return;
        }
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.failed(Health::Behind, &error);
        }
    }

    /// A proxy that cannot write its state goes on serving. It says so once, counts each failure,
    /// and tries the whole file until that succeeds.
    fn failed(&mut self, health: Health, error: &io::Error) {
        metrics::count_state_file_failure();
        let path = self.path.display();
        if self.health == Health::Good {
            tracing::error!("cannot write the state file {path}, trying on: {error}");
        } else {
            tracing::debug!("cannot write the state file {path}: {error}");
        }
        self.health = self.health.max(health);
    }
}

/// Takes the mutex. A writer that panicked has published nothing, so all is whole.
pub(crate) fn lock(slot: &Slot) -> MutexGuard<'_, Option<StateFile>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What [`rewrite`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// The routes that the file holds already, in fewer lines.
    Same,
    /// Another table. Should it fail, nothing may be appended to the old one.
    Replaced,
}

/// Replaces the file by one that holds the routes that `snapshot` gives, and what is appended after
/// that. `snapshot` is called under the mutex. Only one rewrite may run at a time. Does nothing
/// without a file.
pub(crate) fn rewrite(slot: &Slot, what: Rewrite, snapshot: impl FnOnce() -> Trie<Arc<Route>>) {
    let (path, routes, lines) = {
        let mut slot = lock(slot);
        let Some(file) = slot.as_mut() else {
            return;
        };
        file.pending = Some(Vec::new());
        (file.path.clone(), snapshot(), file.lines)
    };
    let result = write_fresh(&path, &routes)
        .and_then(|fresh| succeed(slot, fresh, &path, routes.len(), lines));
    if let Err(error) = result
        && let Some(file) = lock(slot).as_mut()
    {
        file.pending = None;
        let health = match what {
            Rewrite::Same => Health::Due,
            Rewrite::Replaced => Health::Behind,
        };
        file.failed(health, &error);
    }
}

/// Has the fresh file catch up with the old one and take its place, unless that was given up
/// meanwhile. `written` is how many routes the fresh one has, `lines` how many lines the old one had
/// then.
fn succeed(slot: &Slot, fresh: Fresh, path: &Path, written: usize, lines: usize) -> io::Result<()> {
    loop {
        let mut slot = lock(slot);
        let Some(file) = slot.as_mut() else {
            return Ok(());
        };
        let pending = file.pending.take().unwrap_or_default();
        if pending.len() <= LAST_PIECE {
            fresh.file().write_all(&pending)?;
            // Nobody else has it open. Where there are no locks, the start has said so.
            let _ = fresh.file().try_lock();
            // With the mutex held: after it was given up, the name is another proxy's.
            file.file = fresh.rename(path)?;
            file.lines = written + (file.lines - lines);
            if file.health > Health::Good {
                tracing::warn!("The state file {} is whole again", path.display());
                file.health = Health::Good;
            }
            break;
        }
        file.pending = Some(Vec::new());
        drop(slot);
        fresh.file().write_all(&pending)?;
    }
    // The rename itself must outlive a power failure. The file is right even if that fails.
    if let Err(error) = private_file::sync_folder_of(path) {
        tracing::warn!("internal: the state file's folder was not written out: {error}");
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    private_file::refuse_foreign(&file, path)?;
    Ok(file)
}

/// Whether the name leads to this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
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

/// A file with the routes, beside the state file.
fn write_fresh(path: &Path, routes: &Trie<Arc<Route>>) -> io::Result<Fresh> {
    // Nobody else's name: several processes may be writing theirs, in containers under the same
    // process id.
    let unique = RandomState::new().hash_one(());
    let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{unique:x}.new", std::process::id()));
    let fresh = Fresh::create(path.with_file_name(name))?;
    let mut writer = BufWriter::with_capacity(64 * 1024, fresh.file());
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
    writer.flush()?;
    drop(writer);
    fresh.file().sync_data()?;
    Ok(fresh)
}

/// Removes what processes left that were killed while they wrote a fresh file. Only whoever keeps
/// the state file may do so: nobody else can make use of a fresh one any more.
fn remove_left_overs(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return;
    };
    let is_one = |entry: &str| {
        let middle = entry.strip_prefix(name)?.strip_prefix('.')?;
        let (pid, unique) = middle.strip_suffix(".new")?.split_once('-')?;
        let is_hex = unique.bytes().all(|byte| byte.is_ascii_hexdigit());
        (pid.parse::<u32>().is_ok() && is_hex).then_some(())
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(is_one).is_some() {
            let _ = fs::remove_file(entry.path());
        }
    }
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
            let begun = file[..end].iter().rposition(|byte| *byte == b'\n');
            let whole = match file[end] {
                b'\n' => end,
                _ => begun.map_or(0, |newline| newline + 1),
            };
            assert_eq!(loaded(&file[..end]), loaded(&file[..whole]));
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
        let mut file = StateFile::open_now(&path).unwrap().unwrap();
        assert_eq!(file.take_loaded().len(), 1);
        file.append("{\"path\":\"/c\",\"data\":{}}\n");
        assert_eq!(loaded(&fs::read(&path).unwrap()), ["/a", "/c"]);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_at_start() {
        let folder = tempfile::tempdir().unwrap();
        assert!(StateFile::open_now(folder.path()).is_err());
        assert!(StateFile::open_now(&folder.path().join("no/routes")).is_err());
    }

    #[test]
    fn a_file_of_another_account_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes");
        fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        for error in [
            StateFile::check(&path).unwrap_err(),
            StateFile::open_now(&path).err().unwrap(),
        ] {
            assert!(error.to_string().contains("another account"), "{error}");
        }
        // Who owns the folder can put there what they like.
        std::os::unix::fs::chown(folder.path(), Some(12345), None).unwrap();
        assert!(StateFile::open_now(&path).unwrap().is_some());
    }

    #[tokio::test]
    async fn one_proxy_keeps_a_file_through_all_its_successors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes");
        let left_over = folder.path().join("routes.17-ab.new");
        let other = folder.path().join("routes.new");
        fs::write(&left_over, "").unwrap();
        fs::write(&other, "").unwrap();
        let slot = Mutex::new(Some(StateFile::open(&path).await.unwrap()));
        assert!(!left_over.exists() && other.exists());
        for _ in 0..2 {
            let error = StateFile::open_within(&path, Duration::ZERO).await;
            let error = error.err().unwrap().to_string();
            assert!(error.contains("another proxy"), "{error}");
            StateFile::check(&path).unwrap();
            rewrite(&slot, Rewrite::Same, Trie::default);
        }
        *lock(&slot) = None;
        rewrite(&slot, Rewrite::Same, || {
            panic!("nothing is written any more")
        });
        StateFile::open(&path).await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

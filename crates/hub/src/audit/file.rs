//! The file of JSON lines: appended whole lines, for its owner alone, opened anew when it was rotated.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// What a file that was there may be at most: its group may read it, whether itself or by an access list.
const WIDEST: u32 = 0o640;

/// Where lines go.
pub(super) struct LineFile {
    path: PathBuf,
    open: Option<File>,
}

impl LineFile {
    /// Opens the file, or says why it cannot be.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = Self {
            path: path.to_owned(),
            open: None,
        };
        file.reopen()?;
        Ok(file)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.open = None;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(0o600)
            .open(&self.path)?;
        let known = file.metadata()?;
        if known.is_file() && known.mode() & 0o777 & !WIDEST != 0 {
            narrow(&file, known.mode())?;
        }
        // A line that a crash or a full disk cut short must not swallow the next one.
        if known.len() > 0 && known.is_file() {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        self.open = Some(file);
        Ok(())
    }

    /// Appends lines, each with its line feed, in one write. After a failure the file is opened anew
    /// next time.
    pub(super) fn append(&mut self, lines: &str) -> io::Result<()> {
        if !self.is_current() {
            self.reopen()?;
        }
        let Some(file) = &mut self.open else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let written = file.write_all(lines.as_bytes());
        if written.is_err() {
            self.open = None;
        }
        written
    }

    /// Whether the open file is still the one that the path names: `logrotate` moves it away.
    fn is_current(&self) -> bool {
        let Some(open) = &self.open else { return false };
        match (open.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }
}

/// Takes a file that was there, with a wider mode, from those who may not have it.
fn narrow(file: &File, mode: u32) -> io::Result<()> {
    let (found, wanted) = (mode & 0o777, mode & WIDEST);
    file.set_permissions(Permissions::from_mode(wanted))
        .map_err(|error| {
            let why = format!(
                "others may read or write it (mode {found:03o}), and it cannot be narrowed to {wanted:03o}: {error}"
            );
            io::Error::new(error.kind(), why)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_private_and_follow_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "{\"torn\":").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let mut file = LineFile::open(&path).unwrap();
        file.append("{\"a\":1}\n").unwrap();
        let moved = folder.path().join("audit.jsonl.1");
        std::fs::rename(&path, &moved).unwrap();
        file.append("{\"b\":2}\n").unwrap();
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(text(&moved), "{\"torn\":\n{\"a\":1}\n");
        assert_eq!(text(&path), "{\"b\":2}\n");
        for (path, wanted) in [(&path, 0o600), (&moved, 0o640)] {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, wanted, "{}", path.display());
        }
    }
}

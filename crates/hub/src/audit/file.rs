//! The file of JSON lines: appended whole lines, for its owner alone, opened anew when it was rotated.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

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
        // A line that a crash or a full disk cut short must not swallow the next one.
        let length = file.metadata()?.len();
        if length > 0 && file.metadata()?.is_file() {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn lines_are_whole_private_and_follow_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "{\"torn\":").unwrap();
        let mut file = LineFile::open(&path).unwrap();
        file.append("{\"a\":1}\n").unwrap();
        let moved = folder.path().join("audit.jsonl.1");
        std::fs::rename(&path, &moved).unwrap();
        file.append("{\"b\":2}\n").unwrap();
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(text(&moved), "{\"torn\":\n{\"a\":1}\n");
        assert_eq!(text(&path), "{\"b\":2}\n");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

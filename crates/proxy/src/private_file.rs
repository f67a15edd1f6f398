//! Files for the proxy's user alone, put in place whole: routes, keys and certificates lie in them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A file beside another that is to take its place: whoever reads that one sees the old or the new,
/// never half. Removed if it does not.
pub(crate) struct Fresh {
    file: File,
    path: Option<PathBuf>,
}

impl Fresh {
    /// An empty file, mode 0600, which must not be there yet.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self {
            file,
            path: Some(path),
        })
    }

    /// To write to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Has it take the name, and gives it back open.
    pub(crate) fn rename(mut self, path: &Path) -> io::Result<File> {
        let file = self.file.try_clone()?;
        if let Some(beside) = &self.path {
            fs::rename(beside, path)?;
        }
        self.path = None;
        Ok(file)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes out the folder of a file, so that its new name outlives a power failure.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Refuses what belongs to another account, which could read it, and change it, whatever its mode.
/// Root's is fine, and that of the owner of the folder, who could put anything there.
pub(crate) fn refuse_foreign(file: &File, path: &Path) -> io::Result<()> {
    let data = file.metadata()?;
    let owner = data.uid();
    let folder = path.parent().map(|folder| match folder.as_os_str() {
        name if name.is_empty() => Path::new("."),
        _ => folder,
    });
    let is_ours = is_own(owner)
        || folder
            .and_then(|folder| fs::metadata(folder).ok())
            .is_some_and(|folder| folder.uid() == owner);
    if is_ours && data.is_file() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("what stands there belongs to another account (user id {owner}) or is no file"),
    ))
}

/// Whether an account is the proxy's own, or root.
pub(crate) fn is_own(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

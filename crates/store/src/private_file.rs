//! Files beside a database or a socket that are for the hub alone, whoever makes them.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::Path,
};

use nix::fcntl::OFlag;

/// Opens a file to be read and written, or makes an empty one that only its owner may use. One that
/// root makes belongs to whom `like` belongs to, so that a command of root's locks no hub out that has
/// fewer rights. A link is not followed: whoever may write in the folder could have put it there.
pub fn open(path: &Path, like: &Path) -> io::Result<File> {
    match create(path, like) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path),
        made => made,
    }
}

/// Makes a file that was not there, as [`open`] does.
pub(crate) fn create(path: &Path, like: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // Others cannot give files away.
    if file.metadata()?.uid() == 0
        && let Ok(like) = like.metadata()
        && (like.uid(), like.gid()) != (0, 0)
        && let Err(error) = fchown(&file, Some(like.uid()), Some(like.gid()))
    {
        tracing::debug!(path = %path.display(), %error, "a file stays root's");
    }
    Ok(file)
}

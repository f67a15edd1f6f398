//! Files beside a database or a socket that are for the hub alone, whoever makes them.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::Path,
};

use nix::{fcntl::OFlag, unistd::geteuid};

/// Opens a file to be read and written, or makes an empty one that only its owner may use. One that
/// root makes belongs to whom `like` belongs to, so that a command of root's locks no hub out that has
/// fewer rights. A link is not followed: whoever may write in the folder could have put it there.
pub fn open(path: &Path, like: &Path) -> io::Result<File> {
    match create(path, like) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
                .open(path)?;
            refuse_foreign(&file, like)?;
            Ok(file)
        }
        made => made,
    }
}

/// Whoever made a file can hold its lock for ever: it must be ours, root's, or that of `like`'s owner.
fn refuse_foreign(file: &File, like: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    let owner = metadata.uid();
    let is_ours = owner == 0
        || owner == geteuid().as_raw()
        || like.metadata().is_ok_and(|like| like.uid() == owner);
    if is_ours && metadata.is_file() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("what stands there belongs to another account (user id {owner}) or is no file"),
    ))
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

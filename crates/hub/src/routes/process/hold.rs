//! One hub looks after one proxy.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use orrery_store::private_file;

use super::ProxyError;

/// The right to look after the proxy of a pid file: one running hub has it. The system takes it back
/// when the hub ends, however that happens.
pub struct ProxyHold(#[expect(dead_code, reason = "it is held, not read")] Option<Flock<File>>);

impl ProxyHold {
    /// Takes the right, so that a hub started by mistake neither ends nor adopts the proxy of the one
    /// that runs. Without a proxy of ours, or without a pid file, there is nothing to take.
    pub fn take(should_start: bool, pid_file: &Path) -> Result<Self, ProxyError> {
        if !should_start || pid_file.as_os_str().is_empty() {
            return Ok(Self(None));
        }
        let path = pid_file.with_extension("lock");
        // For us alone: whoever can open it could lock it, and keep every hub from starting.
        let private = std::fs::Permissions::from_mode(0o600);
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let file = private_file::open(&path, folder.unwrap_or(Path::new(".")))
            .and_then(|file| file.set_permissions(private).map(|()| file))
            .map_err(|error| ProxyError::PidFile(path.clone(), error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(Some(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Err(ProxyError::Held(pid_file.to_owned())),
            Err((_, error)) => {
                // Some file systems have no locks; that is no reason to have no hub.
                tracing::warn!(path = %path.display(), %error, "cannot tell whether another hub runs here");
                Ok(Self(None))
            }
        }
    }
}

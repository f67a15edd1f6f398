//! Limits of memory and processor.

use nix::unistd::Pid;
use orrery_session::protocol::Limits;

/// What holds a server to its limits.
pub(crate) struct Group {}

impl Group {
    /// Makes the group, as root, before the server's process exists; a sentence when it cannot be made.
    pub(crate) fn create(_limits: &Limits) -> Result<Self, String> {
        Err("Limits are not built yet.".to_owned())
    }

    /// Puts the server's process into the group, as root, before it runs anything of the user's.
    pub(crate) fn take_in(&self, _pid: Pid) -> Result<(), String> {
        let Self {} = self;
        Ok(())
    }

    /// Whether anything in the group was killed for memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        let Self {} = self;
        false
    }

    /// Ends what is left in the group, and removes it.
    pub(crate) fn remove(self) {
        let Self {} = self;
    }
}

//! Open files that whoever started this program left open by mistake: a shell's, a container's, a
//! supervisor's. None of them may reach the servers of users.

use std::os::fd::RawFd;

/// Standard input, output and error.
const STANDARD: RawFd = 3;

/// Closes every descriptor but the standard ones and those that systemd passes on purpose
/// (`LISTEN_FDS`). To be called before anything is opened.
pub(crate) fn close_inherited() {
    let kept = std::env::var("LISTEN_FDS").ok();
    let kept = kept.and_then(|count| count.parse::<RawFd>().ok());
    let first = STANDARD.saturating_add(kept.unwrap_or(0).max(0));
    // All are read before one is closed: the list itself is read through a descriptor.
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<RawFd> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor >= first)
        .collect();
    for descriptor in open {
        // The list's own is closed by now, which is no error.
        let _ = nix::unistd::close(descriptor);
    }
}

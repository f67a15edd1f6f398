//! Noticing peers that vanished: machines switched off, networks cut, laptops closed.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::net::sockopt;

/// So many questions stay unanswered before a peer counts as gone.
const PROBES: u32 = 3;

/// The longest time that the kernel takes for a quiet connection.
const LONGEST: Duration = Duration::from_secs(32_767);

/// How long a peer may leave unconfirmed what was sent to it. The kernel counts the time of a peer that
/// is there and takes nothing as well, so this is no shorter than a paused download may be.
const UNCONFIRMED: Duration = Duration::from_mins(10);

/// Has the kernel ask the peer of a connection that was quiet for this long, and end the connection
/// when nobody answers within about as long again. What a listening socket accepts inherits it. Zero
/// for never.
pub(crate) fn set(socket: &impl AsFd, quiet: Duration) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, !quiet.is_zero())?;
    if quiet.is_zero() {
        return Ok(());
    }
    let idle = quiet.clamp(Duration::from_secs(1), LONGEST);
    let pause = idle.min(Duration::from_secs(10));
    sockopt::set_tcp_keepidle(socket, idle)?;
    sockopt::set_tcp_keepintvl(socket, pause)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    let unconfirmed = UNCONFIRMED.max(idle + pause * PROBES).as_millis();
    sockopt::set_tcp_user_timeout(socket, u32::try_from(unconfirmed).unwrap_or(u32::MAX))?;
    Ok(())
}

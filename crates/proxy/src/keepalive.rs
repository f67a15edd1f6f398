//! Noticing peers that vanished: machines switched off, networks cut, laptops closed.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::net::sockopt;

/// So many questions stay unanswered before a peer counts as gone.
const PROBES: u32 = 3;

/// The longest time that the kernel takes for a quiet connection.
const LONGEST: Duration = Duration::from_secs(32_767);

/// Has the kernel end a connection whose peer vanished. One that was quiet for `quiet` is asked whether
/// it is there, and ended when it does not answer within about as long again. One to which something
/// was sent that stays unconfirmed ends after `unconfirmed`; for the kernel this includes what a peer
/// that is there does not take. What a listening socket accepts inherits both. Zero for never.
pub(crate) fn set(socket: &impl AsFd, quiet: Duration, unconfirmed: Duration) -> io::Result<()> {
    let unconfirmed = u32::try_from(unconfirmed.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, unconfirmed)?;
    sockopt::set_socket_keepalive(socket, !quiet.is_zero())?;
    if quiet.is_zero() {
        return Ok(());
    }
    let idle = quiet.clamp(Duration::from_secs(1), LONGEST);
    sockopt::set_tcp_keepidle(socket, idle)?;
    sockopt::set_tcp_keepintvl(socket, idle.min(Duration::from_secs(10)))?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    Ok(())
}

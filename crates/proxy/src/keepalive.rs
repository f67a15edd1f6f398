//! Noticing peers that vanished: machines switched off, networks cut, laptops closed.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// So many questions stay unanswered before a peer counts as gone.
const PROBES: u32 = 3;

/// Has the system ask the peer when a connection has been silent for `idle`, and end the connection
/// when it does not answer, or does not confirm what was sent, for about as long again.
pub(crate) fn set(socket: &impl AsFd, idle: Duration) -> io::Result<()> {
    let socket = SockRef::from(socket);
    // The system counts in whole seconds.
    let interval = (idle / PROBES).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new()
        .with_time(idle.max(Duration::from_secs(1)))
        .with_interval(interval)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(idle + interval * PROBES))
}

//! More connections than there is room for: they are told so and closed, and as others end there is
//! room again.

use std::{
    fs::File,
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tokio_util::either::Either;

use crate::{
    listen::{Accepted, BACKLOG, TokioListener},
    transport::Socket,
};

/// The pause before accepting is tried again when the system has nothing left to accept with.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// How often the log says so.
pub(crate) const REPORT: Duration = Duration::from_secs(10);

/// How long a client that is refused may take to send its request. Who closes a connection on which
/// something is unread resets it, and the client may never see the answer.
const LINGER: Duration = Duration::from_millis(500);

/// So many wait so at a time; others are closed at once.
const MOST_LINGERING: usize = 256;

/// How many connections are being refused just now, in all workers.
static LINGERING: AtomicUsize = AtomicUsize::new(0);

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 51\r\n\
    Retry-After: 5\r\n\
    Connection: close\r\n\
    \r\n\
    There are too many connections. Try again later.\r\n\n";

/// What an accepting task needs when file descriptors run out: one in reserve. It is given up to
/// accept a connection and close it, which would else stay at the head of the queue for ever.
pub(crate) struct Overload {
    reserve: Option<File>,
    since: Option<Instant>,
    reported: Option<Instant>,
    refused: u64,
}

impl Overload {
    pub(crate) fn new() -> Self {
        Self {
            reserve: open_reserve(),
            since: None,
            reported: None,
            refused: 0,
        }
    }

    /// A connection was accepted again.
    pub(crate) fn is_over(&mut self) {
        let Some(since) = self.since.take() else {
            return;
        };
        if self.reserve.is_none() {
            self.reserve = open_reserve();
        }
        if self.reported.is_some_and(|at| at >= since) {
            tracing::warn!(
                "Connections are accepted again; {} were refused",
                self.refused
            );
            self.refused = 0;
        }
    }

    /// Refuses what waits, as there is nothing to accept it with. Returns how many that were.
    pub(crate) async fn shed(&mut self, listener: &TokioListener, error: &io::Error) -> u64 {
        let before = self.refused;
        let now = Instant::now();
        self.since.get_or_insert(now);
        if self.reported.is_none_or(|at| now - at > REPORT) {
            self.reported = Some(now);
            tracing::error!("internal: cannot accept connections for now: {error}");
        }
        for _ in 0..BACKLOG {
            // Given back in each turn: another thread may take the descriptor that was freed.
            if self.reserve.is_none() {
                self.reserve = open_reserve();
            }
            if self.reserve.take().is_none() {
                break;
            }
            match listener.accept_waiting().await {
                Some(Ok((accepted, _))) => {
                    self.refused += 1;
                    if let Ok(socket) = accepted.into_socket() {
                        tell(&socket, false);
                    }
                }
                Some(Err(_)) | None => break,
            }
        }
        self.reserve = open_reserve();
        self.refused - before
    }
}

fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Refuses a connection that is one too many. One that speaks TLS is only closed.
pub(crate) fn refuse(accepted: Accepted, is_plain: bool) {
    let Ok(socket) = accepted.into_socket() else {
        return;
    };
    if !is_plain {
        return;
    }
    if LINGERING.fetch_add(1, Ordering::Relaxed) >= MOST_LINGERING {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
        tell(&socket, true);
        return;
    }
    tokio::task::spawn_local(async move {
        let readable = async {
            match &socket {
                Either::Left(stream) => stream.readable().await,
                Either::Right(stream) => stream.readable().await,
            }
        };
        let _ = tokio::time::timeout(LINGER, readable).await;
        tell(&socket, true);
        drop(socket);
        LINGERING.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Says why, as far as that is possible at once. Where it is not certain that the client does not
/// speak TLS, it is told only when its request is there and shows so.
fn tell(socket: &Socket, is_plain: bool) {
    let mut request = [0; 4096];
    let read = match socket {
        Either::Left(stream) => stream.try_read(&mut request),
        Either::Right(stream) => stream.try_read(&mut request),
    };
    // TLS begins with a byte that is no letter (RFC 8446, section 5.1), a method with one.
    let has_asked = read.is_ok_and(|read| read > 0) && request[0].is_ascii_alphabetic();
    if !is_plain && !has_asked {
        return;
    }
    let _ = match socket {
        Either::Left(stream) => stream.try_write(REFUSAL),
        Either::Right(stream) => stream.try_write(REFUSAL),
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(super::REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = format!("Content-Length: {}", body.len());
        assert!(head.lines().any(|line| line == length), "{}", body.len());
    }
}

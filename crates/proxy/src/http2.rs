//! HTTP/2 from browsers, over TLS: one connection, many exchanges at a time.
//!
//! Each exchange becomes one HTTP/1.1 exchange over a pipe in memory, whose other end is served as
//! any client's connection is. So routing, checks, limits, headers and logs are the same code for
//! both. Websockets are not offered here (RFC 8441): browsers open a connection with HTTP/1.1 for
//! them.

mod exchange;
mod translate;
mod watched;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason,
    server::{Builder, Connection},
};
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep},
};

use self::{exchange::Ending, watched::Watched};
use crate::{
    client::{Control, Phase},
    transport::Stream,
    worker::Worker,
};

/// Exchanges at a time. Browsers wait with more.
const MAX_STREAMS: u32 = 128;

/// The longest request head, counted as RFC 9113 section 6.5.2 does.
const MAX_HEADERS: u32 = 64 * 1024;

/// What a client may send ahead for one exchange, and for all. Uploads over long lines need
/// windows; what is sent and not yet taken by a server is held in memory.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// What is held for one exchange of an answer that the client is slow to take.
const SEND_BUFFER: usize = 64 * 1024;

/// Exchanges that a client may break off at once, and how many more each second. Pages that
/// somebody leaves break off a few dozen; floods of them (CVE-2023-44487) are work for us and none
/// for the client.
const MAX_RESETS: f64 = 500.0;
const RESETS_PER_SECOND: f64 = 50.0;

/// How long a client may take to notice that a connection without exchanges ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Whether the client chose HTTP/2 in the TLS handshake.
pub(crate) fn is_chosen(stream: &Stream) -> bool {
    match stream {
        Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        _ => false,
    }
}

/// Serves a client's connection until it closes.
pub(crate) async fn serve(worker: Rc<Worker>, stream: Stream, peer: Option<IpAddr>) {
    let registration = worker.register();
    let control = Rc::clone(&registration.control);
    control.enter(Phase::Http2, &worker);
    let life = Rc::new(Cell::new(Instant::now()));
    let handshake = Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(Watched::new(stream, Rc::clone(&life)));
    let idle_limit = worker.shared.settings.keep_alive_timeout;
    let connection = tokio::select! {
        connection = tokio::time::timeout(idle_limit, handshake) => connection,
        () = worker.shared.stop.cancelled() => return,
    };
    let result = match connection {
        Ok(Ok(connection)) => {
            let mut session = Session::new(&worker, peer, connection, life);
            poll_fn(|cx| session.poll(cx, &control)).await
        }
        Ok(Err(error)) => Err(error),
        Err(_) => return,
    };
    if let Err(error) = result {
        tracing::debug!("downstream: a connection ended early: {error}");
    }
}

struct Session {
    worker: Rc<Worker>,
    peer: Option<IpAddr>,
    connection: Connection<Watched, Bytes>,
    ping: Option<PingPong>,
    /// Dropped with the connection, they end.
    exchanges: JoinSet<Ending>,
    /// When the client last gave a sign of life.
    life: Rc<Cell<Instant>>,
    /// When the last exchange ended, or the connection began.
    last_exchange: Instant,
    closing: Closing,
    resets: Resets,
    limits: Limits,
    timer: Pin<Box<Sleep>>,
}

struct Limits {
    idle: Duration,
    /// A client that gives no sign of life for this long is asked for one, and after as long
    /// again it is gone.
    silence: Option<Duration>,
    /// How often both are looked at.
    look: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// The client has been told; exchanges go on to their end.
    Gracefully,
    AtOnce,
}

/// How many exchanges the client has broken off lately.
struct Resets {
    level: f64,
    since: Instant,
}

impl Session {
    fn new(
        worker: &Rc<Worker>,
        peer: Option<IpAddr>,
        mut connection: Connection<Watched, Bytes>,
        life: Rc<Cell<Instant>>,
    ) -> Self {
        let settings = &worker.shared.settings;
        let silence = Some(settings.tcp_keepalive).filter(|limit| !limit.is_zero());
        let look = silence
            .unwrap_or(Duration::MAX)
            .min(settings.keep_alive_timeout)
            / 2;
        let limits = Limits {
            idle: settings.keep_alive_timeout,
            silence,
            look: look.max(Duration::from_millis(10)),
        };
        let now = Instant::now();
        Self {
            ping: connection.ping_pong(),
            worker: Rc::clone(worker),
            peer,
            connection,
            exchanges: JoinSet::new(),
            life,
            last_exchange: now,
            closing: Closing::No,
            resets: Resets {
                level: 0.0,
                since: now,
            },
            timer: Box::pin(tokio::time::sleep(limits.look)),
            limits,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, control: &Control) -> Poll<Result<(), h2::Error>> {
        if control.poll_verdict(&self.worker, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if self.worker.is_leaving() {
            self.close_gracefully();
        }
        loop {
            let closing = self.closing;
            if let Poll::Ready(result) = self.poll_connection(cx) {
                return Poll::Ready(result);
            }
            self.reap(cx);
            // Its answers are signs of life as all that is read; here they are but taken away.
            if let Some(ping) = &mut self.ping {
                while let Poll::Ready(Ok(_)) = ping.poll_pong(cx) {}
            }
            while self.timer.as_mut().poll(cx).is_ready() {
                if self.is_over() {
                    return Poll::Ready(Ok(()));
                }
                let next = match self.closing {
                    Closing::No => self.limits.look,
                    _ => self.limits.look.min(FAREWELL),
                };
                self.look_after(next);
            }
            // What has been begun to close has something to say.
            if self.closing == closing {
                return Poll::Pending;
            }
        }
    }

    /// Lets the connection do its work, and begins the exchanges it brings. Ready when it has ended.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            let Some(accepted) = ready!(self.connection.poll_accept(cx)) else {
                return Poll::Ready(Ok(()));
            };
            let (request, mut respond) = accepted?;
            // One that comes while the proxy stops, or when there are too many, may be sent again,
            // elsewhere or later: the client is told that nothing has been done. Exchanges whose client left need a moment to end, so
            // there can be more than the client counts.
            let is_full = self.exchanges.len() >= 2 * MAX_STREAMS as usize;
            let is_refused = is_full || self.worker.stopping.get() || !self.worker.has_room();
            if is_refused || self.closing == Closing::AtOnce {
                respond.send_reset(Reason::REFUSED_STREAM);
                continue;
            }
            let exchange = exchange::run(Rc::clone(&self.worker), self.peer, request, respond);
            self.exchanges.spawn_local(exchange);
        }
    }

    /// Takes note of the exchanges that have ended.
    fn reap(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(ended)) = self.exchanges.poll_join_next(cx) {
            self.last_exchange = Instant::now();
            if matches!(ended, Ok(Ending::LeftByClient)) && self.resets.add() > MAX_RESETS {
                self.close_at_once(Reason::ENHANCE_YOUR_CALM);
            }
        }
    }

    /// What only time tells: whether the client is gone, or has had enough time.
    fn is_over(&mut self) -> bool {
        let idle = self
            .exchanges
            .is_empty()
            .then(|| self.last_exchange.elapsed());
        match self.closing {
            Closing::AtOnce => return true,
            Closing::Gracefully => return idle.is_some_and(|idle| idle >= FAREWELL),
            Closing::No => {}
        }
        if idle.is_some_and(|idle| idle >= self.limits.idle) {
            self.last_exchange = Instant::now();
            self.close_gracefully();
            return false;
        }
        if let (Some(limit), Some(ping)) = (self.limits.silence, &mut self.ping) {
            let silence = self.life.get().elapsed();
            if silence >= 2 * limit {
                tracing::debug!("downstream: a client gives no sign of life any more");
                return true;
            }
            if silence >= limit {
                // Fails when the answer to the one before has not come: then that one counts.
                let _ = ping.send_ping(Ping::opaque());
            }
        }
        false
    }

    /// Exchanges go on to their end, and no more begin.
    fn close_gracefully(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Gracefully;
            self.connection.graceful_shutdown();
            self.look_after(FAREWELL);
        }
    }

    fn close_at_once(&mut self, reason: Reason) {
        if self.closing != Closing::AtOnce {
            self.closing = Closing::AtOnce;
            tracing::debug!("downstream: a client broke off too many requests");
            self.connection.abrupt_shutdown(reason);
            self.look_after(FAREWELL);
        }
    }

    fn look_after(&mut self, time: Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }
}

impl Resets {
    /// One more. How full the measure is then.
    fn add(&mut self) -> f64 {
        let now = Instant::now();
        let gone = now.duration_since(self.since).as_secs_f64() * RESETS_PER_SECOND;
        self.since = now;
        self.level = (self.level - gone).max(0.0) + 1.0;
        self.level
    }
}

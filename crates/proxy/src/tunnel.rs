//! Upgraded connections: bytes in both directions until one side is done.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    client::Phase,
    routes::Route,
    transport::Stream,
    worker::{USUAL_READ, Worker},
};

/// How long the one direction may stay silent when the other has ended. Protocols that end one
/// direction early are rare, and peers that vanished must not hold sockets.
const HALF_OPEN: Duration = Duration::from_secs(10);

/// A server's side of a connection that both sides agreed to upgrade.
pub(crate) struct Opened {
    pub(crate) upstream: Stream,
    /// The first messages may have come together with the handshake.
    pub(crate) received: Vec<u8>,
    pub(crate) route: Arc<Route>,
}

/// Starts a tunnel between a client, which has sent `received` already, and a server.
pub(crate) fn spawn(worker: &Rc<Worker>, client: Stream, received: Vec<u8>, opened: Opened) {
    let Opened {
        upstream,
        received: answered,
        route,
    } = opened;
    let tunnel = Tunnel {
        client: Side::new(client, received),
        upstream: Side::new(upstream, answered),
    };
    let worker_of_task = Rc::clone(worker);
    worker.tasks.spawn_local(async move {
        let worker = worker_of_task;
        let open = Open::new(&worker);
        let result = tunnel.run(&worker, &route).await;
        drop(open);
        if let Err(error) = result {
            tracing::debug!("a websocket of {} was cut: {error}", route.path);
        }
    });
}

struct Tunnel {
    client: Side,
    upstream: Side,
}

/// One end of the tunnel, and what was read from the other end for it.
struct Side {
    stream: Stream,
    /// Read from this side, not yet written to the other. Empty and without memory unless the
    /// other side is slow.
    pending: Vec<u8>,
    written: usize,
    /// Whether this side's TLS holds something of the other's back.
    unflushed: bool,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Open,
    /// This side has ended; the other has yet to be told.
    Ended,
    Done,
}

impl Side {
    fn new(stream: Stream, received: Vec<u8>) -> Self {
        Self {
            stream,
            pending: received,
            written: 0,
            unflushed: false,
            progress: Progress::Open,
        }
    }
}

impl Tunnel {
    async fn run(mut self, worker: &Rc<Worker>, route: &Route) -> io::Result<()> {
        let registration = worker.register();
        let control = &registration.control;
        control.enter(Phase::Tunnel, worker);
        let mut half_open = pin!(None::<tokio::time::Sleep>);
        poll_fn(|cx| {
            if control.poll_verdict(worker, cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut scratch = worker.scratch.borrow_mut();
            let scratch = &mut scratch[..USUAL_READ];
            let Self { client, upstream } = &mut self;
            let up = poll_copy(cx, client, upstream, scratch, route)?;
            let down = poll_copy(cx, upstream, client, scratch, route)?;
            // Somebody has said something, or this turn would not be.
            control.client_heard.set(worker.now.get());
            if up.is_ready() && down.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if up.is_ready() || down.is_ready() {
                if half_open.is_none() {
                    half_open.set(Some(tokio::time::sleep_until(Instant::now() + HALF_OPEN)));
                }
                if let Some(timer) = half_open.as_mut().as_pin_mut() {
                    return timer.poll(cx).map(Ok);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Moves what `from` has to say to `to`. Ready when `from` has ended and `to` knows it.
fn poll_copy(
    cx: &mut Context<'_>,
    from: &mut Side,
    to: &mut Side,
    scratch: &mut [u8],
    route: &Route,
) -> Poll<io::Result<()>> {
    loop {
        while from.written < from.pending.len() {
            from.written += ready!(poll_write(cx, to, &from.pending[from.written..]))?;
        }
        if from.written > 0 {
            from.pending = Vec::new();
            from.written = 0;
        }
        match from.progress {
            Progress::Open => {}
            Progress::Ended => {
                ready!(Pin::new(&mut to.stream).poll_shutdown(cx))?;
                from.progress = Progress::Done;
                return Poll::Ready(Ok(()));
            }
            Progress::Done => return Poll::Ready(Ok(())),
        }
        let mut buffer = ReadBuf::new(scratch);
        let read = Pin::new(&mut from.stream).poll_read(cx, &mut buffer);
        if read.is_pending() && to.unflushed {
            // Nothing more comes for now, so what TLS has gathered goes out.
            ready!(Pin::new(&mut to.stream).poll_flush(cx))?;
            to.unflushed = false;
        }
        ready!(read)?;
        let mut rest = buffer.filled();
        if rest.is_empty() {
            from.progress = Progress::Ended;
            continue;
        }
        route.touch();
        while !rest.is_empty() {
            match poll_write(cx, to, rest) {
                Poll::Ready(written) => rest = &rest[written?..],
                Poll::Pending => {
                    from.pending = rest.to_vec();
                    return Poll::Pending;
                }
            }
        }
    }
}

fn poll_write(cx: &mut Context<'_>, to: &mut Side, bytes: &[u8]) -> Poll<io::Result<usize>> {
    to.unflushed |= to.stream.buffers();
    match ready!(Pin::new(&mut to.stream).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}

/// Counts an open websocket.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.counters().websockets.fetch_add(1, Ordering::Relaxed);
        Self(Rc::clone(worker))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters().websockets.fetch_sub(1, Ordering::Relaxed);
    }
}

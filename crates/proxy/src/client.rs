//! One connection from a client: what its requests share, and how the worker reaches it.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::IpAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use http::HeaderValue;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

use crate::{
    forward,
    head_scan::ConnectionFlags,
    headers,
    transport::{Stream, Transport},
    worker::{MAX_BUFFER, Worker},
};

pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    /// For `X-Forwarded-For`; unix sockets have none.
    pub(crate) peer: Option<HeaderValue>,
    pub(crate) flags: Arc<ConnectionFlags>,
    control: Rc<Control>,
}

/// How the worker reaches a task that serves a connection or a tunnel.
///
/// A cancellation token in each task would cost a lock at every wake-up; here the task looks at
/// plain cells of its own thread, and is woken when they change.
#[derive(Default)]
pub(crate) struct Control {
    waker: RefCell<Option<Waker>>,
    /// Since when the connection waits for a request; `None` while one is being answered.
    idle_since: Cell<Option<Instant>>,
    ended: Cell<bool>,
    flags: Arc<ConnectionFlags>,
}

/// Serves a client's connection until it closes.
pub(crate) async fn serve(worker: Rc<Worker>, stream: Stream, peer: Option<IpAddr>) {
    let registration = worker.register();
    let control = Rc::clone(&registration.control);
    control.idle_since.set(Some(Instant::now()));
    let flags = Arc::clone(&control.flags);
    let io = Transport::from_client(stream, Arc::clone(&flags), worker.shared.settings.timeout);
    let client = Rc::new(Client {
        worker: Rc::clone(&worker),
        peer: peer.and_then(headers::peer_value),
        flags,
        control: Rc::clone(&control),
    });
    let service = service_fn(move |request| forward::handle(Rc::clone(&client), request));
    let connection = http1::Builder::new()
        .max_buf_size(MAX_BUFFER)
        .max_header_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut told_to_stop = false;
    let result = poll_fn(|cx| {
        if control.poll_ended(&worker, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if worker.stopping.get() && !told_to_stop {
            told_to_stop = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = result {
        tracing::debug!("downstream: a connection ended early: {error}");
    }
}

impl Client {
    /// The client's request has arrived.
    pub(crate) fn exchange_begins(&self) {
        self.control.idle_since.set(None);
    }

    /// The answer has been sent, or the client is gone.
    pub(crate) fn exchange_ended(&self) {
        self.control.idle_since.set(Some(Instant::now()));
        self.flags.expect_head();
    }
}

impl Control {
    /// Ready when the task must end. Remembers the task otherwise.
    pub(crate) fn poll_ended(&self, worker: &Worker, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.get() || worker.killed.get() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether the connection has waited this long for a request, or for the rest of one.
    pub(crate) fn is_idle_for(&self, limit: Duration) -> bool {
        let waited = self.idle_since.get().map(|since| since.elapsed());
        waited.is_some_and(|waited| waited >= limit) && !self.flags.is_write_blocked()
    }

    /// Ends the task at its next turn, which is now.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

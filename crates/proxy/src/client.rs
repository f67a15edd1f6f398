//! One connection from a client: its requests one after the other.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    answer::{self, Answer},
    forward,
    http1::{
        framing::{BadChunk, Decoder},
        head::{self, EndScan, Refusal, RequestHead},
    },
    outbox::Outbox,
    settings::Settings,
    transport::Stream,
    tunnel,
    worker::{USUAL_READ, Worker},
};

/// What the requests of one connection share.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    /// Unix sockets have none.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) is_http2: bool,
    pub(crate) control: Rc<Control>,
}

/// The bytes from and to a client.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// Read, but not yet used: what follows the present request, above all.
    pub(crate) received: Vec<u8>,
    /// Whether the client has said that it sends nothing more.
    pub(crate) has_ended: bool,
}

/// How a request leaves its connection.
pub(crate) enum Next {
    /// Ready for another request.
    Request,
    /// It ends, in good order.
    Close,
    /// It ends at once: the client is gone, or must see that its answer is not whole.
    Cut,
    Tunnel(tunnel::Opened),
}

/// How the worker reaches a task that serves a connection or a tunnel, and knows what it waits for.
///
/// A timer in each task would cost at every request; here the task writes into plain cells of its
/// own thread, and the worker looks at all of them now and then.
pub(crate) struct Control {
    waker: RefCell<Option<Waker>>,
    phase: Cell<Phase>,
    /// When the present phase began.
    since: Cell<Instant>,
    /// When the client last took or sent something.
    pub(crate) client_heard: Cell<Instant>,
    /// When the server last took or sent something.
    pub(crate) upstream_heard: Cell<Instant>,
    /// Whether something waits for the client to take it.
    pub(crate) client_is_slow: Cell<bool>,
    verdict: Cell<Option<Verdict>>,
}

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first byte of a request.
    Request,
    /// The rest of a request's head.
    Head,
    /// A connection to a server; it has a deadline of its own.
    Connect,
    /// The answer, or the rest of it.
    Exchange,
    /// The answer, from a client that has ended its side. Either it waits for the answer alone, or
    /// it is gone: only a write can tell.
    HalfClosed,
    /// The rest of a body that nobody wants, or of a connection.
    Drain,
    Tunnel,
    /// Whatever its streams do; it has limits of its own.
    Http2,
}

/// Why a task must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ended,
    /// The head did not come in time.
    LateHead,
    /// The server was silent for too long.
    SilentUpstream,
}

/// How long a client that has ended its side may wait for the next byte of an answer.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// How long a client may take nothing of what waits for it.
const STALLED: Duration = Duration::from_mins(10);

/// How much of a body that nobody wants is read away, in bytes, and how long at most: a client that
/// is still sending when its connection closes sees only that it broke, and never the answer.
const MOST_DISCARDED: u64 = 1 << 30;
const DRAIN: Duration = Duration::from_secs(30);

/// How long a connection may take to close in good order.
const LINGER: Duration = Duration::from_secs(2);

/// Serves a client's connection until it closes.
pub(crate) async fn serve(worker: Rc<Worker>, stream: Stream, peer: Option<IpAddr>) {
    let registration = worker.register();
    let client = Client {
        control: Rc::clone(&registration.control),
        worker: Rc::clone(&worker),
        peer,
        is_http2: matches!(stream, Stream::Memory(_)),
    };
    let mut connection = Connection {
        stream,
        received: Vec::new(),
        has_ended: false,
    };
    let mut head = worker.heads.take();
    loop {
        let next = match connection.read_head(&client, &mut head).await {
            Arrival::Head => forward::handle(&client, &mut connection, &head).await,
            Arrival::Nothing => Next::Cut,
            Arrival::Late => {
                const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                client.control.pardon();
                match connection.write_now(LATE) {
                    Ok(()) => Next::Close,
                    Err(_) => Next::Cut,
                }
            }
            Arrival::Refused(refusal) => {
                answer::refuse_head(&client, &mut connection, refusal).await
            }
        };
        match next {
            // What came before the end of the client's side is still answered.
            Next::Request
                if !worker.is_leaving()
                    && (!connection.has_ended || !connection.received.is_empty()) => {}
            Next::Request | Next::Close => {
                connection.close(&client).await;
                break;
            }
            Next::Cut => break,
            Next::Tunnel(opened) => {
                tunnel::spawn(&worker, connection.stream, connection.received, opened);
                break;
            }
        }
    }
    worker.heads.give(head);
}

enum Arrival {
    Head,
    /// The client is gone, or the worker wants the connection to end.
    Nothing,
    Late,
    Refused(Refusal),
}

impl Connection {
    async fn read_head(&mut self, client: &Client, head: &mut RequestHead) -> Arrival {
        client.control.enter(Phase::Request, &client.worker);
        let mut scan = EndScan::default();
        poll_fn(|cx| self.poll_head(cx, client, head, &mut scan)).await
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        client: &Client,
        head: &mut RequestHead,
        scan: &mut EndScan,
    ) -> Poll<Arrival> {
        let Client {
            worker, control, ..
        } = client;
        match control.poll_verdict(worker, cx) {
            Poll::Ready(Verdict::LateHead) if control.phase.get() == Phase::Head => {
                return Poll::Ready(Arrival::Late);
            }
            Poll::Ready(_) => return Poll::Ready(Arrival::Nothing),
            Poll::Pending => {}
        }
        // What came with the request before may already be a whole one.
        if control.phase.get() == Phase::Request && !self.received.is_empty() {
            control.enter(Phase::Head, worker);
            let empty = self.received.len() - without_empty_lines(&self.received).len();
            self.received.drain(..empty);
            if let Some(arrival) = self.find_in_received(scan, head) {
                return Poll::Ready(arrival);
            }
        }
        let mut scratch = worker.scratch.borrow_mut();
        loop {
            let mut buffer = ReadBuf::new(&mut scratch[..USUAL_READ]);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                // What came before the end is still answered.
                Poll::Pending if worker.stopping.get() && self.received.is_empty() => {
                    return Poll::Ready(Arrival::Nothing);
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Arrival::Nothing),
            }
            let read = buffer.filled();
            if !self.received.is_empty() {
                self.received.extend_from_slice(read);
                if let Some(arrival) = self.find_in_received(scan, head) {
                    return Poll::Ready(arrival);
                }
                continue;
            }
            // The usual case: a whole head in one piece, which needs no other place.
            let input = without_empty_lines(read);
            match find_and_read(input, scan, head) {
                Ok(Some(length)) => {
                    self.received.extend_from_slice(&input[length..]);
                    return Poll::Ready(Arrival::Head);
                }
                Ok(None) => self.received.extend_from_slice(input),
                Err(refusal) => return Poll::Ready(Arrival::Refused(refusal)),
            }
            if !self.received.is_empty() {
                control.enter(Phase::Head, worker);
            }
        }
    }

    /// `None` while the head is not whole.
    fn find_in_received(&mut self, scan: &mut EndScan, head: &mut RequestHead) -> Option<Arrival> {
        match find_and_read(&self.received, scan, head) {
            Ok(None) => None,
            Ok(Some(length)) => {
                self.received.drain(..length);
                if self.received.is_empty() {
                    // Its memory would stay for as long as the connection is idle.
                    self.received = Vec::new();
                }
                Some(Arrival::Head)
            }
            Err(refusal) => Some(Arrival::Refused(refusal)),
        }
    }

    /// Writes what goes out at once, for last words.
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut cx = Context::from_waker(Waker::noop());
        Outbox::default().write(&mut cx, &mut self.stream, bytes)
    }

    /// Reads the rest of a request's body away. `true` when the next request may follow.
    pub(crate) async fn drain(&mut self, client: &Client, body: &mut Decoder) -> bool {
        client.control.enter(Phase::Drain, &client.worker);
        let mut discarded = 0;
        poll_fn(|cx| {
            if client.control.poll_verdict(&client.worker, cx).is_ready() {
                return Poll::Ready(false);
            }
            if self.discard_received(body).is_err() {
                return Poll::Ready(false);
            }
            let mut scratch = client.worker.scratch.borrow_mut();
            while !body.is_done() {
                let mut buffer = ReadBuf::new(&mut scratch);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(false),
                }
                let mut input = buffer.filled();
                discarded += input.len() as u64;
                loop {
                    match body.next(&mut input) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(BadChunk) => return Poll::Ready(false),
                    }
                }
                if discarded > MOST_DISCARDED {
                    return Poll::Ready(false);
                }
                self.received.extend_from_slice(input);
            }
            Poll::Ready(true)
        })
        .await
    }

    fn discard_received(&mut self, body: &mut Decoder) -> Result<(), BadChunk> {
        let mut input = &self.received[..];
        while body.next(&mut input)?.is_some() {}
        self.received = input.to_vec();
        Ok(())
    }

    /// Ends the connection so that the client gets what was sent last.
    async fn close(&mut self, client: &Client) {
        client.control.enter(Phase::Drain, &client.worker);
        let closing = poll_fn(|cx| {
            if client.worker.killed.get() {
                return Poll::Ready(());
            }
            if Pin::new(&mut self.stream).poll_shutdown(cx).is_pending() {
                return Poll::Pending;
            }
            if self.has_ended {
                return Poll::Ready(());
            }
            // Closing a socket that has something unread would reset it, and the client might lose
            // the answer.
            let mut scratch = client.worker.scratch.borrow_mut();
            loop {
                let mut buffer = ReadBuf::new(&mut scratch);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                }
            }
        });
        // Whoever takes longer has had the time to read.
        let _ = tokio::time::timeout(LINGER, closing).await;
    }
}

/// A client may send empty lines before a request (RFC 9112 section 2.2).
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let [b'\r', b'\n', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn find_and_read(
    input: &[u8],
    scan: &mut EndScan,
    head: &mut RequestHead,
) -> Result<Option<usize>, Refusal> {
    if !head::may_begin(input) {
        return Err(Refusal::Bad("no HTTP request"));
    }
    match scan.find(input, true)? {
        Some(length) => head.read(&input[..length]).map(|()| Some(length)),
        None => Ok(None),
    }
}

impl Client {
    /// Sends an answer of our own.
    pub(crate) async fn send(&self, connection: &mut Connection, answer: &Answer<'_>) -> bool {
        let mut outbox = Outbox::default();
        answer.write(&mut outbox.bytes);
        self.flush(connection, &mut outbox).await
    }

    /// `false` when the client is gone.
    async fn flush(&self, connection: &mut Connection, outbox: &mut Outbox) -> bool {
        self.control.enter(Phase::Exchange, &self.worker);
        poll_fn(|cx| {
            if self.control.poll_verdict(&self.worker, cx).is_ready() {
                return Poll::Ready(false);
            }
            self.poll_flush(cx, connection, outbox)
                .map(|sent| sent.is_ok())
        })
        .await
    }

    /// The client has taken or sent something.
    pub(crate) fn hears_client(&self) {
        self.control.client_heard.set(self.worker.now.get());
    }

    /// The server has taken or sent something.
    pub(crate) fn hears_upstream(&self) {
        self.control.upstream_heard.set(self.worker.now.get());
    }

    /// Ready when everything has gone out. Meanwhile the client is known to be slow.
    pub(crate) fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        outbox: &mut Outbox,
    ) -> Poll<io::Result<()>> {
        let waiting = outbox.waiting();
        let sent = outbox.poll_send(cx, &mut connection.stream);
        if outbox.waiting() < waiting {
            self.hears_client();
        }
        self.control.client_is_slow.set(sent.is_pending());
        sent
    }
}

impl Control {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            waker: RefCell::default(),
            phase: Cell::new(Phase::Request),
            since: Cell::new(now),
            client_heard: Cell::new(now),
            upstream_heard: Cell::new(now),
            client_is_slow: Cell::new(false),
            verdict: Cell::new(None),
        }
    }

    /// What the task waits for from now on.
    pub(crate) fn enter(&self, phase: Phase, worker: &Worker) {
        let now = worker.now.get();
        self.phase.set(phase);
        self.since.set(now);
        self.client_heard.set(now);
        self.upstream_heard.set(now);
        self.client_is_slow.set(false);
    }

    /// Whether the connection has waited this long for a request.
    pub(crate) fn is_idle_for(&self, limit: Duration) -> bool {
        self.phase.get() == Phase::Request && self.since.get().elapsed() >= limit
    }

    /// The verdict has been acted on, and the task goes on.
    pub(crate) fn pardon(&self) {
        self.verdict.set(None);
    }

    /// Ready when the task must end. Remembers the task otherwise.
    pub(crate) fn poll_verdict(&self, worker: &Worker, cx: &mut Context<'_>) -> Poll<Verdict> {
        if worker.killed.get() {
            return Poll::Ready(Verdict::Ended);
        }
        if let Some(verdict) = self.verdict.get() {
            return Poll::Ready(verdict);
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

    /// Ends the task if what it waits for takes too long.
    pub(crate) fn judge(&self, now: Instant, settings: &Settings) {
        let waits = |since: &Cell<Instant>| now.saturating_duration_since(since.get());
        let over =
            |since, limit: Option<Duration>| limit.is_some_and(|limit| waits(since) >= limit);
        let client_is_quiet = over(&self.client_heard, settings.timeout);
        let verdict = match self.phase.get() {
            Phase::Request if over(&self.since, Some(settings.keep_alive_timeout)) => {
                Verdict::Ended
            }
            Phase::Head if over(&self.since, Some(settings.header_timeout)) => Verdict::LateHead,
            Phase::Exchange | Phase::HalfClosed
                if over(&self.upstream_heard, settings.proxy_timeout) =>
            {
                Verdict::SilentUpstream
            }
            Phase::Exchange | Phase::HalfClosed if client_is_quiet => Verdict::Ended,
            Phase::Exchange | Phase::HalfClosed
                if self.client_is_slow.get() && over(&self.client_heard, Some(STALLED)) =>
            {
                Verdict::Ended
            }
            Phase::HalfClosed if over(&self.client_heard, Some(HALF_CLOSED)) => Verdict::Ended,
            Phase::Drain if over(&self.since, Some(DRAIN)) => Verdict::Ended,
            Phase::Tunnel if over(&self.client_heard, settings.websocket_timeout) => Verdict::Ended,
            _ => return,
        };
        self.end(verdict);
    }

    /// Ends the task at its next turn, which is now.
    pub(crate) fn end(&self, verdict: Verdict) {
        self.verdict.set(Some(verdict));
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

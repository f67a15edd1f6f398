//! Connections to the servers, kept open between requests.
//!
//! Each worker thread has a pool of its own, so taking and giving back needs no lock.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request, Response};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::{
    body::RequestBody,
    error::{ErrorChain, UpstreamFault},
    server::Shared,
    target::{Address, Upstream},
    transport::{Socket, Stream, Transport},
};

pub(crate) type Sender = http1::SendRequest<RequestBody>;

pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>, BuildHasherDefault<IdHasher>>>,
    /// For the limits of time, and the way to speak TLS.
    shared: Arc<Shared>,
}

struct Idle {
    sender: Sender,
    since: Instant,
}

/// Idle connections are closed after this time. Servers close theirs too; the shorter time wins,
/// and a request that meets a connection just closed is sent again on a new one.
const IDLE_LIMIT: Duration = Duration::from_mins(1);

/// So many idle connections are kept for one server.
const IDLE_PER_UPSTREAM: usize = 64;

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            shared,
        })
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// A pooled connection may have been closed by the server meanwhile. A request that hyper had
    /// not yet begun to write is then sent on a new connection, and so is one that was written
    /// but may be repeated: idempotent, without a body, and no byte of an answer seen.
    pub(crate) async fn send(
        &self,
        upstream: &Upstream,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Sender), UpstreamFault> {
        let exchange_fault = |error| UpstreamFault::Exchange {
            address: upstream.address.to_string(),
            source: ErrorChain(error),
        };
        let mut request = request;
        if let Some(mut sender) = self.take(upstream.id) {
            let copy = repeatable(&request).then(|| copy_of(&request));
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => {
                    let unsent = error.take_message();
                    let error = error.into_error();
                    match unsent.or(copy.filter(|_| is_closed_early(&error))) {
                        Some(again) => request = again,
                        None => return Err(exchange_fault(error)),
                    }
                }
            }
        }
        let mut sender = self.connect(upstream).await?;
        match sender.send_request(request).await {
            Ok(response) => Ok((response, sender)),
            Err(error) => Err(exchange_fault(error)),
        }
    }

    /// Keeps a connection whose last response has been read to its end.
    pub(crate) fn put_back(self: &Rc<Self>, upstream: u64, mut sender: Sender) {
        if sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            self.keep(upstream, sender);
            return;
        }
        // The connection's own task has still to notice the end, or the request's body is still on
        // its way although the answer is complete.
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let ready = tokio::time::timeout(Duration::from_secs(1), sender.ready());
            if let Ok(Ok(())) = ready.await {
                pool.keep(upstream, sender);
            }
        });
    }

    /// Closes connections that have been idle for long.
    pub(crate) fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, connections| {
            connections
                .retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_LIMIT);
            !connections.is_empty()
        });
    }

    fn keep(&self, upstream: u64, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(upstream).or_default();
        if connections.len() < IDLE_PER_UPSTREAM {
            let since = Instant::now();
            connections.push(Idle { sender, since });
        }
    }

    fn take(&self, upstream: u64) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&upstream)?;
        // The latest first: the others may then become old and be closed.
        while let Some(Idle { sender, .. }) = connections.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self, upstream: &Upstream) -> Result<Sender, UpstreamFault> {
        let settings = &self.shared.settings;
        let limit = settings.connect_timeout;
        let opening = async {
            let socket =
                open(&upstream.address)
                    .await
                    .map_err(|source| UpstreamFault::Connect {
                        address: upstream.address.to_string(),
                        source,
                    })?;
            match &upstream.tls {
                None => Ok(Stream::Plain(socket)),
                Some(name) => self.secure(upstream, name, socket).await,
            }
        };
        let stream = tokio::time::timeout(limit, opening).await.map_err(|_| {
            UpstreamFault::ConnectTimeout {
                address: upstream.address.to_string(),
                seconds: limit.as_secs(),
            }
        })??;
        let io = TokioIo::new(Transport::to_upstream(stream, settings.proxy_timeout));
        let handshake = http1::Builder::new()
            .max_buf_size(crate::worker::MAX_BUFFER)
            .handshake(io)
            .await;
        let (sender, connection) = handshake.map_err(|error| UpstreamFault::Exchange {
            address: upstream.address.to_string(),
            source: ErrorChain(error),
        })?;
        tokio::task::spawn_local(async move {
            // An error here reaches the request that is on the connection, if there is one.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn secure(
        &self,
        upstream: &Upstream,
        name: &ServerName<'static>,
        socket: Socket,
    ) -> Result<Stream, UpstreamFault> {
        let handshake = self.shared.tls.client.connect(name, socket).await;
        handshake.map_err(|source| UpstreamFault::Tls {
            address: upstream.address.to_string(),
            source,
        })
    }
}

async fn open(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Tcp { host, port } => {
            let mut failure = None;
            for address in tokio::net::lookup_host((&**host, *port)).await? {
                match open_tcp(address).await {
                    Ok(stream) => return Ok(Socket::Left(stream)),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| io::Error::other("the host has no address")))
        }
        Address::Unix(path) => Ok(Socket::Right(UnixStream::connect(path).await?)),
    }
}

async fn open_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    // Without it a websocket to a machine that vanished would stay open for ever.
    socket.set_keepalive(true)?;
    socket.connect(address).await
}

/// Whether sending the request twice does the same as sending it once.
fn repeatable(request: &Request<RequestBody>) -> bool {
    request.body().is_end_stream()
        && matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        )
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Whether the server closed the connection without an answer, as it may at any time between two
/// requests.
fn is_closed_early(error: &hyper::Error) -> bool {
    let io_kind = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || matches!(
            io_kind,
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        )
}

/// Upstream ids are consecutive numbers, which need no mixing beyond a multiplication.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

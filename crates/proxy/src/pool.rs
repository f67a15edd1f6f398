//! Connections to the servers, kept open between requests.
//!
//! Each worker thread has a pool of its own, so taking and giving back needs no lock. There are
//! never more idle connections than there were requests at once in the last seconds.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpSocket, TcpStream, UnixStream},
};

use crate::{
    error::UpstreamFault,
    keepalive,
    server::Shared,
    settings::Settings,
    target::{Address, Upstream},
    transport::{Socket, Stream},
};

pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>, BuildHasherDefault<IdHasher>>>,
    idle_count: Cell<usize>,
    /// Connections that serve a request now.
    live: Cell<usize>,
    /// The most of them since the last sweep, and in the time before it.
    peak: Cell<usize>,
    last_peak: Cell<usize>,
    /// For the limits of time, and the way to speak TLS.
    shared: Arc<Shared>,
    worker: usize,
}

struct Idle {
    stream: Stream,
    since: Instant,
}

/// A connection that serves a request. Dropped, it closes.
pub(crate) struct Leased {
    /// Taken out when the connection leaves the lease.
    stream: Option<Stream>,
    /// Whether it has served a request before.
    pub(crate) is_used: bool,
    upstream: u64,
    pool: Rc<Pool>,
}

/// Idle connections are closed after this time. Servers close theirs too; the shorter time wins,
/// and a request that meets a connection just closed is sent again on a new one.
const IDLE_LIMIT: Duration = Duration::from_mins(1);

/// So many idle connections a worker may keep however few requests there are.
const FEW: usize = 4;

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            idle_count: Cell::new(0),
            live: Cell::new(0),
            peak: Cell::new(0),
            last_peak: Cell::new(0),
            shared,
            worker,
        })
    }

    /// An idle connection to a server, if there is one that the server has not closed.
    pub(crate) fn take(self: &Rc<Self>, upstream: &Upstream) -> Option<Leased> {
        loop {
            // The latest first: the others may then become old and be closed.
            let mut idle = {
                let mut all = self.idle.borrow_mut();
                all.get_mut(&upstream.id)?.pop()?
            };
            self.idle_count.set(self.idle_count.get() - 1);
            if is_quiet(&mut idle.stream) {
                return Some(self.lease(upstream.id, idle.stream, true));
            }
            self.count_closed();
        }
    }

    /// A new connection to a server.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        upstream: &Upstream,
    ) -> Result<Leased, UpstreamFault> {
        let settings = &self.shared.settings;
        let limit = settings.connect_timeout;
        let opening = async {
            let socket = open(&upstream.address, settings).await.map_err(|source| {
                UpstreamFault::Connect {
                    address: upstream.address.to_string(),
                    source,
                }
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
        let counters = &self.shared.metrics.workers[self.worker];
        counters
            .upstream_connections
            .fetch_add(1, Ordering::Relaxed);
        Ok(self.lease(upstream.id, stream, false))
    }

    /// Closes connections that have been idle for long, that their servers have closed, or that are
    /// more than the requests of late needed.
    pub(crate) fn sweep(&self, now: Instant) {
        self.last_peak.set(self.peak.replace(self.live.get()));
        let before = self.idle_count.get();
        let mut surplus = before.saturating_sub(self.most_idle());
        let mut count = 0;
        let mut all = self.idle.borrow_mut();
        all.retain(|_, connections| {
            connections.retain_mut(|idle| {
                let is_old = now.saturating_duration_since(idle.since) >= IDLE_LIMIT;
                let goes = is_old || surplus > 0 || !is_quiet(&mut idle.stream);
                surplus = surplus.saturating_sub(usize::from(goes));
                count += usize::from(!goes);
                !goes
            });
            !connections.is_empty()
        });
        self.idle_count.set(count);
        for _ in count..before {
            self.count_closed();
        }
    }

    fn lease(self: &Rc<Self>, upstream: u64, stream: Stream, is_used: bool) -> Leased {
        let live = self.live.get() + 1;
        self.live.set(live);
        self.peak.set(self.peak.get().max(live));
        Leased {
            stream: Some(stream),
            is_used,
            upstream,
            pool: Rc::clone(self),
        }
    }

    fn most_idle(&self) -> usize {
        self.peak.get().max(self.last_peak.get()).max(FEW)
    }

    /// Makes room for a connection to a server that is in use: one to another goes.
    fn close_one_of_others(&self, upstream: u64) -> bool {
        let mut idle = self.idle.borrow_mut();
        let mut others = idle
            .iter_mut()
            .filter(|(id, connections)| **id != upstream && !connections.is_empty());
        let Some((_, connections)) = others.next() else {
            return false;
        };
        // The oldest of them.
        connections.remove(0);
        self.idle_count.set(self.idle_count.get() - 1);
        self.count_closed();
        true
    }

    fn count_closed(&self) {
        let counters = &self.shared.metrics.workers[self.worker];
        counters
            .upstream_connections
            .fetch_sub(1, Ordering::Relaxed);
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

impl Leased {
    pub(crate) fn stream(&mut self) -> &mut Stream {
        let stream = self.stream.as_mut();
        stream.expect("only what ends the lease takes the stream out")
    }

    /// Keeps the connection for another request. Its last answer has been read to the end.
    pub(crate) fn put_back(mut self) {
        let pool = Rc::clone(&self.pool);
        if pool.idle_count.get() >= pool.most_idle() && !pool.close_one_of_others(self.upstream) {
            return;
        }
        if let Some(stream) = self.stream.take() {
            pool.idle_count.set(pool.idle_count.get() + 1);
            let mut idle = pool.idle.borrow_mut();
            let since = Instant::now();
            idle.entry(self.upstream)
                .or_default()
                .push(Idle { stream, since });
        }
    }

    /// The bare connection, for a tunnel.
    pub(crate) fn into_stream(mut self) -> Stream {
        self.pool.count_closed();
        let stream = self.stream.take();
        stream.expect("only what ends the lease takes the stream out")
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.pool.live.set(self.pool.live.get() - 1);
        if self.stream.is_some() {
            self.pool.count_closed();
        }
    }
}

/// Whether a connection is open and its server has said nothing, as it must be between requests.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(stream)
        .poll_read(&mut cx, &mut buffer)
        .is_pending()
}

async fn open(address: &Address, settings: &Settings) -> io::Result<Socket> {
    match address {
        Address::Tcp { host, port } => {
            let mut failure = None;
            for address in tokio::net::lookup_host((&**host, *port)).await? {
                match open_tcp(address, settings).await {
                    Ok(stream) => return Ok(Socket::Left(stream)),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| io::Error::other("the host has no address")))
        }
        Address::Unix(path) => Ok(Socket::Right(UnixStream::connect(path).await?)),
    }
}

async fn open_tcp(address: SocketAddr, settings: &Settings) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    // Without it a websocket to a machine that vanished would stay open for ever.
    keepalive::set(&socket, settings.tcp_keepalive, settings.tcp_user_timeout)?;
    socket.connect(address).await
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

//! Listening addresses: opened before anything else happens, shared by the workers.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    task::Poll,
    time::Duration,
};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::{Error, keepalive, transport::Socket};

/// Where to listen, from the options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The host may be empty, for all interfaces.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// A place that is listened on.
#[derive(Debug)]
pub(crate) struct Bound {
    listeners: Vec<Listener>,
    /// The first address; `None` for unix sockets.
    pub(crate) address: Option<SocketAddr>,
    /// The place for people to read, with the real port.
    pub(crate) name: String,
    socket: Option<SocketFile>,
}

/// Removes a unix socket's file at the end.
#[derive(Debug)]
pub(crate) struct SocketFile(Option<PathBuf>);

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener),
}

pub(crate) enum TokioListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An accepted connection that may still move to another worker.
pub(crate) enum Accepted {
    /// Already with the worker that accepted it.
    Tcp(TcpStream),
    Unix(UnixStream),
    /// On its way to another.
    Moving(io::Result<MovingStream>),
}

pub(crate) enum MovingStream {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

/// How many connections may wait to be accepted.
pub(crate) const BACKLOG: u32 = 1024;

impl Place {
    /// Starts to listen. `purpose` is for the error.
    pub(crate) fn bind(&self, purpose: &'static str) -> Result<Bound, Error> {
        let result = match self {
            Place::Tcp { host, port } => bind_tcp(host, *port),
            Place::Unix(path) => bind_unix(path),
        };
        result.map_err(|source| Error::Listen {
            address: self.to_string(),
            purpose,
            source,
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Tcp { host, port } => write!(f, "{}:{port}", host_name(host)),
            Place::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

fn host_name(host: &str) -> String {
    match host {
        "" => "*".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    }
}

impl Bound {
    /// Sockets that somebody else opened and listens on. `file` is the unix socket's, if it is ours
    /// to remove.
    pub(crate) fn passed(listeners: Vec<Listener>, file: Option<PathBuf>) -> io::Result<Self> {
        let mut bound = Self {
            listeners,
            address: None,
            name: String::new(),
            socket: file.map(|path| SocketFile(Some(path))),
        };
        for listener in &bound.listeners {
            match listener {
                Listener::Tcp(listener) => {
                    listener.set_nonblocking(true)?;
                    let address = listener.local_addr()?;
                    if bound.address.is_none() {
                        bound.address = Some(address);
                        bound.name = if address.ip().is_unspecified() {
                            format!("*:{}", address.port())
                        } else {
                            address.to_string()
                        };
                    }
                }
                Listener::Unix(listener) => {
                    listener.set_nonblocking(true)?;
                    if bound.name.is_empty() {
                        let address = listener.local_addr()?;
                        let path = address.as_pathname().map(|path| path.display().to_string());
                        bound.name = path.unwrap_or_else(|| "a unix socket".to_owned());
                    }
                }
            }
        }
        Ok(bound)
    }

    /// Has the kernel ask clients that were quiet for this long whether they are still there.
    /// Accepted connections inherit it. Zero for never.
    pub(crate) fn keep_alive(&self, quiet: Duration, unconfirmed: Duration) {
        for listener in &self.listeners {
            let Listener::Tcp(listener) = listener else {
                continue;
            };
            if let Err(error) = keepalive::set(listener, quiet, unconfirmed) {
                tracing::warn!("internal: TCP keep-alive is not as wished: {error}");
            }
        }
    }

    /// The sockets, to be passed on to another process.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|listener| match listener {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        })
    }

    /// The unix socket's file, if it is ours to remove.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.socket.as_ref()?.0.as_deref()
    }

    /// Another process has the sockets now.
    pub(crate) fn leave_file(&mut self) {
        if let Some(socket) = &mut self.socket {
            socket.leave();
        }
    }

    /// The same listening sockets once more, for another worker.
    pub(crate) fn listeners(&self) -> Result<Vec<Listener>, Error> {
        self.listeners
            .iter()
            .map(|listener| match listener {
                Listener::Tcp(listener) => listener.try_clone().map(Listener::Tcp),
                Listener::Unix(listener) => listener.try_clone().map(Listener::Unix),
            })
            .collect::<io::Result<_>>()
            .map_err(|source| Error::System {
                action: "share a listening socket",
                source,
            })
    }
}

impl Listener {
    pub(crate) fn into_tokio(self) -> io::Result<TokioListener> {
        Ok(match self {
            Listener::Tcp(listener) => TokioListener::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener) => TokioListener::Unix(UnixListener::from_std(listener)?),
        })
    }
}

impl TokioListener {
    pub(crate) async fn accept(&self) -> io::Result<(Accepted, Option<IpAddr>)> {
        match self {
            TokioListener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(accepted_tcp(stream, peer))
            }
            TokioListener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream), None))
            }
        }
    }

    /// A connection that waits already; `None` when none does.
    pub(crate) async fn accept_waiting(&self) -> Option<io::Result<(Accepted, Option<IpAddr>)>> {
        poll_fn(|cx| {
            let accepted = match self {
                TokioListener::Tcp(listener) => listener
                    .poll_accept(cx)
                    .map_ok(|(stream, peer)| accepted_tcp(stream, peer)),
                TokioListener::Unix(listener) => listener
                    .poll_accept(cx)
                    .map_ok(|(stream, _)| (Accepted::Unix(stream), None)),
            };
            Poll::Ready(match accepted {
                Poll::Ready(accepted) => Some(accepted),
                Poll::Pending => None,
            })
        })
        .await
    }
}

fn accepted_tcp(stream: TcpStream, peer: SocketAddr) -> (Accepted, Option<IpAddr>) {
    // Only a connection that has ended already refuses this, as its reader will find.
    let _ = stream.set_nodelay(true);
    (Accepted::Tcp(stream), Some(peer.ip()))
}

impl Accepted {
    /// Detaches the connection from this thread's runtime.
    pub(crate) fn detach(self) -> Self {
        Accepted::Moving(match self {
            Accepted::Tcp(stream) => stream.into_std().map(MovingStream::Tcp),
            Accepted::Unix(stream) => stream.into_std().map(MovingStream::Unix),
            Accepted::Moving(moving) => moving,
        })
    }

    /// The connection, for this thread's runtime.
    pub(crate) fn into_socket(self) -> io::Result<Socket> {
        match self {
            Accepted::Tcp(stream) => Ok(Socket::Left(stream)),
            Accepted::Unix(stream) => Ok(Socket::Right(stream)),
            Accepted::Moving(moving) => match moving? {
                MovingStream::Tcp(stream) => TcpStream::from_std(stream).map(Socket::Left),
                MovingStream::Unix(stream) => UnixStream::from_std(stream).map(Socket::Right),
            },
        }
    }
}

/// Listens on each address of the host: `localhost` may be two.
fn bind_tcp(host: &str, port: u16) -> io::Result<Bound> {
    let addresses: Vec<SocketAddr> = if host.is_empty() {
        vec![
            SocketAddr::from(([0u16; 8], port)),
            SocketAddr::from(([0u8; 4], port)),
        ]
    } else {
        let mut addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        // IPv4 first: it is what people and scripts expect to see logged for `localhost`.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses.dedup();
        addresses
    };
    let mut listeners = Vec::new();
    let mut address: Option<SocketAddr> = None;
    let mut failure = None;
    for mut candidate in addresses {
        if let Some(first) = address {
            candidate.set_port(first.port());
        }
        match listen(candidate) {
            Ok(listener) => {
                address.get_or_insert(listener.local_addr()?);
                listeners.push(Listener::Tcp(listener));
                // The IPv6 wildcard takes IPv4 as well.
                if host.is_empty() {
                    break;
                }
            }
            // A machine without IPv6 may still name it.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    let Some(first) = address else {
        return Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()));
    };
    Ok(Bound {
        listeners,
        address,
        name: format!("{}:{}", host_name(host), first.port()),
        socket: None,
    })
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// A socket file that nobody listens on is left from a proxy that was killed, and is replaced.
fn bind_unix(path: &Path) -> io::Result<Bound> {
    if path.exists() {
        match StdUnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(error) => return Err(error),
        }
    }
    let listener = StdUnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(Bound {
        listeners: vec![Listener::Unix(listener)],
        address: None,
        name: path.display().to_string(),
        socket: Some(SocketFile(Some(path.to_owned()))),
    })
}

impl SocketFile {
    /// Another process listens on it now, and removes it at its own end.
    fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!("internal: cannot remove {}: {error}", path.display());
        }
    }
}

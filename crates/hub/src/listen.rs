//! The hub's own listener: HTTP/1.1 on TCP or a unix socket, with limits on what a peer may take.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use orrery_store::private_file;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

/// A request's head must be complete within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long open requests may go on after the hub was asked to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// A pause after `accept` failed (no file descriptors left, …), so that it is not tried in a loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the hub listens.
pub enum Listener {
    /// An address and port.
    Tcp(TcpListener),
    /// A socket file.
    Unix(UnixListener, SocketFile),
}

/// A socket file and the right to listen there. The file is removed at the end; the right ends with the
/// process, however that happens.
pub struct SocketFile {
    path: PathBuf,
    /// The file's own number: another hub's at the same path is left alone.
    inode: u64,
    _lock: Option<Flock<File>>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the hub's socket was not removed");
        }
    }
}

/// The address a request came from, before any proxy's header is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<SocketAddr>);

impl Listener {
    /// Listens on `ip` and `port`; an empty `ip` means every address.
    pub async fn tcp(ip: &str, port: u16) -> Result<Self, String> {
        let host = match ip {
            "" | "*" => "0.0.0.0",
            other => other.trim_start_matches('[').trim_end_matches(']'),
        };
        TcpListener::bind((host, port)).await.map(Self::Tcp).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "the hub cannot listen on {host}:{port}: the port is in use by another program. \
                 Stop that, or choose another port with `c.JupyterHub.hub_port`"
            ),
            _ => format!("the hub cannot listen on {host}:{port}: {error}"),
        })
    }

    /// Listens on a socket file with these permissions. One that nobody listens on any more is replaced,
    /// in one step and with its permissions already set; one that is in use, or a file of another kind,
    /// is left alone.
    pub fn unix(path: &Path, mode: u32) -> Result<Self, String> {
        let shown = path.display();
        let cannot = |error: &dyn std::fmt::Display| {
            format!("the hub cannot listen on {shown} (JupyterHub.hub_bind_url): {error}")
        };
        // Two hubs that start at once must not both find the old file stale.
        let lock = lock_beside(path).map_err(|error| cannot(&error))?;
        if !is_free(path) {
            return Err(cannot(
                &"another program does already, or something else than a socket stands there",
            ));
        }
        let mut made = path.as_os_str().to_owned();
        made.push(format!(".{}", std::process::id()));
        let made = PathBuf::from(made);
        if std::fs::symlink_metadata(&made).is_ok_and(|file| file.file_type().is_socket()) {
            std::fs::remove_file(&made).map_err(|error| cannot(&error))?;
        }
        let listener = UnixListener::bind(&made).map_err(|error| cannot(&error))?;
        let file = std::fs::set_permissions(&made, Permissions::from_mode(mode))
            .and_then(|()| std::fs::rename(&made, path))
            .and_then(|()| std::fs::symlink_metadata(path));
        match file {
            Ok(file) => {
                let file = SocketFile {
                    path: path.to_owned(),
                    inode: file.ino(),
                    _lock: lock,
                };
                Ok(Self::Unix(listener, file))
            }
            Err(error) => {
                // Whatever is left there is of no use; the first error is the one to tell.
                let _ = std::fs::remove_file(&made);
                Err(cannot(&error))
            }
        }
    }

    /// The address listened on, for logs.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "?".to_owned(), |address| address.to_string()),
            Self::Unix(_, file) => file.path.display().to_string(),
        }
    }

    /// The port listened on; 0 for a socket file.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or(0, |address| address.port()),
            Self::Unix(..) => 0,
        }
    }

    /// Serves until `stop` completes, then lets open requests finish for a moment. With `tls`, who
    /// connects must speak it.
    pub async fn serve(
        self,
        router: Router,
        tls: Option<Arc<ServerConfig>>,
        stop: impl Future<Output = ()>,
    ) {
        let tls = tls.map(TlsAcceptor::from);
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = self.accept() => match accepted {
                    Ok((stream, peer)) => serve_one(stream, peer, tls.as_ref(), &router, &graceful),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        if tokio::time::timeout(DRAIN, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::info!("some requests were still open when the hub stopped");
        }
    }

    async fn accept(&self) -> std::io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Peer(Some(peer))))
            }
            Self::Unix(listener, _) => Ok((Stream::Unix(listener.accept().await?.0), Peer(None))),
        }
    }
}

/// Whether nobody listens on the socket file `path`: there is none, or it is left from a program that
/// has ended.
pub(crate) fn is_free(path: &Path) -> bool {
    match std::fs::symlink_metadata(path) {
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        Ok(file) if !file.file_type().is_socket() => false,
        Ok(_) => std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused),
    }
}

/// Takes the lock of a socket file; `None` where the file system has no locks.
fn lock_beside(path: &Path) -> std::io::Result<Option<Flock<File>>> {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let file = private_file::open(Path::new(&lock), folder.unwrap_or(Path::new(".")))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another hub does already",
        )),
        Err((_, error)) => {
            tracing::warn!(path = %path.display(), %error, "cannot tell whether another hub listens here");
            Ok(None)
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Stream {
    fn boxed(self) -> Box<dyn Duplex> {
        match self {
            Self::Tcp(stream) => Box::new(stream),
            Self::Unix(stream) => Box::new(stream),
        }
    }
}

/// Bytes in both directions.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

fn serve_one(
    stream: Stream,
    peer: Peer,
    tls: Option<&TlsAcceptor>,
    router: &Router,
    graceful: &GracefulShutdown,
) {
    let (router, watcher) = (router.clone(), graceful.watcher());
    let Some(tls) = tls else {
        match stream {
            Stream::Tcp(stream) => serve_io(TokioIo::new(stream), peer, router, watcher),
            Stream::Unix(stream) => serve_io(TokioIo::new(stream), peer, router, watcher),
        }
        return;
    };
    let handshake = tls.accept(stream.boxed());
    tokio::spawn(async move {
        match tokio::time::timeout(HEADER_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => serve_io(TokioIo::new(stream), peer, router, watcher),
            Ok(Err(error)) => {
                tracing::debug!(%error, ?peer, "a connection without TLS, or without a certificate");
            }
            Err(_) => tracing::debug!(?peer, "a connection did not begin TLS in time"),
        }
    });
}

fn serve_io<I>(io: I, peer: Peer, router: Router, watcher: Watcher)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(peer);
            router.clone().call(request)
        });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 * 1024)
        .serve_connection(io, service);
    let connection = watcher.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended with an error");
        }
    });
}

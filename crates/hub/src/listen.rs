//! The hub's own listener: HTTP/1.1 on TCP or a unix socket, with limits on what a peer may take.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, UnixListener};
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
    Unix(UnixListener),
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

    /// Listens on a socket file; one that nobody listens on any more is replaced.
    pub fn unix(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(format!(
                    "the hub cannot listen on {shown}: another program does already"
                ));
            }
            std::fs::remove_file(path)
                .map_err(|error| format!("the hub cannot replace {shown}: {error}"))?;
        }
        UnixListener::bind(path)
            .map(Self::Unix)
            .map_err(|error| format!("the hub cannot listen on {shown}: {error}"))
    }

    /// The address listened on, for logs.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "?".to_owned(), |address| address.to_string()),
            Self::Unix(listener) => listener
                .local_addr()
                .ok()
                .and_then(|address| address.as_pathname().map(|path| path.display().to_string()))
                .unwrap_or_else(|| "?".to_owned()),
        }
    }

    /// The port listened on; 0 for a socket file.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or(0, |address| address.port()),
            Self::Unix(_) => 0,
        }
    }

    /// Serves until `stop` completes, then lets open requests finish for a moment.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = self.accept() => match accepted {
                    Ok((Stream::Tcp(stream), peer)) => serve_one(TokioIo::new(stream), peer, &router, &graceful),
                    Ok((Stream::Unix(stream), peer)) => serve_one(TokioIo::new(stream), peer, &router, &graceful),
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
            Self::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), Peer(None))),
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

fn serve_one<I>(io: I, peer: Peer, router: &Router, graceful: &GracefulShutdown)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let router = router.clone();
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
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended with an error");
        }
    });
}

//! The hub's own connections: to the proxy's API and to servers, plain or in TLS.

mod peer;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::Service;

use crate::certs;

/// Connects to `http` and `https` addresses.
#[derive(Clone)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    limit: Duration,
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
    refuses_strangers: bool,
}

/// A connection made by a [`Dialer`].
pub(crate) struct Dialed(TokioIo<Either<TcpStream, TlsStream<TcpStream>>>);

impl Dialer {
    /// Each connection must be there within `limit`. `tls` is how to speak TLS; without it the
    /// machine's authorities are trusted.
    pub(crate) fn new(limit: Duration, tls: Option<Arc<ClientConfig>>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(limit));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let cell = OnceLock::new();
        if let Some(tls) = tls {
            let _ = cell.set(tls);
        }
        Self {
            tcp,
            limit,
            tls: Arc::new(cell),
            refuses_strangers: false,
        }
    }

    /// Connects on this machine only to programs of the hub's own account or of the system's, before
    /// anything is sent: for what nobody else may be told.
    pub(crate) fn refusing_strangers(mut self) -> Self {
        self.refuses_strangers = true;
        self
    }

    fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let config = certs::public_client().map_err(io::Error::other)?;
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Dialed>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_ready(cx).map_err(io::Error::other)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let is_tls = url.scheme_str() == Some("https");
        let tls = is_tls.then(|| self.tls());
        let name = url.host().unwrap_or_default();
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned());
        let limit = self.limit;
        let refuses_strangers = self.refuses_strangers;
        let connecting = self.tcp.call(url);
        Box::pin(async move {
            let stream = connecting.await.map_err(|error| {
                use std::error::Error as _;
                let cause = error.source().map(ToString::to_string);
                io::Error::other(cause.unwrap_or_else(|| error.to_string()))
            })?;
            let stream = stream.into_inner();
            if refuses_strangers
                && let Some(uid) = peer::stranger(stream.local_addr()?, stream.peer_addr()?)
            {
                return Err(io::Error::other(format!(
                    "a program of another account (user id {uid}) has taken the address"
                )));
            }
            let Some(tls) = tls else {
                return Ok(Dialed(TokioIo::new(Either::Left(stream))));
            };
            let name = name.map_err(io::Error::other)?;
            let handshake = TlsConnector::from(tls?).connect(name, stream);
            let stream = tokio::time::timeout(limit, handshake)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
                .map_err(|error| io::Error::other(format!("no TLS: {error}")))?;
            Ok(Dialed(TokioIo::new(Either::Right(stream))))
        })
    }
}

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Dialed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

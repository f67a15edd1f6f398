//! What waits to be written to a peer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::{transport::Stream, worker::USUAL_READ};

/// Bytes for one peer, of which some may have gone out.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) bytes: Vec<u8>,
    sent: usize,
    /// Whether TLS may hold something back.
    unflushed: bool,
    /// How much the peer may be given at once: twice as much each time it takes that at once, half
    /// of it each time it does not.
    appetite: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            sent: 0,
            unflushed: false,
            appetite: USUAL_READ,
        }
    }
}

impl Outbox {
    /// The part of a buffer that may be filled with what the peer is to get. Large pieces save calls
    /// of the system, and small ones memory while a slow peer lets them wait.
    pub(crate) fn room<'a>(&self, buffer: &'a mut [u8]) -> &'a mut [u8] {
        let most = self.appetite.min(buffer.len());
        &mut buffer[..most]
    }

    fn note(&mut self, length: usize, is_taken: bool) {
        if !is_taken {
            self.appetite = (self.appetite / 2).max(USUAL_READ / 4);
        } else if length >= self.appetite {
            self.appetite = self.appetite.saturating_mul(2);
        }
    }

    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Whether everything has gone out, also out of what TLS holds.
    pub(crate) fn is_done(&self) -> bool {
        self.is_empty() && !self.unflushed
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Forgets what waits.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
        self.unflushed = false;
        self.appetite = USUAL_READ;
    }

    /// Writes `content` if nothing waits before it and the peer takes it; the rest waits.
    pub(crate) fn write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        mut content: &[u8],
    ) -> io::Result<()> {
        if self.is_empty() {
            let length = content.len();
            while !content.is_empty() {
                match self.poll_write(cx, stream, content) {
                    Poll::Ready(length) => content = &content[length?..],
                    Poll::Pending => break,
                }
            }
            self.note(length, content.is_empty());
        }
        self.bytes.extend_from_slice(content);
        Ok(())
    }

    /// Ready when everything has gone out.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            self.unflushed |= stream.buffers();
            let rest = &self.bytes[self.sent..];
            let length = rest.len();
            match Pin::new(&mut *stream).poll_write(cx, rest)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => {
                    self.sent += written;
                    if written == length {
                        self.note(length, true);
                    }
                }
                Poll::Pending => {
                    self.note(length, false);
                    return Poll::Pending;
                }
            }
        }
        if self.bytes.capacity() > 2 * USUAL_READ {
            // It would stay until the peer has everything, which may take long.
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.sent = 0;
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        content: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unflushed |= stream.buffers();
        match ready!(Pin::new(stream).poll_write(cx, content))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            length => Poll::Ready(Ok(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc, task::Waker};

    use rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, ServerName},
    };
    use tokio::{
        io::{AsyncRead, AsyncReadExt},
        net::UnixStream,
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

    use super::*;
    use crate::transport::Socket;

    #[tokio::test]
    async fn fast_peers_get_larger_pieces_and_slow_ones_smaller() {
        let (ours, mut peer) = tokio::io::duplex(4 * USUAL_READ);
        let mut stream = Stream::Memory(ours);
        let mut cx = Context::from_waker(Waker::noop());
        let mut buffer = vec![1; 6 * USUAL_READ];
        let mut outbox = Outbox::default();
        assert_eq!(outbox.room(&mut buffer).len(), USUAL_READ);

        for _ in 0..2 {
            outbox
                .write(&mut cx, &mut stream, &buffer[..USUAL_READ])
                .unwrap();
        }
        assert!(outbox.is_empty());
        // The second piece was smaller than what it might have been.
        assert_eq!(outbox.room(&mut buffer).len(), 2 * USUAL_READ);
        assert_eq!(outbox.room(&mut [0; 5]).len(), 5);

        // Only a third of it has room.
        outbox.write(&mut cx, &mut stream, &buffer).unwrap();
        assert!(!outbox.is_empty());
        assert_eq!(outbox.room(&mut buffer).len(), USUAL_READ);
        for _ in 0..5 {
            assert!(outbox.poll_send(&mut cx, &mut stream).is_pending());
        }
        assert_eq!(outbox.room(&mut buffer).len(), USUAL_READ / 4);

        let arrived = &mut buffer[..4 * USUAL_READ];
        peer.read_exact(arrived).await.unwrap();
        assert!(outbox.poll_send(&mut cx, &mut stream).is_ready());
        assert!(outbox.is_empty());
        assert_eq!(
            outbox.bytes.capacity(),
            0,
            "a large piece's memory is given back"
        );
    }

    /// Two ends of a TLS connection over a socket with little room.
    async fn tls_pair() -> (Stream, impl AsyncRead + Unpin) {
        let certified = rcgen::generate_simple_self_signed(vec!["h".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let certificate = certified.cert.der().clone();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let accepting = TlsAcceptor::from(Arc::new(server)).accept(Socket::Right(ours));
        let name = ServerName::try_from("h").unwrap();
        let connecting = TlsConnector::from(Arc::new(client)).connect(name, theirs);
        let (ours, theirs) = tokio::try_join!(accepting, connecting).unwrap();
        (Stream::Tls(Box::new(TlsStream::Server(ours))), theirs)
    }

    #[tokio::test]
    async fn what_is_done_has_left_tls_too() {
        // In steps smaller than what TLS holds back when the socket is full.
        for size in (100_000..400_000).step_by(30_000) {
            let (mut stream, mut peer) = tls_pair().await;
            let content = vec![1; size];
            let mut outbox = Outbox::default();
            poll_fn(|cx| Poll::Ready(outbox.write(cx, &mut stream, &content)))
                .await
                .unwrap();
            let sending = async {
                while !outbox.is_done() {
                    poll_fn(|cx| outbox.poll_send(cx, &mut stream))
                        .await
                        .unwrap();
                }
                drop(stream);
            };
            let mut received = Vec::new();
            // The end comes without TLS' words for it.
            let reading = peer.read_to_end(&mut received);
            let (_, ()) = tokio::join!(reading, sending);
            assert_eq!(received.len(), size);
        }
    }
}

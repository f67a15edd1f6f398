//! Byte streams: TCP or unix sockets, plain or in TLS, with the two things that must be seen at this level: which
//! length headers a request head carries, and how long a peer has been quiet.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpStream, UnixStream},
    time::{Instant, Sleep},
};
use tokio_rustls::TlsStream;
use tokio_util::either::Either;

use crate::head_scan::{ConnectionFlags, HeadScan};

#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
    /// The other end is in this process: one exchange of an HTTP/2 connection.
    Memory(DuplexStream),
}

pub(crate) type Socket = Either<TcpStream, UnixStream>;

/// A stream as hyper reads and writes it.
pub(crate) struct Transport {
    stream: Stream,
    /// Only on connections from clients.
    scan: Option<HeadScan>,
    /// Only with `--timeout` or `--proxy-timeout`.
    quiet: Option<Box<Quiet>>,
    /// What a server does not take.
    refusal: Refusal,
}

/// A server may answer before it has read a request, and close: 413 to a large upload, say. The next
/// write then fails while the answer waits to be read, and hyper, which knows only that the
/// connection broke, would never read it. So on connections to servers a failed write is no failure:
/// what is written goes nowhere from then on, and reading finds the answer or the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// A failed write is told at once.
    Told,
    /// A failed write will not be told.
    Awaited,
    /// There was one.
    Came,
}

/// Ends a connection on which nothing is read or written for a time.
struct Quiet {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Transport {
    /// A connection from a client.
    pub(crate) fn from_client(
        stream: Stream,
        flags: Arc<ConnectionFlags>,
        quiet_limit: Option<Duration>,
    ) -> Self {
        Self {
            stream,
            scan: Some(HeadScan::new(flags)),
            quiet: quiet_limit.map(|limit| Box::new(Quiet::new(limit))),
            refusal: Refusal::Told,
        }
    }

    /// A connection to a server.
    pub(crate) fn to_upstream(stream: Stream, quiet_limit: Option<Duration>) -> Self {
        Self {
            stream,
            scan: None,
            quiet: quiet_limit.map(|limit| Box::new(Quiet::new(limit))),
            refusal: Refusal::Awaited,
        }
    }

    /// The bare stream, when HTTP has ended on it.
    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Notes for the worker whether the client is slow to take what is written.
    fn note_write<T>(&self, result: &Poll<io::Result<T>>) {
        if let Some(scan) = &self.scan {
            scan.flags().set_write_blocked(result.is_pending());
        }
    }

    /// Lets `length` bytes go nowhere when the server does not take them.
    fn note_refusal(
        &mut self,
        result: Poll<io::Result<usize>>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(error)) if self.refusal == Refusal::Awaited && is_refusal(&error) => {
                self.refusal = Refusal::Came;
                Poll::Ready(Ok(length))
            }
            other => other,
        }
    }

    fn poll_quiet<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(quiet) = &mut self.quiet else {
            return result;
        };
        if result.is_ready() {
            quiet.restart();
            return result;
        }
        ready!(quiet.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "nothing was sent or received for {} ms",
                quiet.limit.as_millis()
            ),
        )))
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl Quiet {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            timer: Box::pin(tokio::time::sleep(limit)),
        }
    }

    fn restart(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.limit);
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(scan) = &mut this.scan
            && result.is_ready()
        {
            scan.feed(&buf.filled()[before..]);
        }
        this.poll_quiet(cx, result)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.refusal == Refusal::Came {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note_write(&result);
        let result = this.note_refusal(result, buf.len());
        this.poll_quiet(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let length = bufs.iter().map(|piece| piece.len()).sum();
        if this.refusal == Refusal::Came {
            return Poll::Ready(Ok(length));
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.note_write(&result);
        let result = this.note_refusal(result, length);
        this.poll_quiet(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What TLS has taken but the client has not is waiting here.
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_write(&result);
        match result {
            Poll::Ready(Err(error)) if self.refusal != Refusal::Told && is_refusal(&error) => {
                self.refusal = Refusal::Came;
                Poll::Ready(Ok(()))
            }
            result => result,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Stream {
    /// Whether bytes written may wait inside until they are flushed.
    pub(crate) fn buffers(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                // Closed without the words of TLS for it, as many programs do. HTTP knows by itself
                // whether something is missing.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                result => result,
            },
            Stream::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_client_that_is_slow_to_read_is_noticed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let flags = Arc::<ConnectionFlags>::default();
        let mut transport =
            Transport::from_client(Stream::Plain(Socket::Right(ours)), Arc::clone(&flags), None);
        transport.write_all(b"a little").await.unwrap();
        assert!(!flags.is_write_blocked());
        let much = vec![0; 1_000_000];
        let mut write = Box::pin(transport.write_all(&much));
        tokio::select! {
            biased;
            _ = &mut write => panic!("nobody has read"),
            () = tokio::task::yield_now() => {}
        }
        assert!(flags.is_write_blocked());
        let mut received = vec![0; much.len() + 8];
        let read = theirs.read_exact(&mut received);
        let (written, _) = tokio::join!(write, read);
        written.unwrap();
        assert!(!flags.is_write_blocked());
    }
}

//! What waits to be written to a peer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::transport::Stream;

/// Bytes for one peer, of which some may have gone out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) bytes: Vec<u8>,
    sent: usize,
    /// Whether TLS may hold something back.
    unflushed: bool,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Forgets what waits.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
        self.unflushed = false;
    }

    /// Writes `content` if nothing waits before it and the peer takes it; the rest waits.
    pub(crate) fn write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        mut content: &[u8],
    ) -> io::Result<()> {
        if self.is_empty() {
            while !content.is_empty() {
                match self.poll_write(cx, stream, content) {
                    Poll::Ready(length) => content = &content[length?..],
                    Poll::Pending => break,
                }
            }
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
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.sent += length,
            }
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

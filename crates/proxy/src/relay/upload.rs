//! The request's body on its way to the server, and what the client sends behind it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::{Broken, Relay, TURNS};
use crate::{
    client::Phase,
    http1::framing::{self, Decoder},
    transport::Stream,
    worker::USUAL_READ,
};

/// How far the request's body has come.
pub(super) enum Upload {
    Body {
        decoder: Decoder,
        is_chunked: bool,
        /// Whether the client waits to be asked for it.
        is_awaited: bool,
    },
    /// The server takes no more; the rest is read away, so that the client comes to read its answer.
    Unwanted(Decoder),
    Complete,
}

/// So much of what a client sends ahead is taken while it waits for an answer.
const MOST_AHEAD: usize = USUAL_READ;

impl Relay<'_> {
    /// Moves the request. Returns when there is nothing to do for now.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Result<(), Broken> {
        for _ in 0..TURNS {
            if !self.to_upstream.is_done() {
                let waiting = self.to_upstream.waiting();
                let sent = self.to_upstream.poll_send(cx, self.upstream);
                if self.to_upstream.waiting() < waiting {
                    self.client.hears_upstream();
                }
                match sent {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => self.stop_upload(),
                }
            }
            if matches!(self.upload, Upload::Complete) {
                return Ok(());
            }
            let ahead = std::mem::take(&mut self.connection.received);
            if !ahead.is_empty() {
                self.pass_up(cx, &ahead)?;
                continue;
            }
            let mut buffer = ReadBuf::new(self.to_upstream.room(scratch));
            match Pin::new(&mut self.connection.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.client.hears_client();
                    self.pass_up(cx, buffer.filled())?;
                }
                // Half a body is no request.
                Poll::Ready(_) => return Err(Broken::Client),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Passes on what has come of the request's body.
    fn pass_up(&mut self, cx: &mut Context<'_>, mut input: &[u8]) -> Result<(), Broken> {
        let mut failed = false;
        let is_done = match &mut self.upload {
            Upload::Complete => false,
            Upload::Unwanted(decoder) => {
                while decoder
                    .next(&mut input)
                    .map_err(|_| Broken::BadBody)?
                    .is_some()
                {}
                decoder.is_done()
            }
            Upload::Body {
                decoder,
                is_chunked,
                is_awaited,
            } => {
                *is_awaited = false;
                while let Some(piece) = decoder.next(&mut input).map_err(|_| Broken::BadBody)? {
                    self.route.touch();
                    if *is_chunked {
                        framing::write_chunk(&mut self.to_upstream.bytes, piece);
                    } else if !failed {
                        failed = self.to_upstream.write(cx, self.upstream, piece).is_err();
                    }
                }
                if decoder.is_done() && *is_chunked {
                    framing::write_last_chunk(&mut self.to_upstream.bytes, &decoder.trailers());
                }
                decoder.is_done()
            }
        };
        if failed {
            self.stop_upload();
        } else {
            self.client.hears_upstream();
        }
        if is_done {
            self.upload = Upload::Complete;
        }
        self.connection.received.extend_from_slice(input);
        Ok(())
    }

    /// The server has stopped to read: it may have answered already, and said no to a large upload.
    fn stop_upload(&mut self) {
        self.to_upstream.clear();
        match std::mem::replace(&mut self.upload, Upload::Complete) {
            Upload::Body { decoder, .. } | Upload::Unwanted(decoder) => {
                self.upload = Upload::Unwanted(decoder);
            }
            Upload::Complete => {}
        }
    }

    /// Notices that the client leaves, and takes what it sends ahead.
    pub(super) fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Result<(), Broken> {
        if !matches!(self.upload, Upload::Complete) {
            return Ok(());
        }
        while !self.connection.has_ended && self.connection.received.len() < MOST_AHEAD {
            let mut buffer = ReadBuf::new(&mut scratch[..MOST_AHEAD]);
            match Pin::new(&mut self.connection.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    // A stream of HTTP/2 says so when it is gone, and only then.
                    if matches!(self.connection.stream, Stream::Memory(_)) {
                        return Err(Broken::Client);
                    }
                    self.connection.has_ended = true;
                    let control = &self.client.control;
                    control.enter(Phase::HalfClosed, &self.client.worker);
                }
                Poll::Ready(Ok(())) => {
                    self.client.hears_client();
                    self.connection.received.extend_from_slice(buffer.filled());
                }
                Poll::Ready(Err(_)) => return Err(Broken::Client),
            }
        }
        Ok(())
    }
}

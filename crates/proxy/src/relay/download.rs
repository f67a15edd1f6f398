//! The answer on its way to the client.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::{Broken, Relay, TURNS, Upload};
use crate::http1::{
    framing::{self, Decoder, Framing},
    head::EndScan,
};

/// How far the answer has come.
pub(super) enum Download {
    Head {
        received: Vec<u8>,
        scan: EndScan,
    },
    Body {
        decoder: Decoder,
        is_chunked: bool,
    },
    Complete,
    /// The protocol has changed; with what the server sent behind its head.
    Upgraded(Vec<u8>),
}

/// So many interim answers may come before the answer.
const MOST_INTERIM: usize = 100;

impl Relay<'_> {
    /// Moves the answer. Ready when all of it has gone to the client.
    pub(super) fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            if !self.to_client.is_done() {
                match self
                    .client
                    .poll_flush(cx, self.connection, &mut self.to_client)
                {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Client)),
                }
            }
            if matches!(self.download, Download::Complete | Download::Upgraded(_)) {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(self.to_client.room(scratch));
            match Pin::new(&mut *self.upstream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.client.hears_upstream();
                    let passed = match &self.download {
                        Download::Head { .. } => self.pass_head(cx, buffer.filled()),
                        _ => self.pass_down(cx, buffer.filled()),
                    };
                    if let Err(broken) = passed {
                        return Poll::Ready(Err(broken));
                    }
                }
                Poll::Ready(result) => {
                    let error = result.err();
                    if let Err(broken) = self.upstream_ended(error) {
                        return Poll::Ready(Err(broken));
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn pass_head(&mut self, cx: &mut Context<'_>, input: &[u8]) -> Result<(), Broken> {
        let Download::Head { received, scan } = &mut self.download else {
            return Ok(());
        };
        let mut received = std::mem::take(received);
        let mut scan = std::mem::take(scan);
        let mut input = if received.is_empty() {
            input
        } else {
            received.extend_from_slice(input);
            &received
        };
        loop {
            let bad = |_| Broken::BadAnswer("a head that is none");
            let Some(length) = scan.find(input, false).map_err(bad)? else {
                self.download = Download::Head {
                    received: input.to_vec(),
                    scan,
                };
                return Ok(());
            };
            self.head.read(&input[..length]).map_err(bad)?;
            input = &input[length..];
            match self.head.status {
                101 if self.rules.wants_websocket() => {
                    let out = &mut self.to_client.bytes;
                    self.rules.write_head(out, &self.head, false, true);
                    self.tally.status = 101;
                    self.download = Download::Upgraded(input.to_vec());
                    return Ok(());
                }
                101 => return Err(Broken::BadAnswer("another protocol, unasked")),
                100..200 => {
                    self.interim += 1;
                    if self.interim > MOST_INTERIM {
                        return Err(Broken::BadAnswer("too many interim answers"));
                    }
                    if self.rules.client_is_http_11() {
                        let out = &mut self.to_client.bytes;
                        self.rules.write_head(out, &self.head, false, true);
                    }
                    scan = EndScan::default();
                }
                _ => break,
            }
        }
        self.begin_body()?;
        self.pass_down(cx, input)
    }

    /// The answer's head is there: writes it, and finds out how its body goes.
    fn begin_body(&mut self) -> Result<(), Broken> {
        let framing = self.head.framing(self.rules.method());
        let framing = framing.map_err(Broken::BadAnswer)?;
        let is_http_11 = self.rules.client_is_http_11();
        // A body without a length goes in chunks, or else ends with the connection.
        let is_open_ended = matches!(framing, Framing::Chunked | Framing::UntilClose);
        let is_chunked = is_open_ended && is_http_11;
        self.keeps_alive = self.may_keep_alive(is_open_ended && !is_http_11);
        let out = &mut self.to_client.bytes;
        self.rules
            .write_head(out, &self.head, is_chunked, self.keeps_alive);
        self.tally.status = self.head.status;
        if self.head.status < 300 {
            self.route.touch();
        }
        self.download = match framing {
            Framing::None => Download::Complete,
            _ => Download::Body {
                decoder: Decoder::new(framing),
                is_chunked,
            },
        };
        Ok(())
    }

    fn may_keep_alive(&self, ends_with_connection: bool) -> bool {
        let is_awaited = matches!(
            self.upload,
            Upload::Body {
                is_awaited: true,
                ..
            }
        );
        self.rules.keeps_alive()
            && !ends_with_connection
            && !is_awaited
            // What follows may be another protocol.
            && !self.rules.wants_websocket()
            && !self.client.worker.is_leaving()
    }

    /// Passes on what has come of the answer's body.
    fn pass_down(&mut self, cx: &mut Context<'_>, mut input: &[u8]) -> Result<(), Broken> {
        let Download::Body {
            decoder,
            is_chunked,
        } = &mut self.download
        else {
            // Bytes behind an answer that is complete: the connection is not used again.
            if !input.is_empty() {
                self.is_spoiled = true;
            }
            return Ok(());
        };
        let is_active = self.tally.status < 300;
        loop {
            let piece = match decoder.next(&mut input) {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(_) => return Err(Broken::HalfAnswer(self.tally)),
            };
            self.tally.bytes += piece.len() as u64;
            self.rules.note(piece);
            if is_active {
                self.route.touch();
            }
            let written = if *is_chunked {
                framing::write_chunk(&mut self.to_client.bytes, piece);
                Ok(())
            } else {
                let stream = &mut self.connection.stream;
                self.to_client.write(cx, stream, piece)
            };
            written.map_err(|_| Broken::Client)?;
        }
        if self.to_client.is_done() {
            // All of it went out without waiting, which nobody else notices.
            self.client.hears_client();
        }
        if decoder.is_done() {
            if *is_chunked {
                framing::write_last_chunk(&mut self.to_client.bytes, &decoder.trailers());
            }
            if !input.is_empty() {
                self.is_spoiled = true;
            }
            self.download = Download::Complete;
        }
        Ok(())
    }

    /// The server has closed its connection, or it broke.
    fn upstream_ended(&mut self, error: Option<io::Error>) -> Result<(), Broken> {
        match &self.download {
            Download::Body {
                decoder,
                is_chunked,
            } if decoder.ends_with_connection() && error.is_none() => {
                if *is_chunked {
                    framing::write_last_chunk(&mut self.to_client.bytes, b"");
                }
                self.is_spoiled = true;
                self.download = Download::Complete;
                Ok(())
            }
            _ => {
                let error = error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                Err(self.broken_upstream(error))
            }
        }
    }

    pub(super) fn broken_upstream(&self, error: io::Error) -> Broken {
        match &self.download {
            Download::Head { received, .. } => Broken::Upstream {
                is_silent: received.is_empty()
                    && self.interim == 0
                    && error.kind() != io::ErrorKind::TimedOut,
                error,
            },
            _ => Broken::HalfAnswer(self.tally),
        }
    }
}

//! One exchange: the request's bytes to the server, the answer's bytes back, both at once.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    client::{Client, Connection, Phase, Verdict},
    http1::{
        framing::{self, Decoder, Framing},
        head::{EndScan, ResponseHead},
    },
    outbox::Outbox,
    routes::Route,
    transport::Stream,
    worker::USUAL_READ,
};

/// What is forwarded, and how far it has come.
pub(crate) struct Relay<'a> {
    client: &'a Client,
    connection: &'a mut Connection,
    upstream: &'a mut Stream,
    route: &'a Route,
    rules: &'a dyn Rules,
    upload: Upload,
    to_upstream: Outbox,
    download: Download,
    to_client: Outbox,
    /// The head of the answer, and the interim ones before it.
    head: Box<ResponseHead>,
    tally: Tally,
    interim: usize,
    /// Whether the answer's head said that another request may follow.
    keeps_alive: bool,
    /// Whether the server's connection cannot serve another request.
    is_spoiled: bool,
}

/// What decides how heads are written; [`crate::forward`] has the rules.
pub(crate) trait Rules {
    fn method(&self) -> &[u8];
    fn wants_websocket(&self) -> bool;
    /// Whether the client understands chunks and interim answers.
    fn client_is_http_11(&self) -> bool;
    /// Whether the client's connection stays open after an answer that ends by itself.
    fn keeps_alive(&self) -> bool;
    /// A piece of the answer's body has come.
    fn note(&self, piece: &[u8]);
    /// Writes an answer's head for the client. `is_chunked`: its body follows in chunks;
    /// `keeps_alive`: another request may follow.
    fn write_head(
        &self,
        out: &mut Vec<u8>,
        head: &ResponseHead,
        is_chunked: bool,
        keeps_alive: bool,
    );
}

enum Upload {
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

enum Download {
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

/// How an exchange ended.
pub(crate) struct Outcome {
    pub(crate) status: u16,
    /// Of the answer's body, to the client.
    pub(crate) bytes: u64,
    /// Another request may use the server's connection.
    pub(crate) upstream_is_reusable: bool,
    /// Another request may follow on the client's connection, once the body below is read.
    pub(crate) client_is_reusable: bool,
    /// What is left of the request's body.
    pub(crate) rest: Option<Rest>,
    pub(crate) upgraded: Option<Vec<u8>>,
}

/// A body that was not read to its end.
pub(crate) struct Rest {
    pub(crate) decoder: Decoder,
    /// Whether the client never began to send it, waiting to be asked.
    pub(crate) is_awaited: bool,
}

/// Why an exchange did not come to its end.
pub(crate) enum Broken {
    /// The client is gone, or its connection must end.
    Client,
    /// The client's body is no body.
    BadBody,
    /// No answer came.
    Upstream {
        error: io::Error,
        /// Whether it may be that the server never saw the request.
        is_silent: bool,
    },
    /// What came is no answer.
    BadAnswer(&'static str),
    /// The answer broke off; the client has its beginning.
    HalfAnswer(Tally),
}

/// What has gone to the client so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) status: u16,
    pub(crate) bytes: u64,
}

/// So many interim answers may come before the answer.
const MOST_INTERIM: usize = 100;

/// So much of what a client sends ahead is taken while it waits for an answer.
const MOST_AHEAD: usize = USUAL_READ;

/// So often one side is read before other connections have their turn.
const TURNS: usize = 16;

impl<'a> Relay<'a> {
    /// `to_upstream` holds the request's head as the server is to get it.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of one exchange, named where it begins"
    )]
    pub(crate) fn new(
        client: &'a Client,
        connection: &'a mut Connection,
        upstream: &'a mut Stream,
        route: &'a Route,
        rules: &'a dyn Rules,
        to_upstream: Outbox,
        body: Framing,
        is_awaited: bool,
    ) -> Self {
        let upload = match body {
            Framing::None => Upload::Complete,
            _ => Upload::Body {
                decoder: Decoder::new(body),
                is_chunked: body == Framing::Chunked,
                is_awaited,
            },
        };
        Self {
            client,
            connection,
            upstream,
            route,
            rules,
            upload,
            to_upstream,
            download: Download::Head {
                received: Vec::new(),
                scan: EndScan::default(),
            },
            to_client: client.worker.outboxes.take(),
            head: client.worker.answers.take(),
            tally: Tally::default(),
            interim: 0,
            keeps_alive: false,
            is_spoiled: false,
        }
    }

    /// Forwards everything.
    pub(crate) async fn run(mut self) -> Result<Outcome, Broken> {
        let worker = &self.client.worker;
        let phase = if self.connection.has_ended {
            Phase::HalfClosed
        } else {
            Phase::Exchange
        };
        self.client.control.enter(phase, worker);
        let result = match poll_fn(|cx| self.poll(cx)).await {
            Ok(()) => Ok(self.outcome()),
            // What the client has already got of an answer cannot be taken back.
            Err(Broken::BadBody | Broken::BadAnswer(_) | Broken::Upstream { .. })
                if self.tally.status != 0 || !self.to_client.is_done() =>
            {
                Err(Broken::HalfAnswer(self.tally))
            }
            Err(broken) => Err(broken),
        };
        worker.outboxes.give(self.to_upstream);
        worker.outboxes.give(self.to_client);
        worker.answers.give(self.head);
        result
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Client {
            worker, control, ..
        } = self.client;
        match control.poll_verdict(worker, cx) {
            Poll::Pending => {}
            Poll::Ready(Verdict::SilentUpstream) => {
                // The client has yet to hear of it.
                control.pardon();
                return Poll::Ready(Err(self.broken_upstream(io::ErrorKind::TimedOut.into())));
            }
            Poll::Ready(_) => return Poll::Ready(Err(Broken::Client)),
        }
        let mut scratch = worker.scratch.borrow_mut();
        if let Err(broken) = self.poll_upload(cx, &mut scratch) {
            return Poll::Ready(Err(broken));
        }
        if let Err(broken) = self.poll_ahead(cx, &mut scratch) {
            return Poll::Ready(Err(broken));
        }
        self.poll_download(cx, &mut scratch)
    }

    /// Moves the request. Returns when there is nothing to do for now.
    fn poll_upload(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Broken> {
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
    fn poll_ahead(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), Broken> {
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

    /// Moves the answer. Ready when all of it has gone to the client.
    fn poll_download(
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

    fn broken_upstream(&self, error: io::Error) -> Broken {
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

    fn outcome(&mut self) -> Outcome {
        let is_complete = matches!(self.download, Download::Complete);
        let upload = std::mem::replace(&mut self.upload, Upload::Complete);
        let rest = match upload {
            Upload::Complete => None,
            Upload::Unwanted(decoder) => Some(Rest {
                decoder,
                is_awaited: false,
            }),
            Upload::Body {
                decoder,
                is_awaited,
                ..
            } => Some(Rest {
                decoder,
                is_awaited,
            }),
        };
        let upgraded = match std::mem::replace(&mut self.download, Download::Complete) {
            Download::Upgraded(received) => Some(received),
            _ => None,
        };
        Outcome {
            status: self.tally.status,
            bytes: self.tally.bytes,
            upstream_is_reusable: is_complete
                && rest.is_none()
                && self.to_upstream.is_done()
                && !self.is_spoiled
                && self.head.keeps_alive(),
            client_is_reusable: is_complete && self.keeps_alive,
            rest,
            upgraded,
        }
    }
}

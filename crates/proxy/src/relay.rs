//! One exchange: the request's bytes to the server, the answer's bytes back, both at once.

mod download;
mod upload;

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use self::{download::Download, upload::Upload};

use crate::{
    client::{Client, Connection, Phase, Verdict},
    http1::{
        framing::{Decoder, Framing},
        head::{EndScan, ResponseHead},
    },
    outbox::Outbox,
    routes::Route,
    transport::Stream,
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

/// The request that an exchange begins with.
pub(crate) struct Request<'a> {
    pub(crate) route: &'a Route,
    pub(crate) rules: &'a dyn Rules,
    /// Its head as the server is to get it.
    pub(crate) head: Outbox,
    pub(crate) body: Framing,
    /// Whether the client waits to be asked for the body.
    pub(crate) is_awaited: bool,
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

/// So often one side is read before other connections have their turn.
const TURNS: usize = 16;

impl<'a> Relay<'a> {
    pub(crate) fn new(
        client: &'a Client,
        connection: &'a mut Connection,
        upstream: &'a mut Stream,
        request: Request<'a>,
    ) -> Self {
        let Request {
            route,
            rules,
            head: to_upstream,
            body,
            is_awaited,
        } = request;
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

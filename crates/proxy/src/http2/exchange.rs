//! One request and its answer: HTTP/2 on one side, HTTP/1.1 over a pipe on the other.

use std::{
    future::{Future, poll_fn},
    io,
    net::IpAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_LENGTH};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
};

use super::translate;
use crate::{client, transport::Stream, worker::Worker};

/// What the pipe holds in each direction.
const PIPE: usize = 32 * 1024;

/// The most headers of an answer; their size is limited by who reads them from the server.
const MAX_ANSWER_HEADERS: usize = 1000;

/// Interim answers that may wait to be sent on. More are dropped: they are only advice.
const MAX_INTERIM: usize = 16;

/// How long the other end of the pipe may take to end after the answer.
const END: Duration = Duration::from_secs(5);

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With an answer, or because none was to be had.
    Answered,
    /// The client did not want it any more.
    LeftByClient,
}

/// An interim answer, on its way to the client.
type Interim = (StatusCode, HeaderMap);

/// Serves one request. When the client resets it, everything that was begun for it is dropped.
pub(super) async fn run(
    worker: Rc<Worker>,
    peer: Option<IpAddr>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Ending {
    let _counted = worker.count_stream();
    let (head, body) = request.into_parts();
    let mut request = match translate::request(&head, !body.is_end_stream()) {
        Ok(request) => request.map(|()| RequestBody::new(body)),
        Err(malformed) => {
            tracing::debug!("downstream: a malformed request: {}", malformed.0);
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return Ending::Answered;
        }
    };
    if let Some(length) = request.headers().get(CONTENT_LENGTH) {
        let length = length.to_str().ok().and_then(|length| length.parse().ok());
        request.body_mut().length = length;
    }
    let (interim_to_client, interim) = mpsc::channel(MAX_INTERIM);
    hyper::ext::on_informational(&mut request, move |response| {
        let _ = interim_to_client.try_send((response.status(), response.headers().clone()));
    });

    let (ours, theirs) = tokio::io::duplex(PIPE);
    let handshake = http1::Builder::new()
        .max_headers(MAX_ANSWER_HEADERS)
        .handshake(TokioIo::new(Pipe(ours)));
    let Ok((sender, connection)) = handshake.await else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Ending::Answered;
    };
    let mut engine = Box::pin(client::serve(worker, Stream::Memory(theirs), peer));
    let mut engine_runs = true;
    let ending = {
        let mut connection = pin!(connection);
        let mut connection_runs = true;
        let mut relay = pin!(relay(sender, request, respond, interim));
        // In this order the request is in the pipe before the other end first looks: it takes no
        // connection for an idle one.
        poll_fn(|cx| {
            if let Poll::Ready(ending) = relay.as_mut().poll(cx) {
                return Poll::Ready(ending);
            }
            // Its errors are told to the relay.
            connection_runs = connection_runs && connection.as_mut().poll(cx).is_pending();
            engine_runs = engine_runs && engine.as_mut().poll(cx).is_pending();
            Poll::Pending
        })
        .await
    };
    // The pipe is closed now. After a whole answer the other end has its books to close, and its
    // connection to the server to put back.
    if engine_runs && ending == Ending::Answered {
        let _ = tokio::time::timeout(END, engine).await;
    }
    ending
}

/// The request into the pipe, the answer out of it.
async fn relay(
    mut sender: SendRequest<RequestBody>,
    request: Request<RequestBody>,
    mut respond: SendResponse<Bytes>,
    mut interim: mpsc::Receiver<Interim>,
) -> Ending {
    let response = {
        let mut sending = pin!(sender.send_request(request));
        poll_fn(|cx| {
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            let response = sending.as_mut().poll(cx);
            while let Poll::Ready(Some(interim)) = interim.poll_recv(cx) {
                send_interim(&mut respond, interim);
            }
            response.map(Some)
        })
        .await
    };
    let response = match response {
        None => return Ending::LeftByClient,
        Some(Ok(response)) => response,
        Some(Err(error)) => {
            tracing::debug!("a request over HTTP/2 got no answer: {error}");
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Ending::Answered;
        }
    };
    let (head, body) = response.into_parts();
    let is_whole = body.is_end_stream();
    match respond.send_response(translate::response(head), is_whole) {
        Ok(_) if is_whole => Ending::Answered,
        Ok(mut stream) => match send_body(&mut stream, body).await {
            Ok(()) => Ending::Answered,
            Err(Cut::ByClient) => Ending::LeftByClient,
            Err(Cut::ByServer) => {
                // The client must see that the body is not whole.
                stream.send_reset(Reason::INTERNAL_ERROR);
                Ending::Answered
            }
        },
        Err(error) => {
            tracing::debug!("downstream: a request was left: {error}");
            Ending::LeftByClient
        }
    }
}

fn send_interim(respond: &mut SendResponse<Bytes>, (status, mut headers): Interim) {
    translate::strip(&mut headers);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Err(error) = respond.send_informational(response) {
        tracing::debug!("downstream: an interim answer could not be sent: {error}");
    }
}

/// Why a body ends before its end.
enum Cut {
    ByClient,
    ByServer,
}

async fn send_body(stream: &mut SendStream<Bytes>, mut body: Incoming) -> Result<(), Cut> {
    loop {
        let frame = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Cut::ByClient));
            }
            let frame = ready!(Pin::new(&mut body).poll_frame(cx));
            Poll::Ready(frame.transpose().map_err(|_| Cut::ByServer))
        });
        let Some(frame) = frame.await? else {
            let sent = stream.send_data(Bytes::new(), true);
            return sent.map_err(|_| Cut::ByClient);
        };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                send_data(stream, data, is_last).await?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    translate::strip(&mut trailers);
                    let sent = stream.send_trailers(trailers);
                    return sent.map_err(|_| Cut::ByClient);
                }
            }
        }
    }
}

/// Sends a piece as the client's windows let it.
async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
) -> Result<(), Cut> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            stream.poll_capacity(cx).map(|capacity| capacity?.ok())
        });
        let capacity = capacity.await.ok_or(Cut::ByClient)?;
        if capacity == 0 {
            // Taken back meanwhile: there will be other.
            continue;
        }
        let piece = data.split_to(capacity.min(data.len()));
        let is_end = is_last && data.is_empty();
        stream.send_data(piece, is_end).map_err(|_| Cut::ByClient)?;
    }
    Ok(())
}

/// A request's body as it comes from the client.
struct RequestBody {
    stream: RecvStream,
    length: Option<u64>,
}

impl RequestBody {
    fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            length: None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let stream = &mut self.stream;
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // It goes into the pipe at once, and the next is not asked for before.
                stream.flow_control().release_capacity(data.len())?;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = ready!(stream.poll_trailers(cx)).transpose();
                Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// Our end of the pipe. What the other end does not take, because it has answered and closed, goes
/// nowhere: a failed write would keep the answer from being read.
struct Pipe(DuplexStream);

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, buf));
        Poll::Ready(Ok(written.unwrap_or(buf.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

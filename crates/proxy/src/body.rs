//! The bodies that pass through: streamed, never collected.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::{
    client::Client,
    pool::{Pool, Sender},
    routes::Route,
};

/// A request's body on its way to the server.
pub(crate) enum RequestBody {
    Empty,
    Stream(Upload),
}

pub(crate) struct Upload {
    /// Taken out at the end.
    incoming: Option<Incoming>,
    /// Data that a client sends shows that the route is in use.
    route: Arc<Route>,
    /// Whether the client sends without being asked to, or has been asked to.
    is_coming: bool,
}

/// How much of a body that nobody wants is read away, in bytes, and how long at most: a client that
/// is still sending when its connection closes sees only that it broke, and never the answer.
const MOST_DISCARDED: u64 = 1 << 30;
const DISCARD_LIMIT: Duration = Duration::from_secs(30);

/// A response's body on its way to the client. When it is dropped the exchange is over.
pub(crate) struct ResponseBody {
    content: Content,
    client: Rc<Client>,
}

enum Content {
    /// Our own answer.
    Own(Option<Bytes>),
    Stream(Streamed),
}

pub(crate) struct Streamed {
    incoming: Incoming,
    ended: bool,
    /// The connection it comes from, which goes back to the pool at the end.
    sender: Option<Sender>,
    upstream: u64,
    pool: Rc<Pool>,
    /// Set for a successful answer: only that counts as activity, so that polls of a dead or
    /// forbidden server do not keep it alive.
    active: Option<Arc<Route>>,
}

impl ResponseBody {
    pub(crate) fn own(client: Rc<Client>, content: Bytes) -> Self {
        Self {
            content: Content::Own(Some(content).filter(|content| !content.is_empty())),
            client,
        }
    }

    pub(crate) fn streamed(client: Rc<Client>, streamed: Streamed) -> Self {
        Self {
            content: Content::Stream(streamed),
            client,
        }
    }
}

impl RequestBody {
    /// `is_expected`: the client waits for `100 Continue` before it sends.
    pub(crate) fn new(incoming: Incoming, route: Arc<Route>, is_expected: bool) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        Self::Stream(Upload {
            incoming: Some(incoming),
            route,
            is_coming: !is_expected,
        })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let incoming = self.incoming.take();
        if let Some(incoming) = incoming.filter(|body| self.is_coming && !body.is_end_stream()) {
            tokio::task::spawn_local(discard(incoming));
        }
    }
}

/// Reads a body away, up to a limit.
async fn discard(mut incoming: Incoming) {
    let reading = async {
        let mut discarded = 0;
        while discarded < MOST_DISCARDED
            && let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await
        {
            discarded += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
    };
    // Beyond the limit the connection closes, whatever the client sees.
    let _ = tokio::time::timeout(DISCARD_LIMIT, reading).await;
}

impl Streamed {
    pub(crate) fn new(
        incoming: Incoming,
        sender: Sender,
        pool: Rc<Pool>,
        status: StatusCode,
        route: Arc<Route>,
    ) -> Self {
        Self {
            incoming,
            ended: false,
            sender: Some(sender),
            upstream: route.target.upstream.id,
            pool,
            active: (status.as_u16() < 300).then_some(route),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Stream(upload) => {
                let Some(incoming) = &mut upload.incoming else {
                    return Poll::Ready(None);
                };
                upload.is_coming = true;
                let frame = Pin::new(incoming).poll_frame(cx);
                match &frame {
                    Poll::Ready(Some(Ok(_))) => upload.route.touch(),
                    Poll::Ready(None | Some(Err(_))) => upload.incoming = None,
                    Poll::Pending => {}
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Stream(upload) => {
                let incoming = upload.incoming.as_ref();
                incoming.is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Stream(upload) => {
                let incoming = upload.incoming.as_ref();
                incoming.map_or(SizeHint::with_exact(0), Body::size_hint)
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().content {
            Content::Own(content) => {
                Poll::Ready(content.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Content::Stream(streamed) => {
                let frame = Pin::new(&mut streamed.incoming).poll_frame(cx);
                match &frame {
                    Poll::Ready(None) => streamed.ended = true,
                    Poll::Ready(Some(Ok(_))) => {
                        if let Some(route) = &streamed.active {
                            route.touch();
                        }
                    }
                    _ => {}
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(content) => content.is_none(),
            Content::Stream(streamed) => streamed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(content) => {
                SizeHint::with_exact(content.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Stream(streamed) => streamed.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.client.exchange_ended();
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // An unfinished body means that one side is gone: its connection must not be used again.
        if (self.ended || self.incoming.is_end_stream())
            && let Some(sender) = self.sender.take()
        {
            if let Some(route) = &self.active {
                route.touch();
            }
            self.pool.put_back(self.upstream, sender);
        }
    }
}

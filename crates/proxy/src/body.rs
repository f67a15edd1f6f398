//! The bodies that pass through: streamed, never collected.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
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
    Stream {
        incoming: Incoming,
        /// Data that a client sends shows that the route is in use.
        route: Arc<Route>,
    },
}

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
            RequestBody::Stream { incoming, route } => {
                let frame = Pin::new(incoming).poll_frame(cx);
                if let Poll::Ready(Some(Ok(_))) = &frame {
                    route.touch();
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Stream { incoming, .. } => incoming.size_hint(),
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

//! Answers of the proxy's own.

use bytes::Bytes;
use http::StatusCode;

use crate::{
    client::{Client, Connection, Next},
    error::Fault,
    http1::head::Refusal,
};

/// An answer with a whole body.
pub(crate) struct Answer<'a> {
    pub(crate) status: StatusCode,
    /// Beside the length and what concerns the connection.
    pub(crate) headers: &'a [(&'a [u8], &'a [u8])],
    pub(crate) body: &'a [u8],
    /// Whether to leave the body out, as the answer to HEAD does.
    pub(crate) is_head: bool,
    pub(crate) connection: ConnectionHeader,
}

/// What an answer says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionHeader {
    /// Nothing: the version says that it stays open.
    None,
    KeepAlive,
    Close,
}

/// Only what describes the page's body is kept of its headers.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) headers: Vec<(Bytes, Bytes)>,
    pub(crate) body: Bytes,
}

impl ConnectionHeader {
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            ConnectionHeader::None => b"",
            ConnectionHeader::KeepAlive => b"Connection: keep-alive\r\n",
            ConnectionHeader::Close => b"Connection: close\r\n",
        });
    }
}

impl Answer<'_> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        let reason = self.status.canonical_reason().unwrap_or_default();
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in self.headers {
            write_field(out, name, value);
        }
        let length = self.body.len().to_string();
        write_field(out, b"Content-Length", length.as_bytes());
        self.connection.write(out);
        out.extend_from_slice(b"\r\n");
        if !self.is_head {
            out.extend_from_slice(self.body);
        }
    }
}

pub(crate) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Answers a head that is refused; the connection closes, because nobody can tell where the next
/// request would begin.
pub(crate) async fn refuse_head(
    client: &Client,
    connection: &mut Connection,
    refusal: Refusal,
) -> Next {
    let (status, reason) = match refusal {
        Refusal::Bad(reason) => (StatusCode::BAD_REQUEST, reason),
        Refusal::LongTarget => (StatusCode::URI_TOO_LONG, "the request line is too long"),
        Refusal::LongFields => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the headers are too long",
        ),
    };
    tracing::warn!("{} {}", status.as_u16(), Fault::Downstream(reason));
    client.worker.counters().count_status(status);
    let body = format!("Bad request: {reason}\n");
    let answer = Answer {
        status,
        headers: &[(b"Content-Type", b"text/plain")],
        body: body.as_bytes(),
        is_head: false,
        connection: ConnectionHeader::Close,
    };
    if client.send(connection, &answer).await {
        Next::Close
    } else {
        Next::Cut
    }
}

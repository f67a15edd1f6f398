//! What can go wrong: at start ([`Error`]), and with one request ([`Fault`]).

use std::{borrow::Cow, io, path::PathBuf};

use http::StatusCode;

/// Why the proxy does not start, or ends. Each message is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option of configurable-http-proxy that this version does not implement. It is refused,
    /// because a proxy that silently ignores an option (TLS, say) is worse than none.
    #[error("not supported yet: {0}")]
    NotSupportedYet(&'static str),

    /// Two options that exclude each other, or a value out of range.
    #[error("{0}")]
    BadOption(String),

    /// An address could not be listened on.
    #[error("cannot listen on {address} for {purpose}: {}", reason(source))]
    Listen {
        /// The address or the path of the socket.
        address: String,
        /// What it was for: the proxy, its API, or metrics.
        purpose: &'static str,
        /// Why not.
        source: io::Error,
    },

    /// A file named by an option could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried: read, write, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// The operating system refused something the proxy cannot do without.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },

    /// A part that others rely on has ended by a mistake of ours. The proxy ends rather than serve
    /// a part of its users; whoever looks after it starts it again.
    #[error("a part of the proxy died; start it again, and please report what the log says")]
    WorkerDied,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "it is in use by another program; stop that one or choose another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need a privilege".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// Why a request was not answered by its server. Whose fault it is decides the status, the page
/// and the log level.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// No route leads to the path; nobody's fault but the address'.
    #[error("no route for this path")]
    NoRoute,

    /// The server behind the route is not there or does not speak HTTP.
    #[error("upstream: {0}")]
    Upstream(UpstreamFault),

    /// The client sent what must not be forwarded.
    #[error("downstream: {0}")]
    Downstream(&'static str),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamFault {
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("{address} did not accept the connection within {seconds} s")]
    ConnectTimeout { address: String, seconds: u64 },
    #[error("no TLS with {address}: {source}")]
    Tls { address: String, source: io::Error },
    #[error("{address} did not answer as HTTP asks: {reason}")]
    Exchange {
        address: String,
        reason: Cow<'static, str>,
    },
}

impl Fault {
    /// The status that configurable-http-proxy gives in this case.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Fault::NoRoute => StatusCode::NOT_FOUND,
            Fault::Upstream(_) => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Downstream(_) => StatusCode::BAD_REQUEST,
        }
    }
}

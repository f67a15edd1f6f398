//! Where a route leads: a parsed target URL and the server it names.

use std::{
    fmt,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use http::HeaderValue;
use rustls::pki_types::ServerName;

/// A target URL of a route, taken apart.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) upstream: Upstream,
    /// The URL's path without a slash at its end; empty for a plain `http://host:port`.
    pub(crate) base_path: Box<str>,
    /// The URL's query, which is put before that of each request.
    pub(crate) query: Option<Box<str>>,
}

/// A server that connections are made to and pooled for.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Tells this server's pooled connections from all others'; never used twice.
    pub(crate) id: u64,
    pub(crate) address: Address,
    /// For https: the name that its certificate must be for.
    pub(crate) tls: Option<ServerName<'static>>,
    /// For requests that come without a Host header (HTTP/1.0).
    pub(crate) host: HeaderValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: Box<str>, port: u16 },
    Unix(PathBuf),
}

/// Why a target URL is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("it must start with http://, https:// or http+unix://")]
    Scheme,
    #[error("it has no valid host and port")]
    Host,
    #[error("its path or query holds characters that a URL cannot hold")]
    Path,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = url.split_once("://").ok_or(TargetError::Scheme)?;
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(authority_end);
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        // Whatever is kept must be fit for a request line.
        format!("/{}", rest.trim_start_matches('/'))
            .parse::<http::uri::PathAndQuery>()
            .map_err(|_| TargetError::Path)?;
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let scheme = scheme.to_ascii_lowercase();
        let (address, host) = match &*scheme {
            "http" => tcp_address(authority, 80)?,
            "https" => tcp_address(authority, 443)?,
            "http+unix" | "unix+http" => unix_address(authority)?,
            _ => return Err(TargetError::Scheme),
        };
        let tls = match &address {
            Address::Tcp { host, .. } if scheme == "https" => {
                let name = ServerName::try_from(host.to_string());
                Some(name.map_err(|_| TargetError::Host)?)
            }
            _ => None,
        };
        Ok(Self {
            upstream: Upstream {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                address,
                tls,
                host,
            },
            base_path: path.strip_suffix('/').unwrap_or(path).into(),
            query: query.filter(|query| !query.is_empty()).map(Into::into),
        })
    }
}

fn tcp_address(authority: &str, default_port: u16) -> Result<(Address, HeaderValue), TargetError> {
    let host_header = HeaderValue::from_str(authority).map_err(|_| TargetError::Host)?;
    let parsed: http::uri::Authority = authority.parse().map_err(|_| TargetError::Host)?;
    let host = parsed.host();
    let port = match authority[host.len()..].strip_prefix(':') {
        None | Some("") => default_port,
        Some(port) => port.parse().map_err(|_| TargetError::Host)?,
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() {
        return Err(TargetError::Host);
    }
    let host = host.into();
    Ok((Address::Tcp { host, port }, host_header))
}

/// The socket's path stands percent-encoded where a URL has its host.
fn unix_address(authority: &str) -> Result<(Address, HeaderValue), TargetError> {
    let path = percent_encoding::percent_decode_str(authority)
        .decode_utf8()
        .map_err(|_| TargetError::Host)?;
    if path.is_empty() {
        return Err(TargetError::Host);
    }
    let address = Address::Unix(PathBuf::from(path.as_ref()));
    Ok((address, HeaderValue::from_static("localhost")))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let parse = |url: &str| {
            Target::parse(url).map(|target| {
                (
                    target.upstream.address.to_string(),
                    target.base_path.to_string(),
                    target.query.map(String::from),
                )
            })
        };
        let good = |address: &str, path: &str| Ok((address.to_owned(), path.to_owned(), None));
        assert_eq!(parse("http://127.0.0.1:8081"), good("127.0.0.1:8081", ""));
        assert_eq!(parse("HTTP://hub/"), good("hub:80", ""));
        assert_eq!(parse("http://[::1]:99/a/b/"), good("[::1]:99", "/a/b"));
        assert_eq!(
            parse("http+unix://%2Frun%2Fa.sock/x"),
            good("/run/a.sock", "/x")
        );
        assert_eq!(
            parse("unix+http://%2Frun%2Fa.sock"),
            good("/run/a.sock", "")
        );
        assert_eq!(
            parse("http://h:1/p?q=1#f"),
            Ok(("h:1".into(), "/p".into(), Some("q=1".into())))
        );
        assert_eq!(parse("https://h/x"), good("h:443", "/x"));
        assert_eq!(parse("https://[::1]:9"), good("[::1]:9", ""));
        assert_eq!(parse("https://a_b c"), Err(TargetError::Host));
        assert_eq!(parse("ftp://h"), Err(TargetError::Scheme));
        assert_eq!(parse("127.0.0.1:80"), Err(TargetError::Scheme));
        assert_eq!(parse("http://"), Err(TargetError::Host));
        assert_eq!(parse("http://h:99999"), Err(TargetError::Host));
        assert_eq!(parse("http://h/a b"), Err(TargetError::Path));
    }
}

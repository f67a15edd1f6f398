//! What is taken from and added to the headers on the way.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Removes what concerns one connection only: the headers that RFC 9110 section 7.6.1 names, and
/// those that `Connection` lists. The others keep their order, so nothing is removed in place.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let mut listed = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            if !token.eq_ignore_ascii_case(b"keep-alive")
                && !token.eq_ignore_ascii_case(b"close")
                && let Ok(name) = HeaderName::from_bytes(token)
                // A request without its Host would be another request.
                && name != HOST
            {
                listed.push(name);
            }
        }
    }
    let all = std::mem::take(headers);
    headers.reserve(all.len());
    let mut current = None;
    for (name, value) in all {
        // A repeated header comes without its name.
        let name = name
            .or(current.take())
            .expect("the first header has a name");
        if !is_hop_by_hop(&name) && !listed.contains(&name) {
            headers.append(name.clone(), value);
        }
        current = Some(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Whether the client asks to speak websocket. Other protocols are not passed on: `h2c`, for one,
/// would let a client reach what its route does not lead to.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers.get_all(CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

/// Says again that the protocol changes, after [`strip_hop_by_hop`].
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Adds the `X-Forwarded-*` headers as configurable-http-proxy does: for, port and proto are
/// appended to what the client sent; the host is set unless the client sent one, and not for
/// websockets, whose proto is `ws` or `wss`.
pub(crate) fn add_x_forwarded(
    headers: &mut HeaderMap,
    peer: Option<&HeaderValue>,
    host: Option<&HeaderValue>,
    websocket: bool,
    secure: bool,
) {
    if let Some(peer) = peer {
        append(headers, X_FORWARDED_FOR, peer);
    }
    append(headers, X_FORWARDED_PORT, &port(host, secure));
    let proto = HeaderValue::from_static(match (websocket, secure) {
        (false, false) => "http",
        (false, true) => "https",
        (true, false) => "ws",
        (true, true) => "wss",
    });
    append(headers, X_FORWARDED_PROTO, &proto);
    if !websocket && !headers.contains_key(X_FORWARDED_HOST) {
        let host = host.cloned();
        headers.insert(
            X_FORWARDED_HOST,
            host.unwrap_or_else(|| HeaderValue::from_static("")),
        );
    }
}

/// The client's address as a header value.
pub(crate) fn peer_value(ip: IpAddr) -> Option<HeaderValue> {
    HeaderValue::from_str(&ip.to_string()).ok()
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let mut joined: Vec<u8> = Vec::new();
    for earlier in headers.get_all(&name) {
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(earlier.as_bytes());
    }
    let value = if joined.is_empty() {
        value.clone()
    } else {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
        HeaderValue::from_bytes(&joined).expect("valid values joined by commas are a valid value")
    };
    headers.insert(name, value);
}

/// The port in the Host header, else the usual one.
fn port(host: Option<&HeaderValue>, secure: bool) -> HeaderValue {
    let digits = host.and_then(|host| {
        let host = host.as_bytes();
        let colon = host.iter().rposition(|byte| *byte == b':')?;
        let digits = &host[colon + 1..];
        (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then_some(digits)
    });
    digits
        .and_then(|digits| HeaderValue::from_bytes(digits).ok())
        .unwrap_or_else(|| HeaderValue::from_static(if secure { "443" } else { "80" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn list(map: &HeaderMap) -> Vec<String> {
        map.iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_rest_keeps_its_order() {
        let mut headers = map(&[
            ("host", "h"),
            ("connection", "keep-alive, X-Secret, host"),
            ("x-b", "1"),
            ("keep-alive", "5"),
            ("x-b", "2"),
            ("x-secret", "s"),
            ("te", "gzip"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("x-a", "3"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(list(&headers), ["host: h", "x-b: 1", "x-b: 2", "x-a: 3"]);
    }

    #[test]
    fn forwarded_headers() {
        let mut headers = map(&[
            ("host", "h:8000"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
        ]);
        let host = headers.get(HOST).cloned();
        let peer = peer_value([10, 0, 0, 1].into());
        add_x_forwarded(&mut headers, peer.as_ref(), host.as_ref(), false, false);
        assert_eq!(
            list(&headers),
            [
                "host: h:8000",
                "x-forwarded-for: 1.1.1.1, 2.2.2.2,10.0.0.1",
                "x-forwarded-port: 8000",
                "x-forwarded-proto: http",
                "x-forwarded-host: h:8000",
            ]
        );
        let mut headers = map(&[("host", "[::1]")]);
        let host = headers.get(HOST).cloned();
        add_x_forwarded(&mut headers, None, host.as_ref(), true, false);
        assert_eq!(
            list(&headers),
            [
                "host: [::1]",
                "x-forwarded-port: 80",
                "x-forwarded-proto: ws"
            ]
        );
        for (websocket, proto) in [(false, "https"), (true, "wss")] {
            let mut headers = HeaderMap::new();
            add_x_forwarded(&mut headers, None, None, websocket, true);
            assert_eq!(headers[X_FORWARDED_PORT], "443");
            assert_eq!(headers[X_FORWARDED_PROTO], proto);
        }
    }

    #[test]
    fn websockets_are_recognised() {
        assert!(wants_websocket(&map(&[
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade")
        ])));
        assert!(!wants_websocket(&map(&[
            ("upgrade", "h2c"),
            ("connection", "upgrade")
        ])));
        assert!(!wants_websocket(&map(&[("upgrade", "websocket")])));
    }
}

//! Heads of HTTP/2 as HTTP/1.1, and back.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    request, response,
    uri::PathAndQuery,
};

/// The request is none of HTTP/2. Its stream is reset with `PROTOCOL_ERROR` (RFC 9113 section 8.1.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// The head as HTTP/1.1 has it. What RFC 9113 wants checked is checked here unless the h2 crate
/// has done so; all the rest is left to the one who reads HTTP/1.1.
pub(super) fn request(head: &request::Parts, has_body: bool) -> Result<Request<()>, Malformed> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = target(head)?;
    *request.headers_mut() = request_headers(head, has_body)?;
    Ok(request)
}

fn target(head: &request::Parts) -> Result<Uri, Malformed> {
    if head.method == Method::CONNECT {
        let authority = head.uri.authority();
        let authority = authority.ok_or(Malformed("CONNECT without an authority"))?;
        return Ok(Uri::from(authority.clone()));
    }
    let path = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if !(path.starts_with('/') || (path == "*" && head.method == Method::OPTIONS)) {
        return Err(Malformed("a path that does not begin with a slash"));
    }
    let path = head.uri.path_and_query().cloned();
    Ok(path.map(Uri::from).unwrap_or_default())
}

fn request_headers(head: &request::Parts, has_body: bool) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(head.headers.len() + 2);
    if let Some(authority) = head.uri.authority() {
        if authority.as_str().contains('@') {
            return Err(Malformed("an authority with a user"));
        }
        let value = HeaderValue::from_str(authority.as_str());
        let value = value.map_err(|_| Malformed("an authority that is no Host header"))?;
        headers.insert(HOST, value);
    }
    let mut cookies = cookies(&head.headers);
    for (name, value) in &head.headers {
        if *name == TE {
            // The h2 crate lets nothing pass but this.
            headers.insert(TE, HeaderValue::from_static("trailers"));
            continue;
        }
        if is_of_connection(name) {
            continue;
        }
        if *name == COOKIE {
            if let Some(cookie) = cookies.take() {
                headers.insert(COOKIE, cookie);
            }
            continue;
        }
        // A Host header beside the authority should not be there, but harms only when it names
        // another host (RFC 9113 section 8.3.1). Then both go on, and will be refused.
        let is_known =
            |other: &HeaderValue| other.as_bytes().eq_ignore_ascii_case(value.as_bytes());
        if *name == HOST && headers.get(HOST).is_some_and(is_known) {
            continue;
        }
        if *name == CONTENT_LENGTH && headers.contains_key(CONTENT_LENGTH) {
            return Err(Malformed("two lengths"));
        }
        headers.append(name.clone(), value.clone());
    }
    if let Some(length) = headers.get(CONTENT_LENGTH) {
        if length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
            return Err(Malformed("a length that is no number"));
        }
    } else if has_body {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(headers)
}

/// The cookies, which may come as one field each, as the one field that servers know (RFC 9113
/// section 8.2.3).
fn cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let first = crumbs.next()?;
    if crumbs.next().is_none() {
        return Some(first.clone());
    }
    let mut joined = Vec::new();
    for crumb in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    let joined = HeaderValue::from_bytes(&joined);
    Some(joined.expect("valid values joined by semicolons are a valid value"))
}

/// The head of an answer as HTTP/2 has it.
pub(super) fn response(head: response::Parts) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = head.headers;
    strip(response.headers_mut());
    response
}

/// Takes away what concerns a connection of HTTP/1.1, which h2 may not carry (RFC 9113 section
/// 8.2.2).
pub(super) fn strip(headers: &mut HeaderMap) {
    if !headers.keys().any(is_of_connection) {
        return;
    }
    // In this way the others keep their order.
    let all = std::mem::take(headers);
    for (name, value) in &all {
        if !is_of_connection(name) {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn is_of_connection(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(
        request: request::Builder,
        has_body: bool,
    ) -> Result<(String, Vec<String>), Malformed> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        let request = super::request(&head, has_body)?;
        let line = format!("{} {}", request.method(), request.uri());
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        Ok((line, headers.collect()))
    }

    fn get(uri: &str) -> request::Builder {
        Request::get(uri)
    }

    #[test]
    fn a_request_keeps_its_path_and_the_order_of_its_headers() {
        let request = get("https://h:8443/user/a%40b/..//x?y&&z")
            .header("x-b", "1")
            .header("cookie", "a=1")
            .header("x-a", "2")
            .header("cookie", "b=2; c=3")
            .header("te", "trailers")
            .header("x-b", "3")
            .header("cookie", "d=4");
        let (line, headers) = translated(request, false).unwrap();
        assert_eq!(line, "GET /user/a%40b/..//x?y&&z");
        assert_eq!(
            headers,
            [
                "host: h:8443",
                "x-b: 1",
                "x-b: 3",
                "cookie: a=1; b=2; c=3; d=4",
                "x-a: 2",
                "te: trailers"
            ]
        );
        assert_eq!(translated(get("https://h/x?"), false).unwrap().0, "GET /x?");
        assert_eq!(translated(get("https://h"), false).unwrap().0, "GET /");
    }

    #[test]
    fn bodies_have_one_framing() {
        let post = || Request::post("https://h/x");
        let framing = |request, has_body| translated(request, has_body).map(|(_, headers)| headers);
        assert_eq!(
            framing(post(), true).unwrap(),
            ["host: h", "transfer-encoding: chunked"]
        );
        assert_eq!(
            framing(post(), false).unwrap(),
            ["host: h", "content-length: 0"]
        );
        assert_eq!(
            framing(post().header("content-length", "5"), true).unwrap(),
            ["host: h", "content-length: 5"]
        );
        assert_eq!(
            framing(get("https://h/x"), true).unwrap(),
            ["host: h", "transfer-encoding: chunked"]
        );
        assert_eq!(framing(get("https://h/x"), false).unwrap(), ["host: h"]);
        for lengths in [&["5", "5"][..], &["5", "6"], &["+5"], &["5, 5"], &[""]] {
            let request = lengths.iter().fold(post(), |request, length| {
                request.header("content-length", *length)
            });
            assert!(translated(request, true).is_err(), "{lengths:?}");
        }
    }

    #[test]
    fn hosts() {
        let hosts = |request| {
            translated(request, false).map(|(_, mut headers)| {
                headers.retain(|header| header.starts_with("host"));
                headers
            })
        };
        let same = get("https://H/").header("host", "h");
        assert_eq!(hosts(same).unwrap(), ["host: H"]);
        let alone = get("/").header("host", "h");
        assert_eq!(hosts(alone).unwrap(), ["host: h"]);
        // HTTP/1.1 refuses these.
        let other = get("https://h/").header("host", "other");
        assert_eq!(hosts(other).unwrap(), ["host: h", "host: other"]);
        assert_eq!(hosts(get("/")).unwrap(), [""; 0]);
        assert!(hosts(get("https://user@h/")).is_err());
    }

    #[test]
    fn paths_that_are_none() {
        let options = Request::options("*").header("host", "h");
        assert_eq!(translated(options, false).unwrap().0, "OPTIONS *");
        assert!(translated(get("*").header("host", "h"), false).is_err());
        let path = |path: &str| {
            let uri = Uri::builder().scheme("https").authority("h");
            uri.path_and_query(path).build()
        };
        if let Ok(uri) = path("x") {
            assert!(translated(Request::get(uri), false).is_err());
        }
        let connect = Request::connect("h:80");
        assert_eq!(translated(connect, false).unwrap().0, "CONNECT h:80");
    }

    #[test]
    fn answers_lose_what_concerns_a_connection() {
        let (head, ()) = Response::builder()
            .status(201)
            .header("x-b", "1")
            .header("connection", "close")
            .header("set-cookie", "a=1")
            .header("transfer-encoding", "chunked")
            .header("x-a", "2")
            .header("set-cookie", "b=2")
            .body(())
            .unwrap()
            .into_parts();
        let response = response(head);
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(response.status(), 201);
        assert_eq!(names, ["x-b", "set-cookie", "x-a"]);
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    }
}

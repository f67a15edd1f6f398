//! Heads of requests and responses: kept as the bytes they came in, with the places of their parts.

use std::mem::MaybeUninit;

use memchr::memchr;

pub(crate) use super::fields::{Field, Fields, Kind};
use super::{
    fields::{Span, entry},
    framing::Framing,
};

/// The longest head, in bytes.
pub(crate) const LONGEST: usize = 64 * 1024;

/// So many header fields may a head have.
const MOST_FIELDS: usize = 256;

/// Why a request's head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no HTTP, or could be understood in two ways. With the reason.
    Bad(&'static str),
    LongTarget,
    LongFields,
}

/// Finds the end of a head that comes in pieces, without looking at a byte twice.
#[derive(Debug, Default)]
pub(crate) struct EndScan {
    line_start: usize,
    seen: usize,
}

#[derive(Debug, Default)]
pub(crate) struct RequestHead {
    pub(crate) fields: Fields,
    method: Span,
    target: Span,
    pub(crate) is_http_11: bool,
}

#[derive(Debug, Default)]
pub(crate) struct ResponseHead {
    pub(crate) fields: Fields,
    reason: Span,
    pub(crate) status: u16,
    pub(crate) is_http_11: bool,
}

/// The parts of a request's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Of a target in absolute form, whose host counts and not that of the `Host` header.
    pub(crate) authority: Option<&'a [u8]>,
    pub(crate) path: &'a [u8],
    /// What follows the `?`; `Some` of nothing for a lone one.
    pub(crate) query: Option<&'a [u8]>,
}

impl EndScan {
    /// The length of the head in `bytes`, which begin where they did in the call before.
    pub(crate) fn find(&mut self, bytes: &[u8], strict: bool) -> Result<Option<usize>, Refusal> {
        while let Some(offset) = memchr(b'\n', &bytes[self.seen..]) {
            let end = self.seen + offset;
            let line = &bytes[self.line_start..end];
            if strict && line.last() != Some(&b'\r') {
                return Err(Refusal::Bad("a line that ends without CR"));
            }
            self.seen = end + 1;
            self.line_start = self.seen;
            if matches!(line, b"" | b"\r") {
                return if self.seen > LONGEST {
                    Err(Refusal::LongFields)
                } else {
                    Ok(Some(self.seen))
                };
            }
        }
        self.seen = bytes.len();
        if bytes.len() <= LONGEST {
            Ok(None)
        } else if self.line_start == 0 {
            Err(Refusal::LongTarget)
        } else {
            Err(Refusal::LongFields)
        }
    }
}

impl RequestHead {
    /// Takes a head apart that [`EndScan`] found the end of.
    pub(crate) fn read(&mut self, head: &[u8]) -> Result<(), Refusal> {
        self.fields.keep(head);
        let bytes = &self.fields.bytes;
        let mut headers = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(bytes, &mut headers);
        check_whole(parsed, bytes)?;
        self.method = Span::of(request.method.unwrap_or_default().as_bytes(), bytes);
        self.target = Span::of(request.path.unwrap_or_default().as_bytes(), bytes);
        self.is_http_11 = request.version == Some(1);
        let entries = request.headers.iter().map(|header| entry(header, bytes));
        self.fields.entries.extend(entries);
        self.fields.read_connection()?;
        self.check()
    }

    pub(crate) fn method(&self) -> &[u8] {
        self.method.in_bytes(&self.fields.bytes)
    }

    /// The target as it stands in the request line.
    pub(crate) fn raw_target(&self) -> &[u8] {
        self.target.in_bytes(&self.fields.bytes)
    }

    pub(crate) fn target(&self) -> Target<'_> {
        let raw = self.raw_target();
        let (authority, rest) = match absolute_form(raw) {
            Some((authority, rest)) => (Some(authority), rest),
            None => (None, raw),
        };
        let (path, query) = match memchr(b'?', rest) {
            Some(place) => (&rest[..place], Some(&rest[place + 1..])),
            None => (rest, None),
        };
        Target {
            authority,
            path: if path.is_empty() { b"/" } else { path },
            query,
        }
    }

    /// The host that the request is for, as the client wrote it.
    pub(crate) fn host(&self) -> Option<&[u8]> {
        let authority = self.target().authority;
        authority.or_else(|| self.fields.first(Kind::Host))
    }

    /// How the body is marked.
    pub(crate) fn framing(&self) -> Result<Framing, &'static str> {
        let length = self.fields.length()?;
        let coding = self.fields.first(Kind::TransferEncoding);
        match (length, coding) {
            (Some(_), Some(_)) => Err("both Content-Length and Transfer-Encoding"),
            (None, Some(_)) if !self.is_http_11 => Err("Transfer-Encoding in HTTP/1.0"),
            (None, Some(_)) => self.fields.is_chunked().map(|_| Framing::Chunked),
            (Some(0) | None, None) => Ok(Framing::None),
            (Some(length), None) => Ok(Framing::Length(length)),
        }
    }

    /// Whether the client asks to speak websocket. Other protocols are not passed on: `h2c`, for
    /// one, would let a client reach what its route does not lead to.
    pub(crate) fn wants_websocket(&self) -> bool {
        let mut protocols = self.fields.all(Kind::Upgrade);
        self.method() == b"GET"
            && self.is_http_11
            && self.fields.upgrade
            && protocols
                .next()
                .is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
            && protocols.next().is_none()
    }

    /// Whether the connection may stay open after this request.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.fields.close && (self.is_http_11 || self.fields.keep_alive)
    }

    fn check(&self) -> Result<(), Refusal> {
        let method = self.method();
        let target = self.raw_target();
        if method == b"CONNECT" {
            return Err(Refusal::Bad("CONNECT is not for this proxy"));
        }
        let in_form = match target.first() {
            Some(b'/') => true,
            Some(b'*') => target == b"*" && method == b"OPTIONS",
            _ => absolute_form(target).is_some_and(|(authority, _)| is_host(authority)),
        };
        if !in_form {
            return Err(Refusal::Bad("a target that is neither a path nor a URL"));
        }
        let mut hosts = self.fields.all(Kind::Host);
        match (hosts.next(), hosts.next()) {
            (_, Some(_)) => Err(Refusal::Bad("more than one Host header")),
            (Some(host), None) if !is_host(host) => Err(Refusal::Bad("a Host that is none")),
            (None, None) if self.is_http_11 => Err(Refusal::Bad("no Host header")),
            _ => Ok(()),
        }
    }
}

impl ResponseHead {
    /// Takes a head apart that [`EndScan`] found the end of.
    pub(crate) fn read(&mut self, head: &[u8]) -> Result<(), Refusal> {
        self.fields.keep(head);
        let bytes = &self.fields.bytes;
        let mut headers = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut headers);
        check_whole(parsed, bytes)?;
        self.status = response.code.unwrap_or_default();
        self.reason = Span::of(response.reason.unwrap_or_default().as_bytes(), bytes);
        self.is_http_11 = response.version == Some(1);
        let entries = response.headers.iter().map(|header| entry(header, bytes));
        self.fields.entries.extend(entries);
        if !(100..=999).contains(&self.status) {
            return Err(Refusal::Bad("a status below 100"));
        }
        self.fields.read_connection()
    }

    pub(crate) fn reason(&self) -> &[u8] {
        self.reason.in_bytes(&self.fields.bytes)
    }

    /// How the body is marked, in the answer to a request with this method.
    pub(crate) fn framing(&self, method: &[u8]) -> Result<Framing, &'static str> {
        if method == b"HEAD" || self.status < 200 || matches!(self.status, 204 | 304) {
            return Ok(Framing::None);
        }
        // RFC 9112 section 6.3: the coding counts, a length beside it does not.
        if self.fields.is_chunked()? {
            return Ok(Framing::Chunked);
        }
        Ok(match self.repeated_length()? {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }

    /// Whether the server keeps its connection open.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.fields.close && (self.is_http_11 || self.fields.keep_alive)
    }

    /// Servers may say the same length twice, as RFC 9110 section 8.6 allows.
    fn repeated_length(&self) -> Result<Option<u64>, &'static str> {
        let mut values = self.fields.all(Kind::ContentLength);
        let first = values.next();
        if first.is_some() && values.all(|value| Some(value) == first) {
            let digits = first.and_then(|value| std::str::from_utf8(value).ok());
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            let length = digits.and_then(|digits| digits.parse().ok());
            return length.map(Some).ok_or("a Content-Length that is no number");
        }
        match first {
            None => Ok(None),
            Some(_) => Err("more than one Content-Length"),
        }
    }
}

/// Whether the first bytes of a connection can be the beginning of a request. Those of TLS cannot.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    bytes
        .first()
        .is_none_or(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether all bytes are one head.
fn check_whole(
    parsed: Result<httparse::Status<usize>, httparse::Error>,
    bytes: &[u8],
) -> Result<(), Refusal> {
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => Ok(()),
        Ok(_) => Err(Refusal::Bad("an empty line in the head")),
        Err(error) => Err(refusal(error)),
    }
}

fn refusal(error: httparse::Error) -> Refusal {
    Refusal::Bad(match error {
        httparse::Error::TooManyHeaders => return Refusal::LongFields,
        httparse::Error::HeaderName => "a header name with characters that it cannot have",
        httparse::Error::HeaderValue => "a header value with characters that it cannot have",
        httparse::Error::Version => "no HTTP/1.0 or HTTP/1.1",
        httparse::Error::Status => "a status that is none",
        httparse::Error::NewLine => "a line that does not end where it should",
        httparse::Error::Token => "a request line that is none",
    })
}

/// Authority and the rest of `http://authority/rest`.
fn absolute_form(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let (authority, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let host = authority.rsplit(|byte| *byte == b'@').next();
    host.filter(|host| !host.is_empty())
        .map(|host| (host, rest))
}

/// Whether a text may stand in a Host header (RFC 9110 section 7.2); it may be empty.
fn is_host(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<RequestHead, Refusal> {
        let end = EndScan::default().find(text.as_bytes(), true)?;
        let mut head = RequestHead::default();
        head.read(&text.as_bytes()[..end.unwrap()]).map(|()| head)
    }

    fn response(text: &str) -> ResponseHead {
        let end = EndScan::default().find(text.as_bytes(), false).unwrap();
        let mut head = ResponseHead::default();
        head.read(&text.as_bytes()[..end.unwrap()]).unwrap();
        head
    }

    #[test]
    fn a_request_is_taken_apart() {
        let head = request(
            "POST /a%2F/../b?c?d HTTP/1.1\r\nHost: h:1\r\nConnection: Keep-Alive, x-a, host\r\n\
             X-A:  1 \r\nx-b:\r\nContent-Length: 12\r\n\r\nrest",
        )
        .unwrap();
        assert_eq!(head.method(), b"POST");
        let target = head.target();
        assert_eq!(
            (target.path, target.query),
            (&b"/a%2F/../b"[..], Some(&b"c?d"[..]))
        );
        assert_eq!(head.host().unwrap(), b"h:1");
        assert_eq!(head.framing(), Ok(Framing::Length(12)));
        assert!(head.keeps_alive());
        let listed: Vec<_> = head.fields.iter().filter(|field| field.is_listed).collect();
        assert_eq!(listed.len(), 1, "the host stays whatever Connection says");
        assert_eq!((listed[0].name, listed[0].value), (&b"X-A"[..], &b"1"[..]));
        assert_eq!(head.fields.named(b"X-B").unwrap(), b"");
    }

    #[test]
    fn targets() {
        let of = |target: &str| {
            let head = request(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"))?;
            let target = head.target();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            Ok((
                target.authority.map(text),
                text(target.path),
                target.query.map(text),
            ))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("/x?"), Ok((None, "/x".into(), some(""))));
        assert_eq!(of("//h/x"), Ok((None, "//h/x".into(), None)));
        assert_eq!(
            of("HTTP://u:p@o:1?q"),
            Ok((some("o:1"), "/".into(), some("q")))
        );
        for bad in ["x", "*", "ftp://h/", "http:///x", "http://a\\b/", "http://"] {
            assert!(matches!(of(bad), Err(Refusal::Bad(_))), "{bad}");
        }
        assert!(request("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").is_ok());
    }

    #[test]
    fn what_can_be_understood_in_two_ways_is_refused() {
        for (text, reason) in [
            ("GET / HTTP/1.1\nHost: h\r\n\r\n", "without CR"),
            ("GET / HTTP/1.1\r\nHost: h\n\r\n", "without CR"),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", "value"),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", "Host"),
            ("GET / HTTP/1.1\r\nHost: h/x\r\n\r\n", "Host"),
            ("GET / HTTP/1.1\r\n\r\n", "Host"),
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", "request line"),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", "HTTP"),
            ("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", "CONNECT"),
        ] {
            match request(text) {
                Err(Refusal::Bad(said)) => assert!(said.contains(reason), "{text}: {said}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn framing_of_requests() {
        let of = |version: &str, fields: &str| {
            let text = format!("POST / HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
            request(&text).unwrap().framing()
        };
        assert_eq!(of("1.1", ""), Ok(Framing::None));
        assert_eq!(of("1.1", "content-length: 0\r\n"), Ok(Framing::None));
        assert_eq!(
            of("1.1", "Transfer-Encoding: Chunked\r\n"),
            Ok(Framing::Chunked)
        );
        for bad in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: \r\n",
        ] {
            assert!(of("1.1", bad).is_err(), "{bad}");
        }
        assert!(of("1.0", "Transfer-Encoding: chunked\r\n").is_err());
    }

    #[test]
    fn framing_of_responses() {
        let of = |fields: &str, method: &[u8]| {
            response(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).framing(method)
        };
        assert_eq!(of("", b"GET"), Ok(Framing::UntilClose));
        assert_eq!(of("Content-Length: 5\r\n", b"HEAD"), Ok(Framing::None));
        assert_eq!(
            of(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                b"GET"
            ),
            Ok(Framing::Chunked)
        );
        assert_eq!(
            of("Content-Length: 5\r\nContent-Length: 5\r\n", b"GET"),
            Ok(Framing::Length(5))
        );
        assert!(of("Content-Length: 5\r\nContent-Length: 6\r\n", b"GET").is_err());
        assert!(of("Transfer-Encoding: gzip\r\n", b"GET").is_err());
        assert_eq!(
            response("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").framing(b"GET"),
            Ok(Framing::None)
        );
        let bare = response("HTTP/1.0 200\nA: b\n\n");
        assert_eq!((bare.reason(), bare.keeps_alive()), (&b""[..], false));
    }

    #[test]
    fn heads_have_an_end_wherever_they_are_cut() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nmore\r\n\r\n";
        let end = text
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        for cut in 0..end {
            let mut scan = EndScan::default();
            assert_eq!(scan.find(&text[..cut], true), Ok(None));
            assert_eq!(scan.find(text, true), Ok(Some(end)));
        }
        let long = vec![b'a'; LONGEST + 1];
        assert_eq!(
            EndScan::default().find(&long, true),
            Err(Refusal::LongTarget)
        );
        let mut long = b"GET / HTTP/1.1\r\nA: ".to_vec();
        long.resize(LONGEST + 1, b'a');
        assert_eq!(
            EndScan::default().find(&long, true),
            Err(Refusal::LongFields)
        );
    }

    #[test]
    fn websockets_are_recognised() {
        let of = |fields: &str| {
            request(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))
                .unwrap()
                .wants_websocket()
        };
        assert!(of(
            "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
        ));
        assert!(!of("Upgrade: h2c\r\nConnection: upgrade\r\n"));
        assert!(!of("Upgrade: websocket\r\n"));
    }
}

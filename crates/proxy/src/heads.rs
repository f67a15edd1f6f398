//! How the heads of requests and answers are written for the other side. It reads nothing but what
//! it is given, so that it can be tested with any head.

use std::{borrow::Cow, net::IpAddr};

use crate::{
    answer::{ConnectionHeader, write_field},
    forwarded::Forwarded,
    http1::head::{Kind, RequestHead, ResponseHead},
    redirects,
    routes::Match,
    settings::Settings,
};

/// What heads are written from.
pub(crate) struct Heads<'a> {
    pub(crate) settings: &'a Settings,
    /// Who asks; unix sockets do not tell.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) head: &'a RequestHead,
    pub(crate) wants_websocket: bool,
    pub(crate) found: Option<&'a Match>,
}

impl Heads<'_> {
    /// The head of the request that the server gets. Usually it is the client's, to the last byte.
    pub(crate) fn write_request(&self, out: &mut Vec<u8>, found: &Match) {
        let (settings, fields) = (self.settings, &self.head.fields);
        out.extend_from_slice(self.head.method());
        out.push(b' ');
        self.write_target(out, found);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let target = &found.route.target;
        let authority = self.head.target().authority;
        let mut forwarded = Forwarded::new(
            settings,
            fields,
            self.peer,
            self.head.host(),
            self.wants_websocket,
        );
        let is_custom = |name: &[u8]| {
            let mut custom = settings.custom_headers.iter();
            custom.any(|(custom, _)| name.eq_ignore_ascii_case(custom.as_str().as_bytes()))
        };
        let (mut has_host, mut has_connection) = (false, false);
        for field in fields.iter() {
            if is_custom(field.name) {
                continue;
            }
            match field.kind {
                Kind::Host => {
                    has_host = true;
                    let host = if settings.change_origin {
                        target.upstream.host.as_bytes()
                    } else {
                        authority.unwrap_or(field.value)
                    };
                    write_field(out, field.name, host);
                }
                Kind::Connection if self.wants_websocket && !has_connection => {
                    has_connection = true;
                    write_field(out, field.name, b"Upgrade");
                }
                Kind::Connection | Kind::Hop => {}
                Kind::Upgrade if !self.wants_websocket => {}
                Kind::TransferEncoding => write_field(out, field.name, b"chunked"),
                Kind::ForwardedFor
                | Kind::ForwardedPort
                | Kind::ForwardedProto
                | Kind::ForwardedHost
                | Kind::ForwardedOther => forwarded.write(out, &field),
                _ if field.is_listed => {}
                _ => write_field(out, field.name, field.value),
            }
        }
        if !has_host {
            let host = authority.unwrap_or(target.upstream.host.as_bytes());
            write_field(out, b"Host", host);
        }
        forwarded.write_missing(out);
        for (name, value) in &settings.custom_headers {
            write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_target(&self, out: &mut Vec<u8>, found: &Match) {
        let settings = self.settings;
        let target = &found.route.target;
        let asked = self.head.target();
        let (base_path, base_query) = if settings.prepend_path {
            (&*target.base_path, target.query.as_deref())
        } else {
            ("", None)
        };
        let path = if settings.include_prefix {
            Cow::Borrowed(asked.path)
        } else {
            match std::str::from_utf8(asked.path) {
                Ok(path) => match crate::path::without_prefix(path, found.depth) {
                    Cow::Borrowed(path) => Cow::Borrowed(path.as_bytes()),
                    Cow::Owned(path) => Cow::Owned(path.into_bytes()),
                },
                Err(_) => Cow::Borrowed(asked.path),
            }
        };
        out.extend_from_slice(base_path.as_bytes());
        let is_rooted = path.starts_with(b"/") || *path == *b"*";
        if !is_rooted && (base_path.is_empty() || !path.is_empty()) {
            out.push(b'/');
        }
        out.extend_from_slice(&path);
        let queries = base_query.map(str::as_bytes).into_iter().chain(asked.query);
        for (query, separator) in queries.zip([b'?', b'&']) {
            out.push(separator);
            out.extend_from_slice(query);
        }
    }

    /// The head of an answer that the client gets. `is_chunked`: its body follows in chunks;
    /// `keeps_alive`: another request may follow.
    pub(crate) fn write_answer(
        &self,
        out: &mut Vec<u8>,
        head: &ResponseHead,
        is_chunked: bool,
        keeps_alive: bool,
    ) {
        out.extend_from_slice(b"HTTP/1.1 ");
        let status = [head.status / 100, head.status / 10 % 10, head.status % 10];
        out.extend(status.map(|digit| b'0' + u8::try_from(digit).unwrap_or(9)));
        out.push(b' ');
        out.extend_from_slice(head.reason());
        out.extend_from_slice(b"\r\n");
        let is_upgrade = head.status == 101;
        let has_coding = head.fields.first(Kind::TransferEncoding).is_some();
        let mut has_length = false;
        for field in head.fields.iter() {
            match field.kind {
                Kind::Connection | Kind::Hop | Kind::TransferEncoding => {}
                Kind::Upgrade if !is_upgrade => {}
                // The chunks say how long it is; the same length is said once, and never of nothing.
                Kind::ContentLength
                    if has_coding || has_length || head.status < 200 || head.status == 204 => {}
                Kind::Location => {
                    let location = self.found.and_then(|found| {
                        let host = self.head.host();
                        redirects::rewrite(self.settings, found, host, head.status, field.value)
                    });
                    write_field(out, field.name, location.as_deref().unwrap_or(field.value));
                }
                _ if field.is_listed => {}
                _ => {
                    has_length |= field.kind == Kind::ContentLength;
                    write_field(out, field.name, field.value);
                }
            }
        }
        if is_chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if is_upgrade {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
        } else if head.status >= 200 {
            self.connection_header(keeps_alive).write(out);
        }
        out.extend_from_slice(b"\r\n");
    }

    pub(crate) fn connection_header(&self, keeps_alive: bool) -> ConnectionHeader {
        match (keeps_alive, self.head.is_http_11) {
            (false, _) => ConnectionHeader::Close,
            (true, true) => ConnectionHeader::None,
            (true, false) => ConnectionHeader::KeepAlive,
        }
    }
}

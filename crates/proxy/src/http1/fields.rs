//! The header fields of a head, as places in its bytes.

use super::head::Refusal;

/// So many names may the `Connection` headers list.
const MOST_LISTED: usize = 32;

/// A part of a head.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

/// What the proxy has to know a header field for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Host,
    Connection,
    /// `Keep-Alive`, `Proxy-Connection` and `TE`: for one connection only.
    Hop,
    TransferEncoding,
    ContentLength,
    Upgrade,
    Expect,
    ForwardedFor,
    ForwardedPort,
    ForwardedProto,
    ForwardedHost,
    /// Other names that proxies use for what they know of a client.
    ForwardedOther,
    Location,
    Other,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    name: Span,
    value: Span,
    kind: Kind,
    /// Named by `Connection`, so for one connection only.
    is_listed: bool,
}

/// One header field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) kind: Kind,
    /// Named by `Connection`, so not to be passed on.
    pub(crate) is_listed: bool,
}

/// The header fields of a head, in their order.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    /// What `Connection` says.
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

impl Span {
    pub(super) fn of(part: &[u8], whole: &[u8]) -> Self {
        // An empty part need not lie within the whole.
        if part.is_empty() {
            return Self::default();
        }
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        let place = |place| u32::try_from(place).expect("heads are shorter than 4 GB");
        Self {
            start: place(start),
            end: place(start + part.len()),
        }
    }

    pub(super) fn in_bytes(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

impl Kind {
    pub(super) fn of(name: &[u8]) -> Self {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is(b"te") => Kind::Hop,
            4 if is(b"host") => Kind::Host,
            6 if is(b"expect") => Kind::Expect,
            7 if is(b"upgrade") => Kind::Upgrade,
            8 if is(b"location") => Kind::Location,
            8 if is(b"x-scheme") => Kind::ForwardedOther,
            9 if is(b"forwarded") || is(b"x-real-ip") => Kind::ForwardedOther,
            10 if is(b"connection") => Kind::Connection,
            10 if is(b"keep-alive") => Kind::Hop,
            14 if is(b"content-length") => Kind::ContentLength,
            15 if is(b"x-forwarded-for") => Kind::ForwardedFor,
            15 if is(b"x-forwarded-ssl") => Kind::ForwardedOther,
            16 if is(b"x-forwarded-port") => Kind::ForwardedPort,
            16 if is(b"x-forwarded-host") => Kind::ForwardedHost,
            16 if is(b"proxy-connection") => Kind::Hop,
            17 if is(b"x-forwarded-proto") => Kind::ForwardedProto,
            17 if is(b"transfer-encoding") => Kind::TransferEncoding,
            18 if is(b"x-forwarded-scheme") => Kind::ForwardedOther,
            _ => Kind::Other,
        }
    }

    /// Whether the message would be another one without the field, whatever `Connection` says.
    fn is_needed(self) -> bool {
        matches!(
            self,
            Kind::Host
                | Kind::ContentLength
                | Kind::TransferEncoding
                | Kind::Upgrade
                | Kind::Expect
                | Kind::ForwardedFor
                | Kind::ForwardedPort
                | Kind::ForwardedProto
                | Kind::ForwardedHost
                | Kind::ForwardedOther
        )
    }
}

impl Fields {
    /// The fields in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.entries.iter().map(|entry| Field {
            name: entry.name.in_bytes(&self.bytes),
            value: entry.value.in_bytes(&self.bytes),
            kind: entry.kind,
            is_listed: entry.is_listed,
        })
    }

    /// The values of all fields of a kind.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        self.entries
            .iter()
            .filter(move |entry| entry.kind == kind)
            .map(|entry| entry.value.in_bytes(&self.bytes))
    }

    /// The value of the first field of a kind.
    pub(crate) fn first(&self, kind: Kind) -> Option<&[u8]> {
        self.all(kind).next()
    }

    /// The value of the first field with this name.
    pub(crate) fn named(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }

    /// The bytes it holds, for the bounds of what is kept for the next head.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn keep(&mut self, head: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        self.entries.clear();
        self.close = false;
        self.keep_alive = false;
        self.upgrade = false;
    }

    /// Reads the `Connection` fields, when all entries are there.
    pub(super) fn read_connection(&mut self) -> Result<(), Refusal> {
        let mut listed = 0;
        for index in 0..self.entries.len() {
            if self.entries[index].kind != Kind::Connection {
                continue;
            }
            let value = self.entries[index].value;
            for token in value.in_bytes(&self.bytes).split(|byte| *byte == b',') {
                let token = token.trim_ascii();
                if token.eq_ignore_ascii_case(b"keep-alive") {
                    self.keep_alive = true;
                } else if token.eq_ignore_ascii_case(b"close") {
                    self.close = true;
                } else if token.eq_ignore_ascii_case(b"upgrade") {
                    self.upgrade = true;
                } else if !token.is_empty() {
                    listed += 1;
                    if listed > MOST_LISTED {
                        return Err(Refusal::Bad("too many names in Connection"));
                    }
                    for entry in &mut self.entries {
                        let name = entry.name.in_bytes(&self.bytes);
                        if !entry.kind.is_needed() && name.eq_ignore_ascii_case(token) {
                            entry.is_listed = true;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The one `Content-Length`.
    pub(super) fn length(&self) -> Result<Option<u64>, &'static str> {
        let mut values = self.all(Kind::ContentLength);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err("more than one Content-Length");
        }
        // 19 digits fit into 64 bits.
        if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
            return Err("a Content-Length that is no number");
        }
        let digits = value.iter().map(|digit| u64::from(digit - b'0'));
        Ok(Some(digits.fold(0, |length, digit| length * 10 + digit)))
    }

    /// Whether the body is in chunks. Other codings are not for this proxy.
    pub(super) fn is_chunked(&self) -> Result<bool, &'static str> {
        let mut values = self.all(Kind::TransferEncoding);
        match (values.next(), values.next()) {
            (None, _) => Ok(false),
            (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
            _ => Err("a Transfer-Encoding other than chunked"),
        }
    }
}

/// The places of a header field.
pub(super) fn entry(header: &httparse::Header<'_>, bytes: &[u8]) -> Entry {
    let name = header.name.as_bytes();
    Entry {
        name: Span::of(name, bytes),
        value: Span::of(header.value, bytes),
        kind: Kind::of(name),
        is_listed: false,
    }
}

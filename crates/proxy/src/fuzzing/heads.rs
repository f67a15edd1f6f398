//! Heads of requests and answers, against a reading of RFC 9112 that lets nothing but its own
//! grammar pass.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value};

use super::Input;
use crate::{
    Options, OurOptions,
    heads::Heads,
    http1::{
        framing::Framing,
        head::{EndScan, Fields, Refusal, RequestHead, ResponseHead},
    },
    routes::RouteTable,
    settings::Settings,
};

/// A head as it stands on the wire, taken apart without mercy.
#[derive(Debug, PartialEq, Eq)]
struct Plain<'a> {
    first: [&'a [u8]; 3],
    fields: Vec<(&'a [u8], &'a [u8])>,
}

/// A request cut anywhere: it is read the same way in all pieces, and what is accepted is exactly
/// one head with one framing.
pub fn request(data: &[u8]) {
    let (cuts, bytes) = Input(data).cuts();
    let arrived = arrive(&cuts, bytes, true);
    assert_eq!(arrived, EndScan::default().find(bytes, true));
    let Ok(Some(length)) = arrived else {
        return;
    };
    let mut head = RequestHead::default();
    if head.read(&bytes[..length]).is_err() {
        return;
    }
    let plain = Plain::of(&bytes[..length]).expect("what is accepted is a head");
    let [method, target, version] = plain.first;
    assert!(is_token(method) && method != b"CONNECT");
    assert!(is_target(target, method), "{target:?}");
    assert_eq!((head.method(), head.raw_target()), (method, target));
    assert!(version == b"HTTP/1.0" || version == b"HTTP/1.1");
    assert_eq!(head.is_http_11, version == b"HTTP/1.1");
    same_fields(&head.fields, &plain);
    assert!(plain.all(b"host").count() <= 1);
    let expected = plain.request_framing();
    assert_eq!(
        head.framing().ok(),
        expected.filter(|framing| { head.is_http_11 || *framing != Framing::Chunked })
    );
    let upgrades = plain.all(b"upgrade").count() == 1 && plain.lists(b"upgrade");
    assert!(upgrades || !head.wants_websocket());
    assert!(!head.keeps_alive() || !plain.lists(b"close"));
}

/// The same for an answer. Servers may end lines without CR.
pub fn response(data: &[u8]) {
    let (cuts, bytes) = Input(data).cuts();
    let arrived = arrive(&cuts, bytes, false);
    assert_eq!(arrived, EndScan::default().find(bytes, false));
    let Ok(Some(length)) = arrived else {
        return;
    };
    let mut head = ResponseHead::default();
    if head.read(&bytes[..length]).is_err() {
        return;
    }
    assert!((100..=999).contains(&head.status));
    assert!(is_text(head.reason()));
    for field in head.fields.iter() {
        assert!(is_token(field.name) && is_text(field.value), "{field:?}");
    }
    for method in [&b"GET"[..], b"HEAD"] {
        let has_none = method == b"HEAD" || head.status < 200 || [204, 304].contains(&head.status);
        match head.framing(method) {
            Ok(Framing::None) => {}
            Ok(Framing::Chunked) => {
                assert!(!has_none && values(&head.fields, b"transfer-encoding").len() == 1);
            }
            Ok(Framing::Length(length)) => {
                let values = values(&head.fields, b"content-length");
                assert!(!has_none && !values.is_empty());
                assert!(values.iter().all(|value| number(value) == Some(length)));
            }
            Ok(Framing::UntilClose) => {
                assert!(!has_none && values(&head.fields, b"content-length").is_empty());
            }
            Err(_) => assert!(!has_none),
        }
    }
}

/// What a server and then its client get of a request and of its answer: each exactly one message,
/// with the framing that it came with, nothing of the connection's in it, and all else as it was.
pub fn forwarded(data: &[u8]) {
    let mut input = Input(data);
    let choice = u16::from_be_bytes([
        input.byte().unwrap_or_default(),
        input.byte().unwrap_or_default(),
    ]);
    let Ok(Some(length)) = EndScan::default().find(input.0, true) else {
        return;
    };
    let mut head = RequestHead::default();
    let bytes = input.take(length);
    let Ok(framing) = head
        .read(bytes)
        .map_err(|_| "")
        .and_then(|()| head.framing())
    else {
        return;
    };
    let settings = settings(choice);
    let routes = RouteTable::new(false);
    let mut target = Map::new();
    let url = [
        "http://s:1",
        "http://s:1/base",
        "http://s:1/base/?q=1",
        "http://s/a%20b/",
    ];
    target.insert(
        "target".to_owned(),
        Value::from(url[usize::from(choice >> 8 & 3)]),
    );
    let prefix = if choice >> 10 & 1 == 1 {
        "/user/a"
    } else {
        "/"
    };
    routes.add(prefix, target).expect("a usable target");
    let path = String::from_utf8_lossy(head.target().path);
    let Some(found) = routes.find(None, &path) else {
        return;
    };
    let wants_websocket = head.wants_websocket() && framing == Framing::None;
    let heads = Heads {
        settings: &settings,
        peer: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)).filter(|_| choice >> 11 & 1 == 1),
        head: &head,
        wants_websocket,
        found: Some(&found),
    };
    let mut sent = Vec::new();
    heads.write_request(&mut sent, &found);
    check_request(bytes, &head, &sent, framing, wants_websocket);
    answer(&heads, input.0);
}

fn check_request(
    bytes: &[u8],
    head: &RequestHead,
    sent: &[u8],
    framing: Framing,
    wants_websocket: bool,
) {
    // By the strict reading, by httparse, and by ourselves: one head and nothing behind it.
    let before = Plain::of(bytes).expect("what is accepted is a head");
    let after = Plain::of(sent).unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(sent)));
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut parsed = httparse::Request::new(&mut fields);
    assert_eq!(
        parsed.parse(sent),
        Ok(httparse::Status::Complete(sent.len()))
    );
    assert_eq!(EndScan::default().find(sent, true), Ok(Some(sent.len())));

    let [method, target, version] = after.first;
    assert_eq!((method, version), (head.method(), &b"HTTP/1.1"[..]));
    assert!(
        is_target(target, method) && !target.starts_with(b"http"),
        "{target:?}"
    );
    assert!(target.ends_with(head.target().query.unwrap_or_default()));
    assert_eq!(after.request_framing(), Some(framing));
    assert_eq!(after.all(b"host").count(), 1);
    for name in ["te", "keep-alive", "proxy-connection"] {
        assert_eq!(after.all(name.as_bytes()).count(), 0, "{name}");
    }
    let upgrades: usize = wants_websocket.into();
    assert_eq!(after.all(b"upgrade").count(), upgrades);
    let connections: Vec<_> = after.all(b"connection").collect();
    assert_eq!(connections, vec![b"Upgrade"; upgrades]);

    let passed = |plain: &Plain<'_>| -> Vec<(Vec<u8>, Vec<u8>)> {
        let fields = plain.fields.iter();
        let others = fields.filter(|(name, _)| !is_of_proxy(name) && !before.lists(name));
        others
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect()
    };
    assert_eq!(passed(&after), passed(&before));
    for (name, _) in &after.fields {
        assert!(
            !before.lists(name) || is_of_proxy(name),
            "{name:?} is for one connection"
        );
    }
}

/// An answer's head as the client gets it.
fn answer(heads: &Heads<'_>, bytes: &[u8]) {
    let Ok(Some(length)) = EndScan::default().find(bytes, false) else {
        return;
    };
    let mut head = ResponseHead::default();
    if head.read(&bytes[..length]).is_err() || head.status == 101 {
        return;
    }
    let Ok(framing) = head.framing(heads.head.method()) else {
        return;
    };
    let is_http_11 = heads.head.is_http_11;
    let is_chunked = is_http_11 && matches!(framing, Framing::Chunked | Framing::UntilClose);
    let mut sent = Vec::new();
    heads.write_answer(&mut sent, &head, is_chunked, is_chunked);
    let again = EndScan::default().find(&sent, true);
    assert_eq!(again, Ok(Some(sent.len())));
    let mut read = ResponseHead::default();
    assert_eq!(read.read(&sent), Ok(()));
    assert_eq!((read.status, read.reason()), (head.status, head.reason()));
    let has_length = !values(&read.fields, b"content-length").is_empty();
    let has_coding = !values(&read.fields, b"transfer-encoding").is_empty();
    assert_eq!(has_coding, is_chunked);
    assert!(!(has_length && has_coding));
    let expected = match framing {
        Framing::Chunked if !is_http_11 => Framing::UntilClose,
        Framing::UntilClose if is_chunked => Framing::Chunked,
        framing => framing,
    };
    assert_eq!(read.framing(heads.head.method()), Ok(expected));
    for name in [&b"keep-alive"[..], b"proxy-connection", b"te", b"upgrade"] {
        assert!(values(&read.fields, name).is_empty());
    }
    assert!(values(&read.fields, b"connection").len() <= 1);
    let listed = |name: &[u8]| {
        head.fields
            .iter()
            .any(|field| field.is_listed && field.name == name)
    };
    let passed = |fields: &Fields| -> Vec<(Vec<u8>, Vec<u8>)> {
        let others = fields.iter().filter(|field| {
            !is_of_proxy(field.name)
                && !field.name.eq_ignore_ascii_case(b"location")
                && !listed(field.name)
        });
        others
            .map(|field| (field.name.to_vec(), field.value.to_vec()))
            .collect()
    };
    assert_eq!(passed(&read.fields), passed(&head.fields));
}

/// The options that change heads, by the bits of `choice`.
fn settings(choice: u16) -> Settings {
    let bit = |place: u16| choice >> place & 1 == 1;
    let options = Options {
        no_x_forward: bit(0),
        no_prepend_path: bit(1),
        no_include_prefix: bit(2),
        change_origin: bit(3),
        auto_rewrite: bit(4),
        protocol_rewrite: bit(5).then(|| "https".to_owned()),
        custom_header: bit(6)
            .then(|| "X-Custom: here".to_owned())
            .into_iter()
            .collect(),
        ours: OurOptions {
            trusted_proxy: bit(7)
                .then(|| "127.0.0.0/8".to_owned())
                .into_iter()
                .collect(),
            ..OurOptions::default()
        },
        ..Options::default()
    };
    options.settings().expect("these options are good")
}

/// What comes of `bytes` in these pieces.
fn arrive(cuts: &[usize], bytes: &[u8], strict: bool) -> Result<Option<usize>, Refusal> {
    let mut scan = EndScan::default();
    for end in cuts.iter().copied().chain([bytes.len()]) {
        match scan.find(&bytes[..end], strict) {
            Ok(None) => {}
            end => return end,
        }
    }
    Ok(None)
}

impl<'a> Plain<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes.strip_suffix(b"\r\n\r\n")?;
        let mut lines = Vec::new();
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            lines.push(&rest[..end]);
            rest = &rest[end + 2..];
        }
        lines.push(rest);
        let first: Vec<_> = lines[0].split(|byte| *byte == b' ').collect();
        let fields = lines[1..].iter().map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
            (is_token(name) && is_text(value)).then_some((name, value))
        });
        Some(Self {
            first: first.try_into().ok()?,
            fields: fields.collect::<Option<_>>()?,
        })
    }

    fn all<'b>(&'b self, name: &'b [u8]) -> impl Iterator<Item = &'a [u8]> + 'b {
        let fields = self.fields.iter();
        let named = fields.filter(move |(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| *value)
    }

    /// Whether `Connection` says it.
    fn lists(&self, name: &[u8]) -> bool {
        let mut tokens = self
            .all(b"connection")
            .flat_map(|value| value.split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(name))
    }

    /// The one framing, if there is but one.
    fn request_framing(&self) -> Option<Framing> {
        let lengths: Vec<_> = self.all(b"content-length").collect();
        let codings: Vec<_> = self.all(b"transfer-encoding").collect();
        match (&lengths[..], &codings[..]) {
            ([], []) => Some(Framing::None),
            ([length], []) if length.len() <= 19 => match number(length)? {
                0 => Some(Framing::None),
                length => Some(Framing::Length(length)),
            },
            ([], [coding]) => coding
                .eq_ignore_ascii_case(b"chunked")
                .then_some(Framing::Chunked),
            _ => None,
        }
    }
}

fn same_fields(fields: &Fields, plain: &Plain<'_>) {
    let read: Vec<_> = fields
        .iter()
        .map(|field| (field.name, field.value))
        .collect();
    assert_eq!(read, plain.fields);
}

fn values<'a>(fields: &'a Fields, name: &[u8]) -> Vec<&'a [u8]> {
    let named = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| field.value).collect()
}

/// Whether the proxy itself decides about the field.
fn is_of_proxy(name: &[u8]) -> bool {
    [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "x-custom",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
    ]
    .iter()
    .any(|own| own.as_bytes().eq_ignore_ascii_case(name))
}

/// A target without anything that ends it, in a form that this method may have.
fn is_target(target: &[u8], method: &[u8]) -> bool {
    let scheme = |scheme: &[u8]| {
        target
            .split_at_checked(scheme.len())
            .is_some_and(|(start, _)| start.eq_ignore_ascii_case(scheme))
    };
    target.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
        && (target.starts_with(b"/")
            || (target == b"*" && method == b"OPTIONS")
            || scheme(b"http://")
            || scheme(b"https://"))
}

fn is_token(name: &[u8]) -> bool {
    let is_char = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(is_char)
}

fn is_text(value: &[u8]) -> bool {
    value
        .iter()
        .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_number)?
        .parse()
        .ok()
}

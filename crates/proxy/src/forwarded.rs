//! The `X-Forwarded-*` headers: who asked, for which host and port, and how.

use std::{borrow::Cow, net::IpAddr};

use crate::{
    answer::write_field,
    http1::head::{Field, Fields, Kind},
    settings::Settings,
};

/// Writes the headers as configurable-http-proxy does: for, port and proto are appended to what
/// the client sent; the host is set unless the client sent one, and not for websockets, whose proto
/// is `ws` or `wss`. With `--trusted-proxy` what such a proxy says of port, proto and host stands
/// alone, and what anybody else says is left out.
pub(crate) struct Forwarded<'a> {
    fields: &'a Fields,
    peer: Option<IpAddr>,
    host: Option<&'a [u8]>,
    websocket: bool,
    secure: bool,
    belief: Belief,
    written: [bool; 4],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    /// The headers are passed on as they are.
    Off,
    /// What the client sent is kept, and extended.
    Extend,
    /// The client is a proxy that is trusted.
    Trust,
    /// What the client sent is left out.
    Ignore,
}

const KINDS: [(Kind, &[u8]); 4] = [
    (Kind::ForwardedFor, b"X-Forwarded-For"),
    (Kind::ForwardedPort, b"X-Forwarded-Port"),
    (Kind::ForwardedProto, b"X-Forwarded-Proto"),
    (Kind::ForwardedHost, b"X-Forwarded-Host"),
];

impl<'a> Forwarded<'a> {
    pub(crate) fn new(
        settings: &Settings,
        fields: &'a Fields,
        peer: Option<IpAddr>,
        host: Option<&'a [u8]>,
        websocket: bool,
    ) -> Self {
        let trusted = &settings.trusted_proxies;
        let belief = if !settings.x_forward {
            Belief::Off
        } else if trusted.is_empty() {
            Belief::Extend
        } else if peer.is_none_or(|peer| trusted.contains(peer)) {
            // Who connects to a unix socket was let in by its permissions.
            Belief::Trust
        } else {
            Belief::Ignore
        };
        Self {
            fields,
            peer,
            host,
            websocket,
            secure: settings.tls.is_public(),
            belief,
            written: [false; 4],
        }
    }

    /// Writes one of the headers where the client had it.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, field: &Field<'_>) {
        if self.belief == Belief::Off {
            write_field(out, field.name, field.value);
            return;
        }
        let Some(place) = KINDS.iter().position(|(kind, _)| *kind == field.kind) else {
            // Other names for the same things, which servers may prefer.
            if self.belief != Belief::Ignore {
                write_field(out, field.name, field.value);
            }
            return;
        };
        if self.belief != Belief::Ignore && !self.written[place] {
            self.written[place] = true;
            let joined = self.joined(field.kind);
            write_field(out, field.name, &joined);
        }
    }

    /// Writes those that the client did not have, or that it is not believed.
    pub(crate) fn write_missing(&self, out: &mut Vec<u8>) {
        if self.belief == Belief::Off {
            return;
        }
        for ((kind, name), written) in KINDS.into_iter().zip(self.written) {
            if written || (kind == Kind::ForwardedHost && self.websocket) {
                continue;
            }
            if let Some(own) = self.own(kind) {
                write_field(out, name, &own);
            }
        }
    }

    /// All values that the client sent, and ours.
    fn joined(&self, kind: Kind) -> Vec<u8> {
        let mut joined: Vec<u8> = Vec::new();
        for value in self.fields.all(kind) {
            if !joined.is_empty() {
                joined.extend_from_slice(b", ");
            }
            joined.extend_from_slice(value);
        }
        let appends = match kind {
            Kind::ForwardedHost => joined.is_empty(),
            Kind::ForwardedFor => true,
            _ => self.belief == Belief::Extend || joined.is_empty(),
        };
        if appends && let Some(own) = self.own(kind) {
            if !joined.is_empty() {
                joined.push(b',');
            }
            joined.extend_from_slice(&own);
        }
        joined
    }

    /// What this proxy sees itself.
    fn own(&self, kind: Kind) -> Option<Cow<'a, [u8]>> {
        Some(match kind {
            Kind::ForwardedFor => Cow::Owned(self.peer?.to_string().into_bytes()),
            Kind::ForwardedPort => Cow::Borrowed(port(self.host, self.secure)),
            Kind::ForwardedProto => Cow::Borrowed(match (self.websocket, self.secure) {
                (false, false) => b"http",
                (false, true) => b"https",
                (true, false) => b"ws",
                (true, true) => b"wss",
            }),
            _ => Cow::Borrowed(self.host.unwrap_or_default()),
        })
    }
}

/// The port in the Host header, else the usual one.
fn port(host: Option<&[u8]>, secure: bool) -> &[u8] {
    let digits = host.and_then(|host| {
        let colon = host.iter().rposition(|byte| *byte == b':')?;
        let digits = &host[colon + 1..];
        (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then_some(digits)
    });
    digits.unwrap_or(if secure { b"443" } else { b"80" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, OurOptions, http1::head::RequestHead};

    fn written(options: &Options, fields: &str, peer: [u8; 4]) -> String {
        let text = format!("GET / HTTP/1.1\r\nHost: h:8000\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        head.read(text.as_bytes()).unwrap();
        let settings = options.settings().unwrap();
        let peer = Some(IpAddr::from(peer));
        let websocket = head.wants_websocket();
        let mut forwarded = Forwarded::new(&settings, &head.fields, peer, head.host(), websocket);
        let mut out = Vec::new();
        for field in head.fields.iter() {
            if KINDS.iter().any(|(kind, _)| *kind == field.kind)
                || field.kind == Kind::ForwardedOther
            {
                forwarded.write(&mut out, &field);
            }
        }
        forwarded.write_missing(&mut out);
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn what_clients_send_is_extended() {
        let options = Options::default();
        assert_eq!(
            written(
                &options,
                "x-forwarded-for: 1.1.1.1\r\nX-Forwarded-Host: g\r\nX-Forwarded-For: 2.2.2.2\r\n",
                [10, 0, 0, 1]
            ),
            "x-forwarded-for: 1.1.1.1, 2.2.2.2,10.0.0.1\nX-Forwarded-Host: g\n\
             X-Forwarded-Port: 8000\nX-Forwarded-Proto: http\n"
        );
        assert_eq!(
            written(
                &options,
                "Upgrade: websocket\r\nConnection: Upgrade\r\n",
                [10, 0, 0, 1]
            ),
            "X-Forwarded-For: 10.0.0.1\nX-Forwarded-Port: 8000\nX-Forwarded-Proto: ws\n"
        );
        assert_eq!(port(Some(b"[::1]"), false), b"80");
        assert_eq!(port(None, true), b"443");
    }

    #[test]
    fn proxies_in_front_are_believed_when_they_are_named() {
        let options = Options {
            ours: OurOptions {
                trusted_proxy: vec!["10.0.0.0/8".to_owned()],
                ..OurOptions::default()
            },
            ..Options::default()
        };
        let sent =
            "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n";
        assert_eq!(
            written(&options, sent, [10, 0, 0, 1]),
            "X-Forwarded-For: 1.1.1.1,10.0.0.1\nX-Forwarded-Proto: https\n\
             X-Forwarded-Port: 443\nX-Forwarded-Host: h:8000\n"
        );
        assert_eq!(
            written(&options, sent, [11, 0, 0, 1]),
            "X-Forwarded-For: 11.0.0.1\nX-Forwarded-Port: 8000\nX-Forwarded-Proto: http\n\
             X-Forwarded-Host: h:8000\n"
        );
        let other = "X-Real-IP: 1.1.1.1\r\nX-Scheme: https\r\nForwarded: for=1.1.1.1\r\n";
        assert!(written(&options, other, [10, 0, 0, 1]).starts_with("X-Real-IP: 1.1.1.1\n"));
        let left = written(&options, other, [11, 0, 0, 1]);
        assert!(
            !left.contains("1.1.1.1") && !left.contains("X-Scheme"),
            "{left}"
        );
        let off = Options {
            no_x_forward: true,
            ..Options::default()
        };
        assert_eq!(
            written(&off, "X-Forwarded-For: 1.1.1.1\r\n", [10, 0, 0, 1]),
            "X-Forwarded-For: 1.1.1.1\n"
        );
    }
}

//! The proxies in front of this one, whose `X-Forwarded-*` headers are believed.

use std::net::{IpAddr, Ipv6Addr};

/// The networks of `--trusted-proxy`. The default trusts nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TrustedProxies(Box<[Network]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    /// IPv4 addresses stand as IPv6's `::ffff:a.b.c.d`, which is how a socket for both gives them.
    base: u128,
    mask: u128,
}

impl TrustedProxies {
    /// Networks as `10.0.0.0/8` or `fd00::/8`, or single addresses. The error is a sentence.
    pub(crate) fn parse(networks: &[String]) -> Result<Self, String> {
        let networks = networks.iter().map(|network| Network::parse(network));
        networks.collect::<Result<_, _>>().map(Self)
    }

    /// Whether any was named. Without one, CHP's habit stands: whatever any client sends is
    /// extended and passed on.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the peer of a connection is one of these proxies.
    pub(crate) fn contains(&self, peer: IpAddr) -> bool {
        let peer = bits(peer);
        self.0
            .iter()
            .any(|network| peer & network.mask == network.base)
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| {
            format!("{text} is no network; write an address, or one with a prefix as 10.0.0.0/8")
        })?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length: u32 = match length {
            None => width,
            Some(length) => length
                .trim()
                .parse()
                .ok()
                .filter(|length| *length <= width)
                .ok_or_else(|| {
                    format!("the prefix of {text} must be a number from 0 to {width}")
                })?,
        };
        let mask = u128::MAX.checked_shl(width - length).unwrap_or(0);
        let base = bits(address);
        if base & mask != base {
            return Err(format!(
                "{text} has bits behind its prefix; write the network's first address"
            ));
        }
        Ok(Self { base, mask })
    }
}

fn bits(address: IpAddr) -> u128 {
    let address: Ipv6Addr = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    address.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(networks: &[&str]) -> Result<TrustedProxies, String> {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        TrustedProxies::parse(&networks)
    }

    #[test]
    fn peers_are_found_in_networks() {
        let trusted = trusted(&["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1"]).unwrap();
        for (peer, expected) in [
            ("10.1.2.3", true),
            ("11.1.2.3", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.9.9.9", true),
            ("fd12::1", true),
            ("fe80::1", false),
            ("::1", true),
            ("127.0.0.1", false),
        ] {
            assert_eq!(trusted.contains(peer.parse().unwrap()), expected, "{peer}");
        }
        assert!(!TrustedProxies::default().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn all_of_a_family() {
        let v4 = trusted(&["0.0.0.0/0"]).unwrap();
        assert!(v4.contains("203.0.113.9".parse().unwrap()));
        assert!(!v4.contains("2001:db8::1".parse().unwrap()));
        let both = trusted(&["::/0"]).unwrap();
        assert!(both.contains("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn bad_networks_are_refused() {
        for network in [
            "",
            "proxy",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::1/129",
            "10.0.0.0/x",
        ] {
            assert!(trusted(&[network]).is_err(), "{network}");
        }
    }
}

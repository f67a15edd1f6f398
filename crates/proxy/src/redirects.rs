//! `--auto-rewrite` and `--protocol-rewrite`: redirects of servers that name themselves.

use crate::{routes::Match, settings::Settings};

/// The `Location` for the client, when it is another than the server's: a redirect to the server's
/// own address, with the host that the client asked for, or with the protocol of the option.
pub(crate) fn rewrite(
    settings: &Settings,
    found: &Match,
    asked_host: Option<&[u8]>,
    status: u16,
    location: &[u8],
) -> Option<Vec<u8>> {
    if !(settings.auto_rewrite || settings.protocol_rewrite.is_some())
        || !matches!(status, 201 | 301 | 302 | 307 | 308)
    {
        return None;
    }
    let location = std::str::from_utf8(location).ok()?;
    let (protocol, rest) = location.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, rest) = rest.split_at(end);
    let target = found.route.target.upstream.host.to_str().ok()?;
    if !same_host(protocol, host, &found.route.target_url, target) {
        return None;
    }
    let asked_host = asked_host.and_then(|host| std::str::from_utf8(host).ok());
    let host = match asked_host {
        Some(asked) if settings.auto_rewrite => asked,
        _ => host,
    };
    let protocol = settings.protocol_rewrite.as_deref().unwrap_or(protocol);
    let slash = if rest.is_empty() { "/" } else { "" };
    Some(format!("{protocol}://{host}{slash}{rest}").into_bytes())
}

/// Whether two URLs lead to one host and port, of which the usual one need not be said.
fn same_host(protocol: &str, host: &str, target_url: &str, target_host: &str) -> bool {
    let usual = |protocol: &str| match protocol {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let target_protocol = target_url.split("://").next().unwrap_or_default();
    let plain = |protocol: &str, host: &str| {
        let host = host.to_ascii_lowercase();
        host.strip_suffix(usual(&protocol.to_ascii_lowercase()))
            .map_or(host.clone(), str::to_owned)
    };
    plain(protocol, host) == plain(target_protocol, target_host)
}

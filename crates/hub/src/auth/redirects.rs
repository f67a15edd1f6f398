//! Where a login may lead: only to our own pages.

use http::Uri;

use crate::urls::Hosts;

/// The part of `next` that is safe to redirect to: a path (with query and fragment) on this hub.
///
/// `scheme` and `host` are the browser's own, as it addressed us; an absolute URL for them is cut to
/// its path, and so is one for a host of a user or service, where these have their own: the path alone
/// leads there too. Anything else, and anything a browser might read as another host, is `None`.
pub fn safe_next(next: &str, scheme: &str, host: &str, hosts: Option<&Hosts>) -> Option<String> {
    if next.is_empty() || next.len() > 8192 {
        return None;
    }
    // Browsers drop tabs and line ends inside a URL, strip white space and control characters around
    // it and read `\` as `/`; a URL with any of them is read differently by different programs.
    if next.chars().any(|c| c.is_control() || c == ' ') {
        return None;
    }
    let next = next.replace('\\', "%5C");
    let path = if next.starts_with("//") || !next.starts_with('/') {
        own_path(&next, scheme, host).or_else(|| path_below(&next, hosts?))?
    } else {
        next
    };
    // One leading slash and then something that is no slash: never `//host`.
    (path.starts_with('/') && !path.starts_with("//")).then_some(path)
}

/// The path of an absolute URL when it names exactly this host.
fn own_path(next: &str, scheme: &str, host: &str) -> Option<String> {
    let rest = next
        .strip_prefix(&format!("{scheme}://{host}"))
        .or_else(|| {
            let slashless = next.trim_start_matches('/');
            (next.len() - slashless.len() >= 2)
                .then(|| slashless.strip_prefix(host))
                .flatten()
        })?;
    match rest.chars().next() {
        None => Some("/".to_owned()),
        Some('/') => Some(format!("/{}", rest.trim_start_matches('/'))),
        Some('?' | '#') => Some(format!("/{rest}")),
        Some(_) => None,
    }
}

/// The path of an absolute URL for the hub's host or one below it.
fn path_below(next: &str, hosts: &Hosts) -> Option<String> {
    let rest = ["https://", "http://"]
        .into_iter()
        .find_map(|scheme| next.strip_prefix(scheme))
        .or_else(|| next.starts_with("//").then(|| next.trim_start_matches('/')))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    hosts
        .covers(authority)
        .then(|| format!("/{}", path.trim_start_matches('/')))
}

/// Appends `parameters` to the query of `url`.
pub fn with_query(url: &str, parameters: &[(String, String)]) -> String {
    if parameters.is_empty() {
        return url.to_owned();
    }
    let (rest, fragment) = url
        .split_once('#')
        .map_or((url, None), |(rest, fragment)| (rest, Some(fragment)));
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in parameters {
        query.append_pair(key, value);
    }
    let separator = if rest.contains('?') { '&' } else { '?' };
    let mut url = format!("{rest}{separator}{}", query.finish());
    if let Some(fragment) = fragment {
        url.push('#');
        url.push_str(fragment);
    }
    url
}

/// The query of `uri` as pairs, decoded.
pub fn query_pairs(uri: &Uri) -> Vec<(String, String)> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_are_safe() {
        for (next, expected) in [
            ("/hub/home", Some("/hub/home")),
            ("/user/ada/lab?x=1#y", Some("/user/ada/lab?x=1#y")),
            ("http://hub.example/hub/home", Some("/hub/home")),
            ("//hub.example/hub/home", Some("/hub/home")),
            ("http://hub.example//evil.example", Some("/evil.example")),
            ("http://hub.example", Some("/")),
            ("http://hub.example?x=1", Some("/?x=1")),
            ("", None),
            ("//evil.example", None),
            ("///evil.example", None),
            ("////hub.example.evil.example", None),
            ("http://evil.example/", None),
            ("https://hub.example/", None),
            ("http://hub.example.evil.example/", None),
            ("http://hub.example@evil.example/", None),
            ("http://hub.example:80@evil.example/", None),
            ("\\\\evil.example", None),
            ("/\\evil.example", Some("/%5Cevil.example")),
            ("/\t/evil.example", None),
            ("/\n/evil.example", None),
            (" //evil.example", None),
            ("javascript:alert(1)", None),
            ("hub/home", None),
        ] {
            assert_eq!(
                safe_next(next, "http", "hub.example", None).as_deref(),
                expected,
                "{next:?}"
            );
        }
    }

    #[test]
    fn hosts_of_users_are_ours_and_no_others() {
        let hosts = Hosts::new(
            "https://hub.example:8443",
            "",
            crate::urls::SubdomainHook::Idna,
        );
        let hosts = hosts.as_ref();
        for (next, expected) in [
            (
                "https://ada.hub.example:8443/user/ada/lab?x=1#y",
                Some("/user/ada/lab?x=1#y"),
            ),
            ("//ada.hub.example:8443/user/ada/", Some("/user/ada/")),
            (
                "///ada.hub.example:8443//evil.example",
                Some("/evil.example"),
            ),
            ("https://hub.example:8443", Some("/")),
            ("https://hub.example:8443/", Some("/")),
            (
                "https://ada.hub.example:8443?x=//evil.example",
                Some("/?x=//evil.example"),
            ),
            ("https://ada.hub.example/user/ada/", None),
            ("https://ada.hub.example:8443@evil.example/", None),
            ("https://evil.example/.hub.example:8443", None),
            ("https://evil.example#.hub.example:8443", None),
            ("https://evil.example\\.hub.example:8443", None),
            ("https://evil.example?.hub.example:8443", None),
            ("https://evil@ada.hub.example:8443/", None),
            ("https://evilhub.example:8443/", None),
            ("https://hub.example:8443.evil.example/", None),
            ("javascript://ada.hub.example:8443/%0aalert(1)", None),
            ("https:ada.hub.example:8443", None),
            ("https:///evil.example", None),
        ] {
            assert_eq!(
                safe_next(next, "https", "hub.example:8443", hosts).as_deref(),
                expected,
                "{next:?}"
            );
        }
    }

    #[test]
    fn parameters_go_before_the_fragment() {
        let parameters = [("a b".to_owned(), "c&d".to_owned())];
        assert_eq!(with_query("/x?y=1#z", &parameters), "/x?y=1&a+b=c%26d#z");
    }
}

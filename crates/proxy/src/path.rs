//! From a request's path to the segments that routes are looked up by.
//!
//! configurable-http-proxy looks routes up by the decoded path: `%40` and `@` are the same, and an
//! escaped slash separates as a plain one does. Dot segments are resolved before decoding. What is
//! forwarded stays as the client wrote it; only the lookup sees these forms.

use std::borrow::Cow;

/// A request path in the form that lookups use.
pub(crate) fn lookup_form(raw: &str) -> Cow<'_, [u8]> {
    match resolve_dots(raw) {
        Cow::Borrowed(raw) => decode(raw.as_bytes()),
        Cow::Owned(resolved) => Cow::Owned(decode(resolved.as_bytes()).into_owned()),
    }
}

/// The segments of a decoded path. Slashes at both ends do not count; empty segments inside do.
pub(crate) fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let path = trim_slashes(path);
    path.split(|byte| *byte == b'/')
        .take(if path.is_empty() { 0 } else { usize::MAX })
}

/// The route path as it is stored and listed: `/` and the segments, without a slash at the end.
pub(crate) fn canonical(decoded: &str) -> String {
    format!("/{}", decoded.trim_matches('/'))
}

/// What remains of the raw path when its first `depth` decoded segments are taken away; it is
/// empty or begins with a slash.
pub(crate) fn without_prefix(raw: &str, depth: usize) -> Cow<'_, str> {
    match resolve_dots(raw) {
        Cow::Borrowed(raw) => Cow::Borrowed(cut(raw, depth)),
        Cow::Owned(resolved) => Cow::Owned(cut(&resolved, depth).to_owned()),
    }
}

fn cut(raw: &str, depth: usize) -> &str {
    if depth == 0 {
        return raw;
    }
    let bytes = raw.as_bytes();
    let mut position = 0;
    // Leading slashes make no segments; later empty segments do.
    while separator_len(&bytes[position..]) > 0 {
        position += separator_len(&bytes[position..]);
    }
    let mut segments = 0;
    while position < bytes.len() {
        let separator = separator_len(&bytes[position..]);
        if separator == 0 {
            position += 1;
            continue;
        }
        segments += 1;
        if segments == depth {
            break;
        }
        position += separator;
    }
    // A separator is ASCII, so this is a character border.
    &raw[position..]
}

/// The length of a slash, plain or escaped, at the start.
fn separator_len(bytes: &[u8]) -> usize {
    match bytes {
        [b'/', ..] => 1,
        [b'%', b'2', b'F' | b'f', ..] => 3,
        _ => 0,
    }
}

/// Percent-decodes; what is not a valid escape stands for itself. The result may be any bytes.
fn decode(raw: &[u8]) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode(raw).into()
}

/// Resolves `.` and `..` segments, also when their dots are escaped, as URL parsers do.
fn resolve_dots(raw: &str) -> Cow<'_, str> {
    let has_dots = raw.split('/').any(|segment| dots(segment) > 0);
    if !has_dots {
        return Cow::Borrowed(raw);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = raw.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment) {
            0 => kept.push(segment),
            number => {
                if number == 2 {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
        }
    }
    Cow::Owned(format!("/{}", kept.join("/")))
}

/// How many dots a segment consists of, when it consists of one or two dots and nothing else.
fn dots(segment: &str) -> usize {
    let mut rest = segment.as_bytes();
    if !matches!(rest.first(), Some(b'.' | b'%')) {
        return 0;
    }
    let mut dots = 0;
    loop {
        match rest {
            [] => return if dots <= 2 { dots } else { 0 },
            [b'.', tail @ ..] | [b'%', b'2', b'e' | b'E', tail @ ..] => {
                rest = tail;
                dots += 1;
            }
            _ => return 0,
        }
    }
}

fn trim_slashes(mut path: &[u8]) -> &[u8] {
    while let [b'/', tail @ ..] = path {
        path = tail;
    }
    while let [head @ .., b'/'] = path {
        path = head;
    }
    path
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(raw: &str) -> Vec<String> {
        segments(&lookup_form(raw))
            .map(|segment| String::from_utf8_lossy(segment).into_owned())
            .collect()
    }

    #[test]
    fn lookup_forms() {
        let cases: &[(&str, &[&str])] = &[
            ("/", &[]),
            ("//", &[]),
            ("/user/ada", &["user", "ada"]),
            ("/user/ada/", &["user", "ada"]),
            ("//user//ada", &["user", "", "ada"]),
            ("/user/a%40b", &["user", "a@b"]),
            ("/user%2Fada", &["user", "ada"]),
            ("/user/%zz", &["user", "%zz"]),
            ("/user/bob/../ada", &["user", "ada"]),
            ("/user/bob/%2e%2E/ada", &["user", "ada"]),
            ("/user/./bob/..", &["user"]),
            ("/user/...", &["user", "..."]),
            ("/../..", &[]),
            ("*", &["*"]),
        ];
        for (raw, expected) in cases {
            assert_eq!(split(raw), *expected, "{raw}");
        }
    }

    #[test]
    fn prefixes_are_cut() {
        let cases = [
            ("/user/ada/lab", 2, "/lab"),
            ("/user/ada", 2, ""),
            ("/user/ada/", 2, "/"),
            ("/user/a%40b//x", 2, "//x"),
            ("/user%2fada%2Flab", 2, "%2Flab"),
            ("/user/ada", 0, "/user/ada"),
            ("/user/bob/../ada/x", 2, "/x"),
        ];
        for (raw, depth, expected) in cases {
            assert_eq!(without_prefix(raw, depth), expected, "{raw}");
        }
    }

    /// Each byte of a name as itself or escaped, by the bits of `choice`.
    pub(crate) fn escape(name: &str, mut choice: u64) -> String {
        let mut escaped = String::new();
        for byte in name.bytes() {
            let must = !(byte.is_ascii_alphanumeric() || b"-_~!$&'()*+,;=:@".contains(&byte));
            if must || choice & 1 == 1 {
                let hex = format!("%{byte:02x}");
                let upper = choice & 2 == 2;
                escaped += &if upper { hex.to_uppercase() } else { hex };
            } else {
                escaped.push(char::from(byte));
            }
            choice = choice.rotate_right(2);
        }
        escaped
    }

    proptest! {
        /// Every way to escape a name leads to the same lookup.
        #[test]
        fn every_escape_of_a_name_is_the_same(name in "[^/\\x00]{1,12}", choice in any::<u64>()) {
            prop_assume!(name != "." && name != "..");
            let raw = format!("/user/{}/lab", escape(&name, choice));
            prop_assert_eq!(split(&raw), vec!["user".to_owned(), name, "lab".to_owned()]);
            prop_assert_eq!(without_prefix(&raw, 2).into_owned(), "/lab");
        }

        #[test]
        fn nothing_panics(raw in "[/.%2eEfFa-c]{0,24}", depth in 0usize..5) {
            let raw = format!("/{raw}");
            let all = split(&raw);
            let rest = without_prefix(&raw, depth.min(all.len()));
            prop_assert!(rest.is_empty() || rest.starts_with('/') || rest.starts_with("%2"));
        }
    }
}

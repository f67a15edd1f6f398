//! Percent-encoding as JupyterHub writes names into URLs and OAuth client ids.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Python's `quote(name, safe='@~')`, which JupyterHub uses for names in URLs.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'.')
    .remove(b'-')
    .remove(b'~')
    .remove(b'@');

/// Python's `quote(name)`, which JupyterHub uses in OAuth client ids. It leaves `/` alone.
const CLIENT_ID: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'.')
    .remove(b'-')
    .remove(b'~')
    .remove(b'/');

/// Escapes one path segment: a user's or a server's name in a URL.
pub fn path_segment(name: &str) -> String {
    utf8_percent_encode(name, PATH_SEGMENT).to_string()
}

/// Escapes a name inside an OAuth client id, where it also becomes part of a cookie's name.
pub fn client_id_part(name: &str) -> String {
    utf8_percent_encode(name, CLIENT_ID).to_string()
}

/// Escapes a value of a query string.
pub fn query_value(value: &str) -> String {
    utf8_percent_encode(value, PATH_SEGMENT).to_string()
}

/// Reverses any of the above. `None` when the result is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    percent_decode_str(text)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// Makes an outsider's text fit for one line of a log: quoted, control characters escaped, and cut
/// to `limit` characters.
pub fn for_log(text: &str, limit: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(limit) + 2);
    safe.push('\'');
    for (count, character) in text.chars().enumerate() {
        if count >= limit {
            safe.push('…');
            break;
        }
        match character {
            '\'' | '\\' => safe.extend(character.escape_default()),
            c if is_unseen(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe.push('\'');
    safe
}

/// Whether a character shows nothing itself, or makes others show in another order than they stand: with the
/// controls for both directions of writing, a line reads as something that it is not.
pub fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_upstream_escapes_them() {
        for (name, expected) in [
            ("ada", "ada"),
            ("ada@x.org", "ada@x.org"),
            ("a b", "a%20b"),
            ("a/b", "a%2Fb"),
            ("ü~_.-", "%C3%BC~_.-"),
        ] {
            assert_eq!(path_segment(name), expected);
            assert_eq!(decode(expected).as_deref(), Some(name));
        }
        assert_eq!(client_id_part("ada@x.org"), "ada%40x.org");
    }

    #[test]
    fn log_text_is_bounded_and_has_no_control_characters() {
        let hostile = "a\r\n\u{1b}[31m'".to_owned() + &"x".repeat(100);
        let safe = for_log(&hostile, 20);
        assert!(safe.chars().count() < 80, "{safe}");
        assert!(!safe.contains(['\r', '\n', '\u{1b}']));
    }
}

//! Cross-site request forgery: upstream's signed `_xsrf` cookie and its rules.
//!
//! The token binds a browser's session and user, or for somebody not logged in the session alone.
//! JupyterHub binds an anonymous token to the client's address as well, which breaks logins when the
//! address changes between two requests; the `User-Agent` alone is kept here.

use std::time::Duration;

use axum::http::{HeaderMap, Method, header};
use sha2::{Digest as _, Sha256};

use super::cookies::Signer;
use super::session::cookie_values;

/// The cookie's name, and the form field's.
pub const NAME: &str = "_xsrf";

/// How long a token is good for.
const MAX_AGE: Duration = Duration::from_secs(31 * 24 * 3600);

/// The id that a request's token must carry.
pub fn expected_id(
    session_id: Option<&str>,
    cookie_id: Option<&str>,
    headers: &HeaderMap,
) -> String {
    let session_id = session_id.unwrap_or_default();
    match cookie_id {
        Some(cookie_id) => format!("{session_id}:{cookie_id}"),
        None => format!("{session_id}:{}", anonymous_id(headers)),
    }
}

fn anonymous_id(headers: &HeaderMap) -> String {
    use base64::Engine as _;
    let agent = headers
        .get(header::USER_AGENT)
        .map(axum::http::HeaderValue::as_bytes)
        .unwrap_or_default();
    base64::engine::general_purpose::URL_SAFE.encode(Sha256::digest(agent))
}

/// The token in the request's cookies that carries `id`, if one does. A page may be sent several
/// `_xsrf` cookies, for several paths; only a signed one for this very session counts.
pub fn token_in_cookies(
    signer: &Signer,
    headers: &HeaderMap,
    id: &str,
    now: i64,
) -> Option<String> {
    cookie_values(headers, NAME)
        .find(|token| {
            signer
                .verify_url_safe(NAME, token, MAX_AGE, now)
                .is_some_and(|found| found == id.as_bytes())
        })
        .map(str::to_owned)
}

/// A new token that carries `id`.
pub fn new_token(signer: &Signer, id: &str, now: i64) -> String {
    signer.sign_url_safe(NAME, id.as_bytes(), now)
}

/// Whether a browser came here by following a link or typing the address, so that a cookie may be set.
pub fn is_navigation(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-mode")
        .is_none_or(|mode| mode == "navigate")
}

/// Whether a cookie-authenticated request must show the token.
pub fn is_needed(method: &Method, headers: &HeaderMap, is_api: bool) -> bool {
    if matches!(*method, Method::HEAD | Method::OPTIONS) || (*method == Method::GET && !is_api) {
        return false;
    }
    let mode = headers
        .get("sec-fetch-mode")
        .map_or("unspecified", |mode| mode.to_str().unwrap_or(""));
    let same_origin = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "same-origin");
    let opened_or_embedded = matches!(mode, "navigate" | "unspecified" | "websocket")
        || (mode == "no-cors" && same_origin);
    !(*method == Method::GET && opened_or_embedded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn every_way_of_writing_needs_a_token_and_reading_pages_does_not() {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            for mode in [
                "navigate",
                "cors",
                "no-cors",
                "same-origin",
                "websocket",
                "bogus",
            ] {
                for site in ["same-origin", "cross-site", "none"] {
                    let sent = headers(&[("sec-fetch-mode", mode), ("sec-fetch-site", site)]);
                    assert!(is_needed(&method, &sent, true), "{method} {mode} {site}");
                    assert!(is_needed(&method, &sent, false), "{method} {mode} {site}");
                }
            }
            assert!(is_needed(&method, &headers(&[]), false));
        }
        assert!(!is_needed(
            &Method::GET,
            &headers(&[("sec-fetch-mode", "cors")]),
            false
        ));
        assert!(is_needed(
            &Method::GET,
            &headers(&[("sec-fetch-mode", "cors")]),
            true
        ));
        assert!(!is_needed(
            &Method::GET,
            &headers(&[("sec-fetch-mode", "navigate")]),
            true
        ));
        let image = [
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-site", "same-origin"),
        ];
        assert!(!is_needed(&Method::GET, &headers(&image), true));
        let foreign = [
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert!(is_needed(&Method::GET, &headers(&foreign), true));
    }

    #[test]
    fn a_token_of_another_session_is_not_found() {
        let signer = Signer::new(b"key");
        let mine = new_token(&signer, "session:me", 10);
        let other = new_token(&signer, "session:other", 10);
        let sent = headers(&[("cookie", &format!("_xsrf={other}; x=y; _xsrf={mine}"))]);
        assert_eq!(
            token_in_cookies(&signer, &sent, "session:me", 10),
            Some(mine)
        );
        assert_eq!(token_in_cookies(&signer, &sent, "session:third", 10), None);
    }
}

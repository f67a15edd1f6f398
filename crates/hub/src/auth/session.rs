//! Cookies in and out of requests, in upstream's names, paths and attributes.

use axum::http::{HeaderMap, HeaderValue, header};

/// The browser session's id, shared by the hub and all servers on this host.
pub const SESSION_COOKIE: &str = "jupyterhub-session-id";

/// How names of cookies begin that no other host can set (`JupyterHub.cookie_host_prefix_enabled`).
const HOST_PREFIX: &str = "__Host-";

/// The values of every cookie called `name`, in the order sent.
pub fn cookie_values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(move |pair| {
            let (key, value) = pair.split_once('=')?;
            (key.trim() == name).then(|| value.trim().trim_matches('"'))
        })
}

/// A session id that may be stored: upstream's are 32 hexadecimal digits, foreign ones are bounded.
pub fn session_id(headers: &HeaderMap) -> Option<&str> {
    cookie_values(headers, SESSION_COOKIE).find(|id| {
        (1..=64).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// How a cookie is to be set.
#[derive(Clone, Debug)]
pub struct CookieOptions {
    /// Where the browser sends it.
    pub path: String,
    /// Whether scripts cannot read it.
    pub http_only: bool,
    /// Only over TLS.
    pub secure: bool,
    /// `Lax`, `Strict` or `None`, when configured.
    pub same_site: Option<String>,
    /// The domain, when the session is shared by subdomains or configured.
    pub domain: Option<String>,
    /// Seconds to live; `None` for the browser session.
    pub max_age: Option<i64>,
}

impl CookieOptions {
    /// A cookie for `path` until the browser is closed.
    pub fn session(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            http_only: true,
            secure: false,
            same_site: None,
            domain: None,
            max_age: None,
        }
    }
}

/// A `Set-Cookie` header. `None` when the value cannot stand in one.
pub fn set_cookie(name: &str, value: &str, options: &CookieOptions) -> Option<HeaderValue> {
    use std::fmt::Write as _;
    // Browsers take a cookie of such a name only so: for the whole of this host, and over TLS.
    let for_host = name.starts_with(HOST_PREFIX).then(|| CookieOptions {
        path: "/".to_owned(),
        secure: true,
        domain: None,
        ..options.clone()
    });
    let options = for_host.as_ref().unwrap_or(options);
    // A value with `|`, `=` or `:` is quoted by Tornado; readers accept it bare as well, but a
    // semicolon or a control character would end it.
    if value
        .bytes()
        .any(|byte| byte == b';' || byte.is_ascii_control())
    {
        return None;
    }
    let quoted = value.contains(['|', '=', ':', ' ', ',']);
    let mut text = if quoted {
        format!("{name}=\"{value}\"")
    } else {
        format!("{name}={value}")
    };
    if let Some(domain) = &options.domain {
        let _ = write!(text, "; Domain={domain}");
    }
    if options.http_only {
        text.push_str("; HttpOnly");
    }
    if let Some(seconds) = options.max_age {
        let _ = write!(text, "; Max-Age={seconds}");
    }
    let _ = write!(text, "; Path={}", options.path);
    if options.secure {
        text.push_str("; Secure");
    }
    if let Some(same_site) = &options.same_site {
        let _ = write!(text, "; SameSite={same_site}");
    }
    HeaderValue::from_str(&text).ok()
}

/// A `Set-Cookie` header that deletes a cookie.
pub fn clear_cookie(name: &str, path: &str, domain: Option<&str>) -> Option<HeaderValue> {
    let options = CookieOptions {
        max_age: Some(0),
        domain: domain.map(str::to_owned),
        http_only: false,
        ..CookieOptions::session(path)
    };
    let mut header = set_cookie(name, "", &options)?.to_str().ok()?.to_owned();
    header.push_str("; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
    HeaderValue::from_str(&header).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_quoted_or_bare_and_odd_sessions_are_not() {
        let mut headers = HeaderMap::new();
        headers.append(
            "cookie",
            "a=1; jupyterhub-session-id=\"abc\"; b=\"x|y\""
                .parse()
                .expect("a header"),
        );
        headers.append("cookie", "b=2".parse().expect("a header"));
        assert_eq!(session_id(&headers), Some("abc"));
        assert_eq!(
            cookie_values(&headers, "b").collect::<Vec<_>>(),
            ["x|y", "2"]
        );
        let mut odd = HeaderMap::new();
        odd.append(
            "cookie",
            "jupyterhub-session-id=a%0d%0a<script>"
                .parse()
                .expect("a header"),
        );
        assert_eq!(session_id(&odd), None);
    }

    #[test]
    fn a_cookie_with_the_host_prefix_is_for_this_host_and_over_tls() {
        let options = CookieOptions {
            domain: Some("hub.example".to_owned()),
            ..CookieOptions::session("/hub/")
        };
        let header = set_cookie("__Host-a", "b", &options).expect("a good value");
        assert_eq!(header, "__Host-a=b; HttpOnly; Path=/; Secure");
        let header = clear_cookie("__Host-a", "/hub/", None).expect("a good value");
        assert_eq!(
            header,
            "__Host-a=; Max-Age=0; Path=/; Secure; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }

    #[test]
    fn a_value_cannot_add_attributes() {
        assert!(set_cookie("a", "b; Domain=evil.example", &CookieOptions::session("/")).is_none());
        let header =
            set_cookie("a", "b|c", &CookieOptions::session("/hub/")).expect("a good value");
        assert_eq!(header, "a=\"b|c\"; HttpOnly; Path=/hub/");
    }
}

//! The built-in style sheet, scripts and pictures, under `/hub/static/`, and the logo.
//!
//! `web/dist` holds what Vite made of `web/src`; the sources work unbuilt as well and stand in
//! where there is no build, so that `cargo build` alone makes a hub with whole pages.

use std::borrow::Cow;
use std::path::Path;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Built;

#[derive(RustEmbed)]
#[folder = "../../web/src"]
struct Sources;

#[derive(RustEmbed)]
#[folder = "../../web/public"]
struct Pictures;

/// A year, as RFC 9111 suggests for "never".
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const DEFAULT_LOGO: &str = "images/logo.svg";

/// Answers `GET /hub/static/<path>`.
pub fn static_file(path: &str, query: Option<&str>, headers: &HeaderMap) -> Response {
    let Some(file) = find(path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let version = version_of(&file);
    // Sources may change under a debug build, so nothing is kept there.
    let named = query.is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair.strip_prefix("v=") == Some(&version))
    });
    let cache = if named && !cfg!(debug_assertions) {
        FOR_EVER
    } else {
        "no-cache"
    };
    respond(file.data, content_type(path), &version, cache, headers)
}

/// Answers `GET /hub/logo`: the site's `JupyterHub.logo_file`, or ours.
pub async fn logo(logo_file: Option<&Path>, headers: &HeaderMap) -> Response {
    let Some(path) = logo_file else {
        return static_file(DEFAULT_LOGO, None, headers);
    };
    match tokio::fs::read(path).await {
        Ok(data) => {
            let version = hex(&<sha2::Sha256 as sha2::Digest>::digest(&data));
            respond(
                Cow::Owned(data),
                content_type(&path.to_string_lossy()),
                &version,
                "no-cache",
                headers,
            )
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "JupyterHub.logo_file cannot be read");
            static_file(DEFAULT_LOGO, None, headers)
        }
    }
}

/// The version of a built-in asset, for the `v` of its address. `None` when there is no such file.
pub(super) fn version(path: &str) -> Option<String> {
    find(path).map(|file| version_of(&file))
}

fn find(path: &str) -> Option<EmbeddedFile> {
    // JupyterHub's name, which sites' own templates link to.
    let path = if path == "css/style.min.css" {
        "css/style.css"
    } else {
        path
    };
    Built::get(path)
        .or_else(|| Sources::get(path))
        .or_else(|| Pictures::get(path))
}

fn version_of(file: &EmbeddedFile) -> String {
    hex(&file.metadata.sha256_hash())
}

/// The first eight bytes say enough.
fn hex(hash: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    hash.iter()
        .take(8)
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

fn respond(
    data: Cow<'static, [u8]>,
    content_type: &'static str,
    version: &str,
    cache: &'static str,
    request: &HeaderMap,
) -> Response {
    let etag = format!("\"{version}\"");
    let known = request
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|tag| matches!(tag.trim().trim_start_matches("W/"), tag if tag == etag || tag == "*")));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let body = match data {
            Cow::Borrowed(bytes) => Body::from(bytes),
            Cow::Owned(bytes) => Body::from(bytes),
        };
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    };
    let headers = response.headers_mut();
    headers.insert(
        header::ETAG,
        HeaderValue::from_str(&etag).expect("hexadecimal digits are a header value"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // A logo may be an SVG that somebody opens by itself: it runs no script.
    if content_type == "image/svg+xml" {
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
        );
    }
    response
}

fn content_type(path: &str) -> &'static str {
    match path
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase())
        .as_deref()
    {
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("gif") => "image/gif",
        Some("webp") => "image/webp",
        Some("ico") => "image/x-icon",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: Option<&str>, headers: &HeaderMap) -> Response {
        static_file(path, query, headers)
    }

    #[test]
    fn assets_are_typed_and_confirmed_by_their_tag() {
        for (path, expected) in [
            ("css/style.css", "text/css; charset=utf-8"),
            ("css/style.min.css", "text/css; charset=utf-8"),
            ("js/home.js", "text/javascript; charset=utf-8"),
            ("favicon.svg", "image/svg+xml"),
            ("favicon.ico", "image/x-icon"),
        ] {
            let response = get(path, None, &HeaderMap::new());
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], expected, "{path}");
            assert_eq!(
                response.headers()[header::CACHE_CONTROL],
                "no-cache",
                "{path}"
            );

            let mut again = HeaderMap::new();
            again.insert(
                header::IF_NONE_MATCH,
                response.headers()[header::ETAG].clone(),
            );
            assert_eq!(
                get(path, None, &again).status(),
                StatusCode::NOT_MODIFIED,
                "{path}"
            );
        }
    }

    #[test]
    fn only_the_right_version_is_kept_for_ever() {
        let version = version("css/style.css").expect("the style sheet is there");
        let cache = |query: &str| {
            get("css/style.css", Some(query), &HeaderMap::new()).headers()[header::CACHE_CONTROL]
                .clone()
        };
        assert_eq!(cache("v=0000"), "no-cache");
        if !cfg!(debug_assertions) {
            assert_eq!(cache(&format!("v={version}")), FOR_EVER);
        }
    }

    #[test]
    fn nothing_outside_is_served() {
        for path in [
            "",
            "../package.json",
            "js/../../package.json",
            "/etc/passwd",
            "..%2fpackage.json",
            "js",
        ] {
            assert_eq!(
                get(path, None, &HeaderMap::new()).status(),
                StatusCode::NOT_FOUND,
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn a_site_shows_its_own_logo() {
        let file = tempfile::Builder::new()
            .suffix(".png")
            .tempfile()
            .expect("a temporary file");
        std::fs::write(file.path(), b"picture").expect("the file is ours");
        let response = logo(Some(file.path()), &HeaderMap::new()).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "image/png");
        let missing = logo(Some(Path::new("/nonexistent.png")), &HeaderMap::new()).await;
        assert_eq!(missing.status(), StatusCode::OK);
        assert_eq!(missing.headers()[header::CONTENT_TYPE], "image/svg+xml");
    }
}

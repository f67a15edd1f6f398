//! Entity tags: an answer that a client has already is not sent again, and a change that was made from an
//! old state can be refused.
//!
//! As upstream's web framework does it: every answer to `GET` that is there as a whole has a strong tag of
//! its body, and `If-None-Match` is compared weakly.

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// How many of a digest's bytes are enough to tell bodies apart.
const DIGEST: usize = 20;

/// What of an answer a client can change, where that is less than all of it: such an answer has a tag of two parts,
/// and `If-Match` is about the first alone. Handlers add it to their answer as an extension.
#[derive(Clone)]
pub(crate) struct Editable(String);

impl Editable {
    /// Of the fields that can be changed.
    pub(crate) fn of(fields: &Value) -> Self {
        Self(digest(fields.to_string().as_bytes()))
    }
}

/// Headers that describe a body, which an answer without one does not have.
const REPRESENTATION: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
];

/// Gives whole answers their tag, and leaves out the body of one that the client has.
pub async fn tag(request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    // Of a stream, nobody knows how long it will be.
    let is_whole = response.body().size_hint().exact().is_some();
    if response.status() != StatusCode::OK || !is_whole {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        // A body of known length is in memory: it cannot fail to come.
        parts.status = StatusCode::INTERNAL_SERVER_ERROR;
        return Response::from_parts(parts, Body::empty());
    };
    let editable = parts.extensions.remove::<Editable>();
    let tag = parts.headers.entry(header::ETAG).or_insert_with(|| {
        let tag = match editable {
            Some(Editable(part)) => format!("\"{part}-{}\"", digest(&body)),
            None => of(&body),
        };
        HeaderValue::from_str(&tag).expect("hexadecimal digits are a header value")
    });
    let is_known = known.is_some_and(|known| tag.to_str().is_ok_and(|tag| names(&known, tag)));
    if !is_known {
        return Response::from_parts(parts, Body::from(body));
    }
    parts.status = StatusCode::NOT_MODIFIED;
    for name in REPRESENTATION {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, Body::empty())
}

/// Whether the client wants a change only of the state that it names.
pub(crate) fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH)
}

/// Refuses a change of what `GET` would answer with `now`, if the client names another state.
pub(crate) fn check(headers: &HeaderMap, now: &Value) -> Result<()> {
    let Some(wanted) = headers.get(header::IF_MATCH) else {
        return Ok(());
    };
    if names(wanted, &of(now.to_string().as_bytes())) {
        Ok(())
    } else {
        Err(changed())
    }
}

/// The same where only a part of the answer counts.
pub(crate) fn check_editable(headers: &HeaderMap, Editable(now): &Editable) -> Result<()> {
    let Some(wanted) = headers.get(header::IF_MATCH) else {
        return Ok(());
    };
    let is_now = |tag: &str| {
        let parts = tag.trim_matches('"').split_once('-');
        parts.is_some_and(|(part, _)| part == now)
    };
    if any(wanted, is_now) {
        Ok(())
    } else {
        Err(changed())
    }
}

/// 412.
pub(crate) fn changed() -> Error {
    Error::new(
        StatusCode::PRECONDITION_FAILED,
        "It was changed in the meantime: ask for it again, then change that.",
    )
}

/// The tag of a body.
pub(crate) fn of(body: &[u8]) -> String {
    format!("\"{}\"", digest(body))
}

fn digest(bytes: &[u8]) -> String {
    orrery_core::random::to_hex(&Sha256::digest(bytes)[..DIGEST])
}

/// Whether a list of tags names this one, weak or strong, or all.
fn names(list: &HeaderValue, tag: &str) -> bool {
    any(list, |item| item == tag)
}

/// Whether a list names all tags, or one that is right, weak or strong.
fn any(list: &HeaderValue, is_right: impl Fn(&str) -> bool) -> bool {
    list.to_str().is_ok_and(|list| {
        list.split(',')
            .map(|item| item.trim().trim_start_matches("W/"))
            .any(|item| item == "*" || is_right(item))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tags_are_read() {
        let tag = of(b"a body");
        for (list, expected) in [
            (tag.clone(), true),
            (format!("W/{tag}"), true),
            (format!("\"x\", {tag}"), true),
            ("*".to_owned(), true),
            (tag.trim_matches('"').to_owned(), false),
            (of(b"another"), false),
            (String::new(), false),
        ] {
            let header = HeaderValue::from_str(&list).expect("a header");
            assert_eq!(names(&header, &tag), expected, "{list}");
        }
    }
}

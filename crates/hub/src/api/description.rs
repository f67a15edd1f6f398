//! `/api/openapi.json`: what the API says of itself.

use std::sync::Arc;

use axum::Extension;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::openapi::{Answer, Document, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default().get("/api/openapi.json", Needs::Nothing, &SHOW, show)
}

const SHOW: Operation = Operation::new("get-openapi", Tag::Hub, "Show this description")
    .about("OpenAPI 3.1, for whoever asks: it holds nothing of the hub's users. It has an `ETag`.")
    .answers(&[
        Answer::json(
            200,
            "The description.",
            Shape::Inline(|| json!({ "type": "object" })),
        ),
        Answer::empty(
            304,
            "The one with the tag in `If-None-Match` is still good.",
        ),
    ]);

/// `GET`: the document, which changes only with the program.
async fn show(Extension(document): Extension<Arc<Document>>, headers: HeaderMap) -> Response {
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == document.tag || tag == "*");
    let caching = [
        (header::ETAG, document.tag.clone()),
        (header::CACHE_CONTROL, "public, max-age=300".to_owned()),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned()),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (caching, kind, document.text.clone()).into_response()
}

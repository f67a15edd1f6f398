//! The one place where errors become responses.
//!
//! A handler returns [`Error`]; [`render_errors`](crate::pages::render_errors) (a layer around all routes) turns it into upstream's JSON
//! body on API paths and into an error page elsewhere, and logs what is the hub's own fault.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use orrery_store::{StoreError, WriteError};
use serde_json::json;

/// What a handler answers when it does not answer what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request's fault, with a sentence for whoever sent it.
    #[error("{status}: {message}")]
    Http {
        /// The status to answer.
        status: StatusCode,
        /// What to say; empty for the status' own words.
        message: String,
        /// Headers to answer with (`Retry-After`, …).
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// The database failed: 503 when it is away, 500 otherwise.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A page could not be rendered.
    #[error("the page could not be rendered: {0}")]
    Template(#[from] minijinja::Error),
    /// Anything that must not happen, with its cause for the log; the client sees a bare 500.
    #[error("{0}")]
    Internal(String),
}

/// A handler's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `status` with a sentence.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Http {
            status,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Adds a header to an [`Error::Http`].
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name, value));
        }
        self
    }

    fn parts(&self) -> (StatusCode, String, HeaderMap) {
        let mut extra = HeaderMap::new();
        let (status, message) = match self {
            Self::Http {
                status,
                message,
                headers,
            } => {
                for (name, value) in headers {
                    extra.append(name, value.clone());
                }
                (*status, message.clone())
            }
            Self::Store(error) if error.is_unavailable() => {
                if error.is_said() {
                    tracing::debug!(%error, "a request was refused");
                } else {
                    tracing::error!(%error, "the database does not answer");
                }
                let (status, seconds, sentence) = unavailable(error);
                extra.insert(
                    axum::http::header::RETRY_AFTER,
                    HeaderValue::from_static(seconds),
                );
                (status, sentence.to_owned())
            }
            Self::Store(error @ StoreError::Lookalike { name, .. }) => {
                tracing::warn!(%error, "a name was refused");
                // Not which name is there already: whoever asks may not be allowed to know.
                (
                    StatusCode::CONFLICT,
                    format!(
                        "The hub's database cannot tell {} from another name. Please ask the administrator.",
                        orrery_core::escape::for_log(name, 64)
                    ),
                )
            }
            Self::Store(error @ StoreError::Reference(_)) => {
                tracing::warn!(%error, "what a request is about was deleted meanwhile");
                (StatusCode::NOT_FOUND, String::new())
            }
            Self::Store(error) => {
                tracing::error!(%error, "a query failed");
                (StatusCode::INTERNAL_SERVER_ERROR, String::new())
            }
            Self::Template(error) => {
                tracing::error!(error = %format!("{error:#}"), "a page could not be rendered");
                (StatusCode::INTERNAL_SERVER_ERROR, String::new())
            }
            Self::Internal(error) => {
                tracing::error!(%error, "internal error");
                (StatusCode::INTERNAL_SERVER_ERROR, String::new())
            }
        };
        (status, message, extra)
    }
}

/// So that a transaction may find that its request is to be refused.
impl WriteError for Error {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Status, seconds to wait and sentence for a database that cannot do what was asked for now.
fn unavailable(error: &StoreError) -> (StatusCode, &'static str, &'static str) {
    match error {
        StoreError::Full { .. } => (
            StatusCode::INSUFFICIENT_STORAGE,
            "30",
            "The disk of the hub's database is full, so nothing can be changed. Please tell the administrator.",
        ),
        StoreError::ReadOnly { .. } => (
            StatusCode::SERVICE_UNAVAILABLE,
            "30",
            "The hub's database can only be read right now, so nothing can be changed. Please tell the \
             administrator or try again later.",
        ),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "2",
            "The hub cannot reach its database right now. Please try again in a moment.",
        ),
    }
}

/// Sends the browser to `url` with 302, as upstream does.
pub fn redirect(url: &str) -> Response {
    (StatusCode::FOUND, [(axum::http::header::LOCATION, url)]).into_response()
}

/// An error on its way to [`crate::router`]'s outer layer, which knows the path and so the form.
#[derive(Clone, Debug)]
pub struct ErrorBody {
    /// The status.
    pub status: StatusCode,
    /// The sentence; empty for the status' own words.
    pub message: String,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, message, headers) = self.parts();
        let mut response = (status, headers).into_response();
        response
            .extensions_mut()
            .insert(ErrorBody { status, message });
        response
    }
}

impl ErrorBody {
    /// The status' own words, as upstream's pages and API bodies use them.
    pub fn status_message(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Unknown Error")
    }

    /// Upstream's error body of the REST API.
    pub fn json(&self) -> String {
        let message = if self.message.is_empty() {
            self.status_message()
        } else {
            &self.message
        };
        json!({ "status": self.status.as_u16(), "message": message }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_another_to_the_database_is_a_conflict_and_not_a_failure() {
        let error = Error::from(StoreError::Lookalike {
            table: "users",
            name: "r\u{f3}ot".to_owned(),
            existing: "root".to_owned(),
        });
        let response = error.into_response();
        let body = response.extensions().get::<ErrorBody>().unwrap();
        assert_eq!(body.status, StatusCode::CONFLICT);
        assert!(
            body.message.contains("ask the administrator"),
            "{}",
            body.message
        );
        assert!(!body.message.contains("root"), "{}", body.message);
    }
}

//! Bodies of API requests.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::python;
use crate::error::{Error, Result};

/// The largest JSON body that the API reads, in bytes.
pub(super) const MAX_JSON: usize = 1024 * 1024;

/// A request's body of no more than [`MAX_JSON`] bytes.
pub(super) struct ShortBody(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for ShortBody {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        axum::body::to_bytes(request.into_body(), MAX_JSON)
            .await
            .map(Self)
            .map_err(|_| {
                Error::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!(
                        "The body is larger than {} kB, or it was not sent completely.",
                        MAX_JSON / 1024
                    ),
                )
            })
    }
}

/// A request's JSON body; null for an empty one, as upstream reads it.
pub(super) struct JsonBody(pub(super) Value);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let ShortBody(bytes) = ShortBody::from_request(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(Value::Null));
        }
        let body = serde_json::from_slice(&bytes).map_err(|error| {
            tracing::debug!(%error, "a body is not JSON");
            Error::bad_request("Invalid JSON in body of request")
        })?;
        // In JSON there is but one way to write it, which may also be a backslash and what follows it.
        let may_have_nul = bytes.windows(6).any(|part| part == br"\u0000");
        if may_have_nul && has_nul(&body) {
            return Err(Error::bad_request(
                "A text in the body of the request holds a NUL character.",
            ));
        }
        Ok(Self(body))
    }
}

/// Whether any text in it has a character that not all databases can keep.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

impl JsonBody {
    /// An object, which may be left out; anything else is refused with `sentence`.
    pub(super) fn object_or_nothing(self, sentence: &str) -> Result<Map<String, Value>> {
        match self.0 {
            Value::Object(fields) => Ok(fields),
            other if !python::is_truthy(&other) => Ok(Map::new()),
            _ => Err(Error::bad_request(sentence)),
        }
    }
}

/// The type that a field of a model must have.
#[derive(Clone, Copy)]
pub(super) enum FieldType {
    /// A text.
    Text,
    /// True or false.
    Bool,
    /// A list.
    List,
    /// An object.
    Object,
}

impl FieldType {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Bool => value.is_boolean(),
            Self::List => value.is_array(),
            Self::Object => value.is_object(),
        }
    }

    fn python(self) -> &'static str {
        match self {
            Self::Text => "<class 'str'>",
            Self::Bool => "<class 'bool'>",
            Self::List => "<class 'list'>",
            Self::Object => "<class 'dict'>",
        }
    }
}

/// Upstream's check of a model that a request brings: an object, with no other than these fields, each
/// of its type.
pub(super) fn check_model<'a>(
    model: &'a Value,
    what: &str,
    fields: &[(&str, FieldType)],
) -> Result<&'a Map<String, Value>> {
    let Value::Object(given) = model else {
        return Err(Error::bad_request(format!(
            "Invalid JSON data: {}",
            python::repr(model)
        )));
    };
    let type_of = |key: &str| {
        fields
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, kind)| *kind)
    };
    if given.keys().any(|key| type_of(key).is_none()) {
        return Err(Error::bad_request(format!(
            "Invalid JSON keys: {}",
            python::repr(model)
        )));
    }
    for (key, value) in given {
        if let Some(kind) = type_of(key).filter(|kind| !kind.fits(value)) {
            return Err(Error::bad_request(format!(
                "{what}.{key} must be {}, not: {}",
                kind.python(),
                python::type_name(value)
            )));
        }
    }
    Ok(given)
}

/// A list of texts in a field that is known to be a list; `noun` says what they are.
pub(super) fn texts<'a>(value: Option<&'a Value>, noun: &str) -> Result<Vec<&'a str>> {
    let Some(Value::Array(items)) = value else {
        return Ok(Vec::new());
    };
    items
        .iter()
        .map(|item| {
            item.as_str().ok_or_else(|| {
                Error::bad_request(format!(
                    "{noun} must be str, not {}",
                    python::type_name(item)
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIELDS: &[(&str, FieldType)] = &[("name", FieldType::Text), ("admin", FieldType::Bool)];

    fn message(model: &Value) -> String {
        check_model(model, "user", FIELDS)
            .map_or_else(|error| error.to_string(), |_| "fine".to_owned())
    }

    #[test]
    fn a_model_has_known_fields_of_the_right_type() {
        for (model, expected) in [
            (json!({"name": "ada", "admin": true}), "fine"),
            (json!(null), "400 Bad Request: Invalid JSON data: None"),
            (
                json!({"x": [1, "a"]}),
                "400 Bad Request: Invalid JSON keys: {'x': [1, 'a']}",
            ),
            (
                json!({"admin": "yes"}),
                "400 Bad Request: user.admin must be <class 'bool'>, not: <class 'str'>",
            ),
        ] {
            assert_eq!(message(&model), expected);
        }
    }

    #[test]
    fn a_list_of_texts_holds_texts_only() {
        assert_eq!(
            texts(None, "usernames").expect("nothing is fine"),
            Vec::<&str>::new()
        );
        assert_eq!(
            texts(Some(&json!(["a", "b"])), "usernames").expect("texts"),
            ["a", "b"]
        );
        assert!(texts(Some(&json!(["a", 1])), "usernames").is_err());
    }
}

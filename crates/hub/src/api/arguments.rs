//! The query of API requests, and pages of lists.

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::header;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD;
use orrery_core::escape::for_log;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::auth::{Requester, redirects};
use crate::error::{Error, Result};
use crate::state::HubState;

/// Asks for a list as `{"items": […], "_pagination": {…}}`.
const PAGINATION: &str = "application/jupyterhub-pagination+json";

/// Python's `quote_plus`, but for the space.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'.')
    .remove(b'-')
    .remove(b'~');

/// The arguments of a request's query.
pub(super) struct Arguments {
    pairs: Vec<(String, String)>,
    path: String,
    accepts_pagination: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Arguments {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let uri = parts
            .extensions
            .get::<OriginalUri>()
            .map_or(&parts.uri, |original| &original.0);
        let accept = parts
            .headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let pairs = redirects::query_pairs(uri);
        // Not all databases can even be asked for such a text.
        if let Some((name, _)) = pairs
            .iter()
            .find(|(name, value)| name.contains('\0') || value.contains('\0'))
        {
            return Err(Error::bad_request(format!(
                "The argument {} holds a NUL character.",
                for_log(name, 64)
            )));
        }
        Ok(Self {
            pairs,
            path: uri.path().to_owned(),
            accepts_pagination: accept
                .split(',')
                .any(|kind| kind.trim().eq_ignore_ascii_case(PAGINATION)),
        })
    }
}

impl Arguments {
    /// The last value given for `name`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.trim())
    }

    /// Whether user models are to list servers that do not run as well.
    pub(super) fn include_stopped_servers(&self) -> bool {
        self.get("include_stopped_servers")
            .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// Whether the answer is to say how many there are in all.
    pub(super) fn accepts_pagination(&self) -> bool {
        self.accepts_pagination
    }

    /// Which page of a list is asked for.
    pub(super) fn page(&self, hub: &HubState) -> Result<Page> {
        let positive = |value: i64| u64::try_from(value).unwrap_or_default().max(1);
        let max = positive(hub.config.hub.api_page_max_limit);
        // Clients that do not know of pages are spared missing what is on the next one.
        let default = if self.accepts_pagination {
            positive(hub.config.hub.api_page_default_limit)
        } else {
            max
        };
        let number = |name| match self.get(name) {
            None => Ok(None),
            Some(text) => magnitude(text).map(Some).ok_or_else(|| {
                Error::bad_request("Invalid argument type, offset and limit must be integers")
            }),
        };
        Ok(Page {
            offset: number("offset")?.unwrap_or(0),
            limit: number("limit")?.unwrap_or(default).clamp(1, max),
        })
    }

    /// The answer with one page of a list of `total` items: with or without the frame around it, as the
    /// client asked.
    pub(super) fn paginated(
        &self,
        requester: &Requester,
        items: Value,
        page: Page,
        total: u64,
    ) -> Value {
        if !self.accepts_pagination {
            return items;
        }
        with_pagination(items, self.pagination(requester, page, total))
    }

    /// The same of items that are written straight into the answer.
    pub(super) fn listing<T>(
        &self,
        requester: &Requester,
        items: Vec<T>,
        page: Page,
        total: u64,
    ) -> Listing<T> {
        if !self.accepts_pagination {
            return Listing::Plain(items);
        }
        Listing::Framed {
            items,
            pagination: self.pagination(requester, page, total),
        }
    }

    /// One page of a list that always has its frame.
    pub(super) fn framed(
        &self,
        requester: &Requester,
        items: &Value,
        page: Page,
        total: u64,
    ) -> Value {
        with_pagination(items.clone(), self.pagination(requester, page, total))
    }

    fn pagination(&self, requester: &Requester, page: Page, total: u64) -> Value {
        let next_offset = page.offset.saturating_add(page.limit);
        let next = (next_offset < total).then(|| {
            json!({
                "offset": next_offset,
                "limit": page.limit,
                "url": self.next_url(requester, next_offset, page.limit),
            })
        });
        json!({ "offset": page.offset, "limit": page.limit, "total": total, "next": next })
    }

    /// The id after which a page begins whose items are in the order of their ids.
    pub(super) fn after(&self) -> Result<i64> {
        match self.get("after") {
            None => Ok(0),
            Some(text) => text
                .parse()
                .map_err(|_| Error::bad_request("after must be an integer")),
        }
    }

    /// A point in time.
    pub(super) fn time(&self, name: &str) -> Result<Option<chrono::NaiveDateTime>> {
        match self.get(name) {
            None => Ok(None),
            Some(text) => super::time::parse(text)
                .map(Some)
                .ok_or_else(|| Error::bad_request(format!("{name} is not a point in time"))),
        }
    }

    /// One page of a list in the order of its items' ids: whatever comes or goes meanwhile, none is left
    /// out or shown twice. `next` is the last id of this page, if there is another.
    pub(super) fn keyset(
        &self,
        requester: &Requester,
        items: &[Value],
        limit: u64,
        next: Option<i64>,
    ) -> Value {
        let next = next.map(|after| {
            json!({
                "after": after,
                "limit": limit,
                "url": self.url_with(requester, &[("after", after.to_string()), ("limit", limit.to_string())]),
            })
        });
        json!({ "items": items, "_pagination": { "limit": limit, "next": next } })
    }

    /// Whether the client goes through the list by cursors.
    pub(super) fn is_by_cursor(&self) -> bool {
        self.get("cursor").is_some()
    }

    /// The place after which a page begins, for a client that goes through the list by cursors and is not
    /// at its start. `sort` is the order, which must be the same on all pages.
    pub(super) fn cursor(&self, sort: &str) -> Result<Option<Cursor>> {
        let Some(text) = self.get("cursor").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let invalid = || Error::bad_request("cursor is none of a page of this list in this order");
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let cursor: Cursor = serde_json::from_slice(&json).map_err(|_| invalid())?;
        let has_nul = cursor.key.as_deref().is_some_and(|key| key.contains('\0'));
        if cursor.sort != sort || has_nul {
            return Err(invalid());
        }
        Ok(Some(cursor))
    }

    /// One page of a list that the client goes through by cursors. `last` is the place of its last item, if
    /// there may be more.
    pub(super) fn after_cursor(
        &self,
        requester: &Requester,
        items: Value,
        limit: u64,
        last: Option<&Cursor>,
    ) -> Value {
        with_pagination(items, self.cursor_pagination(requester, limit, last))
    }

    /// The same of items that are written straight into the answer.
    pub(super) fn listing_after_cursor<T>(
        &self,
        requester: &Requester,
        items: Vec<T>,
        limit: u64,
        last: Option<&Cursor>,
    ) -> Listing<T> {
        Listing::Framed {
            items,
            pagination: self.cursor_pagination(requester, limit, last),
        }
    }

    fn cursor_pagination(&self, requester: &Requester, limit: u64, last: Option<&Cursor>) -> Value {
        let next = last.map(|last| {
            let cursor = URL_SAFE_NO_PAD.encode(json!(last).to_string());
            let place = [("cursor", cursor.clone()), ("limit", limit.to_string())];
            json!({ "cursor": cursor, "limit": limit, "url": self.url_with(requester, &place) })
        });
        json!({ "limit": limit, "next": next })
    }

    fn next_url(&self, requester: &Requester, offset: u64, limit: u64) -> String {
        let place = [("offset", offset.to_string()), ("limit", limit.to_string())];
        self.url_with(requester, &place)
    }

    /// The address asked for, with some arguments changed or added.
    fn url_with(&self, requester: &Requester, changed: &[(&str, String)]) -> String {
        let mut query: Vec<(&str, String)> = Vec::new();
        for (key, value) in &self.pairs {
            match changed.iter().find(|(name, _)| name == key) {
                Some((name, _)) if query.iter().any(|(known, _)| known == name) => {}
                Some((name, value)) => query.push((name, value.clone())),
                None => query.push((key, value.clone())),
            }
        }
        for (key, value) in changed {
            if !query.iter().any(|(known, _)| known == key) {
                query.push((key, value.clone()));
            }
        }
        let quoted = |text: &str| {
            utf8_percent_encode(text, QUERY)
                .to_string()
                .replace("%20", "+")
        };
        let query: Vec<_> = query
            .iter()
            .map(|(key, value)| format!("{}={}", quoted(key), quoted(value)))
            .collect();
        let browser = &requester.browser;
        format!(
            "{}://{}{}?{}",
            browser.scheme,
            browser.host,
            self.path,
            query.join("&")
        )
    }
}

/// The place of an item in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// The list's order.
    pub(super) sort: String,
    /// The item's value of what the list is sorted by, if it is sorted by more than the id.
    pub(super) key: Option<String>,
    /// The item's id.
    pub(super) id: i32,
}

/// Long lists are not copied for their frame.
fn with_pagination(items: Value, pagination: Value) -> Value {
    let fields = [("items", items), ("_pagination", pagination)];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Value::Object(fields.into_iter().collect())
}

/// A page of a list, with or without the frame around it.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Listing<T> {
    /// The items alone.
    Plain(Vec<T>),
    /// The items, and where the next ones are.
    Framed {
        /// The items.
        items: Vec<T>,
        /// Where the next ones are.
        #[serde(rename = "_pagination")]
        pagination: Value,
    },
}

/// A part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// How many items are left out at the start.
    pub(super) offset: u64,
    /// How many items there are at most.
    pub(super) limit: u64,
}

/// Reads an integer as Python does, without its sign; a huge one becomes the largest.
fn magnitude(text: &str) -> Option<u64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let well_formed = !digits.is_empty()
        && !digits.starts_with('_')
        && !digits.ends_with('_')
        && !digits.contains("__")
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_');
    // Databases count in signed numbers.
    let largest = u64::try_from(i64::MAX).unwrap_or_default();
    well_formed.then(|| {
        digits
            .replace('_', "")
            .parse()
            .unwrap_or(largest)
            .min(largest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        for (text, expected) in [
            ("5", Some(5)),
            ("-5", Some(5)),
            ("+1_000", Some(1000)),
            ("99999999999999999999999", Some(9_223_372_036_854_775_807)),
            ("", None),
            ("1.5", None),
            ("x", None),
            ("_1", None),
        ] {
            assert_eq!(magnitude(text), expected, "{text}");
        }
    }
}

//! Questions to the audit log, as the REST API and the page for people put them: the arguments of a
//! query string.

use orrery_store::NaiveDateTime;
use orrery_store::audit::AuditQuery;

use super::{Action, Outcome};
use crate::error::{Error, Result};

/// The longest name that can be asked for, in characters.
const MAX_NAME: usize = 255;

/// The question of these arguments; those that are empty ask for nothing, as fields of a form that were
/// left so. `limit` is how many there are at most; a smaller one may be asked for.
pub fn question(
    pairs: &[(String, String)],
    default: u64,
    limit: u64,
    time: impl Fn(&str) -> Option<NaiveDateTime>,
) -> Result<AuditQuery> {
    let argument = |name: &str| {
        let given = pairs.iter().rev().find(|(key, _)| key == name);
        given
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    };
    let name = |key: &str| match argument(key) {
        Some(value) if value.chars().count() > MAX_NAME || value.contains('\0') => {
            Err(Error::bad_request(format!("{key} is no name")))
        }
        value => Ok(value.map(str::to_owned)),
    };
    let moment = |key: &str| match argument(key).map(&time) {
        Some(None) => Err(Error::bad_request(format!(
            "{key} must be a time such as 2026-11-22T12:00:00Z"
        ))),
        found => Ok(found.flatten()),
    };
    let number = |key: &str| match argument(key).map(str::parse::<i64>) {
        Some(Ok(number)) if number > 0 => Ok(Some(number)),
        Some(_) => Err(Error::bad_request(format!(
            "{key} must be a positive integer"
        ))),
        None => Ok(None),
    };
    let actions = argument("action")
        .into_iter()
        .flat_map(|list| list.split(','))
        .map(|name| {
            super::actions(name.trim()).ok_or_else(|| {
                Error::bad_request(
                    "action must be one of those in the documentation, or a family such as token.*",
                )
            })
        })
        .collect::<Result<Vec<Vec<Action>>>>()?;
    let outcome = match argument("outcome") {
        None => None,
        Some(text) => Some(
            Outcome::ALL
                .into_iter()
                .find(|outcome| outcome.as_str() == text)
                .ok_or_else(|| Error::bad_request("outcome must be ok, failed or denied"))?,
        ),
    };
    let asked = number("limit")?.and_then(|asked| u64::try_from(asked).ok());
    Ok(AuditQuery {
        actions: actions
            .into_iter()
            .flatten()
            .map(|action| action.as_str().to_owned())
            .collect(),
        outcome: outcome.map(|outcome| outcome.as_str().to_owned()),
        actor: name("actor")?,
        by_others: false,
        target: name("target")?,
        owner: name("owner")?,
        held: Vec::new(),
        server: name("server")?,
        address: name("address")?,
        since: moment("since")?,
        until: moment("until")?,
        before: number("before")?,
        limit: asked.unwrap_or(default).clamp(1, limit.max(1)),
    })
}

/// The query string that asks for what is older than the row `before`.
pub fn next_query(pairs: &[(String, String)], before: i64) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(
            pairs
                .iter()
                .filter(|(key, value)| key != "before" && !value.is_empty()),
        )
        .append_pair("before", &before.to_string())
        .finish()
}

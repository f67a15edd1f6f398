//! `/hub/token`: a person's tokens, and the applications they let know who they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::response::Html;
use chrono::NaiveDateTime;
use minijinja::context;
use minijinja::value::{Serde, Value};
use orrery_store::api_tokens::{self, ApiToken, Owner};
use orrery_store::oauth_clients;

use super::Stamp;
use super::respond::frame;
use crate::auth::{Asking, auth_state};
use crate::error::Result;
use crate::state::AppState;

/// The OAuth client of tokens that the hub itself gave out.
const HUB_CLIENT: &str = "jupyterhub";

/// What the form offers, in seconds.
const EXPIRY: [(i64, &str); 5] = [
    (3600, "1 Hour"),
    (86_400, "1 Day"),
    (604_800, "1 Week"),
    (2_592_000, "1 Month"),
    (31_536_000, "1 Year"),
];

/// `GET /hub/token`.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
) -> Result<Html<String>> {
    let user = requester.logged_in()?;
    let now = hub.clock.now();
    let mut tokens: Vec<ApiToken> = api_tokens::list(hub.store.read(), Owner::User(user.id))
        .await?
        .into_iter()
        .filter(|token| token.expires_at.is_none_or(|end| end > now))
        .collect();
    tokens.sort_by_key(|token| std::cmp::Reverse((token.last_activity, token.created)));
    let mut by_client: BTreeMap<String, Vec<ApiToken>> = BTreeMap::new();
    for token in tokens {
        if let Some(client) = token.client_id.clone() {
            by_client.entry(client).or_default().push(token);
        }
    }
    let own: Vec<Value> = by_client
        .remove(HUB_CLIENT)
        .unwrap_or_default()
        .iter()
        .map(token_value)
        .collect();
    let mut clients = Vec::new();
    for (identifier, tokens) in by_client {
        let description = oauth_clients::find(hub.store.read(), &identifier)
            .await?
            .and_then(|client| client.description)
            .filter(|text| !text.is_empty())
            .unwrap_or(identifier);
        clients.push(Application::new(description, &tokens));
    }
    clients.sort_by_key(|client| std::cmp::Reverse((client.last_activity, client.created)));

    let longest = hub.config.hub.token_expires_in_max_seconds;
    let html = hub.templates.render(
        "token.html",
        context! {
            api_tokens => own,
            oauth_clients => clients.into_iter().map(|client| client.value).collect::<Vec<_>>(),
            token_expires_in_options_html => expiry_options(longest),
            token_expires_in_max_seconds => longest,
            auth_state => Serde(auth_state::of(&hub, user).await?),
            ..frame(&hub, &requester).await?.value()
        },
    )?;
    Ok(Html(html))
}

/// All tokens of one OAuth client, shown as one.
struct Application {
    last_activity: Option<NaiveDateTime>,
    created: Option<NaiveDateTime>,
    value: Value,
}

impl Application {
    fn new(description: String, tokens: &[ApiToken]) -> Self {
        let last_activity = tokens.iter().filter_map(|token| token.last_activity).max();
        let created = tokens.iter().filter_map(|token| token.created).min();
        let value = context! {
            description,
            created => Stamp::value(created),
            last_activity => Stamp::value(last_activity),
            tokens => tokens.iter().map(token_value).collect::<Vec<_>>(),
            // Revoking one revokes all of its client.
            token_id => tokens.first().map(api_id),
            token_count => tokens.len(),
        };
        Self {
            last_activity,
            created,
            value,
        }
    }
}

fn token_value(token: &ApiToken) -> Value {
    context! {
        api_id => api_id(token),
        note => token.note.clone().unwrap_or_default(),
        scopes => Serde(&token.scopes),
        session_id => token.session_id.clone(),
        last_activity => Stamp::value(token.last_activity),
        created => Stamp::value(token.created),
        expires_at => Stamp::value(token.expires_at),
    }
}

/// The id by which the REST API knows a token.
fn api_id(token: &ApiToken) -> String {
    format!("a{}", token.id)
}

/// The options of the expiry field; the last one is chosen.
fn expiry_options(longest: i64) -> String {
    let mut options: Vec<(String, String)> = EXPIRY
        .iter()
        .filter(|(seconds, _)| longest == 0 || *seconds <= longest)
        .map(|(seconds, label)| (seconds.to_string(), (*label).to_owned()))
        .collect();
    if longest == 0 {
        options.push((String::new(), "Never".to_owned()));
    } else if EXPIRY.iter().all(|(seconds, _)| *seconds != longest) {
        let (count, unit) = if longest < 3 * 86_400 {
            (longest / 3600, "hours")
        } else {
            (longest / 86_400, "days")
        };
        options.push((String::new(), format!("Max ({count} {unit})")));
    }
    let last = options.len().saturating_sub(1);
    let mut html = String::new();
    for (place, (value, label)) in options.iter().enumerate() {
        let selected = if place == last {
            " selected=\"selected\""
        } else {
            ""
        };
        write!(html, "<option{selected} value=\"{value}\">{label}</option>")
            .expect("writing to a string cannot fail");
    }
    html
}

#[cfg(test)]
mod tests {
    use super::expiry_options;

    #[test]
    fn no_token_is_offered_that_lives_longer_than_allowed() {
        let free = expiry_options(0);
        assert!(
            free.ends_with("<option selected=\"selected\" value=\"\">Never</option>"),
            "{free}"
        );
        let week = expiry_options(604_800);
        assert!(
            week.contains("selected=\"selected\" value=\"604800\"")
                && !week.contains("Never")
                && !week.contains("Month"),
            "{week}"
        );
        let odd = expiry_options(7200);
        assert!(odd.ends_with("value=\"\">Max (2 hours)</option>"), "{odd}");
    }
}

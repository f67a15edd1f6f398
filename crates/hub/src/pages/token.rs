//! `/hub/token`: a person's tokens, the applications they let know who they are, and the browsers they are
//! logged in with.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::{Path, State};
use axum::response::Html;
use chrono::NaiveDateTime;
use minijinja::context;
use minijinja::value::{Serde, Value};
use orrery_core::scopes::{Scope, Target};
use orrery_store::api_tokens::{self, ApiToken, Owner};
use orrery_store::sessions::{self as session_rows, Session};
use orrery_store::users::{self, User};
use orrery_store::{ConnectionTrait, oauth_clients};

use super::Stamp;
use super::respond::frame;
use crate::auth::{Asking, Requester, auth_state, sessions, token_bounds};
use crate::error::{Error, Result};
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
    let user = requester.logged_in()?.clone();
    page(&hub, &requester, &user, true).await
}

/// `GET /hub/token/{user}`: the same of somebody else, without the form.
pub(super) async fn show_of(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
) -> Result<Html<String>> {
    let user = users::find(hub.store.read(), &name)
        .await?
        .ok_or_else(|| Error::not_found(""))?;
    let is_own = requester.logged_in()?.id == user.id;
    page(&hub, &requester, &user, is_own).await
}

async fn page(
    hub: &AppState,
    requester: &Requester,
    user: &User,
    is_own: bool,
) -> Result<Html<String>> {
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

    let current = sessions::current(hub, requester).await?;
    let live = session_rows::of_user(hub.store.read(), user.id, hub.sessions_since()).await?;
    let live: Vec<Value> = live
        .iter()
        .map(|session| session_value(session, current.as_ref()))
        .collect();
    let may_change = requester
        .may(Scope::Tokens, Target::User(&user.name))
        .await?;
    let choices = if is_own {
        choices(hub, hub.store.read(), requester, user).await?
    } else {
        Choices::default()
    };
    let longest = hub.config.hub.token_expires_in_max_seconds;
    let html = hub.templates.render(
        "token.html",
        context! {
            api_tokens => own,
            oauth_clients => clients.into_iter().map(|client| client.value).collect::<Vec<_>>(),
            tokens_of => user.name.clone(),
            is_own => is_own,
            may_change => may_change,
            sessions => live,
            token_scope_choices => Serde(choices.list),
            token_scopes_are_bounded => choices.are_bounded,
            token_expires_in_options_html => expiry_options(longest),
            token_expires_in_max_seconds => longest,
            auth_state => Serde(auth_state::of(hub, requester.logged_in()?).await?),
            ..frame(hub, requester).await?.value()
        },
    )?;
    Ok(Html(html))
}

/// The scopes that a new token may have, one by one.
#[derive(Default)]
struct Choices {
    list: Vec<serde_json::Value>,
    are_bounded: bool,
}

async fn choices(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    requester: &Requester,
    user: &User,
) -> Result<Choices> {
    let bound = token_bounds::of(hub, connection, user).await?;
    let are_bounded = bound.is_some();
    let held = match bound {
        None => requester.scopes.clone(),
        Some(bound) => {
            token_bounds::within(connection, &bound.scopes, &requester.scopes)
                .await?
                .0
        }
    };
    let list = held
        .to_strings()
        .into_iter()
        .flat_map(|raw| {
            let described = hub.scopes.describe([&raw], Some(&user.name));
            described.into_iter().map(move |line| {
                serde_json::json!({
                    "scope": raw, "description": line.description, "filter": line.filter,
                })
            })
        })
        .collect();
    Ok(Choices { list, are_bounded })
}

fn session_value(session: &Session, current: Option<&Session>) -> Value {
    context! {
        api_id => format!("s{}", session.id),
        browser => browser_name(session.user_agent.as_deref().unwrap_or_default()),
        user_agent => session.user_agent.clone(),
        address => session.address.clone(),
        created => Stamp::value(Some(session.created)),
        last_activity => Stamp::value(Some(session.last_seen)),
        current => current.is_some_and(|current| current.id == session.id),
    }
}

/// What people call the browser that calls itself so; a program by its own first word.
fn browser_name(user_agent: &str) -> String {
    const BROWSERS: [(&str, &str); 6] = [
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        // Nearly all others say that they are one of these as well.
        ("Chrom", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 7] = [
        ("Windows", "Windows"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Mac OS X", "macOS"),
        ("Android", "Android"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ];
    let first = |names: &[(&str, &'static str)]| {
        let found = names.iter().find(|(part, _)| user_agent.contains(part));
        found.map(|(_, name)| *name)
    };
    match (first(&BROWSERS), first(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        (None, _) => {
            let word = user_agent.split([' ', '/']).next().unwrap_or_default();
            let word: String = word.chars().take(40).collect();
            if word.is_empty() {
                "Unknown".to_owned()
            } else {
                word
            }
        }
    }
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
    use super::{browser_name, expiry_options};

    #[test]
    fn browsers_are_called_as_people_call_them() {
        for (agent, name) in [
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
                "Firefox on Linux",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/140.0.0.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 \
                 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1",
                "Safari on iPhone",
            ),
            ("python-requests/2.32", "python-requests"),
            ("<script>", "<script>"),
            ("", "Unknown"),
        ] {
            assert_eq!(browser_name(agent), name);
        }
    }

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

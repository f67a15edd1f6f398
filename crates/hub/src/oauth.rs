//! The hub as OAuth provider for single-user servers and services: the authorization code grant of
//! RFC 6749 with PKCE (RFC 7636), in upstream's paths and formats.

mod authorize;
mod token;

use orrery_core::scopes::{Client, Owner};
use orrery_store::oauth_clients::OauthClient;
use orrery_store::users::User;
use serde_json::{Value, json};

use crate::api::schemas::{OAUTH_ERROR, OAUTH_TOKEN, OAUTH_TOKEN_REQUEST};
use crate::auth;
use crate::error::Result;
use crate::openapi::{Answer, Body, Operation, Parameter, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// How long a code can be exchanged, in seconds.
const CODE_LIFETIME: i64 = 300;

/// The routes of this module.
pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get("/api/oauth2/authorize", Needs::Login, &ASK, authorize::ask)
        .post(
            "/api/oauth2/authorize",
            Needs::Login,
            &CONFIRM,
            authorize::confirm,
        )
        .post(
            "/api/oauth2/token",
            Needs::Nothing,
            &EXCHANGE,
            token::exchange,
        )
}

const ASK: Operation = Operation::new("get-oauth-authorize", Tag::OAuth, "Ask for a code")
    .about("For browsers: leads to the login page, shows a page that asks, or leads back to the application with a code.")
    .query(AUTHORIZE)
    .refuses_by_pages()
    .answers(&[
        Answer::text(200, "The page that asks.", "text/html"),
        Answer::empty(302, "Back to the application, with a code or an error; or to the login page."),
    ])
    .refuses(&[400]);

const CONFIRM: Operation = Operation::new("post-oauth-authorize", Tag::OAuth, "Agree to a code")
    .about("What the form of the page that asks sends. It must bring the page's `_xsrf`.")
    .query(AUTHORIZE)
    .refuses_by_pages()
    .body(Body::form(Shape::Inline(|| json!({
        "type": "object",
        "properties": { "scopes": { "type": "array", "items": { "type": "string" }, "description": "Those agreed to." } },
    }))))
    .answers(&[Answer::empty(302, "Back to the application, with a code or an error.")]);

const AUTHORIZE: &[&Parameter] = &[
    &Parameter::new("client_id", "The application.", text).required(),
    &Parameter::new(
        "response_type",
        "What it wants.",
        || json!({ "const": "code" }),
    )
    .required(),
    &Parameter::new(
        "redirect_uri",
        "Where to go back to: the registered address.",
        text,
    ),
    &Parameter::new("state", "Comes back with the code.", text),
    &Parameter::new("scope", "What it asks for, with spaces between.", text),
    &Parameter::new(
        "code_challenge",
        "Binds the code to whoever knows the verifier (RFC 7636).",
        text,
    ),
    &Parameter::new(
        "code_challenge_method",
        "How the challenge was made.",
        || json!({ "enum": ["plain", "S256"], "default": "plain" }),
    ),
];

fn text() -> Value {
    json!({ "type": "string" })
}

const EXCHANGE: Operation = Operation::new(
    "post-oauth-token",
    Tag::OAuth,
    "Exchange a code for a token",
)
.body(Body::form(Shape::One(&OAUTH_TOKEN_REQUEST)))
.answers(&[
    Answer::json(200, "The token.", Shape::One(&OAUTH_TOKEN)),
    Answer::json(
        400,
        "The code cannot be exchanged.",
        Shape::One(&OAUTH_ERROR),
    ),
    Answer::json(
        401,
        "The client could not prove who it is.",
        Shape::One(&OAUTH_ERROR),
    ),
]);

/// The scopes that every token of `client` has: to know its owner, whoever that is, and to reach the
/// client itself.
fn required_scopes(client: &Client) -> Vec<String> {
    let mut scopes = orrery_core::scopes::access_scopes(client).to_strings();
    scopes.extend(["read:users:groups!user", "read:users:name!user"].map(str::to_owned));
    scopes
}

/// Splits `requested` by what the client may ask for and what the user holds; both raw.
async fn resolve(
    hub: &AppState,
    user: &User,
    client: &Client,
    requested: &std::collections::BTreeSet<String>,
    have: &std::collections::BTreeSet<String>,
) -> Result<orrery_core::scopes::Resolved> {
    let owner = Owner::User(&user.name);
    let wanted = hub.scopes.expand(requested, Some(owner), client);
    let held = hub.scopes.expand(have, Some(owner), client);
    let members = wanted.members_in_question(&held);
    let groups = auth::memberships(hub.store.read(), members.iter().map(String::as_str)).await?;
    Ok(hub
        .scopes
        .resolve_requested(requested, have, owner, client, &groups))
}

/// What people call the client.
fn description(client: &OauthClient) -> &str {
    client
        .description
        .as_deref()
        .filter(|text| !text.is_empty())
        .unwrap_or(&client.identifier)
}

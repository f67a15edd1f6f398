//! `GET` and `POST /hub/api/oauth2/authorize`: a browser asks for a code for a server or service.

use std::collections::BTreeSet;

use axum::body::Bytes;
use axum::extract::{OriginalUri, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use minijinja::context;
use minijinja::value::Serde;
use orrery_core::escape::for_log;
use orrery_core::scopes::{Client, Scope, Target};
use orrery_core::{ServerName, UserName};
use orrery_store::oauth_clients::{self, OauthClient};
use orrery_store::oauth_codes::{self, NewOauthCode};
use orrery_store::users::User;
use orrery_store::{api_tokens, roles, services};
use subtle::ConstantTimeEq as _;

use super::{CODE_LIFETIME, description, required_scopes, resolve};
use crate::audit::{Action, Event, Outcome};
use crate::auth::{self, Asking, Requester, auth_state, redirects};
use crate::error::{Error, Result};
use crate::pages;
use crate::state::AppState;

const NOT_ALL_SCOPES: &str = "The application may not ask for all of these scopes.";

/// The longest parameter that is looked at; `state` travels in the redirect's address.
const MAX_PARAMETER: usize = 4096;

/// A request for a code that named a known client and its own address, so that errors may be sent
/// there.
struct Authorization {
    client: OauthClient,
    behind: Client,
    redirect_uri: String,
    state: Option<String>,
    mode: Mode,
    scopes: BTreeSet<String>,
    challenge: Option<Challenge>,
}

/// Which part of the client's address carries the answer.
#[derive(Clone, Copy)]
enum Mode {
    Query,
    /// Only what runs in the browser sees it.
    Fragment,
}

struct Challenge {
    value: String,
    method: String,
}

/// `GET`: gives a code at once for people's own servers, and asks first elsewhere.
pub(super) async fn ask(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
) -> Result<Response> {
    let user = requester.logged_in()?.clone();
    let parameters = redirects::query_pairs(&uri);
    let request = match authorization(&hub, &user, &parameters).await? {
        Ok(request) => request,
        Err(redirect) => return Ok(redirect),
    };
    check_access(&hub, &requester, &request).await?;
    let allowed = allowed_scopes(&hub, &user, &request).await?;
    if !needs_confirmation(&hub, &user, &request, &allowed).await? {
        return give_code(&hub, &requester, &user, request, allowed).await;
    }
    let required: BTreeSet<String> = required_scopes(&request.behind).into_iter().collect();
    let (allowed, descriptions) = describe(&hub, &user, &allowed, &required);
    let html = hub.templates.render(
        "oauth.html",
        context! {
            oauth_client => context! {
                description => description(&request.client),
                identifier => request.client.identifier,
                redirect_uri => request.redirect_uri,
            },
            allowed_scopes => allowed,
            scope_descriptions => descriptions,
            auth_state => Serde(auth_state::of(&hub, &user).await?),
            ..pages::frame(&hub, &requester).await?.value()
        },
    )?;
    Ok(Html(html).into_response())
}

/// `POST`: the person agreed, to some or all of the scopes.
pub(super) async fn confirm(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
    body: Bytes,
) -> Result<Response> {
    let user = requester.logged_in()?.clone();
    // The page's form posts to the very address that it was shown at.
    let parameters = redirects::query_pairs(&uri);
    let mut request = match authorization(&hub, &user, &parameters).await? {
        Ok(request) => request,
        Err(redirect) => return Ok(redirect),
    };
    check_access(&hub, &requester, &request).await?;
    let chosen: BTreeSet<String> = form_urlencoded::parse(&body)
        .filter(|(key, _)| key == "scopes")
        .map(|(_, value)| value.into_owned())
        .collect();
    let may_ask = may_ask(&request.client, &request.behind);
    let Some(chosen) = askable(&hub, &user, &request.behind, chosen, &may_ask).await? else {
        return Ok(request.back().tell("invalid_scope", NOT_ALL_SCOPES));
    };
    // Nothing beyond what the page could offer: a form can be edited.
    let offered = allowed_scopes(&hub, &user, &request).await?;
    request.scopes = offered.intersection(&chosen).cloned().collect();
    let mut granted = request.scopes.clone();
    granted.extend(required_scopes(&request.behind));
    give_code(&hub, &requester, &user, request, granted).await
}

/// Reads and checks the request. The inner error is the redirect that tells the client, where the
/// client is known; before that, errors are shown to the person.
async fn authorization(
    hub: &AppState,
    user: &User,
    parameters: &[(String, String)],
) -> Result<Result<Authorization, Response>> {
    let one = |name: &str| -> Result<Option<String>> {
        let mut values = parameters
            .iter()
            .filter(|(key, value)| key == name && !value.is_empty());
        let value = values.next().map(|(_, value)| value.clone());
        if values.next().is_some() {
            return Err(Error::bad_request(format!("Duplicate {name} parameter.")));
        }
        if value
            .as_ref()
            .is_some_and(|value| value.len() > MAX_PARAMETER)
        {
            return Err(Error::bad_request(format!(
                "The {name} parameter is too long."
            )));
        }
        Ok(value)
    };
    let client_id =
        one("client_id")?.ok_or_else(|| Error::bad_request("Missing client_id parameter."))?;
    let client = oauth_clients::find(hub.store.read(), &client_id)
        .await?
        .filter(|client| {
            client
                .secret
                .as_deref()
                .is_some_and(|secret| !secret.is_empty())
        })
        .ok_or_else(|| {
            tracing::warn!(client = %for_log(&client_id, 200), "no such OAuth client");
            Error::bad_request("Invalid client_id parameter value.")
        })?;
    let registered = client.redirect_uri.clone().unwrap_or_default();
    let redirect_uri = one("redirect_uri")?.unwrap_or_else(|| registered.clone());
    if registered.is_empty() || redirect_uri != registered {
        tracing::warn!(
            client = %client.identifier, asked = %for_log(&redirect_uri, 200), %registered,
            "an OAuth request came with another address than the client's"
        );
        return Err(Error::bad_request("Mismatching redirect URI."));
    }
    let state = one("state")?;
    let mode = match one("response_mode")?.as_deref() {
        Some("fragment") => Mode::Fragment,
        _ => Mode::Query,
    };
    let back = Back {
        client: &client,
        redirect_uri: &redirect_uri,
        state: state.as_ref(),
        mode,
    };
    let tell = |error: &str, text: &str| back.tell(error, text);
    match one("response_type")?.as_deref() {
        Some("code") => {}
        Some(_) => {
            return Ok(Err(tell(
                "unsupported_response_type",
                "Only the response type code is supported.",
            )));
        }
        None => {
            return Ok(Err(tell(
                "invalid_request",
                "Missing response_type parameter.",
            )));
        }
    }
    let challenge = match one("code_challenge")? {
        Some(value) => {
            let method = one("code_challenge_method")?.unwrap_or_else(|| "plain".to_owned());
            if method != "S256" && method != "plain" {
                return Ok(Err(tell(
                    "invalid_request",
                    "Transform algorithm not supported.",
                )));
            }
            if value.len() > 255 {
                return Ok(Err(tell(
                    "invalid_request",
                    "The code challenge is too long.",
                )));
            }
            Some(Challenge { value, method })
        }
        None if hub.config.hub.oauth_require_pkce => {
            return Ok(Err(tell("invalid_request", "Code challenge required.")));
        }
        None => None,
    };

    let behind = auth::client_of(hub.store.read(), Some(&client.identifier)).await?;
    let may_ask = may_ask(&client, &behind);
    let asked: BTreeSet<String> = one("scope")?
        .map(|list| list.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    let asked = if asked.is_empty() {
        client.allowed_scopes.iter().cloned().collect()
    } else {
        asked
    };
    let Some(mut scopes) = askable(hub, user, &behind, asked, &may_ask).await? else {
        return Ok(Err(tell("invalid_scope", NOT_ALL_SCOPES)));
    };
    scopes.extend(required_scopes(&behind));
    Ok(Ok(Authorization {
        client,
        behind,
        redirect_uri,
        state,
        mode,
        scopes,
        challenge,
    }))
}

/// The way back to the client.
struct Back<'a> {
    client: &'a OauthClient,
    redirect_uri: &'a str,
    state: Option<&'a String>,
    mode: Mode,
}

impl Authorization {
    fn back(&self) -> Back<'_> {
        Back {
            client: &self.client,
            redirect_uri: &self.redirect_uri,
            state: self.state.as_ref(),
            mode: self.mode,
        }
    }
}

impl Back<'_> {
    /// Tells the client, by way of the browser, why there is no code.
    fn tell(&self, error: &str, text: &str) -> Response {
        tracing::warn!(client = %self.client.identifier, error, text, "an OAuth request was refused");
        self.with(vec![
            ("error".to_owned(), error.to_owned()),
            ("error_description".to_owned(), text.to_owned()),
        ])
    }

    /// Sends the browser back with an answer.
    fn with(&self, mut answer: Vec<(String, String)>) -> Response {
        answer.extend(self.state.map(|state| ("state".to_owned(), state.clone())));
        let url = match self.mode {
            Mode::Query => redirects::with_query(self.redirect_uri, &answer),
            Mode::Fragment => format!(
                "{}#{}",
                self.redirect_uri,
                redirects::with_query("", &answer).trim_start_matches('?')
            ),
        };
        redirect(&url)
    }
}

/// All that the client may ask for.
fn may_ask(client: &OauthClient, behind: &Client) -> BTreeSet<String> {
    let mut scopes: BTreeSet<String> = client.allowed_scopes.iter().cloned().collect();
    scopes.extend(required_scopes(behind));
    scopes
}

/// The scopes asked for, by their own names; `None` if one is not there or not the client's to ask for.
async fn askable(
    hub: &AppState,
    user: &User,
    behind: &Client,
    asked: BTreeSet<String>,
    may_ask: &BTreeSet<String>,
) -> Result<Option<BTreeSet<String>>> {
    let Some(scopes) = named_scopes(hub, asked).await? else {
        return Ok(None);
    };
    let resolved = resolve(hub, user, behind, &scopes, may_ask).await?;
    Ok(resolved.disallowed.is_empty().then_some(scopes))
}

/// Scopes by their names, or, as JupyterHub 2 wrote them, by names of roles. `None` when one is
/// neither.
async fn named_scopes(
    hub: &AppState,
    mut asked: BTreeSet<String>,
) -> Result<Option<BTreeSet<String>>> {
    // The one scope there was before scopes; it means what every token has anyway.
    asked.remove("identify");
    if hub.scopes.check(&asked, "an OAuth request").is_ok() {
        return Ok(Some(asked));
    }
    let mut scopes = BTreeSet::new();
    for name in &asked {
        let Some(role) = roles::find(hub.store.read(), name).await? else {
            return Ok(None);
        };
        scopes.extend(role.scopes);
    }
    Ok(Some(scopes))
}

/// Whether the person may use the server or service at all.
async fn check_access(
    hub: &AppState,
    requester: &Requester,
    request: &Authorization,
) -> Result<()> {
    let (scope, target) = match &request.behind {
        Client::Server { user, server } => {
            // A client leads to its own server and nowhere else, whatever its row says.
            let is_its_own = UserName::parse(user)
                .ok()
                .zip(ServerName::parse(server).ok())
                .is_some_and(|(user, server)| {
                    let own = hub.urls.server_url(&user, &server);
                    if own.contains("://") {
                        request.redirect_uri.starts_with(&own)
                    } else {
                        path_of(&request.redirect_uri).starts_with(&own)
                    }
                });
            if !is_its_own {
                tracing::error!(client = %request.client.identifier, "an OAuth client leads away from its server");
                return Err(Error::forbidden(
                    "This application leads away from its own server.",
                ));
            }
            (Scope::AccessServers, Target::Server { user, server })
        }
        Client::Service(name) => (Scope::AccessServices, Target::Service(name)),
        Client::Hub | Client::Orphan => {
            tracing::error!(client = %request.client.identifier, "an OAuth client has neither server nor service");
            return Err(Error::forbidden(
                "The server or service that you came from no longer exists.",
            ));
        }
    };
    if requester.may(scope, target).await? {
        return Ok(());
    }
    tracing::warn!(user = requester.name(), client = %request.client.identifier, "access refused");
    requester.tell_denial();
    let refused = accessed(requester, &request.behind).outcome(Outcome::Denied);
    hub.audit
        .note(refused.detail("oauth_client", request.client.identifier.as_str()));
    Err(Error::forbidden(format!(
        "You do not have permission to access {}",
        description(&request.client)
    )))
}

/// The path of an address, which may be a path alone.
fn path_of(address: &str) -> &str {
    match address.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => address,
    }
}

/// Of what was asked for, what the user holds.
async fn allowed_scopes(
    hub: &AppState,
    user: &User,
    request: &Authorization,
) -> Result<BTreeSet<String>> {
    let mut have: BTreeSet<String> = auth::raw_user_scopes(hub.store.read(), user)
        .await?
        .into_iter()
        .collect();
    have.insert("inherit".to_owned());
    have.extend(required_scopes(&request.behind));
    let resolved = resolve(hub, user, &request.behind, &request.scopes, &have).await?;
    if !resolved.disallowed.is_empty() {
        tracing::info!(
            user = %user.name, client = %request.client.identifier, withheld = ?resolved.disallowed,
            "an application asked for more than the user may do"
        );
    }
    Ok(resolved.allowed)
}

/// Whether the person has to be asked: not for their own servers, not for services the site
/// trusts, not for what they have agreed to before.
async fn needs_confirmation(
    hub: &AppState,
    user: &User,
    request: &Authorization,
    scopes: &BTreeSet<String>,
) -> Result<bool> {
    match &request.behind {
        Client::Server { user: owner, .. } if *owner == user.name => return Ok(false),
        Client::Service(name) => {
            let service = services::find(hub.store.read(), name).await?;
            if service.is_some_and(|service| service.fields.oauth_no_confirm == Some(true)) {
                return Ok(false);
            }
        }
        _ => {}
    }
    let now = hub.clock.now();
    let agreed: BTreeSet<String> =
        api_tokens::list(hub.store.read(), api_tokens::Owner::User(user.id))
            .await?
            .into_iter()
            .filter(|token| token.client_id.as_deref() == Some(&request.client.identifier))
            .filter(|token| token.expires_at.is_none_or(|end| end > now))
            .flat_map(|token| token.scopes)
            .collect();
    Ok(agreed.is_empty() || !scopes.is_subset(&agreed))
}

/// The scopes to put before the person, each with what it means.
fn describe(
    hub: &AppState,
    user: &User,
    allowed: &BTreeSet<String>,
    required: &BTreeSet<String>,
) -> (Vec<String>, Vec<minijinja::Value>) {
    let extra: Vec<String> = allowed.difference(required).cloned().collect();
    let line = |scope: Option<&str>, text: &str, filter: &str| {
        context! { scope => scope, description => text, filter => filter }
    };
    if extra.is_empty() {
        let all = allowed.iter().cloned().collect();
        return (all, vec![line(None, Scope::NoScope.description(), "")]);
    }
    if extra.iter().any(|scope| scope == "inherit") {
        return (
            vec!["inherit".to_owned()],
            vec![line(Some("inherit"), Scope::Inherit.description(), "")],
        );
    }
    let lines = hub
        .scopes
        .describe(&extra, Some(&user.name))
        .into_iter()
        .map(|scope| line(Some(&scope.scope), &scope.description, &scope.filter))
        .collect();
    (allowed.iter().cloned().collect(), lines)
}

async fn give_code(
    hub: &AppState,
    requester: &Requester,
    user: &User,
    request: Authorization,
    scopes: BTreeSet<String>,
) -> Result<Response> {
    let code = orrery_core::random::hex::<15>();
    let (challenge, method) = request
        .challenge
        .as_ref()
        .map(|challenge| (challenge.value.clone(), challenge.method.clone()))
        .unzip();
    let new = NewOauthCode {
        client_id: request.client.identifier.clone(),
        code: code.clone(),
        expires_at: hub.unix_time() + CODE_LIFETIME,
        redirect_uri: request.redirect_uri.clone(),
        session_id: requester.session_id_or_new(),
        user_id: user.id,
        scopes: scopes.into_iter().collect(),
        code_challenge: challenge,
        code_challenge_method: method,
    };
    let new = &new;
    hub.store
        .write(|transaction| async move { oauth_codes::insert(&transaction, new).await })
        .await?;
    // People's own servers are theirs to open.
    let event = accessed(requester, &request.behind).detail("scopes", new.scopes.clone());
    hub.audit.record_others(event).await;
    Ok(request.back().with(vec![("code".to_owned(), code)]))
}

/// Access to a server or service, for the audit log.
fn accessed(requester: &Requester, behind: &Client) -> Event {
    match behind {
        Client::Server { user, server } => Event::new(Action::ServerAccess).on_server(user, server),
        Client::Service(name) => Event::new(Action::ServiceAccess).on_service(name),
        Client::Hub | Client::Orphan => Event::new(Action::ServiceAccess),
    }
    .by(requester)
}

fn redirect(url: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, url)]).into_response()
}

/// Whether `verifier` is what the code's challenge was made of (RFC 7636, 4.6).
pub(super) fn verifies(challenge: &str, method: &str, verifier: &str) -> bool {
    use base64::Engine as _;
    use sha2::Digest as _;
    let made = match method {
        "S256" => {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(verifier))
        }
        "plain" => verifier.to_owned(),
        _ => return false,
    };
    made.as_bytes().ct_eq(challenge.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::verifies;

    #[test]
    fn the_example_of_rfc_7636_verifies() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        assert!(verifies(challenge, "S256", verifier));
        assert!(!verifies(challenge, "S256", "another"));
        assert!(!verifies(challenge, "plain", verifier));
        assert!(!verifies(challenge, "none", challenge));
    }
}

//! Who asks: cookies and tokens, cross-site request forgery, login and logout.

pub mod answers;
pub mod auth_state;
pub mod cookies;
mod credentials;
pub mod login;
pub mod logout;
pub mod people;
pub mod redirects;
mod requester;
mod scopes;
pub mod secret_file;
pub mod session;
pub mod sessions;
pub mod throttle;
pub mod token_bounds;
pub mod xsrf;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use orrery_store::sessions::Seen;
use subtle::ConstantTimeEq as _;

pub use credentials::{Known, KnownCache, by_cookie, by_token, token_in};
pub use requester::{Asking, Browser, Identity, Requester, user_name};
pub use scopes::{
    client_of, identity_scopes, memberships, raw_user_scopes, token_owner, token_scopes,
    user_scopes,
};

use self::sessions::{LoginCookie, Sighting};
use crate::audit::{Action, Event};
use crate::error::{Error, Result};
use crate::listen::Peer;
use crate::router::{MAX_BODY, Needs, Routes};
use crate::state::AppState;

/// The name of the cookie that logs in to the hub, as upstream's, unless
/// `JupyterHub.cookie_host_prefix_enabled` changes it.
pub const LOGIN_COOKIE: &str = "jupyterhub-hub-login";

/// The routes of this module.
pub fn routes() -> Routes {
    Routes::default()
        .get("/login", Needs::Nothing, login::show)
        .post("/login", Needs::Nothing, login::submit)
        .get("/logout", Needs::Nothing, logout::logout)
}

/// Finds out who asks, checks for cross-site request forgery, and hands the [`Requester`] to the
/// handler; adds its cookies and the hub's own headers to the answer.
pub async fn identify(State(hub): State<AppState>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let is_api = is_api(&hub, &path);
    if let Some(elsewhere) = on_the_hubs_host(&hub, &request, is_api) {
        return crate::error::redirect(&elsewhere);
    }
    let (requester, mut response) = match prepare(&hub, request, is_api).await {
        Ok((requester, request)) => (Some(Arc::clone(&requester)), {
            let mut request = request;
            request.extensions_mut().insert(requester);
            next.run(request).await
        }),
        Err((requester, error)) => (requester, error.into_response()),
    };
    add_own_headers(&hub, &path, &mut response);
    if let Some(requester) = requester {
        // Kept for the layer around this one, which may have to render an error page.
        response.extensions_mut().insert(requester);
    }
    response
}

/// The headers that every answer of the hub has, where its handler did not set them.
pub(crate) fn add_own_headers(hub: &AppState, path: &str, response: &mut Response) {
    let headers = response.headers_mut();
    headers
        .entry("x-jupyterhub-version")
        .or_insert(HeaderValue::from_static(crate::JUPYTERHUB_VERSION));
    headers
        .entry(header::ACCESS_CONTROL_ALLOW_HEADERS)
        .or_insert(HeaderValue::from_static(
            "accept, content-type, authorization",
        ));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert_with(|| hub.content_security_policy(is_api(hub, path)));
    headers
        .entry(header::X_CONTENT_TYPE_OPTIONS)
        .or_insert(HeaderValue::from_static("nosniff"));
    if is_api_root(hub, path) {
        headers
            .entry(header::ACCESS_CONTROL_ALLOW_ORIGIN)
            .or_insert(HeaderValue::from_static("*"));
    }
}

/// The address that tells everybody the version.
fn is_api_root(hub: &AppState, path: &str) -> bool {
    path.strip_prefix(hub.urls.hub.as_str())
        .is_some_and(|rest| matches!(rest, "api" | "api/"))
}

/// Where a page of the hub is, if a browser asks for it on a user's or service's host: cookies count
/// on the hub's own host alone, and a login page elsewhere would be within reach of a server's scripts.
fn on_the_hubs_host(hub: &AppState, request: &Request, is_api: bool) -> Option<String> {
    let path = request.uri().path().strip_prefix(hub.urls.hub.as_str())?;
    let is_page = !is_api
        && matches!(*request.method(), Method::GET | Method::HEAD)
        && !path.starts_with("static/")
        && !matches!(path, "logo" | "favicon.ico" | "health");
    let browser = browser(hub, request.headers(), None);
    (is_page && hub.is_foreign_host(&browser)).then(|| {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        hub.urls.public(path)
    })
}

/// Whether `path` belongs to the REST API, where answers are JSON and tokens are accepted.
pub fn is_api(hub: &AppState, path: &str) -> bool {
    path.strip_prefix(hub.urls.hub.as_str())
        // The page that asks people to confirm an application stands among the API's paths.
        .is_some_and(|rest| {
            (rest.starts_with("api/") && rest != "api/oauth2/authorize")
                || rest == "api"
                || rest == "metrics"
        })
}

/// Adds the requester's cookies to the finished answer.
pub fn add_cookies(requester: &Requester, response: &mut Response) {
    for cookie in requester.take_cookies() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

type Refused = (Option<Arc<Requester>>, Error);

async fn prepare(
    hub: &AppState,
    request: Request,
    is_api: bool,
) -> Result<(Arc<Requester>, Request), Refused> {
    let (parts, body) = request.into_parts();
    let browser = browser(hub, &parts.headers, parts.extensions.get::<Peer>().copied());
    let known = known(hub, &parts.method, &parts.headers, is_api, &browser)
        .await
        .map_err(|error| (None, error))?;
    let requester = Arc::new(Requester::new(
        Arc::clone(hub),
        known,
        browser,
        parts.headers.clone(),
    ));
    record_activity(hub, &requester);
    if requester.identity.is_none() && has_stale_cookie(hub, &requester) {
        requester.clear_cookie(hub.login_cookie(), &hub.urls.hub, None);
    }

    // Nobody's credentials can be misused where there are none, but a page elsewhere must not learn
    // from our answer whether there are.
    let is_stranger = requester.identity.is_none();
    let skip = requester.used_token()
        || (is_api && is_stranger && !parts.headers.contains_key(header::ORIGIN));
    if skip
        || !xsrf::is_needed(&parts.method, &parts.headers, is_api)
        || is_exempt(hub, parts.uri.path())
    {
        return Ok((requester, Request::from_parts(parts, body)));
    }
    match check_xsrf(&requester, &parts, body).await {
        Ok(body) => Ok((requester, Request::from_parts(parts, body))),
        Err(error) => {
            let why = error.to_string();
            let event = Event::new(Action::Denied);
            requester.note_denial(event, &parts.method, "(before any route)", &why);
            Err((Some(requester), error))
        }
    }
}

/// Clients prove themselves at the token endpoint by their secret; no cookie counts there. The version
/// is everybody's.
fn is_exempt(hub: &AppState, path: &str) -> bool {
    is_api_root(hub, path)
        || path == hub.urls.hub_path("api/oauth2/token")
        || path == hub.urls.hub_path("api/authorizations/token")
}

async fn known(
    hub: &AppState,
    method: &Method,
    headers: &HeaderMap,
    is_api: bool,
    browser: &Browser,
) -> Result<Option<Known>> {
    if is_api
        && let Some(token) = token_in(headers)
        && let Some(known) = by_token(hub, &token).await?
    {
        return Ok(Some(known));
    }
    // Scripts of a server run on its user's host: a login there would be theirs as well.
    if hub.is_foreign_host(browser) {
        return Ok(None);
    }
    let name = hub.login_cookie();
    let Some(cookie) =
        session::cookie_values(headers, name).find_map(|value| LoginCookie::read(hub, name, value))
    else {
        return Ok(None);
    };
    // A form on another site can send a POST with our cookie, but not one that says it is JSON.
    if is_api && method == Method::POST && !is_json_or_unsaid(headers) {
        return Ok(None);
    }
    by_cookie(hub, &cookie, Some(&Sighting { headers, browser })).await
}

/// Whether a request comes with credentials that are good now.
pub async fn is_somebody(hub: &AppState, parts: &axum::http::request::Parts) -> Result<bool> {
    let is_api = is_api(hub, parts.uri.path());
    let browser = browser(hub, &parts.headers, parts.extensions.get::<Peer>().copied());
    let known = known(hub, &parts.method, &parts.headers, is_api, &browser).await?;
    Ok(known.is_some())
}

/// What is known now of whoever sent a request before; `None` if their credentials have ended meanwhile.
pub async fn again(hub: &AppState, requester: &Requester) -> Result<Option<Known>> {
    known(
        hub,
        &Method::GET,
        requester.headers(),
        true,
        &requester.browser,
    )
    .await
}

/// Whether the browser sends a login cookie that says nothing any more: expired, or not signed by us.
fn has_stale_cookie(hub: &AppState, requester: &Requester) -> bool {
    let name = hub.login_cookie();
    let mut values = session::cookie_values(requester.headers(), name).peekable();
    !hub.is_foreign_host(&requester.browser)
        && values.peek().is_some()
        && values.all(|value| LoginCookie::read(hub, name, value).is_none())
}

fn is_json_or_unsaid(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_none_or(|value| {
        value.is_empty()
            || value.to_str().is_ok_and(|text| {
                text.to_ascii_lowercase()
                    .split(';')
                    .any(|part| part.trim_start().starts_with("application/json"))
            })
    })
}

fn record_activity(hub: &AppState, requester: &Requester) {
    let now = hub.clock.now();
    let resolution = hub.activity_resolution();
    let is_due = |last: Option<chrono::NaiveDateTime>| {
        last.is_none_or(|last| (now - last).to_std().is_ok_and(|age| age >= resolution))
    };
    if let Some(token) = &requester.token
        && is_due(token.last_activity)
    {
        hub.servers.record_token_activity(token.id, now);
    }
    if let Some(session) = &requester.session
        && now - session.last_seen >= sessions::RESOLUTION
    {
        hub.servers.record_session_use(Seen {
            id: session.id,
            at: now,
            address: Some(requester.browser.address.clone()),
        });
    }
    // What a server itself sends is no sign of its user.
    let from_server = requester
        .token
        .as_ref()
        .and_then(|token| token.note.as_deref())
        .is_some_and(|note| note.starts_with("Server at "));
    if let Some(user) = requester.user()
        && !from_server
        && is_due(user.last_activity)
        && is_due(hub.servers.user_activity(user.id, user.last_activity))
    {
        hub.servers.record_user_activity(user.id, now);
    }
}

async fn check_xsrf(
    requester: &Requester,
    parts: &axum::http::request::Parts,
    body: Body,
) -> Result<Body> {
    let from_header = ["x-xsrftoken", "x-csrftoken"]
        .iter()
        .filter_map(|name| parts.headers.get(*name))
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .find(|value| !value.is_empty());
    let from_query = || {
        redirects::query_pairs(&parts.uri)
            .into_iter()
            .find(|(key, value)| key == xsrf::NAME && !value.is_empty())
            .map(|(_, value)| value)
    };
    let (sent, body) = if let Some(sent) = from_query().or(from_header) {
        (Some(sent), body)
    } else {
        xsrf_in_form(&parts.headers, body).await?
    };
    let Some(sent) = sent else {
        return Err(Error::forbidden(format!(
            "'_xsrf' argument missing from {}",
            parts.method
        )));
    };
    if bool::from(sent.as_bytes().ct_eq(requester.xsrf_token().as_bytes())) {
        Ok(body)
    } else {
        Err(Error::forbidden(format!(
            "XSRF cookie does not match {} argument",
            parts.method
        )))
    }
}

/// Reads a form to find its `_xsrf` field, and hands the same body on.
async fn xsrf_in_form(headers: &HeaderMap, body: Body) -> Result<(Option<String>, Body)> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let is_form = content_type.starts_with("application/x-www-form-urlencoded");
    let boundary = content_type
        .starts_with("multipart/form-data")
        .then(|| {
            content_type
                .split("boundary=")
                .nth(1)
                .map(|text| text.trim_matches('"').to_owned())
        })
        .flatten();
    if !is_form && boundary.is_none() {
        return Ok((None, body));
    }
    let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| {
        Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The form is too large, or it was not sent completely.",
        )
    })?;
    let found = match boundary {
        None => form_urlencoded::parse(&bytes)
            .find(|(key, _)| key == xsrf::NAME)
            .map(|(_, value)| value.into_owned()),
        Some(boundary) => crate::multipart::fields(&bytes, &boundary)
            .into_iter()
            .find(|field| field.name == xsrf::NAME && field.file_name.is_none())
            .and_then(|field| String::from_utf8(field.content.to_vec()).ok()),
    };
    Ok((found, Body::from(bytes)))
}

/// How the browser addressed us. The proxy in front of the hub says so in its headers; only it can
/// reach the hub's own port, or whoever is trusted like it.
fn browser(hub: &AppState, headers: &HeaderMap, peer: Option<Peer>) -> Browser {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let peer = peer
        .and_then(|peer| peer.0)
        .map(|address| address.ip().to_string())
        .unwrap_or_default();
    // Each proxy appends the address it was called from; the last one that is no proxy is the client.
    let address = text("x-forwarded-for")
        .into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .rev()
        .find(|address| {
            address.parse::<std::net::IpAddr>().is_ok() && !hub.is_trusted_proxy(address)
        })
        .map_or(peer, str::to_owned);
    let scheme = text("x-scheme")
        .or_else(|| text("x-forwarded-proto"))
        .and_then(|list| list.split(',').next())
        .map(str::trim)
        .filter(|scheme| matches!(*scheme, "http" | "https"))
        .unwrap_or("http");
    let forwarded = &hub.config.hub.forwarded_host_header;
    let host = (!forwarded.is_empty())
        .then(|| text(forwarded)?.split(',').next())
        .flatten()
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .or_else(|| text("host"))
        .filter(|host| host.len() <= 255)
        .unwrap_or_default();
    Browser {
        scheme: scheme.to_owned(),
        host: host.to_owned(),
        address,
    }
}

/// How long work for one login may take in an authenticator.
pub(crate) const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(60);

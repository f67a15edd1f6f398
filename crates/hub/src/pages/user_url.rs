//! `/user/…` and `/hub/user/…`: requests for servers that have no route, because they do not run or not
//! yet.

use std::time::Duration;

use axum::extract::{OriginalUri, Path, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse as _, Response};
use minijinja::context;
use minijinja::value::{Serde, Value};
use orrery_core::escape::path_segment;
use orrery_core::scopes::{Scope, Target};
use orrery_core::{ServerName, UserName};
use orrery_store::users::{self, User};

use super::pending::failure_value;
use super::respond::{frame, page_user};
use super::spawn::found;
use super::target::{Ending, ending, find_user};
use crate::auth::{self, Asking, Identity, auth_state, login, redirects};
use crate::error::{Error, Result};
use crate::servers::ServerView;
use crate::state::AppState;

/// Redirects to a server that is ready before something must be wrong.
const MAX_REDIRECTS: u32 = 4;

/// Tells the proxy for how many seconds it may repeat the answer to other programs.
const STOPPED: HeaderName = HeaderName::from_static("x-orrery-stopped");
/// As long as the proxy likes: a server that comes up has a route, and then nobody asks here.
const STOPPED_SECONDS: &str = "300";

/// `GET /hub/user/:name/…`: back to the server if it is ready, to its progress if it is on its way,
/// and otherwise a page that offers to start it. Programs get 424 and JSON.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
    Path(parameters): Path<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response> {
    let (name, path) = names(&parameters);
    // A program that calls its server's API with a token is told that the server is gone.
    let by_token = match (requester.user(), auth::token_in(&headers)) {
        (None, Some(token)) => auth::by_token(&hub, &token).await?,
        _ => None,
    };
    if let Some(known) = by_token {
        return if matches!(known.identity, Identity::User(_)) {
            Ok(not_running_json(&hub, &requester.browser, &uri, name, ""))
        } else {
            Err(Error::not_found(
                "No access to resources or resources not found",
            ))
        };
    }
    let Some(own) = requester.user() else {
        return Ok(crate::error::redirect(
            &hub.urls.login(path_and_query(&uri)),
        ));
    };
    // The first part of the path may be a server's name, when there is more after it.
    let first = path.split_once('/').map(|(first, _)| first);
    let mut allowed = requester
        .may(
            Scope::AccessServers,
            Target::Server {
                user: name,
                server: "",
            },
        )
        .await?;
    if let Some(server) = first.filter(|_| !allowed) {
        allowed = requester
            .may(Scope::AccessServers, Target::Server { user: name, server })
            .await?;
    }
    if !allowed {
        return Err(Error::not_found(
            "No access to resources or resources not found",
        ));
    }
    let user = if own.name == name {
        own.clone()
    } else {
        find_user(&hub, name).await?
    };
    let server = server_in(&hub, &user, path).await?;
    let view = hub.servers.view(&user, &server).await?;
    if view.as_ref().is_some_and(ServerView::ready) {
        return back_to_server(&hub, &uri, &auth::user_name(&user)?).await;
    }
    if wants_json(&headers) || path.split('/').any(|part| part == "api") {
        return Ok(not_running_json(
            &hub,
            &requester.browser,
            &uri,
            name,
            server.as_str(),
        ));
    }

    let user_name = auth::user_name(&user)?;
    let next = ("next".to_owned(), path_and_query(&uri).to_owned());
    let ending = ending(&hub, view.as_ref()).await?;
    if matches!(ending, Ending::StartFailed(_))
        || view.as_ref().is_some_and(|view| view.pending().is_some())
    {
        let pending = redirects::with_query(&hub.urls.spawn_pending(&user_name, &server), &[next]);
        return Ok(crate::error::redirect(&pending));
    }
    let failure = match &ending {
        Ending::Died(failure) => Some(failure_value(failure)),
        _ => None,
    };
    let html = hub.templates.render(
        "not_running.html",
        context! {
            user => Value::from_object(page_user(&hub, &user).await?),
            server_name => server.as_str(),
            spawn_url => redirects::with_query(&hub.urls.spawn(&user_name, &server), &[next]),
            failure,
            auth_state => Serde(auth_state::of(&hub, &user).await?),
            implicit_spawn_seconds => hub.config.hub.implicit_spawn_seconds,
            ..frame(&hub, &requester).await?.value()
        },
    )?;
    Ok((stopped_status(&hub), Html(html)).into_response())
}

/// Any other method: surely a program, whose server is gone.
pub(super) async fn other(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
    Path(parameters): Path<Vec<(String, String)>>,
) -> Result<Response> {
    let (name, path) = names(&parameters);
    let server = match requester.user() {
        Some(user) if user.name == name => server_in(&hub, user, path).await?,
        _ => ServerName::default_server(),
    };
    Ok(not_running_json(
        &hub,
        &requester.browser,
        &uri,
        name,
        server.as_str(),
    ))
}

/// `GET /hub/user-redirect/<path>`: the same path on the requester's own server, started if need be.
pub(super) async fn redirect(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
) -> Result<Response> {
    let user = requester.logged_in()?;
    let name = auth::user_name(user)?;
    let prefix = hub.urls.hub_path("user-redirect/");
    // The path stays as it is escaped.
    let path = uri
        .path()
        .strip_prefix(prefix.as_str())
        .unwrap_or_default()
        .trim_start_matches('/');
    let server = ServerName::parse(&hub.config.hub.default_server_name)
        .map_err(|error| Error::Internal(format!("JupyterHub.default_server_name: {error}")))?;
    let target = redirects::with_query(
        &format!("{}{path}", hub.urls.server_url(&name, &server)),
        &redirects::query_pairs(&uri),
    );
    Ok(found(&redirects::with_query(
        &hub.urls.spawn(&name, &server),
        &[("next".to_owned(), target)],
    )))
}

/// `GET /user/:name/…` of a program whose server is not ready, most often a forgotten tab that goes on
/// asking: 424 at once, instead of a redirect to where it gets 424. `None` leaves it to the redirect.
///
/// Everybody gets the same answer, also about names that nobody has, and it depends on nothing that the
/// request may choose. So the proxy may repeat it for whatever has the same two parts behind `/user/`,
/// as its mark says.
pub(super) async fn stopped(
    hub: &AppState,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<Response>> {
    let below = uri
        .path()
        .strip_prefix(hub.urls.base.as_str())
        .and_then(|path| path.strip_prefix("user/"));
    let Some((name, path)) = below.and_then(|below| below.split_once('/')) else {
        return Ok(None);
    };
    if method != Method::GET || path.is_empty() || !is_program(headers, path) {
        return Ok(None);
    }
    let decoded = |part| percent_encoding::percent_decode_str(part).decode_utf8();
    let first = path.split('/').next().unwrap_or_default();
    let (Ok(name), Ok(first)) = (decoded(name), decoded(first)) else {
        return Ok(None);
    };
    if let Some(user) = users::find(hub.store.read(), &name).await? {
        let server = server_in(hub, &user, &first).await?;
        let view = hub.servers.view(&user, &server).await?;
        if view.as_ref().is_some_and(ServerView::ready) {
            return Ok(None);
        }
    }
    let message = format!(
        "JupyterHub server no longer running at {}user/{}/. Restart the server at {}",
        hub.urls.base,
        path_segment(&name),
        hub.urls.public(&hub.urls.hub_path("home"))
    );
    let body = serde_json::json!({ "message": message }).to_string();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (STOPPED, STOPPED_SECONDS),
    ];
    Ok(Some((stopped_status(hub), headers, body).into_response()))
}

/// Whether a program asks: for a websocket, for JSON, or for a path of an API. Who takes HTML is a
/// person.
fn is_program(headers: &HeaderMap, path: &str) -> bool {
    let says = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.to_ascii_lowercase().contains(word))
    };
    says(header::UPGRADE, "websocket")
        || (!says(header::ACCEPT, "text/html")
            && (says(header::ACCEPT, "application/json")
                || path.split('/').any(|part| part == "api")))
}

fn names(parameters: &[(String, String)]) -> (&str, &str) {
    let named = |kind: &str| {
        parameters
            .iter()
            .find(|(name, _)| name == kind)
            .map_or("", |(_, value)| value.as_str())
    };
    (named("user"), named("path"))
}

/// The named server that a path begins with, or the default one.
async fn server_in(hub: &AppState, user: &User, path: &str) -> Result<ServerName> {
    let first = path.split('/').next().unwrap_or_default();
    if hub.config.hub.allow_named_servers
        && let Ok(server) = ServerName::parse(first)
        && hub.servers.view(user, &server).await?.is_some()
    {
        return Ok(server);
    }
    Ok(ServerName::default_server())
}

/// From `/hub/user/ada/…` to `/user/ada/…`, whose route should be there by now. The proxy may lag
/// behind, so each further try waits longer.
async fn back_to_server(hub: &AppState, uri: &Uri, user: &UserName) -> Result<Response> {
    let redirects = login::query(uri, "redirects")
        .and_then(|text| text.parse::<u32>().ok())
        .unwrap_or(0);
    if redirects >= MAX_REDIRECTS {
        return Err(Error::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Redirect loop detected. The server runs, but the proxy does not lead to it.",
        ));
    }
    if redirects > 0 {
        tracing::warn!(
            path = uri.path(),
            redirects,
            "a ready server was not reached through the proxy"
        );
        hub.routes.wake();
        tokio::time::sleep(Duration::from_secs(1 << redirects.min(3))).await;
    }
    let kept: Vec<_> = redirects::query_pairs(uri)
        .into_iter()
        .filter(|(key, _)| key != "redirects")
        .chain([("redirects".to_owned(), (redirects + 1).to_string())])
        .collect();
    let path = uri
        .path()
        .strip_prefix(hub.urls.hub.as_str())
        .unwrap_or_default();
    Ok(found(&redirects::with_query(
        &hub.urls.at_user(user, &format!("{}{path}", hub.urls.base)),
        &kept,
    )))
}

fn not_running_json(
    hub: &AppState,
    browser: &auth::Browser,
    uri: &Uri,
    user: &str,
    server: &str,
) -> Response {
    let path = uri
        .path()
        .strip_prefix(hub.urls.hub.trim_end_matches('/'))
        .unwrap_or(uri.path());
    let (scheme, host) = hub.public_origin(browser);
    let mut spawn = format!(
        "{scheme}://{host}{}spawn/{}",
        hub.urls.hub,
        path_segment(user)
    );
    if !server.is_empty() {
        spawn.push('/');
        spawn.push_str(&path_segment(server));
    }
    let message =
        format!("JupyterHub server no longer running at {path}. Restart the server at {spawn}");
    let body = serde_json::json!({ "message": message }).to_string();
    (
        stopped_status(hub),
        [(header::CONTENT_TYPE, "application/json")],
        body,
    )
        .into_response()
}

/// 424 tells a stopped server from a missing page; older versions of the lab know 503.
fn stopped_status(hub: &AppState) -> StatusCode {
    if hub.config.hub.use_legacy_stopped_server_status_code {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::FAILED_DEPENDENCY
    }
}

fn path_and_query(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Whether `Accept` likes JSON better than HTML.
fn wants_json(headers: &HeaderMap) -> bool {
    let quality = |wanted: &str| {
        headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
            .enumerate()
            .filter_map(|(place, item)| {
                let mut parts = item.split(';').map(str::trim);
                let name = parts.next()?;
                let quality = parts
                    .find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok())
                    .unwrap_or(1.0);
                name.eq_ignore_ascii_case(wanted)
                    .then_some((quality, std::cmp::Reverse(place)))
            })
            .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
    };
    match (quality("application/json"), quality("text/html")) {
        (Some(json), Some(html)) => json.0 > html.0 || (json.0 >= html.0 && json.1 > html.1),
        (json, _) => json.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_browsers_by_what_they_accept() {
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                false,
            ),
            ("application/json", true),
            ("application/json, text/plain, */*", true),
            ("text/html, application/json", false),
            ("application/json, text/html", true),
            ("text/html;q=0.5, application/json;q=0.9", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            assert_eq!(wants_json(&headers), expected, "{accept}");
        }
    }
}

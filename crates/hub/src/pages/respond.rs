//! From templates to answers: the frame around each page, and pages that several routes share.

use std::sync::Arc;

use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse as _, Response};
use minijinja::context;
use orrery_core::UserName;
use orrery_core::scopes::{Scope, Target};
use orrery_store::users::User;
use orrery_store::{groups, services};

use super::{Frame, PageServer, PageUser, ServiceLink, error_page, user_url};
use crate::auth::{self, Asking, Requester, redirects};
use crate::error::{Error, ErrorBody, Result};
use crate::servers::ServerView;
use crate::state::AppState;

/// What the login page is to show.
pub struct LoginForm<'a> {
    /// Where to go after the login, as the browser sent it.
    pub next: Option<String>,
    /// The name typed before.
    pub username: &'a str,
    /// What was wrong.
    pub error: Option<&'a str>,
}

/// The login page.
pub fn login(hub: &AppState, requester: &Requester, form: &LoginForm<'_>) -> Result<Html<String>> {
    let frame = stranger_frame(hub, requester);
    let next = form.next.clone().unwrap_or_default();
    let action = redirects::with_query(
        &hub.urls.hub_path("login"),
        &[("next".to_owned(), next.clone())],
    );
    let options = &hub.config.authenticator;
    let html = hub.templates.render(
        "login.html",
        context! {
            next => orrery_core::escape::query_value(&next),
            username => form.username,
            login_error => form.error,
            authenticator_login_url => action,
            authenticator => context! {
                request_otp => options.request_otp,
                otp_prompt => options.otp_prompt.as_deref(),
                login_service => "",
            },
            custom_html => "",
            ..frame.value()
        },
    )?;
    Ok(Html(html))
}

/// The page after a logout, where the login page would log in again at once.
pub fn logout(hub: &AppState, requester: &Requester) -> Result<Html<String>> {
    Ok(Html(hub.templates.render(
        "logout.html",
        context! { ..stranger_frame(hub, requester).value() },
    )?))
}

/// The frame for somebody who is not, or no longer, logged in.
pub fn stranger_frame(hub: &AppState, requester: &Requester) -> Arc<Frame> {
    Arc::new(Frame {
        xsrf_token: requester.xsrf_token().to_owned(),
        ..bare_frame(hub)
    })
}

fn bare_frame(hub: &AppState) -> Frame {
    Frame {
        base_url: hub.urls.hub.clone(),
        prefix: hub.urls.base.clone(),
        login_url: hub.urls.hub_path("login"),
        logout_url: hub.urls.hub_path("logout"),
        custom_logo: !hub.config.hub.logo_file.is_empty(),
        ..Frame::default()
    }
}

/// The frame for a page about `user`, mostly whoever looks at it.
pub async fn frame(hub: &AppState, requester: &Requester) -> Result<Arc<Frame>> {
    let Some(user) = requester.user() else {
        return Ok(stranger_frame(hub, requester));
    };
    let mut links = Vec::new();
    for service in services::list(hub.store.read()).await? {
        let fields = service.fields;
        if fields.display.unwrap_or(true)
            && fields.url.is_some()
            && requester
                .may(Scope::AccessServices, Target::Service(&fields.name))
                .await?
        {
            links.push(ServiceLink {
                href: hub.urls.service_url(&fields.name),
                name: fields.name,
            });
        }
    }
    Ok(Arc::new(Frame {
        xsrf_token: requester.xsrf_token().to_owned(),
        user: Some(Arc::new(page_user(hub, user).await?)),
        expanded_scopes: requester.scopes.to_strings(),
        services: links,
        ..bare_frame(hub)
    }))
}

/// A user and their servers, as templates see them.
pub async fn page_user(hub: &AppState, user: &User) -> Result<PageUser> {
    let name = auth::user_name(user)?;
    let views = hub.servers.views(user).await?;
    let groups = groups::of_users(hub.store.read(), &[user.id]).await?;
    let options_form = !hub.config.spawner.options_form.is_empty();
    let server = |view: &ServerView| Arc::new(page_server(view, options_form));
    let default_server = views
        .iter()
        .find(|view| view.name.is_default())
        .map_or_else(
            || {
                Arc::new(PageServer {
                    url: hub.urls.user_url(&name),
                    options_form,
                    ..PageServer::default()
                })
            },
            server,
        );
    Ok(PageUser {
        admin: user.admin,
        groups: groups.into_iter().map(|group| group.name).collect(),
        url: hub.urls.user_url(&name),
        hub_url: hub.urls.hub.clone(),
        default_server,
        named_servers: views
            .iter()
            .filter(|view| !view.name.is_default())
            .map(server)
            .collect(),
        name: user.name.clone(),
    })
}

/// One server, as templates see it.
pub fn page_server(view: &ServerView, options_form: bool) -> PageServer {
    PageServer {
        name: view.name.as_str().to_owned(),
        display_name: view.display_name.clone(),
        url: view.url.clone(),
        ready: view.ready(),
        active: view.phase.is_active(),
        pending: view.pending(),
        started: view.started,
        last_activity: view.last_activity,
        options_form,
        user_options: view.user_options.clone(),
    }
}

/// The outermost layer: gives errors their form, JSON on API paths and a page elsewhere, and adds
/// the cookies that were set on the way.
pub async fn render_errors(State(hub): State<AppState>, request: Request, next: Next) -> Response {
    let is_api = auth::is_api(&hub, request.uri().path());
    let mut response = next.run(request).await;
    let requester = response.extensions_mut().remove::<Arc<Requester>>();
    // Extractors of the framework answer with bare text; those are given the same form.
    let is_bare = response.extensions().get::<ErrorBody>().is_none()
        && matches!(
            response.status(),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::PAYLOAD_TOO_LARGE
        );
    if is_bare {
        let status = response.status();
        response.extensions_mut().insert(ErrorBody {
            status,
            message: String::new(),
        });
    }
    if let Some(error) = response.extensions_mut().remove::<ErrorBody>() {
        response = shown(&hub, requester.as_deref(), response, &error, is_api);
    }
    if let Some(requester) = requester {
        auth::add_cookies(&requester, &mut response);
    }
    response
}

fn shown(
    hub: &AppState,
    requester: Option<&Requester>,
    response: Response,
    error: &ErrorBody,
    is_api: bool,
) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let page = if is_api {
        None
    } else {
        error_html(hub, requester, error)
    };
    let (content_type, body) = match page {
        Some(html) => ("text/html; charset=utf-8", html),
        None => ("application/json", error.json()),
    };
    parts
        .headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Response::from_parts(parts, body.into())
}

/// The error's page; `None` when even that fails, which must not hide the first error.
fn error_html(hub: &AppState, requester: Option<&Requester>, error: &ErrorBody) -> Option<String> {
    let mut frame = bare_frame(hub);
    if let Some(requester) = requester {
        requester.xsrf_token().clone_into(&mut frame.xsrf_token);
        // Only what is known already: the database may be what failed.
        frame.user = requester.user().and_then(|user| {
            let name = UserName::parse(&user.name).ok()?;
            Some(Arc::new(PageUser {
                name: user.name.clone(),
                admin: user.admin,
                url: hub.urls.user_url(&name),
                hub_url: hub.urls.hub.clone(),
                ..PageUser::default()
            }))
        });
        frame.expanded_scopes = requester.scopes.to_strings();
    }
    error_page(&hub.templates, &Arc::new(frame), error.status, &error.message)
        .inspect_err(|failure| tracing::error!(error = %format!("{failure:#}"), "the error page could not be rendered"))
        .ok()
}

/// `GET /hub/`: home for people, the login page for strangers.
pub async fn root(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
) -> Result<Response> {
    let target = if let Some(user) = requester.user() {
        auth::login::next_url(&hub, &requester, &uri, Some(user)).await?
    } else if auth::login::query(&uri, "next").is_some() {
        redirects::with_query(&hub.urls.hub_path("login"), &redirects::query_pairs(&uri))
    } else {
        hub.urls
            .login(uri.path_and_query().map_or("/", |path| path.as_str()))
    };
    Ok(crate::error::redirect(&target))
}

/// Any path under the hub's prefix that nothing else answers.
pub async fn not_found() -> Error {
    Error::not_found("")
}

/// A path outside the hub's prefix reached the hub because the proxy has no better route: the same
/// path under the prefix answers, `/user/ada/lab` by `/hub/user/ada/lab`. Programs are told at once that
/// their server is gone.
pub async fn outside(
    State(hub): State<AppState>,
    method: Method,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response> {
    if let Some(answer) = user_url::stopped(&hub, &method, &uri, &headers).await? {
        return Ok(answer);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let inside = path
        .strip_prefix(hub.urls.base.as_str())
        .unwrap_or(path.trim_start_matches('/'));
    // A path that begins with slashes would name another host.
    let inside = inside.trim_start_matches('/');
    Ok((
        StatusCode::FOUND,
        // Also from the hosts of users, where the hub's cookies are not sent.
        [(
            header::LOCATION,
            hub.urls.public(&format!("{}{inside}", hub.urls.hub)),
        )],
    )
        .into_response())
}

//! Logging in by the form.

use std::time::{Duration, Instant};

use axum::extract::{Form, OriginalUri, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use orrery_core::access::Decision;
use orrery_core::authenticator::{AuthenticatorError, Credentials, Identity as Proven, LoginKind};
use orrery_core::escape::for_log;
use orrery_core::{Secret, ServerName, UserName};
use orrery_store::users::User;
use tokio::time::error::Elapsed;

use super::{
    AUTHENTICATE_TIMEOUT, Asking, Requester, auth_state, people, redirects, sessions, throttle,
    user_name,
};
use crate::audit::{Action, Event, Outcome};
use crate::error::{Error, Result, redirect};
use crate::pages;
use crate::state::AppState;

/// Longer fields are refused before anything else is done with them.
const MAX_FIELD: usize = 4096;
/// Fields that a login form may have.
const MAX_FIELDS: usize = 32;
/// Characters of a failed name that are logged and shown again.
const SHOWN: usize = 32;

/// `GET /hub/login`: the form, or straight on for somebody who is logged in.
pub async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
) -> Result<Response> {
    if let Some(user) = requester.user() {
        requester.renew_xsrf(user);
        let next = next_url(&hub, &requester, &uri, Some(user)).await?;
        return Ok(redirect(&next));
    }
    requester.refresh_xsrf();
    let typed = query(&uri, "username").unwrap_or_default();
    let page = pages::login(
        &hub,
        &requester,
        &pages::LoginForm {
            next: query(&uri, "next"),
            username: &typed,
            error: None,
        },
    )?;
    Ok(page.into_response())
}

/// `POST /hub/login`.
pub async fn submit(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
    form: Result<Form<Vec<(String, String)>>, axum::extract::rejection::FormRejection>,
) -> Result<Response> {
    let began = Instant::now();
    let Ok(Form(fields)) = form else {
        return Err(Error::bad_request(
            "The login form could not be read: it is not valid UTF-8 form data.",
        ));
    };
    if fields.len() > MAX_FIELDS
        || fields
            .iter()
            .any(|(name, value)| name.len() + value.len() > MAX_FIELD)
    {
        tracing::warn!(address = %requester.browser.address, "a login form with oversized fields was refused");
        return Err(Error::bad_request(
            "The login form has a field that is too long.",
        ));
    }
    if hub.authenticator.kind() == LoginKind::Disabled {
        return Err(Error::forbidden("Nobody can log in here."));
    }
    let credentials = credentials(fields, &requester);
    let refuse = |status: StatusCode, error: &str| -> Result<Response> {
        let shown: String = credentials.username.chars().take(SHOWN).collect();
        let form = pages::LoginForm {
            next: query(&uri, "next"),
            username: &shown,
            error: Some(error),
        };
        Ok((status, pages::login(&hub, &requester, &form)?).into_response())
    };

    let keys = throttle::keys(
        &hub.normalize(&credentials.username).await,
        &requester.browser.address,
    );
    let attempt = hub.throttle.attempt(&keys, hub.clock.now());
    let attempt = match attempt {
        Ok(attempt) => attempt,
        Err(wait) => {
            note_failed(&hub, &requester, &credentials.username, "throttled").await;
            return too_many(wait, refuse);
        }
    };
    let user = match authenticate(&hub, &credentials).await? {
        Ok(user) => Some(user),
        Err(reason) => {
            note_failed(&hub, &requester, &credentials.username, reason).await;
            None
        }
    };
    let Some(user) = user else {
        attempt.failed(hub.clock.now());
        hub.metrics.login(false, began.elapsed());
        tracing::warn!(
            user = %for_log(&credentials.username, SHOWN),
            address = %for_log(&requester.browser.address, 64),
            "failed login"
        );
        return refuse(StatusCode::FORBIDDEN, "Invalid username or password");
    };
    attempt.succeeded();
    sessions::begin(&hub, &requester, &user).await?;
    tracing::info!(user = %user.name, address = %requester.browser.address, "user logged in");
    let event = Event::new(Action::Login).by_login(&user.name, &requester);
    hub.audit.note(event.on_user(&user.name));
    hub.metrics.login(true, began.elapsed());
    Ok(redirect(
        &next_url(&hub, &requester, &uri, Some(&user)).await?,
    ))
}

/// The answer to a login that has to wait.
fn too_many(
    wait: Duration,
    refuse: impl FnOnce(StatusCode, &str) -> Result<Response>,
) -> Result<Response> {
    let seconds = wait.as_secs().max(1);
    let mut response = refuse(
        StatusCode::TOO_MANY_REQUESTS,
        &format!("Too many failed logins. Please wait {seconds} s and try again."),
    )?;
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, seconds.into());
    Ok(response)
}

fn credentials(fields: Vec<(String, String)>, requester: &Requester) -> Credentials {
    let (mut username, mut password, mut rest) = (String::new(), Secret::default(), Vec::new());
    for (name, value) in fields {
        match name.as_str() {
            super::xsrf::NAME => {}
            "username" => value.trim().clone_into(&mut username),
            "password" => password = Secret::new(value),
            _ => rest.push((name, Secret::new(value))),
        }
    }
    Credentials {
        username,
        password,
        fields: rest,
        remote_address: requester.browser.address.clone(),
    }
}

/// Records a login that was refused. What was typed for a name is kept only if it is somebody's: people
/// also type passwords there.
pub(crate) async fn note_failed(
    hub: &AppState,
    requester: &Requester,
    typed: &str,
    reason: &'static str,
) {
    requester.tell_denial();
    let name = hub.normalize(typed).await;
    let known = orrery_store::users::find(hub.store.read(), &name).await;
    let mut event = Event::new(Action::LoginFailed)
        .by_stranger(requester)
        .outcome(Outcome::Denied)
        .detail("reason", reason);
    if let Ok(Some(user)) = known {
        event = event.on_user(&user.name);
    }
    hub.audit.note(event);
}

/// The user behind the credentials, when they are right and the rules let them in; else why not.
async fn authenticate(
    hub: &AppState,
    credentials: &Credentials,
) -> Result<std::result::Result<User, &'static str>> {
    let asking = hub.authenticator.authenticate(credentials);
    let proven = answer_of(tokio::time::timeout(AUTHENTICATE_TIMEOUT, asking).await)?;
    let Some(proven) = proven else {
        return Ok(Err("credentials"));
    };
    Ok(admit(hub, proven).await?.ok_or("not_allowed"))
}

/// Applies the rules to somebody who has proven who they are, and keeps what is new about them.
pub async fn admit(hub: &AppState, mut proven: Proven) -> Result<Option<User>> {
    let name = match hub.user_name(&proven.name).await {
        Ok(name) => name,
        Err(error) => {
            tracing::warn!(user = %for_log(&proven.name, SHOWN), %error, "not a user's name");
            return Ok(None);
        }
    };
    let exists = hub.rules.asks_for_existing()
        && orrery_store::users::find(hub.store.read(), name.as_str())
            .await?
            .is_some();
    if !may_come_in(hub, &name, exists).await? {
        return Ok(None);
    }
    if proven.admin.is_none() && hub.rules.admin(&name).is_none() {
        let asking = hub.authenticator.is_admin(&name);
        proven.admin = answer_of(tokio::time::timeout(AUTHENTICATE_TIMEOUT, asking).await)?;
    }
    let user = people::came_in(hub, &name, &proven).await?;
    auth_state::keep(hub, &user, proven.auth_state.as_ref()).await?;
    Ok(Some(user))
}

/// Whether the hub's rules or the authenticator's own let somebody in who has proven who they are.
pub async fn may_come_in(hub: &AppState, name: &UserName, exists: bool) -> Result<bool> {
    let decision = hub.rules.decide(name, exists);
    if decision.is_allowed() {
        return Ok(true);
    }
    if decision == Decision::NotAllowed {
        let asking = hub.authenticator.allows(name);
        if answer_of(tokio::time::timeout(AUTHENTICATE_TIMEOUT, asking).await)? {
            return Ok(true);
        }
    }
    tracing::warn!(user = %name, ?decision, "authenticated, but may not come in");
    Ok(false)
}

/// What the authenticator answered; if it did not, 503 and a line in the log.
fn answer_of<T>(
    answer: std::result::Result<std::result::Result<T, AuthenticatorError>, Elapsed>,
) -> Result<T> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::error!(%error, "the authenticator failed");
            Err(Error::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Logging in does not work right now. Please try again later.",
            ))
        }
        Err(_) => {
            tracing::error!(
                seconds = AUTHENTICATE_TIMEOUT.as_secs(),
                "the authenticator did not answer in time"
            );
            Err(Error::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Logging in takes too long right now. Please try again later.",
            ))
        }
    }
}

/// Where a login leads: to `next` if that is ours, or to the user's server, or home.
pub async fn next_url(
    hub: &AppState,
    requester: &Requester,
    uri: &Uri,
    user: Option<&User>,
) -> Result<String> {
    if let Some(next) = query(uri, "next").filter(|next| !next.is_empty()) {
        if let Some(safe) = hub.safe_next(&next, &requester.browser) {
            return Ok(safe);
        }
        tracing::warn!(next = %for_log(&next, 200), "not redirecting outside the hub");
    }
    let default = default_url(hub, user).await?;
    let kept: Vec<_> = redirects::query_pairs(uri)
        .into_iter()
        .filter(|(key, _)| key != "next" && key != super::xsrf::NAME)
        .collect();
    Ok(redirects::with_query(&default, &kept))
}

/// Where somebody lands who asked for nothing in particular.
pub async fn default_url(hub: &AppState, user: Option<&User>) -> Result<String> {
    if !hub.config.hub.default_url.is_empty() {
        return Ok(hub.config.hub.default_url.clone());
    }
    let Some(user) = user.filter(|_| hub.config.hub.redirect_to_server) else {
        return Ok(hub.urls.hub_path("home"));
    };
    let view = hub
        .servers
        .view(user, &ServerName::default_server())
        .await?;
    if view.is_some_and(|view| view.phase.is_active()) {
        Ok(hub.urls.user_url(&user_name(user)?))
    } else {
        Ok(hub.urls.hub_path("spawn"))
    }
}

/// One parameter of the query.
pub fn query(uri: &Uri, name: &str) -> Option<String> {
    redirects::query_pairs(uri)
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

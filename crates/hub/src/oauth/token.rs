//! `POST /hub/api/oauth2/token`: a server or service exchanges a code for a token.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use orrery_core::Secret;
use orrery_core::escape::for_log;
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::oauth_clients::{self, OauthClient};
use orrery_store::oauth_codes::{self, OauthCode};
use orrery_store::token_hash::{self, Origin};
use serde::Serialize;

use super::authorize::verifies;
use crate::error::{Error, Result};
use crate::state::AppState;

/// The largest form a client sends.
const MAX_BODY: usize = 64 * 1024;

#[derive(Serialize)]
struct Granted<'a> {
    access_token: &'a str,
    expires_in: u64,
    token_type: &'static str,
    scope: String,
}

#[derive(Serialize)]
struct Refused {
    error: &'static str,
    error_description: &'static str,
}

#[derive(Default)]
struct Form {
    grant_type: Option<String>,
    code: Option<String>,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    redirect_uri: Option<String>,
    code_verifier: Option<Secret>,
}

/// Checks client, code, address and verifier, in this order, and hands out the token once.
pub(super) async fn exchange(State(hub): State<AppState>, body: Bytes) -> Result<Response> {
    let Some(form) = Form::parse(&body) else {
        return Ok(refuse(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "The form is too large or names a field twice.",
        ));
    };
    match form.grant_type.as_deref() {
        Some("authorization_code") => {}
        Some(_) => {
            return Ok(refuse(
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "Only authorization_code is supported.",
            ));
        }
        None => {
            return Ok(refuse(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "Missing grant_type parameter.",
            ));
        }
    }
    let Some(client) = authenticate(&hub, &form).await? else {
        return Ok(refuse(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "Unknown client, or its secret is wrong.",
        ));
    };
    let Some(code) = form.code.as_deref().filter(|code| code.len() <= 64) else {
        return Ok(refuse(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "Missing code parameter.",
        ));
    };
    // Taken before it is checked: a code is good for one try, so that two exchanges at once cannot
    // both succeed and a wrong verifier cannot be tried again.
    let now = hub.unix_time();
    let taken = hub
        .store
        .write(|transaction| async move { oauth_codes::take(&transaction, code, now).await })
        .await?;
    let Some(taken) = taken.filter(|taken| is_good(&hub, taken, &client, &form)) else {
        return Ok(refuse(
            StatusCode::BAD_REQUEST,
            "invalid_grant",
            "The code is not, or no longer, good.",
        ));
    };
    let Some(user_id) = taken.user_id else {
        return Ok(refuse(
            StatusCode::BAD_REQUEST,
            "invalid_grant",
            "The user of this code is gone.",
        ));
    };

    let token = token_hash::generate_token()?;
    let lifetime = Duration::from_secs(
        u64::try_from(hub.config.hub.oauth_token_expires_in).unwrap_or_default(),
    );
    let created = hub.clock.now();
    let new = NewApiToken {
        owner: Owner::User(user_id),
        hashed: token_hash::hash_token(token.expose(), Origin::Generated)?,
        prefix: token_hash::prefix(token.expose()).to_owned(),
        client_id: client.identifier.clone(),
        session_id: taken.session_id.clone(),
        created,
        expires_at: (!lifetime.is_zero()).then(|| created + lifetime),
        note: String::new(),
        scopes: taken.scopes.clone(),
    };
    let new = &new;
    hub.store
        .write(|transaction| async move { api_tokens::insert(&transaction, new).await })
        .await?;
    let granted = Granted {
        access_token: token.expose(),
        expires_in: lifetime.as_secs(),
        token_type: "Bearer",
        scope: taken.scopes.join(" "),
    };
    Ok((
        [
            (header::CACHE_CONTROL, "no-store"),
            (header::PRAGMA, "no-cache"),
        ],
        Json(granted),
    )
        .into_response())
}

impl Form {
    /// `None` when the body is too large or a parameter comes twice (RFC 6749, 3.2).
    fn parse(body: &[u8]) -> Option<Self> {
        if body.len() > MAX_BODY {
            return None;
        }
        let mut form = Self::default();
        for (key, value) in form_urlencoded::parse(body) {
            if value.is_empty() {
                continue;
            }
            let value = value.into_owned();
            let is_new = match &*key {
                "grant_type" => form.grant_type.replace(value).is_none(),
                "code" => form.code.replace(value).is_none(),
                "client_id" => form.client_id.replace(value).is_none(),
                "client_secret" => form.client_secret.replace(value.into()).is_none(),
                "redirect_uri" => form.redirect_uri.replace(value).is_none(),
                "code_verifier" => form.code_verifier.replace(value.into()).is_none(),
                _ => true,
            };
            if !is_new {
                return None;
            }
        }
        Some(form)
    }
}

/// The client, if its secret is right. A client without a secret cannot prove itself.
async fn authenticate(hub: &AppState, form: &Form) -> Result<Option<OauthClient>> {
    let (Some(client_id), Some(secret)) = (&form.client_id, &form.client_secret) else {
        return Ok(None);
    };
    let Some(client) = oauth_clients::find(hub.store.read(), client_id).await? else {
        tracing::warn!(client = %for_log(client_id, 200), "no such OAuth client");
        return Ok(None);
    };
    let hashed = client.secret.clone().unwrap_or_default();
    let secret = secret.clone();
    // A secret that the site chose has an expensive hash.
    let fits = if token_hash::is_expensive(&hashed) {
        tokio::task::spawn_blocking(move || token_hash::verify_token(&hashed, secret.expose()))
            .await
            .map_err(|error| {
                Error::Internal(format!("a client's secret could not be checked: {error}"))
            })?
    } else {
        token_hash::verify_token(&hashed, secret.expose())
    };
    if !fits {
        tracing::warn!(client = %client.identifier, "wrong OAuth client secret");
    }
    Ok(fits.then_some(client))
}

fn is_good(hub: &AppState, code: &OauthCode, client: &OauthClient, form: &Form) -> bool {
    let problem = if code.client_id.as_deref() != Some(&client.identifier) {
        "it was given to another client"
    } else if form.redirect_uri.as_deref().unwrap_or_default()
        != code.redirect_uri.as_deref().unwrap_or_default()
    {
        "it was given for another address"
    } else {
        match (&code.code_challenge, &form.code_verifier) {
            (Some(challenge), Some(verifier)) => {
                let method = code.code_challenge_method.as_deref().unwrap_or("plain");
                if verifies(challenge, method, verifier.expose()) {
                    return true;
                }
                "its verifier is wrong"
            }
            (Some(_), None) => "its verifier is missing",
            (None, Some(_)) => "there is a verifier, but it was given without a challenge",
            (None, None) if hub.config.hub.oauth_require_pkce => "it was given without a challenge",
            (None, None) => return true,
        }
    };
    tracing::warn!(client = %client.identifier, problem, "an OAuth code was refused");
    false
}

fn refuse(status: StatusCode, error: &'static str, error_description: &'static str) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::PRAGMA, "no-cache"),
    ];
    (
        status,
        headers,
        Json(Refused {
            error,
            error_description,
        }),
    )
        .into_response()
}

//! `POST /hub/api/oauth2/token`: a server or service exchanges a code for a token.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use orrery_core::Secret;
use orrery_core::escape::for_log;
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::oauth_clients::{self, OauthClient};
use orrery_store::oauth_codes::{self, OauthCode};
use orrery_store::token_hash::{self, Origin};
use orrery_store::{StoreError, sessions};
use serde::Serialize;

use super::authorize::verifies;
use crate::error::{Error, Result};
use crate::state::AppState;

/// The largest form a client sends.
const MAX_BODY: usize = 64 * 1024;
/// The longest code that is looked for.
const MAX_CODE: usize = 64;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    error_description: Option<String>,
}

/// Why there is no token, as RFC 6749, 5.2 names it.
enum Refusal {
    /// The request is not as it should be.
    Request(String),
    /// Not a grant that we know.
    GrantType,
    /// The client is not known, or its secret is wrong.
    Client,
    /// The code, or its verifier, is not good.
    Grant,
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

/// Checks client, code, verifier and address, in this order, and hands out the token once.
pub(super) async fn exchange(
    State(hub): State<AppState>,
    OriginalUri(uri): OriginalUri,
    body: Bytes,
) -> Result<Response> {
    // Addresses are written to logs; secrets must not stand in them.
    if uri.query().is_some_and(|query| !query.is_empty()) {
        let text = "URL query parameters are not allowed".to_owned();
        return Ok(Refusal::Request(text).into_response());
    }
    let form = match Form::parse(&body) {
        Ok(form) => form,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    if form.grant_type.as_deref() != Some("authorization_code") {
        return Ok(Refusal::GrantType.into_response());
    }
    let Some(code) = form.code.as_deref() else {
        return Ok(Refusal::Request("Missing code parameter.".to_owned()).into_response());
    };
    let Some(client) = authenticate(&hub, &form).await? else {
        return Ok(Refusal::Client.into_response());
    };
    if code.len() > MAX_CODE {
        return Ok(Refusal::Grant.into_response());
    }
    // Taken before it is checked: a code is good for one try, so that two exchanges at once cannot
    // both succeed and a wrong verifier cannot be tried again.
    let now = hub.unix_time();
    let taken = hub
        .store
        .write(|transaction| async move { oauth_codes::take(&transaction, code, now).await })
        .await?;
    let Some(taken) = taken else {
        return Ok(Refusal::Grant.into_response());
    };
    if let Err((refusal, problem)) = check(&hub, &taken, &client, &form) {
        tracing::warn!(client = %client.identifier, problem, "an OAuth code was refused");
        return Ok(refusal.into_response());
    }
    // The user may be gone.
    let Some(user_id) = taken.user_id else {
        return Ok(Refusal::Grant.into_response());
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
    let given = hub
        .store
        .write(|transaction| async move {
            // Somebody who logs out while a tab of theirs comes back from here is logged out.
            if let Some(session_id) = &new.session_id
                && sessions::is_over(&transaction, user_id, session_id).await?
            {
                return Ok::<_, StoreError>(false);
            }
            api_tokens::insert(&transaction, new).await?;
            Ok(true)
        })
        .await?;
    if !given {
        tracing::info!(client = %new.client_id, "an OAuth code of a session that has ended was refused");
        return Ok(Refusal::Grant.into_response());
    }
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
    /// Refuses a body that is too large, or a parameter that comes twice (RFC 6749, 3.2).
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        if body.len() > MAX_BODY {
            return Err(Refusal::Request("The body is too large.".to_owned()));
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
                return Err(Refusal::Request(format!("Duplicate {key} parameter.")));
            }
        }
        Ok(form)
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

/// Whether the code was given for this very exchange; why not, for the client and for the log.
fn check(
    hub: &AppState,
    code: &OauthCode,
    client: &OauthClient,
    form: &Form,
) -> Result<(), (Refusal, &'static str)> {
    let request = |text: &str| Refusal::Request(text.to_owned());
    if code.client_id.as_deref() != Some(&client.identifier) {
        return Err((Refusal::Grant, "it was given to another client"));
    }
    match (&code.code_challenge, &form.code_verifier) {
        (Some(challenge), Some(verifier)) => {
            let method = code.code_challenge_method.as_deref().unwrap_or("plain");
            if !verifies(challenge, method, verifier.expose()) {
                return Err((Refusal::Grant, "its verifier is wrong"));
            }
        }
        (Some(_), None) => {
            let text = "Code verifier required.";
            return Err((request(text), "its verifier is missing"));
        }
        // Somebody took the challenge from the request for the code (RFC 9700, 4.8.2).
        (None, Some(_)) => {
            let problem = "there is a verifier, but it was given without a challenge";
            return Err((Refusal::Grant, problem));
        }
        (None, None) if hub.config.hub.oauth_require_pkce => {
            let text = "Code verifier required.";
            return Err((request(text), "it was given without a challenge"));
        }
        (None, None) => {}
    }
    // A client has one address, so it need not say it again.
    let given = code.redirect_uri.as_deref().unwrap_or_default();
    if form.redirect_uri.as_deref().is_some_and(|uri| uri != given) {
        let text = "Mismatching redirect URI.";
        return Err((request(text), "it was given for another address"));
    }
    Ok(())
}

impl Refusal {
    fn into_response(self) -> Response {
        let (status, error, error_description) = match self {
            Self::Request(text) => (StatusCode::BAD_REQUEST, "invalid_request", Some(text)),
            Self::GrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type", None),
            Self::Client => (StatusCode::UNAUTHORIZED, "invalid_client", None),
            Self::Grant => (StatusCode::BAD_REQUEST, "invalid_grant", None),
        };
        let body = Json(Refused {
            error,
            error_description,
        });
        let headers = [
            (header::CACHE_CONTROL, "no-store"),
            (header::PRAGMA, "no-cache"),
        ];
        let mut response = (status, headers, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750, 3: with 401 goes a challenge.
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer error=\"invalid_client\""),
            );
        }
        response
    }
}

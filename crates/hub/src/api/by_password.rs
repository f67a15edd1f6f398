//! People who prove who they are by name and password in a request's body.

use std::time::Duration;

use axum::http::{StatusCode, header};
use orrery_core::Secret;
use orrery_core::authenticator::Credentials;
use orrery_store::users::{self, User};
use serde_json::Value;

use crate::auth::login::{may_come_in, note_failed};
use crate::auth::{AUTHENTICATE_TIMEOUT, Requester, throttle};
use crate::error::{Error, Result};
use crate::state::AppState;

/// Names and passwords that are longer are not looked at.
const MAX_FIELD: usize = 4096;

/// The user whose name and password the body has. Nobody is let in who could not log in by the form, and
/// failures slow down in the same way; a user who never logged in is not made here.
pub(super) async fn by_password(
    hub: &AppState,
    asking: &Requester,
    auth: Option<&Value>,
) -> Result<Option<User>> {
    let Some(Value::Object(fields)) = auth else {
        return Ok(None);
    };
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let (Some(username), Some(password)) = (text("username"), text("password")) else {
        return Ok(None);
    };
    let address = &asking.browser.address;
    if username.len() + password.len() > MAX_FIELD {
        return Ok(None);
    }
    let keys = throttle::keys(&hub.normalize(username.trim()).await, address);
    let begun = hub.throttle.attempt(&keys, hub.clock.now());
    let attempt = begun.map_err(|wait| {
        let seconds = wait.max(Duration::from_secs(1)).as_secs();
        let error = Error::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("Too many failed logins. Please wait {seconds} s and try again."),
        );
        error.with_header(header::RETRY_AFTER, seconds.into())
    })?;
    let credentials = Credentials {
        username: username.trim().to_owned(),
        password: Secret::new(password),
        fields: Vec::new(),
        remote_address: address.clone(),
    };
    let proven = tokio::time::timeout(
        AUTHENTICATE_TIMEOUT,
        hub.authenticator.authenticate(&credentials),
    )
    .await;
    let proven = match proven {
        Ok(Ok(proven)) => proven,
        Ok(Err(error)) => {
            tracing::error!(%error, "the authenticator failed");
            None
        }
        Err(_) => {
            tracing::error!(
                seconds = AUTHENTICATE_TIMEOUT.as_secs(),
                "the authenticator did not answer in time"
            );
            None
        }
    };
    let name = match proven {
        Some(proven) => hub.user_name(&proven.name).await.ok(),
        None => None,
    };
    let user = match name {
        Some(name) if may_come_in(hub, &name, true).await? => {
            users::find(hub.store.read(), name.as_str()).await?
        }
        _ => None,
    };
    if user.is_some() {
        attempt.succeeded();
    } else {
        attempt.failed(hub.clock.now());
        tracing::warn!(
            user = %orrery_core::escape::for_log(username, 32),
            address = %orrery_core::escape::for_log(address, 64),
            "failed login for a token"
        );
        note_failed(hub, asking, username.trim(), "credentials").await;
    }
    Ok(user)
}

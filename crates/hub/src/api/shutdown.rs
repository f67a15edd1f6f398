//! `/api/shutdown`: ends the hub.

use std::sync::atomic::{AtomicU8, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use orrery_core::scopes::Scope;
use serde_json::{Value, json};

use super::body::JsonBody;
use super::python;
use super::schemas::{MESSAGE, SHUTDOWN_REQUEST};
use crate::audit::{Action, Event};
use crate::auth::Asking;
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// What a request to shut down wants done with servers and the proxy, beyond the configuration.
#[derive(Debug, Default)]
pub struct Cleanup {
    servers: Wish,
    proxy: Wish,
}

impl Cleanup {
    /// Whether to stop servers, given what `cleanup_servers` says.
    pub fn servers(&self, configured: bool) -> bool {
        self.servers.get().unwrap_or(configured)
    }

    /// Whether to stop the proxy, given what `cleanup_proxy` says.
    pub fn proxy(&self, configured: bool) -> bool {
        self.proxy.get().unwrap_or(configured)
    }
}

/// Yes, no, or nothing said.
#[derive(Debug, Default)]
struct Wish(AtomicU8);

impl Wish {
    fn set(&self, wish: bool) {
        self.0.store(if wish { 2 } else { 1 }, Ordering::SeqCst);
    }

    fn get(&self) -> Option<bool> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            wish => Some(wish == 2),
        }
    }
}

pub(super) fn routes() -> ApiRoutes {
    let needs = Needs::Scopes(&[Scope::Shutdown]);
    ApiRoutes::default().post("/api/shutdown", needs, &SHUTDOWN, shutdown)
}

const SHUTDOWN: Operation = Operation::new("post-shutdown", Tag::Hub, "End the hub")
    .about("After this answer, with or without servers and the proxy.")
    .body(Body::json(Shape::One(&SHUTDOWN_REQUEST)).optional())
    .answers(&[Answer::json(202, "It ends.", Shape::One(&MESSAGE))]);

/// `POST`: the hub ends after this answer, with or without servers and the proxy.
async fn shutdown(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let (proxy, servers) = (wish(&body, "proxy")?, wish(&body, "servers")?);
    if let Some(wish) = proxy {
        hub.cleanup.proxy.set(wish);
    }
    if let Some(wish) = servers {
        hub.cleanup.servers.set(wish);
    }
    tracing::warn!(
        by = requester.name(),
        ?proxy,
        ?servers,
        "shutting down on request"
    );
    let event = Event::new(Action::Shutdown).by(&requester);
    hub.audit
        .record(event.detail("servers", servers).detail("proxy", proxy))
        .await;
    hub.stop.cancel();
    Ok((
        StatusCode::ACCEPTED,
        Json(json!({ "message": "Shutting down Hub" })),
    )
        .into_response())
}

fn wish(body: &Value, key: &str) -> Result<Option<bool>> {
    match body.get(key) {
        None => Ok(None),
        Some(Value::Bool(wish)) => Ok(Some(*wish)),
        // To Python, 1 and 0 are true and false.
        Some(Value::Number(number)) if number.as_f64() == Some(1.0) => Ok(Some(true)),
        Some(Value::Number(number)) if number.as_f64() == Some(0.0) => Ok(Some(false)),
        Some(other) => Err(Error::bad_request(format!(
            "{key} must be true or false, got {}",
            python::repr(other)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_stronger_than_the_configuration() {
        let cleanup = Cleanup::default();
        assert!(cleanup.servers(true) && !cleanup.servers(false));
        cleanup.servers.set(false);
        assert!(!cleanup.servers(true) && cleanup.proxy(true));
        cleanup.proxy.set(true);
        assert!(cleanup.proxy(false));
    }

    #[test]
    fn only_yes_and_no_are_wishes() {
        assert_eq!(wish(&json!(null), "proxy").expect("nothing said"), None);
        assert_eq!(
            wish(&json!({"proxy": true}), "proxy").expect("yes"),
            Some(true)
        );
        assert_eq!(
            wish(&json!({"proxy": 0}), "proxy").expect("no"),
            Some(false)
        );
        assert!(wish(&json!({"proxy": "yes"}), "proxy").is_err());
        assert!(wish(&json!({"proxy": null}), "proxy").is_err());
    }
}

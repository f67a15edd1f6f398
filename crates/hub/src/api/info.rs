//! `/api/`, `/api/info`, `/health` and reports on the content security policy.

use std::fmt::Write as _;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use orrery_core::escape::for_log;
use orrery_core::scopes::Scope;
use serde_json::{Value, json};

use super::schemas::{self, VERSION};
use crate::auth::Asking;
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs, Routes};
use crate::state::AppState;

/// Characters of a report that are logged.
const SHOWN: usize = 2000;

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get("/api", Needs::Nothing, &ROOT, version)
        .get("/api/", Needs::Nothing, &ROOT, version)
        .get("/api/info", Needs::Scopes(&[Scope::ReadHub]), &INFO, info)
        .get("/api/health", Needs::Nothing, &HEALTH, health)
}

/// Those that stand beside the API.
pub(super) fn other_routes() -> Routes {
    Routes::default()
        .get("/health", Needs::Nothing, health)
        .post("/security/csp-report", Needs::Credentials, csp_report)
}

const ROOT: Operation = Operation::new("get-api", Tag::Hub, "Show the version")
    .about("For whoever asks.")
    .answers(&[Answer::json(200, "The version.", Shape::One(&VERSION))]);

/// `GET /api/`: the version, for whoever asks.
async fn version() -> impl IntoResponse {
    (
        [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")],
        Json(json!({ "version": crate::JUPYTERHUB_VERSION })),
    )
}

const INFO: Operation = Operation::new("get-info", Tag::Hub, "Show what the hub is made of")
    .answers(&[Answer::json(
        200,
        "Versions and classes.",
        Shape::One(&schemas::INFO),
    )]);

/// `GET /api/info`: what the hub is made of. There is no Python to tell of; the fields say so.
async fn info(State(hub): State<AppState>) -> Json<Value> {
    let class = |module: &str, name: &str| json!({ "class": format!("{module}.{name}"), "version": crate::JUPYTERHUB_VERSION });
    let executable = std::env::current_exe()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    Json(json!({
        "version": crate::JUPYTERHUB_VERSION,
        "python": format!("none: Orrery {}", env!("CARGO_PKG_VERSION")),
        "sys_executable": executable,
        "spawner": class("jupyterhub.spawner", hub.config.spawner_class),
        "authenticator": class("jupyterhub.auth", hub.config.authenticator_class),
    }))
}

const HEALTH: Operation = Operation::new("get-health", Tag::Hub, "Ask whether the hub answers")
    .answers(&[Answer::text(200, "It does.", "text/html")]);

/// `GET /health`: the hub answers.
async fn health() -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/html")], "").into_response()
}

/// `POST /security/csp-report`: a browser says that a page broke its content security policy.
async fn csp_report(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    body: Bytes,
) -> Result<Response> {
    if requester.user().is_none() {
        return Err(Error::forbidden(""));
    }
    let mut text = String::new();
    let _ = write!(
        text,
        "{}",
        String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)])
    );
    tracing::warn!(report = %for_log(&text, SHOWN), user = requester.name(), "content security violation");
    hub.metrics.csp_report();
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "text/html")], "").into_response())
}

//! `/api/proxy`: the proxy's routing table.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use orrery_core::scopes::Scope;
use serde_json::{Map, Value, json};

use super::arguments::Arguments;
use super::body::ShortBody;
use super::schemas::{LIMIT, OFFSET, PROXY_CHANGES, ROUTES};
use crate::audit::{Action, Event};
use crate::auth::Asking;
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::routes::KeeperError;
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    let needs = Needs::Scopes(&[Scope::Proxy]);
    ApiRoutes::default()
        .get("/api/proxy", needs, &LIST, list)
        .post("/api/proxy", needs, &CHECK, check)
        .patch("/api/proxy", needs, &RELOCATE, relocate)
}

const LIST: Operation = Operation::new("get-proxy", Tag::Proxy, "Show the proxy's routes")
    .query(&[&OFFSET, &LIMIT])
    .answers(&[Answer::json(
        200,
        "One page of routes, by their specification.",
        Shape::One(&ROUTES),
    )])
    .refuses(&[400, 502]);

/// `GET`: the routes that the proxy has now, by their specification.
async fn list(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let page = arguments.page(&hub)?;
    let all = hub
        .routes
        .routes()
        .await
        .map_err(|error| away(&error.into()))?;
    let total = all.len() as u64;
    let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let shown: Map<String, Value> = all
        .into_iter()
        .skip(bounded(page.offset))
        .take(bounded(page.limit))
        .map(|(spec, route)| {
            let model = json!({ "routespec": spec, "target": route.target, "data": route.data });
            (spec, model)
        })
        .collect();
    Ok(Json(arguments.paginated(
        &requester,
        Value::Object(shown),
        page,
        total,
    )))
}

const CHECK: Operation = Operation::new("post-proxy", Tag::Proxy, "Mend the proxy's routes")
    .about("Compares the proxy's table with what it should be and applies the differences.")
    .answers(&[Answer::empty(200, "They are as they should be.")])
    .refuses(&[502]);

/// `POST`: compares the table with what it should be and mends it.
async fn check(State(hub): State<AppState>, Asking(requester): Asking) -> Result<Response> {
    let event = Event::new(Action::ProxyChange).by(&requester);
    hub.audit.record(event.detail("change", "check")).await;
    mend(&hub).await
}

const RELOCATE: Operation = Operation::new("patch-proxy", Tag::Proxy, "Tell of a new proxy")
    .about("Its address and token stand in the configuration, so all that can be said is that it is the configured one.")
    .body(Body::json(Shape::One(&PROXY_CHANGES)))
    .answers(&[Answer::empty(200, "Its routes are as they should be.")])
    .refuses(&[409, 502]);

/// `PATCH`: a new proxy is in charge. Its address and token stand in the configuration, so all that can be
/// said is that it is the configured one.
async fn relocate(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    ShortBody(body): ShortBody,
) -> Result<Response> {
    if body.is_empty() {
        return Err(Error::bad_request("need JSON body"));
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(&body) else {
        return Err(Error::bad_request("Request body must be JSON dict"));
    };
    let text = |key: &str| {
        fields
            .get(key)
            .map(|value| value.as_str().unwrap_or_default())
    };
    let elsewhere = text("api_url").is_some_and(|url| {
        url.trim_end_matches('/') != hub.config.chp.api_url.trim_end_matches('/')
    });
    let other_token = text("auth_token").is_some_and(|token| !hub.proxy_token.matches(token));
    if elsewhere || other_token {
        return Err(Error::new(
            StatusCode::CONFLICT,
            "The proxy's address and token cannot change while the hub runs; \
             set c.ConfigurableHTTPProxy.api_url and auth_token and start the hub again.",
        ));
    }
    let event = Event::new(Action::ProxyChange).by(&requester);
    hub.audit.record(event.detail("change", "relocate")).await;
    mend(&hub).await
}

async fn mend(hub: &AppState) -> Result<Response> {
    hub.routes.check().await.map_err(|error| away(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], "").into_response())
}

fn away(error: &KeeperError) -> Error {
    tracing::error!(%error, "the proxy's routes could not be read or mended on request");
    Error::new(
        StatusCode::BAD_GATEWAY,
        "The proxy does not answer right now.",
    )
}

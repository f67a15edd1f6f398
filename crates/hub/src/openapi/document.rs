//! The OpenAPI 3.1 document.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use base64::Engine as _;
use orrery_core::scopes::Scope;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Answer, Body, Content, Described, Operation, Schema, Shape, Tag};
use crate::api::schemas;
use crate::router::Needs;

/// The document as the hub hands it out.
#[derive(Debug)]
pub struct Document {
    /// JSON.
    pub text: String,
    /// Changes with it, in quotes, as `ETag` has it.
    pub tag: String,
}

impl Document {
    /// Describes these routes of a hub whose prefix is `hub` (`/hub/`).
    pub fn new(routes: &[Described], hub: &str) -> Self {
        let text = document(routes, hub).to_string();
        let digest = Sha256::digest(text.as_bytes());
        let tag = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&digest[..12]);
        Self {
            text,
            tag: format!("\"{tag}\""),
        }
    }
}

/// The statuses that stand for a refusal, in words.
pub(super) fn refusal(status: u16) -> &'static str {
    match status {
        400 => "What was sent cannot be used; the message says why.",
        401 => "The client could not prove who it is.",
        403 => "Not allowed, or no valid credentials.",
        404 => "There is no such thing, or it may not be seen.",
        405 => "Not possible here.",
        409 => "What is there stands in the way.",
        410 => "It was there, but is no more.",
        413 => "The body is too large.",
        424 => "The server cannot be reached.",
        429 => "Too many attempts; `Retry-After` says when to come back.",
        501 => "This hub cannot do that.",
        502 => "The proxy does not answer.",
        503 => "Not possible right now; `Retry-After` says when to come back.",
        507 => "The database's disk is full.",
        _ => "Refused.",
    }
}

/// Whether a route stands in the document. Paths that end with a slash are those whose last part is
/// empty: for the default server, and for clients that put nothing where a name should be.
pub(super) fn is_shown(route: &Described) -> bool {
    route.path == "/api/"
        || (route.path != "/api" && !route.path.ends_with('/') && !route.path.contains("//"))
}

/// What a route asks of its requester, be it the guard or the handler that looks.
pub(super) fn needs(route: &Described) -> Needs {
    route.operation.checks.unwrap_or(route.needs)
}

/// The scopes of which a requester needs one.
pub(super) fn scopes(needs: Needs) -> &'static [Scope] {
    match needs {
        Needs::Scopes(scopes)
        | Needs::ServerScopes(scopes)
        | Needs::SomeScopes(scopes)
        | Needs::LoginAnd(scopes) => scopes,
        Needs::Nothing | Needs::Login | Needs::Credentials => &[],
    }
}

/// The statuses of all refusals of a route.
pub(super) fn refusals(route: &Described) -> BTreeSet<u16> {
    let operation = route.operation;
    let mut statuses: BTreeSet<u16> = operation.refuses.iter().copied().collect();
    let reads_only = route.method == Method::GET;
    if !reads_only || !matches!(needs(route), Needs::Nothing) {
        // Also what looks like a request from another site.
        statuses.insert(403);
    }
    if route.path.contains('{') {
        statuses.extend([400, 404]);
    }
    if operation.body.is_some() {
        statuses.extend([400, 413]);
    }
    if !operation.query.is_empty() {
        statuses.insert(400);
    }
    statuses.insert(503);
    if !reads_only {
        statuses.insert(507);
    }
    for answer in operation.answers {
        statuses.remove(&answer.status);
    }
    statuses
}

/// The path as the document has it: below `/hub/api`, its parameters named as upstream names them.
pub(super) fn path(route: &Described) -> String {
    let path = route.path.strip_prefix("/api").unwrap_or(&route.path);
    let mut shown = String::new();
    for part in path.split('/').skip(1) {
        match parameter_name(route, part) {
            Some(name) => shown.extend(["/{", name, "}"]),
            None => shown.extend(["/", part]),
        }
    }
    shown
}

/// Upstream's name for a part of a path, if it is a parameter.
fn parameter_name<'a>(route: &Described, part: &'a str) -> Option<&'a str> {
    let name = part.strip_prefix('{')?.strip_suffix('}')?;
    Some(match name {
        "user" if route.path.starts_with("/api/share") => "owner",
        "name" if route.path.starts_with("/api/authorizations/") => "cookie_name",
        "value" if route.path.starts_with("/api/authorizations/") => "cookie_value",
        "user" | "group" | "service" => "name",
        "server" | "shared_server" => "server_name",
        other => other,
    })
}

/// The id, which is upstream's for the server that the path names, and without `-name` where the path
/// means the default one.
pub(super) fn operation_id(route: &Described) -> String {
    if route.path.contains("/server/") || route.path.ends_with("/server") {
        route.operation.id.replace("-server-name", "-server")
    } else {
        route.operation.id.to_owned()
    }
}

/// Names and descriptions of the path's parameters.
pub(super) fn path_parameters(route: &Described) -> Vec<(&str, &'static str)> {
    let parts = route.path.split('/');
    parts
        .filter_map(|part| {
            let description = match part {
                "{user}" if route.path.starts_with("/api/share") => "Whose server it is.",
                "{owner}" => "Whose server it is.",
                "{user}" => "The user's name.",
                "{group}" => "The group's name.",
                "{service}" => "The service's name.",
                "{server}" | "{shared_server}" => {
                    "The server's name. It is empty for the default server, so that the path has nothing \
                     between its slashes, or ends with one."
                }
                "{token_id}" => "The token's id, as lists of tokens have it.",
                "{token}" => "The token itself.",
                _ => "",
            };
            Some((parameter_name(route, part)?, description))
        })
        .collect()
}

fn document(routes: &[Described], hub: &str) -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in routes.iter().filter(|route| is_shown(route)) {
        paths
            .entry(path(route))
            .or_default()
            .insert(route.method.as_str().to_lowercase(), operation(route));
    }
    let scopes: Map<String, Value> = Scope::ALL
        .iter()
        .map(|scope| (scope.as_str().to_owned(), json!(scope.description())))
        .collect();
    let tags: Vec<Value> = Tag::ALL
        .iter()
        .filter(|(tag, ..)| routes.iter().any(|route| route.operation.tag == *tag))
        .map(|(_, name, description)| json!({ "name": name, "description": description }))
        .collect();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Orrery REST API",
            "summary": format!("The REST API of JupyterHub {}, and more.", crate::JUPYTERHUB_VERSION),
            "description": "Where an operation lists several scopes, one of them is enough. Names that are not \
                            there and names that may not be seen are answered alike.",
            "version": env!("CARGO_PKG_VERSION"),
            "x-jupyterhub-version": crate::JUPYTERHUB_VERSION,
        },
        "servers": [{ "url": format!("{hub}api") }],
        "security": [{ "token": [] }, { "oauth2": [] }],
        "tags": tags,
        "paths": paths,
    });
    let used = used_schemas(&document);
    document["components"] = json!({
        "schemas": used,
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API token. The word `token` does instead of `Bearer`.",
            },
            "oauth2": {
                "type": "oauth2",
                "flows": {
                    "authorizationCode": {
                        "authorizationUrl": format!("{hub}api/oauth2/authorize"),
                        "tokenUrl": format!("{hub}api/oauth2/token"),
                        "scopes": scopes,
                    },
                },
            },
        },
    });
    document
}

fn operation(route: &Described) -> Value {
    let Operation {
        tag,
        summary,
        description,
        is_deprecated,
        query,
        body,
        answers,
        ..
    } = *route.operation;
    let mut parameters: Vec<Value> = path_parameters(route)
        .into_iter()
        .map(|(name, description)| {
            let mut parameter = json!({
                "name": name,
                "in": "path",
                "required": true,
                "schema": { "type": "string", "minLength": 1 },
            });
            if !description.is_empty() {
                parameter["description"] = json!(description);
            }
            parameter
        })
        .collect();
    for parameter in query {
        let schema = (parameter.schema)();
        let mut shown = json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.description,
            "required": parameter.is_required,
            "schema": schema,
        });
        if schema["type"] == "boolean" {
            shown["allowEmptyValue"] = json!(true);
        }
        parameters.push(shown);
    }
    let mut responses: BTreeMap<String, Value> = answers
        .iter()
        .map(|answer| (answer.status.to_string(), response(answer)))
        .collect();
    for status in refusals(route) {
        let error = json!({
            "description": refusal(status),
            "content": if route.operation.refuses_by_pages {
                json!({ "text/html": {} })
            } else {
                json!({ "application/json": { "schema": schemas::ERROR.reference() } })
            },
        });
        responses.insert(status.to_string(), error);
    }
    let mut model = json!({
        "operationId": operation_id(route),
        "tags": [tag.name()],
        "summary": summary,
        "responses": responses,
        "security": security(needs(route)),
    });
    if !description.is_empty() {
        model["description"] = json!(description);
    }
    if is_deprecated {
        model["deprecated"] = json!(true);
    }
    if !parameters.is_empty() {
        model["parameters"] = json!(parameters);
    }
    if let Some(Body {
        media,
        shape,
        is_required,
    }) = body
    {
        model["requestBody"] = json!({
            "required": is_required,
            "content": { media: { "schema": schema(shape) } },
        });
    }
    model
}

/// One alternative for each scope and way to prove oneself; nothing where nothing is needed.
fn security(needs: Needs) -> Value {
    if matches!(needs, Needs::Nothing) {
        return json!([]);
    }
    let scopes = scopes(needs);
    if scopes.is_empty() {
        return json!([{ "token": [] }, { "oauth2": [] }]);
    }
    let with = |scheme: &str| -> Vec<Value> {
        scopes
            .iter()
            .map(|scope| json!({ scheme: [scope.as_str()] }))
            .collect()
    };
    json!([with("oauth2"), with("token")].concat())
}

fn response(answer: &Answer) -> Value {
    let mut response = json!({ "description": answer.description });
    match answer.content {
        Content::Nothing => {}
        Content::Json(shape) => {
            response["content"] = json!({ "application/json": { "schema": schema(shape) } });
        }
        Content::Text(media) => {
            response["content"] = json!({ media: {} });
        }
    }
    response
}

fn schema(shape: Shape) -> Value {
    match shape {
        Shape::One(schema) => schema.reference(),
        Shape::List(schema) => json!({ "type": "array", "items": schema.reference() }),
        Shape::Page(schema) => json!({
            "anyOf": [self::schema(Shape::List(schema)), self::schema(Shape::Framed(schema))],
        }),
        Shape::Framed(schema) => json!({
            "type": "object",
            "required": ["items", "_pagination"],
            "additionalProperties": false,
            "properties": {
                "items": self::schema(Shape::List(schema)),
                "_pagination": schemas::PAGINATION.reference(),
            },
        }),
        Shape::Inline(build) => build(),
    }
}

/// The schemas that the document of these routes has.
pub(super) fn used_by(routes: &[Described]) -> BTreeMap<&'static str, Value> {
    used_schemas(&document(routes, "/hub/"))
}

/// The schemas that a document refers to, and those that these refer to.
fn used_schemas(document: &Value) -> BTreeMap<&'static str, Value> {
    let mut used = BTreeMap::new();
    let mut wanted = Vec::new();
    references(document, &mut wanted);
    while let Some(name) = wanted.pop() {
        let known = schemas::ALL.iter().find(|schema| schema.name == name);
        let Some(Schema { name, build }) = known.copied().filter(|s| !used.contains_key(s.name))
        else {
            continue;
        };
        let schema = build();
        references(&schema, &mut wanted);
        used.insert(*name, schema);
    }
    used
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().filter(|_| key == "$ref") {
                    Some(target) => found.extend(target.rsplit('/').next().map(str::to_owned)),
                    None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::api;
use crate::api::schemas;

fn document() -> Value {
    let routes = api::routes();
    serde_json::from_str(&Document::new(routes.described(), "/hub/").text).expect("JSON")
}

#[test]
fn every_operation_has_an_id_of_its_own_and_says_what_it_answers() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(!operation["summary"].as_str().expect("a summary").is_empty());
            let responses = operation["responses"].as_object().expect("responses");
            assert!(!responses.is_empty(), "{method} {path}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = document();
    let known: BTreeSet<&str> = document["components"]["schemas"]
        .as_object()
        .expect("schemas")
        .keys()
        .map(String::as_str)
        .collect();
    let text = document.to_string();
    for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().expect("a name");
        assert!(known.contains(name), "{name} does not exist");
    }
    for schema in schemas::ALL {
        assert!(known.contains(schema.name), "{} is not used", schema.name);
    }
}

/// What upstream's own description says and ours does not, with the reason.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        "GET /services",
        "scope read:services",
        "JupyterHub's code asks for list:services",
    ),
    (
        "GET /services",
        "query limit",
        "JupyterHub's code does not page services",
    ),
    (
        "GET /services",
        "query offset",
        "JupyterHub's code does not page services",
    ),
    (
        "POST /users/{name}/server",
        "scope servers",
        "it contains start:servers, which JupyterHub's code asks for",
    ),
    (
        "POST /users/{name}/activity",
        "answer 401",
        "JupyterHub's code answers 403 to everybody without valid credentials",
    ),
    (
        "GET /users/{name}/tokens",
        "answer 401",
        "JupyterHub's code answers 403 to everybody without valid credentials",
    ),
    (
        "POST /shares/{owner}/{server_name}",
        "scope read:users:name",
        "needed beside shares when the body names a user; the description says so",
    ),
    (
        "POST /shares/{owner}/{server_name}",
        "scope read:groups:name",
        "needed beside shares when the body names a group; the description says so",
    ),
    (
        "PATCH /shares/{owner}/{server_name}",
        "scope read:users:name",
        "JupyterHub's code asks for shares alone",
    ),
    (
        "PATCH /shares/{owner}/{server_name}",
        "scope read:groups:name",
        "JupyterHub's code asks for shares alone",
    ),
    (
        "PATCH /proxy",
        "body ip",
        "JupyterHub's code reads api_url and auth_token",
    ),
    (
        "PATCH /proxy",
        "body port",
        "JupyterHub's code reads api_url and auth_token",
    ),
    (
        "PATCH /proxy",
        "body protocol",
        "JupyterHub's code reads api_url and auth_token",
    ),
    (
        "POST /authorizations/token",
        "scope tokens",
        "gone since JupyterHub 2, whose code answers 404",
    ),
    (
        "POST /authorizations/token",
        "body username",
        "gone since JupyterHub 2, whose code answers 404",
    ),
    (
        "POST /authorizations/token",
        "body password",
        "gone since JupyterHub 2, whose code answers 404",
    ),
    (
        "POST /authorizations/token",
        "answer 200",
        "gone since JupyterHub 2, whose code answers 404",
    ),
    (
        "GET /authorizations/token/{token}",
        "scope (no_scope)",
        "any valid token will do",
    ),
];

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|item| {
            item.as_str()
                .map_or_else(|| item.to_string(), str::to_owned)
        })
        .collect()
}

/// The names of a schema's fields, through references and alternatives.
fn fields(document: &Value, schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if let Some(target) = schema["$ref"].as_str() {
        let pointer = target.trim_start_matches('#');
        let schema = document
            .pointer(pointer)
            .expect("a reference that leads somewhere");
        found.extend(fields(document, schema));
    }
    found.extend(
        schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone()),
    );
    for key in ["anyOf", "oneOf", "allOf"] {
        for part in schema[key].as_array().into_iter().flatten() {
            found.extend(fields(document, part));
        }
    }
    found
}

/// What one of our operations has, in the words of [`DIFFERENCES`].
fn having(document: &Value, operation: &Value) -> BTreeSet<String> {
    let mut having = BTreeSet::new();
    for alternative in operation["security"].as_array().into_iter().flatten() {
        having.extend(
            texts(&alternative["oauth2"])
                .iter()
                .map(|scope| format!("scope {scope}")),
        );
    }
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let (place, name) = (
            parameter["in"].as_str().unwrap_or_default(),
            parameter["name"].as_str().unwrap_or_default(),
        );
        having.insert(format!("{place} {name}"));
    }
    for (media, content) in operation["requestBody"]["content"]
        .as_object()
        .into_iter()
        .flatten()
    {
        having.insert(format!("media {media}"));
        having.extend(
            fields(document, &content["schema"])
                .iter()
                .map(|field| format!("body {field}")),
        );
    }
    let responses = operation["responses"].as_object().into_iter().flatten();
    having.extend(responses.map(|(status, _)| format!("answer {status}")));
    having
}

/// Checked against facts of upstream's own description: see `tests/openapi/upstream.json`.
#[test]
fn all_that_upstream_describes_is_described_here() {
    let document = document();
    let upstream: Value =
        serde_json::from_str(include_str!("../../../../tests/openapi/upstream.json"))
            .expect("JSON");
    let mut missing = Vec::new();
    for (key, facts) in upstream["operations"].as_object().expect("operations") {
        let (method, path) = key.split_once(' ').expect("a method and a path");
        let operation = &document["paths"][path][method.to_lowercase()];
        if operation.is_null() {
            missing.push(format!("{key}: not there"));
            continue;
        }
        if operation["operationId"] != facts["id"] {
            missing.push(format!("{key}: id {}", facts["id"]));
        }
        let having = having(&document, operation);
        let mut wanted: Vec<String> = Vec::new();
        wanted.extend(
            texts(&facts["scopes"])
                .iter()
                .map(|name| format!("scope {name}")),
        );
        wanted.extend(
            texts(&facts["query"])
                .iter()
                .map(|name| format!("query {name}")),
        );
        wanted.extend(
            texts(&facts["body"]["fields"])
                .iter()
                .map(|name| format!("body {name}")),
        );
        wanted.extend(
            texts(&facts["answers"])
                .iter()
                .map(|status| format!("answer {status}")),
        );
        wanted.extend(
            path.split('{')
                .skip(1)
                .filter_map(|part| Some(format!("path {}", part.split_once('}')?.0))),
        );
        for wanted in wanted {
            let is_explained = DIFFERENCES
                .iter()
                .any(|(of, what, _)| *of == key && *what == wanted);
            if having.contains(&wanted) == is_explained {
                missing.push(if is_explained {
                    format!("{key}: {wanted} is there, though DIFFERENCES says that it is not")
                } else {
                    format!("{key}: {wanted}")
                });
            }
        }
    }
    for (name, facts) in upstream["models"].as_object().expect("models") {
        let known = match name.as_str() {
            "PaginatedList" => continue,
            name => fields(&document, &document["components"]["schemas"][name]),
        };
        missing.extend(
            texts(facts)
                .iter()
                .filter(|field| !known.contains(*field))
                .map(|field| format!("{name}.{field}")),
        );
    }
    let scopes = &document["components"]["securitySchemes"]["oauth2"]["flows"]["authorizationCode"]
        ["scopes"];
    missing.extend(
        texts(&upstream["scopes"])
            .into_iter()
            .filter(|scope| scopes[scope].is_null()),
    );
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn paths_are_named_as_upstream_names_them_and_aliases_are_left_out() {
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.contains_key("/"));
    assert!(paths.contains_key("/users/{name}/servers/{server_name}/progress"));
    assert!(paths.contains_key("/share-codes/{owner}/{server_name}"));
    assert!(
        paths
            .keys()
            .all(|path| path == "/" || (!path.ends_with('/') && !path.contains("//")))
    );
    assert_eq!(document["servers"][0]["url"], "/hub/api");
}

#[test]
#[should_panic(expected = "needs a description")]
fn a_route_of_the_api_without_description_is_refused() {
    async fn nothing() {}
    let _ = crate::router::Routes::default().get("/api/nothing", Needs::Nothing, nothing);
}

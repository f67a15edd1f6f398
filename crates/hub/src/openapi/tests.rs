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

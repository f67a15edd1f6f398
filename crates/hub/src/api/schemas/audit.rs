//! The schemas of the audit log.

use serde_json::{Value, json};

use super::{object, time};
use crate::audit::Action;
use crate::openapi::Schema;

/// One event.
pub(crate) const AUDIT_EVENT: Schema = Schema {
    name: "AuditEvent",
    build: || event(true),
};

/// A page of events.
pub(crate) const AUDIT_EVENTS: Schema = Schema {
    name: "AuditEvents",
    build: || page(&AUDIT_EVENT),
};

/// What somebody did to another user's server, as that user sees it.
pub(crate) const ACCESS: Schema = Schema {
    name: "Access",
    build: || event(false),
};

/// A page of these.
pub(crate) const ACCESSES: Schema = Schema {
    name: "Accesses",
    build: || page(&ACCESS),
};

fn event(is_whole: bool) -> Value {
    let text =
        |description: &str| json!({ "type": ["string", "null"], "description": description });
    let named = |description: &str| {
        let mut schema = object(
            &["kind", "name"],
            json!({ "kind": { "type": "string" }, "name": { "type": "string" } }),
        );
        schema["type"] = json!(["object", "null"]);
        schema["description"] = description.into();
        schema
    };
    let actions: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
    let mut fields = json!({
        "id": { "type": "integer", "minimum": 1, "description": "Newer events have greater ones." },
        "time": time("When it happened; of several in one, the first."),
        "action": { "type": "string", "enum": actions },
        "outcome": { "type": "string", "enum": ["ok", "failed", "denied"] },
        "repeats": { "type": "integer", "minimum": 1, "description": "How often it happened." },
        "actor": named("Who did it; null for somebody unknown."),
        "via": text("What they proved themselves by."),
        "address": text("Where it came from."),
        "server": text("Which server it is about; empty for the default one."),
        "details": { "type": "object", "description": "What else there is to say." },
    });
    if is_whole {
        fields["token_id"] = text("The token that was used.");
        fields["oauth_client"] = text("The OAuth client that this was issued to.");
        fields["owner"] = text("Whose server, token or share it is about.");
        fields["target"] = named("To whom or what it was done.");
    }
    let required: Vec<String> = fields
        .as_object()
        .map(|fields| fields.keys().cloned().collect())
        .unwrap_or_default();
    let required: Vec<&str> = required.iter().map(String::as_str).collect();
    object(&required, fields)
}

fn page(item: &Schema) -> Value {
    let mut next = object(
        &["before", "limit", "url"],
        json!({
            "before": { "type": "integer", "minimum": 1 },
            "limit": { "type": "integer", "minimum": 1 },
            "url": { "type": "string" },
        }),
    );
    next["type"] = json!(["object", "null"]);
    object(
        &["items", "_pagination"],
        json!({
            "items": { "type": "array", "items": item.reference() },
            "_pagination": object(
                &["limit", "next"],
                json!({ "limit": { "type": "integer", "minimum": 1 }, "next": next }),
            ),
        }),
    )
}

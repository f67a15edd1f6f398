//! The page of the documentation: every operation with what it needs, takes and answers.

use std::fmt::Write as _;

use orrery_core::scopes::Scope;
use serde_json::Value;

use super::document::{needs, path, path_parameters, refusal, refusals, schema, scopes};
use super::{Body, Content, Described, Shape, Tag};
use crate::router::Needs;

/// All operations and all scopes, as Markdown.
pub fn page(routes: &[Described]) -> String {
    let mut text = String::from(
        "# The REST API\n\n<!-- Written by `orrery docs --write` from the list of routes; do not edit. -->\n\n",
    );
    let _ = write!(
        text,
        "What JupyterHub {} answers, Orrery answers alike; what it has beyond that stands here as well. Paths are below \
         `/hub/api`. The same as OpenAPI 3.1, with all models, is at `/hub/api/openapi.json`.\n\n\
         A token goes into the header `Authorization: Bearer TOKEN`. Where several scopes stand, one of them is enough. \
         Refusals are `{{\"status\": 404, \"message\": \"…\"}}`; what is not there and what may not be seen answer alike.\n",
        crate::JUPYTERHUB_VERSION
    );
    for (tag, name, description) in Tag::ALL {
        let mut of_tag: Vec<&Described> = routes
            .iter()
            .filter(|route| route.operation.tag == tag && super::document::is_shown(route))
            .collect();
        if of_tag.is_empty() {
            continue;
        }
        of_tag.sort_by_key(|route| (path(route), rank(route.method.as_str())));
        let _ = write!(text, "\n## {name}\n\n{description}\n");
        for route in of_tag {
            write_operation(&mut text, route);
        }
    }
    write_scopes(&mut text);
    text
}

/// The order of methods on a page.
fn rank(method: &str) -> usize {
    let order = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    order
        .iter()
        .position(|known| *known == method)
        .unwrap_or(order.len())
}

fn write_operation(text: &mut String, route: &Described) {
    let operation = route.operation;
    let _ = write!(
        text,
        "\n### `{} {}`\n\n{}.",
        route.method,
        path(route),
        operation.summary
    );
    if !operation.description.is_empty() {
        let _ = write!(text, " {}", operation.description);
    }
    if operation.is_deprecated {
        text.push_str(" Deprecated.");
    }
    let _ = write!(text, "\n\n- Needs: {}\n", needed(needs(route)));
    for (name, description) in path_parameters(route) {
        if name == "server_name" || name == "token_id" || name == "token" {
            let _ = writeln!(text, "- `{name}`: {description}");
        }
    }
    for parameter in operation.query {
        let schema = (parameter.schema)();
        let _ = writeln!(
            text,
            "- `?{}=` {}{}: {}",
            parameter.name,
            kind(&schema),
            if parameter.is_required {
                ", required"
            } else {
                ""
            },
            parameter.description
        );
    }
    if let Some(Body {
        shape, is_required, ..
    }) = operation.body
    {
        let _ = writeln!(
            text,
            "- Body{}: {}",
            if is_required {
                ""
            } else {
                " (may be left out)"
            },
            shown(shape)
        );
    }
    for answer in operation.answers {
        let form = match answer.content {
            Content::Nothing => String::new(),
            Content::Json(shape) => format!(" {}", shown(shape)),
            Content::Text(media) => format!(" `{media}`"),
        };
        let _ = writeln!(text, "- {}: {}{form}", answer.status, answer.description);
    }
    let refusals: Vec<String> = refusals(route)
        .into_iter()
        .map(|status| format!("{status}"))
        .collect();
    let _ = writeln!(text, "- Refusals: {}", refusals.join(", "));
}

fn needed(needs: Needs) -> String {
    let list: Vec<String> = scopes(needs)
        .iter()
        .map(|scope| format!("`{}`", scope.as_str()))
        .collect();
    match needs {
        Needs::Nothing => "nothing".to_owned(),
        Needs::Login => "a login".to_owned(),
        Needs::Credentials => "any valid credentials".to_owned(),
        Needs::SomeScopes(_) => format!("{}; with a filter, for what it names", list.join(", ")),
        _ => list.join(", "),
    }
}

fn kind(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .map(|value| format!("`{}`", value.as_str().unwrap_or("null")))
            .collect();
        return values.join(", ");
    }
    if let Some(value) = schema["const"].as_str() {
        return format!("`{value}`");
    }
    schema["type"].as_str().unwrap_or("anything").to_owned()
}

/// A shape in few words; an object with its fields' names.
fn shown(shape: Shape) -> String {
    match shape {
        Shape::One(schema) => named(schema.name, &(schema.build)()),
        Shape::List(schema) => format!("a list of {}", named(schema.name, &(schema.build)())),
        Shape::Page(schema) => format!(
            "a list of {}, or a page",
            named(schema.name, &(schema.build)())
        ),
        Shape::Framed(schema) => format!("a page of {}", named(schema.name, &(schema.build)())),
        Shape::Inline(_) => {
            let schema = schema(shape);
            named("", &schema)
        }
    }
}

fn named(name: &str, schema: &Value) -> String {
    let fields: Vec<String> = schema["properties"]
        .as_object()
        .map(|fields| fields.keys().map(|field| format!("`{field}`")).collect())
        .unwrap_or_default();
    match (name, fields.is_empty()) {
        ("", true) => "a JSON object".to_owned(),
        ("", false) => format!("({})", fields.join(", ")),
        (name, true) => name.to_owned(),
        (name, false) => format!("{name} ({})", fields.join(", ")),
    }
}

fn write_scopes(text: &mut String) {
    text.push_str("\n## Refusals\n\n| Status | Means |\n|---|---|\n");
    for status in [400, 401, 403, 404, 405, 409, 413, 429, 501, 502, 503, 507] {
        let _ = writeln!(text, "| {status} | {} |", refusal(status));
    }
    text.push_str(
        "\n## Scopes\n\nA scope can be limited to `!user=NAME`, `!group=NAME`, `!server=USER/SERVER` or `!service=NAME`.\n\n\
         | Scope | Allows | Contains |\n|---|---|---|\n",
    );
    for scope in Scope::ALL {
        let contained: Vec<String> = scope
            .subscopes()
            .iter()
            .map(|scope| format!("`{}`", scope.as_str()))
            .collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} |",
            scope.as_str(),
            scope.description(),
            contained.join(", ")
        );
    }
}

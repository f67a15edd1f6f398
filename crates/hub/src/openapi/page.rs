//! The page of the documentation: every operation with what it needs, takes and answers.

use std::fmt::Write as _;

use orrery_core::scopes::Scope;
use serde_json::Value;

use super::document::{needs, path, path_parameters, refusal, refusals, scopes};
use super::{Body, Content, Described, Shape, Tag};
use crate::api::schemas;
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
    write_models(&mut text, routes);
    write_refusals(&mut text);
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

/// A schema in few words.
fn kind(schema: &Value) -> String {
    let code = |value: &Value| match value.as_str() {
        Some(text) => format!("`{text}`"),
        None => value.to_string(),
    };
    if let Some(target) = schema["$ref"].as_str() {
        return link(target.rsplit('/').next().unwrap_or_default());
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(code).collect::<Vec<_>>().join(", ");
    }
    if !schema["const"].is_null() {
        return code(&schema["const"]);
    }
    for key in ["oneOf", "anyOf"] {
        if let (Some(parts), false) = (schema[key].as_array(), schema["properties"].is_object()) {
            return parts.iter().map(kind).collect::<Vec<_>>().join(" or ");
        }
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => vec!["anything"],
    };
    let words = types.into_iter().map(|name| match name {
        "array" if schema["items"].is_object() => format!("list of {}", kind(&schema["items"])),
        "array" => "list".to_owned(),
        "object" if schema["properties"].is_object() => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields: Vec<String> = fields
                .map(|(name, field)| format!("`{name}` {}", kind(field)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        "object" if schema["maxProperties"] == 0 => "empty object".to_owned(),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        "string" if schema["format"] == "date-time" => "time".to_owned(),
        other => other.to_owned(),
    });
    words.collect::<Vec<_>>().join(" or ")
}

/// A shape in few words, with a link to its fields.
fn shown(shape: Shape) -> String {
    match shape {
        Shape::One(schema) => link(schema.name),
        Shape::List(schema) => format!("list of {}", link(schema.name)),
        Shape::Page(schema) => format!(
            "list of {0}, or {{`_pagination` {1}, `items` list of {0}}}",
            link(schema.name),
            link(schemas::PAGINATION.name)
        ),
        Shape::Framed(schema) => format!(
            "{{`items` list of {}, `_pagination` {}}}",
            link(schema.name),
            link(schemas::PAGINATION.name)
        ),
        Shape::Inline(build) => kind(&build()),
    }
}

fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

fn write_models(text: &mut String, routes: &[Described]) {
    text.push_str(
        "\n## Models\n\nA field that is marked with `?` may be missing: models show what the requester may see, and \
         requests need not say everything.\n",
    );
    let mut models: Vec<_> = super::document::used_by(routes).into_iter().collect();
    models.sort_by_key(|(name, _)| *name);
    for (name, schema) in models {
        let _ = write!(text, "\n### {name}\n\n");
        if let Some(description) = schema["description"].as_str() {
            let _ = write!(text, "{description}\n\n");
        }
        let alternatives = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
        let is_object = schema["properties"].is_object();
        if is_object {
            write_fields(text, &schema);
        } else if let Some(alternatives) = alternatives {
            for (place, alternative) in alternatives.iter().enumerate() {
                if place > 0 {
                    text.push_str("\nOr:\n\n");
                }
                write_fields(text, alternative);
            }
        } else {
            let _ = writeln!(text, "{}", kind(&schema));
        }
    }
}

fn write_fields(text: &mut String, schema: &Value) {
    let Some(fields) = schema["properties"].as_object() else {
        let _ = writeln!(text, "- {}", kind(schema));
        return;
    };
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in fields {
        let mark = if required.contains(&name.as_str()) {
            ""
        } else {
            "?"
        };
        let _ = write!(text, "- `{name}`{mark} {}", kind(field));
        if let Some(description) = field["description"].as_str() {
            let _ = write!(text, ": {description}");
        }
        text.push('\n');
    }
}

fn write_refusals(text: &mut String) {
    text.push_str("\n## Refusals\n\n| Status | Means |\n|---|---|\n");
    for status in [400, 401, 403, 404, 405, 409, 413, 429, 502, 503, 507] {
        let _ = writeln!(text, "| {status} | {} |", refusal(status));
    }
}

fn write_scopes(text: &mut String) {
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

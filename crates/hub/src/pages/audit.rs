//! `/hub/audit`: the audit log for those who may read it; `/hub/accesses`: what others did to one's own
//! servers. Both work without JavaScript.

use axum::extract::{OriginalUri, State};
use axum::http::Uri;
use axum::response::Html;
use minijinja::context;
use minijinja::value::{Serde, Value};
use orrery_store::audit::{self, AuditQuery, Row};
use orrery_store::users::User;
use serde_json::Value as Json;

use super::Stamp;
use super::respond::frame;
use crate::api::parse_time;
use crate::audit::{Action, held, next_query, question};
use crate::auth::{Asking, Requester, redirects};
use crate::error::Result;
use crate::state::AppState;

/// Events on a page.
const PAGE: u64 = 50;
/// Accesses on the home page.
const LATEST: u64 = 5;

/// What the form asks for, in the order of its fields.
const FIELDS: [&str; 8] = [
    "action", "outcome", "actor", "target", "owner", "address", "since", "until",
];

/// `GET /hub/audit`.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
) -> Result<Html<String>> {
    let query = question(&redirects::query_pairs(&uri), PAGE, PAGE, parse_time)?;
    page(&hub, &requester, &uri, query, false).await
}

/// `GET /hub/accesses`.
pub(super) async fn show_own(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
) -> Result<Html<String>> {
    let asked = question(&redirects::query_pairs(&uri), PAGE, PAGE, parse_time)?;
    let query = AuditQuery {
        before: asked.before,
        ..of_others(&hub, requester.logged_in()?, PAGE).await?
    };
    page(&hub, &requester, &uri, query, true).await
}

/// The last accesses of others to somebody's servers, for their home page.
pub(super) async fn latest(hub: &AppState, user: &User) -> Result<Vec<Value>> {
    let query = of_others(hub, user, LATEST).await?;
    let rows = audit::list(hub.store.read(), &query).await?;
    Ok(rows.iter().map(row_value).collect())
}

async fn of_others(hub: &AppState, user: &User, limit: u64) -> Result<AuditQuery> {
    Ok(AuditQuery {
        actions: Action::ACCESSES
            .iter()
            .map(|action| action.as_str().to_owned())
            .collect(),
        held: held(&hub.store, user).await?,
        by_others: true,
        limit,
        ..AuditQuery::default()
    })
}

async fn page(
    hub: &AppState,
    requester: &Requester,
    uri: &Uri,
    mut query: AuditQuery,
    own: bool,
) -> Result<Html<String>> {
    hub.audit.flush().await;
    query.limit += 1;
    let turn = hub.long_reads.turn().await?;
    let mut rows = audit::list(hub.store.read(), &query).await?;
    drop(turn);
    let length = usize::try_from(PAGE).unwrap_or(usize::MAX);
    let has_more = rows.len() > length;
    rows.truncate(length);
    let pairs = redirects::query_pairs(uri);
    let older = rows
        .last()
        .filter(|_| has_more)
        .map(|last| format!("{}?{}", uri.path(), next_query(&pairs, last.id)));
    let asked = FIELDS.map(|field| {
        let given = pairs.iter().rev().find(|(key, _)| key == field);
        (field, given.map_or("", |(_, value)| value.as_str()))
    });
    let actions: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
    let html = hub.templates.render(
        "audit.html",
        context! {
            own,
            rows => rows.iter().map(row_value).collect::<Vec<_>>(),
            asked => Value::from_pairs(asked),
            actions => Serde(actions),
            older,
            is_newest => query.before.is_none(),
            here => uri.path(),
            retention => hub.config.hub.audit_retention_days,
            ..frame(hub, requester).await?.value()
        },
    )?;
    Ok(Html(html))
}

fn row_value(row: &Row) -> Value {
    context! {
        at => Stamp::value(Some(row.at)),
        action => row.action.clone(),
        did => did(row),
        outcome => row.outcome.clone(),
        repeats => row.repeats,
        actor => if row.actor_kind == "hub" { "the hub" } else { row.actor.as_str() },
        via => row.via.clone(),
        address => row.address.clone(),
        target => row.target.clone(),
        owner => row.owner.clone(),
        server => row.server.clone(),
        details => details(&row.details),
    }
}

/// What was done to a server, in a word or two.
fn did(row: &Row) -> &'static str {
    let is_done = row.outcome == "ok";
    match Action::parse(&row.action) {
        Some(Action::ServerAccess) if is_done => "Opened it",
        Some(Action::ServerAccess) => "Tried to open it",
        Some(Action::ServerStart) => "Started it",
        Some(Action::ServerStop) if row.details["remove"] == true => "Removed it",
        Some(Action::ServerStop) => "Stopped it",
        Some(Action::ServerEdit) => "Changed it",
        _ => "Did something else",
    }
}

fn details(details: &Json) -> String {
    let Json::Object(fields) = details else {
        return String::new();
    };
    let shown = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Array(items) => items
            .iter()
            .map(|item| {
                item.as_str()
                    .map_or_else(|| item.to_string(), str::to_owned)
            })
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    };
    fields
        .iter()
        .filter(|(_, value)| !matches!(value, Json::Null))
        .map(|(key, value)| format!("{key}: {}", shown(value)))
        .collect::<Vec<_>>()
        .join("; ")
}

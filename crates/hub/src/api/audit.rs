//! `/api/audit`: who did what; `/api/users/{user}/accesses`: what others did to a user's servers.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::Uri;
use orrery_core::scopes::{Scope, Target};
use orrery_store::audit::{self, AuditQuery, Row};
use serde_json::{Value, json};

use super::path::PathUser;
use super::schemas::{ACCESSES, AUDIT_EVENTS, LIMIT};
use super::time::parse;
use crate::audit::{Action, held, json_of, next_query, question};
use crate::auth::{Asking, Requester, redirects};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Parameter, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get(
            "/api/audit",
            Needs::Scopes(&[Scope::ReadAudit]),
            &LIST,
            list,
        )
        .get(
            "/api/users/{user}/accesses",
            Needs::Scopes(&[Scope::ReadServers, Scope::ReadAudit]),
            &ACCESSES_OF,
            accesses,
        )
}

const ACTION: Parameter = Parameter::new(
    "action",
    "Only these actions, with commas between; `token.*` means all that begin with `token.`.",
    text,
);
const OUTCOME: Parameter = Parameter::new(
    "outcome",
    "Only what ended so.",
    || json!({ "type": "string", "enum": ["ok", "failed", "denied"] }),
);
const ACTOR: Parameter = Parameter::new("actor", "Only what this user or service did.", text);
const TARGET: Parameter = Parameter::new(
    "target",
    "Only what was done to the thing of this name.",
    text,
);
const OWNER: Parameter = Parameter::new(
    "owner",
    "Only what is about this user's servers, tokens and shares.",
    text,
);
const SERVER: Parameter = Parameter::new(
    "server",
    "Only what is about the server of this name.",
    text,
);
const ADDRESS: Parameter =
    Parameter::new("address", "Only what came from this network address.", text);
const SINCE: Parameter = Parameter::new("since", "Only what happened then or later.", moment);
const UNTIL: Parameter = Parameter::new("until", "Only what happened before.", moment);
const BEFORE: Parameter = Parameter::new(
    "before",
    "Only what is older than the event with this id: the next page.",
    || json!({ "type": "integer", "minimum": 1 }),
);

fn text() -> Value {
    json!({ "type": "string", "maxLength": 255 })
}

fn moment() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

const LIST: Operation = Operation::new("get-audit", Tag::Audit, "List events of the audit log")
    .about(
        "Newest first. A page's `next` leads to older ones; it stays right while new events come.",
    )
    .query(&[
        &ACTION, &OUTCOME, &ACTOR, &TARGET, &OWNER, &SERVER, &ADDRESS, &SINCE, &UNTIL, &BEFORE,
        &LIMIT,
    ])
    .answers(&[Answer::json(
        200,
        "One page of events.",
        Shape::One(&AUDIT_EVENTS),
    )])
    .refuses(&[400]);

/// `GET /api/audit`.
async fn list(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<Value>> {
    let query = query(&hub, &uri)?;
    let model = |row: &Row| {
        let mut model = json_of(row);
        model.insert("id".to_owned(), row.id.into());
        Value::Object(model)
    };
    page(&hub, &requester, &uri, query, model).await
}

const ACCESSES_OF: Operation = Operation::new("get-user-accesses", Tag::Audit, "List what others did to a user's servers")
    .about("Who opened, started, stopped or changed them, when and from where; newest first. Users see their own; \
        others need `read:audit`.")
    .query(&[&ACTION, &OUTCOME, &SERVER, &SINCE, &UNTIL, &BEFORE, &LIMIT])
    .answers(&[Answer::json(200, "One page of events.", Shape::One(&ACCESSES))])
    .refuses(&[400]);

/// `GET …/accesses`.
async fn accesses(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(user): PathUser,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<Value>> {
    let is_own = requester.user().is_some_and(|asking| asking.id == user.id);
    // Whoever may look at servers need not know who else does.
    if !is_own
        && !requester
            .may(Scope::ReadAudit, Target::User(&user.name))
            .await?
    {
        return Err(Error::forbidden(
            "Only users themselves and holders of read:audit may see who accessed their servers",
        ));
    }
    let mut query = query(&hub, &uri)?;
    let known: Vec<_> = Action::ACCESSES
        .iter()
        .map(|action| action.as_str())
        .collect();
    if query.actions.is_empty() {
        query.actions = known.into_iter().map(str::to_owned).collect();
    } else if let Some(other) = query
        .actions
        .iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        return Err(Error::bad_request(format!(
            "{other} is no access to a server"
        )));
    }
    query.owner = None;
    query.held = held(&hub.store, &user).await?;
    query.by_others = true;
    (query.actor, query.target, query.address) = (None, None, None);
    page(&hub, &requester, &uri, query, access).await
}

/// An access, as the server's owner sees it: without what concerns the one who came alone.
fn access(row: &Row) -> Value {
    let mut model = json_of(row);
    for field in ["token_id", "oauth_client", "owner", "target"] {
        model.remove(field);
    }
    model.insert("id".to_owned(), row.id.into());
    Value::Object(model)
}

fn query(hub: &AppState, uri: &Uri) -> Result<AuditQuery> {
    let options = &hub.config.hub;
    let positive = |value: i64| u64::try_from(value).unwrap_or_default().max(1);
    question(
        &redirects::query_pairs(uri),
        positive(options.api_page_default_limit),
        positive(options.api_page_max_limit),
        parse,
    )
}

async fn page(
    hub: &AppState,
    requester: &Requester,
    uri: &Uri,
    mut query: AuditQuery,
    model: impl Fn(&Row) -> Value,
) -> Result<Json<Value>> {
    // What this hub has answered before is there.
    hub.audit.flush().await;
    let limit = query.limit;
    query.limit += 1;
    let _turn = hub.long_reads.turn().await?;
    let mut rows = audit::list(hub.store.read(), &query).await?;
    let length = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > length;
    rows.truncate(length);
    let next = rows.last().filter(|_| has_more).map(|last| {
        let browser = &requester.browser;
        let query = next_query(&redirects::query_pairs(uri), last.id);
        json!({
            "before": last.id,
            "limit": limit,
            "url": format!("{}://{}{}?{query}", browser.scheme, browser.host, uri.path()),
        })
    });
    let items: Vec<Value> = rows.iter().map(model).collect();
    Ok(Json(json!({
        "items": items,
        "_pagination": { "limit": limit, "next": next },
    })))
}

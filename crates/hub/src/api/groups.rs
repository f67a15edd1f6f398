//! `/api/groups`: groups, their members and properties.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use orrery_core::scopes::{Access, Scope};
use orrery_store::groups::{self, Group};
use orrery_store::{ConnectionTrait, StoreError, users};
use serde_json::{Map, Value, json};

use super::arguments::{Arguments, Page};
use super::body::{self, FieldType, JsonBody};
use super::path::PathGroup;
use super::schemas::{GROUP, GROUP_REQUEST, GROUPS_REQUEST, LIMIT, MEMBERS, OFFSET};
use super::{models, python};
use crate::audit::{Action, Event};
use crate::auth::{Asking, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// The fields of a group that requests may set.
const GROUP_FIELDS: &[(&str, FieldType)] = &[
    ("name", FieldType::Text),
    ("users", FieldType::List),
    ("roles", FieldType::List),
];

/// The longest name that the column takes, in characters.
const MAX_NAME: usize = 255;

pub(super) fn routes() -> ApiRoutes {
    let readers = &[
        Scope::ReadGroups,
        Scope::ReadGroupsName,
        Scope::ReadRolesGroups,
    ];
    let (one, members) = ("/api/groups/{group}", "/api/groups/{group}/users");
    ApiRoutes::default()
        .get(
            "/api/groups",
            Needs::SomeScopes(&[Scope::ListGroups]),
            &LIST,
            list,
        )
        .post(
            "/api/groups",
            Needs::Scopes(&[Scope::AdminGroups]),
            &CREATE_MANY,
            create_many,
        )
        .get(one, Needs::Scopes(readers), &SHOW, show)
        .post(one, Needs::Scopes(&[Scope::AdminGroups]), &CREATE, create)
        .delete(one, Needs::Scopes(&[Scope::DeleteGroups]), &DELETE, delete)
        .post(
            members,
            Needs::Scopes(&[Scope::Groups]),
            &ADD_MEMBERS,
            add_members,
        )
        .delete(
            members,
            Needs::Scopes(&[Scope::Groups]),
            &REMOVE_MEMBERS,
            remove_members,
        )
        .put(
            "/api/groups/{group}/properties",
            Needs::Scopes(&[Scope::Groups]),
            &SET_PROPERTIES,
            set_properties,
        )
}

const LIST: Operation = Operation::new("get-groups", Tag::Groups, "List groups")
    .about("Those that the requester may list, page by page.")
    .query(&[&OFFSET, &LIMIT])
    .answers(&[Answer::json(
        200,
        "One page of groups.",
        Shape::Page(&GROUP),
    )])
    .refuses(&[400]);

/// `GET /api/groups`: those that the requester may list, page by page.
async fn list(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let page = arguments.page(&hub)?;
    let (found, total) = match requester.scopes.access(Scope::ListGroups) {
        Some(Access::All) => {
            let found = groups::list(hub.store.read(), page.offset, page.limit).await?;
            (found, groups::count(hub.store.read()).await?)
        }
        // Only a filter for groups limits a list of groups; another one must not open it.
        Some(Access::Only(filters))
            if filters.users.is_empty()
                && filters.servers.is_empty()
                && filters.services.is_empty() =>
        {
            named(&hub, filters.groups.iter(), page).await?
        }
        _ => return Err(Error::forbidden("")),
    };
    let models = models::groups(&hub, &requester.scopes, &found).await?;
    Ok(Json(arguments.paginated(
        &requester,
        json!(models),
        page,
        total,
    )))
}

/// A page of the groups with these names, and how many there are.
async fn named<'a>(
    hub: &AppState,
    names: impl Iterator<Item = &'a str>,
    page: Page,
) -> Result<(Vec<Group>, u64)> {
    let mut found = Vec::new();
    for name in names {
        found.extend(groups::find(hub.store.read(), name).await?);
    }
    found.sort_by_key(|group| group.id);
    let total = found.len() as u64;
    let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok((
        found
            .into_iter()
            .skip(bounded(page.offset))
            .take(bounded(page.limit))
            .collect(),
        total,
    ))
}

const CREATE_MANY: Operation = Operation::new("post-groups", Tag::Groups, "Create groups")
    .about("All or none of them, all with the same members.")
    .body(Body::json(Shape::One(&GROUPS_REQUEST)))
    .answers(&[Answer::json(201, "The new groups.", Shape::List(&GROUP))])
    .refuses(&[409]);

/// `POST /api/groups`: creates several groups, all with the same members.
async fn create_many(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    JsonBody(mut body): JsonBody,
) -> Result<Response> {
    let names = match body
        .as_object_mut()
        .and_then(|fields| fields.remove("groups"))
    {
        Some(names) if python::is_truthy(&names) => names,
        _ => {
            return Err(Error::bad_request(
                "Must specify at least one group to create",
            ));
        }
    };
    if !names.is_array() {
        return Err(Error::bad_request(format!(
            "groups must be a list, not {}",
            python::type_name(&names)
        )));
    }
    let fields = body::check_model(&body, "group", GROUP_FIELDS)?;
    let names = body::texts(Some(&names), "group names")?;
    let created = insert(&hub, &requester, &names, fields).await?;
    let models = models::groups(&hub, &requester.scopes, &created).await?;
    Ok((StatusCode::CREATED, Json(models)).into_response())
}

const SHOW: Operation = Operation::new("get-group", Tag::Groups, "Show a group")
    .about("The fields depend on the requester's scopes.")
    .answers(&[Answer::json(200, "The group.", Shape::One(&GROUP))]);

/// `GET /api/groups/{group}`.
async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathGroup(group): PathGroup,
) -> Result<Json<Value>> {
    answer(&hub, &requester, &group).await
}

const CREATE: Operation = Operation::new("post-group", Tag::Groups, "Create a group")
    .body(Body::json(Shape::One(&GROUP_REQUEST)).optional())
    .answers(&[Answer::json(201, "The new group.", Shape::One(&GROUP))])
    .refuses(&[409]);

/// `POST /api/groups/{group}`: creates the group.
async fn create(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let nothing = Map::new();
    let fields = if body.is_null() {
        &nothing
    } else {
        body::check_model(&body, "group", GROUP_FIELDS)?
    };
    let created = insert(&hub, &requester, &[&name], fields).await?;
    let models = models::groups(&hub, &requester.scopes, &created).await?;
    Ok((StatusCode::CREATED, Json(models.into_iter().next())).into_response())
}

const DELETE: Operation = Operation::new("delete-group", Tag::Groups, "Delete a group")
    .answers(&[Answer::empty(204, "The group is gone.")]);

/// `DELETE /api/groups/{group}`.
async fn delete(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathGroup(group): PathGroup,
) -> Result<StatusCode> {
    let id = group.id;
    hub.store
        .write(|transaction| async move { groups::delete(&transaction, id).await })
        .await?;
    tracing::info!(group = %group.name, by = requester.name(), "group deleted");
    let event = Event::new(Action::GroupDelete).by(&requester);
    hub.audit.record(event.on_group(&group.name)).await;
    Ok(StatusCode::NO_CONTENT)
}

const ADD_MEMBERS: Operation =
    Operation::new("post-group-users", Tag::Groups, "Put users into a group")
        .body(Body::json(Shape::One(&MEMBERS)))
        .answers(&[Answer::json(
            200,
            "The group as it is now.",
            Shape::One(&GROUP),
        )]);

/// `POST /api/groups/{group}/users`: puts users into the group.
async fn add_members(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathGroup(group): PathGroup,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    let fields = body::check_model(&body, "group", GROUP_FIELDS)?;
    if !fields.contains_key("users") {
        return Err(Error::bad_request("Must specify users to add"));
    }
    let members = member_ids(&hub, fields).await?;
    let (id, ids) = (group.id, &members);
    hub.store
        .write(|transaction| async move { groups::add_members(&transaction, id, ids).await })
        .await?;
    tracing::info!(group = %group.name, count = members.len(), by = requester.name(), "users added to a group");
    let event = Event::new(Action::GroupAdd)
        .by(&requester)
        .on_group(&group.name);
    hub.audit
        .record(event.detail("users", named_users(fields)))
        .await;
    answer(&hub, &requester, &group).await
}

const REMOVE_MEMBERS: Operation = Operation::new(
    "delete-group-users",
    Tag::Groups,
    "Take users out of a group",
)
.body(Body::json(Shape::One(&MEMBERS)))
.answers(&[Answer::json(
    200,
    "The group as it is now.",
    Shape::One(&GROUP),
)]);

/// `DELETE /api/groups/{group}/users`: takes users out of the group.
async fn remove_members(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathGroup(group): PathGroup,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    let fields = body::check_model(&body, "group", GROUP_FIELDS)?;
    if !fields.contains_key("users") {
        return Err(Error::bad_request("Must specify users to delete"));
    }
    let members = member_ids(&hub, fields).await?;
    let (id, ids) = (group.id, &members);
    hub.store
        .write(|transaction| async move { groups::remove_members(&transaction, id, ids).await })
        .await?;
    tracing::info!(group = %group.name, count = members.len(), by = requester.name(), "users taken out of a group");
    let event = Event::new(Action::GroupRemove)
        .by(&requester)
        .on_group(&group.name);
    hub.audit
        .record(event.detail("users", named_users(fields)))
        .await;
    answer(&hub, &requester, &group).await
}

const SET_PROPERTIES: Operation = Operation::new(
    "put-group-properties",
    Tag::Groups,
    "Replace a group's properties",
)
.body(Body::json(Shape::Inline(|| json!({ "type": "object" }))))
.answers(&[Answer::json(
    200,
    "The group as it is now.",
    Shape::One(&GROUP),
)]);

/// `PUT /api/groups/{group}/properties`: replaces what the site keeps with the group.
async fn set_properties(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathGroup(mut group): PathGroup,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    if !body.is_object() {
        return Err(Error::bad_request("Must specify properties"));
    }
    let (id, properties) = (group.id, &body);
    hub.store
        .write(
            |transaction| async move { groups::set_properties(&transaction, id, properties).await },
        )
        .await?;
    tracing::info!(group = %group.name, by = requester.name(), "a group's properties replaced");
    let event = Event::new(Action::GroupProperties).by(&requester);
    hub.audit.record(event.on_group(&group.name)).await;
    group.properties = body;
    answer(&hub, &requester, &group).await
}

async fn answer(hub: &AppState, requester: &Requester, group: &Group) -> Result<Json<Value>> {
    Ok(Json(Value::Object(
        models::group(hub, &requester.scopes, group).await?,
    )))
}

/// Creates groups, all or none of them.
async fn insert(
    hub: &AppState,
    requester: &Requester,
    names: &[&str],
    fields: &Map<String, Value>,
) -> Result<Vec<Group>> {
    let mut seen = BTreeSet::new();
    for name in names {
        let shown: String = name.chars().take(64).collect();
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control)
        {
            return Err(Error::bad_request(format!(
                "Invalid group name: {}",
                python::repr(&json!(shown))
            )));
        }
        if !seen.insert(*name) || groups::find(hub.store.read(), name).await?.is_some() {
            return Err(Error::conflict(format!("Group {shown} already exists")));
        }
    }
    let members = member_ids(hub, fields).await?;
    let members = &members;
    let created = hub
        .store
        .write(|transaction| async move {
            let mut created = Vec::new();
            for name in names {
                created.push(insert_one(&transaction, name, members).await?);
            }
            Ok::<_, StoreError>(created)
        })
        .await
        .map_err(|error: StoreError| {
            if error.is_duplicate() {
                Error::conflict("Group already exists")
            } else {
                error.into()
            }
        })?;
    let events: Vec<_> = created
        .iter()
        .map(|group| {
            Event::new(Action::GroupCreate)
                .by(requester)
                .on_group(&group.name)
        })
        .map(|event| event.detail("users", named_users(fields)))
        .collect();
    hub.audit.record_all(events).await;
    for group in &created {
        tracing::info!(group = %group.name, members = members.len(), by = requester.name(), "group created");
    }
    Ok(created)
}

/// The users that a body names, for the audit log.
fn named_users(fields: &Map<String, Value>) -> Value {
    fields.get("users").cloned().unwrap_or_else(|| json!([]))
}

async fn insert_one(
    transaction: &impl ConnectionTrait,
    name: &str,
    members: &[i32],
) -> Result<Group, StoreError> {
    let group = groups::insert(transaction, name, &json!({})).await?;
    groups::add_members(transaction, group.id, members).await?;
    Ok(group)
}

/// The users that a body names; 400 if one does not exist.
async fn member_ids(hub: &AppState, fields: &Map<String, Value>) -> Result<Vec<i32>> {
    let mut ids = Vec::new();
    for typed in body::texts(fields.get("users"), "usernames")? {
        let name = hub.normalize(typed).await;
        let Some(user) = users::find(hub.store.read(), &name).await? else {
            return Err(Error::bad_request(format!(
                "No such user: {}",
                super::users::shown_name(&name)
            )));
        };
        ids.push(user.id);
    }
    Ok(ids)
}

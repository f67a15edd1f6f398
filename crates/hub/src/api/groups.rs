//! `/api/groups`: groups, their members and properties.

use std::collections::{BTreeSet, HashMap};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use orrery_core::scopes::{Access, Scope};
use orrery_store::groups::{self, Group, GroupQuery, Member};
use orrery_store::{ConnectionTrait, StoreError, users};
use serde_json::{Map, Value, json};

use super::arguments::{Arguments, Cursor, Page};
use super::body::{self, FieldType, JsonBody};
use super::path::PathGroup;
use super::schemas::{self, CURSOR, GROUP, GROUP_REQUEST, GROUPS_REQUEST, LIMIT, MEMBERS, OFFSET};
use super::{models, python};
use crate::audit::{Action, Event};
use crate::auth::{Asking, Requester};
use crate::error::{Error, Result};
use crate::etag;
use crate::openapi::{Answer, Body, Operation, Parameter, Shape, Tag};
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
        .get_kept(
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
    .query(&[&NAME_FILTER, &SORT, &OFFSET, &LIMIT, &CURSOR])
    .answers(&[Answer::json(
        200,
        "One page of groups.",
        Shape::Inline(|| schemas::pages(&GROUP)),
    )])
    .refuses(&[400]);

const NAME_FILTER: Parameter = Parameter::new(
    "name_filter",
    "Only groups whose name contains this. Not in JupyterHub.",
    || json!({ "type": "string" }),
);
const SORT: Parameter = Parameter::new(
    "sort",
    "What to sort by; with `-` before it, the other way round. Not in JupyterHub.",
    || json!({ "enum": ["id", "name", "-id", "-name"], "default": "id" }),
);

/// `GET /api/groups`: those that the requester may list, page by page.
async fn list(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let page = arguments.page(&hub)?;
    let query = query(&requester, &arguments, page)?;
    let _turn = hub.long_reads.turn().await?;
    let found = groups::list(hub.store.read(), &query).await?;
    let models = json!(models::groups(&hub, &requester.scopes, &found).await?);
    if arguments.is_by_cursor() {
        let last = found.last().map(|group| Cursor {
            sort: sort_name(&arguments).to_owned(),
            key: Some(group.name.clone()),
            id: group.id,
        });
        let last = last.filter(|_| found.len() as u64 == page.limit);
        let answer = arguments.after_cursor(&requester, models, page.limit, last.as_ref());
        return Ok(Json(answer));
    }
    let total = if arguments.accepts_pagination() {
        groups::count(hub.store.read(), &query).await?
    } else {
        0
    };
    Ok(Json(arguments.paginated(&requester, models, page, total)))
}

fn sort_name(arguments: &Arguments) -> &str {
    arguments.get("sort").unwrap_or("id")
}

fn query(requester: &Requester, arguments: &Arguments, page: Page) -> Result<GroupQuery> {
    let names = match requester.scopes.access(Scope::ListGroups) {
        Some(Access::All) => None,
        // Only a filter for groups limits a list of groups; another one must not open it.
        Some(Access::Only(filters))
            if filters.users.is_empty()
                && filters.servers.is_empty()
                && filters.services.is_empty() =>
        {
            Some(filters.groups.iter().map(str::to_owned).collect())
        }
        _ => return Err(Error::forbidden("")),
    };
    let sort = sort_name(arguments);
    let key = sort.strip_prefix('-').unwrap_or(sort);
    if !matches!(key, "id" | "name") {
        let shown: String = sort.chars().take(64).collect();
        return Err(Error::bad_request(format!(
            "sort must be 'id' or 'name', not '{shown}'"
        )));
    }
    let cursor = arguments.cursor(sort)?;
    Ok(GroupQuery {
        offset: page.offset,
        limit: page.limit,
        name_filter: arguments
            .get("name_filter")
            .filter(|part| !part.is_empty())
            .map(str::to_owned),
        by_name: key == "name",
        descending: sort.starts_with('-'),
        names,
        after: cursor.map(|cursor| (cursor.id, cursor.key.unwrap_or_default())),
    })
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
    let names = match names {
        // JupyterHub walks over whatever it is given, and so over the names in an object.
        Value::Object(fields) => fields.into_iter().map(|(name, _)| json!(name)).collect(),
        names => names,
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
    headers: HeaderMap,
) -> Result<StatusCode> {
    let read = &Read::new(&hub, &requester, &headers, &group).await?;
    let before = &group;
    hub.store
        .write(|transaction| async move {
            read.lock(&transaction, before).await?;
            groups::delete(&transaction, before.id).await?;
            Ok::<_, Error>(())
        })
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
    let members = member_names(&hub, fields).await?;
    let (before, names) = (&group, &members);
    hub.store
        .write(|transaction| async move {
            Read::Anyhow.lock(&transaction, before).await?;
            let ids = ids_of(&transaction, names).await?;
            groups::add_members(&transaction, before.id, &ids).await?;
            Ok::<_, Error>(())
        })
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
    let members = member_names(&hub, fields).await?;
    let (before, names) = (&group, &members);
    hub.store
        .write(|transaction| async move {
            Read::Anyhow.lock(&transaction, before).await?;
            let ids = ids_of(&transaction, names).await?;
            groups::remove_members(&transaction, before.id, &ids).await?;
            Ok::<_, Error>(())
        })
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
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    if !body.is_object() {
        return Err(Error::bad_request("Must specify properties"));
    }
    let read = &Read::new(&hub, &requester, &headers, &group).await?;
    let (before, properties) = (&group, &body);
    hub.store
        .write(|transaction| async move {
            read.lock(&transaction, before).await?;
            groups::set_properties(&transaction, before.id, properties).await?;
            Ok::<_, Error>(())
        })
        .await?;
    tracing::info!(group = %group.name, by = requester.name(), "a group's properties replaced");
    let event = Event::new(Action::GroupProperties).by(&requester);
    hub.audit.record(event.on_group(&group.name)).await;
    group.properties = body;
    answer(&hub, &requester, &group).await
}

/// What a change of a group is made from.
enum Read {
    /// Whatever it is now.
    Anyhow,
    /// The state that `If-Match` names, with these members.
    Whole(Vec<Member>),
}

impl Read {
    /// Refuses a change that was made from another state of the group than the present one.
    async fn new(
        hub: &AppState,
        requester: &Requester,
        headers: &HeaderMap,
        group: &Group,
    ) -> Result<Self> {
        if !etag::is_conditional(headers) {
            return Ok(Self::Anyhow);
        }
        // Before the model: what changes in between is noticed here or there.
        let members = groups::members_of(hub.store.read(), &[group.id]).await?;
        let Json(now) = answer(hub, requester, group).await?;
        etag::check(headers, &now)?;
        Ok(Self::Whole(members))
    }

    /// Keeps the group as it is until the transaction ends. 404 if it is gone, for SQLite gives its id to the next
    /// one; 412 if it is not what was read any more.
    async fn lock(&self, transaction: &impl ConnectionTrait, group: &Group) -> Result<()> {
        let now = groups::find_and_lock(transaction, group.id).await?;
        if let Self::Whole(members) = self
            && (now.as_ref() != Some(group)
                || groups::members_of(transaction, &[group.id]).await? != *members)
        {
            return Err(etag::changed());
        }
        now.filter(|now| now.name == group.name)
            .map(|_| ())
            .ok_or_else(|| gone(group))
    }
}

fn gone(group: &Group) -> Error {
    Error::not_found(format!("No such group: {}", group.name))
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
    let members = member_names(hub, fields).await?;
    let members = &members;
    let created = hub
        .store
        .write(|transaction| async move {
            let ids = ids_of(&transaction, members).await?;
            let mut created = Vec::new();
            for name in names {
                created.push(insert_one(&transaction, name, &ids).await?);
            }
            Ok::<_, Error>(created)
        })
        .await
        .map_err(|error| match error {
            Error::Store(error) if error.is_duplicate() => Error::conflict("Group already exists"),
            error => error,
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

/// The users that a body names, by the names that the hub has for them.
async fn member_names(hub: &AppState, fields: &Map<String, Value>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for typed in body::texts(fields.get("users"), "usernames")? {
        names.push(hub.normalize(typed).await);
    }
    Ok(names)
}

/// The ids of these users; 400 if one does not exist. Within the transaction, for ids may be given again.
async fn ids_of(transaction: &impl ConnectionTrait, names: &[String]) -> Result<Vec<i32>> {
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = users::find_by_names(transaction, &texts).await?;
    let known: HashMap<&str, i32> = found
        .iter()
        .map(|user| (user.name.as_str(), user.id))
        .collect();
    let mut ids = Vec::with_capacity(names.len());
    for name in texts {
        let Some(id) = known.get(name) else {
            return Err(Error::bad_request(format!(
                "No such user: {}",
                super::users::shown_name(name)
            )));
        };
        ids.push(*id);
    }
    Ok(ids)
}

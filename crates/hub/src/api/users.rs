//! `/api/users`: lists and creates users.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use orrery_core::UserName;
use orrery_core::escape::for_log;
use orrery_core::scopes::{Access, Scope, ScopeSet, roles};
use orrery_store::user_pages;
use orrery_store::users::{After, AfterKey, UserQuery, UserSort, UserState, Visible};
use serde_json::{Value, json};

use super::arguments::{Arguments, Cursor, Listing, Page};
use super::body::{self, FieldType, JsonBody};
use super::schemas::{self, CURSOR, INCLUDE_STOPPED_SERVERS, LIMIT, OFFSET, USER, USERS_REQUEST};
use super::time::isoformat;
use super::user_models::UserModel;
use super::{python, user_models};
use crate::audit::{Action, Event};
use crate::auth::{Asking, Identity, Requester, people};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Parameter, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// The fields of a user that requests may set.
pub(super) const USER_FIELDS: &[(&str, FieldType)] = &[
    ("name", FieldType::Text),
    ("admin", FieldType::Bool),
    ("groups", FieldType::List),
    ("roles", FieldType::List),
    ("auth_state", FieldType::Object),
];

/// Users that one request may create.
const MOST: usize = 10_000;

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .get_kept(
            "/api/users",
            Needs::SomeScopes(&[Scope::ListUsers]),
            &LIST,
            list,
        )
        .post(
            "/api/users",
            Needs::Scopes(&[Scope::AdminUsers]),
            &CREATE,
            create,
        )
}

const LIST: Operation = Operation::new("get-users", Tag::Users, "List users")
    .about("Those that the requester may list, page by page.")
    .query(&[
        &STATE,
        &NAME_FILTER,
        &SORT,
        &INCLUDE_STOPPED_SERVERS,
        &OFFSET,
        &LIMIT,
        &CURSOR,
    ])
    .answers(&[Answer::json(
        200,
        "One page of users.",
        Shape::Inline(|| schemas::pages(&USER)),
    )])
    .refuses(&[400]);

const STATE: Parameter = Parameter::new(
    "state",
    "Only users with servers that are `active` (ready or about to start or stop) or `ready`, or users who are `inactive`: without any active server.",
    || json!({ "enum": ["active", "ready", "inactive"] }),
);
const NAME_FILTER: Parameter = Parameter::new(
    "name_filter",
    "Only users whose name contains this.",
    || json!({ "type": "string" }),
);
const SORT: Parameter = Parameter::new(
    "sort",
    "What to sort by; with `-` before it, the other way round.",
    || json!({ "enum": ["id", "name", "last_activity", "-id", "-name", "-last_activity"], "default": "id" }),
);

/// `GET /api/users`: those that the requester may list, page by page.
async fn list(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    arguments: Arguments,
) -> Result<Json<Listing<UserModel>>> {
    let page = arguments.page(&hub)?;
    let query = query(&requester, &arguments, page)?;
    let by_cursor = arguments.is_by_cursor();
    let _turn = hub.long_reads.turn().await?;
    let listing = user_pages::list(hub.store.read(), &query);
    let (found, total) = if arguments.accepts_pagination() && !by_cursor {
        // Each looks through all names where there is a filter.
        tokio::try_join!(listing, hub.counts.users(&hub.store, &query))?
    } else {
        (listing.await?, 0)
    };
    let last = found.last().map(|user| Cursor {
        sort: sort_name(&arguments).to_owned(),
        key: match query.sort {
            UserSort::Id => None,
            UserSort::Name => Some(user.name.clone()),
            UserSort::LastActivity => user.last_activity.map(isoformat),
        },
        id: user.id,
    });
    let last = last.filter(|_| found.len() as u64 == page.limit);
    let models = user_models::listed(
        &hub,
        &requester.scopes,
        found,
        arguments.include_stopped_servers(),
    )
    .await?;
    let models = models
        .into_iter()
        .filter(|model| !model.is_empty())
        .collect();
    Ok(Json(if by_cursor {
        arguments.listing_after_cursor(&requester, models, page.limit, last.as_ref())
    } else {
        arguments.listing(&requester, models, page, total)
    }))
}

fn sort_name(arguments: &Arguments) -> &str {
    arguments.get("sort").unwrap_or("id")
}

fn query(requester: &Requester, arguments: &Arguments, page: Page) -> Result<UserQuery> {
    let sort = sort_name(arguments);
    let (key, descending) = sort
        .strip_prefix('-')
        .map_or((sort, false), |key| (key, true));
    let sort = match key {
        "id" => UserSort::Id,
        "name" => UserSort::Name,
        "last_activity" => UserSort::LastActivity,
        _ => {
            let shown: String = sort.chars().take(64).collect();
            return Err(Error::bad_request(format!(
                "sort must be 'id', 'name', or 'last_activity', not '{shown}'"
            )));
        }
    };
    let state = match arguments.get("state").filter(|state| !state.is_empty()) {
        None => None,
        Some("active") => Some(UserState::Active),
        Some("ready") => Some(UserState::Ready),
        Some("inactive") => Some(UserState::Inactive),
        Some(other) => {
            return Err(Error::bad_request(format!(
                "Unrecognized state filter: {}",
                python::repr(&json!(other))
            )));
        }
    };
    // Where a page by a cursor ends, the cursor tells when somebody was last active.
    if sort == UserSort::LastActivity
        && arguments.is_by_cursor()
        && !requester.scopes.has(Scope::ReadUsersActivity)
    {
        return Err(Error::forbidden(
            "A cursor by last_activity needs the scope read:users:activity",
        ));
    }
    Ok(UserQuery {
        offset: page.offset,
        limit: Some(page.limit),
        name_filter: arguments
            .get("name_filter")
            .filter(|part| !part.is_empty())
            .map(str::to_owned),
        state,
        sort,
        descending,
        visible: visible(requester)?,
        after: match arguments.cursor(sort_name(arguments))? {
            Some(cursor) => Some(after(sort, cursor)?),
            None => None,
        },
    })
}

/// The place that a cursor means.
fn after(sort: UserSort, cursor: Cursor) -> Result<After> {
    let invalid = || Error::bad_request("cursor is none of a page of this list in this order");
    let key = match sort {
        UserSort::Id => AfterKey::Id,
        UserSort::Name => AfterKey::Name(cursor.key.ok_or_else(invalid)?),
        UserSort::LastActivity => AfterKey::LastActivity(match cursor.key {
            Some(time) => Some(super::time::parse(&time).ok_or_else(invalid)?),
            None => None,
        }),
    };
    Ok(After { id: cursor.id, key })
}

/// Whom the requester may list; `None` for everybody.
fn visible(requester: &Requester) -> Result<Option<Visible>> {
    match requester.scopes.access(Scope::ListUsers) {
        Some(Access::All) => Ok(None),
        // A filter for servers or services does not limit a list of users; it must not open it either.
        Some(Access::Only(filters))
            if filters.servers.is_empty() && filters.services.is_empty() =>
        {
            Ok(Some(Visible {
                users: filters.users.iter().map(str::to_owned).collect(),
                groups: filters.groups.iter().map(str::to_owned).collect(),
            }))
        }
        _ => Err(Error::forbidden("")),
    }
}

const CREATE: Operation = Operation::new("post-users", Tag::Users, "Create users")
    .body(Body::json(Shape::One(&USERS_REQUEST)))
    .answers(&[Answer::json(
        201,
        "Those that were made.",
        Shape::List(&USER),
    )])
    .refuses(&[409]);

/// `POST /api/users`: creates the users that do not exist yet.
async fn create(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    JsonBody(mut body): JsonBody,
) -> Result<Response> {
    let usernames = match body
        .as_object_mut()
        .and_then(|fields| fields.remove("usernames"))
    {
        Some(usernames) if python::is_truthy(&usernames) => usernames,
        _ => {
            return Err(Error::bad_request(
                "Must specify at least one user to create",
            ));
        }
    };
    let fields = body::check_model(&body, "user", USER_FIELDS)?;
    let admin = fields
        .get("admin")
        .is_some_and(|admin| admin == &json!(true));
    if admin && !is_admin(&requester) {
        return Err(Error::forbidden("Only admins can grant admin permissions"));
    }
    let Value::Array(asked) = &usernames else {
        return Err(Error::bad_request(format!(
            "usernames must be a list, not {}",
            python::type_name(&usernames)
        )));
    };
    if asked.len() > MOST {
        return Err(Error::bad_request(format!(
            "One request can create {MOST} users at most"
        )));
    }
    let names = valid_names(&hub, &body::texts(Some(&usernames), "usernames")?).await?;
    for name in &names {
        check_name_is_free_for(&hub, &requester, name.as_str())?;
    }
    for name in people::missing(hub.store.read(), &names).await? {
        add_to_authenticator(&hub, name)
            .await
            .map_err(|why| Error::bad_request(format!("Failed to create user {name}: {why}")))?;
    }
    let now = hub.clock.now();
    let names = &names;
    let created = hub
        .store
        .write(|transaction| async move {
            let missing = people::missing(&transaction, names).await?;
            people::insert_many(&transaction, &missing, admin, now).await
        })
        .await?;
    if created.is_empty() {
        return Err(Error::conflict(format!(
            "All {} users already exist",
            asked.len()
        )));
    }
    for user in &created {
        tracing::info!(user = %user.name, by = requester.name(), admin, "user created");
    }
    let events: Vec<_> = created
        .iter()
        .map(|user| {
            Event::new(Action::UserCreate)
                .by(&requester)
                .on_user(&user.name)
        })
        .map(|event| event.detail("admin", admin))
        .collect();
    hub.audit.record_all(events).await;
    let models = user_models::users(&hub, &requester.scopes, &created, false).await?;
    Ok((StatusCode::CREATED, Json(models)).into_response())
}

/// Has the authenticator add somebody new; the error says why it could not, fit to be shown.
pub(super) async fn add_to_authenticator(hub: &AppState, name: &UserName) -> Result<(), String> {
    people::add_user(&*hub.authenticator, name)
        .await
        .map_err(|error| {
            tracing::error!(user = %name, %error, "a user could not be created");
            let why = error.to_string();
            why.chars().filter(|c| !c.is_control()).take(500).collect()
        })
}

async fn valid_names(hub: &AppState, typed: &[&str]) -> Result<Vec<UserName>> {
    let (mut names, mut invalid) = (Vec::new(), Vec::new());
    for typed in typed {
        let normalized = hub.normalize(typed).await;
        match hub.rules.validate(&normalized) {
            Ok(name) => names.push(name),
            Err(_) => invalid.push(shown_name(&normalized)),
        }
    }
    match invalid.as_slice() {
        [] => Ok(names),
        [one] => Err(Error::bad_request(format!("Invalid username: {one}"))),
        many => {
            let many = many
                .iter()
                .take(20)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            Err(Error::bad_request(format!("Invalid usernames: {many}")))
        }
    }
}

/// A name that is no user's, fit to be repeated to whoever sent it.
pub(super) fn shown_name(name: &str) -> String {
    if name.len() <= 64 && !name.chars().any(char::is_control) {
        name.to_owned()
    } else {
        for_log(name, 64)
    }
}

/// Whether the requester is an administrator, or a service with their rights, and uses credentials
/// that are not limited to less: only they may do what makes somebody as strong as they are.
pub(super) fn is_admin(requester: &Requester) -> bool {
    requester
        .identity
        .as_ref()
        .is_some_and(|identity| has_admin_rights(identity, &requester.scopes))
}

/// See [`is_admin`]. A service that was given every scope of the role `admin` counts as well.
pub(super) fn has_admin_rights(identity: &Identity, scopes: &ScopeSet) -> bool {
    let is_named = match identity {
        Identity::User(user) => user.admin,
        Identity::Service(service) => service.fields.admin,
    };
    scopes.has(Scope::AdminUsers)
        && (is_named
            || roles::default_roles()
                .iter()
                .filter(|role| role.name == "admin")
                .flat_map(|role| &role.scopes)
                .filter_map(|scope| Scope::parse(scope))
                .all(|scope| scopes.has(scope)))
}

/// Refuses a name that the configuration makes an administrator's, unless an administrator gives it.
pub(super) fn check_name_is_free_for(
    hub: &AppState,
    requester: &Requester,
    name: &str,
) -> Result<()> {
    if hub.rules.admin_users().contains(name) && !is_admin(requester) {
        return Err(Error::forbidden(
            "Only admins can give the name of an admin",
        ));
    }
    Ok(())
}

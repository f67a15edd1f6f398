//! `/api/users/{user}/servers/{server}`: looks at, creates and edits one server. Starting and stopping
//! stand in files of their own.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use orrery_core::ServerName;
use orrery_core::escape::for_log;
use orrery_core::scopes::{Memberships, Scope, Target};
use orrery_store::StoreError;
use orrery_store::spawners::{self, SpawnerChanges};
use orrery_store::users::User;
use serde_json::{Map, Value};

use super::body::JsonBody;
use super::path::PathServer;
use super::schemas::{SERVER, SERVER_CHANGES, SERVER_REQUEST};
use super::{models, python};
use crate::audit::{Action, Event};
use crate::auth::{self, Asking, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::servers::ServerView;
use crate::state::AppState;

/// The paths of a server: by its name, and the default one by an empty name or by none.
pub(super) const PATHS: [&str; 3] = [
    "/api/users/{user}/servers/{server}",
    "/api/users/{user}/servers/",
    "/api/users/{user}/server",
];

pub(super) fn routes() -> ApiRoutes {
    PATHS
        .into_iter()
        .fold(ApiRoutes::default(), |routes, path| {
            let starters = Needs::ServerScopes(&[Scope::StartServers]);
            routes
                .get(
                    path,
                    Needs::ServerScopes(&[Scope::ReadServers]),
                    &SHOW,
                    show,
                )
                .put(path, starters, &CREATE, create)
                .patch(path, starters, &EDIT, edit)
        })
}

/// What requests to create or start a server bring along.
#[derive(Debug, PartialEq)]
pub(super) struct ServerBody {
    /// The name to show, if one was given.
    pub(super) display_name: Option<String>,
    /// The options, if any were given.
    pub(super) user_options: Option<Value>,
}

impl ServerBody {
    /// Upstream's forms: `{"display_name": …, "user_options": …}`, or the options themselves.
    pub(super) fn read(body: Value) -> Result<Self> {
        if !python::is_truthy(&body) {
            return Ok(Self {
                display_name: None,
                user_options: None,
            });
        }
        let Value::Object(mut body) = body else {
            return Err(Error::bad_request("Body must be a JSON object"));
        };
        if body
            .get("display_name")
            .is_some_and(|name| !name.is_string())
        {
            return Err(Error::bad_request("display_name must be a string"));
        }
        if body
            .get("user_options")
            .is_some_and(|options| !(options.is_null() || options.is_object()))
        {
            return Err(Error::bad_request("user_options must be an object or null"));
        }
        if !body.contains_key("display_name") && !body.contains_key("user_options") {
            return Ok(Self {
                display_name: None,
                user_options: Some(Value::Object(body)),
            });
        }
        let display_name = match body.remove("display_name") {
            Some(Value::String(name)) if !name.is_empty() => Some(name),
            _ => None,
        };
        let user_options = body.remove("user_options").filter(Value::is_object);
        Ok(Self {
            display_name,
            user_options,
        })
    }
}

/// A server's model for the requester.
pub(super) async fn model(
    hub: &AppState,
    requester: &Requester,
    view: &ServerView,
) -> Result<Value> {
    let target = Target::Server {
        user: view.user_name.as_str(),
        server: view.name.as_str(),
    };
    let groups = match requester
        .scopes
        .member_in_question(&[Scope::AdminServerState], target)
    {
        Some(member) => auth::memberships(hub.store.read(), [member]).await?,
        None => Memberships::new(),
    };
    Ok(models::server(hub, &requester.scopes, &groups, view))
}

/// A server that has a row, or the default one, which every user has.
pub(super) async fn view(
    hub: &AppState,
    user: &User,
    server: &ServerName,
) -> Result<Option<ServerView>> {
    let view = hub.servers.view(user, server).await?;
    if view.is_none() && server.is_default() {
        return models::untouched_default_server(hub, user.id, &user.name).map(Some);
    }
    Ok(view)
}

const SHOW: Operation = Operation::new("get-user-server-name", Tag::Servers, "Show a server")
    .answers(&[Answer::json(200, "The server.", Shape::One(&SERVER))]);

/// `GET`: the server's model.
async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    path: PathServer,
) -> Result<Json<Value>> {
    let view = view(&hub, &path.user, &path.server)
        .await?
        .ok_or_else(|| Error::not_found(""))?;
    Ok(Json(model(&hub, &requester, &view).await?))
}

const CREATE: Operation = Operation::new(
    "put-user-server-name",
    Tag::Servers,
    "Create a named server",
)
.about("Does not start it.")
.body(Body::json(Shape::One(&SERVER_REQUEST)).optional())
.answers(&[Answer::json(201, "The new server.", Shape::One(&SERVER))])
.refuses(&[409]);

/// `PUT`: creates a named server without starting it.
async fn create(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    path: PathServer,
    JsonBody(body): JsonBody,
) -> Result<Response> {
    let (user, server) = (&path.user, &path.server);
    if server.is_default() {
        return Err(Error::conflict(format!(
            "User {} already has a default server",
            user.name
        )));
    }
    if hub.servers.view(user, server).await?.is_some() {
        return Err(Error::conflict(format!(
            "User {} already has server {server}",
            user.name
        )));
    }
    let body = ServerBody::read(body)?;
    let display_name = body.display_name.as_deref();
    let options = body.user_options.filter(python::is_truthy);
    hub.servers
        .check_named_server(
            user,
            server,
            Some(display_name.unwrap_or(server.as_str())),
            true,
        )
        .await?;
    hub.servers
        .create_server(user, server, display_name, options)
        .await?;
    tracing::info!(user = %user.name, %server, by = requester.name(), "server created");
    let event = Event::new(Action::ServerEdit).by(&requester);
    let event = event.on_server(&user.name, server.as_str());
    hub.audit
        .record_others(event.detail("change", "create"))
        .await;
    let view = hub
        .servers
        .view(user, server)
        .await?
        .ok_or_else(|| Error::not_found(""))?;
    Ok((
        StatusCode::CREATED,
        Json(model(&hub, &requester, &view).await?),
    )
        .into_response())
}

const EDIT: Operation = Operation::new("patch-user-server-name", Tag::Servers, "Change a server")
    .about("Renames a server that does not run, or changes its options or the name it shows.")
    .body(Body::json(Shape::One(&SERVER_CHANGES)))
    .answers(&[Answer::json(
        200,
        "The server as it is now.",
        Shape::One(&SERVER),
    )])
    .refuses(&[409]);

/// `PATCH`: renames a stopped server, or changes its options or the name it shows.
async fn edit(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    path: PathServer,
    body: JsonBody,
) -> Result<Json<Value>> {
    let (user, server) = (&path.user, &path.server);
    let edit = Edit::read(&body.object_or_nothing("Body must be a JSON object")?)?;
    if let Some(name) = &edit.name {
        // Renaming the default server leaves a new default one behind: that is one named server more.
        let display_name = edit.display_name.as_deref().unwrap_or(name.as_str());
        hub.servers
            .check_named_server(user, name, Some(display_name), server.is_default())
            .await?;
    } else if let Some(display_name) = &edit.display_name {
        hub.servers
            .check_named_server(user, server, Some(display_name), false)
            .await?;
    }
    let no_such = || {
        Error::not_found(format!(
            "User {} has no such server {}",
            user.name,
            for_log(server.as_str(), 64)
        ))
    };
    let view = hub.servers.view(user, server).await?.ok_or_else(no_such)?;
    let active = || {
        Error::bad_request(format!(
            "{} is active. Please stop it before modifying it.",
            view.log_name()
        ))
    };
    if view.phase.is_active() {
        return Err(active());
    }
    let changes = SpawnerChanges {
        display_name: edit.display_name.clone().map(Some),
        user_options: edit.user_options.clone(),
        ..SpawnerChanges::default()
    };
    let (changes, new_name, user_id) = (&changes, edit.name.as_ref(), user.id);
    let result = hub
        .store
        .write(|transaction| async move {
            // Looked at again: it may have been started in between.
            let Some(row) = spawners::find(&transaction, user_id, server.as_str()).await? else {
                return Ok(Outcome::Gone);
            };
            if orrery_store::runs::active(&transaction, user_id, server.as_str())
                .await?
                .is_some()
            {
                return Ok(Outcome::Active);
            }
            if let Some(name) = new_name {
                if spawners::find(&transaction, user_id, name.as_str())
                    .await?
                    .is_some()
                {
                    return Ok(Outcome::Taken);
                }
                spawners::rename(&transaction, row.id, name.as_str()).await?;
            }
            spawners::update(&transaction, row.id, changes).await?;
            Ok::<_, StoreError>(Outcome::Done)
        })
        .await?;
    let server = edit.name.as_ref().unwrap_or(server);
    match result {
        Outcome::Done => {}
        Outcome::Gone => return Err(no_such()),
        Outcome::Active => return Err(active()),
        Outcome::Taken => {
            let name = python::repr(&Value::String(server.to_string()));
            return Err(Error::conflict(format!(
                "User {} already has server {name}",
                user.name
            )));
        }
    }
    tracing::info!(user = %user.name, server = %path.server, new_name = %server, by = requester.name(), "server edited");
    let event = Event::new(Action::ServerEdit).by(&requester);
    let mut event = event.on_server(&user.name, path.server.as_str());
    if *server != path.server {
        event = event.detail("new_name", server.as_str());
    }
    hub.audit
        .record_others(event.detail("change", "edit"))
        .await;
    let view = hub.servers.view(user, server).await?.ok_or_else(no_such)?;
    Ok(Json(model(&hub, &requester, &view).await?))
}

enum Outcome {
    Done,
    Gone,
    Active,
    Taken,
}

/// What `PATCH` changes.
struct Edit {
    name: Option<ServerName>,
    display_name: Option<String>,
    user_options: Option<Value>,
}

impl Edit {
    const FIELDS: [&str; 3] = ["name", "display_name", "user_options"];

    fn read(body: &Map<String, Value>) -> Result<Self> {
        if body.is_empty() {
            return Err(Error::bad_request(
                "Must specify at least one field to modify.",
            ));
        }
        let unexpected: Vec<&str> = body
            .keys()
            .map(String::as_str)
            .filter(|key| !Self::FIELDS.contains(key))
            .take(5)
            .collect();
        if !unexpected.is_empty() {
            let unexpected: String = unexpected.join(",").chars().take(200).collect();
            return Err(Error::bad_request(format!(
                "Unexpected fields: {unexpected}, supported fields: {}",
                Self::FIELDS.join(",")
            )));
        }
        let name = match body.get("name") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(ServerName::parse(name).map_err(|_| {
                Error::bad_request(format!("Invalid server_name: {}", for_log(name, 64)))
            })?),
            Some(_) => return Err(Error::bad_request("name must be a string")),
        };
        let display_name = match body.get("display_name") {
            None | Some(Value::Null) => None,
            // Upstream takes any text for a server that exists; the column does not.
            Some(Value::String(name))
                if name.chars().count() > 255 || name.chars().any(char::is_control) =>
            {
                return Err(Error::bad_request(format!(
                    "Invalid display_name: {}",
                    for_log(name, 64)
                )));
            }
            Some(Value::String(name)) => Some(name.clone()).filter(|name| !name.is_empty()),
            Some(_) => return Err(Error::bad_request("display_name must be a string")),
        };
        let user_options = match body.get("user_options") {
            None => None,
            Some(options @ Value::Object(_)) => Some(options.clone()),
            Some(_) => return Err(Error::bad_request("user_options must be a dict")),
        };
        Ok(Self {
            name,
            display_name,
            user_options,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_read_in_all_of_upstreams_forms() {
        let body = |display_name: Option<&str>, user_options: Option<Value>| ServerBody {
            display_name: display_name.map(str::to_owned),
            user_options,
        };
        for (sent, expected) in [
            (json!(null), body(None, None)),
            (json!({}), body(None, None)),
            (
                json!({"image": "x"}),
                body(None, Some(json!({"image": "x"}))),
            ),
            (
                json!({"user_options": {"a": 1}, "more": 2}),
                body(None, Some(json!({"a": 1}))),
            ),
            (json!({"display_name": "Lab"}), body(Some("Lab"), None)),
            (
                json!({"display_name": "", "user_options": null}),
                body(None, None),
            ),
        ] {
            assert_eq!(
                ServerBody::read(sent.clone()).expect("a good body"),
                expected,
                "{sent}"
            );
        }
        for bad in [
            json!([1]),
            json!("x"),
            json!({"display_name": 1}),
            json!({"user_options": [1]}),
        ] {
            assert!(ServerBody::read(bad.clone()).is_err(), "{bad}");
        }
    }
}

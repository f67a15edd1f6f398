//! `/api/services`: the programs that stand beside the hub.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use orrery_core::Secret;
use orrery_core::scopes::roles::RoleSpec;
use orrery_core::scopes::{Client, Scope, ScopeError};
use orrery_store::api_tokens::{self, NewApiToken};
use orrery_store::oauth_clients::{self, NewOauthClient};
use orrery_store::roles::{self, Holder};
use orrery_store::services::{self, Service, ServiceFields};
use orrery_store::token_hash::{self, Origin};
use orrery_store::{NaiveDateTime, StoreError};
use serde_json::{Map, Value, json};

use super::body::{self, FieldType, JsonBody};
use super::models::{self, Model, ServiceDetail};
use super::schemas::{SERVICE, SERVICE_REQUEST, SERVICES};
use crate::audit::{Action, Event};
use crate::auth::{self, Asking, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// The fields of a service that requests may set.
const SERVICE_FIELDS: &[(&str, FieldType)] = &[
    ("name", FieldType::Text),
    ("admin", FieldType::Bool),
    ("url", FieldType::Text),
    ("oauth_client_allowed_scopes", FieldType::List),
    ("api_token", FieldType::Text),
    ("info", FieldType::Object),
    ("display", FieldType::Bool),
    ("oauth_no_confirm", FieldType::Bool),
    ("command", FieldType::List),
    ("cwd", FieldType::Text),
    ("environment", FieldType::Object),
    ("user", FieldType::Text),
    ("oauth_client_id", FieldType::Text),
    ("oauth_redirect_uri", FieldType::Text),
];

pub(super) fn routes() -> ApiRoutes {
    let readers = &[
        Scope::ReadServices,
        Scope::ReadServicesName,
        Scope::ReadRolesServices,
    ];
    let listers = Needs::SomeScopes(&[Scope::ListServices]);
    let admins = Needs::Scopes(&[Scope::AdminServices]);
    let one = "/api/services/{service}";
    ApiRoutes::default()
        .get("/api/services", listers, &LIST, list)
        .get(one, Needs::Scopes(readers), &SHOW, show)
        .post(one, admins, &CREATE, create)
        .delete(one, admins, &DELETE, delete)
}

const LIST: Operation = Operation::new("get-services", Tag::Services, "List services")
    .about("Those that the requester may list.")
    .answers(&[Answer::json(
        200,
        "The services, by name.",
        Shape::One(&SERVICES),
    )]);

/// `GET /api/services`: those that the requester may list, by name.
async fn list(State(hub): State<AppState>, Asking(requester): Asking) -> Result<Json<Model>> {
    let access = requester.scopes.access(Scope::ListServices);
    let mut all = Model::new();
    for service in services::list(hub.store.read()).await? {
        let target = orrery_core::scopes::Target::Service(&service.fields.name);
        if access.is_some_and(|access| access.reaches(target, &orrery_core::scopes::NoGroups)) {
            let model =
                models::service(&hub, &requester.scopes, &service, ServiceDetail::Full).await?;
            all.insert(service.fields.name, Value::Object(model));
        }
    }
    Ok(Json(all))
}

const SHOW: Operation = Operation::new("get-service", Tag::Services, "Show a service")
    .about("The fields depend on the requester's scopes.")
    .answers(&[Answer::json(200, "The service.", Shape::One(&SERVICE))]);

/// `GET /api/services/{service}`.
async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
) -> Result<Json<Model>> {
    let service = services::find(hub.store.read(), &name)
        .await?
        .ok_or_else(|| Error::not_found(format!("No such service: {name}")))?;
    Ok(Json(
        models::service(&hub, &requester.scopes, &service, ServiceDetail::Full).await?,
    ))
}

const DELETE: Operation = Operation::new("delete-service", Tag::Services, "Delete a service")
    .about("One that a request made; those of the configuration stay.")
    .answers(&[Answer::empty(200, "The service is gone.")])
    .refuses(&[405]);

/// `DELETE /api/services/{service}`: removes a service that a request made.
async fn delete(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
) -> Result<Response> {
    let service = services::find(hub.store.read(), &name)
        .await?
        .ok_or_else(|| Error::not_found(format!("Service {name} does not exist")))?;
    if service.fields.from_config {
        return Err(Error::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Service {name} is not modifiable at runtime"),
        ));
    }
    let service = &service;
    hub.store
        .write(|transaction| async move {
            services::delete(&transaction, service.id).await?;
            if let Some(client) = &service.fields.oauth_client_id
                && services::find_by_client(&transaction, client)
                    .await?
                    .is_none()
            {
                oauth_clients::delete(&transaction, client).await?;
            }
            Ok::<_, StoreError>(())
        })
        .await?;
    tracing::info!(service = %name, by = requester.name(), "service deleted");
    let event = Event::new(Action::ServiceDelete).by(&requester);
    hub.audit.record(event.on_service(&name)).await;
    hub.routes.wake();
    Ok((
        StatusCode::OK,
        [(axum::http::header::CONTENT_TYPE, "application/json")],
        "",
    )
        .into_response())
}

const CREATE: Operation = Operation::new("post-service", Tag::Services, "Create a service")
    .about("One that runs on its own.")
    .body(Body::json(Shape::One(&SERVICE_REQUEST)))
    .answers(&[Answer::json(201, "The new service.", Shape::One(&SERVICE))])
    .refuses(&[409]);

/// `POST /api/services/{service}`: adds a service that runs on its own.
async fn create(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(name): Path<String>,
    JsonBody(mut body): JsonBody,
) -> Result<Response> {
    let exists = || Error::conflict(format!("Service {name} already exists"));
    if services::find(hub.store.read(), &name).await?.is_some() {
        return Err(exists());
    }
    match body.as_object_mut() {
        Some(fields) if !fields.is_empty() => fields.insert("name".to_owned(), json!(name)),
        _ => return Err(Error::bad_request("Invalid service data")),
    };
    let fields = body::check_model(&body, "service", SERVICE_FIELDS)?;
    let new = NewService::read(&hub, &name, fields).await?;
    check_scopes(&hub, &requester, &new.fields).await?;
    let now = hub.clock.now();
    let new = &new;
    let service = hub
        .store
        .write(|transaction| async move { new.insert(&transaction, now).await })
        .await
        .map_err(|error: StoreError| {
            if error.is_duplicate() {
                exists()
            } else {
                error.into()
            }
        })?;
    tracing::info!(service = %name, by = requester.name(), "service created");
    let event = Event::new(Action::ServiceCreate).by(&requester);
    let event = event
        .on_service(&name)
        .detail("admin", service.fields.admin);
    hub.audit.record(event).await;
    hub.routes.wake();
    let model = models::service(&hub, &requester.scopes, &service, ServiceDetail::Full).await?;
    Ok((StatusCode::CREATED, Json(model)).into_response())
}

/// Nobody makes a service that may do more than they may.
async fn check_scopes(
    hub: &AppState,
    requester: &Requester,
    service: &ServiceFields,
) -> Result<()> {
    let mut wanted: Vec<String> = service
        .oauth_client_allowed_scopes
        .clone()
        .unwrap_or_default();
    if service.admin {
        let admin = orrery_core::scopes::roles::default_roles()
            .into_iter()
            .find(|role| role.name == "admin");
        wanted.extend(admin.iter().flat_map(|role| {
            RoleSpec::effective_scopes(&role.name, &role.scopes).map(str::to_owned)
        }));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    hub.scopes
        .check(&wanted, "service")
        .map_err(|error| Error::bad_request(error.to_string()))?;
    let Some(identity) = &requester.identity else {
        return Err(Error::forbidden(""));
    };
    let owner = identity.owner();
    let members =
        hub.scopes
            .token_members_in_question(&wanted, owner, &requester.scopes, &Client::Hub);
    let groups = auth::memberships(hub.store.read(), members.iter().map(String::as_str)).await?;
    hub.scopes
        .check_token(&wanted, owner, &requester.scopes, &Client::Hub, &groups)
        .map_err(|error| match error {
            ScopeError::Excess { excess, .. } => {
                let kind = if requester.user().is_some() {
                    "User"
                } else {
                    "Service"
                };
                Error::bad_request(format!(
                    "Not assigning requested scopes {} not held by {kind} {}",
                    excess.join(","),
                    requester.name()
                ))
            }
            other => Error::bad_request(other.to_string()),
        })
}

/// A service to add, with its token and its OAuth client.
struct NewService {
    fields: ServiceFields,
    token: Option<(Secret, String)>,
    client: Option<NewOauthClient>,
}

impl NewService {
    async fn read(hub: &AppState, name: &str, given: &Map<String, Value>) -> Result<Self> {
        let failed = || {
            Error::bad_request(format!(
                "Failed to create service {}",
                super::users::shown_name(name)
            ))
        };
        if given
            .get("command")
            .and_then(Value::as_array)
            .is_some_and(|command| !command.is_empty())
        {
            return Err(Error::bad_request(format!(
                "Can not create managed service {name} at runtime"
            )));
        }
        if name.is_empty()
            || name.chars().count() > 255
            || name.chars().any(|c| c.is_control() || c == '/')
        {
            return Err(failed());
        }
        let text = |key: &str| {
            given
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let truth = |key: &str| given.get(key).and_then(Value::as_bool);
        let url = text("url").map(str::to_owned);
        if url
            .as_deref()
            .is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            return Err(failed());
        }
        let client_id =
            text("oauth_client_id").map_or_else(|| format!("service-{name}"), str::to_owned);
        let scopes: Vec<String> = body::texts(given.get("oauth_client_allowed_scopes"), "scopes")?
            .into_iter()
            .map(str::to_owned)
            .collect();
        let token = match text("api_token") {
            Some(token) => Some(hashed(token, name).await?),
            None => None,
        };
        let redirect_uri = text("oauth_redirect_uri");
        let wants_oauth = text("oauth_client_id").is_some()
            || redirect_uri.is_some()
            || truth("oauth_no_confirm") == Some(true);
        // Logins must come back to somewhere.
        if wants_oauth && url.is_none() && redirect_uri.is_none() {
            return Err(failed());
        }
        let is_client = url.is_some() || wants_oauth;
        if (is_client || text("oauth_client_id").is_some())
            && (!client_id.starts_with("service-") || client_id.len() > 255)
        {
            return Err(failed());
        }
        let client = is_client.then(|| NewOauthClient {
            identifier: client_id.clone(),
            description: format!("JupyterHub service {name}"),
            secret: token
                .as_ref()
                .map(|(_, hash)| hash.clone())
                .unwrap_or_default(),
            redirect_uri: redirect_uri
                .map_or_else(|| hub.urls.service_callback(name), str::to_owned),
            // Whoever logs in to a service may reach it.
            allowed_scopes: scopes
                .iter()
                .cloned()
                .chain([format!("access:services!service={name}")])
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        });
        let kept = |key: &str| given.get(key).cloned().unwrap_or_default();
        // What was not said stays open in the row, as JupyterHub has it.
        let fields = ServiceFields {
            name: name.to_owned(),
            admin: truth("admin").unwrap_or(false),
            url,
            oauth_client_allowed_scopes: given
                .contains_key("oauth_client_allowed_scopes")
                .then_some(scopes),
            info: kept("info"),
            display: truth("display"),
            oauth_no_confirm: truth("oauth_no_confirm"),
            command: given.contains_key("command").then(Vec::new),
            cwd: given.get("cwd").and_then(Value::as_str).map(str::to_owned),
            environment: kept("environment"),
            user: given.get("user").and_then(Value::as_str).map(str::to_owned),
            oauth_client_id: client.is_some().then_some(client_id),
            from_config: false,
            ..ServiceFields::default()
        };
        Ok(Self {
            fields,
            token,
            client,
        })
    }

    async fn insert(
        &self,
        transaction: &impl orrery_store::ConnectionTrait,
        now: NaiveDateTime,
    ) -> Result<Service, StoreError> {
        if let Some(client) = &self.client {
            // Somebody else's client must not be taken over.
            oauth_clients::insert(transaction, client).await?;
        }
        let service = services::insert(transaction, &self.fields).await?;
        if self.fields.admin
            && let Some(role) = roles::find(transaction, DEFAULT_ADMIN).await?
        {
            roles::assign(transaction, Holder::Service(service.id), role.id, false).await?;
        }
        if let Some((token, hashed)) = &self.token {
            let role = roles::find(transaction, DEFAULT_TOKEN).await?;
            let new = NewApiToken {
                owner: api_tokens::Owner::Service(service.id),
                hashed: hashed.clone(),
                prefix: token_hash::prefix(token.expose()).to_owned(),
                client_id: "jupyterhub".to_owned(),
                session_id: None,
                created: now,
                expires_at: None,
                note: "from a request to the API".to_owned(),
                scopes: role.map_or_else(|| vec!["inherit".to_owned()], |role| role.scopes),
            };
            api_tokens::insert(transaction, &new).await?;
        }
        Ok(service)
    }
}

/// The role of services that may do everything.
const DEFAULT_ADMIN: &str = "admin";

/// The role that says what tokens may do of which nobody says it.
const DEFAULT_TOKEN: &str = "token";

/// Hashes a token that somebody chose; that is slow on purpose.
async fn hashed(token: &str, service: &str) -> Result<(Secret, String)> {
    let length = token.chars().count();
    if !(token_hash::MIN_LENGTH..=token_hash::MAX_LENGTH).contains(&length) {
        return Err(Error::bad_request(format!(
            "The token of service {service} must have {} to {} characters",
            token_hash::MIN_LENGTH,
            token_hash::MAX_LENGTH
        )));
    }
    let token = Secret::new(token);
    let hashing = tokio::task::spawn_blocking(move || {
        token_hash::hash_token(token.expose(), Origin::Chosen).map(|hashed| (token, hashed))
    });
    Ok(hashing
        .await
        .map_err(|error| Error::Internal(format!("a token could not be hashed: {error}")))??)
}

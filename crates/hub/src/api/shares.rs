//! `/api/shares/{user}/{server}`: with whom servers are shared. Codes, and lists of what is shared with
//! somebody, stand in files of their own.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orrery_core::scopes::{Memberships, Scope, filter_share_scopes};
use orrery_core::{ServerName, escape::for_log};
use orrery_store::groups;
use orrery_store::shares::{self, Grant, Of, Share, With};
use orrery_store::spawners::{self, Spawner};
use orrery_store::users::{self, User};
use orrery_store::{ConnectionTrait, NaiveDateTime, StoreError};
use serde_json::{Map, Value, json};

use super::arguments::Arguments;
use super::body::JsonBody;
use super::path::PathUser;
use super::schemas::{LIMIT, OFFSET, SHARE, SHARE_REQUEST, SHARE_REVOCATION};
use super::share_models::short;
use super::{python, share_models};
use crate::audit::{Action, Event};
use crate::auth::{self, Asking, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::servers::CreateError;
use crate::state::AppState;

pub(super) fn routes() -> ApiRoutes {
    let (read, write) = (&[Scope::ReadShares], &[Scope::Shares]);
    let all = "/api/shares/{user}";
    let routes = ApiRoutes::default()
        .get(all, Needs::Scopes(read), &OF_OWNER, of_owner)
        .post(
            all,
            Needs::Scopes(write),
            &NEEDS_SERVER_POST,
            of_one_server_only,
        )
        .patch(
            all,
            Needs::Scopes(write),
            &NEEDS_SERVER_PATCH,
            of_one_server_only,
        )
        .delete(
            all,
            Needs::Scopes(write),
            &NEEDS_SERVER_DELETE,
            of_one_server_only,
        );
    ["/api/shares/{user}/", "/api/shares/{user}/{server}"]
        .into_iter()
        .fold(routes, |routes, path| {
            routes
                .get(path, Needs::ServerScopes(read), &OF_SERVER, of_server)
                .post(path, Needs::ServerScopes(write), &GRANT, grant)
                .patch(path, Needs::ServerScopes(write), &REVOKE, revoke)
                .delete(path, Needs::ServerScopes(write), &REVOKE_ALL, revoke_all)
        })
}

/// What lists of shares answer.
pub(super) const ONE_PAGE: &[Answer] = &[Answer::json(
    200,
    "One page of shares.",
    Shape::Framed(&SHARE),
)];

const OF_OWNER: Operation = Operation::new(
    "get-shares-owner",
    Tag::Shares,
    "List who may use a user's servers",
)
.query(&[&OFFSET, &LIMIT])
.answers(ONE_PAGE);

/// `GET /shares/{user}`: everything that a user's servers are shared by.
async fn of_owner(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    PathUser(owner): PathUser,
    arguments: Arguments,
) -> Result<Json<Value>> {
    share_models::share_list(&hub, &requester, &arguments, Of::Owner(owner.id)).await
}

const NEEDS_SERVER_POST: Operation = needs_server("post-shares-owner");
const NEEDS_SERVER_PATCH: Operation = needs_server("patch-shares-owner");
const NEEDS_SERVER_DELETE: Operation = needs_server("delete-shares-owner");

/// What upstream has no answer for but 405.
pub(super) const fn needs_server(id: &'static str) -> Operation {
    Operation::new(id, Tag::Shares, "Not without a server")
        .about("Always answers 405: the path must name a server.")
        .refuses(&[405])
}

/// Other methods need a server.
pub(super) async fn of_one_server_only() -> Error {
    Error::new(StatusCode::METHOD_NOT_ALLOWED, "")
}

const OF_SERVER: Operation = Operation::new(
    "get-shares-server",
    Tag::Shares,
    "List who may use a server",
)
.query(&[&OFFSET, &LIMIT])
.answers(ONE_PAGE);

/// `GET`: with whom one server is shared.
async fn of_server(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(path): Path<Vec<(String, String)>>,
    arguments: Arguments,
) -> Result<Json<Value>> {
    let (_, spawner) = SharedServer::named(&path).find(&hub).await?;
    // A default server that was never used has no row, and so is in no list.
    let of = Of::Spawner(spawner.map_or(0, |spawner| spawner.id));
    share_models::share_list(&hub, &requester, &arguments, of).await
}

const GRANT: Operation = Operation::new("post-shares-server", Tag::Shares, "Share a server")
    .about("With a user or a group, with some scopes or just to be used. Who shares needs to know them: `read:users:name` or `read:groups:name`.")
    .body(Body::json(Shape::One(&SHARE_REQUEST)))
    .answers(&[Answer::json(200, "The share as it is now.", Shape::One(&SHARE))]);

/// `POST`: shares a server with a user or group, with some scopes or just to be used.
async fn grant(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(path): Path<Vec<(String, String)>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    let body = ShareBody::read(&hub, &body)?;
    let server = SharedServer::named(&path);
    let scopes = server.limited(body.scopes.as_deref())?;
    let (owner, spawner) = server.find_or_make(&hub).await?;
    check_holds(&hub, &requester, &owner, &scopes).await?;
    check_knows(&hub, &requester, &body.with).await?;
    let wish = &Wish {
        server: &server,
        owner: &owner,
        spawner: &spawner,
        with: &body.with,
        scopes,
    };
    let now = hub.clock.now();
    let share = hub
        .store
        .write(|transaction| async move { wish.grant(&transaction, now).await })
        .await?;
    let event = body
        .with
        .named_in(Event::new(Action::ShareCreate).by(&requester));
    let event = event.on_server(&owner.name, &spawner.name);
    hub.audit
        .record(event.detail("scopes", share.scopes.clone()))
        .await;
    tracing::info!(owner = %owner.name, server = spawner.name, with = ?body.with, scopes = ?share.scopes,
        by = requester.name(), "server shared");
    model(&hub, &share).await
}

const REVOKE: Operation = Operation::new(
    "patch-shares-server",
    Tag::Shares,
    "Take a server from a user or group",
)
.body(Body::json(Shape::One(&SHARE_REVOCATION)))
.answers(&[Answer::json(
    200,
    "What is left of the share, or an empty object.",
    Shape::Inline(
        || json!({ "oneOf": [SHARE.reference(), { "type": "object", "maxProperties": 0 }] }),
    ),
)]);

/// `PATCH`: takes some scopes, or all, from a user or group.
async fn revoke(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(path): Path<Vec<(String, String)>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>> {
    let body = ShareBody::read(&hub, &body)?;
    let server = SharedServer::named(&path);
    let (owner, spawner) = server.find(&hub).await?;
    let with = body.with.find(hub.store.read()).await?;
    // Nothing is shared with nobody.
    let (Some(spawner), Some(with)) = (spawner, with) else {
        return Ok(Json(json!({})));
    };
    let (filter, revoked) = (&server.filter(), body.scopes.as_deref());
    let left = hub
        .store
        .write(|transaction| async move {
            shares::revoke(&transaction, spawner.id, with, filter, revoked).await
        })
        .await?;
    let event = body
        .with
        .named_in(Event::new(Action::ShareRevoke).by(&requester));
    let event = event.on_server(&owner.name, server.server);
    let left_scopes = left.as_ref().map(|share| share.scopes.clone());
    hub.audit
        .record(event.detail("left", left_scopes.unwrap_or_default()))
        .await;
    tracing::info!(owner = %owner.name, server = %for_log(server.server, 64), with = ?body.with,
        by = requester.name(), "share revoked");
    match left {
        Some(share) => model(&hub, &share).await,
        None => Ok(Json(json!({}))),
    }
}

const REVOKE_ALL: Operation = Operation::new(
    "delete-shares-server",
    Tag::Shares,
    "Take a server from everybody",
)
.answers(&[Answer::empty(204, "It is shared with nobody any more.")]);

/// `DELETE`: the server is shared with nobody any more.
async fn revoke_all(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    Path(path): Path<Vec<(String, String)>>,
) -> Result<StatusCode> {
    let server = SharedServer::named(&path);
    let (owner, spawner) = server.find(&hub).await?;
    if let Some(spawner) = spawner {
        let id = spawner.id;
        hub.store
            .write(|transaction| async move { shares::delete_of_spawner(&transaction, id).await })
            .await?;
        tracing::info!(owner = %owner.name, server = spawner.name, by = requester.name(), "all shares revoked");
        let event = Event::new(Action::ShareRevoke).by(&requester);
        let event = event.on_server(&owner.name, &spawner.name);
        hub.audit.record(event.detail("all", true)).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn model(hub: &AppState, share: &Share) -> Result<Json<Value>> {
    share_models::Servers::default()
        .share(hub, share)
        .await?
        .map(Json)
        .ok_or_else(|| Error::not_found(""))
}

/// A server by the names in a path, whether there is such a server or not.
pub(super) struct SharedServer<'a> {
    pub(super) owner: &'a str,
    pub(super) server: &'a str,
}

impl<'a> SharedServer<'a> {
    pub(super) fn named(path: &'a [(String, String)]) -> Self {
        Self {
            owner: share_models::named(path, "user"),
            server: share_models::named(path, "server"),
        }
    }

    /// The filter that all scopes of its shares have.
    pub(super) fn filter(&self) -> String {
        format!("server={}/{}", self.owner, self.server)
    }

    /// The scopes that are to be shared, limited to this server; by default to use it.
    pub(super) fn limited(&self, scopes: Option<&[String]>) -> Result<Vec<String>> {
        let default = ["access:servers".to_owned()];
        filter_share_scopes(scopes.unwrap_or(&default), self.owner, self.server).map_err(|scope| {
            let filter = scope.split_once('!').map_or("", |(_, filter)| filter);
            Error::bad_request(format!(
                "!{} not allowed on sharing {}, only !{}",
                short(filter),
                short(&scope),
                short(&self.filter())
            ))
        })
    }

    /// The owner and the server's row; a default server that was never used has none.
    pub(super) async fn find(&self, hub: &AppState) -> Result<(User, Option<Spawner>)> {
        let owner = users::find(hub.store.read(), self.owner)
            .await?
            .ok_or_else(|| self.missing())?;
        let spawner = spawners::find(hub.store.read(), owner.id, self.server).await?;
        if spawner.is_none() && !self.server.is_empty() {
            return Err(self.missing());
        }
        Ok((owner, spawner))
    }

    /// 404 unless these are still the owner and the server: SQLite gives the ids of those that are gone to the next
    /// ones.
    pub(super) async fn check_same(
        &self,
        transaction: &impl ConnectionTrait,
        owner: &User,
        spawner: &Spawner,
    ) -> Result<()> {
        let found = match users::find(transaction, self.owner).await? {
            Some(now) if now.id == owner.id => {
                spawners::find(transaction, now.id, self.server).await?
            }
            _ => None,
        };
        if found.is_some_and(|now| now.id == spawner.id) {
            return Ok(());
        }
        Err(self.missing())
    }

    fn missing(&self) -> Error {
        Error::not_found(format!(
            "No such server: {}/{}",
            short(self.owner),
            short(self.server)
        ))
    }

    /// As [`find`](Self::find), but everybody's default server has its row afterwards.
    pub(super) async fn find_or_make(&self, hub: &AppState) -> Result<(User, Spawner)> {
        let (owner, found) = self.find(hub).await?;
        if let Some(spawner) = found {
            return Ok((owner, spawner));
        }
        let server = ServerName::default_server();
        match hub.servers.create_server(&owner, &server, None, None).await {
            // Somebody was faster.
            Ok(()) | Err(CreateError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match self.find(hub).await? {
            (owner, Some(spawner)) => Ok((owner, spawner)),
            (_, None) => Err(Error::not_found("")),
        }
    }
}

/// Nobody shares what they do not hold themselves.
pub(super) async fn check_holds(
    hub: &AppState,
    requester: &Requester,
    owner: &User,
    scopes: &[String],
) -> Result<()> {
    let groups = auth::memberships(hub.store.read(), [owner.name.as_str()]).await?;
    for scope in scopes {
        if !requester.scopes.has_text(scope, &groups) {
            return Err(Error::forbidden(format!(
                "Do not have permission to grant share with scope {}",
                short(scope)
            )));
        }
    }
    Ok(())
}

/// Nobody shares with somebody they may not even know of.
async fn check_knows(hub: &AppState, requester: &Requester, with: &Recipient) -> Result<()> {
    let (kind, name) = match with {
        Recipient::User(name) => ("user", name),
        Recipient::Group(name) => ("group", name),
    };
    let groups = match with {
        Recipient::User(name) => auth::memberships(hub.store.read(), [name.as_str()]).await?,
        Recipient::Group(_) => Memberships::new(),
    };
    if requester
        .scopes
        .has_text(&format!("read:{kind}s:name!{kind}={name}"), &groups)
    {
        return Ok(());
    }
    Err(Error::forbidden(format!(
        "Need scope 'read:{kind}s:name' to share with {kind}s by name"
    )))
}

/// What somebody wants to share.
struct Wish<'a> {
    server: &'a SharedServer<'a>,
    owner: &'a User,
    spawner: &'a Spawner,
    with: &'a Recipient,
    scopes: Vec<String>,
}

impl Wish<'_> {
    /// Shares it, if all still have the names of the request.
    async fn grant(&self, transaction: &impl ConnectionTrait, now: NaiveDateTime) -> Result<Share> {
        self.server
            .check_same(transaction, self.owner, self.spawner)
            .await?;
        let with = self.with.find(transaction).await?.ok_or_else(|| {
            let (kind, name) = match self.with {
                Recipient::User(name) => ("user", name),
                Recipient::Group(name) => ("group", name),
            };
            Error::bad_request(format!("No such {kind}: {}", short(name)))
        })?;
        let grant = Grant {
            owner_id: self.owner.id,
            spawner_id: self.spawner.id,
            with,
            filter: self.server.filter(),
            scopes: self.scopes.clone(),
            now,
        };
        Ok(shares::grant(transaction, &grant).await?)
    }
}

/// What a request to share or not to share any more brings along.
#[derive(Debug, PartialEq)]
struct ShareBody {
    scopes: Option<Vec<String>>,
    with: Recipient,
}

#[derive(Debug, PartialEq)]
enum Recipient {
    User(String),
    Group(String),
}

impl Recipient {
    /// Who it is, if there is somebody of that name.
    async fn find(&self, connection: &impl ConnectionTrait) -> Result<Option<With>, StoreError> {
        Ok(match self {
            Self::User(name) => users::find(connection, name)
                .await?
                .map(|user| With::User(user.id)),
            Self::Group(name) => groups::find(connection, name)
                .await?
                .map(|group| With::Group(group.id)),
        })
    }

    /// Says in an event with whom it is shared.
    fn named_in(&self, event: Event) -> Event {
        match self {
            Self::User(name) => event.detail("user", name.as_str()),
            Self::Group(name) => event.detail("group", name.as_str()),
        }
    }
}

impl ShareBody {
    fn read(hub: &AppState, body: &Value) -> Result<Self> {
        let fields = fields(body, &["scopes", "user", "group"])?;
        let name = |key: &str| match fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone()).filter(|name| !name.is_empty())),
            Some(_) => Err(Error::bad_request(format!("{key} must be a string"))),
        };
        let with = match (name("user")?, name("group")?) {
            (Some(user), None) => Recipient::User(user),
            (None, Some(group)) => Recipient::Group(group),
            _ => {
                return Err(Error::bad_request(
                    "Specify exactly one of `user` or `group`",
                ));
            }
        };
        Ok(Self {
            scopes: scopes(hub, fields.get("scopes"))?,
            with,
        })
    }
}

/// The fields of a body, which may have no others.
pub(super) fn fields(body: &Value, known: &[&str]) -> Result<Map<String, Value>> {
    let fields = match body {
        Value::Object(fields) => fields.clone(),
        other if !python::is_truthy(other) => Map::new(),
        _ => return Err(Error::bad_request("Body must be a JSON object")),
    };
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Error::bad_request(format!(
            "Unexpected field: {}",
            short(key)
        ))),
        None => Ok(fields),
    }
}

/// A list of scopes that exist; an empty one is as none.
pub(super) fn scopes(hub: &AppState, value: Option<&Value>) -> Result<Option<Vec<String>>> {
    let refused = || Error::bad_request("scopes must be a list of strings");
    let scopes = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(refused))
            .collect::<Result<Vec<String>>>()?,
        Some(_) => return Err(refused()),
    };
    if scopes.is_empty() {
        return Ok(None);
    }
    hub.scopes
        .check(&scopes, "share")
        .map_err(|error| Error::bad_request(short(&error.to_string())))?;
    Ok(Some(scopes))
}

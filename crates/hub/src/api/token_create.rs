//! `POST /api/users/{user}/tokens`: a new API token.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::TimeDelta;
use orrery_core::scopes::{Client, NoGroups, Owner, Scope, ScopeError, ScopeSet, Target};
use orrery_store::api_tokens::{self, NewApiToken};
use orrery_store::roles;
use orrery_store::token_hash::{self, Origin};
use orrery_store::users::{self, User};
use serde_json::{Map, Value, json};

use super::body::JsonBody;
use super::by_password::by_password;
use super::schemas::{NEW_TOKEN, TOKEN_REQUEST};
use super::users::has_admin_rights;
use super::{models, python};
use crate::audit::{Action, Event};
use crate::auth::{self, Asking, Identity, Requester};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Body, Operation, Shape, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// The longest note that is kept, in characters.
const MAX_NOTE: usize = 1023;
/// The longest life of a token, in seconds: a thousand years.
const LONGEST: i64 = 1000 * 366 * 86_400;

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default().post(
        "/api/users/{user}/tokens",
        // Somebody who is not logged in may prove who they are in the body.
        Needs::Nothing,
        &CREATE,
        create,
    )
}

const CREATE: Operation = Operation::new("post-user-tokens", Tag::Tokens, "Create a token")
    .about("Somebody without credentials may prove who they are by name and password in the body.")
    .checks(Needs::Scopes(&[Scope::Tokens]))
    .body(Body::json(Shape::One(&TOKEN_REQUEST)).optional())
    .answers(&[Answer::json(201, "The new token.", Shape::One(&NEW_TOKEN))])
    .refuses(&[429]);

/// `POST …/tokens`: a new token, which the answer shows this once.
async fn create(
    State(hub): State<AppState>,
    Asking(asking): Asking,
    Path(name): Path<String>,
    body: JsonBody,
) -> Result<Response> {
    let body = body.object_or_nothing("Body must be a JSON dict or empty")?;
    let requester = Permitted::find(&hub, &asking, &body).await?;
    let kind = match &requester.identity {
        Identity::User(_) => "User",
        Identity::Service(_) => "Service",
    };
    let user = users::find(hub.store.read(), &name).await?;
    let target = user.as_ref().map(|user| Target::User(&user.name));
    let (Some(user), true) = (&user, requester.may_make_tokens(&hub, target).await?) else {
        let name: String = name.chars().take(64).collect();
        return Err(Error::forbidden(format!(
            "{kind} {name} not found or no permissions to generate tokens"
        )));
    };
    let is_own = matches!(&requester.identity, Identity::User(asking) if asking.id == user.id);
    if user.admin && !is_own && !has_admin_rights(&requester.identity, &requester.scopes) {
        // A token of theirs could do all that they may.
        return Err(Error::forbidden(
            "Only admins can make tokens for other admins",
        ));
    }
    let wish = Wish::read(&hub, &body)?;
    let note = wish.note.unwrap_or_else(|| {
        let by = if is_own {
            String::new()
        } else {
            format!(" by {} {}", kind.to_lowercase(), requester.identity.name())
        };
        format!("Requested via api{by}")
    });
    let owner_scopes = auth::user_scopes(&hub, hub.store.read(), user).await?;
    let scopes = match (wish.scopes, wish.roles) {
        (Some(_), Some(_)) => {
            return Err(Error::bad_request(
                "Can only assign one of scopes or roles when creating tokens.",
            ));
        }
        (Some(scopes), None) => scopes,
        (None, Some(names)) => scopes_of_roles(&hub, &names).await?,
        (None, None) => match roles::find(hub.store.read(), "token").await? {
            Some(role) => role.scopes,
            None => vec!["inherit".to_owned()],
        },
    };
    hub.scopes
        .check(&scopes, "token")
        .map_err(|error| bad_scopes(&error, user))?;
    let owner = Owner::User(&user.name);
    let members = hub
        .scopes
        .token_members_in_question(&scopes, owner, &owner_scopes, &Client::Hub);
    let groups = auth::memberships(hub.store.read(), members.iter().map(String::as_str)).await?;
    hub.scopes
        .check_token(&scopes, owner, &owner_scopes, &Client::Hub, &groups)
        .map_err(|error| bad_scopes(&error, user))?;

    check_bound(&hub, user, &scopes).await?;

    let secret = token_hash::generate_token()?;
    let now = hub.clock.now();
    let new = NewApiToken {
        owner: api_tokens::Owner::User(user.id),
        hashed: token_hash::hash_token(secret.expose(), Origin::Generated)?,
        prefix: token_hash::prefix(secret.expose()).to_owned(),
        client_id: "jupyterhub".to_owned(),
        session_id: None,
        created: now,
        expires_at: wish.lifetime.map(|lifetime| now + lifetime),
        note,
        scopes,
    };
    let new = &new;
    let token = hub
        .store
        .write(|transaction| async move { api_tokens::insert(&transaction, new).await })
        .await?;
    tracing::info!(user = %user.name, by = requester.identity.name(), token = token.id, "token created");
    let event = Event::new(Action::TokenCreate)
        .on_user(&user.name)
        .owned_by(&user.name)
        .detail("token", format!("a{}", token.id))
        .detail("note", new.note.as_str())
        .detail("scopes", new.scopes.clone())
        .detail("expires_at", new.expires_at.map(super::time::isoformat));
    hub.audit
        .record(if asking.identity.is_some() {
            event.by(&asking)
        } else {
            event.by_login(requester.identity.name(), &asking)
        })
        .await;
    let owner = Identity::User(Arc::new(user.clone()));
    let mut model = models::token(&hub, &token, &owner, &owner_scopes).await?;
    model.insert("token".to_owned(), json!(secret.expose()));
    Ok((StatusCode::CREATED, Json(model)).into_response())
}

/// What the body asks for.
struct Wish {
    note: Option<String>,
    roles: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
    lifetime: Option<TimeDelta>,
}

impl Wish {
    fn read(hub: &AppState, body: &Map<String, Value>) -> Result<Self> {
        let note = match body.get("note").filter(|note| python::is_truthy(note)) {
            None => None,
            Some(Value::String(note)) => Some(note.chars().take(MAX_NOTE).collect()),
            Some(other) => {
                return Err(Error::bad_request(format!(
                    "token note must be a string, not {}",
                    python::repr(other)
                )));
            }
        };
        Ok(Self {
            note,
            roles: list(body, "roles")?,
            scopes: list(body, "scopes")?,
            lifetime: lifetime(
                body.get("expires_in"),
                hub.config.hub.token_expires_in_max_seconds,
            )?,
        })
    }
}

fn list(body: &Map<String, Value>, key: &str) -> Result<Option<Vec<String>>> {
    let refused = |value: &Value| {
        Error::bad_request(format!(
            "token {key} must be null or a list of strings, not {}",
            python::repr(value)
        ))
    };
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value @ Value::Array(items)) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect();
            texts.map(Some).ok_or_else(|| refused(value))
        }
        Some(other) => Err(refused(other)),
    }
}

/// How long the token is to live; `None` for ever.
fn lifetime(value: Option<&Value>, longest: i64) -> Result<Option<TimeDelta>> {
    let seconds = match value {
        None | Some(Value::Null) => None,
        // To Python, truth is a number.
        Some(Value::Bool(value)) => Some(i64::from(*value)),
        Some(Value::Number(number)) if !number.is_f64() => {
            Some(number.as_i64().unwrap_or(i64::MAX))
        }
        Some(other) => {
            return Err(Error::bad_request(format!(
                "token expires_in must be null or integer, not {}",
                python::repr(other)
            )));
        }
    };
    let seconds = match seconds {
        None if longest > 0 => Some(longest),
        Some(seconds) if longest > 0 && seconds > longest => {
            return Err(Error::bad_request(format!(
                "token expires_in: {seconds} must not exceed {longest}"
            )));
        }
        seconds => seconds,
    };
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds < 1 => Err(Error::bad_request(format!(
            "expires_in must be a positive integer or null, not {seconds}"
        ))),
        Some(seconds) if seconds > LONGEST => Err(Error::bad_request(format!(
            "token expires_in: {seconds} must not exceed {LONGEST}"
        ))),
        Some(seconds) => Ok(TimeDelta::try_seconds(seconds)),
    }
}

/// Refuses scopes that the site does not let tokens of this user have.
async fn check_bound(hub: &AppState, user: &User, scopes: &[String]) -> Result<()> {
    let excess = auth::token_bounds::excess(hub, hub.store.read(), user, scopes).await?;
    let Some((bound, excess)) = excess else {
        return Ok(());
    };
    let allowed = match bound.raw.len() {
        0 => "no scopes".to_owned(),
        _ => bound.raw.into_iter().collect::<Vec<_>>().join(", "),
    };
    Err(Error::bad_request(format!(
        "Not assigning requested scopes {}: here, tokens of User {} may have at most {allowed}",
        excess.join(","),
        user.name
    )))
}

async fn scopes_of_roles(hub: &AppState, names: &[String]) -> Result<Vec<String>> {
    let mut scopes = Vec::new();
    for name in names {
        let role = roles::find(hub.store.read(), name).await?.ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            Error::bad_request(format!("No such role: {name}"))
        })?;
        scopes.extend(role.scopes);
    }
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

fn bad_scopes(error: &ScopeError, user: &User) -> Error {
    let sentence = match error {
        ScopeError::Unknown { scope, .. } => {
            let scope: String = scope.chars().take(100).collect();
            format!("Scope '{scope}' for token does not exist")
        }
        ScopeError::Filter { scope, filter, .. } => {
            let short = |text: &str| text.chars().take(100).collect::<String>();
            format!(
                "Scope filter '!{}' in scope '{}' for token does not exist",
                short(filter),
                short(scope)
            )
        }
        ScopeError::Excess { excess, .. } => {
            format!(
                "Not assigning requested scopes {} not held by User {}",
                excess.join(","),
                user.name
            )
        }
        ScopeError::Custom { .. } => error.to_string(),
    };
    Error::bad_request(sentence)
}

/// Who asks for a new token, and what they may do.
struct Permitted {
    identity: Identity,
    scopes: ScopeSet,
}

impl Permitted {
    async fn find(hub: &AppState, asking: &Requester, body: &Map<String, Value>) -> Result<Self> {
        if let Some(identity) = &asking.identity {
            return Ok(Self {
                identity: identity.clone(),
                scopes: asking.scopes.clone(),
            });
        }
        let user = by_password(hub, asking, body.get("auth"))
            .await?
            .ok_or_else(|| Error::forbidden(""))?;
        let scopes = auth::user_scopes(hub, hub.store.read(), &user).await?;
        Ok(Self {
            identity: Identity::User(Arc::new(user)),
            scopes,
        })
    }

    async fn may_make_tokens(&self, hub: &AppState, target: Option<Target<'_>>) -> Result<bool> {
        let Some(target) = target else {
            return Ok(false);
        };
        match self.scopes.member_in_question(&[Scope::Tokens], target) {
            Some(member) => {
                let groups = auth::memberships(hub.store.read(), [member]).await?;
                Ok(self.scopes.allows(Scope::Tokens, target, &groups))
            }
            None => Ok(self.scopes.allows(Scope::Tokens, target, &NoGroups)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_positive_and_within_the_sites_limit() {
        let seconds = |value: Value, longest| {
            lifetime(Some(&value), longest)
                .map(|time| time.map(|time| time.num_seconds()))
                .map_err(|e| e.to_string())
        };
        assert_eq!(seconds(json!(null), 0), Ok(None));
        assert_eq!(seconds(json!(null), 60), Ok(Some(60)));
        assert_eq!(seconds(json!(30), 60), Ok(Some(30)));
        for (value, longest) in [
            (json!(61), 60),
            (json!(0), 0),
            (json!(-1), 0),
            (json!(1.5), 0),
            (json!("60"), 0),
            (json!(u64::MAX), 0),
            (json!(i64::MAX), 0),
        ] {
            assert!(seconds(value.clone(), longest).is_err(), "{value}");
        }
    }
}

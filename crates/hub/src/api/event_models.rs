//! What a requester is told of a change: what the models of users and servers would show them of it.

use std::collections::BTreeSet;

use orrery_core::phase::Phase;
use orrery_core::scopes::{Groups, Memberships, Scope, ScopeSet, Target, user_fields};
use orrery_store::events::{self, Event, Kind};
use orrery_store::{StoreError, groups};
use serde_json::{Map, Value, json};

use super::models::Model;
use super::time::isoformat;
use crate::changes::Used;
use crate::state::HubState;

/// The scopes that show anything of a user or of a server.
pub(super) const SEEN_BY: &[Scope] = &[
    Scope::ListUsers,
    Scope::ReadUsers,
    Scope::ReadUsersName,
    Scope::ReadUsersGroups,
    Scope::ReadUsersActivity,
    Scope::ReadRolesUsers,
    Scope::ReadServers,
    Scope::AdminAuthState,
];

/// Who is in which group, as far as that decides what the requester sees of these users.
pub(super) async fn memberships(
    hub: &HubState,
    scopes: &ScopeSet,
    users: impl IntoIterator<Item = &str>,
) -> Result<Memberships, StoreError> {
    let is_in_question = |user: &str| {
        SEEN_BY.iter().any(|scope| {
            scopes
                .member_in_question(&[*scope], Target::User(user))
                .is_some()
        })
    };
    let users: BTreeSet<&str> = users
        .into_iter()
        .filter(|user| is_in_question(user))
        .collect();
    if users.is_empty() {
        return Ok(Memberships::new());
    }
    let users: Vec<&str> = users.into_iter().collect();
    let found = groups::of_user_names(hub.store.read(), &users).await?;
    Ok(found
        .iter()
        .map(|row| (row.user_name.as_str(), row.name.as_str()))
        .collect())
}

/// The names of the users that events are about, those of before included.
pub(super) fn users_of(event: &Event) -> impl Iterator<Item = &str> {
    let old = matches!(event.kind, Some(Kind::UserChanged))
        .then(|| text(&event.data, events::OLD_NAME))
        .flatten();
    std::iter::once(event.user.as_str()).chain(old)
}

/// The event as the requester may see it, if they may.
pub(super) fn shown(scopes: &ScopeSet, known: &Memberships, event: &Event) -> Option<Value> {
    let kind = event.kind?;
    let (name, details) = match kind {
        Kind::UserCreated | Kind::UserDeleted => {
            // Of a user who is gone, the database knows no groups any more.
            let groups = list(&event.data, events::GROUPS);
            if user_fields(scopes, &event.user, &also(known, &event.user, groups)).is_empty() {
                return None;
            }
            let name = match kind {
                Kind::UserCreated => "user.created",
                _ => "user.deleted",
            };
            (name, Model::new())
        }
        Kind::UserChanged => return user_changed(scopes, known, event),
        Kind::ServerRenamed => return server_renamed(scopes, known, event),
        Kind::Server(_) | Kind::ServerDeleted => {
            let server = event.server.as_deref()?;
            if !may_read(scopes, known, &event.user, server) {
                return None;
            }
            let cause = event.data.get(events::CAUSE).cloned();
            let details = cause
                .map(|cause| (events::CAUSE.to_owned(), cause))
                .into_iter()
                .collect();
            (server_event(kind), details)
        }
    };
    Some(model(
        name,
        event,
        &event.user,
        event.server.as_deref(),
        details,
    ))
}

/// A server's use, as the requester may see it.
pub(super) fn used(scopes: &ScopeSet, known: &Memberships, used: &Used) -> Option<Value> {
    may_read(scopes, known, &used.user, &used.server).then(|| {
        json!({
            "type": "server.activity",
            "user": used.user,
            "server": used.server,
            "last_activity": isoformat(used.last_activity),
        })
    })
}

fn server_event(kind: Kind) -> &'static str {
    match kind {
        Kind::Server(Phase::Queued) => "server.queued",
        Kind::Server(Phase::Starting) => "server.starting",
        Kind::Server(Phase::Ready) => "server.ready",
        Kind::Server(Phase::Stopping) => "server.stopping",
        Kind::Server(Phase::Stopped) => "server.stopped",
        Kind::Server(Phase::Failed) => "server.failed",
        _ => "server.deleted",
    }
}

/// Changed fields, each where the model would show it. To whoever may see a user under one name only,
/// the user comes or goes when renamed.
fn user_changed(scopes: &ScopeSet, known: &Memberships, event: &Event) -> Option<Value> {
    let user = event.user.as_str();
    let old_name = text(&event.data, events::OLD_NAME);
    // Whoever saw the user by a group that they left is told that they left it.
    let left = list(&event.data, events::GROUPS_REMOVED);
    let fields = user_fields(scopes, user, &also(known, user, left));
    if let Some(old_name) = old_name {
        let before = Renamed {
            known,
            user,
            old_name,
        };
        let saw_old = !user_fields(scopes, old_name, &before).is_empty();
        match (saw_old, !fields.is_empty()) {
            (true, true) => {}
            (true, false) => {
                return Some(model("user.deleted", event, old_name, None, Model::new()));
            }
            (false, true) => return Some(model("user.created", event, user, None, Model::new())),
            (false, false) => return None,
        }
    }
    let shown: Model = [
        (events::OLD_NAME, "name"),
        (events::ADMIN, "admin"),
        (events::USER_INFO, "user_info"),
        (events::GROUPS_ADDED, "groups"),
        (events::GROUPS_REMOVED, "groups"),
    ]
    .into_iter()
    .filter(|(_, field)| fields.contains(field))
    .filter_map(|(key, _)| Some((key.to_owned(), event.data.get(key)?.clone())))
    .collect();
    (!shown.is_empty()).then(|| model("user.changed", event, user, None, shown))
}

fn server_renamed(scopes: &ScopeSet, known: &Memberships, event: &Event) -> Option<Value> {
    let (user, server) = (event.user.as_str(), event.server.as_deref()?);
    let old_name = text(&event.data, events::OLD_NAME)?;
    let may = |server: &str| may_read(scopes, known, user, server);
    let (name, server, details) = match (may(old_name), may(server)) {
        (true, true) => {
            let old = (events::OLD_NAME.to_owned(), old_name.into());
            ("server.renamed", server, Map::from_iter([old]))
        }
        (true, false) => ("server.deleted", old_name, Model::new()),
        (false, true) => ("server.created", server, Model::new()),
        (false, false) => return None,
    };
    Some(model(name, event, user, Some(server), details))
}

fn may_read(scopes: &ScopeSet, known: &Memberships, user: &str, server: &str) -> bool {
    scopes.allows(Scope::ReadServers, Target::Server { user, server }, known)
}

fn model(name: &str, event: &Event, user: &str, server: Option<&str>, details: Model) -> Value {
    let mut model = Model::new();
    model.insert("type".to_owned(), name.into());
    model.insert("at".to_owned(), isoformat(event.at).into());
    model.insert("user".to_owned(), user.into());
    if let Some(server) = server {
        model.insert("server".to_owned(), server.into());
    }
    model.extend(details);
    Value::Object(model)
}

fn text<'a>(data: &'a Value, key: &str) -> Option<&'a str> {
    data.get(key)?.as_str()
}

fn list(data: &Value, key: &str) -> Vec<String> {
    let items = data.get(key).and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

/// What is known of groups, and a user in these as well.
fn also(known: &Memberships, user: &str, groups: Vec<String>) -> Memberships {
    known.clone().with(user, groups)
}

/// Groups as they were when a user had another name.
struct Renamed<'a> {
    known: &'a Memberships,
    user: &'a str,
    old_name: &'a str,
}

impl Groups for Renamed<'_> {
    fn is_member(&self, user: &str, group: &str) -> bool {
        let user = if user == self.old_name {
            self.user
        } else {
            user
        };
        self.known.is_member(user, group)
    }
}

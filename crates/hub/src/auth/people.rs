//! Users in the database: what a login leaves there, and what the configuration wants there.

use std::collections::{BTreeSet, HashSet};

use orrery_core::UserName;
use orrery_core::authenticator::{AddUserError, Authenticator, Identity as Proven};
use orrery_store::users::{NewUser, User, UserChanges};
use orrery_store::{ConnectionTrait, NaiveDateTime, StoreError, groups, roles, token_hash, users};

use super::AUTHENTICATE_TIMEOUT;
use crate::audit::{Action, Event};
use crate::error::{Error, Result};
use crate::state::AppState;

/// Keeps what a login says: the user, whether they are an administrator, their groups.
pub async fn came_in(hub: &AppState, name: &UserName, proven: &Proven) -> Result<User> {
    let admin = match hub.rules.admin(name) {
        Some(admin) => Some(admin),
        None => proven.admin,
    };
    let groups = if hub.config.authenticator.manage_groups {
        let Some(groups) = proven.groups.clone() else {
            return Err(Error::Internal(format!(
                "Authenticator.manage_groups is set, but {} names no groups",
                hub.config.authenticator_class
            )));
        };
        Some(groups)
    } else {
        None
    };
    let now = hub.clock.now();
    let known = users::find(hub.store.read(), name.as_str()).await?;
    if known.is_none() {
        add_user(&*hub.authenticator, name).await.map_err(|error| {
            Error::Internal(format!("{name} logged in, but could not be added: {error}"))
        })?;
    }
    let was_admin = known.as_ref().map(|user| user.admin);
    let mut regained = Vec::new();
    if let Some(user) = &known
        && admin.is_none_or(|admin| admin == user.admin)
    {
        regained = wrong_roles(hub, user).await?;
    }
    if groups.is_none()
        && regained.is_empty()
        && let Some(user) = known
        && admin.is_none_or(|admin| admin == user.admin)
    {
        // The common case writes nothing but the time.
        hub.servers.record_user_activity(user.id, now);
        return Ok(user);
    }
    let groups = groups.as_deref();
    let (user, moved) = hub
        .store
        .write(|transaction| async move {
            let mut moved = Moved::default();
            let user =
                find_or_insert(&transaction, name.as_str(), admin.unwrap_or_default(), now).await?;
            let user = set_admin(&transaction, user, admin).await?;
            if let Some(names) = groups {
                moved = sync_groups(&transaction, user.id, names).await?;
            }
            Ok::<_, StoreError>((user, moved))
        })
        .await?;
    let mut events = changes(&user, was_admin, moved);
    events.extend(regained.into_iter().map(|(action, role)| {
        let event = Event::new(action).by_authenticator().on_user(&user.name);
        event.detail("role", role)
    }));
    hub.audit.record_all(events).await;
    Ok(user)
}

/// What a login does to the roles that everybody has, and that administrators have, when something else
/// than the hub has changed who holds them.
async fn wrong_roles(hub: &AppState, user: &User) -> Result<Vec<(Action, &'static str)>> {
    let held = roles::of(hub.store.read(), roles::Holder::User(user.id)).await?;
    let holds = |name: &str| held.iter().any(|role| role.name == name);
    let mut wrong = Vec::new();
    if !holds("user") {
        wrong.push((Action::RoleAssign, "user"));
    }
    match (holds("admin"), user.admin) {
        (false, true) => wrong.push((Action::RoleAssign, "admin")),
        (true, false) => wrong.push((Action::RoleStrip, "admin")),
        _ => {}
    }
    Ok(wrong)
}

/// What a login changed about a user, for the audit log; `was_admin` is `None` for a new one.
fn changes(user: &User, was_admin: Option<bool>, moved: Moved) -> Vec<Event> {
    let about = |action| Event::new(action).by_authenticator().on_user(&user.name);
    let mut events = Vec::new();
    match was_admin {
        None => events.push(about(Action::UserCreate).detail("admin", user.admin)),
        Some(before) if before != user.admin => {
            events.push(about(Action::UserAdmin).detail("admin", user.admin));
        }
        Some(_) => {}
    }
    let groups = [
        (Action::GroupAdd, moved.into),
        (Action::GroupRemove, moved.out_of),
    ];
    for (action, names) in groups {
        events.extend(names.iter().map(|name| {
            let event = Event::new(action).by_authenticator().on_group(name);
            event.detail("users", vec![user.name.as_str()])
        }));
    }
    events
}

/// Groups that a user has come into or gone out of.
#[derive(Debug, Default)]
pub struct Moved {
    /// Those that the user was not in before.
    pub into: Vec<String>,
    /// Those that the user is not in any more.
    pub out_of: Vec<String>,
}

/// Has the authenticator make what a user needs elsewhere, within a deadline. Before the user is
/// written: a user who cannot be made leaves no row, and one who was made is found made next time.
pub async fn add_user(
    authenticator: &dyn Authenticator,
    name: &UserName,
) -> Result<(), AddUserError> {
    tokio::time::timeout(AUTHENTICATE_TIMEOUT, authenticator.add_user(name))
        .await
        .unwrap_or_else(|_| {
            Err(AddUserError::Failed(
                "the authenticator did not answer in time".to_owned(),
            ))
        })
}

/// The user of that name; a new one, with the roles that every user has, if there was none.
pub async fn find_or_insert(
    transaction: &impl ConnectionTrait,
    name: &str,
    admin: bool,
    now: NaiveDateTime,
) -> Result<User, StoreError> {
    if let Some(user) = users::find(transaction, name).await? {
        return Ok(user);
    }
    let user = insert(transaction, name, admin, now).await?;
    assign_default_roles(transaction, &user).await?;
    Ok(user)
}

/// A new user, without roles.
pub(crate) async fn insert(
    transaction: &impl ConnectionTrait,
    name: &str,
    admin: bool,
    now: NaiveDateTime,
) -> Result<User, StoreError> {
    let cookie_id = token_hash::generate_token()?.expose().to_owned();
    let new = NewUser {
        name: name.to_owned(),
        admin,
        created: now,
        cookie_id,
    };
    users::insert(transaction, &new).await
}

/// Those of the names that nobody has yet, each once.
pub async fn missing<'a>(
    connection: &impl ConnectionTrait,
    names: &'a [UserName],
) -> Result<Vec<&'a UserName>, StoreError> {
    let texts: Vec<&str> = names.iter().map(UserName::as_str).collect();
    let mut known: HashSet<String> = users::find_by_names(connection, &texts)
        .await?
        .into_iter()
        .map(|user| user.name)
        .collect();
    Ok(names
        .iter()
        .filter(|name| known.insert(name.to_string()))
        .collect())
}

/// New users, with the roles that every user has.
pub async fn insert_many(
    transaction: &impl ConnectionTrait,
    names: &[&UserName],
    admin: bool,
    now: NaiveDateTime,
) -> Result<Vec<User>, StoreError> {
    let mut new = Vec::with_capacity(names.len());
    for name in names {
        new.push(NewUser {
            name: name.to_string(),
            admin,
            created: now,
            cookie_id: token_hash::generate_token()?.expose().to_owned(),
        });
    }
    let made = users::insert_many(transaction, &new).await?;
    let ids: Vec<i32> = made.iter().map(|user| user.id).collect();
    let every: &[&str] = if admin { &["user", "admin"] } else { &["user"] };
    for role in every {
        if let Some(role) = roles::find(transaction, role).await? {
            roles::assign_to_new_users(transaction, &ids, role.id).await?;
        }
    }
    Ok(made)
}

/// Gives or takes the administrator's rights; `None` leaves them.
pub async fn set_admin(
    transaction: &impl ConnectionTrait,
    mut user: User,
    admin: Option<bool>,
) -> Result<User, StoreError> {
    if let Some(admin) = admin.filter(|admin| *admin != user.admin) {
        users::update(
            transaction,
            user.id,
            &UserChanges {
                admin: Some(admin),
                ..UserChanges::default()
            },
        )
        .await?;
        user.admin = admin;
    }
    assign_default_roles(transaction, &user).await?;
    Ok(user)
}

/// Everybody has the role `user`; administrators, and only they, have `admin`.
pub async fn assign_default_roles(
    transaction: &impl ConnectionTrait,
    user: &User,
) -> Result<(), StoreError> {
    let holder = roles::Holder::User(user.id);
    if let Some(role) = roles::find(transaction, "user").await? {
        roles::assign(transaction, holder, role.id, false).await?;
    }
    if let Some(role) = roles::find(transaction, "admin").await? {
        if user.admin {
            roles::assign(transaction, holder, role.id, false).await?;
        } else {
            roles::strip(transaction, holder, role.id).await?;
        }
    }
    Ok(())
}

/// Puts a user into exactly these groups, making those that do not exist. Says what that changed.
pub async fn sync_groups(
    transaction: &impl ConnectionTrait,
    user_id: i32,
    names: &[String],
) -> Result<Moved, StoreError> {
    let mut moved = Moved::default();
    let mut wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for group in groups::of_users(transaction, &[user_id]).await? {
        if !wanted.remove(group.name.as_str()) {
            groups::remove_members(transaction, group.id, &[user_id]).await?;
            moved.out_of.push(group.name);
        }
    }
    for name in wanted {
        let group = match groups::find(transaction, name).await? {
            Some(group) => group,
            None => groups::insert(transaction, name, &serde_json::json!({})).await?,
        };
        groups::add_members(transaction, group.id, &[user_id]).await?;
        moved.into.push(group.name);
    }
    Ok(moved)
}

//! The users whom the configuration names, and its groups.

use std::collections::BTreeSet;

use orrery_core::access::Rules;
use orrery_core::escape;
use orrery_store::users::{self, User, UserChanges};
use orrery_store::{ConnectionTrait, NaiveDateTime, StoreError, groups};
use serde_json::json;

use super::SetupError;
use crate::audit::{Action, Event};
use crate::auth::people;
use crate::config::Config;

/// Allowed users and administrators have a row before they first log in, as in upstream. Their roles
/// come later.
pub(super) async fn write_users(
    transaction: &impl ConnectionTrait,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for name in rules.allowed_users().union(rules.admin_users()) {
        let user = find_or_insert(transaction, rules, name, now, events).await?;
        if is_to_be_admin(rules, name) && !user.admin {
            set_admin(transaction, user.id, name, true, events).await?;
        }
    }
    Ok(())
}

/// Makes the configured groups, and adds those whom they name.
pub(super) async fn write_groups(
    transaction: &impl ConnectionTrait,
    config: &Config,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for (name, spec) in &config.hub.load_groups {
        let properties = spec.properties.as_ref().map(|properties| json!(properties));
        let group = if let Some(group) = groups::find(transaction, name).await? {
            if let Some(properties) = &properties {
                groups::set_properties(transaction, group.id, properties).await?;
            }
            group
        } else {
            events.push(Event::new(Action::GroupCreate).on_group(name));
            groups::insert(transaction, name, &properties.unwrap_or_else(|| json!({}))).await?
        };
        let before: BTreeSet<i32> = groups::members_of(transaction, &[group.id])
            .await?
            .into_iter()
            .map(|member| member.id)
            .collect();
        let (mut members, mut added) = (Vec::new(), Vec::new());
        for user in &spec.users {
            let option = "JupyterHub.load_groups";
            let member = named_user(transaction, rules, option, user, now, events).await?;
            if rules.blocked_users().contains(&member.name) {
                continue;
            }
            members.push(member.id);
            if !before.contains(&member.id) {
                added.push(user.as_str());
            }
        }
        groups::add_members(transaction, group.id, &members).await?;
        if !added.is_empty() {
            let event = Event::new(Action::GroupAdd).on_group(name);
            events.push(event.detail("users", added));
        }
    }
    Ok(())
}

/// The user whom an option names; made if new, without roles as yet.
pub(super) async fn named_user(
    transaction: &impl ConnectionTrait,
    rules: &Rules,
    option: &'static str,
    name: &str,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<User, SetupError> {
    let name = rules.user_name(name).map_err(|why| SetupError::User {
        option,
        name: escape::for_log(name, 64),
        why: why.to_string(),
    })?;
    find_or_insert(transaction, rules, name.as_str(), now, events).await
}

/// The user of that name, whom the configuration may want to be new, and then without roles as yet.
async fn find_or_insert(
    transaction: &impl ConnectionTrait,
    rules: &Rules,
    name: &str,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<User, SetupError> {
    if let Some(user) = users::find(transaction, name).await? {
        return Ok(user);
    }
    let admin = is_to_be_admin(rules, name);
    let event = Event::new(Action::UserCreate).on_user(name);
    events.push(event.detail("admin", admin));
    Ok(people::insert(transaction, name, admin, now).await?)
}

/// Whether `admin_users` names somebody who is not blocked.
fn is_to_be_admin(rules: &Rules, name: &str) -> bool {
    rules.admin_users().contains(name) && !rules.blocked_users().contains(name)
}

/// Gives or takes a user's flag, not the role.
pub(super) async fn set_admin(
    transaction: &impl ConnectionTrait,
    id: i32,
    name: &str,
    admin: bool,
    events: &mut Vec<Event>,
) -> Result<(), StoreError> {
    let changes = UserChanges {
        admin: Some(admin),
        ..UserChanges::default()
    };
    users::update(transaction, id, &changes).await?;
    let event = Event::new(Action::UserAdmin).on_user(name);
    events.push(event.detail("admin", admin));
    Ok(())
}

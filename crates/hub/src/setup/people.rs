//! The users whom the configuration names, and its groups.

use std::collections::BTreeSet;

use orrery_core::access::Rules;
use orrery_core::escape;
use orrery_store::{ConnectionTrait, NaiveDateTime, groups, roles, users};
use serde_json::json;

use super::SetupError;
use crate::audit::{Action, Event};
use crate::auth::people;
use crate::config::Config;

/// Allowed users and administrators have a row before they first log in, as in upstream.
pub(super) async fn write_users(
    transaction: &impl ConnectionTrait,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for name in rules.allowed_users().union(rules.admin_users()) {
        let admin = rules.admin_users().contains(name);
        let user = find_or_insert(transaction, name, admin, now, events).await?;
        if admin && !user.admin {
            events.push(made_admin(name));
        }
        people::set_admin(transaction, user, admin.then_some(true)).await?;
    }
    // Rows that something else than a login made may lack the roles that everybody has.
    roles::assign_missing_defaults(transaction).await?;
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
            let id = named_user(transaction, rules, option, user, now, events).await?;
            members.push(id);
            if !before.contains(&id) {
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

/// The id of a user whom an option names; made if new.
pub(super) async fn named_user(
    transaction: &impl ConnectionTrait,
    rules: &Rules,
    option: &'static str,
    name: &str,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<i32, SetupError> {
    let name = rules.user_name(name).map_err(|why| SetupError::User {
        option,
        name: escape::for_log(name, 64),
        why: why.to_string(),
    })?;
    let admin = rules.admin_users().contains(name.as_str());
    Ok(
        find_or_insert(transaction, name.as_str(), admin, now, events)
            .await?
            .id,
    )
}

/// The user of that name, whom the configuration may want to be new.
async fn find_or_insert(
    transaction: &impl ConnectionTrait,
    name: &str,
    admin: bool,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<users::User, SetupError> {
    if let Some(user) = users::find(transaction, name).await? {
        return Ok(user);
    }
    let event = Event::new(Action::UserCreate).on_user(name);
    events.push(event.detail("admin", admin));
    Ok(people::find_or_insert(transaction, name, admin, now).await?)
}

pub(super) fn made_admin(name: &str) -> Event {
    let event = Event::new(Action::UserAdmin).on_user(name);
    event.detail("admin", true)
}

//! Users of `Authenticator.blocked_users`, who may do nothing by what they hold already.

use std::collections::BTreeSet;

use orrery_core::access::Rules;
use orrery_core::escape;
use orrery_store::roles::{self, Holder, HolderKind};
use orrery_store::users::{self, User};
use orrery_store::{ConnectionTrait, StoreError, groups};

use super::holders::of_role;
use super::people::set_admin;
use crate::audit::{Action, Event};

/// Takes everything from them by which their tokens and cookies could do something: the administrator's
/// flag, roles and groups.
pub(super) async fn strip(
    transaction: &impl ConnectionTrait,
    rules: &Rules,
    events: &mut Vec<Event>,
) -> Result<(), StoreError> {
    for user in known(transaction, rules).await? {
        let mut taken = BTreeSet::new();
        if user.admin {
            set_admin(transaction, user.id, &user.name, false, events).await?;
            taken.insert("the administrator's rights".to_owned());
        }
        let holder = Holder::User(user.id);
        for role in roles::of(transaction, holder).await? {
            roles::strip(transaction, holder, role.id).await?;
            let kind = HolderKind::User;
            events.push(of_role(Action::RoleStrip, kind, &user.name, &role.name));
            taken.insert(format!("the role {}", role.name));
        }
        for group in groups::of_users(transaction, &[user.id]).await? {
            groups::remove_members(transaction, group.id, &[user.id]).await?;
            let event = Event::new(Action::GroupRemove).on_group(&group.name);
            events.push(event.detail("users", vec![user.name.as_str()]));
            taken.insert(format!("the group {}", escape::for_log(&group.name, 64)));
        }
        if !taken.is_empty() {
            let taken: Vec<String> = taken.into_iter().collect();
            let name = escape::for_log(&user.name, 64);
            tracing::warn!(user = %name, taken = taken.join(", "), "a blocked user has lost their rights");
        }
    }
    Ok(())
}

/// Those of them who are in the database.
pub(super) async fn known(
    connection: &impl ConnectionTrait,
    rules: &Rules,
) -> Result<Vec<User>, StoreError> {
    let names: Vec<&str> = rules.blocked_users().iter().map(String::as_str).collect();
    users::find_by_names(connection, &names).await
}

//! The configuration's roles, and who holds them.

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::access::Rules;
use orrery_core::escape;
use orrery_core::scopes::Definitions;
use orrery_core::scopes::roles::{DEFAULT_ROLES, RolePlan, plan};
use orrery_store::roles::{self, Holder, HolderKind, Role};
use orrery_store::{ConnectionTrait, NaiveDateTime, groups, services, users};
use serde_json::{Value, json};

use super::SetupError;
use super::people::{made_admin, named_user};
use crate::audit::{Action, Event};
use crate::auth;
use crate::config::{Config, RoleSpec};

/// All roles that the configuration and the hub itself want.
pub(super) fn planned(config: &Config, definitions: &Definitions) -> Result<RolePlan, SetupError> {
    let load_roles: Vec<Value> = config.hub.load_roles.iter().map(role_value).collect();
    let extra: Vec<String> = config.hub.extra_user_scopes.iter().cloned().collect();
    let plan = plan(&load_roles, &extra, definitions)?;
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    check_token_bounds(config, definitions, &plan)?;
    Ok(plan)
}

/// Makes and changes the planned roles, and deletes those that nobody plans any more.
pub(super) async fn write(
    transaction: &impl ConnectionTrait,
    plan: &RolePlan,
    events: &mut Vec<Event>,
) -> Result<BTreeMap<String, Role>, SetupError> {
    let before: BTreeMap<String, BTreeSet<String>> = roles::list(transaction)
        .await?
        .into_iter()
        .map(|role| (role.name, role.scopes.into_iter().collect()))
        .collect();
    let mut written = BTreeMap::new();
    for role in &plan.roles {
        let scopes: BTreeSet<String> = role.scopes.iter().cloned().collect();
        if before.get(&role.name) != Some(&scopes) {
            let event = Event::new(Action::RoleDefine).on_role(&role.name);
            events.push(event.detail("scopes", role.scopes.clone()));
        }
        let row = roles::upsert(
            transaction,
            &role.name,
            role.description.as_deref(),
            &role.scopes,
            role.managed_by_auth,
        )
        .await?;
        written.insert(role.name.clone(), row);
    }
    for old in roles::list(transaction).await? {
        let is_wanted =
            written.contains_key(&old.name) || DEFAULT_ROLES.contains(&old.name.as_str());
        if !is_wanted && !old.managed_by_auth {
            tracing::info!(role = %old.name, "deleting a role that is no longer configured");
            roles::delete(transaction, old.id).await?;
            events.push(Event::new(Action::RoleDelete).on_role(&old.name));
        }
    }
    Ok(written)
}

/// Gives each role to whom the configuration names, and takes it from others where it names a list.
pub(super) async fn write_holders(
    transaction: &impl ConnectionTrait,
    plan: &RolePlan,
    written: &BTreeMap<String, Role>,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for role in &plan.roles {
        let Some(row) = written.get(&role.name) else {
            continue;
        };
        let lists = [
            (HolderKind::User, &role.users),
            (HolderKind::Service, &role.services),
            (HolderKind::Group, &role.groups),
        ];
        for (kind, names) in lists {
            let Some(names) = names else { continue };
            let mut wanted = BTreeSet::new();
            for name in names {
                let holder =
                    holder(transaction, kind, &role.name, name, rules, now, events).await?;
                wanted.insert(id_of(holder));
                if roles::assign(transaction, holder, row.id, false).await? {
                    events.push(of_role(Action::RoleAssign, kind, name, &role.name));
                }
            }
            for old in roles::holders(transaction, kind, row.id).await? {
                // Whoever is an administrator, or simply a user, has that role by that.
                let by_default =
                    kind == HolderKind::User && matches!(role.name.as_str(), "admin" | "user");
                if !wanted.contains(&old.id) && !by_default {
                    roles::strip(transaction, holder_of(kind, old.id), row.id).await?;
                    events.push(of_role(Action::RoleStrip, kind, &old.name, &role.name));
                }
            }
        }
    }
    Ok(())
}

/// Whom or what the configuration gives a role to.
async fn holder(
    transaction: &impl ConnectionTrait,
    kind: HolderKind,
    role: &str,
    name: &str,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<Holder, SetupError> {
    let unknown = || SetupError::Unknown {
        what: format!("role '{role}' in JupyterHub.load_roles"),
        name: escape::for_log(name, 64),
    };
    let id = match kind {
        HolderKind::User => {
            let option = "JupyterHub.load_roles";
            let id = named_user(transaction, rules, option, name, now, events).await?;
            if role == "admin"
                && let Some(user) = users::find_by_id(transaction, id).await?
            {
                if !user.admin {
                    events.push(made_admin(&user.name));
                }
                auth::people::set_admin(transaction, user, Some(true)).await?;
            }
            id
        }
        HolderKind::Service => {
            services::find(transaction, name)
                .await?
                .ok_or_else(unknown)?
                .id
        }
        HolderKind::Group => {
            if let Some(group) = groups::find(transaction, name).await? {
                group.id
            } else {
                events.push(Event::new(Action::GroupCreate).on_group(name));
                groups::insert(transaction, name, &json!({})).await?.id
            }
        }
    };
    Ok(holder_of(kind, id))
}

fn holder_of(kind: HolderKind, id: i32) -> Holder {
    match kind {
        HolderKind::User => Holder::User(id),
        HolderKind::Service => Holder::Service(id),
        HolderKind::Group => Holder::Group(id),
    }
}

fn id_of(holder: Holder) -> i32 {
    match holder {
        Holder::User(id) | Holder::Service(id) | Holder::Group(id) => id,
    }
}

fn of_role(action: Action, kind: HolderKind, holder: &str, role: &str) -> Event {
    let event = Event::new(action).detail("role", role);
    match kind {
        HolderKind::User => event.on_user(holder),
        HolderKind::Group => event.on_group(holder),
        HolderKind::Service => event.on_service(holder),
    }
}

/// A role as the plan reads it.
fn role_value(role: &RoleSpec) -> Value {
    let mut value = serde_json::Map::from_iter([("name".to_owned(), json!(role.name))]);
    let lists = [
        ("scopes", &role.scopes),
        ("users", &role.users),
        ("services", &role.services),
        ("groups", &role.groups),
    ];
    value.extend(
        role.description
            .iter()
            .map(|text| ("description".to_owned(), json!(text))),
    );
    value.extend(
        lists
            .into_iter()
            .filter_map(|(key, list)| Some((key.to_owned(), json!(list.as_ref()?)))),
    );
    Value::Object(value)
}

/// Checks `JupyterHub.token_allowed_scopes`: a bound that names nothing would shut people out.
fn check_token_bounds(
    config: &Config,
    definitions: &Definitions,
    plan: &RolePlan,
) -> Result<(), SetupError> {
    const OPTION: &str = "JupyterHub.token_allowed_scopes";
    for (role, scopes) in &config.hub.token_allowed_scopes {
        if !plan.roles.iter().any(|planned| planned.name == *role) {
            return Err(SetupError::Unknown {
                what: OPTION.to_owned(),
                name: format!("the role {}", escape::for_log(role, 64)),
            });
        }
        definitions.check(scopes, OPTION)?;
    }
    Ok(())
}

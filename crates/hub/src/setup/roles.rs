//! The configuration's roles.

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::escape;
use orrery_core::scopes::Definitions;
use orrery_core::scopes::roles::{DEFAULT_ROLES, RolePlan, plan};
use orrery_store::ConnectionTrait;
use orrery_store::roles::{self, Role};
use serde_json::{Value, json};

use super::SetupError;
use crate::audit::{Action, Event};
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

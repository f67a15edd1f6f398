//! Who holds which role, as the configuration says.

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::access::Rules;
use orrery_core::escape;
use orrery_core::scopes::roles::{RolePlan, RoleSpec};
use orrery_store::roles::{self, AdminBy, Holder, HolderKind, Role};
use orrery_store::{ConnectionTrait, NaiveDateTime, groups, services, users};
use serde_json::json;

use super::people::{named_user, set_admin};
use super::{SetupError, blocked};
use crate::audit::{Action, Event};

/// Gives each role to whom the configuration names, and takes it from all others where it names a
/// list. Then everybody but the blocked has the role `user`, and the role `admin` and the flag agree.
pub(super) async fn write(
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
            (HolderKind::User, exact_users(plan, role, rules)),
            (HolderKind::Service, role.services.as_deref().map(named)),
            (HolderKind::Group, role.groups.as_deref().map(named)),
        ];
        for (kind, list) in lists {
            let Some(list) = list else { continue };
            let mut wanted = BTreeSet::new();
            for (holder, name) in
                holders(transaction, kind, &role.name, &list, rules, now, events).await?
            {
                wanted.insert(id_of(holder));
                if roles::assign(transaction, holder, row.id, false).await? {
                    events.push(of_role(Action::RoleAssign, kind, &name, &role.name));
                }
            }
            for old in roles::holders(transaction, kind, row.id).await? {
                if !wanted.contains(&old.id) {
                    roles::strip(transaction, holder_of(kind, old.id), row.id).await?;
                    events.push(of_role(Action::RoleStrip, kind, &old.name, &role.name));
                }
            }
        }
    }
    let spec = |name: &str| plan.roles.iter().find(|role| role.name == name);
    if let (Some(spec), Some(row)) = (spec("user"), written.get("user"))
        && exact_users(plan, spec, rules).is_none()
    {
        // Rows that something else than a login made may lack the role that everybody has.
        let blocked = blocked::known(transaction, rules).await?;
        let blocked: Vec<i32> = blocked.into_iter().map(|user| user.id).collect();
        roles::assign_to_all_users(transaction, row.id, &blocked).await?;
    }
    if let (Some(spec), Some(row)) = (spec("admin"), written.get("admin")) {
        let is_loaded = plan.loaded.contains("admin");
        for (kind, is_exact) in [
            (HolderKind::User, exact_users(plan, spec, rules).is_some()),
            (HolderKind::Service, spec.services.is_some()),
        ] {
            let meaning = match (is_exact, is_loaded) {
                (true, _) => Meaning::Role,
                (false, true) => Meaning::Flag,
                (false, false) => Meaning::Either,
            };
            agree(transaction, kind, meaning, row, events).await?;
        }
    }
    Ok(())
}

/// Who is to have a role and nobody else: as the configuration writes them, and names as the database
/// has them.
struct Exact<'a> {
    named: &'a [String],
    also: BTreeSet<&'a str>,
}

fn named(names: &[String]) -> Exact<'_> {
    Exact {
        named: names,
        also: BTreeSet::new(),
    }
}

/// The users of a role, if the configuration decides who they are.
fn exact_users<'a>(plan: &RolePlan, role: &'a RoleSpec, rules: &'a Rules) -> Option<Exact<'a>> {
    let listed = role.users.as_deref();
    let mut also = BTreeSet::new();
    match role.name.as_str() {
        "admin" if plan.loaded.contains("admin") => {
            also.extend(rules.admin_users().iter().map(String::as_str));
            // Upstream adds them to the list, which makes one where there was none.
            let named = listed.unwrap_or_default();
            (listed.is_some() || !also.is_empty()).then_some(Exact { named, also })
        }
        // Whoever exists is allowed, and allowed users have the role.
        "user" if rules.asks_for_existing() => None,
        "user" => {
            let named = listed?;
            if !rules.allowed_users().is_empty() {
                let allowed = rules.allowed_users().union(rules.admin_users());
                also.extend(allowed.map(String::as_str));
            }
            Some(Exact { named, also })
        }
        _ => listed.map(self::named),
    }
}

/// Which of the flag and the role `admin` the other one follows.
#[derive(Clone, Copy)]
enum Meaning {
    /// The configuration lists who has the role.
    Role,
    /// It defines the role and lists nobody: only those with the flag keep it.
    Flag,
    /// It does not speak of the role: who has one has both.
    Either,
}

/// Makes the flag and the role `admin` say the same.
async fn agree(
    transaction: &impl ConnectionTrait,
    kind: HolderKind,
    meaning: Meaning,
    admin: &Role,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for holder in roles::half_admins(transaction, kind, AdminBy::Flag, admin.id).await? {
        if matches!(meaning, Meaning::Role) {
            set_flag(transaction, kind, holder.id, &holder.name, false, events).await?;
        } else {
            let id = holder_of(kind, holder.id);
            roles::assign(transaction, id, admin.id, false).await?;
            // Of users the flag's own event says it.
            if kind == HolderKind::Service {
                events.push(of_role(Action::RoleAssign, kind, &holder.name, "admin"));
            }
        }
    }
    for holder in roles::half_admins(transaction, kind, AdminBy::Role, admin.id).await? {
        if matches!(meaning, Meaning::Flag) {
            roles::strip(transaction, holder_of(kind, holder.id), admin.id).await?;
            events.push(of_role(Action::RoleStrip, kind, &holder.name, "admin"));
        } else {
            set_flag(transaction, kind, holder.id, &holder.name, true, events).await?;
        }
    }
    Ok(())
}

async fn set_flag(
    transaction: &impl ConnectionTrait,
    kind: HolderKind,
    id: i32,
    name: &str,
    admin: bool,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    match kind {
        HolderKind::User => set_admin(transaction, id, name, admin, events).await?,
        // The role's own event says it.
        HolderKind::Service => _ = services::set_admin(transaction, id, admin).await?,
        HolderKind::Group => {}
    }
    Ok(())
}

/// Those of a list, with their names; without the blocked ones.
async fn holders(
    transaction: &impl ConnectionTrait,
    kind: HolderKind,
    role: &str,
    list: &Exact<'_>,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<Vec<(Holder, String)>, SetupError> {
    let is_blocked = |name: &String| rules.blocked_users().contains(name);
    let mut found = Vec::new();
    for name in list.named {
        let holder = match kind {
            HolderKind::User => {
                let option = "JupyterHub.load_roles";
                let user = named_user(transaction, rules, option, name, now, events).await?;
                if !is_blocked(&user.name) {
                    found.push((Holder::User(user.id), user.name));
                }
                continue;
            }
            HolderKind::Service => {
                let service = services::find(transaction, name).await?;
                let service = service.ok_or_else(|| SetupError::Unknown {
                    what: format!("role '{role}' in JupyterHub.load_roles"),
                    name: escape::for_log(name, 64),
                })?;
                Holder::Service(service.id)
            }
            HolderKind::Group => {
                if let Some(group) = groups::find(transaction, name).await? {
                    Holder::Group(group.id)
                } else {
                    events.push(Event::new(Action::GroupCreate).on_group(name));
                    Holder::Group(groups::insert(transaction, name, &json!({})).await?.id)
                }
            }
        };
        found.push((holder, name.clone()));
    }
    let also: Vec<&str> = list.also.iter().copied().collect();
    for user in users::find_by_names(transaction, &also).await? {
        if !is_blocked(&user.name) {
            found.push((Holder::User(user.id), user.name));
        }
    }
    Ok(found)
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

/// A role given or taken.
pub(super) fn of_role(action: Action, kind: HolderKind, holder: &str, role: &str) -> Event {
    let event = Event::new(action).detail("role", role);
    match kind {
        HolderKind::User => event.on_user(holder),
        HolderKind::Group => event.on_group(holder),
        HolderKind::Service => event.on_service(holder),
    }
}

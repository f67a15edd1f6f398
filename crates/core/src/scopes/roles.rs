//! Roles: the ones that always exist, and those of `JupyterHub.load_roles`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Definitions, Scope, ScopeError};

/// A role, as the configuration or an authenticator defines it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSpec {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Its raw scopes.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Who is to have it, and nobody else; `None` leaves those who have it. A definition that does not
    /// say is `None`, but of `load_roles` see [`RolePlan::roles`].
    #[serde(default)]
    pub users: Option<Vec<String>>,
    /// Which services are to have it.
    #[serde(default)]
    pub services: Option<Vec<String>>,
    /// Which groups are to have it.
    #[serde(default)]
    pub groups: Option<Vec<String>>,
    /// Whether an authenticator manages it.
    #[serde(default)]
    pub managed_by_auth: bool,
}

/// Why a role cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// It has no name, or one that is not text.
    #[error("load_roles: a role needs a name")]
    NoName,
    /// Its name breaks the rule.
    #[error(
        "role '{0}': a role's name has 3 to 255 of a-z, 0-9, '-', '.', '~' and '_', \
         starts with a letter and ends with a letter or digit"
    )]
    Name(String),
    /// The role that can do everything stays as it is.
    #[error("role 'admin': its {0} cannot be changed")]
    Admin(&'static str),
    /// Defined more than once.
    #[error("load_roles: role '{0}' is defined more than once")]
    Twice(String),
    /// A field has the wrong type.
    #[error("role '{role}': {why}")]
    Field {
        /// The role's name.
        role: String,
        /// What is wrong.
        why: String,
    },
    /// One of its scopes is not sound.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

/// The roles that a hub has at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolePlan {
    /// Every role that is to exist; others that no authenticator manages are to be removed. A kind of
    /// holders that a definition of `load_roles` leaves out is an empty list here, so that nobody keeps
    /// a role after the list has gone. `None` is left for the users of `user`, whom logins make, and
    /// for the users and services of `admin`, who may be administrators by other settings.
    pub roles: Vec<RoleSpec>,
    /// The names of those that `load_roles` defines.
    pub loaded: BTreeSet<String>,
    /// What to tell the operator.
    pub warnings: Vec<String>,
}

/// The names of the roles that always exist and cannot be removed.
pub const DEFAULT_ROLES: [&str; 4] = ["user", "admin", "server", "token"];

/// The roles that always exist, as 6.1.1 writes them to the database.
pub fn default_roles() -> Vec<RoleSpec> {
    let role = |name: &str, description: &str, scopes: &[&str]| RoleSpec {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        ..RoleSpec::default()
    };
    let admin = ADMIN.map(Scope::as_str);
    vec![
        role("user", "Standard user privileges", &["self"]),
        role("admin", "Elevated privileges (can do anything)", &admin),
        role(
            "server",
            "Post activity only",
            &["users:activity!user", "access:servers!server"],
        ),
        role(
            "token",
            "Token with same permissions as its owner",
            &["inherit"],
        ),
    ]
}

impl RoleSpec {
    fn empty_what_is_left_out(&mut self) {
        let is_admin = self.name == "admin";
        if !is_admin && self.name != "user" && !self.managed_by_auth {
            self.users.get_or_insert_default();
        }
        if !is_admin {
            self.services.get_or_insert_default();
        }
        self.groups.get_or_insert_default();
    }

    /// The scopes that a role has: those of its row and, for `admin`, also those that are ours. The row
    /// does not name them, for JupyterHub fails on scopes that it does not know.
    pub fn effective_scopes<'s>(
        name: &str,
        scopes: &'s [String],
    ) -> impl Iterator<Item = &'s str> + use<'s> {
        let ours = (name == "admin").then_some(Scope::ReadAudit.as_str());
        scopes.iter().map(String::as_str).chain(ours)
    }
}

/// The order is the database's.
const ADMIN: [Scope; 16] = [
    Scope::AdminUi,
    Scope::AdminUsers,
    Scope::AdminServers,
    Scope::AdminServices,
    Scope::Tokens,
    Scope::AdminGroups,
    Scope::ListServices,
    Scope::ReadServices,
    Scope::ReadHub,
    Scope::Proxy,
    Scope::Shutdown,
    Scope::AccessServices,
    Scope::AccessServers,
    Scope::ReadRoles,
    Scope::ReadMetrics,
    Scope::Shares,
];

/// Checks a role's name.
pub fn check_name(name: &str) -> Result<(), RoleError> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_~.".contains(&c);
    let sound = match name.as_bytes() {
        [first, middle @ .., last] => {
            first.is_ascii_lowercase()
                && (1..=253).contains(&middle.len())
                && middle.iter().all(|c| inner(*c))
                && (last.is_ascii_lowercase() || last.is_ascii_digit())
        }
        _ => false,
    };
    if sound {
        Ok(())
    } else {
        Err(RoleError::Name(name.to_owned()))
    }
}

/// Checks a role before it is written: its name, its scopes, and that `admin` stays what it is.
pub fn check(role: &RoleSpec, definitions: &Definitions) -> Result<(), RoleError> {
    check_name(&role.name)?;
    if role.name == "admin" {
        let [_, admin, ..] = &default_roles()[..] else {
            unreachable!("admin is the second of the default roles");
        };
        if role.description != admin.description {
            return Err(RoleError::Admin("description"));
        }
        if role.scopes != admin.scopes {
            return Err(RoleError::Admin("scopes"));
        }
    }
    definitions.check(&role.scopes, &format!("role '{}'", role.name))?;
    Ok(())
}

/// Merges the default roles with `load_roles` (a list of tables) and `extra_user_scopes`, and checks
/// them all. A definition of a default role changes only what it names.
pub fn plan(
    load_roles: &[Value],
    extra_user_scopes: &[String],
    definitions: &Definitions,
) -> Result<RolePlan, RoleError> {
    let mut plan = RolePlan::default();
    let mut defaults = default_roles();
    if let Some(user) = defaults.first_mut() {
        user.scopes.extend_from_slice(extra_user_scopes);
    }
    let mut seen = BTreeSet::new();
    let mut loaded = Vec::new();
    for value in load_roles {
        let Some(name) = value.get("name").and_then(Value::as_str) else {
            return Err(RoleError::NoName);
        };
        if !seen.insert(name.to_owned()) {
            return Err(RoleError::Twice(name.to_owned()));
        }
        let mut role: RoleSpec =
            serde_json::from_value(value.clone()).map_err(|error| RoleError::Field {
                role: name.to_owned(),
                why: error.to_string(),
            })?;
        if let Some(place) = defaults.iter().position(|role| role.name == name) {
            let default = defaults.remove(place);
            if value.get("scopes").is_none() {
                role.scopes = default.scopes;
            } else if name == "user" {
                if !extra_user_scopes.is_empty() {
                    plan.warnings.push(
                        "extra_user_scopes is ignored, because load_roles gives role 'user' scopes \
                         of its own"
                            .to_owned(),
                    );
                }
                if !role.scopes.iter().any(|scope| scope == "self") {
                    plan.warnings.push(
                        "load_roles takes 'self' from role 'user': users may be unable to use \
                         their own servers; extra_user_scopes adds scopes without that"
                            .to_owned(),
                    );
                }
            }
            if value.get("description").is_none() {
                role.description = default.description;
            }
        }
        role.empty_what_is_left_out();
        loaded.push(role);
    }
    plan.loaded = seen;
    plan.roles = defaults;
    plan.roles.extend(loaded);
    for role in &plan.roles {
        check(role, definitions)?;
        if role.scopes.is_empty() {
            plan.warnings
                .push(format!("role '{}' has no scopes", role.name));
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn planned(roles: &Value, extra: &[&str]) -> Result<RolePlan, RoleError> {
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        plan(
            roles.as_array().expect("a list"),
            &extra,
            &Definitions::default(),
        )
    }

    #[test]
    fn without_configuration_the_four_default_roles_exist() {
        let plan = planned(&json!([]), &[]).expect("the defaults are sound");
        let names: Vec<_> = plan.roles.iter().map(|role| role.name.as_str()).collect();
        assert_eq!(names, DEFAULT_ROLES);
        assert_eq!(plan.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_default_role_keeps_what_its_new_definition_does_not_name() {
        let plan = planned(
            &json!([{"name": "user", "groups": ["staff"]}, {"name": "admin", "users": ["ada"]}]),
            &["list:users"],
        )
        .expect("sound");
        let user = plan.roles.iter().find(|role| role.name == "user");
        let user = user.expect("it always exists");
        assert_eq!(user.scopes, ["self", "list:users"]);
        assert_eq!(user.users, None);
        assert_eq!(user.groups, Some(vec!["staff".to_owned()]));
    }

    #[test]
    fn a_list_that_a_definition_leaves_out_is_empty() {
        let plan = planned(
            &json!([{"name": "teacher"}, {"name": "user"}, {"name": "admin"}]),
            &[],
        )
        .expect("sound");
        let none = Some(Vec::new());
        for role in &plan.roles {
            let lists = (
                role.users.clone(),
                role.services.clone(),
                role.groups.clone(),
            );
            let expected = match role.name.as_str() {
                "teacher" => (none.clone(), none.clone(), none.clone()),
                "user" => (None, none.clone(), none.clone()),
                "admin" => (None, None, none.clone()),
                _ => (None, None, None),
            };
            assert_eq!(lists, expected, "{}", role.name);
        }
    }

    #[test]
    fn unsound_roles_are_refused_with_a_reason() {
        for (roles, reason) in [
            (json!([{"scopes": []}]), "needs a name"),
            (json!([{"name": "x"}]), "3 to 255"),
            (json!([{"name": "Teacher"}]), "3 to 255"),
            (json!([{"name": "teacher-"}]), "3 to 255"),
            (json!([{"name": "abc"}, {"name": "abc"}]), "more than once"),
            (
                json!([{"name": "admin", "scopes": ["self"]}]),
                "scopes cannot",
            ),
            (json!([{"name": "abc", "scopes": "self"}]), "role 'abc'"),
            (json!([{"name": "abc", "scopes": ["fly"]}]), "'fly'"),
        ] {
            let error = planned(&roles, &[]).expect_err("unsound").to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn taking_self_from_users_is_warned_of() {
        let plan = planned(
            &json!([{"name": "user", "scopes": ["list:users"]}]),
            &["proxy"],
        )
        .expect("allowed");
        assert_eq!(plan.warnings.len(), 2);
    }
}

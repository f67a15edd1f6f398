//! Which fields of a model a requester may see.

use std::collections::BTreeSet;

use super::{Groups, Scope, ScopeSet, Target};

/// A scope and the fields it shows.
type Shows = (Scope, &'static [&'static str]);

const USER: &[Shows] = &[
    (
        Scope::ReadUsers,
        &[
            "kind",
            "name",
            "user_info",
            "admin",
            "roles",
            "groups",
            "server",
            "pending",
            "created",
            "last_activity",
        ],
    ),
    (
        Scope::ReadUsersName,
        &["kind", "name", "user_info", "admin"],
    ),
    (Scope::ReadUsersGroups, &["kind", "name", "groups"]),
    (Scope::ReadUsersActivity, &["kind", "name", "last_activity"]),
    (Scope::ReadServers, &["kind", "name", "servers"]),
    (Scope::ReadRolesUsers, &["kind", "name", "roles", "admin"]),
    (Scope::AdminAuthState, &["kind", "name", "auth_state"]),
];

const GROUP: &[Shows] = &[
    (Scope::ReadGroups, &["kind", "name", "properties", "users"]),
    (Scope::ReadGroupsName, &["kind", "name"]),
    (Scope::ReadRolesGroups, &["kind", "name", "roles"]),
];

const SERVICE: &[Shows] = &[
    (
        Scope::ReadServices,
        &[
            "kind", "name", "admin", "url", "prefix", "command", "pid", "info", "display",
        ],
    ),
    (Scope::ReadServicesName, &["kind", "name", "admin"]),
    (
        Scope::ReadRolesServices,
        &["kind", "name", "roles", "admin"],
    ),
];

/// The fields of a user's model that `scopes` show; none when the user may not be seen at all.
///
/// `servers` counts here only where all of the user's servers may be read. A requester who may read
/// single ones sees those: where the model has other fields, put in each server for which
/// [`ScopeSet::allows`] `read:servers`, and leave `servers` out when there is none.
pub fn user_fields(scopes: &ScopeSet, user: &str, groups: &dyn Groups) -> BTreeSet<&'static str> {
    visible(USER, scopes, Target::User(user), groups)
}

/// The fields of a group's model that `scopes` show.
pub fn group_fields(scopes: &ScopeSet, group: &str, groups: &dyn Groups) -> BTreeSet<&'static str> {
    visible(GROUP, scopes, Target::Group(group), groups)
}

/// The fields of a service's model that `scopes` show.
pub fn service_fields(
    scopes: &ScopeSet,
    service: &str,
    groups: &dyn Groups,
) -> BTreeSet<&'static str> {
    visible(SERVICE, scopes, Target::Service(service), groups)
}

/// The fields of a server's model beyond those that `read:servers` shows: `state`, or nothing.
/// `None` when the server may not be seen.
pub fn server_fields(
    scopes: &ScopeSet,
    user: &str,
    server: &str,
    groups: &dyn Groups,
) -> Option<&'static [&'static str]> {
    let target = Target::Server { user, server };
    if !scopes.allows(Scope::ReadServers, target, groups) {
        return None;
    }
    Some(if scopes.allows(Scope::AdminServerState, target, groups) {
        &["state"]
    } else {
        &[]
    })
}

fn visible(
    table: &[Shows],
    scopes: &ScopeSet,
    target: Target<'_>,
    groups: &dyn Groups,
) -> BTreeSet<&'static str> {
    table
        .iter()
        .filter(|(scope, _)| scopes.allows(*scope, target, groups))
        .flat_map(|(_, fields)| fields.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Memberships, NoGroups};
    use super::*;

    #[test]
    fn a_user_is_seen_only_as_far_as_the_scopes_reach() {
        let groups = Memberships::new().with("ada", ["staff"]);
        for (scope, fields) in [
            ("read:users:name", "admin kind name user_info"),
            ("read:users:name!user=ada", "admin kind name user_info"),
            ("read:users:groups!group=staff", "groups kind name"),
            ("read:users!user=bob", ""),
            ("read:servers!server=ada/", ""),
            ("admin:auth_state", "auth_state kind name"),
        ] {
            let set = ScopeSet::from_expanded([scope]);
            let seen = user_fields(&set, "ada", &groups);
            assert_eq!(Vec::from_iter(seen).join(" "), fields, "{scope}");
        }
    }

    #[test]
    fn a_servers_state_needs_a_scope_of_its_own() {
        for (held, fields) in [
            (&["read:users"][..], None),
            (&["read:servers!server=ada/"][..], Some(&[][..])),
            (
                &["read:servers!user=ada", "admin:server_state"][..],
                Some(&["state"][..]),
            ),
        ] {
            let set = ScopeSet::from_expanded(held);
            assert_eq!(server_fields(&set, "ada", "", &NoGroups), fields);
        }
    }
}

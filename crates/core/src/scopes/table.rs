//! Every scope of JupyterHub 6.1.1, and `read:audit`, which is ours: its name, what it implies, and what
//! it means to a person.

use std::fmt;

macro_rules! scopes {
    ($($variant:ident $text:literal $description:literal [$($sub:ident)*])*) => {
        /// A scope that JupyterHub or we define. Custom scopes exist as text only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Scope {
            $(#[doc = $description] $variant,)*
        }

        impl Scope {
            /// Every scope, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The scope as it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Reads a scope without filter; `None` when there is no such scope.
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// What the scope lets its holder do, in one sentence.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => $description,)*
                }
            }

            /// The scopes that this one directly implies.
            pub fn subscopes(self) -> &'static [Self] {
                match self {
                    $(Self::$variant => &[$(Self::$sub,)*],)*
                }
            }
        }
    };
}

scopes! {
    NoScope "(no_scope)" "Learn whose credentials these are." []
    Myself "self" "Everything that is yours" []
    Inherit "inherit" "All that you may do yourself" []
    AdminUi "admin-ui" "Open the admin page. What can be done there depends on further permissions." []
    AdminUsers "admin:users" "Manage all of a user but their servers and tokens: create, change and delete users and read their stored login state. Whoever holds this can take over the whole hub." [AdminAuthState Users ReadRolesUsers DeleteUsers]
    AdminAuthState "admin:auth_state" "Read the stored login state of users." []
    Users "users" "Read and change users, without their servers, tokens and login state." [ReadUsers ListUsers UsersActivity]
    DeleteUsers "delete:users" "Remove users." []
    ListUsers "list:users" "See the list of users, with their names at least." [ReadUsersName]
    ReadUsers "read:users" "Read all about users, with the address of their default server while it runs." [ReadUsersName ReadUsersGroups ReadUsersActivity]
    ReadUsersName "read:users:name" "Read the names of users." []
    ReadUsersGroups "read:users:groups" "Read which groups users are in." []
    ReadUsersActivity "read:users:activity" "Read when users were last active." []
    ReadRoles "read:roles" "Read who has which roles." [ReadRolesUsers ReadRolesServices ReadRolesGroups]
    ReadRolesUsers "read:roles:users" "Read which roles users have." []
    ReadRolesServices "read:roles:services" "Read which roles services have." []
    ReadRolesGroups "read:roles:groups" "Read which roles groups have." []
    UsersActivity "users:activity" "Report that users are active." [ReadUsersActivity]
    AdminServers "admin:servers" "Manage servers of users in every way, their internal state included." [AdminServerState Servers]
    AdminServerState "admin:server_state" "Read and change the internal state of servers." []
    Servers "servers" "Start and stop servers." [ReadServers StartServers DeleteServers]
    ReadServers "read:servers" "Read the names of users and how their servers are, without the internal state." [ReadUsersName]
    StartServers "start:servers" "Start servers and change their settings." []
    DeleteServers "delete:servers" "Stop and remove servers." []
    Tokens "tokens" "Read, make, change and revoke tokens of users." [ReadTokens]
    ReadTokens "read:tokens" "Read which tokens users have, not the tokens themselves." []
    AdminGroups "admin:groups" "Create, change and delete groups." [Groups ReadRolesGroups DeleteGroups]
    Groups "groups" "Read and change groups and who is in them. Being put into a group may give people more permissions." [ReadGroups ListGroups]
    ListGroups "list:groups" "See the list of groups, with their names at least." [ReadGroupsName]
    ReadGroups "read:groups" "Read all about groups." [ReadGroupsName]
    ReadGroupsName "read:groups:name" "Read the names of groups." []
    DeleteGroups "delete:groups" "Remove groups." []
    AdminServices "admin:services" "Manage services, but for those that the configuration defines." [ListServices ReadServices ReadRolesServices]
    ListServices "list:services" "See the list of services, with their names at least." [ReadServicesName]
    ReadServices "read:services" "Read all about services." [ReadServicesName]
    ReadServicesName "read:services:name" "Read the names of services." []
    ReadHub "read:hub" "Read details of the hub's installation." []
    AccessServers "access:servers" "Use servers, in the browser or by their API." []
    AccessServices "access:services" "Use services, in the browser or by their API." []
    UsersShares "users:shares" "Read and give up a user's access to servers that others share." [ReadUsersShares]
    ReadUsersShares "read:users:shares" "Read which servers are shared with a user." []
    GroupsShares "groups:shares" "Read and give up a group's access to servers that others share." [ReadGroupsShares]
    ReadGroupsShares "read:groups:shares" "Read which servers are shared with a group." []
    ReadShares "read:shares" "Read with whom servers are shared." []
    Shares "shares" "Share servers with others and end it." [AccessServers ReadShares UsersShares GroupsShares]
    Proxy "proxy" "Read the proxy's routes, bring them up to date, and tell the hub of another proxy." []
    Shutdown "shutdown" "Shut the hub down." []
    ReadAudit "read:audit" "Read the audit log: who did what, from where." []
    ReadMetrics "read:metrics" "Read the hub's Prometheus metrics." []
}

impl Scope {
    /// What `self` stands for, before sub-scopes, each limited to the user.
    pub(super) const OF_SELF: [Self; 7] = [
        Self::ReadUsers,
        Self::UsersShares,
        Self::ReadShares,
        Self::UsersActivity,
        Self::Servers,
        Self::Tokens,
        Self::AccessServers,
    ];

    /// The scope and all that it implies, directly or not.
    pub fn expanded(self) -> Vec<Self> {
        let mut all = vec![self];
        let mut next = 0;
        while let Some(scope) = all.get(next).copied() {
            for sub in scope.subscopes() {
                if !all.contains(sub) {
                    all.push(*sub);
                }
            }
            next += 1;
        }
        all
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

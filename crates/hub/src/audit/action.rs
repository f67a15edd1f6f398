//! What the audit log can say that somebody did.

macro_rules! actions {
    ($($variant:ident $name:literal $description:literal)*) => {
        /// Something that is recorded. The documentation's table of actions is made of this.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Action {
            $(#[doc = $description] $variant,)*
        }

        impl Action {
            /// Every action, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name, as rows and lines have it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Reads a name.
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// What happened, in a sentence.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => $description,)*
                }
            }
        }
    };
}

actions! {
    Login "login" "Somebody logged in."
    LoginFailed "login.failed" "A login was refused. The target is the name that was typed, if there is such a user; what else people type into that field may be a password, so it is not kept. `details.reason` says why: `credentials`, `not_allowed` or `throttled`."
    Logout "logout" "Somebody logged out; `details.tokens` counts the tokens that ended with the session."
    SessionRevoke "session.revoke" "A session was ended by its user elsewhere or by an administrator."
    TokenCreate "token.create" "An API token was made; `details` has its id, note, scopes and end, never the token."
    TokenRevoke "token.revoke" "An API token, or all of one application, was revoked."
    UserCreate "user.create" "A user was added, by an administrator, the configuration or their own first login."
    UserRename "user.rename" "A user was renamed; `details.from` is the old name."
    UserAdmin "user.admin" "A user was made an administrator, or is one no longer: `details.admin`."
    UserDelete "user.delete" "A user was deleted."
    AuthStateRead "auth_state.read" "Somebody read a user's stored login state."
    AuthStateWrite "auth_state.write" "Somebody replaced a user's stored login state."
    GroupCreate "group.create" "A group was made."
    GroupDelete "group.delete" "A group was deleted."
    GroupAdd "group.add" "Users were put into a group: `details.users`."
    GroupRemove "group.remove" "Users were taken out of a group: `details.users`."
    GroupProperties "group.properties" "A group's properties were replaced."
    RoleDefine "role.define" "The configuration made a role or changed its scopes: `details.scopes`."
    RoleDelete "role.delete" "A role that is no longer configured was deleted."
    RoleAssign "role.assign" "A user, group or service was given a role: `details.role`."
    RoleStrip "role.strip" "A role was taken from a user, group or service: `details.role`."
    ServiceCreate "service.create" "A service was added."
    ServiceDelete "service.delete" "A service was removed."
    ServiceAccess "service.access" "Somebody let a service know who they are, with `details.scopes`."
    ServerAccess "server.access" "Somebody opened a server that is not theirs, in a browser. It is recorded when they log in to it, not for each page."
    ServerStart "server.start" "Somebody asked to start a server that is not theirs."
    ServerStop "server.stop" "Somebody asked to stop a server that is not theirs; with `details.remove` it goes altogether."
    ServerEdit "server.edit" "Somebody made or changed a server that is not theirs."
    ShareCreate "share.create" "A server was shared with a user or group, with `details.scopes`."
    ShareRevoke "share.revoke" "A server is shared no longer, or with fewer scopes."
    ShareLeave "share.leave" "A user or group gave up what was shared with them."
    ShareAccept "share.accept" "Somebody took what is shared by a code."
    ShareCodeCreate "share_code.create" "A code was made that shares a server with whoever has it; `details` has its id, scopes and end, never the code."
    ShareCodeRevoke "share_code.revoke" "Codes of a server were revoked."
    Denied "denied" "A request was refused for lack of rights, or because it did not prove to come from our own pages. `details` has the method, the route and what was answered."
    ProxyChange "proxy.change" "The hub was told of another proxy, or to bring its routes up to date."
    ConfigReload "config.reload" "A changed configuration was taken, or refused: `details.changed`."
    Start "start" "The hub started."
    Shutdown "shutdown" "The hub was asked to end, by a request or a signal."
    Gap "audit.gap" "Events could not be kept in the table, because the database was away for long or more came than could be written: `repeats` counts them. Each is in the hub's own log."
}

impl Action {
    /// What somebody else does to a user's server, which its owner may see.
    pub const ACCESSES: &'static [Self] = &[
        Self::ServerAccess,
        Self::ServerStart,
        Self::ServerStop,
        Self::ServerEdit,
    ];

    /// The longest name that the column takes.
    const MAX: usize = 32;
}

const _: () = {
    let mut index = 0;
    while index < Action::ALL.len() {
        assert!(Action::ALL[index].as_str().len() <= Action::MAX);
        index += 1;
    }
};

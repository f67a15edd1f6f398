//! What users, services and tokens hold, and what an application may be granted.

use std::collections::BTreeSet;

use super::set::Filters;
use super::{Definitions, Groups, Scope, ScopeError, ScopeSet};

/// Who holds roles and owns tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A user.
    User(&'a str),
    /// A service.
    Service(&'a str),
    /// A group.
    Group(&'a str),
}

/// The OAuth client that a token was issued to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// The hub itself (`jupyterhub`): tokens made on the token page or by the API.
    Hub,
    /// A user's server.
    Server {
        /// Whose server.
        user: String,
        /// Which one; empty for the default server.
        server: String,
    },
    /// A service.
    Service(String),
    /// A client whose server or service is gone.
    Orphan,
}

/// One share as it concerns its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The scopes that the share's row lists.
    pub scopes: Vec<String>,
    /// Whose server is shared.
    pub user: String,
    /// Which server is shared.
    pub server: String,
}

/// What a token really allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenScopes {
    /// What it allows.
    pub scopes: ScopeSet,
    /// What it lists but its owner does not hold (any more). For a log line.
    pub discarded: ScopeSet,
}

/// What an application asked for, split by what may be granted; raw scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// May be granted. Of a scope that is held in part, the expanded part.
    pub allowed: BTreeSet<String>,
    /// May not be granted, or not all of it.
    pub disallowed: BTreeSet<String>,
}

impl Definitions {
    /// What a user, service or group holds by the raw scopes of its roles (for a user, those of its
    /// groups' roles as well) and by shares with it (and with its groups).
    ///
    /// Where this is the base for a token's scopes, upstream leaves out shares with groups and the
    /// sub-scopes of the other shares, so that no token reaches a server shared with a group. Here a
    /// token's base is all that its owner holds.
    pub fn of_owner<'s, S: AsRef<str>>(
        &self,
        owner: Owner<'_>,
        role_scopes: impl IntoIterator<Item = S>,
        shares: impl IntoIterator<Item = &'s Share>,
    ) -> ScopeSet {
        let mut set = self.expand(role_scopes, Some(owner), &Client::Hub);
        for share in shares {
            let client = Client::Server {
                user: share.user.clone(),
                server: share.server.clone(),
            };
            set = set.union(&self.expand(&share.scopes, Some(owner), &client));
        }
        set
    }

    /// What a token allows: what it lists, the right to know its owner, and for an OAuth token the
    /// right to reach its client, as far as its owner holds all that.
    ///
    /// `groups` needs the members that [`Definitions::token_members_in_question`] names.
    pub fn of_token<S: AsRef<str>>(
        &self,
        raw: &[S],
        owner: Owner<'_>,
        owner_scopes: &ScopeSet,
        client: &Client,
        groups: &dyn Groups,
    ) -> TokenScopes {
        if raw.iter().any(|scope| scope.as_ref() == "inherit") {
            return TokenScopes {
                scopes: owner_scopes.clone(),
                discarded: ScopeSet::new(),
            };
        }
        let listed = self.listed_by_token(raw, owner, client);
        let scopes = listed.intersect(owner_scopes, groups);
        TokenScopes {
            discarded: listed.difference(&scopes),
            scopes,
        }
    }

    /// The users whose groups [`Definitions::of_token`] needs to know; mostly none.
    pub fn token_members_in_question<S: AsRef<str>>(
        &self,
        raw: &[S],
        owner: Owner<'_>,
        owner_scopes: &ScopeSet,
        client: &Client,
    ) -> BTreeSet<String> {
        if raw.iter().any(|scope| scope.as_ref() == "inherit") {
            return BTreeSet::new();
        }
        self.listed_by_token(raw, owner, client)
            .members_in_question(owner_scopes)
    }

    fn listed_by_token<S: AsRef<str>>(
        &self,
        raw: &[S],
        owner: Owner<'_>,
        client: &Client,
    ) -> ScopeSet {
        self.expand(raw, Some(owner), client)
            .union(&access_scopes(client))
            .union(&identify_scopes(owner))
    }

    /// Checks that a new token would not list more than its owner holds.
    pub fn check_token<S: AsRef<str>>(
        &self,
        raw: &[S],
        owner: Owner<'_>,
        owner_scopes: &ScopeSet,
        client: &Client,
        groups: &dyn Groups,
    ) -> Result<(), ScopeError> {
        let own = raw
            .iter()
            .map(AsRef::as_ref)
            .filter(|scope| *scope != "inherit");
        let listed = self.expand(own, Some(owner), client);
        let excess = listed.difference(&listed.intersect(owner_scopes, groups));
        if excess.is_empty() {
            return Ok(());
        }
        Err(ScopeError::Excess {
            owner: owner.to_string(),
            excess: excess.to_strings(),
        })
    }

    /// Splits what an application requests by what the user holds, both raw. Keeps abbreviations
    /// where the whole of them is held.
    pub fn resolve_requested(
        &self,
        requested: &BTreeSet<String>,
        have: &BTreeSet<String>,
        owner: Owner<'_>,
        client: &Client,
        groups: &dyn Groups,
    ) -> Resolved {
        let mut resolved = Resolved {
            allowed: requested.intersection(have).cloned().collect(),
            disallowed: requested.difference(have).cloned().collect(),
        };
        if resolved.disallowed.is_empty() {
            return resolved;
        }
        let have = self.expand(have, Some(owner), client);
        let mut granted = self.expand(&resolved.allowed, Some(owner), client);
        for scope in std::mem::take(&mut resolved.disallowed) {
            let wanted = self
                .expand([&scope], Some(owner), client)
                .difference(&granted);
            let held = wanted.intersect(&have, groups);
            if held == wanted {
                resolved.allowed.insert(scope);
            } else {
                resolved.allowed.extend(held.to_strings());
                resolved.disallowed.insert(scope);
                if held.is_empty() {
                    continue;
                }
            }
            granted = self.expand(&resolved.allowed, Some(owner), client);
        }
        resolved
    }
}

/// The scopes by which a token may always ask who its owner is.
pub fn identify_scopes(owner: Owner<'_>) -> ScopeSet {
    match owner {
        Owner::User(name) => ScopeSet::from_expanded([
            format!("read:users:name!user={name}"),
            format!("read:users:groups!user={name}"),
        ]),
        Owner::Service(name) => {
            ScopeSet::from_expanded([format!("read:services:name!service={name}")])
        }
        Owner::Group(_) => ScopeSet::new(),
    }
}

/// The scope that is needed to use an OAuth client; none for the hub.
pub fn access_scopes(client: &Client) -> ScopeSet {
    match client {
        Client::Server { user, server } => {
            ScopeSet::from_expanded([format!("{}!server={user}/{server}", Scope::AccessServers)])
        }
        Client::Service(name) => {
            ScopeSet::from_expanded([format!("{}!service={name}", Scope::AccessServices)])
        }
        Client::Hub | Client::Orphan => ScopeSet::new(),
    }
}

/// Limits raw scopes to the server that is to be shared, sorted as upstream stores them. A filter
/// that is not this server's is an error, which holds the offending scope.
pub fn filter_share_scopes<S: AsRef<str>>(
    raw: impl IntoIterator<Item = S>,
    user: &str,
    server: &str,
) -> Result<Vec<String>, String> {
    let filter = format!("server={user}/{server}");
    let mut scopes = BTreeSet::new();
    for scope in raw {
        let scope = scope.as_ref();
        let (base, own) = super::set::split(scope);
        if own.is_some_and(|own| own != filter) {
            return Err(scope.to_owned());
        }
        scopes.insert(format!("{base}!{filter}"));
    }
    Ok(scopes.into_iter().collect())
}

impl Owner<'_> {
    pub(super) fn user_filter(self) -> Option<Filters> {
        match self {
            Self::User(name) => Some(Filters::parse(&format!("user={name}"))),
            Self::Service(_) | Self::Group(_) => None,
        }
    }
}

impl std::fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

impl Client {
    pub(super) fn server_filter(&self) -> Option<Filters> {
        match self {
            Self::Server { user, server } => {
                Some(Filters::parse(&format!("server={user}/{server}")))
            }
            Self::Hub | Self::Service(_) | Self::Orphan => None,
        }
    }

    /// A service as the client is stronger than a service as the owner.
    pub(super) fn service_filter(&self, owner: Option<Owner<'_>>) -> Option<Filters> {
        let name = match (self, owner) {
            (Self::Service(name), _) => name,
            (_, Some(Owner::Service(name))) => name,
            _ => return None,
        };
        Some(Filters::parse(&format!("service={name}")))
    }
}

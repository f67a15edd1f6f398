//! Expanded scopes, and what they allow.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Names, Scope};

/// Expanded scopes: no abbreviations, no sub-scope left out, and no filter beside an unlimited scope
/// of the same name. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(Arc<BTreeMap<Base, Access>>);

/// A scope's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Base {
    Known(Scope),
    Custom(Arc<str>),
}

impl Base {
    pub(super) fn parse(text: &str) -> Self {
        Scope::parse(text).map_or_else(|| Self::Custom(text.into()), Self::Known)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Known(scope) => scope.as_str(),
            Self::Custom(text) => text,
        }
    }
}

/// How far a scope reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// To everything.
    All,
    /// To what the filters name.
    Only(Filters),
}

/// What a scope is limited to; at least one of the lists holds a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// `!user=`: these users, and their servers.
    pub users: Names,
    /// `!group=`: these groups, their members, and the members' servers.
    pub groups: Names,
    /// `!server=`: these servers, each as `user/server`; the default server's part is empty.
    pub servers: Names,
    /// `!service=`: these services.
    pub services: Names,
}

/// What somebody wants to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A user.
    User(&'a str),
    /// A server of a user; the default server's name is empty.
    Server {
        /// Whose server.
        user: &'a str,
        /// Which one.
        server: &'a str,
    },
    /// A group.
    Group(&'a str),
    /// A service.
    Service(&'a str),
}

/// Who is in which group, for `!group=` filters. Ask [`ScopeSet::member_in_question`] or
/// [`ScopeSet::members_in_question`] first: mostly nobody's groups need to be looked up.
pub trait Groups {
    /// Whether `user` is in `group`.
    fn is_member(&self, user: &str, group: &str) -> bool;
}

/// Nobody is in any group, or no question needs groups.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGroups;

impl Groups for NoGroups {
    fn is_member(&self, _user: &str, _group: &str) -> bool {
        false
    }
}

/// The groups of some users, as read from the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memberships(BTreeMap<String, BTreeSet<String>>);

impl Memberships {
    /// No user's groups yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one user's groups.
    #[must_use]
    pub fn with<G: Into<String>>(
        mut self,
        user: impl Into<String>,
        groups: impl IntoIterator<Item = G>,
    ) -> Self {
        self.0
            .entry(user.into())
            .or_default()
            .extend(groups.into_iter().map(Into::into));
        self
    }
}

/// Rows of user and group.
impl<U: Into<String>, G: Into<String>> FromIterator<(U, G)> for Memberships {
    fn from_iter<T: IntoIterator<Item = (U, G)>>(rows: T) -> Self {
        rows.into_iter()
            .fold(Self::new(), |all, (user, group)| all.with(user, [group]))
    }
}

impl Groups for Memberships {
    fn is_member(&self, user: &str, group: &str) -> bool {
        self.0
            .get(user)
            .is_some_and(|groups| groups.contains(group))
    }
}

/// How to say no, as upstream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// 403: none of the scopes is held at all.
    Forbidden,
    /// 404: a scope is held, but not for this target; what may not be seen and what does not exist
    /// answer alike.
    NotFound,
}

impl ScopeSet {
    /// No scopes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads expanded scopes as [`ScopeSet::to_strings`] writes them. A scope whose filter means
    /// nothing (an empty or unresolved name, an unknown kind) grants nothing and is left out.
    pub fn from_expanded<S: AsRef<str>>(scopes: impl IntoIterator<Item = S>) -> Self {
        let mut set = Self::new();
        for scope in scopes {
            set.insert_text(scope.as_ref());
        }
        set
    }

    /// The scopes as text, sorted.
    pub fn to_strings(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for (base, access) in self.0.iter() {
            match access {
                Access::All => texts.push(base.as_str().to_owned()),
                Access::Only(filters) => {
                    for (kind, names) in filters.kinds() {
                        for name in names.iter() {
                            texts.push(format!("{}!{kind}={name}", base.as_str()));
                        }
                    }
                }
            }
        }
        texts.sort_unstable();
        texts
    }

    /// Whether there are no scopes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `scope` is held without limits.
    pub fn has(&self, scope: Scope) -> bool {
        matches!(self.access(scope), Some(Access::All))
    }

    /// Whether `scope` is held at all, be it for some targets only. For lists, whose rows are
    /// filtered afterwards by [`ScopeSet::access`].
    pub fn has_some(&self, scope: Scope) -> bool {
        self.access(scope).is_some()
    }

    /// How far `scope` reaches; `None` when it is not held.
    pub fn access(&self, scope: Scope) -> Option<&Access> {
        self.0.get(&Base::Known(scope))
    }

    /// Whether `scope` reaches `target`.
    pub fn allows(&self, scope: Scope, target: Target<'_>, groups: &dyn Groups) -> bool {
        self.access(scope)
            .is_some_and(|access| access.reaches(target, groups))
    }

    /// Whether an expanded scope in text (`access:servers!server=ada/`, `custom:x`) is held.
    pub fn has_text(&self, scope: &str, groups: &dyn Groups) -> bool {
        let (base, filter) = split(scope);
        let Some(access) = self.0.get(&Base::parse(base)) else {
            return false;
        };
        match filter {
            None => *access == Access::All,
            Some(filter) => match filter.split_once('=') {
                None | Some((_, "")) => false,
                Some((kind, name)) => match Target::parse(kind, name) {
                    Some(target) => access.reaches(target, groups),
                    None => *access == Access::All,
                },
            },
        }
    }

    /// Passes if one of the scopes reaches the target, or is held without limits where there is no
    /// target. Otherwise says how to refuse.
    pub fn require(
        &self,
        any_of: &[Scope],
        target: Option<Target<'_>>,
        groups: &dyn Groups,
    ) -> Result<(), Denied> {
        let allowed = any_of.iter().any(|scope| match target {
            Some(target) => self.allows(*scope, target, groups),
            None => self.has(*scope),
        });
        if allowed {
            Ok(())
        } else if target.is_some() && any_of.iter().any(|scope| self.has_some(*scope)) {
            Err(Denied::NotFound)
        } else {
            Err(Denied::Forbidden)
        }
    }

    /// The user whose groups decide whether one of `any_of` reaches `target`; `None` when the answer
    /// needs no groups.
    pub fn member_in_question<'a>(&self, any_of: &[Scope], target: Target<'a>) -> Option<&'a str> {
        let (Target::User(user) | Target::Server { user, .. }) = target else {
            return None;
        };
        let undecided = !any_of
            .iter()
            .any(|scope| self.allows(*scope, target, &NoGroups));
        let by_group = any_of.iter().any(|scope| {
            matches!(self.access(*scope), Some(Access::Only(filters)) if !filters.groups.is_empty())
        });
        (undecided && by_group).then_some(user)
    }

    /// The users whose groups decide [`ScopeSet::intersect`] with `other`; mostly none.
    pub fn members_in_question(&self, other: &Self) -> BTreeSet<String> {
        let mut users = BTreeSet::new();
        for (base, access) in self.0.iter() {
            let (Access::Only(own), Some(Access::Only(theirs))) = (access, other.0.get(base))
            else {
                continue;
            };
            for (a, b) in [(own, theirs), (theirs, own)] {
                if !a.groups.is_empty() {
                    users.extend(b.users.iter().map(str::to_owned));
                    users.extend(b.servers.iter().map(|server| owner_of(server).to_owned()));
                }
            }
        }
        users
    }

    /// Both sets' scopes together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut set = self.clone();
        for (base, access) in other.0.iter() {
            set.insert(base.clone(), access.clone());
        }
        set
    }

    /// What both sets allow. A `!user=` or `!server=` filter on one side passes under the other
    /// side's `!group=` when `groups` says so, and a server under its user.
    #[must_use]
    pub fn intersect(&self, other: &Self, groups: &dyn Groups) -> Self {
        let mut common = BTreeMap::new();
        for (base, own) in self.0.iter() {
            let Some(theirs) = other.0.get(base) else {
                continue;
            };
            let access = match (own, theirs) {
                (Access::All, access) | (access, Access::All) => access.clone(),
                (Access::Only(a), Access::Only(b)) => {
                    let filters = a.intersect(b, groups);
                    if filters.is_empty() {
                        continue;
                    }
                    Access::Only(filters)
                }
            };
            common.insert(base.clone(), access);
        }
        Self(Arc::new(common))
    }

    /// The scopes that, as text, are not in `other`. A filtered scope stays although `other` holds
    /// it unlimited; see [`ScopeSet::intersect`] for what is really allowed.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = BTreeMap::new();
        for (base, own) in self.0.iter() {
            let access = match (own, other.0.get(base)) {
                (Access::All, Some(Access::All)) => continue,
                (Access::Only(a), Some(Access::Only(b))) => {
                    let filters = a.difference(b);
                    if filters.is_empty() {
                        continue;
                    }
                    Access::Only(filters)
                }
                (access, _) => access.clone(),
            };
            rest.insert(base.clone(), access);
        }
        Self(Arc::new(rest))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Base, &Access)> {
        self.0.iter()
    }

    pub(super) fn insert(&mut self, base: Base, access: Access) {
        if matches!(&access, Access::Only(filters) if filters.is_empty()) {
            return;
        }
        match Arc::make_mut(&mut self.0).entry(base) {
            Entry::Vacant(place) => {
                place.insert(access);
            }
            Entry::Occupied(mut place) => match (place.get_mut(), access) {
                (Access::All, _) => {}
                (held, Access::All) => *held = Access::All,
                (Access::Only(held), Access::Only(more)) => held.extend_from(&more),
            },
        }
    }

    fn insert_text(&mut self, scope: &str) {
        let (base, filter) = split(scope);
        let access = match filter {
            None => Access::All,
            Some(filter) => Access::Only(Filters::parse(filter)),
        };
        self.insert(Base::parse(base), access);
    }
}

impl Access {
    /// Whether `target` is within reach. `groups` needs to know the groups of the target, if that is
    /// a user, or of its owner, if it is a server.
    pub fn reaches(&self, target: Target<'_>, groups: &dyn Groups) -> bool {
        let Self::Only(filters) = self else {
            return true;
        };
        match target {
            Target::User(user) => filters.reach_user(user, groups),
            Target::Server { user, server } => {
                filters.servers.contains(&format!("{user}/{server}"))
                    || filters.reach_user(user, groups)
            }
            Target::Group(group) => filters.groups.contains(group),
            Target::Service(service) => filters.services.contains(service),
        }
    }
}

impl Filters {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.kinds().into_iter().all(|(_, names)| names.is_empty())
    }

    /// The lists with the words that name them.
    pub fn kinds(&self) -> [(&'static str, &Names); 4] {
        [
            ("user", &self.users),
            ("group", &self.groups),
            ("server", &self.servers),
            ("service", &self.services),
        ]
    }

    /// Reads `kind=name`; empty when that names nothing.
    pub(super) fn parse(filter: &str) -> Self {
        let mut filters = Self::default();
        if let Some((kind, name)) = filter.split_once('=')
            && !name.is_empty()
        {
            let list = match kind {
                "user" => &mut filters.users,
                "group" => &mut filters.groups,
                "server" => &mut filters.servers,
                "service" => &mut filters.services,
                _ => return filters,
            };
            list.insert(name.into());
        }
        filters
    }

    fn lists_mut(&mut self) -> [&mut Names; 4] {
        [
            &mut self.users,
            &mut self.groups,
            &mut self.servers,
            &mut self.services,
        ]
    }

    fn reach_user(&self, user: &str, groups: &dyn Groups) -> bool {
        self.users.contains(user) || self.reach_member(user, groups)
    }

    fn reach_member(&self, user: &str, groups: &dyn Groups) -> bool {
        self.groups
            .iter()
            .any(|group| groups.is_member(user, group))
    }

    fn extend_from(&mut self, more: &Self) {
        for (own, (_, theirs)) in self.lists_mut().into_iter().zip(more.kinds()) {
            own.extend_from(theirs, |_| true);
        }
    }

    fn difference(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for (own, (_, theirs)) in rest.lists_mut().into_iter().zip(other.kinds()) {
            own.retain(|name| !theirs.contains(name));
        }
        rest
    }

    fn intersect(&self, other: &Self, groups: &dyn Groups) -> Self {
        let mut common = self.clone();
        for (own, (_, theirs)) in common.lists_mut().into_iter().zip(other.kinds()) {
            own.retain(|name| theirs.contains(name));
        }
        for (a, b) in [(self, other), (other, self)] {
            common
                .users
                .extend_from(&a.users, |user| b.reach_member(user, groups));
            common
                .servers
                .extend_from(&a.servers, |server| b.reach_user(owner_of(server), groups));
        }
        common
    }
}

impl<'a> Target<'a> {
    fn parse(kind: &str, name: &'a str) -> Option<Self> {
        Some(match kind {
            "user" => Self::User(name),
            "group" => Self::Group(name),
            "service" => Self::Service(name),
            "server" => {
                let (user, server) = name.split_once('/').unwrap_or((name, ""));
                Self::Server { user, server }
            }
            _ => return None,
        })
    }
}

/// A scope's name and, where there is one, its filter.
pub(super) fn split(scope: &str) -> (&str, Option<&str>) {
    match scope.split_once('!') {
        None => (scope, None),
        Some((base, "")) => (base, None),
        Some((base, filter)) => (base, Some(filter)),
    }
}

fn owner_of(server: &str) -> &str {
    server.split_once('/').map_or(server, |(user, _)| user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_within_reach_of_its_user_and_the_users_groups() {
        let groups = Memberships::new().with("ada", ["staff"]);
        let target = Target::Server {
            user: "ada",
            server: "",
        };
        for (held, expected) in [
            ("read:servers", true),
            ("read:servers!server=ada/", true),
            ("read:servers!server=ada/other", false),
            ("read:servers!user=ada", true),
            ("read:servers!user=bob", false),
            ("read:servers!group=staff", true),
            ("read:servers!group=guests", false),
            ("read:users!user=ada", false),
        ] {
            let set = ScopeSet::from_expanded([held]);
            assert_eq!(
                set.allows(Scope::ReadServers, target, &groups),
                expected,
                "{held}"
            );
            assert_eq!(
                set.has_text("read:servers!server=ada/", &groups),
                expected,
                "{held}"
            );
        }
    }

    #[test]
    fn groups_are_asked_for_only_where_they_decide() {
        let target = Target::User("ada");
        for (held, expected) in [
            (vec!["users"], None),
            (vec!["users!user=ada", "users!group=staff"], None),
            (vec!["users!group=staff"], Some("ada")),
            (vec!["users!user=bob"], None),
        ] {
            let set = ScopeSet::from_expanded(held);
            assert_eq!(set.member_in_question(&[Scope::Users], target), expected);
        }
    }

    #[test]
    fn what_may_not_be_seen_and_what_does_not_exist_answer_alike() {
        let set = ScopeSet::from_expanded(["read:users!user=ada"]);
        let bob = Some(Target::User("bob"));
        assert_eq!(
            set.require(&[Scope::ReadUsers], bob, &NoGroups),
            Err(Denied::NotFound)
        );
        assert_eq!(
            set.require(&[Scope::DeleteUsers], bob, &NoGroups),
            Err(Denied::Forbidden)
        );
        assert_eq!(
            set.require(&[Scope::ReadUsers], None, &NoGroups),
            Err(Denied::Forbidden)
        );
    }

    #[test]
    fn filters_that_name_nothing_grant_nothing() {
        for bad in [
            "users!user",
            "users!user=",
            "users!planet=mars",
            "users!=ada",
        ] {
            assert!(ScopeSet::from_expanded([bad]).is_empty(), "{bad}");
        }
    }
}

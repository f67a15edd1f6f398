//! Scopes: the same answers as JupyterHub 6.1.1 to several hundred random questions, and properties
//! that must hold for any question.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::scopes::{
    self, Client, Definitions, Memberships, NoGroups, Owner, Scope, ScopeSet, Share, Target, roles,
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

/// What `fixtures/make_scopes.py` writes.
#[derive(Deserialize)]
struct Upstream {
    jupyterhub: String,
    members: BTreeMap<String, Vec<String>>,
    custom: serde_json::Map<String, Value>,
    definitions: BTreeMap<String, Vec<String>>,
    default_roles: Value,
    expand: Vec<Expand>,
    intersect: Vec<Intersect>,
    resolve: Vec<Resolve>,
    has: Vec<Has>,
    token: Vec<Token>,
    shares: Vec<Sharing>,
    fields: Vec<Fields>,
}

#[derive(Debug, Deserialize)]
struct Expand {
    owner: (String, String),
    client: String,
    raw: Vec<String>,
    answer: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Intersect {
    a: Vec<String>,
    b: Vec<String>,
    answer: Vec<String>,
    without_groups: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    owner: (String, String),
    client: String,
    requested: BTreeSet<String>,
    have: BTreeSet<String>,
    allowed: BTreeSet<String>,
    disallowed: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Has {
    held: Vec<String>,
    asked: BTreeMap<String, bool>,
}

#[derive(Debug, Deserialize)]
struct Token {
    owner: (String, String),
    role_scopes: Vec<String>,
    client: String,
    listed: Vec<String>,
    held: Vec<String>,
    answer: Vec<String>,
    may_be_made: bool,
}

#[derive(Debug, Deserialize)]
struct Sharing {
    user: String,
    shares: BTreeMap<String, Vec<ShareRow>>,
    answer: Vec<String>,
    token: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ShareRow {
    scopes: Vec<String>,
    server: (String, String),
}

#[derive(Debug, Deserialize)]
struct Fields {
    held: Vec<String>,
    seen: BTreeMap<String, Vec<String>>,
}

impl Upstream {
    fn read() -> Self {
        let upstream: Self = serde_json::from_str(include_str!("fixtures/scopes.json")).unwrap();
        assert_eq!(upstream.jupyterhub, "6.1.1");
        upstream
    }

    fn definitions(&self) -> Definitions {
        Definitions::with_custom(&self.custom).unwrap().0
    }

    fn groups(&self) -> Memberships {
        self.members
            .iter()
            .fold(Memberships::new(), |all, (user, groups)| {
                all.with(user, groups)
            })
    }

    /// Only the groups of those users whom the code under test asked for.
    fn groups_of(&self, users: &BTreeSet<String>) -> Memberships {
        users
            .iter()
            .filter_map(|user| Some((user, self.members.get(user)?)))
            .fold(Memberships::new(), |all, (user, groups)| {
                all.with(user, groups)
            })
    }
}

fn owner((kind, name): &(String, String)) -> Owner<'_> {
    match kind.as_str() {
        "user" => Owner::User(name),
        "service" => Owner::Service(name),
        "group" => Owner::Group(name),
        other => unreachable!("{other}"),
    }
}

fn client(identifier: &str) -> Client {
    if let Some(server) = identifier.strip_prefix("server-") {
        let (user, server) = server.split_once('/').unwrap();
        Client::Server {
            user: user.to_owned(),
            server: server.to_owned(),
        }
    } else if let Some(service) = identifier.strip_prefix("service-") {
        Client::Service(service.to_owned())
    } else if identifier == "jupyterhub" {
        Client::Hub
    } else {
        Client::Orphan
    }
}

fn target(kind_and_name: &str) -> Target<'_> {
    let (kind, name) = kind_and_name.split_once('=').unwrap();
    match kind {
        "user" => Target::User(name),
        "group" => Target::Group(name),
        "service" => Target::Service(name),
        "server" => {
            let (user, server) = name.split_once('/').unwrap();
            Target::Server { user, server }
        }
        other => unreachable!("{other}"),
    }
}

#[test]
fn the_same_scopes_exist_with_the_same_subscopes() {
    let ours: BTreeMap<String, Vec<String>> = Scope::ALL
        .iter()
        // Ours, which no row of a default role has: JupyterHub fails on scopes that it does not know.
        .filter(|scope| **scope != Scope::ReadAudit)
        .map(|scope| {
            let mut subs: Vec<String> = scope.subscopes().iter().map(ToString::to_string).collect();
            subs.sort_unstable();
            (scope.to_string(), subs)
        })
        .collect();
    assert_eq!(ours, Upstream::read().definitions);
    for scope in Scope::ALL {
        assert_eq!(Scope::parse(scope.as_str()), Some(*scope));
    }
}

#[test]
fn the_default_roles_are_the_same() {
    let ours: Vec<Value> = roles::default_roles()
        .into_iter()
        .map(|role| {
            serde_json::json!({
                "name": role.name,
                "description": role.description,
                "scopes": role.scopes,
            })
        })
        .collect();
    assert_eq!(Value::from(ours), Upstream::read().default_roles);
}

#[test]
fn raw_scopes_expand_alike() {
    let upstream = Upstream::read();
    let definitions = upstream.definitions();
    for case in &upstream.expand {
        let set = definitions.expand(&case.raw, Some(owner(&case.owner)), &client(&case.client));
        assert_eq!(set.to_strings(), case.answer, "{case:?}");
    }
}

#[test]
fn scopes_intersect_alike() {
    let upstream = Upstream::read();
    for case in &upstream.intersect {
        let (a, b) = (
            ScopeSet::from_expanded(&case.a),
            ScopeSet::from_expanded(&case.b),
        );
        let groups = upstream.groups_of(&a.members_in_question(&b));
        assert_eq!(
            a.intersect(&b, &groups).to_strings(),
            case.answer,
            "{case:?}"
        );
        assert_eq!(
            a.intersect(&b, &NoGroups).to_strings(),
            case.without_groups,
            "{case:?}"
        );
    }
}

#[test]
fn requests_are_resolved_alike() {
    let upstream = Upstream::read();
    let (definitions, groups) = (upstream.definitions(), upstream.groups());
    for case in &upstream.resolve {
        let resolved = definitions.resolve_requested(
            &case.requested,
            &case.have,
            owner(&case.owner),
            &client(&case.client),
            &groups,
        );
        assert_eq!(resolved.allowed, case.allowed, "{case:?}");
        assert_eq!(resolved.disallowed, case.disallowed, "{case:?}");
    }
}

#[test]
fn questions_are_answered_alike() {
    let upstream = Upstream::read();
    for case in &upstream.has {
        let held = ScopeSet::from_expanded(&case.held);
        for (scope, answer) in &case.asked {
            assert_eq!(
                held.has_text(scope, &upstream.groups()),
                *answer,
                "{scope} in {case:?}"
            );
            let (name, filter) = scope.split_once('!').unwrap_or((scope, ""));
            let Some(name) = Scope::parse(name) else {
                continue;
            };
            if filter.is_empty() {
                assert_eq!(held.has(name), *answer, "{scope} in {case:?}");
                continue;
            }
            let target = target(filter);
            let asked = held.member_in_question(&[name], target);
            let groups = upstream.groups_of(&asked.into_iter().map(str::to_owned).collect());
            assert_eq!(
                held.allows(name, target, &groups),
                *answer,
                "{scope} in {case:?}"
            );
        }
    }
}

#[test]
fn tokens_allow_alike() {
    let upstream = Upstream::read();
    let definitions = upstream.definitions();
    for case in &upstream.token {
        let (owner, client) = (owner(&case.owner), client(&case.client));
        let held = definitions.of_owner(owner, &case.role_scopes, []);
        assert_eq!(held.to_strings(), case.held, "{case:?}");
        let asked = definitions.token_members_in_question(&case.listed, owner, &held, &client);
        let groups = upstream.groups_of(&asked);
        let token = definitions.of_token(&case.listed, owner, &held, &client, &groups);
        assert_eq!(token.scopes.to_strings(), case.answer, "{case:?}");
        let checked =
            definitions.check_token(&case.listed, owner, &held, &client, &upstream.groups());
        assert_eq!(checked.is_ok(), case.may_be_made, "{case:?}");
    }
}

#[test]
fn shares_allow_alike() {
    let upstream = Upstream::read();
    let definitions = upstream.definitions();
    let no_roles: [&str; 0] = [];
    for case in &upstream.shares {
        let shares: Vec<Share> = case
            .shares
            .values()
            .flatten()
            .map(|row| Share {
                scopes: row.scopes.clone(),
                user: row.server.0.clone(),
                server: row.server.1.clone(),
            })
            .collect();
        let owner = Owner::User(&case.user);
        let held = definitions.of_owner(owner, no_roles, &shares);
        assert_eq!(held.to_strings(), case.answer, "{case:?}");
        // For a token, upstream leaves out shares with groups and the sub-scopes of the others. Here
        // a token may do what its owner may.
        let listed = ["access:servers", "read:users!user"];
        let token = definitions.of_token(&listed, owner, &held, &Client::Hub, &NoGroups);
        let upstreams = ScopeSet::from_expanded(&case.token);
        assert!(within(&upstreams, &token.scopes), "{case:?}");
        assert!(within(&token.scopes, &held), "{case:?}");
    }
}

#[test]
fn the_same_fields_are_seen() {
    let upstream = Upstream::read();
    let groups = upstream.groups();
    for case in &upstream.fields {
        let held = ScopeSet::from_expanded(&case.held);
        for (entity, expected) in &case.seen {
            let seen: Vec<&str> = match target(entity) {
                Target::User(name) => scopes::user_fields(&held, name, &groups)
                    .into_iter()
                    .collect(),
                Target::Group(name) => scopes::group_fields(&held, name, &groups)
                    .into_iter()
                    .collect(),
                Target::Service(name) => scopes::service_fields(&held, name, &groups)
                    .into_iter()
                    .collect(),
                Target::Server { user, server } => {
                    // Upstream asks for the state of servers only after it has shown them.
                    let seen = scopes::server_fields(&held, user, server, &groups);
                    let visible = seen.map(|_| "server");
                    visible
                        .into_iter()
                        .chain(seen.unwrap_or_default().iter().copied())
                        .collect()
                }
            };
            let expected: Vec<&str> = match target(entity) {
                Target::Server { .. } if !expected.iter().any(|key| key == "server") => Vec::new(),
                _ => expected.iter().map(String::as_str).collect(),
            };
            assert_eq!(seen, expected, "{entity} in {case:?}");
        }
    }
}

/// Raw scopes over few names, so that filters meet.
fn raw_scope() -> impl Strategy<Value = String> {
    let names: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let filters = [
        "",
        "",
        "!user",
        "!server",
        "!service",
        "!user=ada",
        "!user=bob",
        "!group=staff",
        "!group=choir",
        "!server=ada/",
        "!server=ada/lab",
        "!server=bob/",
        "!service=cull",
        "!user=",
        "!planet=mars",
    ];
    prop_oneof![
        2 => Just("self".to_owned()),
        20 => (prop::sample::select(names), prop::sample::select(filters.to_vec()))
            .prop_map(|(name, filter)| format!("{name}{filter}")),
    ]
}

fn raw_scopes() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set(raw_scope(), 0..8)
}

fn groups() -> Memberships {
    Memberships::new()
        .with("ada", ["staff", "choir"])
        .with("bob", ["choir"])
}

const ADA: Owner<'_> = Owner::User("ada");

fn adas_server() -> Client {
    Client::Server {
        user: "ada".to_owned(),
        server: "lab".to_owned(),
    }
}

fn expand(raw: &BTreeSet<String>) -> ScopeSet {
    Definitions::default().expand(raw, Some(ADA), &adas_server())
}

/// Whether everything that `small` allows, `large` allows too, on every target there is.
fn within(small: &ScopeSet, large: &ScopeSet) -> bool {
    let targets = [
        Target::User("ada"),
        Target::User("bob"),
        Target::User("carl"),
        Target::Group("staff"),
        Target::Group("choir"),
        Target::Service("cull"),
        Target::Server {
            user: "ada",
            server: "",
        },
        Target::Server {
            user: "ada",
            server: "lab",
        },
        Target::Server {
            user: "bob",
            server: "",
        },
    ];
    let groups = groups();
    Scope::ALL.iter().all(|scope| {
        (!small.has(*scope) || large.has(*scope))
            && targets.iter().all(|target| {
                !small.allows(*scope, *target, &groups) || large.allows(*scope, *target, &groups)
            })
    })
}

proptest! {
    // A failure prints its smallest input; that becomes a test of its own instead of a file.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expanding_twice_changes_nothing(raw in raw_scopes()) {
        let once = expand(&raw);
        let again = Definitions::default().expand(once.to_strings(), Some(ADA), &adas_server());
        prop_assert_eq!(&again, &once);
        prop_assert_eq!(ScopeSet::from_expanded(once.to_strings()), once);
    }

    #[test]
    fn more_raw_scopes_never_allow_less(raw in raw_scopes(), more in raw_scopes()) {
        let both = raw.union(&more).cloned().collect();
        prop_assert!(within(&expand(&raw), &expand(&both)));
        let united = expand(&raw).union(&expand(&more));
        prop_assert!(within(&expand(&both), &united) && within(&united, &expand(&both)));
    }

    #[test]
    fn an_intersection_lies_within_both_sides(a in raw_scopes(), b in raw_scopes()) {
        let (a, b) = (expand(&a), expand(&b));
        let common = a.intersect(&b, &groups());
        prop_assert!(within(&common, &a) && within(&common, &b));
        prop_assert_eq!(b.intersect(&a, &groups()), common.clone());
        prop_assert!(within(&a.intersect(&b, &NoGroups), &common));
        prop_assert_eq!(a.intersect(&a, &groups()), a.clone());
        prop_assert_eq!(common.intersect(&common, &NoGroups), common);
    }

    #[test]
    fn the_members_in_question_suffice(a in raw_scopes(), b in raw_scopes()) {
        let (a, b) = (expand(&a), expand(&b));
        let asked = a.members_in_question(&b);
        let known = [("ada", "staff"), ("ada", "choir"), ("bob", "choir")];
        let some: Memberships = known.into_iter().filter(|(user, _)| asked.contains(*user)).collect();
        prop_assert_eq!(a.intersect(&b, &some), a.intersect(&b, &groups()));
    }

    #[test]
    fn nobody_resolves_what_they_lack(requested in raw_scopes(), have in raw_scopes()) {
        let resolved = Definitions::default()
            .resolve_requested(&requested, &have, ADA, &adas_server(), &groups());
        prop_assert!(within(&expand(&resolved.allowed), &expand(&have)));
        prop_assert!(resolved.disallowed.is_subset(&requested));
        for scope in &requested {
            // Both, as upstream: a scope that is held wholly, but comes out of the intersection in
            // other words (!user=ada meets !user=ada and !server=ada/lab).
            prop_assert!(resolved.allowed.contains(scope) || resolved.disallowed.contains(scope));
        }
    }

    #[test]
    fn a_token_never_allows_more_than_its_owner(listed in raw_scopes(), have in raw_scopes()) {
        let definitions = Definitions::default();
        let held = definitions.of_owner(ADA, &have, []);
        let listed: Vec<String> = listed.into_iter().collect();
        let token = definitions.of_token(&listed, ADA, &held, &adas_server(), &groups());
        prop_assert!(within(&token.scopes, &held));
    }

    #[test]
    fn a_difference_and_what_it_left_make_the_whole(a in raw_scopes(), b in raw_scopes()) {
        let (a, b) = (expand(&a), expand(&b));
        let rest = a.difference(&b);
        let strings = |set: &ScopeSet| set.to_strings().into_iter().collect::<BTreeSet<_>>();
        let expected: BTreeSet<_> = strings(&a).difference(&strings(&b)).cloned().collect();
        prop_assert_eq!(strings(&rest), expected);
    }
}

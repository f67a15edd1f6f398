//! Who may come in: JupyterHub 6.1.1's rules about names, as pure code.
//!
//! An authenticator says who somebody is; [`Rules`] say whether that person may log in. They fail
//! closed: without any setting that allows somebody, nobody may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use regex::Regex;

use crate::UserName;
use crate::names::NameError;

/// The settings behind [`Rules`], as configured.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `allow_all`, where it is set.
    pub allow_all: Option<bool>,
    /// Whether the authenticator lets everybody in unless `allowed_users` names somebody, as the
    /// dummy authenticator does.
    pub open_by_default: bool,
    /// `allowed_users`.
    pub allowed_users: BTreeSet<String>,
    /// `allow_existing_users`, where it is set.
    pub allow_existing_users: Option<bool>,
    /// `blocked_users`.
    pub blocked_users: BTreeSet<String>,
    /// `admin_users`.
    pub admin_users: BTreeSet<String>,
    /// `any_allow_config`, where it is set.
    pub any_allow_config: Option<bool>,
    /// Whether a setting of the authenticator's own allows somebody (`allowed_groups`, …).
    pub other_allow_config: bool,
    /// `username_map`.
    pub username_map: BTreeMap<String, String>,
    /// How the authenticator finds out what somebody is really called, instead of lower case.
    pub name_lookup: Option<NameLookup>,
    /// `username_pattern`; empty when not set.
    pub username_pattern: String,
}

/// Who may come in. Made once at start; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Rules(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    normalizer: Normalizer,
    pattern: Option<Regex>,
    allow_all: bool,
    allow_existing_users: bool,
    allowed_users: BTreeSet<String>,
    blocked_users: BTreeSet<String>,
    admin_users: BTreeSet<String>,
}

/// Turns names as typed into names of users: lower case or what the authenticator's lookup says,
/// then `username_map`.
#[derive(Clone, Debug, Default)]
pub struct Normalizer {
    username_map: Arc<BTreeMap<String, String>>,
    lookup: Option<NameLookup>,
}

/// Asks the system what the user of a typed name is called; `None` if there is no such user. It may
/// block, where the system asks a directory.
pub type NameLookup = fn(&str) -> Option<String>;

/// Whether somebody may come in, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// `allow_all`.
    AllowAll,
    /// Named in `allowed_users`.
    AllowedUsers,
    /// Named in `admin_users` while `allowed_users` is in use, so that a list of allowed users does
    /// not lock its administrators out.
    AdminUsers,
    /// In the database, with `allow_existing_users`.
    ExistingUser,
    /// Refused: named in `blocked_users`.
    Blocked,
    /// Refused: no rule allows them.
    NotAllowed,
}

impl Decision {
    /// Whether they may come in.
    pub fn is_allowed(self) -> bool {
        !matches!(self, Self::Blocked | Self::NotAllowed)
    }
}

/// Settings that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A listed name could be no user's.
    #[error("Authenticator.{option}: {name:?} is not a valid username: {why}")]
    Name {
        /// The option that lists it.
        option: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        why: InvalidName,
    },
    /// The pattern cannot be used.
    #[error(
        "Authenticator.username_pattern cannot be used: {0} \
         (look-around and backreferences are not supported)"
    )]
    Pattern(String),
}

/// Why a name is no user's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Empty, too long, or with characters that no URL could carry.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Only dots, which URLs resolve to something else.
    #[error("the name is only dots")]
    Dots,
    /// White space around it.
    #[error("the name starts or ends with white space")]
    Spaces,
    /// Not as `username_pattern` wants it.
    #[error("the name does not match username_pattern")]
    Pattern,
}

impl Rules {
    /// Rules from settings, and what to warn the operator of.
    pub fn new(settings: Settings) -> Result<(Self, Vec<String>), RulesError> {
        let mut warnings = Vec::new();
        let short: Vec<&str> = settings
            .allowed_users
            .iter()
            .map(String::as_str)
            .filter(|name| name.chars().count() <= 1)
            .collect();
        if !short.is_empty() {
            warnings.push(format!(
                "allowed_users holds names of a single character ({}); was a text given where a \
                 set of names belongs?",
                short.join(", ")
            ));
        }
        let listed = !settings.allowed_users.is_empty();
        let allow_all = settings
            .allow_all
            .unwrap_or(settings.open_by_default && !listed);
        let allow_existing_users = settings.allow_existing_users.unwrap_or(listed);
        let any_allow_config = settings
            .any_allow_config
            .unwrap_or(allow_all || listed || allow_existing_users || settings.other_allow_config);
        if !any_allow_config {
            warnings.push(
                "no setting allows anybody to log in: set Authenticator.allow_all to let in \
                 everyone who can authenticate, or name people in Authenticator.allowed_users; \
                 Authenticator.any_allow_config = True silences this warning"
                    .to_owned(),
            );
        }
        let pattern = match settings.username_pattern.as_str() {
            "" => None,
            text => Some(compile(text)?),
        };
        let normalizer = Normalizer::new(settings.username_map).with_lookup(settings.name_lookup);
        let normalized = |names: &BTreeSet<String>| -> BTreeSet<String> {
            names
                .iter()
                .map(|name| normalizer.normalize(name))
                .collect()
        };
        // Upstream compares blocked names as they are written, so that `Ada` blocks nobody. A list
        // of people to keep out should not fail by a capital letter: both spellings are blocked.
        let mut blocked_users = normalized(&settings.blocked_users);
        blocked_users.extend(settings.blocked_users);
        let inner = Inner {
            allowed_users: normalized(&settings.allowed_users),
            admin_users: normalized(&settings.admin_users),
            blocked_users,
            normalizer,
            pattern,
            allow_all,
            allow_existing_users,
        };
        for (option, names) in [
            ("allowed_users", &inner.allowed_users),
            ("admin_users", &inner.admin_users),
        ] {
            for name in names {
                inner.validate(name).map_err(|why| RulesError::Name {
                    option,
                    name: name.clone(),
                    why,
                })?;
            }
        }
        Ok((Self(Arc::new(inner)), warnings))
    }

    /// How names are normalised, for authenticators that compare names themselves.
    pub fn normalizer(&self) -> &Normalizer {
        &self.0.normalizer
    }

    /// Normalises a name and checks that it can be a user's. For names from a login; names that come
    /// by the REST API go the same way.
    pub fn user_name(&self, typed: &str) -> Result<UserName, InvalidName> {
        self.0.validate(&self.0.normalizer.normalize(typed))
    }

    /// Checks a name that is already normalised.
    pub fn validate(&self, name: &str) -> Result<UserName, InvalidName> {
        self.0.validate(name)
    }

    /// Whether `name`, who has authenticated, may come in. `exists` says whether the database knows
    /// the user; see [`Rules::asks_for_existing`].
    pub fn decide(&self, name: &UserName, exists: bool) -> Decision {
        let rules = &*self.0;
        let name = name.as_str();
        if rules.blocked_users.contains(name) {
            Decision::Blocked
        } else if rules.allow_all {
            Decision::AllowAll
        } else if rules.allowed_users.contains(name) {
            Decision::AllowedUsers
        } else if !rules.allowed_users.is_empty() && rules.admin_users.contains(name) {
            Decision::AdminUsers
        } else if rules.allow_existing_users && exists {
            Decision::ExistingUser
        } else {
            Decision::NotAllowed
        }
    }

    /// Whether [`Rules::decide`] looks at `exists` at all.
    pub fn asks_for_existing(&self) -> bool {
        self.0.allow_existing_users && !self.0.allow_all
    }

    /// `Some(true)` for those in `admin_users`; `None` leaves a user's rights as they are, since
    /// taking a name off the list takes no rights away.
    pub fn admin(&self, name: &UserName) -> Option<bool> {
        self.0.admin_users.contains(name.as_str()).then_some(true)
    }

    /// The names in `admin_users`, normalised: they are made administrators at start.
    pub fn admin_users(&self) -> &BTreeSet<String> {
        &self.0.admin_users
    }

    /// The names in `allowed_users`, normalised: they get a row in the database at start.
    pub fn allowed_users(&self) -> &BTreeSet<String> {
        &self.0.allowed_users
    }

    /// The names in `blocked_users`, as written and normalised: at start and when the configuration is
    /// read again they lose their flag, roles and groups, and at start their servers are stopped.
    pub fn blocked_users(&self) -> &BTreeSet<String> {
        &self.0.blocked_users
    }
}

impl Inner {
    fn validate(&self, name: &str) -> Result<UserName, InvalidName> {
        let parsed = UserName::parse(name)?;
        let only_dots = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte == b'.');
        if only_dots(name) || only_dots(&percent_decode_str(name).decode_utf8_lossy()) {
            return Err(InvalidName::Dots);
        }
        if name != name.trim() {
            return Err(InvalidName::Spaces);
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(name) => Err(InvalidName::Pattern),
            _ => Ok(parsed),
        }
    }
}

impl Normalizer {
    /// A normalizer with `username_map`.
    pub fn new(username_map: BTreeMap<String, String>) -> Self {
        Self {
            username_map: Arc::new(username_map),
            lookup: None,
        }
    }

    /// The same with a lookup instead of lower case.
    #[must_use]
    pub fn with_lookup(self, lookup: Option<NameLookup>) -> Self {
        Self { lookup, ..self }
    }

    /// Whether [`Normalizer::normalize`] may block.
    pub fn may_block(&self) -> bool {
        self.lookup.is_some()
    }

    /// The name of the user that somebody typed.
    pub fn normalize(&self, typed: &str) -> String {
        let name = match self.lookup {
            // Nobody has that name, so nothing is known of how it should be written.
            Some(lookup) => lookup(typed).unwrap_or_else(|| typed.to_owned()),
            None => typed.to_lowercase(),
        };
        self.username_map.get(&name).cloned().unwrap_or(name)
    }
}

/// Upstream matches with Python's `re.match`: from the start, but not necessarily to the end.
fn compile(pattern: &str) -> Result<Regex, RulesError> {
    let mut translated = String::with_capacity(pattern.len() + 8);
    translated.push_str(r"\A(?:");
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        translated.push(character);
        if character == '\\' {
            // Python writes the end of the text as `\Z`, Rust as `\z`.
            match characters.next() {
                Some('Z') => translated.push('z'),
                Some(other) => translated.push(other),
                None => {}
            }
        }
    }
    translated.push(')');
    Regex::new(&translated).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        RulesError::Pattern(last.trim_start_matches("error: ").to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn rules(settings: Settings) -> Rules {
        Rules::new(settings).expect("sound settings").0
    }

    fn decide(rules: &Rules, name: &str, exists: bool) -> Decision {
        rules.decide(&rules.user_name(name).expect("a good name"), exists)
    }

    #[test]
    fn without_settings_nobody_comes_in_and_the_operator_is_told() {
        let (closed, warnings) = Rules::new(Settings {
            admin_users: names(&["ada"]),
            ..Settings::default()
        })
        .expect("sound settings");
        for name in ["ada", "bob"] {
            assert_eq!(decide(&closed, name, true), Decision::NotAllowed);
        }
        assert_eq!(warnings.len(), 1);
        let silenced = Settings {
            any_allow_config: Some(true),
            ..Settings::default()
        };
        assert!(Rules::new(silenced).expect("sound").1.is_empty());
    }

    #[test]
    fn a_list_of_allowed_users_lets_in_administrators_and_existing_users() {
        let listed = rules(Settings {
            allowed_users: names(&["Bob"]),
            admin_users: names(&["ADA"]),
            blocked_users: names(&["Eve"]),
            ..Settings::default()
        });
        for (name, exists, expected) in [
            ("bob", false, Decision::AllowedUsers),
            ("BOB", false, Decision::AllowedUsers),
            ("ada", false, Decision::AdminUsers),
            ("carl", true, Decision::ExistingUser),
            ("carl", false, Decision::NotAllowed),
            ("eve", true, Decision::Blocked),
        ] {
            assert_eq!(decide(&listed, name, exists), expected, "{name} {exists}");
        }
        assert!(listed.asks_for_existing());
    }

    #[test]
    fn a_block_is_stronger_than_any_permission() {
        for settings in [
            Settings {
                allow_all: Some(true),
                ..Settings::default()
            },
            Settings {
                allowed_users: names(&["eve"]),
                admin_users: names(&["eve"]),
                allow_existing_users: Some(true),
                ..Settings::default()
            },
        ] {
            let rules = rules(Settings {
                blocked_users: names(&["eve"]),
                ..settings
            });
            assert_eq!(decide(&rules, "eve", true), Decision::Blocked);
        }
    }

    #[test]
    fn the_dummy_authenticator_is_open_until_somebody_is_named() {
        let open = |allowed: &[&str], allow_all| {
            let rules = rules(Settings {
                open_by_default: true,
                allowed_users: names(allowed),
                allow_all,
                ..Settings::default()
            });
            decide(&rules, "carl", false).is_allowed()
        };
        assert!(open(&[], None));
        assert!(!open(&["ada"], None));
        assert!(open(&["ada"], Some(true)));
        assert!(!open(&[], Some(false)));
    }

    #[test]
    fn names_are_normalised_and_checked_as_upstream_does() {
        let rules = rules(Settings {
            username_map: [("ada.l".to_owned(), "ada".to_owned())].into(),
            username_pattern: r"[a-z][a-z@.]*\Z".to_owned(),
            ..Settings::default()
        });
        for (typed, expected) in [
            ("Ada.L", Some("ada")),
            ("BOB@x.org", Some("bob@x.org")),
            ("bob1", None),
            ("..", None),
            ("%2e%2E", None),
            (" bob", None),
            ("bob ", None),
            ("a/b", None),
            ("", None),
            ("b\nc", None),
        ] {
            let name = rules.user_name(typed).ok();
            assert_eq!(name.as_ref().map(UserName::as_str), expected, "{typed:?}");
        }
    }

    #[test]
    fn a_lookup_says_how_a_name_is_written_instead_of_lower_case() {
        let rules = rules(Settings {
            username_map: [("Ada".to_owned(), "countess".to_owned())].into(),
            name_lookup: Some(|typed| match typed {
                "ACME\\bob" | "bob" => Some("Bob".to_owned()),
                "ada" => Some("Ada".to_owned()),
                _ => None,
            }),
            ..Settings::default()
        });
        for (typed, expected) in [
            ("bob", "Bob"),
            ("ACME\\bob", "Bob"),
            ("ada", "countess"),
            ("Nobody", "Nobody"),
        ] {
            assert_eq!(rules.user_name(typed).expect("valid").as_str(), expected);
        }
    }

    #[test]
    fn a_pattern_without_an_end_matches_the_start_only() {
        let rules = rules(Settings {
            username_pattern: "a|b".to_owned(),
            ..Settings::default()
        });
        assert!(rules.user_name("bcd").is_ok());
        assert!(rules.user_name("cab").is_err());
    }

    #[test]
    fn settings_that_cannot_be_followed_say_why() {
        for (settings, reason) in [
            (
                Settings {
                    username_pattern: "a(?!b)".to_owned(),
                    ..Settings::default()
                },
                "look-around",
            ),
            (
                Settings {
                    allowed_users: names(&["a/b"]),
                    ..Settings::default()
                },
                "allowed_users",
            ),
        ] {
            let error = Rules::new(settings).expect_err("unsound").to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

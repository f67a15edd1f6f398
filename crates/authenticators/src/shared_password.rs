//! One password for all users, another for all administrators: for courses of a day, where nobody
//! needs protection from anybody else.

use std::collections::BTreeSet;

use async_trait::async_trait;
use orrery_core::Secret;
use orrery_core::access::Normalizer;
use orrery_core::authenticator::{Authenticator, AuthenticatorError, Credentials, Identity};

use crate::config::SharedPasswordAuthenticator;

/// A user's password has at least this many characters.
const USER_PASSWORD_MIN: usize = 8;
/// An administrator's password has at least this many characters.
const ADMIN_PASSWORD_MIN: usize = 32;

/// What the authenticator needs to know of the settings that all authenticators share.
#[derive(Clone, Default)]
pub struct People {
    /// `Authenticator.manage_groups`.
    pub manage_groups: bool,
    /// `Authenticator.admin_users`, normalised: those who must use the administrators' password.
    pub admin_users: BTreeSet<String>,
    /// How names are normalised before they are compared with `admin_users`.
    pub normalizer: Normalizer,
}

/// Knows people by passwords that many share. An empty password counts as none.
pub struct SharedPassword {
    user_password: Secret,
    admin_password: Secret,
    group_passwords: Vec<(Secret, Vec<String>)>,
    people: People,
}

impl SharedPassword {
    /// An authenticator with these options, or what is wrong with them.
    pub fn new(
        options: SharedPasswordAuthenticator,
        people: People,
    ) -> Result<Self, AuthenticatorError> {
        let shared = Self {
            user_password: options.user_password.unwrap_or_default(),
            admin_password: options.admin_password.unwrap_or_default(),
            group_passwords: options
                .password_groups
                .into_iter()
                .map(|(password, groups)| (Secret::new(password), groups))
                .collect(),
            people,
        };
        let refuse = |why: String| {
            Err(AuthenticatorError(format!(
                "SharedPasswordAuthenticator.{why}"
            )))
        };
        for (option, password, least) in [
            ("user_password", &shared.user_password, USER_PASSWORD_MIN),
            ("admin_password", &shared.admin_password, ADMIN_PASSWORD_MIN),
        ] {
            let length = password.expose().chars().count();
            if length != 0 && length < least {
                return refuse(format!(
                    "{option} needs at least {least} characters; it has {length}"
                ));
            }
        }
        if !shared.user_password.is_empty()
            && shared.user_password.matches(shared.admin_password.expose())
        {
            return refuse("user_password and admin_password must differ".to_owned());
        }
        if !shared.group_passwords.is_empty() && !shared.people.manage_groups {
            return refuse(
                "password_groups needs SharedPasswordAuthenticator.manage_groups = True".to_owned(),
            );
        }
        Ok(shared)
    }

    /// What to tell the operator at start.
    pub fn warnings(&self) -> Vec<String> {
        let (user_password, admin_password) = (&self.user_password, &self.admin_password);
        let admin_users = &self.people.admin_users;
        let mut warnings = Vec::new();
        if !admin_password.is_empty() && admin_users.is_empty() {
            warnings.push(
                "no administrator can log in: admin_password is set, but Authenticator.admin_users \
                 names nobody"
                    .to_owned(),
            );
        }
        if admin_password.is_empty() && !admin_users.is_empty() {
            warnings.push(
                "no administrator can log in: Authenticator.admin_users names some, but \
                 SharedPasswordAuthenticator.admin_password is not set"
                    .to_owned(),
            );
        }
        if user_password.is_empty() {
            warnings.push(if admin_password.is_empty() {
                "nobody can log in: neither SharedPasswordAuthenticator.user_password nor \
                 admin_password is set"
                    .to_owned()
            } else {
                "only administrators can log in: SharedPasswordAuthenticator.user_password is not \
                 set"
                .to_owned()
            });
        }
        warnings
    }

    fn identify(&self, credentials: &Credentials) -> Option<Identity> {
        let typed = credentials.password.expose();
        let name = self.people.normalizer.normalize(&credentials.username);
        let is_admin = self.people.admin_users.contains(&name);
        let identity = |admin, groups: &[String]| Identity {
            admin,
            groups: Some(groups.to_vec()),
            ..Identity::named(name)
        };
        if is_admin {
            return knows(&self.admin_password, typed).then(|| identity(Some(true), &[]));
        }
        // Whoever comes with the users' password is no administrator, whatever the database says.
        if knows(&self.user_password, typed) {
            return Some(identity(Some(false), &[]));
        }
        self.group_passwords
            .iter()
            .find(|(password, _)| knows(password, typed))
            .map(|(_, groups)| identity(None, groups))
    }
}

/// An empty password is none: it lets nobody in.
fn knows(password: &Secret, typed: &str) -> bool {
    !password.is_empty() && password.matches(typed)
}

#[async_trait]
impl Authenticator for SharedPassword {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError> {
        Ok(self.identify(credentials))
    }
}

#[cfg(test)]
mod tests {
    use orrery_core::config::ConfigClass as _;

    use super::*;

    const USER: &str = "open sesame";
    const ADMIN: &str = "a sentence that is certainly long enough";

    fn options() -> SharedPasswordAuthenticator {
        SharedPasswordAuthenticator {
            user_password: Some(Secret::new(USER)),
            admin_password: Some(Secret::new(ADMIN)),
            password_groups: [("the choir's".to_owned(), vec!["choir".to_owned()])].into(),
        }
    }

    fn people() -> People {
        People {
            manage_groups: true,
            admin_users: ["ada".to_owned()].into(),
            normalizer: Normalizer::default(),
        }
    }

    async fn login(
        options: SharedPasswordAuthenticator,
        name: &str,
        password: &str,
    ) -> Option<Identity> {
        let shared = SharedPassword::new(options, people()).ok();
        let shared = shared.expect("sound options");
        let answer = shared.authenticate(&crate::typed(name, password)).await;
        answer.expect("it cannot fail")
    }

    #[tokio::test]
    async fn users_and_administrators_have_a_password_each() {
        for (name, password, admin) in [
            ("bob", USER, Some(Some(false))),
            ("Ada", ADMIN, Some(Some(true))),
            ("ada", USER, None),
            ("bob", ADMIN, None),
            ("ada", "the choir's", None),
            ("bob", "the choir's", Some(None)),
            ("bob", "", None),
        ] {
            let found = login(options(), name, password).await;
            assert_eq!(found.map(|who| who.admin), admin, "{name} {password}");
        }
        let singer = login(options(), "bob", "the choir's").await;
        let singer = singer.expect("the password is right");
        assert_eq!(singer.groups, Some(vec!["choir".to_owned()]));
    }

    #[tokio::test]
    async fn a_password_that_is_not_set_lets_nobody_in() {
        for name in ["ada", "bob"] {
            let unset = SharedPasswordAuthenticator::with_defaults();
            assert!(login(unset, name, "").await.is_none(), "{name}");
        }
    }

    #[test]
    fn weak_options_are_refused() {
        let with = |change: fn(&mut SharedPasswordAuthenticator, &mut People)| {
            let (mut options, mut people) = (options(), people());
            change(&mut options, &mut people);
            let error = SharedPassword::new(options, people).err();
            error.expect("they are refused").to_string()
        };
        for (error, reason) in [
            (
                with(|options, _| options.user_password = Some(Secret::new("seven77"))),
                "at least 8 characters; it has 7",
            ),
            (
                with(|options, _| options.admin_password = Some(Secret::new("x".repeat(31)))),
                "at least 32",
            ),
            (
                with(|options, _| options.user_password = Some(Secret::new(ADMIN))),
                "must differ",
            ),
            (
                with(|_, people| people.manage_groups = false),
                "manage_groups",
            ),
        ] {
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains(ADMIN));
        }
    }

    #[test]
    fn options_that_lock_people_out_are_warned_of() {
        let warnings = |change: fn(&mut SharedPasswordAuthenticator, &mut People)| {
            let (mut options, mut people) = (options(), people());
            change(&mut options, &mut people);
            let shared = SharedPassword::new(options, people).ok();
            shared.expect("sound options").warnings().len()
        };
        assert_eq!(warnings(|_, _| {}), 0);
        assert_eq!(warnings(|_, people| people.admin_users.clear()), 1);
        assert_eq!(warnings(|options, _| options.user_password = None), 1);
        assert_eq!(warnings(|options, _| options.admin_password = None), 1);
        assert_eq!(
            warnings(|options, people| {
                people.admin_users.clear();
                options.user_password = None;
                options.admin_password = None;
            }),
            1
        );
    }
}

//! One password for all users, another for all administrators: for courses of a day, where nobody
//! needs protection from anybody else.

use std::collections::BTreeSet;

use async_trait::async_trait;
use orrery_core::Secret;
use orrery_core::access::Normalizer;
use orrery_core::authenticator::{Authenticator, AuthenticatorError, Credentials, Identity};

/// A user's password has at least this many characters.
const USER_PASSWORD_MIN: usize = 8;
/// An administrator's password has at least this many characters.
const ADMIN_PASSWORD_MIN: usize = 32;

/// The settings of `SharedPasswordAuthenticator`, and those of every authenticator that it looks at.
#[derive(Clone, Default)]
pub struct Settings {
    /// `user_password`; empty when not set, and no user can log in with it.
    pub user_password: Secret,
    /// `admin_password`; empty when not set, and no administrator can log in.
    pub admin_password: Secret,
    /// `password_groups`: passwords, each with the groups it puts people into.
    pub password_groups: Vec<(Secret, Vec<String>)>,
    /// `Authenticator.manage_groups`.
    pub manage_groups: bool,
    /// `Authenticator.admin_users`, normalised: those who must use the administrators' password.
    pub admin_users: BTreeSet<String>,
    /// How names are normalised before they are compared with `admin_users`.
    pub normalizer: Normalizer,
}

/// Knows people by passwords that many share.
pub struct SharedPassword(Settings);

impl SharedPassword {
    /// An authenticator with these settings, or what is wrong with them.
    pub fn new(settings: Settings) -> Result<Self, AuthenticatorError> {
        let refuse = |why: String| {
            Err(AuthenticatorError(format!(
                "SharedPasswordAuthenticator.{why}"
            )))
        };
        for (option, password, least) in [
            ("user_password", &settings.user_password, USER_PASSWORD_MIN),
            (
                "admin_password",
                &settings.admin_password,
                ADMIN_PASSWORD_MIN,
            ),
        ] {
            let length = password.expose().chars().count();
            if length != 0 && length < least {
                return refuse(format!(
                    "{option} needs at least {least} characters; it has {length}"
                ));
            }
        }
        if !settings.user_password.is_empty()
            && settings
                .user_password
                .matches(settings.admin_password.expose())
        {
            return refuse("user_password and admin_password must differ".to_owned());
        }
        if !settings.password_groups.is_empty() && !settings.manage_groups {
            return refuse(
                "password_groups needs SharedPasswordAuthenticator.manage_groups = True".to_owned(),
            );
        }
        Ok(Self(settings))
    }

    /// What to tell the operator at start.
    pub fn warnings(&self) -> Vec<String> {
        let Settings {
            user_password,
            admin_password,
            admin_users,
            ..
        } = &self.0;
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
        let settings = &self.0;
        let typed = credentials.password.expose();
        let identity = |admin, groups: &[String]| Identity {
            admin,
            groups: Some(groups.to_vec()),
            ..Identity::named(settings.normalizer.normalize(&credentials.username))
        };
        let name = settings.normalizer.normalize(&credentials.username);
        if settings.admin_users.contains(&name) {
            return knows(&settings.admin_password, typed).then(|| identity(Some(true), &[]));
        }
        // Whoever comes with the users' password is no administrator, whatever the database says.
        if knows(&settings.user_password, typed) {
            return Some(identity(Some(false), &[]));
        }
        settings
            .password_groups
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
    use super::*;

    const USER: &str = "open sesame";
    const ADMIN: &str = "a sentence that is certainly long enough";

    fn settings() -> Settings {
        Settings {
            user_password: Secret::new(USER),
            admin_password: Secret::new(ADMIN),
            password_groups: vec![(Secret::new("the choir's"), vec!["choir".to_owned()])],
            manage_groups: true,
            admin_users: ["ada".to_owned()].into(),
            normalizer: Normalizer::default(),
        }
    }

    async fn login(settings: Settings, name: &str, password: &str) -> Option<Identity> {
        let shared = SharedPassword::new(settings).ok().expect("sound settings");
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
            let found = login(settings(), name, password).await;
            assert_eq!(found.map(|who| who.admin), admin, "{name} {password}");
        }
        let singer = login(settings(), "bob", "the choir's").await;
        let singer = singer.expect("the password is right");
        assert_eq!(singer.groups, Some(vec!["choir".to_owned()]));
    }

    #[tokio::test]
    async fn a_password_that_is_not_set_lets_nobody_in() {
        for name in ["ada", "bob"] {
            let unset = Settings {
                admin_users: ["ada".to_owned()].into(),
                ..Settings::default()
            };
            assert!(login(unset, name, "").await.is_none(), "{name}");
        }
    }

    #[test]
    fn weak_settings_are_refused() {
        for (change, reason) in [
            (
                Settings {
                    user_password: Secret::new("seven77"),
                    ..settings()
                },
                "at least 8 characters; it has 7",
            ),
            (
                Settings {
                    admin_password: Secret::new("x".repeat(31)),
                    ..settings()
                },
                "at least 32",
            ),
            (
                Settings {
                    user_password: Secret::new(ADMIN),
                    ..settings()
                },
                "must differ",
            ),
            (
                Settings {
                    manage_groups: false,
                    ..settings()
                },
                "manage_groups",
            ),
        ] {
            let error = SharedPassword::new(change).err().expect("unsound");
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!error.to_string().contains(ADMIN));
        }
    }

    #[test]
    fn settings_that_lock_people_out_are_warned_of() {
        let warnings = |settings| {
            let shared = SharedPassword::new(settings).ok().expect("sound settings");
            shared.warnings()
        };
        assert!(warnings(settings()).is_empty());
        for change in [
            Settings {
                admin_users: BTreeSet::new(),
                ..settings()
            },
            Settings {
                user_password: Secret::default(),
                ..settings()
            },
            Settings::default(),
            Settings {
                admin_password: Secret::default(),
                ..settings()
            },
        ] {
            assert_eq!(warnings(change).len(), 1);
        }
    }
}

//! Believes every name, for trying things out and for tests.

use async_trait::async_trait;
use orrery_core::Secret;
use orrery_core::authenticator::{Authenticator, AuthenticatorError, Credentials, Identity};

/// The settings of `DummyAuthenticator`.
#[derive(Clone, Default)]
pub struct Settings {
    /// `password`: if not empty, everybody logs in with it.
    pub password: Secret,
}

/// Believes every name, with any password or with the one that is set.
pub struct Dummy {
    password: Secret,
}

impl Dummy {
    /// An authenticator with these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            password: settings.password,
        }
    }

    /// What to tell the operator at start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![
            "the dummy authenticator believes every name: it is for testing, not for people"
                .to_owned(),
        ];
        if !self.password.is_empty() {
            warnings.push(
                "DummyAuthenticator.password is deprecated since JupyterHub 5.3: use \
                 SharedPasswordAuthenticator.user_password"
                    .to_owned(),
            );
        }
        warnings
    }
}

#[async_trait]
impl Authenticator for Dummy {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError> {
        let welcome =
            self.password.is_empty() || self.password.matches(credentials.password.expose());
        Ok(welcome.then(|| Identity::named(&credentials.username)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn name_of(dummy: &Dummy, password: &str) -> Option<String> {
        let answer = dummy.authenticate(&crate::typed("Ada", password)).await;
        answer.expect("it cannot fail").map(|identity| {
            assert_eq!(identity.admin, None);
            identity.name
        })
    }

    #[tokio::test]
    async fn without_a_password_everybody_is_believed() {
        let dummy = Dummy::new(Settings::default());
        for password in ["", "anything"] {
            assert_eq!(name_of(&dummy, password).await.as_deref(), Some("Ada"));
        }
        assert_eq!(dummy.warnings().len(), 1);
    }

    #[tokio::test]
    async fn with_a_password_only_who_knows_it_is_believed() {
        let dummy = Dummy::new(Settings {
            password: Secret::new("sesame"),
        });
        assert_eq!(name_of(&dummy, "sesame").await.as_deref(), Some("Ada"));
        for wrong in ["", "sesam", "sesame ", "SESAME"] {
            assert_eq!(name_of(&dummy, wrong).await, None, "{wrong:?}");
        }
        assert_eq!(dummy.warnings().len(), 2);
    }
}

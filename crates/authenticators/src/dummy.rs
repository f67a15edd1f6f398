//! Believes every name, for trying things out and for tests.

use async_trait::async_trait;
use orrery_core::Secret;
use orrery_core::authenticator::{Authenticator, AuthenticatorError, Credentials, Identity};

use crate::config::DummyAuthenticator;

/// Believes every name, with any password or with the one that is set.
pub struct Dummy {
    password: Secret,
}

impl Dummy {
    /// An authenticator with these options.
    pub fn new(options: DummyAuthenticator) -> Self {
        Self {
            password: options.password,
        }
    }

    /// What to tell the operator at start.
    pub fn warnings(&self) -> Vec<String> {
        vec![
            "the dummy authenticator believes every name: it is for testing, not for people"
                .to_owned(),
        ]
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

    fn dummy(password: &str) -> Dummy {
        Dummy::new(DummyAuthenticator {
            password: Secret::new(password),
        })
    }

    async fn name_of(dummy: &Dummy, password: &str) -> Option<String> {
        let answer = dummy.authenticate(&crate::typed("Ada", password)).await;
        answer.expect("it cannot fail").map(|identity| {
            assert_eq!(identity.admin, None);
            identity.name
        })
    }

    #[tokio::test]
    async fn without_a_password_everybody_is_believed() {
        let dummy = dummy("");
        for password in ["", "anything"] {
            assert_eq!(name_of(&dummy, password).await.as_deref(), Some("Ada"));
        }
        assert_eq!(dummy.warnings().len(), 1);
    }

    #[tokio::test]
    async fn with_a_password_only_who_knows_it_is_believed() {
        let dummy = dummy("sesame");
        assert_eq!(name_of(&dummy, "sesame").await.as_deref(), Some("Ada"));
        for wrong in ["", "sesam", "sesame ", "SESAME"] {
            assert_eq!(name_of(&dummy, wrong).await, None, "{wrong:?}");
        }
    }
}

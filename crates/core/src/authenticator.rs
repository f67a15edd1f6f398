//! What says who somebody is.

use async_trait::async_trait;
use serde_json::Value;

use crate::Secret;

/// What came with the login form. Bounded by the hub before an authenticator sees it.
#[derive(Clone)]
pub struct Credentials {
    /// The name as typed.
    pub username: String,
    /// The password as typed.
    pub password: Secret,
    /// Every other field of the form, in order; `otp` among them when the form asks for one.
    pub fields: Vec<(String, Secret)>,
    /// The client's address, for logs and for backends that want it.
    pub remote_address: String,
}

/// Somebody who proved who they are. Whether they may come in is decided by the hub
/// (`allow_all`, `allowed_users`, `blocked_users`, …).
#[derive(Clone)]
pub struct Identity {
    /// The name as the authenticator knows it; the hub normalises it.
    pub name: String,
    /// Whether the authenticator says they are an administrator; `None` leaves it as it is.
    pub admin: Option<bool>,
    /// The groups the authenticator says they are in; `None` leaves them as they are.
    pub groups: Option<Vec<String>>,
    /// What to keep, encrypted, for later use.
    pub auth_state: Option<Value>,
}

impl Identity {
    /// Just a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            admin: None,
            groups: None,
            auth_state: None,
        }
    }
}

/// How people log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginKind {
    /// By a form with name and password.
    Form,
    /// Not at all: users come in by tokens or from elsewhere.
    Disabled,
}

/// The check itself could not be made (the backend does not answer, …). Not for wrong passwords.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticatorError(pub String);

/// One way of knowing people.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// How people log in.
    fn kind(&self) -> LoginKind {
        LoginKind::Form
    }

    /// Checks credentials: `None` when they are wrong. Called under a deadline; CPU-heavy work
    /// belongs on a blocking thread.
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError>;

    /// What is wrong with the authenticator's own settings, said once when the hub starts.
    fn check(&self) -> Result<(), AuthenticatorError> {
        Ok(())
    }
}

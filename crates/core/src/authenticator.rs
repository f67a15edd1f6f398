//! What says who somebody is.

use async_trait::async_trait;
use serde_json::Value;

use crate::access::NameLookup;
use crate::{Secret, UserName};

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

/// Why there is no user to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddUserError {
    /// It is certain that there is no such person; the hub may delete their user.
    #[error("{0}")]
    NoSuchUser(String),
    /// It could not be found out, or what the user needs could not be made this time.
    #[error("{0}")]
    Failed(String),
}

impl From<AuthenticatorError> for AddUserError {
    fn from(AuthenticatorError(why): AuthenticatorError) -> Self {
        Self::Failed(why)
    }
}

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
    async fn check(&self) -> Result<(), AuthenticatorError> {
        Ok(())
    }

    /// How names are written: by what the system calls the user, or `None` for lower case. Asked once,
    /// when the hub starts.
    fn name_lookup(&self) -> Option<NameLookup> {
        None
    }

    /// Whether an option of the authenticator's own lets somebody in, so that a hub with no other rule
    /// is not said to be closed.
    fn has_allow_rules(&self) -> bool {
        false
    }

    /// Whether the authenticator's own rules (members of a group, …) let in somebody who is
    /// authenticated and not blocked, and whom no rule of the hub names. `name` is normalised.
    async fn allows(&self, _name: &UserName) -> Result<bool, AuthenticatorError> {
        Ok(false)
    }

    /// Whether somebody who was let in is an administrator; `None` leaves it as it is. Not asked for
    /// those whom `admin_users` names, nor when [`Identity::admin`] already says it.
    async fn is_admin(&self, _name: &UserName) -> Result<Option<bool>, AuthenticatorError> {
        Ok(None)
    }

    /// Makes whatever a user of the hub needs elsewhere, or says why there can be no such user.
    ///
    /// Called before somebody new is written to the database (first login, REST API), and for all
    /// users who are not blocked when the hub starts; so it does nothing for those who have it all.
    async fn add_user(&self, _name: &UserName) -> Result<(), AddUserError> {
        Ok(())
    }

    /// Called before a user is deleted from the database. When it fails, the user stays.
    async fn delete_user(&self, _name: &UserName) -> Result<(), AuthenticatorError> {
        Ok(())
    }
}

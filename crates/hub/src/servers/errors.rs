//! Why a server could not be started, stopped or removed, in sentences for whoever asked.

use axum::http::StatusCode;
use orrery_core::escape;
use orrery_store::StoreError;

use super::RunId;
use crate::error::Error;

/// The longest part of an outsider's text that an error repeats.
const SHOWN: usize = 64;

/// A start that did not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It starts or stops already.
    #[error("{server} is pending {pending}")]
    Pending {
        /// The server as logs and errors name it.
        server: String,
        /// `spawn` or `stop`.
        pending: &'static str,
        /// The run to wait for.
        run: RunId,
    },
    /// It runs.
    #[error("{server} is already running")]
    AlreadyRunning {
        /// The server as logs and errors name it.
        server: String,
        /// Its run.
        run: RunId,
    },
    /// `active_server_limit` is reached.
    #[error("Active user limit exceeded. Try again in a few minutes.")]
    TooManyServers,
    /// The request cannot be met as it is.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that must not happen.
    #[error("{0}")]
    Internal(String),
}

impl StartError {
    /// The status upstream answers.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Pending { .. } | Self::AlreadyRunning { .. } | Self::Refused(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::TooManyServers => StatusCode::TOO_MANY_REQUESTS,
            Self::Store(error) if error.is_unavailable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => Self::Store(error),
            StartError::Internal(text) => Self::Internal(text),
            other => Self::new(other.status(), other.to_string()),
        }
    }
}

/// A named server that may not be created or started.
#[derive(Debug, thiserror::Error)]
pub enum NamedServerError {
    /// `allow_named_servers` is off.
    #[error("Named servers are not enabled.")]
    Disabled,
    /// `named_server_limit_per_user` is reached.
    #[error(
        "User {user} already has the maximum of {limit} named servers.  One must be deleted before a new server can be created"
    )]
    Limit {
        /// Whose servers.
        user: String,
        /// How many are allowed.
        limit: u32,
    },
    /// JupyterHub 6 takes a-z, 0-9 and single inner hyphens, at most 30, in a new name.
    #[error("Invalid server_name: {}", escape::for_log(.0, SHOWN))]
    InvalidName(String),
    /// White space at the ends or doubled, control characters, or longer than 255.
    #[error("Invalid display_name: {}", escape::for_log(.0, SHOWN))]
    InvalidDisplayName(String),
    /// The name exists from before JupyterHub 6, and the site does not let such servers start.
    #[error(
        "Starting invalid server_name {} is disabled, contact your administrator",
        escape::for_log(.0, SHOWN)
    )]
    OldName(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<NamedServerError> for Error {
    fn from(error: NamedServerError) -> Self {
        match error {
            NamedServerError::Store(error) => Self::Store(error),
            other => Self::bad_request(other.to_string()),
        }
    }
}

/// A named server whose row was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one of that name.
    #[error("User {user} already has server {server}")]
    Exists {
        /// Whose.
        user: String,
        /// Its name.
        server: String,
    },
    /// It may not be made.
    #[error(transparent)]
    Refused(#[from] NamedServerError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CreateError> for Error {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Store(error) => Self::Store(error),
            CreateError::Refused(error) => error.into(),
            other @ CreateError::Exists { .. } => Self::conflict(other.to_string()),
        }
    }
}

/// What asking a server to stop came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// It ran and is being stopped.
    Stopping(RunId),
    /// It was queued or starting; the start is cancelled.
    Cancelled(RunId),
    /// Somebody had asked before.
    AlreadyStopping(RunId),
    /// There was nothing to stop.
    NotRunning,
}

impl StopOutcome {
    /// The run to wait for, if there is one.
    pub fn run(self) -> Option<RunId> {
        match self {
            Self::Stopping(run) | Self::Cancelled(run) | Self::AlreadyStopping(run) => Some(run),
            Self::NotRunning => None,
        }
    }
}

/// A server that could not be asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The user has no server of that name.
    #[error("{user} has no server named '{server}'")]
    NoSuchServer {
        /// Whose.
        user: String,
        /// The name asked for.
        server: String,
    },
    /// It was still stopping when the time given was over.
    #[error("{0} did not stop in time")]
    StillRunning(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<StopError> for Error {
    fn from(error: StopError) -> Self {
        match error {
            StopError::Store(error) => Self::Store(error),
            StopError::NoSuchServer { .. } => Self::not_found(error.to_string()),
            StopError::StillRunning(_) => Self::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        }
    }
}

/// A server whose row was not removed.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// It is active.
    #[error("{0} is active. Please stop it before modifying it.")]
    Active(String),
    /// The user has no server of that name.
    #[error("{user} has no server named '{server}'")]
    NoSuchServer {
        /// Whose.
        user: String,
        /// The name asked for.
        server: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DeleteError> for Error {
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::Store(error) => Self::Store(error),
            DeleteError::Active(_) => Self::bad_request(error.to_string()),
            DeleteError::NoSuchServer { .. } => Self::not_found(error.to_string()),
        }
    }
}

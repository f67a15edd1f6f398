//! Where one run of a server stands.

use serde::{Deserialize, Serialize};

/// The phase of a run: one life of a server, from request to stop.
///
/// ```text
/// Queued ─► Starting ─► Ready ─► Stopping ─► Stopped
///    └────────┴──────────┴──────────┴─► Failed (counts as stopped)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Asked for, waiting for its turn behind `concurrent_spawn_limit`.
    Queued,
    /// The spawner was called, or the server is being waited for.
    Starting,
    /// The server answers and has its route.
    Ready,
    /// The server was asked to end.
    Stopping,
    /// Ended as asked.
    Stopped,
    /// Ended otherwise; the run's failure says why.
    Failed,
}

/// A step that a run cannot take from where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server that is {from:?} cannot become {to:?}")]
pub struct InvalidTransition {
    /// Where the run stands.
    pub from: Phase,
    /// Where it was to go.
    pub to: Phase,
}

impl Phase {
    /// Every phase, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Starting,
        Self::Ready,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
    ];

    /// The run's turn has come.
    pub fn start(self) -> Result<Self, InvalidTransition> {
        self.step(Self::Starting, matches!(self, Self::Queued))
    }

    /// The server answered.
    pub fn ready(self) -> Result<Self, InvalidTransition> {
        self.step(Self::Ready, matches!(self, Self::Starting))
    }

    /// Somebody asked it to end, or cancelled it.
    pub fn stop(self) -> Result<Self, InvalidTransition> {
        self.step(
            Self::Stopping,
            matches!(self, Self::Queued | Self::Starting | Self::Ready),
        )
    }

    /// It ended as asked.
    pub fn stopped(self) -> Result<Self, InvalidTransition> {
        self.step(Self::Stopped, matches!(self, Self::Stopping))
    }

    /// It ended otherwise.
    pub fn fail(self) -> Result<Self, InvalidTransition> {
        self.step(Self::Failed, self.is_active())
    }

    /// Whether the run still holds, or may hold, a server.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Stopped | Self::Failed)
    }

    /// Upstream's `pending` of a server model: `spawn`, `stop` or nothing.
    pub fn pending(self) -> Option<&'static str> {
        match self {
            Self::Queued | Self::Starting => Some("spawn"),
            Self::Stopping => Some("stop"),
            Self::Ready | Self::Stopped | Self::Failed => None,
        }
    }

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Reads the word in the database.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == word)
    }

    fn step(self, to: Self, allowed: bool) -> Result<Self, InvalidTransition> {
        if allowed {
            Ok(to)
        } else {
            Err(InvalidTransition { from: self, to })
        }
    }
}

/// The class of a failure's cause, for people and for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The program to run, or its folder, is missing or may not be run.
    Command,
    /// The image cannot be had.
    Image,
    /// A quota or limit of the site.
    Quota,
    /// Killed for memory.
    OutOfMemory,
    /// The server ended by itself.
    Exited,
    /// It runs but cannot be reached.
    Unreachable,
    /// A deadline passed.
    Timeout,
    /// A user or an administrator cancelled.
    Cancelled,
    /// The user options were refused.
    Options,
    /// The spawner failed otherwise.
    Spawner,
    /// The hub itself failed.
    Internal,
}

/// Why a run ended otherwise than asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub cause: Cause,
    /// One sentence in the user's words.
    pub message: String,
    /// How the server's process ended, where that is known (128 + n for signal n).
    pub exit_code: Option<i32>,
    /// The last lines that the server wrote, oldest first.
    pub log_tail: Vec<String>,
    /// The spawner's state of what could not be stopped and may still run; the hub goes on trying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_running: Option<serde_json::Value>,
}

impl Failure {
    /// A failure with neither exit code nor log.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            exit_code: None,
            log_tail: Vec::new(),
            left_running: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_run_takes_no_further_step() {
        for phase in [Phase::Stopped, Phase::Failed] {
            for step in [
                Phase::start,
                Phase::ready,
                Phase::stop,
                Phase::stopped,
                Phase::fail,
            ] {
                assert!(step(phase).is_err(), "{phase:?}");
            }
        }
    }

    #[test]
    fn every_active_phase_can_fail_and_only_stopping_ends_well() {
        for phase in Phase::ALL {
            assert_eq!(phase.fail().is_ok(), phase.is_active());
            assert_eq!(phase.stopped().is_ok(), phase == Phase::Stopping);
            assert_eq!(Phase::from_word(phase.as_str()), Some(phase));
        }
    }
}

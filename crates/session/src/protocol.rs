//! What the hub asks the session helper, and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A longer request is refused.
pub const LARGEST_REQUEST: usize = 4 * 1024 * 1024;

/// A secret on its way between the hub and the helper: a password, the value of a variable, a key.
///
/// Like `orrery_core::Secret` it can be neither printed nor shown by `Debug`. It can be serialized,
/// because the pipe between hub and helper is where it goes; the helper uses no other crate of ours.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// One operation.
#[derive(Clone, Deserialize, Serialize)]
pub enum Request {
    /// Says whether the helper has the rights it needs. Answered by [`Answer::Able`].
    Check,
    /// Says which limits this machine can hold servers to. Answered by [`Answer::Abilities`].
    Abilities,
    /// Checks somebody's password.
    Authenticate(Authenticate),
    /// Starts a server.
    Start(Box<Start>),
    /// Signals a server.
    Signal(Signal),
    /// Looks for a server by a variable of its environment.
    Find(Find),
}

/// Checks somebody's password by PAM. Answered by [`Answer::Authenticated`] or [`Answer::Denied`].
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Authenticate {
    /// The PAM service, `login` for instance.
    pub service: String,
    /// The name that was typed.
    pub user: String,
    /// The password that was typed.
    pub password: Secret,
    /// A one-time password, for a stack that asks for a second secret.
    pub otp: Option<Secret>,
    /// The address of the user's browser, which becomes `PAM_RHOST`.
    pub remote_host: Option<String>,
    /// How name and password are encoded for PAM: `utf8`, …
    pub encoding: String,
    /// Whether expired accounts and the like are refused.
    pub check_account: bool,
}

/// Starts a server. Answered by [`Answer::Started`], and at the server's end by [`Answer::Ended`].
/// The helper's standard error becomes the server's output.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The account that it runs as.
    pub user: String,
    /// Program and arguments. A program without a slash is looked for in the environment's `PATH`.
    pub command: Vec<String>,
    /// The environment, complete but for what a PAM session adds beneath it.
    pub environment: BTreeMap<String, Secret>,
    /// The folder it starts in; the account's home by default.
    pub folder: Option<String>,
    /// Its umask; by default that of the helper.
    pub umask: Option<u32>,
    /// Whether a PAM session is open while it runs.
    pub session: Option<PamSession>,
    /// What it may use at most.
    pub limits: Option<Limits>,
    /// Files that are written before, as the account.
    pub files: Vec<File>,
}

/// A PAM session.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PamSession {
    /// The PAM service.
    pub service: String,
}

/// What a server may use at most, and is sure to have.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The name of its group or unit, made of letters, digits, `-`, `_`, `.` and `@`.
    pub name: String,
    /// Bytes of memory at most.
    pub mem_limit: Option<u64>,
    /// Bytes of memory that it is sure to have.
    pub mem_guarantee: Option<u64>,
    /// Processor cores at most.
    pub cpu_limit: Option<f64>,
    /// Processor cores that it is sure to have.
    pub cpu_guarantee: Option<f64>,
}

/// What a machine can hold servers to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Abilities {
    /// By what; nothing if it cannot at all.
    pub by: Option<String>,
    /// Whether memory can be limited.
    pub memory: bool,
    /// Whether processor time can be limited.
    pub processor: bool,
}

/// A file that a server finds when it starts.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// An absolute path. Folders that are missing on the way are made for the account alone.
    pub path: String,
    /// What stands in it.
    pub content: Secret,
    /// Its permissions.
    pub mode: u32,
}

/// Signals a server. Answered by [`Answer::Signalled`] or [`Answer::Gone`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// The server's process.
    pub pid: i32,
    /// When it began, in clock ticks since boot as `/proc` says.
    pub start_time: Option<u64>,
    /// Without its start (JupyterHub remembers no more than the id), what stands in the environment
    /// that it was given: `name=value`, all of them, and at least one.
    pub given: Vec<String>,
    /// Whose process it must be, where known.
    pub user: Option<String>,
    /// The signal's number; 0 only looks.
    pub signal: i32,
    /// Whether all that the server started gets the signal too.
    pub group: bool,
}

/// Looks for a server that was started with `variable` set to `value`. Answered by
/// [`Answer::Found`] or [`Answer::Gone`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Find {
    /// The variable's name.
    pub variable: String,
    /// Its value.
    pub value: String,
    /// Whose server; nobody else's processes are looked into.
    pub user: String,
}

/// What the helper answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Answer {
    /// The helper can do its work.
    Able,
    /// What servers can be held to.
    Abilities(Abilities),
    /// The password is right, and the account may be used.
    Authenticated {
        /// The name as PAM changed it, if it did.
        user: Option<String>,
    },
    /// The password is wrong, or the account may not be used.
    Denied {
        /// Why, for the log.
        reason: String,
    },
    /// The server's program runs.
    Started {
        /// Its process, which leads a group and a session of its own.
        pid: i32,
        /// When it began, in clock ticks since boot.
        start_time: u64,
    },
    /// The server has ended.
    Ended {
        /// Its exit code, 128 + n for signal n.
        exit_code: i32,
        /// Whether it was killed for memory.
        out_of_memory: bool,
    },
    /// The signal was sent, or the process is there.
    Signalled,
    /// There is no such process, or no longer.
    Gone,
    /// The process that was looked for.
    Found {
        /// Its id.
        pid: i32,
        /// When it began, in clock ticks since boot.
        start_time: u64,
        /// The account it runs as.
        user: Option<String>,
    },
    /// It did not work.
    Failed {
        /// What kind of thing did not work.
        fault: Fault,
        /// One sentence that says why.
        message: String,
    },
}

/// What kind of thing did not work.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Fault {
    /// The request cannot be understood.
    Request,
    /// The helper may not do this for whoever asks.
    Refused,
    /// The account does not exist, or lacks something.
    Account,
    /// The server's program cannot be run.
    Command,
    /// Something else of the machine.
    System,
}

impl Answer {
    /// It did not work.
    pub fn failed(fault: Fault, message: impl Into<String>) -> Self {
        Self::Failed {
            fault,
            message: message.into(),
        }
    }
}

/// What the keeper's last words in a log begin with.
const LAST_WORDS: &str = "orrery-session: the server has ended with exit code ";
/// What is added to them when it was for memory.
const FOR_MEMORY: &str = ", killed for memory";

/// The line that the keeper writes into the server's log when no hub hears how the server ended.
pub fn last_words(exit_code: i32, out_of_memory: bool) -> String {
    let why = if out_of_memory { FOR_MEMORY } else { "" };
    format!("\n{LAST_WORDS}{exit_code}{why}\n")
}

/// How a server ended, by the last lines of its log: exit code, and whether it was for memory. A
/// server could write such a line itself, so it is for its own user's eyes only.
pub fn heard(last_lines: &[String]) -> Option<(i32, bool)> {
    let line = last_lines
        .iter()
        .rev()
        .find(|line| !line.trim().is_empty())?;
    let rest = line.trim_end().strip_prefix(LAST_WORDS)?;
    match rest.strip_suffix(FOR_MEMORY) {
        Some(code) => Some((code.parse().ok()?, true)),
        None => Some((rest.parse().ok()?, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_heard() {
        for (code, out_of_memory) in [(0, false), (137, true), (143, false)] {
            let text = format!("hello\n{}", last_words(code, out_of_memory));
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            assert_eq!(heard(&lines), Some((code, out_of_memory)));
        }
        assert_eq!(heard(&[]), None);
        assert_eq!(heard(&["Killed".to_owned()]), None);
    }
}

//! Runs a `jupyterhub_config.py` in Python and reads what it set.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use orrery_core::config::{Origin, Tree};
use serde_json::json;
use tokio::process::Command;

use crate::frame;
use crate::wire::{Answer, Failure, Sections};

const BOOT: &str = include_str!("../../../python/orrery_bridge/boot.py");
const MODULES: &[(&str, &str)] = &[(
    "orrery_bridge.config",
    include_str!("../../../python/orrery_bridge/config.py"),
)];

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct ConfigRequest {
    /// The Python program.
    pub python: OsString,
    /// The configuration file, as the operator named it.
    pub file: PathBuf,
    /// What the file sees as `sys.argv`.
    pub arguments: Vec<String>,
    /// How long the file may run.
    pub deadline: Duration,
}

/// What a configuration file set.
pub struct ConfigAnswer {
    /// Its settings.
    pub tree: Tree,
    /// Names that it set on `c` itself, which have no effect.
    pub stray: Vec<String>,
}

/// The file could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// There is no such program.
    #[error(
        "a Python configuration needs Python, but {program:?} was not found: install python3 with the packages \
         jupyterhub or traitlets, set ORRERY_PYTHON to the interpreter, or write the configuration as .toml or .json"
    )]
    NoPython {
        /// What was looked for.
        program: OsString,
    },
    /// The interpreter lacks the package that configuration files are written for.
    #[error(
        "a Python configuration needs the package traitlets, which {executable} lacks ({message}): install it with \
         `{executable} -m pip install jupyterhub`, or set ORRERY_PYTHON to the interpreter that has it"
    )]
    NoTraitlets {
        /// The interpreter.
        executable: String,
        /// What Python said.
        message: String,
    },
    /// The file raised an exception.
    #[error("{0}")]
    Python(PythonError),
    /// The file ran too long.
    #[error("{} did not end within {} seconds", file.display(), deadline.as_secs())]
    TooSlow {
        /// The configuration file.
        file: PathBuf,
        /// How long it had.
        deadline: Duration,
    },
    /// Python ended without an answer.
    #[error("{program:?} ended with {status} while it ran {}", file.display())]
    Ended {
        /// The interpreter.
        program: OsString,
        /// The configuration file.
        file: PathBuf,
        /// How it ended.
        status: String,
    },
    /// The answer could not be read.
    #[error("the values of {} cannot be read: {reason}", file.display())]
    Unreadable {
        /// The configuration file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The operating system refused something.
    #[error("cannot run {program:?}: {source}")]
    Io {
        /// The interpreter.
        program: OsString,
        /// Why.
        source: std::io::Error,
    },
}

/// An exception in a configuration file, shown short: where, the line, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonError {
    /// The exception's type.
    pub kind: String,
    /// Its text.
    pub message: String,
    /// The file and line it came from, as far as known.
    pub place: Option<(String, Option<u32>)>,
    /// That line.
    pub source: Option<String>,
}

impl std::fmt::Display for PythonError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Some((file, Some(line))) => write!(formatter, "{file}, line {line}: ")?,
            Some((file, None)) => write!(formatter, "{file}: ")?,
            None => {}
        }
        match (self.kind.is_empty(), self.message.is_empty()) {
            (true, _) => write!(formatter, "{}", self.message)?,
            (false, true) => write!(formatter, "{}", self.kind)?,
            (false, false) => write!(formatter, "{}: {}", self.kind, self.message)?,
        }
        if let Some(source) = self.source.as_ref().filter(|source| !source.is_empty()) {
            write!(formatter, "\n    {source}")?;
        }
        Ok(())
    }
}

/// The Python program to use: `$ORRERY_PYTHON`, else `python3` from the path.
pub fn python_program(environment: impl Fn(&str) -> Option<OsString>) -> OsString {
    environment("ORRERY_PYTHON")
        .filter(|program| !program.is_empty())
        .unwrap_or_else(|| "python3".into())
}

/// Runs the file and returns what it set. The process ends before this returns, in any case.
pub async fn run_config(request: &ConfigRequest) -> Result<ConfigAnswer, BridgeError> {
    let answer = tokio::time::timeout(request.deadline, exchange(request));
    match answer.await {
        Ok(answer) => read_answer(request, &answer?),
        Err(_) => Err(BridgeError::TooSlow {
            file: request.file.clone(),
            deadline: request.deadline,
        }),
    }
}

async fn exchange(request: &ConfigRequest) -> Result<Vec<u8>, BridgeError> {
    let io = |source| BridgeError::Io {
        program: request.python.clone(),
        source,
    };
    let spawned = Command::new(&request.python)
        .arg("-c")
        .arg(BOOT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(BridgeError::NoPython {
                program: request.python.clone(),
            });
        }
        Err(error) => return Err(io(error)),
    };
    let mut stdin = child
        .stdin
        .take()
        .expect("standard input was asked to be a pipe");
    let mut stdout = child
        .stdout
        .take()
        .expect("standard output was asked to be a pipe");
    let message = json!({
        "argv": request.arguments,
        "modules": MODULES,
        "request": { "file": absolute(&request.file).map_err(io)? },
    });
    // A program that is no Python may close its input unread; how it ended tells more than that.
    let sent = frame::write(&mut stdin, message.to_string().as_bytes()).await;
    drop(stdin);
    let unreadable = |reason: std::io::Error| BridgeError::Unreadable {
        file: request.file.clone(),
        reason: reason.to_string(),
    };
    let answer = frame::read(&mut stdout).await.map_err(unreadable)?;
    let Some(answer) = answer else {
        let status = child.wait().await.map_err(io)?;
        if let (Err(error), true) = (sent, status.success()) {
            return Err(io(error));
        }
        return Err(BridgeError::Ended {
            program: request.python.clone(),
            file: request.file.clone(),
            status: status.to_string(),
        });
    };
    child.wait().await.map_err(io)?;
    Ok(answer)
}

fn absolute(file: &Path) -> std::io::Result<String> {
    Ok(std::path::absolute(file)?.to_string_lossy().into_owned())
}

fn read_answer(request: &ConfigRequest, frame: &[u8]) -> Result<ConfigAnswer, BridgeError> {
    let unreadable = |reason: String| BridgeError::Unreadable {
        file: request.file.clone(),
        reason,
    };
    let answer = serde_json::from_slice(frame).map_err(|error| unreadable(error.to_string()))?;
    match answer {
        Answer::NoTraitlets {
            executable,
            message,
        } => Err(BridgeError::NoTraitlets {
            executable,
            message,
        }),
        Answer::Error(Failure {
            kind,
            message,
            file,
            line,
            source,
        }) => Err(BridgeError::Python(PythonError {
            kind,
            message,
            place: file.map(|file| (file, line)),
            source,
        })),
        Answer::Config(Sections { sections, stray }) => {
            let origin = Origin::File(request.file.display().to_string());
            let mut tree = Tree::default();
            for (class, options) in sections {
                tree.mention(&class);
                for (option, assignment) in options {
                    let Some(setting) = assignment.into_setting() else {
                        continue;
                    };
                    tree.set(&class, &option, setting, origin.clone())
                        .map_err(|error| unreadable(format!("{class}.{option}: {error}")))?;
                }
            }
            Ok(ConfigAnswer { tree, stray })
        }
    }
}

//! The asking side: runs the helper once for each request, under a deadline.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::protocol::{Answer, Fault, Request, Start};

/// The helper's file.
const NAME: &str = "orrery-session";
/// A longer answer is none of the helper's.
const LARGEST_ANSWER: u64 = 64 * 1024;
/// So much of what the helper (or sudo) says on standard error is kept.
const LARGEST_COMPLAINT: u64 = 4 * 1024;
/// Where sudo and the system's programs are found: the helper gets nothing of the hub's environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How the helper is run.
#[derive(Clone, Debug)]
pub struct Helper {
    command: Vec<String>,
}

/// The helper could not be asked. Each is a sentence.
#[derive(Debug)]
pub enum HelperError {
    /// The command is empty.
    NoCommand,
    /// The command does not run.
    NotRun(PathBuf, io::Error),
    /// It took longer than it may.
    Deadline(Duration),
    /// It ended without an answer; with what it said instead.
    Silent(String),
    /// What it answered is no answer to this.
    Unexpected,
}

impl fmt::Display for HelperError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommand => out.write_str("There is no command to run the session helper with."),
            Self::NotRun(program, error) => {
                write!(out, "{} cannot be run: {error}.", program.display())
            }
            Self::Deadline(patience) => write!(
                out,
                "The session helper did not answer within {} seconds.",
                patience.as_secs()
            ),
            Self::Silent(complaint) if complaint.is_empty() => {
                out.write_str("The session helper ended without an answer.")
            }
            Self::Silent(complaint) => {
                write!(out, "The session helper gave no answer: {complaint}")
            }
            Self::Unexpected => out.write_str(
                "The session helper's answer was not understood: is it of the same version?",
            ),
        }
    }
}

impl std::error::Error for HelperError {}

/// A server that was started, seen from the hub.
#[derive(Debug)]
pub struct Launched {
    /// Its process.
    pub pid: i32,
    /// When it began, in clock ticks since boot.
    pub start_time: u64,
    output: BufReader<ChildStdout>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Its exit code, 128 + n for signal n.
    pub exit_code: i32,
    /// Whether it was killed for memory.
    pub out_of_memory: bool,
}

impl Helper {
    /// The helper that is run by this command; when it is empty, the one installed with this program.
    pub fn new(command: Vec<String>) -> Self {
        if !command.is_empty() {
            return Self { command };
        }
        let program = std::env::current_exe()
            .ok()
            .and_then(|program| installed_with(&program))
            .unwrap_or_else(|| PathBuf::from(NAME));
        Self {
            command: vec![program.to_string_lossy().into_owned()],
        }
    }

    /// Program and arguments.
    pub fn command(&self) -> &[String] {
        &self.command
    }

    /// Asks, and waits for the answer. When this is dropped, or the deadline passes, the helper is
    /// left to itself; it has a deadline of its own.
    pub async fn ask(&self, request: &Request, patience: Duration) -> Result<Answer, HelperError> {
        let mut child = self.run(Stdio::piped())?;
        let complaints = child.stderr.take();
        let asked = async {
            let mut output = self.send(&mut child, request).await?;
            let answer = read_line(&mut output).await;
            match answer {
                Some(answer) => Ok(answer),
                None => Err(HelperError::Silent(read_complaint(complaints).await)),
            }
        };
        let answer = timeout(patience, asked).await;
        reap(child);
        let answer = answer.map_err(|_| HelperError::Deadline(patience))??;
        serde_json::from_str(&answer).map_err(|_| HelperError::Unexpected)
    }

    /// Starts a server whose output goes to `log`. `Ok(Err(…))` is the helper's refusal.
    ///
    /// When this is dropped, or fails, no server is left: the helper notices that nobody listens and
    /// ends what it started. There is one moment in which that is not so: when the helper has answered
    /// and the answer was not read. Such a server is to be found by its environment.
    pub async fn start(
        &self,
        start: Start,
        log: File,
        patience: Duration,
    ) -> Result<Result<Launched, (Fault, String)>, HelperError> {
        let mut child = self.run(Stdio::from(log))?;
        let request = Request::Start(Box::new(start));
        let asked = async {
            let mut output = self.send(&mut child, &request).await?;
            let answer = read_line(&mut output).await;
            // What was said instead stands in the server's log.
            let answer = answer.ok_or(HelperError::Silent(String::new()))?;
            Ok((answer, output))
        };
        let answered = timeout(patience, asked).await;
        reap(child);
        let (answer, output) = answered.map_err(|_| HelperError::Deadline(patience))??;
        match serde_json::from_str(&answer) {
            Ok(Answer::Started { pid, start_time }) => Ok(Ok(Launched {
                pid,
                start_time,
                output,
            })),
            Ok(Answer::Failed { fault, message }) => Ok(Err((fault, message))),
            _ => Err(HelperError::Unexpected),
        }
    }

    fn run(&self, complaints: Stdio) -> Result<Child, HelperError> {
        let (program, arguments) = self.command.split_first().ok_or(HelperError::NoCommand)?;
        Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            // Not in the hub's group, so that what ends the hub on a terminal does not end it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .map_err(|error| HelperError::NotRun(program.into(), error))
    }

    async fn send(
        &self,
        child: &mut Child,
        request: &Request,
    ) -> Result<BufReader<ChildStdout>, HelperError> {
        let text = serde_json::to_vec(request).map_err(|_| HelperError::Unexpected)?;
        if let Some(mut input) = child.stdin.take() {
            // A helper that reads nothing says why, or ends: the answer tells.
            let _ = input.write_all(&text).await;
        }
        let output = child.stdout.take().ok_or(HelperError::Unexpected)?;
        Ok(BufReader::new(output))
    }
}

impl Launched {
    /// Waits for the server's end, for as long as it lives. `None` when the helper's keeper was killed
    /// and nobody tells.
    pub async fn ended(mut self) -> Option<Ended> {
        let line = read_line(&mut self.output).await?;
        match serde_json::from_str(&line) {
            Ok(Answer::Ended {
                exit_code,
                out_of_memory,
            }) => Some(Ended {
                exit_code,
                out_of_memory,
            }),
            _ => None,
        }
    }
}

/// The helper that belongs to a program: beside it, or where packages put it.
fn installed_with(program: &Path) -> Option<PathBuf> {
    let folder = program.parent()?;
    [
        folder.join(NAME),
        folder.join("../lib/orrery").join(NAME),
        Path::new("/usr/lib/orrery").join(NAME),
    ]
    .into_iter()
    .find(|place| place.is_file())
}

/// One line, without its end; `None` at the end of the output, or when it is too long.
async fn read_line(output: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    output
        .take(LARGEST_ANSWER)
        .read_line(&mut line)
        .await
        .ok()?;
    line.ends_with('\n').then_some(line)
}

/// What was said on standard error, as one line fit for a log.
async fn read_complaint(complaints: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(complaints) = complaints {
        let _ = complaints
            .take(LARGEST_COMPLAINT)
            .read_to_end(&mut text)
            .await;
    }
    let text = String::from_utf8_lossy(&text);
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

/// Leaves no zombie.
fn reap(mut child: Child) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    tokio::spawn(async move {
        let _ = child.wait().await;
    });
}

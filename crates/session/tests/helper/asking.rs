//! The helper that was built with these tests, and what it is asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use orrery_session::protocol::{Answer, Fault, Request, Secret, Signal, Start};
use orrery_session::testing::Account;
use tempfile::TempDir;

pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_orrery-session");

/// How the helper is reached.
#[derive(Clone, Copy)]
pub(crate) enum By {
    Root,
    /// As sudo starts it.
    Sudo,
}

pub(crate) fn helper(by: By) -> Command {
    let mut command = Command::new(HELPER);
    command.env_clear();
    if matches!(by, By::Sudo) {
        command.env("SUDO_UID", "1000");
    }
    command
}

pub(crate) fn begin(
    mut command: Command,
    request: &Request,
    complaints: Stdio,
) -> (Child, ChildStdout) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(complaints)
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(request).unwrap();
    match child.stdin.take().unwrap().write_all(&text) {
        // One that refuses whoever asks does so before it reads.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.unwrap(),
    }
    let output = child.stdout.take().unwrap();
    (child, output)
}

/// All that the helper writes for this request.
pub(crate) fn written_by(by: By, request: &Request) -> String {
    let (mut child, mut output) = begin(helper(by), request, Stdio::inherit());
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    text
}

pub(crate) fn ask_by(by: By, request: &Request) -> Answer {
    serde_json::from_str(&written_by(by, request)).unwrap()
}

pub(crate) fn ask(request: &Request) -> Answer {
    ask_by(By::Root, request)
}

/// A server that the helper was asked to start.
pub(crate) struct Server {
    pub(crate) answer: Answer,
    pub(crate) output: BufReader<ChildStdout>,
    pub(crate) folder: TempDir,
}

impl Server {
    pub(crate) fn start(request: Start) -> Self {
        Self::start_by(helper(By::Root), request)
    }

    pub(crate) fn start_by(command: Command, request: Start) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let request = Request::Start(Box::new(request));
        let (mut child, output) = begin(command, &request, log.into());
        let mut output = BufReader::new(output);
        let answer = read(&mut output);
        // The helper itself ends at once.
        assert!(child.wait().unwrap().success());
        Self {
            answer,
            output,
            folder,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        match self.answer {
            Answer::Started { pid, .. } => pid,
            ref answer => panic!("{answer:?}"),
        }
    }

    pub(crate) fn start_time(&self) -> u64 {
        match self.answer {
            Answer::Started { start_time, .. } => start_time,
            ref answer => panic!("{answer:?}"),
        }
    }

    pub(crate) fn ended(&mut self) -> i32 {
        match read(&mut self.output) {
            Answer::Ended { exit_code, .. } => exit_code,
            answer => panic!("{answer:?}"),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn says(&self, text: &str) {
        eventually(text, || self.log().contains(text).then_some(()));
    }

    pub(crate) fn signal(&self, signal: i32) -> Signal {
        Signal {
            pid: self.pid(),
            start_time: Some(self.start_time()),
            given: Vec::new(),
            user: None,
            signal,
            group: true,
        }
    }
}

pub(crate) fn read(output: &mut BufReader<ChildStdout>) -> Answer {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        #[expect(clippy::disallowed_methods, reason = "a test without a runtime")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn request(account: &Account, command: &[&str]) -> Start {
    Start {
        user: account.name.clone(),
        command: command.iter().map(ToString::to_string).collect(),
        environment: BTreeMap::from([
            ("PATH".to_owned(), Secret::new("/usr/bin:/bin")),
            ("LC_ALL".to_owned(), Secret::new("C")),
        ]),
        folder: None,
        umask: None,
        session: None,
        limits: None,
        files: Vec::new(),
    }
}

pub(crate) fn shell(account: &Account, script: &str) -> Start {
    request(account, &["sh", "-c", script])
}

pub(crate) fn failed(answer: Answer) -> (Fault, String) {
    match answer {
        Answer::Failed { fault, message } => (fault, message),
        answer => panic!("{answer:?}"),
    }
}

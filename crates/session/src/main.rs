//! The session helper: one operation, asked on standard input, answered on standard output.

mod authenticate;
mod keeper;
mod limits;
mod pam;
mod policy;
mod process;
mod signal;
mod start;

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use nix::sys::signal::Signal;
use orrery_session::protocol::{Answer, Fault, LARGEST_REQUEST, Request};

use self::policy::Policy;

/// A helper that has not answered after so many seconds is ended: whoever asked has long given up.
const DEADLINE: u32 = 180;

fn main() -> ExitCode {
    // Nothing that whoever calls us left open may reach a server or a PAM module.
    process::close_descriptors_from(3);
    // A caller that ignores signals must not make us ignore the end of our children, or our deadline.
    process::default_signals();
    // Whoever no longer listens is noticed by the write that fails.
    process::ignore(Signal::SIGPIPE);
    process::end_after(DEADLINE);
    match run() {
        // The keeper has answered.
        None => ExitCode::SUCCESS,
        Some(answer) => match say(&answer) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
    }
}

/// Does what is asked, and gives the answer unless it was already given.
fn run() -> Option<Answer> {
    let policy = match Policy::of_caller() {
        Ok(policy) => policy,
        Err(message) => return Some(Answer::failed(Fault::Refused, message)),
    };
    process::clear_environment();
    let request = match read() {
        Ok(request) => request,
        Err(message) => return Some(Answer::failed(Fault::Request, message)),
    };
    match request {
        Request::Check => Some(Answer::Able),
        Request::Abilities => Some(Answer::Abilities(limits::abilities())),
        Request::Authenticate(request) => Some(authenticate::authenticate(&policy, &request)),
        Request::Start(request) => start::start(&policy, *request),
        Request::Signal(request) => Some(signal::signal(&policy, &request)),
        Request::Find(request) => Some(signal::find(&policy, &request)),
    }
}

fn read() -> Result<Request, String> {
    let mut text = Vec::new();
    let limit = LARGEST_REQUEST as u64 + 1;
    io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut text)
        .map_err(|error| format!("The request cannot be read: {error}."))?;
    if text.len() > LARGEST_REQUEST {
        return Err(format!(
            "The request is larger than {LARGEST_REQUEST} bytes."
        ));
    }
    // The parser's message may quote the request, which has secrets: only the place is told.
    serde_json::from_slice(&text)
        .map_err(|error| format!("The request is no valid one (at byte {}).", error.column()))
}

/// Gives an answer, as one line.
fn say(answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

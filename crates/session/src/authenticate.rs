//! Passwords, checked by PAM.

use std::ffi::c_int;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use orrery_session::encoding::Encoding;
use orrery_session::protocol::{Answer, Authenticate, Fault};

use crate::pam::{LONGEST_ANSWER, PamError, Subject, Transaction};
use crate::policy::Policy;
use crate::start::is_service;

/// Longer names are nobody's.
const LONGEST_NAME: usize = 256;
/// What is read of a file of accounts at most.
const LARGEST_FILE: u64 = 256 * 1024 * 1024;
/// No account can have this name: a file of accounts has a colon after each.
const NOBODYS_NAME: &[u8] = b"orrery:refused";

/// What libpam answers when it is not the user's fault: the check could not be made.
const OPEN_ERROR: c_int = 1;
const SYMBOL_ERROR: c_int = 2;
const SERVICE_ERROR: c_int = 3;
const SYSTEM_ERROR: c_int = 4;
const BUFFER_ERROR: c_int = 5;
const INFORMATION_UNAVAILABLE: c_int = 9;
const ABORT: c_int = 26;
const MODULE_UNKNOWN: c_int = 28;

/// Checks a password, and whether the account may be used.
///
/// Whoever may not act for an account may not guess its password either.
pub(crate) fn authenticate(policy: &Policy, request: &Authenticate) -> Answer {
    let Some(encoding) = Encoding::named(&request.encoding) else {
        return Answer::failed(
            Fault::Request,
            format!("The encoding {:?} is not known.", request.encoding),
        );
    };
    if !is_service(&request.service) {
        return Answer::failed(
            Fault::Request,
            format!("{:?} is no name of a PAM service.", request.service),
        );
    }
    if let Some(reason) = strange_name(&request.user) {
        return denied(reason);
    }
    let refused = match nix::unistd::User::from_name(&request.user) {
        Ok(Some(account)) => policy.check(&account).err(),
        _ => None,
    };
    let Some(user) = encoding.encode(&request.user) else {
        return denied("the name cannot be written in PAMAuthenticator.encoding");
    };
    let mut secrets = Vec::new();
    for secret in std::iter::once(&request.password).chain(&request.otp) {
        match encoding.encode(secret.expose()) {
            Some(bytes) if bytes.len() <= LONGEST_ANSWER && !bytes.contains(&0) => {
                secrets.push(bytes);
            }
            Some(_) => return denied("the password is too long, or has a zero byte"),
            None => return denied("the password cannot be written in PAMAuthenticator.encoding"),
        }
    }
    let subject = Subject {
        service: &request.service,
        // An answer that comes sooner than PAM's would tell strangers which accounts there are.
        user: if refused.is_some() {
            NOBODYS_NAME
        } else {
            &user
        },
        secrets,
        remote_host: request.remote_host.as_deref(),
    };
    let answer = check(subject, request.check_account);
    match refused {
        Some(Answer::Failed { message, .. }) => return denied(&message),
        Some(other) => return other,
        None => {}
    }
    match answer {
        Ok(name) => Answer::Authenticated {
            user: name.filter(|name| *name != request.user),
        },
        Err(Refusal(step, error)) if is_ours(&error) => Answer::failed(
            Fault::System,
            format!("PAM ({}) cannot check {step}: {error}.", request.service),
        ),
        Err(Refusal(step, error)) => {
            let detail = detail(&request.user).map_or(String::new(), |why| format!("; {why}"));
            Answer::Denied {
                reason: format!("{step}: {error}{detail}"),
            }
        }
    }
}

/// Which of the two checks did not pass, and why.
struct Refusal(&'static str, PamError);

fn check(subject: Subject<'_>, check_account: bool) -> Result<Option<String>, Refusal> {
    let password = |error| Refusal("the password", error);
    let mut transaction = Transaction::start(subject).map_err(password)?;
    transaction.authenticate().map_err(password)?;
    if check_account {
        // Also refuses a password that must be changed first.
        transaction
            .check_account()
            .map_err(|error| Refusal("the account", error))?;
    }
    transaction.renew_credentials();
    Ok(transaction.user())
}

fn denied(reason: &str) -> Answer {
    Answer::Denied {
        reason: reason.to_owned(),
    }
}

/// Whether it is not for the user that the check failed.
fn is_ours(error: &PamError) -> bool {
    matches!(
        error.code,
        None | Some(
            OPEN_ERROR
                | SYMBOL_ERROR
                | SERVICE_ERROR
                | SYSTEM_ERROR
                | BUFFER_ERROR
                | INFORMATION_UNAVAILABLE
                | ABORT
                | MODULE_UNKNOWN
        )
    )
}

/// Why a name is not even shown to PAM, whose modules make file names and lines of logs of it.
fn strange_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the name is empty")
    } else if name.len() > LONGEST_NAME {
        Some("the name is too long")
    } else if name.chars().any(char::is_control) {
        Some("the name has control characters")
    } else if name.contains(['/', ':'])
        || name.starts_with('-')
        || name.trim_matches('.').is_empty()
    {
        Some("no account can have such a name")
    } else {
        None
    }
}

/// What is known of an account that was refused, for the log: PAM tells all of this alike, so that
/// outsiders do not learn of it.
fn detail(user: &str) -> Option<&'static str> {
    match nix::unistd::User::from_name(user) {
        Ok(Some(_)) => {}
        Ok(None) => return Some("there is no such account"),
        Err(_) => return None,
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "one process for one question, compared with the system's own dates"
    )]
    let today = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs() / 86_400;
    let file = File::open("/etc/shadow").ok()?.take(LARGEST_FILE);
    BufReader::new(file)
        .split(b'\n')
        .map_while(Result::ok)
        .filter_map(|line| String::from_utf8(line).ok())
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(user)).then(|| state(&fields.collect::<Vec<_>>(), today))
        })?
}

/// What the fields of a line of `/etc/shadow` after the name say of the account.
fn state(fields: &[&str], today: u64) -> Option<&'static str> {
    let day = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let password = fields.first()?;
    if day(6).is_some_and(|expires| expires < today) {
        Some("the account has expired")
    } else if password.starts_with('!') {
        Some("the account is locked")
    } else if password.is_empty() {
        Some("the account has no password")
    } else if password.starts_with('*') {
        Some("nobody can log in to the account with a password")
    } else if day(1) == Some(0) {
        Some("the password must be changed first")
    } else if let (Some(changed), Some(most)) = (day(1), day(3))
        && changed + most < today
    {
        Some("the password has expired")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_account_has_do_not_reach_pam() {
        for name in ["", ".", "..", "-f", "a/b", "../ada", "a:b", "a\nb", "a\0b"] {
            assert!(strange_name(name).is_some(), "{name:?}");
        }
        assert!(strange_name(&"a".repeat(257)).is_some());
        for name in [
            "ada",
            "Ada.L",
            "ACME\\ada",
            "ada@acme.example",
            "ada lovelace",
            "zoë",
        ] {
            assert_eq!(strange_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_state_of_an_account_is_read_from_its_line() {
        for (line, expected) in [
            ("$y$x:20000:0:99999:7:::", None),
            ("!$y$x:20000:0:99999:7:::", Some("the account is locked")),
            (
                "*:20000:0:99999:7:::",
                Some("nobody can log in to the account with a password"),
            ),
            (":20000:0:99999:7:::", Some("the account has no password")),
            (
                "$y$x:0:0:99999:7:::",
                Some("the password must be changed first"),
            ),
            ("$y$x:19000:0:30:7:::", Some("the password has expired")),
            (
                "$y$x:20000:0:99999:7::19999:",
                Some("the account has expired"),
            ),
            ("$y$x:20000:0:99999:7::20001:", None),
            ("", Some("the account has no password")),
        ] {
            let fields: Vec<&str> = line.split(':').collect();
            assert_eq!(state(&fields, 20_000), expected, "{line}");
        }
    }
}

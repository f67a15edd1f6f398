//! What the system tells of processes, programs and addresses.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::ProxyError;

/// Whether the process runs.
pub(super) fn is_alive(pid: Pid) -> bool {
    // A zombie answers signals but serves nobody.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    match status {
        Ok(line) => line
            .rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) if Path::new("/proc/self/stat").exists() => false,
        Err(_) => !matches!(kill(pid, None), Err(Errno::ESRCH)),
    }
}

/// Whether the process is our own user's. Anybody can call a program by any name; our token is only
/// for those who could read our memory anyway.
pub(super) fn is_of_our_user(pid: Pid) -> bool {
    std::fs::metadata(format!("/proc/{pid}"))
        .is_ok_and(|process| process.uid() == nix::unistd::geteuid().as_raw())
}

/// Whether the process was called with these words, or with more after them. A script's interpreter
/// may stand before them.
pub(super) fn is_called(pid: Pid, words: &[OsString]) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let called: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let Some((program, rest)) = words.split_first() else {
        return false;
    };
    let name = |word: &[u8]| word.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
    (0..called.len().min(3)).any(|start| {
        name(called[start]) == name(program.as_bytes())
            && called.len() > start + rest.len()
            && rest
                .iter()
                .zip(&called[start + 1..])
                .all(|(word, there)| word.as_bytes() == *there)
    })
}

/// Whether these two words stand beside each other among the process's arguments.
pub(super) fn has_option(pid: Pid, option: &str, value: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words
        .windows(2)
        .any(|pair| pair == [option.as_bytes(), value.as_bytes()])
}

/// Whether there is such a program.
pub(super) fn find_program(program: &str) -> Result<(), ProxyError> {
    let problem = |why: &str| ProxyError::Program {
        program: program.to_owned(),
        why: why.to_owned(),
    };
    if program.contains('/') {
        return if Path::new(program).is_file() {
            Ok(())
        } else {
            Err(problem("there is no such file"))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if found {
        Ok(())
    } else {
        Err(problem("it is in no folder of PATH"))
    }
}

/// Whether another program listens there.
pub(super) async fn is_taken(ip: &str, port: u16) -> bool {
    let host = match ip {
        "" | "*" => "0.0.0.0",
        other => other,
    };
    match tokio::net::TcpListener::bind((host, port)).await {
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::AddrInUse,
    }
}

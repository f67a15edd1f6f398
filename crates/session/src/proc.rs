//! What `/proc` says of processes.
//!
//! Helper and hub read the same, so that both mean the same process by an id and its start.

use std::fs;
use std::io::{self, Read};

/// So much of an environment is read. No program is started with a larger one; a running process can
/// make its own appear as large as it likes.
const LARGEST_ENVIRONMENT: u64 = 8 * 1024 * 1024;

/// What `/proc/<pid>/stat` says.
pub struct Stat {
    /// `R` for one that runs, `Z` for one that has ended; see [`Stat::has_ended`].
    pub state: char,
    /// The process that started it, or that has adopted it since.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// In clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Of the process that has this id now; `None` when there is none.
    pub fn read(pid: i32) -> Option<Self> {
        let text = read(pid, "stat")?;
        // The second field is the program's name in parentheses, which may itself contain any.
        let rest = text.rsplit_once(')')?.1;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let start_time = fields.nth(15)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            group,
            session,
            start_time,
        })
    }

    /// Whether it has ended, and was only not waited for.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The real user of a process: who started it, whatever setuid program it runs.
pub fn owner(pid: i32) -> Option<nix::unistd::Uid> {
    let status = read(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let real = line.split_ascii_whitespace().next()?.parse::<u32>().ok()?;
    Some(real.into())
}

/// Whether the environment that a process began with has all these entries (`name=value`).
///
/// The process's user can make this last: it is to be asked only for the sake of that user.
pub fn was_given(pid: i32, entries: &[&str]) -> bool {
    fs::File::open(format!("/proc/{pid}/environ")).is_ok_and(|file| has_entries(file, entries))
}

fn has_entries(environment: impl Read, entries: &[&str]) -> bool {
    let mut text = Vec::new();
    let read = environment.take(LARGEST_ENVIRONMENT).read_to_end(&mut text);
    let has = |wanted: &str| {
        text.split(|byte| *byte == 0)
            .any(|entry| entry == wanted.as_bytes())
    };
    read.is_ok() && entries.iter().all(|entry| has(entry))
}

/// What `/proc` tells of a process. A process may have named itself by any bytes.
fn read(pid: i32, file: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The ids of all processes.
pub fn all() -> io::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_tells_of_this_very_process() {
        let own = i32::try_from(std::process::id()).expect("an id is positive");
        let stat = Stat::read(own).expect("it runs");
        assert_eq!(stat.parent, nix::unistd::getppid().as_raw());
        assert_eq!(stat.group, nix::unistd::getpgrp().as_raw());
        assert_eq!(
            stat.session,
            nix::unistd::getsid(None).expect("it has one").as_raw()
        );
        assert!(stat.start_time > 0 && !stat.has_ended());
        assert_eq!(owner(own), Some(nix::unistd::getuid()));
        assert!(all().expect("/proc is there").contains(&own));
        let path = format!("PATH={}", std::env::var("PATH").expect("it is set"));
        assert!(was_given(own, &[&path]));
        assert!(!was_given(own, &[&path, "PATH=another"]));
    }

    #[test]
    fn an_environment_without_end_is_read_no_further_than_one_can_be() {
        assert!(!has_entries(io::repeat(0), &["A=1"]));
        assert!(has_entries(
            io::Cursor::new(b"B=2\0A=1\0").chain(io::repeat(0)),
            &["A=1", "B=2"]
        ));
    }

    #[test]
    fn a_process_with_an_odd_name_is_seen() {
        use std::io::BufRead as _;
        let script = "printf '\\377) Z' >/proc/self/comm; echo named; read line";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut line = String::new();
        io::BufReader::new(child.stdout.take().expect("it is a pipe"))
            .read_line(&mut line)
            .expect("it speaks");
        assert_eq!(line, "named\n");
        let pid = i32::try_from(child.id()).expect("an id is positive");
        let stat = Stat::read(pid).expect("it runs");
        assert!(!stat.has_ended());
        assert_eq!(stat.parent, nix::unistd::getpid().as_raw());
        assert_eq!(owner(pid), Some(nix::unistd::getuid()));
        drop(child.stdin.take());
        child.wait().expect("it ends");
    }
}

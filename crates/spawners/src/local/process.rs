//! A process as the hub remembers it: its id and when it began.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// What a server's state says.
pub(super) struct State {
    pub(super) process: Process,
    /// The system account that it runs as, when it is not the hub's own.
    pub(super) user: Option<String>,
    /// The name of its log inside the folder of logs.
    pub(super) log: Option<String>,
    /// Bytes of memory that it may use.
    pub(super) mem_limit: Option<u64>,
}

/// One process. Two with the same id at different times are different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pid: i32,
    /// In clock ticks since boot, as `/proc` says; unknown in states that JupyterHub wrote.
    start_time: Option<u64>,
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    state: char,
    parent: i32,
    group: i32,
    start_time: u64,
}

impl State {
    /// Reads a state; `None` when it names no process.
    pub(super) fn parse(state: &Value) -> Option<Self> {
        let pid = i32::try_from(state.get("pid")?.as_i64()?).ok()?;
        // 1 and below would signal whole groups, or the machine's first process.
        if pid <= 1 {
            return None;
        }
        let log = state
            .get("log")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
            .map(str::to_owned);
        Some(Self {
            process: Process {
                pid,
                start_time: state.get("start_time").and_then(Value::as_u64),
            },
            user: state.get("user").and_then(Value::as_str).map(str::to_owned),
            log,
            mem_limit: state.get("mem_limit").and_then(Value::as_u64),
        })
    }
}

impl Process {
    /// The running process of our own user that was started with `variable` set to `value`. Its
    /// children mostly inherit that: of several, the first that none of the others started.
    pub(super) fn find(variable: &str, value: &str) -> io::Result<Option<Self>> {
        let wanted = format!("{variable}={value}");
        let own_user = fs::metadata("/proc/self")?.uid();
        let mut found: HashMap<i32, Stat> = HashMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A process that ends meanwhile is none that is looked for.
            if pid > 1
                && entry.metadata().is_ok_and(|data| data.uid() == own_user)
                && was_given(pid, wanted.as_bytes())
                && let Some(stat) = Stat::read(pid)
                && !matches!(stat.state, 'Z' | 'X')
            {
                found.insert(pid, stat);
            }
        }
        Ok(found
            .iter()
            .filter(|(_, stat)| !found.contains_key(&stat.parent))
            .min_by_key(|(pid, stat)| (stat.start_time, **pid))
            .map(|(pid, stat)| Self {
                pid: *pid,
                start_time: Some(stat.start_time),
            }))
    }

    /// The running or just ended process `pid`, which must not have been waited for.
    pub(super) fn of_child(pid: i32) -> Self {
        Self {
            pid,
            start_time: Stat::read(pid).map(|stat| stat.start_time),
        }
    }

    /// The process that somebody else started and named so.
    pub(super) fn named(pid: i32, start_time: Option<u64>) -> Self {
        Self { pid, start_time }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn start_time(&self) -> Option<u64> {
        self.start_time
    }

    /// Whether its id is still taken by it, ended or not. For a process whose start is not known this
    /// cannot be told; then no.
    pub(super) fn is_listed(&self) -> bool {
        self.start_time.is_some()
            && Stat::read(self.pid).map(|stat| stat.start_time) == self.start_time
    }

    /// The state to keep. `pid` is upstream's key, so that either hub finds the other's servers.
    pub(super) fn state(&self, log: &str) -> Value {
        json!({"pid": self.pid, "start_time": self.start_time, "log": log})
    }

    /// Whether it runs. A process that ended but was not waited for does not.
    pub(super) fn is_alive(&self) -> bool {
        self.stat().is_some()
    }

    /// Signals its group, or it alone if it leads none. Does nothing if it is gone, even if another
    /// process has its id now.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(stat) = self.stat() else {
            return Ok(());
        };
        let pid = Pid::from_raw(self.pid);
        let sent = if stat.group == self.pid {
            killpg(pid, signal)
        } else {
            kill(pid, signal)
        };
        match sent {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends what the process left of its group. To be called right after its end: a group's id is
    /// not given to another process while the group has members.
    pub(super) fn sweep_group(&self) {
        if Stat::read(self.pid).is_none() {
            // ESRCH, the normal case: nobody is left.
            let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    fn stat(&self) -> Option<Stat> {
        let stat = Stat::read(self.pid)?;
        if matches!(stat.state, 'Z' | 'X') {
            return None;
        }
        let is_it = match self.start_time {
            Some(start_time) => stat.start_time == start_time,
            // JupyterHub remembers no more than the id. That a process has this id proves nothing;
            // that it was given a single-user server's environment does.
            None => is_single_user_server(self.pid),
        };
        is_it.then_some(stat)
    }
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, which may itself contain any.
        let rest = text.rsplit_once(')')?.1;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let start_time = fields.nth(16)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            group,
            start_time,
        })
    }
}

/// Whether the environment that a process began with has this entry.
fn was_given(pid: i32, wanted: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == wanted)
    })
}

fn is_single_user_server(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry.starts_with(b"JUPYTERHUB_SERVICE_PREFIX="))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_names_no_process_is_none() {
        for state in [
            json!({}),
            json!({"pid": 0}),
            json!({"pid": 1}),
            json!({"pid": -5}),
            json!({"pid": "12"}),
            json!(null),
        ] {
            assert!(State::parse(&state).is_none(), "{state}");
        }
    }

    #[test]
    fn a_log_outside_its_folder_is_ignored() {
        for log in ["/etc/passwd", "../hub.log", "..", ""] {
            let state = State::parse(&json!({"pid": 12, "log": log})).expect("it names a process");
            assert_eq!(state.log, None, "{log}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let own = i32::try_from(std::process::id()).expect("process ids are positive");
        let process = Process::of_child(own);
        assert!(process.is_alive());
        let other = Process {
            start_time: process.start_time.map(|time| time + 1),
            ..process
        };
        assert!(!other.is_alive());
        // This test is no single-user server.
        let unknown = Process {
            start_time: None,
            ..process
        };
        assert!(!unknown.is_alive());
    }
}

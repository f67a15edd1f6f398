//! A process as the hub remembers it: its id and when it began.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use orrery_core::phase::Failure;
use orrery_core::spawner::spawner_failure;
use orrery_session::proc::{self, Stat};
use serde_json::{Value, json};

/// What the kernel calls this boot of the machine; unknown where it does not tell.
static BOOT: LazyLock<Option<String>> = LazyLock::new(|| {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
});

/// What a server's state says.
pub(super) struct State {
    pub(super) process: Process,
    /// The system account that it runs as, when it is not the hub's own.
    pub(super) user: Option<String>,
    /// The name of its log inside the folder of logs.
    pub(super) log: Option<String>,
    /// Bytes of memory that it may use.
    pub(super) mem_limit: Option<u64>,
    /// What stands in its environment, where nothing better is known: see [`State::adopted`].
    pub(super) given: Vec<String>,
}

/// One process. Two with the same id at different times are different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pid: i32,
    /// In clock ticks since boot, as `/proc` says; unknown in states that JupyterHub wrote.
    start_time: Option<u64>,
    /// Of an earlier boot of the machine nothing runs, and times since boot say nothing.
    is_of_this_boot: bool,
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
        let text = |key| state.get(key).and_then(Value::as_str).map(str::to_owned);
        let user = text("user");
        let given = match (&user, text("base_url")) {
            (Some(user), Some(base_url)) => vec![
                format!("JUPYTERHUB_SERVICE_PREFIX={base_url}"),
                format!("JUPYTERHUB_USER={user}"),
            ],
            _ => Vec::new(),
        };
        Some(Self {
            process: Process {
                pid,
                start_time: state.get("start_time").and_then(Value::as_u64),
                is_of_this_boot: text("boot_id").is_none_or(|id| BOOT.as_ref() == Some(&id)),
            },
            user,
            log,
            mem_limit: state.get("mem_limit").and_then(Value::as_u64),
            given,
        })
    }

    /// The state of a server that JupyterHub started, which remembers no more than the process's id. By
    /// this the process is known by what its server, and nobody else's, was given.
    pub(super) fn adopted(state: &Value, user: &str, base_url: &str) -> Option<(Value, Self)> {
        let parsed = Self::parse(state)?;
        if parsed.process.start_time.is_some() {
            return None;
        }
        let mut known = state.clone();
        known["user"] = json!(user);
        known["base_url"] = json!(base_url);
        let parsed = Self::parse(&known)?;
        Some((known, parsed))
    }

    /// The process, with its start if it is our own user's and its environment tells that it is the
    /// server's.
    pub(super) fn confirmed(&self) -> Process {
        let process = self.process;
        if process.start_time.is_some() || self.given.is_empty() {
            return process;
        }
        let entries: Vec<&str> = self.given.iter().map(String::as_str).collect();
        let start_time = process.present_start();
        let is_it = proc::was_given(process.pid, &entries) && process.present_start() == start_time;
        Process {
            start_time: start_time.filter(|_| is_it),
            ..process
        }
    }
}

impl Process {
    /// The running process of our own user that was started with `variable` set to `value`. Its
    /// children mostly inherit that: of several, the first that none of the others started.
    pub(super) fn find(variable: &str, value: &str) -> io::Result<Option<Self>> {
        let wanted = format!("{variable}={value}");
        let own_user = fs::metadata("/proc/self")?.uid();
        let mut found: HashMap<i32, Stat> = HashMap::new();
        for pid in proc::all()? {
            // A process that ends meanwhile is none that is looked for.
            if pid > 1
                && fs::metadata(format!("/proc/{pid}")).is_ok_and(|data| data.uid() == own_user)
                && proc::was_given(pid, &[&wanted])
                && let Some(stat) = Stat::read(pid)
                && !stat.has_ended()
            {
                found.insert(pid, stat);
            }
        }
        Ok(found
            .iter()
            .filter(|(_, stat)| !found.contains_key(&stat.parent))
            .min_by_key(|(pid, stat)| (stat.start_time, **pid))
            .map(|(pid, stat)| Self::named(*pid, Some(stat.start_time))))
    }

    /// The running or just ended process `pid`, which must not have been waited for.
    pub(super) fn of_child(pid: i32) -> Self {
        Self::named(pid, Stat::read(pid).map(|stat| stat.start_time))
    }

    /// The process that somebody else started and named so.
    pub(super) fn named(pid: i32, start_time: Option<u64>) -> Self {
        Self {
            pid,
            start_time,
            is_of_this_boot: true,
        }
    }

    /// When the process began that has its id now.
    pub(super) fn present_start(&self) -> Option<u64> {
        Stat::read(self.pid).map(|stat| stat.start_time)
    }

    pub(super) fn is_of_this_boot(&self) -> bool {
        self.is_of_this_boot
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn start_time(&self) -> Option<u64> {
        self.start_time
    }

    /// For the operator: every signal was in vain.
    pub(super) fn does_not_end(&self) -> Failure {
        spawner_failure(format!(
            "The server's process {} does not end, not even by force.",
            self.pid
        ))
    }

    /// Whether its id is still taken by it, ended or not. For a process whose start is not known this
    /// cannot be told; then no.
    pub(super) fn is_listed(&self) -> bool {
        self.is_of_this_boot
            && self.start_time.is_some()
            && Stat::read(self.pid).map(|stat| stat.start_time) == self.start_time
    }

    /// The state to keep. `pid` is upstream's key, so that either hub finds the other's servers.
    pub(super) fn state(&self, log: &str) -> Value {
        let mut state = json!({"pid": self.pid, "start_time": self.start_time, "log": log});
        if let Some(boot) = &*BOOT {
            state["boot_id"] = json!(boot);
        }
        state
    }

    /// A state to which its start is added, if that is known.
    pub(super) fn added_to(&self, mut state: Value) -> Value {
        if self.start_time.is_some() {
            for key in ["start_time", "boot_id"] {
                state[key] = self.state("")[key].clone();
            }
        }
        state
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

    /// That a process has this id proves nothing: without its start it is no known one.
    fn stat(&self) -> Option<Stat> {
        let stat = Stat::read(self.pid)?;
        let is_it = self.is_of_this_boot && self.start_time == Some(stat.start_time);
        (is_it && !stat.has_ended()).then_some(stat)
    }
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
        let unknown = Process {
            start_time: None,
            ..process
        };
        assert!(!unknown.is_alive());
    }

    #[test]
    fn a_process_of_an_earlier_boot_is_gone() {
        let own = i32::try_from(std::process::id()).expect("process ids are positive");
        let mut state = Process::of_child(own).state("");
        assert!(state["boot_id"].is_string(), "{state}");
        let alive = |state: &Value| {
            let process = State::parse(state).expect("it names a process").process;
            assert_eq!(process.is_alive(), process.is_listed());
            process.is_alive()
        };
        assert!(alive(&state));
        state["boot_id"] = json!("another");
        assert!(!alive(&state));
        // As it was written before the boot's name was.
        state.as_object_mut().expect("an object").remove("boot_id");
        assert!(alive(&state));
    }
}

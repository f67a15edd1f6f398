//! Transient scopes of systemd, made over its bus by `busctl`, which comes with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::files::{self, Hierarchies};
use super::{FAMILY, Wanted, counts};

/// Exists as long as systemd is the machine's first process.
const RUNS: &str = "/run/systemd/system";
/// How long systemd gets to move us.
const MOVING: Duration = Duration::from_secs(15);
/// How long the controllers get to follow.
const FOLLOWING: Duration = Duration::from_secs(2);

/// Whether systemd can be asked for a scope.
pub(super) fn runs() -> bool {
    Path::new(RUNS).is_dir() && busctl().is_some()
}

fn busctl() -> Option<PathBuf> {
    ["/usr/bin/busctl", "/bin/busctl"]
        .iter()
        .map(PathBuf::from)
        .find(|program| program.is_file())
}

/// A scope with the keeper and the server in it. It goes with the last of its processes, which is the
/// keeper, so that what the kernel counted can be read after the server's end.
pub(super) struct Scope {
    /// The unit's own folder for memory, if it has one: never that of a group it is in.
    memory: Option<PathBuf>,
}

impl Scope {
    /// Moves this process into a new scope; its children are born there.
    pub(super) fn create(wanted: &Wanted) -> Result<Self, String> {
        let program = busctl().ok_or("busctl is missing")?;
        let unit = unit(wanted);
        let output = Command::new(program)
            .args(arguments(wanted, std::process::id()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| format!("busctl cannot be run: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(200).collect();
            return Err(format!("systemd makes no unit {unit}: {said}"));
        }
        let is_moved =
            || fs::read_to_string("/proc/self/cgroup").is_ok_and(|own| is_in(&own, &unit));
        if !becomes(MOVING, is_moved) {
            return Err(format!("systemd does not put us into its unit {unit}"));
        }
        // Controllers follow one by one; on a machine that lacks one, it never does.
        becomes(FOLLOWING, || {
            let groups = Hierarchies::of_this_machine();
            (!wanted.memory() || is_of(groups.own("memory").as_deref(), &unit))
                && (!wanted.processor() || is_of(groups.own("cpu").as_deref(), &unit))
        });
        let memory = Hierarchies::of_this_machine().own("memory");
        Ok(Self {
            memory: memory.filter(|folder| is_of(Some(folder), &unit)),
        })
    }

    pub(super) fn was_out_of_memory(&self) -> bool {
        self.memory.as_ref().is_some_and(|folder| {
            counts(&folder.join("memory.events"), "oom_kill")
                || counts(&folder.join("memory.oom_control"), "oom_kill")
        })
    }

    /// Ends what else is in it; we end soon ourselves.
    pub(super) fn remove(self) {
        if let Some(folder) = self.memory {
            files::end_processes(&folder);
        }
    }
}

/// Waits until something is so; says whether it is.
fn becomes(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        files::pause();
    }
}

/// Whether a folder is that of the unit's group.
fn is_of(folder: Option<&Path>, unit: &str) -> bool {
    folder
        .and_then(Path::file_name)
        .is_some_and(|name| name == unit)
}

fn unit(wanted: &Wanted) -> String {
    format!("{}.scope", wanted.name)
}

/// Whether the text of `/proc/<pid>/cgroup` says that a process is in the unit.
fn is_in(own: &str, unit: &str) -> bool {
    own.lines()
        .filter_map(|line| line.rsplit_once('/'))
        .any(|(_, last)| last == unit)
}

/// What `busctl` is called with: nothing of it is secret.
fn arguments(wanted: &Wanted, pid: u32) -> Vec<String> {
    let mut properties = vec![
        (
            "Description",
            "s",
            "A single-user server of JupyterHub".to_owned(),
        ),
        ("Slice", "s", format!("{FAMILY}.slice")),
        ("PIDs", "au", format!("1 {pid}")),
        ("CollectMode", "s", "inactive-or-failed".to_owned()),
    ];
    let mut number = |name, value: Option<u64>| {
        properties.extend(value.map(|value| (name, "t", value.to_string())));
    };
    number("MemoryMax", wanted.mem_limit);
    number("MemorySwapMax", wanted.mem_limit.map(|_| 0));
    number("MemoryLow", wanted.mem_guarantee);
    number("CPUQuotaPerSecUSec", wanted.quota);
    number(
        "CPUWeight",
        wanted.share.map(|share| share.clamp(1, 10_000)),
    );

    let mut arguments: Vec<String> = [
        "--system",
        "--timeout=15",
        "call",
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.extend([
        unit(wanted),
        "fail".to_owned(),
        properties.len().to_string(),
    ]);
    for (name, kind, value) in properties {
        arguments.extend([name.to_owned(), kind.to_owned()]);
        // An array is its length and its members, each a word.
        match kind {
            "au" => arguments.extend(value.split(' ').map(str::to_owned)),
            _ => arguments.push(value),
        }
    }
    arguments.push("0".to_owned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_asks_for_a_scope_with_these_limits() {
        let wanted = Wanted {
            name: "orrery-ada".to_owned(),
            mem_limit: Some(1 << 29),
            mem_guarantee: Some(1 << 28),
            quota: Some(1_500_000),
            share: Some(25),
        };
        let line = arguments(&wanted, 4711).join(" ");
        assert_eq!(
            line,
            "--system --timeout=15 call org.freedesktop.systemd1 /org/freedesktop/systemd1 \
             org.freedesktop.systemd1.Manager StartTransientUnit ssa(sv)a(sa(sv)) \
             orrery-ada.scope fail 9 \
             Description s A single-user server of JupyterHub Slice s orrery.slice \
             PIDs au 1 4711 CollectMode s inactive-or-failed \
             MemoryMax t 536870912 MemorySwapMax t 0 MemoryLow t 268435456 \
             CPUQuotaPerSecUSec t 1500000 CPUWeight t 25 0"
        );
    }

    #[test]
    fn only_the_units_own_folder_is_taken_for_its_group() {
        for (folder, expected) in [
            ("/sys/fs/cgroup/memory/orrery.slice/orrery-ada.scope", true),
            ("/sys/fs/cgroup/memory/orrery.slice", false),
            ("/sys/fs/cgroup/memory", false),
            ("/", false),
        ] {
            let found = is_of(Some(Path::new(folder)), "orrery-ada.scope");
            assert_eq!(found, expected, "{folder}");
        }
        assert!(!is_of(None, "orrery-ada.scope"));
    }

    #[test]
    fn a_process_is_in_its_scope_when_its_group_is_named_so() {
        let own = "4:memory:/orrery.slice/orrery-ada.scope\n0::/orrery.slice/orrery-ada.scope\n";
        assert!(is_in(own, "orrery-ada.scope"));
        assert!(!is_in(own, "ada.scope"));
        assert!(!is_in(
            "0::/system.slice/orrery.service\n",
            "orrery-ada.scope"
        ));
    }
}

//! Limits of memory and processor: by systemd where it runs, else by control groups of version 2, else
//! by those of version 1.
//!
//! On a machine that offers none of these, servers run without. The hub asks by [`abilities`] what can
//! be had, and tells its administrator.

mod files;
mod systemd;

use std::path::Path;

use nix::unistd::Pid;
use orrery_session::protocol::{Abilities, Limits};

use self::files::{Hierarchies, Legacy, Unified};
use self::systemd::Scope;

/// The folder in which our groups are made, and the slice of our units.
const FAMILY: &str = "orrery";
/// The length of the periods in which processor time is given, in microseconds.
const PERIOD: u64 = 100_000;

/// What holds a server to its limits.
pub(crate) struct Group(Kind);

enum Kind {
    /// A unit of systemd's.
    Scope(Scope),
    /// A group of version 2.
    Unified(Unified),
    /// Groups of version 1.
    Legacy(Legacy),
    /// Nothing is limited, or nothing can be.
    Nothing,
}

impl Group {
    /// Makes the group, as root, before the server's process exists; a sentence when it cannot be made.
    pub(crate) fn create(limits: &Limits) -> Result<Self, String> {
        let wanted = Wanted::of(limits)?;
        if !wanted.memory() && !wanted.processor() {
            return Ok(Self(Kind::Nothing));
        }
        let refuse = |error: String| format!("The server's limits cannot be set: {error}.");
        if systemd::runs() {
            return Scope::create(&wanted)
                .map(|scope| Self(Kind::Scope(scope)))
                .map_err(refuse);
        }
        let hierarchies = Hierarchies::of_this_machine();
        if let Some(parent) = hierarchies.unified(&wanted) {
            return Unified::create(&parent, &wanted)
                .map(|group| Self(Kind::Unified(group)))
                .map_err(refuse);
        }
        let (memory, processor) = hierarchies.legacy(&wanted);
        if memory.is_none() && processor.is_none() {
            return Ok(Self(Kind::Nothing));
        }
        Legacy::create(memory.as_deref(), processor.as_deref(), &wanted)
            .map(|groups| Self(Kind::Legacy(groups)))
            .map_err(refuse)
    }

    /// Puts the server's process into the group, as root, before it runs anything of the user's.
    pub(crate) fn take_in(&self, pid: Pid) -> Result<(), String> {
        let taken = match &self.0 {
            // The server is born in the scope of its keeper.
            Kind::Nothing | Kind::Scope(_) => Ok(()),
            Kind::Unified(group) => group.take_in(pid),
            Kind::Legacy(groups) => groups.take_in(pid),
        };
        taken.map_err(|error| format!("The server's limits cannot be set: {error}."))
    }

    /// Whether anything in the group was killed for memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        match &self.0 {
            Kind::Nothing => false,
            Kind::Scope(scope) => scope.was_out_of_memory(),
            Kind::Unified(group) => group.was_out_of_memory(),
            Kind::Legacy(groups) => groups.was_out_of_memory(),
        }
    }

    /// Ends what is left in the group, and removes it.
    pub(crate) fn remove(self) {
        match self.0 {
            Kind::Nothing => {}
            Kind::Scope(scope) => scope.remove(),
            Kind::Unified(group) => group.remove(),
            Kind::Legacy(groups) => groups.remove(),
        }
    }
}

/// What this machine can hold servers to.
pub(crate) fn abilities() -> Abilities {
    let everything = Wanted::probe();
    let hierarchies = Hierarchies::of_this_machine();
    if systemd::runs() {
        return Abilities {
            by: Some("systemd".to_owned()),
            memory: hierarchies.offer("memory"),
            processor: hierarchies.offer("cpu"),
        };
    }
    if let Some(parent) = hierarchies.unified(&everything)
        && let Ok(group) = Unified::create(&parent, &everything)
    {
        let abilities = Abilities {
            by: Some("control groups, version 2".to_owned()),
            memory: group.has("memory.max"),
            processor: group.has("cpu.max"),
        };
        group.remove();
        return abilities;
    }
    let (memory, processor) = hierarchies.legacy(&everything);
    if (memory.is_some() || processor.is_some())
        && let Ok(groups) = Legacy::create(memory.as_deref(), processor.as_deref(), &everything)
    {
        groups.remove();
        return Abilities {
            by: Some("control groups, version 1".to_owned()),
            memory: memory.is_some(),
            processor: processor.is_some(),
        };
    }
    Abilities::default()
}

/// Limits that were checked, in the kernel's units.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    name: String,
    mem_limit: Option<u64>,
    mem_guarantee: Option<u64>,
    /// Microseconds of processor time in each second.
    quota: Option<u64>,
    /// Hundredths of a core.
    share: Option<u64>,
}

impl Wanted {
    fn of(limits: &Limits) -> Result<Self, String> {
        let name = &limits.name;
        let is_sound = !name.is_empty()
            && name.len() <= 128
            && !name.starts_with(['.', '-'])
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte));
        if !is_sound {
            return Err(format!("{name:?} is no name for a group of processes."));
        }
        Ok(Self {
            name: name.clone(),
            mem_limit: limits.mem_limit.filter(|bytes| *bytes > 0),
            mem_guarantee: limits.mem_guarantee.filter(|bytes| *bytes > 0),
            // The kernel gives out no less than a thousandth of a second.
            quota: scaled(limits.cpu_limit, 1e6).map(|quota| quota.max(10_000)),
            share: scaled(limits.cpu_guarantee, 100.0).map(|share| share.max(1)),
        })
    }

    /// Harmless limits of every kind, for seeing what can be set.
    fn probe() -> Self {
        Self {
            name: format!("probe-{}", std::process::id()),
            mem_limit: Some(1 << 40),
            mem_guarantee: None,
            quota: Some(1_000_000),
            share: None,
        }
    }

    fn memory(&self) -> bool {
        self.mem_limit.is_some() || self.mem_guarantee.is_some()
    }

    fn processor(&self) -> bool {
        self.quota.is_some() || self.share.is_some()
    }

    /// The quota of a period.
    fn quota_of_period(&self) -> Option<u64> {
        self.quota.map(|quota| quota / (1_000_000 / PERIOD))
    }
}

/// A number of cores in another unit, as a whole number; nothing for what limits nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded just before"
)]
fn scaled(cores: Option<f64>, unit: f64) -> Option<u64> {
    let cores = cores.filter(|cores| cores.is_finite() && *cores > 0.0)?;
    Some((cores.min(1e6) * unit).round() as u64)
}

/// Whether a file with lines of `key value` counts anything under `key`.
fn counts(path: &Path, key: &str) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .any(|(name, count)| name == key && count.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_and_counted_in_the_kernels_units() {
        let limits = Limits {
            name: "orrery-ada".to_owned(),
            mem_limit: Some(1 << 29),
            mem_guarantee: Some(0),
            cpu_limit: Some(1.5),
            cpu_guarantee: Some(0.25),
        };
        let wanted = Wanted::of(&limits).expect("sound");
        assert_eq!(wanted.mem_limit, Some(1 << 29));
        assert_eq!(wanted.mem_guarantee, None);
        assert_eq!(wanted.quota, Some(1_500_000));
        assert_eq!(wanted.quota_of_period(), Some(150_000));
        assert_eq!(wanted.share, Some(25));
        for (cores, quota) in [
            (0.0, None),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (0.000_1, Some(10_000)),
            (1e300, Some(1_000_000_000_000)),
        ] {
            let limits = Limits {
                cpu_limit: Some(cores),
                ..limits.clone()
            };
            assert_eq!(Wanted::of(&limits).expect("sound").quota, quota, "{cores}");
        }
        for name in [
            "",
            "..",
            "../x",
            "a/b",
            "-a",
            "a b",
            "a\n",
            &"a".repeat(200),
        ] {
            let limits = Limits {
                name: name.to_owned(),
                ..limits.clone()
            };
            assert!(Wanted::of(&limits).is_err(), "{name}");
        }
    }
}

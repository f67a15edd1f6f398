//! Control groups, by their files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{FAMILY, PERIOD, Wanted, counts};

/// How long what is left in a group gets to end by force.
const EMPTYING: Duration = Duration::from_secs(5);
/// The largest weight that version 2 knows.
const HEAVIEST: u64 = 10_000;

/// Where the groups of this machine are, and which of them is ours.
pub(super) struct Hierarchies {
    /// `/proc/self/mountinfo`.
    mounts: String,
    /// `/proc/self/cgroup`.
    own: String,
}

/// A mounted hierarchy.
struct Mount {
    point: PathBuf,
    /// What of the hierarchy is mounted there.
    root: String,
}

impl Hierarchies {
    pub(super) fn of_this_machine() -> Self {
        Self {
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            own: fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        }
    }

    #[cfg(test)]
    fn new(mounts: &str, own: &str) -> Self {
        Self {
            mounts: mounts.to_owned(),
            own: own.to_owned(),
        }
    }

    /// The folder of version 2 in which groups can be made that are held to something wanted: the one
    /// nearest above us in which that is so.
    pub(super) fn unified(&self, wanted: &Wanted) -> Option<PathBuf> {
        let mount = self.mount(|kind, _| kind == "cgroup2")?;
        let own = folder_of(&mount, self.own_path(str::is_empty));
        own.ancestors()
            .take_while(|folder| folder.starts_with(&mount.point))
            .find(|folder| Unified::prepare(folder, wanted).is_ok())
            .map(Path::to_owned)
    }

    /// The folders of version 1 for memory and processor, where they are wanted and can be had.
    pub(super) fn legacy(&self, wanted: &Wanted) -> (Option<PathBuf>, Option<PathBuf>) {
        let folder = |controller: &str, is_wanted: bool| {
            let mount = self.mount(|kind, options| {
                is_wanted && kind == "cgroup" && options.split(',').any(|own| own == controller)
            })?;
            let path =
                self.own_path(|controllers| controllers.split(',').any(|own| own == controller));
            [folder_of(&mount, path), mount.point.clone()]
                .into_iter()
                .find(|folder| fs::create_dir_all(folder.join(FAMILY)).is_ok())
        };
        (
            folder("memory", wanted.memory()),
            folder("cpu", wanted.processor()),
        )
    }

    /// The folder of our own group for a controller, of whichever version.
    pub(super) fn own(&self, controller: &str) -> Option<PathBuf> {
        let has = |list: &str| list.split(',').any(|own| own == controller);
        if let Some(mount) = self.mount(|kind, options| kind == "cgroup" && has(options)) {
            return Some(folder_of(&mount, self.own_path(has)));
        }
        let mount = self.mount(|kind, _| kind == "cgroup2")?;
        Some(folder_of(&mount, self.own_path(str::is_empty)))
    }

    /// Whether the kernel offers a controller at all, in either version.
    pub(super) fn offer(&self, controller: &str) -> bool {
        let has = |list: &str| list.split(',').any(|own| own == controller);
        if self
            .mount(|kind, options| kind == "cgroup" && has(options))
            .is_some()
        {
            return true;
        }
        let Some(mount) = self.mount(|kind, _| kind == "cgroup2") else {
            return false;
        };
        fs::read_to_string(mount.point.join("cgroup.controllers"))
            .is_ok_and(|offered| offered.split_whitespace().any(|own| own == controller))
    }

    /// The first mount of which `fits` says so, told its kind and its options.
    fn mount(&self, fits: impl Fn(&str, &str) -> bool) -> Option<Mount> {
        self.mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ');
            let (kind, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
            let mut place = place.split(' ').skip(3);
            let (root, point) = (place.next()?, place.next()?);
            fits(kind, options).then(|| Mount {
                point: point.into(),
                root: root.to_owned(),
            })
        })
    }

    /// Our group in the hierarchy of which `fits` says so, told its controllers.
    fn own_path(&self, fits: impl Fn(&str) -> bool) -> &str {
        self.own
            .lines()
            .find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                fits(controllers).then_some(path)
            })
            .unwrap_or("/")
    }
}

/// Where a group stands below a mount; in a container, its path may lead nowhere.
fn folder_of(mount: &Mount, path: &str) -> PathBuf {
    let below = path.strip_prefix(mount.root.as_str()).unwrap_or(path);
    let folder = mount.point.join(below.trim_start_matches('/'));
    let leads_out = below.split('/').any(|part| part == "..");
    if folder.is_dir() && !leads_out {
        folder
    } else {
        mount.point.clone()
    }
}

/// A group of version 2.
pub(super) struct Unified {
    folder: PathBuf,
}

impl Unified {
    /// Lets groups below `parent` be held to what is wanted, as far as its controllers go; an error
    /// if they go nowhere.
    fn prepare(parent: &Path, wanted: &Wanted) -> io::Result<()> {
        let family = parent.join(FAMILY);
        let offered = fs::read_to_string(parent.join("cgroup.controllers"))?;
        let offered: Vec<&str> = offered.split_whitespace().collect();
        let mut is_any = false;
        for (controller, is_wanted) in [("memory", wanted.memory()), ("cpu", wanted.processor())] {
            if !is_wanted || !offered.contains(&controller) {
                continue;
            }
            // Refused where processes stand in the group itself, which then cannot be ours.
            enable(parent, controller)?;
            make(&family)?;
            enable(&family, controller)?;
            is_any = true;
        }
        if is_any {
            Ok(())
        } else {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    pub(super) fn create(parent: &Path, wanted: &Wanted) -> Result<Self, String> {
        let group = Self {
            folder: parent.join(FAMILY).join(&wanted.name),
        };
        group.fill(parent, wanted).map_err(|error| {
            let _ = fs::remove_dir(&group.folder);
            format!("{}: {error}", group.folder.display())
        })?;
        group.sum_up();
        Ok(group)
    }

    fn fill(&self, parent: &Path, wanted: &Wanted) -> io::Result<()> {
        // The last of the others may just go, and what ours are in with it.
        let mut attempts = 5;
        while let Err(error) = Self::prepare(parent, wanted).and_then(|()| self.make(parent)) {
            attempts -= 1;
            if attempts == 0 {
                return Err(error);
            }
        }
        let quota = wanted.quota_of_period();
        let settings = [
            (
                "memory.max",
                wanted.mem_limit.map(|bytes| bytes.to_string()),
            ),
            // What is over the limit should not go on in swap, slower than anybody wants.
            ("memory.swap.max", wanted.mem_limit.map(|_| "0".to_owned())),
            (
                "memory.low",
                wanted.mem_guarantee.map(|bytes| bytes.to_string()),
            ),
            ("cpu.max", quota.map(|quota| format!("{quota} {PERIOD}"))),
            (
                "cpu.weight",
                wanted.share.map(|share| share.min(HEAVIEST).to_string()),
            ),
        ];
        for (file, value) in settings {
            if let Some(value) = value
                && self.has(file)
            {
                set(&self.folder.join(file), &value)?;
            }
        }
        Ok(())
    }

    /// Makes the group, with all controllers that those around it let it have.
    fn make(&self, parent: &Path) -> io::Result<()> {
        make(&self.folder)?;
        let enabled = fs::read_to_string(parent.join(FAMILY).join("cgroup.subtree_control"))?;
        let is_short = |controller, file| enabled.contains(controller) && !self.has(file);
        if is_short("memory", "memory.max") || is_short("cpu", "cpu.max") {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    }

    /// Whether the group has a file, which it has when it can be held to it.
    pub(super) fn has(&self, file: &str) -> bool {
        self.folder.join(file).exists()
    }

    pub(super) fn take_in(&self, pid: Pid) -> Result<(), String> {
        enter(&self.folder, pid)
    }

    pub(super) fn was_out_of_memory(&self) -> bool {
        counts(&self.folder.join("memory.events"), "oom_kill")
    }

    pub(super) fn remove(self) {
        let _ = set(&self.folder.join("cgroup.kill"), "1");
        empty(&self.folder);
        self.sum_up();
        remove_family(&self.folder);
    }

    /// A guarantee holds as far as the groups above guarantee it, too: ours together get the sum.
    fn sum_up(&self) {
        let Some(family) = self.folder.parent() else {
            return;
        };
        let guaranteed: u64 = fs::read_dir(family)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path().join("memory.low")).ok())
            .filter_map(|bytes| bytes.trim().parse::<u64>().ok())
            .sum();
        let _ = set(&family.join("memory.low"), &guaranteed.to_string());
    }
}

/// Groups of version 1, one for each controller.
pub(super) struct Legacy {
    memory: Option<PathBuf>,
    processor: Option<PathBuf>,
}

impl Legacy {
    pub(super) fn create(
        memory: Option<&Path>,
        processor: Option<&Path>,
        wanted: &Wanted,
    ) -> Result<Self, String> {
        let below = |parent: &Path| parent.join(FAMILY).join(&wanted.name);
        let groups = Self {
            memory: memory.map(below),
            processor: processor.map(below),
        };
        if let Err(error) = groups.fill(wanted) {
            let names: Vec<_> = groups
                .folders()
                .map(|folder| folder.display().to_string())
                .collect();
            groups.remove();
            return Err(format!("{}: {error}", names.join(", ")));
        }
        Ok(groups)
    }

    fn fill(&self, wanted: &Wanted) -> io::Result<()> {
        if let Some(folder) = &self.memory {
            make(folder)?;
            if let Some(bytes) = wanted.mem_limit {
                let bytes = bytes.to_string();
                set(&folder.join("memory.limit_in_bytes"), &bytes)?;
                // Memory and swap together; the file is missing where swap is not counted.
                let with_swap = folder.join("memory.memsw.limit_in_bytes");
                if with_swap.exists() {
                    set(&with_swap, &bytes)?;
                }
            }
            if let Some(bytes) = wanted.mem_guarantee {
                set(
                    &folder.join("memory.soft_limit_in_bytes"),
                    &bytes.to_string(),
                )?;
            }
        }
        if let Some(folder) = &self.processor {
            make(folder)?;
            if let Some(quota) = wanted.quota_of_period() {
                set(&folder.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
                set(&folder.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
            if let Some(share) = wanted.share {
                // A core is 1024 of these.
                let shares = (share.saturating_mul(1024) / 100).clamp(2, 262_144);
                set(&folder.join("cpu.shares"), &shares.to_string())?;
            }
        }
        Ok(())
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.memory.iter().chain(&self.processor)
    }

    pub(super) fn take_in(&self, pid: Pid) -> Result<(), String> {
        self.folders().try_for_each(|folder| enter(folder, pid))
    }

    pub(super) fn was_out_of_memory(&self) -> bool {
        let counts = |folder: &PathBuf| counts(&folder.join("memory.oom_control"), "oom_kill");
        self.memory.as_ref().is_some_and(counts)
    }

    pub(super) fn remove(self) {
        for folder in self.folders() {
            empty(folder);
            remove_family(folder);
        }
    }
}

/// Lets the groups below `folder` have a controller.
fn enable(folder: &Path, controller: &str) -> io::Result<()> {
    let file = folder.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file)?;
    if enabled.split_whitespace().any(|own| own == controller) {
        return Ok(());
    }
    set(&file, &format!("+{controller}"))
}

/// Makes a group, and the one that ours are in; that may go at any time, when its last group does.
fn make(folder: &Path) -> io::Result<()> {
    let mut attempts = 5;
    loop {
        match fs::create_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts > 0 => attempts -= 1,
            made => return made,
        }
    }
}

/// Sets a file of a group. The kernel takes a value at once or not at all.
fn set(file: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

fn enter(folder: &Path, pid: Pid) -> Result<(), String> {
    let file = folder.join("cgroup.procs");
    set(&file, &pid.to_string()).map_err(|error| format!("{}: {error}", file.display()))
}

/// Ends what is left in a group, and removes it.
fn empty(folder: &Path) {
    let deadline = Instant::now() + EMPTYING;
    loop {
        end_processes(folder);
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            // Removed, or gone; of a group with groups of its own nothing is known.
            _ => return,
        }
        if Instant::now() >= deadline {
            return;
        }
        pause();
    }
}

/// Ends all processes of a group but our own.
pub(super) fn end_processes(folder: &Path) {
    let own = Pid::this();
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        let pid = Pid::from_raw(pid);
        if pid.as_raw() > 1 && pid != own {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Removes the group that ours are in, if this was the last.
fn remove_family(folder: &Path) {
    if let Some(family) = folder.parent() {
        let _ = fs::remove_dir(family);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this program has no runtime that it could block"
)]
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            name: "ada".to_owned(),
            mem_limit: Some(1 << 29),
            mem_guarantee: Some(1 << 28),
            quota: Some(1_500_000),
            share: Some(25),
        }
    }

    /// A folder with the files that a kernel would make, which take whatever is written.
    struct FakeFolder(TempDir);

    impl FakeFolder {
        fn new(controllers: &str) -> Self {
            let fake = Self(tempfile::tempdir().expect("a folder"));
            fake.group("", controllers);
            fake
        }

        fn group(&self, name: &str, controllers: &str) {
            let folder = self.0.path().join(name);
            fs::create_dir_all(&folder).expect("a folder");
            for (file, text) in [
                ("cgroup.controllers", controllers),
                ("cgroup.subtree_control", ""),
                ("cgroup.procs", ""),
                ("cgroup.kill", ""),
                ("memory.max", "max"),
                ("memory.low", "0"),
                ("cpu.max", "max 100000"),
                ("cpu.weight", "100"),
                ("memory.events", "low 0\noom 0\noom_kill 0\n"),
            ] {
                fs::write(folder.join(file), text).expect("a file");
            }
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.path().join(path)).expect("a file")
        }

        fn hierarchies(&self, own: &str) -> Hierarchies {
            let mounts = format!(
                "24 1 0:22 / /proc rw - proc proc rw\n\
                 30 23 0:26 / {} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
                self.0.path().display()
            );
            Hierarchies::new(&mounts, own)
        }
    }

    #[test]
    fn a_group_of_version_2_is_written_as_the_kernel_reads_it_in_a_fake_folder() {
        let fake = FakeFolder::new("cpuset cpu io memory pids");
        fake.group("orrery", "cpu memory");
        fake.group("orrery/ada", "cpu memory");
        fake.group("orrery/bob", "cpu memory");
        fs::write(fake.0.path().join("orrery/bob/memory.low"), "1000").expect("a file");
        let parent = fake.hierarchies("0::/\n").unified(&wanted());
        let parent = parent.expect("both controllers are there");
        assert_eq!(parent, fake.0.path());
        let group = Unified::create(&parent, &wanted()).expect("it can be written");
        for (file, expected) in [
            ("cgroup.subtree_control", "+cpu"),
            ("orrery/cgroup.subtree_control", "+cpu"),
            ("orrery/ada/memory.max", "536870912"),
            ("orrery/ada/memory.low", "268435456"),
            ("orrery/memory.low", "268436456"),
            ("orrery/ada/cpu.max", "150000 100000"),
            ("orrery/ada/cpu.weight", "25"),
        ] {
            // Written over and over, a fake file keeps the rest of a longer text.
            assert!(
                fake.read(file).starts_with(expected),
                "{file}: {}",
                fake.read(file)
            );
        }
        assert!(!group.has("memory.swap.max"));
        group
            .take_in(Pid::from_raw(4711))
            .expect("it can be written");
        assert_eq!(fake.read("orrery/ada/cgroup.procs"), "4711");
        assert!(!group.was_out_of_memory());
        let events = fake.0.path().join("orrery/ada/memory.events");
        fs::write(events, "low 0\noom 1\noom_kill 1\n").expect("a file");
        assert!(group.was_out_of_memory());
    }

    #[test]
    fn without_controllers_there_are_no_groups_of_version_2() {
        let fake = FakeFolder::new("hugetlb pids");
        assert_eq!(fake.hierarchies("0::/\n").unified(&wanted()), None);
        assert!(!fake.hierarchies("0::/\n").offer("memory"));
        assert!(fake.hierarchies("0::/\n").offer("pids"));
        let nothing = Hierarchies::new("", "");
        assert!(!nothing.offer("memory"));
        assert_eq!(nothing.unified(&wanted()), None);
        assert_eq!(nothing.legacy(&wanted()), (None, None));
    }

    #[test]
    fn groups_are_made_in_our_own_or_the_nearest_that_can_have_some() {
        let fake = FakeFolder::new("cpu memory");
        fake.group("site", "cpu memory");
        fake.group("site/orrery", "cpu memory");
        fake.group("site/leaf", "");
        let found = fake.hierarchies("0::/site/leaf\n").unified(&wanted());
        assert_eq!(found, Some(fake.0.path().join("site")));
        // A path from outside of a container leads nowhere.
        fake.group("orrery", "cpu memory");
        for own in ["0::/../../x\n", "0::/docker/none\n"] {
            let found = fake.hierarchies(own).unified(&wanted());
            assert_eq!(found.as_deref(), Some(fake.0.path()), "{own}");
        }
    }

    #[test]
    fn hierarchies_of_version_1_are_found_by_their_controllers() {
        let folder = tempfile::tempdir().expect("a folder");
        let point = |name: &str| folder.path().join(name);
        fs::create_dir_all(point("memory/site")).expect("a folder");
        fs::create_dir_all(point("cpu,cpuacct")).expect("a folder");
        let mounts = format!(
            "31 23 0:27 / {} rw shared:9 - cgroup cgroup rw,memory\n\
             32 23 0:28 / {} rw - cgroup cgroup rw,cpu,cpuacct\n",
            point("memory").display(),
            point("cpu,cpuacct").display(),
        );
        let hierarchies = Hierarchies::new(&mounts, "4:memory:/site\n3:cpu,cpuacct:/gone\n0::/\n");
        let expected = (Some(point("memory/site")), Some(point("cpu,cpuacct")));
        assert_eq!(hierarchies.legacy(&wanted()), expected);
        assert_eq!(hierarchies.own("memory"), Some(point("memory/site")));
        let only_memory = Wanted {
            quota: None,
            share: None,
            ..wanted()
        };
        assert_eq!(hierarchies.legacy(&only_memory), (expected.0, None));
    }
}

//! Real accounts for tests: made for one test, removed at its end.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Leaves tests that need root out when it is set.
const WITHOUT_ROOT: &str = "ORRERY_TEST_WITHOUT_ROOT";

/// Whether this test can do what only root can. A test that cannot fails, unless whoever runs it said
/// that these tests are to be left out.
///
/// # Panics
///
/// When the test does not run as root and nobody said so.
pub fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os(WITHOUT_ROOT).is_some(),
        "this test makes system users and must run as root; {WITHOUT_ROOT}=1 leaves it out"
    );
    false
}

/// A system account with a home folder, a group of its own and, when asked, one group more.
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its home.
    pub home: PathBuf,
    /// Its user id.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    groups: Vec<String>,
}

impl Account {
    /// Makes an account whose shell is bash.
    pub fn new() -> Self {
        Self::with(&["--create-home", "--shell", "/bin/bash"])
    }

    /// Makes an account with these options of `useradd`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn with(options: &[&str]) -> Self {
        Self::named(Self::free_name(), options)
    }

    /// A name that no account has.
    pub fn free_name() -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        format!("orrery-t{}-{number}", std::process::id())
    }

    /// Makes an account with this name and these options of `useradd`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn named(name: String, options: &[&str]) -> Self {
        let mut arguments = options.to_vec();
        arguments.extend(["--user-group", &name]);
        change("useradd", &arguments);
        Self::existing(name)
    }

    /// An account that the test had made in another way, to be removed like the others.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn existing(name: String) -> Self {
        let made = nix::unistd::User::from_name(&name)
            .expect("the accounts can be read")
            .expect("the account was made");
        Self {
            name,
            home: made.dir,
            uid: made.uid.as_raw(),
            gid: made.gid.as_raw(),
            groups: Vec::new(),
        }
    }

    /// Makes a group and puts the account into it; gives the group's name and id.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn join_new_group(&mut self) -> (String, u32) {
        let group = format!("{}-g{}", self.name, self.groups.len());
        change("groupadd", &[&group]);
        change("usermod", &["--append", "--groups", &group, &self.name]);
        let made = nix::unistd::Group::from_name(&group)
            .expect("the groups can be read")
            .expect("the group was made");
        self.groups.push(group.clone());
        (group, made.gid.as_raw())
    }

    /// Sets its password, as the bytes that are given.
    ///
    /// # Panics
    ///
    /// When it cannot be set.
    pub fn set_password(&self, password: &[u8]) {
        let line = [self.name.as_bytes(), b":", password, b"\n"].concat();
        let mut child = Command::new("chpasswd")
            .stdin(Stdio::piped())
            .spawn()
            .expect("chpasswd runs");
        let mut input = child.stdin.take().expect("it is a pipe");
        input.write_all(&line).expect("chpasswd reads");
        drop(input);
        assert!(child.wait().expect("chpasswd ends").success());
    }

    /// Runs a program that changes the account, whose name is put at the end.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn change(&self, program: &str, arguments: &[&str]) {
        let mut arguments = arguments.to_vec();
        arguments.push(&self.name);
        change(program, &arguments);
    }

    /// The processes that run as this account.
    pub fn processes(&self) -> Vec<i32> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let wanted = format!("Uid:\t{0}\t{0}\t", self.uid);
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/status"))
                    .is_ok_and(|status| status.contains(&wanted) && !status.contains("State:\tZ"))
            })
            .collect()
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        for pid in self.processes() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        try_change("userdel", &["--force", "--remove", &self.name]);
        for group in &self.groups {
            try_change("groupdel", &[group]);
        }
    }
}

fn change(program: &str, arguments: &[&str]) {
    if let Some(complaint) = try_change(program, arguments) {
        panic!("{program} {arguments:?}: {complaint}");
    }
}

/// Runs a program that changes the accounts. Only one may at a time: it is tried again for a while.
fn try_change(program: &str, arguments: &[&str]) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let complaint = match Command::new(program).args(arguments).output() {
            Ok(output) if output.status.success() => return None,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        if !complaint.contains("lock") || Instant::now() > deadline {
            return Some(complaint);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no runtime that this could block for long"
        )]
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A PAM service that exists during one test.
pub struct PamService {
    /// Its name.
    pub name: String,
    path: PathBuf,
}

impl PamService {
    /// Describes a service by these lines.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn new(lines: &str) -> Self {
        let name = Account::free_name();
        let path = PathBuf::from("/etc/pam.d").join(&name);
        fs::write(&path, lines).expect("root may describe services");
        Self { name, path }
    }
}

impl Drop for PamService {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

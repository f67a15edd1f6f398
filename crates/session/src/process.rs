//! What the system is asked for without a safe function in a library, and what `/proc` says.
//!
//! Most of this crate's `unsafe` stands here, one system call to a function.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

/// So much of an environment is read. No program is started with a larger one; a running process can
/// make its own appear as large as it likes.
const LARGEST_ENVIRONMENT: u64 = 8 * 1024 * 1024;

/// Closes every descriptor from `first` on.
pub(crate) fn close_descriptors_from(first: u32) {
    // SAFETY: takes no pointers. It is called when this process owns no descriptor but the standard
    // three, so none that a Rust value owns is closed under it.
    let done = unsafe { libc::close_range(first, u32::MAX, 0) };
    if done != 0 {
        // A kernel before 5.9.
        for descriptor in open_descriptors(first) {
            // SAFETY: as above.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// Lets every descriptor from `first` on end with the next exec.
pub(crate) fn seal_descriptors_from(first: u32) {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: takes no pointers and closes nothing now.
    let done = unsafe { libc::close_range(first, u32::MAX, flags) };
    if done != 0 {
        // A kernel before 5.11.
        for descriptor in open_descriptors(first) {
            // SAFETY: takes no pointers and closes nothing now.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

fn open_descriptors(first: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    // Read to the end before any is closed: the folder itself is one of them.
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|number| number.unsigned_abs() >= first)
        .collect()
}

/// Ends this process by SIGALRM after so many seconds; 0 takes that back.
pub(crate) fn end_after(seconds: u32) {
    // SAFETY: takes no pointers. No handler is installed for the signal, so nothing runs but the end.
    unsafe { libc::alarm(seconds) };
}

/// Empties this process's environment but for a `PATH` of the system's own folders: what the caller
/// set must not reach PAM's modules.
pub(crate) fn clear_environment() {
    for (name, _) in std::env::vars_os() {
        // SAFETY: this program has one thread.
        unsafe { std::env::remove_var(name) };
    }
    // SAFETY: this program has one thread.
    unsafe { std::env::set_var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin") };
}

/// Leaves the session's keyring, which this process shares with whoever called it, for a new one. A
/// system without keyrings, or one that keeps us from them, shares nothing.
pub(crate) fn leave_keyring() -> nix::Result<()> {
    let nameless: *const libc::c_char = std::ptr::null();
    // SAFETY: a null pointer is allowed for the name.
    let done = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            nameless,
        )
    };
    match Errno::result(done) {
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets this process's user find their own keys through the session's keyring, as a login does.
pub(crate) fn link_own_keys() -> nix::Result<()> {
    // SAFETY: this operation takes two numbers.
    let done = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_LINK,
            libc::KEY_SPEC_USER_KEYRING,
            libc::KEY_SPEC_SESSION_KEYRING,
        )
    };
    Errno::result(done).map(drop)
}

/// Takes back what a caller with less rights set to make root's work fail, or its files everybody's to
/// write. A umask that is stricter stays.
pub(crate) fn forget_callers_limits() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
    use nix::sys::stat::{Mode, umask};
    umask(umask(Mode::empty()) | Mode::S_IWGRP | Mode::S_IWOTH);
    for resource in [
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_DATA,
    ] {
        if setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY).is_err()
            && let Ok((_, hard)) = getrlimit(resource)
        {
            // In a container root may lack the right to raise the hard one.
            let _ = setrlimit(resource, hard, hard);
        }
    }
}

/// What a fork gives each of the two.
pub(crate) enum Forked {
    /// The child itself.
    Child,
    /// The parent, with the child's id.
    Parent(nix::unistd::Pid),
}

/// Forks.
pub(crate) fn fork() -> nix::Result<Forked> {
    // SAFETY: this program has one thread, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent(child)),
    }
}

/// Ends this process without running what the parent would run at its end.
pub(crate) fn end_now(code: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Makes this process the new parent of all that its children leave behind.
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    // SAFETY: this option takes one number.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    Errno::result(done).map(drop)
}

/// Gives the signals that this process ignores, or that Rust's runtime ignores, their meaning back.
pub(crate) fn default_signals() {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
    for signal in Signal::iterator() {
        // SAFETY: no handler is installed, the default actions only come back.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Ignores a signal.
pub(crate) fn ignore(signal: nix::sys::signal::Signal) {
    // SAFETY: no handler is installed.
    let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
}

/// A process that stays the same one: its id may be given to another, this handle is not.
pub(crate) struct Handle(OwnedFd);

impl Handle {
    /// The process that has this id now; `None` when there is none.
    pub(crate) fn open(pid: i32) -> io::Result<Option<Self>> {
        // SAFETY: takes no pointers.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match Errno::result(descriptor) {
            Ok(descriptor) => {
                let descriptor = i32::try_from(descriptor).expect("a descriptor is an int");
                // SAFETY: the call just gave us this descriptor, and nobody else has it.
                Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(descriptor) })))
            }
            Err(Errno::ESRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Signals it; says whether it was still there. Signal 0 only looks.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<bool> {
        let no_details: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: the descriptor is open, and a null pointer is allowed for the details.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                no_details,
                0,
            )
        };
        match Errno::result(done) {
            Ok(_) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What `/proc/<pid>/stat` says.
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
}

impl Stat {
    pub(crate) fn read(pid: i32) -> Option<Self> {
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
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The real user of a process: who started it, whatever setuid program it runs.
pub(crate) fn owner(pid: i32) -> Option<nix::unistd::Uid> {
    let status = read(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let real = line.split_ascii_whitespace().next()?.parse::<u32>().ok()?;
    Some(real.into())
}

/// Whether the environment that a process began with has all these entries (`name=value`).
///
/// The process's user can make this last: it is to be asked only for the sake of that user.
pub(crate) fn was_given(pid: i32, entries: &[&str]) -> bool {
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
pub(crate) fn all() -> io::Result<Vec<i32>> {
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

    #[test]
    fn a_handle_outlives_its_process_and_touches_no_other() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep runs");
        let pid = i32::try_from(child.id()).expect("an id is positive");
        let handle = Handle::open(pid).expect("allowed").expect("it runs");
        assert!(handle.signal(libc::SIGKILL).expect("allowed"));
        child.wait().expect("it ends");
        assert!(!handle.signal(0).expect("allowed"));
        assert!(Handle::open(pid).expect("allowed").is_none());
    }
}

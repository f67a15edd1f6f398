//! What the system is asked for without a safe function in a library.
//!
//! Most of this crate's `unsafe` stands here, one system call to a function.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

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

#[cfg(test)]
mod tests {
    use super::*;

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

//! Places where a build for tests can be made to die as by `kill -9`, which proves that a hub that
//! dies there loses nothing.
//!
//! Only the feature `fault-points` gives them a meaning, and only in builds with debug assertions; in
//! every other build a point is nothing at all.
//!
//! `ORRERY_FAULT=NAME:N` lets the process die when it comes by the point NAME for the N-th time.
//! `ORRERY_FAULT=@FILE` reads that from a file at each point, so that a process that runs can be
//! armed; a file that is missing or empty arms nothing.

/// A place with a name.
#[cfg(not(all(feature = "fault-points", debug_assertions)))]
#[inline]
pub const fn point(_name: &str) {}

#[cfg(all(feature = "fault-points", debug_assertions))]
pub use armed::point;

#[cfg(all(feature = "fault-points", debug_assertions))]
mod armed {
    use std::sync::{Mutex, OnceLock, PoisonError};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getpid;

    /// What is armed, and how often its point was passed.
    struct Armed {
        order: String,
        passed: u32,
    }

    static WISH: OnceLock<Option<String>> = OnceLock::new();
    static ARMED: Mutex<Armed> = Mutex::new(Armed {
        order: String::new(),
        passed: 0,
    });

    /// A place with a name. The process dies here if it is armed for it.
    pub fn point(name: &str) {
        let wish = WISH.get_or_init(|| std::env::var("ORRERY_FAULT").ok());
        let Some(wish) = wish else { return };
        let order = match wish.strip_prefix('@') {
            Some(file) => std::fs::read_to_string(file).unwrap_or_default(),
            None => wish.clone(),
        };
        let Some((wanted, count)) = order.trim().rsplit_once(':') else {
            return;
        };
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        if armed.order != order {
            armed.passed = 0;
            armed.order.clone_from(&order);
        }
        if wanted != name {
            return;
        }
        armed.passed += 1;
        if count.parse() == Ok(armed.passed) {
            // Nothing of the process goes on behind this, as with a signal from outside.
            let _ = kill(getpid(), Signal::SIGKILL);
        }
    }
}

//! Slows failed logins down, per address and per user, in bounded memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::NaiveDateTime;
use sha2::{Digest as _, Sha256};

/// Failures are forgotten after this long without a further one.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Keys remembered at most; beyond it the oldest half is forgotten.
const MAX_KEYS: usize = 20_000;

/// Whose failures are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// One name from one address: somebody guesses, or has forgotten.
    UserAt(Digest, Digest),
    /// One address, whatever the names. Many people may share it, so its waits stay short.
    Address(Digest),
    /// One name, from wherever. Its waits stay short: whoever guesses from many places must not be
    /// able to keep the name's owner out.
    User(Digest),
}

impl Key {
    /// Failures before the first wait, and the longest wait.
    fn limits(&self) -> (u32, Duration) {
        match self {
            Self::UserAt(..) => (5, Duration::from_secs(60)),
            Self::Address(_) => (30, Duration::from_secs(2)),
            Self::User(_) => (30, Duration::from_secs(5)),
        }
    }
}

/// A name or address in little memory, however long it was.
type Digest = [u8; 32];

/// The keys of a login; `user` is the normalised name.
pub fn keys(user: &str, address: &str) -> [Key; 3] {
    let user = Sha256::digest(user).into();
    let address = Sha256::digest(address).into();
    [
        Key::UserAt(user, address),
        Key::Address(address),
        Key::User(user),
    ]
}

/// Counts failed logins by key.
#[derive(Default)]
pub struct Throttle {
    failures: Mutex<HashMap<Key, Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: NaiveDateTime,
}

impl Throttle {
    /// How long a login under any of `keys` has to wait, if at all.
    pub fn wait(&self, keys: &[Key], now: NaiveDateTime) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter()
            .filter_map(|key| failures.get(key)?.wait(key.limits(), now))
            .max()
    }

    /// Counts a failure under all of `keys`.
    pub fn failed(&self, keys: &[Key], now: NaiveDateTime) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_KEYS {
            forget(&mut failures, now);
        }
        for key in keys {
            let entry = failures.entry(key.clone()).or_insert(Failures {
                count: 0,
                last: now,
            });
            if (now - entry.last).to_std().is_ok_and(|age| age > MEMORY) {
                entry.count = 0;
            }
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
        }
    }

    /// Forgets what was counted for this name after a good login. The address' count stays: one's
    /// own good login must not buy further guesses at others.
    pub fn succeeded(&self, keys: &[Key]) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys.iter().filter(|key| !matches!(key, Key::Address(_))) {
            failures.remove(key);
        }
    }
}

impl Failures {
    fn wait(self, (free, longest): (u32, Duration), now: NaiveDateTime) -> Option<Duration> {
        let beyond = self.count.checked_sub(free)?;
        let wait = Duration::from_secs(1 << beyond.min(6)).min(longest);
        let passed = (now - self.last).to_std().unwrap_or_default();
        wait.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

fn forget(failures: &mut HashMap<Key, Failures>, now: NaiveDateTime) {
    failures.retain(|_, entry| (now - entry.last).to_std().is_ok_and(|age| age <= MEMORY));
    if failures.len() >= MAX_KEYS {
        let mut times: Vec<_> = failures.values().map(|entry| entry.last).collect();
        times.sort_unstable();
        let median = times[times.len() / 2];
        failures.retain(|_, entry| entry.last > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> NaiveDateTime {
        chrono::DateTime::from_timestamp(1_700_000_000 + seconds, 0)
            .expect("a valid time")
            .naive_utc()
    }

    #[test]
    fn after_five_failures_there_are_waits_and_a_success_forgets() {
        let throttle = Throttle::default();
        let keys = keys("ada", "192.0.2.1");
        for _ in 0..4 {
            throttle.failed(&keys, at(0));
            assert_eq!(throttle.wait(&keys, at(0)), None);
        }
        throttle.failed(&keys, at(0));
        assert_eq!(throttle.wait(&keys, at(0)), Some(Duration::from_secs(1)));
        throttle.failed(&keys, at(0));
        assert_eq!(throttle.wait(&keys, at(0)), Some(Duration::from_secs(2)));
        assert_eq!(throttle.wait(&keys, at(3)), None);
        for _ in 0..20 {
            throttle.failed(&keys, at(5));
        }
        assert_eq!(throttle.wait(&keys, at(5)), Some(Duration::from_secs(60)));
        throttle.succeeded(&keys);
        assert_eq!(throttle.wait(&keys, at(5)), None);
    }

    #[test]
    fn guessing_from_elsewhere_keeps_nobody_out_for_long() {
        let throttle = Throttle::default();
        for number in 0..200 {
            throttle.failed(&keys("ada", &format!("198.51.100.{number}")), at(0));
        }
        assert_eq!(
            throttle.wait(&keys("ada", "192.0.2.1"), at(0)),
            Some(Duration::from_secs(5))
        );
        assert_eq!(throttle.wait(&keys("bob", "192.0.2.1"), at(0)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        for number in 0..20_010 {
            throttle.failed(&keys("", &number.to_string())[1..2], at(number / 1000));
        }
        assert!(throttle.failures.lock().expect("not poisoned").len() <= MAX_KEYS);
    }
}

//! Slows failed logins down, per address and per user, in bounded memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::NaiveDateTime;

/// Failures before the first wait.
const FREE: u32 = 5;
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Failures are forgotten after this long without a further one.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Keys remembered at most; beyond it the oldest half is forgotten.
const MAX_KEYS: usize = 20_000;

/// Counts failed logins by key.
#[derive(Default)]
pub struct Throttle {
    failures: Mutex<HashMap<String, Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: NaiveDateTime,
}

impl Throttle {
    /// How long a login under any of `keys` has to wait, if at all.
    pub fn wait(&self, keys: &[String], now: NaiveDateTime) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().filter_map(|key| failures.get(key)?.wait(now)).max()
    }

    /// Counts a failure under all of `keys`.
    pub fn failed(&self, keys: &[String], now: NaiveDateTime) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_KEYS {
            forget(&mut failures, now);
        }
        for key in keys {
            let entry = failures.entry(key.clone()).or_insert(Failures { count: 0, last: now });
            if (now - entry.last).to_std().is_ok_and(|age| age > MEMORY) {
                entry.count = 0;
            }
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
        }
    }

    /// Forgets a key after a good login.
    pub fn succeeded(&self, key: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Failures {
    fn wait(self, now: NaiveDateTime) -> Option<Duration> {
        let beyond = self.count.checked_sub(FREE)?;
        let wait = Duration::from_secs(1 << beyond.min(6)).min(MAX_WAIT);
        let passed = (now - self.last).to_std().unwrap_or_default();
        wait.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

fn forget(failures: &mut HashMap<String, Failures>, now: NaiveDateTime) {
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
        chrono::DateTime::from_timestamp(1_700_000_000 + seconds, 0).expect("a valid time").naive_utc()
    }

    #[test]
    fn the_sixth_failure_in_a_row_waits_and_a_success_forgets() {
        let throttle = Throttle::default();
        let keys = ["user:ada".to_owned(), "address:127.0.0.1".to_owned()];
        for _ in 0..4 {
            throttle.failed(&keys, at(0));
            assert_eq!(throttle.wait(&keys, at(0)), None);
        }
        throttle.failed(&keys, at(0));
        assert_eq!(throttle.wait(&keys, at(0)), Some(Duration::from_secs(1)));
        throttle.failed(&keys, at(0));
        assert_eq!(throttle.wait(&keys, at(0)), Some(Duration::from_secs(2)));
        assert_eq!(throttle.wait(&keys, at(3)), None);
        for _ in 0..100 {
            throttle.failed(&keys, at(5));
        }
        assert_eq!(throttle.wait(&keys, at(5)), Some(Duration::from_secs(60)));
        throttle.succeeded("user:ada");
        assert_eq!(throttle.wait(&keys[..1], at(5)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        for number in 0..(MAX_KEYS as i64 + 10) {
            throttle.failed(&[format!("address:{number}")], at(number / 1000));
        }
        assert!(throttle.failures.lock().expect("not poisoned").len() <= MAX_KEYS);
    }
}

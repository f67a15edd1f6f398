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

    fn is_of_name(&self) -> bool {
        !matches!(self, Self::Address(_))
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

/// A login that has begun. Dropped without an outcome, because the authenticator gave none or the
/// browser went away, it is taken back.
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    keys: Option<&'a [Key]>,
}

impl Attempt<'_> {
    /// It was good.
    pub fn succeeded(mut self) {
        if let Some(keys) = self.keys.take() {
            self.throttle.succeeded(keys);
        }
    }

    /// It was not.
    pub fn failed(mut self, now: NaiveDateTime) {
        if let Some(keys) = self.keys.take() {
            self.throttle.failed(keys, now);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(keys) = self.keys {
            self.throttle.unanswered(keys);
        }
    }
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
    /// Begins a login under `keys`; the error is how long it has to wait.
    pub fn attempt<'a>(
        &'a self,
        keys: &'a [Key],
        now: NaiveDateTime,
    ) -> Result<Attempt<'a>, Duration> {
        match self.begin(keys, now) {
            Some(wait) => Err(wait),
            None => Ok(Attempt {
                throttle: self,
                keys: Some(keys),
            }),
        }
    }

    /// Begins a login under `keys`, or says how long it has to wait. Until it is known how it ends it
    /// counts as a failure of its name, so that many at once are no way around the waits. The address
    /// is not charged: a whole class may log in from one at the same time.
    fn begin(&self, keys: &[Key], now: NaiveDateTime) -> Option<Duration> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = keys
            .iter()
            .filter_map(|key| failures.get(key)?.wait(key.limits(), now));
        let wait = waits.max();
        if wait.is_none() {
            count(
                &mut failures,
                keys.iter().filter(|key| key.is_of_name()),
                now,
            );
        }
        wait
    }

    /// A login that began has failed.
    fn failed(&self, keys: &[Key], now: NaiveDateTime) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys.iter().filter(|key| key.is_of_name()) {
            // The wait begins with the answer.
            if let Some(entry) = failures.get_mut(key) {
                entry.last = now;
            }
        }
        count(
            &mut failures,
            keys.iter().filter(|key| !key.is_of_name()),
            now,
        );
    }

    /// A login that began ended without an answer: it was neither good nor bad.
    fn unanswered(&self, keys: &[Key]) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys.iter().filter(|key| key.is_of_name()) {
            if let Some(entry) = failures.get_mut(key) {
                entry.count = entry.count.saturating_sub(1);
            }
        }
    }

    /// Forgets what was counted for this name after a good login. The address' count stays: one's
    /// own good login must not buy further guesses at others.
    fn succeeded(&self, keys: &[Key]) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys.iter().filter(|key| key.is_of_name()) {
            failures.remove(key);
        }
    }
}

fn count<'a>(
    failures: &mut HashMap<Key, Failures>,
    keys: impl Iterator<Item = &'a Key>,
    now: NaiveDateTime,
) {
    if failures.len() >= MAX_KEYS {
        forget(failures, now);
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

    /// One that began and failed, whatever the waits.
    fn fail(throttle: &Throttle, keys: &[Key], now: NaiveDateTime) {
        count(
            &mut throttle.failures.lock().expect("no panics"),
            keys.iter(),
            now,
        );
    }

    fn wait(throttle: &Throttle, keys: &[Key], now: NaiveDateTime) -> Option<Duration> {
        let wait = throttle.begin(keys, now);
        if wait.is_none() {
            throttle.unanswered(keys);
        }
        wait
    }

    #[test]
    fn logins_at_once_are_no_way_around_the_waits() {
        let throttle = Throttle::default();
        let ada = keys("ada", "192.0.2.1");
        for _ in 0..5 {
            assert_eq!(throttle.begin(&ada, at(0)), None);
        }
        // None of the five has ended yet.
        assert_eq!(throttle.begin(&ada, at(0)), Some(Duration::from_secs(1)));
        // Another person at the same address is not concerned.
        let bob = keys("bob", "192.0.2.1");
        assert_eq!(throttle.begin(&bob, at(0)), None);
        throttle.succeeded(&bob);
        // The wait begins when the answer comes.
        throttle.failed(&ada, at(3));
        assert_eq!(throttle.begin(&ada, at(3)), Some(Duration::from_secs(1)));
        assert_eq!(throttle.begin(&ada, at(4)), None);
        for _ in 0..2 {
            throttle.unanswered(&ada);
        }
        assert_eq!(throttle.begin(&ada, at(4)), None);
    }

    #[test]
    fn after_five_failures_there_are_waits_and_a_success_forgets() {
        let throttle = Throttle::default();
        let keys = keys("ada", "192.0.2.1");
        for _ in 0..4 {
            fail(&throttle, &keys, at(0));
            assert_eq!(wait(&throttle, &keys, at(0)), None);
        }
        fail(&throttle, &keys, at(0));
        assert_eq!(wait(&throttle, &keys, at(0)), Some(Duration::from_secs(1)));
        fail(&throttle, &keys, at(0));
        assert_eq!(wait(&throttle, &keys, at(0)), Some(Duration::from_secs(2)));
        assert_eq!(wait(&throttle, &keys, at(3)), None);
        for _ in 0..20 {
            fail(&throttle, &keys, at(5));
        }
        assert_eq!(wait(&throttle, &keys, at(5)), Some(Duration::from_secs(60)));
        throttle.succeeded(&keys);
        assert_eq!(wait(&throttle, &keys, at(5)), None);
    }

    #[test]
    fn guessing_from_elsewhere_keeps_nobody_out_for_long() {
        let throttle = Throttle::default();
        for number in 0..200 {
            fail(
                &throttle,
                &keys("ada", &format!("198.51.100.{number}")),
                at(0),
            );
        }
        assert_eq!(
            wait(&throttle, &keys("ada", "192.0.2.1"), at(0)),
            Some(Duration::from_secs(5))
        );
        assert_eq!(wait(&throttle, &keys("bob", "192.0.2.1"), at(0)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        for number in 0..20_010 {
            fail(
                &throttle,
                &keys("", &number.to_string())[1..2],
                at(number / 1000),
            );
        }
        assert!(throttle.failures.lock().expect("not poisoned").len() <= MAX_KEYS);
    }
}

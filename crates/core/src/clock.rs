//! Time as a parameter, so that tests can hold it still.

use chrono::{NaiveDateTime, SubsecRound as _};

/// Tells the time. The hub is given one and asks no other.
pub trait Clock: Send + Sync + 'static {
    /// Now in UTC, cut to microseconds: the resolution that the database keeps.
    fn now(&self) -> NaiveDateTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> NaiveDateTime {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place where the system's time is read"
        )]
        chrono::Utc::now().naive_utc().trunc_subsecs(6)
    }
}

//! When to renew a certificate, and how long to wait after a failure. Seconds of Unix time; the clock
//! and chance are passed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::tls::Dates;

/// After the authority could not be reached, or is in trouble itself.
const UNREACHABLE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));

/// After it has refused. Let's Encrypt takes five failed checks of a name in an hour: there are four,
/// as the first attempt may try two methods, and five if SIGHUP shortens each pause to the first.
const REFUSED: (Duration, Duration) = (Duration::from_mins(15), Duration::from_hours(12));

/// After it has said that there were too many requests, at the least.
const LIMITED: Duration = Duration::from_hours(1);

/// What an authority refused of a name, one time after the other. Moments are seconds of Unix time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusals {
    /// How often in a row.
    pub(super) count: u32,
    /// When the name may be asked for again because somebody wishes it.
    earliest: i64,
    /// When it is without.
    next: i64,
}

impl Refusals {
    /// One more. `not_before` is what the authority has said.
    pub(super) fn after(self, now: i64, is_limited: bool, not_before: i64, chance: f64) -> Self {
        let count = self.count.saturating_add(1);
        let least = if is_limited { LIMITED } else { REFUSED.0 };
        let earliest = not_before.max(now.saturating_add(seconds(least)));
        let next = now.saturating_add(seconds(pause(count, true, chance)));
        Self {
            count,
            earliest,
            next: next.max(earliest),
        }
    }

    /// How long to wait still, and how long at the least.
    pub(super) fn waits(self, now: i64) -> (Duration, Duration) {
        // A clock that was set back makes no pause of years.
        let until = |moment: i64| {
            let left = u64::try_from(moment.saturating_sub(now)).unwrap_or_default();
            Duration::from_secs(left).min(LONGEST)
        };
        (until(self.next), until(self.earliest))
    }
}

/// The longest pause there is.
const LONGEST: Duration = Duration::from_hours(7 * 24);

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Two thirds into the certificate's life, or up to a fifteenth of it before: sites that began
/// together do not renew together. `chance` is from 0 up to 1.
pub(super) fn renewal(dates: Dates, chance: f64) -> i64 {
    dates.not_before + share(dates, 2.0 / 3.0 - chance.clamp(0.0, 1.0) / 15.0)
}

/// The moment in the window that the authority suggests (RFC 9773). It may lie in the past, which means
/// now; one that would leave less than a tenth of the certificate's life is not followed.
pub(super) fn suggested(dates: Dates, window: (i64, i64), chance: f64) -> i64 {
    let (start, end) = (window.0, window.1.max(window.0));
    let moment = start.saturating_add(part(end.saturating_sub(start), chance.clamp(0.0, 1.0)));
    moment.min(dates.not_before + share(dates, 0.9))
}

/// How long to wait after this many failures in a row.
pub(super) fn pause(failures: u32, refused: bool, chance: f64) -> Duration {
    let (first, most) = if refused { REFUSED } else { UNREACHABLE };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    // Up to a fifth longer.
    doubled
        .min(most)
        .mul_f64(1.0 + chance.clamp(0.0, 1.0) / 5.0)
}

/// From 0 up to 1, the same for a certificate whenever it is asked: its signature is its last part.
pub(super) fn chance_of(certificate: &[u8]) -> f64 {
    let tail = certificate.last_chunk::<4>().copied().unwrap_or_default();
    f64::from(u32::from_be_bytes(tail)) / (f64::from(u32::MAX) + 1.0)
}

fn share(dates: Dates, share: f64) -> i64 {
    part(
        dates.not_after.saturating_sub(dates.not_before).max(0),
        share,
    )
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "seconds of a life of years are far below where a float loses them"
)]
fn part(seconds: i64, share: f64) -> i64 {
    (seconds as f64 * share) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn let_s_encrypt_s_ninety_days() {
        let dates = Dates {
            not_before: 0,
            not_after: 90 * DAY,
        };
        assert_eq!(renewal(dates, 0.0), 60 * DAY);
        assert_eq!(renewal(dates, 1.0), 54 * DAY);
        assert_eq!(suggested(dates, (50 * DAY, 52 * DAY), 0.5), 51 * DAY);
        // After a mass revocation.
        assert_eq!(suggested(dates, (-2 * DAY, -DAY), 0.5), -DAY - DAY / 2);
        // Too late.
        assert_eq!(suggested(dates, (89 * DAY, 95 * DAY), 0.5), 81 * DAY);
        // The wrong way round.
        assert_eq!(suggested(dates, (50 * DAY, 40 * DAY), 0.5), 50 * DAY);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let seconds = |failures, refused| pause(failures, refused, 0.0).as_secs();
        assert_eq!([1, 2, 3, 4].map(|n| seconds(n, false)), [10, 20, 40, 80]);
        assert_eq!(seconds(40, false), 3600);
        assert_eq!([1, 2, 3].map(|n| seconds(n, true)), [900, 1800, 3600]);
        assert_eq!(seconds(u32::MAX, true), 12 * 3600);
        assert_eq!(pause(1, false, 1.0).as_secs(), 12);
    }

    /// Whatever happens, five failed checks in an hour are not exceeded.
    #[test]
    fn refusals_keep_to_the_authority_s_limit() {
        for is_wished in [false, true] {
            let (mut now, mut checks) = (0, 0);
            let mut refusals = Refusals::default();
            while now < 3600 {
                checks += if refusals.count == 0 { 2 } else { 1 };
                refusals = refusals.after(now, false, 0, 0.0);
                let (wait, least) = refusals.waits(now);
                now += seconds(if is_wished { least } else { wait });
            }
            assert_eq!(checks, if is_wished { 5 } else { 4 });
        }
    }

    #[test]
    fn what_the_authority_says_counts_more_than_wishes() {
        let waits = |refusals: Refusals| {
            let (wait, least) = refusals.waits(0);
            (wait.as_secs(), least.as_secs())
        };
        let none = Refusals::default();
        assert_eq!(waits(none), (0, 0));
        assert_eq!(waits(none.after(0, false, 0, 0.0)), (900, 900));
        assert_eq!(waits(none.after(0, true, 0, 0.0)), (3600, 3600));
        assert_eq!(waits(none.after(0, true, 9000, 0.0)), (9000, 9000));
        let third = Refusals { count: 2, ..none }.after(0, false, 1000, 0.0);
        assert_eq!(waits(third), (3600, 1000));
        assert_eq!(third.waits(i64::MIN).0, LONGEST);
        assert_eq!(third.waits(4000), (Duration::ZERO, Duration::ZERO));
    }

    proptest! {
        #[test]
        fn a_renewal_lies_between_three_fifths_and_two_thirds(
            not_before in -DAY * 3650..DAY * 36500, life in 0..DAY * 3650, chance in 0.0..1.0f64
        ) {
            let dates = Dates { not_before, not_after: not_before + life };
            let used = renewal(dates, chance) - not_before;
            // A second for rounding.
            prop_assert!(used * 5 >= life * 3 - 5 && used * 3 <= life * 2, "{used} of {life}");
        }

        #[test]
        fn a_suggestion_leaves_a_tenth(
            life in 1..DAY * 3650, start: i64, end: i64, chance in 0.0..1.0f64
        ) {
            let dates = Dates { not_before: 0, not_after: life };
            prop_assert!(suggested(dates, (start, end), chance) <= life - life / 10);
        }

        #[test]
        fn chance_is_a_share(bytes: Vec<u8>) {
            prop_assert!((0.0..1.0).contains(&chance_of(&bytes)));
        }
    }
}

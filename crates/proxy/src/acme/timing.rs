//! When to renew a certificate, and how long to wait after a failure. Seconds of Unix time; the clock
//! and chance are passed in.

use std::time::Duration;

use crate::tls::Dates;

/// After the authority could not be reached, or is in trouble itself.
const UNREACHABLE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));

/// After it has refused. Let's Encrypt takes five failed checks of a name in an hour.
const REFUSED: (Duration, Duration) = (Duration::from_mins(10), Duration::from_hours(12));

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
        assert_eq!([1, 2, 3].map(|n| seconds(n, true)), [600, 1200, 2400]);
        assert_eq!(seconds(u32::MAX, true), 12 * 3600);
        assert_eq!(pause(1, false, 1.0).as_secs(), 12);
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

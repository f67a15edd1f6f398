//! Points in time as upstream keeps them: UTC without a zone, to the microsecond.

use chrono::{NaiveDateTime, Timelike};

/// Cuts `time` to whole microseconds, which is all that the databases and Python keep.
#[must_use]
pub fn truncate(time: NaiveDateTime) -> NaiveDateTime {
    let nanos = time.nanosecond();
    time.with_nanosecond(nanos - nanos % 1000)
        .expect("fewer nanoseconds than before are always valid")
}

/// The text that SQLAlchemy writes in SQLite: always six digits of fraction, so that texts sort as times.
pub(crate) fn sqlite_text(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::NaiveDate;

    #[test]
    fn sqlite_text_always_has_six_digits() {
        let day = NaiveDate::from_ymd_opt(2026, 1, 2).unwrap();
        let whole = day.and_hms_opt(3, 4, 5).unwrap();
        assert_eq!(sqlite_text(whole), "2026-01-02 03:04:05.000000");
        let nanos = day.and_hms_nano_opt(3, 4, 5, 123_456_789).unwrap();
        assert_eq!(sqlite_text(truncate(nanos)), "2026-01-02 03:04:05.123456");
    }
}

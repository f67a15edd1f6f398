//! Points in time as upstream keeps them: UTC without a zone, to the microsecond.

use chrono::{Datelike as _, NaiveDate, NaiveDateTime, Timelike};
use sea_orm::{DbErr, QueryResult};

/// Cuts `time` to whole microseconds, which is all that the databases and Python keep, and to what they
/// can read again: a leap second ends with the second before it, and the years are 1 to 9999.
#[must_use]
pub fn truncate(time: NaiveDateTime) -> NaiveDateTime {
    let year = |year, month, day| NaiveDate::from_ymd_opt(year, month, day);
    if let (Some(first), Some(after)) = (year(1, 1, 1), year(10_000, 1, 1)) {
        if time.date() < first {
            return first.into();
        }
        if time.date() >= after {
            return NaiveDateTime::from(after) - chrono::TimeDelta::microseconds(1);
        }
    }
    let nanos = time.nanosecond().min(999_999_999);
    time.with_nanosecond(nanos - nanos % 1000)
        .expect("fewer nanoseconds than before are always valid")
}

/// Whether all databases and Python know such a time.
fn is_plain(time: NaiveDateTime) -> bool {
    (1..=9999).contains(&time.year()) && time.nanosecond() < 1_000_000_000
}

/// Reads a column that says when something was, and may be empty. SQLite keeps any text there: what is no
/// time is logged and left out, so that no row is lost for it. Not for columns that say when something
/// ends: those without one never do.
pub(crate) fn read(
    row: &QueryResult,
    prefix: &str,
    column: &str,
) -> Result<Option<NaiveDateTime>, DbErr> {
    let id = || row.try_get::<i32>(prefix, "id").ok();
    match row.try_get::<Option<NaiveDateTime>>(prefix, column) {
        Ok(Some(time)) if !is_plain(time) => {
            tracing::warn!(id = id(), column, %time, "a time in the database cannot be read and is left out");
            Ok(None)
        }
        Ok(time) => Ok(time),
        Err(error) => match row.try_get::<Option<String>>(prefix, column) {
            Ok(Some(text)) => {
                let text: String = text.chars().take(64).collect();
                tracing::warn!(
                    id = id(),
                    column,
                    ?text,
                    "a time in the database cannot be read and is left out"
                );
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

/// The text that SQLAlchemy writes in SQLite: always six digits of fraction, so that texts sort as times.
pub(crate) fn sqlite_text(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

/// Reads `2026-01-02 03:04:05.123456`, with `T` for the space, and with a fraction of any length or none.
pub(crate) fn from_text(text: &str) -> Option<NaiveDateTime> {
    let bytes = text.as_bytes();
    let (head, fraction) = bytes.split_at_checked(19)?;
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_u32, |number, digit| {
            digit
                .is_ascii_digit()
                .then(|| number * 10 + u32::from(digit - b'0'))
        })
    };
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        mo1,
        mo2,
        b'-',
        d1,
        d2,
        b' ' | b'T',
        h1,
        h2,
        b':',
        mi1,
        mi2,
        b':',
        s1,
        s2,
    ] = *head
    else {
        return None;
    };
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) => {
            let digits = &digits[..digits.len().min(6)];
            number(digits)? * 10_u32.pow(6 - u32::try_from(digits.len()).ok()?)
        }
        _ => return None,
    };
    NaiveDate::from_ymd_opt(
        i32::try_from(number(&[y1, y2, y3, y4])?).ok()?,
        number(&[mo1, mo2])?,
        number(&[d1, d2])?,
    )?
    .and_hms_micro_opt(
        number(&[h1, h2])?,
        number(&[mi1, mi2])?,
        number(&[s1, s2])?,
        micros,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_text_always_has_six_digits() {
        let day = NaiveDate::from_ymd_opt(2026, 1, 2).unwrap();
        let whole = day.and_hms_opt(3, 4, 5).unwrap();
        assert_eq!(sqlite_text(whole), "2026-01-02 03:04:05.000000");
        let nanos = day.and_hms_nano_opt(3, 4, 5, 123_456_789).unwrap();
        assert_eq!(sqlite_text(truncate(nanos)), "2026-01-02 03:04:05.123456");
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let at = |year, nanos| {
            let day = NaiveDate::from_ymd_opt(year, 6, 30).unwrap();
            day.and_hms_nano_opt(3, 39, 59, nanos).unwrap()
        };
        for (time, expected) in [
            (at(2026, 1_000_000_000), "2026-06-30 03:39:59.999999"),
            (at(2026, 1_999_999_999), "2026-06-30 03:39:59.999999"),
            (at(-100, 0), "0001-01-01 00:00:00.000000"),
            (at(0, 0), "0001-01-01 00:00:00.000000"),
            (at(1, 0), "0001-06-30 03:39:59.000000"),
            (at(9999, 0), "9999-06-30 03:39:59.000000"),
            (at(10_000, 0), "9999-12-31 23:59:59.999999"),
            (NaiveDateTime::MAX, "9999-12-31 23:59:59.999999"),
            (NaiveDateTime::MIN, "0001-01-01 00:00:00.000000"),
        ] {
            let written = sqlite_text(truncate(time));
            assert_eq!(written, expected, "{time}");
            assert_eq!(from_text(&written), Some(truncate(time)), "{time}");
        }
    }

    #[test]
    fn texts_are_read_as_they_are_written() {
        let day = NaiveDate::from_ymd_opt(2026, 1, 2).unwrap();
        for (text, micros) in [
            ("2026-01-02 03:04:05.123456", 123_456),
            ("2026-01-02T03:04:05.123456", 123_456),
            ("2026-01-02T03:04:05.5", 500_000),
            ("2026-01-02 03:04:05", 0),
            ("2026-01-02 03:04:05.123456789", 123_456),
        ] {
            assert_eq!(
                from_text(text),
                day.and_hms_micro_opt(3, 4, 5, micros),
                "{text}"
            );
        }
        for bad in [
            "",
            "2026-01-02",
            "2026-13-02 03:04:05",
            "2026-01-02 25:04:05",
            "2026-01-02 03:04:05.",
            "2026-01-02 03:04:05.12345x",
            "2026-01-02 03:04:05Z",
            "2026-01-02x03:04:05",
            "é026-01-02 03:04:0",
        ] {
            assert_eq!(from_text(bad), None, "{bad}");
        }
    }
}

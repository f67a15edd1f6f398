//! Points in time as upstream keeps them: UTC without a zone, to the microsecond.

use chrono::{NaiveDate, NaiveDateTime, Timelike};

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

//! Points in time on the wire.

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, Timelike as _};

/// Upstream's form: ISO 8601 in UTC, with microseconds where there are any.
pub(super) fn isoformat(time: NaiveDateTime) -> String {
    let mut text = String::with_capacity(27);
    let (date, clock) = (time.date(), time.time());
    for (before, number, width) in [
        ("", date.year().unsigned_abs(), 4),
        ("-", date.month(), 2),
        ("-", date.day(), 2),
        ("T", clock.hour(), 2),
        (":", clock.minute(), 2),
        // A leap second is the one before it, longer.
        (":", clock.second(), 2),
    ] {
        text.push_str(before);
        push_number(&mut text, number, width);
    }
    let micros = time.and_utc().timestamp_subsec_micros() % 1_000_000;
    if micros != 0 {
        text.push('.');
        push_number(&mut text, micros, 6);
    }
    text.push('Z');
    text
}

/// Lists hold hundreds of times, and a format that is read anew for each is felt.
fn push_number(text: &mut String, number: u32, width: u32) {
    for place in (0..width).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        text.push(char::from_digit(digit, 10).expect("a remainder of ten is a digit"));
    }
}

/// A point in time as clients write it: ISO 8601 with or without a zone (none means UTC), with `T` or
/// a space, down to minutes, seconds or fractions; a date alone; or as in e-mails. As for upstream there is
/// no leap second, and no year but 1 to 9999: not all databases know others.
pub(crate) fn parse(text: &str) -> Option<NaiveDateTime> {
    read(text).filter(|time| (1..=9999).contains(&time.year()) && time.nanosecond() < 1_000_000_000)
}

fn read(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    if text.len() > 64 {
        return None;
    }
    for format in [
        "%Y-%m-%dT%H:%M:%S%.f%#z",
        "%Y-%m-%d %H:%M:%S%.f%#z",
        "%Y-%m-%d %H:%M:%S%.f %#z",
        "%Y-%m-%dT%H:%M%#z",
    ] {
        if let Ok(time) = DateTime::parse_from_str(text, format) {
            return Some(time.naive_utc());
        }
    }
    let without_zone = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    for format in [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
        "%Y%m%dT%H%M%S%.f",
    ] {
        if let Ok(time) = NaiveDateTime::parse_from_str(without_zone, format) {
            return Some(time);
        }
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return day.and_hms_opt(0, 0, 0);
    }
    DateTime::parse_from_rfc2822(text)
        .ok()
        .map(|time| time.naive_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_forms_that_clients_write() {
        for (text, expected) in [
            ("2026-01-02T03:04:05.123456Z", "2026-01-02T03:04:05.123456Z"),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.5", "2026-01-02T03:04:05.500000Z"),
            ("2026-01-02 03:04:05+02:00", "2026-01-02T01:04:05Z"),
            ("2026-01-02T03:04:05.25+0200", "2026-01-02T01:04:05.250000Z"),
            ("2026-01-02T03:04", "2026-01-02T03:04:00Z"),
            ("2026-01-02", "2026-01-02T00:00:00Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("Fri, 02 Jan 2026 03:04:05 +0000", "2026-01-02T03:04:05Z"),
        ] {
            assert_eq!(
                parse(text).map(isoformat).as_deref(),
                Some(expected),
                "{text}"
            );
        }
        for bad in [
            "",
            "soon",
            "2026-13-01",
            "2026-01-02T25:00:00Z",
            "2026-01-02T03:39:60Z",
            "2016-12-31T23:59:60Z",
            "2026-01-02T03:39:60.5+02:00",
            "2026-01-02 03:39:60",
            "20260102T033960",
            "Fri, 02 Jan 2026 03:39:60 +0000",
            "-0100-01-01T00:00:00Z",
            "-0100-01-01",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+05:00",
            "9999-12-31T23:59:59-05:00",
            "+10000-01-01T00:00:00Z",
            &"9".repeat(100),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

//! Timestamps in RFC 3339, as runc's state.json and logs have them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970 (negative before) in UTC: `2026-11-23T04:04:26Z`.
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    format!("{}Z", date_and_time(seconds))
}

/// A time in UTC as Go's RFC3339Nano writes it: nanoseconds without trailing zeros,
/// `2026-11-23T04:04:26.101625187Z`.
#[must_use]
pub fn rfc3339_nano(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date = date_and_time(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    match since.subsec_nanos() {
        0 => format!("{date}Z"),
        nanos => format!("{date}.{}Z", format!("{nanos:09}").trim_end_matches('0')),
    }
}

fn date_and_time(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Days since 1970-01-01 as year, month, day of the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years counted from March, so that the leap day is the last of its year; an era is 400 years.
    let days = days.saturating_add(719_468);
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_instants() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-62_135_596_800, "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn nanoseconds_lose_trailing_zeros() {
        let at = |secs, nanos| rfc3339_nano(UNIX_EPOCH + Duration::new(secs, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400, 500_000_000), "2000-02-29T00:00:00.5Z");
        assert_eq!(at(1_709_251_199, 1), "2024-02-29T23:59:59.000000001Z");
    }
}

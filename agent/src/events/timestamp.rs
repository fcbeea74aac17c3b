//! Times as people and programs read them: RFC 3339, UTC, milliseconds, as in `2026-11-21T10:11:12.345Z`.

const DAY_MS: u64 = 86_400_000;

/// The time `ms` milliseconds after 1970 began.
pub fn format(ms: u64) -> String {
    let (year, month, day) = date_of(ms / DAY_MS);
    let in_day = ms % DAY_MS;
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// The milliseconds of a time that [`format()`] wrote; `None` for anything else.
pub fn parse(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let days = days_until(number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let ms = days? * DAY_MS + hour * 3_600_000 + minute * 60_000 + second * 1000 + number(20..23)?;
    // Whatever was not exactly this form, or no date or time of day, comes back differently.
    (format(ms) == text).then_some(ms)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// 400 years always have the same number of days.
const DAYS_IN_400_YEARS: u64 = 146_097;

/// Year, month and day, from the days since 1970.
fn date_of(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / DAYS_IN_400_YEARS * 400;
    days %= DAYS_IN_400_YEARS;
    while days >= days_in_year(year) {
        days -= days_in_year(year);
        year += 1;
    }
    let mut month = 1;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

/// Days from 1970 to a date; `None` before 1970 or for a month that is none.
fn days_until(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    let years: u64 = (1970..year).map(days_in_year).sum();
    let months: u64 = (1..month).map(|m| days_in_month(year, m)).sum();
    (years + months + day).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_763_719_872_345, "2025-11-21T10:11:12.345Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(format(ms), text);
            assert_eq!(parse(text), Some(ms));
        }
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..(200 * 366) {
            let ms = day * DAY_MS + 86_399_999;
            assert_eq!(parse(&format(ms)), Some(ms), "day {day}");
        }
    }

    #[test]
    fn nothing_else_is_a_time() {
        for bad in [
            "",
            "2025-02-29T00:00:00.000Z",
            "2025-13-01T00:00:00.000Z",
            "2025-01-01T24:00:00.000Z",
            "2025-01-01T00:00:00Z",
            "2025-01-00T00:00:00.000Z",
            "2025-01-01t00:00:00.000Z",
            "2025-01-01T00:00:00.000Zx",
            "1969-12-31T23:59:59.999Z",
            "2025-01-01T00:00:00.0é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

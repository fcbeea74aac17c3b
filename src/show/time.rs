//! How long ago an RFC 3339 instant in UTC was.

use std::time::{Duration, SystemTime};

/// Seconds since 1970 of `2026-11-21T10:00:00.123Z`; `None` where it is not of that form. Fractions are dropped.
fn unix_seconds(instant: &str) -> Option<u64> {
    let (date, time) = instant.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = three_numbers(date.split('-'))?;
    let [hour, minute, second] = three_numbers(time.split('.').next()?.split(':'))?;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years begin in March, so that the leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year;
    const DAYS_TO_1970: u64 = 719_468;
    Some((days - DAYS_TO_1970) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn three_numbers<'a>(mut parts: impl Iterator<Item = &'a str>) -> Option<[u64; 3]> {
    let mut next = || parts.next().filter(|p| p.bytes().all(|b| b.is_ascii_digit()))?.parse().ok();
    let numbers = [next()?, next()?, next()?];
    parts.next().is_none().then_some(numbers)
}

/// How long before `now` it was; zero where it lies ahead (clocks differ).
pub(crate) fn age(instant: &str, now: SystemTime) -> Option<Duration> {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds(instant)?);
    Some(now.duration_since(then).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_understood() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2000-02-29T12:34:56.789Z"), Some(951_827_696));
        assert_eq!(unix_seconds("2026-11-21T10:11:12Z"), Some(1_795_255_872));
    }

    #[test]
    fn everything_else_is_not() {
        for bad in [
            "",
            "now",
            "2026-11-21",
            "2026-13-01T00:00:00Z",
            "2026-11-21T10:11:12",
            "-1-1-1T0:0:0Z",
            "2026-11-21T25:00:00Z",
        ] {
            assert_eq!(unix_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_clock_that_is_behind_makes_nothing_negative() {
        assert_eq!(age("2026-11-21T10:11:12Z", SystemTime::UNIX_EPOCH), Some(Duration::ZERO));
    }
}

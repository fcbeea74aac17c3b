//! Durations, sizes, shares and rates as people type them: `250ms`, `512MiB`, `1.5`, `100mbit`.

use std::time::Duration;

use thiserror::Error;

/// Why a quantity was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum QuantityError {
    #[error("a duration is a number with a unit: 250ms, 10s, 5m, 2h")]
    Duration,
    #[error("a size is a number with a unit: 512MiB, 2GiB, 100MB, 4096B")]
    Size,
    #[error("a number of CPUs is a number such as 2 or 0.5, from 0.001 to 4096")]
    Cpus,
    #[error("a rate is a whole number with a unit: 512kbit, 100mbit, 1gbit")]
    Rate,
}

/// Splits `12.5ms` into 12.5 and `ms`; only plain digits with at most one dot.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

/// `250ms`, `10s`, `1.5m`, `2h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::Duration)?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86400.0,
        _ => return Err(QuantityError::Duration),
    };
    // A hundred years: far from every overflow further down.
    if seconds > 100.0 * 366.0 * 86400.0 {
        return Err(QuantityError::Duration);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| QuantityError::Duration)
}

/// `4096B`, `512MiB`, `1.5GiB`, `100MB`. A bare number is refused: its unit would be a guess.
pub(crate) fn size(text: &str) -> Result<u64, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::Size)?;
    let factor: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "TB" => 1000 * 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(QuantityError::Size),
    };
    let bytes = number * factor as f64;
    if !(1.0..=(1u64 << 60) as f64).contains(&bytes) {
        return Err(QuantityError::Size);
    }
    Ok(bytes as u64)
}

/// A share of CPUs, in thousandths of one.
pub(crate) fn cpu_milli(text: &str) -> Result<u32, QuantityError> {
    match split(text) {
        Some((number, "")) if (0.001..=4096.0).contains(&number) => Ok((number * 1000.0).round() as u32),
        _ => Err(QuantityError::Cpus),
    }
}

/// A rate in bits a second.
pub(crate) fn bits_per_second(text: &str) -> Result<u64, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::Rate)?;
    let factor = match unit {
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return Err(QuantityError::Rate),
    };
    let bits = number * factor;
    if !(8_000.0..=1e12).contains(&bits) {
        return Err(QuantityError::Rate);
    }
    Ok(bits as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_understood() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        assert_eq!(size("100MB"), Ok(100_000_000));
        assert_eq!(cpu_milli("0.5"), Ok(500));
        assert_eq!(bits_per_second("100mbit"), Ok(100_000_000));
    }

    #[test]
    fn what_could_mean_anything_is_refused() {
        for bad in ["", "10", "s", "-1s", "1e9s", "1..2s", "10 s", "9999999999h", "infs", "nans"] {
            assert_eq!(duration(bad), Err(QuantityError::Duration), "{bad}");
        }
        for bad in ["", "512", "0MiB", "-1B", "512mib", "99999999TiB"] {
            assert_eq!(size(bad), Err(QuantityError::Size), "{bad}");
        }
        for bad in ["", "0", "x", "1x", "5000"] {
            assert_eq!(cpu_milli(bad), Err(QuantityError::Cpus), "{bad}");
        }
        for bad in ["", "100", "0mbit", "1kbit", "100Mbit; reboot"] {
            assert_eq!(bits_per_second(bad), Err(QuantityError::Rate), "{bad}");
        }
    }
}

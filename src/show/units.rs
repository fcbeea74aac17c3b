//! Sizes and times as people read them.

use std::time::Duration;

/// `0 B`, `12.3 MiB`, `1.00 GiB`: three figures.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_figures(value), UNITS[unit])
}

/// `0.3 ms`, `182 ms`, `1.24 s`, `3 min 05 s`.
pub(crate) fn milliseconds(ms: f64) -> String {
    if ms < 1.0 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 59_995.0 {
        format!("{} s", three_figures(ms / 1e3))
    } else {
        let seconds = (ms / 1e3).round() as u64;
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

/// `7s`, `4m`, `3h`, `12d`: how long ago.
pub(crate) fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn three_figures(value: f64) -> String {
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_figures() {
        let cases =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (64 << 20, "64.0 MiB"), ((1 << 30) - 1, "1.00 GiB")];
        for (bytes, shown) in cases {
            assert_eq!(size(bytes), shown);
        }
        assert_eq!(size(u64::MAX), "16384 PiB");
    }

    #[test]
    fn times_stay_short() {
        let cases = [
            (0.26, "0.3 ms"),
            (182.4, "182 ms"),
            (1240.0, "1.24 s"),
            (59_999.0, "1 min 00 s"),
            (185_000.0, "3 min 05 s"),
        ];
        for (ms, shown) in cases {
            assert_eq!(milliseconds(ms), shown);
        }
        assert_eq!(age(Duration::from_secs(59)), "59s");
        assert_eq!(age(Duration::from_secs(7200)), "2h");
        assert_eq!(age(Duration::from_secs(3 * 86_400)), "3d");
    }
}

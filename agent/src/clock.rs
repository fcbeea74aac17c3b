//! The agent's clock for the handover machines, and for people.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use migrate_proto::handover::Millis;
use nix::time::{ClockId, clock_gettime};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since this agent began; does not go backwards.
pub fn now() -> Millis {
    Millis(START.elapsed().as_millis() as u64)
}

/// The same in nanoseconds, for shares of CPU time.
pub fn now_ns() -> u64 {
    START.elapsed().as_nanos() as u64 + 1
}

/// The time since this machine began, its sleep included; does not go backwards.
pub fn boottime() -> Duration {
    // Linux has this clock since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// The instant of a deadline.
pub fn instant(at: Millis) -> tokio::time::Instant {
    tokio::time::Instant::from_std(*START + Duration::from_millis(at.0))
}

/// The time of day, RFC 3339.
pub fn time_of_day() -> String {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    crate::events::timestamp::format(since_epoch.as_millis() as u64)
}

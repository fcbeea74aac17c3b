//! An observer for benchmarks: how long the process stood still, by `CLOCK_REALTIME`, which a move does not hide. It can hold
//! memory meanwhile, so that the time is that of moving this much.

use std::time::{Duration, SystemTime};

use crate::blocks::{Blocks, Content};
use crate::part::say;
use crate::verdict::Verdict;

const STEP: Duration = Duration::from_micros(200);
const WORTH_TELLING: Duration = Duration::from_millis(1);

/// Fills `mib` MiB with `content`, then prints every gap of more than a millisecond, and the longest so far, for ever; first
/// a line without a gap, which says that it has begun.
pub(crate) fn observe(mib: usize, content: Content) -> Verdict<std::convert::Infallible> {
    let _held = (mib > 0).then(|| Blocks::new(mib, content, 1)).transpose()?;
    let mut longest = Duration::ZERO;
    say("gap_ms 0.000 max_ms 0.000")?;
    let mut last = SystemTime::now();
    loop {
        std::thread::sleep(STEP);
        let now = SystemTime::now();
        // A clock that went back shows no gap.
        let gap = now.duration_since(last).unwrap_or_default().saturating_sub(STEP);
        if gap > WORTH_TELLING {
            longest = longest.max(gap);
            say(&format!("gap_ms {:.3} max_ms {:.3}", millis(gap), millis(longest)))?;
        }
        // What printing took is not the move's.
        last = SystemTime::now();
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

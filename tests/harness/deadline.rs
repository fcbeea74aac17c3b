//! Waiting for something to become true, and not for ever.

use std::time::{Duration, Instant};

/// Far more than anything here takes; for failing instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whether `holds` comes true in time.
pub(crate) fn eventually(holds: impl FnMut() -> bool) -> bool {
    within(PATIENCE, holds)
}

/// Whether `holds` comes true in that time.
pub(crate) fn within(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

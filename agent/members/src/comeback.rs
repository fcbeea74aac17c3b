//! When a node that the others took for dead comes back, and with which generation.
//!
//! The first time at once, one higher. If that is refused again soon, later and higher each time: the others may know a much higher
//! generation of this node (its clock or its state was set back), or there are two nodes of one name, which would otherwise
//! push each other out as fast as the network carries it.

use std::time::Duration;

/// After the second refusal in a row; doubles with every further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Who was in for so long is no longer being refused.
const QUIET: Duration = Duration::from_secs(60);
/// The step is eight times as high with each: a million is made up for in eight attempts.
const MOST_COUNTED: u32 = 10;

/// Counts refusals.
#[derive(Debug, Default)]
pub(crate) struct Comeback {
    /// The refusals in a row.
    refusals: u32,
    last: Duration,
}

/// How to come back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// When.
    pub(crate) at: Duration,
    /// How much higher the generation is to be.
    pub(crate) step: u64,
}

impl Comeback {
    /// The others say that this node is dead.
    pub(crate) fn refused(&mut self, now: Duration) -> Attempt {
        if now > self.last + QUIET {
            self.refusals = 0;
        }
        let before = self.refusals.min(MOST_COUNTED);
        let wait = if before == 0 { Duration::ZERO } else { (FIRST_WAIT * (1 << (before - 1))).min(LONGEST_WAIT) };
        self.refusals += 1;
        self.last = now + wait;
        Attempt { at: self.last, step: 1 << (3 * before) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_at_once_then_later_and_higher_until_it_was_quiet() {
        let mut comeback = Comeback::default();
        let mut now = Duration::from_secs(100);
        let mut told = Vec::new();
        for _ in 0..30 {
            let Attempt { at, step } = comeback.refused(now);
            told.push(((at - now).as_millis(), step));
            now = at;
        }
        assert_eq!(told[..4], [(0, 1), (100, 8), (200, 64), (400, 512)]);
        assert_eq!(told[29], (10_000, 1 << 30));
        let later = now + QUIET + Duration::from_millis(1);
        assert_eq!(comeback.refused(later), Attempt { at: later, step: 1 });
    }
}

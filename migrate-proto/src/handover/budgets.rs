//! How long each phase may take, and how long it may stand still.

use super::Millis;
use crate::phase::Phase;

/// The two limits of a phase, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// From its beginning to its end.
    pub total: u64,
    /// Without any sign of progress.
    pub stall: u64,
}

/// The limits of every phase. Before the commit a phase that exceeds them fails the handover; after it they say how
/// often to repeat what has not been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    /// For phases that exchange a few words: negotiate and preflight.
    pub talk: Budget,
    /// The workload runs meanwhile.
    pub prepare: Budget,
    /// Until every task stands still.
    pub freeze: Budget,
    /// The pause: bytes cross.
    pub transfer: Budget,
    /// The pause: digests are compared, everything is made durable.
    pub verify: Budget,
    /// The pause: processes are rebuilt.
    pub restore: Budget,
    /// How long an answer about the decision is waited for before it is asked for again.
    pub decision: Budget,
    /// After the commit: how long until something is repeated.
    pub again: Budget,
}

impl Default for Budgets {
    fn default() -> Budgets {
        let seconds = |total: u64, stall: u64| Budget { total: total * 1000, stall: stall * 1000 };
        Budgets {
            talk: seconds(30, 15),
            prepare: seconds(4 * 3600, 60),
            freeze: seconds(60, 30),
            transfer: seconds(3600, 30),
            // Neither side hears of progress here.
            verify: seconds(600, 600),
            restore: seconds(600, 600),
            decision: seconds(5, 5),
            again: seconds(5, 5),
        }
    }
}

impl Budgets {
    /// The limits of `phase`.
    pub fn of(&self, phase: Phase) -> Budget {
        match phase {
            Phase::Negotiate | Phase::Preflight => self.talk,
            Phase::Prepare => self.prepare,
            Phase::Freeze => self.freeze,
            Phase::Transfer => self.transfer,
            Phase::Verify => self.verify,
            Phase::Restore => self.restore,
            Phase::Commit => self.decision,
            Phase::Resume | Phase::CleanUp => self.again,
        }
    }

    /// The limits of the target's wait for the image: it begins while the source still prepares, and ends with its
    /// transfer.
    pub fn until_complete(&self) -> Budget {
        [self.freeze, self.transfer].iter().fold(self.prepare, |sum, phase| Budget {
            total: sum.total.saturating_add(phase.total),
            stall: sum.stall.saturating_add(phase.stall),
        })
    }
}

/// Watches one phase at a time against its two limits.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    running: Option<Running>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    ends: Millis,
    stall: u64,
    stalls: Millis,
}

impl Watch {
    /// Begins to watch against `budget`.
    pub fn start(&mut self, now: Millis, budget: Budget) {
        self.running =
            Some(Running { ends: now.plus(budget.total), stall: budget.stall, stalls: now.plus(budget.stall) });
    }

    /// Something moved: only the second limit begins anew.
    pub fn progress(&mut self, now: Millis) {
        if let Some(running) = &mut self.running {
            running.stalls = now.plus(running.stall);
        }
    }

    /// Watches nothing any more.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// When the first of the two limits is reached.
    pub fn deadline(&self) -> Option<Millis> {
        self.running.map(|running| running.ends.min(running.stalls))
    }

    /// Whether a limit has been reached.
    pub fn expired(&self, now: Millis) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_puts_off_the_stall_but_not_the_end() {
        let mut watch = Watch::default();
        watch.start(Millis(100), Budget { total: 50, stall: 20 });
        assert_eq!(watch.deadline(), Some(Millis(120)));
        watch.progress(Millis(119));
        assert_eq!(watch.deadline(), Some(Millis(139)));
        watch.progress(Millis(138));
        assert_eq!(watch.deadline(), Some(Millis(150)));
        assert!(!watch.expired(Millis(149)) && watch.expired(Millis(150)));
        watch.stop();
        assert!(watch.deadline().is_none() && !watch.expired(Millis(u64::MAX)));
    }
}

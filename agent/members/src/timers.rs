//! What is to happen later, soonest first.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::member::Member;

/// What happens.
#[derive(Debug)]
pub(crate) enum Timer {
    /// Foca wants this back.
    Foca(foca::Timer<Member>),
    /// A suspected member had time to contradict.
    Verdict(Verdict),
    /// Those that seem to be dead are tried.
    ReachOut,
    /// This node comes back with a higher generation.
    ComeBack {
        /// How much higher.
        step: u64,
    },
}

/// The end of a suspicion.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Whose.
    pub(crate) of: Member,
    /// What it was suspected as.
    pub(crate) incarnation: foca::Incarnation,
    /// What foca wants back when it is final.
    pub(crate) timer: foca::Timer<Member>,
    /// When this time to contradict began.
    pub(crate) since: Duration,
    /// How many there were before.
    pub(crate) put_off: u8,
}

/// A heap of them.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    count: u64,
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    count: u64,
    timer: Timer,
}

impl Timers {
    /// It happens at `at`.
    pub(crate) fn push(&mut self, at: Duration, timer: Timer) {
        self.count += 1;
        self.heap.push(Reverse(Entry { at, count: self.count, timer }));
    }

    /// When the first one happens.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// The first one that is due, and when it was to happen.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<(Duration, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.timer))
    }

    /// Nothing happens any more.
    pub(crate) fn clear(&mut self) {
        self.heap.clear();
    }
}

impl Entry {
    /// By time; foca's own order among its timers of one instant, which wants the end of a probe's first half before its end.
    fn order(&self, other: &Entry) -> Ordering {
        let kinds = match (&self.timer, &other.timer) {
            (Timer::Foca(a), Timer::Foca(b)) => a.cmp(b),
            (a, b) => a.is_ours().cmp(&b.is_ours()),
        };
        self.at.cmp(&other.at).then(kinds).then(self.count.cmp(&other.count))
    }
}

impl Timer {
    fn is_ours(&self) -> bool {
        !matches!(self, Timer::Foca(_))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.order(other)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use foca::Timer::{PeriodicGossip, ProbeRandomMember};

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn soonest_first_then_in_focas_order_then_as_they_came() {
        let mut timers = Timers::default();
        timers.push(MS(2), Timer::ComeBack { step: 1 });
        timers.push(MS(2), Timer::Foca(PeriodicGossip(0)));
        timers.push(MS(2), Timer::Foca(ProbeRandomMember(0)));
        timers.push(MS(1), Timer::ReachOut);
        timers.push(MS(3), Timer::ReachOut);
        let order: Vec<String> =
            std::iter::from_fn(|| timers.pop(MS(2))).map(|(_, timer)| format!("{timer:?}")).collect();
        let wanted = ["ReachOut", "ProbeRandomMember", "PeriodicGossip", "ComeBack"];
        assert_eq!(order.len(), wanted.len());
        assert!(order.iter().zip(wanted).all(|(timer, wanted)| timer.contains(wanted)), "{order:?}");
        assert_eq!(timers.next(), Some(MS(3)));
        timers.clear();
        assert_eq!(timers.next(), None);
    }
}

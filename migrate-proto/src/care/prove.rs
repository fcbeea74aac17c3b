//! Which checkpoint a node restores for a test, and when; and which of the nodes that have one does it.
//!
//! Those that have a checkpoint take turns without a word to each other: the first one begins when it is time, each further one half an
//! interval later, and by then it has heard of the test in the record. The owner comes last, for it has a workload to run; alone, it is the
//! first.

use core::cmp::Reverse;

use crate::name::NodeName;

/// The newest checkpoint of a workload that is here and was found to be sound, as far as that decides when it is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// How many of those that have it come before this node.
    pub rank: u32,
    /// When a checkpoint of this workload was last tested by anybody, or this node has last tried to; milliseconds since 1970.
    pub tested_ms: Option<u64>,
    /// Since when this agent has known the workload's checkpoints, on the same clock.
    pub known_ms: u64,
}

impl Sight {
    /// When this node is to test it.
    fn due_ms(&self, every_ms: u64, now_ms: u64) -> u64 {
        // A time that cannot be yet comes from a clock that is wrong, and must not put the test off for ever.
        let tested = self.tested_ms.filter(|tested| *tested <= now_ms.saturating_add(every_ms));
        let first = tested.map_or(self.known_ms, |tested| tested.saturating_add(every_ms));
        first.saturating_add((every_ms / 2).saturating_mul(u64::from(self.rank)))
    }
}

/// Which of these, if any, is to be tested now: the one that has waited longest.
pub fn due(sights: &[Sight], every_ms: u64, now_ms: u64) -> Option<usize> {
    let due = sights.iter().map(|sight| sight.due_ms(every_ms, now_ms)).enumerate();
    due.filter(|(_, due_ms)| *due_ms <= now_ms).min_by_key(|(index, due_ms)| (*due_ms, *index)).map(|(index, _)| index)
}

/// How many come before `me` of those that have a checkpoint, which are in the workload's own order of nodes.
pub fn rank(holders: &[NodeName], owner: Option<&NodeName>, me: &NodeName) -> u32 {
    let others = holders.iter().filter(|holder| Some(*holder) != owner && *holder != me);
    match owner == Some(me) {
        true => others.count() as u32,
        false => others.take_while(|holder| position(holders, holder) < position(holders, me)).count() as u32,
    }
}

/// Which of those that have a checkpoint tests it when a person asks: this node if it can and does not own the workload, else any that does
/// not, else the owner.
pub fn tester<'a>(holders: &'a [NodeName], owner: Option<&NodeName>, me: &NodeName) -> Option<&'a NodeName> {
    holders.iter().max_by_key(|holder| (Some(*holder) != owner, *holder == me, Reverse(*holder)))
}

fn position(holders: &[NodeName], node: &NodeName) -> usize {
    holders.iter().position(|holder| holder == node).unwrap_or(holders.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const EVERY: u64 = 600_000;
    const NOW: u64 = 1_000_000_000;

    fn sight(rank: u32, tested_ms: Option<u64>) -> Sight {
        Sight { rank, tested_ms, known_ms: NOW }
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn the_first_begins_at_once_and_the_next_one_only_if_nobody_did() {
        assert_eq!(due(&[sight(0, None)], EVERY, NOW), Some(0));
        let second = [sight(1, None)];
        assert_eq!(due(&second, EVERY, NOW + EVERY / 2 - 1), None);
        assert_eq!(due(&second, EVERY, NOW + EVERY / 2), Some(0));
        // It has heard of the first one's test meanwhile.
        let told = [sight(1, Some(NOW + 5))];
        assert_eq!(due(&told, EVERY, NOW + EVERY), None);
        assert_eq!(due(&told, EVERY, NOW + 5 + EVERY + EVERY / 2), Some(0));
    }

    #[test]
    fn it_is_done_once_an_interval() {
        let tested = [sight(0, Some(NOW))];
        assert_eq!(due(&tested, EVERY, NOW + EVERY - 1), None);
        assert_eq!(due(&tested, EVERY, NOW + EVERY), Some(0));
    }

    #[test]
    fn who_has_waited_longest_is_first() {
        let sights = [sight(0, Some(NOW - 2 * EVERY)), sight(0, Some(NOW - 3 * EVERY)), sight(0, Some(NOW))];
        assert_eq!(due(&sights, EVERY, NOW), Some(1));
        assert_eq!(due(&[], EVERY, NOW), None);
    }

    #[test]
    fn a_clock_that_is_wrong_does_not_put_it_off_for_ever() {
        assert_eq!(due(&[sight(0, Some(u64::MAX))], EVERY, NOW), Some(0));
        // One that is only a little ahead is believed.
        assert_eq!(due(&[sight(0, Some(NOW + 1000))], EVERY, NOW + EVERY), None);
    }

    #[test]
    fn the_owner_comes_last_and_nobody_has_the_same_turn() {
        let holders = ["c", "a", "b"].map(node);
        let ranks = |owner: Option<&str>| {
            let owner = owner.map(node);
            holders.clone().map(|me| rank(&holders, owner.as_ref(), &me))
        };
        assert_eq!(ranks(None), [0, 1, 2]);
        assert_eq!(ranks(Some("c")), [2, 0, 1]);
        assert_eq!(ranks(Some("a")), [0, 2, 1]);
        assert_eq!(ranks(Some("elsewhere")), [0, 1, 2]);
        assert_eq!(rank(&[node("a")], Some(&node("a")), &node("a")), 0, "alone");
        assert_eq!(rank(&[], None, &node("a")), 0);
    }

    #[test]
    fn a_person_is_answered_by_one_that_does_not_own_it_where_there_is_one() {
        let holders = ["a", "b", "c"].map(node);
        let tester =
            |owner: &str, me: &str| super::tester(&holders, Some(&node(owner)), &node(me)).unwrap().to_string();
        assert_eq!(tester("a", "b"), "b");
        assert_eq!(tester("a", "a"), "b");
        assert_eq!(tester("a", "elsewhere"), "b");
        assert_eq!(super::tester(&holders[..1], Some(&node("a")), &node("z")), Some(&node("a")));
        assert_eq!(super::tester(&[], None, &node("a")), None);
    }
}

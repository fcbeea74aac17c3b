//! Which checkpoints of a workload are kept: so many of the newest, none that is too old, and always what it could be brought back from.

use crate::cluster::CheckpointId;

/// How many, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many sound ones are kept; one at least.
    pub count: u32,
    /// How old they may become, in milliseconds.
    pub age_ms: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { count: 3, age_ms: 24 * 3600 * 1000 }
    }
}

/// A checkpoint, as far as that decides whether it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: CheckpointId,
    /// The higher, the newer.
    pub number: u64,
    /// When it was taken, milliseconds since 1970.
    pub taken_ms: u64,
    /// Whether the workload was healthy then.
    pub healthy: bool,
    /// What is known of its bytes.
    pub state: Soundness,
    /// Whether somebody restores from it, or sends it, at this moment.
    pub in_use: bool,
}

/// What is known of a checkpoint's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Soundness {
    /// Nobody has looked since it was written.
    NotLooked,
    /// All of it was read, and was as it was taken.
    Verified,
    /// It is not.
    Damaged,
}

/// Which of a workload's checkpoints are to be dropped, oldest first. The order of `all` does not matter.
///
/// Never dropped: what is in use; of those that are not damaged the newest verified one, and the newest that was healthy. A damaged one goes as
/// soon as there is a verified one, and counts for nothing until then.
pub fn retain(all: &[Candidate], retention: Retention, now_ms: u64) -> Vec<CheckpointId> {
    let mut newest_first: Vec<&Candidate> = all.iter().collect();
    newest_first.sort_unstable_by_key(|candidate| std::cmp::Reverse((candidate.number, candidate.id)));
    let usable = || newest_first.iter().filter(|candidate| candidate.state != Soundness::Damaged);
    let verified = usable().find(|candidate| candidate.state == Soundness::Verified).map(|candidate| candidate.id);
    let healthy = usable().find(|candidate| candidate.healthy).map(|candidate| candidate.id);
    let mut kept = 0;
    let mut dropped = Vec::new();
    for candidate in &newest_first {
        let is_needed = candidate.in_use || [verified, healthy].contains(&Some(candidate.id));
        let goes = if candidate.state == Soundness::Damaged {
            verified.is_some()
        } else {
            kept += 1;
            kept > retention.count.max(1) || now_ms.saturating_sub(candidate.taken_ms) > retention.age_ms
        };
        if goes && !is_needed {
            dropped.push(candidate.id);
        }
    }
    dropped.reverse();
    dropped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::Soundness::{Damaged, NotLooked, Verified};
    use super::*;

    const HOUR: u64 = 3600 * 1000;

    fn id(number: u64) -> CheckpointId {
        CheckpointId([number as u8; 32])
    }

    /// One an hour, the first at hour 1.
    fn of(number: u64, state: Soundness) -> Candidate {
        Candidate { id: id(number), number, taken_ms: number * HOUR, healthy: true, state, in_use: false }
    }

    fn dropped(all: &[Candidate], now_h: u64) -> Vec<u64> {
        retain(all, Retention::default(), now_h * HOUR).iter().map(|id| id.0[0].into()).collect()
    }

    #[test]
    fn the_newest_stay() {
        let all: Vec<_> = (1..=5).map(|number| of(number, Verified)).collect();
        assert_eq!(dropped(&all[..3], 5), [0; 0]);
        assert_eq!(dropped(&all, 5), [1, 2]);
    }

    #[test]
    fn the_old_go_but_for_the_last_that_can_be_used() {
        let all: Vec<_> = (1..=3).map(|number| of(number, Verified)).collect();
        assert_eq!(dropped(&all, 26), [1]);
        assert_eq!(dropped(&all, 1000), [1, 2]);
        // A clock that went back makes nothing old.
        assert_eq!(dropped(&all, 0), [0; 0]);
    }

    #[test]
    fn what_is_not_verified_displaces_nothing_that_is() {
        let all = [of(1, Verified), of(2, NotLooked), of(3, NotLooked), of(4, NotLooked), of(5, NotLooked)];
        assert_eq!(dropped(&all, 5), [2]);
    }

    #[test]
    fn the_last_healthy_one_stays() {
        let mut all: Vec<_> = (1..=5).map(|number| of(number, Verified)).collect();
        all[1..].iter_mut().for_each(|candidate| candidate.healthy = false);
        assert_eq!(dropped(&all, 5), [2]);
    }

    #[test]
    fn the_damaged_go_when_there_is_a_better_one() {
        assert_eq!(
            dropped(&[of(1, Damaged), of(2, Damaged)], 100),
            [0; 0],
            "perhaps another node has the missing part"
        );
        assert_eq!(dropped(&[of(1, Verified), of(2, Damaged)], 3), [2]);
        let all = [of(1, Verified), of(2, Verified), of(3, Verified), of(4, Damaged)];
        assert_eq!(dropped(&all, 5), [4], "it displaces none");
    }

    #[test]
    fn what_is_in_use_stays() {
        let mut all: Vec<_> = (1..=5).map(|number| of(number, Verified)).collect();
        all[0].in_use = true;
        assert_eq!(dropped(&all, 5), [2]);
    }

    #[test]
    fn one_is_kept_at_least() {
        let none = Retention { count: 0, age_ms: 0 };
        assert_eq!(retain(&[of(1, NotLooked), of(2, NotLooked)], none, 2 * HOUR), [id(1)]);
    }

    proptest! {
        #[test]
        fn it_never_drops_what_is_needed_and_comes_to_rest(
            states in proptest::collection::vec((0..3u8, any::<bool>(), any::<bool>(), 0..60u64), 0..12),
            count in 0..5u32, age in 0..40u64, now in 0..60u64,
        ) {
            let all: Vec<Candidate> = (1..).zip(states).map(|(number, (state, healthy, in_use, hour))| {
                let state = [NotLooked, Verified, Damaged][state as usize];
                Candidate { healthy, in_use, taken_ms: hour * HOUR, ..of(number, state) }
            }).collect();
            let retention = Retention { count, age_ms: age * HOUR };
            let gone = retain(&all, retention, now * HOUR);
            let left: Vec<Candidate> = all.iter().filter(|candidate| !gone.contains(&candidate.id)).copied().collect();
            let usable = |of: &[Candidate]| of.iter().filter(|c| c.state != Damaged).copied().collect::<Vec<_>>();
            let newest = |of: Vec<Candidate>, what: fn(&Candidate) -> bool| of.into_iter().filter(&what).map(|c| c.number).max();
            prop_assert_eq!(newest(usable(&left), |c| c.state == Verified), newest(usable(&all), |c| c.state == Verified));
            prop_assert_eq!(newest(usable(&left), |c| c.healthy), newest(usable(&all), |c| c.healthy));
            prop_assert!(all.iter().all(|c| !c.in_use || !gone.contains(&c.id)));
            // Beyond the count there is only what is needed.
            let in_use = left.iter().filter(|c| c.in_use).count();
            prop_assert!(usable(&left).len() <= count.max(1) as usize + 2 + in_use);
            prop_assert_eq!(retain(&left, retention, now * HOUR), Vec::new());
        }
    }
}

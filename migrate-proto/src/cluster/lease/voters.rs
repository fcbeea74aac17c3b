//! Who votes: what one log entry says about it, and what a leader must ask for while that changes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Nanos, Terms};
use crate::cluster::VoterId;
use crate::cluster::record::VoterHistory;

/// The place of an entry in the log of the record. The term counts before the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogId {
    /// Of the leader that wrote it.
    pub term: u64,
    /// How many entries there are before it.
    pub index: u64,
}

/// The voters according to one entry: one set, or two while they change from one to the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voters {
    /// The entry. Of two that a node hears of, the higher one counts.
    pub config: LogId,
    /// A majority of each is needed.
    pub sets: Vec<BTreeSet<VoterId>>,
}

impl Voters {
    /// Whether nobody votes.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Whether `voter` is one of them.
    pub fn contain(&self, voter: VoterId) -> bool {
        self.sets.iter().any(|set| set.contains(&voter))
    }

    /// Whether a majority of each set does. Where nobody votes, nobody agrees.
    pub fn agree(&self, does: impl Fn(VoterId) -> bool) -> bool {
        !self.sets.is_empty() && self.sets.iter().all(|set| set.iter().filter(|v| does(**v)).count() > set.len() / 2)
    }

    /// The greatest value that a majority of each set has reached.
    pub fn reached<T: Ord + Copy>(&self, has: impl Fn(VoterId) -> Option<T>) -> Option<T> {
        let in_set = |set: &BTreeSet<VoterId>| {
            let mut values: Vec<T> = set.iter().filter_map(|voter| has(*voter)).collect();
            values.sort_unstable_by(|a, b| b.cmp(a));
            values.get(set.len() / 2).copied()
        };
        let least: Option<Vec<T>> = self.sets.iter().map(in_set).collect();
        least?.into_iter().min()
    }
}

/// Those whom a leader must ask: the voters of now, and those of before for as long as a holder may not have heard of the change. From
/// when this node has the new ones in its log those before are committed, whoever leads: a holder that asks a majority of them is told.
#[derive(Debug, Clone)]
pub struct Electors {
    terms: Terms,
    current: Voters,
    /// Each with the moment from which on it is superseded.
    before: Vec<(Nanos, Voters)>,
}

impl Electors {
    /// Of somebody who knows nothing yet of what was. `before` is what its record says about the last change, whenever that was.
    pub fn new(now: Nanos, current: Voters, before: Vec<Voters>, terms: Terms) -> Electors {
        Electors { terms, current, before: before.into_iter().map(|voters| (now, voters)).collect() }
    }

    /// The record or the log has come further. `effective` is the last configuration in the log; one that was never committed goes
    /// again where another leader has written something else. Where there were several changes at once, what they have in common
    /// with the last one is in the record's history.
    pub fn learn(&mut self, now: Nanos, history: &VoterHistory, effective: &Voters) {
        for voters in [&history.before, &history.now] {
            if voters.config > self.config() {
                self.changed(now, voters.clone());
            }
        }
        let newest = std::cmp::max_by_key(&history.now, effective, |voters| voters.config);
        if newest.config != self.config() {
            self.changed(now, newest.clone());
        }
    }

    /// The log has another configuration from now on; the step before it, if there are two, is committed.
    pub fn changed(&mut self, now: Nanos, to: Voters) {
        self.before.retain(|(since, _)| now.since(*since) < self.terms.promise());
        self.before.push((now, std::mem::replace(&mut self.current, to)));
    }

    /// The entry that says who votes now: what a `Fence` must name.
    pub fn config(&self) -> LogId {
        self.current.config
    }

    /// Everyone whose word counts.
    pub fn everyone(&self, now: Nanos) -> BTreeSet<VoterId> {
        self.counting(now).flat_map(|voters| voters.sets.iter().flatten().copied()).collect()
    }

    /// Whether a majority of every set that counts does.
    pub fn agree(&self, now: Nanos, does: impl Fn(VoterId) -> bool) -> bool {
        self.counting(now).all(|voters| voters.agree(&does))
    }

    fn counting(&self, now: Nanos) -> impl Iterator<Item = &Voters> {
        let counts = move |since: Nanos| now.since(since) < self.terms.promise();
        std::iter::once(&self.current).chain(self.before.iter().filter(move |(t, _)| counts(*t)).map(|(_, v)| v))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn voters(index: u64, sets: &[&[u64]]) -> Voters {
        let set = |ids: &&[u64]| ids.iter().copied().map(VoterId).collect();
        Voters { config: LogId { term: 1, index }, sets: sets.iter().map(set).collect() }
    }

    #[test]
    fn half_is_no_majority_and_two_sets_need_two() {
        let among = |ids: &'static [u64]| move |v: VoterId| ids.contains(&v.0);
        let even = voters(1, &[&[1, 2, 3, 4]]);
        assert!(!even.agree(among(&[1, 2])) && even.agree(among(&[1, 2, 3])));
        let joint = voters(1, &[&[1, 2, 3], &[3, 4, 5]]);
        assert!(!joint.agree(among(&[1, 2])) && !joint.agree(among(&[3, 4])));
        assert!(joint.agree(among(&[1, 3, 4])));
        assert!(!voters(1, &[]).agree(|_| true) && !voters(1, &[&[]]).agree(|_| true));
    }

    #[test]
    fn what_is_reached_is_the_majority_th_greatest_in_each_set() {
        let sent = |v: VoterId| [None, Some(10), Some(20), Some(30), Some(40)][v.0 as usize];
        assert_eq!(voters(1, &[&[1, 2, 3]]).reached(sent), Some(20));
        assert_eq!(voters(1, &[&[1, 2, 3, 4]]).reached(sent), Some(20), "three of four");
        assert_eq!(voters(1, &[&[3, 4], &[1, 2, 4]]).reached(sent), Some(20));
        assert_eq!(voters(1, &[&[0, 4]]).reached(sent), None);
        assert_eq!(voters(1, &[]).reached(sent), None);
        assert_eq!(voters(1, &[&[4], &[]]).reached(sent), None);
    }

    #[test]
    fn what_was_never_committed_goes_again_and_counts_for_a_while() {
        let terms = Terms::new(1_000_000_000, 0).unwrap();
        let all = |ids: &'static [u64]| move |v: VoterId| ids.contains(&v.0);
        let (three, forked) = (voters(2, &[&[1, 2, 3]]), voters(5, &[&[1, 2, 3], &[4]]));
        let history = VoterHistory { now: three.clone(), before: Voters::default() };
        let mut electors = history.electors(Nanos(0), three.clone(), terms);
        electors.learn(Nanos(1), &history, &forked);
        assert!(!electors.agree(Nanos(1), all(&[1, 2])) && electors.config().index == 5);
        electors.learn(Nanos(2), &history, &three);
        assert!(!electors.agree(Nanos(2), all(&[1, 2])) && electors.config().index == 2);
        assert!(electors.agree(Nanos(1_000_000_002), all(&[1, 2])));
    }

    #[test]
    fn who_has_known_of_a_change_for_long_need_not_wait_when_it_begins_to_lead() {
        let terms = Terms::new(1_000_000_000, 0).unwrap();
        let history = VoterHistory { now: voters(3, &[&[1, 2, 3]]), before: voters(2, &[&[1], &[1, 2, 3]]) };
        let mut electors = history.electors(Nanos(0), history.now.clone(), terms);
        let two_and_three = |v: VoterId| v.0 > 1;
        assert!(!electors.agree(Nanos(999_999_999), two_and_three), "it has just started");
        electors.learn(Nanos(500_000_000), &history, &history.now);
        assert!(electors.agree(Nanos(1_000_000_000), two_and_three), "nothing new was learned");
    }

    #[test]
    fn those_of_before_count_until_every_holder_has_heard_of_the_change() {
        let terms = Terms::new(1_000_000_000, 0).unwrap();
        let all = |ids: &'static [u64]| move |v: VoterId| ids.contains(&v.0);
        let mut electors = Electors::new(Nanos(0), voters(2, &[&[1, 2, 3]]), vec![voters(1, &[&[7, 8, 9]])], terms);
        assert!(!electors.agree(Nanos(999_999_999), all(&[1, 2, 3])));
        assert!(electors.agree(Nanos(1_000_000_000), all(&[1, 2])), "a second has passed");

        electors.changed(Nanos(1_100_000_000), voters(3, &[&[1, 2, 3], &[4]]));
        electors.changed(Nanos(1_200_000_000), voters(4, &[&[4]]));
        assert_eq!(electors.config().index, 4);
        assert_eq!(electors.everyone(Nanos(1_200_000_000)), [1, 2, 3, 4].map(VoterId).into());
        assert!(!electors.agree(Nanos(2_199_999_999), all(&[4])));
        assert!(electors.agree(Nanos(2_199_999_999), all(&[1, 2, 4])));
        assert!(electors.agree(Nanos(2_200_000_000), all(&[4])));
        assert_eq!(electors.everyone(Nanos(2_200_000_000)), [VoterId(4)].into());
    }
}

//! The node's side: it renews, counts who has acknowledged, and knows until when its workloads may run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::promiser::Renew;
use super::{Nanos, Page, Terms, Voters};
use crate::cluster::{Claim, VoterId};
use crate::name::NodeName;

/// A voter has taken note of a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Who says so.
    pub voter: VoterId,
    /// Whose renewal.
    pub claim: Claim,
    /// When that was sent, on the holder's clock: which one it was.
    pub sent: Nanos,
    /// Who votes, as far as this voter knows.
    pub voters: Voters,
    /// What was promised.
    pub terms: Terms,
}

/// One node in one session. It never outlives the session: another one has another holder.
#[derive(Debug, Clone)]
pub struct Holder {
    claim: Claim,
    terms: Terms,
    /// When it is over, for ever, unless it has been put off by then. It only rises.
    ends: Nanos,
    /// Whether `ends` was earned: only then anything may run.
    held: bool,
    renewed: Option<Nanos>,
    /// The latest renewal that each voter has acknowledged, and who voted according to it.
    acknowledged: BTreeMap<VoterId, (Nanos, Voters)>,
}

impl Holder {
    /// Of a session that was opened, and whose opening was proposed at `proposed` or later. Nothing may run yet.
    ///
    /// It must get its first deadline within the length of a lease: a leader may fence a session that no voter has heard of, and
    /// voters forget.
    pub fn open(claim: Claim, proposed: Nanos, terms: Terms) -> Holder {
        let ends = proposed.plus(terms.lease());
        Holder { claim, terms, ends, held: false, renewed: None, acknowledged: BTreeMap::new() }
    }

    /// Of the session that an earlier agent on this node has left on the page, with its deadline.
    pub fn resume(node: NodeName, page: Page, terms: Terms) -> Holder {
        let claim = Claim { node, session: page.session };
        Holder { claim, terms, ends: page.until, held: true, renewed: None, acknowledged: BTreeMap::new() }
    }

    /// Whose lease it is.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// What to send to every voter now. `None`: it has lapsed, and there is nothing to renew.
    pub fn renew(&mut self, now: Nanos) -> Option<Renew> {
        if self.lapsed(now) {
            return None;
        }
        self.renewed = Some(now);
        Some(Renew { claim: self.claim.clone(), sent: now, terms: self.terms })
    }

    /// When to renew next: sooner if there is no majority yet for the last renewal.
    pub fn next(&self, now: Nanos) -> Nanos {
        let Some(sent) = self.renewed else { return now };
        let answered = self.held && self.ends >= sent.plus(self.terms.lease());
        sent.plus(if answered { self.terms.renewal() } else { self.terms.retry() })
    }

    /// A voter has answered. Says the deadline, if that has moved.
    ///
    /// The clock is looked at first: what comes after the deadline comes too late for ever, for somebody may have relied on it.
    pub fn heard(&mut self, now: Nanos, ack: &Ack) -> Option<Nanos> {
        if self.lapsed(now) || ack.claim != self.claim || ack.terms != self.terms || ack.sent > now {
            return None;
        }
        let known = self.acknowledged.get(&ack.voter).is_some_and(|(sent, _)| *sent >= ack.sent);
        if known {
            return None;
        }
        self.acknowledged.insert(ack.voter, (ack.sent, ack.voters.clone()));
        let earned = self.earned(now)?;
        if self.held && earned <= self.ends {
            return None;
        }
        self.held = true;
        self.ends = earned;
        Some(earned)
    }

    /// Until when workloads may run. It says nothing about whether that has passed.
    pub fn deadline(&self) -> Option<Nanos> {
        self.held.then_some(self.ends)
    }

    /// Whether it is over: another session has to be opened.
    pub fn lapsed(&self, now: Nanos) -> bool {
        now >= self.ends
    }

    /// What those acknowledgements are worth that still are worth something, by the highest configuration they name. An older one
    /// would be wrong: those who are asked about this lease may be the newer one's.
    fn earned(&self, now: Nanos) -> Option<Nanos> {
        let fresh = || self.acknowledged.iter().filter(|(_, (sent, _))| now.since(*sent) < self.terms.lease());
        let (_, (_, voters)) = fresh().max_by_key(|(_, (_, voters))| voters.config)?;
        let sent = |voter: VoterId| fresh().find(|(id, _)| **id == voter).map(|(_, (sent, _))| *sent);
        Some(voters.reached(sent)?.plus(self.terms.lease()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cluster::lease::LogId;

    const MS: u64 = 1_000_000;
    const LEASE: u64 = 1_000;

    fn terms() -> Terms {
        Terms::new(LEASE * MS, 10_000).unwrap()
    }

    fn at(ms: u64) -> Nanos {
        Nanos(ms * MS)
    }

    fn claim(session: u64) -> Claim {
        Claim { node: "a".parse().unwrap(), session }
    }

    fn ack(voter: u64, sent: u64, index: u64, sets: &[&[u64]]) -> Ack {
        let sets = sets.iter().map(|set| set.iter().copied().map(VoterId).collect()).collect();
        let voters = Voters { config: LogId { term: 1, index }, sets };
        Ack { voter: VoterId(voter), claim: claim(7), sent: at(sent), voters, terms: terms() }
    }

    fn of_three(voter: u64, sent: u64) -> Ack {
        ack(voter, sent, 1, &[&[1, 2, 3]])
    }

    #[test]
    fn the_deadline_runs_from_the_sending_of_what_a_majority_has_acknowledged() {
        let mut holder = Holder::open(claim(7), at(0), terms());
        assert_eq!(holder.renew(at(10)), Some(Renew { claim: claim(7), sent: at(10), terms: terms() }));
        assert_eq!(holder.heard(at(500), &of_three(1, 10)), None);
        assert_eq!(holder.deadline(), None, "one of three");
        assert_eq!(holder.heard(at(600), &of_three(2, 110)), Some(at(LEASE + 10)));
        assert_eq!(holder.heard(at(601), &of_three(3, 100)), Some(at(LEASE + 100)));
        assert_eq!(holder.heard(at(602), &of_three(3, 60)), None, "an older one");
        assert_eq!(holder.heard(at(603), &of_three(4, 600)), None, "that is no voter");
        assert_eq!(holder.deadline(), Some(at(LEASE + 100)));
    }

    #[test]
    fn what_has_lapsed_hears_nothing_any_more() {
        let mut holder = Holder::open(claim(7), at(0), terms());
        holder.heard(at(20), &of_three(1, 10));
        holder.heard(at(20), &of_three(2, 10));
        assert!(!holder.lapsed(at(LEASE + 9)) && holder.lapsed(at(LEASE + 10)));
        holder.heard(at(LEASE + 10), &of_three(1, 900));
        assert_eq!(holder.heard(at(LEASE + 10), &of_three(2, 900)), None);
        assert_eq!((holder.deadline(), holder.renew(at(LEASE + 10))), (Some(at(LEASE + 10)), None));
    }

    #[test]
    fn a_first_deadline_that_comes_too_late_is_none() {
        let mut holder = Holder::open(claim(7), at(0), terms());
        holder.heard(at(LEASE - 1), &of_three(1, 900));
        assert_eq!(holder.heard(at(LEASE), &of_three(2, 900)), None);
        assert_eq!((holder.deadline(), holder.lapsed(at(LEASE))), (None, true));
    }

    #[test]
    fn a_new_agent_goes_on_from_the_page_and_is_over_where_that_was() {
        let page = |until| Page { session: 7, until: at(until) };
        let mut holder = Holder::resume("a".parse().unwrap(), page(500), terms());
        assert_eq!(holder.deadline(), Some(at(500)));
        holder.heard(at(499), &of_three(1, 400));
        assert_eq!(holder.heard(at(499), &of_three(2, 400)), Some(at(LEASE + 400)), "sent by the agent before it");
        assert!(Holder::resume("a".parse().unwrap(), page(0), terms()).lapsed(at(1)), "nothing was earned");
    }

    #[test]
    fn the_highest_configuration_counts_and_the_deadline_never_goes_back() {
        let mut holder = Holder::open(claim(7), at(0), terms());
        holder.heard(at(100), &of_three(1, 50));
        assert_eq!(holder.heard(at(100), &of_three(2, 50)), Some(at(LEASE + 50)));
        let joint: &[&[u64]] = &[&[1, 2, 3], &[3, 4, 5]];
        assert_eq!(holder.heard(at(200), &ack(1, 150, 2, joint)), None, "now two majorities are needed");
        assert_eq!(holder.heard(at(200), &of_three(2, 150)), None);
        assert_eq!(holder.heard(at(200), &ack(3, 140, 2, joint)), None);
        assert_eq!(holder.heard(at(200), &ack(4, 130, 2, joint)), Some(at(LEASE + 130)));
        assert_eq!(holder.heard(at(210), &ack(5, 160, 3, &[&[3, 4, 5]])), Some(at(LEASE + 140)));
    }

    #[test]
    fn a_configuration_that_was_last_heard_of_a_lease_ago_counts_no_more() {
        let mut holder = Holder::resume("a".parse().unwrap(), Page { session: 7, until: at(2 * LEASE) }, terms());
        holder.heard(at(60), &ack(9, 50, 9, &[&[9, 10]]));
        holder.heard(at(LEASE + 49), &of_three(1, LEASE + 40));
        assert_eq!(holder.heard(at(LEASE + 49), &of_three(2, LEASE + 40)), None);
        assert_eq!(holder.heard(at(LEASE + 51), &of_three(3, LEASE + 45)), Some(at(2 * LEASE + 40)));
    }

    #[test]
    fn what_is_not_about_this_lease_or_has_not_been_sent_yet_counts_for_nothing() {
        let mut holder = Holder::open(claim(7), at(0), terms());
        let alone = ack(1, 10, 1, &[&[1]]);
        let other = Terms::new(2 * LEASE * MS, 10_000).unwrap();
        for wrong in [
            Ack { claim: claim(6), ..alone.clone() },
            Ack { claim: Claim { node: "b".parse().unwrap(), session: 7 }, ..alone.clone() },
            Ack { terms: other, ..alone.clone() },
            Ack { sent: at(21), ..alone.clone() },
        ] {
            assert_eq!(holder.heard(at(20), &wrong), None, "{wrong:?}");
        }
        assert!(holder.heard(at(20), &alone).is_some());
    }

    #[test]
    fn it_renews_sooner_while_there_is_no_majority() {
        let mut holder = Holder::open(claim(7), at(0), terms());
        assert_eq!(holder.next(at(3)), at(3));
        holder.renew(at(10));
        assert_eq!(holder.next(at(11)), at(60));
        holder.heard(at(20), &ack(1, 10, 1, &[&[1]]));
        assert_eq!(holder.next(at(20)), at(110));
        holder.renew(at(110));
        assert_eq!(holder.next(at(111)), at(160), "the last one is not answered");
    }
}

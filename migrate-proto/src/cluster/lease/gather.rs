//! The leader's side: it asks the voters about one claim, and knows when enough of them have said that it is over.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::promiser::Ask;
use super::{Electors, Nanos, Terms};
use crate::cluster::{Claim, VoterId};

/// A voter has not heard of a claim for longer than it promised, and acknowledges it no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapse {
    /// Who says so.
    pub voter: VoterId,
    /// Whose lease.
    pub claim: Claim,
    /// Which gather it answers.
    pub gather: Nanos,
    /// What was promised.
    pub terms: Terms,
}

/// What one leader has heard about one claim. There is one for each node that is to be fenced.
#[derive(Debug, Clone)]
pub struct Gather {
    claim: Claim,
    terms: Terms,
    known: Nanos,
    /// Its number, too: a leader does not begin two at once.
    begun: Option<Nanos>,
    lapsed: BTreeSet<VoterId>,
}

impl Gather {
    /// Nobody has been asked yet. Since `known` this node's record has the session: a holder that has just opened it may still get its
    /// first deadline, from voters that will be some only when this gather is done.
    pub fn new(claim: Claim, known: Nanos, terms: Terms) -> Gather {
        Gather { claim, terms, known, begun: None, lapsed: BTreeSet::new() }
    }

    /// What to ask each of [`Electors::everyone`], as often as their answers may get lost. When its window has passed it begins anew:
    /// a voter that has answered may have been started anew since, and may acknowledge again.
    ///
    /// Nothing while the session is new: a voter that has not heard of it yet would say that it is over, and acknowledge it never.
    pub fn ask(&mut self, now: Nanos) -> Option<Ask> {
        if now.since(self.known) < self.terms.promise() {
            return None;
        }
        let begun = match self.begun {
            Some(begun) if now.since(begun) <= self.terms.window() => begun,
            _ => {
                self.lapsed.clear();
                now
            }
        };
        self.begun = Some(begun);
        Some(Ask { claim: self.claim.clone(), gather: begun, terms: self.terms })
    }

    /// A voter has answered. Answers to an earlier gather, about another claim or under other terms count for nothing.
    pub fn heard(&mut self, lapse: &Lapse) {
        if self.begun == Some(lapse.gather) && lapse.claim == self.claim && lapse.terms == self.terms {
            self.lapsed.insert(lapse.voter);
        }
    }

    /// Whether the holder has lapsed for ever, so that it may be fenced.
    pub fn ready(&self, now: Nanos, electors: &Electors) -> bool {
        let open = self.begun.is_some_and(|begun| now.since(begun) <= self.terms.window());
        open && electors.agree(now, |voter| self.lapsed.contains(&voter))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cluster::lease::{LogId, Voters};

    /// The session has been known for long.
    const T: u64 = 10_000_000_000;

    fn terms() -> Terms {
        Terms::new(1_000_000_000, 10_000).unwrap()
    }

    fn claim(session: u64) -> Claim {
        Claim { node: "a".parse().unwrap(), session }
    }

    fn electors(ids: &[u64]) -> Electors {
        let sets = vec![ids.iter().copied().map(VoterId).collect()];
        Electors::new(Nanos(0), Voters { config: LogId::default(), sets }, Vec::new(), terms())
    }

    fn answer(ask: &Ask, voter: u64) -> Lapse {
        Lapse { voter: VoterId(voter), claim: ask.claim.clone(), gather: ask.gather, terms: ask.terms }
    }

    #[test]
    fn a_majority_makes_it_ready_until_its_window_has_passed() {
        let (voters, mut gather) = (electors(&[1, 2, 3]), Gather::new(claim(7), Nanos(0), terms()));
        let ask = gather.ask(Nanos(T)).unwrap();
        gather.heard(&answer(&ask, 1));
        gather.heard(&answer(&ask, 1));
        gather.heard(&answer(&ask, 4));
        assert!(!gather.ready(Nanos(T), &voters), "one, twice, and a stranger");
        assert_eq!(gather.ask(Nanos(T + terms().window())).unwrap(), ask, "asking again is the same gather");
        gather.heard(&answer(&ask, 3));
        assert!(gather.ready(Nanos(T + terms().window()), &voters));
        assert!(!gather.ready(Nanos(T + terms().window() + 1), &voters));
        assert!(!gather.ready(Nanos(T), &electors(&[1, 2, 5])), "those who vote now");
    }

    #[test]
    fn after_its_window_it_begins_anew() {
        let (voters, mut gather) = (electors(&[1, 2, 3]), Gather::new(claim(7), Nanos(0), terms()));
        let first = gather.ask(Nanos(T)).unwrap();
        gather.heard(&answer(&first, 1));
        let later = Nanos(T + terms().window() + 1);
        let second = gather.ask(later).unwrap();
        assert_eq!(second.gather, later);
        gather.heard(&answer(&first, 2));
        gather.heard(&answer(&second, 3));
        assert!(!gather.ready(later, &voters), "what was heard before does not count");
        gather.heard(&answer(&second, 1));
        assert!(gather.ready(later, &voters));
    }

    #[test]
    fn answers_about_something_else_do_not_count() {
        let (voters, mut gather) = (electors(&[1]), Gather::new(claim(7), Nanos(0), terms()));
        let ask = gather.ask(Nanos(T)).unwrap();
        gather.heard(&Lapse { claim: claim(6), ..answer(&ask, 1) });
        gather.heard(&Lapse { gather: Nanos(T - 1), ..answer(&ask, 1) });
        gather.heard(&Lapse { terms: Terms::new(500_000_000, 0).unwrap(), ..answer(&ask, 1) });
        assert!(!gather.ready(Nanos(T), &voters));
        gather.heard(&answer(&ask, 1));
        assert!(gather.ready(Nanos(T), &voters));
    }

    #[test]
    fn a_session_that_was_just_opened_is_not_asked_about() {
        let (voters, mut gather) = (electors(&[1]), Gather::new(claim(7), Nanos(T), terms()));
        assert_eq!(gather.ask(Nanos(T + terms().promise() - 1)), None);
        let ask = gather.ask(Nanos(T + terms().promise())).unwrap();
        gather.heard(&answer(&ask, 1));
        assert!(gather.ready(ask.gather, &voters));
    }
}

//! The voter's side: it takes note of renewals, and says of a claim that it has not heard of it for long enough.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::gather::Lapse;
use super::holder::Ack;
use super::{Nanos, Terms, Voters};
use crate::cluster::{Claim, VoterId};
use crate::name::NodeName;

/// A holder wants its lease to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// Whose lease.
    pub claim: Claim,
    /// When it was sent, on the holder's clock. It is the number of the renewal, too: an agent that was started anew cannot
    /// give one number twice.
    pub sent: Nanos,
    /// What it wants to be promised.
    pub terms: Terms,
}

/// A leader wants to know whether a lease is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Whose lease.
    pub claim: Claim,
    /// Which gather of that leader.
    pub gather: Nanos,
    /// What was promised, as the leader sees it.
    pub terms: Terms,
}

/// What a voter's copy of the record says about a node's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The newest one.
    pub session: u64,
    /// Whether it was fenced.
    pub fenced: bool,
}

/// What a voter knows of the log when a renewal reaches it.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'a> {
    /// The last configuration in its log, committed or not.
    pub voters: &'a Voters,
    /// What its record says about the holder; `None` if it does not know that node.
    pub known: Option<Known>,
    /// It leads, has applied its whole log, and there has never been another voter: both sets of the record's history are this one
    /// alone. Then nobody else can have gathered while it was away, and it need not be silent at first.
    pub alone: bool,
}

#[derive(Debug, Clone)]
struct Promise {
    session: u64,
    /// Of the last renewal; `None` if there was none.
    sent: Option<Nanos>,
    /// When that came, on this voter's clock.
    at: Nanos,
    /// This voter has said that it is over, and acknowledges it no more.
    closed: bool,
}

/// One voter. It remembers nothing of what was before it, and therefore is silent until all of that is over.
#[derive(Debug, Clone)]
pub struct Promiser {
    me: VoterId,
    terms: Terms,
    started: Nanos,
    /// The newest session of each node that was heard of.
    promises: BTreeMap<NodeName, Promise>,
}

impl Promiser {
    /// A voter whose agent has just started.
    pub fn new(me: VoterId, started: Nanos, terms: Terms) -> Promiser {
        Promiser { me, terms, started, promises: BTreeMap::new() }
    }

    /// A renewal has come. The answer goes to whoever sent it; `None`: there is none.
    pub fn renew(&mut self, now: Nanos, renew: &Renew, seat: Seat<'_>) -> Option<Ack> {
        let Claim { node, session } = &renew.claim;
        let outdated =
            seat.known.is_some_and(|known| known.session > *session || (known.session == *session && known.fenced));
        let silent = self.is_new(now) && !seat.alone;
        if renew.terms != self.terms || silent || outdated || !seat.voters.contain(self.me) {
            return None;
        }
        if let Some(promise) = self.promises.get(node) {
            let repeated = promise.session == *session && promise.sent.is_some_and(|sent| sent >= renew.sent);
            if promise.session > *session || (promise.session == *session && promise.closed) || repeated {
                return None;
            }
        }
        self.promises
            .insert(node.clone(), Promise { session: *session, sent: Some(renew.sent), at: now, closed: false });
        Some(Ack {
            voter: self.me,
            claim: renew.claim.clone(),
            sent: renew.sent,
            voters: seat.voters.clone(),
            terms: self.terms,
        })
    }

    /// A leader asks. Who has been a voter answers also when it is none any more. `None`: not over, or not known to be.
    ///
    /// After a [`Lapse`] the claim is closed here: it is acknowledged no more.
    pub fn lapsed(&mut self, now: Nanos, ask: &Ask) -> Option<Lapse> {
        if ask.terms != self.terms || self.is_new(now) {
            return None;
        }
        let Claim { node, session } = &ask.claim;
        match self.promises.get_mut(node) {
            // Of an older session nothing is remembered; and whoever has opened a newer one cannot be fenced in it.
            Some(promise) if promise.session > *session => return None,
            Some(promise) if promise.session == *session => {
                if !promise.closed && now.since(promise.at) < self.terms.promise() {
                    return None;
                }
                promise.closed = true;
            }
            _ => {
                let closed = Promise { session: *session, sent: None, at: self.started, closed: true };
                self.promises.insert(node.clone(), closed);
            }
        }
        Some(Lapse { voter: self.me, claim: ask.claim.clone(), gather: ask.gather, terms: self.terms })
    }

    /// Whether this voter has not heard of a claim for as long as it promises: somebody may want to ask all of them.
    pub fn quiet(&self, now: Nanos, claim: &Claim) -> bool {
        let heard = self.promises.get(&claim.node).filter(|promise| promise.session >= claim.session);
        let since = heard.map_or(self.started, |promise| promise.at);
        now.since(since) >= self.terms.promise()
    }

    /// Whether promises of before may still hold, and gathers of before may still be open.
    fn is_new(&self, now: Nanos) -> bool {
        now.since(self.started) < self.terms.promise()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cluster::lease::LogId;

    const ME: VoterId = VoterId(1);

    fn terms() -> Terms {
        Terms::new(1_000_000_000, 10_000).unwrap()
    }

    /// How long a promise lasts.
    fn long() -> u64 {
        terms().promise()
    }

    fn claim(session: u64) -> Claim {
        Claim { node: "a".parse().unwrap(), session }
    }

    fn renew(session: u64, sent: u64) -> Renew {
        Renew { claim: claim(session), sent: Nanos(sent), terms: terms() }
    }

    fn ask(session: u64) -> Ask {
        Ask { claim: claim(session), gather: Nanos(5), terms: terms() }
    }

    fn voters(ids: &[u64]) -> Voters {
        Voters { config: LogId::default(), sets: vec![ids.iter().copied().map(VoterId).collect()] }
    }

    fn seat(voters: &Voters) -> Seat<'_> {
        Seat { voters, known: None, alone: false }
    }

    fn seasoned() -> Promiser {
        Promiser::new(ME, Nanos(0), terms())
    }

    #[test]
    fn one_that_has_just_started_says_nothing() {
        let (voters, mut promiser) = (voters(&[1]), seasoned());
        let early = Nanos(long() - 1);
        assert_eq!(promiser.renew(early, &renew(7, 1), seat(&voters)), None);
        assert_eq!(promiser.lapsed(early, &ask(7)), None);
        assert!(promiser.renew(early, &renew(7, 1), Seat { alone: true, ..seat(&voters) }).is_some());
        assert_eq!(promiser.lapsed(early, &ask(8)), None, "being alone is no reason to lapse");
        assert!(seasoned().renew(Nanos(long()), &renew(7, 1), seat(&voters)).is_some());
        assert!(seasoned().lapsed(Nanos(long()), &ask(7)).is_some());
    }

    #[test]
    fn a_promise_is_kept_and_what_is_over_stays_over() {
        let (voters, mut promiser) = (voters(&[1]), seasoned());
        let t = 3 * long();
        let ack = promiser.renew(Nanos(t), &renew(7, 1), seat(&voters)).unwrap();
        assert_eq!((ack.voter, ack.claim, ack.sent, ack.voters), (ME, claim(7), Nanos(1), voters.clone()));
        assert_eq!(promiser.lapsed(Nanos(t + long() - 1), &ask(7)), None);
        assert!(!promiser.quiet(Nanos(t + long() - 1), &claim(7)) && promiser.quiet(Nanos(t), &claim(8)));
        assert!(promiser.quiet(Nanos(t + long()), &claim(7)));
        assert!(promiser.renew(Nanos(t + long() - 1), &renew(7, 2), seat(&voters)).is_some(), "asking closes nothing");
        let t = t + 2 * long();
        let lapse = promiser.lapsed(Nanos(t), &ask(7)).unwrap();
        assert_eq!((lapse.voter, lapse.claim, lapse.gather), (ME, claim(7), Nanos(5)));
        assert_eq!(promiser.renew(Nanos(t + 6), &renew(7, 3), seat(&voters)), None);
        assert!(promiser.lapsed(Nanos(t + 6), &ask(7)).is_some(), "it says so again");
        assert!(promiser.renew(Nanos(t + 6), &renew(8, 4), seat(&voters)).is_some(), "another session");
        assert_eq!(promiser.lapsed(Nanos(9 * t), &ask(7)), None, "of which nothing is remembered");
        assert_eq!(promiser.renew(Nanos(9 * t), &renew(7, 5), seat(&voters)), None);
    }

    #[test]
    fn a_repetition_is_no_renewal() {
        let (voters, mut promiser) = (voters(&[1]), seasoned());
        let t = 3 * long();
        assert!(promiser.renew(Nanos(t), &renew(7, 2), seat(&voters)).is_some());
        for old in [1, 2] {
            assert_eq!(promiser.renew(Nanos(t + 9), &renew(7, old), seat(&voters)), None);
        }
        assert!(promiser.lapsed(Nanos(t + long()), &ask(7)).is_some(), "the promise was not put off");
    }

    #[test]
    fn only_the_current_session_is_acknowledged_by_a_voter() {
        let (mine, others, now) = (voters(&[1, 2, 3]), voters(&[2, 3]), Nanos(3 * long()));
        let told = |known: Option<Known>, voters: &Voters| {
            seasoned().renew(now, &renew(7, 1), Seat { voters, known, alone: false }).is_some()
        };
        let known = |session, fenced| Some(Known { session, fenced });
        assert!(told(None, &mine) && told(known(7, false), &mine) && told(known(6, true), &mine));
        assert!(!told(known(7, true), &mine) && !told(known(8, false), &mine));
        assert!(!told(known(7, false), &others), "that has no vote");
        assert!(seasoned().lapsed(now, &ask(7)).is_some(), "whoever had one still answers leaders");
    }

    #[test]
    fn other_terms_are_not_heard() {
        let (voters, now) = (voters(&[1]), Nanos(3 * long()));
        let other = Terms::new(500_000_000, 10_000).unwrap();
        assert_eq!(seasoned().renew(now, &Renew { terms: other, ..renew(7, 1) }, seat(&voters)), None);
        assert_eq!(seasoned().lapsed(now, &Ask { terms: other, ..ask(7) }), None);
    }
}

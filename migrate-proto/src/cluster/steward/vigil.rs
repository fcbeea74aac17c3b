//! The leader's side of the leases: whom it asks about whom, and since when it has known of each.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::lease::{Ask, Electors, Gather, Lapse, LogId, Nanos, Terms, Voters};
use crate::cluster::record::{Record, VoterHistory};
use crate::cluster::{Claim, VoterId};
use crate::name::NodeName;

/// Since when this node's copy of the record has had each node's session. Every node keeps this, for it may lead one day, and a
/// leader waits with a fence until a session is old enough.
///
/// The clock is one that counts sleep.
#[derive(Debug, Clone, Default)]
pub struct Sessions(BTreeMap<NodeName, (u64, Nanos)>);

impl Sessions {
    /// The record of this node has changed.
    pub fn learn(&mut self, now: Nanos, record: &Record) {
        self.0.retain(|name, _| record.nodes.contains_key(name));
        for (name, node) in &record.nodes {
            let known = self.0.get(name).is_some_and(|(session, _)| *session == node.session);
            if !known {
                self.0.insert(name.clone(), (node.session, now));
            }
        }
    }

    /// Since when this claim has been known, if it is the newest of its node.
    pub fn since(&self, claim: &Claim) -> Option<Nanos> {
        self.0.get(&claim.node).filter(|(session, _)| *session == claim.session).map(|(_, since)| *since)
    }
}

/// What one leader asks. It dies with the process, and begins anew with each time that this node begins to lead.
#[derive(Debug, Clone)]
pub struct Vigil {
    terms: Terms,
    electors: Electors,
    gathers: BTreeMap<Claim, Gather>,
}

impl Vigil {
    /// Of a leader that has become one just now.
    pub fn new(electors: Electors, terms: Terms) -> Vigil {
        Vigil { terms, electors, gathers: BTreeMap::new() }
    }

    /// The leader's record or log has come further: `effective` is the last configuration in its log. One who has been deposed and does
    /// not know it may learn of several changes at once; what they have in common with the last one is in the record's history.
    pub fn voters_changed(&mut self, now: Nanos, history: &VoterHistory, effective: Voters) {
        for voters in [history.before.clone(), history.now.clone(), effective] {
            if voters.config > self.electors.config() {
                self.electors.changed(now, voters);
            }
        }
    }

    /// From now on it asks about these and about no others.
    pub fn watch(&mut self, now: Nanos, claims: &BTreeSet<Claim>, sessions: &Sessions) {
        self.gathers.retain(|claim, _| claims.contains(claim));
        for claim in claims {
            let known = sessions.since(claim).unwrap_or(now);
            let gather = || Gather::new(claim.clone(), known, self.terms);
            self.gathers.entry(claim.clone()).or_insert_with(gather);
        }
    }

    /// Whether it asks about anybody.
    pub fn is_idle(&self) -> bool {
        self.gathers.is_empty()
    }

    /// What to ask now, and whom; again after [`Vigil::again`].
    pub fn asks(&mut self, now: Nanos) -> (BTreeSet<VoterId>, Vec<Ask>) {
        let asks = self.gathers.values_mut().map(|gather| gather.ask(now)).collect();
        (self.electors.everyone(now), asks)
    }

    /// How long after one round of questions the next one follows.
    pub fn again(&self) -> u64 {
        self.terms.retry()
    }

    /// A voter has answered. Says whose lease is over for ever, and by whose word, if that is so.
    pub fn heard(&mut self, now: Nanos, lapse: &Lapse) -> Option<(Claim, LogId)> {
        let gather = self.gathers.get_mut(&lapse.claim)?;
        gather.heard(lapse);
        let over = gather.ready(now, &self.electors);
        over.then(|| (lapse.claim.clone(), self.electors.config()))
    }
}

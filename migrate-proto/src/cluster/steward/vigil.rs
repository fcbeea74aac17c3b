//! The leader's side of the leases: whom it asks about whom, and since when it has known of each.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::lease::{Ask, Electors, Gather, Lapse, LogId, Nanos, Terms, Voters};
use crate::cluster::record::Record;
use crate::cluster::{Claim, VoterId};
use crate::name::NodeName;

/// Since when this node has had each node's session in its copy of the record, and since when it has known who votes. Every node
/// keeps this for as long as its agent runs, for it may lead one day; a leader waits with a fence until both are old enough, and who
/// has known it for long need not wait.
///
/// The clock is one that counts sleep.
#[derive(Debug, Clone)]
pub struct Past {
    sessions: BTreeMap<NodeName, (u64, Nanos)>,
    /// Whose word counts.
    pub electors: Electors,
}

impl Past {
    /// Of an agent that has just started. `effective` is the last configuration in its log, committed or not, which may be newer than
    /// what its record says.
    pub fn new(now: Nanos, record: &Record, effective: &Voters, terms: Terms) -> Past {
        let electors = record.cluster.voters.electors(now, effective.clone(), terms);
        let mut past = Past { sessions: BTreeMap::new(), electors };
        past.learn(now, record, effective);
        past
    }

    /// The record of this node has changed, or its log.
    pub fn learn(&mut self, now: Nanos, record: &Record, effective: &Voters) {
        self.sessions.retain(|name, _| record.nodes.contains_key(name));
        for (name, node) in &record.nodes {
            let known = self.sessions.get(name).is_some_and(|(session, _)| *session == node.session);
            if !known {
                self.sessions.insert(name.clone(), (node.session, now));
            }
        }
        self.electors.learn(now, &record.cluster.voters, effective);
    }

    /// Since when this claim has been known, if it is the newest of its node.
    pub fn since(&self, claim: &Claim) -> Option<Nanos> {
        self.sessions.get(&claim.node).filter(|(session, _)| *session == claim.session).map(|(_, since)| *since)
    }
}

/// What one leader asks. It dies with the process, and begins anew with each time that this node begins to lead.
#[derive(Debug, Clone)]
pub struct Vigil {
    terms: Terms,
    gathers: BTreeMap<Claim, Gather>,
}

impl Vigil {
    /// Of a leader that has become one just now.
    pub fn new(terms: Terms) -> Vigil {
        Vigil { terms, gathers: BTreeMap::new() }
    }

    /// From now on it asks about these and about no others.
    pub fn watch(&mut self, now: Nanos, claims: &BTreeSet<Claim>, past: &Past) {
        self.gathers.retain(|claim, _| claims.contains(claim));
        for claim in claims {
            let known = past.since(claim).unwrap_or(now);
            let gather = || Gather::new(claim.clone(), known, self.terms);
            self.gathers.entry(claim.clone()).or_insert_with(gather);
        }
    }

    /// Whether it asks about anybody.
    pub fn is_idle(&self) -> bool {
        self.gathers.is_empty()
    }

    /// What to ask now, and whom; again after [`Vigil::again`].
    pub fn asks(&mut self, now: Nanos, past: &Past) -> (BTreeSet<VoterId>, Vec<Ask>) {
        let asks = self.gathers.values_mut().filter_map(|gather| gather.ask(now)).collect();
        (past.electors.everyone(now), asks)
    }

    /// How long after one round of questions the next one follows.
    pub fn again(&self) -> u64 {
        self.terms.retry()
    }

    /// A voter has answered. Says whose lease is over for ever, and by whose word, if that is so.
    pub fn heard(&mut self, now: Nanos, lapse: &Lapse, past: &Past) -> Option<(Claim, LogId)> {
        let gather = self.gathers.get_mut(&lapse.claim)?;
        gather.heard(lapse);
        let over = gather.ready(now, &past.electors);
        over.then(|| (lapse.claim.clone(), past.electors.config()))
    }
}
